"""Algorithms on transformed tiles: matrices exactly, results against the reference, memory, counts and reasons."""

import itertools
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

from convbench import fused, verify
from convbench.backends import PlanOptions
from convbench.backends.cpu import chains, tiled_planner, tiling
from convbench.backends.cpu.bilinear import BETTER_POINTS, MAX_TILE, STANDARD_POINTS, from_points, winograd
from convbench.backends.cpu.split import Places, Split
from convbench.backends.cpu.tiled import TiledPlan
from convbench.backends.cpu.tiled_planner import TiledPlanner
from convbench.backends.cpu.tiling import FAMILIES, TileAxis, best_tiling, correlation, reason
from convbench.backends.cpu.transforms import Dft, Tile, Winograd
from convbench.errors import UnsupportedError
from convbench.operands import Operands
from convbench.problem import Axis, Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
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
    "strided": problem(2, 3, 8, (35, 33), (11, 7), stride=(4, 3), padding=((2, 2), (2, 1))),
    "stride beyond the filter on one axis": problem(2, 3, 4, (20, 17), (2, 3), stride=(5, 1)),
    "dilated": problem(2, 3, 4, (19, 20), (3, 4), dilation=(2, 3), padding=((2, 2), (0, 5))),
    "stride and dilation share a factor": problem(2, 3, 4, (40, 41), (4, 3), stride=(4, 6), dilation=(6, 4)),
    "depthwise": problem(3, 10, 10, (14, 15), (5, 5), groups=10, padding=((2, 2), (2, 2))),
    "groups": problem(2, 12, 18, (14, 11), (3, 4), groups=3, stride=(1, 2), padding=((1, 0), (0, 1))),
}


def make_case(shape, conv_pass, layout=Layout.NCHW, dtype=Dtype.FP32, epilogue=Epilogue.NONE):
    math_mode = MathMode.FP64 if dtype is Dtype.FP64 else MathMode.FP32
    return Case(suite="test", name="p", problem=shape, conv_pass=conv_pass, layout=layout, dtype=dtype,
                math_mode=math_mode, epilogue=epilogue)  # fmt: skip


def make_plan(case, family, operands=None, threads=1):
    operands = operands or Operands(case.problem, case.dtype, seed=1)
    return TiledPlan(case, operands, PlanOptions(threads=threads), family)


def assert_right(case, family, threads=1, seed=1):
    operands = Operands(case.problem, case.dtype, seed)
    plan = make_plan(case, family, operands, threads)
    result = verify.verify(case, plan, operands, seed)
    assert result.passed, f"{plan.algorithm} {case.label()} {case.problem.describe()}: {result.reason}"
    return plan


def supported(seed, count):
    """Random cases, each with a family that can do it."""
    for number, case in enumerate(random_cases(seed, count)):
        family = list(FAMILIES)[number % len(FAMILIES)]
        if reason(case, family) is None:
            yield replace(case, epilogue=Epilogue.NONE), family


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
@settings(max_examples=30)
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


# Transforms


def correlated_tile(x, w):
    sizes = [n - r + 1 for n, r in zip(x.shape, w.shape, strict=True)]
    out = np.zeros(sizes)
    for place in np.ndindex(*sizes):
        out[place] = np.sum(x[tuple(slice(i, i + r) for i, r in zip(place, w.shape, strict=True))] * w)
    return out


def chained(transform, which, steps, data):
    matrices = [transform.matrices(axis)[which] for axis in range(len(transform.tiles))]
    buffers = [np.full(10_000, np.nan) for _ in range(2)]
    buffers[0][: data.size] = data.reshape(-1)
    out, _ = chains.chain(matrices, steps, *buffers, 1)
    return out


@pytest.mark.parametrize("tiles", [
    ((4, 3),), ((1, 3),), ((3, 1),), ((5, 4),), ((2, 3), (4, 5)), ((3, 2), (2, 4)), ((1, 3), (4, 3)),
    ((2, 3), (3, 2), (4, 3)), ((1, 1), (3, 2), (2, 3)),
])  # fmt: skip
@pytest.mark.parametrize("family", [Winograd, Dft])
def test_a_transform_is_the_correlation_of_a_tile(family, tiles):
    rng = np.random.default_rng(0)
    transform = family(tuple(Tile(m, r, m + r - 1) for m, r in tiles))
    x, w = (rng.standard_normal([getattr(tile, name) for tile in transform.tiles]) for name in ("reads", "r"))
    spectrum = chained(transform, 0, transform.forward(x.shape), x)
    filters = chained(transform, 1, transform.filter(), w)
    steps = transform.inverse([tile.m for tile in transform.tiles])
    count = transform.points
    out = chained(transform, 2, steps, spectrum[:count] * filters[:count])
    expected = correlated_tile(x, w)
    np.testing.assert_allclose(out[: expected.size].reshape(expected.shape), expected, atol=1e-11)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=60)
