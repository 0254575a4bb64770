"""Rows of a run on a simulated GPU: warm and cold ones, and those that fail, after which the next one goes on."""

from dataclasses import replace

import numpy as np
import pytest
from fake_cuda import H200, CudaError, fake_device
from test_runner import OPTIONS, lines_of, rows_of
from tiny import FPROP, SUITE

from convbench.backends import BackendSpec
from convbench.lost import DeviceLostError
from convbench.memory import operand_bytes
from convbench.render.results import row_facts
from convbench.result import COLD, WARM, Status
from convbench.runner import run
from convbench.tasks import groups_by_memory, refusal, tasks
from convbench.testing import FakeAlgorithm, FakeBackend, FakePlan

ILLEGAL = CudaError("cudaErrorIllegalAddress: an illegal memory access was encountered")
BREAKS_S, BREAKS_LATER_S = 13.0, 14.0
"""Runs that seem to take so long break in the kernel: the first time, or once canaries have run before a round."""


def simulated_backend(monkeypatch, properties=H200, sticky=True, **behaviour):
    """(a backend on a simulated GPU, its FakeCuda, its FakeNvml)."""
    kernels = set()

    def kernel_s(name, *_):
        kernels.add(name)
        return 1e-3

    device, simulation, library = fake_device(monkeypatch, kernel_s=kernel_s, properties=properties)

    def advance(seconds):
        simulation.enqueue(min(seconds, 1e-3))
        if seconds == BREAKS_S or (seconds == BREAKS_LATER_S and "fma_fp32" in kernels):
            simulation.broken, simulation.sticky = ILLEGAL, sticky

    device.advance = advance  # by which a FakePlan runs
    backend = FakeBackend({name.replace("_", "-"): algorithm for name, algorithm in behaviour.items()})
    backend.shared_device = device
    return backend, simulation, library


def measured(monkeypatch, caches=(WARM,), options=OPTIONS, **behaviour):
    """Rows by algorithm and cache, and what was simulated."""
    backend, simulation, _ = simulated_backend(monkeypatch, **behaviour)
    found = tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1, caches)
    rows = rows_of(lines_of(found, options))
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


# Errors of kernels


@pytest.mark.parametrize("breaks", [BREAKS_S, BREAKS_LATER_S], ids=["first call", "while it is timed"])
def test_an_error_within_a_kernel_is_that_rows_and_the_next_goes_on(monkeypatch, breaks):
    rows, _ = measured(monkeypatch, sticky=False, bad=FakeAlgorithm(seconds=breaks), good=FakeAlgorithm(seconds=50e-6))
    assert (rows["bad", WARM].status, rows["good", WARM].status) == (Status.FAILED, Status.OK)
    assert "cudaErrorIllegalAddress" in rows["bad", WARM].reason


@pytest.mark.parametrize("breaks", [BREAKS_S, BREAKS_LATER_S], ids=["first call", "while it is timed"])
def test_an_error_that_stays_fails_the_gpus_rows_with_one_reason_and_no_others(monkeypatch, breaks):
    behaviour = {"before": FakeAlgorithm(), "bad": FakeAlgorithm(seconds=breaks), "after": FakeAlgorithm()}
    backend, _, _ = simulated_backend(monkeypatch, **behaviour)
    specs = [BackendSpec(backend, name) for name in behaviour] + [BackendSpec(FakeBackend(), "quick")]
    rows = rows_of(lines_of(tasks(FPROP.cases([SUITE]), specs, 1)))
    by_name = {row.key.algorithm: row for row in rows}
    assert "cudaErrorIllegalAddress" in by_name["bad"].reason
    assert "--isolate" not in by_name["bad"].reason
    assert by_name["quick"].status is Status.OK
    told = {row.reason for row in rows if row.status is Status.FAILED} - {by_name["bad"].reason}
    assert len(told) == 1
    (reason,) = told
    assert reason.startswith("cuda:0 runs nothing more in this process since ")
    assert "fake:bad failed (CudaError: cudaErrorIllegalAddress: " in reason
    assert reason.endswith("; with --isolate a fresh process goes on")


def test_a_row_whose_floor_breaks_the_gpu_has_failed_with_it(monkeypatch):
    backend, simulation, _ = simulated_backend(monkeypatch, bad=FakeAlgorithm(), after=FakeAlgorithm())
    make = backend.plan

    def planned(case, algorithm, operands, options):
        if (case.name, algorithm) == ("smallest", "bad"):
            simulation.broken, simulation.sticky = ILLEGAL, True
        return make(case, algorithm, operands, options)

    backend.plan = planned
    first, second = rows_of(lines_of(tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1)))
    assert (first.status, second.status) == (Status.FAILED, Status.FAILED)
    assert "since tiny/first fprop fp32 nchw fake:bad failed" in first.reason
    assert first.reason == second.reason


def test_a_worker_of_its_own_ends_with_the_gpu(monkeypatch):
    backend, _, _ = simulated_backend(monkeypatch, bad=FakeAlgorithm(seconds=BREAKS_S), after=FakeAlgorithm())
    found = tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1)
    events = run(found, replace(OPTIONS, isolate=True))
    lines = []
    with pytest.raises(DeviceLostError, match="cuda:0 runs nothing more"):
        lines.extend(events)
    assert [line["status"] for line in lines if isinstance(line, dict)] == [Status.FAILED]


