"""The cpu backend: every algorithm against the reference, its memory, its counts, and the arithmetic of its planner."""

import functools
import itertools
import math
import os
import signal
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st

from convbench import fused, verify
from convbench.backends import AUTO, PlanOptions
from convbench.backends.cpu import CpuBackend, depthwise_planner, fft_planner, gemm_planner
from convbench.backends.cpu.depthwise_planner import DepthwisePlanner
from convbench.backends.cpu.fft_planner import FftPlanner, best_planner
from convbench.backends.cpu.fft_tiles import next_fast_length
from convbench.backends.cpu.gemm_planner import GemmPlanner, MecPlanner
from convbench.backends.cpu.phases import axis_phases, cyclic_length, phase_length
from convbench.backends.cpu.planner import DirectPlanner
from convbench.backends.cpu.tiling import FAMILIES
from convbench.backends.cpu.windows import chunk_extents, pieces
from convbench.errors import InputError, UnsupportedError
from convbench.operands import Operands
from convbench.problem import PRECISIONS, Axis, Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.testing import random_cases
from convbench.work import epilogue_flops, exact_flops, real_fft_flops

PLANNERS = {
    "direct": DirectPlanner, "gemm": GemmPlanner, "mec": MecPlanner, "depthwise": DepthwisePlanner, "fft": best_planner,
}  # fmt: skip
ALGORITHMS = tuple(PLANNERS)
EVERY_SHAPE = ("direct", "gemm", "fft")
"""Algorithms that refuse no case."""


def problem(batch, channels, filters, size, taps, **rest):
    return Problem(batch=batch, in_channels=channels, out_channels=filters, input_size=size, filter_size=taps, **rest)


PROBLEMS = {
    "all extents 1": problem(1, 1, 1, (1,), (1,)),
    "pointwise": problem(3, 8, 12, (9, 7), (1, 1)),
    "pointwise, large planes": problem(2, 4, 6, (13, 11), (1, 1)),
    "pointwise, strided": problem(2, 4, 6, (9, 7), (1, 1), stride=(2, 3)),
    "pointwise, padded": problem(2, 4, 6, (5, 5), (1, 1), padding=((1, 1), (0, 2))),
    "filter as large as the input": problem(4, 3, 5, (6, 7), (6, 7)),
    "alexnet conv1, small": problem(2, 3, 8, (35, 35), (11, 11), stride=(4, 4), padding=((2, 2), (2, 2))),
    "vgg, small": problem(2, 16, 16, (14, 14), (3, 3), padding=((1, 1), (1, 1))),
    "depthwise": problem(3, 10, 10, (12, 9), (3, 3), groups=10, padding=((1, 1), (1, 1))),
    "depthwise, two filters a channel": problem(3, 5, 10, (8, 9), (3, 3), groups=5, stride=(2, 2)),
    "groups": problem(2, 12, 18, (8, 7), (3, 2), groups=3, padding=((1, 0), (0, 1))),
    "one-dimensional": problem(4, 6, 7, (50,), (7,), dilation=(3,), padding=((9, 9),)),
    "three-dimensional": problem(2, 3, 4, (5, 9, 8), (3, 3, 3), padding=((1, 1),) * 3, stride=(1, 2, 1)),
    "stride and dilation share a factor": problem(2, 3, 4, (20, 21), (4, 3), stride=(4, 6), dilation=(6, 4)),
    "stride beyond the filter": problem(2, 3, 4, (20, 17), (2, 3), stride=(5, 7)),
    "cropped": problem(2, 3, 4, (10, 10), (3, 3), padding=((0, -3), (2, -2))),
    "padding beyond the filter": problem(2, 3, 4, (4, 5), (2, 2), padding=((5, 6), (3, 4))),
    "only padding": problem(2, 2, 2, (2,), (3,), stride=(9,), padding=((3, 4),)),
    "empty batch": problem(0, 3, 4, (8, 8), (3, 3)),
}