def test_a_dft_wraps_onto_zeros(outputs, taps, lead, trail):
    """Zeros at both ends shorten the transform by the shorter end, and what is read beyond it is zero."""
    reads = outputs + taps - 1
    lead, trail = min(lead, (reads - 1) // 2), min(trail, (reads - 1) // 2)
    wrap = TileAxis(outputs, taps, (lead, reads - trail)).wrap
    assert wrap == min(lead, trail)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(reads), rng.standard_normal(taps)
    x[:lead] = x[reads - trail :] = 0
    transform = Dft((Tile(outputs, taps, reads - wrap),))
    forward, filters, inverse = transform.matrices(0)
    np.testing.assert_allclose(inverse @ ((forward @ x) * (filters @ w)), correlated_tile(x, w), atol=1e-11)


@pytest.mark.parametrize(("rows", "inner", "width"), [(8, 8, 100), (8, 8, 20_000), (66, 44, 5000), (300, 200, 500)])
def test_products_in_parts_are_the_product(rows, inner, width):
    rng = np.random.default_rng(0)
    matrix, source = rng.standard_normal((rows, inner)), rng.standard_normal((2, inner, width))
    out = np.full((2, rows, width), np.nan)
    chains.wide_product(matrix, source, out)
    np.testing.assert_allclose(out, matrix @ source, atol=1e-10)


@pytest.mark.parametrize(("rows", "inner", "columns"), [
    (5, 3, 4), (112, 64, 192), (100, 192, 384), (33, 256, 96), (40, 700, 64), (130, 128, 130), (70, 0, 64),
])  # fmt: skip
def test_products_in_blocks_are_the_product(rows, inner, columns):
    rng = np.random.default_rng(0)
    source, filters = rng.standard_normal((2, rows, inner)), rng.standard_normal((2, inner, columns))
    out = np.full((2, rows, columns), np.nan)
    chains.blocked_product(source, filters, out)
    np.testing.assert_allclose(out, source @ filters, atol=1e-10)


# Axes

axes_of_any_kind = st.builds(
    Axis,
    st.integers(1, 20),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 6),
    st.integers(0, 6),
).filter(lambda axis: axis.output >= 1)


def places(found, elements):
    return [found.start + e * found.step for e in elements]


@given(axes_of_any_kind)
def test_a_split_axis_meets_each_output_and_tap_once(axis):
    split = Split(axis)
    met = []
    for residue, phase in itertools.product(range(split.residues), range(split.phases)):
        taps = range(*split.w(phase).indices(axis.filter))
        assert len(taps) <= split.taps
        for e, (j, r) in itertools.product(range(split.outputs), enumerate(taps)):
            (output,) = places(split.y(residue), [e])
            if output < axis.output:
                assert places(split.x(phase, residue), [e + j]) == [
                    output * axis.stride + r * axis.dilation - axis.before
                ]
                met.append((output, r))
    assert sorted(met) == sorted(itertools.product(range(axis.output), range(axis.filter)))


@given(axes_of_any_kind)
def test_no_element_is_in_two_phases(axis):
    split = Split(axis)
    found = [
        place
        for residue, phase in itertools.product(range(split.residues), range(split.phases))
        for place in places(split.x(phase, residue), range(*split.x(phase, residue).inside))
    ]
    assert len(found) == len(set(found))
    assert all(0 <= place < axis.input for place in found)


@given(st.integers(-20, 20), st.integers(1, 5), st.integers(1, 20), st.integers(-5, 9), st.integers(0, 12))
def test_windows_by_brute_force(start, step, extent, first, length):
    inside, where = Places(start, step, extent).window(first, length)
    expected = [e for e in range(max(0, first), first + length) if 0 <= start + e * step < extent]
    assert [first + e for e in range(inside.start, inside.stop)] == expected
    assert list(range(where.start, where.stop, where.step)) == [start + e * step for e in expected]


