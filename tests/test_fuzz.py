"""Files of users may hold anything: each is read, or refused with one InputError, in time and memory to its size.

`make fuzz` runs the same properties longer: CONVBENCH_FUZZ is how many cases of each there are, 300 if it is not set.
"""

import contextlib
import json
import os
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from convbench.errors import InputError
from convbench.journal import fold
from convbench.render import FORMATS, render
from convbench.render.results import backends_table, rows_table, totals_table
from convbench.suite import builtin_suites, parse_suite

CASES = int(os.environ.get("CONVBENCH_FUZZ", "300"))
FUZZ = settings(
    max_examples=CASES, database=None, derandomize=CASES == 300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip
GOLDEN = [path.read_bytes() for path in sorted((Path(__file__).parent / "data").glob("run-v*.jsonl"))]
SUITES = [entry.read_bytes() for entry in builtin_suites().values()]
DEEP = 20_000


def one_line(error, where):
    message = str(error)
    assert where in message
    assert message.isprintable(), message
    assert len(message) < 3000


# Journals


def check_journal(content):
    """Reads and can be shown in every format, or is refused in one line."""
    try:
        run = fold(content, "run.jsonl")
    except InputError as error:
        one_line(error, "run.jsonl")
        return None
    tables = [table for table in (rows_table(run), totals_table(run), backends_table(run)) if table]
    for output_format in FORMATS:
        text = render(tables, output_format, width=100)
        assert text.replace("\n", "").isprintable()
    found = json.loads(render(tables, "json"), parse_constant=pytest.fail)
    assert len(found["rows"]) == len(run.rows)
    return run


TOKENS = [
    b"null", b"-1", b"1e999", b"-1e308", b"1e-308", b"[]", b"{}", b'"', b"0", b"9" * 400, b"true", b"NaN", b"\\u001b",
    b"\\ud800", b"\x00", b"\xff", b"\n", b"[" * 50, b'{"a":' * 50, "é".encode("utf-16"), b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
]  # fmt: skip
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "duplicate", "reverse", "flip"]),
        st.integers(0, 1 << 16),
        st.integers(1, 60),
        st.binary(min_size=1, max_size=6) | st.sampled_from(TOKENS),
    ),
    min_size=1,
    max_size=4,
)


def edited(content, edits):
    """The bytes with a few places changed."""
    content = bytearray(content)
    for kind, place, length, data in edits:
        at = place % (len(content) + 1)
        if kind == "replace":
            content[at : at + len(data)] = data
        elif kind == "insert":
            content[at:at] = data
        elif kind == "delete":
            del content[at : at + length]
        elif kind == "duplicate":
            content[at:at] = content[at : at + length]
        elif kind == "reverse":
            content[at : at + length] = content[at : at + length][::-1]
        elif at < len(content):
            content[at] ^= 1 << length % 8
    return bytes(content)


@FUZZ
@given(st.sampled_from(GOLDEN), EDITS)
@example(GOLDEN[0].replace(b'"input_size"', b'"a\\tb\\u202e"', 1), [])  # Python's message names the argument
def test_a_journal_with_bytes_changed(content, edits):
    check_journal(edited(content, edits))


@FUZZ
@given(st.binary(max_size=200), st.booleans())
@example(b"[" * DEEP + b"\n", False)
@example(b'{"type":' * DEEP + b"\n", True)
@example(b'{"type":"header","schema_version":' + b"9" * 5000 + b"}\n", False)
def test_any_bytes_as_a_journal(content, after_a_header):
    check_journal(GOLDEN[-1].partition(b"\n")[0] + b"\n" + content if after_a_header else content)


ENTRIES = [[json.loads(line) for line in content.splitlines()] for content in GOLDEN]


