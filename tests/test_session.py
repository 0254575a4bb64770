"""Headers, continuation of a run, and the lock that keeps runs apart."""

import contextlib
import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from convbench import session
from convbench.backends import BackendSpec
from convbench.errors import InputError
from convbench.journal import SCHEMA_VERSION, Journal, canary_line, case_line, read_run
from convbench.result import Row, Status
from convbench.runner import Progress, RunOptions, run
from convbench.suite import parse_suite
from convbench.tasks import Selection, tasks
from convbench.testing import FakeAlgorithm, FakeBackend
from convbench.timing import TimingOptions

SUITE = parse_suite(
    b"""
schema = 1
name = "tiny"
title = "Two problems"

[defaults]
batch = 1
in_channels = 2
out_channels = 3
filter_size = 3

[[problem]]
name = "a"
input_size = 6

[[problem]]
name = "b"
input_size = 7
""",
    "tiny.toml",
)
OPTIONS = RunOptions(threads=1, max_memory=1 << 30, timing=TimingOptions(max_time_s=0.5))
ROUNDS = OPTIONS.timing.min_rounds


def all_tasks(backend=None, threads=1):
    return tasks(Selection().cases([SUITE]), [BackendSpec(backend or FakeBackend())], threads)


def new_header(found, options=OPTIONS, suites=(SUITE,), arguments=("run", "tiny.toml")):
    return session.header(found, options, suites, arguments)


def measure(journal, todo, stop_after=None):
    """Measures; as an interrupt would, ends after `stop_after` journal lines."""
    lines = (event for event in run(todo, OPTIONS) if not isinstance(event, Progress))
    for count, line in enumerate(lines):
        if count == stop_after:
            break
        journal.append(line)
    journal.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


@pytest.fixture
def started(path):
    """A run of 12 rows, ended when the first of them were finished."""
    found = all_tasks()
    measure(Journal.create(path, new_header(found)), found, stop_after=12 + 13 * (ROUNDS - 1) + 4)
    return found


# Headers


def test_a_header_says_what_was_asked_where_and_with_what():
    found = all_tasks()
    header = new_header(found, arguments=["run", "tiny.toml", "-b", "fake"])
    assert header["command"] == ["convbench", "run", "tiny.toml", "-b", "fake"]
    assert header["suites"] == [{"name": "tiny", "title": "Two problems", "network": True, "sha256": SUITE.sha256}]
    assert header["seed"] == 0
    assert header["options"]["threads"] == 1
    assert header["options"]["max_memory_bytes"] == 1 << 30
    assert header["options"]["max_time_s"] == 0.5
    assert header["method"] == session.METHOD_VERSION
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", header["created"])
    machine = FakeBackend().device().machine()
    assert header["devices"] == {
        "fake": {"machine": machine.to_dict(), "fingerprint": machine.fingerprint, "ceilings": None}
    }
    json.dumps(header, allow_nan=False)


def test_an_unusable_backend_adds_no_device():
    header = new_header(all_tasks(FakeBackend(unusable="no GPU")))
    assert header["devices"] == {}
    assert session.warnings(header) == []


def test_warnings_of_a_header_come_from_its_environment():
    header = new_header(all_tasks())
    header["environment"] |= {"load": [7.5, 0, 0], "blas": []}
    assert len(session.warnings(header)) == 1
    assert "load average 7.50 on 1 CPUs" in session.warnings(header)[0]


# Resume


def test_finished_rows_are_skipped_and_the_rest_is_measured(path, started):
    before = read_run(path)
    finished = {row.key for row in before.rows if row.status is not Status.PARTIAL}
    assert 0 < len(finished) < len(started) == 12

    journal, todo = session.resume(path, new_header(started), started)
    assert [task.key for task in todo] == [task.key for task in started if task.key not in finished]
    assert [task.index for task in todo] == list(range(12, 12 + len(todo)))  # numbering goes on
    measure(journal, todo)

    after = read_run(path)
    assert [row.key for row in after.rows] == [task.key for task in started]  # each once, in the order asked for
    assert {row.status for row in after.rows} == {Status.OK}
    assert after.header == before.header
    old = {row.key: row for row in before.rows}
    for row in after.rows:
        if row.key in finished:
            assert row == old[row.key]
        else:
            assert len(row.rounds) == ROUNDS  # measured anew: earlier rounds were under other conditions
    assert after.next_row == 12 + len(todo)


