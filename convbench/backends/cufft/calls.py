"""The calls of cuFFT and cuBLAS through CuPy, and whether they can be made. Nothing of it has run on a GPU yet."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from convbench.backends.cufft.arrays import Arrays
from convbench.problem import ConvPass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from convbench.backends.cuda.gpu import CudaDevice

OP_N, OP_C = 0, 2
"""cublasOperation_t: a matrix as it is, and its conjugate transpose (cublas_api.h)."""
TYPES = {"complex64": (4, 68), "complex128": (5, 70)}
"""Type of the numbers (cudaDataType, library_types.h) and of the arithmetic (cublasComputeType_t, cublas_api.h):
CUBLAS_COMPUTE_32F and CUBLAS_COMPUTE_64F, which leave fp32 what it is."""


class Gemm(NamedTuple):
    """The arguments of a batched product as cuBLAS counts, column by column: C (m, n) = op(A) (m, k) · op(B) (k, n).

    A is the second operand of the pass, B the first, and C the result, all as they lie.
    """

    op_a: int
    op_b: int
    m: int
    n: int
    k: int


def gemm(conv_pass: ConvPass, first: tuple[int, ...], second: tuple[int, ...]) -> Gemm:
    """The product of a pass, from shapes (batch, rows, columns) of what lies row by row: columns of its transpose.

    y = x·wᴴ is yᵀ = w*·xᵀ; dx = dy·w is dxᵀ = wᵀ·dyᵀ; dw = dyᴴ·x is dwᵀ = xᵀ·dy*.
    """
    (_, rows, columns), (_, other_rows, other_columns) = first, second
    if conv_pass is ConvPass.FPROP:
        return Gemm(OP_C, OP_N, other_rows, rows, columns)
    if conv_pass is ConvPass.DGRAD:
        return Gemm(OP_N, OP_N, other_columns, rows, columns)
    return Gemm(OP_N, OP_C, other_columns, columns, rows)


class CudaArrays(Arrays):
    """CuPy on the device's stream."""

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
        """A copy on the GPU."""
        return self.xp.array(array, order="C")

    def download(self, array: Any) -> NDArray[Any]:
        """A copy on the host."""
        self._device.cuda.synchronize()
        found: NDArray[Any] = array.get()
        return found

    def forward(self, planes: Any, spectra: Any, by_bins: bool) -> Callable[[], None]:
        """R2C or D2Z, out of place; cuFFT keeps its input then."""
        cufft = self.xp.cuda.cufft
        kind = cufft.CUFFT_R2C if planes.dtype == np.float32 else cufft.CUFFT_D2Z
        (number, *size), half = planes.shape, _half(planes)
        plan = self._plan(
            size, (size, *_lying(number, size, False)), (half, *_lying(number, half, by_bins)), kind, number, half[-1]
        )
        return functools.partial(plan.fft, planes, spectra, cufft.CUFFT_FORWARD)

    def inverse(self, spectra: Any, planes: Any, by_bins: bool) -> Callable[[], None]:
        """C2R or Z2D, unscaled."""
        cufft = self.xp.cuda.cufft
        kind = cufft.CUFFT_C2R if planes.dtype == np.float32 else cufft.CUFFT_Z2D
        (number, *size), half = planes.shape, _half(planes)
        plan = self._plan(
            size, (half, *_lying(number, half, by_bins)), (size, *_lying(number, size, False)), kind, number, size[-1]
        )
        return functools.partial(plan.fft, spectra, planes, cufft.CUFFT_INVERSE)

    def _plan(
        self, size: list[int], source: tuple[Any, ...], target: tuple[Any, ...], kind: int, number: int, last_size: int
    ) -> Any:
        """A plan of so many transforms; source and target are (extents, stride, distance), in elements."""
        plan = self.xp.cuda.cufft.PlanNd(
            tuple(size), *source, *target, kind, number, "C", len(size) - 1, last_size
        )  # fmt: skip
        self.work_bytes += plan.work_area.mem.size
        return plan

    def product(self, conv_pass: ConvPass, first: Any, second: Any, out: Any, scale: float, add: bool) -> None:
        """One strided batched call of cuBLAS."""
        call = gemm(conv_pass, first.shape, second.shape)
        number, arithmetic = TYPES[out.dtype.name]
        factors = np.array([scale, float(add)], out.dtype)  # alpha and beta, read while the call is made
        cublas = self.xp.cuda.cublas
        cublas.gemmStridedBatchedEx(
            self.xp.cuda.device.get_cublas_handle(), call.op_a, call.op_b, call.m, call.n, call.k, factors.ctypes.data,
            second.data.ptr, number, second.shape[2], second.shape[1] * second.shape[2],
            first.data.ptr, number, first.shape[2], first.shape[1] * first.shape[2],
            factors[1:].ctypes.data, out.data.ptr, number, out.shape[2], out.shape[1] * out.shape[2],
            len(out), arithmetic, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip


def _half(planes: Any) -> tuple[int, ...]:
    """Extents of the half spectrum of one plane."""
    return (*planes.shape[1:-1], planes.shape[-1] // 2 + 1)


def _lying(number: int, extents: Any, by_bins: bool) -> tuple[int, int]:
    """(stride, distance): from element to element of a transform, and from one transform to the next."""
    return (number, 1) if by_bins else (1, int(np.prod(extents)))


def missing() -> str | None:
    """Why cuFFT cannot be called, where there is a GPU; None where it can."""
    import cupy

    from convbench.backends.cuda.runtime import EXTRA

    try:
        getattr(cupy.cuda, "cufft")  # noqa: B009  CuPy looks for it now
    except Exception as error:  # noqa: BLE001  what CuPy raises where it finds none has changed over time
        return f"cuFFT is missing ({f'{type(error).__name__}: {error}'.splitlines()[0][:200]}): {EXTRA}"
    return None
