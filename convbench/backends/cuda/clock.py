"""The clock of a GPU: CUDA events around a graph of the launches, and what NVML says meanwhile."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from convbench.backends import POWER_CAP, Sample
from convbench.backends.cuda.nvml import CLOCK_SHARE, SLOWER_CLOCK, Reading
from convbench.backends.cuda.runtime import is_out_of_memory
from convbench.errors import ConvbenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from convbench.backends.cuda.nvml import Nvml
    from convbench.backends.cuda.runtime import Cuda

EVENT_RESOLUTION_S = 0.5e-6
"""Of CUDA events, as documented (cudaEventElapsedTime)."""
OVERHEAD_SAMPLES = 20
HELD_CYCLES = 400_000
"""For which the GPU is held at least while the host queues what is timed: 200 µs at 2 GHz."""
CYCLES_PER_NODE = 1000
"""And for each launch in a graph, 0.5 µs. Nobody has measured yet what a graph of thousands takes to be launched."""
CYCLES_PER_CALL = 100_000
"""The same for a launch that is not in a graph, 50 µs: a call of cuDNN's front end is a long way through Python."""
MOST_HELD_CYCLES = 100_000_000
LATE = "late"
"""The host had not queued everything when the GPU began, which may have waited for it."""


@dataclass(frozen=True, slots=True)
class OnStream:
    """Work that is to be launched on the stream, not as a graph: launches themselves are what is measured."""

    run: Callable[[int], None]

    def __call__(self, count: int) -> None:
        """Runs it so many times."""
        self.run(count)


class _Captured(NamedTuple):
    """What was captured last, so that the same work is replayed; `replay` is None where it could not be captured."""

    run: Callable[[], object] | None = None
    launches: int = 0
    replay: Callable[[], None] | None = None


class CudaClock:
    """Times launches by events on the GPU. Nothing of it has run on one yet.

    A sample is one graph of all launches, so that none waits for the host; the first sample of so many launches of a
    `run` captures it, which calls `run` so often and executes nothing. What cannot be captured is launched one by one.
    In both cases a kernel holds the GPU until the host has queued everything.

    Flags: "throttled": heat, a power brake or the hardware held the clock down; "power_cap": the power limit did, a
    remark; "late": the host was slower than the GPU was held. On a whole round: "throttled" by the driver's counter;
    "others": another process computes on the GPU; "clock": it ran at less than 95 % of the round's fastest clock, and
    not for the power limit.

    Meters of a round: energy and the time that it was taken over, power and temperature at its end, clocks.
    """

    def __init__(self, cuda: Cuda, nvml: Nvml, overhead_s: float | None = None) -> None:
        self._cuda, self._nvml = cuda, nvml
        self._captured = _Captured()
        self._clocks: list[float | None] = []
        """SM clock during each sample since `watch`, in Hz."""
        self._meters: dict[str, float] = {}
        self.overhead_s = overhead_s or self._overhead()

    def _overhead(self) -> float:
        """What two events around nothing say, but no less than they resolve."""
        self._cuda.activate()
        empty = median(self._elapsed_s(lambda: None, HELD_CYCLES)[0] for _ in range(OVERHEAD_SAMPLES))
        return max(EVENT_RESOLUTION_S, empty)

    def sample(self, run: Callable[[], object], launches: int) -> Sample:
        """Times `launches` runs.

        Raises:
            MemoryError: the GPU's memory is short.
            ConvbenchError: the events gave no time.
        """
        self._cuda.activate()
        try:
            seconds, late, reading = self._timed(run, launches)
        except Exception as error:
            if is_out_of_memory(error):
                self._captured = _Captured()
                self._cuda.free_unused()
                raise MemoryError(str(error)) from error
            raise
        if not math.isfinite(seconds) or seconds < 0:
            raise ConvbenchError(f"the events of CUDA gave {seconds} seconds")
        self._clocks.append(reading.sm_clock_hz)
        return Sample(seconds, None, (*reading.flags(), *([LATE] if late else [])))

    def _timed(self, run: Callable[[], object], launches: int) -> tuple[float, bool, Reading]:
        if _is_on_stream(run):
            seconds, _, reading = self._elapsed_s(functools.partial(_repeat, run, launches), 0)
            return seconds, False, reading
        replay = self._replay(run, launches)
        each = CYCLES_PER_CALL if replay is None else CYCLES_PER_NODE
        held = min(MOST_HELD_CYCLES, HELD_CYCLES + launches * each)
        return self._elapsed_s(replay or functools.partial(_repeat, run, launches), held)

    def _replay(self, run: Callable[[], object], launches: int) -> Callable[[], None] | None:
        """What launches the graph of so many runs; None where they cannot be captured."""
        known = self._captured
        if known.run == run and (known.replay is None or known.launches == launches):
            return known.replay
        self._captured = _Captured()  # the former graph goes before the next one is made
        replay = None
        try:
            replay = self._cuda.capture(functools.partial(_repeat, run, launches))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Work that is broken altogether raises again where it is launched.
        self._captured = _Captured(run, launches, replay)
        return replay

    def _elapsed_s(self, work: Callable[[], object], held_cycles: int) -> tuple[float, bool, Reading]:
        """Seconds on the GPU between two events around `work`, whether the host was late, and NVML's word meanwhile."""
        start, end = self._cuda.event(), self._cuda.event()
        if held_cycles:
            self._cuda.launch("spin", 1, 1, held_cycles)
        start.record()
        work()
        end.record()
        late = held_cycles > 0 and bool(start.done)
        reading = self._nvml.reading()  # while the GPU works, if it takes long enough
        self._cuda.synchronize()
        return self._cuda.elapsed_s(start, end), late, reading

    def watch(self) -> Callable[[list[Sample]], list[Sample]]:
        """Watches heat, clock and other processes over a round."""
        before = self._nvml.counters()
        self._clocks = []
        energy_j, started = self._nvml.energy_j(), time.perf_counter()

        def judged(samples: list[Sample]) -> list[Sample]:
            self._meters = self._read_meters(energy_j, started)
            lasting = self._nvml.counters().since(before)
            clocks = self._clocks if len(self._clocks) == len(samples) else [None] * len(samples)
            fastest = max((clock for clock in clocks if clock), default=0.0)
            return [
                replace(sample, flags=_merged(sample.flags, lasting, clock, fastest))
                for sample, clock in zip(samples, clocks, strict=True)
            ]

        return judged

    def meters(self) -> dict[str, float]:
        """What was read over the last round, and at its end; what is not told is left out."""
        return self._meters

    def _read_meters(self, energy_j: float | None, started: float) -> dict[str, float]:
        found = self._nvml.meters()
        now_j, window_s = self._nvml.energy_j(), time.perf_counter() - started
        if energy_j is not None and now_j is not None and now_j >= energy_j:
            found |= {"energy_j": now_j - energy_j, "window_s": window_s}
        if clocks := [clock for clock in self._clocks if clock]:
            found["sm_clock_hz"] = median(clocks)
        return found


def _merged(flags: tuple[str, ...], lasting: tuple[str, ...], clock: float | None, fastest: float) -> tuple[str, ...]:
    slower = clock is not None and clock < CLOCK_SHARE * fastest and POWER_CAP not in flags
    return tuple(dict.fromkeys((*flags, *lasting, *([SLOWER_CLOCK] if slower else []))))


def _repeat(run: Callable[[], object], launches: int) -> None:
    for _ in range(launches):
        run()


def _is_on_stream(run: Any) -> bool:
    return isinstance(run.func if isinstance(run, functools.partial) else run, OnStream)
