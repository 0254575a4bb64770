"""The GPU report without a GPU: its parts and their time, what it keeps, its tables."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu_programs import FOLDER, PROGRAMS, ROOT, gpu
from hypothesis import given
from hypothesis import strategies as st

from convbench.cli.run import command as run_command

__all__ = ["gpu"]  # a fixture


# --- without a GPU, and without what one needs


def test_programs_import_without_libraries_of_a_gpu():
    code = f"""
import importlib, sys
sys.path.insert(0, {str(FOLDER)!r})
sys.modules |= dict.fromkeys(("cupy", "cudnn", "torch", "pynvml", "cuda"))
for name in {PROGRAMS}: importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_gpu_there_is_one_line_and_nothing_is_written(tmp_path):
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(FOLDER / "report.py"), "--out", str(tmp_path / "gpu")]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1)
    assert found.stderr.startswith("gpu-report needs a GPU: ")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("program", ["timer", "counters", "identity"])
def test_other_programs_say_so_in_one_line_too(program):
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PATH": ""}
    found = subprocess.run(
        [sys.executable, str(FOLDER / f"{program}.py")], env=env, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1)


class FakeDriver:
    def __init__(self, status=0, count=1, version=13000):
        self.status, self.count, self.version = status, count, version

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version
        return 0


@pytest.mark.parametrize(
    ("library", "reason"),
    [(None, "no NVIDIA driver"), (FakeDriver(status=100), "error 100"), (FakeDriver(count=0), "CUDA_VISIBLE_DEVICES"),
     (FakeDriver(version=11080), "older than CUDA 12")],
)  # fmt: skip
def test_the_driver_says_what_is_missing(gpu, library, reason):
    assert reason in gpu.driver.missing(library)


def test_the_driver_decides_on_the_extra(gpu):
    assert gpu.driver.missing(FakeDriver()) is None
    assert [gpu.driver.extra(FakeDriver(version=v)) for v in (13010, 12040)] == ["cudnn13", "cudnn12"]


# --- the command line


@pytest.mark.parametrize(
    ("words", "text"),
    [(["--minutes", "0"], "above 0"), (["--minutes", "inf"], "finite"), (["--minutes", "nan"], "finite"),
     (["--out", __file__], "--out must be a folder"), (["--minutes", "x"], "invalid float"),
     (["--only", "nothing"], "parts are"),
     (["--tables"], "--tables needs --out"), (["--tables", "--out", "no/such/folder"], "--tables needs --out")],
)  # fmt: skip
def test_a_bad_command_line_is_refused(gpu, words, text, capsys):
    with pytest.raises(SystemExit) as raised:
        gpu.report.arguments_of(words)
    assert raised.value.code == 2
    assert text in capsys.readouterr().err


def test_the_folder_has_the_gpus_name(gpu):
    names = {
        "NVIDIA H200": "h200",
        "NVIDIA GeForce RTX 4090": "geforce-rtx-4090",
        "NVIDIA A100-SXM4-80GB": "a100-sxm4-80gb",
    }
    assert {name: gpu.report.slug(name) for name in names} == names
    assert gpu.report.machine_name({"machine": {"gpu_name": "NVIDIA H200"}}) == "h200"
    assert gpu.report.machine_name({"machine": "not known: Error"}) == "gpu"


# --- parts and their time


def test_parts_name_real_commands_and_each_once(gpu, tmp_path):
    found = gpu.parts.parts(tmp_path, ["cudnn", "cufft", "cudafft"])
    names = [part.name for part in found]
    assert len(names) == len(set(names))
    assert {of.suite for of in gpu.parts.SUITES} <= set(names)
    for part in found:
        words = [*part.command]
        if part.run_file is not None:
            parsed = run_command.make_context("run", words[words.index("run") + 1 :]).params
            assert parsed["output"] == part.run_file
        elif words[1] != "-m":
            assert Path(words[1]).is_file()
    assert next(name for name in names if name.endswith("tf32")) == "fbfft-layers-tf32"


