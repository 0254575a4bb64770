"""The float64 reference: the three passes by their definition, over any number of images and channels.

Operands are canonical grouped arrays: x (N, G, C/G, input…), w (G, K/G, C/G, taps…), dy (N, G, K/G, output…). Only the
axes' extents are fixed by the problem, so that contracted or selected operands pass as well (verify.py). Each function
takes one tap at a time, in blocks of images that are converted to float64 as they come.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.operands import index

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from convbench.problem import Axis


BLOCK_BYTES = 32 << 20
"""Float64 copy of a block of images that is held at once."""


def fprop(axes: Sequence[Axis], x: NDArray[Any], w: NDArray[Any], power: int = 1) -> NDArray[np.float64]:
    """Y (N, G, K/G, output…) of x and w; with `power` 2, of their squares."""
    weights = _raised(w, power)
    y = np.zeros((*x.shape[:2], w.shape[1], *(a.output for a in axes)))
    for images in _blocks(axes, x, x.shape[2]):
        padded = _pad(axes, _raised(x[images], power))
        for tap, window in _windows(axes):
            product = weights[index(..., *tap)] @ _flat(padded[index(..., *window)])
            y[images] += product.reshape(y[images].shape)
    return y


def dgrad(axes: Sequence[Axis], dy: NDArray[Any], w: NDArray[Any], power: int = 1) -> NDArray[np.float64]:
    """Dx (N, G, C/G, input…) of dy and w; with `power` 2, of their squares."""
    weights = _raised(w, power).swapaxes(1, 2)
    dx = np.zeros((*dy.shape[:2], w.shape[2], *(a.input for a in axes)))
    for images in _blocks(axes, dy, w.shape[2]):
        gradient = _flat(_raised(dy[images], power))
        padded = np.zeros((*dx[images].shape[:3], *map(_padded_extent, axes)))
        for tap, window in _windows(axes):
            target = padded[index(..., *window)]
            target += (weights[index(..., *tap)] @ gradient).reshape(target.shape)
        dx[images] = padded[index(..., *(slice(a.before, a.before + a.input) for a in axes))]
    return dx


def wgrad(axes: Sequence[Axis], dy: NDArray[Any], x: NDArray[Any], power: int = 1) -> NDArray[np.float64]:
    """Dw (G, K/G, C/G, taps…) of dy and x; with `power` 2, of their squares."""
    dw = np.zeros((dy.shape[1], dy.shape[2], x.shape[2], *(a.filter for a in axes)))
    for images in _blocks(axes, x, x.shape[2]):
        gradient = _images_last(_raised(dy[images], power))  # (G, K/G, points)
        padded = _pad(axes, _raised(x[images], power))
        for tap, window in _windows(axes):
            dw[index(..., *tap)] += gradient @ _images_last(padded[index(..., *window)]).swapaxes(1, 2)
    return dw


def _raised(array: NDArray[Any], power: int) -> NDArray[np.float64]:
    values = array.astype(np.float64)
    return values if power == 1 else values**power


def _blocks(axes: Sequence[Axis], images: NDArray[Any], channels: int) -> Iterator[slice]:
    """Blocks of images whose float64 copy, and padded input planes of `channels` per group, are of bounded size."""
    padded = images.shape[1] * channels * math.prod(map(_padded_extent, axes))
    count = max(1, BLOCK_BYTES // max(1, 8 * max(padded, math.prod(images.shape[1:]))))
    return (slice(start, start + count) for start in range(0, images.shape[0], count))


def _padded_extent(axis: Axis) -> int:
    return axis.before + axis.input + max(0, axis.after)


def _pad(axes: Sequence[Axis], block: NDArray[Any]) -> NDArray[Any]:
    return np.pad(block, [index(0, 0)] * 3 + [(a.before, max(0, a.after)) for a in axes])


def _windows(axes: Sequence[Axis]) -> Iterator[tuple[tuple[int, ...], list[slice]]]:
    """Each tap, with the elements of the padded input that it meets, one per output."""
    for tap in itertools.product(*(range(a.filter) for a in axes)):
        yield (
            tap,
            [
                slice(r * a.dilation, r * a.dilation + (a.output - 1) * a.stride + 1, a.stride)
                for r, a in zip(tap, axes, strict=True)
            ],
        )


def _flat(block: NDArray[Any]) -> NDArray[Any]:
    """(N, G, channels, points)."""
    return block.reshape(*block.shape[:3], math.prod(block.shape[3:]))


def _images_last(block: NDArray[Any]) -> NDArray[Any]:
    """(G, channels, N·points)."""
    return np.moveaxis(block, 0, 2).reshape(*block.shape[1:3], block.shape[0] * math.prod(block.shape[3:]))
