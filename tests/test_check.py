"""The regression check: baselines, what is confirmed, exit codes, the command."""

import json
import math
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from stored import STEADY, row, run, times

from convbench.check import check_baseline, confirmed, exit_code, to_confirm
from convbench.cli import main
from convbench.cli.check import again
from convbench.compare import Reason, Verdict, compare
from convbench.errors import InputError
from convbench.result import COLD, Status
from convbench.suite import Gate

STILL = [0.01, -0.01] * 6
NAMES = ("a", "b", "c")


def logs(effect, count=12):
    return [math.log1p(effect) + 1e-4 * k for k in range(count)]


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
        check_baseline(run(*rows), "base.jsonl")


def test_a_baseline():
    check_baseline(run(row(processes=3), row((), name="other", status=Status.UNSUPPORTED)), "base.jsonl")


def test_every_row_is_confirmed_and_the_launches_decide():
    """What the stored runs said, slower, the same and faster, does not count."""
    before = compared(1.5, 1.0, 0.5)
    assert [r.key.case.name for r in to_confirm(before)] == [*NAMES]
    after = confirmed(before, {0: logs(0), 1: logs(0.1), 2: logs(-0.1)}, STILL, {}, {})
    assert [r.verdict for r in after.rows] == [Verdict.OK, Verdict.REGRESSION, Verdict.IMPROVED]
    assert after.rows[1].ratio == pytest.approx(1.1, rel=1e-3)
    assert exit_code(after) == 3


def test_a_row_that_fails_on_a_side_has_failed():
    after = confirmed(compared(1, 1, 1), {0: logs(0), 2: logs(0)}, STILL, {1: "new: wrong: off by 1"}, {})
    assert [(r.verdict, r.detail) for r in after.rows][1] == (Verdict.FAILED, "new: wrong: off by 1")
    assert exit_code(after) == 6


def test_the_null_control_makes_all_inconclusive():
    after = confirmed(compared(1, 1, 1), dict.fromkeys(range(3), logs(0.5)), logs(0.2), {}, {})
    assert {r.reason for r in after.rows} == {Reason.NULL}
    assert exit_code(after) == 0
    assert exit_code(after, fail_on_inconclusive=True) == 5


def test_without_a_null_control_nothing_is_sure():
    after = confirmed(compared(1, 1, 1), dict.fromkeys(range(3), logs(0.5)), [], {}, {})
    assert {r.reason for r in after.rows} == {Reason.NULL}


def test_cold_rows_are_not_confirmed():
    """A pair of processes measures warm."""
    cold = [replace(r, key=replace(r.key, cache=COLD)) for r in (named("a"), named("a", 1.5))]
    before = compare(run(cold[0], named("b")), run(cold[1], named("b")))
    after = confirmed(before, {0: logs(0)}, STILL, {}, {})
    assert [(r.verdict, r.detail) for r in after.rows] == [
        (Verdict.SUSPECT, ""), (Verdict.OK, "11 of 12 launches slower"),
    ]  # fmt: skip


def test_the_factor_is_that_of_the_launches():
    after = confirmed(compared(3, 3, 3), dict.fromkeys(range(3), [0.0] * 12), STILL, {}, {})
    assert after.factor == pytest.approx(1)
    assert after.launches == 12


def test_gates_hold_for_launches_too():
    gates = {"a": Gate(enabled=False, reason="too short"), "b": Gate(min_effect=0.5)}
    before = compare(run(*map(named, NAMES)), run(*map(named, NAMES)), gates)
    after = confirmed(before, dict.fromkeys(range(3), logs(0.2)), STILL, {}, gates)
    assert [r.verdict for r in after.rows] == [Verdict.OK, Verdict.OK, Verdict.REGRESSION]


def test_missing_comes_before_a_regression():
    before = compare(run(named("a"), named("b")), run(named("a")))
    after = confirmed(before, {0: logs(0.5)}, STILL, {}, {})
    assert [r.verdict for r in after.rows] == [Verdict.REGRESSION, Verdict.MISSING]
    assert exit_code(after) == 6


def test_the_same_command_again():
    words = ["convbench", "run", "old.toml", "-b", "cpu", "-o", "base.jsonl", "--force", "--batch", "2", "--warm"]
    assert again(words, "new.toml") == ["new.toml", "-b", "cpu", "--batch", "2", "--warm"]
    with pytest.raises(InputError, match="not made by `convbench run`"):
        again(["convbench", "talk"], "new.toml")


# The command, on a backend whose time is simulated

BACKEND = """
from convbench.testing import FakeAlgorithm, FakeBackend


class Mine(FakeBackend):
    name = "mine"

    def __init__(self):
        super().__init__({"quick": FakeAlgorithm(seconds=SECONDS)})
"""
SUITE = """
schema = 1
name = "tiny"
[[problem]]
name = "first"
batch = 1
in_channels = 2
out_channels = 2
input_size = 6
filter_size = 3
"""


@pytest.fixture
def baseline(tmp_path, monkeypatch):
    """A baseline of three processes, made in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SUITE)
    (tmp_path / "old.py").write_text(BACKEND.replace("SECONDS", "2e-3"))
    (tmp_path / "mine.py").write_text(BACKEND.replace("SECONDS", "2e-3"))
    command = ["run", "tiny.toml", "-b", "./mine.py:Mine", "--pass", "fprop", "--processes", "3", "--max-time", "50ms"]
    monkeypatch.setattr(sys, "argv", ["convbench", *command, "-o", "base.jsonl"])
    result = CliRunner().invoke(main, [*command, "-o", "base.jsonl"])
    assert result.exit_code == 0, result.output
    return tmp_path


def check(*arguments, code):
    result = CliRunner().invoke(main, ["check", "tiny.toml", "--baseline", "base.jsonl", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_command(baseline):
    (baseline / "mine.py").write_text(BACKEND.replace("SECONDS", "2.4e-3"))
    old = ("--against", sys.executable, "--against-backend", "mine=./old.py:Mine", "--launches", "1")
    result = check(*old, "--format", "json", "--fail-on", "inconclusive", "-o", "now.jsonl", code=5)
    (fact,) = json.loads(result.stdout)["comparison"]
    assert (fact["verdict"], fact["reason"], fact["ratio"]) == ("inconclusive", "few_launches", pytest.approx(1.2))
    facts = json.loads(check("--current", "now.jsonl", "--format", "json", code=0).stdout)["comparison"]
    assert [(fact["verdict"], fact["ratio"]) for fact in facts] == [("suspect", pytest.approx(1.2))]


def test_a_side_that_cannot_be_started(baseline):
    for python, text in (
        ("no-such-python", "Error: cannot start no-such-python: "),
        ("false", "the old side, false, ended"),
    ):
        result = check("--against", python, "-o", f"{python}.jsonl", code=1)
        assert text in result.stderr
        assert "Traceback" not in result.stderr


def test_bad_input(baseline):
    assert "--current measures nothing" in check("--current", "base.jsonl", "-o", "x.jsonl", code=2).stderr
    assert "must be NAME=BACKEND" in check("--against", "x", "--against-backend", "mine", code=1).stderr
    (baseline / "one.toml").write_text(SUITE.replace('"tiny"', '"other"'))
    result = CliRunner().invoke(main, ["check", "one.toml", "--baseline", "base.jsonl"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "base.jsonl holds rows of tiny, not of other alone" in result.stderr
