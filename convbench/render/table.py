"""Tables for the terminal."""

from __future__ import annotations

import itertools
import textwrap
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.render import Column, Table

GAP = "   "
LEAST = 32
"""Cells that a column whose text may be cut gets at least, or what its longest text needs."""
BOLD, BOLD_GREEN, BOLD_RED = "1", "1;32", "1;31"


def render_table(table: Table, *, width: int | None = None, color: bool = False) -> str:
    """A table with its title and notes; as wide as it needs where `width`, in cells, is None.

    Where it is too wide, columns are left out by their `spare` number, then texts of `cut` columns are shortened.
    Names and figures are never cut: what is still too wide is left for the terminal to wrap, as titles and notes are.
    """

    def styled(text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if color and text else text

    columns = table.shown()
    cells = {c.key: [[c.header], *(_lines(table, row, c) for row in table.rows)] for c in columns}
    natural = {key: max(cell_len(line) for lines in found for line in lines) for key, found in cells.items()}
    widths = natural if width is None else _fitted(columns, natural, width)
    shown = [column for column in columns if column.key in widths]
    header, *rows = (
        "\n".join(_row(lines, shown, widths)) for lines in zip(*(cells[c.key] for c in shown), strict=True)
    )
    lines = [styled(table.title, BOLD)] if table.title else []
    lines += [styled(header, BOLD), "─" * _total(widths)]
    for index, row in enumerate(rows):
        lines += [""] if index in table.breaks else []
        style = BOLD_GREEN if index in table.best else BOLD_RED if index in table.alarming else ""
        lines.append(styled(row, style) if style else row)
    lines += table.notes_on(widths)
    left_out = sorted((c for c in columns if c.key not in widths), key=lambda column: -column.spare)
    shortened = [c for c in shown if widths[c.key] < natural[c.key]]
    for what, some in (("left out", left_out), ("shortened", shortened)):
        if some:
            lines.append(f"{what} for want of width: {', '.join(c.header for c in some)}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _lines(table: Table, row: Mapping[str, Any], column: Column) -> list[str]:
    """A cell, line by line."""
    text = table.cell(row, column)
    return textwrap.wrap(text, column.wrap, break_on_hyphens=False) if column.wrap else [text]


def _row(cells: Sequence[Sequence[str]], columns: Sequence[Column], widths: Mapping[str, int]) -> list[str]:
    """The lines of a row: those of its cells, one beside another."""
    grid = itertools.zip_longest(*cells, fillvalue="")
    return [
        GAP.join(_aligned(text, widths[c.key], c.right) for text, c in zip(line, columns, strict=True)).rstrip()
        for line in grid
    ]


def _fitted(columns: Sequence[Column], natural: Mapping[str, int], width: int) -> dict[str, int]:
    """Widths of the columns that fit, by key: all of `spare` 0, then of the others each that finds room; one at least.

    The room that is left goes to the texts that may be cut, in the same order.
    """
    least = {c.key: min(natural[c.key], LEAST) if c.cut else natural[c.key] for c in columns}
    widths = {c.key: least[c.key] for c in columns if not c.spare}
    for column in sorted((c for c in columns if c.spare), key=lambda column: column.spare):
        wider = widths | {column.key: least[column.key]}
        if not widths or _total(wider) <= width:
            widths = wider
    for key in widths:
        widths[key] += max(0, min(natural[key] - widths[key], width - _total(widths)))
    return widths


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _aligned(text: str, width: int, right: bool) -> str:
    """`text` on `width` cells, an ellipsis at its end where it is longer; a character may take two."""
    length = cell_len(text)
    if length > width:
        text = set_cell_size(text, width - 1).rstrip() + "…"
        length = cell_len(text)
    padding = " " * (width - length)
    return padding + text if right else text + padding
