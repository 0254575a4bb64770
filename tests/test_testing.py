"""The fakes, the random problems and `check_backend`, which authors of backends rely on."""

import itertools
import random

import numpy as np
import pytest

from convbench import reference
from convbench.backends import AUTO, Candidate, PlanOptions
from convbench.backends.cpu import CpuBackend
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, Problem
from convbench.testing import (
    FakeAlgorithm,
    FakeBackend,
    FakeClock,
    FakeDevice,
    check_backend,
    random_cases,
    random_problem,
    reference_output,
)
from convbench.work import nominal_macs

PROBLEM = Problem(batch=2, in_channels=2, out_channels=3, input_size=(4, 5), filter_size=(2, 3))
CASE = Case(suite="s", name="p", problem=PROBLEM, conv_pass=ConvPass.FPROP)
OPERANDS = Operands(PROBLEM, Dtype.FP32, seed=1)


# Random problems


def test_a_seed_gives_the_same_problems():
    def problems(seed):
        rng = random.Random(seed)
        return [random_problem(rng) for _ in range(20)]

    assert problems(1) == problems(1)
    assert problems(1) != problems(2)
    assert list(random_cases(3, 20)) == list(random_cases(3, 20))
    assert list(random_cases(3, 20)) != list(random_cases(4, 20))


def test_the_first_cases_do_not_depend_on_how_many_follow():
    assert list(itertools.islice(random_cases(5, 100), 10)) == list(random_cases(5, 10))


def test_random_problems_have_every_feature():
    rng = random.Random(0)
    problems = [random_problem(rng) for _ in range(400)]
    seen = {
        "batch 0": lambda p: p.batch == 0,
        "batch 1": lambda p: p.batch == 1,
        "batch": lambda p: p.batch > 1,
        "1-D": lambda p: p.ndim == 1,
        "2-D": lambda p: p.ndim == 2,
        "3-D": lambda p: p.ndim == 3,
        "groups": lambda p: 1 < p.groups < p.in_channels,
        "depthwise": lambda p: 1 < p.groups == p.in_channels,
        "no groups": lambda p: p.groups == 1,
        "stride": lambda p: max(p.stride) > 1,
        "uneven strides": lambda p: len(set(p.stride)) > 1,
        "stride over filter": lambda p: any(a.stride > a.filter for a in p.axes),
        "dilation": lambda p: any(a.dilation > 1 and a.filter > 1 for a in p.axes),
        "padding": lambda p: any(a.before > 0 for a in p.axes),
        "uneven padding": lambda p: any(a.before != a.after >= 0 for a in p.axes),
        "crop": lambda p: any(a.after < 0 for a in p.axes),
        "filter over input": lambda p: any(a.filter > a.input for a in p.axes),
        "filter 1": lambda p: set(p.filter_size) == {1},
        "output 1": lambda p: set(p.output_size) == {1},
        "one channel": lambda p: p.in_channels == 1,
    }
    missing = [name for name, has in seen.items() if not any(map(has, problems))]
    assert missing == []


@pytest.mark.parametrize("limit", [10, 1000, 200_000])
def test_random_problems_are_small(limit):
    rng = random.Random(1)
    assert all(nominal_macs(random_problem(rng, limit)) <= limit for _ in range(50))


def test_random_cases_have_every_pass_dtype_layout_and_epilogue():
    cases = list(random_cases(0, 200))
    assert {case.conv_pass for case in cases} == set(ConvPass)
    assert {case.precision for case in cases} == {"fp32", "fp64"}
    assert {case.layout for case in cases} == set(Layout)
    assert {case.epilogue for case in cases} == set(Epilogue)
    assert len({case.name for case in cases}) == 200


# Simulated time


def test_time_passes_only_when_told():
    device = FakeDevice()
    clock = device.clock(threads=1)
    assert clock.sample(lambda: None, 5).wall_s == 0.0
    sample = clock.sample(lambda: device.advance(0.25), 4)
    assert (sample.wall_s, sample.cpu_s, sample.flags) == (1.0, 1.0, ())
    assert device.now_s == 1.0


def test_a_clock_may_flag_every_nth_sample():
    device = FakeDevice()
    clock = FakeClock(device, flag_every=3)
    assert [bool(clock.sample(lambda: None, 1).flags) for _ in range(7)] == [
        False,
        False,
        True,
        False,
        False,
        True,
        False,
    ]


def test_canaries_take_a_simulated_millisecond():
    device = FakeDevice()
    for run in device.canaries().values():
        assert device.clock(1).sample(run, 1).wall_s == pytest.approx(1e-3)


# The fake backend


def plan(algorithm="only", case=CASE, **behaviour):
    backend = FakeBackend({"only": FakeAlgorithm(**behaviour)})
    return backend, backend.plan(case, algorithm, OPERANDS, PlanOptions())


def durations(seconds, count):
    backend, made = plan(seconds=seconds)
    clock = backend.device().clock(1)
    return [clock.sample(made.run, 1).wall_s for _ in range(count)]


@pytest.mark.parametrize("seconds", [0.5, 1, 0])
def test_a_run_takes_its_simulated_time(seconds):
    assert durations(seconds, 3) == [seconds] * 3


def test_times_are_cycled_through_from_the_first():
    assert durations([1.0, 2.0, 4.0], 7) == [1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0]


def test_auto_is_the_first_algorithm():
    backend = FakeBackend({"b": FakeAlgorithm(memory_bytes=7), "a": FakeAlgorithm()})
    assert backend.algorithms(CASE) == [
        Candidate(AUTO, None, 7, resolves_to="b"), Candidate("b", None, 7), Candidate("a", None, 0)
    ]  # fmt: skip
    assert backend.plan(CASE, AUTO, OPERANDS, PlanOptions()).algorithm == "b"


