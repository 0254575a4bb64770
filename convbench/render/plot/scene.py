"""What a plot shows: the rows that were chosen of one or several runs, once they are known to belong together."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from convbench.errors import InputError
from convbench.placement import Placed, placed_rows, run_ceilings
from convbench.render.results import headline
from convbench.result import Row, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convbench.ceilings import Ceilings
    from convbench.compare import Comparison
    from convbench.problem import ConvPass, Dtype, MathMode

    Keyed = Row | Comparison

MOST_PANELS = 9
"""More are too small to read, and the reader is told how to choose."""
DENSE = 40
"""A panel of more points than this is split by pass, where there are several."""
MOST_SERIES = 2
"""Backends and algorithms that one panel tells apart; where there are more, each has a panel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rows: of these passes, dtypes (with math mode), and problems that match a glob; empty means all."""

    passes: tuple[ConvPass, ...] = ()
    precisions: tuple[tuple[Dtype, MathMode], ...] = ()
    globs: tuple[str, ...] = ()

    def takes(self, row: Keyed) -> bool:
        """Whether the row is one of them."""
        case = row.key.case
        names = (case.name, f"{case.suite}/{case.name}")
        return (
            (not self.passes or case.conv_pass in self.passes)
            and (not self.precisions or (case.dtype, case.math_mode) in self.precisions)
            and (not self.globs or any(fnmatch.fnmatchcase(name, glob) for name in names for glob in self.globs))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Rows to be drawn.

    Attributes:
        run: the chosen rows, timed or not, under one header.
        rows: those with a time above 0.
        title: which networks.
        subtitle: on what, a line for each different one.
        details: by suite and problem, which of _DETAILS its name needs.
        baseline: the series that a speed-up is over; None where it was not asked for.
        published: a datasheet's ceilings, drawn beside the measured ones.
    """

    run: Run
    rows: tuple[Row, ...]
    title: str
    subtitle: str
    details: Mapping[tuple[str, str], tuple[int, ...]]
    baseline: str | None = None
    published: Ceilings | None = None

    def problem(self, row: Row) -> str:
        """The problem's name, with whatever else differs among its rows but pass, dtype and series."""
        return name_of(row, self.details)


def name_of(row: Keyed, details: Mapping[tuple[str, str], tuple[int, ...]]) -> str:
    """The problem's name and the `details_of` it, with the suite where there are several."""
    case = row.key.case
    several = len({suite for suite, _ in details}) > 1
    name = f"{case.suite}/{case.name}" if several else case.name
    return " ".join([name, *(_DETAILS[place](row) for place in details[case.suite, case.name])])


_DETAILS: tuple[Callable[[Keyed], str], ...] = (
    lambda row: row.key.case.layout.value,
    lambda row: row.key.case.epilogue.value,
    lambda row: row.key.cache,
    lambda row: f"batch {row.key.case.problem.batch}",
)


def details_of(rows: Sequence[Keyed]) -> dict[tuple[str, str], tuple[int, ...]]:
    """By suite and problem, the places of those _DETAILS in which its rows differ."""
    found: dict[tuple[str, str], list[set[str]]] = {}
    for row in rows:
        sets = found.setdefault((row.key.case.suite, row.key.case.name), [set() for _ in _DETAILS])
        for seen, of in zip(sets, _DETAILS, strict=True):
            seen.add(of(row))
    return {name: tuple(i for i, seen in enumerate(sets) if len(seen) > 1) for name, sets in found.items()}


def series(row: Keyed) -> str:
    """The backend, the algorithm that was asked for, and the device where it must be named."""
    return row.key.name


