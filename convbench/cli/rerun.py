"""The rows of a `convbench run`, for commands that measure what another run has measured."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from convbench.cli.chosen import check_devices, chosen_backends, files_of
from convbench.cli.run import CACHES, backends_to_stderr, run_options
from convbench.cli.run import command as run
from convbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from convbench.reproduce import Recipe
    from convbench.runner import RunOptions
    from convbench.tasks import Task

OWN = {"-o", "--output", "--force", "--resume", "-q", "--quiet"}
"""Options about a run's own result file and terminal."""
ALONE = ("output", "force", "resume", "dry_run", "worker", "ask", "only")
"""Parameters of a run that make no sense where its rows are only planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a `convbench run` would measure.

    `files` are the backends from files, as `-b` calls them, by name; `header` is that of its result file.
    """

    tasks: list[Task]
    options: RunOptions
    header: dict[str, Any]
    files: dict[str, str]


def planned(arguments: Sequence[str]) -> Planned:
    """What `convbench run` with these arguments would measure.

    Raises:
        click.UsageError: they are none of it.
        ConvbenchError: as that command, before it measures.
    """
    from convbench import session
    from convbench.cli.options import selection
    from convbench.suite import load_suite
    from convbench.tasks import tasks

    context = run.make_context("convbench run", [*arguments])
    params = context.params
    for name in ALONE:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} is for `convbench run` itself: these rows are planned, "
                                   "and measured another way")  # fmt: skip
    if len(params["suites"]) > 1:
        raise click.UsageError(f"one suite at a time; {params['suites'][1]!r} is another")
    suites = [load_suite(name) for name in params["suites"]]
    options = run_options(**params)
    choice = {name: params[name] for name in ("passes", "precisions", "layouts", "epilogues", "batch", "globs")}
    cases = selection(**choice).cases(suites)
    with backends_to_stderr(), contextlib.chdir(Path.cwd()):  # whatever a backend does while it is loaded
        specs = chosen_backends(params["specs"], params["devices"])
        check_devices(params["devices"], specs)
        found = tasks(cases, specs, options.threads, CACHES[params["cache"]], options.accuracy,
                      options.workspace_limit_bytes)  # fmt: skip
    header = session.header(found, options, suites, ["run", *arguments])
    return Planned(tasks=found, options=options, header=header, files=files_of(specs))


def again(words: Sequence[str], suite: str, globs: Sequence[str] = ()) -> list[str]:
    """The arguments of a `convbench run`, for another suite file and without what is about its own result file.

    Args:
        words: of a header's command.
        suite: stands in the place of the suites.
        globs: stand in the place of the filters, where there are any.

    Raises:
        InputError: it is another command.
    """
    if [*words[1:2]] != ["run"]:
        raise InputError("the baseline was not made by `convbench run`")
    dropped = OWN | ({"--filter"} if globs else set())
    valued = {name for param in run.params if isinstance(param, click.Option) and not param.is_flag
              for name in param.opts}  # fmt: skip
    found, left = [suite], iter(words[2:])
    for word in left:
        if word == "--":
            break
        for option, attached in _options(word, valued):
            parts = [option]
            if option in valued:
                parts = [f"{option}={attached}"] if option.startswith("--") and attached else [option, attached]
                parts = parts if attached else [option, next(left, "")]
            found += [] if option in dropped else parts
    return found + [part for glob in globs for part in ("--filter", glob)]


def _options(word: str, valued: Container[str]) -> list[tuple[str, str]]:
    """The options in a word of a command line, with the value that is attached to the last of them; none in others."""
    if word.startswith("--"):
        option, _, attached = word.partition("=")
        return [(option, attached)]
    found: list[tuple[str, str]] = []
    if word.startswith("-"):
        for place, letter in enumerate(word[1:], start=2):
            if f"-{letter}" in valued:
                return [*found, (f"-{letter}", word[place:])]
            found.append((f"-{letter}", ""))
    return found


def recipe_of(header: Mapping[str, Any]) -> Recipe:
    """What names the rows of a run with this header on a command line."""
    from convbench.reproduce import Recipe
    from convbench.suite import load_suite

    names = [suite["name"] for suite in header["suites"]]
    words = header["command"][2:] if header["command"][1:2] == ["run"] else []
    arguments = run.make_context("run", [*words], resilient_parsing=True).params.get("suites") or ()
    suites = dict(zip(names, arguments, strict=True)) if len(names) == len(arguments) else {}
    batches: dict[tuple[str, str], int] = {}
    for name, argument in suites.items():
        with contextlib.suppress(InputError):  # it is not here, or another one by now
            loaded = load_suite(argument)
            batches |= {(name, entry.name): entry.problem.batch for entry in loaded.problems}
    return Recipe(suites=suites, batches=batches, backends=header.get("backends", {}))


def exact_glob(text: str) -> str:
    """The pattern that matches this text alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
