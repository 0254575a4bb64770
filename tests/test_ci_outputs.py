"""A comparison for other programs: what each format must hold, and names that are never markup."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from stored import STEADY, case, row, run, times

from convbench.compare import Compared, Comparison, Reason, Verdict, compare
from convbench.render.ci import OUTPUTS, Facts, github_annotations
from convbench.render.ci.annotations import MOST
from convbench.render.ci.summary import MOST_ROWS
from convbench.reproduce import Recipe
from convbench.result import RowKey, Status
from convbench.suite import load_suite

ANY = st.text(max_size=30)
HOSTILE = "a|b`*_<script>&lt;~~x~~ [l](http://e) \x00\x1b[31m\ud800￾\n## no"
BRIEF = "schema = 1\nname = 's'\ndefaults = {batch = 1, in_channels = 1, out_channels = 1, filter_size = 1}\n"


def made(*rows, canaries=None, changed=()):
    return Compared(rows=rows, canaries=canaries or {}, changed=changed)


def one(verdict, ratio=None, name="conv1", **more):
    key = RowKey(case=case(name), backend="cpu", algorithm="gemm", device="cpu")
    return Comparison(**({"key": key, "base": None, "new": None, "verdict": verdict, "reason": Reason.SLOWER,
                          "ratio": ratio} | more))  # fmt: skip


def facts(compared, **more):
    return Facts(**({"compared": compared, "suite": "s", "baseline": "base.jsonl", "exit_code": 0} | more))


def stored():
    """Rows of many kinds, of stored runs: slower, wrong, gone, unchanged, new."""
    six = (*STEADY, 1.0e-3)
    names = ("slow", "wrong", "gone", "same")
    base = run(*(row(six, name=name) for name in names))
    new = run(row(times(1.5, six), name="slow"), row((), name="wrong", status=Status.WRONG, reason="off by 1"),
              row(six, name="same"), row(six, name="more"))  # fmt: skip
    return compare(base, new)


def launched():
    """One row by fresh pairs, without any stored run."""
    return made(one(Verdict.REGRESSION, 1.2, launches=(1.19, 1.2, 1.3), launched_s=(1e-3, 1.2e-3), interval=(1.1, 1.3),
                    detail="3 of 3 launches slower"))  # fmt: skip


def text_of(kind, given):
    text = OUTPUTS[kind](given)
    assert text.endswith("\n")
    text.encode()  # what is written to a file
    return text


# JSON


def test_the_verdict():
    given = facts(stored(), exit_code=6, file="my/s.toml", lines={"slow": 7}, fail_on_inconclusive=True)
    found = json.loads(text_of("json", given))
    assert found["schema"] == 1
    assert (found["suite"], found["baseline"], found["exit_code"]) == ("s", "base.jsonl", 6)
    assert found["fail_on_inconclusive"] is True
    assert found["verdicts"] == {"failed": 1, "missing": 1, "regression": 0, "suspect": 1, "inconclusive": 0,
                                 "algorithm_changed": 0, "improved": 0, "new": 1, "untimed": 0, "ok": 1}  # fmt: skip
    assert found["factor"] == pytest.approx(1.5**0.5)
    assert found["canaries"] == {"compute": 1.0}
    assert found["launches"] == 0
    slow = found["rows"][0]
    assert slow["name"] == "s/slow fprop fp32 ncw cpu:gemm"
    assert (slow["problem"], slow["pass"], slow["batch"], slow["threads"]) == ("slow", "fprop", 1, 1)
    assert (slow["verdict"], slow["reason"], slow["detail"]) == ("suspect", "slower", None)
    assert slow["ratio"] == pytest.approx(1.5)
    assert slow["ratio_low"] <= 1.5 <= slow["ratio_high"]
    assert (slow["file"], slow["line"]) == ("my/s.toml", 7)
    assert slow["reproduce"].startswith("convbench run s --filter s/slow ")
    assert found["rows"][1]["detail"] == "wrong: off by 1"
    assert (found["rows"][2]["new_s"], found["rows"][2]["line"]) == (None, None)


def test_the_verdict_of_fresh_pairs_has_each_launch():
    found = json.loads(text_of("json", facts(launched(), baseline="../old/bin/python", exit_code=3)))
    assert found["launches"] == 3
    assert found["rows"][0]["launches"] == [1.19, 1.2, 1.3]
    assert (found["rows"][0]["base_s"], found["rows"][0]["new_s"]) == (1e-3, 1.2e-3)


def test_what_changed_is_in_the_verdict():
    found = json.loads(text_of("json", facts(made(one(Verdict.OK, 1.0), changed=(("python", "3.11", "3.12"),)))))
    assert found["changed"] == [{"name": "python", "base": "3.11", "new": "3.12"}]


# Trackers


def test_trackers_get_rows_with_a_time_alone():
    names = [entry["name"] for entry in json.loads(text_of("github-action-benchmark", facts(stored())))]
    assert names == [f"s/{name} fprop fp32 ncw cpu:gemm" for name in ("slow", "same", "more")]
    assert [*json.loads(text_of("bencher", facts(stored())))] == names


def test_a_row_that_failed_is_not_tracked_by_its_stored_time():
    lost = replace(stored().rows[0], verdict=Verdict.FAILED, ratio=None)
    assert lost.new_s is not None
    assert json.loads(text_of("bencher", facts(made(lost)))) == {}


def test_github_action_benchmark():
    slow = json.loads(text_of("github-action-benchmark", facts(stored())))[0]
    assert slow.keys() == {"name", "unit", "value", "range", "extra"}
    assert (slow["unit"], slow["value"]) == ("ns", 1500750.0)  # the median of six rounds of 1 to 1.002 ms, times 1.5
    assert slow["range"] == "1.5000 ms to 1.5030 ms"
    assert slow["extra"].startswith("suspect: 1.00 ms → 1.50 ms, ratio 1.500 (")
    assert slow["extra"].endswith("\nthreads: 1")


def test_bencher():
    slow = next(iter(json.loads(text_of("bencher", facts(stored()))).values()))
    assert slow == {"latency": {"value": 1500750.0, "lower_value": 1500000.0, "upper_value": 1503000.0}}


def test_the_interval_of_a_ratio_is_not_given_as_that_of_a_time():
    (entry,) = json.loads(text_of("github-action-benchmark", facts(launched())))
    assert (entry["value"], "range" in entry) == (1200000.0, False)
    (found,) = json.loads(text_of("bencher", facts(launched()))).values()
    assert found == {"latency": {"value": 1200000.0}}


def test_rows_that_differ_in_the_batch_alone_have_names_of_their_own():
    old = one(Verdict.OK, 1.0, launched_s=(1.0, 1.0))
    other = replace(old.key.case, problem=replace(old.key.case.problem, batch=2))
    names = [*json.loads(text_of("bencher", facts(made(old, replace(old, key=replace(old.key, case=other))))))]
    assert names == ["s/conv1 fprop fp32 ncw cpu:gemm", "s/conv1 fprop fp32 ncw cpu:gemm (2)"]


# JUnit XML

ATTRIBUTES = {
    "testsuites": (set(), {"name", "tests", "failures", "errors"}),
    "testsuite": ({"name", "tests", "failures", "errors"}, {"skipped"}),
    "properties": (set(), set()),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name"}, {"time", "classname"}),
    "failure": (set(), {"type", "message"}),
    "skipped": (set(), {"type", "message"}),
}
"""Required and optional attributes of the elements that we use, by junit-10.xsd of Jenkins' xUnit plug-in."""
CHILDREN = {"testsuites": {"testsuite"}, "testsuite": {"properties", "testcase"}, "properties": {"property"},
            "testcase": {"failure", "skipped"}}  # fmt: skip


