"""The cufft backend's arithmetic on NumPy: results, counts of work, tiles and chunks, memory, what it declines."""

import math
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from fft_arrays import NumpyArrays, NumpyCufft
from hypothesis import given
from hypothesis import strategies as st

from convbench import verify
from convbench.backends import AUTO, PlanOptions, Sample
from convbench.backends import cuda as cuda_module
from convbench.backends.cpu.fft_tiles import results
from convbench.backends.cufft import CufftBackend, planner
from convbench.backends.cufft.convolution import CufftPlan
from convbench.backends.cufft.planner import CufftPlanner, best_planner, whole_planner
from convbench.backends.cufft.runs import CufftAxis, filter_places, like_tiles, next_length
from convbench.errors import InputError, UnsupportedError
from convbench.operands import Operands
from convbench.problem import PRECISIONS, Axis, Case, ConvPass, Epilogue, Layout, Problem
from convbench.testing import check_backend, random_cases, random_problem
from convbench.work import real_fft_flops

AXES = st.builds(
    lambda extra, taps, stride, dilation, before, after: Axis(
        max(1, dilation * (taps - 1) + 1 - before - after) + extra, taps, stride, dilation, before, after
    ),
    st.integers(0, 30), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 8), st.integers(-3, 8),
)  # fmt: skip


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
        plan = NumpyCufft().plan(make_case(shape, conv_pass), "fft", Operands(shape, PRECISIONS["fp32"][0], 1),
                                 PlanOptions())  # fmt: skip
        plan.run()
        assert not plan.output().any()
        assert (plan.work.executed_flops, plan.workspace_bytes) == (0, 0)
        assert sum(phase.launches for phase in plan.work.phases) == (conv_pass is ConvPass.WGRAD)


# Where elements lie


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 9)), max_size=12), st.integers(1, 3))
def test_runs_hold_what_the_tiles_hold(drawn, step):
    parts = [(slice(low, low + n), slice(start, start + n * step, step)) for low, n, start in drawn]
    due = [
        (tile, row, element)
        for tile, (rows, elements) in enumerate(parts)
        for row, element in zip(range(rows.start, rows.stop), range(elements.start, elements.stop, step), strict=True)
    ]
    runs = like_tiles(parts)
    held = [
        (run.first + i, run.rows.start + j, run.start + i * run.between + j * run.step)
        for run in runs
        for i in range(run.tiles)
        for j in range(run.length)
    ]
    assert held == due
    assert sum(run.elements for run in runs) == len(due)


def test_tiles_inside_a_plane_are_one_run():
    # 100 outputs of 3 taps with padding 1, 10 a tile: the first and last tile meet padding, the others are alike.
    (runs,) = CufftAxis(Axis(100, 3, 1, 1, 1, 1), ConvPass.FPROP, 10).x_runs
    assert [(run.first, run.tiles, run.start, run.between) for run in runs] == [
        (0, 1, 0, 0),
        (1, 8, 9, 10),
        (9, 1, 89, 0),
    ]


