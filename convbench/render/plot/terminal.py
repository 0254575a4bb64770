"""Plots of characters, for a terminal: the same facts as the pictures', at 80 columns or what there is."""

from __future__ import annotations

import math
import textwrap
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from convbench.compare import Verdict
from convbench.render import Column, Table
from convbench.render.comparison import ratio_text
from convbench.render.plot.characters import Characters, styled
from convbench.render.plot.facts import curves, network_bars, phase_bars, speedups, titled
from convbench.render.plot.ratios import ratio_ticks, ratios_of
from convbench.render.plot.scene import doubts
from convbench.render.plot.scene import panels as panels_of
from convbench.render.table import render_table
from convbench.roofline import Bound, Flag
from convbench.units import format_bytes, format_si, format_time, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convbench.ceilings import Ceilings
    from convbench.compare import Compared
    from convbench.render.plot.facts import Bar, BarPanel
    from convbench.render.plot.ratios import Ratio, Ratios
    from convbench.render.plot.scene import Panel, Point, Scene

GIGA = 1e9
WIDEST = 120
"""Columns that a plot takes at most."""
HEIGHT = 18
LISTED = 10
"""Rows listed below a plot of points, those of the longest times."""
SOLID = {Bound.COMPUTE: "●", Bound.BANDWIDTH: "■", Bound.LATENCY: "▲"}
HOLLOW = {Bound.COMPUTE: "○", Bound.BANDWIDTH: "□", Bound.LATENCY: "△"}
STYLES = {Bound.COMPUTE: "94", Bound.BANDWIDTH: "33", Bound.LATENCY: "32"}
BOLD = "1"
STACK = "█▒░▓╳┃═∙"
STACK_STYLES = ("94", "33", "32", "35", "31", "36", "37", "93")
FLAG_MARKS = {Flag.ABOVE_ROOF: "↑", Flag.AMBIGUOUS: "?", Flag.IMPLEMENTATION: ""}
EIGHTHS = " ▏▎▍▌▋▊▉"
VERDICT_MARKS = {
    Verdict.REGRESSION: ("▶", "31"), Verdict.SUSPECT: ("▷", "33"), Verdict.INCONCLUSIVE: ("○", ""),
    Verdict.ALGORITHM_CHANGED: ("■", "35"), Verdict.IMPROVED: ("◀", "94"), Verdict.OK: ("●", ""),
}  # fmt: skip
"""Mark and style of the verdicts that a row with a ratio may have."""


def terminal(scene: Scene, kind: str, width: int, color: bool) -> str:
    """The plot as text.

    Raises:
        InputError: the scene lacks what this kind shows, or has more than one picture can hold.
    """
    width = max(60, min(width, WIDEST))
    draw = {"roofline": _roofline, "model": _model, "speedup": _speedup, "phases": _phases, "network": _network,
            "ceilings": _ceilings}[kind]  # fmt: skip
    return _headed(titled(scene, kind), draw(scene, width, color), width, color)


def comparison_terminal(compared: Compared, title: str, width: int, color: bool) -> str:
    """The ratios of two runs as text; a header alone where no row has one."""
    width = max(60, min(width, WIDEST))
    ratios = ratios_of(compared, title)
    lines = [*(_comparison(ratios, width, color) if ratios.rows else []), *_wrapped(ratios.notes, width)]
    return _headed(ratios, lines, width, color)


def _headed(scene: Scene | Ratios, lines: Sequence[str], width: int, color: bool) -> str:
    title = [styled(line, BOLD, color) for line in textwrap.wrap(scene.title, width)]
    return "".join(f"{line}\n" for line in [*title, *_wrapped(scene.subtitle.split("\n"), width), "", *lines])


def _wrapped(notes: Sequence[str], width: int) -> list[str]:
    return [line for note in notes for line in textwrap.wrap(note, width)]


def _roofline(scene: Scene, width: int, color: bool) -> list[str]:
    panels, ceilings, notes = panels_of(scene)
    lines: list[str] = []
    for panel in panels:
        lines += [styled(panel.title, BOLD, color)] if len(panels) > 1 else []
        lines += _one_roofline(panel, ceilings[panel.device], width, color)
        lines += ["", *_listed(panel, width, color), ""]
    lines += [_key(panels, color), f"{''.join(HOLLOW.values())} effective: nominal flop / time, where it differs"]
    return [*lines, *_wrapped(notes, width)]


