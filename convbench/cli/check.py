"""`convbench check`: did it get slower than its baseline?"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convbench.cli.options import Parsed, format_option, print_tables
from convbench.errors import InputError
from convbench.units import format_time, parse_duration

if TYPE_CHECKING:
    from convbench.compare import Compared
    from convbench.pairs import Side
    from convbench.result import Run


@click.command(name="check")
@click.argument("suite")
@click.option("--baseline", type=click.Path(path_type=Path), required=True,
              help="Result file of a `convbench run --processes 3` or more.")  # fmt: skip
@click.option("--against", metavar="PYTHON", help="The interpreter of an environment that holds the old version: every "
              "row is confirmed by fresh pairs of processes, one of each.")  # fmt: skip
@click.option("--against-backend", "replaced", multiple=True, metavar="NAME=BACKEND",
              help="What -b calls the backend NAME there, such as mine=old/mykernel.py:MyBackend.")  # fmt: skip
@click.option("--backend", "-b", "named", multiple=True, metavar="NAME=BACKEND",
              help="What -b calls the backend NAME here, if the baseline's command does not say.")  # fmt: skip
@click.option("--current", type=click.Path(path_type=Path), help="Measure nothing: compare with this result file.")
@click.option("--launches", type=click.IntRange(min=1), help="Of each row; as many as its number of rows needs if "
              "left out, 12 at least.")  # fmt: skip
@click.option("--timeout", type=Parsed("duration", parse_duration), default="10min", show_default=True,
              help="A process of a pair may be silent for so long.")  # fmt: skip
@click.option("--fail-on", type=click.Choice(["regression", "inconclusive"]), default="regression", show_default=True,
              help="What ends with an exit code other than 0, beside rows that failed; the second includes the first."
              )  # fmt: skip
@click.option("--advisory", is_flag=True, help="Say all, and end with exit code 0.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Result file of what is measured."
)
@format_option
def command(
    suite: str, baseline: Path, against: str | None, replaced: tuple[str, ...], named: tuple[str, ...],
    current: Path | None, launches: int | None, timeout: float, fail_on: str, advisory: bool, output: Path | None,
    output_format: str,
) -> None:  # fmt: skip
    """Measure the rows of a baseline of SUITE again, and say which became slower.

    Stored runs name suspects. With --against each row is confirmed, slower or not, and only then is there a
    regression, exit code 3. 4: not comparable; 5: inconclusive, where --fail-on says so; 6: a row failed or is missing.

    \b
    Example:
      convbench check mine.toml --baseline base.jsonl
      convbench check mine.toml --baseline base.jsonl --against ../old/.venv/bin/python
    """
    if current and (against or output):
        raise click.UsageError("--current measures nothing: it excludes --against and -o")
    if not against and (launches or replaced):
        raise click.UsageError("--launches and --against-backend need --against")
    from convbench.check import check_baseline, exit_code
    from convbench.compare import compare
    from convbench.journal import read_run
    from convbench.render.comparison import comparison_table, means_table
    from convbench.suite import load_suite

    base = read_run(baseline)
    check_baseline(base, str(baseline))
    loaded = load_suite(suite)
    if others := {row.key.case.suite for row in base.rows} - {loaded.name}:
        raise InputError(f"{baseline} holds rows of {', '.join(sorted(others))}, not of {loaded.name} alone")
    gates = {problem.name: problem.gate for problem in loaded.problems}
    sides = _sides(base, against, [_names(texts) for texts in (replaced, named)], timeout) if against else None
    new = read_run(current) if current else _measured(base, suite, output)
    compared = compare(base, new, gates)
    if sides:
        compared = _confirmed(compared, *sides, launches, timeout, gates)
    tables = [comparison_table(compared, f"{loaded.name} beside {baseline.name}"), means_table(compared)]
    print_tables([table for table in tables if table], output_format)
    code = exit_code(compared, fail_on_inconclusive=fail_on == "inconclusive")
    if code and not advisory:
        sys.exit(code)


def _names(texts: tuple[str, ...]) -> dict[str, str]:
    """Backends by name.

    Raises:
        InputError: no NAME=BACKEND.
    """
    found = {}
    for text in texts:
        name, equals, backend = text.partition("=")
        if not (name and equals and backend):
            raise InputError(f"{text!r} must be NAME=BACKEND, such as mine=old/mykernel.py:MyBackend")
        found[name] = backend
    return found


def _measured(base: Run, suite: str, output: Path | None) -> Run:
    """The run of the baseline's own command, now."""
    from convbench import session
    from convbench.cli.run import run_silently
    from convbench.journal import read_run

    path = output or Path("runs") / f"check-{session.stamp()}.jsonl"
    arguments = [*again(base.header["command"], suite), "-o", str(path)]
    _say(f"measuring: convbench run {shlex.join(arguments)}")
    code = run_silently(arguments)
    if code not in {0, 6}:  # 6: a row is broken, which the comparison says
        sys.exit(code)
    return read_run(path)


