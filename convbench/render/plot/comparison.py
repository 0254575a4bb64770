"""Ratios of two runs, row by row: what became slower or faster, beside what would be no change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from convbench.compare import Verdict
from convbench.render.comparison import ratio_text
from convbench.render.plot.ratios import ratio_ticks
from convbench.render.plot.style import (
    SMALL,
    SMALL_LETTER,
    TINY,
    VERDICT_MARKERS,
    Theme,
    add_axes,
    add_notes,
    header_inches,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from convbench.render.plot.ratios import Ratio, Ratios

WIDTH, ROW_INCHES, TICK_INCHES = 6.6, 0.16, 0.36
BEYOND = {"<": 4, ">": 5}
"""Matplotlib's carets: an interval goes on beyond the axis."""


def draw(ratios: Ratios, theme: Theme) -> Figure:
    """A line per row, the slowest first; a header and notes alone where no row has a ratio."""
    count = len(ratios.rows) + bool(ratios.others)
    names = [*(row.name for row in ratios.rows), *([ratios.others_name] if ratios.others else [])]
    left = 0.4 + SMALL_LETTER * max(map(len, names), default=0)
    above, below = header_inches(ratios) + 0.5, 0.9
    figure = new_figure(ratios, theme, left + WIDTH + 0.75, above + ROW_INCHES * (count + 0.4) + below)
    add_notes(figure, theme, ratios.notes)
    if not count:
        return figure
    ax = add_axes(figure, left, below, WIDTH, ROW_INCHES * (count + 0.4))
    low, high = ratios.limits()
    ax.set(xscale="log", xlim=(low, high), ylim=(count - 0.3, -0.7), xlabel="new / base: above 1 is slower")
    ax.xaxis.set_major_locator(FixedLocator(ratio_ticks(low, high, int(WIDTH / TICK_INCHES))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(visible=True, axis="x")
    ax.spines["left"].set_visible(False)
    ax.axvline(1, color=theme.muted, lw=0.9, zorder=2)
    lines = dict(ratios.lines())
    for line, row in lines.items():
        _draw_row(ax, theme, line, row)
    for row in ratios.others:
        ax.plot([row.value], [ratios.place], marker="|", ms=5, mew=0.7, ls="", color=theme.verdicts[row.verdict],
                zorder=4, label="_other")  # fmt: skip
    ax.set_yticks([*lines, *([ratios.place] if ratios.others else [])], names, size=SMALL)
    ax.tick_params(axis="y", length=0)
    bands = [lines[line].band if line in lines else (1.0, 1.0) for line in range(count)]
    edges = [(line + side, *band) for line, band in enumerate(bands) for side in (-0.5, 0.5)]
    ys, lows, highs = zip(*edges, strict=True)
    ax.fill_betweenx(ys, lows, highs, color=theme.band, lw=0, zorder=0.5, label="_threshold")
    ax.axvline(ratios.factor, color=theme.text, lw=1.0, ls="--", zorder=2.5, label="_factor")
    ax.text(ratios.factor, 1, f"all rows × {ratio_text(ratios.factor)}", transform=ax.get_xaxis_transform(),
            size=SMALL, ha="center", va="bottom", label="_factor-label")  # fmt: skip
    _add_key(figure, theme, ratios)
    return figure


def _draw_row(ax: Axes, theme: Theme, line: int, row: Ratio) -> None:
    color, (marker, solid) = theme.verdicts[row.verdict], VERDICT_MARKERS[row.verdict]
    low, high = ax.get_xlim()
    if row.interval:
        start, end = (min(max(bound, low), high) for bound in row.interval)
        ax.plot([start, end], [line, line], color=color, lw=1.1, zorder=3, label="_interval")
        for bound, at, caret in ((row.interval[0] < low, low, "<"), (row.interval[1] > high, high, ">")):
            if bound:
                ax.plot([at], [line], marker=BEYOND[caret], ms=4, mew=0, color=color, zorder=3, clip_on=False)
    ax.plot([row.value], [line], marker=marker, ms=5.5, ls="", color=color, mfc=color if solid else theme.ground,
            mew=1.0, zorder=4, label=f"_row-{row.verdict}")  # fmt: skip
    ax.text(1.015, line, ratio_text(row.value), transform=ax.get_yaxis_transform(), size=TINY, va="center",
            color=theme.text if row.verdict is not Verdict.OK else theme.muted)  # fmt: skip


def _add_key(figure: Figure, theme: Theme, ratios: Ratios) -> None:
    present = {row.verdict for row in (*ratios.rows, *ratios.others)}
    entries: list[Artist] = [
        Line2D([], [], ls="", marker=marker, color=theme.verdicts[verdict], ms=5.5, mew=1.0,
               mfc=theme.verdicts[verdict] if solid else theme.ground, label=verdict.replace("_", " "))
        for verdict, (marker, solid) in VERDICT_MARKERS.items()
        if verdict in present
    ]  # fmt: skip
    entries.append(Patch(facecolor=theme.band, edgecolor=theme.grid, label="no change, by the row's threshold"))
    across, up = figure.get_size_inches()
    figure.legend(handles=entries, ncols=len(entries), loc="upper left", fontsize=SMALL, labelcolor=theme.text,
                  bbox_to_anchor=(0.2 / across, 1 - header_inches(ratios) / up), borderaxespad=0.2, columnspacing=1.6,
                  handletextpad=0.5)  # fmt: skip
