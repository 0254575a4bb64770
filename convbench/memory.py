"""What a case needs in memory beside its plan, predicted before anything is allocated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convbench.problem import ConvPass

if TYPE_CHECKING:
    from convbench.problem import Case


def operand_bytes(case: Case) -> int:
    """The canonical tensors that the pass reads."""
    p = case.problem
    x, w, y = math.prod(p.x_shape), math.prod(p.w_shape), math.prod(p.y_shape)
    read = {ConvPass.FPROP: x + w, ConvPass.DGRAD: y + w, ConvPass.WGRAD: x + y}[case.conv_pass]
    return read * case.dtype.itemsize


def verification_bytes(case: Case) -> int:
    """Float64 temporaries of verify.py: a contracted operand and output, draws and squares of each, and blocks."""
    p = case.problem
    x, w, y = math.prod(p.x_shape), math.prod(p.w_shape), math.prod(p.y_shape)
    groups = p.groups
    first, second, output, i, j = {
        ConvPass.FPROP: (x, w, y, p.batch, p.out_channels // groups),
        ConvPass.DGRAD: (y, w, x, p.batch, p.in_channels // groups),
        ConvPass.WGRAD: (y, x, w, p.out_channels // groups, p.in_channels // groups),
    }[case.conv_pass]
    contracted, length = (first, i) if i >= j else (second, j)
    extents = [a.before + a.input + max(0, a.after) for a in p.axes]
    padded = p.in_channels * math.prod(extents) * 8  # one image, the least that a block of the reference holds
    blocks = max(min(p.batch * padded, 32 << 20), padded) * 4
    return 8 * (4 * contracted + 8 * output) // max(1, length) + blocks
