"""The phases of a run's rows: where the time of each goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convbench.render import Column, Table
from convbench.result import WARM
from convbench.units import format_si, format_time, significant

if TYPE_CHECKING:
    from convbench.result import Row, Run

SUM_TOLERANCE = 0.1
"""Phases whose sum is further from a row's time, as a share of it, are noted."""

MOST_NOTES = 5
"""Rows that are noted one by one."""


def phases_table(run: Run) -> Table | None:
    """A line per phase of the rows whose phases were measured; None where there are none."""
    rows = [row for row in run.rows if row.phases_s]
    facts = [fact for row in rows for fact in _facts(row)]
    if not facts:
        return None
    cold = any(row.key.cache != WARM for row in rows)
    columns = [
        Column(key="problem", header="problem"), Column(key="pass", header="pass"),
        *(Column(key=key, header=key, hidden=len({fact[key] for fact in facts}) == 1)
          for key in ("dtype", "layout", "epilogue")),
        Column(key="cache", header="cache", hidden=not cold), Column(key="algorithm", header="algorithm", cut=True),
        Column(key="phase", header="phase"), Column(key="time_s", header="time", show=format_time, right=True),
        Column(key="share", header="share", show=lambda v: f"{100 * v:.0f}%", right=True),
        Column(key="flops", header="flops", show=lambda v: format_si(v, "flop"), right=True, spare=3),
        Column(key="traffic_bytes", header="bytes", show=lambda v: format_si(v, "B"), right=True, spare=2),
        Column(key="flop_per_s", header="Gflop/s", show=lambda v: significant(v / 1e9), right=True,
               spare=1),
        Column(key="bytes_per_s", header="GB/s", show=lambda v: significant(v / 1e9), right=True,
               spare=4),
    ]  # fmt: skip
    breaks = [i for i, fact in enumerate(facts) if i and fact["first"]]
    for fact in facts:
        del fact["first"]
    title = "Phases of a run, by runs of their own; flops and bytes by the algorithm's model"
    return Table(key="phases", title=title, columns=columns, rows=facts, breaks=breaks, notes=_notes(rows))


def _facts(row: Row) -> list[dict[str, Any]]:
    case, work, times = row.key.case, row.work, row.phases_s
    assert work is not None
    assert times is not None
    total = sum(times)
    named = {
        "problem": case.name, "pass": case.conv_pass, "dtype": case.precision, "layout": case.layout_name,
        "epilogue": case.epilogue, "cache": row.key.cache, "algorithm": _algorithm(row),
    }  # fmt: skip
    return [
        named | {
            "phase": phase.name, "time_s": seconds, "share": seconds / total if total else None,
            "flops": phase.flops, "traffic_bytes": phase.traffic_bytes,
            "flop_per_s": phase.flops / seconds if seconds and phase.flops else None,
            "bytes_per_s": phase.traffic_bytes / seconds if seconds else None, "first": place == 0,
        }
        for place, (phase, seconds) in enumerate(zip(work.phases, times, strict=True))
    ]  # fmt: skip


def _algorithm(row: Row) -> str:
    name = row.key.name
    return f"{name} ({row.resolved})" if row.resolved and row.resolved != row.key.algorithm else name


def _notes(rows: list[Row]) -> list[str]:
    notes = []
    for row in rows:
        total = sum(row.phases_s or ())
        if row.time_s and abs(total / row.time_s - 1) > SUM_TOLERANCE:
            notes.append(f"{row.key.label()}: its phases add up to {format_time(total)}, {total / row.time_s:.0%} of "
                         f"its time, {format_time(row.time_s)}")  # fmt: skip
    hidden = len(notes) - MOST_NOTES
    return [*notes[:MOST_NOTES], f"and {hidden} more rows like these"] if hidden > 0 else notes
