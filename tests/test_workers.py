"""Rounds of several worker processes: scripted lines for the rules, real workers for the rest."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from convbench import children, workers
from convbench.backends import AUTO, BackendSpec
from convbench.errors import ConvbenchError
from convbench.journal import read_run
from convbench.problem import ConvPass
from convbench.result import Status
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
    events = list(workers.run_in_workers(FOUND, options, [], spent))
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
    assert all(r["rows"] == [(10, labels[0]), (11, labels[1])] for r in requests)
    assert (spent.planning, spent.samples) == (3.0, 6.0)


def test_each_worker_is_told_what_auto_takes(monkeypatch):
    first, second = tasks(CASES, [BackendSpec(FakeBackend(), AUTO)], 1, ("warm", "cold"))
    monkeypatch.setattr(sys.modules[__name__], "FOUND", [first.taking("slow"), second])
    _, requests, _ = scripted(monkeypatch, [[DONE], [DONE], [DONE]])
    assert [r["chosen"] for r in requests] == [{0: "slow"}] * 3


FAKE = """
from convbench.testing import FakeAlgorithm, FakeBackend

class Fake(FakeBackend):
    def __init__(self):
        super().__init__({"slow": FakeAlgorithm(seconds=3e-3), "quick": FakeAlgorithm(phases={"all": 1e-3})})

    def plan(self, case, algorithm, operands, options):
        if case.suite:  # not for its floor
            with open("planned", "a") as file:
                file.write(algorithm + " ")
        return super().plan(case, algorithm, operands, options)
"""


@pytest.mark.parametrize("how", [("--processes", "3"), ("--isolate",)])
def test_what_auto_takes_is_measured_once_and_told_to_all(tmp_path, how):
    (tmp_path / "fake.py").write_text(FAKE)
    env = os.environ | {"CONVBENCH_CACHE": str(tmp_path / "cache")}
    arguments = ("-b", "./fake.py:Fake:auto", "--pass", "fprop", "--filter", "plain-3x3", "-o", "run.jsonl")
    done = run_program(*arguments, "--tune", "--phases", *how, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    (row,) = read_run(tmp_path / "run.jsonl").rows
    workers = 3 if "--processes" in how else 1
    assert (row.key.algorithm, row.resolved, row.status) == ("auto", "quick", "ok")
    assert (tmp_path / "planned").read_text().split() == ["slow", "quick", "quick"] + ["quick"] * workers
    assert len(row.phases) == 5 * workers
    assert row.phases_s == pytest.approx((1e-3,))


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
    assert [[row for row, _ in r["rows"]] for r in requests] == [[10, 11], [10, 11], [11]]


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
    done = run_program("-b", "cpu:gemm", "--processes", "3", "--max-time", "0.4s", "-o", str(path))
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
        list(workers.run_in_workers(FOUND, OPTIONS, [], Spent()))


@pytest.mark.parametrize("request_text", ["", "[]", "{}", "1", '{"rows": [[0, ""]]}'])
def test_a_worker_without_a_request_says_what_it_is(request_text):
    done = run_program("--worker", input=request_text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: --worker is how convbench calls itself: it reads a request from stdin\n"


NOISY = """
import os, time
from convbench.backends.cpu import CpuBackend
print("while it is loaded")

class Noisy(CpuBackend):
    def algorithms(self, case, options):
        print('{"type": "while it is asked"}')
        return super().algorithms(case, options)

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


# Isolated backends


BROKEN = """
import ctypes, os, signal, time
from convbench.backends.cpu import CpuBackend

class Breaks(CpuBackend):
    passes = ("fprop", "dgrad", "wgrad")
    good_runs = 0

    def plan(self, case, algorithm, operands, options):
        with open("pids", "a") as pids:
            pids.write(f"{os.getpid()}\\n")
        plan = super().plan(case, algorithm, operands, options)
        run, runs = plan.run, 0
        def breaking():
            nonlocal runs
            runs += 1
            if runs > self.good_runs:
                self.breaks()
            run()
        if case.conv_pass in self.passes:
            plan.run = breaking
        return plan

class Crashes(Breaks):
    name = "crashes"
    def breaks(self):
        os.kill(os.getpid(), signal.SIGSEGV)

class Hangs(Breaks):
    name = "hangs"
    def breaks(self):
        time.sleep(1e6)

class Exits(Breaks):
    name = "exits"
    passes = ("dgrad",)
    def breaks(self):
        if ctypes.CDLL(None).fork() == 0:  # as C code does it, which knows nothing of what Python would close
            os.close(1)
            os.close(2)
            time.sleep(20)
            os._exit(0)
        os._exit(7)

class CrashesLate(Crashes):
    passes = ("dgrad",)
    good_runs = 5

class LosesItsDevice(Breaks):
    name = "loses"
    passes = ("dgrad",)
    good_runs = 5
    gone = None
    def plan(self, case, *others):
        return CpuBackend.plan(self, case, *others) if case.name == "smallest" else super().plan(case, *others)
    def device(self):
        device = super().device()
        device.lost = lambda: self.gone
        return device
    def breaks(self):
        self.gone = "illegal address"
        raise RuntimeError("it broke")

class Fine(CpuBackend):
    name = "fine"
"""


