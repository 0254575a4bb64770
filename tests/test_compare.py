"""Comparison of stored runs: guard, screen, verdicts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from stored import HEADER, STEADY, rounds, row, run, times

from convbench.cli import main
from convbench.compare import Reason, Verdict, compare, pairs, screen_value, spread
from convbench.errors import InputError, NotComparableError
from convbench.result import BROKEN, Status
from convbench.suite import Gate
from convbench.timing import Columns, Round

GOLDEN = Path(__file__).parent / "data" / "run-v3.jsonl"


def verdict(base, new, **options):
    (found,) = compare(run(base), run(new), **options).rows
    return found.verdict, found.reason


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, (Verdict.OK, Reason.WITHIN_NOISE)),
        (1.049, (Verdict.OK, Reason.WITHIN_NOISE)),
        (1.051, (Verdict.SUSPECT, Reason.SLOWER)),
        (1 / 1.049, (Verdict.OK, Reason.WITHIN_NOISE)),
        (1 / 1.051, (Verdict.IMPROVED, Reason.FASTER)),
    ],
)
def test_a_change_counts_from_the_least_effect_on(factor, expected):
    assert verdict(row(), row(times(factor))) == expected


def test_a_stored_run_never_says_regression():
    assert verdict(row(), row(times(10)))[0] is Verdict.SUSPECT


def test_what_the_baseline_varies_by_is_no_change():
    noisy = (1.0e-3, 1.06e-3, 1.06e-3, 1.06e-3, 1.07e-3)  # median 6 % above the best: 12 % are needed
    assert verdict(row(noisy), row(times(1.1, noisy))) == (Verdict.OK, Reason.WITHIN_NOISE)
    assert verdict(row(noisy), row(times(1.13, noisy))) == (Verdict.SUSPECT, Reason.SLOWER)


def test_a_baseline_that_varies_by_more_says_nothing():
    noisy = (1.0e-3, 1.13e-3, 1.13e-3, 1.13e-3, 1.2e-3)
    assert verdict(row(noisy), row(times(3, noisy))) == (Verdict.INCONCLUSIVE, Reason.TOO_NOISY)


def test_less_than_a_microsecond_is_no_change():
    assert verdict(row(times(0.01)), row(times(0.0109))) == (Verdict.OK, Reason.BELOW_FLOOR)
    assert verdict(row(times(0.01)), row(times(0.0111))) == (Verdict.SUSPECT, Reason.SLOWER)


@pytest.mark.parametrize("canary", [0.94e-3, 1.06e-3])
def test_a_machine_in_another_state_says_nothing(canary):
    compared = compare(run(row()), run(row(times(1.5)), canary=canary))
    assert (compared.rows[0].verdict, compared.rows[0].reason) == (Verdict.INCONCLUSIVE, Reason.CLOCK)
    assert compared.canaries == {"compute": pytest.approx(canary / 1e-3)}


def test_only_as_many_rounds_count_as_both_have():
    """The best of more rounds is better by chance alone."""
    assert verdict(row(), row((*STEADY, 0.5e-3))) == (Verdict.OK, Reason.WITHIN_NOISE)


@pytest.mark.parametrize(
    ("base", "new", "expected"),
    [
        (row(), row((), status=Status.WRONG, reason="off by 1"), Verdict.FAILED),
        (row((), status=Status.UNSUPPORTED), row((), status=Status.WRONG), Verdict.FAILED),
        (row(), row((), status=Status.UNSUPPORTED), Verdict.MISSING),
        (row((), status=Status.UNSUPPORTED), row((), status=Status.UNSUPPORTED), Verdict.UNTIMED),
        (row((), status=Status.UNSUPPORTED), row(), Verdict.NEW),
        (row((), status=Status.FAILED), row(), Verdict.NEW),
        (row(), row(times(0.2), resolved="fft"), Verdict.ALGORITHM_CHANGED),
    ],
)
def test_rows_that_times_do_not_decide(base, new, expected):
    assert verdict(base, new)[0] is expected


def test_a_wrong_row_is_failed_however_fast():
    wrong = replace(row(times(0.1)), status=Status.WRONG, reason="off by 1")
    (found,) = compare(run(row()), run(wrong)).rows
    assert (found.verdict, found.detail, found.ratio) == (Verdict.FAILED, "wrong: off by 1", None)


def test_gone_and_new_rows():
    compared = compare(run(row(), row(name="gone")), run(row(), row(name="more")))
    found = {c.key.case.name: c.verdict for c in compared.rows}
    assert found == {"conv1": Verdict.OK, "gone": Verdict.MISSING, "more": Verdict.NEW}


def test_gates():
    off = {"conv1": Gate(enabled=False, reason="too short")}
    assert verdict(row(), row(times(2)), gates=off) == (Verdict.OK, Reason.DISABLED)
    wide = {"conv1": Gate(min_effect=0.2)}
    assert verdict(row(), row(times(1.15)), gates=wide)[0] is Verdict.OK
    assert verdict(row(), row(times(1.21)), gates=wide)[0] is Verdict.SUSPECT


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({"devices": {"cuda:1": {"fingerprint": "abc"}}}, "not comparable: device was cpu, is now cuda:1$"),
        ({"devices": {}}, "not comparable: device was cpu, is now none$"),
        ({"devices": {"cpu": {"fingerprint": "xyz"}}}, "not comparable: machine .* was {'cpu': 'abc'}, is now"),
        ({"options": {"threads": 2}}, "not comparable: threads was 1, is now 2"),
        (
            {"options": {"threads": 1, "workspace_limit_bytes": 0}},
            "not comparable: workspace limit was None, is now 0",
        ),
        ({"method": 3}, "not comparable: method version was 2, is now 3"),
    ],
)
def test_runs_that_cannot_be_compared(header, text):
    with pytest.raises(NotComparableError, match=text):
        compare(run(row()), run(row(), **header))


def test_no_row_in_common():
    with pytest.raises(NotComparableError, match="no row in common"):
        compare(run(row()), run(row(name="other")))


def test_what_changed_is_listed_and_no_reason_to_refuse():
    environment = HEADER["environment"] | {"libraries": {"numpy": "2.2"}, "variables": {"OMP_NUM_THREADS": "1"}}
    compared = compare(run(row()), run(row(), environment=environment))
    assert compared.changed == (("library numpy", "2.1", "2.2"), ("variable OMP_NUM_THREADS", "–", "1"))


def test_the_factor_of_all_rows():
    base = [row(name=name) for name in "abc"]
    new = [row(times(factor), name=name) for name, factor in zip("abc", (1.1, 1.1, 1.0), strict=True)]
    assert compare(run(*base), run(*new)).factor == pytest.approx(1.21 ** (1 / 3))


def test_screen_values():
    """Quarters by hand: of 1, 2, 3, 4, 5 the second; processor time on one thread, wall time on several."""
    measured = [Round(2, Columns((5.0, 3.0, 1.0, 4.0, 2.0), (10.0, 6.0, 2.0, 8.0, 4.0), {}))]
    assert screen_value(measured, 1) == 4.0 / 2
    assert screen_value(measured, 2) == 2.0 / 2
    flagged = [Round(1, Columns((1.0, 3.0, 4.0), (None, None, None), {0: ("waited",)}))]
    assert screen_value(flagged, 1) == 3.0
    assert spread(rounds((1.0, 1.5, 2.0)), 1) == 0.5


def test_two_algorithms_of_one_run():
    both = run(row((1e-3,) * 6), row((2e-3,) * 6, algorithm="fft"), row(name="alone"))
    (pair,) = pairs(both, "cpu:gemm", "cpu:fft")
    assert pair.ratio == pytest.approx(2)
    assert pair.interval == (pytest.approx(2), pytest.approx(2))
    spreading = run(row((1e-3, 2e-3) * 4), row((2e-3,) * 8, algorithm="fft"))
    assert pairs(spreading, "cpu:gemm", "cpu:fft")[0].interval == (pytest.approx(1), pytest.approx(2))
    with pytest.raises(InputError, match="unknown algorithm 'cpu:ftt' in the run; did you mean 'cpu:fft'"):
        pairs(both, "cpu:gemm", "cpu:ftt")
    with pytest.raises(InputError, match="no case in common"):
        pairs(run(row(), row(name="other", algorithm="fft")), "cpu:gemm", "cpu:fft")


@pytest.fixture
def files(tmp_path):
    """Writes a run of rows of these factors over the golden file's times."""

    def written(name, change=lambda line: line):
        lines = [json.loads(text) for text in GOLDEN.read_text().splitlines()]
        broken = {line["row"] for line in lines if line.get("status") in BROKEN}
        lines = [change(line) for line in lines if line.get("row") not in broken]
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines if line))
        return str(path)

    return written


