"""The cufft backend's planning: where elements lie, chunks, which tiles are taken, what is declined and listed."""

import subprocess
import sys

import pytest
from fft_arrays import NumpyCufft
from hypothesis import given
from hypothesis import strategies as st
from test_cufft import make_case, problem

from convbench.backends import AUTO, PlanOptions
from convbench.backends import cuda as cuda_module
from convbench.backends.cpu.fft_tiles import results
from convbench.backends.cufft import CufftBackend, planner
from convbench.backends.cufft.planner import CufftPlanner, tiled_planner, whole_planner
from convbench.backends.cufft.runs import CufftAxis, filter_places, like_tiles, next_length
from convbench.errors import InputError, UnsupportedError
from convbench.operands import Operands
from convbench.problem import Axis, ConvPass, Problem

AXES = st.builds(
    lambda extra, taps, stride, dilation, before, after: Axis(
        max(1, dilation * (taps - 1) + 1 - before - after) + extra, taps, stride, dilation, before, after
    ),
    st.integers(0, 30), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 8), st.integers(-3, 8),
)  # fmt: skip


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
    tiled, whole = tiled_planner(case), whole_planner(case)
    best = min(tiled, whole, key=lambda planner: planner.seconds)
    assert by_name[AUTO].resolved == best.algorithm
    assert by_name[AUTO].resolves_to == ("fft-tiled" if best.tiled else "fft-whole")
    assert by_name["fft-tiled"].estimated_s == tiled.seconds
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
    assert small[AUTO] is small["fft-whole"] is None


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
    assert (auto.algorithm, auto.resolves_to, auto.resolved) == (AUTO, "fft-whole", "fft-whole")
    assert [c.algorithm for c in named] == ["fft-whole", "fft-tiled"]
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
