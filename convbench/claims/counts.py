"""Claims that rest on counts: reuse in AlexNet's first layer, and how small the layers of a deep network are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from convbench.claims.base import (
    Answer,
    Missing,
    Series,
    all_series,
    caveats,
    middle,
    percent,
    placed,
    places,
    rate_column,
    resolved,
    seconds,
    tally,
    text_columns,
    time_column,
)
from convbench.errors import InputError
from convbench.render import Column, Table
from convbench.roofline import Bound, ridge_point
from convbench.units import counted, format_si, format_time, significant
from convbench.work import compulsory_bytes, no_reuse_bytes, nominal_flops, nominal_macs, nominal_work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.ceilings import Ceilings
    from convbench.result import Row, Run

SLIDE_OUTPUT_BYTES = 63.7e6
"""What the talk's slide "Dive into 2D Convolutional Nets" gives as the layer's output."""
EXAMPLE = "alexnet_layer1"


def reuse(runs: Sequence[Run]) -> Answer:
    """Flops per byte of AlexNet's first layer with and without reuse, against the ridge of the machine."""
    rows = [(place, row) for place in places(runs) for row in place.run.rows
            if row.key.device == place.device and row.key.case.suite == "talk-example"]  # fmt: skip
    facts = [_reuse_fact(place.name, row) for place, row in rows]
    example = [(place, fact) for (place, _), fact in zip(rows, facts, strict=True) if fact["problem"] == EXAMPLE]
    if not example:
        raise Missing(f"no row of talk-example's {EXAMPLE}" if runs else "no run of talk-example")
    fact = example[0][1]
    output = fact["output_bytes"]
    clauses = [
        f"{significant(fact['macs'] / 1e9, 5)} G multiply-adds: {significant(fact['flop_per_byte'])} flop/B with each "
        f"operand read once, {significant(fact['no_reuse'])} without reuse, {significant(fact['mac_per_input_byte'])} "
        f"multiply-adds per input byte; the output is {format_si(output, 'B', 4)}"
    ]
    if fact["batch"] == 128:
        ratio = output / SLIDE_OUTPUT_BYTES
        agrees = abs(ratio - 1) < 0.01
        clauses[0] += ", as on the slide" if agrees else f", {significant(ratio)} times the slide's 63.7 MB"
    for name in dict.fromkeys(place.name for place, _ in example):
        mine = [(place, fact) for place, fact in example if place.name == name]
        clauses.append(f"{name}: {_against_ridge(mine[0][1], mine[0][0].ceilings)}{_moved([f for _, f in mine])}")
    columns = [
        Column(key="machine", header="machine", hidden=len({fact["machine"] for fact in facts}) == 1),
        *text_columns("problem", "shape"),
        Column(key="macs", header="GMAC", show=lambda v: significant(v / 1e9, 5), right=True),
        Column(key="input_bytes", header="in", show=lambda v: format_si(v, "B", 4), right=True),
        Column(key="output_bytes", header="out", show=lambda v: format_si(v, "B", 4), right=True),
        *(Column(key=key, header=header, show=significant, right=True) for key, header in (
            ("mac_per_input_byte", "MAC/B in"), ("flop_per_byte", "flop/B"), ("no_reuse", "no reuse"))),
        *text_columns("algorithm"), time_column("time_s", "time"), rate_column("effective_flop_per_s", "Gflop/s eff."),
        Column(key="executed", header="flop/B run", show=significant, right=True),
    ]  # fmt: skip
    notes = ["in: input and weights; flop/B: each operand read and each result written once; "
             "flop/B run: flops executed per byte that the algorithm moves, by its model"]  # fmt: skip
    return "; ".join(clauses), (Table(key="reuse", columns=columns, rows=facts, notes=notes),)


def _reuse_fact(place: str, row: Row) -> dict[str, Any]:
    case, problem = row.key.case, row.key.case.problem
    width = case.dtype.itemsize
    x_bytes, w_bytes = math.prod(problem.x_shape) * width, math.prod(problem.w_shape) * width
    least, most = compulsory_bytes(case), no_reuse_bytes(case)
    return {
        "machine": place, "problem": case.name, "shape": problem.describe(), "batch": problem.batch,
        "macs": nominal_macs(problem), "input_bytes": x_bytes + w_bytes,
        "output_bytes": math.prod(problem.y_shape) * width,
        "mac_per_input_byte": nominal_macs(problem) / x_bytes if x_bytes else 0.0,
        "flop_per_byte": nominal_flops(problem) / least if least else 0.0,
        "no_reuse": nominal_flops(problem) / most if most else 0.0,
        "algorithm": f"{row.key.name} ({resolved(row)})", "time_s": row.time_s,
        "effective_flop_per_s": row.effective_flop_per_s,
        "executed": row.work.arithmetic_intensity if row.work else None,
        "by_definition": row.work == nominal_work(case), "math_mode": case.math_mode,
    }  # fmt: skip


