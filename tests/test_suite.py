"""The suite reader: what it accepts, and that everything else is one clear line."""

import contextlib
import copy
import datetime as dt
import hashlib
import os
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from convbench.errors import InputError
from convbench.problem import MAX_EXTENT, Problem
from convbench.suite import ALIASES, CONFIDENCES, Gate, Suite, builtin_suites, load_suite, parse_suite, suite_file

PROPERTY = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
PROBLEM = {"name": "p", "batch": 2, "in_channels": 4, "out_channels": 6, "input_size": 9, "filter_size": 3}
SUITE = {"schema": 1, "name": "mine", "problem": [PROBLEM]}
DELETED = ...


def toml(value):
    """`value` as an inline TOML value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = re.fullmatch(r"[ !#-\[\]-~]*", value)
        return f'"{value}"' if plain else '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(key)} = {toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, float):
        return repr(value) if value == value and abs(value) != float("inf") else str(value)
    return hex(value) if isinstance(value, int) and value > 10**18 else str(value)


def document(tables):
    """A TOML document with one line per top-level key."""
    return "".join(f"{toml(key)} = {toml(value)}\n" for key, value in tables.items()).encode()


def changed(tables, changes):
    return {key: value for key, value in (tables | changes).items() if value is not DELETED}


def numbered(table):
    return [f"{row} {str(changes)[:50]}" for row, (changes, *_) in enumerate(table)]


def suite(changes=None, **problem_changes):
    """The parsed suite of one problem, with changes to the suite and to the problem."""
    tables = SUITE | {"problem": [changed(PROBLEM, problem_changes)]}
    return parse_suite(document(changed(tables, changes or {})), "mine.toml")


def problem(**changes):
    (entry,) = suite(**changes).problems
    return entry.problem


def refused(content, *fragments):
    """The message with which `content` is refused: one line that starts with the file and holds every fragment."""
    with pytest.raises(InputError) as caught:
        parse_suite(content if isinstance(content, bytes) else document(content), "mine.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert "mine.toml" in message
    assert [fragment for fragment in fragments if fragment not in message] == [], message
    return message


# What is accepted


def test_a_whole_suite():
    content = b"""
schema = 1
name = "mine"
title = "Mine"
year = 2015
source = "measured here"
notes = ["one", "two"]

[defaults]
batch = 32
stride = 2
confidence = "quoted"
repeat = 3

[[problem]]
name = "first"
in_channels = 4
out_channels = 6
groups = 2
input_size = [9, 8]
filter_size = [3, 2]
padding = [[1, 0], [0, -1]]
output_size = [4, 3]
note = "uneven"
gate = {min_effect = 0.05, enabled = false, reason = "noisy"}

