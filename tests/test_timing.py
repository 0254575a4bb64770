"""The measuring loop, on simulated time and plain lists: no test here waits or reads a real clock."""

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench import timing
from convbench.backends import Sample
from convbench.testing import FakeClock, FakeDevice
from convbench.timing import (
    OVERHEADS_PER_SAMPLE,
    Canaries,
    DeviceCanaries,
    Measured,
    Round,
    RowTimer,
    TimingOptions,
    half_width,
    interleave,
    launches_per_sample,
    stop_reason,
)

OPTIONS = TimingOptions()


class FakeRun:
    """A run of a fixed simulated duration that counts its calls, and may raise from a call on."""

    def __init__(self, device, seconds=1e-3, error=None, error_at=math.inf, log=None, name=""):
        self.device, self.seconds, self.error, self.error_at, self.log = device, seconds, error, error_at, log
        self.name = name
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.calls >= self.error_at:
            raise self.error
        if self.log is not None:
            self.log.append(self.name)
        self.device.advance(self.seconds)


class ScriptedClock:
    """Runs nothing; hands out samples of a constant time per launch, which is how very short runs are simulated."""

    def __init__(self, seconds, overhead_s=1e-8):
        self.seconds, self.overhead_s = seconds, overhead_s
        self.launched = []

    def sample(self, run, launches):
        self.launched.append(launches)
        run()
        return Sample(self.seconds * launches)

    def watch(self):
        return list


def samples(*walls, flags=()):
    """Samples of these walls; `flags` holds the positions that carry a witness."""
    return tuple(Sample(wall, None, ("switched",) if i in flags else ()) for i, wall in enumerate(walls))


# launches_per_sample


@pytest.mark.parametrize("exponent", range(-9, 2))
@pytest.mark.parametrize("factor", [1.0, 1.3, 3.0, 7.7])
def test_samples_last_long_enough_and_not_much_longer(exponent, factor):
    seconds = factor * 10.0**exponent
    launches = launches_per_sample(lambda: None, ScriptedClock(seconds), OPTIONS)
    assert launches >= 1
    assert launches * seconds >= OPTIONS.min_sample_s * (1 - 1e-9)
    assert launches * seconds <= max(1.1 * OPTIONS.min_sample_s + seconds, seconds)


@given(st.floats(1e-9, 10.0))
def test_any_duration_gives_a_sample_within_the_rule(seconds):
    launches = launches_per_sample(lambda: None, ScriptedClock(seconds), OPTIONS)
    assert OPTIONS.min_sample_s * (1 - 1e-9) <= launches * seconds <= 1.1 * OPTIONS.min_sample_s + seconds


def test_a_slow_clock_makes_samples_longer():
    clock = ScriptedClock(3e-4, overhead_s=1e-6)
    launches = launches_per_sample(lambda: None, clock, OPTIONS)
    assert launches * 3e-4 >= OVERHEADS_PER_SAMPLE * 1e-6
    assert launches == math.ceil(1.1e-2 / 3e-4)


def test_a_long_run_is_launched_once():
    clock = ScriptedClock(10.0)
    assert launches_per_sample(lambda: None, clock, OPTIONS) == 1
    assert clock.launched == [1]


def test_a_time_of_zero_does_not_run_away():
    clock = ScriptedClock(0.0)
    assert launches_per_sample(lambda: None, clock, OPTIONS) == 100**4
    assert clock.launched == [1, 100, 100**2, 100**3]


def test_launches_follow_the_simulated_time_of_a_run():
    device = FakeDevice()
    run = FakeRun(device, 4e-5)
    assert launches_per_sample(run, FakeClock(device), OPTIONS) == math.ceil(1.1e-3 / 4e-5)


# Rounds


def test_the_value_of_a_round_is_the_median_per_launch():
    assert Round(4, samples(0.004, 0.012, 0.008)).value_s == 0.002
    assert Round(1, samples(1.0, 2.0)).value_s == 1.5
    assert Round(1, samples(3.0)).value_s == 3.0


def test_samples_with_a_witness_are_left_out():
    measured = Round(1, samples(1.0, 9.0, 2.0, flags=[1]))
    assert measured.value_s == 1.5
    assert not measured.disturbed
    assert measured.spent_s == 12.0  # but they took their time


