"""The regression check: baselines, what is confirmed, exit codes, the command."""

import math
from dataclasses import replace

import pytest
from stored import STEADY, row, run, times

from convbench.check import check_baseline, confirmed, exit_code, measured_twice, to_confirm, unconfirmed
from convbench.compare import Reason, Verdict, compare
from convbench.confirm import NULL, Launched
from convbench.errors import InputError
from convbench.result import COLD, Status
from convbench.suite import Gate

STILL = [0.01, -0.01] * 6
NAMES = ("a", "b", "c")


def logs(effect, count=12):
    return [math.log1p(effect) + 1e-4 * k for k in range(count)]


def launched(compared, *rows, null=STILL, gates=None):
    """The comparison after launches: of each row their logarithms, or by side why it was lost."""
    found = [Launched(row=NULL, log_ratio=value, seconds=(1.0, 1.0)) for value in null]
    for place, of in enumerate(rows):
        if isinstance(of, dict):
            found.append(Launched(row=place, lost=of))
        else:
            found += [Launched(row=place, log_ratio=value, seconds=(1.0, math.exp(value))) for value in of]
    return confirmed(compared, to_confirm(compared), found, gates or {})


def compared(*factors):
    return compare(run(*map(named, NAMES)), run(*(named(n, f) for n, f in zip(NAMES, factors, strict=True))))


def named(name, factor=1.0):
    return row(times(factor), name=name)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row((), status=Status.UNSUPPORTED)], "is no baseline: no row of it has a time"),
        ([row(processes=2)], "conv1 fprop .* has 5 rounds from 2 processes, 5 from 3 are needed"),
        ([row(STEADY[:4], processes=3)], "has 4 rounds from 3 processes"),
    ],
)
def test_what_is_no_baseline(rows, text):
    with pytest.raises(InputError, match=text):
        check_baseline(run(*rows).rows, "base.jsonl")


def test_a_baseline():
    check_baseline(run(row(processes=3), row((), name="other", status=Status.UNSUPPORTED)).rows, "base.jsonl")


def test_every_row_is_confirmed_and_the_launches_decide():
    """What the stored runs said, slower, the same and faster, does not count."""
    before = compared(1.5, 1.0, 0.5)
    assert [key.case.name for key in to_confirm(before)] == [*NAMES]
    after = launched(before, logs(0), logs(0.1), logs(-0.1))
    assert [r.verdict for r in after.rows] == [Verdict.OK, Verdict.REGRESSION, Verdict.IMPROVED]
    slow = after.rows[1]
    assert slow.ratio == pytest.approx(1.1, rel=1e-3)
    assert (slow.base_s, slow.new_s) == pytest.approx((1.0, 1.1), rel=2e-3)
    assert slow.interval[0] <= slow.ratio <= slow.interval[1]
    assert len(slow.launches) == 12
    assert exit_code(after) == 3


def test_the_interval_leaves_out_one_launch_of_twelve_at_each_end():
    values = [0.01 * k for k in range(12)]
    (row,) = launched(compare(run(named("a")), run(named("a"))), values).rows
    assert row.interval == pytest.approx((math.exp(0.01), math.exp(0.10)))


@pytest.mark.parametrize(
    ("lost", "verdict", "detail"),
    [
        ({"new": (Status.WRONG, "off by 1")}, Verdict.FAILED, "new: wrong: off by 1"),
        ({"new": (Status.TIMEOUT, "x"), "old": (Status.UNSUPPORTED, "y")}, Verdict.FAILED, "new: timeout: x; old"),
        ({"new": (Status.UNSUPPORTED, "no stride")}, Verdict.MISSING, "new: unsupported: no stride"),
        ({"old": (Status.UNSUPPORTED, "x")}, Verdict.NEW, "old: unsupported: x"),
        ({"old": (Status.FAILED, "x")}, Verdict.INCONCLUSIVE, "old: failed: x"),
        (
            {"old": (Status.UNSUPPORTED, "x"), "new": (Status.UNSUPPORTED, "x")},
            Verdict.UNTIMED,
            "old: unsupported: x; n",
        ),
    ],
)
def test_a_row_that_a_side_lost(lost, verdict, detail):
    after = launched(compared(1, 1, 1), logs(0), lost, logs(0))
    assert [r.verdict for r in after.rows] == [Verdict.OK, verdict, Verdict.OK]
    assert after.rows[1].detail.startswith(detail)
    assert after.rows[1].ratio is None
    assert exit_code(after) == (6 if verdict in {Verdict.FAILED, Verdict.MISSING} else 0)


