"""Tables for the terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from convbench.render import Table


def render_table(table: Table, *, width: int | None = None, color: bool = False) -> str:
    """A table with its title and notes; as wide as it needs where `width` is None."""
    columns = table.shown()
    # Cells never wrap: where the terminal is too narrow, text is cut with an ellipsis, figures last.
    rich = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        rich.add_column(
            Text(column.header), justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis"
        )
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
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
