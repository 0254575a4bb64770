"""cudafft's kernels on a real GPU: pytest -m gpu. It has not run yet: no GPU was there when it was written."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from convbench import verify
from convbench.backends import AUTO, PlanOptions
from convbench.backends.cuda.arrays import CudaArrays
from convbench.backends.cudafft import CudafftBackend, kernels
from convbench.backends.cudafft.convolution import CudafftPlan
from convbench.backends.cudafft.planner import CudafftPlanner
from convbench.operands import Operands
from convbench.problem import PRECISIONS, Case, ConvPass, Layout, Problem
from convbench.suite import load_suite
from convbench.testing import check_backend, random_cases

pytestmark = pytest.mark.gpu

SHAPES = {
    "a row": Problem(batch=6, in_channels=8, out_channels=8, input_size=(5000,), filter_size=(9,)),
    "a plane": Problem(batch=6, in_channels=16, out_channels=32, input_size=(60, 60), filter_size=(5, 5),
                       padding=((2, 2),) * 2),
    "strides": Problem(batch=6, in_channels=3, out_channels=16, input_size=(99, 99), filter_size=(11, 11),
                       stride=(4, 4)),
    "depthwise": Problem(batch=6, in_channels=32, out_channels=32, groups=32, input_size=(60, 60), filter_size=(7, 7)),
    "three axes": Problem(batch=6, in_channels=4, out_channels=6, input_size=(30,) * 3, filter_size=(3,) * 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def backend():
    found = CudafftBackend()
    if reason := found.probe():
        pytest.skip(reason)
    return found


def make_case(shape, conv_pass, precision="fp32", layout=Layout.NCHW):
    dtype, math_mode = PRECISIONS[precision]
    return Case(suite="test", name="p", problem=shape, conv_pass=conv_pass, dtype=dtype, math_mode=math_mode,
                layout=layout)  # fmt: skip


def offered(backend, case):
    return [c for c in backend.algorithms(case) if c.reason is None and c.algorithm not in (AUTO, "fft", "fused")]


@pytest.mark.parametrize("transform", kernels.TRANSFORMS, ids=lambda transform: transform.name)
def test_every_kernel_compiles_and_may_have_its_shared_memory(backend, transform):
    """A convolution whose planes are one tile, in all passes: so all kernels of the size run."""
    filters = tuple(max(1, n // 4) for n in transform.size)
    shape = Problem(batch=2, in_channels=3, out_channels=3, groups=3, input_size=transform.size, filter_size=filters)
    for conv_pass in ConvPass:
        case = make_case(shape, conv_pass)
        operands = Operands(shape, case.dtype, 1)
        for fused in (False, True)[: 1 + (conv_pass is not ConvPass.WGRAD)]:
            plan = CudafftPlan(CudafftPlanner(case, transform, fused=fused), operands, CudaArrays(backend.device()))
            result = verify.verify(case, plan, operands, seed=0, accuracy=1e-6)
            assert result.passed, f"{plan.algorithm} {conv_pass}: {result.reason}"


def test_random_cases(backend):
    assert check_backend(backend, count=60, max_macs=100_000) == []


def test_random_sizes_and_chunks(backend):
    rng, done = random.Random(3), 0
    for drawn in random_cases(3, 300, max_macs=100_000):
        case = make_case(drawn.problem, drawn.conv_pass, layout=drawn.layout)
        sizes = [CudafftPlanner(case, each) for each in kernels.TRANSFORMS if each.ndim == case.problem.ndim]
        sizes = [of for of in sizes if of.reason is None]
        if not sizes or not case.problem.batch:
            continue
        of = rng.choice(sizes)
        images = rng.choice([each for each in range(1, 9) if case.problem.batch % each == 0])
        of = replace(of, limit_bytes=of._workspace(min(images, case.problem.batch)))
        operands = Operands(case.problem, case.dtype, 1)
        plan = CudafftPlan(of, operands, CudaArrays(backend.device()))
        result = verify.verify(case, plan, operands, seed=0, accuracy=1e-6)
        assert result.passed, f"{case.label()} {case.problem.describe()} {of.algorithm} {of.chunk}: {result.reason}"
        done += 1
    assert done > 100


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_the_smoke_suite(backend, conv_pass, precision):
    """Every algorithm that is offered, in one layout after another; also the errors of tf32 and of three products."""
    for entry, layout in zip(load_suite("smoke").problems, itertools.cycle(Layout), strict=False):
        case = make_case(entry.problem, conv_pass, precision, layout)
        operands = Operands(entry.problem, case.dtype, 1)
        for candidate in offered(backend, case):
            plan = backend.plan(case, candidate.algorithm, operands, PlanOptions())
            result = verify.verify(case, plan, operands, seed=0, accuracy=candidate.accuracy)
            assert result.passed, f"{entry.name} {layout} {candidate.algorithm}: {result.reason}"


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_graph_in_chunks_gives_what_a_run_of_the_batch_gives(backend, shape, conv_pass, precision):
    case = make_case(shape, conv_pass, precision)
    operands = Operands(shape, case.dtype, 1)
    for candidate in (c for c in offered(backend, case) if not c.algorithm.endswith("-l2")):
        whole = backend.plan(case, candidate.algorithm, operands, PlanOptions())
        whole.run()
        limit = whole._planner._workspace(2)
        cut = backend.plan(case, candidate.algorithm, operands, PlanOptions(workspace_limit_bytes=limit))
        cut.run()
        cut.poison()
        backend.device().cuda.capture(cut.run)()
        tolerance = (1e-3 if precision == "fp32" else 3e-2) * np.abs(whole.output()).max()
        np.testing.assert_allclose(cut.output(), whole.output(), rtol=0, atol=tolerance, err_msg=candidate.algorithm)


def test_phases_add_up_to_about_a_run(backend):
    case = make_case(SHAPES["a plane"], ConvPass.FPROP)
    plan = backend.plan(case, AUTO, Operands(case.problem, case.dtype, 1), PlanOptions())
    plan.run()
    clock = backend.device().clock(1)
    once = min(clock.sample(plan.run, 1).wall_s for _ in range(5))
    assert 0.5 * once < sum(plan.run_phases(clock)) < 3 * once
