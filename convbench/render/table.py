"""Tables for the terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.render import Column, Table

GAP = 3
"""Columns between two cells, as box.SIMPLE_HEAD draws them."""


def render_table(table: Table, *, width: int | None = None, color: bool = False) -> str:
    """A table with its title and notes; as wide as it needs where `width` is None."""
    columns = table.shown()
    natural = {
        column.key: max(cell_len(text) for text in (column.header, *(table.cell(row, column) for row in table.rows)))
        for column in columns
    }
    left_out = []
    while width and _width(columns, natural) > width and any(column.spare for column in columns):
        left_out.append(max(columns, key=lambda column: column.spare))
        columns.remove(left_out[-1])
    # Cells never wrap: where it is still too narrow, names are cut with an ellipsis, figures are not.
    rich = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        rich.add_column(
            Text(column.header), justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis",
            min_width=natural[column.key] if column.right else None,
        )  # fmt: skip
    for index, row in enumerate(table.rows):
        style = "bold green" if index in table.best else ""
        rich.add_row(
            *(Text(table.cell(row, column)) for column in columns), style=style, end_section=index + 1 in table.breaks
        )
    text = io.StringIO()
    console = Console(
        file=text, width=width or 100_000, markup=False, highlight=False, force_terminal=color, no_color=not color,
        color_system="standard" if color else None, legacy_windows=False,
    )  # fmt: skip
    if table.title:
        console.print(Text(table.title, style="bold"))
    console.print(rich)
    for note in table.notes:
        console.print(Text(note), soft_wrap=True)
    if left_out:
        names = ", ".join(column.header for column in left_out)
        console.print(Text(f"left out for want of width: {names}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _width(columns: Sequence[Column], natural: Mapping[str, int]) -> int:
    return sum(natural[column.key] for column in columns) + GAP * (len(columns) - 1)
