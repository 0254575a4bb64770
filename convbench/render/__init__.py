"""Facts to text: a `Table` of raw values and how to show them; a renderer per format.

Values stay SI in a table; only the text renderers format them, with a column's `show`. JSON and CSV get them raw.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FORMATS = ("table", "json", "csv", "markdown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: the key of its values, its header, and how a value is shown (None is always shown as –)."""

    key: str
    header: str
    show: Callable[[Any], str] = str
    right: bool = False
    hidden: bool = False
    """Left out of the text formats, kept in JSON and CSV."""
    spare: int = 0
    """Where a terminal is too narrow, columns are left out by this number, the largest first; never those of 0."""
    text_only: bool = False
    """Left out of JSON and CSV, which have the values that it is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Named rows of raw values under columns, with notes below; `key` names it in JSON."""

    key: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    title: str = ""
    notes: Sequence[str] = ()
    best: Sequence[int] = field(default=())
    """Rows that stand out, such as the fastest of a case."""
    breaks: Sequence[int] = field(default=())
    """Rows that begin a new block."""

    def shown(self) -> list[Column]:
        """Columns of the text formats."""
        return [column for column in self.columns if not column.hidden]

    def cell(self, row: Mapping[str, Any], column: Column) -> str:
        """One value as text."""
        value = row.get(column.key)
        return "–" if value is None else column.show(value)

    def raw(self) -> list[Column]:
        """Columns of JSON and CSV."""
        return [column for column in self.columns if not column.text_only]


def render(tables: Sequence[Table], output_format: str, *, width: int | None = None, color: bool = False) -> str:
    """Tables as text in one of FORMATS. CSV holds the first table only, having no place for more."""
    if output_format == "table":
        from convbench.render.table import render_table

        return "\n".join(render_table(table, width=width, color=color) for table in tables)
    from convbench.render import plain

    if output_format == "json":
        return plain.render_json(tables)
    if output_format == "csv":
        return plain.render_csv(tables[0])
    return "\n".join(plain.render_markdown(table) for table in tables)