def test_where_no_sample_is_clean_all_count_and_the_round_is_disturbed():
    measured = Round(2, samples(1.0, 9.0, 2.0, flags=[0, 1, 2]))
    assert measured.value_s == 1.0
    assert measured.disturbed


def test_a_round_keeps_its_samples_as_they_were():
    given_samples = samples(3.0, 1.0, 2.0, flags=[0])
    measured = Round(1, given_samples)
    _ = measured.value_s, measured.disturbed, measured.spent_s
    assert measured.samples == given_samples
    assert [s.wall_s for s in measured.samples] == [3.0, 1.0, 2.0]


# When a row is finished


def test_half_width_by_hand():
    assert half_width([1.0] * 5) is None
    assert half_width([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(2.5 / 3.5)
    assert half_width([10.0, 10.0, 10.0, 10.0, 10.0, 13.0]) == pytest.approx(0.3)
    assert half_width([10.0, 10.0, 10.0, 10.0, 10.0, 7.0]) == pytest.approx(0.3)
    assert half_width([0.0] * 6) == 0.0


@pytest.mark.parametrize("count", range(7))
def test_below_seven_rounds_precision_never_stops_a_row(count):
    assert stop_reason([1.0] * count, 0.0, OPTIONS) is None
    assert stop_reason([1.0] * count, 5 * OPTIONS.max_time_s, OPTIONS) == "max_time"


@pytest.mark.parametrize(("count", "expected"), [(1, None), (2, None), (3, "max_time")])
def test_one_disturbed_sample_does_not_end_a_row(count, expected):
    assert stop_reason([9.0, 1.0, 1.0][:count], 9.9, OPTIONS) == expected
    assert stop_reason([9.0, 1.0, 1.0][:count], 10.0, OPTIONS) == "max_time"  # enough is enough


def test_seven_equal_rounds_are_precise():
    assert stop_reason([1.0] * 7, 0.0, OPTIONS) == "precision"
    assert stop_reason([1.0] * 7, 100.0, OPTIONS) == "precision"  # precise comes before out of time


@pytest.mark.parametrize(
    ("spread", "expected"), [(0.0099, "precision"), (0.0101, None), (0.5, None)], ids=["narrow", "wide", "wider"]
)
def test_precision_is_the_half_width_of_the_interval(spread, expected):
    assert stop_reason([1.0] * 6 + [1.0 + spread], 0.0, OPTIONS) == expected


def test_precision_is_an_option():
    values = [1.0] * 6 + [1.09]
    assert stop_reason(values, 0.0, TimingOptions(precision=0.1)) == "precision"
    assert stop_reason(values, 0.0, TimingOptions(precision=0.05)) is None


def test_more_rounds_may_be_asked_for():
    options = TimingOptions(min_rounds=8)
    assert stop_reason([1.0] * 7, 0.0, options) is None
    assert stop_reason([1.0] * 8, 0.0, options) == "precision"


def test_spent_time_stops_a_row_exactly_at_its_limit():
    values = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]
    assert stop_reason(values, 1.9999, OPTIONS) is None
    assert stop_reason(values, 2.0, OPTIONS) == "max_time"


def test_a_row_stalls_when_twice_the_rounds_have_not_narrowed_its_interval():
    wide = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 2.0]
    assert stop_reason([*wide, *wide[:6]], 0.0, OPTIONS) is None  # not yet twice as many
    assert stop_reason([*wide, *wide], 0.0, OPTIONS) == "stalled"


def test_a_row_that_narrows_goes_on():
    # Of seven values the 98 % interval is from the 1st to the 7th, of fourteen from the 3rd to the 12th.
    values = [2.0, 1.0, 3.0, 2.02, 1.98, 2.04, 2.0, 1.96, 2.03, 2.0, 2.05, 1.95, 2.0, 2.06]
    before, after = half_width(values[:7], 0.98), half_width(values, 0.98)
    assert after < 0.95 * before
    assert after > OPTIONS.precision
    assert stop_reason(values, 0.0, OPTIONS) is None


def test_statistics_leave_their_input_unchanged():
    values = [3.0, 1.0, 2.0, 9.0, 4.0, 5.0, 8.0, 7.0, 6.0]
    copy = list(values)
    half_width(values)
    stop_reason(values, 0.0, OPTIONS)
    assert values == copy


