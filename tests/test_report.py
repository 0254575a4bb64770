"""`convbench report`: the facts of a page, names that are never markup, several runs, and whatever files may hold."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from plots import CEILINGS, many, row, run_of

from convbench.backends import Sample
from convbench.claims import Claim
from convbench.cli import main
from convbench.cli.report import names
from convbench.errors import printable
from convbench.journal import read_run
from convbench.placement import placed_rows
from convbench.render import Column, Table, render
from convbench.render.html import report_html, report_tables, table_html
from convbench.render.html.facts import packed, page_facts
from convbench.render.html.merge import brief, merged, numbered
from convbench.render.results import rows_table
from convbench.result import Status
from convbench.timing import Round

DATA = Path(__file__).parent / "data"
EVIL = """</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>&quot;"'`${7*7}{{facts}}"""


def facts_of(runs):
    return page_facts(runs, report_tables(runs)["rows"])


def unpacked(column):
    return column if isinstance(column, list) else [column["of"][place] for place in column["at"]]


def columns_of(runs):
    """The rows of a page, by column."""
    return {key: unpacked(column) for key, column in facts_of(runs)["rows"]["columns"].items()}


class Page(HTMLParser):
    """The elements of a page with their attributes, and the texts inside each kind of element."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "input", "img", "br"}:
            self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in self._open[-1:]:
            self.texts.setdefault(tag, []).append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


# Facts


def test_rows_have_the_placement_that_the_library_computes():
    run = run_of(*many(3, "gemm", "fft"))
    columns, placed = columns_of({"a": run}), placed_rows(run)[0]
    assert columns["floor_s"] == [of.placement.floor_s for of in placed]
    assert columns["attained"] == [of.judgement.attained for of in placed]
    assert columns["bound"] == [of.judgement.bound for of in placed]
    assert columns["time_s"] == [of.time_s for of in placed]


def test_runs_share_cases_and_machines():
    before, after = run_of(row("a"), row("b")), run_of(row("b"), row("c"))
    columns = columns_of({"before": before, "after": after})
    assert columns["run"] == ["before", "before", "after", "after"]
    assert columns["case"] == [0, 1, 1, 2]
    assert columns["machine"] == [0, 0, 0, 0]
    assert len(facts_of({"before": before, "after": after})["machines"]) == 1


def test_another_machine_has_roofs_of_its_own():
    here, there = (
        run_of(row("a")),
        run_of(row("a"), ceilings=CEILINGS | {"compute": {"fp32": CEILINGS["compute"]["fp64"]}}),
    )
    there.header["devices"]["cpu"]["fingerprint"] = "another"
    machines = facts_of({"here": here, "there": there})["machines"]
    assert [machine["compute"]["fp32"] for machine in machines] == [2e11, 1e11]
    assert [machine["ceilings_of"] for machine in machines] == ["here", "there"]


def test_ceilings_come_from_the_first_run_that_has_them():
    machines = facts_of({"bare": run_of(row("a"), ceilings=None), "full": run_of(row("a"))})["machines"]
    assert [machine.get("ceilings_of") for machine in machines] == ["full"]


def test_phases_stand_by_the_row_they_belong_to():
    run = run_of(row("a"), row("b", phases={"gather": 1e-4, "product": 9e-4}))
    assert facts_of({"a": run})["phases"] == {1: [("gather", 1e-4), ("product", 9e-4)]}


def test_a_row_of_unknown_work_has_the_intensity_of_its_definition():
    known, unknown = row("a"), replace(row("a"), work=None)
    assert columns_of({"a": run_of(known)})["nominal_intensity"] == [None]
    found = columns_of({"a": run_of(unknown)})
    assert found["arithmetic_intensity"] == [None]
    assert found["nominal_intensity"][0] > 0


@given(st.lists(st.one_of(st.none(), st.text(max_size=2), st.integers(0, 3), st.floats(allow_nan=False, width=16))))
def test_a_packed_column_holds_its_values(values):
    assert unpacked(json.loads(json.dumps(packed(values)))) == values


# Tables


def test_gaps_are_the_fastest_rows_furthest_from_their_floor():
    run = run_of(*many(20, "gemm", "fft"))
    table = report_tables({"a": run})["gaps"]
    assert [fact["to_win_s"] for fact in table.rows] == sorted((f["to_win_s"] for f in table.rows), reverse=True)
    assert {fact["algorithm"] for fact in table.rows} == {"gemm"}  # twice as fast as fft in each case
    assert "20 that are the fastest" in table.notes[0]


def test_a_run_without_ceilings_has_no_gaps():
    assert {"rows", "backends", "totals"} == set(report_tables({"a": run_of(row("a"), ceilings=None)}))


def test_merged_tables_say_which_run_and_show_what_differs_between_them():
    fp32, fp64 = rows_table(run_of(row("a"))), rows_table(run_of(row("a", dtype="fp64")))
    table = merged({"one": fp32, "two": fp64})
    assert [column.key for column in table.shown()][:4] == ["run", "problem", "pass", "dtype"]
    assert [(fact["run"], fact["dtype"]) for fact in table.rows] == [("one", "fp32"), ("two", "fp64")]
    assert (table.best, table.breaks) == ([0, 1], [1])
    assert "run" not in [column.key for column in merged({"one": fp32}).shown()]


def test_a_note_of_all_runs_is_said_once():
    note = Table(key="t", columns=[Column(key="a", header="a")], rows=[{"a": 1}], notes=["both"])
    own = replace(note, notes=["both", "own"])
    assert merged({"x": note, "y": own}).notes == ["both", "y: own"]


def test_a_table_as_html_is_marked_up_for_readers():
    columns = [
        Column(key="a", header="A"),
        Column(key="b", header="B", right=True),
        Column(key="c", header="C", hidden=True),
    ]
    table = Table(key="t", title="T", columns=columns, rows=[{"a": "x", "b": None, "c": 1}], notes=["n"], best=[0])
    page = Page(table_html(table))
    assert [attributes for tag, attributes in page.elements if tag == "th"] == [
        {"scope": "col"}, {"scope": "col", "class": "right"},
    ]  # fmt: skip
    assert (page.texts["caption"], page.texts["td"], page.texts["li"]) == (["T"], ["x", "–"], ["n"])
    assert [attributes for tag, attributes in page.elements if tag == "tr"][1] == {"class": "best"}


# The page


def evil_run():
    """A run whose every text is hostile."""
    case = replace(row("a").key.case, name=EVIL, suite=EVIL)
    key = replace(row("a").key, case=case, backend=EVIL, algorithm=EVIL)
    bad = replace(row("a", phases={EVIL: 1.0}), key=key, resolved=EVIL)
    refused = replace(bad, key=replace(key, algorithm="b"), status=Status.FAILED, reason=EVIL, rounds=(), phases=())
    run = run_of(bad, refused, suites=[{"name": EVIL, "title": EVIL, "sha256": ""}], command=[EVIL], created=EVIL)
    device = run.header["devices"]["cpu"]
    device["machine"] = device["machine"] | {"cpu_model": EVIL, "os": EVIL, "isa": [EVIL]}
    device["ceilings"] = CEILINGS | {"warnings": [EVIL], "contended": EVIL}
    return replace(run, note=EVIL)


def test_names_and_notes_are_never_markup():
    page = report_html({EVIL: evil_run()})
    harmless, evil = Page(report_html({"a": run_of(row("a", phases={"b": 1.0}))})), Page(page)
    for tag in ("script", "img", "style", "iframe", "a"):
        assert evil.count(tag) == harmless.count(tag), tag
    assert all(not name.startswith("on") for _, attributes in evil.elements for name in attributes)
    assert "".join(evil.texts["h1"]) == EVIL
    embedded = json.loads(re.search(r'id="facts">(.*?)</script>', page, re.DOTALL)[1])
    assert unpacked(embedded["rows"]["columns"]["problem"]) == [EVIL, EVIL]


@given(st.text(max_size=30))
def test_any_text_in_a_table_comes_out_as_it_is(text):
    table = Table(key=text, title=text, columns=[Column(key="a", header=text)], rows=[{"a": text}], notes=[text])
    page = Page(table_html(table))
    assert ["".join(page.texts.get(tag, [])) for tag in ("td", "th")] == [printable(text)] * 2
    assert page.count("script") == 0


def test_nothing_runs_but_the_pages_own_scripts_and_nothing_loads():
    page = report_html({"a": run_of(row("a"))})
    policy = next(attributes["content"] for tag, attributes in Page(page).elements if "http-equiv" in attributes)
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"('sha256-[\w+/=]{44}' ?){2}", rules["script-src"])
    links = [attributes.get(key) for _, attributes in Page(page).elements for key in ("src", "href", "data")]
    assert all(link.startswith("#") for link in links if link)


def test_what_is_missing_is_said():
    bare = report_html({"a": run_of(row("a"), ceilings=None)})
    assert "No ceilings were measured" in bare
    assert facts_of({"a": run_of(row("a"), ceilings=None)})["machines"][0]["compute"] == {}
    empty = report_html({"a": run_of()})
    assert "There are no rows." in empty


@pytest.mark.parametrize("value", [10**400, -5, "many", [1], {"l1": {"a": 1}}, None])
def test_a_header_may_hold_anything(value):
    machine = {"os": value, "cpu_model": value, "memory_bytes": value, "cache_bytes": value, "isa": value}
    run = run_of(row("a"))
    run.header["devices"]["cpu"]["machine"] = machine
    run = replace(run, header=run.header | {"options": {"threads": value, "max_time_s": value}})
    assert report_html({"a": run}).startswith("<!doctype html>")


def test_damaged_ceilings_are_a_sentence_on_the_page():
    page = report_html({"a": run_of(row("a"), ceilings={"compute": 3})})
    assert "not a set of ceilings" in page


def test_the_summary_says_how_disturbed_each_run_was():
    quiet, few = row("a"), replace(row("b"), rounds=row("b").rounds[:3])
    untimed = replace(quiet, status=Status.UNSUPPORTED, reason="no", rounds=(), stop_reason=None)
    late = replace(row("c"), rounds=tuple(Round(1, (Sample(1e-3, 1e-3, ("lost",)),)) for _ in range(7)))
    page = report_html(
        {"quiet": run_of(quiet), "noisy": run_of(few, late), "untimed": run_of(untimed), "empty": run_of()}
    )
    said = dict(re.findall(r"<p><b>(\w+)</b>: (.*?)</p>", page))
    assert said["quiet"].endswith("No time is marked as doubtful.")
    assert said["noisy"].endswith(
        "Doubtful times: 1 disturbed in half of the rounds or more (!), 1 with too few rounds for an interval (?); 70% "
        "of all samples were disturbed."
    )
    assert said["untimed"] == "1 row, 0 with a time."
    assert said["empty"] == "There are no rows."


def test_levels_of_memory_have_one_name_for_readers():
    page = report_html({"a": run_of(row("a"))})
    shown = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert {"L2", "L3", "DRAM"} <= {*re.findall(r"\w+", shown)}
    assert not {"l1", "l2", "l3", "dram"} & {*re.findall(r"\w+", shown)}


def test_claims_come_first():
    table = Table(key="t", columns=[Column(key="a", header="A")], rows=[{"a": "evidence"}])
    claim = Claim(key="k", title="Who wins", question="Which?", conclusion="This <b>one</b>.", tables=(table,))
    page = report_html({"a": run_of(row("a"))}, claims=[claim])
    assert page.index("Who wins") < page.index("evidence") < page.index('<section id="machines"')
    assert "This &lt;b&gt;one&lt;/b&gt;." in page


def test_a_page_of_claims_is_titled_by_the_machines_and_not_by_its_suites():
    here, there = run_of(row("a")), run_of(row("a"))
    there.header["devices"]["cpu"]["machine"] = {"cpu_model": "Another CPU"}
    claim = Claim(key="k", title="Who wins", question="Which?", conclusion="this one")
    title = Page(report_html({"a": here, "b": here, "c": there}, claims=[claim])).texts["h1"]
    assert title == [f"The talk's claims: {here.header['devices']['cpu']['machine']['cpu_model']}, Another CPU"]


def test_commands_in_notes_are_code_and_nothing_else_is():
    note = "see `show --by bound`, not `<b>` or `A`"
    page = Page(table_html(Table(key="t", columns=[Column(key="a", header="a")], rows=[], notes=[note])))
    assert page.texts["code"] == ["show --by bound"]
    assert page.count("b") == 0
    assert "`" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", report_html({"a": run_of(row("a"))}),
                             flags=re.DOTALL)  # fmt: skip


def test_long_names_of_runs_are_cut_in_tables_and_whole_in_their_titles():
    names = ["measured_before_that_change", "measured_before_this_change"]
    cells = [attributes for tag, attributes in Page(report_html({name: run_of(row("a")) for name in names})).elements
             if tag == "td" and attributes.get("title")]  # fmt: skip
    assert {cell["title"] for cell in cells} == {*names}


@given(st.lists(st.text("ab", max_size=40).map("measured".__add__), min_size=1, max_size=5, unique=True))
def test_short_names_are_as_different_as_the_names(names):
    short = brief(names, 12)
    assert [*short] == names
    assert len({*short.values()}) == len(names)
    if len(names) == 1:
        assert len(short[names[0]]) <= 12


def test_what_names_begin_with_alike_gives_way():
    assert brief(["measured_before_that_change_of_flags", "measured_before_this_change_of_flags"]) == {
        "measured_before_that_change_of_flags": "mea…at_ch…of_flags",
        "measured_before_this_change_of_flags": "mea…is_ch…of_flags",
    }
    assert brief(["before", "after"]) == {"before": "before", "after": "after"}


def test_a_download_has_the_columns_of_the_csv():
    runs = {"a": run_of(*many(2, "gemm", "fft"))}
    facts = facts_of(runs)
    assert facts["export"] == render([report_tables(runs)["rows"]], "csv").splitlines()[0].split(",")
    assert {*facts["export"]} <= {*facts["rows"]["columns"]}


# The command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with runs of every schema, an empty one, and one that is none."""
    monkeypatch.chdir(tmp_path)
    for path in DATA.glob("run-v*.jsonl"):
        Path(path.name).write_bytes(path.read_bytes())
    Path("empty.jsonl").write_text((DATA / "run-v1.jsonl").read_text().splitlines()[0] + "\n")
    Path("none.jsonl").write_text("hello\n")
    return tmp_path


