"""Fresh pairs of processes, on a backend whose time is simulated."""

import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stored import row

from convbench.confirm import NULL
from convbench.errors import ConvbenchError
from convbench.pairs import Side, about, launches
from convbench.result import COLD, Status

SOURCE = """
import os, stat, time
from pathlib import Path
from convbench.errors import UnsupportedError
from convbench.testing import FakeAlgorithm, FakeBackend


def raise_(error):
    raise error


def is_pipe(number):
    try:
        return stat.S_ISFIFO(os.fstat(number).st_mode)
    except OSError:
        return False


def third(path):
    path.write_text(path.read_text() + "x" if path.exists() else "x")
    if len(path.read_text()) > 2:
        os._exit(1)


FAULTS = {
    "raises": lambda: raise_(ValueError("no")),
    "refuses": lambda: raise_(UnsupportedError("odd")),
    "fills": lambda: raise_(MemoryError("large")),
    "ends": lambda: os._exit(3),
    "hangs": lambda: time.sleep(60),
    "closes": lambda: (os.closerange(3, 200), time.sleep(60)),
    "leaves a child": lambda: os.fork() and os._exit(9) or time.sleep(30),
    "writes": lambda: [os.write(number, b"hello\\n") for number in range(3, 9) if is_pipe(number)],
    "flaky": lambda: third(Path(__file__).with_suffix(".count")),
}


class Mine(FakeBackend):
    name = "mine"

    def __init__(self):
        super().__init__({"quick": FakeAlgorithm(seconds=SECONDS)})

    def plan(self, case, algorithm, operands, options):
        if FAULTY:
            FAULTS.get(case.name, int)()
        return super().plan(case, algorithm, operands, options)
"""


@pytest.fixture
def side(tmp_path):
    """Makes a side from the seconds of its backend; where it is faulty, rows with the name of a fault show it."""

    def make(title="new", seconds=2e-3, faulty=False):
        path = tmp_path / f"{title}.py"
        path.write_text(SOURCE.replace("SECONDS", str(seconds)).replace("FAULTY", str(faulty)))
        return Side(title=title, python=sys.executable, backends={"mine": f"{path}:Mine"})

    return make


def keys(*names):
    return [replace(row(name=name).key, backend="mine", algorithm="quick") for name in names]


def measured(found, place):
    return [launch.log_ratio for launch in found if launch.row == place and not launch.lost]


def test_the_ratio_is_that_of_the_two_versions(side):
    found = list(launches(keys("a"), side("old"), side("new", 3e-3), 2))
    assert measured(found, 0) == pytest.approx([0.4055, 0.4055], abs=1e-3)  # log 1.5
    assert measured(found, NULL) == pytest.approx([0, 0], abs=1e-3)
    assert found[-1].seconds == pytest.approx((2e-3, 3e-3)) or found[-2].seconds == pytest.approx((2e-3, 3e-3))


def test_cold_rows(side):
    (key,) = keys("a")
    found = list(launches([replace(key, cache=COLD)], side("old"), side("new", 3e-3), 1))
    assert measured(found, 0) == pytest.approx([0.4055], abs=1e-3)


LOST = {
    "raises": (Status.FAILED, "ValueError: no"),
    "refuses": (Status.UNSUPPORTED, "odd"),
    "fills": (Status.OUT_OF_MEMORY, "large"),
    "ends": (Status.FAILED, "its process ended (exit code 3)"),
    "hangs": (Status.TIMEOUT, "it was silent for 5.00 s"),
    "closes": (Status.FAILED, "its process closed its output"),
    "leaves a child": (Status.FAILED, "its process ended (exit code 9)"),
    "writes": (Status.FAILED, "its answer is not one of convbench's"),
    "flaky": (Status.FAILED, "its process ended (exit code 1)"),
}


@pytest.mark.parametrize("title", ["old", "new"])
def test_a_row_that_fails_takes_no_other_along(side, title):
    """Its process is started anew; the other rows are launched as often as asked. One fails in a later launch."""
    old, new = (side(name, faulty=name == title) for name in ("old", "new"))
    found = list(launches(keys("fine", *LOST, "last"), old, new, 3, timeout_s=5))
    lost = [launch for launch in found if launch.lost]
    assert sorted(launch.row for launch in lost) == [*range(1, 1 + len(LOST))]
    for launch in lost:
        status, reason = [*LOST.values()][launch.row - 1]
        assert [*launch.lost] == [title]
        assert launch.lost[title][0] is status
        assert reason in launch.lost[title][1]
    assert [len(measured(found, place)) for place in (0, 1 + len(LOST))] == [3, 3]
    assert 1 <= len(measured(found, len(LOST))) <= 2  # the null control may have planned it, too


def test_both_sides_say_why(side):
    (lost,) = [one for one in launches(keys("refuses"), side("old", faulty=True), side(faulty=True), 1) if one.lost]
    assert sorted(lost.lost) == ["new", "old"]


def test_no_side(tmp_path):
    def program(line):
        path = tmp_path / f"p{len([*tmp_path.iterdir()])}"
        path.write_text(f"#!/bin/sh\nprintf '{line}\\n'\nsleep 5\n")
        path.chmod(0o755)
        return str(path)

    for python, text in (
        ("no-such-python", "cannot start no-such-python: "),
        ("false", "the old side, false, has no answer: its process ended"),
        ("echo", "the old side, echo, has no answer: its answer is not one of convbench's"),
        (program("5"), "its answer is not one of convbench's"),
        (program("null"), "its answer is not one of convbench's"),
        (program("\\377"), "its answer is not one of convbench's"),
        (program('{"protocol": 1, "version": "0.0"}'), "has convbench 0.0, which speaks another protocol"),
        (program('{"protocol": 3}'), "is no convbench"),
    ):
        with pytest.raises(ConvbenchError, match=re.escape(text)):
            about(Side(title="old", python=python, backends={}), 10)


def test_a_side_that_cannot_load_a_backend(side):
    new = replace(side(), backends={"mine": "./nowhere.py:Mine"})
    with pytest.raises(ConvbenchError, match=r"the new side cannot load ./nowhere.py:Mine: "):
        about(new, 60)


def test_what_a_side_says_of_itself(side):
    said = about(side(), 60)
    assert Path(said["folder"]).name == "convbench"
    assert "numpy" in said["environment"]["libraries"]


def test_its_processes_end_with_it(side):
    """Also where the caller stops in the middle, as Ctrl-C does."""
    before = threading.active_count()
    found = launches(keys("a", "c"), side("old"), side("new"), 2)
    next(found)
    found.close()
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)  # each process has a thread that reads it to its end
    assert threading.active_count() <= before
