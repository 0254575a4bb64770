"""How often the interval of a row covers the true time when the stop rule stops, by simulation.

    python benchmarks/coverage.py [--runs 2000] [--confidence 0.95]

The real interleave and RowTimer measure rows on a noisy simulated device, once per process; the interval is taken when
they stop. Prints tables; asserts nothing. `--confidence` tries the stop rule with another interval than its own.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, median
from unittest.mock import patch

import numpy as np

from convbench import timing
from convbench.noise import Noise, measure
from convbench.stats import drifted, median_interval, moved, pooled_interval
from convbench.timing import TimingOptions

TRUE_S = 2e-3


@dataclass(frozen=True)
class Setup:
    """So many samples in a round, rows interleaved, and time for so many rounds where noise is small."""

    samples: int
    rounds: int
    rows: int = 1

    def label(self) -> str:
        """In words."""
        samples = f"{self.samples} sample{'s' * (self.samples > 1)} a round"
        return f"{self.rows} row{'s' * (self.rows > 1)}, {samples}, time for {self.rounds} rounds"


SETUPS = [Setup(1, 7), Setup(1, 40), Setup(5, 40), Setup(5, 40, rows=4)]

STEADY = {
    "jitter 0.5 %": Noise(jitter=0.005),
    "jitter 1 %": Noise(jitter=0.01),
    "jitter 2 %": Noise(jitter=0.02),
    "jitter 5 %": Noise(jitter=0.05),
    "all delayed, 0.8 %": Noise(delay_share=1, delay=0.008),
    "all delayed, 3 %": Noise(delay_share=1, delay=0.03),
    "3 of 10 delayed, 10 %": Noise(jitter=0.003, delay_share=0.3, delay=0.1),
    "3 of 10 slow, 10 %": Noise(jitter=0.003, mode_share=0.3, mode=0.1),
    "45 of 100 slow, 5 %": Noise(jitter=0.003, mode_share=0.45, mode=0.05),
    "45 of 100 slow, 2 %": Noise(jitter=0.003, mode_share=0.45, mode=0.02),
    "wander, memory 0.2": Noise(wander=0.01, memory=0.2),
}
"""Without drift, and nothing that lasts from round to round but the last, within what independence tolerates."""

LASTING = {
    **{f"wander, memory {memory}": Noise(wander=0.01, memory=memory) for memory in (0.1, 0.2, 0.3, 0.5, 0.8, 0.95)},
    **{f"3 of 10 slow, for {stay}": Noise(jitter=0.003, mode_share=0.3, mode=0.1, mode_stay=stay) for stay in (3, 30)},
}
"""Without drift, but what one round suffers the next does too."""

DRIFTING = {
    **{f"jitter 0.5 %, drift {d} %": Noise(jitter=0.005, drift=d / 100) for d in (0.05, 0.125, 0.25, 0.5, 1, 2)},
    **{f"jitter 2 %, drift {d} %": Noise(jitter=0.02, drift=d / 100) for d in (0.5, 1, 2)},
    "delayed 3 %, drift 2 %": Noise(delay_share=1, delay=0.03, drift=0.02),
    "jitter 0.5 %, step 2.5 % @ 3": Noise(jitter=0.005, step=0.025, step_at=4),
    "jitter 0.5 %, step 2.5 % @ 6": Noise(jitter=0.005, step=0.025, step_at=7),
}
"""Drift per round of one sample."""


@dataclass(frozen=True)
class Row:
    """A measured row: its round values, its 95 % interval, why it stopped."""

    values: tuple[float, ...]
    interval: tuple[float, float]
    stop: str

    def covers(self, truth: float) -> bool:
        """Whether the interval does."""
        return self.interval[0] <= truth <= self.interval[1]

    @property
    def half_width(self) -> float:
        """Half the interval, relative."""
        return (self.interval[1] - self.interval[0]) / 2 / median(self.values)


def measured(noise: Noise, setup: Setup, runs: int) -> list[Row]:
    """`runs` rows, each process with noise of its own."""
    options = TimingOptions(max_samples=setup.samples, max_time_s=setup.rounds * setup.samples * TRUE_S)
    return [
        Row(outcome.values, median_interval(outcome.values) or (0.0, 0.0), outcome.stop)
        for process in range(runs // setup.rows)
        for outcome in measure(noise, options, process=process, rows=setup.rows, true_s=TRUE_S)
    ]


@lru_cache(maxsize=4096)
def mixture_median(noise: Noise, setup: Setup, rounds: int) -> float:
    """The true median over the rounds that were measured, each with its own drift."""
    steady = replace(noise, drift=0.0, step=0.0)
    values = np.median(steady.factors(10_000 * setup.samples, 2**33).reshape(-1, setup.samples), axis=1)
    course = Noise(drift=noise.drift, step=noise.step, step_at=noise.step_at)
    middles = 1 + setup.samples * np.arange(rounds) + setup.samples // 2  # one sample finds the launches
    return float(np.median(np.outer(course.factors(middles[-1] + 1)[middles], values)))


def steady_table(kinds: dict[str, Noise], setups: list[Setup], runs: int) -> None:
    """Coverage of noise without drift."""
    for setup in setups:
        print(f"\n{setup.label():45} covered  half-width  rounds   precision max_time stalled   drift flag")
        for label, noise in kinds.items():
            truth = noise.median(setup.samples)
            found = measured(noise, setup, runs)
            stops = Counter(row.stop for row in found)
            print(
                f"{label:45} {share(row.covers(truth) for row in found)}    {fmean(r.half_width for r in found):7.2%} "
                f"{fmean(len(row.values) for row in found):7.1f}   "
                + " ".join(f"{stops[why] / len(found):8.1%}" for why in ("precision", "max_time", "stalled"))
                + f"     {share(drifted(row.values) for row in found)}"
            )


def drift_table(kinds: dict[str, Noise], setups: list[Setup], runs: int) -> None:
    """Coverage with drift: of the time at the start, and of the median over the rounds that were measured."""
    for setup in setups:
        print(f"\n{setup.label():45} rounds   covered: the start, or flagged, the median meanwhile   drift flag")
        for label, noise in kinds.items():
            start = noise.median(setup.samples)
            found = measured(noise, setup, runs)
            flags = [drifted(row.values) for row in found]
            print(
                f"{label:45} {fmean(len(row.values) for row in found):6.1f}            "
                f"{share(row.covers(start) for row in found)}      "
                f"{share(row.covers(start) or flag for row, flag in zip(found, flags, strict=True))}  "
                f"{share(row.covers(mixture_median(noise, setup, len(row.values))) for row in found)}                "
                f"{share(flags)}"
            )


def process_table(runs: int) -> None:
    """Coverage of the median over all processes, from a few of them."""
    print("\nrounds of several processes, jitter 1 %         pooled alone: covered  half-width   enclosing: covered  "
          "half-width")  # fmt: skip
    for processes in (1, 3, 5, 6, 8):
        for bias in (0, 0.005, 0.01, 0.05):
            noise = Noise(jitter=0.01, bias=bias)
            cells = []
            for enclose in (False, True):
                intervals = []
                for run in range(runs):
                    groups = [list(noise.factors(7, run * processes + p)) for p in range(processes)]
                    pooled = [value for group in groups for value in group]
                    intervals.append(pooled_interval(groups if enclose else [pooled]) or (0.0, 0.0))
                cells.append(f"{share(low <= 1 <= high for low, high in intervals)}     "
                             f"{fmean(high - low for low, high in intervals) / 2:7.2%}")  # fmt: skip
            label = f"{processes} process{'es' * (processes > 1)} of 7 rounds, bias {bias:.1%}"
            print(f"{label:45}             {cells[0]}              {cells[1]}")


CANARIES = {
    "jitter 1 %": Noise(jitter=0.01),
    "3 of 10 delayed, 20 %": Noise(jitter=0.005, delay_share=0.3, delay=0.2),
    "half delayed, 30 %": Noise(jitter=0.005, delay_share=0.5, delay=0.3),
    "all delayed, 10 %": Noise(jitter=0.005, delay_share=1, delay=0.1),
    "all delayed, 30 %": Noise(jitter=0.005, delay_share=1, delay=0.3),
}


def canary_table(runs: int) -> None:
    """How often a canary moves, when the machine does not and when it gets 10 % slower halfway."""
    head = "      6       12       40"
    print(f"\ncanary moved                 once a round, rounds:{head}   fastest of 3:{head}")
    for label, noise in CANARIES.items():
        for course, step in (("steady", 0.0), ("step of 10 %", 0.1)):
            cells = []
            for times in (1, 3):
                for rounds in (6, 12, 40):
                    stepping = replace(noise, step=step, step_at=times * (rounds // 2))
                    fastest = (
                        stepping.factors(rounds * times, run).reshape(rounds, times).min(1) for run in range(runs)
                    )
                    cells.append(share(moved(list(seconds)) for seconds in fastest))
            print(f"{label:24} {course:20}   {'   '.join(cells[:3])}               {'   '.join(cells[3:])}")


def share(hits) -> str:
    """The share of true ones, in percent."""
    hits = list(hits)
    return f"{sum(hits) / len(hits):6.1%}"


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--confidence", type=float, help="of the interval that the stop rule looks at")
    options = parser.parse_args()

    def tried(values, *_):
        interval = median_interval(values, options.confidence)
        return interval and max(interval[1] / median(values) - 1, 1 - interval[0] / median(values))

    with patch.object(timing, "half_width", tried if options.confidence else timing.half_width):
        print("Noise without drift")
        steady_table(STEADY, SETUPS, options.runs)
        print("\nNoise that lasts from round to round")
        steady_table(LASTING, SETUPS[:3], options.runs)
        print("\nDrift")
        drift_table(DRIFTING, SETUPS[:2], options.runs)
    process_table(options.runs)
    canary_table(options.runs)


if __name__ == "__main__":
    main()
