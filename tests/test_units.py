"""Units: SI prefixes, formatting, parsing, and what a parse error says."""

import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convbench.errors import InputError
from convbench.units import (
    format_bytes,
    format_si,
    format_time,
    parse_bytes,
    parse_duration,
    parse_fraction,
    parse_limit,
    significant,
    time_unit,
)

PROPERTY = settings(max_examples=150)
HALF_DIGIT = 0.005 * (1 + 1e-9)  # three significant digits: the largest relative error of rounding, at 1.00


def relative_error(got, expected):
    return abs(got - expected) / abs(expected)


# Formatting


@pytest.mark.parametrize(("power", "prefix"), list(enumerate(["", "k", "M", "G", "T", "P"])))
def test_each_si_prefix_is_a_thousand_of_the_one_before(power, prefix):
    assert format_si(1000**power, "flop/s") == f"1.00 {prefix}flop/s"
    assert format_si(2.5 * 1000**power, "B/s") == f"2.50 {prefix}B/s"
    assert format_si(-(1000**power), "B/s") == f"-1.00 {prefix}B/s"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e9, "1.00 GB/s"),  # 10⁹ bytes in 1 s; not 0.93, which would be GiB/s
        (0, "0 B/s"),
        (-0.0, "0 B/s"),
        (0.5, "0.500 B/s"),
        (1e-6, "0.00000100 B/s"),
        (1, "1.00 B/s"),
        (12.34, "12.3 B/s"),
        (999, "999 B/s"),
        (123_456, "123 kB/s"),
        (-123_456, "-123 kB/s"),
        (1e18, "1000 PB/s"),  # no prefix above P
        (999.4, "999 B/s"),
        (999.6, "1.00 kB/s"),  # the prefix is that of the rounded value
        (999_999_999, "1.00 GB/s"),
        (-999_999_999, "-1.00 GB/s"),
        (math.nan, "nan B/s"),
    ],
)
def test_format_si(value, text):
    assert format_si(value, "B/s") == text


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_formatted_as_such(value):
    for text in (format_si(value, "B/s"), format_time(value), format_bytes(value)):
        assert text.startswith(str(value) + " ")


def test_format_si_takes_a_number_of_digits():
    assert format_si(1_234_567, "B", digits=2) == "1.2 MB"
    assert format_si(1_234_567, "B", digits=5) == "1.2346 MB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (1, "1.00 s"),
        (120, "120 s"),
        (1e6, "1000000 s"),
        (0.00123, "1.23 ms"),
        (1e-3, "1.00 ms"),
        (1e-6, "1.00 µs"),
        (42.42e-6, "42.4 µs"),
        (1e-9, "1.00 ns"),
        (1e-12, "0.00100 ns"),
        (-0.002, "-2.00 ms"),
        (0.9994, "999 ms"),
        (0.99999, "1.00 s"),  # the unit is that of the rounded value
        (math.nan, "nan ns"),
    ],
)
def test_format_time(seconds, text):
    assert format_time(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [
        (0, (1.0, "s")),
        (3, (1.0, "s")),
        (0.9, (1e-3, "ms")),
        (-0.9, (1e-3, "ms")),
        (2e-6, (1e-6, "µs")),
        (1e-13, (1e-9, "ns")),
    ],
)
def test_time_unit(seconds, unit):
    assert time_unit(seconds) == unit


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1000 * 1024, "1000 KiB"),
        (1 << 20, "1.00 MiB"),
        (1 << 30, "1.00 GiB"),
        (80 << 30, "80.0 GiB"),
        (1 << 40, "1.00 TiB"),
        (1 << 50, "1024 TiB"),
        (-2048, "-2.00 KiB"),
        (math.nan, "nan B"),
    ],
)
def test_format_bytes(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.01234, 3, "0.0123"),
        (1.234, 3, "1.23"),
        (123.4, 3, "123"),
        (12340, 3, "12340"),
        (9.996, 3, "10.0"),
        (0.9999, 3, "1.00"),
        (99.96, 3, "100"),
        (9.6, 1, "10"),
        (-9.996, 3, "-10.0"),
        (1000, 3, "1000"),
        (0, 3, "0"),
        (math.inf, 3, "inf"),
        (math.nan, 3, "nan"),
    ],
)
def test_significant(value, digits, text):
    assert significant(value, digits) == text


@PROPERTY
@given(
    st.floats(1e-300, 1e300) | st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6),
    st.integers(1, 8),
)
@example(9.996, 3)
@example(0.0009999, 2)
@example(5e-324, 3)
def test_significant_rounds_to_the_digits_asked_for_and_shows_no_exponent(value, digits):
    text = significant(value, digits)
    assert re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text)
    whole = len(text.lstrip("-").partition(".")[0].lstrip("0"))
    shown = len(text.lstrip("-").replace(".", "").lstrip("0"))
    assert shown == max(digits, whole)
    assert relative_error(float(text), value) <= 0.5 * 10.0 ** (1 - digits) * (1 + 1e-9) or abs(value) < 1e-307


# Parsing


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1024", 1024),
        ("1024B", 1024),
        ("8GiB", 8 << 30),
        ("500MB", 500_000_000),
        (" 1 KiB ", 1024),
        ("1kiB", 1024),
        ("1kB", 1000),
        ("1KB", 1000),
        ("2TB", 2 * 10**12),
        ("2TiB", 2 << 40),
        (".5GiB", 1 << 29),
        ("0.5 MiB", 1 << 19),
        ("1e3", 1000),
        ("1E+3kB", 1_000_000),
        ("0.001", 1),  # a positive size is at least one byte
    ],
)
def test_parse_bytes(text, count):
    got = parse_bytes(text)
    assert (got, type(got)) == (count, int)


