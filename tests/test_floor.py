"""Floors: the smallest problems, on the fake backend and on the cpu backend's algorithms."""

from dataclasses import replace

import pytest

from convbench.backends import AUTO, BackendSpec, Candidate, PlanOptions
from convbench.backends.cpu import PLANNERS, CpuBackend
from convbench.errors import UnsupportedError
from convbench.floor import SAMPLES, Floors, smallest_problems
from convbench.problem import Case, ConvPass, Epilogue, Layout, Problem
from convbench.runner import RunOptions, Spent, run
from convbench.suite import parse_suite
from convbench.tasks import Selection, tasks
from convbench.testing import FakeAlgorithm, FakeBackend
from convbench.timing import TimingOptions
from convbench.work import nominal_macs

PROBLEM = Problem(batch=8, in_channels=8, out_channels=16, groups=4, input_size=(20, 30), filter_size=(3, 5),
                  stride=(2, 1), padding=((1, 1), (2, 2)))  # fmt: skip
CASE = Case(suite="s", name="p", problem=PROBLEM, conv_pass=ConvPass.FPROP)
OPTIONS = PlanOptions(threads=1)


class Picky(FakeBackend):
    """Refuses what `refuse(problem)` says, by a candidate's reason or when it is planned; counts what is planned."""

    def __init__(self, refuse, late=False, **behaviour):
        super().__init__({"quick": FakeAlgorithm(seconds=2e-5, **behaviour)})
        self.refuse, self.late, self.planned = refuse, late, []

    def algorithms(self, case, options):
        if self.refuse(case.problem) and not self.late:
            return [Candidate("quick", "not this one")]
        return super().algorithms(case, options)

    def plan(self, case, algorithm, operands, options):
        self.planned.append(case)
        if self.refuse(case.problem):
            raise UnsupportedError("not this one")
        return super().plan(case, algorithm, operands, options)


def test_problems_grow_and_stay_small():
    found = [*smallest_problems(PROBLEM)]
    assert [nominal_macs(problem) for problem in found] == [1, 15, 24 * 15, 2 * 2 * 4 * 15]
    assert all(problem.stride == (1, 1) and problem.dilation == (1, 1) for problem in found)
    assert [problem.groups for problem in found] == [1, 1, 1, 2]
    assert (found[-1].in_channels, found[-1].out_channels) == (2 * 2, 2 * 4)
    assert len([*smallest_problems(replace(PROBLEM, groups=1))]) == 3


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("refuse", "macs"), [
    (lambda p: False, 1),
    (lambda p: p.filter_size == (1, 1), 15),
    (lambda p: p.output_size == (1, 1), 360),
    (lambda p: p.groups == 1, 240),
])  # fmt: skip
def test_the_smallest_problem_that_the_algorithm_does_is_taken(refuse, macs, late):
    backend = Picky(refuse, late)
    assert Floors(OPTIONS, 0).of(backend, "quick", CASE) == pytest.approx(2e-5)
    assert nominal_macs(backend.planned[-1].problem) == macs


def test_none_where_no_small_problem_is_done():
    assert Floors(OPTIONS, 0).of(Picky(lambda problem: True), "quick", CASE) is None


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), MemoryError(), GeneratorExit()])
@pytest.mark.parametrize("when", ["plan_error", "run_error"])
def test_none_where_the_backend_raises(when, error):
    backend = FakeBackend({"quick": FakeAlgorithm(**{when: error})})
    assert Floors(OPTIONS, 0).of(backend, "quick", CASE) is None


def test_an_interrupt_passes_through():
    backend = FakeBackend({"quick": FakeAlgorithm(plan_error=KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        Floors(OPTIONS, 0).of(backend, "quick", CASE)


def test_it_is_the_median_of_its_samples():
    # Batches of 10 runs are long enough; the last of the five samples is slow.
    seconds = [2.2e-5] * (1 + 11 + 11 * (SAMPLES - 1)) + [1e-3] * 11
    backend = FakeBackend({"quick": FakeAlgorithm(seconds=seconds)})
    assert Floors(OPTIONS, 0).of(backend, "quick", CASE) == pytest.approx(2.2e-5)


def test_layers_share_what_was_measured():
    backend = Picky(lambda problem: False)
    floors = Floors(OPTIONS, 0)
    for name, problem in (("a", PROBLEM), ("b", replace(PROBLEM, batch=3)), ("c", PROBLEM)):
        floors.of(backend, "quick", replace(CASE, name=name, problem=problem, repeat=5))
    assert len(backend.planned) == 1
    for change in ({"conv_pass": ConvPass.DGRAD}, {"layout": Layout.NHWC}, {"epilogue": Epilogue.BIAS}):
        floors.of(backend, "quick", replace(CASE, **change))
    assert len(backend.planned) == 4


@pytest.mark.parametrize("conv_pass", list(ConvPass))
@pytest.mark.parametrize("groups", [1, 8])
def test_every_algorithm_of_the_cpu_backend_has_one(conv_pass, groups):
    problem = Problem(batch=2, in_channels=8, out_channels=8, groups=groups, input_size=(9, 9), filter_size=(3, 3))
    floors = Floors(OPTIONS, 0)
    case = replace(CASE, problem=problem, conv_pass=conv_pass)
    found = {name: floors.of(CpuBackend(), name, case) for name in PLANNERS}
    assert [name for name, seconds in found.items() if seconds is None] == (["depthwise"] if groups == 1 else [])


# In a run


def rows(backend, algorithm=None, spent=None, **options):
    options = RunOptions(threads=1, max_memory=1 << 30, timing=TimingOptions(max_time_s=0.05), **options)
    selection = Selection(passes=(ConvPass.FPROP,))
    suite = parse_suite(b'schema = 1\nname = "x"\n[[problem]]\nname = "a"\nbatch = 1\nin_channels = 1\n'
                        b"out_channels = 1\ninput_size = 4\nfilter_size = 3\n", "x.toml")  # fmt: skip
    found = tasks(selection.cases([suite]), [BackendSpec(backend, algorithm)], 1)
    lines = [event for event in run(found, options, spent) if isinstance(event, dict)]
    return {line["key"]["algorithm"]: line for line in lines if line["type"] == "case"}


def test_a_row_has_the_floor_of_what_it_resolves_to():
    backend = FakeBackend({"quick": FakeAlgorithm(seconds=3e-5), "slow": FakeAlgorithm(seconds=7e-5)})
    spent = Spent()
    found = rows(backend) | rows(backend, AUTO, spent)
    assert [found[name]["floor_s"] for name in ("quick", AUTO)] == pytest.approx([3e-5, 3e-5])
    assert found["slow"]["floor_s"] == pytest.approx(7e-5)
    assert spent.warmup > 0


def test_a_row_that_is_not_measured_has_none():
    found = rows(FakeBackend({"quick": FakeAlgorithm(reason="no"), "slow": FakeAlgorithm(fault=lambda y: y + 1)}))
    assert {name: (line["status"], line["floor_s"]) for name, line in found.items()} == {
        "quick": ("unsupported", None), "slow": ("wrong", None),
    }  # fmt: skip


def test_a_floor_that_cannot_be_measured_fails_no_row():
    class Large(FakeBackend):
        def plan(self, case, algorithm, operands, options):
            if not case.suite:
                raise RuntimeError("too small for me")
            return super().plan(case, algorithm, operands, options)

    (line,) = rows(Large({"quick": FakeAlgorithm()}), "quick").values()
    assert (line["status"], line["floor_s"]) == ("partial", None)  # its rounds follow
