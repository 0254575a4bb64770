"""The cufft backend's arithmetic on NumPy: results, counts of work, phases, memory."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from fft_arrays import NumpyArrays, NumpyCufft
from hypothesis import given
from hypothesis import strategies as st

from convbench import verify
from convbench.backends import AUTO, PlanOptions, Sample
from convbench.backends.cufft.convolution import CufftPlan
from convbench.backends.cufft.planner import CufftPlanner, whole_planner
from convbench.errors import UnsupportedError
from convbench.operands import Operands
from convbench.problem import PRECISIONS, Case, ConvPass, Epilogue, Layout, Problem
from convbench.testing import check_backend, random_cases, random_problem
from convbench.work import real_fft_flops


def make_case(shape, conv_pass=ConvPass.FPROP, precision="fp32", layout=Layout.NCHW, epilogue=Epilogue.NONE):
    dtype, math_mode = PRECISIONS[precision]
    return Case(suite="test", name="p", problem=shape, conv_pass=ConvPass(conv_pass), dtype=dtype, math_mode=math_mode,
                layout=layout, epilogue=epilogue)  # fmt: skip


def problem(**fields):
    fields = {"batch": 2, "in_channels": 4, "out_channels": 6, "input_size": (9, 8), "filter_size": (3, 2)} | fields
    return Problem(**fields)


def random_planner(rng, case):
    """Tiles of a random size, whole planes at times, in chunks of a random part of the batch."""
    steps = tuple(rng.choice([1, 2, 3, 5, 8, 100]) for _ in case.problem.axes) if rng.random() < 0.8 else ()
    made = CufftPlanner(case, steps)
    images = rng.choice([each for each in range(1, 9) if case.problem.batch % each == 0])
    return CufftPlanner(case, steps, made._workspace(min(images, case.problem.batch)))


def random_plans(seed, count, arrays=NumpyArrays):
    """(case, operands, plan) of random linear cases."""
    rng = random.Random(seed)
    for case in random_cases(seed, count, max_macs=8000):
        linear = replace(case, epilogue=Epilogue.NONE)
        operands = Operands(case.problem, case.dtype, seed=1)
        yield linear, operands, CufftPlan(random_planner(rng, linear), operands, arrays())


# Results


def test_random_cases_of_every_algorithm_equal_the_reference():
    """All passes, layouts, epilogues, groups, strides, dilations, paddings, fp32 and fp64."""
    assert check_backend(NumpyCufft(), count=150, seed=7, max_macs=8000) == []


def test_random_tiles_and_chunks_equal_the_reference():
    seen = set()
    for case, operands, plan in random_plans(71, 300):
        result = verify.verify(case, plan, operands, seed=0)
        of = plan._planner
        assert result.passed, f"{case.label()} {case.problem.describe()} {of.steps} {of.chunk}: {result.reason}"
        seen.add((case.conv_pass, case.problem.ndim, of.tiled, of.chunks > 1, of.by_bins))
    assert {key[:3] for key in seen} == {(p, n, tiled) for p in ConvPass for n in (1, 2, 3) for tiled in (False, True)}
    assert {(key[0], key[3]) for key in seen} == {(p, chunked) for p in ConvPass for chunked in (False, True)}
    assert {(key[0], key[4]) for key in seen} == {(p, by_bins) for p in ConvPass for by_bins in (False, True)}


@given(st.integers(0, 10**6), st.sampled_from(ConvPass))
def test_tiles_equal_whole_planes(seed, conv_pass):
    rng = random.Random(seed)
    case = make_case(random_problem(rng, 3000), conv_pass, "fp64")
    operands = Operands(case.problem, case.dtype, seed)
    tiles = CufftPlan(random_planner(rng, case), operands, NumpyArrays())
    whole = CufftPlan(CufftPlanner(case), operands, NumpyArrays())
    for plan in (tiles, whole):
        plan.run()
    np.testing.assert_allclose(tiles.output(), whole.output(), rtol=0, atol=1e-11)


@given(st.integers(0, 10**6))
def test_dgrad_is_the_adjoint_of_fprop_and_wgrad_of_both(seed):
    """⟨y(x, w), dy⟩ = ⟨x, dx(dy, w)⟩ = ⟨w, dw(dy, x)⟩, each pass on tiles of its own."""
    rng = random.Random(seed)
    shape = random_problem(rng, 3000)
    products = []
    for conv_pass, other in zip(ConvPass, ("dy", "x", "w"), strict=True):
        case = make_case(shape, conv_pass, "fp64")
        operands = Operands(shape, case.dtype, seed)
        plan = CufftPlan(random_planner(rng, case), operands, NumpyArrays())
        plan.run()
        products.append(float(np.vdot(plan.output(), getattr(operands, other))))
    assert np.ptp(products) <= 1e-9


def test_a_second_run_gives_the_same_and_poison_is_overwritten():
    for case, _, plan in random_plans(73, 40):
        plan.run()
        first = plan.output()
        plan.poison()
        assert np.isnan(plan.output()).all()
        plan.run()
        np.testing.assert_array_equal(plan.output(), first, err_msg=case.problem.describe())


def test_an_empty_batch_does_nothing_but_the_zeros_of_dw():
    shape = problem(batch=0)
    for conv_pass in ConvPass:
        plan = NumpyCufft().plan(make_case(shape, conv_pass), AUTO, Operands(shape, PRECISIONS["fp32"][0], 1),
                                 PlanOptions())  # fmt: skip
        plan.run()
        assert not plan.output().any()
        assert (plan.work.executed_flops, plan.workspace_bytes) == (0, 0)
        assert sum(phase.launches for phase in plan.work.phases) == (conv_pass is ConvPass.WGRAD)


# Counts


class Counting(NumpyArrays):
    """Counts flops, bytes and launches by what the arrays are, phase by phase."""

    def __init__(self):
        self.counts = {"flops": 0, "read": 0, "written": 0, "launches": 0}

    def _count(self, flops, read, written, launches=1):
        for name, number in zip(self.counts, (flops, read, written, launches), strict=True):
            self.counts[name] += number

    def fill(self, array, value):
        self._count(0, 0, array.nbytes)
        super().fill(array, value)

    def copy(self, target, source):
        assert target.shape == source.shape
        assert target.size
        self._count(0, source.nbytes, target.nbytes)
        super().copy(target, source)

    def add(self, target, source, bias):
        self._count(source.size, source.nbytes + bias.nbytes, target.nbytes)
        super().add(target, source, bias)

    def relu(self, array):
        self._count(array.size, array.nbytes, array.nbytes)
        super().relu(array)

    def conjugate(self, array):
        self._count(0, array.nbytes, array.nbytes)
        super().conjugate(array)

    def scale(self, array, factor):
        self._count(2 * array.size, array.nbytes, array.nbytes)
        super().scale(array, factor)

    def multiply(self, first, second, out):
        self._count(6 * out.size, first.nbytes + second.nbytes, out.nbytes)
        super().multiply(first, second, out)

    def product(self, conv_pass, first, second, out, scale, add, mode):
        summed = first.shape[1] if conv_pass is ConvPass.WGRAD else first.shape[2]
        self._count(8 * out.size * summed, first.nbytes + second.nbytes + add * out.nbytes, out.nbytes)
        super().product(conv_pass, first, second, out, scale, add, mode)

    def forward(self, planes, spectra, by_bins):
        return self._counted(super().forward(planes, spectra, by_bins), planes, spectra, planes)

    def inverse(self, spectra, planes, by_bins):
        return self._counted(super().inverse(spectra, planes, by_bins), spectra, planes, planes)

    def _counted(self, run, source, target, planes):
        def counted():
            flops = len(planes) * real_fft_flops(math.prod(planes.shape[1:]))
            self._count(flops, source.nbytes, target.nbytes)
            run()

        return counted


def test_the_work_of_each_phase_is_what_the_arrays_do():
    rng, seen = random.Random(5), set()
    for case in random_cases(seed=52, count=250, max_macs=8000):
        arrays = Counting()
        plan = CufftPlan(random_planner(rng, case), Operands(case.problem, case.dtype, 1), arrays)
        done = [dict.fromkeys(arrays.counts, 0) for _ in plan.work.phases]
        for phase, step in plan._steps:
            arrays.counts = done[phase]
            step()
        stated = [
            {"flops": phase.flops, "read": phase.bytes_read, "written": phase.bytes_written, "launches": phase.launches}
            for phase in plan.work.phases
        ]
        of = plan._planner
        assert done == stated, f"{case.label()} {case.problem.describe()} {of.steps} {of.chunk}"
        seen.add((case.conv_pass, of.tiled, of.by_bins, of.chunks > 1, case.epilogue))
    assert len(seen) > 20


def test_work_by_hand():
    # 2 images of 3 × 12 → 4 filters of 3 taps, 4 outputs a tile: 3 tiles an image, the last of 2; 6 points, 4 bins.
    shape = Problem(batch=2, in_channels=3, out_channels=4, input_size=(12,), filter_size=(3,))
    made = CufftPlanner(make_case(shape), (4,))
    transform = round(2.5 * 6 * math.log2(6))
    first, second, product, last = made.work().phases
    assert [phase.name for phase in (first, second, product, last)] == [
        "transform x", "transform w", "product", "inverse y",
    ]  # fmt: skip
    assert (first.flops, second.flops, last.flops) == (transform * 18, transform * 12, transform * 24)
    assert product.flops == 8 * (6 * 3 * 4) * 4
    # Tiles hold 6, 6 and 4 of the 12 elements; 18 planes of 6 points are read, and as many spectra of 4 bins written.
    assert (first.bytes_read, first.bytes_written) == (4 * (2 * 3 * 16 + 18 * 6), 4 * (2 * 3 * 16 + 18 * 8))
    assert first.launches == 2 + 1  # two tiles alike, and the last
    assert made.buffer_bytes == 4 * (18 + 12 + 24) * (6 + 8)


def test_phases_are_named_and_timed_in_the_order_of_the_work():
    names = {
        ConvPass.FPROP: ["transform x", "transform w", "product", "inverse y"],
        ConvPass.DGRAD: ["transform dy", "transform w", "product", "inverse dx"],
        ConvPass.WGRAD: ["transform dy", "transform x", "product", "inverse dw"],
    }
    for conv_pass in ConvPass:
        case = make_case(problem(batch=4), conv_pass)
        made = CufftPlanner(case, (3, 3), CufftPlanner(case, (3, 3))._workspace(2))
        plan = CufftPlan(made, Operands(case.problem, case.dtype, 1), NumpyArrays())
        assert [phase.name for phase in plan.work.phases] == names[conv_pass]
        plan.run()
        expected = plan.output()
        plan.poison()
        seconds = plan.run_phases(CountingClock())
        np.testing.assert_array_equal(plan.output(), expected)
        # Two chunks; the filter is transformed once, and dw once transformed back.
        assert seconds == ([2, 2, 2, 1] if conv_pass is ConvPass.WGRAD else [2, 1, 2, 2])


class CountingClock:
    """A second for each sample."""

    def sample(self, run, launches):
        run()
        return Sample(float(launches))


# Memory


def test_the_workspace_is_what_the_buffers_hold():
    for case, _, plan in random_plans(77, 60):
        held = sum(array.nbytes for array in (*plan._planes.values(), *plan._spectra.values()))
        assert plan.workspace_bytes == held, case.problem.describe()
        assert plan.workspace_bytes <= plan._planner.workspace_bytes


def test_what_cufft_asks_for_counts_against_the_limit():
    case = make_case(problem())
    made = whole_planner(case, 1 << 20)
    arrays = NumpyArrays()
    arrays.work_bytes = 2 << 20
    with pytest.raises(UnsupportedError, match=r"cuFFT asks for \d+ bytes of workspace, the limit is 1048576"):
        CufftPlan(made, Operands(case.problem, case.dtype, 1), arrays)
