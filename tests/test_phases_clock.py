"""The stopwatch of the cpu plans, on a clock that moves when it is told."""

import itertools
import threading
from dataclasses import replace

import pytest

from convbench.backends import PlanOptions
from convbench.backends.cpu import CpuBackend
from convbench.backends.cpu.phases_clock import Laps
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Epilogue, Problem
from convbench.testing import reference_output
from convbench.work import Phase, Work

WORK = Work(tuple(Phase(name=name, flops=0, bytes_read=0, bytes_written=0, footprint_bytes=0)
                  for name in ("gather", "product", "scatter")))  # fmt: skip


class Clock:
    """Its own time in each thread."""

    def __init__(self):
        self.local = threading.local()

    def now(self):
        return getattr(self.local, "now", 0.0)

    def work(self, seconds):
        self.local.now = self.now() + seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def laps(clock):
    return Laps(clock.now)


def test_each_phase_gets_what_was_done_before_it_ended(laps, clock):
    def run():
        clock.work(5.0)
        laps.begin()
        for gather, product in ((1.0, 4.0), (2.0, 8.0)):
            clock.work(gather)
            laps.end("gather")
            clock.work(product)
            laps.end("product")
        clock.work(7.0)

    assert laps.seconds(run, WORK) == [3.0, 12.0, 0.0]
    assert laps.seconds(run, WORK) == [3.0, 12.0, 0.0]  # and not those of both runs


def test_of_several_threads_it_is_the_average(laps, clock):
    """Two share the gathering, one of them multiplies, the main thread scatters."""

    def worker(gather, product):
        laps.begin()
        clock.work(gather)
        laps.end("gather")
        if product:
            clock.work(product)
            laps.end("product")

    def run():
        together = threading.Barrier(2)  # else the second might get the number of the first

        def begin(*seconds):
            together.wait(10)
            worker(*seconds)
            together.wait(10)

        threads = [threading.Thread(target=begin, args=seconds) for seconds in ((1.0, 0.5), (3.0, 0.0))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        laps.begin()
        clock.work(0.25)
        laps.end("scatter")

    assert laps.seconds(run, WORK) == [2.0, 0.5, 0.25]


def test_nothing_is_kept_while_nothing_is_measured(laps, clock):
    laps.begin()
    clock.work(1.0)
    laps.end("gather")
    laps.end("what no work has")
    assert laps.seconds(lambda: None, WORK) == [0.0, 0.0, 0.0]


def test_a_run_that_raises_ends_the_measurement(laps):
    with pytest.raises(ZeroDivisionError):
        laps.seconds(lambda: 1 / 0, WORK)
    laps.end("gather")  # as in a run that is timed


def test_a_phase_that_the_work_does_not_have_is_an_error(laps):
    def run():
        laps.begin()
        laps.end("guessed")

    with pytest.raises(KeyError, match="guessed"):
        laps.seconds(run, WORK)


# Plans that use it

PROBLEM = Problem(
    batch=2, in_channels=4, out_channels=6, input_size=(9, 8), filter_size=(3, 2), padding=((1, 1), (0, 1))
)


@pytest.mark.parametrize(("conv_pass", "epilogue"), [
    (ConvPass.FPROP, Epilogue.NONE), (ConvPass.FPROP, Epilogue.BIAS_RELU), (ConvPass.DGRAD, Epilogue.NONE),
    (ConvPass.WGRAD, Epilogue.NONE),
])  # fmt: skip
@pytest.mark.parametrize("algorithm", ["direct"])
def test_every_phase_of_a_plans_work_is_timed(algorithm, conv_pass, epilogue):
    case = replace(Case(suite="s", name="p", problem=PROBLEM, conv_pass=conv_pass), epilogue=epilogue)
    operands = Operands(PROBLEM, case.dtype, 0)
    plan = CpuBackend().plan(case, algorithm, operands, PlanOptions())
    ticks = itertools.count()
    plan.laps = Laps(lambda: float(next(ticks)))  # each press takes a second
    seconds = plan.run_phases(CpuBackend().device().clock(1))
    assert len(seconds) == len(plan.work.phases)
    assert all(second > 0 for second in seconds)
    assert sum(seconds) == next(ticks) - 1  # all of the run belongs to a phase
    difference = abs(plan.output() - reference_output(case, operands))
    assert difference.max() < 1e-4


def test_what_the_caller_does_itself_comes_on_top(laps, clock):
    """Two threads multiply for 4 and 6 seconds; the caller then adds up for one: 5 + 1."""

    def part(seconds):
        laps.begin()
        clock.work(seconds)
        laps.end("product")

    def run():
        together = threading.Barrier(2)

        def begin(seconds):
            together.wait(10)
            part(seconds)
            together.wait(10)

        threads = [threading.Thread(target=begin, args=(seconds,)) for seconds in (4.0, 6.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        part(1.0)

    assert laps.seconds(run, WORK) == [0.0, 6.0, 0.0]
