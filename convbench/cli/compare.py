"""`convbench compare`: result files, row by row."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from convbench.cli.options import format_option, print_tables
from convbench.cli.outputs import check_targets, outputs_options, show
from convbench.errors import NotComparableError


@click.command(name="compare")
@click.argument("base", metavar="BASE", type=click.Path(path_type=Path))
@click.argument("news", metavar="NEW...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--between", nargs=2, metavar="BACKEND:ALGORITHM BACKEND:ALGORITHM",
              help="Two algorithms within BASE alone, case by case.")  # fmt: skip
@outputs_options
@format_option
def command(
    base: Path, news: tuple[Path, ...], between: tuple[str, str] | None, targets: tuple[tuple[str, Path], ...],
    github: bool, force: bool, output_format: str,
) -> None:  # fmt: skip
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
    if (targets or github) and len(news) != 1:
        raise click.UsageError("--write and --github tell of one NEW file")
    from convbench.check import exit_code
    from convbench.cli.rerun import recipe_of
    from convbench.compare import compare, pairs
    from convbench.journal import read_run
    from convbench.render.ci import Facts
    from convbench.render.comparison import pairs_table, series_table

    check_targets(targets, (base, *news), force=force)
    old = read_run(base)
    if between:
        print_tables([pairs_table(pairs(old, *between), base.name)], output_format)
        return
    found = []
    for path in news:
        new = read_run(path)
        try:
            found.append((path.name, compare(old, new)))
        except NotComparableError as error:
            raise NotComparableError(f"{path}: {error}") from None
    code = max(exit_code(compared) for _, compared in found)
    if len(found) > 1:
        print_tables([series_table(base.name, found)], output_format)
    else:
        ((name, compared),) = found
        suites = [suite["name"] for suite in new.header["suites"]]
        facts = Facts(
            compared=compared,
            suite=", ".join(suites),
            baseline=base.name,
            exit_code=code,
            recipe=recipe_of(new.header),
        )
        show(facts, f"{name} beside {base.name}", targets, output_format, github=github)
    if code:
        sys.exit(code)
