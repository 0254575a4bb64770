"""Rounds of several worker processes: scripted lines for the rules, real workers for the rest."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from convbench import workers
from convbench.backends import BackendSpec
from convbench.errors import ConvbenchError
from convbench.journal import read_run
from convbench.problem import ConvPass
from convbench.runner import Progress, RunOptions, Spent
from convbench.suite import load_suite
from convbench.tasks import Selection, tasks
from convbench.testing import FakeBackend
from convbench.timing import TimingOptions

CASES = Selection(passes=(ConvPass.FPROP,), globs=("plain*",)).cases([load_suite("smoke")])
FOUND = [replace(task, index=task.index + 10) for task in tasks(CASES, [BackendSpec(FakeBackend())], 1)]
OPTIONS = RunOptions(threads=1, max_memory=10**9, timing=TimingOptions(max_time_s=3.0), processes=3)


def scripted(monkeypatch, lines, options=OPTIONS):
    """What comes of workers that write `lines[process]`; and their requests."""
    requests = []

    def answer(_arguments, request):
        requests.append(request)
        yield from [dict(line) for line in lines[request["process"]]]

    monkeypatch.setattr(workers, "_lines", answer)
    spent = Spent()
    events = list(workers.run_in_workers(FOUND, [4, 5], options, [], spent))
    return events, requests, spent


def case(row, status="partial", reason=""):
    return {"type": "case", "row": row, "status": status, "reason": reason}


def measured(row, stop=None):
    return {"type": "round", "row": row, "stop": stop}


DONE = {"type": "spent", "planning": 1.0, "samples": 2.0}


def test_each_worker_is_asked_for_its_share(monkeypatch):
    _, requests, spent = scripted(monkeypatch, [[case(10), case(11), DONE], [DONE], [DONE]])
    assert [r["process"] for r in requests] == [0, 1, 2]
    assert {r["max_time_s"] for r in requests} == {1.0}
    assert {r["min_rounds"] for r in requests} == {3}
    labels = [json.dumps(task.key.to_dict(), sort_keys=True) for task in FOUND]
    assert all(r["rows"] == [[4, 10, labels[0]], [5, 11, labels[1]]] for r in requests)
    assert (spent.planning, spent.samples) == (3.0, 6.0)


def test_a_row_is_opened_by_the_first_worker_and_finished_by_the_last(monkeypatch):
    one = [case(10), measured(10), measured(10, "precision"), DONE]
    events, _, _ = scripted(monkeypatch, [one, one, one])
    assert [(e["type"], e.get("stop")) for e in events] == [
        ("case", None), ("round", None), ("round", None), ("round", None), ("round", None), ("round", None),
        ("round", "precision"),
    ]  # fmt: skip


def test_a_row_that_one_worker_cannot_measure_is_left_out_by_the_next(monkeypatch):
    refused = [case(10, "unsupported", "not here"), case(11), DONE]
    events, requests, _ = scripted(monkeypatch, [refused, [DONE], [DONE]])
    assert [(e["type"], e["row"]) for e in events] == [("case", 10), ("case", 11)]
    assert [len(r["rows"]) for r in requests] == [2, 1, 1]


def test_a_row_that_a_later_worker_finds_wrong_is_wrong(monkeypatch):
    events, requests, _ = scripted(
        monkeypatch, [[case(10), measured(10), DONE], [case(10, "wrong", "off by one"), DONE], [DONE]]
    )
    assert events[-1] == {
        "type": "failure", "row": 10, "status": "wrong", "reason": "in worker process 1: off by one"
    }  # fmt: skip
    assert [[row for _, row, _ in r["rows"]] for r in requests] == [[10, 11], [10, 11], [11]]


def test_a_row_that_breaks_while_timed_is_left_out_by_the_next(monkeypatch):
    broken = {"type": "failure", "row": 10, "status": "failed", "reason": "broke"}
    events, requests, _ = scripted(monkeypatch, [[case(10), broken, DONE], [DONE], [DONE]])
    assert events[-1] == broken
    assert [len(r["rows"]) for r in requests] == [2, 1, 1]


def test_progress_is_that_of_all_workers(monkeypatch):
    half = {"type": "progress", "row": 10, "doing": "time", "share": 0.5}
    events, _, _ = scripted(monkeypatch, [[half, DONE], [half, DONE], [half, DONE]])
    assert [e.share for e in events if isinstance(e, Progress)] == pytest.approx([1 / 6, 0.5, 5 / 6])


def run_program(*arguments, **options):
    command = [sys.executable, "-m", "convbench", "run", "smoke", "--filter", "plain*", "--max-time", "60ms"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=120, **options)


def test_rounds_of_three_real_workers(tmp_path):
    path = tmp_path / "run.jsonl"
    done = run_program("-b", "cpu:gemm", "--processes", "3", "-o", str(path))
    assert done.returncode == 0, done.stderr
    run = read_run(path)
    assert [row.status for row in run.rows] == ["ok"] * 3
    for row in run.rows:
        assert [r.process for r in row.rounds] == sorted(r.process for r in row.rounds)
        assert {r.process: 0 for r in row.rounds}.keys() == {0, 1, 2}
        assert all(sum(r.process == p for r in row.rounds) >= 2 for p in range(3))
    assert run.header["options"]["processes"] == 3
    types = [json.loads(line)["type"] for line in path.read_text().splitlines()]
    assert types.count("case") == 3


CRASHING = """
import os
from convbench.backends.cpu import CpuBackend