[[problem]]
name = "second"
batch = 1
in_channels = 1
out_channels = 1
input_size = [30]
filter_size = 5
stride = 1
dilation = 2
confidence = "source"
repeat = 1
"""
    got = parse_suite(content, "mine.toml")
    assert (got.name, got.title, got.year, got.source) == ("mine", "Mine", 2015, "measured here")
    assert got.notes == ("one", "two")
    assert got.sha256 == hashlib.sha256(content).hexdigest()
    first, second = got.problems
    assert (first.name, first.repeat, first.confidence, first.note) == ("first", 3, "quoted", "uneven")
    assert first.gate == Gate(min_effect=0.05, enabled=False, reason="noisy")
    assert first.problem == Problem(
        batch=32,
        in_channels=4,
        out_channels=6,
        groups=2,
        input_size=(9, 8),
        filter_size=(3, 2),
        stride=(2, 2),
        padding=((1, 0), (0, -1)),
    )
    assert (second.name, second.repeat, second.confidence, second.note) == ("second", 1, "source", "")
    assert second.gate == Gate(min_effect=None, enabled=True, reason="")
    assert second.problem == Problem(
        batch=1, in_channels=1, out_channels=1, input_size=(30,), filter_size=(5,), dilation=(2,)
    )


def test_what_may_be_left_out():
    got = suite()
    assert (got.title, got.source, got.year, got.notes) == ("mine", "", None, ())
    (entry,) = got.problems
    assert (entry.repeat, entry.confidence, entry.note, entry.gate) == (1, None, "", Gate())


def test_windows_line_ends():
    content = document(SUITE)
    assert parse_suite(content.replace(b"\n", b"\r\n"), "f").problems == parse_suite(content, "f").problems


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({}, "input_size", (9, 9)),  # scalars mean two axes
        ({"stride": 2}, "stride", (2, 2)),
        ({"dilation": 3}, "dilation", (3, 3)),
        ({"filter_size": [3, 2]}, "filter_size", (3, 2)),
        ({"filter_size": [3, 2]}, "input_size", (9, 9)),
        ({"input_size": [9]}, "filter_size", (3,)),
        ({"filter_size": [3]}, "input_size", (9,)),
        ({"stride": [1, 2, 3]}, "input_size", (9, 9, 9)),
        ({"batch": 0}, "batch", 0),
        ({"groups": 2}, "groups", 2),
        ({}, "padding", ((0, 0), (0, 0))),
        ({"padding": 1}, "padding", ((1, 1), (1, 1))),
        ({"padding": [1, 2]}, "padding", ((1, 1), (2, 2))),
        ({"padding": [[1, 2], [0, -3]]}, "padding", ((1, 2), (0, -3))),
        ({"padding": [1, [0, 2]]}, "padding", ((1, 1), (0, 2))),
        ({"padding": [1, 2, 3]}, "filter_size", (3, 3, 3)),
        ({"padding": "same"}, "padding", ((1, 1), (1, 1))),
        ({"padding": "same", "filter_size": [4, 1]}, "padding", ((1, 2), (0, 0))),  # the odd element after
        ({"padding": "same", "stride": 2, "input_size": 8}, "padding", ((0, 1), (0, 1))),
        ({"padding": "same", "dilation": 2}, "padding", ((2, 2), (2, 2))),
        ({"padding": "same", "input_size": [9]}, "padding", ((1, 1),)),
        ({"padding": "same", "filter_size": 1, "stride": 4}, "padding", ((0, 0), (0, 0))),
    ],
)
def test_shapes(changes, field, value):
    assert getattr(problem(**changes), field) == value


@pytest.mark.parametrize("output_size", [7, [7, 7]])
def test_the_stated_output_is_checked(output_size):
    assert problem(output_size=output_size).output_size == (7, 7)


@PROPERTY
@given(st.lists(st.tuples(*[st.integers(1, top) for top in (20, 7, 6, 4)]), min_size=1, max_size=3))
@example([(1, 7, 6, 4)])
@example([(20, 1, 6, 1)])
def test_same_is_the_least_padding_for_an_output_per_stride(per_axis):
    sizes, filters, strides, dilations = (list(column) for column in zip(*per_axis, strict=True))
    p = problem(input_size=sizes, filter_size=filters, stride=strides, dilation=dilations, padding="same")
    for (size, taps, stride, dilation), (before, after), output in zip(per_axis, p.padding, p.output_size, strict=True):
        wanted = len(range(0, size, stride))  # ceil(size / stride)
        assert output == wanted
        reach = dilation * (taps - 1)
        assert before + after == next(
            total for total in range(size + reach + stride) if len(range(0, size + total - reach, stride)) >= wanted
        )
        assert after - before in {0, 1}


def test_with_batch():
    original = suite({"problem": [PROBLEM, PROBLEM | {"name": "q", "batch": 0, "repeat": 4, "note": "n"}]})
    before = copy.deepcopy(original)
    changed_suite = original.with_batch(64)
    assert original == before
    assert [entry.problem.batch for entry in changed_suite.problems] == [64, 64]
    assert [entry.problem.y_shape for entry in changed_suite.problems] == [(64, 6, 7, 7)] * 2
    assert (changed_suite.problems[1].repeat, changed_suite.problems[1].note) == (4, "n")
    assert (changed_suite.name, changed_suite.sha256) == (original.name, original.sha256)
    assert changed_suite.with_batch(2).problems[0] == original.problems[0]
    assert [entry.problem.batch for entry in original.with_batch(0).problems] == [0, 0]
    with pytest.raises(InputError, match="batch must be >= 0, got -1"):
        original.with_batch(-1)


# Unknown keys


@pytest.mark.parametrize(
    ("tables", "table", "key", "nearest"),
    [
        (SUITE | {"titel": "x"}, "mine.toml", "titel", "title"),
        (SUITE | {"problems": []}, "mine.toml", "problems", "problem"),
        (SUITE | {"batch": 3}, "mine.toml", "batch", ""),
        (SUITE | {"defaults": {"bacth": 3}}, "mine.toml: [defaults]", "bacth", "batch"),
        (SUITE | {"defaults": {"name": "x"}}, "mine.toml: [defaults]", "name", ""),
        (SUITE | {"defaults": {"output_size": 3}}, "mine.toml: [defaults]", "output_size", "input_size"),
        (SUITE | {"problem": [PROBLEM | {"in_chanels": 3}]}, "mine.toml: problem 1", "in_chanels", "in_channels"),
        (
            SUITE | {"problem": [PROBLEM, PROBLEM | {"name": "q", "pading": 3}]},
            "mine.toml: problem 2", "pading", "padding",
        ),
        (SUITE | {"problem": [PROBLEM | {"": 1}]}, "mine.toml: problem 1", "", ""),
        (SUITE | {"problem": [PROBLEM | {"a\nb": 1}]}, "mine.toml: problem 1", "a\nb", ""),
        (
            SUITE | {"problem": [PROBLEM | {"gate": {"enable": True}}]},
            "mine.toml: problem 1 ('p'): gate", "enable", "enabled",
        ),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_file_table_and_the_nearest_known_one(tables, table, key, nearest):
    message = refused(tables, f"unknown key {key!r} in {table};")
    if nearest:
        assert f"did you mean {nearest!r}" in message
    else:
        assert "known: " in message or "did you mean" in message


# Missing keys and wrong values


@pytest.mark.parametrize("key", ["batch", "in_channels", "out_channels", "input_size", "filter_size"])
def test_a_missing_key_is_named_and_may_stand_in_the_defaults(key):
    entry = changed(PROBLEM, {key: DELETED})
    refused(SUITE | {"problem": [entry]}, "problem 1 ('p')", f"{key} is missing")
    with_default = SUITE | {"problem": [entry], "defaults": {key: PROBLEM[key]}}
    assert parse_suite(document(with_default), "f").problems == suite().problems


def test_an_entry_overrides_its_default():
    tables = SUITE | {"defaults": {"batch": 77, "padding": "same", "repeat": 9, "confidence": "recalled"}}
    tables["problem"] = [PROBLEM | {"padding": 0, "repeat": 2}]
    (entry,) = parse_suite(document(tables), "f").problems
    assert (entry.problem.batch, entry.repeat, entry.confidence) == (2, 2, "recalled")
    assert entry.problem.padding == ((0, 0), (0, 0))


DATE = dt.date(2015, 3, 17)
BAD_SUITES = [
    ({"schema": DELETED}, ["schema must be 1", "None"]),
    ({"schema": True}, ["schema must be 1", "True"]),
    ({"schema": 1.0}, ["schema must be 1", "1.0"]),
    ({"schema": 2}, ["schema must be 1", "got 2"]),
    ({"schema": 0}, ["schema must be 1", "got 0"]),
    ({"schema": "1"}, ["schema must be 1", "'1'"]),
    ({"schema": [1]}, ["schema must be 1", "[1]"]),
    ({"name": DELETED}, ["name must be", "None"]),
    ({"name": 3}, ["name must be", "got 3"]),
    ({"name": ""}, ["name must be", "''"]),
    ({"name": "a b"}, ["name must be", "'a b'"]),
    ({"name": "-a"}, ["name must be", "'-a'"]),
    ({"name": "a/b"}, ["name must be", "'a/b'"]),
    ({"name": "a\n"}, ["name must be", "'a\\n'"]),
    ({"name": "é"}, ["name must be", "'é'"]),
    ({"title": 3}, ["title must be a string", "got 3"]),
    ({"source": ["a"]}, ["source must be a string", "['a']"]),
    ({"year": "2015"}, ["year must be an integer", "'2015'"]),
    ({"year": 2015.0}, ["year must be an integer", "2015.0"]),
    ({"year": True}, ["year must be an integer", "True"]),
    ({"year": DATE}, ["year must be an integer", "2015, 3, 17"]),
    ({"notes": "one"}, ["notes must be a list of strings", "'one'"]),
    ({"notes": ["one", 2]}, ["notes must be a list of strings", "2"]),
    ({"defaults": 3}, ["[defaults] must be a table", "got 3"]),
    ({"defaults": []}, ["[defaults] must be a table", "[]"]),
    ({"problem": DELETED}, ["at least one [[problem]]"]),
    ({"problem": []}, ["at least one [[problem]]"]),
    ({"problem": PROBLEM}, ["at least one [[problem]]"]),
    ({"problem": "p"}, ["at least one [[problem]]"]),
    ({"problem": [3]}, ["problem 1 must be a table", "got 3"]),
    ({"problem": [PROBLEM, []]}, ["problem 2 must be a table", "[]"]),
    ({"problem": [PROBLEM, PROBLEM]}, ["problem 2", "name 'p' is taken"]),
]


@pytest.mark.parametrize(("changes", "fragments"), BAD_SUITES, ids=numbered(BAD_SUITES))
def test_a_bad_suite(changes, fragments):
    refused(changed(SUITE, changes), *fragments)


BIG = MAX_EXTENT + 1
BAD_PROBLEMS = [
    ({"name": DELETED}, ["problem 1: name must be", "None"]),
    ({"name": True}, ["problem 1: name must be", "True"]),
    ({"name": ".hidden"}, ["problem 1: name must be", "'.hidden'"]),
    ({"name": "a,b"}, ["problem 1: name must be", "'a,b'"]),
    ({"batch": "2"}, ["batch must be an integer", "'2'"]),
    ({"batch": True}, ["batch must be an integer", "True"]),
    ({"batch": 2.0}, ["batch must be an integer", "2.0"]),
    ({"batch": [2, 2]}, ["batch must be an integer", "[2, 2]"]),
    ({"batch": -1}, ["batch must be >= 0", "-1"]),
    ({"batch": DATE}, ["batch must be an integer", "2015, 3, 17"]),
    ({"batch": {"n": 2}}, ["batch must be an integer", "{'n': 2}"]),
    ({"in_channels": 0}, ["in_channels must be >= 1", "got 0"]),
    ({"out_channels": BIG}, ["out_channels", str(BIG)]),
    ({"groups": 3}, ["in_channels must be a multiple of groups (3)", "got 4"]),
    ({"input_size": "9"}, ["input_size_h must be an integer", "'9'"]),
    ({"input_size": 9.0}, ["input_size_h must be an integer", "9.0"]),
    ({"input_size": True}, ["input_size_h must be an integer", "True"]),
    ({"input_size": [9, "9"]}, ["input_size_w must be an integer", "'9'"]),
    ({"input_size": [[9], [9]]}, ["input_size_h must be an integer", "[9]"]),
    ({"input_size": []}, ["input_size must be one value or a list of 1, 2 or 3", "[]"]),
    ({"input_size": [1, 2, 3, 4]}, ["input_size must be one value or a list of 1, 2 or 3", "[1, 2, 3, 4]"]),
    ({"padding": []}, ["padding must be one value or a list of 1, 2 or 3", "[]"]),
    ({"input_size": [9, 9], "filter_size": [3]}, ["filter_size must be one value or 2", "[3]"]),
    ({"input_size": [9, 9], "padding": [1, 2, 3]}, ["padding must be one value or 2", "[1, 2, 3]"]),
    ({"input_size": [9], "padding": [1, 2]}, ["padding must be one value or 1", "[1, 2]"]),
    ({"padding": [1]}, ["1-D", "input_size"]),
    ({"stride": [1]}, ["1-D", "input_size"]),
    ({"filter_size": 10}, ["filter_size_h", "spans 10", "padded input has 9"]),
    ({"stride": 0}, ["stride_h must be >= 1", "got 0"]),
    ({"stride": False}, ["stride_h must be an integer", "False"]),
    ({"dilation": -1}, ["dilation_h must be >= 1", "-1"]),
    ({"dilation": [1, 1.5]}, ["dilation_w must be an integer", "1.5"]),
    ({"padding": -1}, ["padding_h before must be >= 0", "-1"]),
    ({"padding": 0.5}, ["padding_h before must be an integer", "0.5"]),
    ({"padding": False}, ["padding_h before must be an integer", "False"]),
    ({"padding": "valid"}, ["padding must be", '"same"', "'valid'"]),
    ({"padding": "SAME"}, ["padding must be", '"same"', "'SAME'"]),
    ({"padding": ["same", "same"]}, ["padding_h before must be an integer", "'same'"]),
    ({"padding": {"h": 1}}, ["padding_h before must be an integer", "{'h': 1}"]),
    ({"padding": [[1], [1]]}, ["padding_h must be a pair", "(1,)"]),
    ({"padding": [[1, 2, 3], 0]}, ["padding_h must be a pair", "(1, 2, 3)"]),
    ({"padding": [[0, -9], 0]}, ["filter_size_h", "padded input has 0"]),
    ({"padding": "same", "filter_size": "3"}, ["filter_size_h must be an integer", "'3'"]),
    ({"padding": "same", "stride": 0}, ["stride_h must be >= 1", "got 0"]),
    ({"padding": "same", "dilation": MAX_EXTENT, "filter_size": 9}, ["padding_h before", str(MAX_EXTENT)]),
    ({"output_size": 8}, ["output_size is [7, 7]", "says 8"]),
    ({"output_size": [7, 8]}, ["output_size is [7, 7]", "says [7, 8]"]),
    ({"output_size": [7]}, ["output_size must be one value or 2", "[7]"]),
    ({"output_size": 7.0}, ["output_size is [7, 7]", "says 7.0"]),
    ({"output_size": "7"}, ["output_size is [7, 7]", "says '7'"]),
    ({"output_size": True, "input_size": 3}, ["output_size is [1, 1]", "says True"]),
    ({"repeat": 0}, ["repeat", "got 0"]),
    ({"repeat": -3}, ["repeat", "-3"]),
    ({"repeat": True}, ["repeat must be an integer", "True"]),
    ({"repeat": 1.0}, ["repeat must be an integer", "1.0"]),
    ({"repeat": BIG}, ["repeat", str(BIG)]),
    ({"confidence": "sure"}, ["confidence must be one of", *CONFIDENCES, "'sure'"]),
    ({"confidence": True}, ["confidence must be one of", "True"]),
    ({"confidence": ["source"]}, ["confidence must be one of", "['source']"]),
    ({"note": 3}, ["note must be a string", "got 3"]),
    ({"note": ["a"]}, ["note must be a string", "['a']"]),
    ({"gate": True}, ["gate must be a table", "True"]),
    ({"gate": []}, ["gate must be a table", "[]"]),
    ({"gate": {"min_effect": 0}}, ["gate: min_effect", "between 0 and 1", "got 0"]),
    ({"gate": {"min_effect": 1}}, ["gate: min_effect", "between 0 and 1", "got 1"]),
    ({"gate": {"min_effect": -0.1}}, ["gate: min_effect", "-0.1"]),
    ({"gate": {"min_effect": float("nan")}}, ["gate: min_effect", "nan"]),
    ({"gate": {"min_effect": "5%"}}, ["gate: min_effect", "'5%'"]),
    ({"gate": {"min_effect": True}}, ["gate: min_effect", "True"]),
    ({"gate": {"enabled": 1}}, ["gate: enabled must be true or false", "got 1"]),
    ({"gate": {"enabled": "no"}}, ["gate: enabled must be true or false", "'no'"]),
    ({"gate": {"reason": 3}}, ["gate: reason must be a string", "got 3"]),
]


@pytest.mark.parametrize(("changes", "fragments"), BAD_PROBLEMS, ids=numbered(BAD_PROBLEMS))
def test_a_bad_problem(changes, fragments):
    message = refused(SUITE | {"problem": [changed(PROBLEM, changes)]}, *fragments)
    assert message.startswith("mine.toml: problem 1")
    if "name" not in changes:
        assert message.startswith("mine.toml: problem 1 ('p'): ")


def test_a_bad_default_is_reported_with_the_problem_that_uses_it():
    refused(SUITE | {"defaults": {"stride": "2"}}, "problem 1 ('p')", "stride_h must be an integer", "'2'")
    refused(SUITE | {"defaults": {"confidence": "sure"}}, "problem 1 ('p')", "confidence")


# Not TOML


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        (b"", ["schema must be 1"]),
        (b"schema = 1\nname == 2\n", ["not valid TOML", "line 2"]),
        (b'schema = 1\nname = "a"\n[[problem]\n', ["not valid TOML", "line 3"]),
        (b'schema = 1\n\n\nname = "a', ["not valid TOML", "end of document"]),
        (b"schema = 1\nschema = 1\n", ["not valid TOML", "line 2"]),
        (b"a = 2015-02-30\n", ["not valid TOML", "line 1"]),
        (b'{"schema": 1}', ["not valid TOML", "line 1"]),
        (b"name = 'caf\xe9'\n", ["not valid TOML", "utf-8"]),
        (b"\xff\xfes\x00c\x00", ["not valid TOML", "utf-8"]),
        (b"\x00", ["not valid TOML"]),
        (b"x = " + b"[" * 5000 + b"]" * 5000, ["not valid TOML"]),
        (b"x = " + b"{a = " * 5000, ["not valid TOML"]),
        (b"schema = " + b"1" * 5000, ["not valid TOML"]),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else "",
)
def test_what_is_not_toml_is_refused_in_one_line(content, fragments):
    refused(content, *fragments)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"batch": 1 << 20_000}, "batch"),
        ({"input_size": [9, 1 << 20_000]}, "input_size"),
        ({"repeat": 1 << 20_000}, "repeat"),
        ({"output_size": 1 << 20_000}, "output_size"),
        ({"note": 1 << 20_000}, "note"),
        ({"gate": {"min_effect": 1 << 20_000}}, "min_effect"),
        ({"confidence": [1 << 20_000]}, "confidence"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_integer_too_long_to_print_is_refused_by_name(changes, field):
    refused(SUITE | {"problem": [PROBLEM | changes]}, "problem 1 ('p')", field)


@pytest.mark.parametrize("key", ["schema", "name", "title", "notes", "problem", "defaults.stride"])
def test_tables_nested_too_deep_to_print_are_refused(key):
    rest = document({name: value for name, value in SUITE.items() if name != key})
    refused(f"{key}{'.a' * 3000} = 1\n".encode() + rest)


def test_a_long_value_does_not_flood_the_message():
    assert len(refused(SUITE | {"title": [1] * 100_000})) < 1000
    assert len(refused(SUITE | {"problem": [PROBLEM | {"input_size": [3] * 100_000}]})) < 1000


# Files and built-in names


def test_a_file_is_the_suite_in_it(tmp_path, monkeypatch):
    content = document(SUITE)
    (tmp_path / "mine.toml").write_bytes(content)
    assert load_suite(str(tmp_path / "mine.toml")) == parse_suite(content, "mine.toml")
    monkeypatch.chdir(tmp_path)
    assert load_suite("mine.toml") == load_suite("./mine.toml") == parse_suite(content, "mine.toml")
    (tmp_path / "smoke.toml").write_bytes(content)
    assert load_suite("smoke.toml").name == "mine"
    assert load_suite("smoke").name == "smoke"  # a bare name is a built-in one


def test_errors_name_the_file_as_it_was_given(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(document(SUITE | {"titel": "x"}))
    with pytest.raises(InputError, match=re.escape(f"in {path};")):
        load_suite(str(path))


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    for argument, why in [
        (str(tmp_path / "none.toml"), "No such file or directory"),
        (str(tmp_path / "none"), "No such file or directory"),
        (str(tmp_path / "folder.toml"), "Is a directory"),
        (f"{tmp_path}/", "Is a directory"),
        (str(tmp_path / ("x" * 300 + ".toml")), "File name too long"),
    ]:
        with pytest.raises(InputError) as caught:
            load_suite(argument)
        assert str(caught.value) == f"cannot read suite {argument}: {why}"


@pytest.mark.parametrize(
    ("argument", "hint"),
    [("alexent", "'alexnet'"), ("smok", "'smoke'"), ("vgg-dd", "'vgg-d'"), ("talk_example", "'talk-example'")],
)
def test_an_unknown_suite_is_answered_with_the_nearest(argument, hint):
    with pytest.raises(InputError) as caught:
        load_suite(argument)
    message = str(caught.value)
    assert message.startswith(f"unknown suite {argument!r}")
    assert ".toml" in message
    assert hint in message.partition("did you mean")[2]


@pytest.mark.parametrize("argument", ["", "zzzzzz", "smoke\n"])
def test_an_unknown_suite_is_one_line(argument):
    with pytest.raises(InputError, match="unknown suite") as caught:
        load_suite(argument)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "pipe.toml"])
def test_what_is_no_regular_file_is_not_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.toml")
    with pytest.raises(InputError, match=rf"^cannot read suite {name}: it is not a regular file$"):
        load_suite(name)


def test_a_file_without_end_is_refused(tmp_path):
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    with pytest.raises(InputError, match=r"huge\.toml: not a convbench suite: larger than 1 MiB$"):
        load_suite(str(path))


def test_a_key_that_would_take_minutes_is_refused():
    refused(b"a." * 100_000 + b"a = 1", "not a convbench suite: a line has more than 500 dots")


@pytest.mark.parametrize("content", [b'{"type":"header"}', b"\x7fELF\x00", b"%PDF-1.7", b"name: yaml", b"[" * 10_000])
def test_another_kind_of_file_is_said_to_be_one(content):
    refused(content, "mine.toml: not a convbench suite: not valid TOML: ")


def test_texts_are_printable():
    got = suite({"title": "a\n\x1b[2Jb", "source": "\u202e", "notes": ["\x9b1m"]}, note="\x07", gate={"reason": "\x1b"})
    assert (got.title, got.source, got.notes) == (r"a \x1b[2Jb", r"\u202e", (r"\x9b1m",))
    assert (got.problems[0].note, got.problems[0].gate.reason) == (r"\x07", r"\x1b")


def test_an_unlike_name_is_answered_with_all_known_ones():
    with pytest.raises(InputError) as caught:
        load_suite("zzzzzz")
    assert all(name in str(caught.value) for name in [*builtin_suites(), *ALIASES])


# Anything at all

keys = st.sampled_from(sorted({*SUITE, *PROBLEM, "defaults", "padding", "gate", "stride", "groups"})) | st.text(
    max_size=4
)
leaves = (
    st.booleans()
    | st.integers(-3, 12)
    | st.integers()
    | st.sampled_from([MAX_EXTENT, BIG, 2**63, 2**70, "same", "source", "p", -0.0])
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.dates(min_value=dt.date(1000, 1, 1))
    | st.datetimes(min_value=dt.datetime(1000, 1, 1))
    | st.times()
)
junk = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
extents = st.integers(3, 12) | st.lists(st.integers(3, 12), min_size=2, max_size=2)
steps = st.integers(1, 3) | st.lists(st.integers(1, 3), min_size=2, max_size=2)
pairs = st.lists(st.integers(0, 3), min_size=2, max_size=2)
paddings = st.just("same") | st.integers(0, 3) | st.lists(st.integers(0, 3) | pairs, min_size=2, max_size=2)
GOOD = {
    "name": st.sampled_from(["p", "q", "r"]),
    "batch": st.integers(0, 4),
    "in_channels": st.integers(1, 4),
    "out_channels": st.integers(1, 4),
    "groups": st.just(1),
    "input_size": extents,
    "filter_size": st.integers(1, 3),
    "stride": steps,
    "dilation": steps,
    "padding": paddings,
    "repeat": st.integers(1, 3),
    "confidence": st.sampled_from(CONFIDENCES),
    "note": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "gate": st.fixed_dictionaries({}, optional={"min_effect": st.floats(0.01, 0.99), "enabled": st.booleans()}),
}


def mostly(good):
    """`good` nineteen times out of twenty, junk otherwise."""
    return st.integers(0, 19).flatmap(lambda chance: junk if chance == 19 else good)


def tables_of(good, required=()):
    return st.fixed_dictionaries(
        {key: mostly(good[key]) for key in required},
        optional={key: mostly(value) for key, value in good.items() if key not in required},
    )


REQUIRED = ("name", "batch", "in_channels", "out_channels", "input_size", "filter_size")
problem_tables = tables_of(GOOD, REQUIRED)
suite_tables = tables_of(
    {
        "schema": st.just(1),
        "name": st.just("mine"),
        "title": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        "notes": st.lists(st.just("note"), max_size=2),
        "defaults": tables_of({key: value for key, value in GOOD.items() if key not in {"name", "note", "gate"}}),
        "problem": st.lists(problem_tables, min_size=1, max_size=2),
    },
    ("schema", "name", "problem"),
)


def accept_or_refuse(content):
    """The suite in `content`, or None where it is refused, in one line; anything else raises."""
    try:
        return parse_suite(content, "mine.toml")
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert "mine.toml" in message
    return None


@PROPERTY
@given(suite_tables | st.dictionaries(keys, junk, max_size=5))
@example(SUITE)
def test_any_tables_are_a_suite_or_refused_in_one_line(tables):
    got = accept_or_refuse(document(tables))
    if got is not None:
        assert isinstance(got, Suite)
        assert [entry.name for entry in got.problems] == [entry["name"] for entry in tables["problem"]]
        assert all(extent >= 1 for entry in got.problems for extent in entry.problem.output_size)


@PROPERTY
@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 20))
def test_any_damage_to_a_file_is_survived(noise, at, removed):
    content = document(SUITE | {"defaults": {"stride": 2}})
    accept_or_refuse(content[:at] + noise + content[at + removed :])
    accept_or_refuse(noise)


@PROPERTY
@given(st.text(max_size=20))
def test_any_name_loads_or_is_refused_in_one_line(argument):
    if "/" in argument or "\\" in argument or argument.endswith(".toml"):
        return  # a path
    with contextlib.suppress(InputError):
        assert load_suite(argument).problems


# Where a file declares its problems

BEGIN = "schema = 1\nname = 'mine'\ndefaults = {batch = 1, in_channels = 1, out_channels = 1, filter_size = 1}\n"
HEADERS = ("[[problem]]", "  [[ problem ]]  # one", '[["problem"]]', "[['problem']]\t", "[[problem]]# [[problem]]")
DECOYS = (
    "# [[problem]] '''", "", "note = '[[problem]]'", r'note = "[[problem]] # \" [["', "note = 'it # is' # '''",
    'note = """\n[[problem]]\n"""', 'note = """\n\\"""\n[[problem]]\n""""" # \'\'\'', "gate = {reason = '}]['}",
    "note = '''\n[[problem]]\n\"\"\"\n[['''''", 'gate.reason = """]"""', "padding = [\n [0, 0],  # [[problem]]\n 0]",
)  # fmt: skip
NOTES = ("'[[problem]]'", "'''\n[[problem]]\n'''", '"""\n[[problem]]\n"""')