@given(st.lists(st.floats(1e-9, 1e3), max_size=30), st.floats(0, 10))
def test_a_stop_reason_is_one_of_three_and_says_what_is_true(values, spent):
    reason = stop_reason(values, spent, OPTIONS)
    assert reason in {None, "precision", "max_time", "stalled"}
    if reason == "precision":
        assert len(values) >= 7
        assert half_width(values, 0.98) <= OPTIONS.precision
    if reason == "stalled":
        assert len(values) >= 14
    if reason is None:
        assert spent < OPTIONS.max_time_s * (1 if len(values) >= 3 else 5)


# One row


def timer(seconds=1e-3, options=OPTIONS, flag_every=0, **behaviour):
    device = FakeDevice()
    run = FakeRun(device, seconds, **behaviour)
    return RowTimer(run, FakeClock(device, flag_every), options), run


def test_a_round_has_one_untimed_launch_before_its_samples():
    row, run = timer(1e-2)
    row.round()
    first = run.calls
    measured, _ = row.round()
    assert run.calls - first == 1 + measured.launches * len(measured.samples)
    assert row.clock.samples == 1 + 2 * len(measured.samples)  # the first found the number of launches


def test_the_first_round_is_preceded_by_launches_too():
    log = []
    row, _ = timer(1e-2, log=log, name="run")
    measured, _ = row.round()
    assert len(log) > measured.launches * len(measured.samples)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1e-6, 50), (1e-3, 50), (6e-3, 47), (1e-2, 28), (0.07, 4), (0.25, 1), (0.29, 1), (5.0, 1)],
)
def test_a_round_has_one_to_fifty_samples_within_a_seventh_of_the_time(seconds, expected):
    row, _ = timer(seconds)
    measured, _ = row.round()
    assert len(measured.samples) == expected
    assert len(measured.samples) == 1 or measured.spent_s <= OPTIONS.max_time_s / 7 + 1e-9


@pytest.mark.parametrize("seconds", [0.01, 0.07, 0.11, 0.2, 0.28])
def test_seven_rounds_fit_where_a_launch_lasts_up_to_a_seventh_of_the_time(seconds):
    """So that every such row has an interval."""
    row, _ = timer(seconds)
    assert [row.round()[1] for _ in range(7)] == [None] * 6 + ["precision"]


def test_launches_are_found_once():
    row, _ = timer(1e-4)
    first, _ = row.round()
    second, _ = row.round()
    assert first.launches == second.launches == row.launches == 11


def test_a_row_sums_up_the_seconds_of_its_samples():
    row, _ = timer(0.1)
    for _ in range(3):
        row.round()
    assert row.spent_s == pytest.approx(3 * 2 * 0.1)
    assert row.values == [pytest.approx(0.1)] * 3


def test_a_steady_row_stops_after_seven_rounds():
    row, _ = timer(1e-3)
    stops = [row.round()[1] for _ in range(7)]
    assert stops == [None] * 6 + ["precision"]


def test_a_slow_row_stops_when_its_time_is_spent():
    row, run = timer(1.1)
    assert [row.round()[1] for _ in range(3)] == [None, None, "max_time"]
    assert run.calls == 1 + 3  # a launch this long needs no untimed one before it but the first


def test_a_very_slow_row_stops_after_a_round():
    row, _ = timer(11.0)
    assert row.round()[1] == "max_time"


@pytest.mark.parametrize(
    "read",
    [None, [1.0], "hot", np.zeros(3), {"power_w": math.nan}, {"power_w": 1e308}, {"power_w": "x"}, {3: 1.0}, {"": 1.0},
     {"a\n": 1.0}, {"x" * 41: 1.0}],
    ids=repr,
)  # fmt: skip
def test_meters_that_read_no_numbers_end_the_row(read):
    row, _ = timer(1e-4)
    row.clock.meters = lambda: read
    with pytest.raises(ValueError, match=r"(?s)meters gave .*, not numbers by name"):
        row.round()


def test_what_meters_read_is_kept():
    row, _ = timer(1e-4)
    row.clock.meters = lambda: {"power_w": np.float32(2.5), "temperature_c": 40}
    assert row.round()[0].meters == {"power_w": 2.5, "temperature_c": 40.0}


def test_a_clock_that_stands_still_is_not_asked_for_ever_longer_samples(monkeypatch):
    now = [0.0]

    class Still(FakeClock):
        def sample(self, run, launches):
            now[0] += 1.5
            return Sample(0.0)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    assert launches_per_sample(lambda: None, Still(FakeDevice()), OPTIONS) == 100
    assert now == [3.0]


