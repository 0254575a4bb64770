"""The roofline: rates over arithmetic intensity, under the roofs of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from convbench.render.plot import points as marks
from convbench.render.plot.labels import keep_off, label_line
from convbench.render.plot.scene import panels as panels_of
from convbench.render.plot.style import MARKERS, SMALL, Theme
from convbench.roofline import DEFAULT_THRESHOLDS
from convbench.units import format_si, significant

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from convbench.ceilings import Ceilings
    from convbench.render.plot.labels import Taken
    from convbench.render.plot.scene import Panel, Point, Scene

GIGA = 1e9
SAME = 1.01
"""An effective rate nearer than this to the executed one has no point of its own."""


def draw(scene: Scene, theme: Theme) -> Figure:
    """A panel per dtype, and per series or pass where they would be crowded.

    Raises:
        InputError: nothing can be placed, or there are too many panels.
    """
    panels, ceilings, notes = panels_of(scene)

    def sets(panel: Panel) -> list[Ceilings]:
        return [ceilings[panel.device], *([scene.published] if scene.published else [])]

    def scales(ax: Axes, panel: Panel) -> None:
        alike = [p for other in panels if other.roofs == panel.roofs for p in other.points]
        _set_scales(ax, alike, sets(panel), panel.math_mode)

    def lines(ax: Axes, taken: Taken, panel: Panel) -> None:
        _draw_effective(ax, taken, theme, panel)
        _draw_roofs(ax, taken, theme, panel, sets(panel))

    kinds = {c.kind for of in (*ceilings.values(), scene.published) if of for c in of.bandwidth.values()}
    key: list[Artist] = [marks.line_entry(theme, f"{kind} roof", _dashes(kind)) for kind in sorted(kinds, reverse=True)]
    if any(_differs(point) for panel in panels for point in panel.points):
        key.append(Line2D([], [], ls="", marker="o", mfc="none", color=theme.muted, ms=5,
                          label="effective: nominal flop / time"))  # fmt: skip
    ratio = DEFAULT_THRESHOLDS.ambiguity_ratio
    key.append(marks.patch_entry(theme, f"ridge, ±{ratio:g}×: bound ambiguous"))
    return marks.draw_panels(scene, theme, panels, place, scales, lines, key, notes)


def place(point: Point) -> tuple[float, float]:
    """Executed flop per byte, and Gflop/s executed."""
    assert point.placed.intensity is not None
    return point.placed.intensity, point.flop_per_s / GIGA


def effective(point: Point) -> float:
    """Gflop/s of the nominal flops."""
    return (point.placed.row.effective_flop_per_s or 0.0) / GIGA


def _dashes(kind: str) -> str:
    return "-" if kind == "measured" else "--"


def _set_scales(ax: Axes, points: list[Point], sets: list[Ceilings], math_mode: str) -> None:
    """Limits that hold all of `points`, the peaks and the ridges: the same for panels under the same roofs."""
    peaks = [(of, of.compute[math_mode].value) for of in sets if math_mode in of.compute]
    ridges = [peak / bandwidth.value for of, peak in peaks for bandwidth in of.bandwidth.values()]
    peak, highest = peaks[0][1], max(peak for _, peak in peaks)
    xs, ys = zip(*map(place, points), strict=True)
    ax.set(
        xscale="log", yscale="log",
        xlim=(min(*xs, min(ridges) / 5) / 1.4, max(*xs, max(ridges) * 3) * 1.6),
        ylim=(min(*ys, peak / GIGA / 12) / 2.2, max(*ys, *map(effective, points), highest / GIGA) * 1.6),
        xlabel="arithmetic intensity (executed flop per byte of traffic)", ylabel="Gflop/s",
    )  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        marks.decades(axis)
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


@dataclass(frozen=True, slots=True)
class _Roof:
    """A ceiling as a line, from where its label begins to its other end; rates in Gflop/s."""

    name: str
    label: str
    kind: str
    start: tuple[float, float]
    end: tuple[float, float]


def _roofs(ax: Axes, ceilings: Ceilings, math_mode: str) -> list[_Roof]:
    """Bandwidths up to where they meet the peak, and the peak from where the first of them does."""
    (left, right), (low, _) = ax.get_xlim(), ax.get_ylim()
    peak = ceilings.compute[math_mode]
    height = peak.value / GIGA
    roofs, first = [], right
    for name, ceiling in sorted(ceilings.bandwidth.items(), key=lambda item: -item[1].value):
        start, ridge = max(left, low * GIGA / ceiling.value), peak.value / ceiling.value
        first = min(first, ridge)
        label = f"{name.upper()} {format_si(ceiling.value, 'B/s')}"
        roofs.append(_Roof(name, label, ceiling.kind, (start, start * ceiling.value / GIGA), (ridge, height)))
    label = f"{math_mode} {format_si(peak.value, 'flop/s')}"
    return [_Roof(math_mode, label, peak.kind, (right, height), (max(left, first), height)), *roofs]


def _draw_roofs(ax: Axes, taken: Taken, theme: Theme, panel: Panel, sets: list[Ceilings]) -> None:
    """Every roof with its name and value on its line; of the first set also the ridges of levels in use."""
    halo = [withStroke(linewidth=2.5, foreground=theme.ground)]
    roofs = [roof for of in sets if panel.math_mode in of.compute for roof in _roofs(ax, of, panel.math_mode)]
    for roof in roofs:
        xs, ys = zip(roof.start, roof.end, strict=True)
        tag = f"_roof-{roof.kind}-{roof.name}"
        ax.plot(xs, ys, color=theme.text, lw=1.1, ls=_dashes(roof.kind), zorder=2, label=tag)
        label_line(ax, taken, roof.start, roof.end, roof.label, size=SMALL, path_effects=halo, zorder=5,
                   label=f"{tag}-label")  # fmt: skip
    ratio, peak = DEFAULT_THRESHOLDS.ambiguity_ratio, sets[0].compute[panel.math_mode].value
    low = ax.get_ylim()[0]
    for level in sorted({level for point in panel.points for level in point.placed.placement.levels}):
        ridge = peak / sets[0].bandwidth[level].value
        ax.fill_between([ridge / ratio, ridge * ratio], low, peak / GIGA, color=theme.band, lw=0, zorder=0.5,
                        label=f"_ridge-{level}")  # fmt: skip
        text = f"{level.upper()} ridge {significant(ridge, 2)} flop/B"
        label_line(ax, taken, (ridge, low), (ridge, peak / GIGA), text, size=SMALL, color=theme.muted,
                   path_effects=halo, zorder=5, label=f"_ridge-{level}-label")  # fmt: skip
    for roof in roofs:
        keep_off(ax, taken, roof.start, roof.end)


def _differs(point: Point) -> bool:
    """Whether the effective rate has a mark of its own."""
    high = effective(point)
    return not point.placed.nominal and high > 0 and not 1 / SAME < high / place(point)[1] < SAME


def _draw_effective(ax: Axes, taken: Taken, theme: Theme, panel: Panel) -> None:
    """A hollow point at the effective rate, joined to the executed one, where the two differ."""
    for point in filter(_differs, panel.points):
        x, y = place(point)
        high = effective(point)
        bound = point.placed.judgement.bound
        ax.plot([x, x], [y, high], color=theme.bounds[bound], lw=0.9, alpha=0.6, zorder=3, label="_join")
        ax.plot([x], [high], marker=MARKERS[bound], ms=4.5, mfc=theme.ground, mec=theme.bounds[bound], mew=0.9,
                ls="", zorder=3.5, label=marks.tag("effective", point))  # fmt: skip
        (px, low), (_, top) = ax.transData.transform([(x, y), (x, high)])
        taken.add((px - 1, min(low, top), px + 1, max(low, top)), (px - 4, top - 4, px + 4, top + 4))
