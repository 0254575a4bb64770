"""What the plots with a point per row share: panels in a grid, marks, their labels, the key, and the numbered table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator

from convbench.errors import InputError
from convbench.render.plot.labels import Taken, label_point, size_of
from convbench.render.plot.style import (
    MARKERS,
    SMALL,
    TEXT,
    TINY,
    Theme,
    add_axes,
    add_notes,
    header_inches,
    new_figure,
)
from convbench.roofline import Bound, Flag
from convbench.units import format_time, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from convbench.render.plot.scene import Panel, Point, Scene

MOST_LETTERS = 300
"""Where the names of a panel's points are no longer together (half as long, of several panels) the points carry them;
otherwise numbers, and a table at the side says whose."""
MOST_NUMBERED = 200
LEAST_AREA, MOST_AREA = 14.0, 190.0
"""Of a marker, in square points; the area goes with the time, down to the least that can be seen."""
MOST_NAME = 34
KEY_ROWS = 2
ROW_INCHES = 0.118
GAP_LEFT, GAP_BELOW = 0.72, 0.55
FLAG_MARKS = {Flag.ABOVE_ROOF: "↑", Flag.AMBIGUOUS: "?", Flag.IMPLEMENTATION: ""}
"""Behind what a row attained. A row that its implementation holds back is seen from the figure itself."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A figure, the axes of each panel, and where the table may stand, in inches: left, bottom, width, height."""

    figure: Figure
    axes: list[Axes]
    side: tuple[float, float, float, float] | None


def draw_panels(
    scene: Scene,
    theme: Theme,
    panels: Sequence[Panel],
    place: Callable[[Point], tuple[float, float]],
    scales: Callable[[Axes, Panel], None],
    lines: Callable[[Axes, Taken, Panel], None],
    key: list[Artist],
    notes: list[str],
) -> Figure:
    """The whole picture: `place` says where points are, `scales` sets limits, `lines` draws what lies behind points."""
    numbers = numbers_of(panels)
    canvas = make_canvas(scene, theme, panels, numbers)
    outlined, longest_s = second_series(panels), longest(panels)
    homeless = 0
    for ax, panel in zip(canvas.axes, panels, strict=True):
        scales(ax, panel)
        taken = occupied(ax, panel, place, longest_s)
        lines(ax, taken, panel)
        draw_points(ax, theme, panel, place, longest_s, outlined)
        homeless += label_points(ax, taken, theme, panel, place, longest_s, numbers)
    add_table(canvas, theme, panels, numbers)
    add_key(canvas, theme, scene, panels, outlined, key)
    notes = [*notes, *flag_notes(panels)]
    if homeless:
        notes.append(f"{homeless} of {sum(len(panel.points) for panel in panels)} labels left out for want of room")
    add_notes(canvas.figure, theme, notes)
    return canvas.figure


