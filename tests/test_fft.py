"""The FFT's tiles: against the reference, as an adjoint pair, by counts, in memory, and when they are taken."""

import math
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench import fused, verify
from convbench.backends import PlanOptions
from convbench.backends.cpu import CpuBackend, fft, fft_planner
from convbench.backends.cpu.fft import FftPlan
from convbench.backends.cpu.fft_planner import FftPlanner, best_planner
from convbench.backends.cpu.fft_tiles import TiledAxis, reach, results
from convbench.backends.cpu.phases import axis_phases
from convbench.operands import Operands
from convbench.problem import Axis, Case, ConvPass, Epilogue, Layout, Problem
from convbench.testing import random_cases
from convbench.work import epilogue_flops, real_fft_flops

AXES = st.builds(
    lambda extra, taps, stride, dilation, before, after: Axis(
        max(1, dilation * (taps - 1) + 1 - before - after) + extra, taps, stride, dilation, before, after
    ),
    st.integers(0, 30), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 8), st.integers(-3, 8),
)  # fmt: skip


def make_case(shape, conv_pass, layout=Layout.NCHW, epilogue=Epilogue.NONE):
    return Case(suite="test", name="p", problem=shape, conv_pass=conv_pass, layout=layout, epilogue=epilogue)


def make_plan(case, monkeypatch, steps, operands=None, threads=1):
    """A plan on tiles of so many results per axis."""
    monkeypatch.setattr(fft, "best_planner", lambda case, threads=1: FftPlanner(case, steps))
    operands = operands or Operands(case.problem, case.dtype, seed=1)
    return CpuBackend().plan(case, "fft", operands, PlanOptions(threads=threads))


def random_steps(rng, case):
    return tuple(rng.choice([1, 2, 3, 5, 8, 100]) for _ in case.problem.axes)


def cut(monkeypatch, budget):
    for name in ("PLANE_BYTES", "TILE_BYTES", "CACHE_BYTES"):
        monkeypatch.setattr(fft_planner, name, budget)


# Tiles of an axis


@given(AXES, st.sampled_from(ConvPass), st.integers(1, 40))
def test_tiles_multiply_each_output_by_each_tap_once_and_wrap_onto_nothing(axis, conv_pass, step):
    """By brute force: per phase and tap the pairs (output, element) of all tiles, at the rows where they lie."""
    tiled = TiledAxis(axis, conv_pass, step)
    assert len(tiled.tiles) == tiled.count
    for place, phase in enumerate(axis_phases(axis)):
        rows_of_taps = [phase.first_row + j * phase.row_step for j in range(
            len(range(phase.first_tap, axis.filter, phase.tap_step))
        )]  # fmt: skip
        found = []
        for tile in tiled.tiles:
            outputs = dict(zip(range(*tile.y_rows.indices(10**6)), range(tile.y.start, tile.y.stop), strict=True))
            elements = range(tile.x[place].start, tile.x[place].stop, axis.stride)
            inputs = dict(zip(range(*tile.x_rows[place].indices(10**6)), elements, strict=True))
            assert all(0 <= row < tiled.points for row in (*outputs, *inputs))
            assert max(outputs) < tiled.rows[1]
            assert all(row < tiled.rows[0] for row in inputs)
            for shift in rows_of_taps:
                for row, output in outputs.items():
                    element = inputs.get((row + shift) % tiled.points)  # of a cyclic transform
                    if element is not None:
                        found.append((output, shift, element))
        due = [
            (p, shift, element)
            for shift in rows_of_taps
            for p in range(axis.output)
            if 0 <= (element := phase.start + (p + shift) * axis.stride) < axis.input
        ]
        assert sorted(found) == sorted(due)


@given(AXES, st.integers(1, 40))
def test_tiles_of_dgrad_write_each_element_once(axis, step):
    tiles = TiledAxis(axis, ConvPass.DGRAD, step).tiles
    written = [place for tile in tiles for part in tile.x for place in range(part.start, part.stop, part.step)]
    held = [phase.start + q * axis.stride for phase in axis_phases(axis) for q in range(phase.low, phase.high)]
    assert sorted(written) == sorted(held)


def test_tiles_by_hand():
    # 10 outputs of 3 taps, 4 a tile: 6 elements each, the last tile has 2 outputs and 4 elements; 6 points.
    axis = TiledAxis(Axis(12, 3, 1, 1, 0, 0), ConvPass.FPROP, 4)
    assert (axis.count, axis.points, axis.rows) == (3, 6, (6, 4))
    assert [(tile.y, tile.x[0]) for tile in axis.tiles] == [
        (slice(0, 4), slice(0, 6, 1)), (slice(4, 8), slice(4, 10, 1)), (slice(8, 10), slice(8, 12, 1)),
    ]  # fmt: skip


# Results


