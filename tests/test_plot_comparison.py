"""The plot of a comparison: what has a line, where marks and intervals are, what is said of the rest."""

import io
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from stored import case, row, run, times

from convbench.cli import main
from convbench.compare import Compared, Comparison, Reason, Verdict, compare
from convbench.errors import InputError
from convbench.problem import ConvPass
from convbench.render.plot import SUFFIXES, THEMES, comparison_picture
from convbench.render.plot.comparison import draw
from convbench.render.plot.ratios import MOST_NAMED, STEPS, chosen, ratio_ticks, ratios_of
from convbench.render.plot.scene import Choice
from convbench.render.plot.style import THEME, VERDICT_MARKERS, drawing
from convbench.render.plot.terminal import VERDICT_MARKS, comparison_terminal
from convbench.result import RowKey, Status

GOLDEN = Path(__file__).parent / "data" / "run-v1.jsonl"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(autouse=True)
def our_settings():
    with drawing(THEME["light"]):
        yield


def changed(ratio, verdict=Verdict.OK, name="conv1", interval=None, threshold=0.05, launches=(), **key):
    """A compared row; `ratio` None where it has none."""
    of = {"backend": "cpu", "algorithm": "gemm", "device": "cpu"} | key
    return Comparison(
        key=RowKey(**({"case": case(name)} | of)), base=None, new=None, verdict=verdict, reason=Reason.WITHIN_NOISE,
        ratio=ratio, interval=interval, threshold=threshold, launches=launches,
    )  # fmt: skip


def compared(*rows):
    return Compared(rows=rows, canaries={}, changed=())


EVERY = compared(
    *(
        changed(1.3 - place / 10, verdict, f"conv{place}", interval=(1.2 - place / 10, 1.45 - place / 10))
        for place, verdict in enumerate(VERDICT_MARKERS)
    ),
    changed(None, Verdict.FAILED, "broken"), changed(None, Verdict.MISSING, "gone"),
    changed(None, Verdict.NEW, "novel"), changed(None, Verdict.UNTIMED, "nowhere"),
)  # fmt: skip


def wide(count):
    """Many rows around 1; one suspect and one improved row are nearer to it than most."""
    rows = [changed(math.exp((place - count / 2) / count), name=f"conv{place}") for place in range(count)]
    return compared(*rows, changed(1.001, Verdict.SUSPECT, "late"), changed(1 / 1.001, Verdict.IMPROVED, "early"))


def labelled(axes, pattern):
    found = [artist for artist in axes.get_children() if re.fullmatch(pattern, str(artist.get_label()))]
    assert found, pattern
    return found


def text_of(of, width=80):
    return comparison_terminal(of, "new beside base", width, color=False)


# What is shown


def test_rows_stand_from_slowest_to_fastest_with_their_names():
    old = run(row(name="a"), row(name="b"), row(name="c"), row(name="d"))
    new = run(row(times(1.02), name="a"), row(times(0.7), name="b"), row(times(1.3), name="c"), row(name="d"))
    ratios = ratios_of(compare(old, new), "t")
    assert [of.name for of in ratios.rows] == ["c fprop", "a fprop", "d fprop", "b fprop"]
    assert [of.value for of in ratios.rows] == pytest.approx([1.3, 1.02, 1.0, 0.7])
    assert [of.verdict for of in ratios.rows] == [Verdict.SUSPECT, Verdict.OK, Verdict.OK, Verdict.IMPROVED]
    assert ratios.factor == pytest.approx((1.3 * 1.02 * 0.7) ** 0.25)
    assert ratios.subtitle.startswith("1 suspect, 1 improved, 2 ok of 4 rows\nratio: new / base of the rounds'")


def test_a_name_says_what_differs():
    first = case("conv1")
    rows = [
        changed(1.0),
        changed(1.1, algorithm="fft"),
        changed(1.2, case=replace(first, conv_pass=ConvPass.DGRAD)),
        changed(1.3, cache="cold"),
    ]
    names = [of.name for of in ratios_of(compared(*rows), "t").rows]
    assert names == [
        "conv1 cold fprop cpu:gemm", "conv1 warm dgrad cpu:gemm", "conv1 warm fprop cpu:fft",
        "conv1 warm fprop cpu:gemm",
    ]  # fmt: skip