def make_case(shape, conv_pass, layout=Layout.NCHW, dtype=Dtype.FP32, epilogue=Epilogue.NONE):
    math_mode = MathMode.FP64 if dtype is Dtype.FP64 else MathMode.FP32
    return Case(suite="test", name="p", problem=shape, conv_pass=conv_pass, layout=layout, dtype=dtype,
                math_mode=math_mode, epilogue=epilogue)  # fmt: skip


def make_plan(case, algorithm, operands=None, threads=1):
    operands = operands or Operands(case.problem, case.dtype, seed=1)
    return CpuBackend().plan(case, algorithm, operands, PlanOptions(threads=threads))


def offered(case, algorithm):
    """Whether the algorithm does not refuse the case."""
    candidates = CpuBackend().algorithms(case)
    return next(c.reason is None for c in candidates if c.algorithm == algorithm)


def cut(monkeypatch, budget):
    """Makes every chunk at most so many bytes."""
    for name in ("GATHER_BYTES", "WGRAD_GATHER_BYTES", "BLAS_BYTES"):
        monkeypatch.setattr(gemm_planner, name, budget)
    monkeypatch.setattr(depthwise_planner, "CHUNK_BYTES", budget)
    for name in ("PLANE_BYTES", "TILE_BYTES", "CACHE_BYTES"):
        monkeypatch.setattr(fft_planner, name, budget)


def assert_right(case, algorithm, threads=1):
    operands = Operands(case.problem, case.dtype, seed=1)
    plan = make_plan(case, algorithm, operands, threads)
    result = verify.verify(case, plan, operands, seed=0)
    assert result.passed, f"{algorithm} {case.label()} {case.problem.describe()}: {result.reason}"
    return plan


# Results


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", PROBLEMS.values(), ids=PROBLEMS)
def test_equals_the_reference(shape, algorithm, conv_pass, layout):
    for dtype in (Dtype.FP32, Dtype.FP64):
        case = make_case(shape, conv_pass, layout, dtype)
        if offered(case, algorithm):
            assert_right(case, algorithm)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_threads_give_the_same_result(algorithm, layout):
    for shape in (PROBLEMS["vgg, small"], PROBLEMS["depthwise"]):
        for conv_pass in ConvPass:
            case = make_case(shape, conv_pass, layout)
            if offered(case, algorithm):
                assert_right(case, algorithm, threads=2)


@pytest.mark.parametrize("budget", [1, 600, 4000])
def test_chunks_give_the_same_result(budget, monkeypatch):
    """Budgets far below the problems' sizes: every axis is cut, and the last chunks are shorter."""
    cut(monkeypatch, budget)
    chunked = 0
    for number, case in enumerate(random_cases(seed=41 + budget, count=100, max_macs=20_000)):
        for algorithm in ("gemm", "mec", "fft"):
            if offered(case, algorithm):
                assert_right(replace(case, epilogue=Epilogue.NONE), algorithm, threads=1 + number % 2)
        chunked += GemmPlanner(case).chunks > 1 and best_planner(case).chunk != whole_chunk(case)
    assert chunked >= 25


