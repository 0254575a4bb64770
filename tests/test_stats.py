"""Order statistics: against the binomial distribution, numpy and the laws that they obey."""

import itertools
import math
from fractions import Fraction
from statistics import median as exact_median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from convbench.stats import (
    EXACT_TREND,
    change,
    discoveries,
    drifted,
    first_quartile,
    lower_bound,
    median,
    median_interval,
    moved,
    pooled_interval,
    sign_probability,
    trend_probability,
)

PROPERTY = settings(max_examples=150)
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


@PROPERTY
@given(st.lists(st.lists(numbers, max_size=12), max_size=6), st.sampled_from(CONFIDENCES))
def test_the_pooled_interval_encloses_that_of_all_values_and_each_groups_median(groups, confidence):
    interval = pooled_interval(groups, confidence)
    plain = median_interval(list(itertools.chain(*groups)), confidence)
    assert (interval is None) == (plain is None)
    if interval is not None:
        marks = [*plain, *(median(group) for group in groups if group)]
        assert interval == (min(marks), max(marks))


def test_the_pooled_interval_of_one_group_is_its_own():
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0, 3.5, 8.0]
    assert pooled_interval([values]) == median_interval(values)


def test_a_slow_process_widens_the_pooled_interval():
    quick, slow = [1.0 + i / 100 for i in range(12)], [2.0, 2.1]
    low, high = median_interval(quick + slow)
    assert high < 1.5
    assert pooled_interval([quick, slow]) == (low, median(slow))


def score(values):
    return sum((b > a) - (b < a) for a, b in itertools.combinations(values, 2))


@pytest.mark.parametrize("count", range(8))
def test_a_trend_is_as_improbable_as_its_share_of_all_orders(count):
    scores = [abs(score(order)) for order in itertools.permutations(range(count))]
    for order in [range(count), range(count)[::-1], *itertools.islice(itertools.permutations(range(count)), 0, 40, 3)]:
        share = sum(s >= abs(score(order)) for s in scores) / len(scores)
        assert trend_probability(order) == pytest.approx(share, rel=1e-12)


@PROPERTY
@given(st.integers(2, EXACT_TREND).flatmap(lambda count: st.permutations(range(count))))
def test_the_trend_is_scipys_exact_one(values):
    expected = kendalltau(range(len(values)), values, method="exact").pvalue
    assert trend_probability(values) == pytest.approx(expected, rel=1e-9)


@PROPERTY
@given(st.integers(EXACT_TREND + 1, 80), st.integers(0, 60), st.randoms(use_true_random=False))
def test_many_values_have_nearly_their_exact_trend(count, swaps, random):
    values = list(range(count))
    for _ in range(swaps):
        i, j = random.sample(range(count), 2)
        values[i], values[j] = values[j], values[i]
    expected = kendalltau(range(count), values, method="exact").pvalue
    assert trend_probability(values) == pytest.approx(expected, abs=3e-3)


@PROPERTY
@given(st.lists(st.integers(-5, 5), max_size=50))
def test_a_trend_knows_only_order(values):
    probability = trend_probability(values)
    assert 0 < probability <= 1
    assert trend_probability(values[::-1]) == trend_probability([-v for v in values]) == probability
    assert trend_probability([v**3 + 7 for v in values]) == probability


def test_equal_values_count_for_neither_direction():
    # of 6 pairs 5 rise and one is equal: as improbable as five that rise and one that falls, 2·(1 + 3)/24
    assert trend_probability([1, 2, 2, 3]) == pytest.approx(8 / 24)
    assert trend_probability([7.0] * 10) == 1


def test_change_is_from_the_first_third_to_the_last():
    values = [1.0, 3.0, 2.0, 50.0, 60.0, 70.0, 80.0, 4.0, 3.0, 9.0]
    assert change(values) == 1.0  # 2 and 4
    assert change(values, min) == 2.0  # 1 and 3
    assert change([2.0, 3.0]) == 0.5
    assert change([2.0]) == 0


def test_a_drift_is_a_trend_of_a_size():
    assert drifted([1 + 0.01 * i for i in range(6)])
    assert drifted([1 - 0.01 * i for i in range(40)])
    assert not drifted([1.0 + 0.01 * i for i in range(5)]), "five values have no interval"
    assert not drifted([1.0] * 20)
    assert not drifted([1.0, 1.1, 1.03, 1.07, 1.02, 1.08, 1.01, 1.09])
    jumping = [10.0, 10.1, 10.2, 13.5, 10.6, 10.5, 11.0, 11.1, 13.3]
    assert trend_probability(jumping) < 0.02
    assert not drifted(jumping), "it went up by 1, and the interval is 3 wide"


@PROPERTY
@given(st.lists(st.integers(1, 1000), max_size=40))
def test_drift_has_no_direction_and_no_unit(values):
    assert drifted(values) == drifted(values[::-1]) == drifted([v / 1024 for v in values])


def test_a_canary_moves_by_more_than_five_percent():
    assert moved([1.0, 1.0, 1.0, 1.0, 1.06, 1.06])
    assert moved([1.06, 1.06, 1.0, 1.0, 1.0, 1.0])
    assert not moved([1.0, 1.0, 1.0, 1.0, 1.04, 1.04])
    assert moved([1.0, 1.0, 1.0, 1.0, 1.04, 1.04], tolerance=0.03)
    assert not moved([1.0, 1.0, 5.0, 5.0, 1.0, 9.0]), "delays are no movement"
    assert not moved([1.0, 2.0, 3.0, 4.0, 5.0]), "fewer than six values say nothing"
    assert not moved([])


@PROPERTY
@given(st.lists(st.floats(1, 1.04), min_size=6, max_size=40), st.data())
def test_a_canary_that_is_delayed_now_and_then_has_not_moved(values, data):
    delayed = data.draw(st.sets(st.integers(0, len(values) - 1)))
    third = len(values) // 3
    first, last = set(range(third)), set(range(len(values) - third, len(values)))
    hit = {i for i in delayed if not (first <= delayed and i in first) and not (last <= delayed and i in last)}
    assert not moved([v * (3 if i in hit else 1) for i, v in enumerate(values)])


def test_first_quartile_by_hand():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert first_quartile(values) == 2.0
    assert first_quartile([7.0]) == 7.0
    assert first_quartile([2.0, 1.0]) == 1.0
    assert values == [5.0, 1.0, 4.0, 2.0, 3.0]


def test_lower_bound_by_hand():
    """Of 12 values the second keeps 99 %: P(Binomial(12, ½) < 2) = 13/4096; the third would have 79/4096."""
    values = [float(v) for v in range(12)]
    assert lower_bound(values) == 1.0
    assert lower_bound(values[:7]) == 0.0
    assert lower_bound(values[:6]) is None


def test_sign_probability_by_hand():
    assert sign_probability([1.0] * 12) == 1 / 4096
    assert sign_probability([1.0] * 11 + [-1.0]) == 13 / 4096
    assert sign_probability([0.0, 0.0]) == 1.0
    assert sign_probability([]) == 1.0


def test_discoveries_by_hand():
    """The example of Benjamini and Hochberg's paper, table 1: at 5 % the four smallest of fifteen count."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
         0.7590, 1.0]  # fmt: skip
    assert discoveries(p) == [True] * 4 + [False] * 11
    assert discoveries(p[::-1]) == [False] * 11 + [True] * 4
    assert discoveries([]) == []
