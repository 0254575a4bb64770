"""What the convolution asks of a library of arrays besides: transforms, copies and sums of elements."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from convbench.backends.cuda.arrays import Arrays

if TYPE_CHECKING:
    from collections.abc import Callable


class FftArrays(Arrays):
    """Arrays with transforms.

    Attributes:
        work_bytes: scratch memory of all transforms planned so far.
    """

    work_bytes: int = 0

    @abstractmethod
    def forward(self, planes: Any, spectra: Any, by_bins: bool) -> Callable[[], None]:
        """Plans, which allocates; the result writes the half spectra of planes (number, points…), and keeps them.

        `spectra` is (bins, number) if `by_bins`, else (number, bins).
        """

    @abstractmethod
    def inverse(self, spectra: Any, planes: Any, by_bins: bool) -> Callable[[], None]:
        """Plans the way back, times the number of points; the result may destroy the spectra."""

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
