"""Decisions from fresh pairs of processes."""

import math
import random

import pytest

from convbench.compare import Reason, Verdict
from convbench.confirm import confirm, launches_needed, slower

STILL = [0.01, -0.01] * 6
OK = (Verdict.OK, Reason.WITHIN_NOISE)


def logs(effect, count=12):
    """Launches that say so, a little apart."""
    return [math.log1p(effect) + 1e-4 * k for k in range(count)]


@pytest.mark.parametrize(("rows", "launches"), [(1, 12), (12, 12), (204, 12), (205, 13), (300, 13), (1000, 15)])
def test_launches_by_hand(rows, launches):
    """2⁻¹² ≤ 0.05 / 204 < 2⁻¹² · (205 / 204)."""
    assert launches_needed(rows) == launches
    assert launches_needed(rows) == 12 or 2.0**-launches <= 0.05 / rows < 2.0 ** (1 - launches)


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (0.0, OK),
        (0.024, OK),
        (0.026, (Verdict.REGRESSION, Reason.SLOWER)),
        (0.3, (Verdict.REGRESSION, Reason.SLOWER)),
        (-0.03, (Verdict.IMPROVED, Reason.FASTER)),
    ],
)
def test_a_reliable_change_above_half_of_the_least_effect_counts(effect, expected):
    assert confirm([logs(effect)], STILL, [0.05]) == [expected]


def test_one_launch_of_twelve_may_disagree_and_no_more():
    assert slower([*logs(0.1, 11), -0.1], 0.05)
    assert not slower([*logs(0.1, 10), -0.1, -0.1], 0.05)


def test_few_launches_say_nothing():
    assert confirm([logs(0.5, 11)], STILL, [0.05]) == [(Verdict.INCONCLUSIVE, Reason.FEW_LAUNCHES)]


@pytest.mark.parametrize("effect", [0.1, -0.1])
def test_a_null_control_that_moved_makes_all_inconclusive(effect):
    assert confirm([logs(0.5), logs(0)], logs(effect), [0.05, 0.05]) == [(Verdict.INCONCLUSIVE, Reason.NULL)] * 2


def test_a_row_may_need_more():
    assert confirm([logs(0.08), logs(0.08)], STILL, [0.05, 0.2])[1] == OK


def test_false_alarms_of_many_rows_without_a_change():
    """Of 400 checks of 30 rows each, at most 5 % name a row; wide noise, so that the least effect does not help."""
    rng = random.Random(1)
    alarms = 0
    for _ in range(400):
        rows = [[rng.gauss(0, 0.2) for _ in range(12)] for _ in range(30)]
        null = [rng.gauss(0, 0.001) for _ in range(12)]
        alarms += any(verdict is Verdict.REGRESSION for verdict, _ in confirm(rows, null, [0.05] * 30))
    assert alarms <= 20


def test_inverting_the_ratios_inverts_the_verdicts():
    rng = random.Random(2)
    rows = [[rng.gauss(effect, 0.03) for _ in range(12)] for effect in (-0.2, -0.05, 0, 0.05, 0.2)]
    names = {Verdict.REGRESSION: Verdict.IMPROVED, Verdict.IMPROVED: Verdict.REGRESSION, Verdict.OK: Verdict.OK}
    ahead = [verdict for verdict, _ in confirm(rows, STILL, [0.05] * 5)]
    back = [verdict for verdict, _ in confirm([[-v for v in row] for row in rows], STILL, [0.05] * 5)]
    assert [names[verdict] for verdict in ahead] == back
    assert {Verdict.REGRESSION, Verdict.IMPROVED} <= set(ahead)
