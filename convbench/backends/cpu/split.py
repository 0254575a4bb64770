"""An axis of any stride and dilation as correlations of stride 1 without dilation: arithmetic, without NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convbench.problem import Axis


@dataclass(frozen=True, slots=True)
class Places:
    """Every `step`-th element of an axis of `extent` elements, from `start`, which may lie before its beginning."""

    start: int
    step: int
    extent: int

    @property
    def inside(self) -> tuple[int, int]:
        """(first, stop) of the non-negative e for which start + e·step is an element."""
        first = max(0, -(self.start // self.step))
        return first, max(first, (self.extent - 1 - self.start) // self.step + 1)

    def window(self, first: int, length: int) -> tuple[slice, slice]:
        """Of the e in [first, first + length): where those inside lie among them, and on the axis."""
        low, high = self.inside
        low, high = max(low, first), min(high, first + length)
        high = max(low, high)
        at = self.start + low * self.step
        return slice(low - first, high - first), slice(at, at + (high - low) * self.step, self.step)


@dataclass(frozen=True, slots=True)
class Split:
    """y[e, ρ] = Σ_f Σ_j x[f, e + j, ρ]·w[f, j] over phases f and taps j, for each residue ρ by itself.

    With stride s, dilation d, g = gcd(s, d) and R = d/g residues: output p = e·R + ρ; tap r = f + j·s/g; the input
    that both meet in is p·s + r·d − before = (f·d − before + ρ·s) + (e + j)·R·s. A phase is a residue of r·d modulo s.
    """

    axis: Axis

    @property
    def residues(self) -> int:
        """R, more than 1 where a dilation is no divisor of the stride."""
        return self.axis.dilation // math.gcd(self.axis.stride, self.axis.dilation)

    @property
    def tap_step(self) -> int:
        """Distance between taps of one phase."""
        return self.axis.stride // math.gcd(self.axis.stride, self.axis.dilation)

    @property
    def phases(self) -> int:
        """Phases that hold a tap."""
        return min(self.axis.filter, self.tap_step)

    @property
    def taps(self) -> int:
        """Taps of the longest phase; shorter ones end in zeros."""
        return -(-self.axis.filter // self.tap_step)

    @property
    def outputs(self) -> int:
        """Outputs of the longest residue."""
        return -(-self.axis.output // self.residues)

    def x(self, phase: int, residue: int) -> Places:
        """Where x[phase, e, residue] lies."""
        a = self.axis
        start = phase * a.dilation - a.before + residue * a.stride
        return Places(start, self.residues * a.stride, a.input)

    def y(self, residue: int) -> Places:
        """Where y[e, residue] lies."""
        return Places(residue, self.residues, self.axis.output)

    def w(self, phase: int) -> slice:
        """The taps of a phase, in order."""
        return slice(phase, self.axis.filter, self.tap_step)

    def read(self) -> tuple[int, int]:
        """(first, stop) of the e whose element, of any phase and residue, is inside x and read by some output."""
        most = self.outputs + self.taps - 1
        found = [place.inside for place in self._all()]
        low = min(first for first, _ in found)
        return min(low, most), max(min(low, most), min(most, max(stop for _, stop in found)))

    def _all(self) -> Iterator[Places]:
        for phase in {0, self.phases - 1}:  # starts grow with the phase and with the residue
            for residue in {0, self.residues - 1}:
                yield self.x(phase, residue)