@pytest.mark.parametrize("budget", [fft_planner.TILE_BYTES, 20_000, 2000])
def test_random_tiles_equal_the_reference(budget, monkeypatch):
    """All passes, layouts, strides, dilations and groups; clipped last tiles; chunks that begin within a tile."""
    cut(monkeypatch, budget)
    rng, tiled = random.Random(budget), 0
    for number, case in enumerate(random_cases(seed=61, count=120, max_macs=20_000)):
        linear = replace(case, epilogue=Epilogue.NONE)
        operands = Operands(case.problem, case.dtype, seed=1)
        steps = random_steps(rng, case)
        plan = make_plan(linear, monkeypatch, steps, operands, threads=1 + number % 2)
        result = verify.verify(linear, plan, operands, seed=0)
        assert result.passed, f"{case.label()} {case.problem.describe()} steps {steps}: {result.reason}"
        tiled += plan.planner.tiled
        if case.epilogue is not Epilogue.NONE:
            whole = plan.output()
            fusing = make_plan(case, monkeypatch, steps, operands)
            fusing.run()
            assert fused.check_epilogue(case, whole, fusing.output(), operands, fusing.error_bound) is None
    assert tiled >= 60


def test_dgrad_is_the_adjoint_of_fprop_and_wgrad_of_both(monkeypatch):
    """⟨y(x, w), dy⟩ = ⟨x, dx(dy, w)⟩ = ⟨w, dw(dy, x)⟩, each pass on tiles of its own."""
    rng = random.Random(3)
    for found in random_cases(seed=62, count=40, max_macs=20_000):
        case = replace(found, epilogue=Epilogue.NONE)
        operands = Operands(case.problem, case.dtype, seed=2)
        tensors = {ConvPass.FPROP: operands.dy, ConvPass.DGRAD: operands.x, ConvPass.WGRAD: operands.w}
        products, size = [], 0.0
        for conv_pass, other in tensors.items():
            each = replace(case, conv_pass=conv_pass)
            plan = make_plan(each, monkeypatch, random_steps(rng, each), operands)
            plan.run()
            out = plan.output().astype(np.float64)
            products.append(float(np.vdot(out, other)))
            size = max(size, float(np.linalg.norm(out) * np.linalg.norm(other)))
        assert np.ptp(products) <= 1e-5 * size, case.problem.describe()


def test_an_empty_batch_has_no_tiles(monkeypatch):
    shape = Problem(batch=0, in_channels=2, out_channels=3, input_size=(40,), filter_size=(3,))
    for conv_pass in ConvPass:
        plan = make_plan(make_case(shape, conv_pass), monkeypatch, (5,))
        plan.run()
        assert plan.planner.images == 0
        assert not plan.output().any()
        assert plan.work.executed_flops == 0


def test_runs_on_tiles_are_repeatable(monkeypatch):
    """Rows that a clipped tile leaves are cleared before another tile of the same chunk size uses them."""
    cut(monkeypatch, 3000)
    shape = Problem(batch=3, in_channels=2, out_channels=3, input_size=(23, 31), filter_size=(3, 5),
                    padding=((2, 1), (0, 3)))  # fmt: skip
    for conv_pass in ConvPass:
        plan = make_plan(make_case(shape, conv_pass), monkeypatch, (4, 6))
        plan.run()
        first = plan.output().copy()
        plan.poison()
        plan.run()
        np.testing.assert_array_equal(plan.output(), first)
        assert plan.algorithm == "fft-6x10"


def test_the_error_bound_is_that_of_a_tile(monkeypatch):
    shape = Problem(batch=1, in_channels=2, out_channels=2, input_size=(65,), filter_size=(4,), stride=(2,))
    plan = make_plan(make_case(shape, ConvPass.FPROP), monkeypatch, (7,))  # 7 + 1 points, 2 phases
    assert plan.error_bound.growth == math.log2(8)
    assert plan.error_bound.transform_points == 8 * 2


# Counts


