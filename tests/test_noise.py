"""Noise is what it says it is, and the rules that decide from noisy times hold on it."""

import itertools
import math
from statistics import median
from unittest.mock import patch

import numpy as np
import pytest

from convbench import timing
from convbench.errors import InputError
from convbench.noise import Noise, NoisyDevice, measure
from convbench.stats import drifted, median_interval, moved, pooled_interval
from convbench.testing import FakeBackend
from convbench.timing import TimingOptions

MANY = 200_000


def test_no_noise_leaves_the_time_alone():
    assert (Noise().factors(100) == 1).all()


ALL = Noise(seed=3, jitter=0.01, delay_share=0.3, delay=0.2, mode_share=0.4, mode=0.1, mode_stay=5, wander=0.02,
            memory=0.7, bias=0.05, drift=1e-4, step=0.03, step_at=20)  # fmt: skip


def test_noise_is_seeded_and_each_process_has_its_own():
    factors = ALL.factors(50, process=4)
    assert (ALL.factors(50, process=4) == factors).all()
    assert (ALL.factors(50, process=5) != factors).all()
    assert (Noise(seed=1, jitter=0.01).factors(50) != Noise(seed=2, jitter=0.01).factors(50)).all()


@pytest.mark.parametrize("samples", [0, 1, 2, 63])
def test_more_samples_leave_the_first_ones_as_they_are(samples):
    assert (ALL.factors(64)[:samples] == ALL.factors(samples)).all()


def test_jitter_is_log_normal_and_independent():
    logarithm = np.log(Noise(jitter=0.02).factors(MANY))
    assert logarithm.mean() == pytest.approx(0, abs=2e-4)
    assert logarithm.std() == pytest.approx(0.02, rel=0.01)
    assert np.corrcoef(logarithm[1:], logarithm[:-1])[0, 1] == pytest.approx(0, abs=0.01)


def test_delays_hit_their_share_and_never_shorten():
    factors = Noise(delay_share=0.3, delay=0.2).factors(MANY)
    assert factors.min() == 1
    assert (factors > 1).mean() == pytest.approx(0.3, abs=0.005)
    assert factors[factors > 1].mean() == pytest.approx(1.2, abs=0.005)


@pytest.mark.parametrize("stay", [1, 8])
def test_a_second_state_has_its_share_and_lasts(stay):
    factors = Noise(mode_share=0.3, mode=0.1, mode_stay=stay).factors(MANY)
    assert set(factors) == {1, 1.1}
    slow = factors > 1
    assert slow.mean() == pytest.approx(0.3, abs=0.01)
    # drawn anew with probability 1/stay, it stays the same otherwise
    assert np.corrcoef(slow[1:], slow[:-1])[0, 1] == pytest.approx(1 - 1 / stay, abs=0.02)


@pytest.mark.parametrize("memory", [0, 0.5, 0.9])
def test_a_wander_remembers_and_is_as_wide_at_the_start(memory):
    noise = Noise(wander=0.02, memory=memory)
    logarithm = np.log(noise.factors(MANY))
    assert np.corrcoef(logarithm[1:], logarithm[:-1])[0, 1] == pytest.approx(memory, abs=0.01)
    assert logarithm.std() == pytest.approx(0.02, rel=0.03)
    first = np.log([noise.factors(1, process)[0] for process in range(2000)])
    assert first.std() == pytest.approx(0.02, rel=0.05)


def test_a_bias_is_the_same_for_all_of_a_process():
    biased, plain = Noise(jitter=0.01, bias=0.1), Noise(jitter=0.01)
    ratios = [biased.factors(20, process) / plain.factors(20, process) for process in range(1000)]
    assert all(np.ptp(ratio) < 1e-12 for ratio in ratios)
    assert np.log([ratio[0] for ratio in ratios]).std() == pytest.approx(0.1, rel=0.05)


def test_drift_adds_up_and_a_step_stays():
    assert Noise(drift=0.01).factors(4) == pytest.approx([1, 1.01, 1.02, 1.03])
    assert Noise(step=0.1, step_at=2).factors(4) == pytest.approx([1, 1, 1.1, 1.1])


def test_parts_multiply():
    together = Noise(jitter=0.01, mode_share=0.5, mode=0.2).factors(50)
    apart = Noise(jitter=0.01).factors(50) * Noise(mode_share=0.5, mode=0.2).factors(50)
    assert together == pytest.approx(apart)


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (Noise(jitter=0.02), 1),
        (Noise(delay_share=1, delay=0.1), 1 + 0.1 * math.log(2)),
        (Noise(mode_share=0.3, mode=0.1), 1),
        (Noise(mode_share=0.7, mode=0.1), 1.1),
        (Noise(jitter=0.001, bias=0.5, drift=1e-3, step=2, step_at=5), 1),
    ],
)
def test_the_median_that_an_interval_should_cover(noise, expected):
    assert noise.median() == pytest.approx(expected, abs=3e-4)