def key_of(decoy):
    """The TOML key that it sets, of which a table has one; itself where it sets none."""
    found = re.match(r"\w+", decoy)
    return found[0] if found else decoy


@PROPERTY
@given(
    notes=st.lists(st.sampled_from(NOTES), max_size=3),
    problems=st.lists(
        st.tuples(st.sampled_from(HEADERS), st.lists(st.sampled_from(DECOYS), max_size=3, unique_by=key_of)),
        min_size=1, max_size=5,
    ),
    end=st.sampled_from(["\n", "\r\n"]),
)  # fmt: skip
def test_every_problem_knows_its_line(notes, problems, end):
    listed = ",\n".join(notes)
    text, lines = f"{BEGIN}notes = [ # [[problem]]\n{listed}\n]\n", []
    for number, (header, decoys) in enumerate(problems):
        lines.append(text.count("\n") + 1)
        text += "\n".join([header, f"name = 'p{number}'", "input_size = [1, 1]", *decoys, ""])
    suite = parse_suite(text.replace("\n", end).encode(), "mine.toml")
    assert [entry.line for entry in suite.problems] == lines


def test_lines_of_problems_in_a_list():
    listed = "problem = [ # {\n {name='a', input_size=1, gate={reason='{'}}, {name='b', input_size=[\n1, 1]},"
    text = f"{BEGIN}{listed}\n\n{{name='c', input_size=1}}]\n"
    assert [entry.line for entry in parse_suite(text.encode(), "x").problems] == [5, 5, 8]


def test_an_unusual_spelling_has_no_lines_and_equals_the_usual_one():
    usual, unusual = (
        parse_suite(f"{BEGIN}[[{key}]]\nname = 'a'\ninput_size = 1\n".encode(), "x")
        for key in ("problem", r'"\u0070roblem"')
    )
    assert ([entry.line for entry in usual.problems], [entry.line for entry in unusual.problems]) == ([4], [None])
    assert usual.problems == unusual.problems
    assert hash(usual.problems) == hash(unusual.problems)


def test_lines_of_built_in_suites():
    for name, entry in builtin_suites().items():
        lines = entry.read_text(encoding="utf-8").splitlines()
        for problem in load_suite(name).with_batch(1).problems:
            following = " ".join(lines[problem.line - 1 : problem.line + 1])
            assert re.search(rf'name *= *"{re.escape(problem.name)}"', following), (name, problem.name)


def test_the_file_of_a_suite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert suite_file("alexnet") is None
    assert suite_file("./mine.toml") == "mine.toml"
    assert suite_file(str(tmp_path / "a" / "mine.toml")) == "a/mine.toml"
    assert suite_file("../mine.toml") == "../mine.toml"
