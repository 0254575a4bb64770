"""`convbench show`: a result file as tables."""

from __future__ import annotations

from pathlib import Path

import click

from convbench.cli.options import format_option, print_tables


@click.command(name="show")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--by", "view", type=click.Choice(["problem", "network", "backend"]),
              help="Rows, whole networks, or a line per backend; rows and networks if left out.")  # fmt: skip
@format_option
def command(run: Path, view: str | None, output_format: str) -> None:
    """Show the result file RUN: every row, whole-network totals, how often each backend was fastest.

    \b
    Example:
      convbench show runs/alexnet.jsonl
      convbench show runs/alexnet.jsonl --by network --format markdown
    """
    from convbench.journal import read_run
    from convbench.render.results import backends_table, rows_table, totals_table

    found = read_run(run)
    tables = []
    if view in {None, "problem"}:
        tables.append(rows_table(found))
    if view in {None, "network"} and (totals := totals_table(found)):
        tables.append(totals)
    if view == "backend":
        tables.append(backends_table(found))
    if not tables:
        click.echo("no network has a time", err=True)
    if tables or output_format == "json":
        print_tables(tables, output_format)