@pytest.mark.parametrize("budget", [600, depthwise_planner.CHUNK_BYTES])
def test_random_depthwise_problems(budget, monkeypatch):
    cut(monkeypatch, budget)
    done = 0
    for number, dense in enumerate(random_cases(seed=43, count=250, max_macs=20_000)):
        channels = max(2, dense.problem.in_channels)
        shape = replace(dense.problem, in_channels=channels, groups=channels, out_channels=channels * (1 + number % 2))
        case = replace(dense, problem=shape, epilogue=Epilogue.NONE)
        if offered(case, "depthwise"):
            assert_right(case, "depthwise", threads=1 + number // 2 % 2)
            done += 1
    assert done >= 200


@pytest.mark.parametrize("epilogue", [Epilogue.BIAS, Epilogue.BIAS_RELU])
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("algorithm", ["gemm", "mec", "depthwise", "fft"])
def test_chunks_apply_the_epilogue_once(algorithm, layout, epilogue, monkeypatch):
    shape = PROBLEMS["depthwise" if algorithm == "depthwise" else "groups"]
    case = make_case(shape, ConvPass.FPROP, layout)
    operands = Operands(shape, case.dtype, seed=1)
    linear = assert_right(case, algorithm).output()
    cut(monkeypatch, 2000)
    case = replace(case, epilogue=epilogue)
    plan = make_plan(case, algorithm, operands)
    plan.run()
    assert fused.check_epilogue(case, linear, plan.output(), operands, plan.error_bound) is None


def whole_chunk(case):
    shape, (i, j, k) = case.problem, best_planner(case).roles
    return shape.groups, max(1, i), max(1, j), max(1, k)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestPlan:
    @staticmethod
    def cases(algorithm, conv_pass, layout):
        cases = [make_case(shape, conv_pass, layout) for shape in PROBLEMS.values()]
        return [case for case in cases if offered(case, algorithm)]

    def test_run_overwrites_the_whole_poisoned_output(self, algorithm, conv_pass, layout):
        for case in self.cases(algorithm, conv_pass, layout):
            plan = make_plan(case, algorithm)
            assert np.isnan(plan.output()).all()  # from the start, so that nothing unwritten goes unseen
            plan.run()
            assert np.isfinite(plan.output()).all()
            plan.poison()
            assert np.isnan(plan.output()).all()

    def test_runs_are_repeatable_and_leave_operands_alone(self, algorithm, conv_pass, layout):
        for case in self.cases(algorithm, conv_pass, layout):
            operands = Operands(case.problem, Dtype.FP32, seed=1)
            tensors = (operands.x, operands.w, operands.dy, operands.bias)
            assert not any(tensor.flags.writeable for tensor in tensors)
            copies = [tensor.copy() for tensor in tensors]
            plan = make_plan(case, algorithm, operands, threads=2)
            plan.run()
            first = plan.output().copy()
            plan.run()
            np.testing.assert_array_equal(plan.output(), first)
            for tensor, copy in zip(tensors, copies, strict=True):
                np.testing.assert_array_equal(tensor, copy)

    def test_output_lies_in_the_layout_and_is_canonical(self, algorithm, conv_pass, layout):
        case = self.cases(algorithm, conv_pass, layout)[-2]
        output = make_plan(case, algorithm).output()
        assert output.shape == case.output_shape
        assert output.transpose(layout.order(case.problem.ndim)).flags.c_contiguous
        assert output.dtype == np.float32


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_phases_take_what_a_run_takes(algorithm, monkeypatch):
    """Each run of a stopwatch that ticks once a press: every phase of the work takes a tick, and none is unknown."""
    for name, layout, conv_pass in itertools.product(("groups", "depthwise", "pointwise"), Layout, ConvPass):
        case = make_case(PROBLEMS[name], conv_pass, layout)
        if offered(case, algorithm):
            plan = make_plan(case, algorithm, threads=2)
            ticks = itertools.count()
            monkeypatch.setattr(plan.laps, "_now", lambda ticks=ticks: float(next(ticks)))
            seconds = plan.run_phases(None)
            assert len(seconds) == len(plan.work.phases)
            assert all(second >= 1 for second in seconds), (name, case.label(), seconds)


# What it offers


@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32"])
def test_precisions_without_arithmetic_are_refused_with_a_reason(precision):
    dtype, math_mode = PRECISIONS[precision]
    case = replace(make_case(PROBLEMS["groups"], ConvPass.FPROP), dtype=dtype, math_mode=math_mode)
    candidates = CpuBackend().algorithms(case)
    assert [candidate.algorithm for candidate in candidates] == [AUTO, *ALGORITHMS, *FAMILIES]
    reason = f"NumPy has no {precision} arithmetic; the cpu backend computes in fp64, fp32"
    assert {candidate.reason for candidate in candidates} == {reason}
    operands = Operands(case.problem, Dtype.FP32, seed=0)
    for algorithm in (AUTO, *ALGORITHMS):
        with pytest.raises(UnsupportedError, match=f"no {precision} arithmetic"):
            CpuBackend().plan(case, algorithm, operands, PlanOptions())


@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.FP64])
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_every_algorithm_is_offered_for_every_shape(conv_pass, dtype):
    for shape in PROBLEMS.values():
        candidates = CpuBackend().algorithms(make_case(shape, conv_pass, dtype=dtype))
        assert [candidate.algorithm for candidate in candidates] == [AUTO, *ALGORITHMS, *FAMILIES]
        assert all(c.reason is None and c.memory_bytes >= 0 for c in candidates if c.algorithm in EVERY_SHAPE)


