"""What convolutions of our own ask of a library of arrays: CuPy on a GPU or, in tests, NumPy.

A method enqueues or does its work and allocates nothing, unless it says otherwise. What comes first on a GPU may load
and allocate all the same: a plan runs once before a graph of it is captured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from convbench.backends.cuda.cublas import ProductMode, cublas
from convbench.backends.cuda.runtime import is_out_of_memory
from convbench.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from convbench.backends.cuda.gpu import CudaDevice
    from convbench.problem import ConvPass

ALWAYS_SHARED_BYTES = 48 << 10
"""Dynamic shared memory that every kernel may have; more is to be asked for (CUDA programming guide)."""
NOT_FOR_THIS_GPU = ("NO_BINARY_FOR_GPU", "INVALID_PTX", "UNSUPPORTED_PTX_VERSION", "INVALID_IMAGE", "JIT_COMPILER")
"""Within the names of the driver's errors (CUresult) that mean that a kernel is not for this GPU or this driver."""


class Arrays(ABC):
    """A module with the functions of NumPy, `xp`, and what modules do not have alike."""

    xp: Any

    @abstractmethod
    def active(self) -> AbstractContextManager[None]:
        """Everything happens within it; it raises MemoryError where memory is short."""

    @abstractmethod
    def upload(self, array: NDArray[Any]) -> Any:
        """A new copy of a host's array; of one of structures, as bytes."""

    @abstractmethod
    def download(self, array: Any) -> NDArray[Any]:
        """An array, on the host, when what is enqueued has ended."""

    @abstractmethod
    def product(
        self, conv_pass: ConvPass, first: Any, second: Any, out: Any, scale: float, add: bool, mode: ProductMode
    ) -> None:
        """The product of a pass for each of a batch of matrices, times `scale`, to `out` or, if `add`, added to it.

        fprop y = x·wᴴ, dgrad dx = dy·w, wgrad dw = dyᴴ·x; x (images, channels), w (filters, channels), y (images,
        filters), each with an axis for the batch before, complex and one after another in memory.

        Raises:
            UnsupportedError: the library has no such product.
        """

    @abstractmethod
    def kernel(
        self, source: str, name: str, options: tuple[str, ...]
    ) -> Callable[[tuple[int, ...], tuple[int, ...], tuple[Any, ...], int], None]:
        """A kernel of a CUDA source (extern "C"), compiled once with these options, which takes a while.

        It is called as kernel(grid, block, arguments, bytes of dynamic shared memory) and enqueues a launch. Arguments
        are arrays (the address of the first element, of views, too), numbers of NumPy, and Python's integers, which
        serve for integers of any size and, 0, for the null pointer.

        Raises:
            UnsupportedError: it does not compile, or not for this GPU; on a call: it wants too much shared memory.
        """

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of zeros, all of it in memory."""
        array = self.xp.empty(shape, dtype)
        array.fill(0)
        return array

    def fill(self, array: Any, value: float) -> None:
        """Writes one value to all elements."""
        array.fill(value)


class CudaArrays(Arrays):
    """CuPy on the device's stream. Nothing of it has run on a GPU yet."""

    def __init__(self, device: CudaDevice) -> None:
        import cupy

        self.xp, self._device = cupy, device

    @contextmanager
    def active(self) -> Iterator[None]:
        """The device's stream is current, and what says that memory is short becomes a MemoryError."""
        self._device.activate()
        with self._device.memory_errors():
            yield

    def upload(self, array: NDArray[Any]) -> Any:
        """A copy on the GPU. CuPy knows no structures."""
        import numpy as np

        flat = np.ascontiguousarray(array)
        return self.xp.array(flat.view(np.uint8) if flat.dtype.fields else flat, order="C")

    def download(self, array: Any) -> NDArray[Any]:
        """A copy on the host."""
        self._device.cuda.synchronize()
        found: NDArray[Any] = array.get()
        return found

    def product(
        self, conv_pass: ConvPass, first: Any, second: Any, out: Any, scale: float, add: bool, mode: ProductMode
    ) -> None:
        """One strided batched call of cuBLAS."""
        cublas(self._device.cuda).product(conv_pass, first, second, out, scale, add, mode)

    def kernel(
        self, source: str, name: str, options: tuple[str, ...]
    ) -> Callable[[tuple[int, ...], tuple[int, ...], tuple[Any, ...], int], None]:
        """CuPy compiles by NVRTC, and keeps what it has compiled, also in files."""
        try:
            found = self.xp.RawModule(code=source, options=options).get_function(name)
        except Exception as error:
            if reason := _not_compiled(error):
                raise UnsupportedError(f"kernel {name} does not compile for this GPU: {reason}") from error
            raise
        return _Kernel(name, found)


class _Kernel:
    """CuPy's kernel, which is allowed more shared memory when a launch wants more."""

    def __init__(self, name: str, kernel: Any) -> None:
        self._name, self._kernel, self._allowed_bytes = name, kernel, ALWAYS_SHARED_BYTES

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...], shared_bytes: int
    ) -> None:
        if shared_bytes > self._allowed_bytes:
            self._allow(shared_bytes)
        self._kernel(grid, block, arguments, shared_mem=shared_bytes)

    def _allow(self, shared_bytes: int) -> None:
        try:
            self._kernel.max_dynamic_shared_size_bytes = shared_bytes
        except Exception as error:
            if "INVALID_VALUE" not in str(error):
                raise
            text = f"kernel {self._name} wants {shared_bytes} bytes of shared memory, more than this GPU gives a block"
            raise UnsupportedError(text) from error
        self._allowed_bytes = shared_bytes


def _not_compiled(error: Exception) -> str | None:
    """Why a kernel was not compiled or loaded, in one line, where it is that that an error says."""
    if is_out_of_memory(error):
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if type(error).__name__ in {"CompileException", "NVRTCError"} or any(name in lines[0] for name in NOT_FOR_THIS_GPU):
        return next((line for line in lines if "error" in line.lower()), lines[0])[:200]
    return None
