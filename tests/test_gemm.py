"""`gemm` and `mec`: what they choose, what they copy, and the flops that they state beside those that they execute."""

import math
from dataclasses import replace

import numpy as np
import pytest

from convbench import verify
from convbench.backends import PlanOptions
from convbench.backends.cpu import gemm_planner
from convbench.backends.cpu.gemm import GemmPlan
from convbench.backends.cpu.gemm_planner import GemmPlanner, MecPlanner, mec_reason
from convbench.backends.cpu.mec import MecPlan
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Epilogue, Layout, Problem
from convbench.testing import random_cases
from convbench.work import epilogue_flops, nominal_flops

PLANS = {"gemm": GemmPlan, "mec": MecPlan}


def make_case(conv_pass=ConvPass.FPROP, layout=Layout.NCHW, **fields):
    problem = {"batch": 2, "in_channels": 8, "out_channels": 12, "input_size": (14, 13), "filter_size": (3, 3)} | fields
    return Case(suite="test", name="p", problem=Problem(**problem), conv_pass=conv_pass, layout=layout)


def make_plan(case, algorithm="gemm", threads=1):
    return PLANS[algorithm](case, Operands(case.problem, case.dtype, seed=1), PlanOptions(threads=threads))


def flops(planner):
    return {phase.name: phase.flops for phase in planner.work().phases}


def offered(case):
    return ["gemm"] if mec_reason(case) else ["gemm", "mec"]


def assert_right(case, algorithm="gemm"):
    operands = Operands(case.problem, case.dtype, seed=1)
    outcome = verify.verify(case, PLANS[algorithm](case, operands, PlanOptions()), operands, seed=0)
    assert outcome.passed, f"{algorithm} {case.label()} {case.problem.describe()}: {outcome.reason}"


# Choices


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("scatter_flops", [-(10**6), 10**9], ids=["scattered", "gathered"])
def test_both_ways_of_dgrad_are_right(layout, conv_pass, scatter_flops, monkeypatch):
    monkeypatch.setattr(gemm_planner, "SCATTER_FLOPS", scatter_flops)
    for name in ("GATHER_BYTES", "WGRAD_GATHER_BYTES"):
        monkeypatch.setattr(gemm_planner, name, 3000)
    for case in random_cases(seed=52, count=40, max_macs=20_000):
        case = replace(case, conv_pass=conv_pass, layout=layout, epilogue=Epilogue.NONE)  # noqa: PLW2901
        assert_right(case)


def test_dgrad_scatters_where_windows_of_dy_would_be_mostly_padding():
    dense = make_case(ConvPass.DGRAD, padding=((1, 1), (1, 1)), out_channels=64, in_channels=64)
    whole = make_case(ConvPass.DGRAD, filter_size=(14, 13))
    assert not GemmPlanner(dense).scatters
    assert GemmPlanner(whole).scatters
    assert list(flops(GemmPlanner(dense))) == ["gather", "product"]
    assert list(flops(GemmPlanner(whole))) == ["product", "scatter"]


@pytest.mark.parametrize("conv_pass", ConvPass)
def test_pointwise_in_nhwc_is_multiplied_in_blocks(conv_pass):
    """Of 32 rows and more, by a filter that lies along the outputs; the last block has fewer."""
    case = make_case(conv_pass, Layout.NHWC, batch=3, in_channels=300, out_channels=130, input_size=(27, 29),
                     filter_size=(1, 1))  # fmt: skip
    planner = GemmPlanner(case)
    assert planner.by_blocks
    filters = 300 * 130 * 4  # copied in fprop, and the part of a chunk in wgrad
    assert planner.workspace_bytes == (0 if conv_pass is ConvPass.DGRAD else filters)
    assert_right(case)


def test_a_stride_of_very_many_phases_is_scattered():
    case = make_case(ConvPass.DGRAD, batch=1, in_channels=1, out_channels=1, input_size=(3000,), filter_size=(1500,),
                     stride=(1499,))  # fmt: skip
    assert GemmPlanner(case).scatters
    assert_right(case)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_pointwise_needs_no_copies_and_no_workspace(conv_pass, layout, monkeypatch):
    monkeypatch.setattr(gemm_planner, "LEAST_POINTS", 1 << 60)  # from which nhwc copies the filter
    case = make_case(conv_pass, layout, filter_size=(1, 1))
    assert list(flops(GemmPlanner(case))) == ["product"]
    plan = make_plan(case)
    tensor = plan.y if conv_pass is ConvPass.DGRAD else plan.x
    _, n, outputs = plan._items[0]
    (matrix,) = plan._workers[0].gathers[0].matrices(n, outputs)
    assert np.shares_memory(matrix, tensor)
    sums = math.prod(case.problem.w_shape) * 4 if conv_pass is ConvPass.WGRAD else 0  # a product to add, and dw turned
    assert plan.workspace_bytes <= 2 * sums