def slower(factor):
    def change(line):
        if line["type"] == "round":
            line["wall_s"] = [seconds * factor for seconds in line["wall_s"]]
            line["cpu_s"] = [seconds and seconds * factor for seconds in line["cpu_s"]]
        return line

    return change


def invoke(*arguments):
    return CliRunner().invoke(main, ["compare", *arguments])


def test_the_command(files):
    base, same, other = files("a.jsonl"), files("b.jsonl"), files("c.jsonl", slower(1.5))
    result = invoke(base, same)
    assert result.exit_code == 0, result.output
    facts = json.loads(invoke(base, other, "--format", "json").stdout)
    slow = [fact for fact in facts["comparison"] if fact["ratio"]]
    assert slow
    assert all(fact["ratio"] == pytest.approx(1.5) for fact in slow)
    assert all(fact["ratio"] == pytest.approx(1.5) for fact in facts["means"])
    assert "× 1.500 (geometric mean)" in invoke(base, other).stdout


def test_a_row_that_is_gone_and_a_run_of_elsewhere(files):
    base = files("a.jsonl")

    def gone(line):
        return None if line.get("row") == 0 else line

    assert invoke(base, files("b.jsonl", gone)).exit_code == 6

    def elsewhere(line):
        for device in line.get("devices", {}).values():
            device["fingerprint"] = "000000000000"
        return line

    result = invoke(base, files("c.jsonl", elsewhere))
    assert (result.exit_code, result.stdout) == (4, "")
    assert "c.jsonl: not comparable: machine" in result.stderr
    assert result.stderr.count("\n") == 1
    assert invoke(base).exit_code == 2
    assert invoke(base, base, "--between", "cpu:gemm", "cpu:fft").exit_code == 2


