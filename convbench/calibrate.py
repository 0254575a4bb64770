"""Measures the ceilings of a device: times its probes in passes, tells levels from the curve, checks what came out.

Rules: docs/method.md, "Ceilings".
"""

from __future__ import annotations

import functools
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import stdev
from typing import TYPE_CHECKING, Any

from convbench.backends import ON_STREAM, REMARKS
from convbench.cache import Remembered, cache_folder
from convbench.ceilings import Ceiling, Ceilings, CurvePoint
from convbench.datasheet import matching_datasheet, most_fma_per_clock
from convbench.doctor import steering
from convbench.errors import ConvbenchError, InputError
from convbench.plateaus import CACHES, L1_BYTES, Level, find_levels
from convbench.session import date
from convbench.stats import first_quartile
from convbench.tasks import ask, describe
from convbench.units import format_si

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convbench.backends import Backend, Clock, Device, Probe
    from convbench.datasheet import Datasheet
    from convbench.doctor import Cost
    from convbench.machine import Machine

PASSES = 5
"""Times that every probe is visited, with a value each."""
LEAST_QUIET = 3
"""Passes without a witness against them that measure; the disturbed ones then do not count."""
RETRIES = 2
"""Further passes, where some were disturbed."""
SAMPLES = 2
"""Samples of a probe in a pass, one where it takes longer than LONG_S; the fastest is its value."""
LONG_S = 0.05
SAMPLE_S = 4e-3
OVERHEADS = 100
"""A sample lasts SAMPLE_S and so many times what it costs to start the threads, so that this takes 1 % at most."""
LONGEST_S = 0.3
"""A product that takes longer is left to the smaller ones."""
FLAGGED_SHARE = 0.5
"""Share of a pass's samples with a witness against them from which the pass is disturbed."""
TOLERANCE = 1.05
"""By how much a measured ceiling may exceed what arithmetic allows."""
FASTEST_CLOCK_HZ = 6.5e9
"""No processor on sale runs faster: 6.2 GHz is the highest clock that one is sold with (Intel, Core i9-14900KS)."""
SUSPICIOUS_SHARE = 0.7
"""Share of a datasheet's figure below which something is in the way."""
FORMAT = 1
"""Of the file: raised when ceilings are measured or written in another way."""
MOST_REMEMBERED = 64
COST_PAIRS = 3


@dataclass(frozen=True, slots=True)
class Pass:
    """One visit to every probe: seconds of a run of each, and the witnesses against it; none where it was quiet."""

    seconds: tuple[float, ...]
    witnesses: tuple[str, ...] = ()


def measurable(device: Device) -> bool:
    """Whether a device has probes."""
    return hasattr(device, "probes")


def measure(device: Device, threads: int, backends: Sequence[Backend] = ()) -> Ceilings:
    """The ceilings of a device that is `measurable`, for runs on so many CPU threads; takes some seconds.

    The device's own probes are those of NumPy; `backends` on it that know a faster way to its peak show that, too.
    """
    machine = device.machine()
    with device.probes(threads) as own:  # type: ignore[attr-defined]
        found = [*own]
        for backend in _with_peaks(backends):
            with suppress(ConvbenchError):  # what it cannot show does not count
                found += ask(backend, "peaks", threads)
        clock = device.clock(threads)
        timed = [(probe, count) for probe in found if (count := launches(probe, clock)) is not None]
        passes: list[Pass] = []
        while len(passes) < PASSES + RETRIES and sum(not one.witnesses for one in passes) < PASSES:
            passes.append(_pass(timed, clock))
        probes = [probe for probe, _ in timed]
    measured = checked(evaluate(probes, passes, machine, threads), machine, matching_datasheet(machine))
    return replace(measured, warnings=(*measured.warnings, *_steered()))


def _with_peaks(backends: Sequence[Backend]) -> list[Backend]:
    return [backend for backend in backends if hasattr(backend, "peaks")]


