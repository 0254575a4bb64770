"""What a case needs in memory beside its plan, predicted before anything is allocated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convbench.problem import ConvPass, Epilogue

if TYPE_CHECKING:
    from convbench.problem import Case


def operand_bytes(case: Case) -> int:
    """The canonical tensors that the pass reads, as `Operands` holds them: no narrower than fp32."""
    p = case.problem
    x, w, y = math.prod(p.x_shape), math.prod(p.w_shape), math.prod(p.y_shape)
    read = {ConvPass.FPROP: x + w, ConvPass.DGRAD: y + w, ConvPass.WGRAD: x + y}[case.conv_pass]
    return read * max(4, case.dtype.itemsize)


def transfer_bytes(case: Case) -> int:
    """Copies on the host where a device has memory of its own: of a tensor on its way there or back.

    Rounding to bf16 takes three at a time. With an epilogue there is the output of a second plan beside them.
    """
    p, outputs = case.problem, math.prod(case.output_shape)
    copies = 3 * max(math.prod(p.x_shape), math.prod(p.w_shape), math.prod(p.y_shape))
    return (copies + (0 if case.epilogue is Epilogue.NONE else outputs)) * max(4, case.dtype.itemsize)


def verification_bytes(case: Case) -> int:
    """Largest temporaries of the checks of a plan's output: of its poisoning, the contraction, and the elements."""
    outputs = math.prod(case.output_shape)
    poisoned = 2 * outputs  # which are NaN, and which not
    return max(poisoned, _contraction_bytes(case), _comparison_bytes(case))


def _extents(case: Case) -> tuple[int, int, int]:
    """Images, and channels of x and of y per group."""
    p = case.problem
    return p.batch, p.in_channels // p.groups, p.out_channels // p.groups


def _contraction_bytes(case: Case) -> int:
    """The contracted operand and output in float64, a pass on them, and the blocks that are converted at once.

    `verify.Checker.contract`, step by step.
    """
    from convbench.reference import pass_bytes
    from convbench.verify import CONTRACTED_ELEMENTS, DRAWS

    p, (n, c, k) = case.problem, _extents(case)
    x, w, y = math.prod(p.x_shape), math.prod(p.w_shape), math.prod(p.y_shape)
    first, second, output, i, j = {
        ConvPass.FPROP: (x, w, y, n, k), ConvPass.DGRAD: (y, w, x, n, c), ConvPass.WGRAD: (y, x, w, k, c),
    }[case.conv_pass]  # fmt: skip
    operand, length = (first, i) if i >= j else (second, j)
    contracted, out = (8 * elements // max(1, length) for elements in (operand, output))

    def converting(elements: int) -> int:
        return 8 * min(elements, max(CONTRACTED_ELEMENTS, elements // max(1, length)))

    def reference_pass(draws: int) -> int:
        by_length = {
            ConvPass.FPROP: (draws, c, k) if i >= j else (n, c, draws),
            ConvPass.DGRAD: (draws, c, k) if i >= j else (n, draws, k),
            ConvPass.WGRAD: (n, c, draws) if i >= j else (n, draws, k),
        }
        images, channels, filters = by_length[case.conv_pass]
        return pass_bytes(p.axes, case.conv_pass, images, p.groups, channels, filters)

    draws = DRAWS
    return max(
        2 * draws * contracted + converting(operand),
        draws * (contracted + 2 * out) + converting(output),
        draws * (contracted + out) + reference_pass(draws),
        draws * out + 3 * contracted + converting(operand),
        draws * out + contracted + reference_pass(1),
        (3 * draws + 2) * out + contracted,  # the error, its size and share of the allowance
    )


def _comparison_bytes(case: Case) -> int:
    """The planes that are compared, and the pass on them and on their squares; `verify.Checker.compare`."""
    from convbench.reference import pass_bytes
    from convbench.verify import selected_counts

    p, (n, c, k) = case.problem, _extents(case)
    i, j = {ConvPass.FPROP: (n, k), ConvPass.DGRAD: (n, c), ConvPass.WGRAD: (k, c)}[case.conv_pass]
    groups, i, j = selected_counts(case, (p.groups, i, j))
    images, channels, filters = {
        ConvPass.FPROP: (i, c, j), ConvPass.DGRAD: (i, j, k), ConvPass.WGRAD: (n, j, i),
    }[case.conv_pass]  # fmt: skip
    x_taken = images * groups * channels * math.prod(p.input_size)
    w_taken = groups * filters * channels * math.prod(p.filter_size)
    y_taken = images * groups * filters * math.prod(p.output_size)
    chosen = {(x_taken, math.prod(p.x_shape)), (w_taken, math.prod(p.w_shape)), (y_taken, math.prod(p.y_shape))}
    # Whole tensors are not copied.
    taken = sum(some for some, whole in chosen if some < whole) * max(4, case.dtype.itemsize)
    output = 8 * math.prod(case.output_shape) * groups * i * j // max(1, p.groups * math.prod(_pair(case)))
    reference_pass = pass_bytes(p.axes, case.conv_pass, images, groups, channels, filters)
    return taken + max(output + reference_pass, 5 * output)


def _pair(case: Case) -> tuple[int, int]:
    """Extents of the two axes that are selected from, per group."""
    n, c, k = _extents(case)
    return {ConvPass.FPROP: (n, k), ConvPass.DGRAD: (n, c), ConvPass.WGRAD: (k, c)}[case.conv_pass]
