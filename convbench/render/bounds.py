"""Where the rows of a run stand under its ceilings: columns and notes for their table, and counts by network."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from convbench.errors import InputError
from convbench.placement import placed_rows, run_ceilings
from convbench.render import Column, Table
from convbench.result import row_name
from convbench.roofline import Bound, Flag
from convbench.units import significant

if TYPE_CHECKING:
    from convbench.placement import Placed
    from convbench.result import Row, RowKey, Run

LEGEND = (
    (("shown_bound",), "bound: what limits the work here: arithmetic, bytes from that cache or from DRAM, or launches"),
    (("attained",), "attained: the time that the machine's ceilings allow, over the measured one"),
    (("shown_flag",),
     "flag: above_roof: work or a ceiling is wrong; ambiguous: two ceilings are about as near; else what may explain "
     "that less than 60% is attained"),
)  # fmt: skip


def bounds_of(run: Run) -> tuple[dict[RowKey, Placed], list[str]]:
    """The rows that can be placed, by key, and what is to be said of them and of the others."""
    timed = sum(row.time_s is not None for row in run.rows)
    if not timed:
        return {}, []
    try:
        found, reasons = placed_rows(run)
    except InputError as error:
        return {}, [f"no bounds: {error}"]
    notes = []
    for reason, count in reasons.items():
        some = "" if count == timed else f"{count} of {timed} timed rows: "
        notes.append(f"{some}no bounds: {reason}")
    for device in dict.fromkeys(placed.row.key.device for placed in found):
        ceilings = run_ceilings(run)[device]
        notes += [f"ceilings of {device}: {warning}" for warning in ceilings.warnings]
        if ceilings.contended:
            notes.append(f"ceilings of {device}: measured while the machine was not quiet: {ceilings.contended}")
    if above := [placed for placed in found if placed.judgement.flag is Flag.ABOVE_ROOF]:
        notes.append(
            f"{above[0].row.key.label()}{f' and {len(above) - 1} more' if len(above) > 1 else ''}: above the roof: a "
            "ceiling or the work's counts are too low, or flops were saved that the work does not state"
        )
    if unknown := dict.fromkeys(_name(placed.row) for placed in found if placed.nominal):
        notes.append(f"work: nominal: what {', '.join(unknown)} does is not known, so the definition stands in")
    return {placed.row.key: placed for placed in found}, notes


def bound_facts(placed: Placed | None) -> dict[str, Any]:
    """A row's placement as plain values, in SI units, each None where there is none."""
    if placed is None:
        return dict.fromkeys((
            "bound", "level", "attained", "flag", "hint", "confidence", "work", "compute_s", "memory_s", "latency_s",
            "floor_s", "to_win_s",
        ))  # fmt: skip
    placement, judgement = placed.placement, placed.judgement
    return {
        "bound": judgement.bound, "level": placement.level, "attained": judgement.attained, "flag": judgement.flag,
        "hint": placed.hint or None, "confidence": placement.confidence,
        "work": "nominal" if placed.nominal else "executed",
        "compute_s": placement.compute_s, "memory_s": placement.memory_s, "latency_s": placement.latency_s,
        "floor_s": placement.floor_s, "to_win_s": placed.to_win_s,
    }  # fmt: skip


def bound_texts(placed: Placed | None) -> dict[str, str | None]:
    """What a table shows of a row's placement, beside what it attained."""
    if placed is None:
        return {"shown_bound": None, "shown_flag": None}
    bound, flag = placed.judgement.bound, placed.judgement.flag
    shown = f"{bound} {str(placed.placement.level).upper()}" if bound is Bound.BANDWIDTH else str(bound)
    told = placed.hint if flag is Flag.IMPLEMENTATION and placed.hint else "; ".join(filter(None, (flag, placed.hint)))
    return {"shown_bound": shown, "shown_flag": told}


def bound_columns(*, hidden: bool) -> list[Column]:
    """Columns of `bound_texts` and of what was attained."""
    return [
        Column(key="shown_bound", header="bound", hidden=hidden, spare=2, text_only=True),
        Column(key="attained", header="attained", show=percent, right=True, hidden=hidden, spare=1),
        Column(key="shown_flag", header="flag", hidden=hidden, spare=5, cut=True, text_only=True),
    ]


def percent(share: float) -> str:
    """Two digits, or all before the point: 0.63%, 6.3%, 63%, 104%."""
    return f"{100 * share:.0f}%" if share >= 1 else f"{significant(100 * share, 2)}%"


def _name(row: Row) -> str:
    return row_name(row.key.backend, row.resolved or row.key.algorithm, row.key.device)


def bounds_table(run: Run) -> Table:
    """Per network and algorithm: how many rows each bound, flag and kind of hint has.

    Raises:
        InputError: no row can be placed.
    """
    found, reasons = placed_rows(run)
    if not found:
        raise InputError(f"no bounds: {next(iter(reasons), 'no row has a time')}")
    groups: dict[tuple[str, ...], list[Placed]] = {}
    for placed in found:
        key, case = placed.row.key, placed.row.key.case
        group: tuple[str, ...] = (
            case.suite,
            case.precision,
            str(case.layout),
            key.cache,
            key.name,
        )
        groups.setdefault(group, []).append(placed)
    names = ("suite", "dtype", "layout", "cache", "algorithm")
    facts = []
    for group, rows in groups.items():
        fact: dict[str, Any] = dict(zip(names, group, strict=True)) | {"rows": len(rows)}
        fact |= {bound: sum(placed.judgement.bound is bound for placed in rows) for bound in Bound}
        fact |= {flag: sum(placed.judgement.flag is flag for placed in rows) for flag in Flag}
        hints = Counter(placed.hint.partition(":")[0] for placed in rows if placed.hint)
        fact["hints"] = ", ".join(f"{kind} {count}" for kind, count in hints.most_common()) or None
        facts.append(fact)
    columns = [
        Column(key="suite", header="network"),
        *(Column(key=key, header=key, hidden=len({fact[key] for fact in facts}) == 1) for key in names[1:4]),
        Column(key="algorithm", header="algorithm"),
        *(Column(key=key, header=key, right=True) for key in ("rows", *Bound)),
        *(Column(key=flag, header=flag, right=True, spare=1) for flag in Flag),
        Column(key="hints", header="hints", spare=2, cut=True, hidden=not any(fact["hints"] for fact in facts)),
    ]
    notes = [f"{count} more timed rows have no bound: {reason}" for reason, count in reasons.items()]
    return Table(key="bounds", title="Rows by bound and flag", columns=columns, rows=facts, notes=notes)
