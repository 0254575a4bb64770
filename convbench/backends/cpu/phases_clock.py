"""How long the phases of a plan take: a stopwatch that each thread presses where one phase ends and the next begins.

    self.laps.begin()                # where a thread begins, and where it goes on after it has waited
    ...
    self.laps.end("gather")          # what it did since then was this phase
    ...
    self.laps.end("product")

    def run_phases(self, clock):
        return self.laps.seconds(self.run, self.work)

A press costs some ten nanoseconds while nothing is measured.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from convbench.work import Work


class Laps:
    """Seconds by phase, measured while `seconds` runs something."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._on = False
        self._begun: dict[int, float] = {}
        """When each thread pressed last."""
        self._spent: dict[tuple[str, int], float] = {}
        """By phase and thread."""

    def begin(self) -> None:
        """A phase begins in this thread."""
        if self._on:
            self._begun[threading.get_ident()] = self._now()

    def end(self, phase: str) -> None:
        """What this thread did since it pressed last was `phase`; the next one begins."""
        if self._on:
            thread, now = threading.get_ident(), self._now()
            self._spent[phase, thread] += now - self._begun[thread]
            self._begun[thread] = now

    def seconds(self, run: Callable[[], object], work: Work) -> list[float]:
        """Seconds that each phase of `work` takes in one `run`: of several threads, their average.

        What the calling thread does itself comes on top: the others do not work meanwhile.

        Raises:
            KeyError: it ended a phase that `work` does not have.
        """
        self._begun, self._spent, self._on = {}, defaultdict(float), True
        try:
            run()
        finally:
            self._on = False
        own = threading.get_ident()
        alone = {phase.name: 0.0 for phase in work.phases}
        shared: dict[str, list[float]] = {phase.name: [] for phase in work.phases}
        for (name, thread), spent in self._spent.items():
            if thread == own:
                alone[name] += spent
            else:
                shared[name].append(spent)
        return [alone[name] + sum(spent) / max(1, len(spent)) for name, spent in shared.items()]
