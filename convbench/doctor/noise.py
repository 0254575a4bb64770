"""The A/A noise floor: how far two rows of the same kernel differ here. docs/method.md, "Time", has the rules used."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convbench.stats import median
from convbench.timing import Measured, Round, RowTimer, TimingOptions, half_width, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convbench.backends import Clock, Device, Sample
    from convbench.backends.cuda.gpu import CudaDevice

    Run = Callable[[], object]

SIZES_S = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Times of the kernels, in seconds; what is much shorter is noise of the clock and of the interpreter."""
LARGEST_COPY_BYTES = 1 << 30
"""Read and written by a copy on a GPU; what takes longer is several."""
ROWS_OF_COPIES = 16
"""Share of a GPU's memory for one of them: two for each size, and one more while sizes are sought."""
LEAST_TIME_S = 0.2
"""Samples of a row in one repeat take so long at most, or what six rounds of a long kernel need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel that can be made of any size.

    Attributes:
        name: "product", "copy".
        make: a run of that size, on arrays of its own.
        power: its time grows as size to this power.
        largest: size above which it is called several times instead.
        parallel: whether it uses several threads.
    """

    name: str
    make: Callable[[int], Run]
    power: float = 1.0
    largest: int = 1 << 23
    parallel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How much rows of one size vary.

    Attributes:
        size_s: the class; `time_s` the median of its rows, which is near it.
        half_width: relative half-width of a row's 95 % interval, the median of all; None below six rounds.
        difference: by how much the larger of the two rows' medians exceeds the smaller, the largest of all repeats.
        flagged: share of samples with a witness against them.
    """

    size_s: float
    kernel: str
    threads: int
    time_s: float
    half_width: float | None
    difference: float
    flagged: float
    repeats: int


@dataclass(slots=True)
class _Pair:
    """The two rows A and A′ of a kernel, and their rounds in each repeat."""

    size_s: float
    kernel: str
    threads: int
    make: Callable[[], Run]
    repeats: list[tuple[list[Round], list[Round]]] = field(default_factory=list)


def kernels() -> list[Kernel]:
    """A product of two square matrices, and a copy, of random float32 numbers."""
    import numpy as np

    rng = np.random.default_rng(0)

    def product(size: int) -> Run:
        a, b = rng.random((2, size, size), dtype=np.float32)
        c = np.zeros_like(a)
        return lambda: np.matmul(a, b, out=c)

    def copy(size: int) -> Run:
        source = rng.random(size, dtype=np.float32)
        target = np.zeros_like(source)
        return lambda: np.copyto(target, source)

    return [
        Kernel(name="product", make=product, power=3.0, largest=2048, parallel=True),
        Kernel(name="copy", make=copy),
    ]


def gpu_kernels(device: CudaDevice) -> list[Kernel]:
    """Multiply-adds in fp32 on all of a GPU's multiprocessors, and a copy of random numbers."""
    from convbench.backends.cuda.probes import Team

    team = Team(device.cuda, device.properties.units)
    room = min(LARGEST_COPY_BYTES, device.free_bytes() // ROWS_OF_COPIES)

    def made(name: str, passes: int, grains: int) -> Run:
        device.activate()
        with device.memory_errors():
            return team.canaries(passes, 2 * grains * team.grain_bytes)[name]

    return [
        Kernel(name="multiply-add", make=lambda passes: made("compute", passes, 1), largest=1 << 30),
        Kernel(name="copy", make=lambda grains: made("memory", 1, grains),
               largest=max(1, room // (2 * team.grain_bytes))),
    ]  # fmt: skip


def noise_floor(
    device: Device, threads: int, time_s: float, *, of: Sequence[Kernel], sizes_s: Sequence[float] = SIZES_S,
    seed: int = 0,
) -> list[Noise]:  # fmt: skip
    """Times each kernel of each size as two rows, all interleaved, on one thread and on `threads`.

    Another repeat, on fresh arrays, follows as long as it fits into `time_s` seconds; there is one at least.
    """
    from threadpoolctl import threadpool_limits

    started = time.perf_counter()
    pairs: list[_Pair] = []
    for count in dict.fromkeys((1, threads)):
        with threadpool_limits(count):
            clock = device.clock(count)
            for kernel in of:
                if count == 1 or kernel.parallel:
                    pairs += [_Pair(size, kernel.name, count, fitted(kernel, size, clock, count)) for size in sizes_s]
    while True:
        begun = time.perf_counter()
        for count in dict.fromkeys((1, threads)):
            with threadpool_limits(count):
                _repeat([pair for pair in pairs if pair.threads == count], device.clock(count), seed)
        seed += 1
        now = time.perf_counter()
        if now - started + (now - begun) > time_s:
            return [noise(p.repeats, size_s=p.size_s, kernel=p.kernel, threads=p.threads) for p in pairs]


def fitted(kernel: Kernel, size_s: float, clock: Clock, threads: int = 1) -> Callable[[], Run]:
    """What makes runs of `kernel` that last about `size_s` seconds each on `threads` threads, where none waits."""
    size = 64
    for _ in range(6):
        run = kernel.make(size)
        run()
        seconds = _fastest(run, clock, threads)
        better = min(kernel.largest, max(1, round(size * (size_s / seconds) ** (1 / kernel.power))))
        if better == size or 0.8 < seconds / size_s < 1.25:
            break
        size = better
    calls = max(1, round(size_s / seconds)) if size == kernel.largest else 1
    return lambda: _repeated(kernel.make(size), calls)


def _fastest(run: Run, clock: Clock, threads: int) -> float:
    """Seconds of the fastest of 3 to 50 launches, as many as fit into 0.1 s: on a busy machine most of them wait.

    Up to 1 s where a witness speaks against all of them. On one thread it is the processor time, which waiting is no
    part of.
    """
    samples: list[Sample] = []
    spent, limit = 0.0, 1.0
    while len(samples) < 3 or (len(samples) < 50 and spent < limit):
        samples.append(clock.sample(run, 1))
        spent += samples[-1].wall_s
        limit = limit if samples[-1].disturbed else 0.1
    times = [sample.wall_s for sample in samples]
    times += [sample.cpu_s for sample in samples if threads == 1 and sample.cpu_s]  # 0 where its clock is too coarse
    return max(min(times), 1e-9)


def _repeated(run: Run, calls: int) -> Run:
    def several() -> None:
        for _ in range(calls):
            run()

    return run if calls == 1 else several


def _repeat(pairs: Sequence[_Pair], clock: Clock, seed: int) -> None:
    """Measures all pairs once more, rows 2·i and 2·i + 1 being those of pair i."""
    timers = {
        2 * index + twin: RowTimer(pair.make(), clock, TimingOptions(max_time_s=max(LEAST_TIME_S, 6.5 * pair.size_s)))
        for index, pair in enumerate(pairs)
        for twin in (0, 1)
    }
    for pair in pairs:
        pair.repeats.append(([], []))
    for event in interleave(timers, (), seed):
        if isinstance(event, Measured):
            if event.error:
                raise event.error
            if event.round:
                pairs[event.row // 2].repeats[-1][event.row % 2].append(event.round)


def noise(
    repeats: Sequence[tuple[Sequence[Round], Sequence[Round]]], *, size_s: float, kernel: str, threads: int
) -> Noise:
    """What the rounds of A and A′, repeat by repeat, say."""
    values = [tuple([r.value_s for r in rounds] for rounds in pair) for pair in repeats]
    widths = [width for pair in values for row in pair if (width := half_width(row)) is not None]
    samples = [sample for pair in repeats for rounds in pair for r in rounds for sample in r.samples]
    return Noise(
        size_s=size_s, kernel=kernel, threads=threads, repeats=len(repeats),
        time_s=median(median(row) for pair in values for row in pair),
        half_width=median(widths) if widths else None,
        difference=max(_difference(median(a), median(b)) for a, b in values),
        flagged=sum(sample.disturbed for sample in samples) / len(samples),
    )  # fmt: skip


def _difference(a: float, b: float) -> float:
    return max(a, b) / min(a, b) - 1 if a != b else 0.0