def report(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)], prog_name="convbench")


@pytest.mark.usefixtures("folder")
def test_runs_of_all_schemas_and_an_empty_one_make_a_page():
    runs = sorted(Path().glob("run-v*.jsonl"))
    result = report(*runs, "empty.jsonl", "-o", "all.html")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert re.fullmatch(r"all\.html: \d+ rows, (\d{3} k|\d\.\d\d M)B\n", result.stderr)
    page = Path("all.html").read_text()
    assert page.startswith("<!doctype html>")
    assert all(f"<b>{path.stem}</b>" in page for path in runs)


@pytest.mark.usefixtures("folder")
def test_one_run_without_rows_makes_a_page():
    assert report("empty.jsonl").exit_code == 0
    assert '"count":0' in Path("report.html").read_text()


@pytest.mark.usefixtures("folder")
def test_the_same_facts_as_text():
    rows = read_run(Path("run-v3.jsonl")).rows
    made = json.loads(report("run-v3.jsonl", "--format", "json").stdout)
    assert [fact["time_s"] for fact in made["rows"]] == [row.time_s for row in rows]
    csv = report("run-v3.jsonl", "run-v1.jsonl", "--format", "csv").stdout.splitlines()
    assert csv[0].startswith("run,suite,problem")
    assert len(csv) == 1 + len(rows) + len(read_run(Path("run-v1.jsonl")).rows)
    markdown = report("run-v3.jsonl", "--format", "markdown", "-o", "a.md")
    assert (markdown.exit_code, markdown.stdout) == (0, "")
    assert "| network |" in Path("a.md").read_text()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("code", "arguments", "error"),
    [
        (2, [], "Missing argument 'RUN...'"),
        (1, ["none.jsonl"], "none.jsonl:1: not JSON: not a convbench result file"),
        (1, ["absent.jsonl"], "cannot read absent.jsonl: No such file or directory"),
        (1, ["run-v1.jsonl", "-o", "run-v1.jsonl"], "run-v1.jsonl exists; --force overwrites it"),
        (1, ["run-v1.jsonl", "-o", "."], "it is not a regular file"),
        (
            1,
            ["run-v1.jsonl", "-o", "no/such/folder.html"],
            "cannot write no/such/folder.html: No such file or directory",
        ),
    ],
)
def test_a_mistake_is_one_line(code, arguments, error):
    result = report(*arguments)
    assert result.exit_code == code
    assert error in result.stderr.splitlines()[-1]
    assert sorted(path.name for path in Path().iterdir() if "run-v" not in path.name) == ["empty.jsonl", "none.jsonl"]


