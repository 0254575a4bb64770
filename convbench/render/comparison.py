"""Two or more runs as tables: a verdict per row, whole networks, and what changed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from convbench.compare import CPU_RULES, Reason, Verdict
from convbench.render import Column, Table
from convbench.units import counted, format_time, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.compare import Compared, Comparison, Pair
    from convbench.reproduce import Recipe

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
        "ratio: new / old, the median over launches of fresh pairs of processes; base, new: their median times",
    ),
    (("threshold",), "needed: half of the least effect, of the median; and its 99 % lower bound must be above 0"),
)
CANARY_MOVED = "a canary moved by more than 5 %: the machine was in another state, and no row is judged by its time"
GRAVE = frozenset({Verdict.FAILED, Verdict.MISSING, Verdict.REGRESSION, Verdict.SUSPECT})
WORST = 3
"""Rows that the notes tell of."""
GRAVITY = {verdict: place for place, verdict in enumerate(Verdict)}


def gravity(row: Comparison) -> tuple[int, float]:
    """What sorts rows: the gravest verdict first, and of one verdict the largest ratio, after rows without one."""
    return GRAVITY[row.verdict], -math.inf if row.ratio is None else -row.ratio


def ratio_text(value: float) -> str:
    """A ratio, to a tenth of a percent."""
    return f"{value:.3f}"


def interval_text(interval: tuple[float, float] | None) -> str:
    """Where a ratio lies, to follow it; empty where that is not known."""
    return f" ({_interval(interval)})" if interval else ""


def _interval(interval: tuple[float, float]) -> str:
    return f"{ratio_text(interval[0])} to {ratio_text(interval[1])}"


def counts_text(compared: Compared) -> str:
    """How many rows have each verdict."""
    counts = compared.verdicts
    listed = ", ".join(f"{counts[v]} {v.replace('_', ' ')}" for v in Verdict if counts[v])
    return f"{listed} of {counted(len(compared.rows), 'row')}"


def outcome_text(row: Comparison) -> str:
    """What happened to a row, on one line and without its name: times, ratio with its interval, and why."""
    parts = []
    if row.base_s is not None and row.new_s is not None:
        parts.append(f"{format_time(row.base_s)} → {format_time(row.new_s)}")
    if row.ratio is not None:
        parts.append(f"ratio {ratio_text(row.ratio)}{interval_text(row.interval)}")
    return ", ".join([*parts, _why(row)])


def to_reproduce(compared: Compared) -> Comparison | None:
    """The worst regression; without one the worst suspect, else a row that failed, else None."""
    rows = sorted(compared.rows, key=gravity)
    for verdict in (Verdict.REGRESSION, Verdict.SUSPECT, Verdict.FAILED):
        for row in rows:
            if row.verdict is verdict:
                return row
    return None


def _why(row: Comparison) -> str:
    return row.detail or row.reason.replace("_", " ")


def _percent(fraction: float) -> str:
    return f"{significant(100 * fraction, 2)}%"


def _needed(fraction: float) -> str:
    return _percent(fraction) if fraction <= CPU_RULES.too_noisy else f">{_percent(CPU_RULES.too_noisy)}"


def comparison_facts(row: Comparison) -> dict[str, Any]:
    """One row as plain values, in SI units."""
    key, case = row.key, row.key.case
    return {
        "suite": case.suite, "problem": case.name, "pass": case.conv_pass, "dtype": case.precision,
        "layout": case.layout_name, "epilogue": case.epilogue, "cache": key.cache, "backend": key.backend,
        "algorithm": key.algorithm, "device": key.device, "name": key.name, "threads": key.threads,
        "base_s": row.base_s, "new_s": row.new_s, "ratio": row.ratio,
        "ratio_low": row.interval and row.interval[0], "ratio_high": row.interval and row.interval[1],
        "threshold": row.threshold, "verdict": row.verdict, "reason": row.reason,
        "detail": row.detail or None, "why": _why(row),
    }  # fmt: skip


def _key_columns(facts: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns that say which row it is; those that say the same of all are hidden, or the first to give way."""

    def same(key: str) -> bool:
        return len({fact[key] for fact in facts}) == 1

    return [
        Column(key="suite", header="suite", hidden=same("suite"), spare=2), Column(key="problem", header="problem"),
        Column(key="pass", header="pass", spare=5 if same("pass") else 0),
        *(Column(key=key, header=key, hidden=same(key)) for key in ("dtype", "layout", "epilogue", "cache")),
        Column(key="name", header="algorithm", text_only=True, spare=5 if same("name") else 0),
    ]  # fmt: skip


def comparison_table(compared: Compared, title: str = "", recipe: Recipe | None = None) -> Table:
    """A line per row, in the order of the baseline, with a verdict and why.

    A terminal that is too narrow for all keeps ratio and verdict. With `recipe` the notes end with the command that
    measures the worst row again.
    """
    facts = [comparison_facts(row) for row in compared.rows]
    columns = [
        *_key_columns(facts),
        Column(key="base_s", header="base", show=format_time, right=True, spare=1),
        Column(key="new_s", header="new", show=format_time, right=True, spare=1),
        Column(key="ratio", header="ratio", show=ratio_text, right=True),
        Column(key="threshold", header="needed", show=_needed, right=True, spare=4),
        Column(key="verdict", header="verdict"), Column(key="why", header="why", cut=True, text_only=True, spare=3),
        *(Column(key=key, header=key, hidden=True)
          for key in ("ratio_low", "ratio_high", "backend", "algorithm", "device", "threads", "reason", "detail")),
    ]  # fmt: skip
    return Table(
        key="comparison", title=title, columns=columns, rows=facts, notes=comparison_notes(compared, recipe),
        legend=() if compared.factor is None else LAUNCHED if compared.launches else STORED,
        alarming=[i for i, row in enumerate(compared.rows) if row.verdict in GRAVE],
    )  # fmt: skip


