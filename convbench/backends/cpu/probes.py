"""Micro-kernels that show what this processor can do, in NumPy: products, traffic over slices of all sizes, a call."""

from __future__ import annotations

import functools
import math
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.backends import Probe
from convbench.backends.cpu.threads import blas_threads
from convbench.problem import MathMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

EXTENTS = (512, 1024, 2048)
"""Of the matrix products; the largest is left to BLAS's own threads, the others run one in each thread."""
SMALLEST_BYTES = 64 << 10
"""Of a thread's slices."""
ALIGNMENT = 64
"""Bytes of a cache line: NumPy's own arrays begin 16 bytes off one, which costs loads that cross lines."""
MIXES = {"read": 2, "copy": 2, "add": 3}
"""Mixes of traffic, and the arrays that each goes over: x·y; y = −x or y = x; z = x + y."""
COPY_BYTES = 2 << 20
"""From so many bytes of a thread on, a copy is `copyto`, whose stores may pass the caches by; below, a `negative`."""
RELEASED = 512
"""`vecdot` lets other threads run from 500 products on; of fewer each is a call of its own."""


class Team:
    """Threads that wait for work between runs and begin each together; the caller's thread is the first of them.

    Each has a CPU of its own where the system lets it: a thread that another wakes is often put beside it, on the same
    CPU, and left there for longer than a sample lasts. The caller's has it while it works alone, for threads that it
    starts would inherit it.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._cpus = sorted(os.sched_getaffinity(0)) if threads > 1 and hasattr(os, "sched_getaffinity") else []
        self._start, self._end = threading.Barrier(threads), threading.Barrier(threads)
        self._work: Callable[[int], object] = lambda _index: None
        self._errors: list[BaseException] = []
        for index in range(1, threads):
            threading.Thread(target=self._wait, args=(index,), daemon=True).start()

    def run(self, work: Callable[[int], object]) -> None:
        """work(index) on every thread; returns when all have ended, and raises what one of them raised."""
        if self._threads == 1:
            work(0)
            return
        self._work = work
        self._place(0)
        self._start.wait()
        try:
            work(0)
        finally:
            self._end.wait()
            if self._cpus:
                os.sched_setaffinity(0, self._cpus)
        if self._errors:
            raise self._errors.pop()

    def close(self) -> None:
        """Ends the threads."""
        self._start.abort()
        self._end.abort()

    def _place(self, index: int) -> None:
        """Gives the calling thread its CPU."""
        if self._cpus:
            os.sched_setaffinity(0, {self._cpus[index % len(self._cpus)]})

    def _wait(self, index: int) -> None:
        self._place(index)
        try:
            while True:
                self._start.wait()
                try:
                    self._work(index)
                except BaseException as error:  # noqa: BLE001  raised again by `run`
                    self._errors.append(error)
                self._end.wait()
        except threading.BrokenBarrierError:
            return


@contextmanager
def cpu_probes(threads: int, largest_bytes: int) -> Iterator[list[Probe]]:
    """Micro-kernels on so many threads, those of traffic with working sets of up to `largest_bytes` together.

    They share their arrays; threads and arrays go when the context ends.
    """
    with blas_threads(1):
        team = Team(threads)
        try:
            yield [*_products(team, threads), *_traffic(team, threads, largest_bytes), _call()]
        finally:
            team.close()


def _products(team: Team, threads: int) -> Iterator[Probe]:
    for mode, dtype in ((MathMode.FP32, np.float32), (MathMode.FP64, np.float64)):
        for extent in EXTENTS:
            a, b = np.random.default_rng(0).standard_normal((2, extent, extent)).astype(dtype)
            alone = extent < max(EXTENTS)
            results = [np.zeros_like(a) for _ in range(threads if alone else 1)]
            work = functools.partial(_multiply, a, b, results)
            run = functools.partial(_each, team, work) if alone else functools.partial(_by_blas, threads, work)
            yield Probe("compute", mode.value, amount=2.0 * extent**3 * len(results), run=run)


def _each(team: Team, work: Callable[[int, int], None], count: int) -> None:
    team.run(functools.partial(work, count))


def _by_blas(threads: int, work: Callable[[int, int], None], count: int) -> None:
    with blas_threads(threads):
        work(count, 0)


def _multiply(a: NDArray[Any], b: NDArray[Any], results: list[NDArray[Any]], count: int, index: int) -> None:
    for _ in range(count):
        np.matmul(a, b, out=results[index])


def _traffic(team: Team, threads: int, largest_bytes: int) -> Iterator[Probe]:
    sizes = slices(largest_bytes // threads)
    buffers: list[NDArray[Any]] = [np.empty(0)] * threads
    tile = np.random.default_rng(0).standard_normal(1 << 18, dtype=np.float32)

    def fill(index: int) -> None:  # by the thread that will use it, so that its memory is near
        buffer = buffers[index] = aligned(sizes[-1] // 4)
        for start in range(0, buffer.size, tile.size):
            buffer[start : start + tile.size] = tile[: buffer.size - start]

    team.run(fill)
    for size in sizes:
        for mix, arrays in MIXES.items():
            length = size // arrays // ALIGNMENT * ALIGNMENT // 4
            parts = [[buffer[i * length : (i + 1) * length] for i in range(arrays)] for buffer in buffers]
            work = Passes(mix, parts)
            amount = 4.0 * length * arrays * threads
            yield Probe("bandwidth", mix, amount, functools.partial(_each, team, work), int(amount))


def slices(largest_bytes: int) -> list[int]:
    """Sizes of a thread's slices, two per octave: multiples of what each mix divides evenly into cache lines."""
    grain = 6 * ALIGNMENT
    octaves = max(0.0, math.log2(max(1, largest_bytes) / SMALLEST_BYTES))
    return [round(SMALLEST_BYTES * 2 ** (step / 2) / grain) * grain for step in range(1 + round(2 * octaves))]


