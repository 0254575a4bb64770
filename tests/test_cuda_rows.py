"""Rows of a run on a simulated GPU: warm and cold ones, and those that fail, after which the next one goes on."""

import numpy as np
import pytest
from fake_cuda import CudaError, fake_device
from test_runner import lines_of, rows_of
from tiny import FPROP, SUITE

from convbench.backends import BackendSpec
from convbench.result import COLD, WARM, Status
from convbench.tasks import tasks
from convbench.testing import FakeAlgorithm, FakeBackend


def measured(monkeypatch, caches=(WARM,), **behaviour):
    """Rows by algorithm and cache, and what was simulated."""
    device, simulation, _ = fake_device(monkeypatch, kernel_s=lambda *_: 1e-3)
    device.advance = simulation.enqueue  # by which a FakePlan runs
    backend = FakeBackend({name.replace("_", "-"): algorithm for name, algorithm in behaviour.items()})
    backend.shared_device = device
    found = tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1, caches)
    rows = rows_of(lines_of(found))
    return {(row.key.algorithm, row.key.cache): row for row in rows}, simulation


def test_warm_and_cold_rows_take_the_gpus_time(monkeypatch):
    rows, simulation = measured(monkeypatch, (WARM, COLD), quick=FakeAlgorithm(seconds=50e-6))
    warm, cold = rows["quick", WARM], rows["quick", COLD]
    assert warm.time_s == pytest.approx(50e-6, rel=0.01)
    assert cold.time_s == pytest.approx(50e-6, rel=0.05)
    assert warm.key.device == "cuda:0"
    assert warm.rounds[0].columns.cpu_s[0] is None
    assert f"sweep {120 << 20}" in simulation.log


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("cudaErrorMemoryAllocation: out of memory", Status.OUT_OF_MEMORY),
        ("CUDNN_STATUS_EXECUTION_FAILED", Status.FAILED),
    ],
)
def test_a_row_that_fails_while_it_is_timed_lets_the_next_go_on(monkeypatch, text, status):
    rows, simulation = measured(
        monkeypatch, bad=FakeAlgorithm(run_error=CudaError(text), good_runs=2), good=FakeAlgorithm(seconds=50e-6)
    )
    assert (rows["bad", WARM].status, rows["good", WARM].status) == (status, Status.OK)
    assert text in rows["bad", WARM].reason
    assert ("free_unused" in simulation.log) == (status is Status.OUT_OF_MEMORY)


def test_outputs_that_are_no_numbers_are_wrong(monkeypatch):
    rows, _ = measured(
        monkeypatch, nan=FakeAlgorithm(fault=lambda out: np.full_like(out, np.nan)), good=FakeAlgorithm()
    )
    assert (rows["nan", WARM].status, rows["good", WARM].status) == (Status.WRONG, Status.OK)
