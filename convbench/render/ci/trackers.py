"""The new times for services that keep a history of them; both get nanoseconds.

A row without a time is left out, and so is one that failed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from convbench.render.comparison import outcome_text
from convbench.units import format_time

if TYPE_CHECKING:
    from convbench.compare import Comparison
    from convbench.render.ci.facts import Facts


def github_action_benchmark(facts: Facts) -> str:
    """The array of `customSmallerIsBetter` of https://github.com/benchmark-action/github-action-benchmark.

    `range` is the time's 95 % interval; without one it is left out, as it may be there.
    """
    found: list[dict[str, Any]] = []
    for name, row, new_s in facts.timed():
        entry: dict[str, Any] = {"name": name, "unit": "ns", "value": _ns(new_s)}
        if bounds := _interval_s(row):
            entry["range"] = " to ".join(format_time(bound, 5) for bound in bounds)
        found.append(entry | {"extra": f"{row.verdict}: {outcome_text(row)}\nthreads: {row.key.threads}"})
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def bencher(facts: Facts) -> str:
    """Bencher Metric Format: https://bencher.dev/docs/reference/bencher-metric-format/.

    `latency` is a measure that every project has, in nanoseconds; its bounds, the time's 95 % interval, may be absent.
    """
    found = {}
    for name, row, new_s in facts.timed():
        latency = {"value": _ns(new_s)}
        if bounds := _interval_s(row):
            latency |= {"lower_value": _ns(bounds[0]), "upper_value": _ns(bounds[1])}
        found[name] = {"latency": latency}
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def _interval_s(row: Comparison) -> tuple[float, float] | None:
    """The interval of the new time; None where that is of fresh pairs, whose interval is the ratio's."""
    return row.new.interval_s if row.new and not row.launched_s else None


def _ns(seconds: float) -> float:
    return round(seconds * 1e9, 3)
