"""Verification bites: every fault is caught, at the size that the method states, and no right result is refused."""

import functools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from faults import CASES, FAULTS, PROBLEMS, FaultyPlan, bounds, correct, make_case, run_pass

from convbench import verify
from convbench.accuracy import l2_bound
from convbench.backends import ErrorBound, PlanOptions
from convbench.backends.cpu import CpuBackend
from convbench.fused import check_epilogue
from convbench.operands import Operands
from convbench.problem import ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.testing import random_cases
from convbench.work import nominal_macs

ALGORITHMS = ("direct", "gemm", "fft")
REGIMES = {"whole": verify.SMALL_MACS, "sampled": 0}
"""SMALL_MACS that makes verification compare every element, or only those of a few planes."""

LARGE = Problem(batch=6, in_channels=16, out_channels=32, input_size=(20, 20), filter_size=(3, 3),
                padding=((1, 1), (1, 1)))  # fmt: skip
"""Large enough that only some planes are compared."""
LARGE_CASES = [make_case(LARGE, conv_pass) for conv_pass in ConvPass]


@functools.cache
def prepared(case):
    operands = Operands(case.problem, case.dtype, seed=3)
    return operands, bounds(case, operands)


def case_id(case):
    name = next((name for name, problem in PROBLEMS.items() if problem == case.problem), case.problem.describe())
    return f"{name}-{case.conv_pass}-{case.dtype}"


# Every fault is caught


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_right_result_passes(case, regime, monkeypatch):
    monkeypatch.setattr(verify, "SMALL_MACS", REGIMES[regime])
    operands, error_bounds = prepared(case)
    for bound in error_bounds.values():
        result = verify.verify(case, FaultyPlan(case, operands, bound), operands, seed=0)
        assert result.passed, result.reason
        assert result.bound_share < 1
        assert (result.compared < math.prod(case.output_shape)) <= (regime == "sampled")
    for algorithm in ALGORITHMS:
        plan = CpuBackend().plan(case, algorithm, operands, PlanOptions())
        result = verify.verify(case, plan, operands, seed=0)
        assert result.passed, result.reason


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_fault_is_caught(case, fault, monkeypatch):
    """By the bound of sums and by the wider one of an FFT, whether all elements are compared or some."""
    if not fault.applies(case):
        return  # it would change nothing here; test_every_fault_applies_somewhere counts the rest
    operands, error_bounds = prepared(case)
    for name, bound in error_bounds.items():
        for regime, small in REGIMES.items():
            monkeypatch.setattr(verify, "SMALL_MACS", small)
            result = verify.verify(case, FaultyPlan(case, operands, bound, fault), operands, seed=0)
            assert not result.passed, f"{fault.name} passes the bound of {name}, {regime}: {result}"
            assert result.reason


def test_every_fault_applies_somewhere():
    by_pass = Counter((case.conv_pass, fault.name) for case in CASES for fault in FAULTS if fault.applies(case))
    for fault in FAULTS:
        passes = {conv_pass for conv_pass in ConvPass if by_pass[conv_pass, fault.name] >= 1}
        assert passes == ({ConvPass.FPROP} if fault.name == "bias added" else set(ConvPass)), fault.name
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for conv_pass in ConvPass:
        assert sum(count for (of, _), count in by_pass.items() if of is conv_pass) >= 14


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_verify_poisons_before_it_runs(case):
    operands, error_bounds = prepared(case)
    plan = FaultyPlan(case, operands, error_bounds["direct"], next(f for f in FAULTS if f.name == "nothing written"))
    plan.array = correct(case, operands).astype(operands.dtype)  # what an earlier run left
    result = verify.verify(case, plan, operands, seed=0)
    size = math.prod(case.output_shape)
    place = (0,) * len(case.output_shape)
    assert result.reason == f"{size} of {size} elements are unwritten or not finite, the first at {place}"


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("case", [case for case in CASES if case.dtype is Dtype.FP32], ids=case_id)
def test_tf32_may_round_operands_to_11_bits_and_no_more(case, regime, monkeypatch):
    """Then an error of a rounded operand's size is no fault, and all larger ones are."""
    monkeypatch.setattr(verify, "SMALL_MACS", REGIMES[regime])
    operands, error_bounds = prepared(case)
    tf32 = replace(case, math_mode=MathMode.TF32)
    passed = {
        fault.name
        for fault in FAULTS
        if fault.applies(case)
        and verify.verify(tf32, FaultyPlan(tf32, operands, error_bounds["direct"], fault), operands, seed=0).passed
    }
    assert "operands rounded to 11 bits, as tf32" in passed
    assert passed <= {
        "operands rounded to 11 bits, as tf32",
        "accumulates in fp16",  # 11 bits too, and few terms
        "one element off by 1 % of the RMS",
        "scaled by 1.001",  # what cutting operands off at 11 bits does
    }


