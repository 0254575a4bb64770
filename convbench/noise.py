"""Seeded noise in simulated time: for tests of everything that decides from measured times.

A device that reads a FakeDevice's time, distorted as real machines distort theirs: delays, a second clock state, a slow
wander, a bias of each process, a drift. `Noise` says how much of each; timing runs on it unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from convbench.backends import Sample
from convbench.errors import InputError
from convbench.testing import FakeClock, FakeDevice
from convbench.timing import Measured, RowTimer, TimingOptions, interleave

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


ELSEWHERE = 2**32
"""First number of the processes that stand for the population: none that a test would use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What multiplies the true time of each sample: the product of its parts, each of which is off by default.

    Attributes:
        seed: of all draws.
        jitter: standard deviation of the logarithm, drawn for each sample.
        delay_share: share of samples that are delayed; delay the mean of their exponential slow-down, relative.
        mode_share: share of samples in a second state of the machine, mode its slow-down, relative;
            mode_stay the mean number of samples until the state is drawn anew.
        wander: standard deviation of the logarithm of an AR(1) process; memory its correlation from sample to sample.
        bias: standard deviation of the logarithm, drawn for each process.
        drift: slow-down per sample, relative, added up.
        step: slow-down, relative, from sample step_at on.
    """

    seed: int = 0
    jitter: float = 0.0
    delay_share: float = 0.0
    delay: float = 0.0
    mode_share: float = 0.0
    mode: float = 0.0
    mode_stay: float = 1.0
    wander: float = 0.0
    memory: float = 0.0
    bias: float = 0.0
    drift: float = 0.0
    step: float = 0.0
    step_at: int = 0

    def __post_init__(self) -> None:
        """Refuses values outside their ranges."""
        ranges = {"delay_share": (0, 1), "mode_share": (0, 1), "memory": (0, 1), "mode_stay": (1, np.inf),
                  "drift": (-np.inf, np.inf), "step": (-1, np.inf)}  # fmt: skip
        for field in fields(self):
            low, high = ranges.get(field.name, (0, np.inf))
            value = getattr(self, field.name)
            if not low <= value <= high:
                raise InputError(f"noise: {field.name} is {value}, allowed are {low} to {high}")

    def factors(self, samples: int, process: int = 0) -> NDArray[np.float64]:
        """Factors of the first samples of a process: [samples]. More samples leave the first ones as they are."""
        uniform = np.random.default_rng([self.seed, process, 0]).random((samples, 4))
        normal = np.random.default_rng([self.seed, process, 1]).standard_normal((samples + 1, 2))
        index = np.arange(samples)
        logarithm = self.bias * normal[0, 0] + self.jitter * normal[1:, 0] + self.wander * self._ar1(normal[1:, 1])
        delayed = (uniform[:, 0] < self.delay_share) * self.delay * -np.log1p(-uniform[:, 1])
        drawn = np.maximum.accumulate(np.where(uniform[:, 2] * self.mode_stay < 1, index, 0))
        slow = (uniform[drawn, 3] < self.mode_share) * self.mode
        drifted = self.drift * index + self.step * (index >= self.step_at)
        return np.asarray(np.exp(logarithm) * (1 + delayed) * (1 + slow) * (1 + drifted))

    def median(self, samples: int = 1, count: int = 400_000) -> float:
        """The factor that a row's interval should cover: the median over medians of `samples` consecutive samples.

        By simulation of `count` samples, without drift, step and bias: what they add has no distribution of its own.
        """
        lasting = replace(self, drift=0.0, step=0.0, bias=0.0)
        rounds = count // 20 // samples
        values = [lasting.factors(rounds * samples, ELSEWHERE + p).reshape(rounds, samples) for p in range(20)]
        return float(np.median(np.median(values, axis=2)))

    def _ar1(self, normal: NDArray[np.float64]) -> NDArray[np.float64]:
        """A stationary AR(1) process of variance 1 from independent normal values, of which the first is its own."""
        if not self.memory:
            return normal
        from scipy.signal import lfilter

        driven = np.sqrt(1 - self.memory**2) * normal
        driven[:1] = normal[:1]
        return np.asarray(lfilter([1.0], [1.0, -self.memory], driven))


class NoisyDevice(FakeDevice):
    """A simulated device, seen from process number `process`: all its clocks share one course of noise."""

    def __init__(self, noise: Noise, process: int = 0) -> None:
        super().__init__()
        self.noise, self.process = noise, process
        self._factors = noise.factors(64, process)
        self._used = 0

    def clock(self, threads: int) -> NoisyClock:
        """A clock whose samples are noisy."""
        return NoisyClock(self)

    def next_factor(self) -> float:
        """The factor of the next sample."""
        if self._used == len(self._factors):
            self._factors = self.noise.factors(4 * self._used, self.process)
        self._used += 1
        return float(self._factors[self._used - 1])


class NoisyClock(FakeClock):
    """Multiplies each sample of a FakeClock by the next factor of its device's noise."""

    device: NoisyDevice

    def sample(self, run: Callable[[], object], launches: int) -> Sample:
        """Runs, and says how far the simulated time moved, noise included."""
        true = super().sample(run, launches)
        wall = true.wall_s * self.device.next_factor()
        self.device.advance(wall - true.wall_s)
        return Sample(wall, wall, true.flags)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row's round values, over the true time, and why it stopped."""

    values: tuple[float, ...]
    stop: str


def measure(
    noise: Noise, options: TimingOptions, *, process: int = 0, rows: int = 1, true_s: float = 2e-3
) -> list[Outcome]:
    """Rows that take `true_s` a launch, interleaved on a noisy device until the stop rule stops them."""
    device = NoisyDevice(noise, process)
    clock = device.clock(1)
    timers = {row: RowTimer(lambda: device.advance(true_s), clock, options) for row in range(rows)}
    found = {}
    for event in interleave(timers, (), process):
        if isinstance(event, Measured) and event.error:
            raise event.error
        if isinstance(event, Measured) and event.stop:
            found[event.row] = Outcome(tuple(value / true_s for value in timers[event.row].values), event.stop)
    return [found[row] for row in range(rows)]