@pytest.mark.parametrize("conv_pass", ConvPass)
def test_small_planes_of_nchw_are_merged_to_one_matrix(conv_pass):
    small = {"conv_pass": conv_pass, "filter_size": (1, 1), "input_size": (5, 5)}
    assert not GemmPlanner(make_case(**small)).viewed
    assert GemmPlanner(make_case(**small, batch=1)).viewed
    assert_right(make_case(**small))
    assert_right(make_case(**small, batch=1))


def test_blas_gets_the_threads_of_one_small_product():
    small = make_case(batch=1)
    large = make_case(batch=64, in_channels=64, input_size=(28, 28))
    assert [GemmPlanner(small, threads).algorithm for threads in (1, 2)] == ["gemm", "gemm-blas"]
    assert [MecPlanner(small, threads).algorithm for threads in (1, 2)] == ["mec", "mec-blas"]
    assert GemmPlanner(large, 2).algorithm == "gemm"
    assert [GemmPlanner(large, threads).workers for threads in (1, 2)] == [1, 2]
    # A product per image would be threaded one by one.
    assert GemmPlanner(make_case(filter_size=(1, 1)), 2).algorithm == "gemm"
    assert make_plan(small, threads=2).algorithm == "gemm-blas"


def test_chunks_that_scatter_to_the_same_image_are_not_shared_out(monkeypatch):
    whole = {"conv_pass": ConvPass.DGRAD, "filter_size": (14, 13)}
    one = GemmPlanner(make_case(batch=1, **whole), threads=2)
    assert (one.workers, one.algorithm) == (1, "gemm-blas")
    many = GemmPlanner(make_case(batch=8, **whole), threads=2)
    assert (many.workers, many.algorithm) == (2, "gemm")
    assert GemmPlanner(make_case(batch=8, layout=Layout.CHWN, **whole), threads=2).workers == 1
    monkeypatch.setattr(gemm_planner, "SCATTER_FLOPS", -(10**6))
    monkeypatch.setattr(gemm_planner, "WGRAD_GATHER_BYTES", 4000)
    for layout in Layout:
        case = make_case(ConvPass.DGRAD, layout, batch=5)
        operands = Operands(case.problem, case.dtype, seed=1)
        plan = GemmPlan(case, operands, PlanOptions(threads=3))
        assert plan.planner.scatters
        assert len(plan._items) > 10
        assert verify.verify(case, plan, operands, seed=0).passed


def test_few_channels_of_nhwc_are_gathered_by_planes():
    assert GemmPlanner(make_case(layout=Layout.NHWC, in_channels=3)).form.planar
    assert not GemmPlanner(make_case(layout=Layout.NHWC, in_channels=5)).form.planar
    assert GemmPlanner(make_case(layout=Layout.NHWC, in_channels=3, stride=(1, 2))).split
    assert not GemmPlanner(make_case(layout=Layout.NHWC, in_channels=3, stride=(2, 1))).split


@pytest.mark.parametrize(("fields", "text"), [
    ({"stride": (2, 1)}, "mec is for stride 1 along all axes but the last, not 2×1"),
    ({"filter_size": (1, 3)}, r"with one tap along all axes but the last \(1×3\) mec is gemm"),
    ({"input_size": (50,), "filter_size": (7,)}, "mec is gemm"),
    ({"input_size": (2000, 1), "filter_size": (1500, 1)}, "mec is for up to 1024 taps of other axes, not 1500"),
    ({"input_size": (9, 9000), "filter_size": (3, 2000), "stride": (1, 1999)}, "up to 1024 phases of a row, not 1999"),
])  # fmt: skip
def test_mec_refuses_with_a_reason(fields, text):
    with pytest.raises(AssertionError, match=text):
        assert mec_reason(make_case(**fields)) is None, mec_reason(make_case(**fields))


