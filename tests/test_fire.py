"""Runs under fire: killed, out of disk, without their folder, two at a time. The long form is benchmarks/kill.py."""

import ast
import os
import random
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fire import ARGUMENTS, finish, kill, left, size, start, statuses, wait_for, without_load

import convbench
from convbench.cli import main
from convbench.errors import InputError
from convbench.journal import read_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills process groups")
KILLS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "run.jsonl"
    code, _, err = finish(start(path))
    assert code == 0, err
    return path


def one_line_of(process, code=1):
    """The only line on stderr of a run that must fail."""
    got, out, err = finish(process)
    assert (got, out) == (code, ""), err
    assert err.count("\n") == 1, err
    return err.rstrip("\n")


def refused(path, option):
    """What a run in this process says that must fail."""
    got = CliRunner().invoke(main, [*ARGUMENTS, "-o", str(path), option])
    assert got.exit_code == 1
    return without_load(got.output)


def test_a_killed_run_reads_and_is_completed(whole, tmp_path):
    path = tmp_path / "run.jsonl"
    rng = random.Random(0)
    for count in range(KILLS):
        got = kill(path, rng.uniform(0, 0.15), *(["--resume"] if count else []))
        assert got.lines_after >= got.lines_before
        if got.finished:
            break
    code, out, err = finish(start(path, "--resume"))
    assert code == 0, err
    assert statuses(path) == statuses(whole)
    assert [*statuses(path)] == [*statuses(whole)]  # in the same order too
    assert len(out.splitlines()) > len(statuses(path))


def test_what_is_lost_is_noticed(whole, tmp_path):
    """The check of the test above can fail."""
    content = whole.read_bytes()
    path = tmp_path / "run.jsonl"
    path.write_bytes(content[: content[:-1].rfind(b"\n") + 1])
    with pytest.raises(AssertionError, match="a line that was in the file is lost"):
        left(path, content, finished=False)
    assert left(path, content[: content[:-1].rfind(b"\n") + 40], finished=False).unfinished == 0


def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on_later(whole, tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: a write takes a part, the next one fails."""
    path = tmp_path / "run.jsonl"
    room = size(whole) * 2 // 3
    limited = start(path, before=f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))")
    assert one_line_of(limited) == f"Error: cannot write {path}: File too large"
    assert 0 < size(path) <= room
    run = read_run(path)
    assert run.note == ""  # no half of a line is left
    assert run.rows
    code, _, err = finish(start(path, "--resume"))
    assert code == 0, err
    assert statuses(path) == statuses(whole)


def test_a_second_run_on_the_file_is_refused_and_the_first_one_unharmed(whole, tmp_path):
    path = tmp_path / "run.jsonl"
    first = start(path, "--max-time", "120ms")
    wait_for(lambda: size(path) > 0, first)
    try:
        for option in ("--resume", "--force"):
            assert refused(path, option) == f"Error: {path} is being written by another run\n"
        assert first.poll() is None, "the first run was too quick for this test"
    finally:
        code, _, err = finish(first)
    assert code == 0, err
    assert statuses(path) == statuses(whole)


def test_a_file_deleted_during_a_run_loses_no_table(whole, tmp_path):
    path = tmp_path / "run.jsonl"
    process = start(path)
    wait_for(lambda: size(path) > 0, process)
    path.unlink()
    code, out, err = finish(process)
    assert code == 0, err
    assert all(key.case.name in out for key in statuses(whole))
    assert "deleted" in err
    assert not path.exists()


@pytest.mark.parametrize("kind", ["pipe", "/dev/null", "/dev/full", "/dev/zero"])
@pytest.mark.parametrize("option", ["--force", "--resume"])
def test_a_result_file_that_is_none_is_refused(tmp_path, kind, option):
    path = Path(kind)
    if kind == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    elif not path.exists():
        pytest.skip(f"no {kind} here")
    assert refused(path, option) == f"Error: cannot write {path}: it is not a regular file\n"


def test_a_folder_that_cannot_be_written_is_one_line():
    """Nobody may write there, root neither."""
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    from convbench.journal import Journal

    with pytest.raises(InputError, match=r"^cannot write /proc/self/run\.jsonl: [A-Z][a-z ]+$"):
        Journal.create(Path("/proc/self/run.jsonl"), {})
    with pytest.raises(InputError, match=r"^cannot create folder /proc/self/runs: [A-Z][a-z ]+$"):
        Journal.create(Path("/proc/self/runs/run.jsonl"), {})


def test_nothing_that_measures_asks_for_the_hour():
    """So a clock that is set during a run changes no figure: only a run's date and its file's name come from it."""
    asked = {
        path.stem
        for path in Path(convbench.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in {"time", "time_ns", "gmtime", "localtime", "strftime", "now", "utcnow", "today"}
        and isinstance(node.value, ast.Name)
        and node.value.id in {"time", "datetime", "date"}
    }
    assert asked == {"session"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "list suites", "run --help", "show RUN", "show RUN --format json"]
)
def test_an_output_on_a_full_disk_is_one_line(whole, arguments):
    """Python itself has nothing to add when it ends."""
    import subprocess

    command = [sys.executable, "-m", "convbench", *arguments.replace("RUN", str(whole)).split()]
    with Path("/dev/full").open("w") as full:
        got = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (got.returncode, got.stderr) == (1, "Error: cannot write the output: No space left on device\n")
