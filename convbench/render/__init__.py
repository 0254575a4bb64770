"""Facts to text: a `Table` of raw values and how to show them; a renderer per format.

Values stay SI in a table; only the text renderers format them, with a column's `show`. JSON and CSV get them raw.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from convbench.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

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
    """Where a terminal is too narrow, columns of a larger number are left out first; never those of 0."""
    cut: bool = False
    """Free text, shortened with an ellipsis where a terminal is too narrow; names and figures never are."""
    wrap: int = 0
    """Free text, broken into lines of so many characters in the terminal; 0 leaves it on one."""
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
    legend: Sequence[tuple[Sequence[str], str]] = ()
    """Notes that explain columns, with the keys of these: above the others, and only where one of its columns is."""
    best: Sequence[int] = field(default=())
    """Rows that stand out, such as the fastest of a case."""
    alarming: Sequence[int] = field(default=())
    """Rows that stand out because something is wrong with them."""
    breaks: Sequence[int] = field(default=())
    """Rows that begin a new block."""

    def shown(self) -> list[Column]:
        """Columns of the text formats."""
        return [column for column in self.columns if not column.hidden]

    def cell(self, row: Mapping[str, Any], column: Column) -> str:
        """One value as text, on one line."""
        value = row.get(column.key)
        return "–" if value is None else printable(column.show(value))

    def notes_on(self, keys: Container[str]) -> list[str]:
        """The legend of the columns whose key is among `keys`, and the notes."""
        return [*(text for columns, text in self.legend if any(key in keys for key in columns)), *self.notes]

    def raw(self) -> list[Column]:
        """Columns of JSON and CSV."""
        return [column for column in self.columns if not column.text_only]


def shortened(text: str, most: int) -> str:
    """`text` in `most` characters, an ellipsis in its middle where it is longer: names differ at their ends.

    >>> shortened("measured_before_that_change", 11)
    'measu…hange'
    """
    if len(text) <= most:
        return text
    end = max(1, (most - 1) // 2)
    return f"{text[: max(1, most - 1 - end)]}…{text[-end:]}"


def render(tables: Sequence[Table], output_format: str, *, width: int | None = None, color: bool = False) -> str:
    """Tables as text in one of FORMATS. CSV holds the first table only, having no place for more."""
    from convbench.render import plain

    if output_format == "json":
        return plain.render_json(tables)
    if output_format == "csv":
        return plain.render_csv(tables[0])
    tables = [_printable(table) for table in tables]
    if output_format == "table":
        from convbench.render.table import render_table

        return "\n".join(render_table(table, width=width, color=color) for table in tables)
    tables = [replace(table, notes=table.notes_on({c.key for c in table.shown()})) for table in tables]
    return "\n".join(plain.render_markdown(table) for table in tables)


def _printable(table: Table) -> Table:
    """The table with every text but its cells, which `cell` makes, on one line."""
    columns = [replace(column, header=printable(column.header)) for column in table.columns]
    notes = [printable(note) for note in table.notes]
    legend = [(keys, printable(text)) for keys, text in table.legend]
    return replace(table, title=printable(table.title), columns=columns, notes=notes, legend=legend)
