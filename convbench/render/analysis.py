"""Cases as a table of counts, with predicted bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from convbench.errors import InputError
from convbench.render import Column, Table
from convbench.roofline import place
from convbench.units import format_si, format_time, significant
from convbench.work import compulsory_bytes, exact_flops, no_reuse_bytes, nominal_flops, nominal_macs, nominal_work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.datasheet import Datasheet
    from convbench.problem import Case


LEGEND: tuple[tuple[tuple[str, ...], str], ...] = (
    (("exact_share",), "no padding: share of the flops that is left without the products that meet padding"),
    (("flop_per_byte",), "flop/B: with each operand read once"),
    (("flop_per_byte_no_reuse",), "no reuse: flop/B with two loads for every multiply-add"),
    (("floor_s",), "at least: the predicted time of an algorithm that computes the definition"),
)  # fmt: skip


def analysis_facts(case: Case, sheet: Datasheet | None) -> dict[str, Any]:
    """Counts of one case, and its predicted placement; `bound` says why there is none where the machine has none."""
    problem = case.problem
    flops, least, most = nominal_flops(problem), compulsory_bytes(case), no_reuse_bytes(case)
    x_bytes = math.prod(problem.x_shape) * case.dtype.itemsize
    fact: dict[str, Any] = {
        "suite": case.suite, "problem": case.name, "shape": problem.describe(), "pass": case.conv_pass,
        "dtype": case.precision, "layout": case.layout_name, "epilogue": case.epilogue, "repeat": case.repeat,
        "nominal_macs": nominal_macs(problem), "nominal_flops": flops, "exact_flops": exact_flops(problem),
        "exact_share": exact_flops(problem) / flops if flops else None,
        "compulsory_bytes": least, "no_reuse_bytes": most,
        "flop_per_byte": flops / least if least else None,
        "flop_per_byte_no_reuse": flops / most if most else None,
        "mac_per_input_byte": nominal_macs(problem) / x_bytes if x_bytes else None,
    }  # fmt: skip
    if sheet is not None:
        try:
            placed = place(nominal_work(case), sheet.predicted(), case.math_mode, warm=False)
        except InputError as error:
            return fact | {"bound": str(error)}
        bound = (
            placed.bound if placed.level is None or placed.bound != "bandwidth" else f"{placed.bound} ({placed.level})"
        )
        fact |= {"bound": bound + (", ambiguous" if placed.ambiguous else ""), "compute_s": placed.compute_s,
                 "memory_s": placed.memory_s, "latency_s": placed.latency_s, "floor_s": placed.floor_s}  # fmt: skip
    return fact


def analysis_table(cases: Sequence[Case], sheet: Datasheet | None, *, sums: bool = True) -> Table:
    """One row per case: flops, bytes, intensities, and the predicted bound and least time on a machine."""
    facts = [analysis_facts(case, sheet) for case in cases]

    def constant(key: str) -> bool:
        return len({fact[key] for fact in facts}) == 1

    columns = [
        Column(key="suite", header="suite", hidden=constant("suite")), Column(key="problem", header="problem"),
        Column(key="shape", header="shape", spare=3), Column(key="pass", header="pass"),
        *(Column(key=key, header=key, hidden=constant(key)) for key in ("dtype", "layout", "epilogue", "repeat")),
        Column(key="nominal_macs", header="GMAC", show=lambda v: significant(v / 1e9), right=True, spare=4),
        Column(key="nominal_flops", header="Gflop", show=lambda v: significant(v / 1e9), right=True),
        Column(key="exact_share", header="no padding", show=lambda v: f"{100 * v:.0f}%", right=True, spare=5),
        Column(key="compulsory_bytes", header="bytes", show=lambda v: format_si(v, "B"), right=True, spare=1),
        Column(key="flop_per_byte", header="flop/B", show=significant, right=True, spare=2),
        Column(key="flop_per_byte_no_reuse", header="no reuse", show=significant, right=True, spare=6),
        *(Column(key=key, header=key, hidden=True) for key in ("exact_flops", "no_reuse_bytes", "mac_per_input_byte")),
    ]  # fmt: skip
    title, legend, notes = "", [*LEGEND], []
    if sheet is not None:
        columns += [
            Column(key="bound", header="predicted bound", cut=True),
            Column(key="floor_s", header="at least", show=format_time, right=True),
            *(Column(key=key, header=key, hidden=True) for key in ("compute_s", "memory_s", "latency_s")),
        ]
        title = f"predicted on {sheet.title}"
        legend.append((("bound", "floor_s"), _ceilings(cases, sheet)))
        times = [fact["floor_s"] * fact["repeat"] for fact in facts if "floor_s" in fact]
        if sums and len(times) == len(facts):
            notes.append(f"all rows, each as often as it occurs: at least {format_time(sum(times))}")
    total = sum(fact["nominal_macs"] * fact["repeat"] for fact in facts)
    if sums:
        notes.append(f"all rows, each as often as it occurs: {significant(total / 1e9, 4)} GMAC")
    return Table(key="cases", title=title, columns=columns, rows=facts, legend=legend, notes=notes)


def _ceilings(cases: Sequence[Case], sheet: Datasheet) -> str:
    """What the predictions for `cases` rest on."""
    ceilings = sheet.predicted()
    modes = dict.fromkeys(case.math_mode for case in cases if case.math_mode in ceilings.compute)
    rates = [f"{mode} {format_si(ceilings.compute[mode].value, 'flop/s')}" for mode in modes]
    rates.append(f"DRAM {format_si(ceilings.bandwidth['dram'].value, 'B/s')}")
    if ceilings.launch:
        rates.append(f"launch {format_time(ceilings.launch.value)}")
    return f"work: nominal; ceilings from published figures, predicted: {', '.join(rates)}"