# The size at which an isolated error shows


def allowed_sizes(case, operands, bound, seed=3):
    """Per element: its own bound, and the size at which it alone exceeds the contraction's; the method, written out.

    Own: c·(u_mul + u_acc·√L)·√(Σa²b²) with c = 4. Contraction: z = 6 times that, with the root summed over its axis.
    For an FFT the root is the largest of the plane, and all is multiplied by the growth.
    """
    unit = 2.0**-24
    factor = 4 * (unit + unit * math.sqrt(case.accumulation_length)) * bound.growth
    squares = run_pass(
        case.conv_pass, case.problem, *(a.astype(float) ** 2 for a in (operands.x, operands.w, operands.dy))
    )
    axis = 0 if case.conv_pass is ConvPass.WGRAD else 1  # in LARGE k or c is longer than the batch
    summed = squares.sum(axis=axis, keepdims=True)
    if bound.transform_points:
        squares, summed = (array.max(axis=(2, 3), keepdims=True) for array in (squares, summed))
    own, isolated = factor * np.sqrt(squares), 6 * factor * np.sqrt(summed)
    return np.broadcast_to(own, case.output_shape), np.broadcast_to(isolated, case.output_shape)


def check_with_error(case, place, size, bound, seed=0):
    operands, _ = prepared(case)
    output = correct(case, operands)
    output[place] += size
    return verify.check(case, output, operands, bound, seed)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("algorithm", ["direct", "fft"])
@pytest.mark.parametrize("case", LARGE_CASES, ids=case_id)
class TestIsolatedError:
    def test_a_compared_element_shows_beyond_its_own_bound(self, case, algorithm, sign):
        operands, error_bounds = prepared(case)
        bound = error_bounds[algorithm]
        own, _ = allowed_sizes(case, operands, bound)
        place = (-1, -1, 1, 2)  # the last image and channel are always compared
        assert check_with_error(case, place, sign * 0.99 * own[place], bound).passed
        caught = check_with_error(case, place, sign * 1.01 * own[place], bound)
        assert not caught.passed
        assert caught.reason.startswith("element (")
        assert caught.bound_share == pytest.approx(1.01, rel=1e-3)

    def test_any_other_element_shows_beyond_the_contraction_bound(self, case, algorithm, sign):
        operands, error_bounds = prepared(case)
        bound = error_bounds[algorithm]
        own, isolated = allowed_sizes(case, operands, bound)
        place = (0, 2, 0, 1)
        # It passes with an error far beyond its own bound, so with this seed its plane is not compared.
        assert isolated[place] > 5 * own[place]
        passing = check_with_error(case, place, sign * 0.99 * isolated[place], bound)
        assert passing.passed
        assert passing.compared < math.prod(case.output_shape)
        caught = check_with_error(case, place, sign * 1.01 * isolated[place], bound)
        assert not caught.passed
        assert caught.reason.startswith(f"the sum over {caught.contracted_axis} with random signs at")
        assert caught.bound_share == pytest.approx(1.01, rel=1e-3)

    def test_root_m_times_z_times_the_largest_bound_always_shows(self, case, algorithm, sign):
        operands, error_bounds = prepared(case)
        bound = error_bounds[algorithm]
        own, _ = allowed_sizes(case, operands, bound)
        rng = np.random.default_rng(8)
        for seed in range(10):
            place = tuple(int(rng.integers(extent)) for extent in case.output_shape)
            length = max(case.output_shape[:2])
            result = check_with_error(
                case, place, sign * 1.01 * verify.SIGMAS * math.sqrt(length) * own.max(), bound, seed
            )
            assert not result.passed
            assert result.contracted_length == length


