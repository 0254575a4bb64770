"""Products with small matrices, one after the other, between two buffers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from convbench.backends.cpu.transforms import Step

SMALL_PRODUCT = 1_000_000
"""Multiply-adds up to which OpenBLAS takes its kernels for small matrices, which pack nothing: on products with a small
matrix, and on those of a few dozen rows, up to twice as fast as the others."""
LEAST_WIDTH, MOST_WIDTH = 64, 2048
"""Columns of a part of a product with a small matrix."""
BLOCK_ROWS = (32, 128)
"""Least and most rows of a block of a product of many rows."""


def slots(data: NDArray[Any], shape: Sequence[int], slot: int, *, clear: bool = False) -> NDArray[Any]:
    """A buffer as an array of this shape, whose rows of so many elements as fit are `slot` elements apart.

    `clear` writes zeros to the spare elements: a chain takes them along, and what is left there from another array
    would grow with each run until it overflows.
    """
    size, place = 1, len(shape)
    while place > 0 and size * shape[place - 1] <= slot:
        place -= 1
        size *= shape[place]
    rows = math.prod(shape[:place])
    array = data[: rows * slot].reshape(rows, slot)
    if clear and size < slot:
        array[:, size:] = 0
    return np.reshape(array[:, :size], shape, copy=False)


def chain(
    matrices: Sequence[NDArray[Any]], steps: Sequence[Step], data: NDArray[Any], spare: NDArray[Any], rest: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Takes the steps, in order, on (lengths…, rest): the buffers, the one with the result first."""
    for step in steps:
        after = step.after * rest
        out = spare[: step.before * step.rows * after].reshape(step.before, step.rows, after)
        source = data[: step.before * step.columns * after].reshape(step.before, step.columns, after)
        wide_product(matrices[step.axis], source, out)
        data, spare = spare, data
    return data, spare


def wide_product(matrix: NDArray[Any], source: NDArray[Any], out: NDArray[Any]) -> None:
    """Writes matrix (m, k) @ source (n, k, columns), in parts of columns that are small products."""
    (rows, inner), width = matrix.shape, source.shape[2]
    most = min(MOST_WIDTH, SMALL_PRODUCT // max(1, rows * inner))
    if width <= most or most < LEAST_WIDTH:
        np.matmul(matrix, source, out=out)
        return
    size = -(-width // -(-width // most))
    size = min(most, -(-size // 16) * 16)
    whole = width // size * size
    np.matmul(matrix, _in_parts(source[..., :whole], size), out=_in_parts(out[..., :whole], size))
    if whole < width:
        np.matmul(matrix, source[..., whole:], out=out[..., whole:])


def blocked_product(source: NDArray[Any], filters: NDArray[Any], out: NDArray[Any]) -> None:
    """Writes source (n, rows, k) @ filters (n, k, columns), in blocks of rows and columns that are small products."""
    (_, rows, inner), columns = source.shape, filters.shape[2]
    height, width = (0, 0) if rows * columns * inner <= SMALL_PRODUCT else _block(rows, inner, columns)
    if height == 0:
        np.matmul(source, filters, out=out)
        return
    filters = np.reshape(filters, (len(filters), 1, inner, columns // width, width), copy=False).swapaxes(2, 3)
    whole = rows // height * height
    for start, stop, size in (0, whole, height), (whole, rows, rows - whole):
        if start < stop:
            parts = (len(source), (stop - start) // size, size)
            taken = np.reshape(source[:, start:stop], (*parts, 1, inner), copy=False).swapaxes(2, 3)
            target = np.reshape(out[:, start:stop], (*parts, columns // width, width), copy=False).swapaxes(2, 3)
            np.matmul(taken, filters, out=target)


def _block(rows: int, inner: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a block: 32 rows, or fewer if there are fewer, of as many columns as are a small product.

    Then more rows, up to 128. (0, 0) where LEAST_WIDTH columns, or all if there are fewer, are none.
    """
    height = min(rows, BLOCK_ROWS[0])
    most = SMALL_PRODUCT // (inner * height)
    for parts in range(1, columns // LEAST_WIDTH + 2):
        width = columns // parts
        if columns % parts == 0 and width <= most and (parts == 1 or width % 16 == 0):
            return min(rows, max(height, min(BLOCK_ROWS[1], SMALL_PRODUCT // (inner * width) // 16 * 16))), width
    return 0, 0


def _in_parts(array: NDArray[Any], size: int) -> NDArray[Any]:
    """(n, rows, columns) as (n, parts, rows, size), a view."""
    parts = np.reshape(array, (*array.shape[:2], array.shape[2] // size, size), copy=False)
    return parts.swapaxes(1, 2)