def make_scene(
    runs: Sequence[tuple[str, Run]],
    choice: Choice,
    *,
    baseline: str | None = None,
    published: Ceilings | None = None,
) -> Scene:
    """The chosen rows of runs, each with the name of its file.

    Raises:
        InputError: no row has a time, none is chosen, or the runs do not belong in one picture: machine or threads
            differ, or both hold a time for the same row.
    """
    names = ", ".join(name for name, _ in runs)
    _check_alike(runs)
    whole = _merged(runs)
    if not any(row.time_s for row in whole.rows):
        raise InputError(f"{names}: no row has a time, so there is nothing to draw")
    run = replace(whole, rows=tuple(filter(choice.takes, whole.rows)))
    rows = tuple(row for row in run.rows if row.time_s)  # what took no time has no rate
    if not rows:
        raise nothing_chosen(names, whole.rows)
    suites = {row.key.case.suite for row in rows}
    titles = {suite["name"]: suite.get("title") or suite["name"] for _, of in runs for suite in of.header["suites"]}
    lines = dict.fromkeys(headline(of) for _, of in runs)
    return Scene(
        run=run, rows=rows, baseline=baseline, published=published,
        title=" + ".join(dict.fromkeys(str(titles.get(suite, suite)) for suite in sorted(suites))) + _batches(rows),
        subtitle="\n".join(lines), details=details_of(rows),
    )  # fmt: skip


def nothing_chosen(names: str, rows: Sequence[Keyed]) -> InputError:
    """An error that says what could be chosen."""
    has = sorted({row.key.case.precision for row in rows}), sorted({row.key.case.conv_pass for row in rows})
    return InputError(
        f"{names}: no row with a time is chosen; there are dtypes {', '.join(has[0])}, passes {', '.join(has[1])}, "
        f"problems {some([row.key.case.name for row in rows])}"
    )


def _batches(rows: Sequence[Row]) -> str:
    batches = {row.key.case.problem.batch for row in rows}
    return f", batch {batches.pop()}" if len(batches) == 1 else ""


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    names = list(dict.fromkeys(names))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_alike(runs: Sequence[tuple[str, Run]]) -> None:
    """One picture is of one machine with one thread count, and has one point per row."""
    first_name, first = runs[0]
    seen: dict[Any, str] = {}
    for name, run in runs:
        mine, theirs = first.header["options"].get("threads"), run.header["options"].get("threads")
        if mine != theirs:
            raise InputError(f"threads differ: {mine} in {first_name}, {theirs} in {name}; plot them apart")
        for device, of in run.header["devices"].items():
            other = first.header["devices"].get(device, of)
            if other["fingerprint"] != of["fingerprint"]:
                raise InputError(
                    f"machines differ: {device} is {_machine(other)} in {first_name}, {_machine(of)} in {name}; "
                    "plot them apart"
                )
        for row in run.rows:
            if row.time_s is None:
                continue
            key = replace(row.key, accuracy=None)  # the picture does not show it
            if key in seen:
                raise InputError(f"{seen[key]} and {name} both have a time for {key.label()}; plot them apart")
            seen[key] = name


def _machine(device: dict[str, Any]) -> str:
    machine = device["machine"]
    return f"{machine.get('gpu_name') or machine.get('cpu_model') or machine.get('arch')} ({device['fingerprint']})"


