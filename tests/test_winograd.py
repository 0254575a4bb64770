"""Winograd's algorithm: its matrices exactly, its results against the reference, its memory, counts and reasons."""

import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbench import verify
from convbench.backends import PlanOptions
from convbench.backends.cpu import tiling
from convbench.backends.cpu.bilinear import BETTER_POINTS, MAX_TILE, STANDARD_POINTS, from_points, winograd
from convbench.backends.cpu.tiling import TiledAxis, correlation, tile_sizes
from convbench.backends.cpu.winograd import WinogradPlan, WinogradPlanner, reason
from convbench.errors import InputError, UnsupportedError
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.testing import random_cases
from convbench.work import epilogue_flops, nominal_flops


def problem(batch, channels, filters, size, taps, **rest):
    return Problem(batch=batch, in_channels=channels, out_channels=filters, input_size=size, filter_size=taps, **rest)


PROBLEMS = {
    "vgg, small": problem(2, 8, 6, (14, 14), (3, 3), padding=((1, 1), (1, 1))),
    "partial tiles, uneven padding": problem(3, 5, 4, (11, 17), (3, 5), padding=((0, 2), (3, 1))),
    "cropped": problem(2, 3, 4, (12, 13), (3, 3), padding=((0, -3), (2, -2))),
    "padding beyond the filter": problem(2, 3, 4, (6, 7), (3, 2), padding=((5, 6), (3, 4))),
    "one tap on an axis": problem(2, 3, 4, (5, 20), (1, 7), padding=((0, 0), (3, 3))),
    "one-dimensional": problem(4, 6, 7, (50,), (7,), padding=((2, 2),)),
    "three-dimensional": problem(2, 3, 4, (6, 9, 8), (3, 3, 3), padding=((1, 1),) * 3),
    "empty batch": problem(0, 3, 4, (8, 8), (3, 3)),
}


def make_case(shape, conv_pass, layout=Layout.NCHW, dtype=Dtype.FP32, epilogue=Epilogue.NONE):
    math_mode = MathMode.FP64 if dtype is Dtype.FP64 else MathMode.FP32
    return Case(suite="test", name="p", problem=shape, conv_pass=conv_pass, layout=layout, dtype=dtype,
                math_mode=math_mode, epilogue=epilogue)  # fmt: skip


def make_plan(case, operands=None, threads=1):
    return WinogradPlan(case, operands or Operands(case.problem, case.dtype, seed=1), PlanOptions(threads=threads))


def assert_right(case, threads=1, seed=1):
    operands = Operands(case.problem, case.dtype, seed)
    plan = make_plan(case, operands, threads)
    result = verify.verify(case, plan, operands, seed)
    assert result.passed, f"{plan.algorithm} {case.label()} {case.problem.describe()}: {result.reason}"
    return plan


def winograd_cases(seed, count):
    """Random cases that the algorithm can do: without strides, dilation and groups."""
    for case in random_cases(seed, count):
        try:
            shape = replace(case.problem, stride=(), dilation=(), groups=1)
        except InputError:
            continue
        plain = replace(case, problem=shape)
        if reason(plain) is None:
            yield plain


# Matrices

SIZES = [(m, r) for m in range(1, MAX_TILE) for r in range(1, MAX_TILE) if m + r - 1 <= MAX_TILE]
fractions = st.fractions(min_value=-9, max_value=9, max_denominator=7)


def correlated(w, x, m):
    return [sum((w[j] * x[i + j] for j in range(len(w))), start=Fraction(0)) for i in range(m)]


def times(matrix, vector):
    return [sum((a * b for a, b in zip(row, vector, strict=True)), start=Fraction(0)) for row in matrix]


