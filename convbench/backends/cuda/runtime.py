"""The calls of CuPy that the device makes, in one place so that a test can stand in for them; or why there are none."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convbench.problem import MathMode

EXTRA = 'pip install "convbench[cuda13]" (or cuda12, with an older driver)'
OLDER = 'uninstall CuPy and pip install "convbench[cuda12]"'
OLDEST_CAPABILITY = {13: 75}
"""Ten times the least compute capability that a CUDA release still knows, where it dropped some; CUDA 13: Turing."""
FULL = re.compile(r"out of ?memory|memoryallocation|alloc_?failed", re.IGNORECASE)
"""How CUDA ("cudaErrorMemoryAllocation: out of memory"), cuBLAS, cuFFT and cuDNN ("…_ALLOC_FAILED") say so."""
IMPORT = """
import contextlib, importlib, os, sys
sys.path[:] = sys.argv[2:]
with contextlib.suppress(BaseException):
    importlib.import_module(sys.argv[1])
os._exit(0)
"""
"""Imports a package as this process would; what it raises is no crash, nor is how it goes when all ends."""
IMPORT_S = 60.0
"""Seconds after which an import is taken to hang."""
CHAINS, STEPS = 8, 64
"""Of kernels.cu: chains of multiply-adds in a thread, and how long each is in a pass. Each result takes about four
cycles to come, and there are more chains than that: they keep the units busy with few threads, too."""


def missing() -> str | None:
    """Why no GPU can be used here, in one line; None where one can.

    CuPy is loaded only if it is installed. Without a driver or a GPU it loads all the same.
    """
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed: {EXTRA}"
    if crash := import_crash("cupy"):
        return f"CuPy is installed but its import {crash}: {EXTRA}"
    try:
        import cupy

        driver, built = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a broken installation may raise anything, or end the program
        return f"CuPy is installed but does not load ({first_line(error)}): {EXTRA}"
    return _no_gpu(cupy, driver, built) or _too_old(cupy, built // 1000) or _no_library(cupy) or _no_context(cupy)


@functools.cache
def import_crash(package: str) -> str | None:
    """How the import of a package ends or hangs a process, tried in another one; None where it does neither.

    That it raises something is an answer, too. What is loaded has been imported, and is not tried.
    """
    if package in sys.modules:
        return None
    command = [sys.executable, "-P", "-c", IMPORT, package, *sys.path]
    try:
        code = subprocess.run(command, capture_output=True, timeout=IMPORT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"takes longer than {IMPORT_S:.0f} s"
    return f"crashes ({f'signal {-code}' if code < 0 else f'exit code {code}'})" if code else None


def _no_gpu(cupy: Any, driver: int, built: int) -> str | None:
    """Why this driver (its CUDA version, 12040 for 12.4; 0 for none) offers no GPU to a CuPy built for `built`."""
    if not driver:
        return "no NVIDIA driver answers on this machine (libcuda); in a container, start it with its GPUs"
    if built // 1000 > driver // 1000:
        knows = f"the driver knows CUDA up to {driver // 1000}.{driver % 1000 // 10}"
        return f"{knows}, this CuPy is for CUDA {built // 1000}: {OLDER}, or bring the driver up to date"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # noqa: BLE001  the driver's word, of whatever kind
        return f"the NVIDIA driver offers no GPU ({first_line(error)})"
    return None if count else "the NVIDIA driver offers no GPU (does CUDA_VISIBLE_DEVICES hide it?)"


def _too_old(cupy: Any, release: int) -> str | None:
    """Why a GPU is too old for this CUDA release."""
    try:
        oldest = min(int(cupy.cuda.Device(i).compute_capability) for i in range(cupy.cuda.runtime.getDeviceCount()))
    except Exception as error:  # noqa: BLE001  the driver's word, of whatever kind
        return f"the GPU cannot be used ({first_line(error)})"
    needed = OLDEST_CAPABILITY.get(release, 0)
    if oldest < needed:
        return f"CUDA {release} needs compute capability {needed / 10}, this GPU has {oldest / 10}: {OLDER}"
    return None


def _no_library(cupy: Any) -> str | None:
    try:
        cupy.cuda.nvrtc.getVersion()
        getattr(cupy.cuda, "cublas")  # noqa: B009  CuPy looks for it now
    except Exception as error:  # noqa: BLE001  what CuPy raises where it finds none has changed over time
        return f"a library of CUDA is missing ({first_line(error)}): {EXTRA}"
    if importlib.util.find_spec("pynvml") is None:
        return f"nvidia-ml-py is not installed: {EXTRA}"
    return None


def _no_context(cupy: Any) -> str | None:
    """Why none of the GPUs lets this process begin: another one has it for itself, or the last one left it broken."""
    said = None
    for index in range(cupy.cuda.runtime.getDeviceCount()):
        try:
            cupy.cuda.Device(index).mem_info  # noqa: B018  the first call that needs a context, which it makes
        except Exception as error:  # noqa: BLE001  the driver's word, of whatever kind
            said = said or f"the GPU cannot be used ({first_line(error)})"
        else:
            return None
    return said


def first_line(error: BaseException) -> str:
    """The first line of what an error says; libraries of CUDA say it on many."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of CuPy or of a library says that memory was short: each has a class of its own for it."""
    return isinstance(error, MemoryError) or bool(FULL.search(f"{type(error).__name__}: {error}"))


