"""The float64 reference: the three passes by their definition, over any number of images and channels.

Operands are canonical grouped arrays: x (N, G, C/G, input…), w (G, K/G, C/G, taps…), dy (N, G, K/G, output…). Only the
axes' extents are fixed by the problem, so that contracted or selected operands pass as well (verify.py). Each function
takes a few taps at a time, as one matrix product, in blocks of images that are converted to float64 as they come.

Where that would take several times as long as transforms do (very many taps), the same sums are taken by FFTs in
extended precision, whose error is below that of a float64 sum (`FFT_FLOOR`).
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.operands import index
from convbench.problem import ConvPass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from convbench.problem import Axis


BLOCK_BYTES = 4 << 20
"""Largest array that a block of images is given, unless one image needs more."""
ROWS = 64
"""Rows of gathered input, channels times taps, that make a product worth its call."""
FFT_GAIN = 3.0
"""How many times quicker than the definition transforms must be, by estimate, to take its place."""
EXTENDED = bool(np.finfo(np.longdouble).nmant >= 63)
"""Whether this machine has a float of more than 53 significand bits (x86: 64); without it the definition stays."""
FFT_FLOOR = 2.0**-16
"""What transforms add to the pass on squares, as a share of its mean over the points of the transform.

Their error is the same everywhere, also where only small products contribute or none: below 16·2⁻⁶⁴ of the root of that
mean. An allowance derived from the squares is at least 8·2⁻⁵³·√squares (verify.py), with the floor 2⁻⁵⁸ of that root:
four times the error.
"""


def fprop(axes: Sequence[Axis], x: NDArray[Any], w: NDArray[Any], power: int = 1) -> NDArray[np.float64]:
    """Y (N, G, K/G, output…) of x and w; with `power` 2, of their squares."""
    filters, channels = w.shape[1:3]
    y = np.zeros((*x.shape[:2], filters, *(a.output for a in axes)))
    if fft_is_quicker(axes, len(x), channels, filters):
        return _by_fft(axes, "x", x, "w", w, "y", y, power)
    images, taps = block(axes, x.shape[1], channels, filters)
    weights = _taps_last(_raised(w, power))
    for part in _slices(len(x), images):
        padded = _pad(axes, _raised(x[part], power))
        for chosen, windows in _windows(axes, taps):
            gathered = _gather(padded, windows)  # (N, G, C/G, taps, output…)
            matrix = weights[..., chosen].reshape(*w.shape[:2], channels * len(windows))
            product = matrix @ gathered.reshape(*gathered.shape[:2], matrix.shape[2], -1)
            y[part] += product.reshape(y[part].shape)
            del gathered, product  # before the next are made
        del padded
    return y


def dgrad(axes: Sequence[Axis], dy: NDArray[Any], w: NDArray[Any], power: int = 1) -> NDArray[np.float64]:
    """Dx (N, G, C/G, input…) of dy and w; with `power` 2, of their squares."""
    filters, channels = w.shape[1:3]
    dx = np.zeros((*dy.shape[:2], channels, *(a.input for a in axes)))
    if fft_is_quicker(axes, len(dy), channels, filters):
        return _by_fft(axes, "y", dy, "w", w, "x", dx, power)
    images, taps = block(axes, dy.shape[1], channels, filters)
    weights = _taps_last(_raised(w, power))
    for part in _slices(len(dy), images):
        gradient = _raised(dy[part], power)  # (N, G, K/G, output…)
        padded = np.zeros((*dx[part].shape[:3], *map(_padded_extent, axes)))
        for chosen, windows in _windows(axes, taps):
            matrix = weights[..., chosen].reshape(*w.shape[:2], channels * len(windows)).swapaxes(1, 2)
            product = matrix @ gradient.reshape(*gradient.shape[:3], -1)  # (N, G, C/G·taps, points)
            scattered = product.reshape(*dx[part].shape[:3], len(windows), *gradient.shape[3:])
            for tap, window in enumerate(windows):
                padded[window] += scattered[:, :, :, tap]
            del product, scattered  # before the next are made
        dx[part] = padded[index(..., *(slice(a.before, a.before + a.input) for a in axes))]
        del gradient, padded
    return dx


def wgrad(axes: Sequence[Axis], dy: NDArray[Any], x: NDArray[Any], power: int = 1) -> NDArray[np.float64]:
    """Dw (G, K/G, C/G, taps…) of dy and x; with `power` 2, of their squares."""
    filters, channels = dy.shape[2], x.shape[2]
    dw = np.zeros((dy.shape[1], filters, channels, *(a.filter for a in axes)))
    if fft_is_quicker(axes, len(dy), channels, filters):
        return _by_fft(axes, "y", dy, "x", x, "w", dw, power)
    images, taps = block(axes, dy.shape[1], channels, filters)
    flat = _taps_last(dw)  # a view
    for part in _slices(len(x), images):
        gradient = np.moveaxis(_raised(dy[part], power), 0, 2)  # (G, K/G, N, output…)
        gradient = gradient.reshape(*gradient.shape[:2], -1)
        padded = _pad(axes, _raised(x[part], power))
        for chosen, windows in _windows(axes, taps):
            gathered = _gather(padded, windows, images_last=True)  # (G, C/G, taps, N, output…)
            matrix = gathered.reshape(len(dw), channels * len(windows), gradient.shape[2])
            product = gradient @ matrix.swapaxes(1, 2)
            flat[..., chosen] += product.reshape(*dw.shape[:3], len(windows))
            del gathered, matrix, product  # before the next are made
        del gradient, padded
    return dw


def block(axes: Sequence[Axis], groups: int, channels: int, filters: int) -> tuple[int, int]:
    """Images of a block and taps of a product, for so many channels of x and of y per group."""
    points = groups * math.prod(a.output for a in axes) * 8
    padded = groups * channels * math.prod(map(_padded_extent, axes)) * 8
    taps = min(ROWS // channels, BLOCK_BYTES // max(1, channels * points), math.prod(a.filter for a in axes))
    taps = max(1, taps)
    return max(1, BLOCK_BYTES // max(1, padded, max(channels * taps, filters) * points)), taps


def _raised(array: NDArray[Any], power: int) -> NDArray[np.float64]:
    values = array.astype(np.float64)
    if power == 2:
        values *= values
    return values


def _slices(extent: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, extent)) for start in range(0, extent, size))


def _padded_extent(axis: Axis) -> int:
    return axis.before + axis.input + max(0, axis.after)


def _pad(axes: Sequence[Axis], images: NDArray[Any]) -> NDArray[Any]:
    return np.pad(images, [index(0, 0)] * 3 + [(a.before, max(0, a.after)) for a in axes])


def _windows(axes: Sequence[Axis], count: int) -> Iterator[tuple[slice, list[tuple[Any, ...]]]]:
    """`count` taps at a time: their places in a row, and for each the elements of the padded input that it meets."""
    taps = itertools.product(*(range(a.filter) for a in axes))
    start = 0
    while chosen := list(itertools.islice(taps, count)):
        yield (
            slice(start, start + len(chosen)),
            [
                index(..., *(_spread(r * a.dilation, a.output, a.stride) for r, a in zip(tap, axes, strict=True)))
                for tap in chosen
            ],
        )
        start += len(chosen)


def _spread(start: int, count: int, step: int) -> slice:
    return slice(start, start + (count - 1) * step + 1, step)


def _taps_last(w: NDArray[Any]) -> NDArray[Any]:
    """(G, K/G, C/G, taps), all taps in a row."""
    return w.reshape(*w.shape[:3], math.prod(w.shape[3:]))


def _gather(padded: NDArray[Any], windows: Sequence[tuple[Any, ...]], images_last: bool = False) -> NDArray[Any]:
    """Elements that each tap meets: (N, G, C/G, taps, output…), or (G, C/G, taps, N, output…)."""
    first = padded[windows[0]]
    n, *channels = first.shape[:3]
    taps = len(windows)
    gathered = np.empty(
        (*channels, taps, n, *first.shape[3:]) if images_last else (n, *channels, taps, *first.shape[3:])
    )
    by_tap = np.moveaxis(gathered, (2, 3) if images_last else 3, (0, 1) if images_last else 0)  # (taps, N, G, C/G, …)
    for tap, window in enumerate(windows):
        by_tap[tap] = padded[window]
    return gathered


# Very many taps


def fft_is_quicker(axes: Sequence[Axis], images: int, channels: int, filters: int) -> bool:
    """Whether transforms take the place of the definition, by a rough count of nanoseconds per group.

    Per tap the definition copies or adds up each channel's points (2 ns) and multiplies (0.1 ns), at 20 µs a product;
    an extended transform takes 10 ns per point and doubling, its products 5 ns a bin. Only their ratio matters.
    """
    if not EXTENDED:
        return False
    taps, points = math.prod(a.filter for a in axes), math.prod(a.output for a in axes)
    definition = taps * images * points * (2 * (channels + filters) + 0.1 * channels * filters)
    size = math.prod(_fft_size(axes))
    spectra = images * (channels + filters) + channels * filters
    fft = size * (10 * spectra * math.log2(size + 1) + 5 * images * channels * filters)
    return definition > FFT_GAIN * (fft + 1e6)


def _fft_size(axes: Sequence[Axis]) -> list[int]:
    """Powers of two and three halves of them, at least the padded input, so that no sum that is kept wraps around."""
    sizes = []
    for axis in axes:
        power = 1 << (_padded_extent(axis) - 1).bit_length()
        sizes.append(power // 4 * 3 if power >= 4 and power // 4 * 3 >= _padded_extent(axis) else power)
    return sizes


def _by_fft(
    axes: Sequence[Axis], a_role: str, a: NDArray[Any], b_role: str, b: NDArray[Any], out_role: str,
    out: NDArray[np.float64], power: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Fills `out` with the pass on a and b, one group and image at a time; roles are "x", "w" and "y"."""
    import scipy.fft

    size = _fft_size(axes)
    channels = {"x": "c", "w": "kc", "y": "k"}
    rule = f"{channels[a_role]}...,{channels[b_role]}...->{channels[out_role]}..."
    places = {
        "x": index(..., *(_spread(axis.before, axis.input, 1) for axis in axes)),
        "w": index(..., *(_spread(0, axis.filter, axis.dilation) for axis in axes)),
        "y": index(..., *(_spread(0, axis.output, axis.stride) for axis in axes)),
    }

    def spectrum(role: str, values: NDArray[Any]) -> NDArray[Any]:
        plane = np.zeros((*values.shape[: -len(axes)], *size), np.longdouble)
        plane[places[role]] = _raised(values, power)
        found: NDArray[Any] = scipy.fft.rfftn(plane, axes=range(-len(axes), 0))
        # The pass is a correlation: with w in y, and with dy in dw. In dx it is a convolution.
        return np.conj(found, out=found) if (role, out_role) in {("w", "y"), ("y", "w")} else found

    def inverse(product: NDArray[Any]) -> NDArray[Any]:
        plane: NDArray[Any] = scipy.fft.irfftn(product, s=size, axes=range(-len(axes), 0))[places[out_role]]
        if power == 1:
            return plane
        mean = product[index(..., *[0] * len(axes))].real / math.prod(size)
        np.maximum(plane, 0, out=plane)
        plane += FFT_FLOOR * mean.reshape(*mean.shape, *[1] * len(axes))
        return plane

    for g in range(a.shape[1]):
        total: Any = 0
        of_b: NDArray[Any] | None = None
        for n in range(len(a)):
            if of_b is None or b_role != "w":
                of_b = None  # before the next is made
                of_b = spectrum(b_role, b[g] if b_role == "w" else b[n, g])
            product = np.einsum(rule, spectrum(a_role, a[n, g]), of_b)
            if out_role == "w":
                total += product
            else:
                out[n, g] = inverse(product)
            del product
        if out_role == "w" and len(a):
            out[g] = inverse(total)
    return out