# Results


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", PROBLEMS.values(), ids=PROBLEMS)
def test_equals_the_reference(shape, conv_pass, layout):
    done = 0
    for dtype, family in itertools.product((Dtype.FP32, Dtype.FP64), ("winograd", "dft")):
        case = make_case(shape, conv_pass, layout, dtype)
        if reason(case, family) is None:
            assert_right(case, family)
            done += 1
    assert done >= 2


def test_random_problems_raise_no_alarm():
    count = dict.fromkeys(FAMILIES, 0)
    for number, (case, family) in enumerate(supported(seed=5, count=600)):
        assert_right(case, family, threads=1 + number % 2, seed=number)
        count[family] += 1
    assert min(count.values()) > 60


def small_chunks(monkeypatch, budget):
    monkeypatch.setattr(tiling, "CHUNK_BYTES", (0, budget))
    monkeypatch.setattr(tiled_planner, "BLOCK_BYTES", budget)


@pytest.mark.parametrize("budget", [1, 600, 4000])
def test_chunks_give_the_same_result(budget, monkeypatch):
    """Budgets far below the problems' sizes: every axis is cut, and the last chunks are shorter."""
    small_chunks(monkeypatch, budget)
    cut = 0
    for number, (case, family) in enumerate(supported(seed=41 + budget, count=150)):
        cut += assert_right(case, family, threads=1 + number % 3).planner.chunks > 1
    assert cut >= 40


def test_rows_that_would_lie_pages_apart_are_kept_apart():
    """1024 elements a row: 64 channels of 16 images."""
    shape = problem(16, 64, 64, (6, 6), (3, 3), padding=((1, 1), (1, 1)))
    for conv_pass, layout, family in itertools.product(ConvPass, (Layout.NCHW, Layout.NHWC), ("winograd", "dft")):
        planner = assert_right(make_case(shape, conv_pass, layout), family).planner
        assert planner.filter_slot == 64 * 64 + 16


@pytest.mark.parametrize("family", ["winograd", "dft"])
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_each_run_gives_the_same_bits(conv_pass, family, monkeypatch):
    small_chunks(monkeypatch, 4000)
    plan = make_plan(make_case(PROBLEMS["vgg, small"], conv_pass), family, threads=2)
    plan.run()
    first = plan.output().copy()
    plan.poison()
    plan.run()
    np.testing.assert_array_equal(plan.output(), first)


@pytest.mark.parametrize("epilogue", [Epilogue.BIAS, Epilogue.BIAS_RELU])
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("name", ["partial tiles, uneven padding", "groups"])
def test_the_epilogue_is_applied_once(name, layout, epilogue, monkeypatch):
    small_chunks(monkeypatch, 4000)
    case = make_case(PROBLEMS[name], ConvPass.FPROP, layout)
    operands = Operands(case.problem, case.dtype, seed=1)
    linear = assert_right(case, "dft").output()
    case = replace(case, epilogue=epilogue)
    plan = make_plan(case, "dft", operands)
    plan.poison()
    plan.run()
    assert fused.check_epilogue(case, linear, plan.output(), operands, plan.error_bound) is None


@pytest.mark.parametrize("family", ["winograd", "dft"])
@pytest.mark.parametrize("shape", PROBLEMS.values(), ids=PROBLEMS)
def test_passes_are_adjoint(shape, family):
    """⟨dy, y(x, w)⟩ = ⟨dx(dy, w), x⟩ = ⟨dw(dy, x), w⟩, without any reference."""
    operands = Operands(shape, Dtype.FP64, seed=3)
    sides = []
    for conv_pass, other in zip(ConvPass, (operands.dy, operands.x, operands.w), strict=True):
        case = make_case(shape, conv_pass, dtype=Dtype.FP64)
        if reason(case, family) is None:
            plan = make_plan(case, family, operands)
            plan.run()
            sides.append(float(np.vdot(plan.output(), other)))
    size = np.linalg.norm(operands.x) * np.linalg.norm(operands.w) * np.linalg.norm(operands.dy)
    assert max(sides, default=0) - min(sides, default=0) <= 1e-12 * size


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("family", ["winograd", "dft"])
@pytest.mark.parametrize("name", ["vgg, small", "three-dimensional", "one-dimensional"])
def test_the_bound_catches_small_faults(name, family, conv_pass):
    """One element off by a few per cent of the result's size, anywhere, and one tile of outputs exchanged."""
    case = make_case(PROBLEMS[name], conv_pass)
    operands = Operands(case.problem, case.dtype, seed=1)
    plan = make_plan(case, family, operands)
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


