"""What the convolution asks of a library of arrays: CuPy with cuFFT and cuBLAS, or in tests NumPy and SciPy.

A method enqueues or does its work and allocates nothing, unless it says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from convbench.problem import ConvPass


class Arrays(ABC):
    """A module with the functions of NumPy, `xp`, and what modules do not have alike.

    Attributes:
        work_bytes: scratch memory of all transforms planned so far.
    """

    xp: Any
    work_bytes: int = 0

    @abstractmethod
    def active(self) -> AbstractContextManager[None]:
        """Everything happens within it; it raises MemoryError where memory is short."""

    @abstractmethod
    def upload(self, array: NDArray[Any]) -> Any:
        """A new copy of a host's array."""

    @abstractmethod
    def download(self, array: Any) -> NDArray[Any]:
        """An array, on the host, when what is enqueued has ended."""

    @abstractmethod
    def forward(self, planes: Any, spectra: Any, by_bins: bool) -> Callable[[], None]:
        """Plans, which allocates; the result writes the half spectra of planes (number, points…), and keeps them.

        `spectra` is (bins, number) if `by_bins`, else (number, bins).
        """

    @abstractmethod
    def inverse(self, spectra: Any, planes: Any, by_bins: bool) -> Callable[[], None]:
        """Plans the way back, times the number of points; the result may destroy the spectra."""

    @abstractmethod
    def product(self, conv_pass: ConvPass, first: Any, second: Any, out: Any, scale: float, add: bool) -> None:
        """The product of a pass for each of a batch of matrices, times `scale`, to `out` or, if `add`, added to it.

        fprop y = x·wᴴ, dgrad dx = dy·w, wgrad dw = dyᴴ·x; x (images, channels), w (filters, channels), y (images,
        filters), each with an axis for the batch before.
        """

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of zeros, all of it in memory."""
        array = self.xp.empty(shape, dtype)
        array.fill(0)
        return array

    def fill(self, array: Any, value: float) -> None:
        """Writes one value to all elements."""
        array.fill(value)

    def strided(self, array: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
        """A view of the memory from an array's first element on; strides in bytes."""
        return self.xp.lib.stride_tricks.as_strided(array, shape, strides)

    def copy(self, target: Any, source: Any) -> None:
        """Copies an array into another one."""
        target[...] = source

    def add(self, target: Any, source: Any, bias: Any) -> None:
        """Writes source + bias."""
        self.xp.add(source, bias, out=target)

    def relu(self, array: Any) -> None:
        """Replaces negative elements by zero."""
        self.xp.maximum(array, 0, out=array)

    def conjugate(self, array: Any) -> None:
        """Replaces elements by their conjugates."""
        self.xp.conjugate(array, out=array)

    def scale(self, array: Any, factor: float) -> None:
        """Multiplies all elements by a real number."""
        self.xp.multiply(array, factor, out=array)

    def multiply(self, first: Any, second: Any, out: Any) -> None:
        """Writes the products of elements."""
        self.xp.multiply(first, second, out=out)
