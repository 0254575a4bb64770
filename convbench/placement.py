"""Where each row of a run stands under the ceilings of its machine. Recomputed from the run's file, never stored.

Rules and hints: docs/method.md, "Placement and bound".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from convbench.ceilings import Ceilings
from convbench.errors import InputError, shown
from convbench.result import WARM
from convbench.roofline import DEFAULT_THRESHOLDS, Bound, Judgement, Placement, judge, place
from convbench.work import Work, nominal_work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convbench.result import Row, Run

MEASURE = "`convbench machine --measure`, then run again"
HINT_SHARE = 0.5
"""A phase that makes up so much of what is above the floor, or transforms of so many of the flops, explain a row."""
DISPATCH_SHARE = 0.25
"""Launches that take so much of a row's time, without being its bound, explain it."""
SKINNY = 32
"""A matrix product whose smallest extent is no more than this cannot reuse what it loads often enough for its peak."""
TAPS_APART = ("direct", "fft", "dft", "winograd")
"""Algorithms, by the beginning of their names, whose matrix products are over channels alone, not over taps too."""
PRODUCT = "product"
"""The name of the phase that multiplies matrices."""
TRANSFORMS = ("transform", "inverse")
"""How the names of phases begin that transform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A timed row and what the model says of it.

    Attributes:
        row: with a time.
        work: the row's own, or the nominal work of its case where the algorithm's is unknown.
        nominal: whether that is so.
        placement: under the ceilings of the row's device.
        judgement: of the row's time.
        hint: what may explain that a row attained less than the model can explain, be its bound ambiguous or not; ""
            where nothing fits, or nothing needs explaining.
    """

    row: Row
    work: Work
    nominal: bool
    placement: Placement
    judgement: Judgement
    hint: str = ""

    @property
    def time_s(self) -> float:
        """The measured time, seconds."""
        assert self.row.time_s is not None
        return self.row.time_s

    @property
    def to_win_s(self) -> float:
        """Seconds above the floor, which a perfect implementation of the same work would save; 0 above the roof."""
        return max(0.0, self.time_s - self.placement.floor_s)

    @property
    def intensity(self) -> float | None:
        """Executed flops per byte of traffic; None where nothing moves."""
        return self.work.executed_flops / self.work.traffic_bytes if self.work.traffic_bytes else None


def run_ceilings(run: Run) -> dict[str, Ceilings]:
    """The ceilings in a run's header, by device; devices without are left out.

    Raises:
        InputError: they are damaged, or of several machines.
    """
    devices = {name: of for name, of in run.header["devices"].items() if of.get("ceilings")}
    machines = {name: [of["machine"].get(key) for key in ("os", "arch", "cpu_model")] for name, of in devices.items()}
    for name, machine in machines.items():
        first = next(iter(machines))
        if machine != machines[first]:
            described = (f"{n} of {shown(machines[n][-1] or machines[n][1])}" for n in (first, name))
            raise InputError(f"the run's devices are of different machines: {', '.join(described)}")
    return {name: _read(name, of["ceilings"]) for name, of in devices.items()}


def _read(name: str, fields: Mapping[str, Any]) -> Ceilings:
    try:
        return Ceilings.from_dict(fields)
    except (InputError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"ceilings of {name} in the run's header are damaged: {error}") from None


def placed_row(row: Row, ceilings: Ceilings) -> Placed:
    """The placement of a timed row.

    Raises:
        InputError: no ceiling for the math mode of its case, or they hold for another number of threads.
    """
    assert row.time_s is not None
    device, threads = row.key.device, row.key.threads
    if ceilings.threads is not None and ceilings.threads != threads:
        raise InputError(f"the ceilings of {device} hold for {ceilings.threads} threads, not {threads}: {MEASURE}")
    work = row.work or nominal_work(row.key.case)
    mode, warm = row.key.case.math_mode, row.key.cache == WARM
    floor_s = row.floor_s if work.executed_flops else None  # an empty batch may be over before its floor
    placement = place(work, ceilings, mode, warm=warm, row_floor_s=floor_s)
    judgement = judge(placement, row.time_s)
    if not math.isfinite(judgement.attained):
        raise InputError(f"a time under the ceilings of {device} is beyond all numbers")
    placed = Placed(row=row, work=work, nominal=row.work is None, placement=placement, judgement=judgement)
    if judgement.attained >= DEFAULT_THRESHOLDS.implementation:
        return placed
    phases = [place(Work((phase,)), ceilings, mode, warm=warm) for phase in work.phases]
    return replace(placed, hint=next(filter(None, (hint(placed, phases) for hint in HINTS)), ""))


def placed_rows(run: Run) -> tuple[list[Placed], dict[str, int]]:
    """The timed rows of a run that can be placed, in order, and why others cannot: how many, by reason.

    Raises:
        InputError: the ceilings in the run's header are damaged, or of several machines.
    """
    ceilings = run_ceilings(run)
    placed: list[Placed] = []
    reasons: dict[str, int] = {}
    for row in run.rows:
        if row.time_s is None:
            continue
        try:
            if row.key.device not in ceilings:
                raise InputError(f"no ceilings of {row.key.device} in this run: {MEASURE}")  # noqa: TRY301  as others
            placed.append(placed_row(row, ceilings[row.key.device]))
        except InputError as error:
            reasons[str(error)] = reasons.get(str(error), 0) + 1
    return placed, reasons


