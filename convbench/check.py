"""The regression check: what a baseline must hold, what fresh pairs of processes decide, and the exit code.

Pure functions; the measuring is that of `runner` and `pairs`. Rules: docs/method.md, "Confirmation".
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from convbench.compare import CPU_RULES, GPU_RULES, Compared, Comparison, Reason, Verdict
from convbench.confirm import NULL, confirm, ratio_interval
from convbench.errors import InputError
from convbench.result import BROKEN
from convbench.stats import median
from convbench.suite import Gate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.confirm import Launched
    from convbench.result import Row, RowKey, Status

LEAST_ROUNDS, LEAST_PROCESSES = 5, 3
"""Of each row of a baseline: a process has a bias of its own, which a baseline of one would keep."""
LOST = {Verdict.FAILED, Verdict.MISSING}
"""What ends with exit code 6."""


def check_baseline(rows: Sequence[Row], where: str) -> None:
    """Refuses rows that cannot serve as a baseline.

    Raises:
        InputError: no row has a time, or one was measured in too few rounds or processes.
    """
    timed = [row for row in rows if row.time_s is not None]
    if not timed:
        raise InputError(f"{where} is no baseline: no row of it has a time")
    for row in timed:
        processes = len({measured.process for measured in row.rounds})
        if len(row.rounds) < LEAST_ROUNDS or processes < LEAST_PROCESSES:
            raise InputError(
                f"{where} is no baseline: {row.key.label()} has {len(row.rounds)} rounds from {processes} processes, "
                f"{LEAST_ROUNDS} from {LEAST_PROCESSES} are needed: measure it with `convbench run --processes 3`"
            )


def unconfirmed(keys: Sequence[RowKey], gates: Mapping[str, Gate]) -> Compared:
    """Rows without stored runs: all is left to fresh pairs of processes."""

    def row(key: RowKey) -> Comparison:
        gate = gates.get(key.case.name, Gate())
        if not gate.enabled:
            verdict, reason = Verdict.OK, Reason.DISABLED
        else:
            verdict, reason = Verdict.INCONCLUSIVE, Reason.NOT_MEASURED
        return Comparison(key=key, base=None, new=None, verdict=verdict, reason=reason, detail=gate.reason)

    return Compared(rows=tuple(map(row, keys)), canaries={}, changed=())


def to_confirm(compared: Compared) -> list[RowKey]:
    """The rows that both versions may have a time for: all of them are confirmed, not suspects alone."""
    return [
        row.key
        for row in compared.rows
        if row.reason is not Reason.DISABLED and (row.ratio is not None or (row.base is None and row.new is None))
    ]


def confirmed(
    compared: Compared, keys: Sequence[RowKey], found: Sequence[Launched], gates: Mapping[str, Gate]
) -> Compared:
    """The comparison with what fresh pairs of processes say of its rows.

    Args:
        compared: of stored runs, or `unconfirmed`.
        keys: of the rows that were launched.
        found: the launches, by place in `keys`.
        gates: how problems are treated, by name.
    """
    lost = {launch.row: launch.lost for launch in found if launch.lost}
    by_place: dict[int, list[Launched]] = {place: [] for place in (NULL, *range(len(keys))) if place not in lost}
    for launch in found:
        if launch.row in by_place:
            by_place[launch.row].append(launch)
    null = [_log_ratio(launch) for launch in by_place.pop(NULL)]
    logs = [[_log_ratio(launch) for launch in of] for of in by_place.values()]
    least = [_least(keys[place], gates) for place in by_place]
    verdicts = confirm(logs, null, least)
    by_key = {row.key: row for row in compared.rows}
    for place, effect, verdict in zip(by_place, least, verdicts, strict=True):
        by_key[keys[place]] = _decided(by_key[keys[place]], *verdict, by_place[place], effect)
    for place, sides in lost.items():
        by_key[keys[place]] = _lost(by_key[keys[place]], sides)
    return replace(compared, rows=tuple(by_key.values()))


def _log_ratio(launch: Launched) -> float:
    assert launch.log_ratio is not None
    return launch.log_ratio


def _least(key: RowKey, gates: Mapping[str, Gate]) -> float:
    rules = CPU_RULES if key.device == "cpu" else GPU_RULES
    return gates.get(key.case.name, Gate()).min_effect or rules.min_effect


def _decided(
    row: Comparison, verdict: Verdict, reason: Reason, launches: Sequence[Launched], least: float
) -> Comparison:
    if not launches:
        return row
    logs = [_log_ratio(launch) for launch in launches]
    detail = f"{sum(value > 0 for value in logs)} of {len(logs)} launches slower"
    if verdict is Verdict.INCONCLUSIVE:
        detail = f"{reason.replace('_', ' ')}: {detail}"
    if row.verdict is Verdict.ALGORITHM_CHANGED:
        detail = f"{row.detail}; {detail}"
    old_s, new_s = (median([launch.seconds[side] for launch in launches]) for side in (0, 1))
    return replace(
        row, verdict=verdict, reason=reason, detail=detail, ratio=math.exp(median(logs)),
        interval=ratio_interval(logs), threshold=least / 2, launches=tuple(map(math.exp, logs)),
        launched_s=(old_s, new_s),
    )  # fmt: skip


def _lost(row: Comparison, sides: Mapping[str, tuple[Status, str]]) -> Comparison:
    """A row that a side could not measure: what the new one lacks is missing, what only the old one lacks is new.

    Where the old one breaks there is nothing to compare with.
    """
    detail = "; ".join(f"{side}: {status}: {reason}" for side, (status, reason) in sides.items())
    new = sides.get("new")
    if new and new[0] in BROKEN:
        verdict = Verdict.FAILED
    elif new:
        verdict = Verdict.UNTIMED if "old" in sides else Verdict.MISSING
    else:
        verdict = Verdict.INCONCLUSIVE if sides["old"][0] in BROKEN else Verdict.NEW
    return replace(row, verdict=verdict, reason=Reason.STATUS, detail=detail, ratio=None, interval=None, threshold=None)


def measured_twice(first: Compared, second: Compared) -> Compared:
    """The first comparison, whose suspects are regressions where the second, of fresh processes, suspects them too.

    For machines that nothing else uses: elsewhere two measurements share what disturbs them.
    """
    again = {row.key: row for row in second.rows}

    def decided(row: Comparison) -> Comparison:
        if row.verdict is not Verdict.SUSPECT or row.key not in again:
            return row
        repeated = again[row.key]
        measured = f"ratio {repeated.ratio:.3f} when measured again" if repeated.ratio else repeated.detail
        if repeated.verdict is Verdict.SUSPECT:
            return replace(row, verdict=Verdict.REGRESSION, detail=measured)
        if repeated.verdict is Verdict.INCONCLUSIVE:
            return replace(row, detail=f"{measured}, which says nothing: {repeated.detail or repeated.reason}")
        return replace(repeated, detail=measured)

    return replace(first, rows=tuple(map(decided, first.rows)))


def exit_code(compared: Compared, *, fail_on_inconclusive: bool = False) -> int:
    """6 where a row failed or is missing, or none has a ratio; else 3 for a regression, 5 for an inconclusive row."""
    verdicts = compared.verdicts
    if any(verdicts[verdict] for verdict in LOST) or all(row.ratio is None for row in compared.rows):
        return 6
    if verdicts[Verdict.REGRESSION]:
        return 3
    return 5 if fail_on_inconclusive and verdicts[Verdict.INCONCLUSIVE] else 0