def test_large_cases_are_sampled_and_contracted_over_the_longest_axis():
    assert nominal_macs(LARGE) > verify.SMALL_MACS
    for case, axis in zip(LARGE_CASES, ("k", "c", "k"), strict=True):
        operands, error_bounds = prepared(case)
        result = verify.check(case, correct(case, operands), operands, error_bounds["direct"], seed=0)
        assert (result.passed, result.contracted_axis) == (True, axis)
        assert verify.SAMPLES <= result.compared < math.prod(case.output_shape) / 2


def test_one_percent_of_the_rms_shows_at_512_channels():
    """The method's figure: m = 512, L = 4608, an element that is not compared."""
    problem = Problem(batch=1, in_channels=512, out_channels=512, input_size=(4, 4), filter_size=(3, 3),
                      padding=((1, 1), (1, 1)))  # fmt: skip
    case = make_case(problem, ConvPass.FPROP)
    assert case.accumulation_length == 4608
    operands, _ = prepared(case)
    scale = np.sqrt(np.mean(correct(case, operands) ** 2))
    result = check_with_error(case, (0, 100, 2, 1), 0.01 * scale, ErrorBound())
    assert result.reason.startswith("the sum over k")
    assert result.contracted_length == 512


# What a verification says


def test_a_wrong_element_is_reported_with_its_place_and_what_is_allowed():
    case = make_case(PROBLEMS["dense"], ConvPass.FPROP)
    operands, _ = prepared(case)
    own = 4 * 2.0**-24 * (1 + math.sqrt(12 * 9))
    squares = run_pass(ConvPass.FPROP, case.problem, operands.x**2, operands.w**2, operands.dy)
    result = check_with_error(case, (3, 7, 15, 0), 0.5, ErrorBound())
    allowed = own * math.sqrt(squares[3, 7, 15, 0])
    assert result.reason.startswith("element (")
    assert result.reason.endswith(f" is off by 0.5, allowed {allowed:.3g} (1 of 15360 beyond)")
    assert result.max_error == pytest.approx(0.5 / np.sqrt(np.mean(correct(case, operands) ** 2)))
    assert result.rms_error == pytest.approx(result.max_error / math.sqrt(15360))
    assert result.compared == 15360


@pytest.mark.parametrize("case", LARGE_CASES + CASES[3:6] + CASES[-6:-3], ids=case_id)
def test_the_place_of_a_wrong_element_is_its_index_in_the_output(case):
    """Also where only some planes are compared: their places in the selection would tell the reader nothing."""
    place = tuple(extent - 1 for extent in case.output_shape[:2]) + (1,) * case.problem.ndim
    result = check_with_error(case, place, 1e3, ErrorBound())
    assert f"{place} is off by 1e+03" in result.reason


def test_a_wrong_shape_is_reported():
    case = make_case(PROBLEMS["1d"], ConvPass.WGRAD)
    operands, _ = prepared(case)
    result = verify.check(case, np.zeros((6, 3)), operands, ErrorBound(), seed=0)
    assert result.reason == "output has shape (6, 3), expected (6, 3, 5)"
    assert result.bound_share is None


def test_an_unwritten_element_is_reported():
    case = make_case(PROBLEMS["1d"], ConvPass.FPROP)
    operands, _ = prepared(case)
    output = correct(case, operands)
    output[2, 5, 7:9] = np.nan
    result = verify.check(case, output, operands, ErrorBound(), seed=0)
    assert result.reason == "2 of 240 elements are unwritten or not finite, the first at (2, 5, 7)"