def places(value, path=()):
    """Paths to everything inside a JSON value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


PLACES = [[(line, path) for line, entry in enumerate(entries) for path in places(entry)] for entries in ENTRIES]
NUMBERS = [0, -1, 1, 2**31, 2**63, 10**90, 10**101, 10**400, 1e-320, 1e-16, 1e-9, 1e9, 1e13, 1e99, 1.7e308, -0.0, 0.5]
TEXTS = [
    "",
    "ok",
    "partial",
    "wrong",
    "fprop",
    "dgrad",
    "fp64",
    "gemm",
    "bias",
    "\x1b[2J",
    "a\nb",
    "\x9b",
    "\u202e",
    "x" * 300,
]
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS)
    | st.sampled_from([[], {}, [[]], [0], {"": 0}, [1, 2, 3], {"0": ["switched"]}, [{}], {"a": {}}])
)  # fmt: skip


def with_values(entries, changes):
    """A copy of JSON entries with values replaced, removed or put in the place of others."""
    entries = json.loads(json.dumps(entries))
    for (line, path), value, remove in changes:
        inner = entries[line]
        try:
            for key in path[:-1]:
                inner = inner[key]
            if remove:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
        except (LookupError, TypeError):
            continue  # an earlier change has removed that place
    return entries


def encoded(entries):
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


CHANGES = [st.lists(st.tuples(st.sampled_from(p), VALUES, st.booleans()), min_size=1, max_size=3) for p in PLACES]


@FUZZ
@given(st.integers(0, len(GOLDEN) - 1).flatmap(lambda i: st.tuples(st.just(i), CHANGES[i])))
def test_a_journal_with_values_changed(chosen):
    version, changes = chosen
    check_journal(encoded(with_values(ENTRIES[version], changes)))


def leaves_by_name(entries):
    """{name of a field: paths to each of its values, list entries included}, nothing but numbers, texts and null."""
    found = {}
    for line, entry in enumerate(entries):
        for path in places(entry):
            value = entry
            for key in path:
                value = value[key]
            if not isinstance(value, dict | list):
                name = next(key for key in reversed(path) if isinstance(key, str))
                found.setdefault(name, []).append((line, path))
    return found


LEAVES = leaves_by_name(ENTRIES[-1])


@FUZZ
@given(st.dictionaries(st.sampled_from([*LEAVES]), VALUES, min_size=1, max_size=2))
@example({"wall_s": 1e-320})
@example({"wall_s": 1e300, "repeat": 2**31 - 1})
@example({"wall_s": 1e-15, "flops": 10**300})
@example({"wall_s": 1e-15, "batch": 2**31 - 1, "in_channels": 2**31 - 1, "out_channels": 2**31 - 1, "flops": 10**100})
@example({"wall_s": 1e12, "repeat": 2**31 - 1})
@example({"repeat": 10**300})
@example({"flops": 10**300, "bytes_read": 1, "bytes_written": 0})
@example({"rms_error": 1e300, "max_error": 1e300, "bound_share": 1e300})
@example(dict.fromkeys(["resolved", "reason", "stop", "created", "cpu_model", "backend"], "\x1b[2J"))
@example(dict.fromkeys(["resolved", "reason", "stop", "created", "cpu_model"], "\x1b[2J"))
def test_a_journal_with_a_field_changed_everywhere(changes):
    everywhere = [(place, value, False) for name, value in changes.items() for place in LEAVES[name]]
    check_journal(encoded(with_values(ENTRIES[-1], everywhere)))


@FUZZ
@given(st.sampled_from(GOLDEN), st.randoms(use_true_random=False))
def test_a_journal_with_lines_moved(content, rng):
    first, *lines = content.splitlines(keepends=True)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(lines))
        kind = rng.choice(["drop", "double", "swap", "join", "move"])
        if kind == "drop" and len(lines) > 1:
            del lines[at]
        elif kind == "double":
            lines.insert(rng.randrange(len(lines)), lines[at])
        elif kind == "join":
            lines[at] = lines[at].rstrip(b"\n")
        else:
            lines.insert(rng.randrange(len(lines)), lines.pop(at))
    check_journal(b"".join([first, *lines]) if rng.random() < 0.9 else b"".join([*lines, first]))


def peak_of(function, *arguments):
    """Most bytes that Python held at once during a call, beyond those before it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with contextlib.suppress(InputError):
            function(*arguments)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


CALM = settings(FUZZ, max_examples=max(20, CASES // 10))
"""For what is slow because memory is traced."""
BYTES_PER_BYTE = 60
"""Of memory for a byte of a file: `[[],[],…` takes most, three bytes for an empty list and its place."""


@CALM
@given(
    st.sampled_from([b"[],", b"{},", b"0,", b"[[],", b'"",', b'{"a":', b" ", b"9", b"1e5,", b'"\\n",', b"\n", b"\x00"]),
    st.integers(1, 40_000),
    st.booleans(),
)
@example(b"[],", 40_000, True)
def test_memory_is_in_proportion_to_the_file(unit, count, closed):
    content = GOLDEN[-1] + (b"[" + unit * count + b"0]\n" if closed else unit * count)
    assert peak_of(fold, content, "run.jsonl") < BYTES_PER_BYTE * len(content) + 1_000_000


@CALM
@given(st.sampled_from(GOLDEN), EDITS)
def test_memory_of_a_journal_with_bytes_changed(content, edits):
    assert peak_of(fold, edited(content, edits), "run.jsonl") < 1_500_000


# Suites


def check_suite(content):
    """Reads, with problems of known size, or is refused in one line."""
    try:
        suite = parse_suite(content, "mine.toml")
    except InputError as error:
        one_line(error, "mine.toml")
        return None
    assert suite.problems
    for entry in suite.problems:
        assert min(entry.problem.output_size) >= 1
        assert entry.problem.describe().isprintable()
    assert all(text.isprintable() for text in (suite.title, suite.source, *suite.notes))
    return suite


TOML_TOKENS = [
    b"[", b"]", b"[[problem]]", b"{", b"}", b"=", b'"', b"'''", b".", b"\n", b"#", b"0x", b"1e400", b"nan", b"inf",
    b"-", b"9" * 400, b"9" * 5000, b"1979-05-27", b"07:32:00", b'"\\u001b"', b'"\\U0010ffff"', b"\x1b", b"\xff",
    b"true", b"[" * 200, b"{a=" * 200, b"a." * 200, b"repeat = 99999999999999999999\n", b"2147483647", b'"same"',
    b"[3, 3]",
]  # fmt: skip
TOML_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "duplicate", "reverse", "flip"]),
        st.integers(0, 1 << 14),
        st.integers(1, 40),
        st.binary(min_size=1, max_size=6) | st.sampled_from(TOML_TOKENS),
    ),
    min_size=1,
    max_size=4,
)


