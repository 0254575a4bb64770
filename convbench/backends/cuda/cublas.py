"""cuBLAS' products, called through ctypes on a handle of a GPU's own. None has run on a GPU yet.

CuPy wraps such a call, but sets the stream before each, which it refuses while the stream is captured, and which takes
away the workspace that a handle was given. So nothing of it would be timed as a graph.
"""

from __future__ import annotations

import ctypes
import functools
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from convbench.errors import UnsupportedError
from convbench.problem import ConvPass, MathMode

if TYPE_CHECKING:
    from convbench.backends.cuda.runtime import Cuda

OP_N, OP_C = 0, 2
"""cublasOperation_t: a matrix as it is, and its conjugate transpose (cublas_api.h)."""
MOST = 2**31 - 1
"""Of extents and of a batch: cuBLAS counts them in 32 bits."""
WORKSPACE_BYTES = 32 << 20
"""Scratch memory of a handle: what cuBLAS takes by itself on Hopper (its documentation, cublasSetWorkspace)."""


class ProductMode(StrEnum):
    """How complex numbers are multiplied: by four real products or, -3m, by three, which cancels more."""

    FP64 = "fp64"
    FP32 = "fp32"
    FP32_3M = "fp32-3m"
    TF32 = "tf32"


GEMM_DEFAULT = -1
"""cublasGemmAlgo_t CUBLAS_GEMM_DEFAULT: cuBLAS chooses (cublas_api.h)."""
_TYPES: dict[ProductMode, tuple[tuple[int, ...], tuple[int, ...]]] = {
    ProductMode.FP64: ((5,), (70, GEMM_DEFAULT)), ProductMode.FP32: ((4,), (68, GEMM_DEFAULT)),
    ProductMode.TF32: ((4,), (77, GEMM_DEFAULT)), ProductMode.FP32_3M: ((), ()),
}  # fmt: skip
"""Type of the numbers (cudaDataType, library_types.h) and of the arithmetic (cublasComputeType_t, cublas_api.h):
CUBLAS_COMPUTE_64F, _32F, which leaves fp32 what it is, and _32F_FAST_TF32; 3m has a function of its own."""
_REAL = {
    MathMode.FP64: (1, 70), MathMode.FP32: (0, 68), MathMode.TF32: (0, 77), MathMode.FP16_TC: (2, 68),
    MathMode.BF16_TC: (14, 68),
}  # fmt: skip
"""The same of real numbers; those of 16 bits are multiplied and added up in CUBLAS_COMPUTE_32F."""
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
_EXTENTS = (_POINTER, *[_INT] * 5)
_EX, _3M, _WORKSPACE = "cublasGemmStridedBatchedEx", "cublasCgemm3mStridedBatched", "cublasSetWorkspace_v2"
_REAL_EX = "cublasGemmEx"
_PARAMETERS = {
    _EX: (
        *_EXTENTS, _POINTER, _POINTER, _INT, _INT, _LONG, _POINTER, _INT, _INT, _LONG,
        _POINTER, _POINTER, _INT, _INT, _LONG, _INT, _INT, _INT,
    ),
    _3M: (
        *_EXTENTS, _POINTER, _POINTER, _INT, _LONG, _POINTER, _INT, _LONG, _POINTER, _POINTER, _INT, _LONG, _INT,
    ),
    _REAL_EX: (
        *_EXTENTS, _POINTER, _POINTER, _INT, _INT, _POINTER, _INT, _INT, _POINTER, _POINTER, _INT, _INT, _INT, _INT,
    ),
    _WORKSPACE: (_POINTER, _POINTER, ctypes.c_size_t),
}  # fmt: skip
"""Of the functions that are called (cublas_api.h)."""


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


def library(calls: Any) -> Any:
    """The library of CuPy's own calls: a symbol is looked for in all that their extension module is linked with."""
    return ctypes.CDLL(calls.__file__)


class Cublas:
    """A handle on a GPU's stream, with a workspace, so that nothing is allocated when a graph is captured."""

    def __init__(self, cupy: Any, cuda: Cuda) -> None:
        calls = cupy.cuda.cublas
        self._library, self._check, self._handle = library(calls), calls.check_status, calls.create()
        calls.setStream(self._handle, cuda.stream.ptr)
        self._workspace = cuda.allocate(WORKSPACE_BYTES)
        self._call(_WORKSPACE, self._workspace.data.ptr, WORKSPACE_BYTES)

    def product(
        self, conv_pass: ConvPass, first: Any, second: Any, out: Any, scale: float, add: bool, mode: ProductMode
    ) -> None:
        """Enqueues the product of a pass for a batch of matrices, times `scale`, to `out` or, if `add`, added to it.

        Raises:
            UnsupportedError: an extent is too large, or this cuBLAS has no such function.
        """
        if max(*first.shape, *second.shape, *out.shape) > MOST:
            raise UnsupportedError(f"cuBLAS counts in 32 bits: {first.shape} by {second.shape} is more than that")
        real = ctypes.c_double if mode is ProductMode.FP64 else ctypes.c_float
        alpha, beta = (real * 2)(scale, 0), (real * 2)(float(add), 0)  # both are read while the call is made
        number, arithmetic = _TYPES[mode]
        a, b, c = (_lying(matrices, number) for matrices in (second, first, out))
        extents = gemm(conv_pass, first.shape, second.shape)
        name = _EX if arithmetic else _3M
        self._call(name, *extents, alpha, *a, *b, beta, *c, len(out), *arithmetic)

    def square(self, math_mode: MathMode, a: Any, b: Any, c: Any, extent: int) -> None:
        """Enqueues C = A·B of real square matrices; C has the type of A and B."""
        real = ctypes.c_double if math_mode is MathMode.FP64 else ctypes.c_float
        one, zero = (real * 1)(1), (real * 1)(0)  # both are read while the call is made
        number, arithmetic = _REAL[math_mode]
        first, second, out = ((matrix.data.ptr, number, extent) for matrix in (a, b, c))
        extents = (extent, extent, extent)
        self._call(_REAL_EX, OP_N, OP_N, *extents, one, *first, *second, zero, *out, arithmetic, GEMM_DEFAULT)

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(self._function(name)(self._handle, *arguments))

    @functools.cache  # noqa: B019  a handle lives as long as the process
    def _function(self, name: str) -> Any:
        found = getattr(self._library, name, None)
        if found is None:
            raise UnsupportedError(f"this cuBLAS has no {name}")
        found.argtypes = _PARAMETERS[name]
        return found


def _lying(matrices: Any, number: tuple[int, ...]) -> tuple[int, ...]:
    """(address, type if there is one, leading dimension, which is above zero, distance) of (batch, rows, columns)."""
    _, rows, columns = matrices.shape
    return (matrices.data.ptr, *number, max(1, columns), rows * columns)


@functools.cache
def cublas(cuda: Cuda) -> Cublas:
    """The handle of a GPU: made when it is first asked for, which is not to be while a graph is captured."""
    import cupy

    return Cublas(cupy, cuda)