def test_each_size_unit_is_a_thousand_or_1024_of_the_one_before():
    for units, step in ((["B", "kB", "MB", "GB", "TB"], 1000), (["B", "KiB", "MiB", "GiB", "TiB"], 1024)):
        assert [parse_bytes(f"1{unit}") for unit in units] == [step**power for power in range(5)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("3us", 3e-6),
        ("3µs", 3e-6),
        ("5ns", 5e-9),
        ("2min", 120),
        ("1 h", 3600),
        ("1e-3s", 1e-3),
    ],
)
def test_parse_duration(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-15)


@pytest.mark.parametrize(("text", "fraction"), [("1%", 0.01), ("0.01", 0.01), ("12.5 %", 0.125), ("1e-3", 1e-3)])
def test_parse_fraction(text, fraction):
    assert parse_fraction(text) == pytest.approx(fraction, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("0 GiB", 0), ("0.4", 0), ("256MiB", 256 << 20), ("1.5kB", 1500)]
)
def test_parse_limit(text, count):
    assert parse_limit(text) == count


@pytest.mark.parametrize("text", ["9223372036854775807", "9223372036854775808", "1e30TiB", "1048577TiB"])
def test_limits_that_no_memory_has_are_refused(text):
    with pytest.raises(InputError, match="is too much; allowed are sizes of up to 1048576TiB"):
        parse_limit(text)


PARSERS = {
    parse_bytes: ("size", ["kB", "MiB", "GB", "TiB", "8GiB"]),
    parse_limit: ("size", ["kB", "MiB", "GB", "TiB", "256MiB"]),
    parse_duration: ("duration", ["s", "ms", "µs", "min", "h", "2s"]),
    parse_fraction: ("fraction", ["%", "1%"]),
}
BAD_TEXT = [
    *("", " ", "abc", "GiB", "-1", "-1s", "nan", "inf", "-inf", "NaN%", "1 furlong", "1,5", "1..5", "1.5.2"),
    *("0x10", "1 2", "1_000", "½", "١", "1\n2", "1e", "--", "%", "2 s s", "8gib", "8 Gib"),
]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("text", BAD_TEXT)
def test_a_parse_error_is_one_line_that_names_what_is_allowed(parse, text):
    kind, allowed = PARSERS[parse]
    with pytest.raises(InputError) as caught:
        parse(text)
    message = str(caught.value)
    assert "\n" not in message
    assert kind in message
    assert repr(text) in message
    assert all(re.search(rf"(?<!\w){re.escape(unit)}(?!\w)", message) for unit in allowed)


@pytest.mark.parametrize("parse", [parse for parse in PARSERS if parse is not parse_limit])
@pytest.mark.parametrize("text", ["0", "0.0", "0e5", "1e400", "1e-400"])
def test_zero_and_what_a_float_cannot_hold_are_refused(parse, text):
    with pytest.raises(InputError, match=rf"must be a number above 0, got '{re.escape(text)}'$"):
        parse(text)


@PROPERTY
@given(st.text(max_size=20) | st.from_regex(r"[-+]?[0-9.]{0,6}(e[-+]?[0-9]{1,4})? ?[a-zA-Z%µ]{0,4}", fullmatch=True))
def test_any_text_parses_to_a_positive_number_or_is_refused_in_one_line(text):
    for parse in PARSERS:
        message, value = "", 1.0
        try:
            value = parse(text)
        except InputError as error:
            message = str(error)
        assert "\n" not in message
        assert (parse is parse_limit and value == 0) or 0 < value < math.inf


# Round trips


@PROPERTY
@given(st.integers(1, 2**50))
@example(1023)
@example(2**20 - 1)
def test_bytes_survive_a_round_trip(count):
    parsed = parse_bytes(format_bytes(count))
    assert parsed == count if count < 1024 else relative_error(parsed, count) <= HALF_DIGIT


@PROPERTY
@given(st.integers(1000, 999 * 10**12))
@example(999_999_999)
def test_si_bytes_survive_a_round_trip(count):
    assert relative_error(parse_bytes(format_si(count, "B")), count) <= HALF_DIGIT


@PROPERTY
@given(st.floats(1e-9, 1e6))
@example(0.99999)
@example(3.2e-7)
def test_durations_survive_a_round_trip(seconds):
    assert relative_error(parse_duration(format_time(seconds)), seconds) <= HALF_DIGIT


@PROPERTY
@given(st.integers(1, 10**6 - 1))
def test_fractions_survive_a_round_trip(millionths):
    assert parse_fraction(f"{millionths / 1e4:.4f}%") == pytest.approx(millionths / 1e6, rel=1e-12)


@pytest.mark.parametrize("text", ["100%", "1", "500%"])
def test_a_fraction_is_below_one(text):
    with pytest.raises(InputError, match=f"fraction must be below 100%, got '{text}'"):
        parse_fraction(text)


@PROPERTY
@given(st.integers(1, 10**5), st.sampled_from([("kB", 10), ("MB", 10**4), ("GB", 10**7), ("TB", 10**10)]))
@example(201, ("kB", 10))  # 2.01 · 1000 is a hair below 2010 in floating point
def test_a_decimal_size_is_exact_to_the_byte(hundredths, unit):
    name, hundredth = unit
    assert parse_bytes(f"{hundredths // 100}.{hundredths % 100:02d}{name}") == hundredths * hundredth