def test_every_program_answers_a_question_and_is_there(gpu):
    asked = {program for _, programs in gpu.answers.QUESTIONS.values() for program in programs}
    assert asked == set(gpu.parts.QUESTIONS)
    for program in asked:
        module = getattr(gpu, gpu.questions.MODULES.get(program, "ask_cuda"))
        assert callable(getattr(module, program.replace("-", "_")))


def test_backends_that_are_not_usable_are_left_out(gpu, tmp_path):
    (part,) = (p for p in gpu.parts.parts(tmp_path, ["cudnn"]) if p.name == "alexnet")
    assert [word for word in part.command if word.startswith(("cudnn", "cufft", "cudafft"))] == ["cudnn:auto"]


def test_more_rows_get_less_time_each(gpu):
    of = {suite.suite: suite for suite in gpu.parts.SUITES}
    few, many = gpu.parts.max_time_s(of["alexnet"], 1, 60), gpu.parts.max_time_s(of["googlenet"], 3, 60)
    assert gpu.parts.SHORTEST_ROW_S <= many < few <= gpu.parts.LONGEST_ROW_S


@given(
    left_s=st.floats(1, 1000),
    needs=st.lists(st.tuples(st.floats(1, 100), st.floats(1, 300)), min_size=1, max_size=8),
    used=st.lists(st.floats(0, 1), min_size=8, max_size=8),
)
def test_parts_never_get_more_than_there_is_and_the_last_all_that_is_left(gpu, left_s, needs, used):
    made = [
        gpu.parts.Part(name=str(i), title="", command=("x",), seconds=seconds, limit_s=limit_s)
        for i, (seconds, limit_s) in enumerate(needs)
    ]
    for index, part in enumerate(made):
        allowed = gpu.parts.allowed_s(part, made[index + 1 :], left_s)
        assert 0 <= allowed <= min(part.limit_s, left_s) * (1 + 1e-9)
        if index == len(made) - 1:
            assert allowed == pytest.approx(min(part.limit_s, left_s))
        left_s -= allowed * used[index]


# --- commands with a limit


def python(code):
    return (sys.executable, "-c", code)


def run_limited(gpu, tmp_path, code, limit_s=30.0, **options):
    log = tmp_path / "log.txt"
    return gpu.limits.run(python(code), limit_s, log, os.environ, **options), log


def test_a_command_that_ends_is_done_and_its_words_are_kept(gpu, tmp_path):
    found, log = run_limited(gpu, tmp_path, "print('said, in /some/where/file.py')")
    assert found.status == gpu.limits.DONE
    assert log.read_text() == "said, in …/file.py\n"


def test_a_failure_has_its_code_and_last_line(gpu, tmp_path):
    found, _ = run_limited(gpu, tmp_path, "import sys; print('first'); sys.exit('no /srv/thing/here')")
    assert (found.status, found.reason) == (gpu.limits.FAILED, "exit code 1: no …/here")
    assert run_limited(gpu, tmp_path, "raise SystemExit(6)", good=(0, 6))[0].status == gpu.limits.DONE


def test_a_crash_has_its_signal(gpu, tmp_path):
    found, _ = run_limited(gpu, tmp_path, "import os; os.abort()")
    assert (found.status, found.reason) == (gpu.limits.FAILED, "ended by SIGABRT")


def test_a_program_that_is_not_there_is_a_failure(gpu, tmp_path):
    found = gpu.limits.run(["no-such-program"], 5, tmp_path / "log.txt", os.environ)
    assert (found.status, found.reason) == (
        gpu.limits.FAILED,
        "no-such-program cannot be started: No such file or directory",
    )


def test_over_its_time_a_command_is_interrupted_and_keeps_what_it_wrote(gpu, tmp_path):
    code = "import time\ntry:\n print('half', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n print('kept')"
    found, log = run_limited(gpu, tmp_path, code, limit_s=1.0)
    assert (found.status, log.read_text()) == (gpu.limits.CUT, "half\nkept\n")
    assert found.seconds < 10


