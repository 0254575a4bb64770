"""Order statistics: against the binomial distribution, numpy and the laws that they obey."""

import math
from fractions import Fraction
from statistics import median as exact_median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbench.stats import median, median_interval

PROPERTY = settings(deadline=None, max_examples=150)
CONFIDENCES = [0.9, 0.95, 0.99]
numbers = st.floats(-1e6, 1e6)
samples = st.lists(numbers, min_size=1, max_size=60)


def enclosing_probability(count, rank):
    """P(the rank-th smallest of `count` values ≤ median ≤ the rank-th largest): from rank to count − rank lie below."""
    return Fraction(sum(math.comb(count, below) for below in range(rank, count - rank + 1)), 2**count)


def rank_of(interval, count):
    """k, from the interval of the values 1, 2, …, count."""
    low, high = interval
    assert low + high == count + 1, "not symmetric"
    return low


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("count", range(41))
def test_the_interval_is_the_narrowest_that_keeps_the_confidence(count, confidence):
    wanted = Fraction(str(confidence))
    interval = median_interval(list(range(1, count + 1)), confidence)
    kept = [rank for rank in range(1, count // 2 + 1) if enclosing_probability(count, rank) >= wanted]
    assert (rank_of(interval, count) if interval else None) == max(kept, default=None)


@pytest.mark.parametrize(("confidence", "least"), [(0.9, 5), (0.95, 6), (0.99, 8)])
def test_too_few_values_have_no_interval(confidence, least):
    assert all(median_interval([1.0] * count, confidence) is None for count in range(least))
    assert median_interval([1.0] * least, confidence) == (1.0, 1.0)


def test_a_confidence_that_is_met_exactly_is_kept():
    assert median_interval(range(1, 7), 1 - 2 / 2**6) == (1, 6)
    assert median_interval(range(1, 7), 1 - 2 / 2**6 + 1e-12) is None
    assert median_interval(range(1, 4), 0) == (2, 2)


def test_the_default_confidence_is_95_percent():
    for count in range(41):
        values = list(range(count))
        assert median_interval(values) == median_interval(values, 0.95)


@pytest.mark.parametrize(
    ("count", "rank"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (20, 6), (30, 10), (40, 14), (50, 18)]
)
def test_ranks_of_the_sign_test_table(count, rank):
    # critical values of the two-sided 5 % sign test, as textbooks tabulate them (recalled), plus one
    assert median_interval(range(1, count + 1)) == (rank, count + 1 - rank)


@pytest.mark.parametrize("count", [1000, 1023, 1024, 1025, 1100, 5000])
def test_many_values(count):
    rank = rank_of(median_interval(range(1, count + 1)), count)
    normal = count / 2 - 1.959964 * math.sqrt(count) / 2
    assert abs(rank - normal) <= 1.5
    assert enclosing_probability(count, rank) >= Fraction(95, 100) > enclosing_probability(count, rank + 1)


@PROPERTY
@given(st.lists(numbers, max_size=40), st.randoms(use_true_random=False), st.sampled_from(CONFIDENCES))
def test_the_interval_ignores_order_encloses_the_median_and_leaves_its_input_alone(values, random, confidence):
    before = list(values)
    interval = median_interval(values, confidence)
    assert values == before
    shuffled = random.sample(values, len(values))
    assert median_interval(shuffled, confidence) == interval
    assert median_interval(tuple(shuffled), confidence) == interval
    if interval is not None:
        low, high = interval
        assert low <= exact_median(values) <= high
        assert {low, high} <= set(values)


@PROPERTY
@given(st.lists(numbers, min_size=8, max_size=40))
def test_more_confidence_is_no_narrower(values):
    (low_90, high_90), (low_95, high_95), (low_99, high_99) = (median_interval(values, c) for c in CONFIDENCES)
    assert low_99 <= low_95 <= low_90
    assert high_99 >= high_95 >= high_90


@PROPERTY
@given(
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=40),
    st.sampled_from([0.5, 2, 1024]),
    st.integers(-1000, 1000),
)
def test_statistics_scale_and_shift_with_their_values(values, scale, shift):
    # powers of two and small integers: nothing rounds, so equality is exact
    moved = [value * scale + shift for value in values]
    assert median(moved) == median(values) * scale + shift
    interval, moved_interval = median_interval(values), median_interval(moved)
    assert (interval is None) == (moved_interval is None)
    if interval is not None:
        assert moved_interval == tuple(bound * scale + shift for bound in interval)


@PROPERTY
@given(st.lists(st.integers(-1000, 1000), max_size=40))
def test_negation_turns_the_interval_round(values):
    interval, mirrored = median_interval(values), median_interval([-value for value in values])
    assert mirrored == (None if interval is None else (-interval[1], -interval[0]))


def test_the_median_leaves_its_input_alone():
    values = [3, 1, 2, 4]
    assert median(values) == 2.5
    assert values == [3, 1, 2, 4]
