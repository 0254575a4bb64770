"""The CPU as a device: its clock, the witnesses against a sample, its canaries, its caches."""

from __future__ import annotations

import bisect
import functools
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from convbench.backends import Sample
from convbench.machine import Machine, available_memory_bytes, cpu_count, cpu_machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from convbench.backends import Probe

try:
    import resource
except ImportError:  # Windows has no such counters: no sample is flagged there
    resource = None  # type: ignore[assignment]

TASKS = Path("/proc/self/task")
STAT = Path("/proc/stat")
PRESSURE = Path("/proc/pressure/cpu")
LOST_SHARE = 0.01
"""Share of a sample's time that a witness must say was lost before it counts: the default `--precision`."""
MOST_THREADS = 256
"""Threads whose waiting is followed."""
UNUSUAL = 2.0
"""Multiple of its usual waiting from which a plan of several threads is disturbed."""
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
    On a whole round: "stolen": the host of a virtual machine took 1 % of its CPUs' time; "others": other processes took
    5 % of it. Threads of one plan also wait for each other, and do so in each sample: of several, "waited" counts where
    it is twice what is usual for them.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads, self.cpus = threads, cpu_count()
        self.overhead_s = self._overhead()
        self._seen = Seen()
        """What is not judged yet: rounds too short for the machine's counters are watched together."""
        self._waited: list[float] = []
        """Shares of earlier samples in which threads of a plan of several waited, sorted."""

    @staticmethod
    def _overhead() -> float:
        gaps = []
        for _ in range(200):
            start = time.perf_counter_ns()
            gaps.append(time.perf_counter_ns() - start)
        return max(median(gaps), 1.0) * 1e-9

    def sample(self, run: Callable[[], object], launches: int) -> Sample:
        """Times `launches` calls back to back."""
        before = Delays.read()
        cpu = time.process_time_ns()
        start = time.perf_counter_ns()
        for _ in range(launches):
            run()
        wall = time.perf_counter_ns() - start
        cpu = time.process_time_ns() - cpu
        lost = Delays.read().since(before)
        flags = [name for name, amount in lost.items() if amount > self._limit(name) * wall]
        if self.threads > 1 and "waited" in lost:
            bisect.insort(self._waited, lost["waited"] / max(1, wall))
        if self.threads == 1 and wall - cpu > LOST_SHARE * wall:
            flags.append("preempted")
        return Sample(wall * 1e-9, cpu * 1e-9, tuple(flags))

    def _limit(self, witness: str) -> float:
        """Share of a sample that a witness must exceed; a CPU that was taken away counts whatever it cost."""
        if witness == "switched":
            return 0.0
        usual = self._waited[len(self._waited) // 2] if self._waited else 0.0
        return max(LOST_SHARE, UNUSUAL * usual)

    def watch(self) -> Callable[[list[Sample]], list[Sample]]:
        """Watches the machine's counters over a round."""
        before, own = machine_times(), time.process_time()

        def judged(samples: list[Sample]) -> list[Sample]:
            after = machine_times()
            if before is None or after is None:
                return samples
            busy, stolen, total = (b - a for a, b in zip(before, after, strict=True))
            self._seen += Seen(busy, stolen, total, time.process_time() - own)
            if self._seen.total < SHORTEST_WATCH_S * self.cpus:
                return samples
            flags, self._seen = self._seen.flags(), Seen()
            return [replace(s, flags=(*s.flags, *flags)) for s in samples]

        return judged


@dataclass(frozen=True, slots=True)
class Seen:
    """Seconds of all CPUs while they were watched: busy, stolen by the host, all; and those that this process used."""

    busy: float = 0.0
    stolen: float = 0.0
    total: float = 0.0
    own: float = 0.0

    def __add__(self, other: Seen) -> Seen:
        return Seen(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def _took(self, seconds: float, share: float) -> bool:
        grain = 2.0 / os.sysconf("SC_CLK_TCK")  # each counter may be a tick behind
        return seconds > max(share * self.total, grain)

    def flags(self) -> tuple[str, ...]:
        """What speaks against all samples meanwhile."""
        taken = {"stolen": (self.stolen, LOST_SHARE), "others": (self.busy - self.own, OTHERS_SHARE)}
        return tuple(name for name, (seconds, share) in taken.items() if self._took(seconds, share))


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


@dataclass(frozen=True, slots=True)
class Delays:
    """What the witnesses of a sample have counted so far.

    Attributes:
        waited: ns that each thread of this process was ready to run without a CPU; None where that is not counted.
        stalled: ns in which some task of the machine waited for a CPU.
        switched: how often a CPU was taken from a thread of this process.
    """

    waited: dict[str, int] | None
    stalled: int = 0
    switched: int = 0

    @classmethod
    def read(cls) -> Delays:
        """The counters now."""
        waited = _waited_ns()
        if waited is not None:
            return cls(waited)
        switched = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0
        return cls(None, _stalled_us() * 1000, switched)

    def since(self, before: Delays) -> dict[str, int]:
        """What was counted meanwhile, by witness; nothing where the two are of different kinds."""
        if self.waited is not None and before.waited is not None:  # threads may have come and gone
            return {"waited": sum(ns - before.waited.get(name, 0) for name, ns in self.waited.items())}
        if self.waited is None and before.waited is None:
            return {"pressure": self.stalled - before.stalled, "switched": self.switched - before.switched}
        return {}


_schedstats: dict[str, int] = {}
"""Open files of the scheduler's counters by thread: kept open, since they are read twice a sample."""


def _waited_ns() -> dict[str, int] | None:
    """Nanoseconds that each thread of this process was ready to run without a CPU; None where they are not counted.

    The second number of /proc/self/task/*/schedstat: "time on a CPU, time waiting for one, times run". A process of
    very many threads is not followed: that would cost more files and time than a sample is worth.
    """
    try:
        threads = os.listdir(TASKS)  # noqa: PTH208  a Path per thread would cost more than the reading
    except OSError:
        return None
    if len(threads) > MOST_THREADS:
        threads = []
    for name in _schedstats.keys() - set(threads):
        os.close(_schedstats.pop(name))
    found = {}
    for name in threads:
        try:
            if name not in _schedstats:
                _schedstats[name] = os.open(TASKS / name / "schedstat", os.O_RDONLY)
            found[name] = int(os.pread(_schedstats[name], 64, 0).split()[1])
        except (OSError, ValueError, IndexError):  # it ended meanwhile, or is not counted
            continue
    return found or None


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

    def probes(self, threads: int) -> AbstractContextManager[list[Probe]]:
        """Micro-kernels on `threads` threads, with working sets from a thread's L2 to four times all its caches."""
        from convbench.backends.cpu.probes import cpu_probes

        caches = max(self.cache_bytes(), threads * self.machine().cache_bytes.get("l2", 0))
        free = available_memory_bytes()
        return cpu_probes(threads, min(4 * caches, free // 4 if free else 4 * caches))

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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_sweep.cache_clear)  # a child has none of its parent's threads


def _touch(part: Any) -> None:
    part *= -1.0  # without the interpreter's lock, so that all threads work at once