def test_the_null_control_makes_all_inconclusive():
    after = launched(compared(1, 1, 1), *[logs(0.5)] * 3, null=logs(0.2))
    assert {r.reason for r in after.rows} == {Reason.NULL}
    assert exit_code(after) == 0
    assert exit_code(after, fail_on_inconclusive=True) == 5


def test_without_a_null_control_nothing_is_sure():
    assert {r.reason for r in launched(compared(1, 1, 1), *[logs(0.5)] * 3, null=[]).rows} == {Reason.NULL}


def test_cold_rows_are_confirmed_too():
    cold = [replace(r, key=replace(r.key, cache=COLD)) for r in (named("a"), named("a", 1.5))]
    after = launched(compare(run(cold[0]), run(cold[1])), logs(0))
    assert [(r.verdict, r.detail) for r in after.rows] == [(Verdict.OK, "11 of 12 launches slower")]


def test_the_factor_is_that_of_the_launches():
    after = launched(compared(3, 3, 3), *[[0.0] * 12] * 3)
    assert after.factor == pytest.approx(1)
    assert after.launches == 12


def test_without_stored_runs_the_launches_are_all():
    before = unconfirmed([named(name).key for name in NAMES], {"c": Gate(enabled=False, reason="too short")})
    assert {r.verdict for r in before.rows} == {Verdict.INCONCLUSIVE, Verdict.OK}
    after = launched(before, logs(0), logs(0.1))
    assert [r.verdict for r in after.rows] == [Verdict.OK, Verdict.REGRESSION, Verdict.OK]
    assert after.rows[2].detail == "too short"
    assert exit_code(after) == 3


def test_gates_hold_for_launches_too():
    gates = {"a": Gate(enabled=False, reason="too short"), "b": Gate(min_effect=0.5)}
    before = compare(run(*map(named, NAMES)), run(*map(named, NAMES)), gates)
    assert [key.case.name for key in to_confirm(before)] == ["b", "c"]
    after = launched(before, logs(0.2), logs(0.2), gates=gates)
    assert [r.verdict for r in after.rows] == [Verdict.OK, Verdict.OK, Verdict.REGRESSION]


def test_missing_comes_before_a_regression():
    after = launched(compare(run(named("a"), named("b")), run(named("a"))), logs(0.5))
    assert [r.verdict for r in after.rows] == [Verdict.REGRESSION, Verdict.MISSING]
    assert exit_code(after) == 6


def test_a_second_measurement_that_says_nothing_leaves_a_suspect():
    moved = compare(run(named("a")), run(named("a", 1.5), canary=2e-3))
    (row,) = measured_twice(compare(run(named("a")), run(named("a", 1.5))), moved).rows
    assert row.verdict is Verdict.SUSPECT
    assert row.detail.startswith("ratio 1.500 when measured again, which says nothing: another state of the machine")


def test_without_a_ratio_nothing_was_compared():
    before = unconfirmed([named("a").key], {})
    assert exit_code(before) == 6
    assert exit_code(launched(before, {"old": (Status.UNSUPPORTED, "x")})) == 6


def test_a_suspect_is_a_regression_once_it_was_slower_twice():
    first = compared(1.5, 1.5, 1.0)
    after = measured_twice(first, compare(run(named("a"), named("b")), run(named("a", 1.4), named("b"))))
    assert [r.verdict for r in after.rows] == [Verdict.REGRESSION, Verdict.OK, Verdict.OK]
    assert "ratio 1.400 when measured again" in after.rows[0].detail
    assert after.rows[1].detail == "ratio 1.000 when measured again"
    assert exit_code(first) == 0
    assert exit_code(after) == 3