def _against_ridge(fact: dict[str, Any], ceilings: Ceilings | None) -> str:
    try:
        if ceilings is None:
            raise InputError("no ceilings in the run")  # noqa: TRY301  said as any other reason
        ridge = ridge_point(ceilings, fact["math_mode"])
    except InputError as error:
        return f"whether that binds is not known ({error})"
    with_reuse, without = (
        Bound.COMPUTE if fact[key] >= ridge else Bound.BANDWIDTH for key in ("flop_per_byte", "no_reuse")
    )
    return (f"the ridge is at {significant(ridge)} flop/B, so bound by {with_reuse} with reuse and by {without} "
            "without")  # fmt: skip


def _moved(facts: Sequence[dict[str, Any]]) -> str:
    runs = [
        f"{f['algorithm']} executes {significant(f['executed'])} flop/B"
        + (", counted by the definition" if f["by_definition"] else "")
        for f in facts
        if f["executed"] and f["time_s"]
    ]
    return f"; {', '.join(runs)}" if runs else "; not measured"


DEEP = "googlenet"


def deep(runs: Sequence[Run]) -> Answer:
    """Flops, bytes, time and bound of each layer of a deep network, and what becomes of the peak."""
    found = all_series(runs, DEEP)
    facts, clauses = [], []
    for series in found:
        mine = [_layer_fact(series, row) for row in series.rows]
        facts += mine
        clauses.append(_deep_clause(series, mine))
    columns = [
        *text_columns("series", "layer", "shape"),
        Column(key="flops", header="flops", show=lambda v: format_si(v, "flop"), right=True),
        Column(key="bytes", header="bytes", show=lambda v: format_si(v, "B"), right=True),
        Column(key="flop_per_byte", header="flop/B", show=significant, right=True), time_column("time_s", "time"),
        rate_column("effective_flop_per_s", "Gflop/s eff."), *text_columns("algorithm"),
        Column(key="bound", header="bound by"), Column(key="attained", header="attained", show=percent, right=True),
    ]  # fmt: skip
    notes = ["bytes: each operand read and each result written once; attained: the model's least time over this one",
             *caveats(found)]  # fmt: skip
    return "; ".join(clauses), (Table(key="deep", columns=columns, rows=facts, notes=notes),)


def _layer_fact(series: Series, row: Row) -> dict[str, Any]:
    case, stands = row.key.case, placed(series, row)
    flops, least = nominal_flops(case.problem), compulsory_bytes(case)
    return {
        "series": series.name, "layer": case.name, "shape": case.problem.describe(), "repeat": case.repeat,
        "flops": flops, "bytes": least, "flop_per_byte": flops / least if least else None, "time_s": seconds(row),
        "effective_flop_per_s": row.effective_flop_per_s, "algorithm": resolved(row),
        "bound": stands.judgement.bound.value if stands else None,
        "attained": stands.judgement.attained if stands else None,
    }  # fmt: skip


def _deep_clause(series: Series, facts: Sequence[dict[str, Any]]) -> str:
    case = series.rows[0].key.case
    total = sum(fact["repeat"] * fact["flops"] for fact in facts) / sum(f["repeat"] * f["time_s"] for f in facts)
    flops, took = middle([fact["flops"] for fact in facts]), middle([fact["time_s"] for fact in facts])
    text = (f"{series.name}: of {counted(len(facts), 'layer')} at batch {case.problem.batch} half have no more than "
            f"{format_si(flops, 'flop')} and half take no more than {format_time(took)}; together they reach "
            f"{format_si(total, 'flop/s')}")  # fmt: skip
    peak = series.place.ceilings.compute.get(case.math_mode) if series.place.ceilings else None
    if peak:
        text += f", {percent(total / peak.value)} of the peak"
    if third := len(facts) // 3:
        text += _depth(facts[:third], facts[-third:])
    bounds = [fact["bound"] for fact in facts]
    return (
        f"{text}; bound by {tally(bounds)}" if all(bounds) else f"{text}; no ceilings, so what binds them is not known"
    )


def _depth(first: Sequence[dict[str, Any]], last: Sequence[dict[str, Any]]) -> str:
    """How the last third of a network compares with its first."""
    flops = [middle([fact["flops"] for fact in part]) for part in (first, last)]
    rates = [sum(f["flops"] for f in part) / sum(f["time_s"] for f in part) for part in (first, last)]
    return (f"; a layer of the last third has {significant(flops[1] / flops[0])} times the flops of one of the first "
            f"(medians), and the third runs at {significant(rates[1] / rates[0])} times the rate")  # fmt: skip