def aligned(length: int) -> NDArray[Any]:
    """An array of float32, not touched, that begins at a cache line."""
    raw = np.empty(4 * length + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + 4 * length].view(np.float32)


class Passes:
    """Goes over the slices of a thread so many times, in one call of NumPy where that is possible.

    Calls of several threads wait for each other's turn of the interpreter, which small slices do not outlast. So they
    are given as [passes, elements] with a stride of 0 from pass to pass.
    """

    def __init__(self, mix: str, parts: list[list[NDArray[Any]]]) -> None:
        self._mix, self._parts = mix, parts
        self._views: list[tuple[int, list[NDArray[Any]]]] = [(0, [])] * len(parts)
        """Of each thread: the passes of its last call, and its arrays as [passes, elements]."""

    def __call__(self, count: int, index: int) -> None:
        """`count` passes over the slices of thread `index`."""
        first, second = self._parts[index][:2]
        if self._mix == "read" and count < RELEASED:
            for _ in range(count):
                np.dot(first, second)
        elif self._mix == "copy" and first.nbytes + second.nbytes >= COPY_BYTES:
            for _ in range(count):
                np.copyto(second, first)
        elif count:
            views = self._repeated(count, index)
            if self._mix == "read":
                np.vecdot(views[0], views[1], out=views[2])
            elif self._mix == "copy":
                np.negative(views[0], out=views[1])
            else:
                np.add(views[0], views[1], out=views[2])

    def _repeated(self, count: int, index: int) -> list[NDArray[Any]]:
        if self._views[index][0] != count:
            repeated = np.lib.stride_tricks.as_strided
            views = [repeated(part, (count, part.size), (0, part.itemsize)) for part in self._parts[index]]
            if self._mix == "read":
                views.append(np.empty(count, np.float32))  # vecdot's results
            self._views[index] = count, views
        return self._views[index][1]


def _call() -> Probe:
    """A ufunc on one element: what a call of NumPy costs."""
    x, y = np.ones(1, np.float32), np.ones(1, np.float32)

    def run(count: int) -> None:
        negative = np.negative
        for _ in range(count):
            negative(x, y)

    return Probe("launch", "", amount=1.0, run=run)