class WatchfulClock(FakeClock):
    def watch(self):
        return lambda samples: [replace(s, flags=(*s.flags, "stolen")) for s in samples]


def test_what_was_seen_over_a_round_flags_all_its_samples():
    device = FakeDevice()
    row = RowTimer(FakeRun(device, 0.09), WatchfulClock(device, flag_every=2), OPTIONS)
    measured, _ = row.round()
    assert [sample.flags for sample in measured.samples] == [
        ("switched", "stolen"), ("stolen",), ("switched", "stolen")
    ]  # fmt: skip
    assert measured.disturbed


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_a_clock_that_gives_no_time_fails_the_row(seconds):
    row = RowTimer(lambda: None, ScriptedClock(seconds), OPTIONS)
    with pytest.raises(ValueError, match="the clock gave"):
        row.round()


# Cold


def cold_timer(seconds, sets, options=OPTIONS):
    device = FakeDevice()
    log = []
    run, *others = (FakeRun(device, seconds, log=log, name=f"set {i}") for i in range(sets))
    row = RowTimer(run, FakeClock(device), options, sweep=lambda: log.append("sweep"), others=others)
    return row, log


def test_a_cold_sample_sweeps_the_caches_and_runs_each_set_once():
    row, log = cold_timer(5e-4, 3, TimingOptions(max_samples=2))
    measured, _ = row.round()
    assert log == ["sweep", "set 0", "set 1", "set 2"] * 2  # no untimed launch: it would warm a set up
    assert measured.launches == 3
    assert [sample.wall_s for sample in measured.samples] == pytest.approx([1.5e-3] * 2)
    assert measured.value_s == pytest.approx(5e-4)


def test_a_short_cold_sample_says_so_and_counts_all_the_same():
    row, _ = cold_timer(1e-4, 2)
    measured, _ = row.round()
    assert {sample.flags for sample in measured.samples} == {("below_timer_floor",)}
    assert not measured.disturbed
    assert measured.value_s == pytest.approx(1e-4)


def test_a_long_enough_cold_sample_does_not():
    measured, _ = cold_timer(1e-3, 2)[0].round()
    assert not any(sample.flags for sample in measured.samples)


def test_flags_of_the_clock_reach_the_round():
    row, _ = timer(0.09, flag_every=2)
    measured, _ = row.round()
    assert [bool(sample.flags) for sample in measured.samples] == [True, False, True]


# All rows


def of_device(kernels, clock):
    return [DeviceCanaries("fake", kernels, clock)]


def rotation(seconds, seed=0, canaries=True, errors=None, options=OPTIONS):
    """Timers of rows with these simulated times, and all events of their rotation."""
    device = FakeDevice()
    errors = errors or {}
    timers = {
        row: RowTimer(FakeRun(device, s, *errors.get(row, ())), FakeClock(device), options)
        for row, s in enumerate(seconds)
    }
    kernels = {"compute": FakeRun(device, 2e-3), "memory": FakeRun(device, 3e-3)} if canaries else {}
    return timers, kernels, interleave(timers, of_device(kernels, FakeClock(device)) if canaries else [], seed)


def by_round(events):
    rounds = {}
    for event in events:
        if isinstance(event, Measured):
            rounds.setdefault(event.index, []).append(event)
    return rounds


def test_every_active_row_is_measured_once_a_round():
    _, _, events = rotation([1e-3, 1.1, 1e-2])
    rounds = by_round(events)
    assert [sorted(e.row for e in rounds[index]) for index in range(7)] == [[0, 1, 2]] * 3 + [[0, 2]] * 4
    assert len(rounds) == 7


def test_a_row_leaves_with_its_stop_reason():
    _, _, events = rotation([1e-3, 1.1])
    last = {}
    for event in (e for e in events if isinstance(e, Measured)):
        assert last.get(event.row) is None
        last[event.row] = event.stop
    assert last == {0: "precision", 1: "max_time"}


def test_the_order_is_shuffled_and_follows_from_the_seed():
    def orders(seed):
        return [[e.row for e in found] for found in by_round(rotation([1e-3] * 6, seed)[2]).values()]

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
    assert len({tuple(order) for order in orders(1)}) > 1  # not the same in every round


