"""Two runs as tables: a verdict per row, whole networks, and what changed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from convbench.compare import CPU_RULES, Reason, Verdict
from convbench.render import Column, Table
from convbench.units import format_time, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.compare import Compared, Comparison, Pair

STORED = (
    (
        ("ratio",),
        "ratio: new / base of the rounds' best first quartile, which disturbances move least; not of the medians",
    ),
    (("threshold",), "needed: the change that counts, from the least effect and the baseline's own spread"),
)
LAUNCHED = (
    (
        ("ratio",),
        "ratio: new / old, the median over launches of fresh pairs of processes; base, new: of the stored runs",
    ),
    (("threshold",), "needed: half of the least effect, which the median and a 99 % lower bound of it must show"),
)
GRAVE = (Verdict.FAILED, Verdict.MISSING, Verdict.REGRESSION, Verdict.SUSPECT)
WORST = 3


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _percent(fraction: float) -> str:
    return f"{significant(100 * fraction, 2)}%"


def _needed(fraction: float) -> str:
    return _percent(fraction) if fraction <= CPU_RULES.too_noisy else f">{_percent(CPU_RULES.too_noisy)}"


def comparison_facts(row: Comparison) -> dict[str, Any]:
    """One row as plain values, in SI units."""
    key, case = row.key, row.key.case
    base, new = row.base, row.new
    return {
        "suite": case.suite, "problem": case.name, "pass": case.conv_pass, "dtype": case.precision,
        "layout": case.layout_name, "epilogue": case.epilogue, "cache": key.cache, "backend": key.backend,
        "algorithm": key.algorithm, "name": f"{key.backend}:{key.algorithm}", "threads": key.threads,
        "base_s": base.time_s if base else None, "new_s": new.time_s if new else None,
        "ratio": row.ratio, "threshold": row.threshold, "verdict": row.verdict, "reason": row.reason,
        "detail": row.detail or None, "why": row.detail or row.reason.replace("_", " "),
    }  # fmt: skip


def comparison_table(compared: Compared, title: str = "") -> Table:
    """A line per row, in the order of the baseline, with a verdict and why."""
    facts = [comparison_facts(row) for row in compared.rows]

    def constant(key: str) -> bool:
        return len({fact[key] for fact in facts}) == 1

    columns = [
        Column(key="suite", header="suite", hidden=constant("suite"), spare=4), Column(key="problem", header="problem"),
        Column(key="pass", header="pass"),
        *(Column(key=key, header=key, hidden=constant(key)) for key in ("dtype", "layout", "epilogue", "cache")),
        Column(key="name", header="algorithm", text_only=True),
        Column(key="base_s", header="base", show=format_time, right=True),
        Column(key="new_s", header="new", show=format_time, right=True),
        Column(key="ratio", header="ratio", show=_ratio, right=True),
        Column(key="threshold", header="needed", show=_needed, right=True, spare=2),
        Column(key="verdict", header="verdict"), Column(key="why", header="why", cut=True, text_only=True),
        *(Column(key=key, header=key, hidden=True) for key in ("backend", "algorithm", "threads", "reason", "detail")),
    ]  # fmt: skip
    return Table(
        key="comparison", title=title, columns=columns, rows=facts, notes=comparison_notes(compared),
        legend=LAUNCHED if compared.launches else STORED,
        best=[i for i, row in enumerate(compared.rows) if row.verdict in GRAVE],
    )  # fmt: skip


def comparison_notes(compared: Compared) -> list[str]:
    """How many rows of each verdict, the worst, the factor of all, and what changed."""
    counts = compared.verdicts
    notes = [
        ", ".join(f"{counts[v]} {v.replace('_', ' ')}" for v in Verdict if counts[v]) + f" of {len(compared.rows)} rows"
    ]
    slowest = sorted((r for r in compared.rows if r.verdict in GRAVE and r.ratio), key=lambda r: -(r.ratio or 0))[
        :WORST
    ]
    notes += [
        f"{row.verdict}: {row.key.label()} {format_time(row.base.time_s)} → {format_time(row.new.time_s)}, "
        f"ratio {_ratio(row.ratio)}"
        for row in slowest
        if row.base and row.new and row.base.time_s and row.new.time_s and row.ratio
    ]
    if compared.factor is not None:
        notes.append(f"all rows together: × {_ratio(compared.factor)} (geometric mean)")
    for name, ratio in compared.canaries.items():
        notes.append(f"canary {name}: × {_ratio(ratio)}: fixed work, so the machine's own change")
    if any(row.reason is Reason.CLOCK for row in compared.rows):
        notes.append(
            "a canary moved by more than 5 %: the machine was in another state, and no row is judged by its time"
        )
    notes += [f"changed: {name}: {old} → {new}" for name, old, new in compared.changed]
    return notes


def means_table(compared: Compared) -> Table | None:
    """The geometric mean of the ratios of each network, pass and algorithm; None where no row has one."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in compared.rows:
        if row.ratio:
            key = (row.key.case.suite, row.key.case.conv_pass, f"{row.key.backend}:{row.key.algorithm}")
            groups.setdefault(key, []).append(row.ratio)
    if not groups:
        return None
    facts = [
        {"suite": suite, "pass": conv_pass, "algorithm": name, "rows": len(ratios),
         "ratio": math.exp(sum(map(math.log, ratios)) / len(ratios)), "worst": max(ratios)}
        for (suite, conv_pass, name), ratios in groups.items()
    ]  # fmt: skip
    columns = [
        Column(key="suite", header="network"), Column(key="pass", header="pass"),
        Column(key="algorithm", header="algorithm"), Column(key="rows", header="rows", right=True),
        Column(key="ratio", header="geometric mean", show=_ratio, right=True),
        Column(key="worst", header="largest", show=_ratio, right=True),
    ]  # fmt: skip
    return Table(key="means", title="Ratios by network and pass", columns=columns, rows=facts)


