"""The rows of a `convbench run`, for commands that measure what another run has measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from convbench.cli.run import CACHES, chosen_backends, files_of, run_options
from convbench.cli.run import command as run
from convbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.runner import RunOptions
    from convbench.tasks import Task

OWN = {"-o", "--output", "--force", "--resume", "-q", "--quiet"}
"""Options about a run's own result file and terminal."""


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

    params = run.make_context("convbench run", [*arguments]).params
    suites = [load_suite(name) for name in params["suites"]]
    options = run_options(**params)
    choice = {name: params[name] for name in ("passes", "precisions", "layouts", "epilogues", "batch", "globs")}
    specs = chosen_backends(params["specs"], options.timeout_s if options.isolate else None)
    found = tasks(selection(**choice).cases(suites), specs, options.threads, CACHES[params["cache"]], options.accuracy)
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
    found, left = [suite], iter(words[2:])
    for word in left:
        if word == "--":
            break
        if not word.startswith("-"):
            continue  # a suite
        long = word.startswith("--")
        name, attached = word.split("=", 1) if long and "=" in word else (word, "") if long else (word[:2], word[2:])
        parts = [word] + ([next(left, "")] if name in _valued() and not attached else [])
        found += [] if name in dropped else parts
    return found + [part for glob in globs for part in ("--filter", glob)]


def suite_arguments(header: Mapping[str, Any]) -> dict[str, str]:
    """What named each suite on the command line of a run with this header, by the suite's name."""
    names = [suite["name"] for suite in header["suites"]]
    arguments = header["command"][2:] if header["command"][1:2] == ["run"] else []
    given = run.make_context("run", [*arguments], resilient_parsing=True).params.get("suites") or ()
    return dict(zip(names, given, strict=True)) if len(names) == len(given) else {}


def exact_glob(text: str) -> str:
    """The pattern that matches this text alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _valued() -> set[str]:
    """The options of `convbench run` that have a value."""
    return {name for param in run.params if isinstance(param, click.Option) and not param.is_flag
            for name in param.opts}  # fmt: skip
