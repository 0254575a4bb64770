"""Simulated checks of suites on simulated machines: `python benchmarks/check.py model`.

Launches and stored runs are drawn from convbench.noise, and the real convbench.confirm and convbench.compare decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from check_tables import Tally, at_most, percent, print_table, spread

from convbench.compare import CPU_RULES, Verdict, compare
from convbench.confirm import PAIRS, confirm
from convbench.noise import Noise
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.result import Row, RowKey, Run, Status
from convbench.timing import CANARY_SAMPLES, Columns, Round

if TYPE_CHECKING:
    from numpy.typing import NDArray

EFFECTS = (0.0, 0.025, 0.03, 0.05, 0.1, 0.2)
"""Relative slow-downs; 2.5 % is half of the least effect, where a regression begins."""
SAMPLES = 10
"""Of a value, or of a round: what 0.05 s hold of 5 ms."""
PROCESSES, ROUNDS = 3, 3
"""Of a stored run, and of each of its processes."""
CANARIES = ("compute", "memory")
TRUE_S = (2e-4, 2e-2)
"""Of the first row and the last, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What distorts times.

    Attributes:
        course: of all samples in the order in which they are taken, whatever process takes them; its bias is drawn anew
            for each stored run, and moves rows and canaries alike.
        process: a factor drawn anew for each row in each process.
        state: a factor drawn anew for each row in each stored run: what has changed on the machine between a baseline
            and its check, and moves one row more than another. Launches do not see it: their sides run meanwhile.
    """

    course: Noise
    process: Noise
    state: Noise


MACHINES = {
    "quiet": Machine(
        course=Noise(jitter=0.005, delay_share=0.1, delay=0.02, wander=0.003, memory=0.99, bias=0.003),
        process=Noise(jitter=0.005),
        state=Noise(jitter=0.01),
    ),
    "ordinary": Machine(
        course=Noise(jitter=0.01, delay_share=0.2, delay=0.1, mode_share=0.2, mode=0.08, mode_stay=200, wander=0.01,
                     memory=0.99, bias=0.01, drift=1e-5),
        process=Noise(jitter=0.015, mode_share=0.1, mode=0.05),
        state=Noise(jitter=0.03, mode_share=0.1, mode=0.1),
    ),
    "bad": Machine(
        course=Noise(jitter=0.03, delay_share=0.5, delay=0.3, mode_share=0.4, mode=0.25, mode_stay=100, wander=0.03,
                     memory=0.99, bias=0.02, drift=3e-5),
        process=Noise(jitter=0.03, mode_share=0.2, mode=0.1),
        state=Noise(jitter=0.06, mode_share=0.2, mode=0.2),
    ),
}  # fmt: skip
"""Made up, of every kind that is to be withstood; "spread" in the tables says what real machine one resembles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suites:
    """Checks of suites of `rows` rows, by `launches` launches: the first `changed` of them are slower by `effect`."""

    machine: Machine
    effect: float
    rows: int = 12
    changed: int = 3
    launches: int = 12
    seed: int = 0

    @property
    def factors(self) -> NDArray[np.float64]:
        """True time of the new version over that of the old: [rows]."""
        return np.where(np.arange(self.rows) < self.changed, 1 + self.effect, 1.0)

    def log_ratios(self, suite: int) -> NDArray[np.float64]:
        """Log(new / old) of a suite's launches, that of the null control first: [1 + rows, launches].

        A launch measures each row by a process of each version in turn, in random order: so both meet the same course
        of the machine, one shortly after the other, and each has a factor of its own.
        """
        shape = (self.launches, 1 + self.rows, PAIRS, 2)
        course = self._noise(self.machine.course).factors(math.prod(shape) * SAMPLES, 3 * suite)
        values = _first_quartiles(course.reshape(*shape, SAMPLES))
        new = np.random.default_rng([self.seed, suite]).integers(0, 2, shape[:3])[..., None]  # which is the new one
        pairs = np.log(np.take_along_axis(values, new, -1) / np.take_along_axis(values, 1 - new, -1))[..., 0]
        own = np.log(self._noise(self.machine.process, 1).factors(2 * math.prod(shape[:2]), 3 * suite))
        own = own.reshape(*shape[:2], 2)
        found = np.median(pairs, axis=2) + own[..., 1] - own[..., 0] + np.log([1.0, *self.factors])
        return np.asarray(found.T)

    def stored(self, suite: int, *, new: bool) -> Run:
        """The stored run of a suite, of the old version or of the new one."""
        number = 3 * suite + 1 + new
        canaries = len(CANARIES) * CANARY_SAMPLES
        shape = (PROCESSES, ROUNDS, canaries + self.rows * SAMPLES)
        course = self._noise(self.machine.course).factors(math.prod(shape), number).reshape(shape)
        own = self._noise(self.machine.process, 1).factors(PROCESSES * self.rows, number).reshape(-1, 1, self.rows)
        state = self._noise(self.machine.state, 2).factors(self.rows, number)
        true_s = np.geomspace(*TRUE_S, self.rows) * (self.factors if new else 1.0)
        times = course[..., canaries:].reshape(PROCESSES, ROUNDS, self.rows, SAMPLES)
        times = times * (own * state * true_s)[..., None]
        lights = course[..., :canaries].reshape(-1, len(CANARIES), CANARY_SAMPLES).min(-1)
        return Run(
            header=HEADER, rows=tuple(_row(place, times[:, :, place]) for place in range(self.rows)),
            canaries={"cpu": tuple(dict(zip(CANARIES, seconds, strict=True)) for seconds in lights.tolist())},
        )  # fmt: skip

    def _noise(self, noise: Noise, part: int = 0) -> Noise:
        return replace(noise, seed=3 * self.seed + part)


