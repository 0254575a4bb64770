"""Comparisons as tables: what is said at the end, what fits a narrow terminal, several runs side by side."""

import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import PROBLEM, STEADY, case, row, run, times

from convbench.backends import BackendSpec, Candidate
from convbench.cli.options import selection
from convbench.cli.run import command
from convbench.compare import Compared, Comparison, Reason, Verdict, compare
from convbench.problem import ConvPass, Epilogue, Layout
from convbench.render import render
from convbench.render.comparison import comparison_notes, comparison_table, outcome_text, series_table
from convbench.reproduce import Recipe
from convbench.result import RowKey, Status
from convbench.suite import Suite, SuiteProblem
from convbench.tasks import tasks
from convbench.testing import FakeDevice

LONG = ("conv2_3x3", "inception_4e_5x5_reduce", "conv5")


def compared(*factors, name="b{}", **more):
    """Rows b0, b1, … that became slower by these factors."""
    base = [row(name=name.format(i)) for i in range(len(factors))]
    new = [row(times(factor), name=name.format(i)) for i, factor in enumerate(factors)]
    return compare(run(*base), run(*new, **more))


def one(verdict, ratio=None, name="b", **more):
    key = RowKey(case=case(name), backend="cpu", algorithm="gemm", device="cpu")
    return Comparison(key=key, base=None, new=None, verdict=verdict, reason=Reason.SLOWER, ratio=ratio, **more)


def made(*rows):
    return Compared(rows=rows, canaries={}, changed=())


# What is said at the end


def test_the_worst_have_times_ratio_and_interval():
    values = (*STEADY, 1.0e-3, 1.001e-3)
    base, new = run(row(values)), run(row(times(1.2, values)))
    (_, worst, factor, *_) = comparison_notes(compare(base, new))
    assert worst == ("suspect: s/conv1 fprop fp32 ncw cpu:gemm 1.00 ms → 1.20 ms, ratio 1.200 (1.198 to 1.202), slower")
    assert factor == "all rows together: × 1.200 (geometric mean)"


def test_the_gravest_three_are_named():
    rows = [one(Verdict.SUSPECT, 3.0, "a"), one(Verdict.REGRESSION, 1.1, "b"), one(Verdict.REGRESSION, 1.2, "c"),
            one(Verdict.OK, 1.0, "d"), one(Verdict.FAILED, None, "e", detail="wrong: off by 1")]  # fmt: skip
    notes = comparison_notes(made(*rows))
    assert notes[0] == "1 failed, 2 regression, 1 suspect, 1 ok of 5 rows"
    assert [note.split()[:2] for note in notes[1:4]] == [
        ["failed:", "s/e"], ["regression:", "s/c"], ["regression:", "s/b"],
    ]  # fmt: skip
    assert notes[1].endswith("wrong: off by 1")


def test_what_changed_is_said():
    environment = run().header["environment"] | {"libraries": {"numpy": "2.2"}}
    assert "changed: library numpy: 2.1 → 2.2" in comparison_notes(compared(1.0, environment=environment))


def test_the_command_is_that_of_the_worst_regression():
    rows = [one(Verdict.FAILED, None, "a"), one(Verdict.SUSPECT, 3.0, "b"), one(Verdict.REGRESSION, 1.2, "c")]
    assert comparison_notes(made(*rows), Recipe())[-1].startswith("reproduce: convbench run s --filter s/c ")
    assert comparison_notes(made(*rows[:2]), Recipe())[-1].startswith("reproduce: convbench run s --filter s/b ")
    assert comparison_notes(made(*rows[:1]), Recipe())[-1].startswith("reproduce: convbench run s --filter s/a ")
    assert not any("reproduce" in note for note in comparison_notes(made(one(Verdict.MISSING)), Recipe()))
    assert not any("reproduce" in note for note in comparison_notes(made(*rows)))


def test_a_row_without_times_has_its_reason_alone():
    assert outcome_text(one(Verdict.INCONCLUSIVE)) == "slower"


# The command


class Offering:
    """A backend that has three algorithms for everything."""

    name = "mine"

    def __init__(self, index=None):
        self.index = index

    def probe(self):
        return None

    def device(self):
        return FakeDevice(self.index)

    def algorithms(self, case, options):
        return [Candidate(name) for name in ("auto", "gemm", "fft")]


NAMES = ("conv1", "conv11", "c[o]nv1", "conv?", "conv*")
SUITE = Suite(name="s", title="", source="", problems=tuple(SuiteProblem(name=name, problem=PROBLEM) for name in NAMES))


def rows_of(text, spec):
    """The keys of the rows that a `convbench run` of SUITE would measure."""
    words = shlex.split(text)
    assert words[:2] == ["convbench", "run"]
    given = command.make_context("run", words[2:]).params
    assert given["suites"] == ("a folder/my suite.toml",)
    assert given["specs"] == (f"{spec}:{given['specs'][0].rpartition(':')[2]}",)
    choice = selection(*(given[key] for key in ("passes", "precisions", "layouts", "epilogues", "batch", "globs")))
    (index,) = given["devices"] or (None,)
    specs = [BackendSpec(Offering(index), given["specs"][0].rpartition(":")[2], "", index)]
    found = tasks(choice.cases([SUITE]), specs, given["threads"], (given["cache"],), given["accuracy"],
                  given["workspace_limit"])  # fmt: skip
    return [task.key for task in found]