def launches(probe: Probe, clock: Clock) -> int | None:
    """Launches of a probe that make a sample; None where one alone takes longer than LONGEST_S."""
    overhead = min(clock.sample(functools.partial(probe.run, 0), 1).wall_s for _ in range(3))
    needed = max(SAMPLE_S, OVERHEADS * overhead)
    count = 1
    while True:
        seconds = clock.sample(functools.partial(probe.run, count), 1).wall_s
        if seconds > LONGEST_S and count == 1:
            seconds = min(clock.sample(functools.partial(probe.run, 1), 1).wall_s for _ in range(2))
            if seconds > LONGEST_S:  # and it was no disturbance
                return None
        if seconds >= 0.7 * needed:
            return max(1, round(count * needed / seconds))
        count = max(count + 1, min(20 * count, math.ceil(count * needed / max(seconds, 1e-9))))


def _pass(timed: Sequence[tuple[Probe, int]], clock: Clock) -> Pass:
    seconds, samples = [], []
    watched = clock.watch()
    for probe, count in timed:
        run = functools.partial(probe.run, count)
        mine = [clock.sample(run, 1)]
        while len(mine) < SAMPLES and mine[0].wall_s < LONG_S:
            mine.append(clock.sample(run, 1))
        seconds.append(max(min(sample.wall_s for sample in mine), 1e-9) / count)
        samples += mine
    flags = [flag for sample in samples for flag in dict.fromkeys(sample.flags) if flag not in REMARKS]
    lasting = {flag for sample in watched(samples) for flag in sample.flags} - REMARKS - set(flags)
    often = {flag for flag in flags if flags.count(flag) > FLAGGED_SHARE * len(samples)}
    return Pass(tuple(seconds), tuple(sorted(lasting | often)))


def evaluate(probes: Sequence[Probe], passes: Sequence[Pass], machine: Machine, threads: int) -> Ceilings:
    """Ceilings from what the passes took: of quiet ones where there are enough, else of all, and then `contended`."""
    quiet = [one for one in passes if not one.witnesses]
    used = quiet if len(quiet) >= LEAST_QUIET else passes
    contended = "" if used is quiet else _contended(passes)
    today = date()
    measured = [
        (probe, _ceiling([one.seconds[index] for one in used], probe, today)) for index, probe in enumerate(probes)
    ]
    compute: dict[str, Ceiling] = {}
    for probe, ceiling in measured:
        if probe.kind == "compute" and (probe.name not in compute or ceiling.value > compute[probe.name].value):
            compute[probe.name] = ceiling
    launched = {probe.name: ceiling for probe, ceiling in measured if probe.kind == "launch"}
    launch_stream = launched.pop(ON_STREAM, None)
    traffic = [(probe, ceiling) for probe, ceiling in measured if probe.kind == "bandwidth"]
    curve = tuple(
        CurvePoint(mix=p.name, size_bytes=p.size_bytes, bytes_per_s=c.value, sigma=c.sigma) for p, c in traffic
    )
    levels = find_levels(curve, seen_by(machine, threads), threads * machine.cache_bytes.get("l1", L1_BYTES))
    mixes = {level.name: _mixes(level, traffic) for level in levels}
    return Ceilings(
        compute=compute,
        bandwidth={name: max(of.values(), key=lambda c: c.value) for name, of in mixes.items()},
        capacity_bytes={level.name: level.capacity_bytes for level in levels if level.capacity_bytes},
        launch=next(iter(launched.values()), None),
        launch_stream=launch_stream,
        is_gpu=machine.gpu_name is not None,
        threads=None if machine.gpu_name else threads,
        mixes=mixes,
        curve=curve,
        contended=contended,
        warnings=tuple(level.warning for level in levels if level.warning),
    )


def _contended(passes: Sequence[Pass]) -> str:
    disturbed = [one for one in passes if one.witnesses]
    witnesses = sorted({witness for one in disturbed for witness in one.witnesses})
    return f"{len(disturbed)} of {len(passes)} passes were disturbed ({', '.join(witnesses)})"


