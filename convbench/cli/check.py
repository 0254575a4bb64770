"""`convbench check`: did it get slower?"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli.options import Parsed, format_option
from convbench.cli.outputs import check_targets, outputs_options, show
from convbench.errors import InputError
from convbench.units import format_bytes, format_time, parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.cli.rerun import Planned
    from convbench.compare import Compared
    from convbench.confirm import Launched
    from convbench.pairs import Side
    from convbench.result import Run
    from convbench.suite import Gate


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
@click.option("--advisory", is_flag=True, help="Say all, and end with exit code 0.")
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
      convbench check mine.toml --against ../old/.venv/bin/python -- -b ./mykernel.py:MyBackend
      convbench check mine.toml --baseline base.jsonl
    """
    _check_usage(baseline=baseline, against=against, current=current, dedicated=dedicated, self_test=self_test,
                 options=options, launched=launches or replaced, output=output)  # fmt: skip
    check_targets(targets, force=force)
    from convbench.check import check_baseline, exit_code
    from convbench.compare import compare
    from convbench.journal import read_run
    from convbench.render.ci import Facts
    from convbench.suite import load_suite

    loaded = load_suite(suite)
    gates = {problem.name: problem.gate for problem in loaded.problems}
    base = read_run(baseline) if baseline else None
    check, files = None, {}
    if base:
        files = base.header.get("backends", {})
        check_baseline(base.rows, str(baseline))
        if others := {row.key.case.suite for row in base.rows} - {loaded.name}:
            raise InputError(f"{baseline} holds rows of {', '.join(sorted(others))}, not of {loaded.name} alone")
    if base and current:
        compared = compare(base, read_run(current), gates)
    else:
        check = Check.of(suite, base, options, gates, launches, timeout, output)
        files = check.plan.files
        if self_test:
            compared = check.self_tested(_names(named))
        elif against:
            compared = check.confirmed(against, _names(replaced), _names(named))
        else:
            compared = check.screened(dedicated=dedicated)
    inconclusive = fail_on == "inconclusive"
    code = exit_code(compared, fail_on_inconclusive=inconclusive)
    old = "itself" if self_test else baseline.name if baseline else "its old version"
    facts = Facts.of_suite(compared, loaded, suite, baseline=old, exit_code=code, fail_on_inconclusive=inconclusive,
                           backends=files)  # fmt: skip
    show(facts, f"{loaded.name} beside {old}", targets, output_format, github=github)
    if check and check.interrupted:
        _say("interrupted: the table is of what was measured before")
        sys.exit(130)
    if code and not advisory:
        sys.exit(code)


def _check_usage(
    *, baseline: Path | None, against: str | None, current: Path | None, dedicated: bool, self_test: bool,
    options: object, launched: object, output: Path | None,
) -> None:  # fmt: skip
    """Refuses options that do not go together."""
    wrong = {
        "name a --baseline, or the old version with --against": not (baseline or against or self_test),
        "the options of `convbench run` are those of the baseline's command: --baseline excludes others":
            baseline and options,
        "--current measures nothing: it needs --baseline, and excludes --against, --dedicated, --self-test and -o":
            current and (not baseline or against or dedicated or self_test or output),
        "--launches and --against-backend need --against": launched and not (against or self_test),
        "--dedicated is for a --baseline alone: with --against every row is confirmed":
            dedicated and (against or self_test or not baseline),
        "--self-test has no other version: it excludes --against": self_test and against,
        "-o is for what is measured beside a --baseline": output and (not baseline or self_test),
    }  # fmt: skip
    for text, holds in wrong.items():
        if holds:
            raise click.UsageError(text)


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