def test_auto_resolves_to_an_algorithm_with_the_memory_it_announced():
    for case in random_cases(seed=43, count=60):
        auto, *named = CpuBackend().algorithms(case)
        memory = {candidate.algorithm: candidate.memory_bytes for candidate in named}
        assert auto.memory_bytes == memory[auto.resolves_to]
        assert make_plan(case, AUTO).algorithm.startswith(auto.resolves_to.split("-")[0])


@pytest.mark.parametrize(("name", "near"), [("gem", "gemm"), ("ftt", "fft"), ("Direct", "direct")])
def test_an_unknown_algorithm_names_the_nearest(name, near):
    case = make_case(PROBLEMS["groups"], ConvPass.FPROP)
    with pytest.raises(InputError, match=rf"unknown algorithm '{name}' of backend cpu; did you mean '{near}'"):
        make_plan(case, name)


def test_an_algorithm_like_no_other_lists_the_known():
    with pytest.raises(InputError, match="known: auto, depthwise, dft, direct, fft, gemm, mec"):
        make_plan(make_case(PROBLEMS["groups"], ConvPass.FPROP), "qqqqq")


def test_the_backend_is_usable_here():
    assert CpuBackend().probe() is None


# Memory

MEDIUM = {
    "vgg": problem(4, 24, 32, (32, 32), (3, 3), padding=((1, 1), (1, 1))),
    "strided": problem(4, 16, 24, (51, 49), (5, 5), stride=(2, 2), padding=((2, 2), (2, 2))),
    "groups": problem(6, 32, 48, (26, 26), (3, 3), groups=4),
    "pointwise": problem(6, 48, 64, (28, 28), (1, 1)),
    "one-dimensional": problem(6, 32, 32, (500,), (9,)),
    "three-dimensional": problem(2, 8, 12, (10, 16, 16), (3, 3, 3), padding=((1, 1),) * 3),
    "many channels to few": problem(32, 64, 4, (16, 16), (3, 3), padding=((1, 1), (1, 1))),
    "few channels to many": problem(32, 4, 64, (16, 16), (3, 3), padding=((1, 1), (1, 1))),
    "depthwise": problem(6, 64, 64, (28, 28), (3, 3), groups=64, padding=((1, 1), (1, 1))),
}
SLACK_BYTES = 128 << 10
"""Views, small temporaries and the buffers of NumPy's iterators, per thread."""


@functools.cache
def warm_up():
    """Has modules imported, the BLAS found and threads started."""
    for algorithm in EVERY_SHAPE:
        for threads in (1, 2):
            make_plan(make_case(PROBLEMS["groups"], ConvPass.DGRAD), algorithm, threads=threads).run()