def test_what_has_no_ratio_or_no_interval_is_said():
    assert ratios_of(EVERY, "t").notes == [
        "without a ratio, failed: broken fprop", "without a ratio, missing: gone fprop",
        "without a ratio, new: novel fprop", "without a ratio, untimed: nowhere fprop",
    ]  # fmt: skip
    assert ratios_of(compared(changed(1.0), changed(1.0, name="b", interval=(0.9, 1.1))), "t").notes == [
        "without an interval: 1 of 2 ratios; too little was measured"
    ]
    moved = compare(run(row()), run(row(times(1.3)), canary=2e-3))
    assert "a canary moved by more than 5 %" in ratios_of(moved, "t").notes[-1]


def test_the_caption_says_when_launches_made_the_ratios():
    of = ratios_of(compared(changed(1.2, launches=(1.1, 1.2, 1.3), interval=(1.1, 1.3))), "t")
    assert "the median of 3 launches of fresh pairs of processes" in of.subtitle
    assert "first quartile" not in of.subtitle


@pytest.mark.parametrize("count", [MOST_NAMED - 2, MOST_NAMED - 1, 342])
def test_many_rows_leave_the_middle_to_one_line(count):
    everything = wide(count)
    ratios = ratios_of(everything, "t")
    assert len(ratios.rows) == min(MOST_NAMED, count + 2)
    assert len(ratios.rows) + len(ratios.others) == count + 2
    assert {"late fprop", "early fprop"} <= {of.name for of in ratios.rows}  # a verdict goes before a large ratio
    named = [abs(math.log(of.value)) for of in ratios.rows if of.verdict is Verdict.OK]
    assert max((abs(math.log(of.value)) for of in ratios.others), default=0) <= min(named)
    lines = [line for line, _ in ratios.lines()]
    assert lines == [
        line for line in range(len(lines) + bool(ratios.others)) if not ratios.others or line != ratios.place
    ]
    values = [of.value for of in ratios.rows]
    assert values == sorted(values, reverse=True)


def test_a_choice_narrows_rows_and_factor():
    of = compared(changed(1.2), changed(0.9, name="b"))
    assert chosen(of, Choice(globs=("b",)), "a, b").factor == pytest.approx(0.9)
    with pytest.raises(InputError, match=r"a, b: no row .* passes fprop, problems conv1, b"):
        chosen(of, Choice(passes=(ConvPass.WGRAD,)), "a, b")


# The axis


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8), st.floats(0.01, 0.9), st.floats(1.1, 1e6))
def test_the_axis_holds_every_ratio_and_1(values, less, more):
    of = compared(
        *(changed(value, name=f"c{i}", interval=(value * less, value * more)) for i, value in enumerate(values))
    )
    low, high = ratios_of(of, "t").limits()
    assert low < min([1 / 1.1, *values])
    assert high > max([1.1, *values])
    needed = math.log(max([1.15, *values])) - math.log(min([1 / 1.15, *values]))
    assert math.log(high / low) <= 2.2 * needed  # long intervals do not squeeze the marks


def test_an_interval_that_begins_at_0_is_drawn():
    of = compared(changed(1.0, interval=(0.0, 2.0)))
    assert "─" in text_of(of)
    assert draw(ratios_of(of, "t"), THEME["light"]).axes


@given(st.floats(0.01, 1 / 1.15), st.floats(1.15, 100.0), st.integers(6, 20))
def test_ticks_are_apart_and_1_is_one(low, high, most):
    found = ratio_ticks(low, high, most)
    assert 1.0 in found
    assert found == sorted(found)
    assert all(low <= tick <= high for tick in found)
    assert all(math.log(b / a) * most >= math.log(high / low) for a, b in pairwise(found))


def test_ticks_suit_the_span():
    assert ratio_ticks(0.84, 1.17, 18) == [0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15]
    assert ratio_ticks(0.49, 2.1, 18) == [0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0]
    assert ratio_ticks(0.3, 3.5, 8) == [0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8]
    assert ratio_ticks(0.3, 30.0, 8) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    assert all(list(steps) == sorted(steps) for steps in STEPS)


