"""Two runs, row by row: what became faster or slower, as far as stored runs can tell.

Pure functions of runs. Rules and the measurements they rest on: docs/method.md, "Comparison". A stored run can name
suspects only: identical code, measured twice, differs by more than its rounds show (a process has a bias of its own, a
shared machine has states that outlast a run).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from convbench.errors import InputError, NotComparableError, unknown_name
from convbench.result import BROKEN
from convbench.stats import first_quartile, median
from convbench.suite import Gate

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from convbench.result import Row, RowKey, Run
    from convbench.timing import Round


class Verdict(StrEnum):
    """What became of a row, the gravest first."""

    FAILED = "failed"
    MISSING = "missing"
    REGRESSION = "regression"
    SUSPECT = "suspect"
    INCONCLUSIVE = "inconclusive"
    ALGORITHM_CHANGED = "algorithm_changed"
    IMPROVED = "improved"
    NEW = "new"
    UNTIMED = "untimed"
    OK = "ok"


class Reason(StrEnum):
    """Why a row has its verdict."""

    SLOWER = "slower"
    FASTER = "faster"
    WITHIN_NOISE = "within_noise"
    BELOW_FLOOR = "below_floor"
    TOO_NOISY = "too_noisy"
    CLOCK = "clock"
    STATUS = "status"
    NOT_MEASURED = "not_measured"
    RESOLVED = "resolved"
    DISABLED = "disabled"
    NULL = "null_control"
    FEW_LAUNCHES = "few_launches"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The constants of docs/method.md, "Comparison".

    Attributes:
        min_effect: least relative change that counts.
        floor_s: least change that counts, seconds.
        noise_factor: multiples of the baseline's own spread that a change must exceed.
        too_noisy: threshold, relative, above which a row says nothing.
        canary: relative change of a canary from which the machine itself has changed.
    """

    min_effect: float = 0.05
    floor_s: float = 1e-6
    noise_factor: float = 2.0
    too_noisy: float = 0.25
    canary: float = 0.05