def test_mec_gathers_fewer_elements():
    for conv_pass in ConvPass:
        case = make_case(conv_pass, in_channels=32, out_channels=32, padding=((1, 1), (1, 1)))
        gathers = [p.work().phases[0] for p in (GemmPlanner(case), MecPlanner(case))]
        assert [phase.name for phase in gathers] == ["gather", "gather"]
        assert gathers[1].bytes_written < 0.6 * gathers[0].bytes_written


# Counts


def executed(case, algorithm, monkeypatch):
    """Flops of the matrix products and of the additions of a run, counted as they are made."""
    counts = [0, 0]

    def matmul(a, b, out, matmul=np.matmul):
        counts[0] += 2 * out.size * a.shape[-1]
        return matmul(a, b, out=out)

    def add(a, b, out, add=np.add):
        counts[1] += out.size
        return add(a, b, out=out)

    plan = make_plan(case, algorithm)
    with monkeypatch.context() as patch:
        patch.setattr(np, "matmul", matmul)
        patch.setattr(np, "add", add)
        plan.run()
    return counts


@pytest.mark.parametrize("budget", [1500, gemm_planner.GATHER_BYTES])
def test_stated_flops_are_those_executed(budget, monkeypatch):
    monkeypatch.setattr(gemm_planner, "GATHER_BYTES", budget)
    monkeypatch.setattr(gemm_planner, "WGRAD_GATHER_BYTES", budget)
    added = 0
    for case in random_cases(seed=46, count=200, max_macs=20_000):
        for algorithm in offered(case):
            products, sums = executed(case, algorithm, monkeypatch)
            planner = PLANS[algorithm].planner_class(case)
            assert flops(planner)["product"] == products + sums + epilogue_flops(case), case.problem.describe()
            added += sums > 0
    assert added >= 10


def test_gemm_multiplies_as_the_definition_does():
    """fprop and wgrad; dgrad may multiply zeros between windows and beyond dy."""
    for case in random_cases(seed=47, count=300):
        planner = GemmPlanner(case)
        if case.conv_pass is ConvPass.FPROP or planner.scatters:
            assert flops(planner)["product"] == nominal_flops(case.problem) + epilogue_flops(case)
        elif case.conv_pass is ConvPass.WGRAD and case.problem.batch and not planner.form.batch:
            sums = (planner.chunks - 1) * math.prod(case.problem.w_shape)
            assert flops(planner)["product"] == nominal_flops(case.problem) + sums


@pytest.mark.parametrize(
    ("conv_pass", "fields", "wanted"),
    [
        # 1 × 2 channels × 5 × 5, 3 filters of 3 × 3: 9 outputs, 18 rows of the gathered matrix, 486 multiply-adds.
        (ConvPass.FPROP, {}, {"gather": 0, "product": 972}),
        (ConvPass.WGRAD, {}, {"gather": 0, "product": 972}),
        # dx of 1 × 2 × 5 × 5 from 3 channels and 9 taps each; of 7 × 7, 9 taps a window of 3 × 3 leave no gain.
        (ConvPass.DGRAD, {"padding": ((1, 1), (1, 1))}, {"gather": 0, "product": 2 * 25 * 2 * 27}),
        (ConvPass.DGRAD, {"filter_size": (5, 5)}, {"product": 2 * 25 * 6, "scatter": 2 * 25}),
    ],
)
def test_gemm_by_hand(conv_pass, fields, wanted):
    case = make_case(conv_pass, batch=1, in_channels=2, out_channels=3, input_size=(5, 5), **fields)
    assert flops(GemmPlanner(case)) == wanted


def test_mec_by_hand():
    # One channel of 4 × 4, one filter of 3 × 3 padded by 1: 4 + 3 + 3 rows of outputs for the three rows of taps.
    case = make_case(batch=1, in_channels=1, out_channels=1, input_size=(4, 4), padding=((1, 1), (1, 1)))
    # Of these the first row of taps has 3, and 4 + 3 are added to what it gave.
    assert flops(MecPlanner(case)) == {"gather": 0, "product": 2 * 40 * 3 + 28}


def test_gemm_scales_with_the_batch():
    for case in random_cases(seed=47, count=200):
        if case.conv_pass is ConvPass.WGRAD:
            continue
        shapes = [replace(case.problem, batch=batch) for batch in (2, 6)]
        once, thrice = (flops(GemmPlanner(replace(case, problem=shape))) for shape in shapes)
        if list(once) == list(thrice):  # a filter is arranged once, whatever the batch, so that dgrad may choose anew
            assert [3 * count for count in once.values()] == list(thrice.values())
