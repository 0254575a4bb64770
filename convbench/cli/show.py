"""`convbench show`: a result file as tables."""

from __future__ import annotations

from pathlib import Path

import click

from convbench.cli.options import format_option, print_tables
from convbench.errors import InputError


@click.command(name="show")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--by", "view", type=click.Choice(["problem", "network", "backend", "bound"]),
              help="Rows, whole networks, a line per backend, or counts of bounds and flags; rows and networks if left "
                   "out.")  # fmt: skip
@click.option("--phases", is_flag=True, help="Where the time of each row goes, of a run measured with --phases.")
@format_option
def command(run: Path, view: str | None, phases: bool, output_format: str) -> None:
    """Show the result file RUN: every row, whole-network totals, how often each backend was fastest, phases of rows.

    \b
    Example:
      convbench show runs/alexnet.jsonl
      convbench show runs/alexnet.jsonl --by network --format markdown
      convbench show runs/alexnet.jsonl --by bound
      convbench show runs/alexnet.jsonl --phases
    """
    if phases and view:
        raise click.UsageError("--phases excludes --by: it is a view of its own")
    from convbench.journal import read_run
    from convbench.render.bounds import bounds_table
    from convbench.render.phases import phases_table
    from convbench.render.results import backends_table, rows_table, totals_table

    found = read_run(run)
    if phases:
        table = phases_table(found)
        if table is None:
            raise InputError(f"{run} has no phases: measure with `convbench run --phases`, on plans that can say")
        print_tables([table], output_format)
        return
    tables = []
    if view in {None, "problem"}:
        tables.append(rows_table(found))
    if view in {None, "network"} and (totals := totals_table(found)):
        tables.append(totals)
    if view == "backend":
        tables.append(backends_table(found))
    if view == "bound":
        tables.append(bounds_table(found))
    if not tables:
        click.echo("no network has a time", err=True)
    if tables or output_format == "json":
        print_tables(tables, output_format)