@dataclass(slots=True, kw_only=True)
class Check:
    """What is checked, and how.

    Attributes:
        arguments: of the `convbench run` whose rows these are.
        plan: what that would measure.
        gates: how problems are treated, by name.
        launches: of each row; None: as many as its number of rows needs.
        interrupted: whether Ctrl-C ended it.
    """

    suite: str
    base: Run | None
    arguments: list[str]
    plan: Planned
    gates: Mapping[str, Gate]
    launches: int | None
    timeout_s: float
    output: Path | None
    interrupted: bool = False

    @classmethod
    def of(
        cls, suite: str, base: Run | None, options: Sequence[str], gates: Mapping[str, Gate], launches: int | None,
        timeout_s: float, output: Path | None,
    ) -> Check:  # fmt: skip
        """The check of a baseline's rows, or of those that the options of a run name.

        Raises:
            ConvbenchError: they cannot be planned, or the baseline is of another machine.
        """
        from convbench.cli.rerun import again, planned
        from convbench.compare import guard

        arguments = again(base.header["command"], suite) if base else [suite, *options]
        plan = planned(arguments)
        if base:
            guard(base.header, plan.header)
        if output and output.exists():
            raise InputError(f"{output} exists")
        return cls(suite=suite, base=base, arguments=arguments, plan=plan, gates=gates, launches=launches,
                   timeout_s=timeout_s, output=output)  # fmt: skip

    def screened(self, *, dedicated: bool = False) -> Compared:
        """The rows measured now, beside the baseline; where nothing else uses the machine, suspects once more."""
        from convbench.check import measured_twice
        from convbench.cli.rerun import again, exact_glob
        from convbench.compare import Verdict, compare

        assert self.base
        compared = compare(self.base, _measured(self.arguments, self.output or _path("check")), self.gates)
        suspects = [row.key.case for row in compared.rows if row.verdict is Verdict.SUSPECT]
        if not (dedicated and suspects):
            return compared
        globs = [exact_glob(f"{case.suite}/{case.name}") for case in dict.fromkeys(suspects)]
        repeated = _measured(again(self.base.header["command"], self.suite, globs), _path("check-again"))
        return measured_twice(compared, compare(self.base, repeated, self.gates))

    def confirmed(self, python: str, replaced: dict[str, str], named: dict[str, str]) -> Compared:
        """The rows by fresh pairs of processes; beside a baseline, also measured now."""
        from convbench.check import unconfirmed
        from convbench.compare import changes, compare
        from convbench.pairs import Side, about

        here = self.plan.files | named
        old = Side(title="old", python=python, backends=here | replaced)
        new = Side(title="new", python=sys.executable, backends=here)
        said = [about(side, self.timeout_s) for side in (old, new)]
        for side, answer in zip((old, new), said, strict=True):
            _say(f"{side.title}: convbench {answer['version']} in {answer['folder']}")
        if said[0]["folder"] == said[1]["folder"] and old.backends == new.backends:
            _say("warning: both sides load the same convbench and the same backends")
        if self.base:
            compared = compare(self.base, _measured(self.arguments, self.output or _path("check")), self.gates)
        else:
            compared = unconfirmed([task.key for task in self.plan.tasks], self.gates)
        headers = [self.plan.header | {"convbench_version": of["version"], "environment": of["environment"]}
                   for of in said]  # fmt: skip
        return replace(self._launched(compared, old, new), changed=changes(*headers))

    def self_tested(self, named: dict[str, str]) -> Compared:
        """This version beside itself: by stored runs, which are only counted, and by fresh pairs of processes."""
        from convbench.check import unconfirmed
        from convbench.compare import Verdict, compare
        from convbench.pairs import Side

        first, second = (
            _measured([*self.arguments, *more], _path(f"self-test-{number}"))
            for number, more in enumerate((["--processes", "3"], []), start=1)
        )
        counts = compare(first, second, self.gates).verdicts
        _say(f"stored runs: {counts[Verdict.SUSPECT]} of {counts.total()} rows would be suspects, "
             f"{counts[Verdict.IMPROVED]} improved, {counts[Verdict.INCONCLUSIVE]} inconclusive")  # fmt: skip
        here = self.plan.files | named
        old, new = (Side(title=title, python=sys.executable, backends=here) for title in ("old", "new"))
        compared = self._launched(unconfirmed([task.key for task in self.plan.tasks], self.gates), old, new)
        counts = compared.verdicts
        _say(f"fresh pairs: {counts[Verdict.REGRESSION]} of {counts.total()} rows would be regressions, "
             f"{counts[Verdict.IMPROVED]} improved, {counts[Verdict.INCONCLUSIVE]} inconclusive")  # fmt: skip
        return compared

    def _launched(self, compared: Compared, old: Side, new: Side) -> Compared:
        """The comparison with what fresh pairs of processes say."""
        from convbench import session
        from convbench.check import confirmed, to_confirm
        from convbench.confirm import launches_needed
        from convbench.pairs import launches

        if self.plan.options.tune:
            raise InputError("what --tune takes is not confirmed, since a side would choose again: name algorithms")
        memory = {task.key: 2 * task.memory_bytes for task in self.plan.tasks}  # a plan on each side
        keys = [key for key in to_confirm(compared) if memory.get(key, 0) <= self.plan.options.max_memory]
        if skipped := len(to_confirm(compared)) - len(keys):
            limit = format_bytes(self.plan.options.max_memory)
            _say(f"warning: {skipped} rows are not confirmed: two processes would need more than {limit}")
        if not keys:
            return compared
        found: list[Launched] = []
        started = time.perf_counter()
        count = self.launches or launches_needed(len(keys))
        with session.measuring_lock(_say):
            _say(f"confirming {len(keys)} rows by {count} launches each")
            with click.progressbar(length=count * len(keys), label="launches", file=sys.stderr) as bar:
                try:
                    for launch in launches(keys, old, new, self.launches, timeout_s=self.timeout_s):
                        found.append(launch)
                        bar.update(1)
                except KeyboardInterrupt:
                    self.interrupted = True
        _say(f"confirmed in {format_time(time.perf_counter() - started)}")
        return confirmed(compared, keys, found, self.gates)


def _path(what: str) -> Path:
    from convbench import session

    return Path("runs") / f"{what}-{session.stamp()}.jsonl"


def _measured(arguments: list[str], path: Path) -> Run:
    """The run of a `convbench run`, now."""
    from convbench.cli.run import run_silently
    from convbench.journal import read_run

    _say(f"measuring: convbench run {shlex.join([*arguments, '-o', str(path)])}")
    code = run_silently([*arguments, "-o", str(path)])
    if code not in {0, 6}:  # 6: a row is broken, which the comparison says
        sys.exit(code)
    return read_run(path)


def _say(text: str) -> None:
    click.echo(text, err=True)
