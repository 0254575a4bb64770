"""What convolutions by FFTs on a GPU have in common: tensors as matrices of planes, and rates to choose tiles by."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol

from convbench.backends.cpu.phases import phase_count
from convbench.problem import Case, ConvPass, MathMode, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

COMPLEX_MULTIPLY_FLOPS = 6
"""Four multiplies and two adds."""
SCALE_FLOPS = 2
"""Of a complex number by a real one."""
BUFFER_BYTES = 4 << 30
"""Workspace that chunks of the batch are cut for where no limit is given: a part of any GPU's memory today."""
MOST = 2**31 - 1
"""Of what is counted in 32 bits."""
READ_NAMES = {ConvPass.FPROP: ("x", "w"), ConvPass.DGRAD: ("y", "w"), ConvPass.WGRAD: ("y", "x")}
"""The operands of a pass, the first and the second of its product; y stands for its gradient."""
MADE_NAMES = {ConvPass.FPROP: "y", ConvPass.DGRAD: "x", ConvPass.WGRAD: "w"}

BYTE_S = 1 / 4.8e12
FLOP_S = {MathMode.FP32: 1 / 66.9e12, MathMode.FP64: 1 / 33.5e12, MathMode.TF32: 1 / 494.7e12}
"""Seconds per byte and flop by the data sheet of an H200: tiles are chosen by them, on every GPU."""
LAUNCH_S = 2e-6
"""Assumed for a launch within a graph; nobody has measured it yet."""


class CutAxis(Protocol):
    """An axis that is cut into tiles."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        ...


@dataclass(frozen=True)
class FftPlanner(ABC):
    """A convolution as products of matrices of planes, one per group and bin, for equal chunks of the batch.

    x (images, channels), w (filters, channels) and y (images, filters) are matrices; a pass multiplies two of them, and
    `reduced` is the extent that its product sums over. Phases of a strided plane act as more channels, tiles as more
    images (sources: convbench.backends.cpu.fft_planner).
    """

    case: Case

    @property
    @abstractmethod
    def axes(self) -> Sequence[CutAxis]:
        """Tiles per axis."""

    @abstractmethod
    def fits(self, images: int) -> bool:
        """Whether a chunk of so many images can be done at once."""

    @property
    def problem(self) -> Problem:
        """The case's problem."""
        return self.case.problem

    @cached_property
    def tiles(self) -> int:
        """Tiles of a plane."""
        return math.prod(axis.count for axis in self.axes)

    @cached_property
    def phase_counts(self) -> tuple[int, ...]:
        """Phases per axis."""
        return tuple(map(phase_count, self.problem.axes))

    @property
    def channels(self) -> int:
        """Input channels of a group, each counted once per phase."""
        return self.problem.in_channels // self.problem.groups * math.prod(self.phase_counts)

    @property
    def filters(self) -> int:
        """Output channels of a group."""
        return self.problem.out_channels // self.problem.groups

    @property
    def reduced(self) -> int:
        """Extent that a product sums over."""
        images = self.problem.batch * self.tiles
        return {ConvPass.FPROP: self.channels, ConvPass.DGRAD: self.filters, ConvPass.WGRAD: images}[
            self.case.conv_pass
        ]

    def matrix(self, name: str, images: int) -> tuple[int, int]:
        """Planes of a tensor per group, as rows and columns, for so many images."""
        rows, columns = images * self.tiles, self.channels
        return {"x": (rows, columns), "w": (self.filters, columns), "y": (rows, self.filters)}[name]

    def planes(self, name: str, images: int) -> int:
        """Planes of a tensor, of all groups."""
        return self.problem.groups * math.prod(self.matrix(name, images))

    @cached_property
    def chunk(self) -> int:
        """Images of a chunk: the most that divide the batch and fit, so that all chunks are alike; 0 of nothing."""
        batch = self.problem.batch if self.tiles else 0
        fitting = (batch // parts for parts in divisors(batch) if self.fits(batch // parts))
        return next(fitting, min(1, batch))

    @property
    def chunks(self) -> int:
        """Chunks of the batch."""
        return self.problem.batch // self.chunk if self.chunk else 0

    def times(self, name: str) -> int:
        """How often the planes of a chunk are transformed in a run: those of the filter once, if at all."""
        return min(1, self.chunks) if name == "w" else self.chunks

    def label(self, name: str) -> str:
        """What a tensor is called in the names of phases: "dy" where "y" stands for its gradient."""
        conv_pass = self.case.conv_pass
        gradient = conv_pass is not ConvPass.FPROP and name in {"y", MADE_NAMES[conv_pass]}
        return f"d{name}" if gradient else name


@lru_cache(maxsize=64)
def divisors(number: int) -> list[int]:
    """In ascending order; of 0 none."""
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})