@given(AXES, st.sampled_from(ConvPass), st.integers(1, 40))
def test_there_are_few_runs_and_all_elements_that_count(axis, conv_pass, step):
    """However many tiles: those that meet a border differ, which is a few per border."""
    tiled = CufftAxis(axis, conv_pass, step)
    border = 2 + sum(-(-(extent + axis.reach) // step) for extent in (axis.before, max(0, axis.after)))
    assert all(len(runs) <= 2 * border + 2 for runs in (*tiled.x_runs, tiled.y_runs))
    if conv_pass is not ConvPass.DGRAD:
        assert sum(run.elements for run in tiled.y_runs) == axis.output


@given(AXES)
def test_every_tap_lies_in_one_row_of_one_phase(axis):
    places = filter_places(axis)
    taps = [tap for _, part in places for tap in range(axis.filter)[part]]
    assert sorted(taps) == [*range(axis.filter)]
    assert all(len(range(rows.stop)[rows]) == len(range(axis.filter)[part]) for rows, part in places)


@given(st.integers(1, 5000))
def test_lengths_have_no_prime_factor_above_seven_and_none_is_shorter(target):
    def smooth(number):
        for prime in (2, 3, 5, 7):
            while number % prime == 0:
                number //= prime
        return number == 1

    assert next_length(target) == next(n for n in range(target, 2 * target + 1) if smooth(n))


def test_lengths_are_even_on_the_innermost_axis():
    made = CufftPlanner(make_case(problem(input_size=(7, 7), filter_size=(3, 3))))
    assert made.fft_size == (7, 8)


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

    def product(self, conv_pass, first, second, out, scale, add):
        summed = first.shape[1] if conv_pass is ConvPass.WGRAD else first.shape[2]
        self._count(8 * out.size * summed, first.nbytes + second.nbytes + add * out.nbytes, out.nbytes)
        super().product(conv_pass, first, second, out, scale, add)

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


# Memory, and which tiles are taken


def test_a_limit_on_workspace_cuts_the_batch_into_equal_chunks_and_then_declines():
    case = make_case(problem(batch=12))
    whole = whole_planner(case)
    assert whole.chunk == 12
    less = whole_planner(case, whole.workspace_bytes - 1)
    assert less.chunk == 6
    assert less.workspace_bytes < whole.workspace_bytes
    one = CufftPlanner(case)._workspace(1)
    assert whole_planner(case, one).chunk == 1
    found = NumpyCufft().algorithms(case, PlanOptions(workspace_limit_bytes=one - 1))
    by_name = {candidate.algorithm: candidate.reason for candidate in found}
    assert by_name["fft-whole"] == f"{one} bytes of workspace for one image at a time, the limit is {one - 1}"
    with pytest.raises(UnsupportedError, match="for one image at a time"):
        NumpyCufft().plan(case, "fft-whole", Operands(case.problem, case.dtype, 1),
                          PlanOptions(workspace_limit_bytes=one - 1))  # fmt: skip


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
    with pytest.raises(UnsupportedError, match=r"cuFFT asks for .* bytes of workspace, the limit is 1048576"):
        CufftPlan(made, Operands(case.problem, case.dtype, 1), arrays)


LARGE = {
    "a row": Problem(batch=4, in_channels=16, out_channels=16, input_size=(2**20,), filter_size=(33,)),
    "a plane": Problem(batch=32, in_channels=64, out_channels=64, input_size=(224, 224), filter_size=(5, 5)),
    "strides": Problem(batch=32, in_channels=3, out_channels=64, input_size=(512, 512), filter_size=(11, 11),
                       stride=(4, 4)),
    "three axes": Problem(batch=2, in_channels=8, out_channels=8, input_size=(128,) * 3, filter_size=(5,) * 3),
}  # fmt: skip


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", LARGE.values(), ids=LARGE)
def test_large_planes_have_tiles_and_the_choice_is_the_quicker(shape, conv_pass):
    case = make_case(shape, conv_pass)
    by_name = {candidate.algorithm: candidate for candidate in CufftBackend().algorithms(case)}
    assert by_name["fft-tiled"].resolved.startswith("fft-tiled-")
    best, whole = best_planner(case), whole_planner(case)
    assert best.seconds <= whole.seconds
    assert by_name[AUTO].resolved == by_name["fft"].resolved == best.algorithm
    for axis, steps in zip(shape.axes, best.steps or (), strict=False):
        assert steps <= len(results(axis, conv_pass))


def test_more_elements_than_cufft_counts_are_cut_or_declined(monkeypatch):
    case = make_case(problem(batch=8, out_channels=1))
    monkeypatch.setattr(planner, "MOST_ELEMENTS", CufftPlanner(case)._spanned(2))
    assert CufftPlanner(case).chunk == 2
    assert CufftPlanner(case).reason is None
    monkeypatch.setattr(planner, "MOST_ELEMENTS", 10)
    assert "more than 32 bits count" in CufftPlanner(case).reason


# What is declined, and what is listed


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_other_precisions_are_declined(precision):
    found = CufftBackend().algorithms(make_case(problem(), precision=precision))
    assert {c.reason for c in found} == {f"cuFFT and cuBLAS are measured in fp32 and fp64, not in {precision}"}


def test_too_many_phases_and_planes_without_tiles_are_declined():
    many = problem(input_size=(99, 99), filter_size=(40, 40), stride=(40, 40))
    assert "1600 phases, more than 1024" in CufftBackend().algorithms(make_case(many))[0].reason
    small = {c.algorithm: c.reason for c in CufftBackend().algorithms(make_case(problem(input_size=(5, 5))))}
    assert small["fft-tiled"] == "no tile that is tried is smaller than the plane"
    assert small[AUTO] is small["fft"] is small["fft-whole"] is None


def test_an_unknown_algorithm():
    case = make_case(problem())
    with pytest.raises(InputError, match="unknown algorithm 'winograd' of backend cufft"):
        CufftBackend().plan(case, "winograd", Operands(case.problem, case.dtype, 1), PlanOptions())


def test_without_a_gpu_algorithms_are_listed_and_plans_say_why_there_are_none(monkeypatch):
    monkeypatch.setattr(cuda_module, "unusable", lambda: "no driver")
    backend, case = CufftBackend(), make_case(problem())
    assert backend.probe() == "no driver"
    assert backend.listed_for() == "cufft's algorithms are those for any GPU; none can run here: no driver"
    auto, *named = backend.algorithms(case)
    assert (auto.algorithm, auto.resolves_to, auto.resolved) == (AUTO, "fft", "fft-whole")
    assert [c.algorithm for c in named] == ["fft", "fft-whole", "fft-tiled"]
    with pytest.raises(UnsupportedError, match=r"^no driver$"):
        backend.plan(case, AUTO, Operands(case.problem, case.dtype, 1), PlanOptions())


def test_importing_and_listing_are_light():
    script = (
        "import sys, convbench.backends.cufft as c\n"
        "from convbench.problem import *\n"
        "p = Problem(batch=1, in_channels=1, out_channels=1, input_size=(99, 99), filter_size=(3, 3))\n"
        "c.CufftBackend().algorithms(Case(suite='', name='', problem=p, conv_pass=ConvPass.FPROP))\n"
        "print(*({'numpy', 'scipy', 'cupy'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == ""
