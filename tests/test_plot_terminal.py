"""Plots of characters: golden text at 80 columns, colours only where asked for, marks where values are."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plots import CEILINGS, many, row, run_of, scene_of
from rich.cells import cell_len

from convbench.errors import InputError
from convbench.render.plot import SCENE_KINDS
from convbench.render.plot.characters import Characters, ticks
from convbench.render.plot.terminal import HOLLOW, LISTED, SOLID, terminal

GOLDEN = Path(__file__).parent / "data" / "plots.txt"
ANSI = re.compile(r"\x1b\[[0-9;]*m")

ROWS = [
    replace(each, phases=((1e-4, 3e-4),)) if each.key.algorithm == "gemm" else each
    for each in many(5, "gemm", "winograd", passes=("fprop", "dgrad"), phases={"gather": 1.0, "product": 2.0})
]
ROWS += [
    replace(row("tiny", channels=1, seconds=5e-6), floor_s=4e-6),
    row("tiny", "winograd", channels=1, seconds=8e-6),
]


def whole():
    """Every kind of plot, one after another."""
    scene = scene_of(*ROWS)
    return "\n".join(f"--kind {kind}\n\n{terminal(scene, kind, 80, color=False)}" for kind in SCENE_KINDS)


def test_plots_as_text():
    assert whole() == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_colours_add_nothing_but_colours(kind):
    scene = scene_of(*ROWS)
    plain, coloured = (terminal(scene, kind, 80, color) for color in (False, True))
    assert ANSI.sub("", coloured) == plain
    assert coloured != plain
    assert "\x1b" not in plain


@pytest.mark.parametrize("kind", SCENE_KINDS)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_plot_keeps_to_its_width(kind, width):
    rows = [
        *ROWS,
        *many(
            30, "gemm", "fft", passes=("fprop", "wgrad"), phases={"a rather long name": 1.0, "b": 0.5}, suite="second"
        ),
    ]
    for line in terminal(scene_of(*rows), kind, width, color=False).splitlines():
        assert cell_len(line) <= width, line


def test_a_mark_per_bound_the_longest_time_on_top():
    rows = [row(f"twin-{place}", seconds=1e-3 * (1 + place / 1000)) for place in range(LISTED + 5)]
    text = terminal(scene_of(*rows), "roofline", 80, color=False)
    plot, listed = text.split("longest times")
    assert sum(plot.count(mark) for mark in SOLID.values()) == 1
    assert f"twin-{LISTED + 4} " in listed.splitlines()[2]
    assert "and 5 more rows" in listed


def test_an_unknown_work_is_hollow():
    text = terminal(scene_of(replace(row("a"), work=None)), "roofline", 80, color=False)
    plot = text.split("longest times")[0]
    assert not any(mark in plot for mark in SOLID.values())
    assert any(mark in plot for mark in HOLLOW.values())


def test_roofs_are_named_on_their_lines():
    lines = terminal(scene_of(*ROWS), "roofline", 80, color=False).split("executed flop per byte")[0].splitlines()
    for text in ("fp32 200 Gflop/s", "L2 100 GB/s", "L3 60.0 GB/s", "DRAM 25.0 GB/s"):
        assert sum(text in line for line in lines) == 1
    (peak,) = (line for line in lines if "200 Gflop/s" in line)
    assert peak.strip().startswith("200 ┤")


def test_wide_letters_keep_bars_aligned():
    rows = [
        row("畳み込み", "gemm"),
        row("畳み込み", "fft", seconds=2e-3),
        row("b", "gemm"),
        row("b", "fft", seconds=5e-4),
    ]
    lines = [line for line in terminal(scene_of(*rows), "speedup", 80, color=False).splitlines() if "│" in line]
    assert len({cell_len(line.split("│")[0]) for line in lines}) == 1


def test_what_is_missing_is_said_as_in_pictures():
    bare = scene_of(row("a"))
    for kind in ("speedup", "phases"):
        with pytest.raises(InputError):
            terminal(bare, kind, 80, color=False)
    with pytest.raises(InputError, match="no curve"):
        terminal(replace(bare, run=run_of(row("a"), ceilings=CEILINGS | {"curve": []})), "ceilings", 80, color=False)


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e9), st.floats(0, 1))
def test_marks_are_where_values_are(low, span, share):
    cells = Characters(80, 18, (low, low * span), (1.0, 10.0))
    cells.put(low * span**share, 10.0, "●")
    line = cells.lines("x", "y", str, str, color=False)[1]
    column = line.index("●") - line.index("┤" if "┤" in line else "│") - 1
    assert abs(column - share * (cells.width - 1)) <= 0.5 + 1e-6


@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e12))
def test_ticks_are_few_and_inside(low, span):
    found = ticks(low, low * span, 6)
    assert len(found) <= 6
    assert found == sorted(found)
    assert all(low <= tick <= low * span for tick in found)


if __name__ == "__main__":
    GOLDEN.write_text(whole(), encoding="utf-8")
