"""The calls of cuFFT through CuPy, and whether they can be made. Nothing of it has run on a GPU yet."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from convbench.backends.cuda.arrays import CudaArrays
from convbench.backends.cufft.arrays import FftArrays

if TYPE_CHECKING:
    from collections.abc import Callable


class CufftArrays(CudaArrays, FftArrays):
    """CuPy on the device's stream, with cuFFT."""

    def forward(self, planes: Any, spectra: Any, by_bins: bool) -> Callable[[], None]:
        """R2C or D2Z, out of place; cuFFT keeps its input then."""
        cufft = self.xp.cuda.cufft
        kind = cufft.CUFFT_R2C if planes.dtype == self.xp.float32 else cufft.CUFFT_D2Z
        plan = self._plan(kind, planes.shape, _by_plane(planes.shape), _spectra(planes.shape, by_bins))
        return functools.partial(plan.fft, planes, spectra, cufft.CUFFT_FORWARD)

    def inverse(self, spectra: Any, planes: Any, by_bins: bool) -> Callable[[], None]:
        """C2R or Z2D, unscaled."""
        cufft = self.xp.cuda.cufft
        kind = cufft.CUFFT_C2R if planes.dtype == self.xp.float32 else cufft.CUFFT_Z2D
        plan = self._plan(kind, planes.shape, _spectra(planes.shape, by_bins), _by_plane(planes.shape))
        return functools.partial(plan.fft, spectra, planes, cufft.CUFFT_INVERSE)

    def _plan(self, kind: int, shape: tuple[int, ...], source: Any, target: Any) -> Any:
        """Of planes (number, points…); source and target are (extents, stride, distance), in elements."""
        number, *size = shape
        plan = self.xp.cuda.cufft.PlanNd(tuple(size), *source, *target, kind, number, "C", len(size) - 1, size[-1])
        self.work_bytes += plan.work_area.mem.size
        return plan


def _by_plane(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
    """How planes (number, points…) lie, one after another."""
    return shape[1:], 1, math.prod(shape[1:])


def _spectra(shape: tuple[int, ...], by_bins: bool) -> tuple[tuple[int, ...], int, int]:
    """How the half spectra of such planes lie: bin by bin, each of all planes, or one after another."""
    number, *size, last = shape
    half = (*size, last // 2 + 1)
    return (half, number, 1) if by_bins else (half, 1, math.prod(half))


def missing() -> str | None:
    """Why cuFFT cannot be called, where there is a GPU; None where it can."""
    import cupy

    from convbench.backends.cuda.runtime import EXTRA

    try:
        getattr(cupy.cuda, "cufft")  # noqa: B009  CuPy looks for it now
    except Exception as error:  # noqa: BLE001  what CuPy raises where it finds none has changed over time
        return f"cuFFT is missing ({f'{type(error).__name__}: {error}'.splitlines()[0][:200]}): {EXTRA}"
    return None
