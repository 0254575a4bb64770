"""`convbench plot`: where pictures go, and one clear line for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from plots import CEILINGS

from convbench.cli import main

GOLDEN = Path(__file__).parent / "data" / "run-v1.jsonl"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a run of an old schema that has ceilings, and one without."""
    monkeypatch.chdir(tmp_path)
    write("run.jsonl")
    write("bare.jsonl", ceilings=None)


def write(path, *, ceilings=CEILINGS, rows=True, device=None, **header):
    """The golden run with these ceilings."""
    first, *rest = GOLDEN.read_text().splitlines()
    found = json.loads(first) | header
    found["devices"]["cpu"] |= {"ceilings": ceilings} | (device or {})
    Path(path).write_text("\n".join([json.dumps(found), *(rest if rows else [])]) + "\n")


def plot(*arguments):
    return CliRunner().invoke(main, ["plot", *arguments], prog_name="convbench")


def error_of(code, *arguments):
    """The one error line of a command that must fail, and leave stdout alone."""
    result = plot(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert errors == result.stderr.splitlines()[-1:]
    return errors[0]


@pytest.mark.parametrize(("suffix", "magic"), [("svg", b"<?xml"), ("PNG", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_file_is_drawn_by_its_suffix(suffix, magic):
    result = plot("run.jsonl", "-o", f"a.{suffix}")
    assert (result.exit_code, result.output) == (0, "")
    assert Path(f"a.{suffix}").read_bytes().startswith(magic)
    assert sorted(path.name for path in Path().iterdir()) == sorted(["run.jsonl", "bare.jsonl", f"a.{suffix}"])


def test_without_a_file_it_is_printed_without_colours_off_a_terminal():
    result = plot("run.jsonl")
    assert result.exit_code == 0
    assert "fp32 200 Gflop/s" in result.stdout
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_an_existing_file_is_kept_unless_forced():
    Path("a.svg").write_text("mine")
    assert error_of(1, "run.jsonl", "-o", "a.svg") == "Error: a.svg exists; --force overwrites it"
    assert Path("a.svg").read_text() == "mine"
    assert plot("run.jsonl", "-o", "a.svg", "--force").exit_code == 0
    assert Path("a.svg").read_text().startswith("<?xml")


def test_nothing_is_left_behind_where_drawing_fails():
    before = sorted(Path().iterdir())
    error_of(1, "run.jsonl", "-o", "a.svg", "--kind", "phases")
    assert "cannot write none/a.svg: No such file" in error_of(1, "run.jsonl", "-o", "none/a.svg")
    assert sorted(Path().iterdir()) == before


def test_a_failed_write_keeps_the_old_file(monkeypatch):
    Path("a.svg").write_text("mine")
    before = sorted(Path().iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert "No space left on device" in error_of(1, "run.jsonl", "-o", "a.svg", "--force")
    assert Path("a.svg").read_text() == "mine"
    assert sorted(Path().iterdir()) == before


def test_a_picture_may_be_read_by_whom_the_umask_lets():
    previous = os.umask(0o027)
    try:
        plot("run.jsonl", "-o", "a.svg")
    finally:
        os.umask(previous)
    assert Path("a.svg").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run.jsonl", "-o", "a.jpg"], "a.jpg: what to draw follows from the suffix, one of .svg, .png, .pdf"),
        (["run.jsonl", "-o", "a"], "a: what to draw follows from the suffix, one of .svg, .png, .pdf"),
        (["none.jsonl"], "none.jsonl"),
        (["bare.jsonl"], "no ceilings of cpu"),
        (["bare.jsonl", "--kind", "model"], "no ceilings of cpu"),
        (["bare.jsonl", "--kind", "ceilings"], "no curve of bandwidth over size"),
        (["run.jsonl", "--dtype", "fp64"], "no row with a time is chosen; there are dtypes bf16, fp32"),
        (["run.jsonl", "--filter", "zz*"], "no row with a time is chosen"),
        (["run.jsonl", "--kind", "phases"], "no phases in the run"),
        (["run.jsonl", "--kind", "speedup", "--baseline", "cpu:none"], "unknown baseline 'cpu:none'"),
        (["run.jsonl", "--machine", "none", "-o", "x.svg"], "unknown machine 'none'"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(arguments, message):
    assert message in error_of(1, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'RUN...'"),
        (["run.jsonl", "--kind", "pie"], "'pie' is not one of 'roofline'"),
        (["run.jsonl", "--dtype", "fp8"], "'fp8' is not a dtype; allowed: fp64"),
        (["run.jsonl", "--pass", "bprop"], "'bprop' is not a pass"),
        (["run.jsonl", "--baseline", "cpu:gemm"], "--baseline belongs to --kind speedup"),
        (["run.jsonl", "--kind", "model", "--machine", "h200-sxm"], "--machine belongs to --kind roofline"),
        (["run.jsonl", "--kind", "network", "--filter", "a"], "a network's time is that of all its layers"),
    ],
)
def test_a_wrong_command_line_says_what_is_allowed(arguments, message):
    assert message in error_of(2, *arguments)


def test_runs_of_different_machines_threads_or_of_the_same_rows_are_refused():
    write("other.jsonl", device={"fingerprint": "ffffffffffff"})
    assert "machines differ: cpu is Test CPU (0123456789ab) in run.jsonl" in error_of(1, "run.jsonl", "other.jsonl")
    options = json.loads(GOLDEN.read_text().splitlines()[0])["options"]
    write("threads.jsonl", options=options | {"threads": 1})
    assert "threads differ: 2 in run.jsonl, 1 in threads.jsonl" in error_of(1, "run.jsonl", "threads.jsonl")
    assert "bare.jsonl and run.jsonl both have a time for" in error_of(1, "bare.jsonl", "run.jsonl")
    assert plot("run.jsonl", "run.jsonl").exit_code == 0


def test_an_empty_a_newer_and_a_damaged_run():
    write("empty.jsonl", rows=False)
    assert "empty.jsonl: no row has a time, so there is nothing to draw" in error_of(1, "empty.jsonl")
    write("newer.jsonl", schema_version=99)
    assert "99" in error_of(1, "newer.jsonl")
    write("damaged.jsonl", ceilings={"compute": {"fp32": {"value": -1, "kind": "measured"}}, "bandwidth": {}})
    assert "value of a ceiling must be a number above 0" in error_of(1, "damaged.jsonl")
    write("damaged.jsonl", ceilings=CEILINGS | {"curve": [{"mix": "read", "size_bytes": "4k", "bytes_per_s": 1.0}]})
    assert "damaged: a point of a curve must be a mix and numbers above 0" in error_of(
        1, "damaged.jsonl", "--kind", "ceilings"
    )


def test_published_roofs_are_drawn_too():
    assert plot("run.jsonl", "--machine", "h200-sxm", "-o", "a.svg").exit_code == 0
    plain = plot("run.jsonl", "-o", "b.svg")
    assert plain.exit_code == 0
    assert Path("a.svg").stat().st_size > Path("b.svg").stat().st_size


def test_a_file_does_not_depend_on_the_process():
    plot("run.jsonl", "-o", "here.svg")
    command = [sys.executable, "-m", "convbench", "plot", "run.jsonl", "-o", "there.svg"]
    environment = os.environ | {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    subprocess.run(command, check=True, timeout=120, env=environment)
    assert Path("here.svg").read_bytes() == Path("there.svg").read_bytes()


def test_the_terminal_needs_no_matplotlib():
    script = "import sys; from convbench.cli import main; main(['plot', 'run.jsonl'], standalone_mode=False); "
    script += "print('matplotlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "False"