@pytest.mark.parametrize("case", LARGE_CASES, ids=case_id)
def test_the_same_seed_gives_the_same_result(case):
    operands, _ = prepared(case)
    plan = CpuBackend().plan(case, "gemm", operands, PlanOptions())
    first, again, other = (verify.verify(case, plan, operands, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.bound_share != other.bound_share


def test_a_verification_becomes_a_dict_of_plain_values():
    case = make_case(PROBLEMS["2d"], ConvPass.DGRAD)
    operands, _ = prepared(case)
    fields = verify.check(case, correct(case, operands), operands, ErrorBound(), 0, 1e-6).to_dict()
    assert {type(value) for value in fields.values()} == {bool, str, float, int}
    assert fields["passed"] is True


# Tiers


@pytest.mark.parametrize("case", LARGE_CASES, ids=case_id)
def test_a_relative_l2_error_beyond_its_tier_is_wrong(case):
    """Each element is within its own bound: the error shows in all of them together."""
    operands, _ = prepared(case)
    right = correct(case, operands)
    noise = np.random.default_rng(3).choice([-1.0, 1.0], case.output_shape) * np.sqrt(np.mean(right**2))
    for share, passed in ((0.9, True), (1.1, False)):
        output = (right + share * l2_bound(case, 1e-6) * noise).astype(np.float32)
        result = verify.check(case, output, operands, ErrorBound(), 0, 1e-6)
        assert result.passed == passed
        assert result.accuracy == 1e-6
        assert verify.check(case, output, operands, ErrorBound(), 0).passed
    assert "the stated accuracy of 1e-06 allows" in result.reason
    assert result.bound_share == pytest.approx(1.1, rel=0.05)


def test_results_that_are_small_by_chance_raise_no_alarm():
    """A sum of nine products may be nearly 0: an error of a few roundoffs of its terms is far from it all the same."""
    case = make_case(Problem(batch=1, in_channels=1, out_channels=1, input_size=(9,), filter_size=(9,)), ConvPass.FPROP)
    small = 0
    for seed in range(200):
        operands = Operands(case.problem, case.dtype, seed)
        root = np.sqrt(np.sum(operands.x.astype(np.float64) ** 2 * operands.w.astype(np.float64) ** 2))
        right = correct(case, operands).astype(np.float64)
        small += abs(right.item()) < 0.1 * root
        for share, passed in ((0.8, True), (1.2, False)):
            error = share * 1e-6 * max(root, abs(right.item()))
            result = verify.check(case, right + error, operands, ErrorBound(growth=10), 0, 1e-6)
            assert result.passed == passed
    assert small >= 5


@pytest.mark.parametrize("accuracy", [0.0, 1e-3, math.nan])
def test_a_tier_that_says_nothing_is_refused(accuracy):
    case = LARGE_CASES[0]
    operands, _ = prepared(case)
    result = verify.check(case, correct(case, operands), operands, ErrorBound(), 0, accuracy)
    assert result.reason == f"the stated accuracy is {accuracy:g}, allowed is more than 0 and up to 0.0001"


# Degenerate extents


@pytest.mark.parametrize("conv_pass", ConvPass)
def test_an_empty_batch_passes_and_its_filter_gradient_must_be_zero(conv_pass):
    case = make_case(replace(PROBLEMS["2d"], batch=0), conv_pass)
    operands = Operands(case.problem, case.dtype, seed=0)
    for algorithm in ALGORITHMS:
        plan = CpuBackend().plan(case, algorithm, operands, PlanOptions())
        result = verify.verify(case, plan, operands, seed=0)
        assert result.passed, result.reason
        assert result.compared == math.prod(case.output_shape)
    if conv_pass is ConvPass.WGRAD:
        output = np.zeros(case.output_shape)
        output[1, 0, 0, 2] = 1e-30
        result = verify.check(case, output, operands, ErrorBound(), seed=0)
        assert not result.passed
        assert "allowed 0 " in result.reason


@pytest.mark.parametrize("batch", [1, 2, 9])
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_depthwise_contracts_over_images_or_nothing(conv_pass, batch):
    """With one channel a group, m is the batch, and 1 in wgrad: then the contraction compares every element."""
    case = make_case(replace(PROBLEMS["depthwise"], batch=batch), conv_pass)
    operands = Operands(case.problem, case.dtype, seed=0)
    result = verify.check(case, correct(case, operands), operands, ErrorBound(), seed=0)
    assert result.passed
    assert result.contracted_length == (1 if conv_pass is ConvPass.WGRAD else batch)
    wrong = correct(case, operands)
    wrong[0, 0, 1, 1] += 0.01
    assert not verify.check(case, wrong, operands, ErrorBound(), seed=0).passed


def test_output_that_only_padding_reaches_must_be_zero():
    problem = Problem(batch=1, in_channels=1, out_channels=1, input_size=(3,), filter_size=(1,), padding=((2, 0),))
    case = make_case(problem, ConvPass.FPROP)
    operands = Operands(problem, case.dtype, seed=0)
    output = correct(case, operands)
    assert output[0, 0, 0] == 0
    assert verify.check(case, output, operands, ErrorBound(), seed=0).passed
    output[0, 0, 0] = 1e-20
    result = verify.check(case, output, operands, ErrorBound(), seed=0)
    assert not result.passed
    assert result.bound_share == math.inf


# The epilogue


def fused(case, operands, order):
    """y with the steps of `order` applied."""
    y = correct(case, operands)
    bias = operands.bias.reshape(-1, *[1] * case.problem.ndim)
    for step in order:
        y = {"bias": y + bias, "relu": np.maximum(y, 0), "other bias": y + np.roll(bias, 1, 0), "negated": y - bias}[
            step
        ]
    return y


EPILOGUES = {Epilogue.BIAS: ["bias"], Epilogue.BIAS_RELU: ["bias", "relu"]}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize(
    ("epilogue", "steps"),
    [
        *[(Epilogue.BIAS, steps) for steps in ([], ["bias", "relu"], ["bias", "bias"], ["other bias"], ["negated"])],
        *[(Epilogue.BIAS_RELU, steps) for steps in ([], ["relu"], ["bias"], ["relu", "bias"], ["other bias", "relu"])],
    ],
)
def test_a_wrong_epilogue_is_caught(problem, epilogue, steps):
    case = replace(make_case(problem, ConvPass.FPROP), epilogue=epilogue)
    operands, error_bounds = prepared(make_case(problem, ConvPass.FPROP))
    linear = correct(case, operands)
    for bound in error_bounds.values():
        right = fused(case, operands, EPILOGUES[epilogue])
        assert check_epilogue(case, linear, right, operands, bound) is None
        reason = check_epilogue(case, linear, fused(case, operands, steps), operands, bound)
        assert reason is not None
        assert reason.startswith(f"{epilogue} of element (")
        assert "allowed" in reason


def test_a_fused_output_that_is_not_finite_is_caught():
    case = replace(make_case(PROBLEMS["1d"], ConvPass.FPROP), epilogue=Epilogue.BIAS)
    operands, _ = prepared(make_case(PROBLEMS["1d"], ConvPass.FPROP))
    wrong = fused(case, operands, ["bias"])
    wrong[1, 2, 3] = np.nan
    reason = check_epilogue(case, correct(case, operands), wrong, operands, ErrorBound())
    assert reason.startswith("bias of element (1, 2, 3) is off by nan")


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_cpu_plans_apply_the_epilogue(algorithm, epilogue, layout):
    for problem in PROBLEMS.values():
        case = make_case(problem, ConvPass.FPROP, layout=layout)
        operands, _ = prepared(make_case(problem, ConvPass.FPROP))
        outputs = []
        for variant in (case, replace(case, epilogue=epilogue)):
            plan = CpuBackend().plan(variant, algorithm, operands, PlanOptions())
            plan.poison()
            plan.run()
            outputs.append(plan.output())
        assert check_epilogue(replace(case, epilogue=epilogue), *outputs, operands, plan.error_bound) is None


def test_cpu_plans_round_alike_so_a_small_error_of_one_fused_element_is_caught():
    """1 % of the output's RMS, and for gemm and fft alike 2e-4 of it; only several roundoffs are allowed elsewhere."""
    linear_case = make_case(LARGE, ConvPass.FPROP)
    case = replace(linear_case, epilogue=Epilogue.BIAS)
    operands, _ = prepared(linear_case)
    for algorithm, smallest in (("gemm", 2e-4), ("fft", 2e-3)):
        linear, fused_plan = (CpuBackend().plan(c, algorithm, operands, PlanOptions()) for c in (linear_case, case))
        linear.run()
        fused_plan.run()
        scale = float(np.sqrt(np.mean(linear.output() ** 2)))
        for size in (0.01, smallest):
            wrong = fused_plan.output().copy()
            wrong[1, 2, 3, 4] += size * scale
            reason = check_epilogue(case, linear.output(), wrong, operands, fused_plan.error_bound)
            assert reason is not None, (algorithm, size)
            assert reason.startswith("bias of element (1, 2, 3, 4) is off by"), reason


@pytest.mark.parametrize("algorithm", ["direct", "fft"])
def test_a_fused_plan_may_round_its_linear_part_in_another_way(algorithm):
    case = replace(make_case(LARGE, ConvPass.FPROP), epilogue=Epilogue.BIAS)
    operands, error_bounds = prepared(make_case(LARGE, ConvPass.FPROP))
    bound = error_bounds[algorithm]
    own, _ = allowed_sizes(make_case(LARGE, ConvPass.FPROP), operands, bound)
    linear = correct(case, operands)
    signs = np.random.default_rng(0).choice([-1, 1], linear.shape)
    right = fused(case, operands, ["bias"])
    assert check_epilogue(case, linear, right + 1.9 * signs * own, operands, bound) is None
    assert check_epilogue(case, linear, right + 2.2 * signs * own, operands, bound) is not None


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        (ErrorBound(growth=1e30), "growth 1e+30, allowed are 1 to 1000"),
        (ErrorBound(growth=math.nan), "growth nan, allowed are 1 to 1000"),
        (ErrorBound(growth=math.inf), "growth inf, allowed are 1 to 1000"),
        (ErrorBound(growth=-3), "growth -3, allowed are 1 to 1000"),
        (ErrorBound(growth=0.5), "growth 0.5, allowed are 1 to 1000"),
        (ErrorBound(growth=2, transform_points=-1), "transform_points -1, allowed are 0 and more"),
    ],
)
def test_a_silly_error_bound_is_refused(bound, reason):
    case = make_case(PROBLEMS["2d"], ConvPass.FPROP)
    operands, _ = prepared(case)
    output = correct(case, operands)
    assert verify.check(case, output, operands, bound, seed=0).reason == f"the plan's error_bound has {reason}"
    fused_case = replace(case, epilogue=Epilogue.BIAS)
    assert check_epilogue(fused_case, output, output, operands, bound) == f"the plan's error_bound has {reason}"


