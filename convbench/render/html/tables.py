"""Tables of a report: a `Table` as HTML, and those that only reports have."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING

from convbench.errors import printable
from convbench.render import Column, Table
from convbench.render.bounds import percent
from convbench.render.html.facts import known_ceilings
from convbench.render.machine import ceilings_table
from convbench.units import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convbench.result import Run

MOST_GAPS = 12
"""Rows of the table of gaps."""
NO_BRIEFS: Mapping[str, str] = MappingProxyType({})
COMMAND = re.compile("`([a-z][a-z -]*)`")


def text_html(text: str) -> str:
    """A text on one line, as HTML."""
    return escape(printable(text))


def prose_html(text: str) -> str:
    """A sentence on one line, as HTML: `commands` in it are code."""
    return COMMAND.sub(r"<code>\1</code>", text_html(text))


def table_html(table: Table, briefs: Mapping[str, str] = NO_BRIEFS) -> str:
    """A table with its title and notes as HTML; every text in it is escaped.

    It scrolls in a box of its own where it is wider than the page. `briefs` are short forms of the names of runs.
    """
    columns = table.shown()
    head = "".join(f'<th scope="col"{_kind(c)}>{text_html(c.header)}</th>' for c in columns)
    body = []
    for index, row in enumerate(table.rows):
        names = [name for name, rows in (("best", table.best), ("break", table.breaks)) if index in rows]
        cells = "".join(_cell(c, table.cell(row, c), briefs) for c in columns)
        body.append(f"<tr{_class(names)}>{cells}</tr>")
    notes = "".join(f"<li>{prose_html(note)}</li>" for note in table.notes_on({c.key for c in columns}))
    caption = f"<caption>{text_html(table.title)}</caption>" if table.title else ""
    label = text_html(table.title or table.key)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>{caption}<thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>" + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def _cell(column: Column, text: str, briefs: Mapping[str, str]) -> str:
    if column.key == "run" and briefs.get(text, text) != text:
        return f'<td title="{text_html(text)}">{text_html(briefs[text])}</td>'
    return f"<td{_kind(column)}>{text_html(text)}</td>"


def _kind(column: Column) -> str:
    return _class(["right"] * column.right)


def _class(names: list[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""


def gaps_table(rows: Table) -> Table | None:
    """The fastest rows of a table of rows that are furthest from their floor, in seconds; None where none has one."""
    placed = [row for row in rows.rows if row["times_fastest"] == 1 and row["to_win_s"] is not None]
    if not placed:
        return None
    placed.sort(key=lambda row: -row["to_win_s"])
    facts = [dict(row) | {"why": row["hint"] or row["flag"]} for row in placed[:MOST_GAPS]]

    def choice(key: str) -> Column:
        return Column(key=key, header=key, hidden=len({row[key] for row in placed}) == 1)

    columns = [
        *map(choice, ("run", "suite")),
        Column(key="problem", header="layer"), Column(key="pass", header="pass"),
        *map(choice, ("dtype", "layout", "epilogue", "cache")),
        Column(key="name", header="fastest"),
        Column(key="time_s", header="time", show=format_time, right=True),
        Column(key="floor_s", header="floor", show=format_time, right=True),
        Column(key="attained", header="attained", show=percent, right=True),
        Column(key="to_win_s", header="to win", show=format_time, right=True),
        Column(key="bound", header="bound"), Column(key="why", header="why"),
    ]  # fmt: skip
    shown, total = (format_time(sum(row["to_win_s"] for row in some)) for some in (facts, placed))
    notes = [f"to win: time above the floor. These rows hold {shown} of the {total} of all {len(placed)} that are the "
             "fastest of their case."]  # fmt: skip
    title = "Worst gaps: where a perfect implementation of the same work would save most"
    return Table(key="gaps", title=title, columns=columns, rows=facts, notes=notes)


def ceilings_of(runs: Mapping[str, Run]) -> Table | None:
    """The ceilings of all devices of all runs; None where none were measured."""
    found = [(name, device, ceilings_table(device, ceilings, None))
             for name, run in runs.items() for device, ceilings in known_ceilings(run)[0].items()]  # fmt: skip
    if not found:
        return None
    rows = [{"run": name, "device": device} | dict(row) for name, device, table in found for row in table.rows]
    columns = [Column(key="run", header="run", hidden=len(runs) == 1), Column(key="device", header="device")]
    first = found[0][2]
    notes = dict.fromkeys(note for *_, table in found for note in table.notes)
    return replace(first, title="Ceilings", columns=[*columns, *first.columns], rows=rows, notes=[*notes])
