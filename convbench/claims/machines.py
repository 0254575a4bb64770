"""Who wins: the ceilings of each machine, and what one more than a multiple of a vector or a tile costs there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convbench.claims.base import (
    Answer,
    Missing,
    Series,
    all_series,
    busy,
    caveats,
    middle,
    places,
    rate_column,
    ratio_column,
    seconds,
    text_columns,
    time_column,
)
from convbench.render import Column, Table
from convbench.units import format_si, format_time, significant
from convbench.work import nominal_flops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.ceilings import Ceilings
    from convbench.problem import Problem
    from convbench.result import Run

BOUNDARY = 4
"""Extents n whose neighbours are compared with them are multiples of this: the narrowest vectors and tiles."""


def machines(runs: Sequence[Run]) -> Answer:
    """Flop/s, bandwidth, latency and boundary effects of each machine."""
    where = places(runs)
    if not where:
        raise Missing("no run of talk-boundaries")
    facts = [_machine_fact(place.name, place.ceilings) for place in where]
    clauses = _winners(facts) if len(facts) > 1 else [_described(facts[0])]
    try:
        found = all_series(runs, "talk-boundaries")
    except Missing as missing:
        found, steps = [], []
        clauses.append(f"boundary effects are not known: {missing}")
    else:
        steps = [fact for series in found for fact in _steps(series)]
        clauses += _step_clauses(steps)
    columns = [
        *text_columns("machine"),
        *(rate_column(mode, f"{mode} Gflop/s") for mode in dict.fromkeys(m for f in facts for m in f["modes"])),
        Column(key="dram", header="memory GB/s", show=lambda v: significant(v / 1e9), right=True),
        time_column("launch", "launch"),
    ]  # fmt: skip
    tables = [Table(key="machines", title="Ceilings, measured", columns=columns, rows=facts, notes=busy(where))]
    if steps:
        tables.append(Table(key="boundaries", title="Time per flop at n−1, n and n+1, over that at n", columns=[
            *text_columns("series", "axis"), Column(key="n", header="n", right=True),
            *(ratio_column(key, key) for key in ("n−1", "n+1")),
        ], rows=steps, notes=caveats(found)))  # fmt: skip
    return "; ".join(clauses), tuple(tables)


def _machine_fact(name: str, ceilings: Ceilings | None) -> dict[str, Any]:
    fact: dict[str, Any] = {"machine": name, "modes": [], "dram": None, "launch": None}
    if ceilings:
        fact["modes"] = [*ceilings.compute]
        fact |= {mode: ceiling.value for mode, ceiling in ceilings.compute.items()}
        fact["dram"] = ceilings.bandwidth["dram"].value if "dram" in ceilings.bandwidth else None
        fact["launch"] = ceilings.launch.value if ceilings.launch else None
    return fact


SHOWN = {"dram": "main memory", "launch": "launch latency"}


def _value(key: str, value: float) -> str:
    return format_time(value) if key == "launch" else format_si(value, "B/s" if key == "dram" else "flop/s")


def _described(fact: dict[str, Any]) -> str:
    said = [
        f"{SHOWN.get(key, key)} {_value(key, fact[key])}" for key in (*fact["modes"], "dram", "launch") if fact[key]
    ]
    return f"{fact['machine']}: " + (", ".join(said) or "its run has no ceilings, so its rates are not known")


def _winners(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Who wins in each quantity, and by how much over the second."""
    keys = [*dict.fromkeys(mode for fact in facts for mode in fact["modes"]), "dram", "launch"]
    said = []
    for key in keys:
        known = sorted(((f[key], f["machine"]) for f in facts if f.get(key)), reverse=key != "launch")
        if len(known) > 1:
            (first, name), (second, _) = known[:2]
            said.append(f"{SHOWN.get(key, key)}: {name} wins with {_value(key, first)}, "
                        f"{significant(max(first / second, second / first))} times better than the next")  # fmt: skip
    bare = [f["machine"] for f in facts if not f["modes"]]
    if bare:
        said.append(f"no ceilings in the run of {', '.join(bare)}")
    return said or ["no quantity is known of two machines"]


def _steps(series: Series) -> list[dict[str, Any]]:
    """Time per nominal flop at n − 1 and n + 1 over that at n, for channels and for extents."""

    def channels(problem: Problem) -> int | None:
        return problem.in_channels if problem.in_channels == problem.out_channels else None

    def extent(problem: Problem) -> int | None:
        return problem.output_size[0] if len({*problem.output_size}) == 1 else None

    def but_channels(problem: Problem) -> Problem:
        return replace(problem, in_channels=problem.groups, out_channels=problem.groups)

    def but_extent(problem: Problem) -> tuple[Any, ...]:
        return problem.batch, problem.w_shape, problem.stride, problem.padding

    steps = []
    for axis, value, rest in (("channels", channels, but_channels), ("extent", extent, but_extent)):
        by_rest: dict[Any, dict[int, float]] = {}
        for row in series.rows:
            problem = row.key.case.problem
            n = value(problem)
            if n is not None and (flops := nominal_flops(problem)):
                case = row.key.case
                key = rest(problem), case.conv_pass, case.precision, case.layout
                by_rest.setdefault(key, {})[n] = seconds(row) / flops
        for per_flop in by_rest.values():
            steps += [
                {"series": series.name, "axis": axis, "n": n, "n−1": per_flop[n - 1] / at, "n+1": per_flop[n + 1] / at}
                for n, at in sorted(per_flop.items())
                if n % BOUNDARY == 0 and n - 1 in per_flop and n + 1 in per_flop
            ]
    return steps


def _step_clauses(steps: Sequence[dict[str, Any]]) -> list[str]:
    said = []
    for name in dict.fromkeys(step["series"] for step in steps):
        mine = [step for step in steps if step["series"] == name]
        worst = max(mine, key=lambda step: step["n+1"])
        above, below = middle([step["n+1"] for step in mine]), middle([step["n−1"] for step in mine])
        said.append(f"{name}: a flop takes {significant(above)} times as long one beyond a multiple of {BOUNDARY}, "
                    f"{significant(below)} times one short of it, median over {len(mine)} boundaries; at worst "
                    f"{significant(worst['n+1'])} times at {worst['axis']} {worst['n'] + 1}")  # fmt: skip
    return said or ["no extent or channel count has both of its neighbours measured"]
