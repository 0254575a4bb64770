"""What `compare` and `check` write for other programs: files of several kinds, GitHub's annotations and summary."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convbench.cli.options import Command, print_tables
from convbench.cli.output import check_output, write_output
from convbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.render.ci import Facts

PLOT = "plot"
SUMMARY = "GITHUB_STEP_SUMMARY"


class _Target(click.ParamType):  # type: ignore[type-arg]  # generic only in recent versions of click
    """KIND=FILE, as a pair."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        """The pair."""
        from convbench.render.ci import OUTPUTS
        from convbench.render.plot import SUFFIXES

        kind, equals, file = value.partition("=")
        if kind not in {*OUTPUTS, PLOT} or not (equals and file):
            self.fail(f"{value!r} is not KIND=FILE with KIND one of {', '.join([*OUTPUTS, PLOT])}", param, ctx)
        path = Path(file)
        if kind == PLOT and path.suffix.lower() not in SUFFIXES:
            self.fail(f"{file}: what to draw follows from the suffix, one of {', '.join(SUFFIXES)}", param, ctx)
        return kind, path


def outputs_options(command: Command) -> Command:
    """`--write`, `--github` and `--force`."""
    for option in reversed([
        click.option("--write", "targets", type=_Target(), multiple=True, metavar="KIND=FILE",
                     help="Writes a file for other programs; may be repeated. KIND is json, markdown, junit, "
                     "github-action-benchmark, bencher or plot: see docs/ci.md."),
        click.option("--github", is_flag=True, help="Prints annotations for GitHub Actions, and appends a summary "
                     "to its step summary."),
        click.option("--force", is_flag=True, help="Overwrites the files of --write."),
    ]):  # fmt: skip
        command = option(command)
    return command


def check_targets(targets: tuple[tuple[str, Path], ...], read: Sequence[Path | None], *, force: bool) -> None:
    """Refuses files that could not be written, before anything is measured.

    Args:
        targets: kinds and files.
        read: files that the command reads.
        force: whether others may be overwritten.

    Raises:
        InputError: a file exists and `force` is not set, its folder is missing, or it has two uses.
    """
    taken = [path.resolve() for path in read if path]
    for _, path in targets:
        if path.resolve() in taken:
            raise InputError(f"{path}: --write names a file that has another use in this command")
        check_output(path, force=force)
        if not path.parent.is_dir():
            raise InputError(f"cannot write {path}: there is no folder {path.parent}")
        taken.append(path.resolve())


def show(
    facts: Facts, title: str, targets: tuple[tuple[str, Path], ...], output_format: str, *, github: bool
) -> None:  # fmt: skip
    """Writes what was asked for, each file whatever became of the others, and prints the comparison.

    Raises:
        InputError: the first file that could not be written.
    """
    from convbench.render.ci import OUTPUTS, github_annotations
    from convbench.render.comparison import comparison_table, means_table
    from convbench.render.plot import comparison_picture

    failures: list[InputError] = []
    for kind, path in targets:
        try:
            if kind == PLOT:
                write_output(path, comparison_picture(facts.compared, title, path.suffix.lower()))
            else:
                write_output(path, OUTPUTS[kind](facts).encode())
        except InputError as error:
            failures.append(error)
    tables = [comparison_table(facts.compared, title, facts.recipe), means_table(facts.compared)]
    print_tables([table for table in tables if table], output_format)
    if github:
        for line in github_annotations(facts):
            click.echo(line, err=output_format != "table")  # GitHub reads both
        _append_summary(OUTPUTS["markdown"](facts))
    if failures:
        raise failures[0]


def _append_summary(text: str) -> None:
    path = os.environ.get(SUMMARY)
    try:
        if not path:
            raise FileNotFoundError(errno.ENOENT, "it is not set")
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        click.echo(f"warning: no step summary: {SUMMARY}: {error.strerror}", err=True)
