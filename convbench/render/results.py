"""A run as tables: its rows, and the totals of its networks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convbench.baseline import notes as baseline_notes
from convbench.problem import ConvPass, Epilogue
from convbench.render import Column, Table, bounds
from convbench.result import COLD, WARM, Remark, Row, Run, Status
from convbench.stats import moved, thirds
from convbench.units import format_time, significant
from convbench.work import exact_flops, nominal_flops, nominal_macs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.placement import Placed
    from convbench.result import RowKey

LEGEND = (
    (("shown_time", "interval"), "time: median over rounds; interval: where its 95 % interval begins and ends"),
    (
        ("disturbed",),
        "disturbed: samples that a witness spoke against, left out of the median where a round has others",
    ),
    (("rms_error",), "error: RMS, against float64"),
    (("effective_flop_per_s",), "eff.: Gflop/s of 2·multiply-adds of the definition; may exceed the peak"),
    (("executed_flop_per_s",), "exec.: Gflop/s of the flops executed"),
    (("arithmetic_intensity",), "flop/B: flops executed per byte moved"),
    (("cold_ratio",), "cold/warm: time with swept caches, over that with warm ones"),
    *bounds.LEGEND,
)
METERS = ("power_w", "temperature_c", "sm_clock_hz", "memory_clock_hz")
"""Medians of a row that are shown of what a device's meters read."""
MOST_REASONS = 20
MARKS = {
    Remark.FEW_ROUNDS: ("?", "fewer than 6 rounds, too few for an interval"),
    Remark.DISTURBED: ("!", "no undisturbed sample in half of the rounds or more: try again on a quieter machine"),
    Remark.DRIFT: ("~", "drift: the time went up or down during the run, by more than its interval allows"),
}
"""What stands behind a time, and what it means."""


def _rate(flop_per_s: float) -> str:
    return significant(flop_per_s / 1e9)


def _percent(fraction: float) -> str:
    return f"{significant(100 * fraction, 2)}%"


def _interval(ends: Sequence[float]) -> str:
    """Both ends as distances from the median: "−2.0 +15%"."""
    low, high = (significant(100 * abs(end), 2) for end in ends)
    return f"±{low}%" if low == high else f"−{low} +{high}%"


def _samples(counts: tuple[int, int]) -> str:
    return "{}/{}".format(*counts)


def _error(value: float) -> str:
    return f"{value:.1e}"


def headline(run: Run) -> str:
    """What the run was measured on, in one line."""
    environment = run.header["environment"]
    devices: list[dict[str, Any]] = list(run.header["devices"].values())
    machine = devices[0]["machine"] if devices else {}
    blas = (environment.get("blas") or [{}])[0]
    gpus = Counter(name for of in devices if (name := of["machine"].get("gpu_name")))
    parts = [
        *(f"{count} × {name}" if count > 1 else name for name, count in gpus.items()),
        machine.get("cpu_model") or machine.get("arch"),
        f"{run.header['options'].get('threads')} of {machine['cpu_count']} CPUs" if machine.get("cpu_count") else None,
        f"NumPy {environment.get('libraries', {}).get('numpy')}",
        " ".join(str(blas[key]) for key in ("internal_api", "version", "architecture") if blas.get(key)),
        run.header.get("created", "")[:10],
    ]
    return " · ".join(str(part) for part in parts if part)


def row_facts(row: Row) -> dict[str, Any]:
    """One row as plain values, in SI units."""
    key, case = row.key, row.key.case
    problem = case.problem
    interval = row.interval_s
    disturbed, samples = row.samples
    verification = row.verification or {}
    return {
        "suite": case.suite, "problem": case.name, "shape": problem.describe(), "pass": case.conv_pass,
        "dtype": case.precision, "layout": case.layout_name, "epilogue": case.epilogue, "batch": problem.batch,
        "repeat": case.repeat, "backend": key.backend, "algorithm": key.algorithm, "resolved": row.resolved,
        "device": key.device, "cache": key.cache, "threads": key.threads, "accuracy": key.accuracy,
        "workspace_limit_bytes": key.workspace_limit_bytes,
        "status": row.status, "reason": row.reason or None,
        "time_s": row.time_s, "interval_low_s": interval[0] if interval else None,
        "interval_high_s": interval[1] if interval else None,
        "half_width": max(abs(end / row.time_s - 1) for end in interval) if interval and row.time_s else None,
        "rounds": len(row.rounds), "disturbed_rounds": row.disturbed_rounds, "stop_reason": row.stop_reason,
        "samples": samples, "disturbed_samples": disturbed,
        "remarks": " ".join(row.remarks) or None,
        "effective_flop_per_s": row.effective_flop_per_s, "executed_flop_per_s": row.executed_flop_per_s,
        "nominal_macs": nominal_macs(problem), "nominal_flops": nominal_flops(problem),
        "exact_flops": exact_flops(problem),
        "executed_flops": row.work.executed_flops if row.work else None,
        "traffic_bytes": row.work.traffic_bytes if row.work else None,
        "arithmetic_intensity": row.work.arithmetic_intensity if row.work else None,
        "rms_error": verification.get("rms_error"), "max_error": verification.get("max_error"),
        "bound_share": verification.get("bound_share"),
        "plan_s": row.plan_s, "build_s": row.build_s, "first_call_s": row.first_call_s, "row_floor_s": row.floor_s,
        "workspace_bytes": row.workspace_bytes, "notes": " ".join(row.notes) or None,
        "energy_j": row.energy_j,
        "effective_flop_per_j": nominal_flops(problem) / row.energy_j if row.energy_j else None,
        **{name: row.meter(name) for name in METERS},
    }  # fmt: skip