def test_a_gate_above_what_is_too_noisy():
    """The row is as quiet as before."""
    gates = {"conv1": Gate(min_effect=0.3)}
    assert verdict(row(), row(times(4.5)), gates=gates) == (Verdict.SUSPECT, Reason.SLOWER)
    assert verdict(row(), row(times(1.2)), gates=gates) == (Verdict.OK, Reason.WITHIN_NOISE)


def test_a_gate_that_is_off_holds_for_rows_that_fail():
    off = {"conv1": Gate(enabled=False, reason="flaky")}
    broken = row((), status=Status.FAILED, reason="no memory")
    (found,) = compare(run(row()), run(broken), off).rows
    assert (found.verdict, found.reason, found.detail) == (
        Verdict.OK, Reason.DISABLED, "flaky (failed: no memory)",
    )  # fmt: skip


def test_a_prefix_of_rounds_is_of_all_processes():
    """The first process of the baseline was slow; the other run has a third of its rounds."""
    slow, fast = times(1.3), STEADY
    base = replace(row((*slow, *fast, *fast)), rounds=tuple(
        replace(measured, process=number // 5) for number, measured in enumerate(rounds((*slow, *fast, *fast)))
    ))  # fmt: skip
    (found,) = compare(run(base), run(row(fast))).rows
    assert found.ratio == pytest.approx(1.0, abs=1e-3)


def test_how_often_a_layer_occurs_is_no_part_of_the_question():
    often = row()
    often = replace(often, key=replace(often.key, case=replace(often.key.case, repeat=3)))
    assert [found.verdict for found in compare(run(row()), run(often)).rows] == [Verdict.OK]
