"""Time of prepared plans: rounds of samples, interleaved over all rows, until each row is precise enough.

The rules and the measurements they rest on stand in docs/method.md, "Time".
"""

from __future__ import annotations

import gc
import math
import random
import time
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

from convbench.backends import BELOW_TIMER_FLOOR, REMARKS, Sample
from convbench.stats import median, median_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from convbench.backends import Clock, Plan


LONGEST_NAME, LARGEST_READING = 40, 1e100
"""Of a meter: characters, and what it reads at most."""
SEARCH_S = 2.0
"""Seconds by this process's own clock after which no longer sample is tried: a device's clock may stand still."""
FULL_ROUNDS = 7
"""Rounds that fit into a row's time, as long as one launch does not take more than its share of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingOptions:
    """When a row has been measured enough.

    Attributes:
        precision: relative half-width of the median's 98 % interval at which a row stops.
        max_time_s: seconds of samples after which a row stops.
        min_rounds: rounds before precision counts; seven are what a 98 % interval needs.
        max_samples: samples of a row in one round.
        min_sample_s: shortest sample, in seconds; launches are batched to reach it.
    """

    precision: float = 0.01
    max_time_s: float = 2.0
    min_rounds: int = FULL_ROUNDS
    max_samples: int = 50
    min_sample_s: float = 1e-3


STOP_CONFIDENCE = 0.98
"""Of the interval that the stop rule looks at; the one that is reported has 95 %. benchmarks/coverage.py shows why."""
STALL_IMPROVEMENT = 0.05
LEAST_ROUNDS = 3
"""Rounds that a row gets even where its time is spent: a median of three survives one disturbed sample."""
PATIENCE = 5
"""Multiples of `max_time_s` after which a row stops in any case."""
CANARY_SAMPLES = 3
"""Samples of a canary a round, of which the fastest is kept: a delay should not look like a change of the machine."""
OVERHEADS_PER_SAMPLE = 1e4
"""A sample lasts at least so many times the cost of reading the clock."""


class Columns(NamedTuple):
    """Samples by column, since a long run has millions: `flags` are those of samples that have some, by index."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float | None, ...]
    flags: Mapping[int, tuple[str, ...]]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Columns:
        """The columns of these samples."""
        flags = {i: s.flags for i, s in enumerate(samples) if s.flags}
        return cls(tuple(s.wall_s for s in samples), tuple(s.cpu_s for s in samples), flags)


@dataclass(frozen=True, slots=True)
class Round:
    """The samples of one row in one round, `launches` runs in each, by the worker process of number `process`.

    It takes samples one by one as well. `meters` are what the clock's meters read over the round, by name and unit.
    """

    launches: int
    columns: Columns
    process: int = 0
    meters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.columns, Columns):
            object.__setattr__(self, "columns", Columns.of(self.columns))

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples one by one."""
        wall, cpu, flags = self.columns
        return tuple(map(Sample, wall, cpu, [flags.get(i, ()) for i in range(len(wall))]))

    @property
    def flagged(self) -> set[int]:
        """Indices of the samples that a witness speaks against."""
        return {i for i, flags in self.columns.flags.items() if not REMARKS.issuperset(flags)}

    @property
    def disturbed(self) -> bool:
        """Whether a witness speaks against every sample, so that its value rests on flagged ones."""
        return len(self.flagged) == len(self.columns.wall_s)

    @property
    def value_s(self) -> float:
        """Seconds per launch: the median of the clean samples, or of all where none is clean."""
        wall, flagged = self.columns.wall_s, self.flagged
        return median([seconds for i, seconds in enumerate(wall) if i not in flagged] or wall) / self.launches

    @property
    def spent_s(self) -> float:
        """Seconds of all samples together."""
        return sum(self.columns.wall_s)


def half_width(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Relative half-width of the median's interval; None where there are too few values for one."""
    interval = median_interval(values, confidence)
    if interval is None:
        return None
    middle = median(values)
    return max(interval[1] - middle, middle - interval[0]) / middle if middle else 0.0