def assert_is_the_definition(found, m, r):
    """On unit vectors, which is all of a bilinear form."""
    t = m + r - 1
    for j in range(r):
        for k in range(t):
            w, x = [Fraction(i == j) for i in range(r)], [Fraction(i == k) for i in range(t)]
            products = [u * v for u, v in zip(times(found.g, w), times(found.bt, x), strict=True)]
            assert times(found.at, products) == correlated(w, x, m)


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_matrices_are_the_definition(m, r):
    found = winograd(m, r)
    t = m + r - 1
    assert [(len(a), len(a[0])) for a in (found.at, found.g, found.bt)] == [(m, t), (t, r), (t, t)]
    assert_is_the_definition(found, m, r)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_distinct_points_do(data):
    m, r = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    points = data.draw(st.lists(fractions, min_size=m + r - 2, max_size=m + r - 2, unique=True))
    assert_is_the_definition(from_points(m, r, tuple(points)), m, r)


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_transformed_inputs_are_exact_in_floating_point(m, r):
    for row in winograd(m, r).bt:
        assert all(v.denominator == 1 and abs(v) < 2**24 for v in row)


@pytest.mark.parametrize("points", BETTER_POINTS)
def test_better_points_grow_less(points):
    m = len(points) - 1
    assert from_points(m, 3, points).growth < from_points(m, 3, STANDARD_POINTS[: len(points)]).growth
    assert winograd(m, 3) == from_points(m, 3, points)


def test_growth_by_hand():
    """F(2, 2) from 0, 1 and infinity: y0 = (x0 − x1)·w0 + x1·(w0 + w1); w0 meets the norms √2 and 1."""
    found = from_points(2, 2, (Fraction(0), Fraction(1)))
    assert found.growth == pytest.approx(math.sqrt(3))
    assert winograd(1, 5).growth == pytest.approx(1.0)


@pytest.mark.parametrize(("m", "r"), [(0, 3), (3, 0), (8, 8)])
def test_sizes_without_points_are_refused(m, r):
    with pytest.raises(ValueError, match=rf"F\({m}, {r}\)"):
        winograd(m, r)


# Results


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", PROBLEMS.values(), ids=PROBLEMS)
def test_equals_the_reference(shape, conv_pass, layout):
    for dtype in (Dtype.FP32, Dtype.FP64):
        assert_right(make_case(shape, conv_pass, layout, dtype))


def test_random_problems_raise_no_alarm():
    count = 0
    for number, case in enumerate(winograd_cases(seed=5, count=250)):
        assert_right(replace(case, epilogue=Epilogue.NONE), threads=1 + number % 2, seed=number)
        count += 1
    assert count > 100


@pytest.mark.parametrize("budget", [1, 600, 4000])
def test_chunks_give_the_same_result(budget, monkeypatch):
    """Budgets far below the problems' sizes: every axis is cut, and the last chunks are shorter."""
    monkeypatch.setattr(tiling, "CHUNK_BYTES", (0, budget))
    monkeypatch.setattr(tiling, "BLOCK_BYTES", budget)
    cut = 0
    for number, case in enumerate(winograd_cases(seed=41 + budget, count=60)):
        assert_right(replace(case, epilogue=Epilogue.NONE), threads=1 + number % 3)
        cut += WinogradPlanner(case).chunks > 1
    assert cut >= 15


@pytest.mark.parametrize("conv_pass", ConvPass)
def test_each_run_gives_the_same_bits(conv_pass, monkeypatch):
    monkeypatch.setattr(tiling, "CHUNK_BYTES", (0, 4000))
    plan = make_plan(make_case(PROBLEMS["vgg, small"], conv_pass), threads=2)
    plan.run()
    first = plan.output().copy()
    plan.poison()
    plan.run()
    np.testing.assert_array_equal(plan.output(), first)


@pytest.mark.parametrize("epilogue", [Epilogue.BIAS, Epilogue.BIAS_RELU])
@pytest.mark.parametrize("layout", Layout)
def test_the_epilogue_is_applied_once(layout, epilogue, monkeypatch):
    monkeypatch.setattr(tiling, "CHUNK_BYTES", (0, 4000))
    shape = PROBLEMS["partial tiles, uneven padding"]
    case = make_case(shape, ConvPass.FPROP, layout)
    operands = Operands(shape, case.dtype, seed=1)
    linear = assert_right(case).output()
    case = replace(case, epilogue=epilogue)
    plan = make_plan(case, operands)
    plan.poison()
    plan.run()
    assert verify.check_epilogue(case, linear, plan.output(), operands, plan.error_bound) is None