@pytest.fixture
def isolated(tmp_path):
    """Runs the program with --isolate in a folder with broken.py, under a measuring lock of its own."""
    (tmp_path / "broken.py").write_text(BROKEN)
    arguments = ["-o", "run.jsonl", "--isolate", "--filter", "plain-3x3"]

    def run(*more, **options):
        done = run_program(*arguments, *more, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}, **options)
        return done, read_run(tmp_path / "run.jsonl")

    return run


def test_one_crashes_one_hangs_and_one_is_fine(isolated):
    backends = [argument for name in ("Crashes", "Hangs", "Fine") for argument in ("-b", f"./broken.py:{name}:gemm")]
    done, run = isolated(*backends, "--pass", "fprop", "--timeout", "5s")
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    found = {row.key.backend: row for row in run.rows}
    assert {name: row.status for name, row in found.items()} == {"crashes": "failed", "hangs": "timeout", "fine": "ok"}
    assert found["crashes"].reason == "its worker process ended early (SIGSEGV)"
    assert found["hangs"].reason == "took longer than 5.00 s (--timeout)"
    assert found["fine"].time_s > 0
    assert run.header["options"]["isolate"] is True
    assert run.canaries


DEADLY = """
import os, signal, time
from convbench.backends.cpu import CpuBackend

class Algorithms(CpuBackend):
    name = "deadly"
    def algorithms(self, case, options):
        os.kill(os.getpid(), signal.SIGSEGV)

class Hangs(CpuBackend):
    name = "deadly"
    def probe(self):
        time.sleep(1e6)

class Loads(CpuBackend):
    def __init__(self):
        os._exit(1)
"""


@pytest.mark.parametrize(
    ("deadly", "reason"),
    [
        ("Loads", "it ended its process (exit code 1)"),
        ("Algorithms", "it ended its process (SIGSEGV)"),
        ("Hangs", "it took longer than 10.0 s (--timeout)"),
    ],
)
def test_a_backend_that_breaks_where_it_is_asked_takes_no_other_along(isolated, tmp_path, deadly, reason):
    (tmp_path / "deadly.py").write_text(DEADLY)
    backends = ["-b", f"./deadly.py:{deadly}{':gemm' if deadly == 'Loads' else ''}", "-b", "./broken.py:Fine:gemm"]
    done, run = isolated(*backends, "--pass", "fprop", "--timeout", "10s")
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    name = ("Loads", "gemm") if deadly == "Loads" else ("deadly", "auto")
    assert [(row.key.backend, row.key.algorithm, row.status, row.reason) for row in run.rows] == [
        (*name, "failed", f"asked what it can do, {reason}"),
        ("fine", "gemm", "ok", ""),
    ]


def test_an_isolated_worker_loads_no_other_backend(isolated, tmp_path):
    noted = "open('loaded', 'a').write(f'{os.getpid()}:{__file__[-4:]} ')\n"
    for name in "ab":
        source = f"{noted}class B(CpuBackend):\n    name = {name!r}\n"
        (tmp_path / f"{name}.py").write_text("import os\nfrom convbench.backends.cpu import CpuBackend\n" + source)
    done, run = isolated("-b", "./a.py:B:gemm", "-b", "./b.py:B:auto", "--pass", "fprop")
    assert done.returncode == 0, done.stderr
    assert [row.key.backend for row in run.rows] == ["a", "b"]
    loaded = [entry.split(":") for entry in (tmp_path / "loaded").read_text().split()]
    processes = [[file for pid, file in loaded if pid == one] for one in dict.fromkeys(pid for pid, _ in loaded)]
    assert sorted(processes) == [["a.py"], ["a.py"], ["a.py", "b.py"], ["b.py"], ["b.py"]]  # asked, measured, the run


def test_what_is_wrong_with_a_command_is_said_once(isolated):
    done = run_program("--isolate", "-b", "cpu:gem")
    assert done.returncode == 1
    assert done.stderr == "Error: unknown algorithm 'gem' of backend cpu; did you mean 'gemm'?\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
