"""What plans of convolutions by FFTs on a GPU have in common: the steps of a run, and the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.operands import from_layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convbench.backends import Clock
    from convbench.backends.cuda.arrays import Arrays
    from convbench.problem import Case
    from convbench.work import Work

Step = tuple[int, Callable[[], None]]
"""The place of a phase in a plan's work, and what enqueues a part of it."""


class FftPlan:
    """Steps over `Arrays` in the order of a run; `_stored` is the output, as it lies on the GPU."""

    work: Work
    _case: Case
    _arrays: Arrays
    _steps: list[Step]
    _stored: Any

    def run(self) -> None:
        """Enqueues all steps."""
        with self._arrays.active():
            for _, step in self._steps:
                step()

    def run_phases(self, clock: Clock) -> list[float]:
        """Seconds of each phase of one run: its steps timed one after another, chunk by chunk."""
        seconds = [0.0] * len(self.work.phases)
        for phase, step in self._steps:
            seconds[phase] += clock.sample(step, 1).wall_s
        return seconds

    def poison(self) -> None:
        """Fills the output with NaN."""
        with self._arrays.active():
            self._arrays.fill(self._stored, np.nan)

    def output(self) -> NDArray[Any]:
        """A copy of the output, canonical."""
        with self._arrays.active():
            return from_layout(self._arrays.download(self._stored), self._case.layout)