def traced(action):
    """(result, bytes still held, largest bytes held meanwhile) of what `action` allocates through NumPy."""
    warm_up()
    tracemalloc.start()
    try:
        result = action()
        return result, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC])
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", MEDIUM.values(), ids=MEDIUM)
@pytest.mark.parametrize(
    ("budget", "threads"), [(None, 1), (2 << 20, 1), (1 << 20, 2)], ids=["as planned", "in chunks", "on two threads"]
)
def test_memory_stays_within_what_is_declared(shape, algorithm, conv_pass, layout, budget, threads, monkeypatch):
    """Scratch memory within workspace_bytes while it runs, all memory within what the candidate announced.

    The copy of a half spectrum that pocketfft makes within irfftn is not NumPy's, and not seen.
    """
    if budget:
        if algorithm == "direct":
            return  # it has no chunks
        cut(monkeypatch, budget)
    case = make_case(shape, conv_pass, layout)
    if not offered(case, algorithm):
        return
    operands = Operands(shape, case.dtype, seed=1)
    for tensor in (operands.x, operands.w, operands.dy):
        assert tensor.size  # made before tracing starts

    def plan_and_run():
        plan = make_plan(case, algorithm, operands, threads)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        plan.run()
        return plan, tracemalloc.get_traced_memory()[1] - before

    (plan, running), _, peak = traced(plan_and_run)
    assert running <= plan.workspace_bytes + threads * SLACK_BYTES
    candidates = CpuBackend().algorithms(case, PlanOptions(threads=threads))
    announced = {candidate.algorithm: candidate.memory_bytes for candidate in candidates}
    assert peak <= announced[algorithm] + threads * SLACK_BYTES


# Planner arithmetic


def test_next_fast_length_is_scipys():
    for n in range(1, 5001):
        assert next_fast_length(n) == scipy.fft.next_fast_len(n, real=True)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 3000))
def test_chunks_tile_within_the_budget(extents, budget):
    box = chunk_extents(extents, budget)
    assert math.prod(box) <= budget
    assert all(1 <= size <= max(1, extent) for size, extent in zip(box, extents, strict=True))
    assert all(pieces(extent, size) * size >= extent for size, extent in zip(box, extents, strict=True))
    cut = [axis for axis, (size, extent) in enumerate(zip(box, extents, strict=True)) if size < extent]
    assert all(
        box[axis] == 1 for axis in range(max(cut, default=0))
    )  # whole axes inside the cut one, single steps outside
    if cut:  # one piece fewer would not fit
        axis = max(cut)
        fewer = pieces(extents[axis], box[axis]) - 1
        assert pieces(extents[axis], fewer) * math.prod(box[axis + 1 :]) > budget


@pytest.mark.parametrize(
    ("extents", "budget", "box"),
    [((4, 6, 8), 1000, (4, 6, 8)), ((4, 6, 8), 50, (1, 6, 8)), ((4, 6, 8), 40, (1, 3, 8)), ((4, 6, 8), 7, (1, 1, 4)),
     ((4, 6, 8), 1, (1, 1, 1)), ((0, 6), 100, (1, 6))],
)  # fmt: skip
def test_chunks_by_hand(extents, budget, box):
    assert chunk_extents(extents, budget) == box


AXES = st.builds(
    lambda extra, taps, stride, dilation, before, after: Axis(
        max(1, dilation * (taps - 1) + 1 - before - after) + extra, taps, stride, dilation, before, after
    ),
    st.integers(0, 20), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7), st.integers(0, 8), st.integers(-3, 8),
)  # fmt: skip


@given(AXES)
def test_phases_cover_every_output_and_tap_once(axis):
    pairs = []
    for phase in axis_phases(axis):
        taps = range(phase.first_tap, axis.filter, phase.tap_step)
        assert len(taps) >= 1
        for (j, tap), p in itertools.product(enumerate(taps), range(axis.output)):
            q = p + phase.first_row + j * phase.row_step
            assert 0 <= q < phase_length(axis)
            place = phase.start + q * axis.stride
            assert place == p * axis.stride + tap * axis.dilation - axis.before
            assert (phase.low <= q < phase.high) == (0 <= place < axis.input)
            pairs.append((p, tap))
    assert sorted(pairs) == sorted(itertools.product(range(axis.output), range(axis.filter)))


@given(AXES)
def test_phases_take_each_input_element_at_most_once(axis):
    taken = [phase.start + q * axis.stride for phase in axis_phases(axis) for q in range(phase.low, phase.high)]
    assert len(set(taken)) == len(taken)
    assert all(0 <= place < axis.input for place in taken)


