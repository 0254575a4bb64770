"""The tensors of a case: seeded and normal, the same numbers for every backend."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.problem import Dtype, Layout, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMPY_DTYPES: dict[Dtype, np.dtype[Any]] = {Dtype.FP64: np.dtype(np.float64), Dtype.FP32: np.dtype(np.float32)}
"""Storage types that the array code of CPUs has; the others belong to backends that have them."""
HELD = NUMPY_DTYPES | {Dtype.FP16: np.dtype(np.float32), Dtype.BF16: np.dtype(np.float32)}
"""How operands are held: those of the narrower types in fp32, rounded to what the type stores."""


class Operands:
    """x, w, dy and bias of one problem, each made when first asked for.

    Arrays are canonical and read-only: x (N, C, input…), w (K, C/G, filter…), dy (N, K, output…), bias (K,).
    Zeros run measurably faster than random numbers on some hardware, and hide faults; so values are normal.
    """

    def __init__(self, problem: Problem, dtype: Dtype, seed: int) -> None:
        self.problem = problem
        self.dtype = HELD[dtype]
        self._stored = dtype
        self.seed = seed
        self.references: dict[Any, Any] = {}
        """What verification has computed from them, so that it does so once for all plans of a case."""

    def _normal(self, role: int, shape: tuple[int, ...]) -> NDArray[Any]:
        values = np.random.default_rng([self.seed, role]).standard_normal(shape, dtype=self.dtype.type)
        if self._stored not in NUMPY_DTYPES:
            values = decode(encode(values, self._stored), self._stored).astype(self.dtype)
        values.flags.writeable = False
        return values

    def digest(self) -> dict[str, int]:
        """A fold of the bits of each array made so far: changes where a backend writes into one."""
        made = {name: vars(self)[name] for name in ("x", "w", "dy", "bias") if name in vars(self)}
        words = {name: array.reshape(-1).view(f"u{self.dtype.itemsize}") for name, array in made.items()}
        return {name: int(np.bitwise_xor.reduce(bits)) for name, bits in words.items()}

    @cached_property
    def x(self) -> NDArray[Any]:
        """Activations (N, C, input…)."""
        return self._normal(0, self.problem.x_shape)

    @cached_property
    def w(self) -> NDArray[Any]:
        """Filter (K, C/G, filter…)."""
        return self._normal(1, self.problem.w_shape)

    @cached_property
    def dy(self) -> NDArray[Any]:
        """Gradient of the output (N, K, output…)."""
        return self._normal(2, self.problem.y_shape)

    @cached_property
    def bias(self) -> NDArray[Any]:
        """Bias (K,)."""
        return self._normal(3, (self.problem.out_channels,))


def encode(values: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """Elements as a type stores them, rounded to the nearest, ties to even; bf16 as bits, the upper half of fp32."""
    if dtype is not Dtype.BF16:
        return np.asarray(values, dtype=np.float16 if dtype is Dtype.FP16 else NUMPY_DTYPES[dtype])
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def decode(stored: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """Stored elements as numbers; those of bf16 in fp32."""
    return (stored.astype(np.uint32) << 16).view(np.float32) if dtype is Dtype.BF16 else stored


def to_layout(canonical: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """A contiguous copy with its axes in memory order, or the array itself where that is its order already."""
    return np.ascontiguousarray(canonical.transpose(layout.order(canonical.ndim - 2)))


def from_layout(stored: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """The canonical view of an array whose axes lie in `layout`."""
    return stored.transpose(np.argsort(layout.order(stored.ndim - 2)))


def index(*parts: Any) -> tuple[Any, ...]:
    """An index of slices, integers and ... in a row, where their number is not fixed."""
    return parts


def grouped(canonical: NDArray[Any], groups: int, axis: int) -> NDArray[Any]:
    """A view whose channel axis is split in two: (…, C, …) becomes (…, G, C/G, …)."""
    shape = canonical.shape
    return canonical.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