def test_the_median_of_rounds_is_not_that_of_samples():
    # the median of three exponential delays has the distribution function p²(3 − 2p), ½ at p = ½; of two, their mean
    noise = Noise(delay_share=1, delay=0.1)
    assert noise.median(3) == pytest.approx(noise.median(), abs=1e-3)
    assert noise.median(2) == pytest.approx(1.0839, abs=1e-3)  # half of the median of a gamma(2): 1.6783 / 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"delay_share": 1.5}, "noise: delay_share is 1.5, allowed are 0 to 1"),
        ({"jitter": -0.1}, "noise: jitter is -0.1, allowed are 0 to inf"),
        ({"memory": 1.1}, "noise: memory is 1.1, allowed are 0 to 1"),
        ({"mode_stay": 0.5}, "noise: mode_stay is 0.5, allowed are 1 to inf"),
        ({"step": math.nan}, "noise: step is nan, allowed are -1 to inf"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(InputError) as error:
        Noise(**fields)
    assert str(error.value) == message


def test_a_noisy_device_multiplies_sample_by_sample():
    device = NoisyDevice(ALL, process=2)
    clocks = [device.clock(1), device.clock(1)]  # of one machine: they share its course
    walls = [clocks[i % 2].sample(lambda: device.advance(0.5), 2).wall_s for i in range(200)]
    assert walls == pytest.approx(ALL.factors(200, process=2))
    assert device.now_s == pytest.approx(sum(walls))


def test_a_fake_backend_runs_on_a_noisy_device():
    backend = FakeBackend()
    backend.shared_device = NoisyDevice(Noise(step=1))
    clock = backend.device().clock(1)
    assert [clock.sample(run, 1).wall_s for run in backend.device().canaries().values()] == pytest.approx([2e-3] * 2)


def test_measured_rows_are_rounds_of_the_noise():
    options = TimingOptions(max_samples=3, max_time_s=1)
    noise = Noise(jitter=0.001)
    (row,) = measure(noise, options, process=7)
    factors = noise.factors(100, process=7)[1:]  # one sample finds the launches
    rounds = [median(factors[3 * i : 3 * i + 3]) for i in range(len(row.values))]
    assert row.values == pytest.approx(rounds)
    assert row.stop == "precision"


def test_without_noise_all_rows_stop_at_once():
    rows = measure(Noise(), TimingOptions(), rows=3)
    assert [row.stop for row in rows] == ["precision"] * 3
    assert all(row.values == pytest.approx([1] * len(row.values)) for row in rows)


def test_an_error_in_the_rule_is_raised():
    with patch.object(timing, "stop_reason", side_effect=ZeroDivisionError), pytest.raises(ZeroDivisionError):
        measure(Noise(), TimingOptions())


# The rules. Each cell is seeded: it holds or it does not.

RUNS = 500
SETUPS = {
    "one sample": TimingOptions(max_samples=1, max_time_s=40 * 2e-3),
    "five samples": TimingOptions(max_samples=5, max_time_s=40 * 5 * 2e-3),
    "little time": TimingOptions(max_samples=1, max_time_s=7 * 2e-3),
}
STEADY = {
    "jitter": Noise(jitter=0.01),
    "delays": Noise(delay_share=1, delay=0.03),
    "two states": Noise(jitter=0.003, mode_share=0.45, mode=0.02),
    "wander": Noise(wander=0.01, memory=0.2),
}


def rows(noise, options, runs=RUNS):
    return [row for process in range(runs) for row in measure(noise, options, process=process)]


def coverage(noise, options, runs=RUNS):
    truth = noise.median(options.max_samples, count=100_000)
    intervals = [median_interval(row.values) for row in rows(noise, options, runs)]
    return sum(low <= truth <= high for low, high in intervals) / runs


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("kind", STEADY)
def test_the_interval_covers_when_the_rule_stops(kind, setup):
    assert coverage(STEADY[kind], SETUPS[setup]) >= 0.93


def test_a_rule_that_stops_where_the_reported_interval_is_narrow_would_not_cover():
    """Looking at the 95 % interval after every round picks those that are narrow by luck."""

    def lenient(values, *_):
        interval = median_interval(values)
        return interval and max(interval[1] / median(values) - 1, 1 - interval[0] / median(values))

    with patch.object(timing, "half_width", lenient):
        assert coverage(STEADY["wander"], SETUPS["one sample"]) < 0.93


def test_drift_is_not_seen_where_there_is_none():
    flags = [drifted(row.values) for noise in STEADY.values() for row in rows(noise, SETUPS["one sample"], 250)]
    assert sum(flags) <= 0.025 * len(flags)


@pytest.mark.parametrize("setup", ["one sample", "little time"])
def test_drift_that_makes_the_interval_miss_is_seen(setup):
    noise = Noise(jitter=0.005, drift=0.01)
    found = rows(noise, SETUPS[setup], 200)
    covered = [low <= 1 <= high for low, high in (median_interval(row.values) for row in found)]
    assert sum(covered) < 0.6 * len(found)
    assert sum(drifted(row.values) for row in found) >= 0.97 * len(found)


@pytest.mark.parametrize("bias", [0, 0.01, 0.1])
def test_rounds_of_six_processes_cover_the_median_of_all_processes(bias):
    noise = Noise(jitter=0.01, bias=bias)
    hits = plain_hits = 0
    for run in range(RUNS):
        groups = [list(noise.factors(7, 6 * run + p)) for p in range(6)]
        low, high = pooled_interval(groups)
        hits += low <= 1 <= high
        low, high = median_interval(list(itertools.chain.from_iterable(groups)))
        plain_hits += low <= 1 <= high
    assert hits >= 0.93 * RUNS
    if bias:
        assert plain_hits < 0.85 * RUNS  # processes that share a bias are not that many independent rounds


def test_a_canary_moves_with_the_machine_and_not_with_delays():
    delays = {"delay_share": 0.3, "delay": 0.2, "jitter": 0.005}
    steady, slower = Noise(**delays), Noise(**delays, step=0.1, step_at=6)
    assert sum(moved(list(steady.factors(12, run))) for run in range(200)) <= 0.05 * 200
    assert sum(moved(list(slower.factors(12, run))) for run in range(200)) >= 0.95 * 200
