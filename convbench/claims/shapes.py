"""Claims about shapes: how filters grow, how operands lie, how small a problem is, where an extent ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convbench.claims.base import (
    Answer,
    Missing,
    Series,
    all_series,
    caveats,
    mean,
    middle,
    over,
    percent,
    plane,
    rate_column,
    ratio_column,
    resolved,
    seconds,
    text_columns,
    time_column,
)
from convbench.problem import Layout
from convbench.render import Column, Table
from convbench.units import counted, format_si, format_time, significant
from convbench.work import nominal_flops

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from convbench.problem import Case
    from convbench.result import Row, Run
    from convbench.work import Phase

DIRECT, WINOGRAD, FFT = "direct", "Winograd", "FFT"
FAMILIES = (DIRECT, WINOGRAD, FFT)
COPIES = "copies: phases that do at most one flop for each element they read, as moving and adding up does"


def family(row: Row) -> str:
    """Whether an algorithm computes the definition, Winograd's sums, or products of Fourier transforms.

    NNPACK transforms 3×3 filters after Winograd and others by FFT.
    """
    name = resolved(row).lower()
    if "nnpack" in name:
        return WINOGRAD if set(row.key.case.problem.filter_size) == {3} else FFT
    if "winograd" in name:
        return WINOGRAD
    return FFT if "fft" in name or "dft" in name else DIRECT


def filters(runs: Sequence[Run]) -> Answer:
    """From which filter on Winograd and FFT are faster than the best of the algorithms that compute the definition."""

    def shape(case: Case) -> tuple[Any, ...]:
        p = case.problem
        return p.batch, p.in_channels, p.out_channels, p.output_size, case.conv_pass, case.precision, case.layout

    found = all_series(runs, "talk-filters")
    facts, clauses = [], []
    for backend in dict.fromkeys((series.backend, series.place.name) for series in found):
        mine = [series for series in found if (series.backend, series.place.name) == backend]
        rows = [row for series in mine for row in series.rows]
        name = mine[0].name.replace(f":{mine[0].algorithm}", "", 1)
        clauses_here = []
        for (_, maps, _, extents, *_), by_filter in groups_of(rows, shape, lambda case: case.problem.filter_size):
            what = f"{counted(maps, 'map')} of {plane(extents)}"
            best = {taps: _best(same) for taps, same in by_filter}
            facts += [_filter_fact(name, what, taps, by_family) for taps, by_family in best.items()]
            if said := _crossings(best):
                clauses_here.append(f"{what}: {said}")
        if clauses_here:
            clauses.append(f"{name}: " + "; ".join(clauses_here))
    if not clauses:
        raise Missing("no problem of talk-filters has a time by the definition and one by Winograd or FFT of the same "
                      "backend: name backends without an algorithm to measure each")  # fmt: skip
    columns = [
        *text_columns("backend", "maps", "filter"), *(time_column(f"{name}_s", name) for name in FAMILIES),
        *(ratio_column(f"{name}_speedup", f"direct / {name}") for name in FAMILIES[1:]), *text_columns("fastest"),
    ]  # fmt: skip
    breaks = [i for i in range(1, len(facts)) if facts[i]["maps"] != facts[i - 1]["maps"]]
    table = Table(key="filters", columns=columns, rows=facts, breaks=breaks, notes=caveats(found))
    return ". ".join(clauses), (table,)


def groups_of(rows: Iterable[Row], shape: Any, taps: Any) -> list[tuple[Any, list[tuple[Any, list[Row]]]]]:
    """Rows by shape, and in each by filter, small filters first."""
    by_shape: dict[Any, dict[Any, list[Row]]] = {}
    for row in rows:
        by_shape.setdefault(shape(row.key.case), {}).setdefault(taps(row.key.case), []).append(row)
    return [(key, sorted(by_filter.items())) for key, by_filter in by_shape.items()]


def _best(rows: Sequence[Row]) -> dict[str, Row]:
    """The fastest row of each family."""
    best: dict[str, Row] = {}
    for row in rows:
        name = family(row)
        if name not in best or seconds(row) < seconds(best[name]):
            best[name] = row
    return best


def _filter_fact(name: str, what: str, taps: Any, best: dict[str, Row]) -> dict[str, Any]:
    times = {found: seconds(row) for found, row in best.items()}
    fact = {"backend": name, "maps": what, "filter": plane(taps)} | {f"{f}_s": s for f, s in times.items()}
    fact |= {f"{f}_speedup": times[DIRECT] / times[f] for f in FAMILIES[1:] if f in times and DIRECT in times}
    winner = min(times, key=lambda found: times[found])
    return fact | {"fastest": f"{winner} ({resolved(best[winner])})"}


def _crossings(best: dict[Any, dict[str, Row]]) -> str:
    """From which filter on each transform beats the definition, at every larger one too; "" where none was compared."""
    said = []
    for name in FAMILIES[1:]:
        wins = [(plane(taps), seconds(by[name]) < seconds(by[DIRECT]))
                for taps, by in best.items() if {name, DIRECT} <= {*by}]  # fmt: skip
        if not wins:
            continue
        last = wins[-1][0]
        largest = f" ({last} is the largest that it does)" if last != plane([*best][-1]) else ""
        first = next((i for i in range(len(wins)) if all(won for _, won in wins[i:])), None)
        if first is not None:
            said.append(f"{name} overtakes direct from {wins[first][0]} on{largest}")
        elif at := ", ".join(taps for taps, won in wins if won):
            said.append(f"{name} overtakes direct at {at} only{largest}")
        else:
            said.append(f"{name} nowhere up to {last}")
    return ", ".join(said)


def operands(runs: Sequence[Run]) -> Answer:
    """What part of the time goes into copies, by layout and pass; which rows take their operands as they lie."""
    found = all_series(runs, "talk-operands")
    facts = [_operand_fact(series, row) for series in found for row in series.rows]
    _add_ratios(facts)
    clauses = [_operand_clause(s.name, [fact for fact in facts if fact["series"] == s.name]) for s in found]
    return "; ".join(clauses), (_by_layout(facts), _by_operand(facts, caveats(found)))


def _operand_clause(name: str, facts: Sequence[dict[str, Any]]) -> str:
    known = [fact for fact in facts if fact["copy_share"] is not None]
    if known:
        native = sum(fact["copy_share"] == 0 for fact in known)
        shares = [(layout, middle([f["copy_share"] for f in known if f["layout"] is layout]))
                  for layout in Layout if any(f["layout"] is layout for f in known)]  # fmt: skip
        said = ", ".join(f"{percent(share)} in {layout}" for layout, share in shares)
        return (f"{name}: copies take {said} of a row's time at the median; {native} of "
                f"{counted(len(known), 'row')} copy nothing")  # fmt: skip
    slowest: dict[Any, list[float]] = {}
    for fact in facts:
        slowest.setdefault((fact["problem"], fact["pass"]), []).append(fact["to_fastest"])
    ratios = [max(of) for of in slowest.values() if len(of) > 1]
    costs = f"; the slowest layout takes {significant(mean(ratios))} times the fastest" if ratios else ""
    return (f"{name}: its phases were not timed, so what copies take is not known{costs}"
            f"{over(ratios, 'problem and pass', 'problems and passes') if ratios else ''}")  # fmt: skip


def _add_ratios(facts: list[dict[str, Any]]) -> None:
    """Adds to each fact its time over that of the fastest layout of the same problem, pass and series."""
    fastest: dict[Any, float] = {}
    for fact in facts:
        key = fact["series"], fact["problem"], fact["pass"]
        fastest[key] = min(fact["time_s"], fastest.get(key, fact["time_s"]))
    for fact in facts:
        fact["to_fastest"] = fact["time_s"] / fastest[fact["series"], fact["problem"], fact["pass"]]


def _by_layout(facts: Sequence[dict[str, Any]]) -> Table:
    """A line per series, pass and layout."""
    same: dict[Any, list[dict[str, Any]]] = {}
    for fact in facts:
        same.setdefault((fact["series"], fact["pass"], fact["layout"]), []).append(fact)
    rows = [
        {"series": series, "pass": conv_pass, "layout": layout, "rows": len(some),
         "native": sum(share == 0 for share in shares) if shares else None,
         "copy_share": middle(shares) if shares else None,
         "to_fastest": mean([fact["to_fastest"] for fact in some])}
        for (series, conv_pass, layout), some in same.items()
        for shares in [[fact["copy_share"] for fact in some if fact["copy_share"] is not None]]
    ]  # fmt: skip
    columns = [
        *text_columns("series", "pass", "layout"), Column(key="rows", header="rows", right=True),
        Column(key="native", header="copy nothing", right=True),
        Column(key="copy_share", header="copies, median", show=percent, right=True),
        ratio_column("to_fastest", "time / fastest layout, mean"),
    ]  # fmt: skip
    return Table(key="operands_by_layout", columns=columns, rows=rows, notes=[COPIES])


def _by_operand(facts: Sequence[dict[str, Any]], notes: Sequence[str]) -> Table:
    """A line per row."""
    columns = [
        *text_columns("series", "problem", "pass", "layout"), time_column("time_s", "time"),
        Column(key="copy_share", header="copies", show=percent, right=True), time_column("copy_s", "copies take"),
        ratio_column("to_fastest", "time / fastest layout"), *text_columns("phases"),
    ]  # fmt: skip
    breaks = [i for i in range(1, len(facts)) if facts[i]["problem"] != facts[i - 1]["problem"]]
    return Table(key="operands", columns=columns, rows=facts, breaks=breaks, notes=notes)


def is_copy(phase: Phase, itemsize: int) -> bool:
    """Whether a phase only moves elements, or adds them up in their places: at most one flop for each read."""
    return phase.flops * itemsize <= phase.bytes_read


def _operand_fact(series: Series, row: Row) -> dict[str, Any]:
    case = row.key.case
    fact = {
        "series": series.name, "problem": case.name, "pass": case.conv_pass, "layout": case.layout,
        "time_s": seconds(row), "copy_s": None, "copy_share": None, "phases": None,
    }  # fmt: skip
    if not row.work or not row.phases_s:
        return fact
    copied = [(phase.name, took) for phase, took in zip(row.work.phases, row.phases_s, strict=True)
              if took and is_copy(phase, case.dtype.itemsize)]  # fmt: skip
    copy_s, total = sum(took for _, took in copied), sum(row.phases_s)
    return fact | {"copy_s": copy_s, "copy_share": copy_s / total if total else 0.0,
                   "phases": ", ".join(name for name, _ in copied) or "none"}  # fmt: skip


def small(runs: Sequence[Run]) -> Answer:
    """How much of a small problem's time the smallest one takes, too: what a launch costs."""
    found = all_series(runs, "talk-small")
    facts, clauses = [], []
    for series in found:
        ordered = sorted(series.rows, key=lambda row: nominal_flops(row.key.case.problem))
        least, *others = ordered
        if not others:
            continue
        mine = [_small_fact(series, row, seconds(least)) for row in others]
        facts += [_small_fact(series, least, seconds(least)), *mine]
        late = sum(fact["dispatch"] >= 0.5 for fact in mine)
        text = (f"{series.name}: the smallest problem takes {format_time(seconds(least))}; of "
                f"{counted(len(mine), 'small problem')} {late} spend half of their time or more on that")  # fmt: skip
        if all(fact["peak_share"] is not None for fact in mine):
            text += f", and the median one reaches {percent(middle([fact['peak_share'] for fact in mine]))} of the peak"
        else:
            rate = middle([fact["effective_flop_per_s"] for fact in mine])
            text += f", and the median one reaches {format_si(rate, 'flop/s')}; no ceilings to compare it with"
        clauses.append(text)
    if not facts:
        raise Missing("talk-small has a time for a single problem only")
    columns = [
        *text_columns("series", "problem", "shape"),
        Column(key="flops", header="flops", show=lambda v: format_si(v, "flop"), right=True),
        time_column("time_s", "time"), Column(key="dispatch", header="launch", show=percent, right=True),
        rate_column("effective_flop_per_s", "Gflop/s eff."),
        Column(key="peak_share", header="of peak", show=percent, right=True),
    ]  # fmt: skip
    notes = ["launch: the smallest problem's time as a share of this one's", *caveats(found)]
    return "; ".join(clauses), (Table(key="small", columns=columns, rows=facts, notes=notes),)


def _small_fact(series: Series, row: Row, least_s: float) -> dict[str, Any]:
    case = row.key.case
    peak = series.place.ceilings.compute.get(case.math_mode) if series.place.ceilings else None
    rate = nominal_flops(case.problem) / seconds(row)
    return {
        "series": series.name, "problem": case.name, "shape": case.problem.describe(),
        "flops": nominal_flops(case.problem), "time_s": seconds(row), "dispatch": min(1.0, least_s / seconds(row)),
        "effective_flop_per_s": rate, "peak_share": rate / peak.value if peak else None,
    }  # fmt: skip
