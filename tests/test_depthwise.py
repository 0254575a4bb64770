"""`depthwise`: what it refuses, how its sums run, and the flops that it states beside those that it executes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from convbench.backends import PlanOptions
from convbench.backends.cpu import CpuBackend, depthwise_planner
from convbench.backends.cpu.depthwise import DepthwisePlan
from convbench.backends.cpu.depthwise_planner import DepthwisePlanner, reason
from convbench.errors import UnsupportedError
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Epilogue, Layout, Problem
from convbench.testing import random_cases
from convbench.work import epilogue_flops, nominal_flops


def make_case(conv_pass=ConvPass.FPROP, layout=Layout.NHWC, **fields):
    problem = {"batch": 2, "in_channels": 8, "out_channels": 8, "groups": 8, "input_size": (9, 7),
               "filter_size": (3, 3)} | fields  # fmt: skip
    return Case(suite="test", name="p", problem=Problem(**problem), conv_pass=conv_pass, layout=layout)


def make_plan(case, threads=1):
    return DepthwisePlan(case, Operands(case.problem, case.dtype, seed=1), PlanOptions(threads=threads))


def depthwise_cases(seed, count):
    """Random problems, each with its input channels as groups, of one or two filters."""
    for number, case in enumerate(random_cases(seed=seed, count=count, max_macs=20_000)):
        channels = max(2, case.problem.in_channels)
        filters = channels * (1 + number % 2)
        shape = replace(case.problem, in_channels=channels, groups=channels, out_channels=filters)
        case = replace(case, problem=shape)  # noqa: PLW2901
        if reason(case) is None:
            yield case


@pytest.mark.parametrize(("fields", "conv_pass", "text"), [
    ({"groups": 4}, ConvPass.FPROP, "depthwise is for as many groups as input channels, not 4 of 8"),
    ({"in_channels": 1, "groups": 1}, ConvPass.FPROP, "not 1 of 1"),
    ({"input_size": (9, 9000), "filter_size": (3, 2000), "stride": (1, 1999)}, ConvPass.DGRAD,
     "the stride splits a plane into 1999 phases, more than 1024"),
])  # fmt: skip
def test_refuses_with_a_reason(fields, conv_pass, text):
    case = make_case(conv_pass, **fields)
    assert text in reason(case)
    with pytest.raises(UnsupportedError, match=text):
        make_plan(case)
    with pytest.raises(UnsupportedError, match=text):
        CpuBackend().plan(case, "depthwise", Operands(case.problem, case.dtype, seed=1), PlanOptions())


def test_windows_of_nhwc_without_padding_are_those_of_x():
    plan = make_plan(make_case())
    assert not plan.planner.strips
    _, n, outputs = plan._items[0]
    windows, _ = plan._workers[0]
    assert np.shares_memory(windows[0].at(n, outputs), plan.x)
    assert {phase.name for phase in plan.work.phases} == {"copy", "product"}  # the filter is repeated


@pytest.mark.parametrize(("layout", "stride", "run"), [
    (Layout.NHWC, (1, 1), {"merged": True, "longer": False}),
    (Layout.NHWC, (1, 2), {"merged": False, "longer": False}),
    (Layout.NCHW, (1, 1), {"merged": False, "longer": True}),
    (Layout.NCHW, (2, 1), {"merged": False, "longer": False}),
    (Layout.CHWN, (1, 1), {"merged": False, "longer": True}),
])  # fmt: skip
def test_what_sums_run_along(layout, stride, run):
    planner = DepthwisePlanner(make_case(layout=layout, stride=stride))
    assert {"merged": planner.merged, "longer": planner.longer} == run


def test_threads_get_a_chunk_each():
    planner = DepthwisePlanner(make_case(batch=1), threads=3)
    assert planner.chunks >= planner.workers == 3


@pytest.mark.parametrize("budget", [600, depthwise_planner.CHUNK_BYTES])
def test_stated_flops_are_those_executed(budget, monkeypatch):
    """Products as einsum is asked for them, 2 flops each, and the additions of wgrad's chunks."""
    monkeypatch.setattr(depthwise_planner, "CHUNK_BYTES", budget)
    for case in depthwise_cases(53, 120):
        counted = []

        def einsum(first, axes, second, others, *rest, counted=counted, einsum=np.einsum, **keywords):
            extents = dict(zip([*axes, *others], [*first.shape, *second.shape], strict=True))
            counted.append(2 * math.prod(extents.values()))
            return einsum(first, axes, second, others, *rest, **keywords)

        plan = make_plan(case)
        with monkeypatch.context() as patch:
            patch.setattr(np, "einsum", einsum)
            plan.run()
        flops = plan.work.phases[-1].flops
        planner = plan.planner
        added = 0
        if case.conv_pass is ConvPass.WGRAD and planner.chunks:
            whole = math.prod(case.problem.w_shape)
            rows = [outputs[-1].stop - outputs[-1].start for _, _, outputs in plan._items]
            added = whole * (len(rows) - 1 + (sum(rows) - len(rows) if planner.merged else 0))
        assert flops == sum(counted) + added + epilogue_flops(case), f"{case.label()} {case.problem.describe()}"
        assert len(counted) == planner.chunks
        if case.conv_pass is not ConvPass.DGRAD and case.epilogue is Epilogue.NONE and not planner.longer:
            assert sum(counted) == nominal_flops(case.problem)


def test_by_hand():
    # 2 images × 8 channels × 7 × 5 outputs × 9 taps.
    case = make_case()
    assert [phase.flops for phase in DepthwisePlanner(case).work().phases] == [0, 2 * 2 * 8 * 35 * 9]
    # In nchw rows are as long as those of the input: 7 × 7 points.
    case = make_case(layout=Layout.NCHW)
    assert [phase.flops for phase in DepthwisePlanner(case).work().phases] == [0, 2 * 2 * 8 * 49 * 9]