def test_what_ignores_an_interrupt_is_killed_with_all_that_it_started(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.limits, "GRACE_S", 0.2)
    pid = tmp_path / "pid"
    ignoring = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    child = f"{ignoring} open({str(pid)!r}, 'w').write(str(__import__('os').getpid())); time.sleep(60)"
    code = f"{ignoring} import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    found, _ = run_limited(gpu, tmp_path, code, limit_s=2.0)
    assert found.status == gpu.limits.CUT
    for _ in range(50):
        if not _is_alive(int(pid.read_text())):
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")


def _is_alive(pid):
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- the report


def make_report(gpu, out, seconds=60.0, lacking=None, force=False):
    out.mkdir(exist_ok=True)
    return gpu.report.Report(out, lacking or {}, time.monotonic() + seconds, force)


def part(gpu, name, code, **options):
    fields = {"title": f"does {name}", "command": python(code), "seconds": 10.0, "limit_s": 30.0}
    return gpu.parts.Part(name=name, **fields | options)


def states(out):
    return {name: of["status"] for name, of in json.loads((out / "parts.json").read_text()).items()}


def test_a_part_that_fails_leaves_its_reason_and_the_rest_goes_on(gpu, tmp_path):
    parts = [part(gpu, "good", "print(1)"), part(gpu, "bad", "import os; os.abort()"), part(gpu, "last", "print(2)")]
    make_report(gpu, tmp_path).run(parts)
    assert states(tmp_path) == {"good": "done", "bad": "failed", "last": "done"}
    gpu.summary.write(tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert "| bad | does bad | failed |" in text
    assert "ended by SIGABRT" in text
    assert (tmp_path / "logs/last.txt").read_text() == "2\n"


def test_again_only_what_is_not_done_runs_unless_forced(gpu, tmp_path):
    count = tmp_path / "count"
    adding = f"open({str(count)!r}, 'a').write('x')"
    parts = [part(gpu, "one", adding), part(gpu, "two", f"{adding}; raise SystemExit(3)")]
    for expected, force in ((2, False), (3, False), (5, True)):
        make_report(gpu, tmp_path, force=force).run(parts)
        assert len(count.read_text()) == expected


def test_a_part_without_its_backends_is_not_begun(gpu, tmp_path):
    needing = part(gpu, "run", "print(1)", needs=("cudnn", "cufft"))
    make_report(gpu, tmp_path, lacking={"cudnn": "not installed", "cufft": "no cuFFT"}).run([needing])
    assert json.loads((tmp_path / "parts.json").read_text())["run"]["reason"] == "cudnn: not installed; cufft: no cuFFT"
    make_report(gpu, tmp_path, lacking={"cudnn": "not installed", "cufft": None}).run([needing])
    assert states(tmp_path) == {"run": "done"}


def test_without_time_a_part_is_not_begun_and_what_was_known_of_it_stays(gpu, tmp_path):
    (tmp_path / "parts.json").write_text(
        json.dumps({"old": {"status": "cut short", "reason": "r", "seconds": 1, "title": ""}})
    )
    make_report(gpu, tmp_path, seconds=1.0).run([part(gpu, "new", "print(1)"), part(gpu, "old", "print(1)")])
    assert states(tmp_path) == {"old": "cut short", "new": "not begun"}


def test_a_run_that_was_cut_short_goes_on(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.limits, "GRACE_S", 0.2)
    monkeypatch.setattr(gpu.report, "LEAST_S", 0.5)
    path = tmp_path / "run.jsonl"
    code = f"import sys, time; open({str(path)!r}, 'a').write(sys.argv[1] + ' '); time.sleep(60)"
    running = part(gpu, "run", code, run_file=path, limit_s=1.0)
    for force in (False, False, True):
        make_report(gpu, tmp_path, force=force).run([running])
        assert states(tmp_path) == {"run": "cut short"}
    assert path.read_text().split() == ["--force", "--resume", "--force"]


def test_a_run_without_any_time_is_a_failure(gpu, tmp_path):
    source, path = ROOT / "reports/epyc-2-cpus/alexnet.jsonl", tmp_path / "run.jsonl"
    copying = f"import shutil; shutil.copy({str(source)!r}, {str(path)!r})"
    make_report(gpu, tmp_path).run([part(gpu, "good", copying, run_file=path)])
    first = source.read_text().splitlines()[0]
    writing = f"open({str(tmp_path / 'empty.jsonl')!r}, 'w').write({first!r} + chr(10))"
    make_report(gpu, tmp_path).run([part(gpu, "empty", writing, run_file=tmp_path / "empty.jsonl")])
    found = json.loads((tmp_path / "parts.json").read_text())
    assert {name: (of["status"], of["reason"]) for name, of in found.items()} == {
        "good": ("done", ""), "empty": ("failed", "no row has a time")
    }  # fmt: skip


def test_the_whole_report_from_the_command_line(gpu, tmp_path, monkeypatch, capsys):
    facts = {"machine": {"gpu_name": "NVIDIA H200"}, "backends": {"cudnn": None}, "packages": {"numpy": "2.1"}}
    monkeypatch.setattr(gpu.report, "identity", lambda: facts)
    monkeypatch.setattr(gpu.report, "ROOT", tmp_path)
    monkeypatch.setattr(gpu.report, "parts", lambda out, usable: [part(gpu, "one", f"print({usable!r}, {out.name!r})")])
    gpu.report.main(["--minutes", "2"])
    folder = tmp_path / "reports/h200"
    assert (folder / "logs/one.txt").read_text() == "['cudnn'] h200\n"
    assert json.loads((folder / "device.json").read_text()) == facts
    text = (folder / "summary.md").read_text()
    assert text.startswith("# NVIDIA H200\n")
    assert "backends: cudnn usable" in text
    assert "one: done" in capsys.readouterr().out


def test_tables_come_from_stored_runs_and_a_damaged_one_is_named(gpu, tmp_path):
    shutil.copy(ROOT / "reports/epyc-2-cpus/alexnet.jsonl", tmp_path / "alexnet.jsonl")
    (tmp_path / "vgg-a.jsonl").write_text("{broken")
    (tmp_path / "timer.md").write_text("| row |\n")
    known = {"alexnet": {"title": "its title", "status": "done", "seconds": 9.0, "reason": ""}}
    (tmp_path / "parts.json").write_text(json.dumps(known))
    gpu.report.main(["--tables", "--out", str(tmp_path)])
    text = (tmp_path / "summary.md").read_text()
    assert "| alexnet-2012 | cpu:auto | 109 ms |" in text
    assert "| alexnet | its title | done | 9 s | 30 ok |" in text
    assert "## Beside an independent timer" in text
    assert "- vgg-a.jsonl: " in text
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == {"alexnet.svg", "dark.svg", "ceilings.svg", "network.svg"}


def outcome(**changes):
    return {"title": "its title", "status": "done", "seconds": 9.0, "reason": ""} | changes


DAMAGED = [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000]
"""Files that hold no JSON object."""
NO_OUTCOMES = [{}, [], None, outcome(seconds="9"), outcome(seconds=float("nan")), outcome(seconds=10**400),
               outcome(status=3), outcome(reason="\ud800"), {"status": "done"}]  # fmt: skip


@pytest.mark.parametrize("name", ["parts.json", "device.json"])
@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_one_line_and_is_kept(gpu, tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    gpu.report.main(["--tables", "--out", str(tmp_path)])
    assert (tmp_path / "summary.md").read_text().startswith("# A GPU\n")
    kept = name.replace("json", "damaged")
    assert (tmp_path / kept).read_bytes() == content
    said = f"gpu-report: {name} is damaged (it holds no JSON object): it is kept as {kept}\n"
    assert capsys.readouterr().err == said
    make_report(gpu, tmp_path).run([part(gpu, "one", "print(1)")])
    assert states(tmp_path) == {"one": "done"}


def test_damaged_answers_and_fragments_are_no_traceback(gpu, tmp_path):
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers/floor.jsonl").write_text('{"question": 1}\n')
    (tmp_path / "timer.md").write_bytes(b"| row |\xff\n")
    gpu.report.main(["--tables", "--out", str(tmp_path)])
    text = (tmp_path / "summary.md").read_text()
    assert "- answers: TypeError: " in text
    assert "| row |\ufffd" in text


def test_entries_that_say_nothing_of_a_part_are_left_out_of_parts_json(gpu, tmp_path, capsys):
    bad = {f"bad{place}": of for place, of in enumerate(NO_OUTCOMES)}
    before = json.dumps({"smoke": outcome()} | bad)
    (tmp_path / "parts.json").write_text(before)
    gpu.report.main(["--tables", "--out", str(tmp_path)])
    assert "| smoke | its title | done | 9 s |  |" in (tmp_path / "summary.md").read_text()
    assert json.loads((tmp_path / "parts.json").read_text()) == {"smoke": outcome()}
    assert (tmp_path / "parts.damaged").read_text() == before
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"gpu-report: parts.json is damaged ({len(bad)} of its {len(bad) + 1} entries say nothing")


@pytest.mark.parametrize("facts", [
    {"machine": 3, "packages": [], "backends": "x"}, {"machine": {"gpu_name": 7}, "packages": {"numpy": [1]}},
    {"machine": {"gpu_name": "\ud800"}, "libraries": {"a": "\ud800"}},
])  # fmt: skip
def test_facts_of_other_types_are_no_traceback(gpu, tmp_path, facts):
    (tmp_path / "device.json").write_text(json.dumps(facts))
    gpu.report.main(["--tables", "--out", str(tmp_path)])
    assert (tmp_path / "summary.md").read_text().startswith("# A GPU\n")


def test_a_folder_that_cannot_be_written_is_one_line(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.report, "identity", dict)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"^gpu-report: .*file/gpu/?.*: Not a directory$"):
        gpu.report.main(["--out", str(tmp_path / "file/gpu")])
    (tmp_path / "summary.md").mkdir()
    with pytest.raises(SystemExit, match=r"^gpu-report: .*summary\.md: Is a directory$"):
        gpu.report.main(["--tables", "--out", str(tmp_path)])