# The picture


def test_marks_and_intervals_are_where_values_are():
    (axes,) = draw(ratios_of(EVERY, "t"), THEME["light"]).axes
    rows = EVERY.rows[: len(VERDICT_MARKERS)]
    for line, of in enumerate(rows):
        (mark,) = labelled(axes, f"_row-{of.verdict}")
        assert tuple(mark.get_xydata()[0]) == pytest.approx((of.ratio, line))
        marker, solid = VERDICT_MARKERS[of.verdict]
        assert mark.get_marker() == marker
        assert (mark.get_markerfacecolor() == THEME["light"].verdicts[of.verdict]) is solid
    intervals = labelled(axes, "_interval")
    assert [tuple(line.get_xdata()) for line in intervals] == [pytest.approx(of.interval) for of in rows]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [f"conv{line} fprop" for line in range(len(rows))]


def test_the_band_is_each_rows_threshold_and_the_factor_has_its_value():
    (axes,) = draw(ratios_of(compared(changed(1.2), changed(0.9, name="b", threshold=0.2)), "t"), THEME["light"]).axes
    (band,) = labelled(axes, "_threshold")
    corners = {tuple(corner.round(6)) for corner in band.get_paths()[0].vertices}
    for line, threshold in ((0, 0.05), (1, 0.2)):
        for edge in (1 + threshold, 1 / (1 + threshold)):
            assert {(round(edge, 6), line - 0.5), (round(edge, 6), line + 0.5)} <= corners
    (factor,) = labelled(axes, "_factor")
    (label,) = labelled(axes, "_factor-label")
    assert list(factor.get_xdata()) == pytest.approx([(1.2 * 0.9) ** 0.5] * 2)
    assert label.get_text() == "all rows × 1.039"


def test_the_others_have_a_tick_each_on_their_line():
    ratios = ratios_of(wide(100), "t")
    (axes,) = draw(ratios, THEME["light"]).axes
    others = labelled(axes, "_other")
    assert len(others) == 102 - MOST_NAMED
    assert {line for mark in others for line in mark.get_ydata()} == {ratios.place}
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert len(names) == MOST_NAMED + 1
    assert sorted(axes.get_yticks()) == list(range(MOST_NAMED + 1))
    assert dict(zip(axes.get_yticks(), names, strict=True))[ratios.place] == "the other 42"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("theme", THEMES)
def test_a_file_is_the_same_each_time_and_says_what_it_shows(suffix, theme):
    first = comparison_picture(EVERY, "new beside <base>", suffix, theme)
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": None}):
        assert comparison_picture(EVERY, "new beside <base>", suffix, theme) == first
    if suffix == ".svg":
        text = first.decode()
        assert "<title>new beside &lt;base&gt;: comparison</title>" in text
        assert re.search(r"<desc>Ratios of times, new over base, of 6 rows.*1 regression, 1 suspect.*</desc>", text)


@pytest.mark.parametrize("theme", THEMES)
def test_nothing_is_cut_off(theme):
    with drawing(THEME[theme]):
        for of in (EVERY, wide(342)):
            figure = draw(ratios_of(of, "t"), THEME[theme])
            texts = [*figure.texts, *figure.axes[0].texts, *figure.axes[0].get_yticklabels()]
            for text in texts:
                if text.get_text():
                    box = text.get_window_extent()
                    assert figure.bbox.x0 <= box.x0, text
                    assert box.x1 <= figure.bbox.x1, text


def test_without_a_ratio_there_is_a_header_and_what_happened():
    of = compared(changed(None, Verdict.FAILED, "broken"))
    assert matplotlib.image.imread(io.BytesIO(comparison_picture(of, "t", ".png"))).size
    assert not draw(ratios_of(of, "t"), THEME["light"]).axes
    assert text_of(of).splitlines()[-1] == "without a ratio, failed: broken fprop"


# The terminal


