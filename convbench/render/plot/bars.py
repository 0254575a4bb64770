"""Bars: speed-up between series, phases of rows, totals of networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from convbench.render.plot.facts import network_bars, phase_bars, speedups
from convbench.render.plot.ratios import ratio_ticks
from convbench.render.plot.style import (
    HATCHES,
    SMALL,
    TEXT,
    TINY,
    Theme,
    add_axes,
    add_notes,
    header_inches,
    new_figure,
)
from convbench.units import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from convbench.render.plot.facts import Bar, BarPanel
    from convbench.render.plot.scene import Scene

MOST_WIDTH = 13.0
BAR_INCHES = 0.15
TICK_INCHES = 0.4


def draw_speedup(scene: Scene, theme: Theme) -> Figure:
    """A panel per dtype and pass; a bar per problem and series, from 1 on a logarithmic axis.

    Raises:
        InputError: there is nothing to compare, or no such baseline.
    """
    baseline, panels, notes = speedups(scene)
    names = list(dict.fromkeys(name for panel in panels for bar in panel.bars for name in bar.values))
    figure, axes = _grid(scene, theme, panels, len(names))
    ratios = [value for panel in panels for bar in panel.bars for value in bar.values.values()]
    span = max(2.0, *(max(ratio, 1 / ratio) for ratio in ratios)) ** 1.2
    least, most = min(1 / 1.25, *ratios) / span**0.25, max(1.25, *ratios) * span**0.3
    for ax, panel in zip(axes, panels, strict=True):
        thick = 0.82 / len(names)
        for place, name in enumerate(names):
            for row, bar in enumerate(panel.bars):
                value = bar.values.get(name)
                if value is None:
                    continue
                at = row + (place - (len(names) - 1) / 2) * thick
                ax.barh(at, value - 1, thick * 0.9, left=1, color=theme.series[place % len(theme.series)],
                        hatch=HATCHES[place % len(HATCHES)], zorder=3, lw=0, label=f"_bar-{name}")  # fmt: skip
                away = 1.03 if value >= 1 else 1 / 1.03
                ax.text(value * away, at, f"{value:.2f}×", size=TINY, va="center", ha="left" if value >= 1 else "right",
                        zorder=4)  # fmt: skip
        ax.set(xscale="log", xlim=(least, most), xlabel=f"times as fast as {baseline}")
        room = ax.bbox.width / figure.dpi / TICK_INCHES
        ax.xaxis.set_major_locator(FixedLocator(ratio_ticks(least, most, int(room))))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        ax.axvline(1, color=theme.text, lw=1, zorder=5)
        _name_rows(ax, [bar.name for bar in panel.bars])
    _add_key(figure, theme, scene, names)
    add_notes(figure, theme, notes)
    return figure


def draw_phases(scene: Scene, theme: Theme) -> Figure:
    """A panel per dtype and pass; each row's time divided among its phases.

    Raises:
        InputError: no row was measured by phase.
    """
    panels, names, notes = phase_bars(scene)
    figure, axes = _grid(scene, theme, panels, 1)
    for ax, panel in zip(axes, panels, strict=True):
        _stack(ax, theme, panel.bars, names)
        for row, bar in enumerate(panel.bars):
            ax.text(1.01, row, format_time(bar.total_s), size=TINY, va="center", color=theme.muted)
        ax.set(xlim=(0, 1), xlabel="share of the time, by phase")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        _name_rows(ax, [bar.name for bar in panel.bars])
    _add_key(figure, theme, scene, names)
    add_notes(figure, theme, notes)
    return figure


def draw_network(scene: Scene, theme: Theme) -> Figure:
    """A panel per network, dtype and so on; a bar per series, divided among the passes.

    Raises:
        InputError: no network has a time.
    """
    panels, names, notes = network_bars(scene)
    figure, axes = _grid(scene, theme, panels, 2)
    for ax, panel in zip(axes, panels, strict=True):
        _stack(ax, theme, panel.bars, names)
        longest = max(bar.total_s for bar in panel.bars) or 1.0  # nothing is complete: no bar is drawn
        for row, bar in enumerate(panel.bars):
            end = sum(bar.values.values())
            ax.text(end + longest * 0.015, row, bar.note or format_time(bar.total_s), size=SMALL, va="center")
        ax.set(xlim=(0, longest * 1.25), xlabel="time of the whole network, each layer as often as it occurs")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_time(value) if value else "0"))
        _name_rows(ax, [bar.name for bar in panel.bars])
    _add_key(figure, theme, scene, names)
    add_notes(figure, theme, notes)
    return figure


def _stack(ax: Axes, theme: Theme, bars: Sequence[Bar], names: Sequence[str]) -> None:
    for row, bar in enumerate(bars):
        start = 0.0
        for place, name in enumerate(names):
            value = bar.values.get(name)
            if value is None:
                continue
            ax.barh(row, value, 0.78, left=start, color=theme.series[place % len(theme.series)],
                    hatch=HATCHES[place % len(HATCHES)], edgecolor=theme.ground, lw=0.5, zorder=3,
                    label=f"_bar-{name}")  # fmt: skip
            start += value


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), names, size=SMALL)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=True, axis="x")
    ax.spines["left"].set_visible(False)


def _grid(scene: Scene, theme: Theme, panels: Sequence[BarPanel], beside: int) -> tuple[Figure, list[Axes]]:
    """Axes for panels, three beside each other at most, as high as their rows of `beside` bars need."""
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    left = 0.3 + 0.06 * max(len(bar.name) for panel in panels for bar in panel.bars)
    width = max(2.6, MOST_WIDTH / across - left - 0.55) if across > 1 else 6.0
    needed = [(0.06 + BAR_INCHES * beside) * (len(panel.bars) + 0.2) for panel in panels]
    heights = [max(needed[line * across : (line + 1) * across]) for line in range(down)]
    above = header_inches(scene) + 0.3
    bottom = above + sum(heights) + down * 0.85 + 0.25
    figure = new_figure(scene, theme, across * (left + width + 0.55), bottom)
    bottom -= above
    axes = []
    for place, panel in enumerate(panels):
        line, column = divmod(place, across)
        if column == 0:
            bottom -= heights[line] + 0.85
        height = needed[place]  # so that bars are as thick in every panel
        ax = add_axes(
            figure, left + column * (left + width + 0.55), bottom + 0.5 + heights[line] - height, width, height
        )
        ax.set_title(panel.title, size=TEXT + 1, weight="bold", loc="left")
        axes.append(ax)
    return figure, axes


def _add_key(figure: Figure, theme: Theme, scene: Scene, names: Sequence[str]) -> None:
    across, up = figure.get_size_inches()
    handles = [
        Patch(facecolor=theme.series[place % len(theme.series)], hatch=HATCHES[place % len(HATCHES)],
              edgecolor=theme.ground, lw=0, label=name) for place, name in enumerate(names)
    ]  # fmt: skip
    figure.legend(handles=handles, ncols=min(len(names), 8), loc="upper left", fontsize=SMALL, labelcolor=theme.text,
                  bbox_to_anchor=(0.2 / across, 1 - header_inches(scene) / up), borderaxespad=0.2, handlelength=1.6,
                  columnspacing=1.6)  # fmt: skip