def _one_roofline(panel: Panel, ceilings: Ceilings, width: int, color: bool) -> list[str]:
    peak = ceilings.compute[panel.math_mode].value / GIGA
    ridges = [peak * GIGA / bandwidth.value for bandwidth in ceilings.bandwidth.values()]
    xs = [point.placed.intensity or 0.0 for point in panel.points]
    ys = [point.flop_per_s / GIGA for point in panel.points]
    tops = [(point.placed.row.effective_flop_per_s or 0.0) / GIGA for point in panel.points]
    cells = Characters(
        width, HEIGHT, (min(*xs, min(ridges) / 6), max(*xs, max(ridges) * 3) * 1.1),
        (min(*ys, peak / 12) / 1.2, max(*ys, *tops, peak) * 1.2),
    )  # fmt: skip
    named = []
    for name, ceiling in sorted(ceilings.bandwidth.items(), key=lambda item: -item[1].value):
        path = cells.line(partial(_below, peak, ceiling.value / GIGA), "·")
        named.append((path, "·", f"{name.upper()} {format_si(ceiling.value, 'B/s')}", False))
    path = cells.line(lambda x: peak if x >= min(ridges) else None, "─")
    named.append((path, "─", f"{panel.math_mode} {format_si(peak * GIGA, 'flop/s')}", True))
    for point in panel.points:
        bound = point.placed.judgement.bound
        x, y = point.placed.intensity or 0.0, point.flop_per_s / GIGA
        high = (point.placed.row.effective_flop_per_s or y * GIGA) / GIGA
        if not point.placed.nominal and cells.cell(x, y) != cells.cell(x, high):
            cells.join(x, min(y, high), max(y, high), STYLES[bound])
            cells.put(x, high, HOLLOW[bound], STYLES[bound])
    _put_points(cells, panel, lambda point: (point.placed.intensity or 0.0, point.flop_per_s / GIGA))
    homeless = [text for path, mark, text, right in named if not cells.name(path, mark, text, right=right)]
    lines = cells.lines("executed flop per byte of traffic", "Gflop/s", _plain, _plain, color=color)
    return [*lines, *([f"lines without room for a name: {', '.join(homeless)}"] if homeless else [])]


def _plain(value: float) -> str:
    return f"{value:g}"


def _below(peak: float, slope: float, x: float) -> float | None:
    return x * slope if x * slope <= peak else None


def _level(value: float, _: float) -> float:
    return value


def _put_points(cells: Characters, panel: Panel, place: Callable[[Point], tuple[float, float]]) -> None:
    """Marks by bound; where several meet in a cell, that of the longest time."""
    for point in sorted(panel.points, key=lambda point: point.placed.time_s):
        bound = point.placed.judgement.bound
        cells.put(*place(point), (HOLLOW if point.placed.nominal else SOLID)[bound], STYLES[bound])


def _key(panels: Sequence[Panel], color: bool) -> str:
    present = {point.placed.judgement.bound for panel in panels for point in panel.points}
    return " · ".join(
        f"{styled(SOLID[bound], STYLES[bound], color)} {bound}-bound" for bound in Bound if bound in present
    )


def _listed(panel: Panel, width: int, color: bool) -> list[str]:
    """The rows of the longest times, as a table."""
    points = sorted(panel.points, key=lambda point: -point.placed.time_s)
    rows: list[dict[str, Any]] = [
        {
            "name": " ".join(point.identity), "time_s": point.placed.time_s,
            "bound": f"{SOLID[point.placed.judgement.bound]} {point.placed.judgement.bound}",
            "attained": point.placed.judgement, "rate": point.flop_per_s, "intensity": point.placed.intensity,
        }
        for point in points[:LISTED]
    ]  # fmt: skip
    columns = [
        Column(key="name", header="longest times", cut=True), Column(key="bound", header="bound"),
        Column(key="attained", header="attained", right=True,
               show=lambda j: f"{significant(100 * j.attained, 2)}%{FLAG_MARKS.get(j.flag, '')}"),
        Column(key="time_s", header="time", show=format_time, right=True),
        Column(key="rate", header="Gflop/s", show=lambda v: significant(v / GIGA), right=True,
               spare=1),
        Column(key="intensity", header="flop/B", show=significant, right=True, spare=2),
    ]  # fmt: skip
    more = len(points) - LISTED
    notes = [f"and {more} more rows"] if more > 0 else []
    present = {point.placed.judgement.flag for point in points[:LISTED]}
    notes += ["? bound ambiguous"] if Flag.AMBIGUOUS in present else []
    notes += ["↑ above the roof"] if Flag.ABOVE_ROOF in present else []
    table = Table(key="longest", columns=columns, rows=rows, notes=[" · ".join(notes)] if notes else [])
    return render_table(table, width=width, color=color).rstrip("\n").split("\n")


def _time(seconds: float) -> str:
    return format_time(seconds, 1)