def numbers_of(panels: Sequence[Panel]) -> dict[tuple[str, ...], int]:
    """A number for each identity, in the order of the run; none where every panel is sparse enough for names.

    Raises:
        InputError: there are too many for one picture.
    """
    letters = max(sum(len(_named(point)) for point in panel.points) for panel in panels)
    if letters <= (MOST_LETTERS if len(panels) == 1 else MOST_LETTERS // 2):
        return {}
    identities = dict.fromkeys(point.identity for panel in panels for point in panel.points)
    if len(identities) > MOST_NUMBERED:
        raise InputError(f"{len(identities)} points to be told apart are too many for one picture (at most "
                         f"{MOST_NUMBERED}): choose with --filter, --pass or --dtype")  # fmt: skip
    return {identity: number for number, identity in enumerate(identities, start=1)}


def attained(point: Point) -> str:
    """What the row attained of its floor, marked where its bound should not be taken at its word."""
    judgement = point.placed.judgement
    flag = FLAG_MARKS[judgement.flag] if judgement.flag else ""
    return f"{significant(100 * judgement.attained, 2)}%{flag}"


def flag_notes(panels: Sequence[Panel]) -> list[str]:
    """What the marks behind percentages mean, where there are any."""
    present = {point.placed.judgement.flag for panel in panels for point in panel.points}
    meanings = {
        Flag.AMBIGUOUS: "? bound ambiguous: the two largest times are too close",
        Flag.ABOVE_ROOF: "↑ above the roof: a ceiling or a count is wrong",
    }
    return [text for flag, text in meanings.items() if flag in present]


def tag(what: str, point: Point) -> str:
    """The label of an artist that belongs to a point; the underscore keeps it out of legends."""
    return "_" + "-".join((what, *point.identity))


def area_of(point: Point, longest_s: float) -> float:
    """The marker's area, square points."""
    return max(LEAST_AREA, MOST_AREA * point.placed.time_s / longest_s)


def decades(axis: Axis) -> None:
    """Ticks of a logarithmic axis: at 1, 2 and 5 where it is short, at powers of ten where it is long."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 2e3 else (1.0,), numticks=12))
    axis.set_minor_locator(NullLocator())


def longest(panels: Sequence[Panel]) -> float:
    """The longest time, seconds."""
    return max(point.placed.time_s for panel in panels for point in panel.points)


def make_canvas(scene: Scene, theme: Theme, panels: Sequence[Panel], numbers: dict[tuple[str, ...], int]) -> Canvas:
    """Axes for the panels, and room for the table of `numbers`: right of one, in the corner of three, else below."""
    count = len(panels)
    across = 1 if count == 1 else 2 if count <= 4 else 3
    down = -(-count // across)
    width, height = {1: (7.6, 5.0), 2: (5.6, 4.3)}.get(across, (4.6, 3.6))
    gap_above = 0.3 if count > 1 else 0.0  # for the panels' titles
    below, above = 0.35, header_inches(scene) + 0.2 * KEY_ROWS + 0.15
    grid = across * (width + GAP_LEFT) + 0.25
    column = _column_inches(panels)
    corner, right, under = (bool(numbers) and place for place in (count == 3, count == 1, count not in {1, 3}))
    right_width = column * -(-len(numbers) // int(height / ROW_INCHES - 1)) + 0.3 if right else 0.0
    under_height = 0.0
    if under:
        under_height = (-(-len(numbers) // max(1, int((grid - 0.6) / column))) + 2) * ROW_INCHES
    total_height = below + under_height + down * (height + GAP_BELOW + gap_above) + above
    figure = new_figure(scene, theme, grid + right_width, total_height)
    axes = []
    for place, panel in enumerate(panels):
        left = GAP_LEFT + (place % across) * (width + GAP_LEFT)
        bottom = total_height - above - (place // across + 1) * (height + GAP_BELOW + gap_above) + GAP_BELOW
        ax = add_axes(figure, left, bottom, width, height)
        if count > 1:
            ax.set_title(panel.title, size=TEXT + 1, weight="bold", loc="left", pad=6)
        ax.grid(visible=True)
        axes.append(ax)
    side = None
    if corner:
        side = (GAP_LEFT + width + 0.45, below + GAP_BELOW, width + 0.4, height)
    elif right:
        side = (grid + 0.05, below + GAP_BELOW, right_width, height)
    elif under:
        side = (0.3, below, grid - 0.6, under_height)
    return Canvas(figure, axes, side)


def _column_inches(panels: Sequence[Panel]) -> float:
    longest_name = max(len(_shown(point.identity)) for panel in panels for point in panel.points)
    return 0.25 + 0.056 * longest_name + 0.36 * len(panels) + 0.2


def _shown(identity: tuple[str, ...]) -> str:
    text = " · ".join(identity)
    return text if len(text) <= MOST_NAME else f"{text[: MOST_NAME // 2]}…{text[-MOST_NAME // 2 + 1 :]}"


def _named(point: Point) -> str:
    return f"{_shown(point.identity)} {attained(point)}"


def draw_points(
    ax: Axes,
    theme: Theme,
    panel: Panel,
    place: Callable[[Point], tuple[float, float]],
    longest_s: float,
    outlined: str | None,
) -> None:
    """The panel's marks: shape and colour by bound, area by time, an outline for the series called `outlined`."""
    points = sorted(panel.points, key=lambda point: -point.placed.time_s)  # small ones on top
    for point in points:
        x, y = place(point)
        bound = point.placed.judgement.bound
        area = area_of(point, longest_s)
        edge, width = (theme.text, 1.0) if point.series == outlined else (theme.ground, 0.5)
        solid = not point.placed.nominal
        ax.scatter(
            [x], [y], s=area, marker=MARKERS[bound], color=theme.bounds[bound] if solid else "none", zorder=4,
            edgecolors=edge if solid else theme.bounds[bound], linewidths=width if solid else 1.0,
            label=tag("executed" if solid else "nominal", point),
        )  # fmt: skip


def occupied(ax: Axes, panel: Panel, place: Callable[[Point], tuple[float, float]], longest_s: float) -> Taken:
    """The panel's space, once the limits of its axes are set, with the marks of its points taken."""
    taken = Taken(tuple(ax.bbox.extents))
    for point in panel.points:
        x, y = ax.transData.transform(place(point))
        half = radius(ax, area_of(point, longest_s)) * 0.9
        taken.add((x - half, y - half, x + half, y + half))
    return taken


def radius(ax: Axes, area: float) -> float:
    """Of a marker, pixels."""
    return math.sqrt(area) / 2 * ax.figure.dpi / 72


def label_points(
    ax: Axes,
    taken: Taken,
    theme: Theme,
    panel: Panel,
    place: Callable[[Point], tuple[float, float]],
    longest_s: float,
    numbers: dict[tuple[str, ...], int],
) -> int:
    """Names or numbers beside the marks, longest times first; how many found no room."""
    homeless = 0
    halo = [withStroke(linewidth=2, foreground=theme.ground)]
    for point in sorted(panel.points, key=lambda point: -point.placed.time_s):
        text = str(numbers[point.identity]) if numbers else _named(point)
        label = ax.text(
            0, 0, text, transform=None, size=TINY if numbers else SMALL, ha="center", va="center", zorder=6,
            path_effects=None if numbers else halo,
        )  # fmt: skip
        x, y = (float(v) for v in ax.transData.transform(place(point)))
        reach = radius(ax, area_of(point, longest_s))
        size = size_of(ax, label)
        found = label_point(taken, x, y, reach, size)
        if found is None:
            label.remove()
            homeless += 1
            continue
        label.set_transform(ax.transData)
        label.set_position(tuple(ax.transData.inverted().transform(found)))
        label.set_label("_label")
        dx, dy = found[0] - x, found[1] - y
        edge = min(size[0] / 2 / max(abs(dx), 1e-9), size[1] / 2 / max(abs(dy), 1e-9), 1.0)
        if math.hypot(dx, dy) * (1 - edge) > reach + 6:
            ends = ax.transData.inverted().transform([(x, y), (x + dx * (1 - edge), y + dy * (1 - edge))])
            ax.plot(*zip(*ends, strict=True), color=theme.muted, lw=0.4, zorder=3)
    return homeless


def add_table(canvas: Canvas, theme: Theme, panels: Sequence[Panel], numbers: dict[tuple[str, ...], int]) -> None:
    """Whose the numbers are, and what each row attained: a column per panel, aligned line by line."""
    if canvas.side is None:
        return
    left, bottom, width, height = canvas.side
    across, up = canvas.figure.get_size_inches()
    found = [{point.identity: attained(point) for point in panel.points} for panel in panels]
    heads = [panel.title for panel in panels] if len(panels) > 1 else ["attained"]
    columns = -(-len(numbers) // int(height / ROW_INCHES - 1))
    rows = -(-len(numbers) // columns)
    step = min(width / columns, 1.5 * _column_inches(panels))
    for column in range(columns):
        part = [*numbers][column * rows : (column + 1) * rows]
        x = left + column * step
        last = x + step - 0.12
        blocks = [(x + 0.2, "right", ["", *(str(numbers[identity]) for identity in part)]),
                  (x + 0.25, "left", ["", *map(_shown, part)])]  # fmt: skip
        for place, (head, of) in enumerate(zip(heads, found, strict=True)):
            right = last - (len(heads) - 1 - place) * 0.38
            blocks.append((right, "right", [head, *(of.get(identity, "–") for identity in part)]))
        for place, (at, align, lines) in enumerate(blocks):
            for row, text in enumerate(lines):
                canvas.figure.text(
                    at / across, (bottom + height - row * ROW_INCHES) / up, text, size=TINY, ha=align, va="top",
                    color=theme.muted if not row or place == 0 else theme.text, label="_table",
                )  # fmt: skip


def add_key(
    canvas: Canvas, theme: Theme, scene: Scene, panels: Sequence[Panel], outlined: str | None, more: list[Artist]
) -> None:
    """What shapes, colours, outlines and areas mean, in a strip below the title."""
    points = [point for panel in panels for point in panel.points]
    present = {point.placed.judgement.bound for point in points}
    entries: list[Artist] = [
        Line2D([], [], ls="", marker=MARKERS[bound], color=theme.bounds[bound], ms=6, mew=0, label=f"{bound}-bound")
        for bound in Bound
        if bound in present
    ]
    names = list(dict.fromkeys(point.series for point in points))
    if outlined:
        entries += [
            Line2D([], [], ls="", marker="o", color=theme.muted, ms=6, mew=1.0 if name == outlined else 0,
                   mec=theme.text, label=name) for name in names
        ]  # fmt: skip
    longest_s = longest(panels)
    for share, word in ((1.0, "area: "), (0.25, "")):
        size = math.sqrt(MOST_AREA * share)
        entries.append(Line2D([], [], ls="", marker="o", color=theme.grid, mec=theme.muted, mew=0.6, ms=size,
                              label=f"{word}{format_time(longest_s * share, 2)}"))  # fmt: skip
    entries += more
    across, up = canvas.figure.get_size_inches()
    canvas.figure.legend(
        handles=entries, ncols=-(-len(entries) // KEY_ROWS), loc="upper left", fontsize=SMALL, labelcolor=theme.text,
        bbox_to_anchor=(0.2 / across, 1 - header_inches(scene) / up), borderaxespad=0.2, columnspacing=1.6,
        handletextpad=0.5, handlelength=2.0,
    )  # fmt: skip


def line_entry(theme: Theme, label: str, style: str = "-") -> Line2D:
    """A line in the key."""
    return Line2D([], [], color=theme.text, lw=1.1, ls=style, label=label)


def patch_entry(theme: Theme, label: str) -> Patch:
    """A filled area in the key."""
    return Patch(facecolor=theme.band, edgecolor=theme.grid, label=label)


def second_series(panels: Sequence[Panel]) -> str | None:
    """The series that gets an outline: the second, where panels show two."""
    if all(len({point.series for point in panel.points}) < 2 for panel in panels):
        return None
    return list(dict.fromkeys(point.series for panel in panels for point in panel.points))[1]
