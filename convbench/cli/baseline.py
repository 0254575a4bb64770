"""`convbench baseline`: what `check` compares with."""

from __future__ import annotations

from pathlib import Path

import click

from convbench.cli.output import write_output
from convbench.units import counted

LONGEST_REASON = 500


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
    """Put rows of another result file into a baseline.

    Rows of NEW take the place of those of BASE.
    Rows of BASE that match and that NEW has not are dropped. BASE is written whole or left as it is.

    \b
    Example:
      convbench baseline update base.jsonl today.jsonl --filter 'conv2*' --reason "smaller tiles, half the memory"
    """
    from convbench import session
    from convbench.baseline import update as updated
    from convbench.errors import InputError
    from convbench.journal import content, fold, read_run

    why = "".join(letter for letter in " ".join(reason.split()) if letter.isprintable())
    if not 0 < len(why) <= LONGEST_REASON:
        raise InputError(f"--reason must have 1 to {LONGEST_REASON} characters, for those who read the baseline later; "
                         f"got {len(why)}")  # fmt: skip
    found = updated(read_run(base), read_run(new), globs, why, session.date())
    lines = content(found.run)
    fold(lines, f"the updated {base}")  # what could not be read again must not take its place
    write_output(base, lines)
    if doubtful := sum(bool(row.remarks) for row in found.run.rows if row.key in found.taken):
        click.echo(f"warning: doubtful times (disturbed, drifting, of few rounds) in {doubtful} of "
                   f"{counted(len(found.taken), 'new row')}", err=True)  # fmt: skip
    click.echo(f"{base}: {counted(found.replaced, 'row')} replaced, {found.added} added, {found.dropped} dropped, "
               f"{found.kept} kept")  # fmt: skip
