"""The calls of cuFFT and cuBLAS on stand-ins that do what the real ones do with their arguments, and rows of a run."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import CudaError
from fake_cupy import OUT_OF_MEMORY, WORK_BYTES, fake_backend
from test_cufft import make_case, problem
from test_runner import lines_of, rows_of
from tiny import FPROP, SUITE

from convbench.backends import AUTO, BackendSpec, PlanOptions
from convbench.backends import cuda as cuda_module
from convbench.backends.cufft import CufftBackend, calls, planner
from convbench.backends.cufft.calls import CufftArrays
from convbench.backends.cufft.convolution import CufftPlan
from convbench.backends.cufft.planner import CufftPlanner
from convbench.operands import Operands
from convbench.problem import ConvPass
from convbench.result import COLD, WARM, Status
from convbench.tasks import tasks
from convbench.testing import check_backend, reference_output


def test_random_cases_come_out_right_through_the_calls(monkeypatch):
    backend, _, _ = fake_backend(monkeypatch)
    assert check_backend(backend, count=100, seed=9, max_macs=8000) == []


@pytest.mark.parametrize(
    ("conv_pass", "precision", "ndim"), [*itertools.product(ConvPass, ("fp32", "fp64"), (1, 2, 3))]
)
def test_tiles_and_chunks_come_out_right_through_the_calls(monkeypatch, conv_pass, precision, ndim):
    backend, _, _ = fake_backend(monkeypatch)
    case = make_case(problem(batch=4, groups=2, input_size=(9, 8, 7)[:ndim], filter_size=(3, 2, 4)[:ndim],
                             padding=((1, 2), (0, -1), (2, 0))[:ndim]), conv_pass, precision)  # fmt: skip
    steps = (3, 4, 2)[:ndim]
    made = CufftPlanner(case, steps, CufftPlanner(case, steps)._workspace(2))
    assert (made.tiled, made.chunks) == (True, 2)
    operands = Operands(case.problem, case.dtype, 1)
    plan = CufftPlan(made, operands, CufftArrays(backend.device()))
    plan.run()
    np.testing.assert_allclose(plan.output(), reference_output(case, operands), rtol=0, atol=1e-4)
    assert plan.workspace_bytes == made.buffer_bytes + 3 * WORK_BYTES


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("groups", [1, 4])
def test_a_run_is_captured_as_a_graph(monkeypatch, conv_pass, groups):
    backend, module, fake = fake_backend(monkeypatch)
    case = make_case(problem(groups=groups, out_channels=4), conv_pass)
    plan = backend.plan(case, AUTO, Operands(case.problem, case.dtype, 1), PlanOptions())
    launched = len(module.cublas.modes)
    fake.capture(plan.run)
    # Three transforms, and the product where something is summed over: elsewhere it is array code.
    assert fake.log[-1] == f"capture {3 + (groups == 1 or conv_pass is ConvPass.WGRAD)}"
    assert len(module.cublas.modes) == 2 * launched


def test_a_plan_has_run_once_when_it_is_made(monkeypatch):
    """Kernels are compiled and libraries loaded then, not while a graph is captured."""
    backend, module, _ = fake_backend(monkeypatch)
    case = make_case(problem())
    plan = backend.plan(case, AUTO, Operands(case.problem, case.dtype, 1), PlanOptions())
    assert module.cublas.modes
    assert np.isnan(plan.output()).all()


# What is missing


class WithoutCufft(SimpleNamespace):
    def __getattr__(self, name):
        raise ImportError(f"no library for {name}\nmore")


def test_what_is_missing(monkeypatch):
    monkeypatch.setattr(cuda_module, "unusable", lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=WithoutCufft()))
    reason = CufftBackend().probe()
    assert reason.startswith('cuFFT is missing (ImportError: no library for cufft): pip install "convbench[cuda13]"')
    assert "\n" not in reason
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(cufft=None)))
    assert calls.missing() is None
    assert CufftBackend().listed_for() is None


# Rows


def measured(monkeypatch, caches=(WARM,), algorithm=None, **options):
    """Rows by algorithm and cache."""
    backend, _, _ = fake_backend(monkeypatch, **options)
    rows = rows_of(lines_of(tasks(FPROP.cases([SUITE]), [BackendSpec(backend, algorithm)], 1, caches)))
    return {(row.key.algorithm, row.key.cache): row for row in rows}


def test_rows_of_a_run(monkeypatch):
    rows = measured(monkeypatch, (WARM, COLD))
    statuses = {name: row.status for (name, cache), row in rows.items() if cache == COLD}
    assert statuses == {"fft-whole": Status.OK, "fft-tiled": Status.UNSUPPORTED}
    row = rows["fft-whole", WARM]
    assert (row.resolved, row.key.device) == ("fft-whole", "cuda:0")
    assert [phase.name for phase in row.work.phases] == ["transform x", "transform w", "product", "inverse y"]
    assert row.workspace_bytes > 3 * WORK_BYTES


def test_auto_is_one_row(monkeypatch):
    (row,) = measured(monkeypatch, algorithm=AUTO).values()
    assert (row.key.algorithm, row.resolved) == (AUTO, "fft-whole")


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        ({"fails": {"empty": OUT_OF_MEMORY}}, Status.OUT_OF_MEMORY, "out of memory"),
        ({"fails": {"plan": CudaError("CUFFT_ALLOC_FAILED")}}, Status.OUT_OF_MEMORY, "CUFFT_ALLOC_FAILED"),
        ({"fails": {"plan": CudaError("CUFFT_INVALID_SIZE")}}, Status.FAILED, "CUFFT_INVALID_SIZE"),
        ({"fails": {"fft": CudaError("CUFFT_EXEC_FAILED")}}, Status.FAILED, "CUFFT_EXEC_FAILED"),
        ({"fails": {"gemm": 13}}, Status.FAILED, "CUBLAS_STATUS_13"),
        ({"spoil": float("nan")}, Status.WRONG, ""),
        ({"spoil": 1.01}, Status.WRONG, ""),
    ],
)
def test_what_fails_on_the_gpu(monkeypatch, options, status, text):
    row = measured(monkeypatch, algorithm="fft-whole", **options)["fft-whole", WARM]
    assert (row.status, text in row.reason) == (status, True)


def test_without_a_gpu_a_row_is_unavailable(monkeypatch):
    monkeypatch.setattr(cuda_module, "unusable", lambda: "no driver")
    found = tasks(FPROP.cases([SUITE]), [BackendSpec(CufftBackend(), AUTO)], 1)
    (row,) = rows_of(lines_of(found))
    assert (row.status, row.reason) == (Status.UNAVAILABLE, "no driver")
    assert planner.whole_planner(make_case(problem())).reason is None
    assert CufftBackend().algorithms(make_case(problem()), PlanOptions())[0].reason is None
