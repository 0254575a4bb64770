"""cuDNN on a real GPU: pytest -m gpu. It has not run yet: no GPU was there when it was written."""

import itertools

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


def test_random_cases_in_fp32_and_fp64(backend):
    assert check_backend(backend, count=40, max_macs=100_000) == []


@pytest.mark.parametrize(
    ("conv_pass", "precision", "layout"), [*itertools.product(ConvPass, PRECISIONS, ("nchw", "nhwc"))]
)
def test_every_plan_that_is_offered_keeps_its_bound(backend, conv_pass, precision, layout):
    case = make_case(conv_pass, precision, layout)
    able = [c for c in backend.algorithms(case)[1:] if c.reason is None]
    assert able
    for candidate in able:
        plan, operands = planned(backend, case, candidate.algorithm)
        plan.run()
        found = check(case, plan.output(), operands, plan.error_bound, 0, candidate.accuracy)
        assert found.passed, f"{candidate.algorithm} {plan.notes}: {found.reason}"


def test_every_plan_can_be_captured_in_a_graph(backend):
    device = backend.device()
    for candidate in backend.algorithms(make_case())[1:]:
        if candidate.reason is None:
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
