"""cuFFT and cuBLAS on a real GPU: pytest -m gpu. It has not run yet: no GPU was there when it was written."""

import numpy as np
import pytest

from convbench.backends import PlanOptions
from convbench.backends.cufft import CufftBackend
from convbench.backends.cufft.planner import CufftPlanner, tiled_planner, whole_planner
from convbench.operands import Operands
from convbench.problem import PRECISIONS, Case, ConvPass, Problem
from convbench.testing import check_backend

pytestmark = pytest.mark.gpu

SHAPES = {
    "dense": Problem(batch=4, in_channels=16, out_channels=32, input_size=(60, 60), filter_size=(5, 5),
                     padding=((2, 2),) * 2),
    "strides": Problem(batch=4, in_channels=3, out_channels=16, input_size=(99, 99), filter_size=(11, 11),
                       stride=(4, 4)),
    "depthwise": Problem(batch=4, in_channels=32, out_channels=32, groups=32, input_size=(60, 60), filter_size=(7, 7)),
    "a row": Problem(batch=4, in_channels=8, out_channels=8, input_size=(5000,), filter_size=(33,)),
    "three axes": Problem(batch=4, in_channels=4, out_channels=4, input_size=(40,) * 3, filter_size=(3,) * 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def backend():
    found = CufftBackend()
    if reason := found.probe():
        pytest.skip(reason)
    return found


def make_case(shape, conv_pass, precision="fp32"):
    dtype, math_mode = PRECISIONS[precision]
    return Case(suite="test", name="p", problem=shape, conv_pass=conv_pass, dtype=dtype, math_mode=math_mode)


def test_random_cases(backend):
    assert check_backend(backend, count=100, max_macs=100_000) == []


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_graph_of_tiles_in_chunks_equals_whole_planes(backend, shape, conv_pass, precision):
    case = make_case(shape, conv_pass, precision)
    operands = Operands(shape, case.dtype, 1)
    whole = backend.plan(case, "fft-whole", operands, PlanOptions())
    whole.run()
    made = CufftPlanner(case, tiled_planner(case).steps)
    limit = made._workspace(2)
    tiles = backend.plan(case, "fft-tiled", operands, PlanOptions(workspace_limit_bytes=limit))
    tiles.run()
    tiles.poison()
    replay = backend.device().cuda.capture(tiles.run)
    replay()
    tolerance = 1e-3 if precision == "fp32" else 1e-10
    np.testing.assert_allclose(tiles.output(), whole.output(), rtol=0, atol=tolerance * np.abs(whole.output()).max())


def test_phases_add_up_to_about_a_run(backend):
    case = make_case(SHAPES["dense"], ConvPass.FPROP)
    plan = backend.plan(case, "fft", Operands(case.problem, case.dtype, 1), PlanOptions())
    plan.run()
    clock = backend.device().clock(1)
    once = min(clock.sample(plan.run, 1).wall_s for _ in range(5))
    assert 0.5 * once < sum(plan.run_phases(clock)) < 3 * once


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_cufft_asks_for_no_more_than_was_guessed(backend, shape, conv_pass):
    case = make_case(shape, conv_pass)
    plan = backend.plan(case, "fft-whole", Operands(shape, case.dtype, 1), PlanOptions())
    assert plan.workspace_bytes <= whole_planner(case).workspace_bytes
