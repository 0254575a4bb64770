"""The CPU as a device: its clock, the witnesses against a sample, its canaries."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from convbench.backends import Sample
from convbench.machine import Machine, cpu_machine

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import resource
except ImportError:  # Windows has no such counters: no sample is flagged there
    resource = None  # type: ignore[assignment]

PRESSURE = Path("/proc/pressure/cpu")
LOST_SHARE = 0.01
"""Share of a sample's time that a witness must say was lost before it counts: the default `--precision`."""


class CpuClock:
    """perf_counter with processor time beside it; flags samples that another process disturbed.

    "switched": the kernel took a CPU away from a thread of ours; "preempted": on one thread, wall time exceeds
    processor time; "pressure": some task of the machine waited for a CPU (Linux pressure stall information).
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self.overhead_s = self._overhead()

    @staticmethod
    def _overhead() -> float:
        gaps = []
        for _ in range(200):
            start = time.perf_counter_ns()
            gaps.append(time.perf_counter_ns() - start)
        return max(median(gaps), 1.0) * 1e-9

    def sample(self, run: Callable[[], object], launches: int) -> Sample:
        """Times `launches` calls back to back."""
        switches, stalled = _switches(), _stalled_us()
        cpu = time.process_time_ns()
        start = time.perf_counter_ns()
        for _ in range(launches):
            run()
        wall = time.perf_counter_ns() - start
        cpu = time.process_time_ns() - cpu
        flags = []
        if _switches() > switches:
            flags.append("switched")
        if self.threads == 1 and wall - cpu > LOST_SHARE * wall:
            flags.append("preempted")
        if (_stalled_us() - stalled) * 1000 > LOST_SHARE * wall:
            flags.append("pressure")
        return Sample(wall * 1e-9, cpu * 1e-9, tuple(flags))


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


@functools.cache
def _pressure_file() -> int | None:
    """Kept open, since it is read twice a sample: 2 µs instead of 15."""
    try:
        return os.open(PRESSURE, os.O_RDONLY)
    except OSError:
        return None


def _stalled_us() -> int:
    """Microseconds since boot in which some task waited for a CPU: "some avg10=… total=N" in the first line."""
    file = _pressure_file()
    if file is None:
        return 0
    try:
        first = os.pread(file, 256, 0).partition(b"\n")[0]
    except OSError:  # kernels with the counters switched off open the file and refuse to read it
        return 0
    return int(first.rpartition(b"total=")[2])


class CpuDevice:
    """The processor this runs on."""

    name = "cpu"

    @functools.cached_property
    def _machine(self) -> Machine:
        return cpu_machine()

    def machine(self) -> Machine:
        """Identity of the machine."""
        return self._machine

    def clock(self, threads: int) -> CpuClock:
        """A clock for runs on `threads` threads."""
        return CpuClock(threads)

    def canaries(self) -> dict[str, Callable[[], object]]:
        """A product of two 384² matrices, and a copy of 32 MiB."""
        import numpy as np

        a, b = np.random.default_rng(0).standard_normal((2, 384, 384), dtype=np.float32)
        product = np.empty_like(a)
        source = np.random.default_rng(1).standard_normal(8 << 20, dtype=np.float32)
        target = np.zeros_like(source)
        return {
            "compute": functools.partial(np.matmul, a, b, out=product),
            "memory": functools.partial(np.copyto, target, source),
        }