# --- answers


def test_the_document_holds_what_is_known(gpu):
    document = (ROOT / "docs/gpu.md").read_text()
    folder = ROOT / "reports/h200"
    assert gpu.answers.filled(document, gpu.answers.read(folder)) == document


def test_answers_are_written_read_and_filled_in(gpu, tmp_path):
    answer = gpu.answers.Answer(question=3, program="floor", sentence="2 µs | or so.", data={"us": 2})
    gpu.answers.write([answer], tmp_path / "answers/floor.jsonl")
    assert gpu.answers.read(tmp_path) == [answer]
    text = gpu.answers.filled("a\n<!-- answers -->\nold\n<!-- end of answers -->\nz", [answer])
    assert "2 µs / or so." in text
    assert text.count(gpu.answers.NOT_YET) == len(gpu.answers.QUESTIONS) - 1
    assert text.startswith("a\n")
    assert text.endswith("\nz")
    with pytest.raises(SystemExit):
        gpu.answers.filled("no table", [])


# --- identity


def test_what_cannot_be_found_out_is_there_as_the_reason(gpu):
    assert gpu.identity.guarded(lambda: 1 / 0) == "not known: ZeroDivisionError: division by zero"
    assert gpu.identity.packages()["convbench"]


def test_backends_that_this_convbench_lacks_are_named(gpu, monkeypatch):
    import convbench.backends

    monkeypatch.setattr(convbench.backends, "available", dict)
    assert set(gpu.identity.backends().values()) == {"this convbench has no such backend"}