@pytest.mark.parametrize("sent", [1, 3])
def test_an_interrupt_while_a_worker_is_imported_is_silent(tmp_path, sent):
    """Its module says that it is loaded, and is slow: the signal comes in the midst of imports."""
    (tmp_path / "slow.py").write_text(
        "import time\nfrom convbench.backends.cpu import CpuBackend\nopen('loading', 'a').write('x')\n"
        "time.sleep(2)\nclass Slow(CpuBackend):\n    pass\n"
    )
    program = [sys.executable, "-m", "convbench", "run", "smoke", "--processes", "2", "-b", "./slow.py:Slow:gemm", "-q"]
    with subprocess.Popen(program, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE,
                          text=True, start_new_session=True) as parent:  # fmt: skip
        loading = tmp_path / "loading"
        until(lambda: loading.exists() and len(loading.read_text()) == 2)  # that of the run, and of its worker
        for _ in range(sent):
            os.killpg(parent.pid, signal.SIGINT)
        err = parent.communicate(timeout=60)[1]
    assert parent.returncode == 130
    assert "Traceback" not in err


def test_a_process_begins_with_interrupts_blocked(monkeypatch):
    """They would end its imports in a traceback; a process inherits what is blocked."""
    monkeypatch.setattr(subprocess, "Popen", lambda command, **pipes: signal.pthread_sigmask(signal.SIG_BLOCK, []))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert children.start([], "--worker") == before | {signal.SIGINT}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_fresh_worker_measures_what_is_left_of_a_crashed_one(isolated):
    """The second row breaks while it is timed: the others have begun, and begin anew."""
    done, run = isolated("-b", "./broken.py:CrashesLate:gemm", "-b", "cpu:gemm")
    assert done.returncode == 6, done.stderr
    by_backend = {name: [r.status for r in run.rows if r.key.backend == name] for name in ("crashes", "cpu")}
    assert by_backend == {"crashes": ["ok", "failed", "ok"], "cpu": ["ok"] * 3}
    assert all(row.stop_reason for row in run.rows if row.status == "ok")


def test_a_fresh_worker_measures_what_is_left_where_a_device_is_lost(isolated):
    done, run = isolated("-b", "./broken.py:LosesItsDevice:gemm", "-b", "cpu:gemm")
    assert done.returncode == 6, done.stderr
    by_backend = {name: [r.status for r in run.rows if r.key.backend == name] for name in ("loses", "cpu")}
    assert by_backend == {"loses": ["ok", "failed", "ok"], "cpu": ["ok"] * 3}
    assert [row.reason for row in run.rows if row.reason] == ["RuntimeError: it broke (broken.py:62)"]


def test_a_worker_whose_child_holds_its_output_open_has_ended_all_the_same(isolated):
    done, run = isolated("-b", "./broken.py:Exits:gemm")
    assert done.returncode == 6, done.stderr
    assert [row.status for row in run.rows] == ["ok", "failed", "ok"]
    assert run.rows[1].reason == "its worker process ended early (exit code 7)"


def test_rounds_of_isolated_backends_are_interleaved(isolated, tmp_path):
    done, run = isolated("-b", "cpu:gemm", "-b", "./broken.py:Fine:gemm", "--pass", "fprop,dgrad")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    first = {line["row"] for line in lines if line["type"] == "round" and line["round"] == 0}
    assert len(first) == 4
    seconds = next(i for i, line in enumerate(lines) if line.get("round") == 1)
    assert first == {line["row"] for line in lines[:seconds] if line["type"] == "round"}  # none is a round ahead
    assert [line["round"] for line in lines if line["type"] == "canary"] == list(range(len(run.canaries["cpu"])))


def test_an_isolated_run_is_resumed_as_one(isolated, tmp_path):
    isolated("-b", "cpu:gemm", "-b", "cpu:direct")
    path = tmp_path / "run.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))
    assert "partial" in {row.status for row in read_run(path).rows}
    done, run = isolated("-b", "cpu:gemm", "-b", "cpu:direct", "--resume")
    assert done.returncode == 0, done.stderr
    assert [row.status for row in run.rows] == ["ok"] * 6
    done = run_program("-b", "cpu:gemm", "-b", "cpu:direct", "--filter", "plain-3x3", "--resume", "-o", str(path))
    assert done.returncode == 1
    assert "cannot be resumed: its isolate was True, now False" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--isolate", "--processes", "2"], "--isolate excludes --processes"),
        (["--timeout", "5s"], "--timeout needs --isolate"),
        (["--isolate", "--timeout", "-5s"], "duration"),
    ],
)
def test_options_that_do_not_go_together(arguments, text):
    done = run_program(*arguments)
    assert done.returncode == 2
    assert text in done.stderr


def alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker ends at its next turn")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_run(tmp_path, how):
    (tmp_path / "broken.py").write_text(BROKEN)
    command = [sys.executable, "-m", "convbench", "run", "smoke", "--isolate", "-b", "./broken.py:Hangs:gemm", "-q"]
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)},
                          stderr=subprocess.PIPE, text=True) as parent:  # fmt: skip
        pids = tmp_path / "pids"
        until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        worker = int(pids.read_text().split()[0])
        assert worker != parent.pid
        assert alive(worker)
        parent.send_signal(how)
        until(lambda: not alive(worker))
        err = parent.communicate(timeout=60)[1]
    assert "Traceback" not in err
    assert parent.returncode == (130 if how == signal.SIGINT else -9)


def until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Scripted(workers._Worker):
    """A worker that writes `lines` without being one; an exception among them is raised."""

    def __init__(self, found, lines):
        super().__init__(found, {"rows": [0] * len(found)}, [])
        self.lines = iter(lines)

    def _send(self, message):
        pass

    def _read(self, seconds):
        line = next(self.lines)
        if isinstance(line, Exception):
            raise line
        return dict(line)


def by_turns(monkeypatch, scripts, devices=("fake", "fake")):
    """(type, row) of what comes of workers, a list of lines each; the rows are those of FOUND, one each."""
    monkeypatch.setattr(workers, "HAND_OVER_S", 0)
    group = [replace(task, key=replace(task.key, backend=str(i), device=device))
             for i, (task, device) in enumerate(zip(FOUND, devices, strict=True))]  # fmt: skip
    pending = iter(scripts)
    made = []

    def make(found):
        made.append([task.index for task in found])
        return Scripted(found, next(pending))

    events = list(workers._by_turns(group, make, iter(range(50, 60)), 1e3))
    return [(event["type"], event.get("row"), event.get("reason")) for event in events], made


CANARY = {"type": "canary", "round": 0, "seconds": {}}


def test_the_worker_that_is_least_far_has_the_turn(monkeypatch):
    start = {"type": "start", "row": 10}
    one = [case(10), CANARY, start, measured(10), measured(10), measured(10, "precision"), DONE]
    other = [case(11), CANARY, measured(11), measured(11, "precision"), DONE]
    events, _ = by_turns(monkeypatch, [one, other])
    assert [(kind, row) for kind, row, _ in events if kind != "spent"] == [
        ("case", 10), ("case", 11), ("canary", None), ("round", 10), ("round", 11), ("round", 10), ("round", 11),
        ("round", 10),
    ]  # fmt: skip


def test_the_canaries_of_a_device_are_those_of_its_first_worker(monkeypatch):
    def told(*devices):
        scripts = [[case(row), CANARY, measured(row, "precision"), DONE] for row in (10, 11)]
        events, _ = by_turns(monkeypatch, scripts, devices)
        return [kind for kind, _, _ in events].count("canary")

    assert told("gpu:0", "gpu:0") == 1
    assert told("gpu:0", "gpu:1") == 2


def test_a_worker_that_ends_between_rows_has_failed_with_all_that_are_left(monkeypatch):
    gone = workers._Ended(Status.FAILED, "gone")
    events, made = by_turns(monkeypatch, [[case(10), gone], [gone]])
    assert events == [("case", 10, ""), ("case", 11, "gone"), ("failure", 10, "gone")]
    assert made == [[10], [11]]


def test_rows_begun_get_a_new_number_and_come_last():
    worker = Scripted(FOUND, [case(10), {"type": "progress", "row": 11, "doing": "verify"}])
    list(worker.turn(1e3))
    with pytest.raises(StopIteration):
        worker._note(worker._read(1)) or worker._read(1)
    assert [line["row"] for line in worker.failures(workers._Ended(Status.TIMEOUT, "slow"))] == [11]
    assert [task.index for task in worker.left(iter([50]))] == [50]


def test_the_time_of_a_row_begins_with_its_first_line(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(workers.time, "monotonic", lambda: next(now))
    lines = [{"type": "progress", "row": 10, "doing": "tune"}] * 9
    worker = Scripted(FOUND, [*lines, case(10)])
    assert len(list(worker.turn(15))) == 10
    silent = Scripted(FOUND, [])
    monkeypatch.setattr(silent, "_read", lambda seconds: None)
    with pytest.raises(workers._Ended, match=r"took longer than 15\.0 s"):
        list(silent.turn(15))