def square(batch, channels, filters, size, taps, ndim=2, **rest):
    pad = ((taps // 2, taps // 2),) * ndim
    return make_case(problem(batch, channels, filters, (size,) * ndim, (taps,) * ndim, padding=pad, **rest),
                     ConvPass.FPROP, Layout.NHWC)  # fmt: skip


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_tiles_are_within_the_limits(family, conv_pass):
    found = 0
    for any_case in random_cases(seed=77, count=150):
        case = replace(any_case, conv_pass=conv_pass, epilogue=Epilogue.NONE)
        tiling_found = best_tiling(case, family)
        if tiling_found is None:
            continue
        found += 1
        transform = tiling_found.transform
        for axis, tile in zip(correlation(case), transform.tiles, strict=True):
            assert 1 <= tile.m <= max(1, axis.outputs)
            assert tile.length in {tile.reads, tile.reads - axis.wrap}
        if isinstance(transform, Winograd):
            assert transform.growth <= tiling.MAX_GROWTH[FAMILIES[family]]
        else:
            assert max(tile.length for tile in transform.tiles) <= tiling.MAX_LENGTH
    assert found > 40


def test_stricter_tiers_take_smaller_tiles():
    case = square(8, 256, 256, 56, 3)
    sizes = [
        best_tiling(case, family).transform.tiles[0].m for family in ("winograd-1e-6", "winograd", "winograd-1e-4")
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] == 2
    assert sizes[1] >= 4


@pytest.mark.parametrize(("case", "family", "name"), [
    (square(8, 256, 256, 56, 3), "winograd-1e-6", "winograd-2x3"),
    (square(16, 64, 64, 14, 13), "dft", "dft-20"),
    (make_case(PROBLEMS["one tap on an axis"], ConvPass.FPROP), "winograd", "winograd-1x1-"),
])  # fmt: skip
def test_names(case, family, name):
    assert TiledPlanner(case, family).algorithm.startswith(name)


@pytest.mark.parametrize(("rest", "family", "expected"), [
    ({"stride": (2, 1)}, "winograd", None),
    ({"filter_size": (1, 1)}, "winograd",
     "no winograd tile saves multiplications on 1×1 taps and 9×9 outputs with a filter up to 128 MiB"),
    ({"filter_size": (7, 7)}, "winograd-1e-6",
     "no winograd tile saves multiplications on 7×7 taps and 3×3 outputs with a growth of errors up to 6 and a "
     "filter up to 128 MiB"),
    ({"filter_size": (1, 1)}, "dft",
     "no DFT of at most 96 points, of more than one tap and with a filter of at most 128 MiB has 1×1 taps and 9×9 "
     "outputs"),
    ({}, "dft", None),
])  # fmt: skip
def test_reasons(rest, family, expected):
    shape = replace(problem(1, 4, 4, (9, 9), (3, 3)), **rest)
    assert reason(make_case(shape, ConvPass.FPROP), family) == expected


def test_a_planner_of_what_it_cannot_do_says_why():
    case = make_case(problem(1, 4, 4, (9, 9), (1, 1)), ConvPass.FPROP)
    with pytest.raises(UnsupportedError) as raised:
        _ = TiledPlanner(case, "winograd").tiling
    assert str(raised.value) == reason(case, "winograd")


def test_the_axes_of_dgrad_are_those_of_dy():
    """x has 9 elements and padding 2 before; dy has 9, of which output i reads i − 2 + … and the last two of dx one."""
    shape = problem(1, 4, 6, (9,), (3,), padding=((2, 0),))
    case = make_case(shape, ConvPass.DGRAD)
    assert correlation(case) == (TileAxis(9, 3, (0, 9), 0, 2),)
    assert TiledPlanner(case, "winograd").channels == (6, 4)


def test_planning_loads_no_numpy():
    code = "import sys; import convbench.backends.cpu.tiled_planner; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Memory and counts


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", ["winograd", "dft"])
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_memory_is_what_the_planner_says(conv_pass, layout, family, threads):
    shape = problem(4, 32, 48, (29, 30), (3, 3), padding=((1, 1), (1, 1)))
    case = make_case(shape, conv_pass, layout)
    operands = Operands(shape, case.dtype, seed=1)
    _ = operands.x, operands.w, operands.dy
    assert_right(case, family, threads)  # what is made once is made: imports, pools
    tracemalloc.start()
    plan = make_plan(case, family, operands, threads)
    tensors = sum(a.nbytes for a in (plan.x, plan.w, plan.y) if layout is not Layout.NCHW or a.base is plan._stored)
    if layout is Layout.NCHW:
        tensors = plan.output().nbytes
    planned = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    plan.run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert planned == pytest.approx(plan.workspace_bytes + tensors, rel=0.02, abs=1 << 17)
    assert peak - planned < 1 << 17  # the iterators of copies


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_workspace_of_large_layers_is_bounded(conv_pass, family):
    for shape in (
        problem(128, 256, 256, (56, 56), (3, 3), padding=((1, 1), (1, 1))),
        problem(16, 128, 256, (8, 28, 28), (3, 3, 3), padding=((1, 1),) * 3),
        problem(128, 64, 64, (64, 64), (9, 9), padding=((4, 4), (4, 4))),
    ):
        case = make_case(shape, conv_pass)
        if reason(case, family) is not None:
            continue
        planner = TiledPlanner(case, family, threads=2)
        buffers = 2 * planner.buffers * tiling.CHUNK_BYTES[1] * 2
        assert planner.workspace_bytes < 3 * tiling.FILTER_BYTES + buffers


@pytest.mark.parametrize("threads", [1, 2])
def test_flops_are_those_of_the_products(threads, monkeypatch):
    multiply, scale = np.matmul, np.multiply
    counted = 0

    def counting(a, b, out):
        nonlocal counted
        counted += 2 * out.size * a.shape[-1]
        return multiply(a, b, out=out)

    def counting_scale(a, b, out):
        nonlocal counted
        counted += 2 * out.size  # a product of a sum of one
        return scale(a, b, out=out)

    monkeypatch.setattr(tiling, "CHUNK_BYTES", (0, 20_000))
    monkeypatch.setattr(tiled_planner, "PAGE_BYTES", 1 << 60)  # the spare elements of rows are no work
    checked = 0
    for case, family in supported(seed=11, count=200):
        plan = make_plan(case, family, threads=threads)
        counted = 0
        with monkeypatch.context() as patched:
            patched.setattr(np, "matmul", counting)
            patched.setattr(np, "multiply", counting_scale)
            plan.run()
        adds = epilogue_flops(case)
        if case.conv_pass is ConvPass.WGRAD:
            adds += max(0, plan.planner.chunks - 1) * plan._transformed[0].size
        assert plan.work.executed_flops == counted + adds, (family, case.conv_pass, case.problem.describe())
        checked += 1
    assert checked > 60


def test_it_multiplies_less_than_the_definition():
    """Products 64 in the place of 324, F(6, 3) on 54 outputs, and transforms that are small beside 256 filters."""
    case = make_case(problem(4, 256, 256, (54, 54), (3, 3), padding=((1, 1), (1, 1))), ConvPass.FPROP)
    planner = TiledPlanner(case, "winograd")
    phases = {phase.name: phase for phase in planner.work().phases}
    assert list(phases) == ["transform x", "transform w", "product", "inverse y"]
    tile = planner.transform.tiles[0]
    assert phases["product"].flops * (tile.m * 3) ** 2 == pytest.approx(
        nominal_flops(case.problem) * tile.reads**2 * (planner.counts[0] * tile.m / 54) ** 2
    )
    assert planner.work().executed_flops < nominal_flops(case.problem) / 2.5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_phases_take_what_a_run_takes(conv_pass, threads, monkeypatch):
    small_chunks(monkeypatch, 4000)
    plan = assert_right(make_case(PROBLEMS["vgg, small"], conv_pass), "winograd", threads)
    seconds = plan.run_phases(None)
    assert len(seconds) == len(plan.work.phases)
    assert min(seconds) > 0