def test_canaries_are_timed_at_the_start_of_each_round():
    _, kernels, events = rotation([1e-3, 1e-3])
    found = list(events)
    canaries = [e for e in found if isinstance(e, Canaries)]
    assert [c.index for c in canaries] == list(range(7))
    assert all(c.seconds == {"compute": pytest.approx(2e-3), "memory": pytest.approx(3e-3)} for c in canaries)
    assert [kernel.calls for kernel in kernels.values()] == [28, 28]  # an untimed launch before three samples
    positions = [i for i, e in enumerate(found) if isinstance(e, Canaries)]
    assert [found[i + 1].index for i in positions] == list(range(7))


def test_the_fastest_sample_of_a_canary_is_kept():
    device = FakeDevice()
    seconds = itertools.cycle([1.0, 3e-3, 2e-3, 5e-3])
    kernels = {"compute": lambda: device.advance(next(seconds))}
    timers = {0: RowTimer(FakeRun(device), FakeClock(device), OPTIONS)}
    canaries = [e for e in interleave(timers, of_device(kernels, FakeClock(device)), 0) if isinstance(e, Canaries)]
    assert [c.seconds for c in canaries] == [{"compute": pytest.approx(2e-3)}] * 7


@pytest.mark.parametrize(("broken", "seconds"), [(lambda: 1 / 0, 1.0), (lambda: None, math.nan)])
def test_a_canary_that_breaks_is_left_out(broken, seconds):
    device = FakeDevice()
    clock = ScriptedClock(seconds)
    timers = {0: RowTimer(FakeRun(device), FakeClock(device), OPTIONS)}
    events = list(interleave(timers, of_device({"compute": broken}, clock), 0))
    assert [e.seconds for e in events if isinstance(e, Canaries)] == [{}] * 7
    assert events[-1].stop == "precision"


def test_each_device_has_canaries_by_its_own_clock():
    one, two = FakeDevice(index=0), FakeDevice(index=1)
    canaries = [
        DeviceCanaries(device.name, {"compute": functools.partial(device.advance, seconds)}, FakeClock(device))
        for device, seconds in ((one, 2e-3), (two, 3e-3))
    ]
    timers = {0: RowTimer(FakeRun(one), FakeClock(one), OPTIONS)}
    found = [event for event in interleave(timers, canaries, 0) if isinstance(event, Canaries)]
    assert [(event.index, event.device) for event in found] == [(i, f"fake:{d}") for i in range(7) for d in range(2)]
    assert [event.seconds["compute"] for event in found] == pytest.approx([2e-3, 3e-3] * 7)


def test_without_canaries_there_are_rounds_only():
    assert all(isinstance(e, Measured) for e in rotation([1e-3], canaries=False)[2])


def test_without_rows_nothing_happens():
    assert list(rotation([])[2]) == []


@pytest.mark.parametrize(
    "error", [RuntimeError("broke"), MemoryError(), KeyError("x"), AssertionError(), SystemExit(0)], ids=repr
)
def test_a_row_that_raises_leaves_and_the_others_go_on(error):
    _, _, events = rotation([1e-3, 1e-3, 1e-3], errors={1: (error, 200)})
    found = [e for e in events if isinstance(e, Measured)]
    broken = [e for e in found if e.row == 1]
    assert broken[-1].error is error
    assert broken[-1].round is None
    assert broken[-1].stop is None
    assert all(e.error is None for e in broken[:-1])
    assert 1 < len(broken) < 6
    assert {e.row: e.stop for e in found if e.row != 1} == {0: "precision", 2: "precision"}


@pytest.mark.parametrize("error", [KeyboardInterrupt()], ids=repr)
def test_an_interrupt_passes_through_after_what_was_measured(error):
    _, _, events = rotation([1e-3, 1e-3], errors={0: (error, 300)})
    found = []
    with pytest.raises(type(error)):
        collect(events, found)
    assert sum(isinstance(e, Measured) and e.round is not None for e in found) >= 4


def collect(events, into):
    """Unlike list.extend, keeps what came before an error."""
    for event in events:
        into.append(event)


def test_rows_keep_their_own_indices():
    device = FakeDevice()
    timers = {7: RowTimer(FakeRun(device), FakeClock(device), OPTIONS)}
    assert {e.row for e in interleave(timers, (), 0)} == {7}
    assert list(timers) == [7]  # the caller's mapping is left as it was