def junit_of(given):
    """The root element of a document that follows the schema, and agrees with its own counts."""
    text = text_of("junit", given)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites ')
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        required, optional = ATTRIBUTES[element.tag]
        assert required <= set(element.keys()) <= required | optional
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        if element.tag in {"testsuites", "testsuite"}:
            for counted, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
                assert int(element.get(counted)) == len([*element.iter(tag)])
    (suite,) = root
    assert int(suite.get("skipped")) == len([*suite.iter("skipped")])
    cases = [child for child in suite if child.tag == "testcase"]
    assert len({case.get("name") for case in cases}) == len(cases)
    return cases


def test_junit():
    slow, wrong, gone, same, more = junit_of(facts(stored(), file="s.toml", lines={"wrong": 3}))
    assert (slow.get("classname"), slow.get("name")) == ("s.slow", "s/slow fprop fp32 ncw cpu:gemm")
    assert float(slow.get("time")) == pytest.approx(1.50075e-3)
    assert [child.tag for child in slow] == ["skipped"]
    assert (wrong[0].tag, wrong[0].get("type")) == ("failure", "failed")
    assert wrong[0].get("message") == "failed: wrong: off by 1"
    assert wrong[0].text.splitlines()[:2] == ["failed: wrong: off by 1", "declared: s.toml:3"]
    assert wrong[0].text.splitlines()[2].startswith("reproduce: convbench run s ")
    assert (gone[0].tag, gone[0].get("type"), gone.get("time")) == ("failure", "missing", None)
    assert (len(same), len(more)) == (0, 0)


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_junit_calls_a_failure(verdict, fail):
    (found,) = junit_of(facts(made(one(verdict)), fail_on_inconclusive=fail))
    failures = {Verdict.FAILED, Verdict.MISSING, Verdict.REGRESSION} | ({Verdict.INCONCLUSIVE} if fail else set())
    skipped = {Verdict.SUSPECT, Verdict.INCONCLUSIVE, Verdict.UNTIMED} - failures
    expected = ["failure"] if verdict in failures else ["skipped"] if verdict in skipped else []
    assert [child.tag for child in found] == expected