def test_a_finished_run_has_nothing_left_to_do(path):
    found = all_tasks()
    measure(Journal.create(path, new_header(found)), found)
    content = path.read_bytes()
    journal, todo = session.resume(path, new_header(found), found)
    journal.close()
    assert todo == []
    assert path.read_bytes() == content


def test_rows_that_failed_or_were_refused_are_finished_too(path):
    backend = FakeBackend({"quick": FakeAlgorithm(), "broken": FakeAlgorithm(plan_error=RuntimeError("broke")),
                           "picky": FakeAlgorithm(reason="will not")})  # fmt: skip
    found = all_tasks(backend)
    measure(Journal.create(path, new_header(found)), found)
    journal, todo = session.resume(path, new_header(found), found)
    journal.close()
    assert todo == []


def test_more_rows_may_be_asked_for(path):
    backend = FakeBackend()
    few = tasks(Selection(globs=("a",)).cases([SUITE]), [BackendSpec(backend)], 1)
    measure(Journal.create(path, new_header(few)), few)
    journal, todo = session.resume(path, new_header(all_tasks(backend)), all_tasks(backend))
    journal.close()
    assert [task.case.name for task in todo] == ["b"] * 6
    assert todo[0].index == 6


def test_an_unfinished_last_line_is_cut_off(path, started):
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type":"round","row":3,"rou')
    journal, _ = session.resume(path, new_header(started), started)
    journal.append(canary_line(9, "cpu", {"compute": 0.5}))
    journal.close()
    assert path.read_bytes().startswith(whole + b'{"type":"canary"')
    assert read_run(path).note == ""


def test_a_line_that_lacks_its_newline_only_is_kept(path, started):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    journal, _ = session.resume(path, new_header(started), started)
    journal.append(canary_line(9, "cpu", {"compute": 0.5}))
    journal.close()
    assert path.read_bytes().startswith(whole)
    assert read_run(path).note == ""


def header_prefixes():
    text = b'{"type":"header","schema_version":2,"convbench_version":"0.1.0"}'
    return [text[:cut] for cut in range(len(text) + 1)]


@pytest.mark.parametrize("content", [None, *header_prefixes()], ids=lambda c: "missing" if c is None else str(len(c)))
def test_without_a_whole_header_it_starts_afresh(path, content):
    if content is not None:
        path.write_bytes(content)
    found = all_tasks()[:1]
    header = new_header(found)
    journal, todo = session.resume(path, header, found)
    journal.close()
    assert todo == found
    assert json.loads(path.read_text()) == {"type": "header", "schema_version": SCHEMA_VERSION, **header}


@pytest.mark.parametrize(
    "content",
    [b"my thesis", b"my thesis\n", b'{"a": 1}', b'{"a": 1}\n', b"\n", b"\x00\x01\x02", b'{"type":"case"}\n'],
    ids=repr,
)
def test_a_file_that_is_no_journal_is_not_overwritten(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"run\.jsonl"):
        session.resume(path, new_header(all_tasks()), all_tasks())
    assert path.read_bytes() == content


def test_a_damaged_journal_is_not_touched(path, started):
    content = path.read_bytes().replace(b'"type":"canary"', b'"type":"parrot"', 1)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"run\.jsonl:\d+: "):
        session.resume(path, new_header(started), started)
    assert path.read_bytes() == content


def test_a_folder_cannot_be_resumed(tmp_path):
    with pytest.raises(InputError, match=r"^cannot write .*: Is a directory$"):
        session.resume(tmp_path, new_header(all_tasks()), all_tasks())


def test_a_pipe_cannot_be_resumed(path):
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"^cannot write .*run\.jsonl: it is not a regular file$"):
        session.resume(path, new_header(all_tasks()), all_tasks())