@given(
    name=st.sampled_from(NAMES), batch=st.sampled_from([1, 0, 64]),
    conv_pass=st.sampled_from(ConvPass), layout=st.sampled_from(Layout), epilogue=st.sampled_from(Epilogue),
    algorithm=st.sampled_from(["auto", "gemm"]), cache=st.sampled_from(["warm", "cold"]), threads=st.integers(1, 99),
    accuracy=st.sampled_from([1e-6, 1e-5, 1e-4]), index=st.sampled_from([None, 1, 2]),
    limit=st.sampled_from([None, 0, 1, 256 << 20, 12345]),
    spec=st.sampled_from(["mine", "./my kernel.py:Mine", "it's $(here).py:Mine"]),
)  # fmt: skip
def test_the_command_measures_exactly_that_row(
    name, batch, conv_pass, layout, epilogue, algorithm, cache, threads, accuracy, index, limit, spec
):
    epilogue = epilogue if conv_pass is ConvPass.FPROP else Epilogue.NONE
    asked = replace(case(name), problem=replace(PROBLEM, batch=batch), conv_pass=conv_pass, layout=layout,
                    epilogue=epilogue)  # fmt: skip
    key = RowKey(case=asked, backend="mine", algorithm=algorithm, device=FakeDevice(index).name, cache=cache,
                 threads=threads, accuracy=accuracy if algorithm == "auto" else None,
                 workspace_limit_bytes=limit)  # fmt: skip
    text = Recipe.of_suite(SUITE, "a folder/my suite.toml", {"mine": spec}).command(key)
    assert rows_of(text, spec) == [key]
    assert ("--batch" in text) == (batch != 1)
    without = Recipe(suites={"s": "a folder/my suite.toml"}, backends={"mine": spec}).command(key)
    assert f"--batch {batch}" in without
    assert rows_of(without, spec) == [key]


def test_a_command_in_full():
    key = row().key
    assert Recipe().command(key) == (
        "convbench run s --filter s/conv1 --pass fprop --dtype fp32 --layout ncw --epilogue none -b cpu:gemm "
        "--threads 1 --batch 1"
    )


# What fits


def widest(text):
    """Of the table itself: notes and titles are left to the terminal."""
    rule = next(line for line in text.splitlines() if line.startswith("─"))
    return len(rule)


def in_trouble():
    """Rows of every kind, some with long names."""
    base = [row(name=name) for name in (*LONG, "gone")]
    new = [row(times(1.5), name=LONG[0]), row((), name=LONG[1], status=Status.WRONG, reason="off by 1 in many places"),
           row(times(0.8), name=LONG[2], resolved="fft-tiled")]  # fmt: skip
    return run(*base), run(*new)


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_a_comparison_fits(width):
    text = render([comparison_table(compare(*in_trouble()))], "table", width=width)
    assert widest(text) <= width
    assert re.search(r"inception_4e_5x5_reduce.* failed", text)
    assert "algorithm_changed" in text
    assert re.search(r"conv2_3x3.* 1\.500 .*suspect", text)


def test_times_are_kept_where_names_are_short():
    text = render([comparison_table(compared(1.0, 1.5))], "table", width=80)
    assert re.search(r"b1 +fprop +1\.00 ms +1\.50 ms +1\.500 +\S+ +suspect +slower", text)


def test_a_wide_terminal_has_every_column():
    text = render([comparison_table(compare(*in_trouble()))], "table", width=200)
    assert "left out" not in text
    assert "wrong: off by 1 in many places" in text


# Several runs


def test_several_runs_beside_one():
    series = [(f"a-rather-long-name-{n}.jsonl", compared(1.0, factor)) for n, factor in enumerate((1.0, 1.2, 0.9))]
    table = series_table("base.jsonl", series)
    text = render([table], "table", width=80)
    assert widest(text) <= 80
    lines = text.splitlines()
    assert re.split(r"\s{2,}", lines[1]) == [
        "problem", "pass", "algorithm", "base", "run 1", "run 2", "run 3", "gravest",
    ]  # fmt: skip
    assert re.split(r"\s{2,}", lines[4]) == [
        "b1", "fprop", "cpu:gemm", "1.00 ms", "1.000", "1.200", "0.900", "suspect",
    ]  # fmt: skip
    assert "run 2: a-rather-long-name-1.jsonl: × 1.095 (geometric mean); 1 suspect, 1 ok of 2 rows" in lines
    assert table.alarming == [1]
    assert "\x1b[1;31m" in render([table], "table", color=True)


def test_several_runs_fit_with_long_names_and_verdicts():
    one = compare(*in_trouble())
    text = render([series_table("base.jsonl", [(name, one) for name in "abc"])], "table", width=80)
    assert widest(text) <= 80
    assert re.search(r"inception_4e_5x5_reduce.* failed", text)
    assert "left out for want of width: pass, algorithm\n" in text  # what is the same of all rows goes first


def test_rows_that_only_some_runs_have():
    first = compare(run(row(name="a"), row(name="b")), run(row(name="a")))
    second = compare(run(row(name="a"), row(name="b")), run(row(name="b"), row(name="c")))
    rows = {fact["problem"]: fact for fact in series_table("base", [("one", first), ("two", second)]).rows}
    assert [*rows] == ["a", "b", "c"]
    assert (rows["a"]["ratio_1"], rows["a"]["ratio_2"], rows["a"]["verdict"]) == (1.0, None, Verdict.MISSING)
    assert (rows["c"]["verdict_1"], rows["c"]["verdict_2"]) == (None, Verdict.NEW)
    assert rows["b"]["base_s"] == pytest.approx(1e-3, rel=0.01)


def test_a_series_as_csv_has_a_column_per_run():
    header = render([series_table("base", [("x", compared(1.0)), ("y", compared(1.1))])], "csv").splitlines()[0]
    assert header == (
        "suite,problem,pass,dtype,layout,epilogue,cache,base_s,ratio_1,ratio_2,verdict,verdict_1,verdict_2,backend,"
        "algorithm,device,threads"
    )