@given(name=ANY, detail=ANY, suite=ANY, old=ANY)
def test_junit_of_any_names(name, detail, suite, old):
    rows = made(one(Verdict.FAILED, name=name, detail=detail), changed=((old, old, "x"),))
    junit_of(facts(rows, suite=suite or "s", baseline=old, file=f"{old}.toml"))


# Markdown


def read(markdown):
    """Texts of headings, cells, and code blocks of a document; no HTML but the fold's is in it."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    html = [token.content.strip() for token in tokens if token.type == "html_block"]
    found = {"h2": [], "td": [], "li": [], "fence": [token.content for token in tokens if token.type == "fence"]}
    for before, token in pairwise(tokens):
        if token.type == "inline":
            kinds = {child.type for child in token.children}
            assert kinds <= {"text", "strong_open", "strong_close", "text_special"}, kinds
            place = before.tag if before.tag in found else "li"
            found[place].append("".join(child.content for child in token.children))
    return html, found


def test_the_summary():
    text = text_of("markdown", facts(stored(), exit_code=6, file="s.toml"))
    html, found = read(text)
    assert found["h2"] == ["s beside base.jsonl: failed or missing rows"]
    assert "**1 failed, 1 missing, 1 suspect, 1 new, 1 ok of 5 rows**" in text
    table = re.findall(r"^\| (\w+) .*\| (\w+) \| [^|]* \|$", text, re.MULTILINE)
    assert table[:4] == [("problem", "verdict"), ("wrong", "failed"), ("gone", "missing"), ("slow", "suspect")]
    assert "- all rows together: × 1.225 (geometric mean)" in text
    assert found["fence"] == [
        "convbench run s --filter s/slow --pass fprop --dtype fp32 --layout ncw --epilogue none -b cpu:gemm "
        "--threads 1 --batch 1\n"
    ]
    assert "Ratios by network and pass" in text
    assert html == ["<details><summary>All 5 rows</summary>", "</details>"]
    assert text.index("<details>") < text.index("| same |")


def test_the_summary_of_a_check_that_passed():
    text = text_of("markdown", facts(compare(run(row()), run(row()))))
    _, found = read(text)
    assert found["h2"] == ["s beside base.jsonl: no regression"]
    assert found["fence"] == []
    assert text.index("of 1 row") < text.index("<details>") < text.index("| conv1 |")


def test_what_improved_stands_below_what_is_grave():
    rows = [one(Verdict.OK, 1.0, "a"), one(Verdict.IMPROVED, 0.8, "b"), one(Verdict.SUSPECT, 1.2, "c")]
    text = text_of("markdown", facts(made(*rows)))
    assert re.findall(r"^\| (\w) ", text.partition("Ratios by network")[0], re.MULTILINE) == ["c", "b"]


@given(name=ANY, detail=ANY, baseline=ANY)
def test_no_name_is_markup(name, detail, baseline):
    names = [name, HOSTILE]
    rows = [one(Verdict.FAILED, name=name, detail=f"x{detail}") for name in names]
    changed = ((detail, baseline, "x"),)
    text = text_of("markdown", facts(made(*rows, changed=changed), suite=HOSTILE, baseline=baseline, exit_code=6))
    html, found = read(text)
    assert html == ["<details><summary>All 2 rows</summary>", "</details>"]
    assert len(found["h2"]) == 1
    assert len(found["fence"]) == 1
    assert found["td"].count("failed") == 4


def test_a_long_summary_is_cut_and_says_so():
    rows = [one(Verdict.OK, 1.0, f"a-name-of-usual-length-{i}") for i in range(MOST_ROWS + 7)]
    text = text_of("markdown", facts(made(*rows)))
    assert "and 7 more rows" in text
    assert text.count("a-name-of") == MOST_ROWS
    assert len(text) < 1 << 20


# GitHub's annotations


def test_annotations_point_at_the_suite():
    rows = made(one(Verdict.SUSPECT, 1.2, "b"), one(Verdict.REGRESSION, 1.2, "a", detail="100 % sure"))
    first, second = github_annotations(facts(rows, file="my/s,1.toml", lines={"a": 12}))
    assert first == (
        "::error file=my/s%2C1.toml,line=12,title=regression%3A s/a fprop fp32 ncw cpu%3Agemm::"
        "ratio 1.200, 100 %25 sure; reproduce: convbench run s --filter s/a --pass fprop --dtype fp32 --layout ncw "
        "--epilogue none -b cpu:gemm --threads 1 --batch 1"
    )
    assert second.startswith("::warning file=my/s%2C1.toml,title=suspect%3A s/b ")


def test_annotations_of_a_built_in_suite_have_no_place():
    (line,) = github_annotations(facts(made(one(Verdict.MISSING)), lines={"conv1": 3}))
    assert line.startswith("::error title=missing%3A ")


@pytest.mark.parametrize(("fail", "level"), [(False, "warning"), (True, "error")])
def test_inconclusive_rows_share_a_line(fail, level):
    rows = made(*[one(Verdict.INCONCLUSIVE)] * 3, one(Verdict.OK))
    assert github_annotations(facts(rows, fail_on_inconclusive=fail)) == [f"::{level} title=inconclusive::3 of 4 rows"]


@given(st.lists(st.sampled_from(Verdict), max_size=30))
def test_ten_annotations_tell_of_every_problem(verdicts):
    lines = github_annotations(facts(made(*(one(verdict, 1.1) for verdict in verdicts))))
    assert len(lines) <= MOST
    told = sum(int(n) for line in lines for n in re.findall(r"(\d+) (?:failed|missing|regression|suspect)", line))
    told += sum(bool(re.search(r"title=(?!inconclusive)", line)) for line in lines)
    grave = [v for v in verdicts if v in {Verdict.FAILED, Verdict.MISSING, Verdict.REGRESSION, Verdict.SUSPECT}]
    assert told == len(grave)
    unclear = verdicts.count(Verdict.INCONCLUSIVE)
    assert any(f"{unclear} inconclusive" in line or f"::{unclear} of" in line for line in lines) == bool(unclear)
    levels = [line.split()[0] for line in lines]
    assert levels == sorted(levels)  # "::error" before "::warning"


@given(ANY, ANY)
def test_an_annotation_is_one_line_whatever_it_tells(name, detail):
    (line,) = github_annotations(facts(made(one(Verdict.FAILED, name=name, detail=detail)), file=name or None))
    assert line.isprintable()
    properties, _, message = line.removeprefix("::error ").partition("::")
    assert properties.count("=") - name.count("=") * (2 if name else 1) == (2 if name else 1)
    assert not re.search(r"%(?!25|0A|0D|3A|2C)", properties + message)


# Facts of a suite


def test_facts_of_a_suite_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    path = tmp_path / "my" / "s.toml"
    path.write_text(BRIEF + "[[problem]]\nname = 'conv1'\ninput_size = [4]\n")
    rows = made(one(Verdict.FAILED))
    given = Facts.of_suite(
        rows, load_suite(str(path)), str(path), baseline="b", exit_code=6, backends={"cpu": "x.py:C"}
    )
    assert (given.suite, given.file, given.lines) == ("s", "my/s.toml", {"conv1": 4})
    assert given.command(rows.rows[0]).startswith(f"convbench run {path} --filter s/conv1 ")
    assert " -b x.py:C:gemm " in given.command(rows.rows[0])
    assert "--batch" not in given.command(rows.rows[0])


def test_facts_of_a_built_in_suite():
    given = Facts.of_suite(made(one(Verdict.OK)), load_suite("smoke"), "smoke", baseline="b", exit_code=0, backends={})
    assert (given.file, given.lines) == (None, {})
    assert given.recipe == Recipe.of_suite(load_suite("smoke"), "smoke", {})


@pytest.mark.parametrize("kind", sorted(OUTPUTS))
def test_every_output_takes_no_rows_and_hostile_names(kind):
    text_of(kind, facts(made()))
    hostile = facts(made(one(Verdict.REGRESSION, 1.5, HOSTILE, detail=HOSTILE)), suite=HOSTILE, baseline=HOSTILE,
                    file=HOSTILE)  # fmt: skip
    text_of(kind, hostile)