def _model(scene: Scene, width: int, color: bool) -> list[str]:
    panels, _, notes = panels_of(scene)
    lines: list[str] = []
    for panel in panels:
        times = [t for p in panel.points for t in (p.placed.placement.floor_s, p.placed.time_s)]
        ends = min(times) / 1.5, max(times) * 1.5
        cells = Characters(width, HEIGHT, ends, ends)
        latency = max(point.placed.placement.latency_s for point in panel.points)
        floor = cells.line(partial(_level, latency), "─") if latency > ends[0] else []
        diagonal = cells.line(lambda x: x, "·")
        _put_points(cells, panel, lambda point: (point.placed.placement.floor_s, point.placed.time_s))
        cells.name(floor, "─", f"latency floor {format_time(latency)}", right=True)
        cells.name(diagonal, "·", "measured = modelled")
        lines += [styled(panel.title, BOLD, color)] if len(panels) > 1 else []
        lines += cells.lines("modelled time, a lower bound", "measured", _time, _time, color=color)
        lines += ["", *_listed(panel, width, color), ""]
    return [*lines, _key(panels, color), *_wrapped(notes, width)]


def _ceilings(scene: Scene, width: int, color: bool) -> list[str]:
    found = curves(scene)
    lines: list[str] = []
    for device, ceilings in found.items():
        rates = [p.bytes_per_s / GIGA for p in ceilings.curve] + [c.value / GIGA for c in ceilings.bandwidth.values()]
        sizes = [float(point.size_bytes) for point in ceilings.curve]
        cells = Characters(width, HEIGHT, (min(sizes) / 1.2, max(sizes) * 1.2), (min(rates) / 1.2, max(rates) * 1.2))
        paths = {name: cells.line(partial(_level, of.value / GIGA), "─") for name, of in ceilings.bandwidth.items()}
        mixes = list(dict.fromkeys(point.mix for point in ceilings.curve))
        marks = dict(zip(mixes, "●■▲◆○□△◇", strict=False))
        for point in ceilings.curve:
            cells.put(point.size_bytes, point.bytes_per_s / GIGA, marks.get(point.mix, "×"))
        for name, path in paths.items():
            text = f"{name.upper()} {format_si(ceilings.bandwidth[name].value, 'B/s')}"
            cells.name(path, "─", text, right=True)
        lines += [styled(device, BOLD, color)] if len(found) > 1 else []
        lines += cells.lines("bytes of the working set", "GB/s", lambda v: format_si(v, "B", 1), _plain, color=color)
        lines += [" · ".join(f"{mark} {mix}" for mix, mark in marks.items())]
        lines += [f"{level.upper()} holds {format_bytes(size)}" for level, size in ceilings.capacity_bytes.items()]
        lines += _wrapped(doubts(device, ceilings), width)
    return lines