def test_workspaces_stay_small_for_large_planes():
    """A few times the gathered matrix; the FFT's limit, unless one image and channel exceed it."""
    for conv_pass, layout in itertools.product(ConvPass, Layout):
        for shape in (
            problem(128, 64, 64, (224, 224), (3, 3), padding=((1, 1), (1, 1))),
            problem(1, 3, 64, (4096, 4096), (7, 7), stride=(2, 2), padding=((3, 3), (3, 3))),
            problem(4, 64, 64, (2048, 2048), (1, 1)),
            problem(2, 16, 16, (256, 256, 256), (3, 3, 3)),
            problem(8, 32, 32, (2_000_000,), (25,)),
        ):
            case = make_case(shape, conv_pass, layout)
            larger = conv_pass is ConvPass.WGRAD or GemmPlanner(case).scatters
            target = gemm_planner.WGRAD_GATHER_BYTES if larger else gemm_planner.GATHER_BYTES
            assert GemmPlanner(case).workspace_bytes <= 4 * target
            assert MecPlanner(case).workspace_bytes <= 4 * target
            fft = FftPlanner(case)
            smallest = math.prod(map(len, fft.phases))  # one channel with all its phases
            assert fft.workspace_bytes <= fft_planner.PLANE_BYTES or math.prod(fft.chunk) == smallest


# Counts


def phases_of(case, algorithm):
    return {phase.name: phase for phase in PLANNERS[algorithm](case).work().phases}


def test_counts_are_whole_and_not_negative():
    for case in random_cases(seed=44, count=300):
        for algorithm, cls in PLANNERS.items():
            if not offered(case, algorithm):
                continue
            for phase in cls(case).work().phases:
                counts = (phase.flops, phase.bytes_read, phase.bytes_written, phase.footprint_bytes, phase.launches)
                assert all(type(count) is int and count >= 0 for count in counts), (algorithm, phase)
                assert phase.traffic_bytes == phase.bytes_read + phase.bytes_written
            assert type(cls(case).workspace_bytes) is int


def test_plans_carry_the_planners_work():
    for case in random_cases(seed=45, count=20):
        for algorithm in ALGORITHMS:
            if not offered(case, algorithm):
                continue
            plan = make_plan(case, algorithm)
            assert plan.work == PLANNERS[algorithm](case).work()
            assert plan.workspace_bytes == PLANNERS[algorithm](case).workspace_bytes


def test_direct_multiplies_what_does_not_meet_padding():
    for case in random_cases(seed=48, count=300):
        phases = phases_of(case, "direct")
        assert phases["product"].flops == exact_flops(case.problem)
        assert phases["gather"].flops == 0
        if case.epilogue is not Epilogue.NONE:
            assert phases["epilogue"].flops == epilogue_flops(case)


def test_direct_accumulates_each_product_of_a_tap():
    # 1 × 1 × 3, one filter of 3 taps padded by 1: 2 + 3 + 2 pairs of output and tap lie inside the input.
    case = make_case(problem(1, 1, 4, (3,), (3,), padding=((1, 1),)), ConvPass.FPROP)
    assert {name: phase.flops for name, phase in phases_of(case, "direct").items()} == {
        "gather": 0, "product": 2 * 4 * 7, "accumulate": 4 * 7,
    }  # fmt: skip


@pytest.mark.parametrize(("conv_pass", "names"), [
    (ConvPass.FPROP, ("x", "w", "y")), (ConvPass.DGRAD, ("dy", "w", "dx")), (ConvPass.WGRAD, ("dy", "x", "dw")),
])  # fmt: skip
def test_fft_by_hand(conv_pass, names):
    # 2 × 3 × 5 × 5 → 4 filters of 3 × 3: 25 points, 5 · 3 bins; a transform is 2.5 · 25 · log₂ 25 = 290.2 flops.
    case = make_case(problem(2, 3, 4, (5, 5), (3, 3)), conv_pass)
    assert FftPlanner(case).fft_size == (5, 5)
    spectra = {"x": 2 * 3, "dx": 2 * 3, "w": 3 * 4, "dw": 3 * 4, "y": 2 * 4, "dy": 2 * 4}
    first, second, result = names
    assert {name: phase.flops for name, phase in phases_of(case, "fft").items()} == {
        f"transform {first}": 290 * spectra[first],
        f"transform {second}": 290 * spectra[second],
        "product": 8 * (2 * 3 * 4) * 15,
        f"inverse {result}": 290 * spectra[result],
    }


