"""A plot of characters: two logarithmic axes, points and lines in cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CORNER = 8
"""Cells left of the axis, for its numbers."""


def styled(text: str, style: str, color: bool) -> str:
    """The text in an ANSI style, on terminals that have colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if color and style and text else text


class Characters:
    """Cells between two limits; what is outside is not drawn. Later marks replace earlier ones."""

    def __init__(self, width: int, height: int, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.width, self.height = width - CORNER - 1, height
        self._limits = x, y
        self._cells: dict[tuple[int, int], tuple[str, str]] = {}

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """Column and row, from the lower left, of a value above 0."""
        (x0, x1), (y0, y1) = self._limits
        across = math.log(x / x0) / math.log(x1 / x0) * (self.width - 1)
        up = math.log(y / y0) / math.log(y1 / y0) * (self.height - 1)
        return round(across), round(up)

    def put(self, x: float, y: float, mark: str, style: str = "") -> None:
        """A mark at a point."""
        self._put(*self.cell(x, y), mark, style)

    def _put(self, column: int, row: int, mark: str, style: str = "") -> None:
        if 0 <= column < self.width and 0 <= row < self.height:
            self._cells[column, row] = mark, style

    def join(self, x: float, low: float, high: float, style: str) -> None:
        """A vertical line in cells that are free."""
        column, first = self.cell(x, low)
        _, last = self.cell(x, high)
        for row in range(first, last + 1):
            if (column, row) not in self._cells:
                self._put(column, row, "│", style)

    def line(self, of: Callable[[float], float | None], mark: str) -> list[tuple[int, int]]:
        """A function of x, drawn where it has a value; its cells, for `name`."""
        (x0, x1), _ = self._limits
        path = []
        for column in range(self.width):
            x = x0 * (x1 / x0) ** (column / (self.width - 1))
            y = of(x)
            if y is not None:
                path.append((column, self.cell(x, y)[1]))
                self._put(*path[-1], mark)
        return path

    def name(self, path: list[tuple[int, int]], mark: str, text: str, *, right: bool = False) -> bool:
        """Writes a line's name on it where no other mark is, as far left (or right) as possible; False without room."""
        for column, row in sorted(path, reverse=right):
            cells = [(column + place, row) for place in range(len(text))]
            if column + len(text) > self.width or not 0 <= row < self.height:
                continue
            if any(self._cells.get(cell, (mark, ""))[0] != mark for cell in cells):
                continue
            for cell, letter in zip(cells, text, strict=True):
                self._cells[cell] = (letter if letter != " " else "\u00a0"), ""
            return True
        return False

    def lines(
        self, x_name: str, y_name: str, show_x: Callable[[float], str], show_y: Callable[[float], str], *, color: bool
    ) -> list[str]:
        """The plot as text: the name and numbers of each axis, and the cells."""
        (x0, x1), (y0, y1) = self._limits
        numbers = {self.cell(x0, value)[1]: show_y(value) for value in ticks(y0, y1, 6)}
        drawn = [f"{y_name:>{CORNER}}"]
        for row in reversed(range(self.height)):
            cells = [self._cells.get((column, row), (" ", "")) for column in range(self.width)]
            text = "".join(styled(mark, style, color) for mark, style in cells).replace("\u00a0", " ")
            number = numbers.get(row, "")
            drawn.append(f"{number:>{CORNER - 1}} {'┤' if number else '│'}{text}".rstrip())
        axis, below = ["─"] * self.width, [" "] * self.width
        for value in ticks(x0, x1, 6):
            column, _ = self.cell(value, y0)
            text = show_x(value)
            start = min(max(0, column - len(text) // 2), self.width - len(text))
            if not "".join(below[max(0, start - 1) : start + len(text) + 1]).strip():
                axis[column] = "┴"
                below[start : start + len(text)] = text
        drawn.append(f"{'':>{CORNER}}└{''.join(axis)}")
        drawn.append(f"{'':>{CORNER}} {''.join(below)}".rstrip())
        return [*drawn, f"{'':>{CORNER}} {x_name}"]


def ticks(low: float, high: float, most: int) -> list[float]:
    """At 1, 2 and 5 times powers of ten where those are `most` or fewer, else at powers of ten, or every so many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1,)):
        found = [
            float(f"{step}e{power}") for power in powers for step in steps if low <= float(f"{step}e{power}") <= high
        ]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]
