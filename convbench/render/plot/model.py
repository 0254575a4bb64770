"""Modelled against measured time: how far each row is from its floor, and where launches decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from convbench.render.plot import points as marks
from convbench.render.plot.labels import keep_off, label_line
from convbench.render.plot.scene import panels as panels_of
from convbench.render.plot.style import SMALL, Theme
from convbench.roofline import DEFAULT_THRESHOLDS
from convbench.units import format_time

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from convbench.render.plot.labels import Taken
    from convbench.render.plot.scene import Panel, Point, Scene


def draw(scene: Scene, theme: Theme) -> Figure:
    """The same panels and marks as the roofline's.

    Raises:
        InputError: nothing can be placed, or there are too many panels.
    """
    panels, _, notes = panels_of(scene)

    def lines(ax: Axes, taken: Taken, panel: Panel) -> None:
        _draw_latency(ax, taken, theme, panel)
        _draw_diagonals(ax, taken, theme)

    key: list[Artist] = [marks.line_entry(theme, "measured = modelled")]
    if floors := [latency for panel in panels for latency in _latencies(panel)]:
        key.append(marks.patch_entry(theme, f"latency floors, up to {format_time(max(floors), 2)}"))
    return marks.draw_panels(scene, theme, panels, place, _set_scales, lines, key, notes)


def place(point: Point) -> tuple[float, float]:
    """Floor time and measured time, seconds."""
    return point.placed.placement.floor_s, point.placed.time_s


def _set_scales(ax: Axes, panel: Panel) -> None:
    times = [seconds for point in panel.points for seconds in place(point)]
    ends = min(times) / 1.8, max(times) * 1.8
    ax.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends,
        xlabel="modelled time: a lower bound", ylabel="measured time",
    )  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        marks.decades(axis)
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_time(value, 1)))


def _draw_diagonals(ax: Axes, taken: Taken, theme: Theme) -> None:
    """Where measured equals modelled time, and where the model explains no more of it than its threshold."""
    halo = [withStroke(linewidth=2.5, foreground=theme.ground)]
    left, right = ax.get_xlim()
    share = DEFAULT_THRESHOLDS.implementation
    drawn = []
    for fraction, text, style in ((1.0, "measured = modelled", "-"), (share, f"attained {share:.0%}", ":")):
        ends = (left, left / fraction), (right * fraction, right)
        drawn.append(ends)
        color = theme.text if fraction == 1 else theme.muted
        ax.plot(*zip(*ends, strict=True), color=color, lw=1.1, ls=style, zorder=2, label=f"_diagonal-{fraction}")
        label_line(ax, taken, *ends, text, size=SMALL, color=color, path_effects=halo, zorder=5, label="_line-label")
    for ends in drawn:
        keep_off(ax, taken, *ends)
    ax.fill_between([left, right], [left, right], [left, left], color=theme.band, alpha=0.5, lw=0, zorder=0.4)


def _latencies(panel: Panel) -> list[float]:
    return [p.placed.placement.latency_s for p in panel.points if p.placed.placement.latency_s]


def _draw_latency(ax: Axes, taken: Taken, theme: Theme, panel: Panel) -> None:
    """The floors that launches set, whatever the work, as far as they are in sight."""
    latencies = _latencies(panel)
    left, right = ax.get_xlim()
    if not latencies or max(latencies) < left:
        return
    least, most = max(min(latencies), left), max(latencies)
    ax.axhspan(least, most, color=theme.band, lw=0, zorder=0.5, label="_latency-band")
    ax.plot([left, right], [most, most], color=theme.muted, lw=0.9, ls="--", zorder=2, label="_latency-floor")
    label_line(ax, taken, (right, most), (left, most), f"latency floor {format_time(most)}", size=SMALL,
               color=theme.muted, path_effects=[withStroke(linewidth=2.5, foreground=theme.ground)], zorder=5,
               label="_line-label")  # fmt: skip
