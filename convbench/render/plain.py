"""JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.render import Table


def render_json(tables: Sequence[Table]) -> str:
    """One object with a list of rows per table, values raw and in SI units."""
    content = {table.key: [{c.key: row.get(c.key) for c in table.raw()} for row in table.rows] for table in tables}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def render_csv(table: Table) -> str:
    """A header and one line per row, values raw and in SI units."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = table.raw()
    writer.writerow([column.key for column in columns])
    for row in table.rows:
        writer.writerow([row.get(column.key) for column in columns])
    return text.getvalue()


def render_markdown(table: Table) -> str:
    """A pipe table, values as in the terminal."""
    columns = table.shown()
    lines = [f"**{escape(table.title)}**", ""] if table.title else []
    lines.append("| " + " | ".join(escape(c.header) for c in columns) + " |")
    lines.append("|" + "|".join("---:" if c.right else "---" for c in columns) + "|")
    for index, row in enumerate(table.rows):
        cells = [escape(table.cell(row, c)) for c in columns]
        if index in {*table.best, *table.alarming}:
            cells = [f"**{cell}**" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- {escape(note)}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that no character of is markup: names and notes come from files."""
    for character in "\\`*_{}[]<>|&~":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.splitlines())