def fastest(rows: Sequence[Row]) -> dict[Any, Row]:
    """The fastest row of each case, warm and cold apart."""
    best: dict[Any, Row] = {}
    for row in rows:
        question = _question(row)
        if row.time_s is not None and (question not in best or row.time_s < (best[question].time_s or 0)):
            best[question] = row
    return best


def _question(row: Row) -> tuple[Any, str]:
    """What rows are compared in."""
    return row.key.case, row.key.cache


def rows_table(run: Run) -> Table:
    """Every row: time, bound, rates, intensity, error, and how many times the fastest of its case it took."""
    best = fastest(run.rows)
    placed, notes = bounds.bounds_of(run)
    warm = {row.key: row.time_s for row in run.rows if row.key.cache == WARM}
    facts = []
    for row in run.rows:
        fact = row_facts(row) | bounds.bound_facts(placed.get(row.key)) | bounds.bound_texts(placed.get(row.key))
        quickest = best[_question(row)].time_s if _question(row) in best else None
        warm_s = warm.get(replace(row.key, cache=WARM)) if row.key.cache == COLD else None
        fact["cold_ratio"] = row.time_s / warm_s if row.time_s and warm_s else None
        fact["times_fastest"] = row.time_s / quickest if row.time_s and quickest else None
        ends = [fact["interval_low_s"], fact["interval_high_s"]]
        fact["interval"] = [end / row.time_s - 1 for end in ends] if row.interval_s and row.time_s else None
        fact["disturbed"] = row.samples if row.rounds else None
        fact["name"] = row.key.name
        if row.resolved and row.resolved != row.key.algorithm:
            fact["name"] += f" ({row.resolved})"
        fact["family"] = row.key.case.layout
        marks = "".join(MARKS[remark][0] for remark in row.remarks)
        fact["shown_time"] = row.status if row.time_s is None else format_time(row.time_s) + marks
        if row.time_s is not None and row.status is Status.PARTIAL:
            fact["shown_time"] += " (partial)"
        facts.append(fact)

    usual = {"suite": None, "dtype": "fp32", "family": "nchw", "epilogue": "none", "cache": WARM}
    shown = {
        key
        for key, value in usual.items()
        if len(found := {f[key] for f in facts}) > 1 or (key != "suite" and found - {value})
    }
    cold = any(row.key.cache == COLD for row in run.rows)
    columns = [
        Column(key="suite", header="suite", hidden="suite" not in shown, spare=11),
        Column(key="problem", header="problem"),
        Column(key="pass", header="pass"),
        Column(key="dtype", header="dtype", hidden="dtype" not in shown),
        Column(key="layout", header="layout", hidden="family" not in shown),
        Column(key="epilogue", header="epilogue", hidden="epilogue" not in shown),
        Column(key="cache", header="cache", hidden="cache" not in shown),
        Column(key="name", header="algorithm", text_only=True),
        Column(key="shown_time", header="time", right=True, text_only=True),
        Column(key="interval", header="interval", show=_interval, right=True, spare=3, text_only=True),
        *bounds.bound_columns(hidden=not placed),
        Column(key="times_fastest", header="× best", show=significant, right=True, spare=4),
        Column(
            key="cold_ratio", header="cold/warm", show=lambda v: f"{v:.2f}×", right=True, hidden=not (warm and cold)
        ),
        Column(key="effective_flop_per_s", header="Gflop/s eff.", show=_rate, right=True, spare=6),
        Column(key="executed_flop_per_s", header="exec.", show=_rate, right=True, spare=7),
        Column(key="arithmetic_intensity", header="flop/B", show=significant, right=True, spare=9),
        Column(key="rms_error", header="error", show=_error, right=True, spare=8),
        Column(key="disturbed", header="disturbed", show=_samples, right=True, spare=10, text_only=True),
    ]
    visible = {column.key for column in columns}
    text_only = {"name", "shown_time", "family", "interval", "disturbed", "shown_bound", "shown_flag"}
    extra = [
        Column(key=key, header=key, hidden=True)
        for key in (facts[0] if facts else {})
        if key not in visible | text_only
    ]
    breaks = [i for i in range(1, len(facts)) if run.rows[i].key.case.name != run.rows[i - 1].key.case.name]
    return Table(
        key="rows",
        title=f"{', '.join(suite['name'] for suite in run.header['suites'])} · {headline(run)}",
        columns=[*columns, *extra],
        rows=facts,
        best=[i for i, row in enumerate(run.rows) if best.get(_question(row)) is row],
        breaks=breaks,
        legend=LEGEND if any(row.time_s is not None for row in run.rows) else (),
        notes=[*_notes(run), *notes],
    )