def _ceiling(seconds: Sequence[float], probe: Probe, today: str) -> Ceiling:
    """The rate in the first quartile of the times that passes took, or that time where the probe is a launch.

    A disturbance only makes a pass slower; the very fastest may be luck.
    """
    values = [s if probe.kind == "launch" else probe.amount / s for s in seconds]
    typical = first_quartile(seconds)
    value = typical if probe.kind == "launch" else probe.amount / typical
    return Ceiling(
        value=value, kind="measured", sigma=stdev(values) / value if len(values) > 1 else 0.0, minimum=min(values),
        maximum=max(values), count=len(values), date=today,
    )  # fmt: skip


def _mixes(level: Level, traffic: Sequence[tuple[Probe, Ceiling]]) -> dict[str, Ceiling]:
    """The highest point of each mix on a level's plateau."""
    found: dict[str, Ceiling] = {}
    for probe, ceiling in traffic:
        if level.low <= probe.size_bytes <= level.high and (
            probe.name not in found or ceiling.value > found[probe.name].value
        ):
            found[probe.name] = ceiling
    return found


def seen_by(machine: Machine, threads: int) -> dict[str, int]:
    """Caches beyond L1 as a run's threads together see them, by the system's word: l2 is a core's own, or a GPU's."""
    cores = 1 if machine.gpu_name else min(threads, machine.physical_cores or threads)
    return {name: size * (cores if name == "l2" else 1) for name, size in machine.cache_bytes.items() if name in CACHES}


# Checks


def checked(of: Ceilings, machine: Machine, sheet: Datasheet | None) -> Ceilings:
    """The ceilings without those that cannot be right, and a warning for each of them and for each that is odd."""
    compute, bandwidth, mixes = dict(of.compute), dict(of.bandwidth), dict(of.mixes)
    warnings = [*of.warnings]
    for mode in [*compute]:
        most = most_flop_per_s(machine, of.threads, mode)
        if most is not None and compute[mode].value > TOLERANCE * most:
            said = f"{format_si(compute[mode].value, 'flop/s')}, above {format_si(most, 'flop/s')}"
            warnings.append(f"broken calibration: {mode} at {said}, what any such processor could do; not used")
            del compute[mode]
    # Tensor cores of some GPUs multiply in fp64 as fast as their other units do in fp32.
    comparable = not of.is_gpu and {"fp32", "fp64"} <= compute.keys()
    if comparable and compute["fp64"].value > TOLERANCE * compute["fp32"].value:
        warnings.append("broken calibration: fp64 above fp32; neither is used")
        del compute["fp32"], compute["fp64"]
    order = [level for level in (*CACHES, "dram") if level in bandwidth]
    for near, far in pairwise(order):
        if bandwidth[near].value * TOLERANCE < bandwidth[far].value:
            warnings.append(f"broken calibration: {near} below {far}; {near} is not used")
            del bandwidth[near]
            mixes.pop(near, None)
    if sheet is not None:
        warnings += _below(compute, sheet.ceilings().compute, "a power or clock limit, or a library without kernels")
        warnings += _below(bandwidth, sheet.ceilings().bandwidth, "a memory clock limit, ECC, or other work")
    return replace(of, compute=compute, bandwidth=bandwidth, mixes=mixes, warnings=tuple(warnings))


def _below(measured: Mapping[str, Ceiling], printed: Mapping[str, Ceiling], cause: str) -> list[str]:
    shares = {key: measured[key].value / printed[key].value for key in measured if key in printed}
    return [
        f"{key} is {100 * share:.0f} % of the datasheet's: {cause}"
        for key, share in shares.items()
        if share < SUSPICIOUS_SHARE
    ]


