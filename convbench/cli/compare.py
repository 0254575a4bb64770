"""`convbench compare`: result files, row by row."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from convbench.cli.options import format_option, print_tables
from convbench.errors import NotComparableError


@click.command(name="compare")
@click.argument("base", metavar="BASE", type=click.Path(path_type=Path))
@click.argument("news", metavar="NEW...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--between", nargs=2, metavar="BACKEND:ALGORITHM BACKEND:ALGORITHM",
              help="Two algorithms within BASE alone, case by case.")  # fmt: skip
@format_option
def command(base: Path, news: tuple[Path, ...], between: tuple[str, str] | None, output_format: str) -> None:
    """Compare the result files NEW with BASE: a verdict for every row, whole networks, and what changed meanwhile.

    Stored runs can name suspects only: `convbench check --against` confirms them. Exit code 4 says that the runs
    cannot be compared, 6 that a row of BASE has failed or is missing.

    \b
    Example:
      convbench compare runs/last-week.jsonl runs/today.jsonl
      convbench compare runs/today.jsonl --between cpu:gemm cpu:auto
    """
    if bool(news) == bool(between):
        raise click.UsageError("name NEW files, or two algorithms with --between")
    from convbench.compare import Verdict, compare, pairs
    from convbench.journal import read_run
    from convbench.render.comparison import comparison_table, means_table, pairs_table

    old = read_run(base)
    if between:
        print_tables([pairs_table(pairs(old, *between), base.name)], output_format)
        return
    tables, broken = [], False
    for path in news:
        try:
            compared = compare(old, read_run(path))
        except NotComparableError as error:
            raise NotComparableError(f"{path}: {error}") from None
        tables += [comparison_table(compared, f"{path.name} beside {base.name}"), means_table(compared)]
        broken |= any(compared.verdicts[verdict] for verdict in (Verdict.FAILED, Verdict.MISSING))
    print_tables([table for table in tables if table], output_format)
    if broken:
        sys.exit(6)