def test_few_transform_points_do_not_widen_the_bound():
    """A plan that claims to spread the norms of a whole plane over one point would pass nearly anything."""
    case = make_case(LARGE, ConvPass.FPROP)
    operands, _ = prepared(case)
    output = correct(case, operands)
    output[-1, -1, 1, 2] += 0.01 * np.sqrt(np.mean(output**2))
    assert not verify.check(case, output, operands, ErrorBound(growth=8, transform_points=1), seed=0).passed


# No false alarm


def test_the_random_problems_have_every_pass_layout_and_dtype():
    cases = list(random_cases(101, 600))
    assert all(count >= 150 for count in Counter(case.conv_pass for case in cases).values())
    assert all(count >= 150 for count in Counter(case.layout for case in cases).values())
    assert set(Counter(case.dtype for case in cases)) == {Dtype.FP32, Dtype.FP64}
    assert {case.problem.ndim for case in cases} == {1, 2, 3}


@pytest.mark.parametrize(("seed", "count", "regime"), [(101, 600, "whole"), (102, 300, "sampled")])
def test_no_false_alarm(seed, count, regime, monkeypatch):
    monkeypatch.setattr(verify, "SMALL_MACS", REGIMES[regime])
    largest = dict.fromkeys(ALGORITHMS, 0.0)
    for case in random_cases(seed, count):
        linear = replace(case, epilogue=Epilogue.NONE)
        operands = Operands(case.problem, case.dtype, seed)
        for algorithm in ALGORITHMS:
            plan = CpuBackend().plan(linear, algorithm, operands, PlanOptions())
            result = verify.verify(linear, plan, operands, seed)
            assert result.passed, f"{algorithm} {case.label()} {case.problem.describe()}: {result.reason}"
            largest[algorithm] = max(largest[algorithm], result.bound_share)
    for algorithm, share in largest.items():
        assert 0.05 < share < 1, f"{algorithm}: below that the bound is so wide that it may hide faults"
