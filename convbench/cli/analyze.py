"""`convbench analyze`: counts and predicted bounds, without running anything."""

from __future__ import annotations

import click

from convbench.cli.options import case_options, format_option, print_tables, selection


@click.command(name="analyze")
@click.argument("suites", metavar="SUITE...", nargs=-1, required=True)
@click.option("--machine", "machine_name", metavar="NAME", help="Predict bounds on this machine (see `list machines`).")
@case_options
@format_option
def command(suites: tuple[str, ...], machine_name: str | None, output_format: str, **choice: object) -> None:
    """Count the flops and bytes of each case of SUITE and, on a machine, predict what binds it. Nothing is run.

    Flops are those of the definition (a multiply-add is 2), bytes those of perfect reuse: what no algorithm that
    computes the definition can undercut. The predicted time is a lower bound from published figures, never a result.

    \b
    Example:
      convbench analyze alexnet --pass fprop --machine h200-sxm
      convbench analyze talk-example --pass fprop --filter alexnet_layer1
    """
    from convbench.datasheet import load_datasheet
    from convbench.render.analysis import analysis_table
    from convbench.suite import load_suite

    sheet = load_datasheet(machine_name) if machine_name else None
    loaded = [load_suite(name) for name in suites]
    cases = selection(**choice).cases(loaded)  # type: ignore[arg-type]
    print_tables([analysis_table(cases, sheet, sums=all(suite.network for suite in loaded))], output_format)
