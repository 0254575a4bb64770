"""`convbench report`: result files as one page, or the same facts as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli.output import check_output, write_output
from convbench.errors import InputError
from convbench.units import counted, format_si

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.result import Run

PAGE = Path("report.html")
FORMATS = ("html", "markdown", "csv", "json")


@click.command(name="report")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path),
              help=f"Writes this file: {PAGE} if left out for html, else the output is printed.")  # fmt: skip
@click.option("--format", "output_format", type=click.Choice(FORMATS), default="html", show_default=True,
              help="A page, or tables: all of them, csv the rows alone; csv and json are in SI units.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrites FILE.")
def command(runs: tuple[Path, ...], output: Path | None, output_format: str, force: bool) -> None:
    """Report the result files RUN as one page that needs nothing else.

    It holds machines and ceilings, a summary, a roofline, every row, phases, speed-ups and the method. Runs of several
    machines, or from before and after a change, share a page.

    \b
    Example:
      convbench report runs/alexnet.jsonl
      convbench report runs/before.jsonl runs/after.jsonl -o change.html
      convbench report runs/alexnet.jsonl --format markdown
    """
    from convbench.journal import read_run
    from convbench.render import render
    from convbench.render.html import charts_missing, report_html, report_tables

    page = output_format == "html"
    if page and output is None:
        output = PAGE
    if output:
        check_output(output, force=force)
    if page and (missing := charts_missing()):
        raise InputError(missing)
    paths = [*dict.fromkeys(runs)]
    found: dict[str, Run] = dict(zip(names(paths), map(read_run, paths), strict=True))
    if page:
        content = report_html(found)
    else:
        tables = report_tables(found)
        content = render([tables["rows"]] if output_format == "csv" else [*tables.values()], output_format)
    if output is None:
        click.echo(content, nl=False)
        return
    data = content.encode()
    write_output(output, data)
    rows = sum(len(run.rows) for run in found.values())
    click.echo(f"{output}: {counted(rows, 'row')}, {format_si(len(data), 'B')}", err=True)


def names(paths: Sequence[Path]) -> list[str]:
    """What runs are called: their files' names without the suffix, with the folder's where those are the same.

    Names that are still the same are numbered.
    """
    from convbench.render.html.merge import numbered

    short = [path.stem for path in paths]
    longer = [
        f"{path.absolute().parent.name}/{path.stem}" if short.count(path.stem) > 1 else path.stem for path in paths
    ]
    return numbered(longer)
