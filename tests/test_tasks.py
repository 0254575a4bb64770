"""Which rows there are to come, and what they need, on the fake backend."""

import itertools
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import FPROP, SUITE, specs

from convbench.backends import AUTO, BackendSpec, Candidate, PlanOptions
from convbench.backends.cpu import PLANNERS, CpuBackend
from convbench.errors import InputError
from convbench.memory import operand_bytes, verification_bytes
from convbench.problem import PRECISIONS, ConvPass, Dtype, Epilogue, Layout, MathMode
from convbench.result import COLD, WARM
from convbench.suite import load_suite
from convbench.tasks import MAX_SETS, Selection, describe, groups_by_memory, notes_of, tasks
from convbench.testing import FakeAlgorithm, FakeBackend

OTHER = replace(SUITE, name="other")


# Which cases


def labels(**selection):
    return [case.label() for case in Selection(**selection).cases([SUITE])]


def test_all_passes_of_all_problems_by_default():
    assert labels() == [
        "tiny/first fprop fp32 nchw", "tiny/first dgrad fp32 nchw", "tiny/first wgrad fp32 nchw",
        "tiny/second fprop fp32 nchw", "tiny/second dgrad fp32 nchw", "tiny/second wgrad fp32 nchw",
    ]  # fmt: skip


def test_the_order_is_problem_pass_dtype_layout_epilogue():
    assert labels(
        passes=(ConvPass.WGRAD, ConvPass.FPROP),
        precisions=(PRECISIONS["fp64"], PRECISIONS["fp32"]),
        layouts=(Layout.NHWC, Layout.NCHW),
        epilogues=(Epilogue.BIAS_RELU, Epilogue.NONE),
        globs=("first",),
    ) == [
        "tiny/first wgrad fp64 nhwc", "tiny/first wgrad fp64 nchw",
        "tiny/first wgrad fp32 nhwc", "tiny/first wgrad fp32 nchw",
        "tiny/first fprop fp64 nhwc bias+relu", "tiny/first fprop fp64 nhwc",
        "tiny/first fprop fp64 nchw bias+relu", "tiny/first fprop fp64 nchw",
        "tiny/first fprop fp32 nhwc bias+relu", "tiny/first fprop fp32 nhwc",
        "tiny/first fprop fp32 nchw bias+relu", "tiny/first fprop fp32 nchw",
    ]  # fmt: skip


def test_the_backward_passes_take_no_epilogue_and_occur_once():
    assert labels(epilogues=(Epilogue.BIAS, Epilogue.BIAS_RELU), globs=("second",)) == [
        "tiny/second fprop fp32 nchw bias", "tiny/second fprop fp32 nchw bias+relu",
        "tiny/second dgrad fp32 nchw", "tiny/second wgrad fp32 nchw",
    ]  # fmt: skip


def test_a_case_holds_its_problem_and_how_often_it_occurs():
    first, second = Selection(passes=(ConvPass.FPROP,)).cases([SUITE])
    assert (first.repeat, second.repeat) == (4, 1)
    assert first.problem is SUITE.problems[0].problem
    assert (first.dtype, first.math_mode) == (Dtype.FP32, MathMode.FP32)


def test_a_batch_replaces_that_of_every_problem():
    assert {case.problem.batch for case in Selection(batch=7).cases([SUITE])} == {7}
    assert {case.problem.batch for case in Selection(batch=0).cases([SUITE])} == {0}
    assert [case.problem.batch for case in Selection(passes=(ConvPass.FPROP,)).cases([SUITE])] == [2, 1]


