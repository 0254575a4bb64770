"""What `convbench check` measures: a baseline's rows once more, or both versions of them by turns."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.errors import ConvbenchError, InputError, unknown_name
from convbench.units import counted, format_bytes, format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from convbench.cli.rerun import Planned
    from convbench.compare import Compared
    from convbench.confirm import Launched
    from convbench.pairs import Side
    from convbench.result import Run
    from convbench.suite import Gate


def backend_names(texts: tuple[str, ...]) -> dict[str, str]:
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
        ended: why it ended too early, with its exit code; None where it did not.
        said: what there is to say beside the table.
    """

    suite: str
    base: Run | None
    arguments: list[str]
    plan: Planned
    gates: Mapping[str, Gate]
    launches: int | None
    timeout_s: float
    output: Path | None
    ended: tuple[str, int] | None = None
    said: list[str] = field(default_factory=list)

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

        here = self._here(named)
        self._check_names("--against-backend", replaced)
        for name, text in here.items():
            if name not in replaced:
                raise InputError(f"backend {name} is from {text} in both versions: name the old one, such as "
                                 f"--against-backend {name}=old/{text.removeprefix('./')}")  # fmt: skip
        old = Side(title="old", python=python, backends=here | replaced)
        new = Side(title="new", python=sys.executable, backends=here)
        said = [about(side, self.timeout_s) for side in (old, new)]
        for side, answer in zip((old, new), said, strict=True):
            files = "".join(f", {name} from {text}" for name, text in side.backends.items())
            _say(f"{side.title}: convbench {answer['version']} in {answer['folder']}{files}")
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
        from convbench.check import LEAST_PROCESSES, unconfirmed
        from convbench.compare import Verdict, compare
        from convbench.pairs import Side

        here = self._here(named)
        first, second = (
            _measured([*self.arguments, "--processes", str(LEAST_PROCESSES)], _path(f"self-test-{number}"))
            for number in (1, 2)
        )
        counts = compare(first, second, self.gates).verdicts
        self.said.append(
            f"by stored runs {counts[Verdict.SUSPECT]} of {counts.total()} rows would be suspects, "
            f"{counts[Verdict.IMPROVED]} improved, {counts[Verdict.INCONCLUSIVE]} inconclusive"
        )
        old, new = (Side(title=title, python=sys.executable, backends=here) for title in ("old", "new"))
        compared = self._launched(unconfirmed([task.key for task in self.plan.tasks], self.gates), old, new)
        counts = compared.verdicts
        self.said.append(
            f"by fresh pairs {counts[Verdict.REGRESSION]} of {counts.total()} rows would be regressions, "
            f"{counts[Verdict.IMPROVED]} improved, {counts[Verdict.INCONCLUSIVE]} inconclusive"
        )
        return compared

    def _here(self, named: dict[str, str]) -> dict[str, str]:
        """What `-b` calls backends here, by name, where that is not the name.

        Raises:
            InputError: no row has a backend of such a name, or a side would choose algorithms anew.
        """
        if self.plan.options.tune:
            raise InputError("what --tune takes is not confirmed, since a side would choose again: name algorithms")
        self._check_names("--backend", named)
        return self.plan.files | named

    def _check_names(self, option: str, named: dict[str, str]) -> None:
        """Refuses names of backends that no row has."""
        known = dict.fromkeys(task.key.backend for task in self.plan.tasks)
        for name in named:
            if name not in known:
                raise unknown_name("backend", name, [*known], where=f" in {option}")

    def _launched(self, compared: Compared, old: Side, new: Side) -> Compared:
        """The comparison with what fresh pairs of processes say."""
        from convbench import session
        from convbench.check import confirmed, to_confirm
        from convbench.confirm import LEAST_LAUNCHES, launches_needed
        from convbench.pairs import launches

        memory = {task.key: 2 * task.memory_bytes for task in self.plan.tasks}  # a plan on each side
        crowded = {task.key for task in self.plan.tasks if 2 * task.device_bytes > (task.free_bytes or 0)}
        keys = [key for key in to_confirm(compared) if memory.get(key, 0) <= self.plan.options.max_memory]
        keys = [key for key in keys if key not in crowded]
        if skipped := len(to_confirm(compared)) - len(keys):
            limit = format_bytes(self.plan.options.max_memory)
            own = ", or than their device has" if crowded else ""
            _say(f"warning: {counted(skipped, 'row')} not confirmed: two processes would need more than {limit}{own}")
        if not keys:
            return compared
        found: list[Launched] = []
        started = time.perf_counter()
        count = self.launches or launches_needed(len(keys))
        with session.measuring_lock(_say):
            if count < LEAST_LAUNCHES:
                _say(f"warning: fewer than {LEAST_LAUNCHES} launches decide nothing")
            _say(f"confirming {counted(len(keys), 'row')} by {counted(count, 'launch', 'launches')} each")
            try:
                with _progress_bar(count * (len(keys) + 1)) as advance:
                    for launch in launches(keys, old, new, self.launches, timeout_s=self.timeout_s):
                        found.append(launch)
                        advance()
            except KeyboardInterrupt:
                self.ended = "interrupted", 130
            except ConvbenchError as error:
                if not found:
                    raise
                self.ended = str(error), 1
        _say(f"confirmed in {format_time(time.perf_counter() - started)}")
        return confirmed(compared, keys, found, self.gates)


@contextmanager
def _progress_bar(length: int) -> Iterator[Callable[[], None]]:
    """A function that moves a bar on by one of `length`; nothing is drawn where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=length, label="launches", file=sys.stderr) as bar:
        yield lambda: bar.update(1)


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