@pytest.mark.usefixtures("folder")
def test_only_force_overwrites():
    Path("report.html").write_text("mine")
    assert report("empty.jsonl").exit_code == 1
    assert Path("report.html").read_text() == "mine"
    assert report("empty.jsonl", "--force").exit_code == 0
    assert Path("report.html").read_text() != "mine"


@pytest.mark.usefixtures("folder")
def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    result = report("run-v1.jsonl")
    assert result.exit_code == 1
    assert result.stderr == 'Error: vl-convert is not installed: pip install "convbench[report]"\n'
    assert report("run-v1.jsonl", "--format", "csv").exit_code == 0


@given(st.lists(st.sampled_from(["a", "a (2)", "a (2) (2)", "a\x1b", r"a\x1b", ""]), max_size=9))
def test_names_are_never_the_same(texts):
    made = numbered(texts)
    assert len({*made}) == len(made) == len(texts)
    assert all(name.startswith(printable(text)) for name, text in zip(made, texts, strict=True))


def test_runs_whose_names_look_the_same_are_all_there():
    assert columns_of_page({"a\x1b": run_of(row("x")), r"a\x1b": run_of(row("y"))}) == ["x", "y"]


def columns_of_page(runs):
    """The layers in the facts of a page."""
    embedded = re.search(r'id="facts">(.*?)</script>', report_html(runs), re.DOTALL)[1]
    return unpacked(json.loads(embedded)["rows"]["columns"]["problem"])


def test_runs_are_called_by_their_files():
    assert names([Path("a.jsonl"), Path("x/b.jsonl")]) == ["a", "b"]
    assert names([Path("x/a.jsonl"), Path("y/a.jsonl"), Path("z/x/a.jsonl")]) == ["x/a", "y/a", "x/a (2)"]
    clash = [
        Path("b/a.jsonl"),
        Path("c/b/a.jsonl"),
        Path("b/a (2).jsonl"),
        Path("d/b/a.jsonl"),
        Path("e/b/a (2).jsonl"),
    ]
    assert names(clash) == ["b/a", "b/a (2)", "b/a (2) (2)", "b/a (3)", "b/a (2) (3)"]