def test_a_run_of_an_older_schema_is_not_mixed_with_a_newer_one(path, started):
    content = path.read_bytes().replace(b'"schema_version":5', b'"schema_version":4', 1)
    path.write_bytes(content)
    assert read_run(path).rows
    with pytest.raises(InputError, match="its schema version was 4, now 5"):
        session.resume(path, new_header(started), started)
    assert path.read_bytes() == content


def test_a_run_that_is_being_written_is_not_resumed(path):
    found = all_tasks()
    journal = Journal.create(path, new_header(found))
    with pytest.raises(InputError, match=r"run\.jsonl is being written by another run"):
        session.resume(path, new_header(found), found)
    journal.close()


def test_a_refused_file_is_given_back(path, started):
    for _ in range(2):  # it is not locked the second time
        with pytest.raises(InputError, match="its seed was 0, now 5"):
            session.resume(path, changed(new_header(started), "seed", 5), started)


def test_the_hour_may_jump(path, started, monkeypatch):
    """Nothing but `created` looks at it, which is not compared."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "gmtime", lambda *_: time.struct_time((1970, 1, 1, 0, 0, 0, 3, 1, 0)))
    header = new_header(started)
    assert header["created"] == "1970-01-01T00:00:00Z"
    journal, todo = session.resume(path, header, started)
    measure(journal, todo)
    assert {row.status for row in read_run(path).rows} == {Status.OK}


def changed(header, name, value):
    copy = json.loads(json.dumps(header))
    if name in copy["options"]:
        copy["options"][name] = value
    else:
        copy[name] = value
    return copy


OTHER_DEVICE = {"fake": {"machine": {}, "fingerprint": "feedfeedfeed", "ceilings": None}}


@pytest.mark.parametrize(
    ("name", "value", "field", "shown"),
    [
        ("convbench_version", "9.9", "convbench version", "9.9"),
        ("suites", [{"name": "tiny", "sha256": "f" * 64}], "suite hash", "ffffffffffff"),
        ("devices", OTHER_DEVICE, "machine", "feedfeedfeed"),
        ("seed", 5, "seed", "5"),
        ("threads", 3, "threads", "3"),
        ("accuracy", 1e-6, "accuracy", "1e-06"),
        ("precision", 0.25, "precision", "0.25"),
        ("max_time_s", 9.5, "max_time_s", "9.5"),
        ("min_rounds", 99, "min_rounds", "99"),
    ],
)
def test_other_conditions_are_refused_by_name_with_both_values(path, started, name, value, field, shown):
    content = path.read_bytes()
    old = new_header(started)
    new = changed(old, name, value)
    was = {
        "convbench version": old["convbench_version"], "suite hash": SUITE.sha256[:12],
        "machine": old["devices"]["fake"]["fingerprint"], "seed": "0",
    }.get(field, str(old["options"].get(name)))  # fmt: skip
    with pytest.raises(InputError) as caught:
        session.resume(path, new, started)
    message = str(caught.value)
    assert f"cannot be resumed: its {field} was " in message
    before, _, now = message.partition(", now ")
    assert was in before
    assert shown in now
    assert path.read_bytes() == content


def test_other_rows_are_refused_by_name(path, started):
    """Else two batches of a problem would stand in one table, and be added up as one network."""
    content = path.read_bytes()
    other = [
        replace(task, key=replace(task.key, case=replace(case, problem=replace(case.problem, batch=7))))
        for task in started
        if (case := task.key.case)
    ]
    with pytest.raises(InputError, match=r"cannot be resumed: it holds tiny/.*, which this command does not measure"):
        session.resume(path, new_header(started), other)
    assert path.read_bytes() == content


def test_an_option_that_the_old_run_did_not_have_is_a_difference(path, started):
    new = changed(new_header(started), "max_time_s", 0.5)
    new["options"]["novel"] = 1
    with pytest.raises(InputError, match="its novel was None, now 1"):
        session.resume(path, new, started)


def test_free_memory_load_and_time_may_differ(path, started):
    new = changed(new_header(started), "max_memory_bytes", 12345)
    new["environment"]["load"] = [9.0, 9.0, 9.0]
    new["created"] = "2030-01-01T00:00:00Z"
    new["command"] = ["convbench", "run", "tiny.toml", "--resume"]
    journal, todo = session.resume(path, new, started)
    journal.close()
    assert todo


def test_a_file_that_cannot_be_read_is_one_clear_line(path, started, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"^cannot write .*run\.jsonl: Permission denied$"):
        session.resume(path, new_header(started), started)


def test_a_row_opened_but_never_measured_is_measured(path):
    found = all_tasks()
    journal = Journal.create(path, new_header(found))
    journal.append(case_line(0, Row(key=found[0].key, status=Status.PARTIAL)))
    journal.close()
    journal, todo = session.resume(path, new_header(found), found)
    journal.close()
    assert [task.key for task in todo] == [task.key for task in found]
    assert todo[0].index == 1


# The lock


fcntl = pytest.importorskip("fcntl") if sys.platform != "win32" else None


@pytest.fixture
def lock_folder(tmp_path, monkeypatch):
    """A lock of this test's own, so that no real run holds it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_free_lock_is_taken_without_a_word(lock_folder):
    said = []
    with session.measuring_lock(said.append):
        assert (lock_folder / "convbench.lock").exists()
    with session.measuring_lock(said.append):
        pass
    assert said == []


