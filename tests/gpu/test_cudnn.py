"""cuDNN on a real GPU: pytest -m gpu. It has not run yet: no GPU was there when it was written."""

import itertools
import time

import numpy as np
import pytest

from convbench.backends import AUTO, PlanOptions
from convbench.backends.cudnn import CudnnBackend, deviceless
from convbench.backends.cudnn.graphs import describe
from convbench.operands import Operands
from convbench.problem import PRECISIONS, Case, ConvPass, Epilogue, Layout, Problem
from convbench.testing import check_backend
from convbench.verify import check

pytestmark = pytest.mark.gpu

RANDOM_S, LEAST, MOST = 30.0, 50, 500
"""Seconds for random cases, at least and at most so many of them: many of cuDNN's plans are compiled, for a second."""
KINDS = (("fp32", "nchw"), ("fp32", "nhwc"), ("tf32", "nchw"), ("tf32", "nhwc"), ("fp16", "nhwc"), ("bf16", "nhwc"),
         ("fp64", "nchw"))  # fmt: skip


@pytest.fixture(scope="module")
def backend():
    found = CudnnBackend()
    if reason := found.probe():
        pytest.skip(reason)
    return found


def make_case(conv_pass="fprop", precision="tf32", layout="nhwc", epilogue="none", **fields):
    fields = {"batch": 4, "in_channels": 32, "out_channels": 64, "input_size": (28, 28), "filter_size": (3, 3),
              "padding": ((1, 1),) * 2} | fields  # fmt: skip
    dtype, math_mode = PRECISIONS[precision]
    return Case(suite="test", name="p", problem=Problem(**fields), conv_pass=ConvPass(conv_pass), dtype=dtype,
                math_mode=math_mode, layout=Layout(layout), epilogue=Epilogue(epilogue))  # fmt: skip


def planned(backend, case, algorithm=AUTO, options=PlanOptions()):  # noqa: B008  it is frozen
    operands = Operands(case.problem, case.dtype, 1)
    return backend.plan(case, algorithm, operands, options), operands


class AutoAlone:
    """The backend, of which `auto` is asked for alone."""

    def __init__(self, backend):
        self.name, self.plan, self._backend = backend.name, backend.plan, backend

    def algorithms(self, case, options):
        return self._backend.algorithms(case, options)[:1]


def test_hundreds_of_random_cases_in_fp32_and_fp64(backend):
    wrong, started = [], time.monotonic()
    for done in range(0, MOST, 25):
        if done >= LEAST and time.monotonic() - started > RANDOM_S:
            break
        wrong += check_backend(AutoAlone(backend), count=25, seed=done, max_macs=100_000)
    assert wrong == []


def engines(backend, case):
    """Candidates that may be taken, one of each engine."""
    able = [c for c in backend.algorithms(case)[1:] if c.reason is None]
    return {c.algorithm.partition("_")[0]: c for c in reversed(able)}.values()


@pytest.mark.parametrize(("precision", "layout"), KINDS)
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_every_engine_that_is_offered_keeps_its_bound(backend, conv_pass, precision, layout):
    case = make_case(conv_pass, precision, layout)
    if reason := backend.algorithms(case)[0].reason:
        pytest.skip(reason)
    for candidate in engines(backend, case):
        plan, operands = planned(backend, case, candidate.algorithm)
        plan.run()
        found = check(case, plan.output(), operands, plan.error_bound, 0, candidate.accuracy)
        assert found.passed, f"{candidate.algorithm} {plan.notes}: {found.reason}"


def test_every_engine_can_be_captured_in_a_graph(backend):
    device = backend.device()
    for candidate in engines(backend, make_case()):
        plan, _ = planned(backend, make_case(), candidate.algorithm)
        plan.run()
        expected = plan.output()
        replay = device.cuda.capture(plan.run)
        plan.poison()
        replay()
        assert np.allclose(plan.output(), expected, rtol=1e-3, atol=1e-3), candidate.algorithm


def test_no_workspace(backend):
    plan, _ = planned(backend, make_case(precision="fp32"), options=PlanOptions(workspace_limit_bytes=0))
    assert plan.workspace_bytes == 0


def test_the_described_gpu_has_the_plans_of_a_real_one(backend):
    name = backend.device().machine().gpu_name
    if name != deviceless.described_gpu():
        pytest.skip(f"this is a {name}, plans are described for a {deviceless.described_gpu()}")
    for conv_pass, precision in itertools.product(ConvPass, PRECISIONS):
        case = make_case(conv_pass, precision)
        real = [plan.name for plan in backend._offered(case)]
        assert [plan.name for plan in deviceless.Lister().plans(describe(case))] == real