CPU_RULES = Rules()
GPU_RULES = Rules(min_effect=0.03, floor_s=2e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row in both runs.

    Attributes:
        key: of the row.
        base: the row in the baseline; `new` in the other run; None where it is not there.
        verdict: with `reason`, and `detail` in words where there is more to say.
        ratio: new over base of the values that decide; None without both.
        interval: where the ratio lies; None where too little was measured for one.
        threshold: relative change that was needed; None where none was computed.
        launches: new over base by fresh pairs of processes; the ratio is then their median.
        launched_s: median seconds of the old and the new side over these; None without any.
    """

    key: RowKey
    base: Row | None
    new: Row | None
    verdict: Verdict
    reason: Reason
    detail: str = ""
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    threshold: float | None = None
    launches: tuple[float, ...] = ()
    launched_s: tuple[float, float] | None = None

    @property
    def base_s(self) -> float | None:
        """Seconds of the old version; None without any."""
        return self.launched_s[0] if self.launched_s else (self.base.time_s if self.base else None)

    @property
    def new_s(self) -> float | None:
        """Seconds of the new version; None without any."""
        return self.launched_s[1] if self.launched_s else (self.new.time_s if self.new else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two runs.

    Attributes:
        rows: in the order of the baseline, then those that only the new run has.
        canaries: new over base, by canary, its device before the name where there are several.
        changed: what differs in the environment, as (name, base, new): listed, and no reason to refuse.
    """

    rows: tuple[Comparison, ...]
    canaries: Mapping[str, float]
    changed: tuple[tuple[str, str, str], ...]

    @property
    def launches(self) -> int:
        """Of fresh pairs of processes, which then made the ratios; 0 where the stored runs did."""
        return max((len(row.launches) for row in self.rows), default=0)

    @property
    def factor(self) -> float | None:
        """Geometric mean of all ratios: how much slower everything is; None without one."""
        logs = [math.log(row.ratio) for row in self.rows if row.ratio]
        return math.exp(sum(logs) / len(logs)) if logs else None

    @property
    def verdicts(self) -> Counter[Verdict]:
        """How many rows have each verdict."""
        return Counter(row.verdict for row in self.rows)


def compare(base: Run, new: Run, gates: Mapping[str, Gate] | None = None) -> Compared:
    """Compares two runs, row by row.

    Args:
        base: the baseline.
        new: what is compared with it.
        gates: how problems are treated, by name, where a suite says so.

    Raises:
        NotComparableError: they were measured on different machines or in different ways, or have no row in common.
    """
    guard(base.header, new.header)
    canaries = canary_ratios(base, new)
    moved = {device: moved_text(of) for device, of in canaries.items()}
    bases, news = ({_question(row.key): row for row in run.rows} for run in (base, new))
    if not bases.keys() & news.keys():
        raise NotComparableError("the two runs have no row in common: nothing can be compared")
    rows = tuple(
        _compared(bases.get(key), news.get(key), moved.get(key.device, ""), (gates or {}).get(key.case.name, Gate()))
        for key in dict.fromkeys([*bases, *news])
    )
    named = {name if len(canaries) == 1 else f"{device} {name}": ratio
             for device, of in canaries.items() for name, ratio in of.items()}  # fmt: skip
    return Compared(rows=rows, canaries=named, changed=changes(base.header, new.header))


def _question(key: RowKey) -> RowKey:
    """What a row asks, however often its layer occurs in the network."""
    return replace(key, case=replace(key.case, repeat=1))


def guard(base: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses runs with these headers where they say nothing about each other; devices that only one has do not matter.

    Raises:
        NotComparableError: other devices, another machine, method, number of threads or limit of workspaces; the text
            names the field and both values.
    """
    shared = base["devices"].keys() & new["devices"].keys()
    was, is_now = (", ".join(header["devices"]) or "none" for header in (base, new))
    if not shared and was != is_now:
        raise NotComparableError(f"not comparable: device was {was}, is now {is_now}")
    for name, old, now in zip(_CONDITIONS, _conditions(base, shared), _conditions(new, shared), strict=True):
        if old != now:
            raise NotComparableError(f"not comparable: {name} was {old}, is now {now}")


_CONDITIONS = ("machine (fingerprint by device)", "method version", "threads", "workspace limit")


def _conditions(header: Mapping[str, Any], devices: Container[str]) -> tuple[Any, ...]:
    return (
        {name: of["fingerprint"] for name, of in header["devices"].items() if name in devices},
        header["method"],
        header["options"].get("threads"),
        header["options"].get("workspace_limit_bytes"),
    )


def changes(base: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """What differs between two headers' environments: versions, BLAS, variables, governor; as (name, base, new)."""
    old, now = (dict(_flat(header)) for header in (base, new))
    return tuple(
        (name, old.get(name, "–"), now.get(name, "–"))
        for name in dict.fromkeys([*old, *now])
        if old.get(name) != now.get(name)
    )


def _flat(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    environment = header["environment"]
    blas = [f"{b['internal_api']} {b['version']} {b['architecture']}" for b in environment["blas"]]
    named = {"convbench": header["convbench_version"], "python": environment["python"], "os": environment["os"],
             "blas": ", ".join(blas), "governor": environment["governor"],
             "revision": environment["git_revision"]}  # fmt: skip
    named |= {f"library {name}": version for name, version in environment["libraries"].items()}
    named |= {f"variable {name}": value for name, value in environment["variables"].items()}
    named |= {f"{name} of {device}": version for device, of in header["devices"].items()
              for name, version in of.get("versions", {}).items()}  # fmt: skip
    named |= {f"suite {suite['name']}": suite["sha256"][:12] for suite in header["suites"]}
    return [(name, str(value)) for name, value in named.items() if value is not None]


def canary_ratios(base: Run, new: Run) -> dict[str, dict[str, float]]:
    """The fastest of each canary, new over base, by device: delays lengthen a canary and never shorten it."""
    return {
        device: {name: now[name] / seconds for name, seconds in old.items() if name in now}
        for device in base.canaries
        if device in new.canaries
        for old, now in [(_fastest(base.canaries[device]), _fastest(new.canaries[device]))]
    }


def _fastest(canaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for seconds in canaries for name in seconds})
    return {name: min(seconds[name] for seconds in canaries if name in seconds) for name in names}


def moved_text(ratios: Mapping[str, float]) -> str:
    """The canaries of a device that moved, with their ratios; "" where none did."""
    return ", ".join(f"{name} × {ratio:.3f}" for name, ratio in ratios.items() if abs(ratio - 1) > CPU_RULES.canary)


def _compared(base: Row | None, new: Row | None, moved: str, gate: Gate) -> Comparison:
    row = new or base
    assert row is not None
    key = row.key
    found = _by_status(base, new)
    if found is not None:
        verdict, reason, detail = found
        if not gate.enabled:
            verdict, reason, detail = Verdict.OK, Reason.DISABLED, " ".join([gate.reason, f"({detail})"]).strip()
        return Comparison(key=key, base=base, new=new, verdict=verdict, reason=reason, detail=detail)
    assert base is not None
    assert new is not None
    rules = CPU_RULES if key.device == "cpu" else GPU_RULES
    rounds = min(len(base.rounds), len(new.rounds))
    old_s, new_s = (screen_value(_by_turns(row.rounds)[:rounds], row.key.threads) for row in (base, new))
    if min(old_s, new_s) <= 0:
        return Comparison(key=key, base=base, new=new, verdict=Verdict.INCONCLUSIVE, reason=Reason.CLOCK,
                          detail="a time of 0")  # fmt: skip
    noise = rules.noise_factor * spread(base.rounds, base.key.threads)
    needed = max(gate.min_effect or rules.min_effect, noise)
    if not gate.enabled:
        verdict, reason, detail = Verdict.OK, Reason.DISABLED, gate.reason
    elif base.resolved != new.resolved:
        verdict, reason, detail = Verdict.ALGORITHM_CHANGED, Reason.RESOLVED, f"{base.resolved} → {new.resolved}"
    elif moved:
        verdict, reason, detail = Verdict.INCONCLUSIVE, Reason.CLOCK, f"another state of the machine: canary {moved}"
    elif noise > rules.too_noisy:
        verdict, reason, detail = Verdict.INCONCLUSIVE, Reason.TOO_NOISY, ""
    else:
        (verdict, reason), detail = _by_time(old_s, new_s, needed, rules), ""
    return Comparison(
        key=key, base=base, new=new, verdict=verdict, reason=reason, detail=detail, ratio=new_s / old_s,
        interval=_ratio_interval(base, new), threshold=needed,
    )  # fmt: skip


def _by_turns(rounds: Sequence[Round]) -> list[Round]:
    """The first round of each process, then the second: any of the first so many are of as many processes as can be."""
    seen: Counter[int] = Counter()
    places = []
    for measured in rounds:
        places.append(seen[measured.process])
        seen[measured.process] += 1
    return [measured for _, measured in sorted(zip(places, rounds, strict=True), key=lambda pair: pair[0])]


def _by_status(base: Row | None, new: Row | None) -> tuple[Verdict, Reason, str] | None:
    """Verdict, reason and detail of a row that has no time in one of the runs; None where both have one."""
    if new is None:
        return Verdict.MISSING, Reason.NOT_MEASURED, "not in the new run"
    if new.status in BROKEN:
        return Verdict.FAILED, Reason.STATUS, f"{new.status}: {new.reason}"
    was = base is not None and base.time_s is not None
    if new.time_s is None:
        detail = f"{new.status}: {new.reason}"
        return (Verdict.MISSING if was else Verdict.UNTIMED), Reason.STATUS, detail
    return None if was else (Verdict.NEW, Reason.NOT_MEASURED, "without a time in the baseline")


def _by_time(old_s: float, new_s: float, needed: float, rules: Rules) -> tuple[Verdict, Reason]:
    """Verdict and reason of two times."""
    slower = new_s > old_s * (1 + needed)
    if not slower and old_s <= new_s * (1 + needed):
        return Verdict.OK, Reason.WITHIN_NOISE
    if abs(new_s - old_s) <= rules.floor_s:
        return Verdict.OK, Reason.BELOW_FLOOR
    return (Verdict.SUSPECT, Reason.SLOWER) if slower else (Verdict.IMPROVED, Reason.FASTER)


def screen_value(rounds: Sequence[Round], threads: int) -> float:
    """The least of the rounds' first quartiles, seconds per launch: what disturbances move least.

    Of processor time where one thread runs, else of wall time. It falls with the number of rounds: compare only
    values of equally many.
    """
    return min(_quartiles(rounds, threads))


def spread(rounds: Sequence[Round], threads: int) -> float:
    """How far the median of the rounds lies above the best of them, relative to that."""
    values = _quartiles(rounds, threads)
    return median(values) / min(values) - 1


def _quartiles(rounds: Sequence[Round], threads: int) -> list[float]:
    values = []
    for measured in rounds:
        wall, cpu, _ = measured.columns
        times = cpu if threads == 1 and None not in cpu else wall
        clean = [seconds for index, seconds in enumerate(times) if index not in measured.flagged]
        values.append(first_quartile(clean or times) / measured.launches)  # type: ignore[arg-type]
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two algorithms on one case of the same run, whose rounds were interleaved.

    Attributes:
        ratio: time of `second` over that of `first`.
        interval: where the ratio lies if each time lies in its 95 % interval; None where one has none.
    """

    first: Row
    second: Row
    ratio: float
    interval: tuple[float, float] | None


def pairs(run: Run, first: str, second: str) -> list[Pair]:
    """The rows of two algorithms, each by `RowKey.name`, that have a time for the same question.

    Raises:
        InputError: the run has no row of such a name, or no question that both have a time for.
    """
    known = dict.fromkeys(row.key.name for row in run.rows)
    for name in (first, second):
        if name not in known:
            raise unknown_name("algorithm", name, [*known], where=" in the run")
    timed = {}
    for row in run.rows:
        if row.time_s is not None:
            timed[row.key.name, row.key.case, row.key.cache] = row
    found = [
        _pair(row, timed[second, case, cache])
        for (name, case, cache), row in timed.items()
        if name == first and (second, case, cache) in timed
    ]
    if not found:
        raise InputError(f"{first} and {second} have no case in common with a time of both")
    return found


def _pair(first: Row, second: Row) -> Pair:
    assert first.time_s is not None
    assert second.time_s is not None
    return Pair(first=first, second=second, ratio=second.time_s / first.time_s, interval=_ratio_interval(first, second))


def _ratio_interval(first: Row, second: Row) -> tuple[float, float] | None:
    """Where the second's time over the first's lies if each time lies in its 95 % interval."""
    one, two = first.interval_s, second.interval_s
    return (two[0] / one[1], two[1] / one[0]) if one and two and one[0] > 0 else None
