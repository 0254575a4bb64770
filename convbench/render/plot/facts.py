"""What bars show, for pictures and for the terminal alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convbench.errors import InputError, unknown_name
from convbench.placement import run_ceilings
from convbench.problem import ConvPass
from convbench.render.machine import device_name
from convbench.render.plot.scene import MOST_PANELS, series
from convbench.render.results import totals_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convbench.ceilings import Ceilings
    from convbench.render.plot.scene import Scene
    from convbench.result import Row

MOST_PHASES = 8
"""Phases with a colour of their own, those with most time; the others are "other"."""
OTHER = "other"
MOST_BARS = 250
"""Rows of a panel: more make a picture higher than anything shows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar, or several beside each other: values by name; `note` stands where a total is not known."""

    name: str
    values: Mapping[str, float]
    total_s: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPanel:
    """Bars under a title."""

    title: str
    bars: tuple[Bar, ...]


def _panel_title(scene: Scene, row: Row) -> str:
    case = row.key.case
    dtypes = {other.key.case.precision for other in scene.rows}
    return f"{case.precision} · {case.conv_pass}" if len(dtypes) > 1 else case.conv_pass.value


def _checked(panels: list[BarPanel]) -> list[BarPanel]:
    if len(panels) > MOST_PANELS:
        raise InputError(f"{len(panels)} panels are too many for one picture (at most {MOST_PANELS}): choose with "
                         "--dtype, --pass or --filter")  # fmt: skip
    longest = max(len(panel.bars) for panel in panels)
    if longest > MOST_BARS:
        raise InputError(f"{longest} bars are too many for one panel (at most {MOST_BARS}): choose with --filter")
    return panels


def speedups(scene: Scene) -> tuple[str, list[BarPanel], list[str]]:
    """The baseline, how many times as fast as it each other series is, and what is left out.

    Raises:
        InputError: there is one series only, no such baseline, or no case with a time of the baseline and of another.
    """
    names = list(dict.fromkeys(map(series, scene.rows)))
    baseline = names[0] if scene.baseline is None else scene.baseline
    if baseline not in names:
        raise unknown_name("baseline", baseline, names)
    if len(names) < 2:
        raise InputError(f"there is nothing to compare {baseline} with: the rows have one backend and algorithm only")
    by_case: dict[object, dict[str, Row]] = {}
    for row in scene.rows:
        by_case.setdefault((row.key.case, row.key.cache), {})[series(row)] = row
    panels: dict[str, list[Bar]] = {}
    missing = 0
    for found in by_case.values():
        base = found.pop(baseline, None)
        if base is None or not found:
            missing += 1
            continue
        ratios = {name: (base.time_s or 0) / (row.time_s or math.inf) for name, row in found.items()}
        panels.setdefault(_panel_title(scene, base), []).append(Bar(name=scene.problem(base), values=ratios))
    if not panels:
        raise InputError(f"no case has a time of {baseline} and of another algorithm")
    notes = (
        [f"{missing} of {len(by_case)} cases left out: no time of {baseline}, or of nothing else"] if missing else []
    )
    return baseline, _checked([_with_mean(title, bars) for title, bars in panels.items()]), notes


def _with_mean(title: str, bars: list[Bar]) -> BarPanel:
    """The geometric mean below the bars, where there are several."""
    if len(bars) < 2:
        return BarPanel(title=title, bars=tuple(bars))
    names = dict.fromkeys(name for bar in bars for name in bar.values)
    means = {}
    for name in names:
        logs = [math.log(bar.values[name]) for bar in bars if name in bar.values]
        means[name] = math.exp(sum(logs) / len(logs))
    return BarPanel(title=title, bars=(*bars, Bar(name="geometric mean", values=means)))


def phase_bars(scene: Scene) -> tuple[list[BarPanel], list[str], list[str]]:
    """Shares of each phase, the phases in the order in which they run, and what is left out.

    Raises:
        InputError: no row was measured by phase.
    """
    rows = [row for row in scene.rows if row.phases_s and sum(row.phases_s) > 0]
    if not rows:
        raise InputError("no phases in the run: measure with `convbench run --phases`, on plans that can say")
    spent: dict[str, float] = {}
    for row in rows:
        for name, seconds in _phases(row).items():
            spent[name] = spent.get(name, 0.0) + seconds
    kept = sorted(spent, key=lambda name: -spent[name])
    kept = kept if len(kept) <= MOST_PHASES else kept[: MOST_PHASES - 1]
    several = len({series(row) for row in rows}) > 1
    panels: dict[str, list[Bar]] = {}
    for row in rows:
        of_row = _phases(row)
        total = sum(of_row.values())
        shares = {name: value / total for name, value in of_row.items() if name in kept}
        if len(shares) < len(of_row):
            shares[OTHER] = 1 - sum(shares.values())
        name = f"{scene.problem(row)} {series(row)}" if several else scene.problem(row)
        if row.resolved and row.resolved != row.key.algorithm:
            name += f" ({row.resolved})"
        panels.setdefault(_panel_title(scene, row), []).append(Bar(name=name, values=shares, total_s=total))
    left = len(scene.rows) - len(rows)
    notes = [f"{left} of {len(scene.rows)} rows left out: no phases were measured"] if left else []
    names = [name for name in spent if name in kept] + ([OTHER] if len(kept) < len(spent) else [])
    return _checked([BarPanel(title=t, bars=tuple(bars)) for t, bars in panels.items()]), names, notes


def _phases(row: Row) -> dict[str, float]:
    """Seconds by name; a name that comes twice counts together."""
    found: dict[str, float] = {}
    assert row.work is not None
    for phase, seconds in zip(row.work.phases, row.phases_s or (), strict=True):
        found[phase.name] = found.get(phase.name, 0.0) + seconds
    return found


def curves(scene: Scene) -> dict[str, Ceilings]:
    """The ceilings of devices whose bandwidth was measured over size.

    Raises:
        InputError: there are none.
    """
    found = {device: of for device, of in run_ceilings(scene.run).items() if of.curve}
    if not found:
        raise InputError("no curve of bandwidth over size in the run: `convbench machine --measure`, then run again")
    return found


def titled(scene: Scene, kind: str) -> Scene:
    """The scene under the title of its kind: bandwidth is of the machine, whichever rows were measured there."""
    if kind != "ceilings":
        return scene
    devices = scene.run.header["devices"].values()
    names = dict.fromkeys(device_name(device["machine"]) for device in devices)
    return replace(scene, title=f"{', '.join(names)}: bandwidth by size of the working set")


def network_bars(scene: Scene) -> tuple[list[BarPanel], list[str], list[str]]:
    """Seconds of each pass of whole networks, as `convbench show --by network` has them, and what is missing.

    Raises:
        InputError: no network has a time.
    """
    table = totals_table(scene.run)
    facts = table.rows if table else []
    varying = [
        key for key in ("suite", "dtype", "layout", "epilogue", "cache") if len({fact[key] for fact in facts}) > 1
    ]
    panels: dict[str, list[Bar]] = {}
    for fact in facts:
        values = {p.value: fact[f"{p}_s"] for p in ConvPass if fact[f"{p}_s"] is not None}
        missing = sum(fact[f"{p}_missing"] for p in ConvPass)
        if not values and not missing:
            continue
        title = " · ".join(str(fact[key]) for key in varying) or str(fact["suite"])
        note = f"incomplete: layers without a time: {missing}" if missing else ""
        bar = Bar(name=fact["algorithm"], values={} if missing else values, total_s=sum(values.values()), note=note)
        panels.setdefault(title, []).append(bar)
    if not any(bar.values for bars in panels.values() for bar in bars):
        raise InputError("no network has a time for each of its layers; `convbench show --by network` says what is "
                         "missing")  # fmt: skip
    names = [p.value for p in ConvPass if any(p.value in bar.values for bars in panels.values() for bar in bars)]
    return _checked([BarPanel(title=t, bars=tuple(bars)) for t, bars in panels.items()]), names, []