@pytest.mark.parametrize("shape", PROBLEMS.values(), ids=PROBLEMS)
def test_passes_are_adjoint(shape):
    """⟨dy, y(x, w)⟩ = ⟨dx(dy, w), x⟩ = ⟨dw(dy, x), w⟩, without any reference."""
    operands = Operands(shape, Dtype.FP64, seed=3)
    sides = []
    for conv_pass, other in zip(ConvPass, (operands.dy, operands.x, operands.w), strict=True):
        plan = make_plan(make_case(shape, conv_pass, dtype=Dtype.FP64), operands)
        plan.run()
        sides.append(float(np.vdot(plan.output(), other)))
    size = np.linalg.norm(operands.x) * np.linalg.norm(operands.w) * np.linalg.norm(operands.dy)
    assert max(sides) - min(sides) <= 1e-12 * size


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("name", ["vgg, small", "three-dimensional", "one-dimensional"])
def test_the_bound_catches_small_faults(name, conv_pass):
    """One element off by a few per cent of the result's size, anywhere, and one tile of outputs exchanged."""
    case = make_case(PROBLEMS[name], conv_pass)
    operands = Operands(case.problem, case.dtype, seed=1)
    plan = make_plan(case, operands)
    plan.run()
    right = plan.output().copy()
    scale = float(np.sqrt(np.mean(right**2)))
    for place in (0, right.size // 2, right.size - 1):
        wrong = right.copy()
        wrong.flat[place] += 0.03 * scale
        assert not verify.check(case, wrong, operands, plan.error_bound, seed=0).passed
    wrong = np.roll(right, 1, axis=-1)
    assert not verify.check(case, wrong, operands, plan.error_bound, seed=0).passed
    assert verify.check(case, right, operands, plan.error_bound, seed=0).passed


# Tiles and reasons


def axes_of(size, taps, ndim):
    return (TiledAxis(size, size, taps // 2, taps),) * ndim


@pytest.mark.parametrize(("size", "taps", "ndim", "expected"), [
    (56, 3, 2, (6, 6)),
    (27, 5, 2, (4, 4)),
    (1014, 7, 1, (4,)),
    (28, 3, 3, (4, 4, 4)),
    (13, 3, 2, (5, 5)),
])  # fmt: skip
def test_tile_sizes(size, taps, ndim, expected):
    assert tile_sizes(axes_of(size, taps, ndim), 8, 256, 256, 4) == expected


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 3), st.integers(1, 600))
@settings(max_examples=60, deadline=None)
def test_chosen_tiles_save_products_within_the_limits(size, taps, ndim, width):
    axes = axes_of(size, taps, ndim)
    sizes = tile_sizes(axes, 4, width, width, 4)
    if sizes is None:
        return
    tiled = [replace(axis, m=m) for axis, m in zip(axes, sizes, strict=True)]
    points = math.prod(axis.tile for axis in tiled)
    assert points * math.prod(axis.count for axis in tiled) < math.prod(axis.outputs * axis.taps for axis in axes)
    assert math.prod(winograd(axis.m, axis.taps).growth for axis in tiled) <= tiling.MAX_GROWTH
    assert points * width * width * 4 <= tiling.FILTER_BYTES


def test_names():
    assert WinogradPlanner(make_case(PROBLEMS["vgg, small"], ConvPass.FPROP)).algorithm in {
        "winograd-4x3", "winograd-5x3", "winograd-6x3"
    }  # fmt: skip
    name = WinogradPlanner(make_case(PROBLEMS["one tap on an axis"], ConvPass.FPROP)).algorithm
    assert name.startswith("winograd-1x1-")
    assert name.endswith("x7")


@pytest.mark.parametrize(("rest", "expected"), [
    ({"stride": (2, 1)}, "winograd is for stride 1, not 2×1"),
    ({"dilation": (2, 2)}, "winograd is for dilation 1, not 2×2"),
    ({"groups": 2}, "winograd is for one group, not 2"),
    ({"filter_size": (1, 1)}, "no winograd tile saves multiplications on 1×1 taps and 9×9 outputs with a growth of "
                              "errors up to 120 and a filter up to 64 MiB"),
    ({}, None),
])  # fmt: skip
def test_reasons(rest, expected):
    shape = replace(problem(1, 4, 4, (9, 9), (3, 3)), **rest)
    assert reason(make_case(shape, ConvPass.FPROP)) == expected


@pytest.mark.parametrize(("taps", "stride"), [((1, 1), (1, 1)), ((3, 3), (2, 2))])
def test_a_planner_of_what_it_cannot_do_says_why(taps, stride):
    case = make_case(problem(1, 4, 4, (9, 9), taps, stride=stride), ConvPass.FPROP)
    with pytest.raises(UnsupportedError) as raised:
        _ = WinogradPlanner(case).axes
    assert str(raised.value) == reason(case)


def test_the_axes_of_dgrad_are_those_of_dy():
    shape = problem(1, 4, 6, (9,), (3,), padding=((2, 0),))
    assert correlation(make_case(shape, ConvPass.DGRAD)) == (TiledAxis(9, 9, 0, 3),)
    assert WinogradPlanner(make_case(shape, ConvPass.DGRAD)).channels == (6, 4)


def test_planning_loads_no_numpy():
    code = "import sys; import convbench.backends.cpu.tiling; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Memory and counts


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_memory_is_what_the_planner_says(conv_pass, layout, threads):
    shape = problem(4, 32, 48, (29, 30), (3, 3), padding=((1, 1), (1, 1)))
    case = make_case(shape, conv_pass, layout)
    operands = Operands(shape, case.dtype, seed=1)
    _ = operands.x, operands.w, operands.dy
    assert_right(case, threads)  # what is made once is made: imports, pools
    tracemalloc.start()
    plan = make_plan(case, operands, threads)
    tensors = sum(a.nbytes for a in (plan.x, plan.w, plan.y) if layout is not Layout.NCHW or a.base is plan._stored)
    if layout is Layout.NCHW:
        tensors = plan.output().nbytes
    planned = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    plan.run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert planned == pytest.approx(plan.workspace_bytes + tensors, rel=0.02, abs=1 << 16)
    assert peak - planned < 1 << 16  # the iterators of copies


@pytest.mark.parametrize("conv_pass", ConvPass)
def test_workspace_of_large_layers_is_bounded(conv_pass):
    for shape in (
        problem(128, 256, 256, (56, 56), (3, 3), padding=((1, 1), (1, 1))),
        problem(16, 128, 256, (8, 28, 28), (3, 3, 3), padding=((1, 1),) * 3),
    ):
        filters = 2 * tiling.FILTER_BYTES
        planner = WinogradPlanner(make_case(shape, conv_pass), threads=2)
        buffers = 2 * planner.buffers * tiling.CHUNK_BYTES[1] * 2
        assert planner.workspace_bytes < filters + buffers


@pytest.mark.parametrize("threads", [1, 2])
def test_flops_are_those_of_the_matrix_products(threads, monkeypatch):
    multiply = np.matmul
    counted = 0

    def counting(a, b, out):
        nonlocal counted
        counted += 2 * out.size * a.shape[-1]
        return multiply(a, b, out=out)

    monkeypatch.setattr(tiling, "CHUNK_BYTES", (0, 20_000))
    checked = 0
    for case in winograd_cases(seed=11, count=80):
        plan = make_plan(case, threads=threads)
        counted = 0
        with monkeypatch.context() as patched:
            patched.setattr(np, "matmul", counting)
            plan.run()
        adds = epilogue_flops(case)
        if case.conv_pass is ConvPass.WGRAD:
            adds += max(0, plan.planner.chunks - 1) * plan._filters[0].size
        assert plan.work.executed_flops == counted + adds, case.problem.describe()
        checked += 1
    assert checked > 30


def test_it_multiplies_less_than_the_definition():
    """F(6, 3) on 54 outputs: 64 products in the place of 324, and transforms that are small beside 256 filters."""
    case = make_case(problem(4, 256, 256, (54, 54), (3, 3), padding=((1, 1), (1, 1))), ConvPass.FPROP)
    planner = WinogradPlanner(case)
    phases = {phase.name: phase for phase in planner.work().phases}
    assert list(phases) == ["transform x", "transform w", "product", "inverse y"]
    assert phases["product"].flops * 324 == nominal_flops(case.problem) * 64
    assert planner.work().executed_flops < nominal_flops(case.problem) / 3