def test_fft_by_hand_with_a_stride():
    # 9 inputs, 3 taps, stride 2: 4 outputs, 2 phases that hold 5 elements each; 5 points, 3 bins, 6 phase-channels.
    case = make_case(problem(2, 3, 4, (9,), (3,), stride=(2,)), ConvPass.FPROP)
    assert real_fft_flops(5) == round(2.5 * 5 * math.log2(5)) == 29
    assert {name: phase.flops for name, phase in phases_of(case, "fft").items()} == {
        "transform x": 29 * 2 * 6, "transform w": 29 * 6 * 4, "product": 8 * 2 * 6 * 4 * 3, "inverse y": 29 * 2 * 4,
    }  # fmt: skip


def test_fft_wraps_onto_zeros_only():
    """Of a cyclic transform, by brute force: what shares a place is an element and zeros, or zeros."""
    shorter = 0
    for case in random_cases(seed=49, count=300):
        for points, axis in zip(map(cyclic_length, case.problem.axes), case.problem.axes, strict=True):
            length = phase_length(axis)
            shorter += points < length
            assert points >= max(axis.output, axis.reach // axis.stride + 1)
            for phase in axis_phases(axis):
                held = range(phase.low, phase.high)
                assert all(place < points for place in held)
                assert not any(place - points in held for place in range(points, length))
    assert shorter > 50


def test_fft_counts_the_running_sum_of_its_products(monkeypatch):
    """2 flops for each complex element that is added to the sum of earlier chunks, counted as they are added."""
    cut(monkeypatch, 2000)
    summed = 0
    for case in random_cases(seed=51, count=60, max_macs=20_000):
        if case.problem.batch == 0:
            continue
        added = []

        def add(first, second, out, added=added, add=np.add):
            added.append(first.size)
            return add(first, second, out=out)

        plan = make_plan(case, "fft")
        with monkeypatch.context() as patch:
            patch.setattr(np, "add", add)
            plan.run()
        fft = FftPlanner(case)
        products = 8 * case.problem.groups * math.prod(fft.roles) * fft.bins
        assert phases_of(case, "fft")["product"].flops == products + 2 * sum(added), case.problem.describe()
        summed += bool(added)
    assert summed >= 10


def test_a_stride_of_very_many_phases_is_refused_by_fft_at_once():
    """Counted, never enumerated: 20 million phases per axis."""
    huge = make_case(problem(1, 1, 1, (2**31 - 1,), (20_000_000,), stride=(90_000_049,), dilation=(7,)), ConvPass.FPROP)
    offered = {candidate.algorithm: candidate for candidate in CpuBackend().algorithms(huge)}
    assert offered["fft"].reason == "the stride splits a plane into 20000000 phases, more than 1024"
    assert offered["gemm"].reason is None
    assert offered["auto"].memory_bytes == offered["gemm"].memory_bytes
    with pytest.raises(UnsupportedError, match="20000000 phases"):
        CpuBackend().plan(huge, "fft", None, PlanOptions())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    """The pool's threads stay behind in the parent: a child that used it would wait for ever."""
    case = make_case(PROBLEMS["groups"], ConvPass.FPROP)
    operands = Operands(case.problem, case.dtype, 0)
    CpuBackend().plan(case, "fft", operands, PlanOptions(threads=2)).run()
    child = os.fork()
    if not child:
        signal.alarm(20)
        CpuBackend().plan(case, "fft", operands, PlanOptions(threads=2)).run()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