# Hints: why a row takes longer than the model allows. Each gives "" where it does not fit.


def _slow_phase(placed: Placed, phases: list[Placement]) -> str:
    """The measured phase that most of the time above the floor is spent in."""
    measured = placed.row.phases_s
    if measured is None or len(measured) != len(phases):
        return ""
    above = [seconds - floor.floor_s for seconds, floor in zip(measured, phases, strict=True)]
    slowest = max(range(len(above)), key=lambda index: above[index])
    if above[slowest] <= HINT_SHARE * sum(seconds for seconds in above if seconds > 0):
        return ""
    share, roof = measured[slowest] / sum(measured), phases[slowest].floor_s / measured[slowest]
    name = placed.work.phases[slowest].name
    if name == PRODUCT and (skinny := _skinny(placed, phases)):
        return f"{skinny}, {share:.0%} of the time"
    return f"{name}: {share:.0%} of the time, at {roof:.0%} of its roof"


def _slow_transforms(placed: Placed, phases: list[Placement]) -> str:
    """The measured phases that transform, where most of the time above the floor is spent in them together."""
    measured = placed.row.phases_s
    if measured is None or len(measured) != len(phases):
        return ""
    parts = list(zip(placed.work.phases, measured, phases, strict=True))
    spent = [(seconds, floor.floor_s) for phase, seconds, floor in parts if phase.name.startswith(TRANSFORMS)]
    took, least = sum(seconds for seconds, _ in spent), sum(floor_s for _, floor_s in spent)
    above = sum(max(0.0, seconds - floor.floor_s) for _, seconds, floor in parts)
    if took - least <= HINT_SHARE * above:
        return ""
    return f"transforms: {took / sum(measured):.0%} of the time, at {least / took:.0%} of their roof"


def _waiting_threads(placed: Placed, _phases: list[Placement]) -> str:
    """Threads that did not work all of the time: a part of the algorithm has one thread, or the CPUs were taken."""
    if placed.judgement.bound is Bound.LATENCY:  # too little work to share
        return ""
    row, wall_s, cpu_s = placed.row, 0.0, 0.0
    for measured in row.rounds:
        left_out = set() if measured.disturbed else measured.flagged
        for index, (wall, cpu) in enumerate(zip(measured.columns.wall_s, measured.columns.cpu_s, strict=True)):
            if cpu is not None and index not in left_out:
                wall_s, cpu_s = wall_s + wall, cpu_s + cpu
    threads = row.key.threads
    waiting = cpu_s < DEFAULT_THRESHOLDS.implementation * threads * wall_s
    return f"threads wait: {cpu_s / wall_s:.1f} of {threads} busy" if waiting else ""


def _dispatch(placed: Placed, _phases: list[Placement]) -> str:
    """Calls that are too short for what each costs."""
    share = placed.placement.latency_s / placed.time_s
    calls = sum(phase.launches for phase in placed.work.phases)
    return f"dispatch: {share:.0%} of the time, {calls} calls" if share >= DISPATCH_SHARE else ""


def _in_turn(placed: Placed, phases: list[Placement]) -> str:
    """Phases that follow each other, where the model lets arithmetic and memory overlap over all of them."""
    seconds = sum(max(phase.compute_s, phase.memory_s) for phase in phases) + placed.placement.latency_s
    explained = seconds / placed.time_s >= DEFAULT_THRESHOLDS.implementation
    return f"phases in turn: {seconds / placed.placement.floor_s:.1f}× the floor" if explained else ""


def _skinny(placed: Placed, _phases: list[Placement]) -> str:
    """A matrix product with a small extent."""
    case, algorithm = placed.row.key.case, placed.row.resolved or placed.row.key.algorithm
    p = case.problem
    channels, taps = p.in_channels // p.groups, math.prod(p.filter_size)
    apart = taps == 1 or algorithm.startswith(TAPS_APART)
    extents = {
        "outputs": p.batch * math.prod(p.output_size),
        "filters": p.out_channels // p.groups,
        "channels" if apart else "channels × taps": channels if apart else channels * taps,
    }
    name = min(extents, key=lambda key: extents[key])
    in_group = " a group" if p.groups > 1 else ""
    return f"skinny product: {extents[name]} {name}{in_group}" if extents[name] <= SKINNY else ""


def _transforms(placed: Placed, _phases: list[Placement]) -> str:
    """Transforms, which no matrix product's peak is meant for."""
    flops = sum(phase.flops for phase in placed.work.phases if phase.name.startswith(TRANSFORMS))
    share = flops / (placed.work.executed_flops or 1)
    return f"transforms: {share:.0%} of the flops" if share >= HINT_SHARE else ""


def _unknown_work(placed: Placed, _phases: list[Placement]) -> str:
    """An algorithm that may do more than the definition asks for."""
    return "work: nominal" if placed.nominal else ""


HINTS: tuple[Callable[[Placed, list[Placement]], str], ...] = (
    _slow_phase, _slow_transforms, _waiting_threads, _dispatch, _in_turn, _skinny, _transforms, _unknown_work,
)  # fmt: skip
"""In the order in which they are tried: what was measured first, then what the model says, then what it cannot say."""