@pytest.mark.parametrize("batch", [-1, 2**31])
def test_an_impossible_batch_is_an_error(batch):
    with pytest.raises(InputError, match="batch"):
        Selection(batch=batch).cases([SUITE])


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (("first",), ["tiny/first", "other/first"]),
        (("f*",), ["tiny/first", "other/first"]),
        (("*s*",), ["tiny/first", "tiny/second", "other/first", "other/second"]),
        (("tiny/*",), ["tiny/first", "tiny/second"]),
        (("tiny/first", "other/second"), ["tiny/first", "other/second"]),
        (("[ft]irst",), ["tiny/first", "other/first"]),
        (("?irst",), ["tiny/first", "other/first"]),
    ],
    ids=str,
)
def test_globs_match_a_name_with_or_without_its_suite(globs, expected):
    cases = Selection(passes=(ConvPass.FPROP,), globs=globs).cases([SUITE, OTHER])
    assert [f"{case.suite}/{case.name}" for case in cases] == expected


@pytest.mark.parametrize("glob", ["FIRST", "third", "first/", ""])
def test_a_glob_that_matches_nothing_is_an_error(glob):
    with pytest.raises(InputError, match=r"no problem of tiny, other matches --filter"):
        Selection(globs=(glob,)).cases([SUITE, OTHER])


# Which rows


def names(found):
    return [(task.case.conv_pass, f"{task.key.backend}:{task.key.algorithm}") for task in found]


def test_a_bare_backend_means_all_its_algorithms_but_not_its_own_choice():
    found = tasks(FPROP.cases([SUITE]), specs(), 1)
    assert names(found) == [("fprop", "fake:quick"), ("fprop", "fake:slow")]
    assert [task.index for task in found] == [0, 1]


def test_one_algorithm_or_auto_may_be_asked_for():
    assert names(tasks(FPROP.cases([SUITE]), specs("slow", AUTO), 1)) == [
        ("fprop", "fake:slow"),
        ("fprop", "fake:auto"),
    ]


def test_cases_come_before_backends():
    selection = Selection(passes=(ConvPass.FPROP, ConvPass.DGRAD), globs=("first",))
    found = tasks(selection.cases([SUITE]), specs("slow", "quick"), 1)
    assert names(found) == [
        ("fprop", "fake:slow"), ("fprop", "fake:quick"), ("dgrad", "fake:slow"), ("dgrad", "fake:quick"),
    ]  # fmt: skip


def test_what_is_asked_for_twice_is_measured_once():
    backend = FakeBackend()
    twice = [BackendSpec(backend, "slow"), BackendSpec(backend), BackendSpec(FakeBackend(), "slow")]
    assert names(tasks(FPROP.cases([SUITE, SUITE]), twice, 1)) == [("fprop", "fake:slow"), ("fprop", "fake:quick")]


@pytest.mark.parametrize(
    ("asked", "near"),
    [("quik", "did you mean 'quick'?"), ("slo", "did you mean 'slow'?"), ("winograd", "known: auto, quick, slow")],
)
def test_an_unknown_algorithm_names_the_nearest(asked, near):
    with pytest.raises(InputError) as caught:
        tasks(FPROP.cases([SUITE]), specs(asked), 1)
    assert str(caught.value) == f"unknown algorithm {asked!r} of backend fake; {near}"


def test_a_key_says_device_cache_and_threads():
    key = tasks(FPROP.cases([SUITE]), specs("slow"), 3)[0].key
    assert (key.device, key.cache, key.threads) == ("fake", "warm", 3)


def test_an_unusable_backend_has_no_device():
    task = tasks(FPROP.cases([SUITE]), specs("slow", backend=FakeBackend(unusable="no GPU")), 1)[0]
    assert (task.key.device, task.unavailable) == ("", "no GPU")


class Broken(FakeBackend):
    """A backend one of whose methods raises."""

    def __init__(self, method, error):
        super().__init__()
        setattr(self, method, self._raise)
        self.error = error

    def _raise(self, *_arguments):
        raise self.error