def _first_quartiles(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """As stats.first_quartile, along the last axis."""
    return np.asarray(np.sort(samples, axis=-1)[..., (samples.shape[-1] - 1) // 4])


PROBLEM = Problem(batch=1, in_channels=1, out_channels=1, input_size=(1,), filter_size=(1,))
HEADER: dict[str, Any] = {
    "devices": {}, "method": 0, "options": {}, "convbench_version": "", "suites": [],
    "environment": {"python": "", "os": "", "blas": [], "governor": None, "git_revision": None, "libraries": {},
                    "variables": {}},
}  # fmt: skip


@lru_cache
def _key(place: int) -> RowKey:
    case = Case(suite="model", name=f"c{place}", problem=PROBLEM, conv_pass=ConvPass.FPROP, dtype=Dtype.FP32,
                math_mode=MathMode.FP32, layout=Layout.NCHW, epilogue=Epilogue.NONE)  # fmt: skip
    return RowKey(case=case, backend="model", algorithm="model", device="cpu")


def _row(place: int, times: NDArray[np.float64]) -> Row:
    """A stored row from seconds: [process, round, sample]."""
    rounds = tuple(
        Round(1, Columns(tuple(seconds), tuple(seconds), {}), process)
        for process, of in enumerate(times.tolist())
        for seconds in of
    )
    return Row(key=_key(place), status=Status.OK, rounds=rounds, resolved="model")


def checked(suites: Suites, count: int) -> tuple[Tally, Tally, float]:
    """Checks so many of them, by launches and by stored runs; the third value is the launches' spread."""
    launched, stored, spreads = Tally(), Tally(), []
    changed = [factor > 1 for factor in suites.factors]
    for suite in range(count):
        null, *rows = suites.log_ratios(suite).tolist()
        verdicts = confirm(rows, null, [CPU_RULES.min_effect] * suites.rows)
        launched.add(zip(changed, (verdict for verdict, _ in verdicts), strict=True))
        spreads.append(spread(null))
        compared = compare(suites.stored(suite, new=False), suites.stored(suite, new=True))
        stored.add(zip(changed, (row.verdict for row in compared.rows), strict=True))
    return launched, stored, median(spreads)


def print_tables(count: int, rows: int, launches: int) -> None:
    """All machines and effects, `count` suites each."""
    by_launches, by_runs = [], []
    for seed, (name, effect) in enumerate(product(MACHINES, EFFECTS)):
        suites = Suites(machine=MACHINES[name], effect=effect, rows=rows, launches=launches, seed=seed)
        launched, stored, noise = checked(suites, count)
        by_launches.append([
            name, percent(noise), f"{100 * effect:+g} %", launched.found(Verdict.REGRESSION), launched.alarms(),
            launched.faster(), at_most(launched.suites_alarmed, launched.suites),
            at_most(launched.named(changed=False), launched.named()) if effect else "–",
            f"{launched.suites_undecided} of {count}",
        ])  # fmt: skip
        by_runs.append([
            name, f"{100 * effect:+g} %", stored.found(Verdict.SUSPECT), stored.alarms(Verdict.SUSPECT),
            stored.faster(), f"{stored.undecided} of {count * rows}",
        ])  # fmt: skip
    print_table(
        f"{count} simulated suites each, {rows} rows, 3 of them changed, {launches} launches: by launches",
        ["machine", "spread", "effect", "changed, called slower", "not changed, called slower", "called faster",
         "suites with a false alarm", "false ones among all called slower", "suites inconclusive"],
        by_launches,
    )  # fmt: skip
    print_table(
        "The same suites, by stored runs of three processes",
        ["machine", "effect", "changed, suspected", "not changed, suspected", "called faster", "rows inconclusive"],
        by_runs,
    )