def stop_reason(values: Sequence[float], spent_s: float, options: TimingOptions) -> str | None:
    """Why a row with these round values, after `spent_s` seconds of samples, is finished; None if it is not.

    "precision": the interval is narrow enough; "max_time": the time is spent, and three rounds are measured, or five
    times that time is spent; "stalled": twice as many rounds narrowed the interval by less than 5 %. The interval is
    that of 98 %: a rule that looks after every round meets narrow intervals by luck, and these cover less often.
    """
    width = half_width(values, STOP_CONFIDENCE) if len(values) >= options.min_rounds else None
    if width is not None and width <= options.precision:
        return "precision"
    if spent_s >= options.max_time_s * (1 if len(values) >= LEAST_ROUNDS else PATIENCE):
        return "max_time"
    before = half_width(values[: len(values) // 2], STOP_CONFIDENCE)
    if width is not None and before is not None and width > (1 - STALL_IMPROVEMENT) * before:
        return "stalled"
    return None


def shortest_sample_s(clock: Clock, options: TimingOptions) -> float:
    """Seconds that a sample should last at least."""
    return max(options.min_sample_s, OVERHEADS_PER_SAMPLE * clock.overhead_s)


def launches_per_sample(run: Callable[[], object], clock: Clock, options: TimingOptions) -> int:
    """Launches that make a sample last long enough, found by timing a few."""
    shortest, started = shortest_sample_s(clock, options), time.perf_counter()
    launches = 1
    for _ in range(4):
        sample = clock.sample(run, launches)
        seconds = sample.wall_s
        if sample.flags and seconds < 100 * shortest:  # a disturbance may have made up most of it
            seconds = min(seconds, clock.sample(run, launches).wall_s)
        if seconds >= shortest or time.perf_counter() - started > SEARCH_S:
            break
        # A tenth more, since what is faster next time would fall short again; at most 100 times as many at once,
        # since a very short time is not to be trusted.
        launches = math.ceil(launches * min(100.0, 1.1 * shortest / max(seconds, 1e-9)))
    return launches


@dataclass(slots=True, eq=False)
class _InTurn:
    """Calls one after another of `runs`: the same callable for each cold sample, which a clock captures once.

    The clock keeps it, so it knows nothing of the timer: the plans are freed as soon as their row is finished.
    """

    runs: tuple[Callable[[], object], ...]
    place: int = 0

    def __call__(self) -> None:
        run, self.place = self.runs[self.place], (self.place + 1) % len(self.runs)
        run()


@dataclass(slots=True)
class RowTimer:
    """One row in the rotation: what it runs, and the rounds measured so far.

    Cold, a sample is one launch of `run` and of each of `others`, the same on operands of their own, after `sweep` has
    emptied the caches: so none finds its operands there. Warm, there is neither.
    """

    run: Callable[[], object]
    clock: Clock
    options: TimingOptions
    sweep: Callable[[], None] | None = None
    others: Sequence[Callable[[], object]] = ()
    process: int = 0
    launches: int = 0
    values: list[float] = field(default_factory=list)
    spent_s: float = 0.0
    """Seconds of all samples."""
    warmup_s: float = 0.0
    """Seconds outside samples: an untimed launch a round, those that found `launches`, sweeps of the caches."""
    _in_turn: _InTurn = field(init=False)

    def __post_init__(self) -> None:
        self._in_turn = _InTurn((self.run, *self.others))

    def round(self) -> tuple[Round, str | None]:
        """Measures one round; the second value says why the row is finished, None if it is not."""
        gc.disable()  # a collection takes longer than many a sample; between rounds it may
        try:
            samples = self._samples()
        finally:
            gc.enable()
        if not all(math.isfinite(sample.wall_s) and sample.wall_s >= 0 for sample in samples):
            raise ValueError(f"the clock gave {[sample.wall_s for sample in samples]} seconds")
        measured = Round(self.launches, Columns.of(samples), self.process, _meters(self.clock))
        self.values.append(measured.value_s)
        self.spent_s += measured.spent_s
        return measured, stop_reason(self.values, self.spent_s, self.options)

    def _samples(self) -> list[Sample]:
        self._warm_up()
        take = self._warm_sample if self.sweep is None else self._cold_sample
        samples: list[Sample] = []
        taken = 0.0
        watched = self.clock.watch()
        # Another sample only if it fits, so that all rounds do.
        while not samples or (
            len(samples) < self.options.max_samples
            and taken * (len(samples) + 1) / len(samples) <= self.options.max_time_s / FULL_ROUNDS
        ):
            started = time.perf_counter()
            samples.append(take())
            outside = max(0.0, time.perf_counter() - started - samples[-1].wall_s) if self.sweep else 0.0
            self.warmup_s += outside
            taken += samples[-1].wall_s + outside
        return watched(samples)

    def _warm_up(self) -> None:
        started = time.perf_counter()
        if self.sweep is not None:
            self.launches = 1 + len(self.others)
        elif not self.launches:
            self.launches = launches_per_sample(self.run, self.clock, self.options)
        elif not self.values or self.values[-1] <= self.options.max_time_s / FULL_ROUNDS:
            self.run()  # untimed: other rows have been in the caches meanwhile; a long launch does not notice
        self.warmup_s += time.perf_counter() - started

    def _warm_sample(self) -> Sample:
        return self.clock.sample(self.run, self.launches)

    def _cold_sample(self) -> Sample:
        assert self.sweep is not None
        self.sweep()
        sample = self.clock.sample(self._in_turn, self.launches)
        if sample.wall_s < shortest_sample_s(self.clock, self.options):
            return replace(sample, flags=(*sample.flags, BELOW_TIMER_FLOOR))
        return sample


PHASE_RUNS = 5
"""Runs whose phases are timed, a row and process."""


def phase_times(plan: Plan, clock: Clock) -> list[list[float]] | str:
    """Seconds of each phase of a plan that has `run_phases`, run by run; in words, where they cannot be."""
    run_phases: Callable[[Clock], Sequence[float]] = plan.run_phases  # type: ignore[attr-defined]
    runs = [[float(seconds) for seconds in run_phases(clock)] for _ in range(PHASE_RUNS)]
    if counts := {len(run) for run in runs} - {len(plan.work.phases)}:
        return f"run_phases gave {counts.pop()} times, work has {len(plan.work.phases)} phases"
    if not all(math.isfinite(seconds) and seconds >= 0 for run in runs for seconds in run):
        return f"run_phases gave {runs[0]} seconds"
    return runs


def _meters(clock: Clock) -> dict[str, float]:
    """What a clock's meters read.

    Raises:
        ValueError: that is something else than numbers by name.
    """
    read: object = getattr(clock, "meters", dict)()
    if not isinstance(read, dict) or not all(map(_is_reading, read.items())):
        raise ValueError(f"meters gave {read!r:.200}, not numbers by name")
    return {name: float(value) for name, value in read.items()}


def _is_reading(item: tuple[object, object]) -> bool:
    name, value = item
    named = isinstance(name, str) and name.isprintable() and 0 < len(name) <= LONGEST_NAME
    return named and isinstance(value, Real) and abs(float(value)) <= LARGEST_READING  # which NaN is not


@dataclass(frozen=True, slots=True)
class Measured:
    """One row's round, `row` being its index; a row with a `stop` reason or an `error` has left the rotation."""

    row: int
    index: int
    round: Round | None
    stop: str | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class DeviceCanaries:
    """The canaries of a device by name, and the clock that times them."""

    device: str
    runs: Mapping[str, Callable[[], object]]
    clock: Clock


@dataclass(frozen=True, slots=True)
class Canaries:
    """Fastest seconds of each canary of a device at the start of round `index`; all that was spent on them."""

    index: int
    device: str
    seconds: dict[str, float]
    spent_s: float


def _canary(run: Callable[[], object], clock: Clock) -> float | None:
    """Fastest seconds of a canary; None where it breaks: it is a warning light, and must not end a run."""
    try:
        run()
        seconds = min(clock.sample(run, 1).wall_s for _ in range(CANARY_SAMPLES))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  a device may raise anything
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def interleave(
    timers: Mapping[int, RowTimer], canaries: Sequence[DeviceCanaries], seed: int
) -> Iterator[Measured | Canaries]:
    """Rounds over all rows, in a seeded shuffled order each, until every row is finished; canaries before each."""
    rng = random.Random(seed)
    active = dict(timers)
    index = 0
    while active:
        for of in canaries:
            started = time.perf_counter()
            seconds = {name: found for name, run in of.runs.items() if (found := _canary(run, of.clock)) is not None}
            yield Canaries(index, of.device, seconds, time.perf_counter() - started)
        order = list(active)
        rng.shuffle(order)
        for row in order:
            try:
                measured, stop = active[row].round()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  a backend may raise anything; the other rows go on
                del active[row]
                yield Measured(row, index, None, error=error)
                continue
            if stop:
                del active[row]
            yield Measured(row, index, measured, stop)
        index += 1