def again(words: list[str], suite: str) -> list[str]:
    """The arguments of a `convbench run`, for another suite file and without what is about its own result file.

    Raises:
        InputError: they are of no such command.
    """
    from convbench.cli.run import command as run

    arguments = words[2:]
    if words[1:2] != ["run"]:
        raise InputError("the baseline was not made by `convbench run`")
    try:
        suites = run.make_context("run", [*arguments], resilient_parsing=True).params["suites"]
    except (click.ClickException, KeyError, TypeError) as error:
        raise InputError(f"the baseline's command is not understood: {error}") from None
    found: list[str] = []
    words_left = iter(arguments)
    for word in words_left:
        if word in {"-o", "--output"}:
            next(words_left, None)
        elif word in suites or word in {"--force", "--resume", "-q", "--quiet"} or word.startswith(("--output=", "-o")):
            continue
        else:
            found.append(word)
    return [suite, *found]


def _sides(base: Run, python: str, names: list[dict[str, str]], timeout_s: float) -> tuple[Side, Side]:
    """The old and the new version, once both have answered.

    Raises:
        ConvbenchError: one does not, or the baseline's algorithms were chosen by measuring.
    """
    from convbench.pairs import Side, version

    if base.header["options"].get("tune"):
        raise InputError("a baseline measured with --tune cannot be confirmed: name its algorithms instead")
    here = _files(base.header["command"]) | names[1]
    old = Side(title="old", python=python, backends=here | names[0])
    new = Side(title="new", python=sys.executable, backends=here)
    loaded = [version(side, timeout_s) for side in (old, new)]
    for side, (number, folder) in zip((old, new), loaded, strict=True):
        _say(f"{side.title}: convbench {number} in {folder}")
    if loaded[0] == loaded[1] and old.backends == new.backends:
        _say("warning: both sides load the same convbench and the same backends")
    return old, new


def _confirmed(compared: Compared, old: Side, new: Side, count: int | None, timeout_s: float, gates: Any) -> Compared:
    """The comparison with what fresh pairs of processes say."""
    from convbench import session
    from convbench.check import confirmed, to_confirm
    from convbench.confirm import launches_needed
    from convbench.pairs import NULL, launches

    rows = to_confirm(compared)
    if not rows:
        return compared
    count = count or launches_needed(len(rows))
    ratios: dict[int, list[float]] = {place: [] for place in (NULL, *range(len(rows)))}
    failed: dict[int, str] = {}
    started = time.perf_counter()
    with session.measuring_lock(_say):
        _say(f"confirming {len(rows)} rows by {count} launches each")
        for found in launches([row.key for row in rows], old, new, count, timeout_s=timeout_s):
            if found.ratio is None:
                failed[found.row] = found.reason
            else:
                ratios[found.row].append(found.ratio)
    if NULL in failed:
        _say(f"warning: the null control failed: {failed.pop(NULL)}")
    _say(f"confirmed in {format_time(time.perf_counter() - started)}")
    return confirmed(compared, ratios, ratios[NULL], failed, gates)


def _files(words: list[str]) -> dict[str, str]:
    """Backends from files in a command line, by their names."""
    from convbench.backends import parse_backend
    from convbench.cli.run import command as run

    found = {}
    for text in run.make_context("run", words[2:], resilient_parsing=True).params.get("specs") or ():
        path, py, name = text.rpartition(".py:")
        if py:
            file = f"{path}.py:{name.partition(':')[0]}"
            found[parse_backend(file).backend.name] = file
    return found


def _say(text: str) -> None:
    click.echo(text, err=True)
