"""A run as tables: its rows, and the totals of its networks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from convbench.problem import ConvPass, Epilogue
from convbench.render import Column, Table
from convbench.result import Row, Run, Status
from convbench.units import format_time, significant
from convbench.work import exact_flops, nominal_flops, nominal_macs

if TYPE_CHECKING:
    from collections.abc import Sequence


LEGEND = (
    "time: median, ± half its 95 % interval; error: RMS, against float64",
    "eff.: 2·multiply-adds of the definition / time; exec.: flops executed / time; flop/B: executed per byte moved",
)


def _rate(flop_per_s: float) -> str:
    return significant(flop_per_s / 1e9)


def _percent(fraction: float) -> str:
    return f"{significant(100 * fraction, 2)}%"


def _error(value: float) -> str:
    return f"{value:.1e}"


def headline(run: Run) -> str:
    """What the run was measured on, in one line."""
    environment = run.header["environment"]
    devices: list[dict[str, Any]] = list(run.header["devices"].values())
    machine = devices[0]["machine"] if devices else {}
    blas = (environment.get("blas") or [{}])[0]
    parts = [
        machine.get("cpu_model") or machine.get("arch"),
        f"{run.header['options'].get('threads')} of {machine.get('cpu_count')} CPUs",
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
    half = max(interval[1] - row.time_s, row.time_s - interval[0]) / row.time_s if interval and row.time_s else None
    verification = row.verification or {}
    return {
        "suite": case.suite, "problem": case.name, "shape": problem.describe(), "pass": case.conv_pass,
        "dtype": case.precision, "layout": case.layout_name, "epilogue": case.epilogue, "batch": problem.batch,
        "repeat": case.repeat, "backend": key.backend, "algorithm": key.algorithm, "resolved": row.resolved,
        "device": key.device, "cache": key.cache, "threads": key.threads,
        "status": row.status, "reason": row.reason or None,
        "time_s": row.time_s, "interval_low_s": interval[0] if interval else None,
        "interval_high_s": interval[1] if interval else None, "half_width": half,
        "rounds": len(row.rounds), "disturbed_rounds": row.disturbed_rounds, "stop_reason": row.stop_reason,
        "effective_flop_per_s": row.effective_flop_per_s, "executed_flop_per_s": row.executed_flop_per_s,
        "nominal_macs": nominal_macs(problem), "nominal_flops": nominal_flops(problem),
        "exact_flops": exact_flops(problem),
        "executed_flops": row.work.executed_flops if row.work else None,
        "traffic_bytes": row.work.traffic_bytes if row.work else None,
        "arithmetic_intensity": row.work.arithmetic_intensity if row.work else None,
        "rms_error": verification.get("rms_error"), "max_error": verification.get("max_error"),
        "bound_share": verification.get("bound_share"),
        "plan_s": row.plan_s, "first_call_s": row.first_call_s, "workspace_bytes": row.workspace_bytes,
    }  # fmt: skip


def fastest(rows: Sequence[Row]) -> dict[Any, Row]:
    """The fastest row of each case."""
    best: dict[Any, Row] = {}
    for row in rows:
        if row.time_s is not None and (row.key.case not in best or row.time_s < (best[row.key.case].time_s or 0)):
            best[row.key.case] = row
    return best


def rows_table(run: Run) -> Table:
    """Every row: time, rates, intensity, error, and how many times the fastest of its case it took."""
    best = fastest(run.rows)
    facts = []
    for row in run.rows:
        fact = row_facts(row)
        quickest = best[row.key.case].time_s if row.key.case in best else None
        fact["times_fastest"] = row.time_s / quickest if row.time_s and quickest else None
        fact["name"] = f"{row.key.backend}:{row.key.algorithm}"
        if row.resolved and row.resolved != row.key.algorithm:
            fact["name"] += f" ({row.resolved})"
        fact["family"] = row.key.case.layout
        fact["shown_time"] = row.status if row.time_s is None else format_time(row.time_s)
        if row.time_s is not None and row.status is Status.PARTIAL:
            fact["shown_time"] += " (partial)"
        facts.append(fact)

    usual = {"suite": None, "dtype": "fp32", "family": "nchw", "epilogue": "none"}
    shown = {
        key
        for key, value in usual.items()
        if len(found := {f[key] for f in facts}) > 1 or (key != "suite" and found - {value})
    }
    columns = [
        Column(key="suite", header="suite", hidden="suite" not in shown, spare=4),
        Column(key="problem", header="problem"),
        Column(key="pass", header="pass"),
        Column(key="dtype", header="dtype", hidden="dtype" not in shown),
        Column(key="layout", header="layout", hidden="family" not in shown),
        Column(key="epilogue", header="epilogue", hidden="epilogue" not in shown),
        Column(key="name", header="algorithm", text_only=True),
        Column(key="shown_time", header="time", right=True, text_only=True),
        Column(key="half_width", header="±", show=_percent, right=True),
        Column(key="times_fastest", header="× best", show=lambda v: f"{v:.2f}", right=True),
        Column(key="effective_flop_per_s", header="Gflop/s eff.", show=_rate, right=True),
        Column(key="executed_flop_per_s", header="exec.", show=_rate, right=True, spare=1),
        Column(key="arithmetic_intensity", header="flop/B", show=significant, right=True, spare=3),
        Column(key="rms_error", header="error", show=_error, right=True, spare=2),
    ]
    visible = {column.key for column in columns}
    text_only = {"name", "shown_time", "family"}
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
        best=[i for i, row in enumerate(run.rows) if best.get(row.key.case) is row],
        breaks=breaks,
        notes=_notes(run),
    )


def _notes(run: Run) -> list[str]:
    rows = run.rows
    reasons = [f"{row.key.label()}: {row.status}: {row.reason}" for row in rows if row.reason]
    notes = [*LEGEND, *reasons[:20]]
    hidden = len(reasons) - 20
    if hidden > 0:
        notes.append(f"and {hidden} more rows without a time; --format json lists them all")
    unfinished = sum(row.status is Status.PARTIAL for row in rows)
    if unfinished:
        notes.append(f"{unfinished} of {len(rows)} rows are partial: the run ended too early; --resume continues it")
    if any(row.time_s is not None and row.interval_s is None for row in rows):
        notes.append("no ± where there were fewer than 6 rounds, too few for an interval")
    timed = [row for row in rows if row.rounds]
    disturbed = sum(row.disturbed_rounds for row in timed)
    total = sum(len(row.rounds) for row in timed)
    if disturbed:
        notes.append(f"{disturbed} of {total} rounds had no undisturbed sample (context switches, waiting for a CPU)")
    if run.note:
        notes.append(run.note)
    return notes


def totals_table(run: Run) -> Table | None:
    """Per network and backend the whole network's time, each layer as often as it occurs; None where nothing is timed.

    A network is complete only if each of its layers has a time; "fastest of each" takes the best row layer by layer.
    """
    rows = [row for row in run.rows if row.status is not Status.UNAVAILABLE]
    if not any(row.time_s is not None for row in rows):
        return None
    facts = []
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
        names = list(dict.fromkeys((row.key.backend, row.key.algorithm) for row in chosen))
        cases = list(dict.fromkeys(row.key.case for row in chosen))
        per_name = {
            f"{b}:{a}": {r.key.case: r for r in chosen if (r.key.backend, r.key.algorithm) == (b, a)} for b, a in names
        }
        if len(names) > 1:
            per_name["fastest of each"] = fastest(chosen)
        for name, found in per_name.items():
            fact: dict[str, Any] = dict(zip(("suite", "dtype", "layout"), variant, strict=True)) | {
                "epilogue": epilogue
            }
            fact["algorithm"] = name
            fact.update(_sums(cases, found))
            facts.append(fact)
    varying = [key for key in ("dtype", "layout", "epilogue") if len({fact[key] for fact in facts}) > 1]
    passes = [p for p in ConvPass if any(fact[f"{p}_s"] is not None or fact[f"{p}_missing"] for fact in facts)]
    columns = [Column(key="suite", header="network"),
               *(Column(key=key, header=key, hidden=key not in varying) for key in ("dtype", "layout", "epilogue")),
               Column(key="algorithm", header="algorithm")]  # fmt: skip
    columns += [Column(key=f"{p}_s", header=p, show=format_time, right=True, hidden=p not in passes) for p in ConvPass]
    columns += [
        Column(key="total_s", header="total", show=format_time, right=True),
        Column(key="effective_flop_per_s", header="Gflop/s eff.", show=_rate, right=True),
        *(Column(key=f"{p}_missing", header=f"{p} missing", hidden=True) for p in ConvPass),
    ]
    notes = []
    missing = sum(fact[f"{p}_missing"] for fact in facts for p in ConvPass)
    if missing:
        notes.append("– where a layer has no time, or the pass was not run")
    return Table(
        key="totals", title="Whole network, each layer as often as it occurs", columns=columns, rows=facts, notes=notes
    )


def _variant(row: Row) -> tuple[str, str, str]:
    case = row.key.case
    return case.suite, case.precision, case.layout


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


def backends_table(run: Run) -> Table:
    """A line per backend and algorithm: rows with a time, how often fastest, how far from it on average."""
    best = fastest(run.rows)
    facts = []
    for name in dict.fromkeys((row.key.backend, row.key.algorithm) for row in run.rows):
        rows = [row for row in run.rows if (row.key.backend, row.key.algorithm) == name]
        ratios = [row.time_s / quickest for row in rows if row.time_s and (quickest := best[row.key.case].time_s)]
        facts.append({
            "algorithm": ":".join(name), "rows": len(rows), "timed": len(ratios),
            "fastest": sum(best.get(row.key.case) is row for row in rows),
            "times_fastest": math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None,
        })  # fmt: skip
    columns = [
        Column(key="algorithm", header="algorithm"), Column(key="rows", header="rows", right=True),
        Column(key="timed", header="timed", right=True), Column(key="fastest", header="fastest", right=True),
        Column(key="times_fastest", header="× best (geometric mean)", show=lambda v: f"{v:.2f}", right=True),
    ]  # fmt: skip
    return Table(key="backends", title=headline(run), columns=columns, rows=facts)
