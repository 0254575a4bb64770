"""Counts in columns: equal to those of work.py and roofline.py, row by row."""

import math
import random
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbench import counts
from convbench.ceilings import Ceiling, Ceilings
from convbench.counts import LARGE, PER_AXIS, PER_PROBLEM, Cases, Problems
from convbench.errors import InputError
from convbench.problem import MAX_EXTENT, PRECISIONS, ConvPass, Dtype, Epilogue, MathMode, Problem
from convbench.roofline import Bound, Thresholds, place, place_nominal
from convbench.testing import random_problem
from convbench.work import compulsory_bytes, exact_flops, no_reuse_bytes, nominal_flops, nominal_macs, nominal_work

PROPERTY = settings(max_examples=100)
TOPS = (4, 300, 2**16, MAX_EXTENT, MAX_EXTENT)
ASKED = [(conv_pass, Epilogue.NONE) for conv_pass in ConvPass] + [
    (ConvPass.FPROP, Epilogue.BIAS), (ConvPass.FPROP, Epilogue.BIAS_RELU),
]  # fmt: skip


def size(rng, top):
    """1 to `top`, as many of each magnitude."""
    return min(top, int(2 ** rng.uniform(0, math.log2(top + 1))))


def random_axis(rng):
    """(input, filter, stride, dilation, (before, after)): every magnitude, padding both ways, dilation > input too."""
    while True:
        extent, taps, stride, dilation = (size(rng, rng.choice(TOPS)) for _ in range(4))
        before = rng.choice([0, size(rng, taps), size(rng, rng.choice(TOPS))])
        least = max(dilation * (taps - 1) + 1 - extent - before, -MAX_EXTENT)
        after = max(least, rng.choice([0, before, least, -size(rng, extent), size(rng, rng.choice(TOPS))]))
        if after <= MAX_EXTENT:
            return extent, taps, stride, dilation, (before, after)


def problem_of(axes, batch=1, channels=1, maps=1, groups=1):
    extent, taps, stride, dilation, padding = zip(*axes, strict=True)
    return Problem(
        batch=batch, in_channels=groups * channels, out_channels=groups * maps, groups=groups, input_size=extent,
        filter_size=taps, stride=stride, dilation=dilation, padding=padding,
    )  # fmt: skip


def wild_problem(rng):
    axes = [random_axis(rng) for _ in range(rng.choice([1, 1, 2, 3]))]
    top = rng.choice([1, 8, 2**15])
    return problem_of(axes, rng.choice([0, size(rng, top)]), *(size(rng, top) for _ in range(3)))


def random_problems(seed, count):
    rng = random.Random(seed)
    return [wild_problem(rng) if rng.random() < 0.7 else random_problem(rng) for _ in range(count)]


def assert_equal(column, expected):
    """Value and type; object columns hold Python integers and nothing else."""
    got = column.tolist()
    assert got == expected
    assert {type(count) for count in got} <= {int}


def assert_counts(problems, precision="fp32"):
    """All columns against the scalar functions."""
    columns = Problems.of(problems)
    ndim = len(columns.output_size)
    assert columns.output_size.T.tolist() == [[1] * (ndim - p.ndim) + list(p.output_size) for p in problems]
    for column, count in ((columns.nominal_macs, nominal_macs), (columns.nominal_flops, nominal_flops),
                          (columns.exact_flops, exact_flops)):  # fmt: skip
        assert_equal(column, [count(p) for p in problems])
    dtype, math_mode = PRECISIONS[precision]
    for conv_pass, epilogue in ASKED:
        asked = Cases(problems=columns, conv_pass=conv_pass, dtype=dtype, math_mode=math_mode, epilogue=epilogue)
        cases = [asked.case(p) for p in problems]
        least, most = [compulsory_bytes(c) for c in cases], [no_reuse_bytes(c) for c in cases]
        assert_equal(asked.flops, [nominal_work(c).executed_flops for c in cases])
        assert_equal(asked.compulsory_bytes, least)
        assert_equal(asked.no_reuse_bytes, most)
        read = [math.prod(p.x_shape) * dtype.itemsize for p in problems]
        for ratio, over, under in (
            (asked.flop_per_byte, columns.nominal_flops, least),
            (asked.flop_per_byte_no_reuse, columns.nominal_flops, most),
            (asked.mac_per_input_byte, columns.nominal_macs, read),
        ):
            expected = [a / b if b else math.nan for a, b in zip(over.tolist(), under, strict=True)]
            assert ratio.tolist() == pytest.approx(expected, rel=1e-15, nan_ok=True)
    return columns


