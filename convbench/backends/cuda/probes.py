"""Micro-kernels that show what a GPU can do: multiply-adds, cuBLAS, traffic over working sets of all sizes, launches.

None has run on a GPU yet. The kernels stand in kernels.cu, and a test compiles them for several architectures.
"""

from __future__ import annotations

import functools
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from convbench.backends import ON_STREAM, Probe
from convbench.backends.cuda.clock import OnStream
from convbench.backends.cuda.runtime import CHAINS, STEPS
from convbench.problem import MathMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from convbench.backends.cuda.gpu import CudaDevice
    from convbench.backends.cuda.runtime import Cuda

THREADS = 256
"""Of a block."""
BUSY = 8
"""Blocks on a multiprocessor for multiply-adds: 2048 threads, all that one holds."""
MOVING = 4
"""The same for traffic: with four loads of 16 bytes under way in each thread they have 64 KiB under way together, and
DRAM of 5 TB/s that answers within 0.8 µs needs 4 MB, 30 KB for each of 132."""
VECTOR_BYTES = 16
MIXES = {"read": 1, "copy": 2, "add": 3}
"""Mixes of traffic, and the arrays that each goes over: x; y = x; z = x + y, which moves as much as a triad."""
SMALLEST_SHARE = 0.1
"""Of L2: the smallest working set."""
LARGEST_BYTES = 2 << 30
FREE_SHARE = 0.25
"""Of free memory: what the largest working set, or the matrices, may take."""
EXTENT = 8192
"""Of the matrix products; halved where memory is short for it."""
LEAST_EXTENT = 1024
WIDTHS = {MathMode.FP64: 8, MathMode.FP32: 4, MathMode.TF32: 4, MathMode.FP16_TC: 2, MathMode.BF16_TC: 2}
"""Bytes of an element."""
TYPES = {MathMode.FP64: 1, MathMode.FP32: 0, MathMode.TF32: 0, MathMode.FP16_TC: 2, MathMode.BF16_TC: 14}
"""cudaDataType of an element (library_types.h)."""
SINCE = {MathMode.FP16_TC: (7, 0), MathMode.TF32: (8, 0), MathMode.BF16_TC: (8, 0)}
"""Compute capability from which a math mode has tensor cores."""