def comparison_notes(compared: Compared, recipe: Recipe | None = None) -> list[str]:
    """How many rows of each verdict, the worst, the factor of all, what changed, and how to measure the worst again."""
    grave = sorted((row for row in compared.rows if row.verdict in GRAVE), key=gravity)
    notes = [counts_text(compared)]
    notes += [f"{row.verdict}: {row.key.label()} {outcome_text(row)}" for row in grave[:WORST]]
    notes += machine_notes(compared)
    worst = to_reproduce(compared)
    if recipe and worst:
        notes.append(f"reproduce: {recipe.command(worst.key)}")
    return notes


def machine_notes(compared: Compared) -> list[str]:
    """What is the same for all rows: their factor, the machine's own change, and what changed in the environment."""
    notes = []
    if compared.factor is not None:
        notes.append(f"all rows together: × {ratio_text(compared.factor)} (geometric mean)")
    for name, ratio in compared.canaries.items():
        notes.append(f"canary {name}: × {ratio_text(ratio)}: fixed work, so the machine's own change")
    if any(row.reason is Reason.CLOCK for row in compared.rows):
        notes.append(CANARY_MOVED)
    return notes + [f"changed: {name}: {old} → {new}" for name, old, new in compared.changed]


def series_table(baseline: str, runs: Sequence[tuple[str, Compared]]) -> Table:
    """Several runs beside one baseline: a line per row, a ratio per run, and the gravest of the row's verdicts.

    A row that only some runs have comes last. `runs`: name and comparison, in the order of the columns, whose headers
    are "run 1", "run 2", …: names of files are too long for them.
    """
    keys = dict.fromkeys(row.key for _, compared in runs for row in compared.rows)
    by_key = [{row.key: row for row in compared.rows} for _, compared in runs]
    facts = []
    for key in keys:
        rows = [rows.get(key) for rows in by_key]
        found = [row for row in rows if row]
        fact = comparison_facts(min(found, key=gravity))
        fact["base_s"] = next((row.base_s for row in found if row.base_s is not None), None)
        for number, row in enumerate(rows, start=1):
            fact |= {f"ratio_{number}": row and row.ratio, f"verdict_{number}": row and row.verdict}
        facts.append(fact)
    numbers = range(1, len(runs) + 1)
    columns = [
        *_key_columns(facts),
        Column(key="base_s", header="base", show=format_time, right=True, spare=3),
        *(Column(key=f"ratio_{n}", header=f"run {n}", show=ratio_text, right=True) for n in numbers),
        Column(key="verdict", header="gravest", spare=1),
        *(Column(key=key, header=key, hidden=True)
          for key in (*(f"verdict_{n}" for n in numbers), "backend", "algorithm", "device", "threads")),
    ]  # fmt: skip
    notes = []
    for number, (name, compared) in enumerate(runs, start=1):
        factor = "no ratio" if compared.factor is None else f"× {ratio_text(compared.factor)} (geometric mean)"
        notes.append(f"run {number}: {name}: {factor}; {counts_text(compared)}")
    return Table(
        key="series", title=f"{len(runs)} runs beside {baseline}", columns=columns, rows=facts, notes=notes,
        legend=[(("ratio_1",), "run 1, run 2, …: ratio of the run's time to the baseline's")],
        alarming=[i for i, fact in enumerate(facts) if fact["verdict"] in GRAVE],
    )  # fmt: skip


def means_table(compared: Compared) -> Table | None:
    """The geometric mean of the ratios of each network, pass and algorithm; None where no row has one."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in compared.rows:
        if row.ratio:
            key = (row.key.case.suite, row.key.case.conv_pass, row.key.name)
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
        Column(key="ratio", header="geometric mean", show=ratio_text, right=True),
        Column(key="worst", header="largest", show=ratio_text, right=True),
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
    first, second = (k.name for k in key)
    columns = [
        Column(key="suite", header="suite", hidden=constant("suite")), Column(key="problem", header="problem"),
        Column(key="pass", header="pass"),
        *(Column(key=key, header=key, hidden=constant(key)) for key in ("dtype", "layout", "epilogue", "cache")),
        Column(key="first_s", header=first, show=format_time, right=True),
        Column(key="second_s", header=second, show=format_time, right=True),
        Column(key="ratio", header="ratio", show=ratio_text, right=True),
        Column(key="interval", header="interval", show=_interval, text_only=True),
        Column(key="ratio_low", header="low", hidden=True), Column(key="ratio_high", header="high", hidden=True),
    ]  # fmt: skip
    mean = math.exp(sum(math.log(pair.ratio) for pair in found) / len(found))
    notes = [f"ratio: {second} / {first}; below 1 the second is faster; geometric mean {ratio_text(mean)}",
             "interval: of the ratio, if both times lie in their 95 % intervals; with 1 in it they may be equal",
             ]  # fmt: skip
    return Table(key="pairs", title=title, columns=columns, rows=facts, notes=notes)