def test_auto_is_the_first_that_is_exact_enough():
    backend = FakeBackend({"b": FakeAlgorithm(accuracy=1e-5), "a": FakeAlgorithm(estimated_s=0.5)})
    for accuracy, name in ((1e-4, "b"), (1e-5, "b"), (1e-6, "a")):
        options = PlanOptions(accuracy=accuracy)
        auto, *named = backend.algorithms(CASE, options)
        assert [(c.algorithm, c.accuracy, c.estimated_s) for c in named] == [("b", 1e-5, None), ("a", 1e-6, 0.5)]
        assert (auto.resolves_to, auto.reason) == (name, None)
        assert backend.plan(CASE, AUTO, OPERANDS, options).algorithm == name
    none = FakeBackend({"b": FakeAlgorithm(accuracy=1e-5)}).algorithms(CASE, PlanOptions(accuracy=1e-6))
    assert none[0].reason == "no algorithm keeps 1e-06"


def test_it_is_usable_unless_told_otherwise():
    assert FakeBackend().probe() is None
    assert FakeBackend(unusable="no").probe() == "no"


def test_a_plan_writes_its_output_when_it_runs():
    _, made = plan()
    made.poison()
    assert np.isnan(made.output()).all()
    made.run()
    np.testing.assert_array_equal(made.output(), reference_output(CASE, OPERANDS))
    assert made.output().dtype == np.float32


def test_a_fault_changes_the_output_and_not_the_reference():
    _, made = plan(fault=lambda right: right + 1)
    made.run()
    np.testing.assert_allclose(made.output(), reference_output(CASE, OPERANDS) + 1)


def test_errors_are_raised_when_told():
    with pytest.raises(RuntimeError, match="plan"):
        plan(plan_error=RuntimeError("plan"))
    _, made = plan(run_error=RuntimeError("run"), good_runs=2)
    made.run()
    made.run()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="run"):
            made.run()


@pytest.mark.parametrize("epilogue", list(Epilogue))
def test_the_reference_output_has_its_epilogue(epilogue):
    case = Case(suite="s", name="p", problem=PROBLEM, conv_pass=ConvPass.FPROP, epilogue=epilogue)
    linear = reference.fprop(PROBLEM.axes, OPERANDS.x[:, None], OPERANDS.w[None]).reshape(PROBLEM.y_shape)
    expected = linear if epilogue is Epilogue.NONE else linear + OPERANDS.bias[:, None, None]
    if epilogue is Epilogue.BIAS_RELU:
        expected = np.maximum(expected, 0)
    np.testing.assert_array_equal(reference_output(case, OPERANDS), expected.astype(np.float32))


# check_backend


def test_the_cpu_backend_has_no_fault():
    assert check_backend(CpuBackend(), count=60) == []


def test_the_fake_backend_has_no_fault():
    assert check_backend(FakeBackend(), count=60, seed=1) == []


def one_element(right):
    if right.size:
        right.flat[right.size // 2] += 0.5
    return right


def test_an_error_beyond_the_tier_is_found_out():
    def inexact(right):
        return (right * (1 + 2e-7)).astype(right.dtype) if right.dtype == np.float32 else right

    backend = FakeBackend({"honest": FakeAlgorithm(fault=inexact), "not": FakeAlgorithm(fault=inexact, accuracy=1e-7)})
    found = check_backend(backend, count=30)
    assert found
    assert all(line.startswith("not: random/p") for line in found)
    assert any("the stated accuracy of 1e-07 allows" in line for line in found)


@pytest.mark.parametrize(
    "fault",
    [one_element, lambda right: right * 1.01, lambda right: np.where(right > 2, np.nan, right),
     lambda right: right[..., ::-1]],
    ids=["one element", "one per cent", "nan", "mirrored"],
)  # fmt: skip
def test_a_faulty_backend_is_found_out(fault):
    backend = FakeBackend({"good": FakeAlgorithm(), "bad": FakeAlgorithm(fault=fault)})
    found = check_backend(backend, count=30)
    assert found
    assert all(line.startswith("bad: random/p") for line in found)
    assert all("\n" not in line for line in found)


def test_what_a_backend_raises_is_a_finding():
    found = check_backend(FakeBackend({"bad": FakeAlgorithm(plan_error=ZeroDivisionError("by zero"))}), count=3)
    assert len(found) == 6  # and for auto, which is the same
    assert all(line.endswith("ZeroDivisionError: by zero") for line in found)


def test_an_interrupt_is_none():
    with pytest.raises(KeyboardInterrupt):
        check_backend(FakeBackend({"bad": FakeAlgorithm(plan_error=KeyboardInterrupt())}), count=3)


def test_a_case_refused_with_a_reason_is_no_fault():
    algorithms = {"picky": FakeAlgorithm(reason="no"), "easy": FakeAlgorithm()}
    assert check_backend(FakeBackend(algorithms), count=5) == []


def test_a_wrong_epilogue_is_found_out():
    class NoEpilogue(FakeBackend):
        def plan(self, case, algorithm, operands, options):
            linear = Case(
                **{name: getattr(case, name) for name in case.__dataclass_fields__} | {"epilogue": Epilogue.NONE}
            )
            return super().plan(linear, algorithm, operands, options)

    found = check_backend(NoEpilogue(), count=60)
    assert found
    assert all("bias" in line for line in found)


def test_a_backend_that_refuses_every_case_is_not_called_good():
    refusing = FakeBackend({"picky": FakeAlgorithm(reason="not today")})
    assert check_backend(refusing, count=20) == [
        "none of 20 random cases was accepted, so nothing was tested: raise count"
    ]