class Team:
    """The kernels of kernels.cu on all multiprocessors of a GPU."""

    def __init__(self, cuda: Cuda, units: int) -> None:
        self._cuda, self._units = cuda, units

    @property
    def grain_bytes(self) -> int:
        """One vector for each thread of the traffic: arrays are multiples of it, so that all threads do the same."""
        return self._units * MOVING * THREADS * VECTOR_BYTES

    @property
    def flops(self) -> float:
        """Of one pass of multiply-adds."""
        return 2.0 * CHAINS * STEPS * self._units * BUSY * THREADS

    def results(self, width: int) -> Any:
        """What a kernel of multiply-adds writes to: an element of `width` bytes for each thread."""
        return self._cuda.allocate(self._units * BUSY * THREADS * width)

    def filled(self, size: int, math_mode: MathMode = MathMode.FP32) -> Any:
        """`size` bytes of random values: of zeros, and of small integers, some GPUs draw less power and run faster."""
        buffer = self._cuda.allocate(size)
        self._cuda.launch("fill", self._units * BUSY, THREADS, buffer, size // WIDTHS[math_mode], TYPES[math_mode])
        return buffer

    def multiply_add(self, math_mode: MathMode, results: Any, passes: int) -> None:
        """Enqueues `passes` passes."""
        self._cuda.launch(f"fma_{math_mode}", self._units * BUSY, THREADS, results, passes)

    def move(self, mix: str, arrays: tuple[Any, ...], each: int, passes: int) -> None:
        """Enqueues `passes` passes over three arrays, `each` vectors a thread; a mix of fewer leaves the rest alone."""
        self._cuda.launch(f"traffic_{mix}", self._units * MOVING, THREADS, *arrays, each, passes)

    def canaries(self, passes: int, size: int) -> dict[str, Callable[[], object]]:
        """Multiply-adds, and a copy that reads and writes `size` bytes."""
        each = size // 2 // self.grain_bytes
        buffer = self.filled(2 * each * self.grain_bytes)
        source, target = buffer[: buffer.nbytes // 2], buffer[buffer.nbytes // 2 :]
        return {
            "compute": functools.partial(self.multiply_add, MathMode.FP32, self.results(4), passes),
            "memory": functools.partial(self.move, "copy", (source, target, target), each, 1),
        }


@contextmanager
def cuda_probes(device: CudaDevice) -> Iterator[list[Probe]]:
    """All probes of a GPU; their memory goes when the context ends.

    Raises:
        MemoryError: the GPU's memory is short.
    """
    cuda, of = device.cuda, device.properties
    team = Team(cuda, of.units)
    with device.memory_errors():
        found = [
            *_chains(team),
            *_products(cuda, team, modes(of.capability)),
            *_traffic(team, of.l2_bytes, int(FREE_SHARE * cuda.free_bytes())),
            *_launches(cuda),
        ]
        for probe in found:  # its first launch compiles, loads and allocates, which no graph may hold
            probe.run(1)
        cuda.synchronize()
    try:
        yield found
    finally:
        found.clear()
        cuda.free_unused()


def modes(capability: tuple[int, int]) -> list[MathMode]:
    """Math modes that a GPU of this compute capability has units of its own for."""
    return [mode for mode in MathMode if capability >= SINCE.get(mode, (0, 0))]


def _chains(team: Team) -> Iterator[Probe]:
    """Chains of multiply-adds without memory: what the units that are no tensor cores reach."""
    for mode in (MathMode.FP32, MathMode.FP64):
        run = functools.partial(team.multiply_add, mode, team.results(WIDTHS[mode]))
        yield Probe("compute", mode.value, team.flops, run)


def _products(cuda: Cuda, team: Team, wanted: list[MathMode]) -> Iterator[Probe]:
    """Square matrices through cuBLAS; fp64 takes tensor cores where there are any."""
    extent = EXTENT
    while extent > LEAST_EXTENT and 3 * extent**2 * max(WIDTHS.values()) > FREE_SHARE * cuda.free_bytes():
        extent //= 2
    for mode in wanted:
        size = extent**2 * WIDTHS[mode]
        a, b = team.filled(size, mode), team.filled(size, mode)
        multiply = functools.partial(cuda.product, mode, a, b, cuda.allocate(size), extent)
        yield Probe("compute", mode.value, 2.0 * extent**3, functools.partial(_repeat, multiply))


def _traffic(team: Team, l2_bytes: int, most_bytes: int) -> Iterator[Probe]:
    """Working sets from a tenth of L2 on, two per octave, all within one buffer."""
    grain = team.grain_bytes
    largest = max(3 * grain, min(LARGEST_BYTES, most_bytes))
    buffer = team.filled(largest)
    seen = set()
    for size in sizes(l2_bytes, largest):
        for mix, count in MIXES.items():
            each = max(1, min(round(size / count / grain), largest // count // grain))
            if (mix, each) in seen:
                continue
            seen.add((mix, each))
            length = each * grain
            parts = tuple(buffer[i * length : (i + 1) * length] if i < count else buffer[:0] for i in range(3))
            run = functools.partial(team.move, mix, parts, each)
            yield Probe("bandwidth", mix, float(count * length), run, count * length)


def sizes(l2_bytes: int, largest: int) -> list[int]:
    """Working sets in bytes, two per octave, from SMALLEST_SHARE of L2 up to `largest`."""
    smallest = SMALLEST_SHARE * l2_bytes
    steps = max(0, math.floor(2 * math.log2(largest / smallest))) if largest > smallest else 0
    return [round(smallest * 2 ** (step / 2)) for step in range(1 + steps)]


def _launches(cuda: Cuda) -> Iterator[Probe]:
    """An empty kernel in a graph, as rows are timed, and on the stream by CuPy, whose own time is part of it."""
    empty = functools.partial(_repeat, functools.partial(cuda.launch, "empty", 1, 1))
    yield Probe("launch", "", 1.0, empty)
    yield Probe("launch", ON_STREAM, 1.0, OnStream(empty))


def _repeat(work: Callable[[], None], count: int) -> None:
    for _ in range(count):
        work()