def _notes(run: Run) -> list[str]:
    rows = run.rows
    present = {remark for row in rows for remark in row.remarks}
    notes = [f"{mark} {meaning}" for remark, (mark, meaning) in MARKS.items() if remark in present]
    notes += _reasons(rows)
    unfinished = sum(row.status is Status.PARTIAL for row in rows)
    if unfinished:
        notes.append(f"{unfinished} of {len(rows)} rows are partial: the run ended too early; --resume continues it")
    disturbed, samples = (
        (sum(counts) for counts in zip(*(row.samples for row in rows), strict=True)) if rows else (0, 0)
    )
    if disturbed:
        witnesses = sum((row.witnesses for row in rows), Counter())
        by = ", ".join(f"{name} {count}" for name, count in witnesses.most_common())
        notes.append(f"{disturbed} of {samples} samples disturbed: {by} (see `convbench doctor`)")
    for device, canaries in run.canaries.items():
        where = f" of {device}" if len(run.canaries) > 1 else ""
        for name in canaries[0]:
            seconds = [canary[name] for canary in canaries if name in canary]
            if moved(seconds):
                notes.append(
                    f"the {name} canary{where}, fixed work, went from {format_time(min(thirds(seconds)[0]))} to "
                    f"{format_time(min(thirds(seconds)[1]))}: its speed or its load changed during the run"
                )
    if run.note:
        notes.append(run.note)
    return notes + baseline_notes(run.header)


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Why rows have no time: one line for all rows of one reason, which say "fp16: not here" of a suite in one."""
    by_reason: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.reason:
            by_reason.setdefault((row.status, row.reason), []).append(row)
    lines = []
    for (status, reason), same in list(by_reason.items())[:MOST_REASONS]:
        label = same[0].key.label() + (f" and {len(same) - 1} more" if len(same) > 1 else "")
        lines.append(f"{label}: {status}: {reason}")
    hidden = sum(len(same) for same in list(by_reason.values())[MOST_REASONS:])
    return [*lines, f"and {hidden} more rows without a time; --format json lists them all"] if hidden else lines


def totals_table(run: Run) -> Table | None:
    """Per network and backend the whole network's time, each layer as often as it occurs; None where nothing is timed.

    Suites that say they are no network are left out. What there is to win is the time above what the ceilings allow.
    A network is complete only if each of its layers has a time; "fastest of each" takes the best row layer by layer.
    """
    collections = {suite["name"] for suite in run.header["suites"] if suite.get("network") is False}
    rows = [r for r in run.rows if r.status is not Status.UNAVAILABLE and r.key.case.suite not in collections]
    if not any(row.time_s is not None for row in rows):
        return None
    facts = []
    placed, _ = bounds.bounds_of(run)
    # The backward passes take no epilogue: they belong to the network with each of those that fprop has.
    epilogues = list(dict.fromkeys(r.key.case.epilogue for r in rows if r.key.case.conv_pass is ConvPass.FPROP)) or [
        Epilogue.NONE
    ]
    variants = dict.fromkeys((*_variant(row), epilogue) for row in rows for epilogue in epilogues)
    for *variant, epilogue in variants:
        chosen = [
            row
            for row in rows
            if [*_variant(row)] == variant
            and (row.key.case.conv_pass is not ConvPass.FPROP or row.key.case.epilogue is epilogue)
        ]
        names = list(dict.fromkeys(row.key.name for row in chosen))
        cases = list(dict.fromkeys(row.key.case for row in chosen))
        per_name = {name: {r.key.case: r for r in chosen if r.key.name == name} for name in names}
        if len(names) > 1:
            per_name["fastest of each"] = {row.key.case: row for row in fastest(chosen).values()}
        for name, found in per_name.items():
            fact: dict[str, Any] = dict(zip(("suite", "dtype", "layout", "cache"), variant, strict=True)) | {
                "epilogue": epilogue
            }
            fact["algorithm"] = name
            fact.update(_sums(cases, found))
            fact.update(_to_win(found, placed, fact["total_s"]))
            facts.append(fact)
    choices = ("dtype", "layout", "epilogue", "cache")
    varying = [key for key in choices if len({fact[key] for fact in facts}) > 1]
    passes = [p for p in ConvPass if any(fact[f"{p}_s"] is not None or fact[f"{p}_missing"] for fact in facts)]
    winning = any(fact["to_win_s"] is not None for fact in facts)
    columns = [Column(key="suite", header="network"),
               *(Column(key=key, header=key, hidden=key not in varying) for key in choices),
               Column(key="algorithm", header="algorithm")]  # fmt: skip
    columns += [Column(key=f"{p}_s", header=p, show=format_time, right=True, hidden=p not in passes) for p in ConvPass]
    columns += [
        Column(key="total_s", header="total", show=format_time, right=True),
        Column(key="to_win_s", header="to win", show=format_time, right=True, hidden=not winning),
        Column(key="to_win_share", header="of total", show=bounds.percent, right=True, hidden=not winning),
        Column(key="effective_flop_per_s", header="Gflop/s eff.", show=_rate, right=True, spare=1),
        *(Column(key=f"{p}_missing", header=f"{p} missing", hidden=True) for p in ConvPass),
    ]
    notes = []
    missing = sum(fact[f"{p}_missing"] for fact in facts for p in ConvPass)
    if missing:
        notes.append("– where a layer has no time, or the pass was not run")
    return Table(
        key="totals", title="Whole network, each layer as often as it occurs", columns=columns, rows=facts, notes=notes,
        legend=[(("to_win_s",), "to win: total, less what the machine's ceilings allow this work (`show --by bound`)")],
    )  # fmt: skip


def _variant(row: Row) -> tuple[str, str, str, str]:
    case = row.key.case
    return case.suite, case.precision, case.layout, row.key.cache


def _sums(cases: Sequence[Any], found: dict[Any, Row]) -> dict[str, Any]:
    sums: dict[str, Any] = {}
    total, flops, complete = 0.0, 0, True
    for conv_pass in ConvPass:
        of_pass = [case for case in cases if case.conv_pass is conv_pass]
        times = [(case, found[case].time_s if case in found else None) for case in of_pass]
        missing = sum(t is None for _, t in times)
        sums[f"{conv_pass}_missing"] = missing
        sums[f"{conv_pass}_s"] = sum(case.repeat * (t or 0) for case, t in times) if of_pass and not missing else None
        complete = complete and not missing
        total += sums[f"{conv_pass}_s"] or 0
        flops += sum(case.repeat * nominal_flops(case.problem) for case in of_pass)
    sums["total_s"] = total if complete else None
    sums["effective_flop_per_s"] = flops / total if complete and total else None
    return sums


def _to_win(found: dict[Any, Row], placed: dict[RowKey, Placed], total_s: float | None) -> dict[str, float | None]:
    """What a whole network takes above the floors of its layers; None where one of them has no floor or no time."""
    if not total_s or not all(row.key in placed for row in found.values()):
        return {"to_win_s": None, "to_win_share": None}
    seconds = sum(case.repeat * placed[row.key].to_win_s for case, row in found.items())
    return {"to_win_s": seconds, "to_win_share": seconds / total_s}


def backends_table(run: Run) -> Table:
    """A line per backend and algorithm: rows with a time, how often fastest, how far from it on average."""
    best = fastest(run.rows)
    facts = []
    for name in dict.fromkeys(row.key.name for row in run.rows):
        rows = [row for row in run.rows if row.key.name == name]
        ratios = [row.time_s / quickest for row in rows if row.time_s and (quickest := best[_question(row)].time_s)]
        facts.append({
            "algorithm": name, "rows": len(rows), "timed": len(ratios),
            "fastest": sum(best.get(_question(row)) is row for row in rows),
            "times_fastest": math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None,
        })  # fmt: skip
    columns = [
        Column(key="algorithm", header="algorithm"), Column(key="rows", header="rows", right=True),
        Column(key="timed", header="timed", right=True), Column(key="fastest", header="fastest", right=True),
        Column(key="times_fastest", header="× best (geometric mean)", show=lambda v: f"{v:.2f}", right=True),
    ]  # fmt: skip
    return Table(key="backends", title=headline(run), columns=columns, rows=facts)