def kernels_source() -> str:
    """The CUDA source of all kernels."""
    return (files("convbench.backends.cuda") / "kernels.cu").read_text(encoding="utf-8")


def kernel_options() -> tuple[str, ...]:
    """What NVRTC is told beside the source."""
    return ("-std=c++17", f"-DCHAINS={CHAINS}", f"-DSTEPS={STEPS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """What CUDA says of a GPU: its name with that of the slice, if it is one; `units` are streaming multiprocessors."""

    name: str
    capability: tuple[int, int]
    units: int
    memory_bytes: int
    l2_bytes: int
    pci_bus_id: str


class Cuda:
    """One GPU through CuPy: a stream of its own, events, graphs, memory, our kernels, matrix products."""

    def __init__(self, index: int) -> None:
        import cupy

        self._cupy = cupy
        self._device = cupy.cuda.Device(index)
        self._device.use()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.activate()

    @staticmethod
    def count() -> int:
        """GPUs that CUDA offers."""
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())

    def activate(self) -> None:
        """Makes this GPU and its stream those of the calling thread."""
        self._device.use()
        self.stream.use()

    def properties(self) -> Properties:
        """What CUDA says of it."""
        found: Mapping[str, Any] = self._cupy.cuda.runtime.getDeviceProperties(self._device.id)
        return Properties(
            name=found["name"].decode(), capability=(found["major"], found["minor"]),
            units=found["multiProcessorCount"], memory_bytes=found["totalGlobalMem"], l2_bytes=found["l2CacheSize"],
            pci_bus_id=self._device.pci_bus_id,
        )  # fmt: skip

    def versions(self) -> dict[str, str]:
        """Of CUDA: the newest that the driver knows, and that of the runtime library."""
        runtime = self._cupy.cuda.runtime
        numbers = {"CUDA of the driver": runtime.driverGetVersion(), "CUDA runtime": runtime.runtimeGetVersion()}
        return {name: f"{number // 1000}.{number % 1000 // 10}" for name, number in numbers.items()}

    def free_bytes(self) -> int:
        """Memory that nobody holds, CuPy's unused blocks counted as free."""
        return int(self._device.mem_info[0] + self._cupy.get_default_memory_pool().free_bytes())

    def free_unused(self) -> None:
        """Gives memory back that CuPy keeps for later."""
        self._cupy.get_default_memory_pool().free_all_blocks()

    def allocate(self, size: int) -> Any:
        """`size` bytes, as an array; they are given back with it."""
        return self._cupy.empty(size, self._cupy.uint8)

    def sweep(self, buffer: Any) -> None:
        """Overwrites a buffer, enqueued."""
        buffer.data.memset_async(0, buffer.nbytes, self.stream)

    def event(self) -> Any:
        """A new event: `record()` enqueues it, `done` says whether the GPU has passed it."""
        return self._cupy.cuda.Event()

    def elapsed_s(self, start: Any, end: Any) -> float:
        """Seconds between two events that have passed."""
        return float(self._cupy.cuda.get_elapsed_time(start, end)) * 1e-3

    def synchronize(self) -> None:
        """Waits for what is enqueued."""
        self.stream.synchronize()

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """What `work` enqueues as a graph, ready to be launched; nothing of it has run.

        Raises what `work` raises, and what CUDA says where something in it cannot be captured.
        """
        self.stream.begin_capture()
        try:
            work()
        except BaseException:
            self._end_broken_capture()
            raise
        graph = self.stream.end_capture()
        graph.upload(self.stream)
        return functools.partial(graph.launch, self.stream)

    def _end_broken_capture(self) -> None:
        try:
            self.stream.end_capture()
        except Exception:  # noqa: BLE001  it is invalid, which is why it ends
            return

    @functools.cached_property
    def _module(self) -> Any:
        return self._cupy.RawModule(code=kernels_source(), options=kernel_options())

    @functools.cache  # noqa: B019  a device lives as long as the process
    def _kernel(self, name: str) -> Any:
        return self._module.get_function(name)

    def launch(self, name: str, blocks: int, threads: int, *arguments: Any) -> None:
        """Enqueues a kernel of kernels.cu; arguments are arrays and integers."""
        import numpy as np

        given = tuple(np.int64(value) if isinstance(value, int) else value for value in arguments)
        self._kernel(name)((blocks,), (threads,), given)

    def product(self, math_mode: MathMode, a: Any, b: Any, c: Any, extent: int) -> None:
        """Enqueues C = A·B of square matrices, through cuBLAS; C has the type of A and B."""
        from convbench.backends.cuda.cublas import cublas

        cublas(self).square(math_mode, a, b, c, extent)