@FUZZ
@given(st.sampled_from(SUITES), TOML_EDITS)
def test_a_suite_with_bytes_changed(content, edits):
    check_suite(edited(content, edits))


@FUZZ
@given(st.binary(max_size=200) | st.lists(st.sampled_from(TOML_TOKENS), max_size=12).map(b" ".join))
@example(b"[" * DEEP)
@example(b"a = " + b"[" * DEEP + b"]" * DEEP)
@example(b"a = " + b"{a=" * DEEP)
@example(b"a." * DEEP + b"a = 1")
@example(b"[" + b"a." * DEEP + b"a]")
@example(b"a = 1\n" * 2)
@example(b"a = " + b"9" * DEEP)
@example(b'"' + b"a" * DEEP + b'" = 1')
def test_any_bytes_as_a_suite(content):
    check_suite(content)


SUITE_TEXT = """
schema = 1
name = "mine"
title = {title}
[[problem]]
name = "p"
batch = {batch}
in_channels = {in_channels}
out_channels = {out_channels}
input_size = {input_size}
filter_size = {filter_size}
stride = {stride}
dilation = {dilation}
padding = {padding}
repeat = {repeat}
groups = {groups}
"""
SMALL = {
    "title": '"t"', "batch": "2", "in_channels": "4", "out_channels": "4", "input_size": "9", "filter_size": "3",
    "stride": "1", "dilation": "1", "padding": "0", "repeat": "1", "groups": "1",
}  # fmt: skip
LARGEST = str(2**31 - 1)
TOML_VALUES = st.one_of(
    st.sampled_from([LARGEST, str(2**31), "9" * 400, "0", "-1", "1e400", "nan", "-inf", "1.5", "true", '"same"', '"x"',
                     "[]", "{}", "[3]", "[3, 3]", "[3, 3, 3]", "[[1, 2], [3, 4]]", "[[]]", "1979-05-27",
                     f"[{LARGEST}, {LARGEST}]",
                     '"\\u001b[31m"', '"\\n"', "[[1, 2], 3]", "0x7fffffff", "[1, 2, 3, 4]", "{a = 1}", '["a", 1]']),
    st.integers().map(str),
    st.integers(1, 2**31 - 1).map(str),
    st.lists(st.integers(1, 2**31 - 1), max_size=4).map(str),
)  # fmt: skip


@FUZZ
@given(st.dictionaries(st.sampled_from([*SMALL]), TOML_VALUES, max_size=4))
@example(dict.fromkeys(["batch", "in_channels", "out_channels", "input_size", "repeat", "groups"], LARGEST))
@example({"filter_size": LARGEST, "input_size": LARGEST})
@example({"padding": f"[[0, -{LARGEST}], [0, 0]]"})
@example({"padding": '"same"', "input_size": LARGEST, "filter_size": LARGEST, "dilation": LARGEST})
def test_a_suite_with_values_changed(changes):
    check_suite(SUITE_TEXT.format(**SMALL | changes).encode())


@CALM
@given(st.dictionaries(st.sampled_from([*SMALL]), TOML_VALUES, max_size=4))
@example(dict.fromkeys(["batch", "in_channels", "out_channels", "input_size", "repeat", "groups"], LARGEST))
def test_a_suite_allocates_nothing_for_its_extents(changes):
    assert peak_of(check_suite, SUITE_TEXT.format(**SMALL | changes).encode()) < 1_000_000


def test_the_fuzz_reaches_what_it_should():
    """Of journals with a value or a byte changed, some are accepted and some are refused."""
    rng = random.Random(0)
    found = [0, 0]
    for _ in range(200):
        line, path = rng.choice(PLACES[-1])
        changed = encoded(with_values(ENTRIES[-1], [((line, path), rng.choice([*NUMBERS, *TEXTS]), False)]))
        found[check_journal(changed) is not None] += 1
    assert min(found) > 20
