"""`convbench talk` from end to end: on the cpu backend, the smallest suites in milliseconds."""

import json
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner

from convbench.backends import parse_backend
from convbench.claims import QUESTIONS
from convbench.cli import main
from convbench.cli import run as run_module
from convbench.cli import talk as module
from convbench.journal import read_run
from convbench.problem import ConvPass, Layout
from convbench.schema import SCHEMA_VERSION

DATA = Path(__file__).parent / "data"
QUICK = ["talk", "-b", "cpu:gemm", "--only", "small", "--max-time", "1ms", "--threads", "1"]


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """No page unless a test makes one: its charts take a second."""
    monkeypatch.setattr("convbench.render.html.charts_missing", lambda: "no charts: install them")


def convbench(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with the claim about small problems."""
    return tmp_path_factory.mktemp("talk") / "here"


@pytest.fixture
def measured(small):
    if not small.exists():
        found = convbench(*QUICK, "-o", small)
        assert found.exit_code == 0, found.output
    return small


def test_claims_are_measured_and_written(tmp_path):
    found = convbench(*QUICK, "-o", tmp_path / "talk")
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("small  How much of a recurrent step")
    assert "cpu:gemm: the smallest problem takes " in found.stdout
    assert "[1/1] Small problems and dispatch latency" in found.stderr
    assert "9 ok of 9 rows" in found.stderr
    run = read_run(tmp_path / "talk" / "small.jsonl")
    assert {row.key.algorithm for row in run.rows} == {"gemm"}
    assert run.header["command"][:5] == ["convbench", "run", "talk-small", "--pass", "fprop"]
    assert "# The talk's claims, measured\n\n## Small problems" in (tmp_path / "talk" / "claims.md").read_text()


def test_an_earlier_folder_is_read_again(measured):
    found = convbench("talk", "--from", measured)
    assert found.exit_code == 0, found.output
    assert "cpu:gemm: the smallest problem takes " in found.stdout
    assert "not answered: no run of talk-batch" in found.stdout
    only = convbench("talk", "--from", measured, "--only", "small")
    assert "batch" not in only.stdout


def test_folders_stand_side_by_side(measured, tmp_path):
    other = tmp_path / "there"
    other.mkdir()
    (other / "small.jsonl").write_text((measured / "small.jsonl").read_text())
    found = convbench("talk", "--from", measured, "--from", other, "--only", "small", "--format", "json")
    series = {fact["series"] for fact in json.loads(found.stdout)["small"]}
    assert {name.rpartition(" ")[2] for name in series} == {"#1", "#2"}


@pytest.mark.parametrize("output_format", ["markdown", "csv", "json"])
def test_other_formats(measured, output_format):
    found = convbench("talk", "--from", measured, "--only", "small", "--format", output_format)
    assert found.exit_code == 0
    assert "the smallest problem takes" in found.stdout


def test_without_charts_there_is_no_page(measured, tmp_path):
    found = convbench("talk", "--from", measured, "-o", tmp_path)
    assert found.exit_code == 0
    assert "claims.md; no report.html: no charts: install them" in found.stderr
    assert not (tmp_path / "report.html").exists()


def test_the_page_has_every_claim(measured, tmp_path, monkeypatch):
    page = mock.Mock(return_value="<page>")
    monkeypatch.setattr("convbench.render.html.charts_missing", lambda: None)
    monkeypatch.setattr("convbench.render.html.report_html", page)
    found = convbench("talk", "--from", measured, "--only", "small,batch", "-o", tmp_path)
    assert found.stderr.endswith(": claims.md, report.html\n")
    assert (tmp_path / "report.html").read_text() == "<page>"
    assert [*page.call_args.args[0]] == ["small"]
    assert [claim.key for claim in page.call_args.kwargs["claims"]] == ["batch", "small"]


def test_a_folder_with_runs_is_refused_unless_resumed(measured):
    refused = convbench(*QUICK, "-o", measured)
    assert refused.exit_code == 1
    assert "holds runs already (small): --resume continues them, --from FOLDER shows what they say" in refused.stderr
    before = (measured / "small.jsonl").read_bytes()
    resumed = convbench(*QUICK, "-o", measured, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (measured / "small.jsonl").read_bytes() == before


def test_resuming_under_other_conditions_is_refused(measured):
    other = [*QUICK[:-3], "2ms", *QUICK[-2:]]
    refused = convbench(*other, "-o", measured, "--resume")
    assert refused.exit_code == 1
    assert "small.jsonl cannot be resumed: its max_time_s was 0.001, now 0.002" in refused.stderr


@pytest.mark.parametrize("content", ["", '{"type":"header"}\n', "not a run\n"])
def test_damaged_files_are_one_line(tmp_path, content):
    (tmp_path / "small.jsonl").write_text(content)
    found = convbench("talk", "--from", tmp_path)
    assert found.exit_code == 1
    assert found.stderr.startswith("Error: ")
    assert found.stderr.count("\n") == 1


def test_a_file_of_a_newer_version_beside_one_of_this_is_refused(measured, tmp_path):
    text = (measured / "small.jsonl").read_text()
    version = f'"schema_version":{SCHEMA_VERSION}'
    (tmp_path / "small.jsonl").write_text(text.replace(version, '"schema_version":999', 1))
    found = convbench("talk", "--from", measured, "--from", tmp_path)
    assert found.exit_code == 1
    assert "small.jsonl:1: written by a newer convbench (schema version 999" in found.stderr


def test_a_file_of_an_older_version_and_another_suite_answers_nothing(measured, tmp_path):
    shutil.copy(DATA / "run-v1.jsonl", tmp_path / "small.jsonl")
    found = convbench("talk", "--from", tmp_path, "--only", "small")
    assert "not answered: the run has no rows of talk-small" in found.stdout
    assert "cpu:gemm on " in convbench("talk", "--from", measured, "--from", tmp_path, "--only", "small").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--only", "bacth"], 2, "did you mean 'batch'?"),
        (["--from", ".", "-b", "cpu"], 2, "--from measures nothing"),
        (["--resume"], 2, "--resume needs -o"),
        (["--from", "nowhere"], 1, "nowhere is not a folder that `convbench talk` made"),
        (["--from", "."], 1, "no result file of a claim in ."),
        (["-b", "nothing"], 1, "unknown backend 'nothing'"),
        (["-b", "cpu:nothing"], 1, "unknown algorithm 'nothing'"),
        (["-b", "cpu", "--threads", "9999"], 1, "--threads must be at most"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    found = convbench("talk", *arguments)
    assert found.exit_code == code
    assert said in found.stderr
    assert "Traceback" not in found.output


def test_an_interrupt_keeps_what_is_measured(tmp_path, monkeypatch):
    first = run_module.run_silently
    calls = []

    def interrupted(arguments):
        calls.append(arguments[0])
        return first(arguments) if len(calls) == 1 else 130

    monkeypatch.setattr(run_module, "run_silently", interrupted)
    found = convbench(*QUICK[:4], "small,machines,batch", *QUICK[5:], "-o", tmp_path)
    assert found.exit_code == 130
    assert calls == ["talk-small", "talk-boundaries"]
    assert "the smallest problem takes" in found.stdout
    assert "not answered: no run of talk-batch" in found.stdout
    assert f"interrupted; `--resume -o {tmp_path}` with the same command continues" in found.stderr


def test_an_interrupt_before_anything_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "run_silently", mock.Mock(side_effect=KeyboardInterrupt))
    found = convbench(*QUICK, "-o", tmp_path / "talk")
    assert found.exit_code == 130
    assert not (tmp_path / "talk").exists()


@pytest.mark.parametrize("key", QUESTIONS)
def test_suites_and_options_are_those_of_run(key):
    question = QUESTIONS[key]
    found = convbench("run", question.suite, *question.options, "-b", "cpu:auto", "--dry-run", "--format", "json")
    assert found.exit_code == 0, found.output
    words = {word for fact in json.loads(found.stdout)["rows"] for word in fact["case"].split()[1:]}
    layouts = [*Layout] if key in {"layouts", "operands"} else ["ncw"] if key == "small" else ["nchw"]
    epilogues = ["bias+relu"] if key == "epilogue" else []
    passes = [*ConvPass] if key == "operands" else ["fprop"]
    dtypes = ["fp32", "fp64"] if key == "precision" else ["fp32"]
    assert words - {"ncw", "nchw"} == {*layouts, *epilogues, *passes, *dtypes} - {"ncw", "nchw"}
    assert {*layouts} <= words


def test_algorithms_of_a_question():
    def asked(text, key):
        return module._algorithms(*parse_backend(text), QUESTIONS[key], 1)

    assert asked("cpu", "batch") == ["cpu:auto"]
    assert asked("cpu", "epilogue") == ["cpu:auto", "cpu:direct"]
    assert asked("cpu:fft", "epilogue") == ["cpu:fft"]
    every = asked("cpu", "filters")
    assert {"cpu:direct", "cpu:gemm", "cpu:fft", "cpu:winograd"} <= {*every}
    assert not {"cpu:auto", "cpu:winograd-1e-4"} & {*every}  # the last is less exact than the default


@pytest.mark.parametrize(("backends", "isolated"), [(["cpu:gemm", "cpu:fft"], False), (["cpu:gemm", "torch"], True)])
def test_several_backends_are_kept_apart(tmp_path, monkeypatch, backends, isolated):
    ran = mock.Mock(return_value=130)
    monkeypatch.setattr(run_module, "run_silently", ran)
    convbench("talk", *(part for name in backends for part in ("-b", name)), "--only", "small", "-o", tmp_path)
    (arguments,) = ran.call_args.args
    assert ("--isolate" in arguments) is isolated


def test_a_backend_that_is_not_there_is_asked_for_as_a_whole():
    with mock.patch.dict(sys.modules, torch=None):
        assert module._algorithms(*parse_backend("torch"), QUESTIONS["filters"], 1) == ["torch"]