@pytest.mark.parametrize("method", ["probe", "device", "algorithms"])
def test_a_backend_that_cannot_answer_is_one_clear_line(method):
    with pytest.raises(InputError) as caught:
        tasks(FPROP.cases([SUITE]), specs(backend=Broken(method, ZeroDivisionError("by\nzero"))), 1)
    assert str(caught.value).startswith("backend fake cannot be used: ZeroDivisionError: by zero (test_tasks.py:")


@pytest.mark.parametrize("error", [SystemExit(3), BaseException("no"), GeneratorExit()], ids=repr)
def test_a_backend_that_raises_what_is_no_exception_is_one_clear_line(error):
    with pytest.raises(InputError, match=f"^backend fake cannot be used: {type(error).__name__}: "):
        tasks(FPROP.cases([SUITE]), specs(backend=Broken("algorithms", error)), 1)


@pytest.mark.parametrize(
    "given",
    [None, 5, "quick", ["quick"], [None], {"quick": Candidate("quick")}, Candidate("quick"), [Candidate(5)],
     [Candidate("quick", False)], [Candidate("quick", memory_bytes=None)], [Candidate("quick", memory_bytes=0.5)],
     [Candidate("quick", accuracy="high")], [Candidate("quick", estimated_s="soon")]],
    ids=repr,
)  # fmt: skip
def test_junk_in_the_place_of_candidates_is_one_clear_line(given):
    backend = FakeBackend()
    backend.algorithms = lambda _case, _options: given
    with pytest.raises(
        InputError, match=r"^backend fake cannot be used: algorithms\(\) gave .*, not a list of Candidate$"
    ):
        tasks(FPROP.cases([SUITE]), specs(backend=backend), 1)


def test_numbers_of_numpy_are_numbers():
    backend = FakeBackend()
    backend.algorithms = lambda *_: (Candidate("quick", None, np.int64(3), accuracy=np.float32(1e-6)),)
    (task,) = tasks(FPROP.cases([SUITE]), specs(backend=backend), 1)
    assert task.candidate.memory_bytes == 3


@pytest.mark.parametrize("given", [None, 5, "cpu"], ids=repr)
def test_junk_in_the_place_of_a_device_is_one_clear_line(given):
    backend = FakeBackend()
    backend.device = lambda: given
    with pytest.raises(InputError, match=r"^backend fake cannot be used: device\(\) gave .*, not a Device$"):
        tasks(FPROP.cases([SUITE]), specs(backend=backend), 1)


@pytest.mark.parametrize("name", ["", "x<b>y\nz</b>:0", "\x1b[31m"], ids=repr)
def test_a_device_must_have_a_name_that_can_be_shown(name):
    backend = FakeBackend()
    backend.shared_device.name = name
    said = f"backend fake cannot be used: {name!r} is no printable name of a device"
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        tasks(FPROP.cases([SUITE]), specs(backend=backend), 1)


@pytest.mark.parametrize("given", [None, "x", math.nan, math.inf, [1]], ids=repr)
def test_junk_in_the_place_of_free_memory_is_one_clear_line(given):
    backend = FakeBackend()
    backend.shared_device.free_bytes = lambda: given
    with pytest.raises(
        InputError, match=r"^device fake cannot be used: free_bytes\(\) gave .*, not a number of bytes$"
    ):
        tasks(FPROP.cases([SUITE]), specs(backend=backend), 1)


@pytest.mark.parametrize(
    ("given", "free"), [(-5, 0), (np.float32(7.5), 7), (10**400, 10**400)], ids=["-5", "7.5", "huge"]
)
def test_less_than_no_memory_is_none(given, free):
    backend = FakeBackend()
    backend.shared_device.free_bytes = lambda: given
    assert {task.free_bytes for task in tasks(FPROP.cases([SUITE]), specs(backend=backend), 1)} == {free}


