"""Messages: one line that a terminal shows as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.errors import ConvbenchError, InputError, UnsupportedError, printable, shown, unknown_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv1 – 3×3, µs", "conv1 – 3×3, µs"),
        ("one\ntwo\r\nthree\tfour\u2028five\xa0six", "one two three four five six"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J\x07\x00\x7f", r"\x9b2J\x07\x00\x7f"),
        ("\u202eevil\u200b", r"\u202eevil\u200b"),
        ("\ud800", r"\ud800"),
        (r"C:\x1b", r"C:\x1b"),
        ("", ""),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected


@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Zs"])))
def test_what_is_printable_is_one_line_and_stays(text):
    got = printable(text)
    assert got.isprintable()
    assert printable(got) == got
    assert got == text or not text.isprintable()


@pytest.mark.parametrize("kind", [ConvbenchError, InputError, UnsupportedError])
def test_an_error_is_one_line(kind):
    assert str(kind("two\nlines \x1b[2J")) == r"two lines \x1b[2J"
    assert str(kind(KeyError("x"))) == "'x'"


def test_shown_is_short_whatever_it_is():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for value in ("x" * 10_000, 10**5000, nested, {"a": "\n"}):
        assert len(shown(value)) <= 200
        assert shown(value).isprintable()


def test_an_unknown_name_may_be_long():
    message = str(unknown_name("key", "a" * 1_000_000, ["batch"]))
    assert len(message) < 300