# Counts


@pytest.mark.parametrize(("seed", "precision"), list(enumerate(PRECISIONS)))
def test_thousands_of_random_problems(seed, precision):
    problems = random_problems(seed, 800)
    columns = assert_counts(problems, precision)
    assert 20 < columns.large.size < 200
    small = np.delete(np.arange(len(problems)), columns.large)
    plain = assert_counts([problems[row] for row in small], precision)
    assert plain.exact_flops.dtype == plain.nominal_macs.dtype == np.int64
    assert (plain.input_size > 2**24).any(axis=0).sum() > 20  # huge, and still counted in int64


problem_lists = st.lists(
    st.builds(wild_problem, st.randoms(use_true_random=False)) | st.builds(random_problem, st.randoms()), max_size=5
)


@PROPERTY
@given(problem_lists, st.sampled_from(list(PRECISIONS)))
def test_any_problems(problems, precision):
    assert_counts(problems, precision)


axes = st.tuples(*[st.integers(1, 9)] * 2, *[st.integers(1, 6)] * 2, st.tuples(st.integers(0, 9), st.integers(-9, 9)))


@PROPERTY
@given(st.lists(axes.filter(lambda a: a[0] + sum(a[4]) > a[3] * (a[1] - 1)), min_size=1, max_size=40))
def test_small_axes(axis_list):
    assert_counts([problem_of([axis]) for axis in axis_list])


def test_seams_between_blocks(monkeypatch):
    problems = random_problems(7, 100)
    monkeypatch.setattr(counts, "BLOCK", 7)
    monkeypatch.setattr(counts, "PAIRS", 3)
    assert_counts(problems)


