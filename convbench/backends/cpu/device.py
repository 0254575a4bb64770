"""The CPU as a device: its clock, the witnesses against a sample, its canaries, its caches."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from convbench.backends import Sample
from convbench.machine import Machine, cpu_machine

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import resource
except ImportError:  # Windows has no such counters: no sample is flagged there
    resource = None  # type: ignore[assignment]

TASKS = Path("/proc/self/task")
STAT = Path("/proc/stat")
PRESSURE = Path("/proc/pressure/cpu")
LOST_SHARE = 0.01
"""Share of a sample's time that a witness must say was lost before it counts: the default `--precision`."""
OTHERS_SHARE = 0.05
"""Share of the CPUs' time that other processes may take before a round counts as disturbed."""
SHORTEST_WATCH_S = 0.1
"""Below this the counters of a whole machine, which move in steps of 10 ms, say nothing."""
UNKNOWN_CACHE_BYTES = 64 << 20
"""Size assumed of a last-level cache that is not known."""


class CpuClock:
    """perf_counter with processor time beside it; flags samples that something else disturbed.

    On a sample: "waited": threads of ours were ready to run and had no CPU for 1 % of its time (the scheduler's own
    count; where the kernel keeps none, "pressure": some task of the machine waited that long, or "switched": a CPU was
    taken away from a thread of ours); "preempted": on one thread, wall time exceeds processor time by 1 %.
    On a whole round, of those that last long enough for the machine's counters: "stolen": the host of a virtual
    machine took 1 % of its CPUs' time; "others": other processes took 5 % of it.
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
        before = _delays()
        cpu = time.process_time_ns()
        start = time.perf_counter_ns()
        for _ in range(launches):
            run()
        wall = time.perf_counter_ns() - start
        cpu = time.process_time_ns() - cpu
        flags = [
            name
            for name, (lost_ns, share) in _delays().items()
            if lost_ns - before.get(name, (0, 0.0))[0] > share * wall
        ]
        if self.threads == 1 and wall - cpu > LOST_SHARE * wall:
            flags.append("preempted")
        return Sample(wall * 1e-9, cpu * 1e-9, tuple(flags))

    def watch(self) -> Callable[[], tuple[str, ...]]:
        """Watches the machine's counters over a round."""
        start, before, own = time.perf_counter(), machine_times(), time.process_time()

        def flags() -> tuple[str, ...]:
            elapsed = time.perf_counter() - start
            if before is None or elapsed < SHORTEST_WATCH_S or (after := machine_times()) is None:
                return ()
            return shares_flags(before, after, time.process_time() - own)

        return flags


def machine_times() -> tuple[float, float, float] | None:
    """(busy, stolen, all) seconds of all CPUs since boot; None where the system does not say.

    The first line of /proc/stat: "cpu user nice system idle iowait irq softirq steal …", in ticks.
    """
    try:
        with STAT.open("rb") as file:
            fields = [int(text) for text in file.readline().split()[1:9]]
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    user, nice, system, idle, waiting, interrupts, soft, stolen = (value / tick for value in fields)
    busy = user + nice + system + interrupts + soft
    return busy, stolen, busy + idle + waiting + stolen


def shares_flags(
    before: tuple[float, float, float], after: tuple[float, float, float], own_s: float
) -> tuple[str, ...]:
    """The flags of a round between two readings of `machine_times`, in which this process used `own_s` seconds."""
    busy, stolen, total = (b - a for a, b in zip(before, after, strict=True))
    grain = 2.0 / os.sysconf("SC_CLK_TCK")  # each counter may be a tick behind
    flags = []
    if stolen > max(LOST_SHARE * total, grain):
        flags.append("stolen")
    if busy - own_s > max(OTHERS_SHARE * total, grain):
        flags.append("others")
    return tuple(flags)


def _delays() -> dict[str, tuple[int, float]]:
    """Per witness what it has counted so far, in ns, and the share of a sample from which that counts."""
    waited = _waited_ns()
    if waited is not None:
        return {"waited": (waited, LOST_SHARE)}
    found: dict[str, tuple[int, float]] = {"pressure": (_stalled_us() * 1000, LOST_SHARE)}
    if resource:
        found["switched"] = (resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, 0.0)
    return found


_schedstats: dict[str, int] = {}
"""Open files of the scheduler's counters by thread: kept open, since they are read twice a sample."""


def _waited_ns() -> int | None:
    """Nanoseconds that threads of this process were ready to run without a CPU; None where they are not counted.

    The second number of /proc/self/task/*/schedstat: "time on a CPU, time waiting for one, times run".
    """
    try:
        threads = os.listdir(TASKS)  # noqa: PTH208  a Path per thread would cost more than the reading
        if len(threads) != len(_schedstats) or not _schedstats.keys() >= set(threads):
            _reopen(threads)
        return sum(int(os.pread(file, 64, 0).split()[1]) for file in _schedstats.values())
    except (OSError, ValueError, IndexError):
        return None


def _reopen(threads: list[str]) -> None:
    for name in [name for name in _schedstats if name not in threads]:
        os.close(_schedstats.pop(name))
    for name in threads:
        if name not in _schedstats:
            _schedstats[name] = os.open(TASKS / name / "schedstat", os.O_RDONLY)


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

    def cache_bytes(self) -> int:
        """The last-level cache, or 64 MiB where none is known."""
        return max(self.machine().cache_bytes.values(), default=UNKNOWN_CACHE_BYTES)

    def sweep_cache(self, threads: int) -> None:
        """Reads and writes twice the last-level cache, a part on each of `threads` threads: theirs are swept too."""
        parts, pool = _sweep(2 * self.cache_bytes(), threads)
        list(pool.map(_touch, parts))


@functools.cache
def _sweep(size: int, threads: int) -> tuple[list[Any], Any]:
    """Parts of a buffer of `size` bytes, and threads to go over them."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    return np.array_split(np.ones(size // 4, np.float32), threads), ThreadPoolExecutor(threads)


def _touch(part: Any) -> None:
    part *= -1.0  # without the interpreter's lock, so that all threads work at once