class Crashing(CpuBackend):
    def plan(self, case, algorithm, operands, options):
        print("what a backend prints")
        plan = super().plan(case, algorithm, operands, options)
        if case.conv_pass == "wgrad":
            os._exit(7)
        return plan
"""


def test_a_worker_that_dies_is_one_clear_line_and_keeps_what_was_measured(tmp_path):
    (tmp_path / "crash.py").write_text(CRASHING)
    done = run_program("-b", "./crash.py:Crashing:gemm", "--processes", "2", "-o", "run.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert "worker process 0 ended early (exit code 7)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "what a backend prints" in done.stderr
    assert [row.status for row in read_run(tmp_path / "run.jsonl").rows] == ["partial"] * 2


def test_a_worker_that_never_starts_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConvbenchError, match="worker process 0 ended early"):
        list(workers.run_in_workers(FOUND, [0, 1], OPTIONS, [], Spent()))


@pytest.mark.parametrize("request_text", ["", "[]", "{}", "1", '{"rows": [[99, 0, ""]]}'])
def test_a_worker_without_a_request_says_what_it_is(request_text):
    done = run_program("--worker", input=request_text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: --worker is how convbench calls itself: it reads a request from stdin\n"


NOISY = """
import os, time
from convbench.backends.cpu import CpuBackend
print("while it is loaded")

class Noisy(CpuBackend):
    def algorithms(self, case):
        print('{"type": "while it is asked"}')
        return super().algorithms(case)

    def plan(self, case, algorithm, operands, options):
        plan = super().plan(case, algorithm, operands, options)
        run = plan.run
        def noisy():
            os.write(1, b"while it runs\\n")
            run()
        plan.run = noisy
        if case.conv_pass == "wgrad" and os.fork() == 0:
            os.closerange(0, 64)
            time.sleep(20)
            os._exit(0)
        return plan
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_what_backends_print_and_start_disturbs_nothing(tmp_path, processes):
    (tmp_path / "noisy.py").write_text(NOISY)
    done = run_program("-b", "./noisy.py:Noisy:gemm", "--processes", processes, "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in json.loads(done.stdout)["rows"]] == ["ok"] * 3
    assert "while it is loaded" in done.stderr
    assert "while it runs" in done.stderr


def test_a_suite_that_changes_meanwhile_is_refused(tmp_path):
    suite = 'schema = 1\nname = "s"\n[[problem]]\nname = "p"\nbatch = 1\nin_channels = 4\nout_channels = %d\n'
    suite += "input_size = 8\nfilter_size = 1\n"
    (tmp_path / "s.toml").write_text(suite % 4)
    (tmp_path / "edit.py").write_text(
        "from convbench.backends.cpu import CpuBackend\n"
        "class Edits(CpuBackend):\n"
        "    def plan(self, *arguments):\n"
        f"        open('s.toml', 'w').write({suite % 8!r})\n"
        "        return super().plan(*arguments)\n"
    )
    command = [sys.executable, "-m", "convbench", "run", "s.toml", "--pass", "fprop", "-b", "./edit.py:Edits:gemm"]
    done = subprocess.run(
        [*command, "--processes", "2", "--max-time", "60ms"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "a suite or a backend changed while worker processes measured" in done.stderr
    assert "Traceback" not in done.stderr
