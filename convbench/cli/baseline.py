"""`convbench baseline`: what `check` compares with."""

from __future__ import annotations

from pathlib import Path

import click

from convbench.cli.output import write_output


@click.group(name="baseline")
def command() -> None:
    """Keep a baseline, the result file that `convbench check` compares with.

    One is made by `convbench run --processes 3`.

    \b
    Example:
      convbench baseline update base.jsonl today.jsonl --reason "smaller tiles, half the memory"
    """


@command.command(name="update")
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--filter", "globs", multiple=True, metavar="GLOB",
              help="Only problems whose name (or suite/name) matches; may be repeated. All if left out.")  # fmt: skip
@click.option("--reason", required=True, help="Why; it is recorded in the file.")
def update(base: Path, new: Path, globs: tuple[str, ...], reason: str) -> None:
    """Put rows of the result file NEW in the place of those of the baseline BASE.

    Rows of BASE that match and that NEW has not are dropped. BASE is written whole or left as it is.

    \b
    Example:
      convbench baseline update base.jsonl today.jsonl --filter 'conv2*' --reason "smaller tiles, half the memory"
    """
    from convbench import session
    from convbench.baseline import update as updated
    from convbench.errors import InputError
    from convbench.journal import content, read_run

    if not reason.strip():
        raise InputError("--reason is empty: say why, for those who read the baseline later")
    found = updated(read_run(base), read_run(new), globs, " ".join(reason.split()), session.date())
    write_output(base, content(found.run))
    click.echo(
        f"{base}: {found.replaced} rows replaced, {found.added} added, {found.dropped} dropped, {found.kept} kept"
    )