def test_executed_transforms_and_copies_are_the_stated_ones(monkeypatch):
    """Counted as they are called, on whole planes and on tiles, in chunks that transform operands again."""
    rng, tiled = random.Random(5), 0
    copy, forward, inverse = fft._spatial_first, FftPlan._spectrum, FftPlan._inverse
    counts = {}

    def copies(block, order):
        counts["calls"] += 1
        return copy(block, order)

    def spectrum(self, real, rows, conjugate):
        counts["forward"] += real.size // self.planner.fft_points
        counts["calls"] += 1
        return forward(self, real, rows, conjugate)

    def back(self, total, rows):
        counts["inverse"] += total.size // self.planner.bins
        counts["calls"] += 1
        return inverse(self, total, rows)

    monkeypatch.setattr(fft, "_spatial_first", copies)
    monkeypatch.setattr(FftPlan, "_spectrum", spectrum)
    monkeypatch.setattr(FftPlan, "_inverse", back)
    for budget in (fft_planner.PLANE_BYTES, 20_000, 2000):
        cut(monkeypatch, budget)
        for number, case in enumerate(random_cases(seed=50, count=80, max_macs=20_000)):
            if case.problem.batch == 0:
                continue
            counts.update(forward=0, inverse=0, calls=0)
            plan = make_plan(case, monkeypatch, random_steps(rng, case) if number % 2 else ())
            plan.run()
            planner = plan.planner
            tiled += planner.tiled
            first, second, product, last = plan.work.phases
            transform = real_fft_flops(planner.fft_points)
            label = f"{case.label()} {case.problem.describe()} {planner.chunk} of {planner.roles}"
            assert first.flops + second.flops == counts["forward"] * transform, label
            assert last.flops == counts["inverse"] * transform + epilogue_flops(case), label
            assert first.launches + second.launches + last.launches == counts["calls"], label
            assert product.flops >= 8 * case.problem.groups * math.prod(planner.roles) * planner.bins, label
    assert tiled >= 60


def test_tiles_by_hand_count_clipped_ones_whole():
    # 2 × 3 × 12 → 4 filters of 3 taps, tiles of 4 outputs: 3 tiles an image, the last of 2 outputs; 6 points, 4 bins.
    shape = Problem(batch=2, in_channels=3, out_channels=4, input_size=(12,), filter_size=(3,))
    planner = FftPlanner(make_case(shape, ConvPass.FPROP), (4,))
    transform = round(2.5 * 6 * math.log2(6))
    assert {phase.name: phase.flops for phase in planner.work().phases} == {
        "transform x": transform * 2 * 3 * 3, "transform w": transform * 3 * 4,
        "product": 8 * (6 * 3 * 4) * 4, "inverse y": transform * 2 * 3 * 4,
    }  # fmt: skip


# Memory, and which tiles are taken

HUGE = {
    "a row": Problem(batch=1, in_channels=2, out_channels=4, input_size=(2**22,), filter_size=(129,)),
    "a plane": Problem(batch=1, in_channels=1, out_channels=1, input_size=(8192, 8192), filter_size=(15, 15)),
    "three axes": Problem(batch=1, in_channels=2, out_channels=2, input_size=(512, 512, 512), filter_size=(7, 7, 7)),
    "strides": Problem(batch=2, in_channels=3, out_channels=8, input_size=(8000, 8000), filter_size=(11, 11),
                       stride=(2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", HUGE.values(), ids=HUGE)
def test_huge_planes_are_cut_and_keep_to_the_workspace_of_tiles(shape, conv_pass):
    case = make_case(shape, conv_pass)
    planner = best_planner(case)
    assert FftPlanner(case).workspace_bytes > fft_planner.TILE_BYTES
    assert planner.tiled
    assert planner.workspace_bytes <= fft_planner.TILE_BYTES


def test_steps_are_tried_only_where_an_axis_reaches_beyond_its_filter():
    shape = Problem(batch=1, in_channels=1, out_channels=1, input_size=(2**31 - 1, 40), filter_size=(2**20, 31))
    for conv_pass in ConvPass:
        case = make_case(shape, conv_pass)
        for steps in fft_planner.candidates(case):
            planner = FftPlanner(case, steps)
            assert all(axis.count <= fft_planner.MAX_TILES for axis in planner.axes)
            assert all(
                points >= reach(axis) + step
                for points, axis, step in zip(planner.fft_size, shape.axes, steps, strict=True)
            )
            assert len(results(shape.axes[1], conv_pass)) >= steps[1]


def test_small_planes_stay_whole():
    shape = Problem(batch=128, in_channels=64, out_channels=64, input_size=(28, 28), filter_size=(3, 3))
    assert best_planner(make_case(shape, ConvPass.FPROP)).algorithm == "fft"


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("threads", [1, 2])
def test_tiles_of_a_large_plane_stay_within_the_declared_memory(conv_pass, threads):
    """The copy of a half spectrum that pocketfft makes within irfftn is not NumPy's, and not seen."""
    for shape in (
        Problem(batch=1, in_channels=8, out_channels=8, input_size=(200_000,), filter_size=(33,)),
        Problem(batch=2, in_channels=8, out_channels=12, input_size=(400, 300), filter_size=(7, 7)),
    ):
        case = make_case(shape, conv_pass)
        operands = Operands(shape, case.dtype, seed=1)
        plan = CpuBackend().plan(case, "fft", operands, PlanOptions(threads=threads))
        assert plan.planner.tiled
        plan.run()
        tracemalloc.start()
        try:
            plan.run()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= plan.planner.transient_bytes + (256 << 10)
        assert plan.workspace_bytes <= fft_planner.TILE_BYTES