def _speedup(scene: Scene, width: int, color: bool) -> list[str]:
    baseline, panels, notes = speedups(scene)
    names = list(dict.fromkeys(name for panel in panels for bar in panel.bars for name in bar.values))
    labels = {
        (bar.name, name): f"{bar.name} {name}" if len(names) > 1 else bar.name
        for panel in panels for bar in panel.bars for name in bar.values
    }  # fmt: skip
    longest = min(max(map(cell_len, labels.values())), width // 2)
    most = max(2.0, *(max(v, 1 / v) for panel in panels for bar in panel.bars for v in bar.values.values()))
    half = max(5, (width - longest - 10) // 2)
    lines = [f"times as fast as {baseline}{'' if len(names) > 1 else f': {names[0]}'}"]
    for panel in panels:
        lines += ["", styled(panel.title, BOLD, color)]
        for bar in panel.bars:
            for name, value in bar.values.items():
                style = STACK_STYLES[names.index(name) % len(STACK_STYLES)]
                label = set_cell_size(labels[bar.name, name], longest)
                lines.append(f"{label} {_from_middle(value, most, half, style, color)}")
    return [*lines, *_wrapped(notes, width)]


def _from_middle(ratio: float, most: float, half: int, style: str, color: bool) -> str:
    """A bar to the right for a ratio above 1, to the left for one below; logarithmic, `half` cells for `most`."""
    cells = half * abs(math.log(ratio)) / math.log(most)
    bar = _bar(cells)
    if ratio >= 1:
        return f"{'':{half}}│{styled(bar, style, color)} {ratio:.2f}×"
    left = "█" * round(cells)
    return f"{'':{half - len(left)}}{styled(left, style, color)}│ {ratio:.2f}×"


def _bar(cells: float) -> str:
    whole, eighths = divmod(round(8 * cells), 8)
    return "█" * whole + EIGHTHS[eighths].strip()


def _phases(scene: Scene, width: int, color: bool) -> list[str]:
    panels, names, notes = phase_bars(scene)
    return [*_stacks(panels, names, width, color, lambda bar: (1.0, format_time(bar.total_s))), *_wrapped(notes, width)]


def _network(scene: Scene, width: int, color: bool) -> list[str]:
    panels, names, notes = network_bars(scene)
    longest = max(bar.total_s for panel in panels for bar in panel.bars) or 1.0
    lines = _stacks(panels, names, width, color, lambda bar: (longest, bar.note or format_time(bar.total_s)))
    return [*lines, *_wrapped(notes, width)]


def _stacks(
    panels: Sequence[BarPanel], names: Sequence[str], width: int, color: bool, end: Callable[[Bar], tuple[float, str]]
) -> list[str]:
    """Bars of several parts; `end` says what a whole line stands for, and what is written behind a bar."""
    marks = {name: (STACK[place % len(STACK)], STACK_STYLES[place % len(STACK_STYLES)])
             for place, name in enumerate(names)}  # fmt: skip
    longest = min(max(cell_len(bar.name) for panel in panels for bar in panel.bars), width // 2)
    room = max(10, width - longest - 2 - 10)
    key = " ".join(f"{styled(mark, style, color)} {name}" for name, (mark, style) in marks.items())
    lines = [key]
    for panel in panels:
        lines += ["", styled(panel.title, BOLD, color)]
        for bar in panel.bars:
            whole, text = end(bar)
            drawn, start, total = "", 0, 0.0
            for name in names:
                total += bar.values.get(name, 0.0)
                stop = round(room * total / whole)
                drawn += styled(marks[name][0] * (stop - start), marks[name][1], color)
                start = stop
            lines.append(f"{set_cell_size(bar.name, longest)} {drawn} {text}")
    return lines


def _comparison(ratios: Ratios, width: int, color: bool) -> list[str]:
    """A line per row, the slowest first, above an axis of ratios and a key."""
    name_room = min(max(map(cell_len, [*(row.name for row in ratios.rows), ratios.others_name])), width // 2)
    room = width - name_room - 2 - 6
    low, high = ratios.limits()

    def column(value: float) -> int:
        share = math.log(min(max(value, low), high) / low) / math.log(high / low)
        return round(share * (room - 1))

    def line(name: str, cells: list[tuple[str, str]], end: str) -> str:
        drawn = "".join(styled(mark, style, color) for mark, style in cells)
        return f"{set_cell_size(name, name_room)} {drawn} {end}".rstrip()

    lines = [
        line(row.name, _ratio_cells(row, ratios.factor, column, room), ratio_text(row.value)) for row in ratios.rows
    ]
    if ratios.others:
        cells = [(" ", "")] * room
        for row in ratios.others:
            cells[column(row.value)] = ("·", VERDICT_MARKS[row.verdict][1])
        lines.insert(ratios.place, line(ratios.others_name, cells, ""))
    axis, below = ["─"] * room, [" "] * room
    for value in ratio_ticks(low, high, room // 6):
        text = f"{value:g}"
        start = min(max(0, column(value) - len(text) // 2), room - len(text))
        axis[column(value)] = "┴"
        below[start : start + len(text)] = text
    present = {row.verdict for row in (*ratios.rows, *ratios.others)}
    entries = [
        f"{mark} {verdict.replace('_', ' ')}" for verdict, (mark, _) in VERDICT_MARKS.items() if verdict in present
    ]
    key = _wrapped(
        [" · ".join([*entries, "─ interval", "░ no change", f"┆ all rows × {ratio_text(ratios.factor)}"])], width
    )
    for mark, style in VERDICT_MARKS.values():
        key = [part.replace(mark, styled(mark, style, color)) for part in key]
    return [*lines, f"{'':{name_room}} {''.join(axis)}", f"{'':{name_room}} {''.join(below)}".rstrip(), "", *key]


def _ratio_cells(row: Ratio, factor: float, column: Callable[[float], int], room: int) -> list[tuple[str, str]]:
    """A row's marks from left to right: later ones replace earlier ones."""
    mark, style = VERDICT_MARKS[row.verdict]
    cells = [(" ", "")] * room
    first, last = map(column, row.band)
    cells[first : last + 1] = [("░", "")] * (last + 1 - first)
    for value, line in ((1.0, "│"), (factor, "┆")):
        cells[column(value)] = (line, "")
    if row.interval:
        start, end = map(column, row.interval)
        cells[start : end + 1] = [("─", style)] * (end + 1 - start)
    cells[column(row.value)] = (mark, style)
    return cells