def test_the_first_call_is_over_when_the_gpu_is_done(monkeypatch):
    backend, simulation, _ = simulated_backend(monkeypatch, quick=FakeAlgorithm())
    waited = []
    synchronize = simulation.synchronize
    simulation.synchronize = lambda: (waited.append(simulation.end_s > simulation.host_s), synchronize())
    rows_of(lines_of(tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1)))
    assert waited[0]  # there was something to wait for


# Memory


def test_a_plan_needs_the_gpus_memory_and_its_operands_the_hosts(monkeypatch):
    backend, _, _ = simulated_backend(monkeypatch, big=FakeAlgorithm(memory_bytes=100 << 30))
    (task,) = tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1)
    assert task.memory_bytes < 1 << 20
    assert task.device_bytes == 100 << 30
    assert refusal(task, 1 << 20) is None
    assert refusal(task, 100)[1].endswith("--max-memory is 100 B")


def test_a_plan_that_is_too_large_for_the_gpu_is_skipped(monkeypatch):
    small = replace(H200, memory_bytes=10 << 30)
    rows, _ = measured(monkeypatch, properties=small, big=FakeAlgorithm(memory_bytes=9 << 30 | 1), good=FakeAlgorithm())
    assert (rows["big", WARM].status, rows["good", WARM].status) == (Status.SKIPPED, Status.OK)
    assert rows["big", WARM].reason == "needs 9.00 GiB of cuda:0's memory, of which it can have 9.00 GiB"


def test_plans_at_once_fit_into_both_memories(monkeypatch):
    small = replace(H200, memory_bytes=10 << 30)
    backend, _, _ = simulated_backend(
        monkeypatch, properties=small, a=FakeAlgorithm(memory_bytes=5 << 30), b=FakeAlgorithm(memory_bytes=5 << 30)
    )
    found = tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1)
    assert [len(group) for group in groups_by_memory(found, 1 << 30)] == [1, 1]
    roomy = [replace(task, free_bytes=10 << 30) for task in found]
    assert [len(group) for group in groups_by_memory(roomy, 1 << 30)] == [2]
    assert [len(group) for group in groups_by_memory(roomy, 1 << 10)] == [1, 1]


def test_cold_sets_and_the_sweep_are_the_gpus(monkeypatch):
    backend, _, _ = simulated_backend(monkeypatch, quick=FakeAlgorithm(memory_bytes=40 << 20))
    warm, cold = tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1, (WARM, COLD))
    assert cold.sets == 3  # of 40 MiB, to fill 120
    assert cold.device_bytes - warm.device_bytes == 2 * (40 << 20) + (120 << 20)
    assert cold.memory_bytes - warm.memory_bytes == operand_bytes(cold.case)


class HungryPlan(FakePlan):
    """Holds 1 GiB, and says that memory is short after `good_runs`."""

    def __init__(self, simulation, *arguments):
        super().__init__(*arguments)
        self.buffer = simulation.allocate(1 << 30)

    def run(self):
        if self._runs >= self.behaviour.good_runs:
            raise MemoryError("cudaErrorMemoryAllocation: out of memory")
        super().run()


@pytest.mark.parametrize("good_runs", [0, 1, 5])
def test_a_row_without_memory_leaves_what_it_had_to_the_next(monkeypatch, good_runs):
    bad = FakeAlgorithm(good_runs=good_runs)
    backend, simulation, _ = simulated_backend(monkeypatch, bad=bad, good=FakeAlgorithm())
    make, enqueue, held = backend.plan, simulation.enqueue, []

    def planned(case, algorithm, operands, options):
        made = make(case, algorithm, operands, options)
        return HungryPlan(simulation, case, "bad", bad, operands, made.device) if algorithm == "bad" else made

    def enqueued(seconds):
        held.append(simulation.used_bytes >= 1 << 30)
        enqueue(seconds)

    backend.plan, simulation.enqueue = planned, enqueued
    rows = {row.key.algorithm: row for row in rows_of(lines_of(tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1)))}
    assert (rows["bad"].status, rows["good"].status) == (Status.OUT_OF_MEMORY, Status.OK)
    assert not held[-1]


# Meters


def test_rows_have_what_the_meters_read(monkeypatch):
    backend, simulation, library = simulated_backend(monkeypatch, quick=FakeAlgorithm(seconds=50e-6))
    library.energy_mj = 1000
    enqueue = simulation.enqueue

    def drawing(seconds):
        library.energy_mj += 700_000 * seconds
        enqueue(seconds)

    simulation.enqueue = drawing
    (row,) = rows_of(lines_of(tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1)))
    assert row.meter("power_w") == 350
    assert (row.meter("temperature_c"), row.meter("sm_clock_hz")) == (45, 1.98e9)
    assert all(r.meters["energy_j"] >= 0 and r.meters["window_s"] > 0 for r in row.rounds)
    assert row_facts(row)["memory_clock_hz"] == 3.201e9


def test_a_slice_has_no_energy(monkeypatch):
    backend, _, library = simulated_backend(monkeypatch, quick=FakeAlgorithm(seconds=50e-6))
    library.mig = [1, 1]
    (row,) = rows_of(lines_of(tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1)))
    assert (row.energy_j, row.meter("power_w"), row.meter("temperature_c")) == (None, None, 45)
    assert not any("energy_j" in r.meters for r in row.rounds)
