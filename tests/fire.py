"""A run that is killed at some moment, and what its result file must still hold.

For tests/test_fire.py and benchmarks/kill.py. A round is lost where its line was in the file before the kill and is
not among the rows that are read afterwards; only a last line without its newline may be dropped.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from convbench.errors import InputError
from convbench.journal import read_run

ARGUMENTS = ("run", "smoke", "-b", "cpu:gemm", "--pass", "fprop", "--max-time", "20ms", "--threads", "1", "-q")
DEADLINE_S = 120


def start(path, *options, before=""):
    """A run into `path`, in a process group of its own, with a measuring lock of its own beside the file.

    `before` is Python code for the new process to run first.
    """
    program = f"{before}\nimport runpy; runpy.run_module('convbench', run_name='__main__', alter_sys=True)"
    return subprocess.Popen(
        [sys.executable, "-c", program, *ARGUMENTS, "-o", str(path), *options], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"TMPDIR": str(path.parent)},
    )  # fmt: skip


def finish(process):
    """(exit code, stdout, stderr) of a run; what stderr says of the machine's load is left out."""
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, without_load(err)


def without_load(text):
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("warning: load average"))


def wait_for(condition, process):
    """Returns when `condition` holds or the process has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def size(path):
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True)
class Kill:
    """What one kill left: whole lines before it, whole lines and bytes of an unfinished one after it, rows, rounds.

    `finished`: the run had ended by itself.
    """

    finished: bool
    lines_before: int
    lines_after: int
    unfinished: int
    rows: int
    rounds: int


def kill(path, after_s, *options):
    """Starts a run and kills it, `after_s` seconds after its first line or, where negative, after its start.

    Raises:
        AssertionError: the file does not read, or has lost a line.
    """
    old = size(path)
    process = start(path, *options)
    if after_s >= 0:
        wait_for(lambda: size(path) > old, process)
    time.sleep(abs(after_s))
    seen = path.read_bytes() if path.exists() else b""
    finished = process.poll() is not None
    if not finished:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)
    return left(path, seen, finished=finished)


def left(path, seen, *, finished):
    """What is left in a file of which `seen` was there before the kill."""
    content = path.read_bytes() if path.exists() else b""
    whole, _, unfinished = content.rpartition(b"\n")
    assert (whole + b"\n").startswith(seen[: seen.rfind(b"\n") + 1]), "a line that was in the file is lost"
    entries = [json.loads(line) for line in whole.splitlines()]
    rows = rounds = 0
    if entries:
        found = read_run(path).rows
        rows, rounds = len(found), sum(len(row.rounds) for row in found)
        latest = {json.dumps(entry["key"]): entry["row"] for entry in entries if entry["type"] == "case"}
        counts = Counter(entry["row"] for entry in entries if entry["type"] == "round")
        assert rounds == sum(counts[row] for row in latest.values()), "a round that was in the file is lost"
        assert rows == len(latest), "a row that was in the file is lost"
    elif path.exists():
        with pytest.raises(InputError, match="holds no run"):
            read_run(path)
    return Kill(finished, seen.count(b"\n"), len(entries), len(unfinished), rows, rounds)


def statuses(path):
    """{row key: status} of a result file."""
    return {row.key: row.status for row in read_run(Path(path)).rows}
