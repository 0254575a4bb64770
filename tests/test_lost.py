"""Devices that are lost: asked for it once, and told to all rows after that."""

import re

import numpy as np
import pytest
from tiny import FPROP, SUITE

from convbench.backends import BackendSpec
from convbench.lost import Lost, finish
from convbench.result import Status
from convbench.tasks import tasks
from convbench.testing import FakeBackend


def task_on(device_says):
    """A task, and how often its device was asked."""
    backend, asked = FakeBackend(), []
    backend.shared_device.lost = lambda: asked.append(1) or device_says
    return tasks(FPROP.cases([SUITE]), [BackendSpec(backend, "quick")], 1)[0], asked


def test_a_device_that_runs_on_is_asked_each_time():
    task, asked = task_on(None)
    lost = Lost()
    assert not lost.found_after(task)
    assert not lost.found_after(task)
    assert (len(asked), lost.row(task)) == (2, None)


def test_a_lost_one_is_asked_once_and_fails_its_rows():
    task, asked = task_on("CudaError: illegal address")
    lost = Lost()
    assert lost.row(task) is None
    assert lost.found_after(task)
    assert not lost.found_after(task)  # it was lost before
    assert len(asked) == 1
    row = lost.row(task)
    assert (row.key, row.status) == (task.key, Status.FAILED)
    assert row.reason == (
        "fake runs nothing more in this process since tiny/first fprop fp32 nchw fake:quick failed "
        "(CudaError: illegal address); with --isolate a fresh process goes on"
    )


def raising(error):
    def lost():
        raise error

    return lost


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (raising(RuntimeError("no word")), r"\(RuntimeError: no word \(test_lost.py:\d+\)\)"),
        (raising(SystemExit(3)), r"\(SystemExit: 3"),
        (lambda: 7, r"\(lost\(\) gave 7\)"),
        (lambda: np.zeros(2), r"\(lost\(\) gave array"),
        (lambda: "gone\n" * 5000, r"\(gone gone .{290}\)"),
    ],
)
def test_one_that_cannot_say_is_lost_too(says, reason):
    task, _ = task_on(None)
    task.backend.shared_device.lost = says
    lost = Lost()
    assert lost.found_after(task)
    assert re.search(reason, lost.row(task).reason)


def test_a_device_that_cannot_be_lost():
    (task,) = tasks(FPROP.cases([SUITE]), [BackendSpec(FakeBackend(), "quick")], 1)
    assert not Lost().found_after(task)


def test_a_device_is_waited_for_where_it_can_be():
    waited = []
    device = FakeBackend().shared_device
    finish(device)
    device.synchronize = lambda: waited.append(1)
    finish(device)
    assert waited == [1]

    def broken():
        raise RuntimeError("it broke")

    device.synchronize = broken
    with pytest.raises(RuntimeError, match="it broke"):
        finish(device)