def pairs_table(found: Sequence[Pair], title: str) -> Table:
    """A line per case: the times of two algorithms of one run, and their ratio."""
    facts = [
        {"suite": case.suite, "problem": case.name, "pass": case.conv_pass, "dtype": case.precision,
         "layout": case.layout_name, "epilogue": case.epilogue, "cache": pair.first.key.cache,
         "first_s": pair.first.time_s, "second_s": pair.second.time_s, "ratio": pair.ratio,
         "ratio_low": pair.interval[0] if pair.interval else None,
         "ratio_high": pair.interval[1] if pair.interval else None, "interval": pair.interval}
        for pair in found
        for case in [pair.first.key.case]
    ]  # fmt: skip

    def constant(key: str) -> bool:
        return len({fact[key] for fact in facts}) == 1

    key = found[0].first.key, found[0].second.key
    first, second = (f"{k.backend}:{k.algorithm}" for k in key)
    columns = [
        Column(key="suite", header="suite", hidden=constant("suite")), Column(key="problem", header="problem"),
        Column(key="pass", header="pass"),
        *(Column(key=key, header=key, hidden=constant(key)) for key in ("dtype", "layout", "epilogue", "cache")),
        Column(key="first_s", header=first, show=format_time, right=True),
        Column(key="second_s", header=second, show=format_time, right=True),
        Column(key="ratio", header="ratio", show=_ratio, right=True),
        Column(key="interval", header="interval", show=lambda v: f"{_ratio(v[0])} to {_ratio(v[1])}", text_only=True),
        Column(key="ratio_low", header="low", hidden=True), Column(key="ratio_high", header="high", hidden=True),
    ]  # fmt: skip
    mean = math.exp(sum(math.log(pair.ratio) for pair in found) / len(found))
    notes = [f"ratio: {second} / {first}; below 1 the second is faster; geometric mean {_ratio(mean)}",
             "interval: of the ratio, if both times lie in their 95 % intervals; with 1 in it they may be equal",
             ]  # fmt: skip
    return Table(key="pairs", title=title, columns=columns, rows=facts, notes=notes)
