"""Counts of work: against brute force, closed forms for huge extents, and the talk's worked example."""

import itertools
import json
import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convbench.problem import MAX_EXTENT, PRECISIONS, Axis, Case, ConvPass, Dtype, Epilogue, Problem
from convbench.work import (
    Phase,
    Work,
    axis_hits,
    axis_touched,
    compulsory_bytes,
    epilogue_flops,
    exact_flops,
    no_reuse_bytes,
    nominal_flops,
    nominal_macs,
    nominal_work,
    real_fft_flops,
)

PROPERTY = settings(max_examples=200)


def case(problem, conv_pass=ConvPass.FPROP, dtype=Dtype.FP32, epilogue=Epilogue.NONE):
    return Case(
        suite="s", name="n", problem=problem, conv_pass=conv_pass, dtype=dtype, math_mode=PRECISIONS[dtype][1],
        epilogue=epilogue,
    )  # fmt: skip


@st.composite
def axes(draw, largest=14):
    """A legal axis: any stride and dilation, uneven padding, cropped as far as one output is left."""
    extent, taps = draw(st.integers(1, largest)), draw(st.integers(1, max(2, largest // 2)))
    stride, dilation, before = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, largest // 2))
    least = dilation * (taps - 1) + 1 - extent - before
    after = draw(st.integers(least, max(least, largest // 2)))
    return Axis(extent, taps, stride, dilation, before, after)


def problem_of(axis_list, batch=1, channels=1, outputs=1, groups=1):
    return Problem(
        batch=batch,
        in_channels=groups * channels,
        out_channels=groups * outputs,
        groups=groups,
        input_size=tuple(axis.input for axis in axis_list),
        filter_size=tuple(axis.filter for axis in axis_list),
        stride=tuple(axis.stride for axis in axis_list),
        dilation=tuple(axis.dilation for axis in axis_list),
        padding=tuple((axis.before, axis.after) for axis in axis_list),
    )


@st.composite
def problems(draw):
    """Problems small enough to enumerate."""
    axis_list = draw(st.lists(axes(largest=5), min_size=1, max_size=3 if draw(st.booleans()) else 1))
    sizes = [draw(st.integers(low, 2)) for low in (0, 1, 1, 1)]
    return problem_of(axis_list, *sizes)


def products(p):
    """Every multiply-add as (x index, w index, y index); the x index is None where it meets padding."""
    per_group = p.in_channels // p.groups
    outputs = [range((n + b + a - d * (r - 1) - 1) // s + 1) for n, r, s, d, (b, a) in
               zip(p.input_size, p.filter_size, p.stride, p.dilation, p.padding, strict=True)]  # fmt: skip
    for n, k, c in itertools.product(range(p.batch), range(p.out_channels), range(per_group)):
        channel = k // (p.out_channels // p.groups) * per_group + c
        for out in itertools.product(*outputs):
            for tap in itertools.product(*map(range, p.filter_size)):
                at = [
                    o * s + t * d - before
                    for o, s, t, d, (before, _) in zip(out, p.stride, tap, p.dilation, p.padding, strict=True)
                ]
                inside = all(0 <= i < size for i, size in zip(at, p.input_size, strict=True))
                yield (n, channel, *at) if inside else None, (k, c, *tap), (n, k, *out)


# Counts against enumeration


@PROPERTY
@given(problems(), st.sampled_from(ConvPass), st.sampled_from(Dtype))
def test_counts_are_those_of_an_enumeration(p, conv_pass, dtype):
    every = list(products(p))
    real = [product for product in every if product[0] is not None]
    assert nominal_macs(p) == len(every)
    assert nominal_flops(p) == 2 * len(every)
    assert exact_flops(p) == 2 * len(real)

    sizes = {"x": math.prod(p.x_shape), "w": math.prod(p.w_shape), "y": math.prod(p.y_shape)}
    x_read = len({product[0] for product in real})
    elements = {
        ConvPass.FPROP: x_read + sizes["w"] + sizes["y"],
        ConvPass.DGRAD: sizes["y"] + sizes["w"] + sizes["x"],
        ConvPass.WGRAD: x_read + sizes["y"] + sizes["w"],
    }[conv_pass]
    written = {ConvPass.FPROP: "y", ConvPass.DGRAD: "x", ConvPass.WGRAD: "w"}[conv_pass]
    c = case(p, conv_pass, dtype)
    assert compulsory_bytes(c) == elements * dtype.itemsize
    assert no_reuse_bytes(c) == (2 * len(every) + sizes[written]) * dtype.itemsize
    if p.batch:
        assert compulsory_bytes(c) <= no_reuse_bytes(c)


@PROPERTY
@given(problems())
def test_nominal_flops_are_the_same_for_the_three_passes_and_exact_ones_no_more(p):
    for conv_pass in ConvPass:
        assert nominal_work(case(p, conv_pass)).executed_flops == nominal_flops(p)
    assert 0 <= exact_flops(p) <= nominal_flops(p)
    if all(before == 0 and after <= 0 for before, after in p.padding):
        assert exact_flops(p) == nominal_flops(p)


@PROPERTY
@given(problems(), st.sampled_from(ConvPass))
def test_compulsory_bytes_are_the_summed_tensors_where_every_element_is_touched(p, conv_pass):
    summed = 4 * (math.prod(p.x_shape) + math.prod(p.w_shape) + math.prod(p.y_shape))
    assert compulsory_bytes(case(p, conv_pass)) <= summed
    touched = {product[0] for product in products(p)} - {None}
    if len(touched) == math.prod(p.x_shape):
        assert compulsory_bytes(case(p, conv_pass)) == summed


def test_untouched_input_is_not_read():
    p = problem_of([Axis(9, 1, 4, 1, 0, 0)], batch=2, channels=3, outputs=5)  # of 9 elements 0, 4 and 8 are touched
    assert compulsory_bytes(case(p)) == 4 * (2 * 3 * 3 + 15 + 2 * 5 * 3)
    assert compulsory_bytes(case(p, ConvPass.WGRAD)) == compulsory_bytes(case(p))
    assert compulsory_bytes(case(p, ConvPass.DGRAD)) == 4 * (2 * 3 * 9 + 15 + 2 * 5 * 3)  # dx is written whole


def test_a_problem_whose_taps_all_meet_padding():
    p = problem_of([Axis(1, 2, 1, 2, 1, 1)])
    assert (exact_flops(p), nominal_flops(p)) == (0, 4)
    assert compulsory_bytes(case(p)) == 4 * (0 + 2 + 1)
    assert nominal_work(case(p)).arithmetic_intensity == 4 / 12


def test_a_batch_of_0():
    p = problem_of([Axis(5, 3, 1, 1, 1, 1)], batch=0)
    assert (nominal_flops(p), exact_flops(p)) == (0, 0)
    assert [compulsory_bytes(case(p, conv_pass)) for conv_pass in ConvPass] == [12, 12, 12]  # the filter
    assert nominal_work(case(p)).arithmetic_intensity == 0


# The talk's worked example


def test_the_talks_worked_example():
    p = Problem(
        batch=128,
        in_channels=3,
        out_channels=96,
        input_size=(224, 224),
        filter_size=(11, 11),
        stride=(4, 4),
        padding=((2, 2), (2, 2)),
    )
    c = case(p)
    assert p.output_size == (55, 55)
    assert nominal_macs(p) == 13_493_145_600
    assert nominal_flops(p) == 26_986_291_200

    image, weights, written = (4 * math.prod(shape) for shape in (p.x_shape, p.w_shape, p.y_shape))
    assert image + weights == 77_209_728
    assert written == 148_684_800
    assert compulsory_bytes(c) == 77_209_728 + 148_684_800
    (phase,) = nominal_work(c).phases
    assert (phase.bytes_read, phase.bytes_written) == (77_209_728, 148_684_800)

    assert round(nominal_macs(p) / image) == 175
    assert round(nominal_macs(p) / phase.bytes_read, 1) == 174.8
    assert nominal_macs(p) / (no_reuse_bytes(c) - written) == 0.125


# One axis


@PROPERTY
@given(axes())
@example(Axis(9, 2, 5, 1, 0, 0))
@example(Axis(12, 4, 2, 4, 0, 0))  # stride and dilation share a factor
@example(Axis(7, 7, 6, 1, 3, 3))  # more taps than outputs: the roles are exchanged
@example(Axis(1, 2, 1, 2, 1, 1))
def test_axis_counts_are_those_of_an_enumeration(axis):
    landings = [
        p * axis.stride + tap * axis.dilation - axis.before for p in range(axis.output) for tap in range(axis.filter)
    ]
    inside = [element for element in landings if 0 <= element < axis.input]
    assert axis_hits(axis) == len(inside)
    assert axis_touched(axis) == len(set(inside))


def progressions(axis):
    """(start, step, length) of arithmetic progressions that together are all landings, as few as possible.

    Outputs and taps are symmetric, so there is one for each of the fewer.
    """
    outputs, step, taps, spread = axis.output, axis.stride, axis.filter, axis.dilation
    if taps > outputs:
        outputs, step, taps, spread = taps, spread, outputs, step
    return [(tap * spread - axis.before, step, outputs) for tap in range(taps)]


def clipped(start, step, length, extent):
    """(residue, low, high): a progression inside [0, extent) as residue + step·[low, high]; empty if high < low."""
    quotient, residue = divmod(start, step)
    return residue, max(quotient, 0), min(quotient + length - 1, (extent - 1 - residue) // step)


def hits_by_progression(axis):
    parts = [clipped(*progression, axis.input) for progression in progressions(axis)]
    return sum(max(0, high - low + 1) for _, low, high in parts)


def touched_by_intervals(axis):
    """Per residue modulo the step, the length of a union of sorted intervals."""
    groups = {}
    for progression in progressions(axis):
        residue, low, high = clipped(*progression, axis.input)
        groups.setdefault(residue, []).append((low, high))
    total = 0
    for group in groups.values():
        end = -1
        for low, high in sorted(group):
            total += max(0, high - max(low, end + 1) + 1)
            end = max(end, high)
    return total


@PROPERTY
@given(axes())
def test_the_oracles_for_huge_axes_agree_with_an_enumeration(axis):
    landings = [start + step * i for start, step, length in progressions(axis) for i in range(length)]
    inside = [element for element in landings if 0 <= element < axis.input]
    assert hits_by_progression(axis) == len(inside)
    assert touched_by_intervals(axis) == len(set(inside))


@st.composite
def huge_axes(draw):
    """Axes with extents up to the largest, and few taps or few outputs, so that the oracles stay quick."""
    steps = st.sampled_from([1, 2, 3, 4, 6, 10, 1000, 2**16, 2**20 + 1, 10**9]).flatmap(lambda top: st.integers(1, top))
    extent = draw(st.integers(1, MAX_EXTENT) | st.integers(MAX_EXTENT - 9, MAX_EXTENT))
    before = draw(st.sampled_from([0, 1, 3, 1000, MAX_EXTENT]))
    after = draw(st.sampled_from([0, 1, 2, 999, MAX_EXTENT, -1, -extent // 3]))
    padded = max(1, extent + before + after)
    stride, dilation = draw(steps), draw(steps)
    longest = min((padded - 1) // dilation + 1, MAX_EXTENT)
    if draw(st.booleans()):
        taps = draw(st.integers(1, min(40, longest)))
    else:  # any filter, few outputs
        taps = draw(st.integers(1, longest))
        stride = max(stride, (padded - (taps - 1) * dilation) // 40 + 1)
    return Axis(extent, taps, stride, dilation, before, padded - extent - before)


@PROPERTY
@given(huge_axes())
def test_huge_axes_against_the_fewer_of_taps_and_outputs(axis):
    assert axis.output >= 1
    assert axis_hits(axis) == hits_by_progression(axis)
    assert axis_touched(axis) == touched_by_intervals(axis)


N = MAX_EXTENT
HALF = 2**30
CLOSED_FORMS = {
    # what: (axis, pairs that hit, elements touched)
    "one tap": (Axis(N, 1, 1, 1, 0, 0), N, N),
    "one tap, every second element": (Axis(N, 1, 2, 1, 0, 0), HALF, HALF),
    "three taps, same padding": (Axis(N, 3, 1, 1, 1, 1), 3 * N - 2, N),
    "three taps, no padding": (Axis(N, 3, 1, 1, 0, 0), 3 * (N - 2), N),
    "stride beyond the filter": (Axis(N, 3, 7, 1, 0, 0), 3 * ((N - 3) // 7 + 1), 3 * ((N - 3) // 7 + 1)),
    # same padding, odd filter f = 2h + 1: n·f less the triangles h·(h + 1)/2 at both ends
    "half as long a filter, same padding": (
        Axis(N, HALF + 1, 1, 1, HALF // 2, HALF // 2), N * (HALF + 1) - HALF // 2 * (HALF // 2 + 1), N,
    ),
    "a filter as long as the input": (Axis(N, N, 1, 1, 0, 0), N, N),
    "full padding": (Axis(N, N, 1, 1, N - 1, N - 1), N * N, N),
    "two far taps that overlap": (Axis(N, 2, 1, 10**9, 0, 0), 2 * (N - 10**9), N),
    "two far taps with a gap": (Axis(N, 2, 1, 15 * 10**8, 0, 0), 2 * (N - 15 * 10**8), 2 * (N - 15 * 10**8)),
    "stride and dilation alike": (Axis(N, HALF // 2, 2, 2, 0, 0), HALF // 2 * (HALF - HALF // 2 + 1), HALF),
    "three outputs of a long filter": (Axis(N, 10**8, 10**9, 1, 0, 0), 3 * 10**8, 3 * 10**8),
    "cropped to one output": (Axis(N, 5, 3, 2, 0, 9 - N), 5, 5),
    "all in padding": (Axis(1, 2, 1, N - 1, HALF - 1, HALF - 1), 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("what", CLOSED_FORMS)
def test_huge_axes_in_closed_form_at_once(what):
    axis, hits, touched = CLOSED_FORMS[what]
    started = time.process_time()
    assert axis_hits(axis) == hits
    assert axis_touched(axis) == touched
    assert time.process_time() - started < 1  # one step per element would take minutes


@pytest.mark.parametrize(("stride", "dilation"), [(50_021, 46_001), (46_001, 50_021), (60_000, 40_000)])
def test_the_most_classes_that_fit_are_counted_at_once(stride, dilation):
    axis = Axis(N, 20_000, stride, dilation, N, N)
    started = time.process_time()
    assert axis_touched(axis) == touched_by_intervals(axis)
    assert axis_hits(axis) == hits_by_progression(axis)
    assert time.process_time() - started < 2


def test_counts_beyond_64_bits_are_exact_integers():
    p = problem_of([Axis(N, 3, 1, 1, 1, 1)] * 3, batch=N, channels=N, outputs=N)
    assert nominal_flops(p) == 2 * N**3 * (3 * N) ** 3 > 2**63
    assert exact_flops(p) == 2 * N**3 * (3 * N - 2) ** 3
    c = case(p, dtype=Dtype.FP64)
    assert compulsory_bytes(c) == 8 * (2 * N * N * N**3 + N * N * 27)
    assert no_reuse_bytes(c) == 8 * (2 * N**3 * (3 * N) ** 3 + N * N * N**3)
    counts = [nominal_macs(p), nominal_flops(p), exact_flops(p), compulsory_bytes(c), no_reuse_bytes(c)]
    counts += [nominal_work(c).executed_flops, nominal_work(c).traffic_bytes]
    assert {type(count) for count in counts} == {int}


# Epilogues, transforms, phases


@pytest.mark.parametrize(
    ("epilogue", "flops_per_output", "biases"), [("none", 0, 0), ("bias", 1, 1), ("bias+relu", 2, 1)]
)
@pytest.mark.parametrize("dtype", list(Dtype))
def test_an_epilogue_adds_its_own(epilogue, flops_per_output, biases, dtype):
    p = problem_of([Axis(6, 3, 1, 1, 1, 1)], batch=2, channels=3, outputs=5)
    plain, with_epilogue = case(p, dtype=dtype), case(p, dtype=dtype, epilogue=Epilogue(epilogue))
    outputs = 2 * 5 * 6
    assert epilogue_flops(with_epilogue) == flops_per_output * outputs
    assert compulsory_bytes(with_epilogue) - compulsory_bytes(plain) == biases * 5 * dtype.itemsize
    (before,), (after,) = nominal_work(plain).phases, nominal_work(with_epilogue).phases
    assert after.flops - before.flops == flops_per_output * outputs
    assert after.bytes_written == before.bytes_written == outputs * dtype.itemsize
    assert after.bytes_read - before.bytes_read == biases * 5 * dtype.itemsize
    assert nominal_flops(p) == before.flops  # the problem's own count leaves the epilogue out


@pytest.mark.parametrize(
    ("points", "flops"),
    [(0, 0), (1, 0), (2, 5), (3, 12), (4, 20), (8, 60), (16, 160), (256, 5120), (1024, 25_600), (10**6, 49_828_921)],
)
def test_real_fft_flops(points, flops):
    got = real_fft_flops(points)
    assert (got, type(got)) == (flops, int)  # 2.5·n·log₂n, rounded


@PROPERTY
@given(problems(), st.sampled_from(ConvPass))
def test_nominal_work_is_one_phase_of_compulsory_bytes(p, conv_pass):
    c = case(p, conv_pass)
    (phase,) = nominal_work(c).phases
    assert phase.traffic_bytes == phase.footprint_bytes == compulsory_bytes(c)
    assert phase.bytes_written == 4 * math.prod(c.output_shape)
    assert phase.bytes_read >= 0
    assert phase.launches == 1


counts = st.integers(0, 2**80)
phases = st.builds(
    Phase, name=st.text(max_size=8), flops=counts, bytes_read=counts, bytes_written=counts, footprint_bytes=counts,
    launches=st.integers(1, 100), math_mode=st.sampled_from(["", "fp32", "tf32"]),
)  # fmt: skip


@PROPERTY
@given(st.lists(phases, max_size=4))
def test_work_survives_a_file_and_sums_its_phases(phase_list):
    work = Work(tuple(phase_list))
    assert Work.from_list(json.loads(json.dumps(work.to_list()))) == work
    assert work.executed_flops == sum(phase.flops for phase in phase_list)
    assert work.traffic_bytes == sum(phase.bytes_read + phase.bytes_written for phase in phase_list)
    if work.traffic_bytes:
        assert work.arithmetic_intensity == work.executed_flops / work.traffic_bytes
    else:
        assert work.arithmetic_intensity is None


def test_a_phase_launches_once_unless_it_says_otherwise():
    fields = {"name": "gather", "flops": 0, "bytes_read": 8, "bytes_written": 8, "footprint_bytes": 16}
    assert Work.from_list([fields]).to_list() == [fields | {"launches": 1}]
