"""Tables of several runs as one."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from convbench.errors import printable
from convbench.render import Column, Table, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CHOICES = ("suite", "dtype", "layout", "epilogue", "cache", "threads")
"""Columns that a run's own table leaves out where all its rows agree; those of several runs need not."""


LONG_RUN = 18
"""Letters of a run's name in tables and charts: it matters least there."""
HEAD = 3
"""Letters that are left of what all names begin with."""


def numbered(names: Iterable[str]) -> list[str]:
    """The names as they can be shown, each once: a later one that is the same as another gets a number.

    >>> numbered(["a", "a (2)", "a"])
    ['a', 'a (2)', 'a (3)']
    """
    taken: dict[str, None] = {}
    for name in map(printable, names):
        tries = (f"{name} ({number})" if number > 1 else name for number in count(1))
        taken[next(text for text in tries if text not in taken)] = None
    return [*taken]


def brief(names: Sequence[str], most: int = LONG_RUN) -> dict[str, str]:
    """Short forms of different names, all different: `most` letters, or as many more as tell them apart.

    Where that takes more, what they begin with alike is left out.

    >>> brief(["before", "measured_after_that_change"], 12)
    {'before': 'before', 'measured_after_that_change': 'measur…hange'}
    """
    begin = sum(1 for _ in takewhile(lambda letters: len({*letters}) == 1, zip(*names, strict=False)))
    without = [[f"{name[:HEAD]}…{name[begin:]}" for name in names]] if begin > HEAD + 1 else []
    tries = (
        dict(zip(names, (shortened(text, room) for text in texts), strict=True))
        for room in count(most)
        for texts in ([*names], *without)
    )
    return next(short for short in tries if len({*short.values()}) == len(short))


def merged(tables: Mapping[str, Table]) -> Table:
    """The tables as one, with a column `run` in front: hidden where there is only one run."""
    first, several = next(iter(tables.values())), len(tables) > 1
    rows: list[dict[str, Any]] = []
    best: list[int] = []
    breaks: list[int] = []
    notes: dict[str, list[str]] = {}
    for name, table in tables.items():
        best += [len(rows) + index for index in table.best]
        breaks += [len(rows) + index for index in ([0] if rows else []) + [*table.breaks]]
        for note in table.notes:
            notes.setdefault(note, []).append(name)
        rows += [{"run": name} | dict(row) for row in table.rows]
    columns: dict[str, Column] = {"run": Column(key="run", header="run", hidden=not several)}
    for column in (column for table in tables.values() for column in table.columns):
        if column.key not in columns or columns[column.key].hidden:
            columns[column.key] = column  # in its first place; shown where one run shows it
    for key in CHOICES:
        if key in columns and len({row.get(key) for row in rows}) > 1:
            columns[key] = replace(columns[key], hidden=False)
    titles = {table.title for table in tables.values()}
    legend = {text: keys for table in tables.values() for keys, text in table.legend}
    return replace(
        first, columns=[*columns.values()], rows=rows, best=best, breaks=breaks,
        notes=[note if len(of) == len(tables) else f"{', '.join(of)}: {note}" for note, of in notes.items()],
        title=first.title if len(titles) == 1 else ", ".join(tables),
        legend=[(keys, text) for text, keys in legend.items()],
    )  # fmt: skip
