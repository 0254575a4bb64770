"""The bars of `convbench run` on a terminal: what is being done fits on a line, and its figures are whole."""

import io
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from plots import row

from convbench.cli.progress import described, progress
from convbench.result import COLD

LONG = "a_very_long_name_of_a_block/and_of_a_layer_in_it"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(monkeypatch, columns, name, doing="time"):
    """The lines of bars on a terminal of so many columns."""
    key = row(name, "winograd-4x3").key
    task = SimpleNamespace(index=0, key=key, candidate=SimpleNamespace(reason=None))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with progress([task], quiet=False) as show:
        show(SimpleNamespace(doing=doing, index=0, share=0.5))
    uncoloured = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", uncoloured).splitlines()


@pytest.mark.parametrize("columns", [80, 100, 160])
@pytest.mark.parametrize("name", ["a", LONG])
def test_a_line_fits_the_terminal_with_its_algorithm_and_times_whole(monkeypatch, columns, name):
    lines = drawn(monkeypatch, columns, name)
    assert any(re.search(r"cpu:winograd-4x3 .* 50% \d:\d\d:\d\d left (-:--:--|\d:\d\d:\d\d)$", line) for line in lines)
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("room", [30, 40, 60, 200])
def test_a_case_gives_way_and_the_algorithm_never(room):
    key = replace(row(LONG, "winograd").key, cache=COLD)
    text = described("verify", key, room)
    assert text.startswith("verify ti")
    assert text.endswith(" cpu:winograd cold")
    assert len(text) <= max(room, len("verify ") + 8 + len(" cpu:winograd cold"))
    assert ("…" in text) is (room < 100)
