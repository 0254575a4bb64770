"""Labels that do not collide: boxes in pixels, and where the next one still fits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from numpy.typing import NDArray

GAP = 1.5
"""Pixels that stay free around a label."""
DIRECTIONS = [math.pi / 4 + turn * math.pi / 8 for turn in (0, 2, -2, 4, 6, -4, 8, -6, 1, -1, 3, -3, 5, 7, -5, -7)]
"""Where a label is tried around its point: upper right first, oblique ones last."""
RINGS = 14
LINE_PIXELS = 3.0


class Taken:
    """Space of an area that is taken, as boxes (x0, y0, x1, y1) in pixels."""

    def __init__(self, area: tuple[float, ...]) -> None:
        self._area = area
        self._boxes: list[tuple[float, float, float, float]] = []
        self._array: NDArray[np.float64] = np.empty((0, 4))

    def add(self, *boxes: tuple[float, float, float, float]) -> None:
        """Takes boxes, wherever they are."""
        self._boxes += boxes
        self._array = np.array(self._boxes)

    def free(self, box: tuple[float, float, float, float]) -> bool:
        """Whether a box lies inside the area and touches nothing."""
        x0, y0, x1, y1 = box
        left, low, right, high = self._area
        if x0 < left or y0 < low or x1 > right or y1 > high:
            return False
        a = self._array
        return not bool(np.any((a[:, 0] < x1) & (a[:, 2] > x0) & (a[:, 1] < y1) & (a[:, 3] > y0)))


def around(x: float, y: float, radius: float, width: float, height: float) -> Iterator[tuple[float, float]]:
    """Centres for a box of that size around a point's marker, nearest rings first."""
    for ring in range(RINGS):
        for direction in DIRECTIONS:
            dx, dy = math.cos(direction), math.sin(direction)
            # As far out as the box needs in that direction to clear the marker.
            reach = radius + GAP + ring * height * 0.7
            yield x + dx * (reach + width / 2), y + dy * (reach + height / 2)


def label_point(
    taken: Taken, x: float, y: float, radius: float, size: tuple[float, float]
) -> tuple[float, float] | None:
    """The centre of a free box of `size` near a point, taken now; None where there is no room."""
    width, height = size[0] + 2 * GAP, size[1] + 2 * GAP
    for cx, cy in around(x, y, radius, width, height):
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        if taken.free(box):
            taken.add(box)
            return cx, cy
    return None


def along(x: float, y: float, angle: float, width: float, height: float) -> list[tuple[float, float, float, float]]:
    """Boxes that cover a text of that size, centred at (x, y) and turned by `angle` in radians."""
    dx, dy = math.cos(angle), math.sin(angle)
    count = 1 if not angle else max(1, math.ceil(width / height))
    length = width / count
    across = abs(dx) * length / 2 + abs(dy) * height / 2
    up = abs(dy) * length / 2 + abs(dx) * height / 2
    spots = [(i + 0.5) * length - width / 2 for i in range(count)]
    return [(x + s * dx - across, y + s * dy - up, x + s * dx + across, y + s * dy + up) for s in spots]


def size_of(axes: Axes, text: Text) -> tuple[float, float]:
    """Width and height of an unrotated text, pixels."""
    box = text.get_window_extent(axes.figure.canvas.get_renderer())  # type: ignore[attr-defined]  # Agg has one
    return box.width, box.height


def label_line(
    axes: Axes, taken: Taken, start: tuple[float, float], end: tuple[float, float], text: str, **style: object
) -> Text:
    """A text on the line from `start` to `end` (data coordinates), just above it, as near `start` as there is room."""
    (x0, y0), (x1, y1) = axes.transData.transform([start, end])
    heading = math.atan2(y1 - y0, x1 - x0)
    angle = heading if abs(heading) < 0.51 * math.pi else heading + math.pi  # read from left to right
    label = axes.text(0, 0, text, transform=None, ha="center", va="center", **style)  # type: ignore[arg-type]
    width, height = size_of(axes, label)
    length = math.hypot(x1 - x0, y1 - y0)
    up = height / 2 + 3
    steps = max(1, int((length - width - 12) / (width / 5)))
    spots = [6 + width / 2 + step * width / 5 for step in range(steps)]
    places = []
    for spot in spots:
        for side in (up, -up):
            x = x0 + spot * math.cos(heading) - side * math.sin(angle)
            y = y0 + spot * math.sin(heading) + side * math.cos(angle)
            places.append((x, y, along(x, y, angle, width, height)))
    x, y, boxes = next((place for place in places if all(map(taken.free, place[2]))), places[0])
    taken.add(*boxes)
    label.set_transform(axes.transData)
    label.set_position(tuple(axes.transData.inverted().transform((x, y))))
    label.set_rotation(math.degrees(angle))
    label.set_rotation_mode("anchor")
    return label


def keep_off(axes: Axes, taken: Taken, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Takes the space of a line between two points (data coordinates), so that no later label crosses it."""
    (x0, y0), (x1, y1) = axes.transData.transform([start, end])
    length = math.hypot(x1 - x0, y1 - y0)
    taken.add(*along((x0 + x1) / 2, (y0 + y1) / 2, math.atan2(y1 - y0, x1 - x0), length, LINE_PIXELS))