def test_more_rows_than_a_block_holds():
    rng = np.random.default_rng(0)
    rows = 2 * counts.BLOCK + 5
    taps = rng.integers(1, 8, (2, rows))
    columns = Problems(
        batch=rng.integers(0, 9, rows), in_channels=rng.integers(1, 9, rows), out_channels=rng.integers(1, 9, rows),
        groups=np.ones(rows, dtype=np.int32), input_size=rng.integers(37, 99, (2, rows)), filter_size=taps,
        stride=rng.integers(1, 5, (2, rows)), dilation=rng.integers(1, 7, (2, rows)), before=taps // 2, after=taps // 3,
    )  # fmt: skip
    cases = Cases(problems=columns, conv_pass=ConvPass.WGRAD)
    for row in [0, counts.BLOCK // 2, counts.BLOCK - 1, *rng.integers(0, rows, 300).tolist(), rows - 1]:
        problem = columns.problem(row)
        assert columns.exact_flops[row] == exact_flops(problem)
        assert cases.compulsory_bytes[row] == compulsory_bytes(cases.case(problem))


def test_long_loops_of_touched_elements():
    """Filter, stride, dilation and output all long: 30 000 classes of taps in one row, beside rows of one."""
    hard = problem_of([(MAX_EXTENT, 30_000, 30_011, 30_013, (5, 7))])
    easy = problem_of([(9, 3, 1, 1, (1, 1))])
    assert_counts([easy, hard, easy, hard])


def test_around_the_limit_of_int64():
    """Batches that put a count to either side of 2⁶² and 2⁶³; no row wraps around."""
    problems = [
        problem_of([(2**16, 2**15, 1, 1, (2**14, 2**14))], batch=2**power + more, maps=maps)
        for power in range(24, 31) for more in (-1, 0, 1) for maps in (1, 3, 8)
    ]  # fmt: skip
    columns = assert_counts(problems, "fp64")
    assert 0 < columns.large.size < len(problems)
    assert max(nominal_macs(problem) * 16 for problem in problems) > 2**63
    small = np.delete(np.arange(len(problems)), columns.large)
    asked = Cases(problems=columns, conv_pass=ConvPass.FPROP, dtype=Dtype.FP64, math_mode=MathMode.FP64)
    assert max(no_reuse_bytes(asked.case(problems[row])) for row in small) <= LARGE


def test_a_large_row_makes_columns_of_python_integers():
    small, large = problem_of([(5, 3, 1, 1, (1, 1))]), problem_of([(2**31 - 1, 1, 1, 1, (0, 0))] * 3)
    for problems, dtype in (([small], np.int64), ([small, large], object)):
        columns = Problems.of(problems)
        cases = Cases(problems=columns, conv_pass=ConvPass.FPROP)
        for column in (columns.nominal_macs, columns.nominal_flops, columns.exact_flops, cases.flops,
                       cases.compulsory_bytes, cases.no_reuse_bytes):  # fmt: skip
            assert column.dtype == dtype
    assert columns.nominal_macs.tolist() == [15, (2**31 - 1) ** 3]


def test_a_batch_of_0_is_never_large_for_its_multiply_adds():
    huge = problem_of([(MAX_EXTENT, 2**20, 1, 1, (0, MAX_EXTENT))] * 3, batch=0)
    assert not Problems.of([replace(huge, out_channels=1, filter_size=(2**20, 2**20, 1))]).large.size
    assert_counts([replace(huge, filter_size=(2**20, 2**20, 1)), huge])


def test_no_problems():
    columns = assert_counts([])
    assert len(columns) == 0
    placed = place_nominal(Cases(problems=columns, conv_pass=ConvPass.FPROP), ceilings())
    assert placed.floor_s.shape == placed.bound.shape == (0,)


def test_of_fills_up_with_axes_in_front():
    three = problem_of([(5, 3, 2, 1, (1, -1)), (6, 2, 1, 2, (0, 0)), (7, 1, 1, 1, (0, 2))])
    one = problem_of([(9, 3, 2, 1, (1, 0))], batch=2, channels=3, maps=4, groups=5)
    columns = Problems.of([one, three])
    assert columns.problem(1) == three
    assert columns.problem(0) == replace(one, input_size=(1, 1, 9), filter_size=(1, 1, 3), stride=(1, 1, 2),
                                         dilation=(1, 1, 1), padding=((0, 0), (0, 0), (1, 0)))  # fmt: skip
    assert Problems.of([one]).problem(0) == one


# What is refused


def arrays(problems):
    columns = Problems.of(problems)
    return {f.name: getattr(columns, f.name).copy() for f in fields(columns)}


@PROPERTY
@given(
    st.integers(0, 10**9),
    st.lists(st.tuples(
        st.sampled_from(list(PER_PROBLEM | PER_AXIS)), st.integers(0, 2), st.integers(0, 1),
        st.integers(-12, 12) | st.sampled_from([MAX_EXTENT, MAX_EXTENT + 1, -MAX_EXTENT, -MAX_EXTENT - 1, 2**62]),
    ), max_size=3),
)  # fmt: skip
def test_refused_where_a_problem_would_be_and_in_its_words(seed, changes):
    columns = arrays([problem_of([random_axis(random.Random(seed + row))] * 2) for row in range(3)])
    for name, row, axis, value in changes:
        column = columns[name]
        column[(row,) if column.ndim == 1 else (axis, row)] = value
    expected = []
    for row in range(3):
        one = {name: column[..., row].tolist() for name, column in columns.items()}
        padding = tuple(zip(one.pop("before"), one.pop("after"), strict=True))
        try:
            Problem(**one, padding=padding)
        except InputError as error:
            expected.append(f"problem {row}: {error}")
    if not expected:
        assert len(Problems(**columns)) == 3
        return
    with pytest.raises(InputError) as caught:
        Problems(**columns)
    assert str(caught.value) in expected


def test_a_filter_as_long_as_the_padded_input_is_the_longest():
    columns = arrays([problem_of([(9, 5, 1, 2, (0, 0)), (7, 1, 1, 1, (0, 0))])] * 2)
    assert Problems(**columns).output_size[:, 1].tolist() == [1, 7]
    columns["after"][0, 1] = -1
    with pytest.raises(InputError, match=r"problem 1: filter_size_h spans 9 elements .* has 8: no output is left"):
        Problems(**columns)


@pytest.mark.parametrize(("name", "value", "text"), [
    ("batch", [1.0, 2.0], r"batch must be an array of integers of shape \(2,\), got float64 of shape \(2,\)"),
    ("groups", [True, True], "groups must be an array of integers .* got bool"),
    ("groups", [1], r"groups must be .* of shape \(2,\), got int64 of shape \(1,\)"),
    ("batch", 3, r"batch must be .* of shape \(1,\), got int64 of shape \(\)"),
    ("stride", [1, 1], r"stride must be .* of shape \(1, 2\), got int64 of shape \(2,\)"),
    ("input_size", 5, r"input_size must have 1, 2 or 3 rows, one per axis, got shape \(\)"),
    ("input_size", np.ones((4, 2), int), "input_size must have 1, 2 or 3 rows"),
    ("filter_size", np.array([[3, 2**63]], np.uint64), "problem 1: filter_size_w must be at most 2147483647 in size"),
])  # fmt: skip
def test_arrays_that_are_no_columns(name, value, text):
    columns = arrays([problem_of([(9, 3, 1, 1, (0, 0))])] * 2)
    with pytest.raises(InputError, match=text):
        Problems(**columns | {name: value})


def test_arrays_of_other_integers_are_taken():
    problems = [problem_of([(9, 3, 2, 1, (1, -1)), (8, 2, 1, 2, (0, 1))], batch=2, channels=3, groups=2)] * 3
    columns = arrays(problems)
    for other in ({name: column.astype(np.int8) for name, column in columns.items()},
                  {name: column.astype(np.int32)[..., ::-1] for name, column in columns.items()},
                  {name: column.tolist() for name, column in columns.items()}):  # fmt: skip
        taken = Problems(**other)
        assert {getattr(taken, f.name).dtype for f in fields(taken)} == {np.dtype(np.int64)}
        assert [taken.problem(row) for row in range(3)] == problems


def test_cases_that_do_not_go_together():
    columns = Problems.of([])
    with pytest.raises(InputError, match="epilogue bias belongs to fprop"):
        Cases(problems=columns, conv_pass=ConvPass.DGRAD, epilogue=Epilogue.BIAS)
    with pytest.raises(InputError, match="math mode fp64 does not go with dtype fp32"):
        Cases(problems=columns, conv_pass=ConvPass.FPROP, math_mode=MathMode.FP64)


# Placement


def ceilings(peak=60e12, dram=4.3e12, launch_s=2.4e-6, sigmas=(0.0, 0.0, 0.0)):
    def ceiling(value, sigma):
        return Ceiling(value=value, kind="measured", sigma=sigma)

    return Ceilings(
        compute={mode: ceiling(peak, sigmas[0]) for mode in MathMode},
        bandwidth={"dram": ceiling(dram, sigmas[1]), "l2": ceiling(3 * dram, 0.0)},
        capacity_bytes={"l2": 10**9},
        launch=ceiling(launch_s, sigmas[2]) if launch_s else None,
        is_gpu=True,
    )


def assert_placed(problems, machine, precision="fp32", thresholds=None):
    """All columns against `place`; returns how often each (bound, ambiguous) occurred."""
    dtype, math_mode = PRECISIONS[precision]
    columns, seen = Problems.of(problems), []
    options = {"thresholds": thresholds} if thresholds else {}
    for conv_pass, epilogue in ASKED:
        asked = Cases(problems=columns, conv_pass=conv_pass, dtype=dtype, math_mode=math_mode, epilogue=epilogue)
        got = place_nominal(asked, machine, **options)
        for row, problem in enumerate(problems):
            work = nominal_work(asked.case(problem))
            one = place(work, machine, math_mode, warm=False, **options)
            assert (got.compute_s[row], got.memory_s[row], got.latency_s, got.floor_s[row]) == (
                one.compute_s, one.memory_s, one.latency_s, one.floor_s,
            )  # fmt: skip
            seen.append((tuple(Bound)[got.bound[row]], bool(got.ambiguous[row])))
            assert seen[-1] == (one.bound, one.ambiguous)
    return {pair: seen.count(pair) for pair in seen}


@pytest.mark.parametrize("machine", [
    ceilings(), ceilings(launch_s=None), ceilings(sigmas=(0.1, 0.2, 0.3)), ceilings(sigmas=(0.0, 0.0, 0.4)),
    ceilings(1e9, 1e11, 1e-3, (0.05, 0.0, 0.0)), ceilings(1e15, 1e9, 1e-6),
])  # fmt: skip
def test_random_problems_are_placed_alike(machine):
    for seed, precision in enumerate(PRECISIONS):
        assert_placed(random_problems(100 + seed, 100), machine, precision)


def test_all_bounds_occur_ambiguous_and_not():
    rng = random.Random(5)
    problems = [problem_of([(size(rng, 99), 1, 1, 1, (2, 3))], *(size(rng, 99) for _ in range(3))) for _ in range(300)]
    machine = ceilings(1e9, 1e9, 1e-5, (0.1, 0.1, 0.1))
    assert len(assert_placed(problems, machine)) == 6
    assert_placed(problems, machine, thresholds=Thresholds(ambiguity_ratio=2.0, confidence=0.6))


@PROPERTY
@given(
    problem_lists, st.floats(1e6, 1e16), st.floats(1e6, 1e13), st.none() | st.floats(1e-9, 1e-2),
    st.tuples(*[st.just(0.0) | st.floats(1e-3, 0.5)] * 3),
)  # fmt: skip
def test_any_machine(problems, peak, dram, launch_s, sigmas):
    assert_placed(problems, ceilings(peak, dram, launch_s, sigmas))


def test_equal_times_go_to_the_first_bound():
    cases = Cases(problems=Problems.of([problem_of([(1, 1, 1, 1, (0, 0))])]), conv_pass=ConvPass.FPROP)
    for (peak, dram, launch_s), bound in {  # 2 flops, 12 bytes
        (2.0, 12.0, 1.0): Bound.COMPUTE, (2.0, 24.0, 1.0): Bound.COMPUTE, (4.0, 12.0, 1.0): Bound.BANDWIDTH,
        (4.0, 24.0, 1.0): Bound.LATENCY, (2.0, 12.0, 0.5): Bound.COMPUTE, (2.0, 24.0, 0.5): Bound.COMPUTE,
    }.items():  # fmt: skip
        placed = place_nominal(cases, ceilings(peak, dram, launch_s))
        assert tuple(Bound)[placed.bound[0]] is bound
        assert_placed([cases.problems.problem(0)], ceilings(peak, dram, launch_s, (0.0, 0.3, 0.9)))


def test_ceilings_that_are_missing():
    cases = Cases(problems=Problems.of([problem_of([(5, 3, 1, 1, (1, 1))])]), conv_pass=ConvPass.FPROP)
    with pytest.raises(InputError, match="compute ceiling for math mode fp32; this machine has none"):
        place_nominal(cases, replace(ceilings(), compute={}))
    with pytest.raises(InputError, match="bandwidth ceiling for dram; this machine has none"):
        place_nominal(cases, replace(ceilings(), bandwidth={}))


def test_the_rule_of_placement_is_imported_without_numpy(tmp_path):
    script = "import sys, convbench.roofline; print({'numpy', 'convbench.counts'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert ran.stdout.strip() == "set()"
