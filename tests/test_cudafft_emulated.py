"""The cudafft backend on the CPU with its kernels as they are, on the emulator."""

import random
from dataclasses import replace

import pytest
from cudafft_arrays import EmulatedArrays
from simt import needs_compiler
from test_cudafft import BY_NAME, in_fp32, random_planner
from test_cufft import make_case

from convbench import fused, verify
from convbench.backends.cudafft.convolution import CudafftPlan
from convbench.backends.cudafft.planner import CudafftPlanner
from convbench.operands import Operands
from convbench.problem import ConvPass, Epilogue, Layout, Problem
from convbench.testing import random_cases

LINES = {"batch": 2, "in_channels": 6, "out_channels": 4, "input_size": (41,), "filter_size": (5,)}
PLANES = {"batch": 2, "in_channels": 6, "out_channels": 4, "input_size": (10, 9), "filter_size": (3, 3)}
VOLUMES = {"batch": 2, "in_channels": 4, "out_channels": 6, "input_size": (8, 9, 7), "filter_size": (2, 3, 3)}
ALONE = {"in_channels": 4, "out_channels": 4, "groups": 4}
EMULATED = {
    "a line": ("16", LINES | {"padding": ((2, 2),)}, {}),
    "a line, strides": ("64", LINES | {"stride": (3,), "padding": ((4, -2),), "groups": 2}, {}),
    "a line, depthwise": ("16", LINES | ALONE | {"dilation": (2,)}, {}),
    "a line, fused": ("64", LINES | ALONE | {"padding": ((1, 3),)}, {"fused": True}),
    "a plane, whole": ("16x16", PLANES | {"padding": ((1, 1), (2, 0))}, {}),
    "a plane, tiles": ("8x8", PLANES | {"groups": 2, "padding": ((1, 1), (0, 3))}, {"layout": Layout.NHWC}),
    "a plane, strides": ("8x8", PLANES | {"filter_size": (5, 4), "stride": (2, 3), "padding": ((3, 1), (1, -1))}, {}),
    "a plane, dilation": ("8x8", PLANES | {"dilation": (3, 2), "padding": ((3, 3), (2, 2))}, {"layout": Layout.CHWN}),
    "a plane, depthwise": ("16x16", PLANES | ALONE | {"stride": (2, 1)}, {"layout": Layout.NHWC}),
    "a plane, fused": ("8x8", PLANES | ALONE | {"padding": ((1, 1), (1, 1))}, {"fused": True}),
    "a plane, fused in nhwc": ("16x16", PLANES | ALONE, {"fused": True, "layout": Layout.NHWC}),
    "a volume": ("8x8x8", VOLUMES | {"padding": ((0, 1), (1, 1), (2, 1))}, {}),
    "a volume, strides": ("8x8x8", VOLUMES | {"stride": (1, 2, 3), "groups": 2}, {"layout": Layout.CHWN}),
    "a volume, fused": ("8x8x8", VOLUMES | ALONE, {"fused": True, "layout": Layout.NHWC}),
}
"""(size, problem, whether it is fused, and its layout)."""


@needs_compiler
@pytest.mark.parametrize(
    ("name", "conv_pass"),
    [(name, p) for name, (*_, how) in EMULATED.items() for p in ConvPass if p != "wgrad" or not how.get("fused")],
)
def test_the_convolution_by_its_kernels(name, conv_pass):
    """Two chunks, epilogues, threads in a random order, and nothing touched that is not given."""
    size, shape, how = EMULATED[name]
    how = {"fused": False, "layout": Layout.NCHW} | how
    case = make_case(Problem(**shape), conv_pass, layout=how["layout"])
    of = CudafftPlanner(case, BY_NAME[size], fused=how["fused"])
    of = replace(of, limit_bytes=of._workspace(1))
    operands = Operands(case.problem, case.dtype, 1)
    plan = CudafftPlan(of, operands, EmulatedArrays(seed=len(name)))
    result = verify.verify(case, plan, operands, seed=0, accuracy=of.accuracy)
    assert result.passed, result.reason
    if conv_pass is ConvPass.FPROP:
        biased = replace(of, case=replace(case, epilogue=Epilogue.BIAS_RELU), limit_bytes=None)
        again = CudafftPlan(biased, operands, EmulatedArrays("desc"))
        again.run()
        assert fused.check_epilogue(biased.case, plan.output(), again.output(), operands, plan.error_bound) is None


@needs_compiler
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("size", BY_NAME)
def test_every_size(size, conv_pass):
    """Two tiles along the first axis, one along the others."""
    first, *others = BY_NAME[size].size
    shape = Problem(batch=1, in_channels=2, out_channels=3, input_size=(first + 2, *(n - 1 for n in others)),
                    filter_size=(3,) * (1 + len(others)))  # fmt: skip
    case = make_case(shape, conv_pass)
    operands = Operands(shape, case.dtype, 1)
    of = CudafftPlanner(case, BY_NAME[size])
    assert of.tiles == 2
    result = verify.verify(case, CudafftPlan(of, operands, EmulatedArrays()), operands, seed=0, accuracy=1e-6)
    assert result.passed, result.reason


@needs_compiler
@pytest.mark.parametrize("order", ["asc", "desc", "random"])
def test_random_convolutions_by_their_kernels(order):
    """All passes in random layouts."""
    rng = random.Random(order)
    for case in map(in_fp32, random_cases(len(order), 30, max_macs=1000)):
        linear = replace(case, epilogue=Epilogue.NONE)
        of = random_planner(rng, linear)
        if of is None or of.tiles * of.transform.points > 4096:
            continue
        operands = Operands(case.problem, case.dtype, seed=1)
        plan = CudafftPlan(of, operands, EmulatedArrays(order))
        result = verify.verify(linear, plan, operands, seed=0)
        assert result.passed, f"{case.label()} {case.problem.describe()} {of.algorithm} {of.chunk}: {result.reason}"
