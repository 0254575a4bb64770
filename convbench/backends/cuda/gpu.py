"""A GPU as a device: its identity, its clock, its canaries, its L2."""

from __future__ import annotations

import functools
import traceback
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convbench.backends.cuda.clock import CudaClock
from convbench.backends.cuda.nvml import Nvml
from convbench.backends.cuda.runtime import Cuda, first_line, is_out_of_memory, missing
from convbench.errors import InputError
from convbench.machine import Machine, cpu_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from convbench.backends import Probe
    from convbench.backends.cuda.runtime import Properties

SWEPT = 2
"""Multiples of L2 that a sweep writes. It leaves lines of its own behind, which the next kernel has to write back."""
CANARY_PASSES = 256
"""Of the multiply-adds: 256 · 512 for each of 2048 threads of a multiprocessor, 2.1 million cycles at 128 a cycle."""
CANARY_BYTES = 256 << 20
"""Read and written by the copy, more than any L2 holds."""
PLANS_SHARE = 0.9
"""Of the free memory, what plans may have: libraries take some for themselves, and it comes in blocks."""
MIG = " MIG "
"""Stands in CUDA's name of a slice of a GPU, between the GPU's name and the slice's: "NVIDIA H200 MIG 1g.18gb"."""


class CudaDevice:
    """One NVIDIA GPU, or a slice of one. Nothing of it has run on one yet.

    Attributes:
        cuda: CuPy's calls, on this GPU; `cuda.stream` is the stream of all plans.
        nvml: what the driver says of it.
    """

    def __init__(self, cuda: Cuda, nvml: Nvml, index: int = 0) -> None:
        self.cuda, self.nvml = cuda, nvml
        self.name = f"cuda:{index}"

    def activate(self) -> None:
        """Makes this GPU and its stream those of the calling thread: with several GPUs, another one may be."""
        self.cuda.activate()

    def synchronize(self) -> None:
        """Returns when all that was enqueued has ended; raises what went wrong with it."""
        self.activate()
        with self.memory_errors():
            self.cuda.synchronize()

    def lost(self) -> str | None:
        """Why nothing runs on this GPU any more in this process; None where something does.

        After an error within a kernel, such as an illegal address, CUDA answers every later call with it; all other
        errors it tells once.
        """
        said = None
        for _ in range(2):
            try:
                self.synchronize()
            except Exception as error:  # noqa: BLE001  CUDA's word, of whatever kind
                said = first_line(error)
            else:
                return None
        return said

    def free_bytes(self) -> int:
        """What plans may have of its memory now."""
        self.activate()
        return int(PLANS_SHARE * self.cuda.free_bytes())

    @contextmanager
    def memory_errors(self) -> Iterator[None]:
        """Within it, whatever says that the GPU's memory is short becomes a MemoryError, and unused memory is freed.

        Raises:
            MemoryError: so that the row is out_of_memory, and the next one goes on.
        """
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what was allocated so far
            self.cuda.free_unused()
            raise MemoryError(str(error)) from error

    @functools.cached_property
    def properties(self) -> Properties:
        """What CUDA says of it."""
        return self.cuda.properties()

    @functools.cached_property
    def _machine(self) -> Machine:
        of = self.properties
        name, _, slice_name = of.name.partition(MIG)
        major, minor = of.capability
        return replace(
            cpu_machine(), cache_bytes={"l2": of.l2_bytes}, gpu_name=name, gpu_compute_capability=f"{major}.{minor}",
            gpu_units=of.units, gpu_memory_bytes=of.memory_bytes, gpu_mig=slice_name or None,
            gpu_power_limit_w=self.nvml.power_limit_w(), gpu_clock_hz=self.nvml.most_clock_hz(),
        )  # fmt: skip

    def machine(self) -> Machine:
        """The machine with this GPU; its caches are the GPU's L2. What changes from moment to moment is not in it."""
        return self._machine

    @functools.cached_property
    def _overhead_s(self) -> float:
        return CudaClock(self.cuda, self.nvml).overhead_s

    def versions(self) -> dict[str, str]:
        """Of the driver and of CUDA."""
        return self.cuda.versions() | self.nvml.versions()

    def clock(self, threads: int) -> CudaClock:
        """A clock; the CPU threads do not matter."""
        return CudaClock(self.cuda, self.nvml, self._overhead_s)

    def canaries(self) -> dict[str, Callable[[], object]]:
        """Multiply-adds in fp32, and a copy of 128 MiB."""
        from convbench.backends.cuda.probes import Team

        self.activate()
        with self.memory_errors():
            return Team(self.cuda, self.properties.units).canaries(CANARY_PASSES, CANARY_BYTES)

    def cache_bytes(self) -> int:
        """The L2."""
        return self.properties.l2_bytes

    @functools.cached_property
    def _swept(self) -> Any:
        return self.cuda.allocate(SWEPT * self.cache_bytes())

    def sweep_cache(self, threads: int) -> None:
        """Overwrites twice the L2."""
        self.activate()
        with self.memory_errors():
            self.cuda.sweep(self._swept)
            self.cuda.synchronize()

    def probes(self, threads: int) -> AbstractContextManager[list[Probe]]:
        """Micro-kernels: multiply-adds, matrix products, traffic through L2 and DRAM, launches."""
        from convbench.backends.cuda.probes import cuda_probes

        self.activate()
        return cuda_probes(self)


@functools.cache
def cuda_device(index: int) -> CudaDevice:
    """GPU `index`.

    Raises:
        InputError: none can be used here, or there is no such GPU.
    """
    if reason := missing():
        raise InputError(reason)
    if not 0 <= index < Cuda.count():
        raise InputError(f"there is no GPU {index}: CUDA offers {Cuda.count()}, counted from 0")
    cuda = Cuda(index)
    return CudaDevice(cuda, Nvml(cuda.properties().pci_bus_id), index)