def test_as_text():
    lines = text_of(EVERY).splitlines()
    assert lines[0] == "new beside base"
    assert lines[1].startswith("1 failed, 1 missing, 1 regression, 1 suspect, 1 inconclusive, 1 algorithm")
    rows = [line for line in lines if re.match(r"conv\d fprop", line)]
    assert [line.split()[-1] for line in rows] == ["1.300", "1.200", "1.100", "1.000", "0.900", "0.800"]
    for line, (mark, _) in zip(rows, VERDICT_MARKS.values(), strict=True):
        assert mark in line
        assert "─" in line
    places = [line.index(mark) for line, (mark, _) in zip(rows, VERDICT_MARKS.values(), strict=True)]
    assert places == sorted(places, reverse=True)
    (axis,) = (place for place, line in enumerate(lines) if "┴" in line)
    under = lines[axis + 1].index(" 1 ") + 1
    assert lines[axis][under] == "┴"
    assert under == places[3]  # the row whose ratio is 1 stands above the axis's 1
    assert "▶ regression · ▷ suspect" in "\n".join(lines)
    assert "┆ all rows × 1.036" in "\n".join(lines).replace("\n", " ")


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "of", [EVERY, wide(342), compared(changed(1.0, name="畳み込み" * 20))], ids=["every", "many", "long"]
)
def test_the_text_keeps_to_its_width_and_colours_add_nothing_else(of, width):
    plain, coloured = (comparison_terminal(of, "new beside base", width, color) for color in (False, True))
    assert ANSI.sub("", coloured) == plain != coloured
    assert all(cell_len(line) <= width for line in plain.splitlines())
    assert plain.count("the other") == (of is not EVERY and len(of.rows) > MOST_NAMED)


# The command


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.jsonl").write_text(GOLDEN.read_text())
    Path("new.jsonl").write_text(GOLDEN.read_text())
    Path("other.jsonl").write_text(GOLDEN.read_text().replace("0123456789ab", "ba9876543210"))


def plot(*arguments):
    return CliRunner().invoke(main, ["plot", "--kind", "comparison", *arguments], prog_name="convbench")


def test_two_runs_are_compared(runs):
    result = plot("base.jsonl", "new.jsonl")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("new.jsonl beside base.jsonl\n")
    assert " 1.000\n" in result.stdout
    assert plot("base.jsonl", "base.jsonl").stdout.startswith("base.jsonl beside base.jsonl\n")
    assert plot("base.jsonl", "new.jsonl", "-o", "a.svg", "--theme", "dark").exit_code == 0
    assert b"new.jsonl beside base.jsonl: comparison" in Path("a.svg").read_bytes()


def test_rows_are_chosen(runs):
    whole = plot("base.jsonl", "new.jsonl").stdout
    part = plot("base.jsonl", "new.jsonl", "--pass", "fprop").stdout
    assert "dgrad" in whole
    assert "dgrad" not in part


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["base.jsonl"], "--kind comparison is of two result files, BASE and NEW; got 1"),
        (2, ["base.jsonl", "new.jsonl", "other.jsonl"], "is of two result files, BASE and NEW; got 3"),
        (2, ["base.jsonl", "new.jsonl", "--baseline", "cpu:gemm"], "--baseline belongs to --kind speedup"),
        (1, ["base.jsonl", "none.jsonl"], "none.jsonl"),
        (1, ["base.jsonl", "new.jsonl", "--filter", "zz"], "base.jsonl, new.jsonl: no row"),
        (4, ["base.jsonl", "other.jsonl"], "other.jsonl: not comparable: machine"),
        (4, ["base.jsonl", "other.jsonl", "-o", "a.svg"], "other.jsonl: not comparable: machine"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(runs, code, arguments, message):
    result = plot(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert message in error
    assert not Path("a.svg").exists()


def test_broken_rows_have_no_place_on_the_axis():
    old = run(row(name="a"), row(name="b"))
    new = run(row(name="a"), row((), name="b", status=Status.FAILED, reason="no luck"))
    text = text_of(compare(old, new))
    assert "without a ratio, failed: b fprop" in text
    assert not re.search(r"^b fprop", text, re.MULTILINE)
