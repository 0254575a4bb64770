"""Claims that compare rows by twos and threes: batch, layout, epilogue, precision."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convbench.claims.base import (
    Answer,
    Missing,
    Series,
    all_series,
    caveats,
    groups,
    mean,
    over,
    percent,
    placed,
    rate_column,
    ratio_column,
    resolved,
    seconds,
    span,
    tally,
    text_columns,
    time_column,
)
from convbench.problem import Dtype, Epilogue, Layout, MathMode
from convbench.render import Column, Table
from convbench.units import counted, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.problem import Case
    from convbench.result import Row, Run


def batch(runs: Sequence[Run]) -> Answer:
    """Time per image at the smallest batch over that at the largest."""

    def shape(case: Case) -> Case:
        stem = case.name.removesuffix(f"_b{case.problem.batch}")
        return replace(case, name=stem, problem=replace(case.problem, batch=1))

    found = all_series(runs, "talk-batch")
    facts, clauses = [], []
    for series in found:
        ratios = []
        for case, by_batch in groups(series.rows, shape, lambda case: case.problem.batch).items():
            few, many = min(by_batch), max(by_batch)
            if few == many or not few:
                continue
            per_image = [seconds(by_batch[n]) / n for n in (few, many)]
            ratios.append(per_image[0] / per_image[1])
            facts.append({
                "series": series.name, "layer": case.name, "few": few, "many": many, "few_s": per_image[0],
                "many_s": per_image[1], "few_flop_per_s": by_batch[few].effective_flop_per_s,
                "many_flop_per_s": by_batch[many].effective_flop_per_s, "ratio": ratios[-1],
            })  # fmt: skip
        if ratios:
            few, many = (min(f[key] for f in facts if f["series"] == series.name) for key in ("few", "many"))
            clauses.append(f"{series.name}: batch {many} reaches {significant(mean(ratios))} times the effective rate "
                           f"of batch {few}{over(ratios, 'layer')}{span(ratios)}")  # fmt: skip
    if not facts:
        raise Missing("no layer of talk-batch has a time at two batches")
    few, many = facts[0]["few"], facts[0]["many"]
    columns = [
        *text_columns("series", "layer"), time_column("few_s", f"an image at batch {few}"),
        time_column("many_s", f"at batch {many}"), rate_column("few_flop_per_s", f"Gflop/s eff. at {few}", 1),
        rate_column("many_flop_per_s", f"at {many}", 1), ratio_column("ratio", "rate"),
        Column(key="few", header="few", hidden=True), Column(key="many", header="many", hidden=True),
    ]  # fmt: skip
    return "; ".join(clauses), (Table(key="batch", columns=columns, rows=facts, notes=caveats(found)),)


def layouts(runs: Sequence[Run]) -> Answer:
    """The fastest layout, layer by layer, and what the slowest costs."""
    found = all_series(runs, "talk-layouts")
    facts, clauses = [], []
    for series in found:
        slowest, winners = [], []
        for case, by_layout in groups(
            series.rows, lambda case: replace(case, layout=Layout.NCHW), lambda case: case.layout
        ).items():
            if len(by_layout) < 2:
                continue
            best = min(by_layout, key=lambda layout: seconds(by_layout[layout]))
            slowest.append(max(map(seconds, by_layout.values())) / seconds(by_layout[best]))
            winners.append((case.name, best))
            facts.append({"series": series.name, "layer": case.name, "fastest": best, "slowest": slowest[-1]}
                         | {f"{layout}_s": seconds(row) for layout, row in by_layout.items()})  # fmt: skip
        if winners:
            wins = Counter(best for _, best in winners)
            named = [f"{layout} in {count} ({', '.join(n for n, best in winners if best is layout)})"
                     for layout, count in wins.most_common()]  # fmt: skip
            clauses.append(f"{series.name}: of {counted(len(winners), 'layer')}, first to last, fastest is "
                           f"{', '.join(named)}; the slowest layout takes {significant(mean(slowest))} times the "
                           f"fastest{over(slowest, 'layer')}")  # fmt: skip
    if not facts:
        raise Missing("no layer of talk-layouts has a time in two layouts")
    columns = [
        *text_columns("series", "layer"), *(time_column(f"{layout}_s", layout) for layout in Layout),
        *text_columns("fastest"), ratio_column("slowest", "slowest / fastest"),
    ]  # fmt: skip
    return "; ".join(clauses), (Table(key="layouts", columns=columns, rows=facts, notes=caveats(found)),)


def epilogue(runs: Sequence[Run]) -> Answer:
    """Bias and ReLU in the call of the convolution against a pass of their own over its output."""
    found = all_series(runs, "talk-epilogue")
    alone = {
        (series.place.name, row.key.case): apart
        for series in found
        for row in series.rows
        if (apart := _own_pass(row)) is not None
    }
    facts, clauses, without = [], [], []
    for series in found:
        fused = []
        for pair in groups(
            series.rows, lambda case: replace(case, epilogue=Epilogue.NONE), lambda case: case.epilogue
        ).values():
            if Epilogue.NONE not in pair or Epilogue.BIAS_RELU not in pair or _own_pass(pair[Epilogue.BIAS_RELU]):
                continue
            fused.append(_fused_fact(series, pair, alone))
        if fused:
            facts += fused
            without += [fact for fact in fused if fact["apart_s"] is None]
            clauses.append(_fused_clause(series.name, fused))
    if not facts:
        raise Missing("no layer of talk-epilogue has a time both with and without bias+relu in the same call")
    notes = [
        "apart: bias and ReLU as a pass of their own over y, as a phase of an algorithm that has one",
        "at least: y read and written once at the measured copy bandwidth of main memory", *caveats(found),
    ]  # fmt: skip
    columns = [
        *text_columns("series", "layer"), time_column("none_s", "none"), time_column("fused_s", "bias+relu"),
        Column(key="added", header="bias+relu adds", show=percent, right=True), time_column("apart_s", "apart"),
        Column(key="apart", header="apart adds", show=percent, right=True), time_column("least_s", "at least"),
        ratio_column("ratio", "one call / apart"),
    ]  # fmt: skip
    return "; ".join(clauses), (Table(key="epilogue", columns=columns, rows=facts, notes=notes),)


def _own_pass(row: Row) -> float | None:
    """Seconds of bias+relu as a phase of its own; None where the row has none, or its time was not measured."""
    if row.key.case.epilogue is not Epilogue.BIAS_RELU or row.work is None or row.phases_s is None:
        return None
    return next((s for p, s in zip(row.work.phases, row.phases_s, strict=True) if p.name == "epilogue" and s), None)


def _fused_fact(series: Series, pair: dict[Epilogue, Row], alone: dict[Any, float]) -> dict[str, Any]:
    none, fused = pair[Epilogue.NONE], pair[Epilogue.BIAS_RELU]
    case = fused.key.case
    apart = alone.get((series.place.name, case))
    ceilings = series.place.ceilings
    copy = ceilings.mixes.get("dram", {}).get("copy") if ceilings else None
    written = math.prod(case.output_shape) * case.dtype.itemsize
    return {
        "series": series.name, "layer": case.name, "none_s": seconds(none), "fused_s": seconds(fused),
        "added": seconds(fused) / seconds(none) - 1,
        "apart_s": apart, "apart": apart / seconds(none) if apart else None,
        "least_s": 2 * written / copy.value if copy else None,
        "ratio": seconds(fused) / (seconds(none) + apart) if apart else None,
    }  # fmt: skip


def _fused_clause(name: str, facts: Sequence[dict[str, Any]]) -> str:
    added = mean([1 + fact["added"] for fact in facts]) - 1
    adds = percent(added) if added >= 0 else f"nothing ({percent(added)})"
    text = f"{name}: bias+relu in the same call adds {adds}"
    both = [fact for fact in facts if fact["ratio"] is not None]
    if not both:
        return f"{text}{over(facts, 'layer')}; no algorithm here has a pass of its own for it to compare with"
    apart = mean([1 + fact["apart"] for fact in both]) - 1
    ratio = mean([fact["ratio"] for fact in both])
    verdict = f"one call saves {percent(1 - ratio)}" if ratio < 1 else f"one call costs {percent(ratio - 1)}"
    saves = sum(fact["ratio"] < 1 for fact in both)
    return (f"{text}, a pass of its own over the output {percent(apart)}: {verdict}{over(both, 'layer')}, of which "
            f"{saves} gain")  # fmt: skip


def precision(runs: Sequence[Run]) -> Answer:
    """Double over single, layer by layer, and what binds each."""
    found = all_series(runs, "talk-precision")
    facts, clauses = [], []
    for series in found:
        mine = []
        for case, pair in groups(series.rows, _as_single, lambda case: case.dtype).items():
            if Dtype.FP32 in pair and Dtype.FP64 in pair:
                mine.append({
                    "series": series.name, "problem": case.name, "fp32_s": seconds(pair[Dtype.FP32]),
                    "fp64_s": seconds(pair[Dtype.FP64]), "fp32_algorithm": resolved(pair[Dtype.FP32]),
                    "fp64_algorithm": resolved(pair[Dtype.FP64]),
                    "ratio": seconds(pair[Dtype.FP64]) / seconds(pair[Dtype.FP32]),
                    "fp32_bound": _bound(series, pair[Dtype.FP32]), "fp64_bound": _bound(series, pair[Dtype.FP64]),
                })  # fmt: skip
        if mine:
            facts += mine
            clauses.append(_precision_clause(series, mine))
    if not facts:
        raise Missing("no problem of talk-precision has a time in fp32 and in fp64")
    columns = [
        *text_columns("series", "problem"), time_column("fp32_s", "fp32"), time_column("fp64_s", "fp64"),
        ratio_column("ratio", "fp64 / fp32"), Column(key="fp32_bound", header="fp32 bound by"),
        Column(key="fp64_bound", header="fp64 bound by"),
        *text_columns("fp32_algorithm", "fp64_algorithm", hidden=("fp32_algorithm", "fp64_algorithm")),
    ]  # fmt: skip
    return "; ".join(clauses), (Table(key="precision", columns=columns, rows=facts, notes=caveats(found)),)


def _as_single(case: Case) -> Case:
    return replace(case, dtype=Dtype.FP32, math_mode=MathMode.FP32)


def _bound(series: Series, row: Row) -> str | None:
    """What binds a row; None without ceilings for it."""
    found = placed(series, row)
    return found.judgement.bound.value if found else None


def _precision_clause(series: Series, facts: Sequence[dict[str, Any]]) -> str:
    ratios = [fact["ratio"] for fact in facts]
    text = (f"{series.name}: double takes {significant(mean(ratios))} times as long as single"
            f"{over(ratios, 'problem')}{span(ratios)}")  # fmt: skip
    peaks = series.place.ceilings.compute if series.place.ceilings else {}
    if "fp32" in peaks and "fp64" in peaks:
        text += f", where the peaks differ by {significant(peaks['fp32'].value / peaks['fp64'].value)}"
    bounds = [f"{dtype} is bound by {tally([fact[f'{dtype}_bound'] for fact in facts])}" for dtype in ("fp32", "fp64")
              if all(fact[f"{dtype}_bound"] for fact in facts)]  # fmt: skip
    return f"{text}; {', '.join(bounds)}" if bounds else f"{text}; no ceilings, so what binds them is not known"
