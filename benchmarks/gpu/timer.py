"""convbench's times beside those of a timer that shares nothing with its clock: plain CUDA events, and `cuda-bench`.

    python benchmarks/gpu/timer.py [--out timer.md]

The same plans, by turns. Prints a table of ratios in Markdown, and fails where a median is off by more than 3 %.
NVIDIA's cuda-bench (nvbench) is the third column where it is installed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from cases import planned

from convbench.timing import RowTimer, TimingOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cases import Planned

ALLOWED = 0.03
"""Difference of two medians."""
TURNS = 7
SAMPLE_S = 3e-3
"""Shortest sample of the other timer."""
ROW_S = 0.3
MOST_LAUNCHES = 2000
HELD_S = 300e-6
"""For which a kernel holds the GPU while a graph is queued; of single launches, for as long as each takes the host."""
CALL_S = 60e-6
SPIN = r"""
extern "C" __global__ void hold(unsigned long long nanoseconds) {
  unsigned long long start, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); while (now - start < nanoseconds);
}
"""


class EventTimer:
    """Seconds of a launch by two events on a stream, as few calls of CuPy as that takes."""

    def __init__(self, cupy: Any, stream: Any) -> None:
        self._cupy, self._stream = cupy, stream
        self._hold = cupy.RawKernel(SPIN, "hold")

    def between_s(self, work: Callable[[], object], held_s: float = HELD_S) -> float:
        """Seconds between an event before `work` and one after it, the GPU being held while it is queued."""
        import numpy as np

        begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        with self._stream:
            self._hold((1,), (1,), (np.uint64(held_s * 1e9),))
            begin.record(self._stream)
            work()
            end.record(self._stream)
        self._stream.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(begin, end)) * 1e-3

    def captured(self, run: Callable[[], object], launches: int) -> Any:
        """A graph of so many runs; None where they cannot be captured."""
        self._stream.synchronize()
        with self._stream:
            self._stream.begin_capture()
            try:
                try:
                    for _ in range(launches):
                        run()
                finally:
                    graph = self._stream.end_capture()
            except Exception:  # noqa: BLE001  whatever cannot be captured is launched one by one
                return None
        graph.upload(self._stream)
        return graph

    def repeated(self, run: Callable[[], object], launches: int) -> Callable[[], float]:
        """What takes one sample of so many launches: seconds of one of them."""
        graph = self.captured(run, launches)
        if graph is not None:
            return lambda: self.between_s(lambda: graph.launch(self._stream)) / launches

        def work() -> None:
            for _ in range(launches):
                run()

        return lambda: self.between_s(work, HELD_S + launches * CALL_S) / launches

    def warm(self, run: Callable[[], object]) -> Callable[[], float]:
        """What takes one sample of SAMPLE_S or longer."""
        run()
        once = min(self.between_s(run, HELD_S + CALL_S) for _ in range(3))
        return self.repeated(run, min(MOST_LAUNCHES, max(1, math.ceil(SAMPLE_S / max(once, 1e-7)))))


class Compared(NamedTuple):
    """One row: seconds of a run by convbench, by events and by cuda-bench, None where that is not here."""

    label: str
    ours_s: float
    events_s: float
    bench_s: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Ours over each other."""
        return [self.ours_s / other for other in (self.events_s, self.bench_s) if other]

    @property
    def agrees(self) -> bool:
        """Whether all are within what is allowed."""
        return all(abs(value - 1) <= ALLOWED for value in self.ratios)


def compared(label: str, run: Callable[[], object], clock: Any, events: EventTimer) -> Compared:
    """A row by both timers in turn, so that a clock that drifts is the same for both."""
    row = RowTimer(run, clock, TimingOptions(max_time_s=ROW_S))
    sample = events.warm(run)
    ours, theirs = [], []
    for _ in range(TURNS):
        measured, _ = row.round()
        ours.append(measured.value_s)
        theirs.append(median(sample() for _ in range(3)))
    return Compared(label, median(ours), median(theirs))


def bench_seconds(runs: Sequence[Callable[[], object]], events: EventTimer) -> list[float | None]:
    """Seconds of each run by nvbench's batches of launches; None of all where cuda-bench is not installed or fails."""
    try:
        import cuda.bench as bench
        from cuda.bench.results import BenchmarkResult
    except ImportError:
        return [None] * len(runs)
    import cupy

    graphs = [events.captured(run, 1) for run in runs]

    def row(state: Any) -> None:
        graph = graphs[state.get_int64("row")]
        if graph is None:
            state.skip("cannot be captured")
            return
        state.exec(lambda launch: graph.launch(cupy.cuda.Stream.from_external(launch.get_stream())), batched=True)

    bench.register(row).add_int64_axis("row", range(len(runs)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.json"
        bench.run_all_benchmarks(["timer", "--json", str(path)])
        states = BenchmarkResult.from_json(path)["row"].states
    found: list[float | None] = [None] * len(runs)
    for state in states:
        summary = state.summaries.get("nv/batch/time/gpu/mean")
        if summary is not None and isinstance(summary.value, float):
            found[int(state.point["row"])] = summary.value
    return found


def table(rows: Sequence[Compared]) -> list[str]:
    """In Markdown."""

    def time(seconds: float | None) -> str:
        return "–" if seconds is None else f"{seconds * 1e6:.1f} µs"

    lines = ["| row | convbench | events | cuda-bench | ratios | |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        ratios = ", ".join(f"{value:.3f}" for value in row.ratios)
        verdict = "" if row.agrees else f"off by more than {ALLOWED:.0%}"
        lines.append(
            f"| {row.label} | {time(row.ours_s)} | {time(row.events_s)} | {time(row.bench_s)} | {ratios} | {verdict} |"
        )
    return lines


def measured(plans: Sequence[Planned], events: EventTimer) -> list[Compared]:
    """All rows."""
    rows = [compared(p.label, p.plan.run, p.backend.device().clock(1), events) for p in plans]
    try:
        bench = bench_seconds([p.plan.run for p in plans], events)
    except Exception as error:  # noqa: BLE001  a second opinion that is not to be had
        print(f"cuda-bench: {type(error).__name__}: {error}")
        bench = [None] * len(plans)
    return [row._replace(bench_s=seconds) for row, seconds in zip(rows, bench, strict=True)]


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args()
    from convbench.backends import cuda

    if reason := cuda.unusable():
        sys.exit(reason)
    import cupy

    device = cuda.device()
    device.activate()
    rows = measured([*planned()], EventTimer(cupy, device.cuda.stream))
    text = "\n".join(table(rows)) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    print(json.dumps([row._asdict() for row in rows]))
    if not rows:
        sys.exit("no row could be planned")
    if off := [row.label for row in rows if not row.agrees]:
        sys.exit(f"{len(off)} of {len(rows)} rows are off by more than {ALLOWED:.0%}: {', '.join(off)}")


if __name__ == "__main__":
    main()