def most_flop_per_s(machine: Machine, threads: int | None, mode: str) -> float | None:
    """What no processor of this kind exceeds: two FMA units of its widest vectors per core, at FASTEST_CLOCK_HZ.

    Of a GPU: what datasheets of its compute capability say that a multiprocessor does, at the highest clock that its
    driver allows. None where that is not known: other architectures may have matrix units that BLAS uses unasked.
    """
    if machine.gpu_name is not None:
        if not (machine.gpu_compute_capability and machine.gpu_units and machine.gpu_clock_hz):
            return None
        fma = most_fma_per_clock(machine.gpu_compute_capability, mode)
        if fma is None:
            return None
        return 2.0 * machine.gpu_units * fma * machine.gpu_clock_hz
    widths = {"fp32": 4, "fp64": 8}
    if machine.arch not in {"x86_64", "AMD64"} or mode not in widths or not threads:
        return None
    vector = 64 if "avx512f" in machine.isa else 32
    cores = min(threads, machine.physical_cores or threads)
    return cores * 2 * 2 * (vector // widths[mode]) * FASTEST_CLOCK_HZ


def _steered() -> list[str]:
    """What variables that steer BLAS cost, if there are any."""
    names = steering(os.environ)
    if not names:
        return []
    from convbench.doctor.read import variables_cost

    return [steered_warning(names, variables_cost(os.environ, COST_PAIRS))]


def steered_warning(variables: Mapping[str, str], cost: Cost | None) -> str:
    """What to say of variables that steer BLAS: how fast a process with them is, and one without."""
    text = " ".join(f"{name}={value}" for name, value in variables.items()) + " steers BLAS"
    if cost is None:
        return f"{text}; what it costs was not measured"
    with_, without = (format_si(rate, "flop/s") for rate in (cost.with_flop_per_s, cost.without_flop_per_s))
    return f"{text}: a product on one thread at {with_}, at {without} in a process without"


# Remembering


def recall(
    device: Device, threads: int, warn: Callable[[str], object], backends: Sequence[Backend] = ()
) -> Ceilings | None:
    """The ceilings that are remembered of this device, backends, threads and BLAS; None where there are none."""
    entry = _remembered(warn).entries.get(_question(device, threads, backends))
    if entry is None:
        return None
    try:
        return Ceilings.from_dict(entry)
    except InputError as error:
        warn(f"remembered ceilings cannot be used ({error}): they are measured anew")
        return None


def measure_and_remember(
    device: Device, threads: int, warn: Callable[[str], object], backends: Sequence[Backend] = ()
) -> Ceilings:
    """`measure`; the ceilings are remembered, those of a busy machine are not.

    Raises:
        InputError: the device fails at it.
    """
    try:
        found = measure(device, threads, backends)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a device from a file may raise anything
        raise InputError(f"the ceilings of {device.name} cannot be measured: {describe(error)}") from error
    if found.contended:
        warn(f"ceilings of {device.name} are contended: {found.contended}; they are not remembered")
    else:
        remember(device, threads, found, warn, backends)
    return found


def remember(
    device: Device, threads: int, found: Ceilings, warn: Callable[[str], object], backends: Sequence[Backend] = ()
) -> None:
    """Keeps ceilings for `recall`."""
    _remembered(warn).put(_question(device, threads, backends), found.to_dict())


def _remembered(warn: Callable[[str], object]) -> Remembered:
    return Remembered(
        cache_folder() / "ceilings.json", name="ceilings", file_format=FORMAT, most=MOST_REMEMBERED,
        valid=lambda entry: isinstance(entry, dict), warn=warn,
    )  # fmt: skip


def _question(device: Device, threads: int, backends: Sequence[Backend]) -> str:
    """All that ceilings depend on."""
    names = sorted(backend.name for backend in _with_peaks(backends))
    return json.dumps([device.name, device.machine().fingerprint, threads, _blas(), names])


def _blas() -> list[list[Any]]:
    """(name, version, core) of NumPy's BLAS; of all that are loaded where it is not among NumPy's own libraries."""
    import numpy as np  # noqa: F401  which loads it
    from threadpoolctl import threadpool_info

    found = [pool for pool in threadpool_info() if pool.get("user_api") == "blas"]
    own = [pool for pool in found if "numpy" in pool.get("filepath", "")]
    facts = ([pool.get(key) for key in ("internal_api", "version", "architecture")] for pool in own or found)
    return sorted(facts, key=str)
