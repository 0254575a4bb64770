"""The regression check: a baseline's rows measured again, and confirmed by fresh pairs of processes.

Rules: docs/method.md, "Comparison". This module decides; `convbench check` measures and prints.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from convbench.compare import CPU_RULES, GPU_RULES, Compared, Comparison, Reason, Verdict
from convbench.confirm import confirm
from convbench.errors import InputError
from convbench.result import WARM
from convbench.stats import median

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.result import Run
    from convbench.suite import Gate

LEAST_ROUNDS, LEAST_PROCESSES = 5, 3
"""Of each row of a baseline: a process has a bias of its own, which a baseline of one would keep."""
GRAVE = {Verdict.FAILED, Verdict.MISSING}


def check_baseline(run: Run, where: str) -> None:
    """Refuses a run that cannot serve as a baseline.

    Raises:
        InputError: no row has a time, or one was measured in too few rounds or processes.
    """
    timed = [row for row in run.rows if row.time_s is not None]
    if not timed:
        raise InputError(f"{where} is no baseline: no row of it has a time")
    for row in timed:
        processes = len({measured.process for measured in row.rounds})
        if len(row.rounds) < LEAST_ROUNDS or processes < LEAST_PROCESSES:
            raise InputError(
                f"{where} is no baseline: {row.key.label()} has {len(row.rounds)} rounds from {processes} processes, "
                f"{LEAST_ROUNDS} from {LEAST_PROCESSES} are needed: measure it with `convbench run --processes 3`"
            )


def to_confirm(compared: Compared) -> list[Comparison]:
    """The warm rows with a time in both: all of them are confirmed, not suspects alone; cold ones stay as they are."""
    return [row for row in compared.rows if row.ratio is not None and row.key.cache == WARM]


def confirmed(
    compared: Compared, launches: Mapping[int, Sequence[float]], null: Sequence[float], failed: Mapping[int, str],
    gates: Mapping[str, Gate],
) -> Compared:  # fmt: skip
    """The comparison with what fresh pairs of processes say of its rows.

    Args:
        compared: of stored runs.
        launches: log(new / old) of each launch, by place in `to_confirm`.
        null: of the null control.
        failed: why a row could not be measured on a side, by place.
        gates: how problems are treated, by name.
    """
    rows = to_confirm(compared)
    places = [place for place in range(len(rows)) if place not in failed]
    found = confirm(
        [launches.get(place, ()) for place in places], null, [_least(rows[place], gates) for place in places]
    )
    decided: dict[int, Comparison] = {
        place: _decided(rows[place], *verdict, launches.get(place, ()), gates)
        for place, verdict in zip(places, found, strict=True)
    }
    for place, reason in failed.items():
        decided[place] = replace(rows[place], verdict=Verdict.FAILED, reason=Reason.STATUS, detail=reason)
    by_key = {rows[place].key: row for place, row in decided.items()}
    merged = tuple(by_key.get(row.key, row) for row in compared.rows)
    return replace(compared, rows=merged, launches=max(map(len, launches.values()), default=0))


def _least(row: Comparison, gates: Mapping[str, Gate]) -> float:
    gate = gates.get(row.key.case.name)
    rules = CPU_RULES if row.key.device == "cpu" else GPU_RULES
    return gate.min_effect if gate is not None and gate.min_effect else rules.min_effect


def _decided(
    row: Comparison, verdict: Verdict, reason: Reason, launches: Sequence[float], gates: Mapping[str, Gate]
) -> Comparison:
    if row.reason is Reason.DISABLED or not launches:
        return row
    ratio = math.exp(median(launches))
    detail = f"{sum(value > 0 for value in launches)} of {len(launches)} launches slower"
    if row.verdict is Verdict.ALGORITHM_CHANGED:
        detail = f"{row.detail}; {detail}"
    return replace(
        row, verdict=verdict, reason=reason, detail=detail, ratio=ratio, threshold=_least(row, gates) / 2
    )  # fmt: skip


def exit_code(compared: Compared, *, fail_on_inconclusive: bool = False) -> int:
    """6 where a row failed or is missing, 3 for a regression, 5 for an inconclusive one where asked for; else 0."""
    verdicts = compared.verdicts
    if any(verdicts[verdict] for verdict in GRAVE):
        return 6
    if verdicts[Verdict.REGRESSION]:
        return 3
    return 5 if fail_on_inconclusive and verdicts[Verdict.INCONCLUSIVE] else 0