# Memory


def pass_bytes(axes: Sequence[Axis], conv_pass: ConvPass, images: int, groups: int, channels: int, filters: int) -> int:
    """Largest bytes in use at once, the result included, by the pass of these extents; operands are not counted."""
    points, inputs = math.prod(a.output for a in axes), math.prod(a.input for a in axes)
    padded, taps = math.prod(map(_padded_extent, axes)), math.prod(a.filter for a in axes)
    weights = 8 * groups * filters * channels * taps
    y, x = 8 * groups * filters * points, 8 * groups * channels * inputs  # of one image
    out = {ConvPass.FPROP: images * y, ConvPass.DGRAD: images * x, ConvPass.WGRAD: weights}[conv_pass]
    if fft_is_quicker(axes, images, channels, filters):
        return out + _fft_bytes(axes, conv_pass, channels, filters)
    block_images, block_taps = block(axes, groups, channels, filters)
    n = min(images, block_images)
    padded_x = n * 8 * groups * channels * padded
    gathered = n * 8 * groups * channels * block_taps * points
    matrix = weights // taps * block_taps
    if conv_pass is ConvPass.FPROP:
        return out + weights + matrix + padded_x + max(n * x, gathered + n * y)
    if conv_pass is ConvPass.DGRAD:
        return out + weights + matrix + n * y + padded_x + gathered
    return out + n * y + max(n * y, padded_x + max(n * x, gathered + matrix))


def _fft_bytes(axes: Sequence[Axis], conv_pass: ConvPass, channels: int, filters: int) -> int:
    """Of one group and image: the fixed spectrum, the other one's making, the product and its inverse."""
    real = 16 * math.prod(_fft_size(axes))
    spectrum = real + real // _fft_size(axes)[-1] * 2
    a, b, out = {
        ConvPass.FPROP: (channels, filters * channels, filters),
        ConvPass.DGRAD: (filters, filters * channels, channels),
        ConvPass.WGRAD: (filters, channels, filters * channels),
    }[conv_pass]
    total = out * spectrum if conv_pass is ConvPass.WGRAD else 0
    other = max(b * real, a * (real + spectrum), (a + out) * spectrum, out * (2 * spectrum + real))
    return total + b * spectrum + other