@pytest.mark.parametrize(
    ("given", "notes"),
    [
        ("one text", ("one text",)),
        (["a", 2], ("a", "2")),
        (["x" * 600] * 60, ("x" * 500,) * 50),
        ((), ()),
        (itertools.repeat("on and on"), ("on and on",) * 50),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_notes_are_texts_and_not_too_long(given, notes):
    assert notes_of(SimpleNamespace(notes=given)) == notes
    assert notes_of(SimpleNamespace()) == ()


@pytest.mark.parametrize("given", [True, 5, ["no GPU"]], ids=repr)
def test_junk_in_the_place_of_a_reason_is_one_clear_line(given):
    with pytest.raises(InputError, match=r"^backend fake cannot be used: probe\(\) gave .*, not None or a reason$"):
        tasks(FPROP.cases([SUITE]), specs(backend=FakeBackend(unusable=given)), 1)


def test_what_is_no_backend_at_all_is_one_clear_line():
    with pytest.raises(InputError, match=r"backend object cannot be used: AttributeError: .*'probe'"):
        tasks(FPROP.cases([SUITE]), [BackendSpec(object())], 1)


def test_an_interrupt_passes_through_the_questions():
    with pytest.raises(KeyboardInterrupt):
        tasks(FPROP.cases([SUITE]), specs(backend=Broken("algorithms", KeyboardInterrupt())), 1)


# Memory


def test_a_row_needs_operands_plan_and_verification():
    task = tasks(FPROP.cases([SUITE]), specs("big", big=FakeAlgorithm(memory_bytes=1000)), 1)[0]
    assert task.memory_bytes == operand_bytes(task.case) + 1000 + verification_bytes(task.case)


@pytest.mark.parametrize("transient", [0, 400, 10**9])
def test_what_a_run_holds_for_its_time_is_not_there_while_it_is_verified(transient):
    class Sized(FakeBackend):
        def algorithms(self, case, options):
            return [Candidate("quick", None, 10**9 + 500, transient)]

    task = tasks(FPROP.cases([SUITE]), specs(backend=Sized()), 1)[0]
    checks = verification_bytes(task.case)
    assert task.memory_bytes == operand_bytes(task.case) + 10**9 + 500 - transient + max(transient, checks)


# Accuracy


TIERS = {"loose": FakeAlgorithm(accuracy=1e-4), "usual": FakeAlgorithm(accuracy=1e-5), "exact": FakeAlgorithm()}


@pytest.mark.parametrize(("accuracy", "chosen"), [(1e-4, "loose"), (1e-5, "usual"), (1e-6, "exact")])
def test_accuracy_limits_what_auto_takes(accuracy, chosen):
    (task,) = tasks(FPROP.cases([SUITE]), specs(AUTO, **TIERS), 1, accuracy=accuracy)
    assert task.candidate.resolves_to == chosen
    assert task.candidate.accuracy == accuracy


def test_accuracy_is_part_of_the_key_of_auto_alone():
    """Runs of other tiers do not compare in what they left to the backend, and do in what they named."""

    def keys(*algorithms, accuracy):
        return [task.key for task in tasks(FPROP.cases([SUITE]), specs(*algorithms, **TIERS), 1, accuracy=accuracy)]

    assert [key.accuracy for key in keys(AUTO, "exact", accuracy=1e-4)] == [1e-4, None]
    assert keys(AUTO, accuracy=1e-4) != keys(AUTO, accuracy=1e-5)
    assert keys("loose", "exact", accuracy=1e-6) == keys("loose", "exact", accuracy=1e-4)


def test_a_backend_is_asked_with_what_its_plans_will_get():
    seen = []

    class Asked(FakeBackend):
        def algorithms(self, case, options):
            seen.append(options)
            return super().algorithms(case, options)

    tasks(FPROP.cases([SUITE]), specs(backend=Asked()), 3, accuracy=1e-6)
    assert seen == [PlanOptions(threads=3, accuracy=1e-6)]


def grouped(found, max_memory):
    return [[(task.case.name, task.key.algorithm) for task in group] for group in groups_by_memory(found, max_memory)]


def test_groups_are_everything_or_one_problem_or_one_row():
    memory = 10**6
    behaviour = {"one": FakeAlgorithm(memory_bytes=memory), "two": FakeAlgorithm(memory_bytes=memory)}
    found = tasks(Selection(passes=(ConvPass.FPROP,)).cases([SUITE]), specs(**behaviour), 1)
    rows = [("first", "one"), ("first", "two"), ("second", "one"), ("second", "two")]
    rest = 50_000  # operands and verification of both
    assert grouped(found, 4 * memory + rest) == [rows]
    assert grouped(found, 4 * memory) == [rows[:2], rows[2:]]
    assert grouped(found, 2 * memory + rest) == [rows[:2], rows[2:]]
    assert grouped(found, 2 * memory) == [[row] for row in rows]
    assert grouped([], memory) == [[]]


def test_a_large_problem_alone_is_split():
    def memory(case):
        return 10**6 if case.name == "second" else 10

    class Sized(FakeBackend):
        def algorithms(self, case, options):
            return [Candidate(name, None, memory(case)) for name in self.behaviour]

    found = tasks(Selection(passes=(ConvPass.FPROP,)).cases([SUITE]), specs(backend=Sized()), 1)
    assert grouped(found, 10**6 + 50_000) == [
        [("first", "quick"), ("first", "slow")], [("second", "quick")], [("second", "slow")],
    ]  # fmt: skip


def test_every_row_is_in_one_group_whatever_the_memory():
    found = tasks(Selection().cases([load_suite("smoke")]), [BackendSpec(CpuBackend())], 1)
    for memory in (1, 10**5, 10**6, 10**7, 10**9):
        assert sorted(task.index for group in groups_by_memory(found, memory) for task in group) == list(
            range(14 * 3 * len(PLANNERS))
        )


# Errors in words


def test_an_error_in_one_line():
    with pytest.raises(ValueError, match="two") as caught:
        raise ValueError("two\n  lines and   spaces")
    text = describe(caught.value)
    assert text.startswith("ValueError: two lines and spaces (test_tasks.py:")
    assert describe(ValueError("never raised")) == "ValueError: never raised"
    assert len(describe(ValueError("x" * 1000))) == 500


def test_an_epilogue_needs_a_second_plan_for_its_linear_part():
    selection = replace(FPROP, epilogues=(Epilogue.NONE, Epilogue.BIAS))
    plain, biased = tasks(selection.cases([SUITE]), specs("big", big=FakeAlgorithm(memory_bytes=1000)), 1)
    assert biased.memory_bytes - plain.memory_bytes == 1000


# Warm and cold


def test_warm_and_cold_rows_stand_side_by_side():
    found = tasks(FPROP.cases([SUITE]), specs(), 1, (WARM, COLD))
    assert [(t.key.algorithm, t.key.cache) for t in found] == [
        ("quick", "warm"), ("quick", "cold"), ("slow", "warm"), ("slow", "cold")
    ]  # fmt: skip
    assert {t.key.cache for t in tasks(FPROP.cases([SUITE]), specs(), 1)} == {"warm"}


@pytest.mark.parametrize(("size", "sets"), [(0, MAX_SETS), (1 << 17, 2 * (1 << 20) // ((1 << 17) + 792)), (1 << 22, 1)])
def test_cold_sets_fill_about_twice_the_cache(size, sets):
    # the fake device has a cache of 1 MiB; the operands are 4·(144 + 54) bytes
    warm, cold = tasks(FPROP.cases([SUITE]), specs("a", a=FakeAlgorithm(memory_bytes=size)), 1, (WARM, COLD))
    assert warm.cold_bytes == 0
    assert cold.sets == sets
    assert cold.cold_bytes == (sets - 1) * (size + 792) + (2 << 20)
    assert cold.memory_bytes == warm.memory_bytes + cold.cold_bytes