def test_the_second_holder_says_so_and_waits(lock_folder):
    said = []
    order = []
    waiting = threading.Event()

    def second():
        def say(text):
            said.append(text)
            waiting.set()

        with session.measuring_lock(say):
            order.append("second")

    with session.measuring_lock(said.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        time.sleep(0.05)
        order.append("first")
    thread.join(10)
    assert not thread.is_alive()
    assert order == ["first", "second"]
    assert said == ["waiting for another convbench run on this machine to finish"]


def test_another_process_is_waited_for(lock_folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", "from convbench.session import measuring_lock\n"
         "with measuring_lock(print):\n    print('held', flush=True)\n    input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(lock_folder)},
    )  # fmt: skip
    with holder:
        assert holder.stdout.readline() == "held\n"
        said = []

        def say(text):
            said.append(text)
            holder.communicate("go on\n")

        with session.measuring_lock(say):
            assert holder.poll() == 0
    assert said == ["waiting for another convbench run on this machine to finish"]


def test_an_error_inside_gives_the_lock_back(lock_folder):
    with contextlib.suppress(ZeroDivisionError), session.measuring_lock(print):
        1 / 0  # noqa: B018
    said = []
    with session.measuring_lock(said.append):
        pass
    assert said == []


def test_a_lock_that_cannot_be_opened_is_a_warning():
    said, entered = [], []

    def refuse(*_arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with session.measuring_lock(said.append):
            entered.append(True)
    assert entered == [True]
    assert said == ["warning: no measuring lock (Permission denied): other runs may disturb this one"]


def test_a_folder_without_locks_is_a_warning(lock_folder, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said, entered = [], []
    with session.measuring_lock(said.append):
        entered.append(True)
    assert entered == [True]
    assert said == ["warning: no measuring lock (No locks available): other runs may disturb this one"]


def test_without_a_temporary_folder_it_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    said = []
    with session.measuring_lock(said.append):
        pass
    assert len(said) == 1
    assert said[0].startswith("warning: no measuring lock (No such file or directory)")


def overwrite(path):
    return Journal.create(path, new_header([]), force=True)


def go_on(path):
    return Journal.reopen(path, new_header([]))


@pytest.mark.parametrize("open_again", [overwrite, go_on])
def test_a_file_that_a_run_is_writing_is_left_alone(tmp_path, open_again):
    path = tmp_path / "run.jsonl"
    journal = Journal.create(path, new_header([]))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"run\.jsonl is being written by another run"):
        open_again(path)
    journal.append(canary_line(0, "cpu", {"compute": 0.5}))
    journal.close()
    assert path.read_bytes().startswith(before)
    open_again(path).close()