def _merged(runs: Sequence[tuple[str, Run]]) -> Run:
    """All rows under the header of the first run; the ceilings are those of the newest run that has them."""
    devices: dict[str, Any] = {}
    for _, run in sorted(runs, key=lambda named: named[1].header["created"]):
        for device, of in run.header["devices"].items():
            if device not in devices or of.get("ceilings"):
                devices[device] = of
    suites = {suite["name"]: suite for _, run in runs for suite in run.header["suites"]}
    header = runs[0][1].header | {"devices": devices, "suites": [*suites.values()]}
    return Run(header, tuple(row for _, run in runs for row in run.rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A placed row with its names; `identity` is what tells it from the others of its panel."""

    placed: Placed
    problem: str
    series: str
    identity: tuple[str, ...] = ()

    @property
    def flop_per_s(self) -> float:
        """Executed flops per second; where the algorithm's work is unknown, nominal ones."""
        return self.placed.work.executed_flops / self.placed.time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Points that share a device and a math mode, and so their roofs."""

    title: str
    device: str
    math_mode: str
    points: tuple[Point, ...]

    @property
    def roofs(self) -> tuple[str, str]:
        """What the roofs belong to."""
        return self.device, self.math_mode


def panels(scene: Scene) -> tuple[list[Panel], dict[str, Ceilings], list[str]]:
    """The placed rows by panel, the ceilings by device, and what is not shown.

    Raises:
        InputError: no row can be placed, or there are too many panels.
    """
    placed, reasons = placed_rows(scene.run)
    if not placed:
        raise InputError(next(iter(reasons)))
    total = len(placed) + sum(reasons.values())
    notes = [f"{count} of {total} rows not shown: {reason}" for reason, count in reasons.items()]
    drawable = [p for p in placed if p.intensity and p.work.executed_flops and p.placement.floor_s > 0]
    if len(drawable) < len(placed):
        notes.append(f"{len(placed) - len(drawable)} of {total} rows not shown: no flops, or no bytes moved")
    if not drawable:
        raise InputError("no row has both flops and bytes, so none has a place on a logarithmic axis")
    ceilings = run_ceilings(scene.run)
    notes += [
        note for device in {p.row.key.device: None for p in drawable} for note in doubts(device, ceilings[device])
    ]
    points = [Point(placed=p, problem=scene.problem(p.row), series=series(p.row)) for p in drawable]
    return _split(points), ceilings, notes


def doubts(device: str, ceilings: Ceilings) -> list[str]:
    """Why a device's ceilings should not be taken at their word."""
    quiet = f"ceilings of {device} were measured while the machine was not quiet: {ceilings.contended}"
    return [*([quiet] if ceilings.contended else []), *ceilings.warnings]


def _split(points: list[Point]) -> list[Panel]:
    """A panel per device and dtype; per series where there are more than two; per pass where they are dense still."""
    names: dict[str, set[str]] = {}  # by device
    for point in points:
        names.setdefault(point.placed.row.key.device, set()).add(point.series)
    most = max(map(len, names.values()))
    groups = _grouped(points, by_series=most > MOST_SERIES, by_pass=False)
    if max(map(len, groups.values())) > DENSE:
        groups = _grouped(points, by_series=most > MOST_SERIES, by_pass=True)
    if len(groups) > MOST_PANELS:
        raise InputError(
            f"{len(groups)} panels are too many for one picture (at most {MOST_PANELS}): choose with --dtype, --pass "
            "or --filter, or plot runs of fewer algorithms"
        )
    varying = [len({key[place] for key in groups}) > 1 for place in range(4)]
    several_passes = len({p.placed.row.key.case.conv_pass for p in points}) > 1 and not varying[3]
    several_series = most > 1 and not varying[2]
    found = []
    for key, of in groups.items():
        title = " · ".join(part for part, varies in zip(key, varying, strict=True) if varies)
        named = [replace(p, identity=_identity(p, several_passes, several_series)) for p in of]
        case = of[0].placed.row.key.case
        found.append(Panel(title=title or case.precision, device=key[0], math_mode=case.math_mode, points=tuple(named)))
    return found


def _grouped(points: list[Point], *, by_series: bool, by_pass: bool) -> dict[tuple[str, str, str, str], list[Point]]:
    groups: dict[tuple[str, str, str, str], list[Point]] = {}
    for point in points:
        key = point.placed.row.key
        of = (key.device, key.case.precision, point.series if by_series else "",
              key.case.conv_pass.value if by_pass else "")  # fmt: skip
        groups.setdefault(of, []).append(point)
    return groups


def _identity(point: Point, passes: bool, names: bool) -> tuple[str, ...]:
    return (
        point.problem,
        *([point.placed.row.key.case.conv_pass.value] if passes else []),
        *([point.series] if names else []),
    )
