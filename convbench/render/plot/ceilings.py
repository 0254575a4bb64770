"""Bandwidth over the size of the working set: the curve that cache levels were told from."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from convbench.render.plot.facts import curves, titled
from convbench.render.plot.labels import Taken, label_line
from convbench.render.plot.scene import doubts
from convbench.render.plot.style import SMALL, TEXT, Theme, add_axes, add_notes, header_inches, new_figure
from convbench.units import format_bytes, format_si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from convbench.ceilings import Ceilings
    from convbench.render.plot.scene import Scene

GIGA = 1e9
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH, HEIGHT = 7.6, 4.4
STEPS = 8
"""Boxes that stand for a stretch of a curve, so that labels stay off it."""


def draw(scene: Scene, theme: Theme) -> Figure:
    """A panel per device that has a curve.

    Raises:
        InputError: none has.
    """
    found = curves(scene)
    above = header_inches(scene) + 0.35
    figure = new_figure(titled(scene, "ceilings"), theme, WIDTH + 1.0, above + len(found) * (HEIGHT + 0.9) + 0.1)
    notes: list[str] = []
    for place, (device, ceilings) in enumerate(found.items()):
        bottom = 0.35 + (len(found) - 1 - place) * (HEIGHT + 0.9) + 0.5
        ax = add_axes(figure, 0.75, bottom, WIDTH, HEIGHT)
        if len(found) > 1:
            ax.set_title(device, size=TEXT + 1, weight="bold", loc="left")
        _draw(ax, theme, ceilings)
        notes += doubts(device, ceilings)
    add_notes(figure, theme, notes)
    return figure


def _draw(ax: Axes, theme: Theme, ceilings: Ceilings) -> None:
    sizes = [point.size_bytes for point in ceilings.curve]
    fastest = max([*(point.bytes_per_s for point in ceilings.curve), *(c.value for c in ceilings.bandwidth.values())])
    ax.set(xscale="log", xlim=(min(sizes) / 1.6, max(sizes) * 1.6), ylim=(0, fastest / GIGA * 1.12),
           xlabel="working set: all arrays, all threads", ylabel="GB/s, read and written")  # fmt: skip
    ax.xaxis.set_major_locator(FixedLocator([4**power for power in range(20) if min(sizes) <= 4**power <= max(sizes)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: format_bytes(value).replace(".00", "").replace(".0", ""))
    )
    ax.grid(visible=True)
    taken = Taken(tuple(ax.bbox.extents))
    for place, mix in enumerate(dict.fromkeys(point.mix for point in ceilings.curve)):
        points = sorted((p for p in ceilings.curve if p.mix == mix), key=lambda p: p.size_bytes)
        ax.errorbar(
            [p.size_bytes for p in points], [p.bytes_per_s / GIGA for p in points],
            yerr=[p.sigma * p.bytes_per_s / GIGA for p in points], color=theme.series[place % len(theme.series)],
            marker=MARKERS[place % len(MARKERS)], ms=4.5, lw=1.2, elinewidth=0.8, label=mix, zorder=3,
        )  # fmt: skip
        corners = ax.transData.transform([(p.size_bytes, p.bytes_per_s / GIGA) for p in points])
        for (x0, y0), (x1, y1) in pairwise(corners):
            spots = [(x0 + (x1 - x0) * i / STEPS, y0 + (y1 - y0) * i / STEPS) for i in range(STEPS + 1)]
            taken.add(*((x - 3, y - 3, x + 3, y + 3) for x, y in spots))
    halo = [withStroke(linewidth=2.5, foreground=theme.ground)]
    left, right = ax.get_xlim()
    _, high = ax.get_ylim()
    for level, ceiling in ceilings.bandwidth.items():
        value = ceiling.value / GIGA
        ax.plot([left, right], [value, value], color=theme.muted, lw=0.9, ls="--", zorder=2, label=f"_roof-{level}")
        label_line(ax, taken, (left, value), (right, value), f"{level.upper()} {format_si(ceiling.value, 'B/s')}",
                   size=SMALL, path_effects=halo, zorder=5, label=f"_roof-{level}-label")  # fmt: skip
    for level, capacity in ceilings.capacity_bytes.items():
        if left < capacity < right:
            ax.plot(
                [capacity, capacity], [0, high], color=theme.muted, lw=0.9, ls=":", zorder=2, label=f"_size-{level}"
            )
            label_line(ax, taken, (capacity, 0), (capacity, high), f"{level.upper()} holds {format_bytes(capacity)}",
                       size=SMALL, path_effects=halo, zorder=5, label=f"_size-{level}-label")  # fmt: skip
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, fontsize=SMALL, labelcolor=theme.text, borderaxespad=0
    )
