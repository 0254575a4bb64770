"""Work and memory of `direct`: arithmetic on shapes, without NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from convbench.problem import Case, ConvPass, Epilogue
from convbench.work import Phase, Work, axis_hits, epilogue_flops


@dataclass(frozen=True)
class DirectPlanner:
    """Tap by tap over one image at a time: each product of a tap is one small matrix product."""

    case: Case

    @cached_property
    def plane(self) -> int:
        """Outputs of one image and channel."""
        return math.prod(self.case.problem.output_size)

    @property
    def transient_bytes(self) -> int:
        """All of the workspace: nothing is kept between taps."""
        return self.workspace_bytes

    @property
    def workspace_bytes(self) -> int:
        """The gathered operand and the product of one tap and image."""
        p = self.case.problem
        products = p.w_shape[0] * p.w_shape[1] if self.case.conv_pass is ConvPass.WGRAD else 0
        return ((p.in_channels + p.out_channels) * self.plane + products) * self.case.dtype.itemsize

    def work(self) -> Work:
        """Gather, product and accumulation, without the taps that meet padding."""
        p, size = self.case.problem, self.case.dtype.itemsize
        hits = p.batch * math.prod(map(axis_hits, p.axes))
        taps = math.prod(p.filter_size)
        launches = p.batch * taps
        inner, outer = {
            ConvPass.FPROP: (p.in_channels, p.out_channels),
            ConvPass.DGRAD: (p.out_channels, p.in_channels),
            ConvPass.WGRAD: (p.in_channels + p.out_channels, 0),
        }[self.case.conv_pass]
        filters = p.out_channels * p.w_shape[1]
        result = outer * hits or launches * filters
        gathered = inner * hits * size
        weights = 0 if self.case.conv_pass is ConvPass.WGRAD else launches * filters * size
        footprint = self.workspace_bytes
        flops = 2 * p.out_channels * p.w_shape[1] * hits
        phases = [
            Phase(name="gather", flops=0, bytes_read=gathered, bytes_written=gathered,
                  footprint_bytes=2 * footprint, launches=launches),
            Phase(name="product", flops=flops, bytes_read=gathered + weights, bytes_written=result * size,
                  footprint_bytes=footprint + filters * size, launches=launches),
            Phase(name="accumulate", flops=result, bytes_read=2 * result * size, bytes_written=result * size,
                  footprint_bytes=2 * footprint, launches=launches),
            *epilogue_phases(self.case),
        ]  # fmt: skip
        return Work(tuple(phases))


def epilogue_phases(case: Case) -> list[Phase]:
    """The epilogue as its own pass over y, where it is not applied to a chunk on its way out."""
    if case.epilogue is Epilogue.NONE:
        return []
    size = math.prod(case.output_shape) * case.dtype.itemsize
    passes = 2 if case.epilogue is Epilogue.BIAS_RELU else 1
    return [Phase(name="epilogue", flops=epilogue_flops(case), bytes_read=passes * size, bytes_written=passes * size,
                  footprint_bytes=size, launches=passes)]  # fmt: skip
