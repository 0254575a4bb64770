"""Runs and analyses as text: golden files at a fixed width, raw values in JSON and CSV, names that are never markup."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.backends import Sample
from convbench.datasheet import load_datasheet
from convbench.journal import read_run
from convbench.problem import PRECISIONS, Case, ConvPass, Epilogue, Layout, Problem
from convbench.render import FORMATS, Column, Table, render
from convbench.render.analysis import analysis_table
from convbench.render.phases import phases_table
from convbench.render.results import backends_table, fastest, headline, row_facts, rows_table, totals_table
from convbench.render.table import LEAST
from convbench.result import Row, RowKey, Run, Status
from convbench.suite import load_suite
from convbench.tasks import Selection
from convbench.timing import Round
from convbench.units import format_time
from convbench.work import Phase, Work

DATA = Path(__file__).parent / "data"
GOLDEN = read_run(DATA / "run-v1.jsonl")


def golden(name):
    return (DATA / name).read_text(encoding="utf-8")


def bare(table):
    """Without its notes, which are tested by themselves."""
    return replace(table, notes=())


# Golden text of the golden run


def test_rows_as_a_table():
    assert render([bare(rows_table(GOLDEN))], "table", width=120) == golden("run-v1-rows.txt")


def test_totals_as_a_table():
    assert render([bare(totals_table(GOLDEN))], "table", width=120) == golden("run-v1-totals.txt")


def test_both_as_markdown():
    tables = [bare(rows_table(GOLDEN)), bare(totals_table(GOLDEN))]
    assert render(tables, "markdown") == golden("run-v1.md")


def test_several_tables_have_a_line_between_them():
    text = render([bare(rows_table(GOLDEN)), bare(totals_table(GOLDEN))], "table", width=120)
    assert text == golden("run-v1-rows.txt") + "\n" + golden("run-v1-totals.txt")


def test_a_line_per_backend():
    table = backends_table(GOLDEN)
    assert [tuple(row.values()) for row in table.rows] == [
        ("cpu:gemm", 4, 2, 2, 1.0),
        ("cpu:fft", 2, 0, 0, None),
        ("cpu:auto", 1, 1, 0, pytest.approx(4 / 1.5)),
        ("gpu:auto", 1, 0, 0, None),
        ("cpu:direct", 1, 0, 0, None),
    ]


def test_the_headline_names_what_was_measured_on():
    assert headline(GOLDEN) == ("Test CPU · 2 of 2 CPUs · NumPy 2.4.6 · openblas 0.3.31 SkylakeX · 2026-11-24")


# Notes


def test_notes_name_every_row_without_a_time():
    notes = "\n".join(rows_table(GOLDEN).notes)
    for row in GOLDEN.rows:
        if row.reason:
            assert f"{row.key.label()}: {row.status}: {row.reason}" in notes


def test_notes_say_what_is_partial_unsure_and_disturbed():
    notes = rows_table(GOLDEN).notes
    assert any(note.startswith("1 of 9 rows are partial: ") and "--resume" in note for note in notes)
    assert any(note.startswith("? fewer than 6 rounds") for note in notes)
    assert any(note.startswith("2 of 14 samples disturbed") for note in notes)


def test_a_run_without_trouble_has_no_notes_of_it():
    run = replace(GOLDEN, rows=(timed("a", "gemm"),))
    notes = "\n".join(rows_table(run).notes)
    for word in ("partial", "fewer", "disturbed", "drift", "canary", "failed", "wrong"):
        assert word not in notes


def test_what_was_forgiven_in_the_file_is_a_note():
    note = "the last line (9) is unfinished and was left out"
    assert note in rows_table(replace(GOLDEN, note=note)).notes


def test_many_reasons_are_cut_short_and_counted():
    rows = tuple(replace(refused("a", f"alg{i}"), reason=f"no {i}") for i in range(25))
    notes = rows_table(replace(GOLDEN, rows=rows)).notes
    assert sum("unsupported: no" in note for note in notes) == 20
    assert any(note.startswith("and 5 more rows") for note in notes)


def test_rows_of_one_reason_are_one_line():
    rows = tuple(refused("a", f"alg{i}") for i in range(25))
    notes = [note for note in rows_table(replace(GOLDEN, rows=rows)).notes if "unsupported" in note]
    assert notes == ["net/a fprop fp32 nchw cpu:alg0 and 24 more: unsupported: no"]


def test_what_is_no_network_has_no_totals():
    header = GOLDEN.header | {"suites": [{"name": "tiny", "network": False, "sha256": ""}]}
    assert totals_table(GOLDEN) is not None
    assert totals_table(replace(GOLDEN, header=header)) is None


# Rows of our own


PROBLEM = Problem(batch=1, in_channels=1, out_channels=1, input_size=(5, 5), filter_size=(3, 3))


def key(name, algorithm, conv_pass=ConvPass.FPROP, repeat=1, backend="cpu", problem=PROBLEM, **case):
    made = Case(suite=case.pop("suite", "net"), name=name, problem=problem, conv_pass=conv_pass, repeat=repeat, **case)
    return RowKey(case=made, backend=backend, algorithm=algorithm, device="cpu")


def timed(name, algorithm, seconds=1e-3, rounds=6, **options):
    measured = Round(1, (Sample(seconds),))
    return Row(
        key=key(name, algorithm, **options), status=Status.OK, rounds=(measured,) * rounds, stop_reason="precision"
    )


def refused(name, algorithm, **options):
    return Row(key=key(name, algorithm, **options), status=Status.UNSUPPORTED, reason="no")


def run_of(*rows):
    return replace(GOLDEN, rows=rows)


def totals(*rows):
    """Shown columns of the totals by algorithm."""
    table = totals_table(run_of(*rows))
    return {row["algorithm"]: row for row in table.rows}


# Totals


def test_a_network_counts_each_layer_as_often_as_it_occurs():
    found = totals(timed("a", "gemm", 2.0, repeat=3), timed("b", "gemm", 5.0))
    assert found["cpu:gemm"]["fprop_s"] == 11.0
    assert found["cpu:gemm"]["total_s"] == 11.0
    assert found["cpu:gemm"]["effective_flop_per_s"] == pytest.approx(4 * 162 / 11)
    assert "fastest of each" not in found  # of one there is no choice


def test_passes_add_up():
    found = totals(
        *(timed("a", "gemm", seconds, conv_pass=p) for p, seconds in zip(ConvPass, (1.0, 2.0, 4.0), strict=True))
    )
    row = found["cpu:gemm"]
    assert (row["fprop_s"], row["dgrad_s"], row["wgrad_s"], row["total_s"]) == (1.0, 2.0, 4.0, 7.0)


def test_a_network_that_lacks_a_layer_has_no_total():
    found = totals(
        timed("a", "gemm", 1.0), timed("b", "gemm", 1.0), timed("a", "fft", 0.5), refused("b", "fft"),
        timed("a", "gemm", 8.0, conv_pass=ConvPass.DGRAD), timed("a", "fft", 9.0, conv_pass=ConvPass.DGRAD),
    )  # fmt: skip
    fft = found["cpu:fft"]
    assert (fft["fprop_s"], fft["fprop_missing"]) == (None, 1)
    assert (fft["dgrad_s"], fft["dgrad_missing"]) == (9.0, 0)
    assert (fft["total_s"], fft["effective_flop_per_s"]) == (None, None)
    assert found["cpu:gemm"]["total_s"] == 10.0


def test_an_incomplete_network_is_shown_as_a_dash():
    run = run_of(timed("a", "gemm"), timed("a", "fft"), refused("b", "gemm"), refused("b", "fft"))
    text = render([totals_table(run)], "markdown")
    assert "| net | cpu:gemm | – | – | – |" in text
    assert "| net | fastest of each | – | – | – |" in text


def test_a_backend_that_was_not_asked_about_a_layer_lacks_it():
    found = totals(timed("a", "gemm"), timed("b", "gemm"), timed("a", "fft"))
    assert found["cpu:fft"]["fprop_missing"] == 1
    assert found["cpu:fft"]["total_s"] is None


def test_the_fastest_of_each_layer_by_layer():
    found = totals(timed("a", "gemm", 1.0, repeat=2), timed("a", "fft", 3.0, repeat=2),
                   timed("b", "gemm", 9.0), timed("b", "fft", 4.0))  # fmt: skip
    assert found["cpu:gemm"]["total_s"] == 11.0
    assert found["cpu:fft"]["total_s"] == 10.0
    assert found["fastest of each"]["total_s"] == 6.0


def test_the_fastest_of_each_fills_gaps():
    found = totals(timed("a", "gemm", 1.0), refused("a", "fft"), refused("b", "gemm"), timed("b", "fft", 4.0))
    assert found["cpu:gemm"]["total_s"] is None
    assert found["cpu:fft"]["total_s"] is None
    assert found["fastest of each"]["total_s"] == 5.0


def test_a_backend_that_is_unavailable_is_left_out_of_totals():
    missing = Row(key=key("a", "auto", backend="gpu"), status=Status.UNAVAILABLE, reason="no GPU")
    assert set(totals(timed("a", "gemm"), missing)) == {"cpu:gemm"}


def test_without_any_time_there_are_no_totals():
    assert totals_table(run_of()) is None
    assert totals_table(run_of(refused("a", "gemm"))) is None


def test_networks_and_precisions_and_layouts_are_kept_apart():
    rows = [
        timed("a", "gemm", 1.0), timed("a", "gemm", 2.0, suite="other"),
        timed("a", "gemm", 4.0, dtype=PRECISIONS["fp64"][0], math_mode=PRECISIONS["fp64"][1]),
        timed("a", "gemm", 8.0, layout=Layout.NHWC),
    ]  # fmt: skip
    table = totals_table(run_of(*rows))
    assert [(r["suite"], r["dtype"], r["layout"], r["total_s"]) for r in table.rows] == [
        ("net", "fp32", "nchw", 1.0), ("other", "fp32", "nchw", 2.0), ("net", "fp64", "nchw", 4.0),
        ("net", "fp32", "nhwc", 8.0),
    ]  # fmt: skip
    assert {"dtype", "layout"} <= {column.key for column in table.shown()}


def test_backward_passes_belong_to_the_network_with_each_epilogue():
    table = totals_table(run_of(
        timed("a", "gemm", 1.0), timed("a", "gemm", 2.0, epilogue=Epilogue.BIAS_RELU),
        timed("a", "gemm", 4.0, conv_pass=ConvPass.DGRAD),
    ))  # fmt: skip
    assert [(r["epilogue"], r["fprop_s"], r["dgrad_s"], r["total_s"]) for r in table.rows] == [
        ("none", 1.0, 4.0, 5.0), ("bias+relu", 2.0, 4.0, 6.0),
    ]  # fmt: skip


def test_a_wrong_row_adds_no_time():
    wrong = replace(timed("b", "gemm"), status=Status.WRONG, reason="off")
    found = totals(timed("a", "gemm"), wrong)
    assert found["cpu:gemm"]["total_s"] is None


# Rows


def test_times_fastest_is_within_a_case():
    table = rows_table(
        run_of(timed("a", "gemm", 2.0), timed("a", "fft", 3.0), timed("b", "fft", 9.0), refused("b", "gemm"))
    )
    assert [row["times_fastest"] for row in table.rows] == [1.0, 1.5, 1.0, None]
    assert list(table.best) == [0, 2]
    assert list(table.breaks) == [2]


def test_fastest_ignores_rows_without_a_time():
    rows = [refused("a", "gemm"), timed("a", "fft", 2.0), timed("a", "direct", 1.0)]
    assert [row.key.algorithm for row in fastest(rows).values()] == ["direct"]


def test_columns_appear_where_values_differ_from_the_usual():
    def shown(*rows):
        return {column.key for column in rows_table(run_of(*rows)).shown()}

    assert not {"suite", "dtype", "layout", "epilogue"} & shown(timed("a", "gemm"))
    assert "dtype" in shown(timed("a", "gemm", dtype=PRECISIONS["fp64"][0], math_mode=PRECISIONS["fp64"][1]))
    assert "layout" in shown(timed("a", "gemm", layout=Layout.NHWC))
    assert "epilogue" in shown(timed("a", "gemm", epilogue=Epilogue.BIAS))
    assert "suite" in shown(timed("a", "gemm"), timed("a", "gemm", suite="other"))
    line = Problem(batch=1, in_channels=1, out_channels=1, input_size=(5,), filter_size=(3,))
    assert "layout" not in shown(timed("a", "gemm"), timed("line", "gemm", problem=line))  # ncw is nchw in 1-D


def test_a_run_without_rows_is_an_empty_table():
    for table in (rows_table(run_of()), backends_table(run_of())):
        for output_format in FORMATS:
            assert render([table], output_format, width=80)


def test_a_row_of_an_empty_problem():
    empty = Problem(batch=0, in_channels=1, out_channels=1, input_size=(5, 5), filter_size=(3, 3))
    table = rows_table(run_of(timed("a", "gemm", problem=empty), timed("a", "fft", 0.0, problem=empty)))
    for output_format in FORMATS:
        render([table], output_format, width=80)
    assert totals_table(run_of(timed("a", "gemm", problem=empty))).rows[0]["total_s"] == 1e-3


# Raw values


def test_json_holds_si_values_of_every_row():
    found = json.loads(render([rows_table(GOLDEN), totals_table(GOLDEN)], "json"))
    assert set(found) == {"rows", "totals"}
    for row, expected in zip(found["rows"], GOLDEN.rows, strict=True):
        facts = row_facts(expected)
        assert {name: row[name] for name in facts} == json.loads(json.dumps(facts))
    first = found["rows"][0]
    assert (first["time_s"], first["interval_low_s"], first["interval_high_s"]) == (0.0015, 0.001, 0.002)
    assert first["half_width"] == pytest.approx(1 / 3)
    assert (first["nominal_macs"], first["nominal_flops"], first["executed_flops"], first["traffic_bytes"]) == (
        81,
        162,
        200,
        100,
    )
    assert first["times_fastest"] == 1.0


def test_csv_holds_the_same_as_json():
    tables = [rows_table(GOLDEN), totals_table(GOLDEN)]
    from_json = json.loads(render(tables, "json"))["rows"]
    from_csv = list(csv.DictReader(io.StringIO(render(tables, "csv"))))
    assert len(from_csv) == len(from_json)
    for flat, full in zip(from_csv, from_json, strict=True):
        assert flat.keys() == full.keys()
        for name, value in full.items():
            if value is None:
                assert flat[name] == ""
            elif isinstance(value, float):
                assert float(flat[name]) == value  # no digit lost
            else:
                assert flat[name] == str(value)


@pytest.mark.parametrize(
    "table", [rows_table(GOLDEN), totals_table(GOLDEN), backends_table(GOLDEN)], ids=lambda t: t.key
)
def test_no_raw_value_is_formatted(table):
    """A number with its unit or a percentage would be of no use to a program."""
    for row in json.loads(render([table], "json"))[table.key]:
        for name, value in row.items():
            if name not in {"reason", "shape"}:
                assert not re.fullmatch(r"[0-9.]+ ?(%|[mnµk]?s|[KMGT]i?B|Gflop/s)", str(value)), name


def test_floats_survive_json_and_csv():
    values = [1e-9, 0.1 + 0.2, 1 / 3, 123456789.123456789, 5e-324, 1.7e308]
    table = Table(key="t", columns=[Column(key="v", header="v", show=format_time)], rows=[{"v": v} for v in values])
    assert [row["v"] for row in json.loads(render([table], "json"))["t"]] == values
    assert [float(row["v"]) for row in csv.DictReader(io.StringIO(render([table], "csv")))] == values


def test_json_of_no_tables_is_an_empty_object():
    assert json.loads(render([], "json")) == {}


def test_text_only_columns_stay_out_of_raw_formats_and_hidden_ones_out_of_text():
    columns = [Column(key="a", header="alpha", text_only=True), Column(key="b", header="beta", hidden=True)]
    table = Table(key="t", columns=columns, rows=[{"a": "one", "b": 2}])
    assert json.loads(render([table], "json")) == {"t": [{"b": 2}]}
    assert render([table], "csv") == "b\n2\n"
    for output_format in ("table", "markdown"):
        text = render([table], output_format)
        assert "alpha" in text
        assert "one" in text
        assert "beta" not in text


# Names are text, never markup


NASTY = [
    "[/fft]", "[cuda13]", "[bold]x[/bold]", "a|b", "*x*", "_x_", "`x`", "<script>alert(1)</script>", "\\",
    "![x](y)", "{x}", ":smile:", "[link=http://x]y[/link]", "a, b",
    '"quoted"', "https://example.invalid/x",
]  # fmt: skip


def nasty_table(text):
    columns = [Column(key="a", header=text), Column(key="b", header="b", right=True)]
    return Table(key="t", title=text, columns=columns, rows=[{"a": text, "b": text}], notes=[text], best=[0])


@pytest.mark.parametrize("text", NASTY)
def test_a_name_appears_whole_in_a_table(text):
    shown = render([nasty_table(text)], "table", width=200)
    assert shown.count(text) == 5  # title, header, both cells, note
    assert "\x1b" not in shown


@pytest.mark.parametrize("text", NASTY)
def test_a_name_survives_json_and_csv(text):
    table = nasty_table(text)
    assert json.loads(render([table], "json"))["t"] == [{"a": text, "b": text}]
    assert list(csv.reader(io.StringIO(render([table], "csv"))))[1] == [text, text]


def unescaped(text):
    return re.sub(r"\\([\\`*_{}\[\]<>|])", r"\1", text)


@pytest.mark.parametrize("text", NASTY)
def test_a_name_is_no_markup_in_markdown(text):
    lines = render([nasty_table(text)], "markdown").splitlines()
    plain = re.compile(r"(?<!\\)(?:\\\\)*[`*_{}\[\]<>|]")  # a character of markup without a backslash before it
    title, header, rule, row, note = lines[0], lines[2], lines[3], lines[4], lines[6]
    assert rule == "|---|---:|"
    assert unescaped(title) == f"**{text}**"
    assert not plain.search(title.removeprefix("**").removesuffix("**"))
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", header)) == 3
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3
    assert unescaped(row) == f"| **{text}** | **{text}** |"
    assert unescaped(note) == f"- {text}"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x0b", "\u2028"])
def test_a_line_break_does_not_leave_a_markdown_cell(end):
    text = render([nasty_table(f"one{end}| two |")], "markdown")
    assert "one \\| two \\|" in text
    assert len(text.splitlines()) == 7


def test_names_from_a_file_appear_whole_in_every_format():
    row = replace(
        refused("layer[/fft]", "fft[cuda13]"),
        reason='pip install "convbench[cuda13]" | *now* <script>[/b]',
        resolved="[x]",
    )
    table = rows_table(run_of(row))
    text = render([table], "table", width=200)
    for part in ("layer[/fft]", "cpu:fft[cuda13] ([x])", row.reason):
        assert part in text
    assert row.reason in json.loads(render([table], "json"))["rows"][0]["reason"]


# Widths and colour


@pytest.mark.parametrize("width", [1, 2, 5, 10, 20, 40, 79, 80, 100, 1000])
@pytest.mark.parametrize("make", [rows_table, totals_table, backends_table])
def test_at_any_width_names_and_figures_are_whole(make, width):
    table = bare(make(GOLDEN))
    text = render([table], "table", width=width)
    assert len(text.splitlines()) >= 2 + len(table.rows)
    assert "…" not in text
    for column in table.shown():
        if not column.spare:
            assert all(table.cell(row, column) in text for row in table.rows)


NARROW = Table(
    key="t", title="A title", notes=["a note"], best=[0], breaks=[2],
    columns=[
        Column(key="name", header="name"), Column(key="twice", header="twice", right=True, spare=3),
        Column(key="rate", header="Gflop/s", right=True, spare=1), Column(key="wide", header="very wide", spare=2),
        Column(key="title", header="title", cut=True),
    ],
    rows=[
        {"name": "a-name-of-18-cells", "twice": 2, "rate": 1.5, "wide": "0123456789" * 3, "title": "short"},
        {"name": "b", "twice": 20, "rate": 15, "wide": None, "title": "more than thirty-two cells, which is the least"},
        {"name": "卷积层", "twice": 200, "rate": 150, "wide": "x", "title": "卷积层" * 8},
    ],
    legend=[(("rate", "twice"), "Gflop/s: what a rate is"), (("wide",), "very wide: what that is")],
)  # fmt: skip


@pytest.mark.parametrize("width", [40, 65, 80, 110])
def test_a_table_at_a_width(width):
    """Left out by importance but for what still fits, then texts shortened; a legend goes with its columns."""
    assert render([NARROW], "table", width=width) == golden(f"narrow-{width}.txt")


def test_wrapped_text_has_several_lines_in_the_terminal_alone():
    columns = [Column(key="name", header="name"), Column(key="text", header="text", wrap=12),
               Column(key="value", header="value", right=True)]  # fmt: skip
    rows = [{"name": "a", "text": "one two three --four five", "value": 7}, {"name": "b", "text": "", "value": 8}]
    table = Table(key="t", columns=columns, rows=rows)
    assert render([table], "table").splitlines() == [
        "name   text           value",
        "───────────────────────────",
        "a      one two            7",
        "       three --four",
        "       five",
        "b                         8",
    ]
    assert "| one two three --four five |" in render([table], "markdown")
    assert json.loads(render([table], "json"))["t"][0]["text"] == "one two three --four five"


def test_a_legend_goes_with_its_columns():
    everything = render([NARROW], "table")
    assert "what a rate is" in everything
    assert everything.endswith("very wide: what that is\na note\n")
    assert "- very wide: what that is\n- a note\n" in render([NARROW], "markdown")
    hidden = [replace(column, hidden=column.key == "wide") for column in NARROW.columns]
    assert "what that is" not in render([replace(NARROW, columns=hidden)], "markdown")


CELLS = st.integers(0, 60)
COLUMNS = st.lists(st.tuples(CELLS, st.integers(0, 4), st.booleans()), min_size=1, max_size=8)


@given(made=COLUMNS, width=st.integers(1, 300))
def test_what_is_left_out_would_not_have_fitted(made, width):
    columns = [Column(key=f"{i}", header=f"{i}", spare=spare, cut=cut) for i, (_, spare, cut) in enumerate(made)]
    natural = {f"{i}": max(1, cells) for i, (cells, _, _) in enumerate(made)}
    table = Table(key="t", columns=columns, rows=[{key: "x" * cells for key, cells in natural.items()}])
    _, rule, row, *below = render([table], "table", width=width).splitlines()
    left_out = [line for line in below if line.startswith("left out")]
    named = left_out[0].partition(": ")[2].split(", ") if left_out else []
    shown = [column for column in columns if column.header not in named]
    least = {c.key: min(natural[c.key], LEAST) if c.cut else natural[c.key] for c in columns}
    needed = sum(least[c.key] for c in shown) + 3 * (len(shown) - 1)
    assert all(c.spare for c in columns if c.header in named)
    assert len(rule) <= max(width, needed)
    assert needed <= width or len(shown) == 1 or not any(c.spare for c in shown)
    assert not any(needed + 3 + least[key] <= width for key in named)
    assert all(len(cell) >= least[c.key] for cell, c in zip(row.split("   "), shown, strict=True))
    assert len(rule) >= width or "…" not in row  # no text is shortened while room is left


CONTROL = ["\n", "\r\n", "\r", "\t", "\x00", "\x07", "\x08", "\x0b", "\x1b[2J", "\x7f", "\x85", "\x9b31m",
           "\u2028", "\u202e", "\ud800"]  # fmt: skip


@pytest.mark.parametrize("character", CONTROL, ids=ascii)
@pytest.mark.parametrize("output_format", ["table", "markdown"])
def test_no_character_breaks_a_line(character, output_format):
    """Of a cell, header, title, note or legend."""
    text = f"one{character}two"
    table = replace(nasty_table(text), legend=[(["a"], text)])
    usual = replace(nasty_table("one two"), legend=[(["a"], "one two")])
    shown = render([table], output_format, width=200)
    lines = shown.splitlines()
    assert len(lines) == len(render([usual], output_format, width=200).splitlines())
    assert all(line.isprintable() for line in lines)
    assert shown.count("one") == shown.count("two") == 6
    shown.encode()


def test_a_reason_of_two_lines_is_one_line():
    failed = replace(refused("a", "gemm"), reason="first\nsecond\x1b[31m")
    assert "cpu:gemm: unsupported: first second\\x1b[31m\n" in render([rows_table(run_of(failed))], "table", width=80)


def test_a_narrow_terminal_leaves_out_what_is_least_needed():
    """What is left is whole, and what is missing is said."""
    table = bare(rows_table(GOLDEN))
    wide, narrow = (render([table], "table", width=width) for width in (200, 105))
    left_out = narrow.splitlines()[-1].removeprefix("left out for want of width: ").split(", ")
    assert left_out == ["disturbed", "flop/B", "error", "exec."]
    assert "…" not in narrow
    for column in table.shown():
        assert (column.header in narrow.splitlines()[1]) == (column.header not in left_out)
        assert column.header in wide


def test_notes_are_never_cut():
    text = render([rows_table(GOLDEN)], "table", width=40)
    for note in rows_table(GOLDEN).notes:
        assert note in text


def test_without_a_width_nothing_is_cut():
    long = "layer" * 200
    text = render([rows_table(run_of(timed(long, "gemm"), timed("a", "gemm")))], "table")
    assert long in text
    assert "…" not in text


def test_wide_characters_do_not_break_a_table():
    text = render([rows_table(run_of(timed("卷积层", "gemm"), timed("a", "gemm")))], "table", width=120)
    assert "卷积层" in text


def test_colour_is_added_only_when_asked_for():
    table = rows_table(GOLDEN)
    plain = render([table], "table", width=120)
    colored = render([table], "table", width=120, color=True)
    assert "\x1b" not in plain
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored).split() == plain.split()


@pytest.mark.parametrize("output_format", FORMATS)
def test_variables_of_the_terminal_do_not_matter_to_the_library(monkeypatch, output_format):
    plain = render([rows_table(GOLDEN)], output_format, width=120)
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("COLUMNS", "30")
    assert render([rows_table(GOLDEN)], output_format, width=120) == plain


def test_lines_have_no_trailing_space():
    for output_format in ("table", "markdown"):
        for line in render([rows_table(GOLDEN), totals_table(GOLDEN)], output_format, width=120).splitlines():
            assert line == line.rstrip()


# Analyses


def analysis(name="talk-example", machine=None, **selection):
    cases = Selection(**selection).cases([load_suite(name)])
    return analysis_table(cases, load_datasheet(machine) if machine else None)


def test_the_worked_example_of_the_talk():
    table = analysis(passes=(ConvPass.FPROP,), globs=("alexnet_layer1",))
    row = table.rows[0]
    assert row["nominal_macs"] == 13_493_145_600
    assert row["nominal_flops"] == 2 * 13_493_145_600
    assert row["mac_per_input_byte"] == pytest.approx(175.08, abs=0.01)
    assert table.title == ""
    assert not {"bound", "floor_s"} & {column.key for column in table.columns}


def test_a_machine_adds_a_predicted_bound():
    table = analysis(machine="h200-sxm", passes=(ConvPass.FPROP,))
    for row in table.rows:
        assert row["floor_s"] >= max(row["compute_s"], row["memory_s"]) > 0
    assert "H200" in table.title
    assert any("at least" in note for note in table.notes)


def test_a_precision_that_the_machine_lacks_says_so():
    table = analysis(machine="k40", precisions=(PRECISIONS["bf16"],), passes=(ConvPass.FPROP,))
    assert all("floor_s" not in row and row["bound"] for row in table.rows)
    for output_format in FORMATS:
        assert render([table], output_format, width=100)


def test_an_analysis_of_every_pass_shape_and_batch_zero():
    for machine in (None, "h200-sxm"):
        table = analysis("smoke", machine)
        assert len(table.rows) == 14 * 3
        for output_format in FORMATS:
            assert render([table], output_format, width=100)
        json.loads(render([table], "json"), parse_constant=lambda _: pytest.fail("NaN"))


@pytest.mark.parametrize("width", [80, 100, 120])
def test_an_analysis_at_a_width(width):
    table = analysis("alexnet", "h200-sxm", passes=(ConvPass.FPROP,))
    assert render([table], "table", width=width) == golden(f"analysis-{width}.txt")


def test_what_a_prediction_rests_on_is_said_where_it_is_shown():
    for machine in (None, "h200-sxm"):
        assert ("ceilings" in render([analysis(machine=machine)], "markdown")) == (machine is not None)


def test_a_run_is_what_the_tables_are_made_of():
    assert isinstance(GOLDEN, Run)  # and reading it left nothing out
    assert len(rows_table(GOLDEN).rows) == len(GOLDEN.rows)


# Warm and cold, drift, canaries


def with_cache(row, cache):
    return replace(row, key=replace(row.key, cache=cache))


def test_cold_rows_stand_beside_warm_ones():
    warm, cold = timed("a", "gemm", 1e-3), with_cache(timed("a", "gemm", 3e-3), "cold")
    table = rows_table(run_of(warm, cold))
    text = render([table], "table")
    assert [row["cold_ratio"] for row in table.rows] == [None, pytest.approx(3.0)]
    assert [row["times_fastest"] for row in table.rows] == [1.0, 1.0]  # each among its own
    assert "3.00×" in text
    assert "cold/warm: time with swept caches" in text
    assert "cache" not in render([rows_table(run_of(warm))], "table").splitlines()[1]
    assert "cold_ratio" not in render([rows_table(run_of(cold))], "table")


def test_totals_of_warm_and_cold_are_apart():
    facts = totals_table(run_of(timed("a", "gemm", 1e-3), with_cache(timed("a", "gemm", 3e-3), "cold"))).rows
    assert [(f["cache"], f["total_s"]) for f in facts] == [("warm", pytest.approx(1e-3)), ("cold", pytest.approx(3e-3))]


def of_rounds(*seconds, flags=(), processes=None):
    rounds = tuple(
        Round(1, (Sample(s, None, flags),), process=p)
        for s, p in zip(seconds, processes or [0] * len(seconds), strict=True)
    )
    return replace(timed("a", "gemm"), rounds=rounds)


@pytest.mark.parametrize(
    ("row", "mark", "note"),
    [
        (of_rounds(*[1e-3] * 8), "", ""),
        (of_rounds(*[1e-3] * 5), "?", "? fewer than 6 rounds"),
        (of_rounds(*[1e-3] * 8, flags=("waited",)), "!", "! no undisturbed sample"),
        (of_rounds(*[1e-3] * 8, flags=("below_timer_floor",)), "", ""),
        (of_rounds(*[1e-3 * (1 + i / 10) for i in range(8)]), "~", "~ drift"),
        (of_rounds(*[1e-3] * 4, flags=("waited",)), "?!", "? fewer than 6 rounds"),
    ],
)
def test_marks_behind_a_time(row, mark, note):
    table = rows_table(run_of(row))
    assert table.rows[0]["shown_time"].rstrip("?!~") + mark == table.rows[0]["shown_time"]
    assert any(text.startswith(note) for text in [*table.notes, ""])


def test_the_interval_of_several_processes_encloses_each_median():
    row = of_rounds(*[1e-3] * 6, *[2e-3] * 3, processes=[0] * 3 + [1] * 3 + [2] * 3)
    assert row.interval_s == (1e-3, 2e-3)
    assert of_rounds(*[1e-3] * 6, *[2e-3] * 3).interval_s == (1e-3, 2e-3)


@pytest.mark.parametrize(
    ("ends", "expected"), [((-0.02, 0.02), "±2.0%"), ((-0.02, 0.15), "−2.0 +15%"), ((0, 0), "±0%")]
)
def test_an_interval_shows_both_its_ends(ends, expected):
    from convbench.render.results import _interval

    assert _interval(ends) == expected


def test_a_canary_that_moved_is_a_note():
    steady, slower = ({"compute": 1e-3, "memory": 5e-3},) * 6, ({"compute": 1e-3, "memory": 6e-3},) * 6
    run = replace(run_of(timed("a", "gemm")), canaries={"cpu": steady + slower})
    assert [note for note in rows_table(run).notes if "canary" in note] == [
        "the memory canary, fixed work, went from 5.00 ms to 6.00 ms: its speed or its load changed during the run"
    ]
    assert not any("canary" in note for note in rows_table(replace(run, canaries={"cpu": steady})).notes)
    both = rows_table(replace(run, canaries={"cuda:0": steady, "cuda:1": steady + slower})).notes
    assert ["the memory canary of cuda:1" in note for note in both if "canary" in note] == [True]


# Phases


def with_phases(row, *runs):
    return replace(row, work=Work((replace(PHASE, name="gather", flops=0), PHASE)), phases=runs)


PHASE = Phase(name="product", flops=4_000_000, bytes_read=1_000_000, bytes_written=500_000, footprint_bytes=1)


def test_a_line_per_phase():
    run = run_of(with_phases(timed("a", "gemm"), (2e-4, 8e-4), (1e-4, 7e-4), (3e-4, 9e-4)), timed("a", "fft"))
    table = phases_table(run)
    gather, product = table.rows
    assert (gather["phase"], gather["time_s"], gather["share"]) == ("gather", 2e-4, pytest.approx(0.2))
    assert (gather["flops"], gather["flop_per_s"], gather["bytes_per_s"]) == (0, None, pytest.approx(7.5e9))
    assert (product["flop_per_s"], product["traffic_bytes"]) == (pytest.approx(5e9), 1_500_000)
    assert table.notes == []
    text = render([table], "table", width=120).splitlines()
    assert text[1].split() == [
        "problem", "pass", "algorithm", "phase", "time", "share", "flops", "bytes", "Gflop/s", "GB/s"
    ]  # fmt: skip
    assert text[-1].split()[3:] == ["product", "800", "µs", "80%", "4.00", "Mflop", "1.50", "MB", "5.00", "1.88"]
    assert [line.split()[3:6] for line in text[-2:]] == [["gather", "200", "µs"], ["product", "800", "µs"]]


def test_figures_of_phases_give_way_on_a_narrow_terminal():
    rows = [with_phases(replace(timed("conv1", "auto", 3e-4), resolved="winograd-7x3-3x3"), (1e-4, 2e-4))]
    text = render([phases_table(run_of(*rows))], "table", width=80)
    header = next(line for line in text.splitlines() if line.startswith("problem"))
    assert header.split()[:6] == ["problem", "pass", "algorithm", "phase", "time", "share"]
    assert "cpu:auto (winograd-7x3-3x3)" in text
    assert max(map(len, text.splitlines()[1:-1])) <= 80


def test_rows_whose_phases_do_not_add_up_are_noted():
    runs = {1.05: False, 1.11: True, 0.95: False, 0.89: True}
    for total, noted in runs.items():
        row = with_phases(timed("a", "gemm", 1e-3), (total * 5e-4, total * 5e-4))
        assert bool(phases_table(run_of(row)).notes) == noted


def test_phases_of_several_rows_are_set_apart():
    rows = [with_phases(timed("a", name), (1e-4, 0.0)) for name in ("gemm", "fft")]
    table = phases_table(run_of(*rows))
    assert (len(table.rows), table.breaks) == (4, [2])
    assert table.rows[1]["bytes_per_s"] is None
    assert "–" in render([table], "markdown")
    nothing = phases_table(run_of(with_phases(timed("a", "gemm"), (0.0, 0.0))))
    assert [row["share"] for row in nothing.rows] == [None, None]


def test_a_run_without_phases_has_no_table_of_them():
    assert phases_table(run_of(timed("a", "gemm"), refused("a", "fft"))) is None
