"""`convbench check`: did it get slower?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from convbench.cli.options import Parsed, format_option
from convbench.cli.outputs import check_targets, outputs_options, show
from convbench.errors import InputError
from convbench.units import parse_duration


@click.command(name="check")
@click.argument("suite")
@click.argument("options", metavar="[-- RUN-OPTION...]", nargs=-1)
@click.option("--baseline", type=click.Path(path_type=Path), help="Result file of a `convbench run --processes 3` or "
              "more, whose rows are measured again.")  # fmt: skip
@click.option("--against", metavar="PYTHON", help="The interpreter of an environment that holds the old version: every "
              "row is confirmed by fresh pairs of processes, one of each.")  # fmt: skip
@click.option("--against-backend", "replaced", multiple=True, metavar="NAME=BACKEND",
              help="What -b calls the backend NAME there, such as mine=old/mykernel.py:MyBackend.")  # fmt: skip
@click.option("--backend", "named", multiple=True, metavar="NAME=BACKEND",
              help="What -b calls the backend NAME here, if the baseline's command does not say.")  # fmt: skip
@click.option("--launches", type=click.IntRange(min=1), help="Of each row; as many as its number of rows needs if "
              "left out, 12 at least.")  # fmt: skip
@click.option("--timeout", type=Parsed("duration", parse_duration), default="10min", show_default=True,
              help="A process of a pair may be silent for so long.")  # fmt: skip
@click.option("--current", type=click.Path(path_type=Path), help="Measure nothing: compare with this result file.")
@click.option("--dedicated", is_flag=True, help="Nothing else uses this machine: what is slower than the baseline, and "
              "again in fresh processes, is a regression.")  # fmt: skip
@click.option("--self-test", is_flag=True, help="Compare this version with itself, by stored runs and by fresh pairs: "
              "how many rows would alarm.")  # fmt: skip
@click.option("--fail-on", type=click.Choice(["regression", "inconclusive"]), default="regression", show_default=True,
              help="What ends with an exit code other than 0, beside rows that failed; the second includes the first."
              )  # fmt: skip
@click.option("--advisory", is_flag=True, help="Say all, and end with exit code 0 whatever the verdicts.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Result file of what is measured."
)
@outputs_options
@format_option
def command(
    suite: str, options: tuple[str, ...], baseline: Path | None, against: str | None, replaced: tuple[str, ...],
    named: tuple[str, ...], launches: int | None, timeout: float, current: Path | None, dedicated: bool,
    self_test: bool, fail_on: str, advisory: bool, output: Path | None,
    targets: tuple[tuple[str, Path], ...], github: bool, force: bool, output_format: str,
) -> None:  # fmt: skip
    """Say which rows of SUITE became slower: than in a baseline, or than an old version beside this one.

    With --against each row is measured by fresh pairs of processes, and only then is there a regression, exit code 3:
    the rows are those of the baseline's command or of the options of `convbench run` after --. A baseline alone names
    suspects. 4: not comparable; 5: inconclusive, where --fail-on says so; 6: a row failed or is missing.

    \b
    Example:
      convbench check mine.toml --against ../old/.venv/bin/python -- -b mine
      convbench check mine.toml --against old/.venv/bin/python --against-backend mine=old/mykernel.py:MyBackend \
        -- -b ./mykernel.py:MyBackend
      convbench check mine.toml --baseline base.jsonl
    """
    _check_usage(baseline=baseline, against=against, current=current, dedicated=dedicated, self_test=self_test,
                 options=options, launches=launches, replaced=replaced, named=named, output=output)  # fmt: skip
    check_targets(targets, (baseline, current, output), force=force)
    from convbench.check import check_baseline, exit_code
    from convbench.cli.checking import Check, backend_names
    from convbench.compare import compare
    from convbench.journal import read_run
    from convbench.render.ci import Facts
    from convbench.suite import load_suite

    loaded = load_suite(suite)
    gates = {problem.name: problem.gate for problem in loaded.problems}
    base = read_run(baseline) if baseline else None
    if base:
        check_baseline(base.rows, str(baseline))
        if others := {row.key.case.suite for row in base.rows} - {loaded.name}:
            raise InputError(f"{baseline} holds rows of {', '.join(sorted(others))}, not of {loaded.name} alone")
    check = None
    if base and current:
        new = read_run(current)
        compared, files = compare(base, new, gates), new.header.get("backends", {})
    else:
        check = Check.of(suite, base, options, gates, launches, timeout, output)
        files = check.plan.files
        if self_test:
            compared = check.self_tested(backend_names(named))
        elif against:
            compared = check.confirmed(against, backend_names(replaced), backend_names(named))
        else:
            compared = check.screened(dedicated=dedicated)
    ended = check.ended if check else None
    inconclusive = fail_on == "inconclusive"
    code = ended[1] if ended else exit_code(compared, fail_on_inconclusive=inconclusive)
    old = "itself" if self_test else "its old version" if against else baseline.name if baseline else ""
    facts = Facts.of_suite(compared, loaded, suite, baseline=old, exit_code=code, fail_on_inconclusive=inconclusive,
                           backends=files)  # fmt: skip
    show(facts, f"{loaded.name} beside {old}", targets, output_format, github=github)
    for line in check.said if check else ():
        click.echo(line, err=output_format != "table")
    if ended:
        click.echo(f"{ended[0]}: the table is of what was measured before", err=True)
    elif compared.factor is None:
        click.echo("no row was compared: no version beside the other has a time", err=True)
    if code and (ended or not advisory):
        sys.exit(code)


def _check_usage(
    *, baseline: Path | None, against: str | None, current: Path | None, dedicated: bool, self_test: bool,
    options: object, launches: object, replaced: object, named: object, output: Path | None,
) -> None:  # fmt: skip
    """Refuses options that do not go together."""
    wrong = {
        "name a --baseline, or the old version with --against": not (baseline or against or self_test),
        "the options of `convbench run` are those of the baseline's command: --baseline excludes others":
            baseline and options,
        "--current measures nothing: it needs --baseline, and excludes --against, --dedicated, --self-test and -o":
            current and (not baseline or against or dedicated or self_test or output),
        "--launches needs --against or --self-test": launches and not (against or self_test),
        "--against-backend needs --against": replaced and not against,
        "--backend needs --against or --self-test": named and not (against or self_test),
        "--dedicated is for a --baseline alone: with --against every row is confirmed":
            dedicated and (against or self_test or not baseline),
        "--self-test has no other version: it excludes --against": self_test and against,
        "-o is for what is measured beside a --baseline": output and (not baseline or self_test),
    }  # fmt: skip
    for text, holds in wrong.items():
        if holds:
            raise click.UsageError(text)
