"""From suites and backends to journal lines, on the fake backend: real operands and verification, simulated time."""

import itertools
import json
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
from tiny import FPROP, SUITE, specs

from convbench import operands as operands_module
from convbench.backends import AUTO, BackendSpec
from convbench.backends.cpu import PLANNERS, CpuBackend
from convbench.errors import UnsupportedError
from convbench.journal import SCHEMA_VERSION, fold
from convbench.problem import PRECISIONS, ConvPass, Epilogue
from convbench.result import COLD, WARM, Status
from convbench.runner import Progress, RunOptions, Spent, run
from convbench.suite import load_suite, parse_suite
from convbench.tasks import Selection, Task, tasks
from convbench.testing import FakeAlgorithm, FakeBackend
from convbench.timing import PHASE_RUNS, TimingOptions

OPTIONS = RunOptions(threads=1, max_memory=1 << 30, timing=TimingOptions(max_time_s=0.1))
HEADER = {
    "type": "header", "schema_version": SCHEMA_VERSION, "convbench_version": "0", "created": "", "command": [],
    "suites": [], "seed": 0, "options": {}, "environment": {"libraries": {}, "blas": []}, "devices": {},
}  # fmt: skip


def lines_of(found, options=OPTIONS):
    return [event for event in run(found, options) if not isinstance(event, Progress)]


def rows_of(lines):
    return fold("".join(json.dumps(line) + "\n" for line in [HEADER, *lines]).encode(), "x").rows


def measure(selection=FPROP, options=OPTIONS, backend=None, suites=(SUITE,), **behaviour):
    """Rows by algorithm, of one case."""
    found = tasks(selection.cases(suites), specs(backend=backend, **behaviour), options.threads)
    return {row.key.algorithm: row for row in rows_of(lines_of(found, options))}


def load_cases(name):
    return Selection().cases([load_suite(name)])


def test_smaller_groups_measure_the_same_rows():
    found = tasks(Selection().cases([SUITE]), specs(), 1)
    limit = max(task.memory_bytes for task in found)
    together, apart = lines_of(found), lines_of(found, replace(OPTIONS, max_memory=limit))
    assert {row.key: row.status for row in rows_of(together)} == {row.key: row.status for row in rows_of(apart)}
    kinds = [line["type"] for line in apart]
    assert kinds.index("round") < len(found)  # the first row is timed before the last is planned
    assert kinds.count("case") == len(found)


# Statuses


def test_a_right_row_is_timed():
    rows = measure(quick=FakeAlgorithm(seconds=1e-3))
    row = rows["quick"]
    assert (row.status, row.reason, row.resolved, row.stop_reason) == ("ok", "", "quick", "precision")
    assert row.time_s == pytest.approx(1e-3)
    assert row.interval_s == (pytest.approx(1e-3), pytest.approx(1e-3))
    assert len(row.rounds) == 7
    assert row.verification["passed"] is True
    assert row.verification["bound_share"] < 1
    assert row.plan_s >= 0
    assert row.first_call_s >= 0
    assert row.workspace_bytes == 0
    assert row.work.executed_flops == 2 * 96 * 18


def test_auto_is_resolved():
    found = tasks(FPROP.cases([SUITE]), specs(AUTO), 1)
    row = rows_of(lines_of(found))[0]
    assert (row.key.algorithm, row.resolved) == (AUTO, "quick")


def test_times_follow_the_simulated_ones():
    rows = measure(steady=FakeAlgorithm(seconds=2e-3), two=FakeAlgorithm(seconds=[1e-2, 3e-2]))
    assert rows["steady"].time_s == pytest.approx(2e-3)
    assert 1e-2 <= rows["two"].time_s <= 3e-2


def test_an_unsupported_case_says_why():
    row = measure(picky=FakeAlgorithm(reason="only on Tuesdays"), quick=FakeAlgorithm())["picky"]
    assert (row.status, row.reason, row.time_s, row.resolved) == ("unsupported", "only on Tuesdays", None, None)


def test_a_plan_may_find_out_that_it_cannot():
    row = measure(late=FakeAlgorithm(plan_error=UnsupportedError("stride 2 only")))["late"]
    assert (row.status, row.reason, row.time_s) == ("unsupported", "stride 2 only", None)


def test_types_that_numpy_lacks_are_measured():
    """The cpu backend refuses bf16 itself; one that accepts it gets operands that it can store."""
    selection = replace(FPROP, precisions=(PRECISIONS["bf16"], PRECISIONS["fp16"], PRECISIONS["tf32"]))
    found = tasks(selection.cases([SUITE]), specs("quick"), 1)
    assert [row.status for row in rows_of(lines_of(found))] == ["ok", "ok", "ok"]


def test_an_unusable_backend_is_unavailable():
    rows = measure(backend=FakeBackend(unusable='no CuPy: pip install "convbench[cuda13]"'))
    assert {row.status for row in rows.values()} == {Status.UNAVAILABLE}
    assert rows["quick"].reason == 'no CuPy: pip install "convbench[cuda13]"'


def test_a_row_that_needs_too_much_is_skipped_with_the_figures():
    rows = measure(big=FakeAlgorithm(memory_bytes=3 << 30), quick=FakeAlgorithm())
    row = rows["big"]
    assert (row.status, row.time_s, row.rounds) == ("skipped", None, ())
    assert row.reason.startswith("needs 3.00 GiB (operands 792 B, plan 3.00 GiB, a run or its verification ")
    assert row.reason.endswith("; --max-memory is 1.00 GiB")
    assert rows["quick"].status == "ok"


def test_a_row_that_needs_just_what_there_is_is_measured():
    found = tasks(FPROP.cases([SUITE]), specs("quick"), 1)
    need = found[0].memory_bytes
    assert rows_of(lines_of(found, replace(OPTIONS, max_memory=need)))[0].status == "ok"
    assert rows_of(lines_of(found, replace(OPTIONS, max_memory=need - 1)))[0].status == "skipped"


def off_by(amount):
    def fault(right):
        right.flat[-1] += amount
        return right

    return fault


def test_a_wrong_row_has_no_time():
    found = tasks(FPROP.cases([SUITE]), specs(bad=FakeAlgorithm(fault=off_by(1.0)), quick=FakeAlgorithm()), 1)
    lines = lines_of(found)
    bad, quick = rows_of(lines)
    assert (bad.status, bad.time_s, bad.rounds, bad.interval_s) == ("wrong", None, (), None)
    assert bad.effective_flop_per_s is None
    assert "off by 1" in bad.reason
    assert bad.verification["passed"] is False
    assert bad.verification["max_error"] > 0.1
    assert bad.resolved == "bad"
    assert quick.status == "ok"
    assert not any(line["type"] == "round" and line["row"] == 0 for line in lines)


def test_an_unwritten_output_is_wrong():
    def half(right):
        right[:, 1] = np.nan
        return right

    row = measure(lazy=FakeAlgorithm(fault=half))["lazy"]
    assert row.status == "wrong"
    assert "unwritten or not finite" in row.reason


def test_an_error_where_none_is_allowed_can_be_written():
    """Where every product meets padding the result is exactly 0, and any error infinitely far beyond its bound."""
    suite = parse_suite(
        b'schema = 1\nname = "s"\n[[problem]]\nname = "crop"\nbatch = 1\nin_channels = 1\nout_channels = 1\n'
        b"input_size = 6\nfilter_size = 1\npadding = [[0, -3], [0, 0]]\n",
        "s.toml",
    )
    found = tasks(Selection(passes=(ConvPass.DGRAD,)).cases([suite]), specs(bad=FakeAlgorithm(fault=off_by(1.0))), 1)
    lines = lines_of(found)
    json.dumps(lines, allow_nan=False)
    row = rows_of(lines)[0]
    assert (row.status, row.verification["bound_share"]) == ("wrong", None)


@pytest.mark.parametrize("error", [RuntimeError("no\nsuch device"), KeyError("x"), AssertionError(), OSError(5, "io")])
def test_a_plan_that_raises_is_a_failed_row(error):
    rows = measure(broken=FakeAlgorithm(plan_error=error), quick=FakeAlgorithm())
    row = rows["broken"]
    assert (row.status, row.time_s, row.resolved) == ("failed", None, None)
    assert row.reason.startswith(f"{type(error).__name__}:")
    assert row.reason.endswith(")")
    assert "(testing.py:" in row.reason
    assert "\n" not in row.reason
    assert rows["quick"].status == "ok"


def test_a_first_run_that_raises_is_a_failed_row():
    row = measure(broken=FakeAlgorithm(run_error=RuntimeError("launch failed"), good_runs=0))["broken"]
    assert (row.status, row.resolved, row.verification) == ("failed", "broken", None)
    assert row.reason.startswith("RuntimeError: launch failed (testing.py:")


def test_a_run_that_raises_while_timed_is_a_failed_row_with_its_samples():
    found = tasks(FPROP.cases([SUITE]), specs(shaky=FakeAlgorithm(run_error=RuntimeError("lost"), good_runs=150),
                                              quick=FakeAlgorithm()), 1)  # fmt: skip
    lines = lines_of(found, replace(OPTIONS, timing=TimingOptions()))
    shaky, quick = rows_of(lines)
    assert shaky.status == "failed"
    assert shaky.reason.startswith("RuntimeError: lost (testing.py:")
    assert shaky.time_s is None
    assert 1 <= len(shaky.rounds) < 6
    assert quick.status == "ok"
    assert [line["type"] for line in lines if line.get("row") == 0][-1] == "failure"


@pytest.mark.parametrize("behaviour", [
    {"plan_error": MemoryError("no room")}, {"run_error": MemoryError("no room"), "good_runs": 0},
    {"run_error": MemoryError("no room"), "good_runs": 30},
], ids=["plan", "first run", "while timed"])  # fmt: skip
def test_out_of_memory_is_told_from_other_failures(behaviour):
    row = measure(big=FakeAlgorithm(**behaviour))["big"]
    assert (row.status, row.time_s) == ("out_of_memory", None)
    assert row.reason.startswith("MemoryError: no room")


@pytest.mark.parametrize("behaviour", [
    {"plan_error": KeyboardInterrupt()}, {"run_error": KeyboardInterrupt(), "good_runs": 0},
    {"run_error": KeyboardInterrupt(), "good_runs": 250},
], ids=["plan", "first run", "while timed"])  # fmt: skip
def test_an_interrupt_passes_through_and_what_came_before_is_out(behaviour):
    found = tasks(FPROP.cases([SUITE]), specs(picky=FakeAlgorithm(reason="no"), quick=FakeAlgorithm(),
                                              stopped=FakeAlgorithm(**behaviour)), 1)  # fmt: skip
    spent = Spent()
    lines = []
    with pytest.raises(KeyboardInterrupt):
        collect(run(found, replace(OPTIONS, timing=TimingOptions()), spent), lines)
    rows = rows_of([line for line in lines if not isinstance(line, Progress)])
    assert [row.status for row in rows][:2] == ["unsupported", "partial"]
    if behaviour.get("good_runs") == 250:
        assert rows[1].rounds
        assert spent.samples > 0
    assert spent.planning > 0


def collect(events, into):
    """Unlike list.extend, keeps what came before an error."""
    for event in events:
        into.append(event)


# Verification


def test_every_row_of_a_group_is_verified_before_any_is_timed():
    found = tasks(Selection().cases([SUITE]), specs(), 1)
    kinds = [line["type"] for line in lines_of(found)]
    assert kinds[: len(found)] == ["case"] * len(found)
    assert "case" not in kinds[len(found) :]
    assert kinds[len(found)] == "canary"


class RunsChanged(FakeBackend):
    """Every run goes through `change(plan, number of the run, the real run)`."""

    def __init__(self, change):
        super().__init__({"quick": FakeAlgorithm()})
        self.change = change

    def plan(self, *arguments):
        plan = super().plan(*arguments)
        original, runs = plan.run, itertools.count(1)
        plan.run = lambda: self.change(plan, next(runs), original)
        return plan


def test_verification_sees_the_second_run_on_a_poisoned_output():
    poisoned = []

    def watch(plan, number, run):
        poisoned.append(bool(np.isnan(plan.output()).all()))
        run()

    assert measure(backend=RunsChanged(watch))["quick"].status == "ok"
    assert poisoned[1]


def only_once(plan, number, run):
    if number == 1:
        run()


def doubled_from_the_second_on(plan, number, run):
    run()
    if number > 1:
        plan.output()[...] *= 2


@pytest.mark.parametrize("change", [only_once, doubled_from_the_second_on])
def test_a_plan_that_is_right_only_the_first_time_is_wrong_and_has_no_time(change):
    row = measure(backend=RunsChanged(change))["quick"]
    assert row.status == "wrong"
    assert row.time_s is None


@pytest.mark.parametrize("epilogue", [Epilogue.BIAS, Epilogue.BIAS_RELU])
def test_a_fused_epilogue_is_verified(epilogue):
    selection = replace(FPROP, epilogues=(epilogue,))
    assert measure(selection, quick=FakeAlgorithm())["quick"].status == "ok"


class Fused(FakeBackend):
    """Right without an epilogue; with one it does what `fault` makes of it."""

    def __init__(self, fault, linear=False):
        super().__init__({"quick": FakeAlgorithm()})
        self.fault, self.linear = fault, linear

    def plan(self, case, algorithm, operands, options):
        if (case.epilogue is Epilogue.NONE) == self.linear:
            self.behaviour = {"quick": FakeAlgorithm(fault=self.fault)}
        else:
            self.behaviour = {"quick": FakeAlgorithm()}
        return super().plan(case, algorithm, operands, options)


@pytest.mark.parametrize("epilogue", [Epilogue.BIAS, Epilogue.BIAS_RELU])
@pytest.mark.parametrize("linear", [False, True])
def test_a_wrong_fused_epilogue_is_wrong(epilogue, linear):
    selection = replace(FPROP, epilogues=(epilogue,))
    row = measure(selection, backend=Fused(off_by(1.0), linear))["quick"]
    assert (row.status, row.time_s, row.verification["passed"]) == ("wrong", None, False)
    assert row.reason


def test_an_epilogue_that_was_left_out_is_wrong():
    class Without(FakeBackend):
        def plan(self, case, algorithm, operands, options):
            return super().plan(replace(case, epilogue=Epilogue.NONE), algorithm, operands, options)

    row = measure(replace(FPROP, epilogues=(Epilogue.BIAS,)), backend=Without())["quick"]
    assert (row.status, row.time_s) == ("wrong", None)


def inexact(right):
    """Off by 4e-7 of the result's size, everywhere: within the bound of each element, 1.2e-6 of its root."""
    return (right + 4e-7 * np.sqrt(np.mean(right**2))).astype(right.dtype)


def test_a_row_beyond_its_tier_is_wrong_and_says_why():
    rows = measure(honest=FakeAlgorithm(fault=inexact), proud=FakeAlgorithm(fault=inexact, accuracy=2e-7))
    assert {name: row.status for name, row in rows.items()} == {"honest": "ok", "proud": "wrong"}
    reason = r"the relative L2 error is [34]\.?\d?e-07, the stated accuracy of 2e-07 allows 2e-07 here"
    assert re.fullmatch(reason, rows["proud"].reason)
    assert rows["proud"].time_s is None
    assert {name: row.verification["accuracy"] for name, row in rows.items()} == {"honest": 1e-6, "proud": 2e-7}


class Stating(FakeBackend):
    """Its plans state a tier themselves."""

    def __init__(self, accuracy, behaviour):
        super().__init__({"quick": behaviour})
        self.accuracy = accuracy

    def plan(self, *arguments):
        plan = super().plan(*arguments)
        plan.accuracy = self.accuracy
        return plan


@pytest.mark.parametrize("epilogue", Epilogue)
@pytest.mark.parametrize(("stated", "status"), [(2e-7, "wrong"), (1e-5, "ok"), (1, "wrong")])
def test_a_plan_may_state_another_tier_than_its_candidate(stated, status, epilogue):
    backend = Stating(stated, FakeAlgorithm(fault=inexact))
    row = measure(replace(FPROP, epilogues=(epilogue,)), backend=backend)["quick"]
    assert row.status == status
    assert row.verification["accuracy"] == (stated if stated < 1 else None)


def test_what_auto_took_keeps_what_was_asked_for():
    """A backend that takes an algorithm of a looser tier is found out by the error."""
    backend = Stating(1e-4, FakeAlgorithm(fault=inexact, accuracy=1e-7))
    for accuracy, status in ((1e-5, "ok"), (2e-7, "wrong")):
        found = tasks(FPROP.cases([SUITE]), specs(AUTO, backend=backend), 1, accuracy=accuracy)
        row = rows_of(lines_of(found, replace(OPTIONS, accuracy=accuracy)))[0]
        assert (row.status, row.verification["accuracy"]) == (status, accuracy)


def test_auto_takes_an_algorithm_that_is_exact_enough():
    behaviour = {"loose": FakeAlgorithm(accuracy=1e-4), "exact": FakeAlgorithm()}
    for accuracy, resolved in ((1e-4, "loose"), (1e-5, "exact")):
        found = tasks(FPROP.cases([SUITE]), specs(AUTO, "loose", **behaviour), 1, accuracy=accuracy)
        auto, named = rows_of(lines_of(found, replace(OPTIONS, accuracy=accuracy)))
        assert (auto.resolved, auto.status) == (resolved, "ok")
        assert (named.resolved, named.status) == ("loose", "ok")


# Phases


PHASES = {"gather": 2e-4, "product": 8e-4}


def measure_phases(backend=None, **options):
    found = tasks(FPROP.cases([SUITE]), specs("quick", backend=backend, quick=FakeAlgorithm(phases=PHASES)), 1)
    lines = lines_of(found, replace(OPTIONS, **options))
    return rows_of(lines)[0], [line["type"] for line in lines]


def test_phases_are_measured_where_they_are_asked_for():
    row, kinds = measure_phases(phases=True)
    assert row.status == "ok"
    assert [phase.name for phase in row.work.phases] == [*PHASES]
    assert row.phases_s == pytest.approx((2e-4, 8e-4))
    assert len(row.phases) == PHASE_RUNS
    assert kinds[-2:] == ["phases", "round"]
    plain, kinds = measure_phases()
    assert (plain.phases, plain.phases_s, "phases" in kinds) == ((), None, False)
    assert plain.time_s == row.time_s


def test_a_plan_that_cannot_say_is_measured_all_the_same():
    row = measure(options=replace(OPTIONS, phases=True), quick=FakeAlgorithm())["quick"]
    assert (row.status, row.phases) == ("ok", ())


class Phased(FakeBackend):
    """Its plans give what `answer` gives."""

    def __init__(self, answer):
        super().__init__({"quick": FakeAlgorithm(phases=PHASES)})
        self.answer = answer

    def plan(self, *arguments):
        plan = super().plan(*arguments)
        plan.run_phases = lambda _clock: self.answer()
        return plan


@pytest.mark.parametrize(("answer", "reason"), [
    (lambda: [1.0], r"run_phases gave 1 times, work has 2 phases"),
    (lambda: [1.0, -1.0], r"run_phases gave \[1\.0, -1\.0\] seconds"),
    (lambda: [1.0, float("nan")], r"run_phases gave \[1\.0, nan\] seconds"),
    (lambda: 1 / 0, r"ZeroDivisionError: .*"), (lambda: None, r"TypeError: .*"),
], ids=["too few", "negative", "nan", "raises", "none"])  # fmt: skip
def test_a_plan_that_says_nonsense_about_its_phases_has_failed(answer, reason):
    row, _ = measure_phases(Phased(answer), phases=True)
    assert (row.status, row.time_s, row.phases) == ("failed", None, ())
    assert re.fullmatch(reason, row.reason)


def test_an_interrupt_in_a_phase_passes_through():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_phases(Phased(interrupt), phases=True)


# Journal


def test_lines_fold_into_a_row_for_every_task():
    behaviour = {
        "quick": FakeAlgorithm(), "picky": FakeAlgorithm(reason="no"), "bad": FakeAlgorithm(fault=off_by(1.0)),
        "broken": FakeAlgorithm(plan_error=RuntimeError("x")), "big": FakeAlgorithm(memory_bytes=1 << 40),
        "shaky": FakeAlgorithm(run_error=MemoryError(), good_runs=30),
    }  # fmt: skip
    found = tasks(Selection().cases([SUITE]), specs(**behaviour), 1)
    lines = lines_of(found)
    rows = rows_of(lines)
    assert [row.key for row in rows] == [task.key for task in found]
    expected = {"quick": "ok", "picky": "unsupported", "bad": "wrong", "broken": "failed", "big": "skipped",
                "shaky": "out_of_memory"}  # fmt: skip
    assert [row.status for row in rows] == [expected[row.key.algorithm] for row in rows]
    assert all(row.reason for row in rows if row.status != "ok")
    assert all((row.time_s is not None) == (row.status == "ok") for row in rows)
    json.dumps(lines, allow_nan=False)


def test_the_same_seed_gives_the_same_lines():
    """Plan and first-call times are real; all else is simulated or seeded."""

    def timeless(seed):
        lines = lines_of(tasks(Selection().cases([SUITE]), specs(), 1), replace(OPTIONS, seed=seed))
        return [{k: v for k, v in line.items() if k not in {"plan_s", "first_call_s"}} for line in lines]

    def order(lines):
        return [line["row"] for line in lines if line["type"] == "round"]

    assert timeless(1) == timeless(1)
    assert order(timeless(1)) != order(timeless(2))


def test_rows_keep_the_indices_of_their_tasks():
    found = [replace(task, index=task.index + 40) for task in tasks(FPROP.cases([SUITE]), specs(), 1)]
    assert {line["row"] for line in lines_of(found) if "row" in line} == {40, 41}


def test_a_row_is_announced_before_each_of_its_rounds():
    found = tasks(FPROP.cases([SUITE]), specs(), 1)
    seen = []
    events = run(found, OPTIONS, announce=lambda row: seen.append(("announced", row)))
    seen.extend(("round", e["row"]) for e in events if not isinstance(e, Progress) and e["type"] == "round")
    assert {row for _, row in seen} == {task.index for task in found}
    assert seen[::2] == [("announced", row) for _, row in seen[1::2]]
    assert all(kind == "round" for kind, _ in seen[1::2])


def test_progress_names_the_row_and_what_is_done():
    behaviour = {"quick": FakeAlgorithm(), "shaky": FakeAlgorithm(run_error=RuntimeError("lost"), good_runs=40)}
    found = tasks(FPROP.cases([SUITE]), specs(**behaviour), 1)
    events = [event for event in run(found, OPTIONS) if isinstance(event, Progress)]
    assert [(e.index, e.doing) for e in events[:2]] == [(0, "verify"), (1, "verify")]
    for index in (0, 1):
        shares = [e.share for e in events[2:] if e.index == index]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0  # finished, be it by failing


def test_spent_seconds_are_told():
    spent = Spent()
    list(run(tasks(FPROP.cases([SUITE]), specs(), 1), OPTIONS, spent))
    assert spent.planning > 0
    assert spent.verification > 0
    assert spent.samples == pytest.approx(spent.samples)


def test_no_tasks_no_lines():
    assert list(run([], OPTIONS)) == []


def test_only_refused_tasks_plan_nothing():
    class Never(FakeBackend):
        def plan(self, *_arguments):
            raise AssertionError("planned")

    rows = measure(backend=Never({"picky": FakeAlgorithm(reason="no")}))
    assert rows["picky"].status == "unsupported"


# Operands


def test_operands_are_shared_within_a_problem_and_released(monkeypatch):
    made = []
    alive = []

    class Counted(operands_module.Operands):
        def __init__(self, problem, dtype, seed):
            super().__init__(problem, dtype, seed)
            alive.append(weakref.ref(self))

        def _normal(self, role, shape):
            made.append((self.problem, self.dtype, role))
            return super()._normal(role, shape)

    monkeypatch.setattr(operands_module, "Operands", Counted)
    selection = Selection(precisions=(PRECISIONS["fp32"], PRECISIONS["fp64"]))
    found = tasks(selection.cases([SUITE]), specs(), 1)
    events = run(found, OPTIONS)
    for event in events:
        if not isinstance(event, Progress) and event["type"] == "round":
            break
    assert len(made) == len(set(made)) == 2 * 2 * 3  # problems × dtypes × (x, w, dy), once each
    assert not any(ref() for ref in alive)  # gone before the first sample
    events.close()


def test_all_backends_get_the_same_numbers():
    seen = {}

    class Watched(FakeBackend):
        def plan(self, case, algorithm, operands, options):
            if case.suite:  # not for its floor
                seen.setdefault(case.label(), []).append((operands.x.copy(), operands.w.copy()))
            return super().plan(case, algorithm, operands, options)

    found = tasks(Selection().cases([SUITE]), specs(backend=Watched()), 1)
    lines_of(found, replace(OPTIONS, max_memory=max(task.memory_bytes for task in found)))  # one row at a time
    assert len(seen) == 6
    for pairs in seen.values():
        assert len(pairs) == 2
        for x, w in pairs[1:]:
            np.testing.assert_array_equal(x, pairs[0][0])
            np.testing.assert_array_equal(w, pairs[0][1])


# Threads


def test_blas_is_held_to_the_threads_while_it_runs():
    from threadpoolctl import threadpool_info

    def blas_threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    seen = set()

    class Watched(FakeBackend):
        def plan(self, case, algorithm, operands, options):
            seen.update(blas_threads())
            assert options.threads == 1
            return super().plan(case, algorithm, operands, options)

    before = blas_threads()
    assert measure(backend=Watched())["quick"].status == "ok"
    assert seen <= {1}
    assert blas_threads() == before


def test_the_cpu_backend_end_to_end():
    suite = load_suite("smoke")
    selection = Selection(globs=("plain-3x3", "empty-batch", "line"))
    options = replace(OPTIONS, timing=TimingOptions(max_time_s=1e-3, min_sample_s=1e-5))
    found = tasks(selection.cases([suite]), [BackendSpec(CpuBackend()), BackendSpec(CpuBackend(), AUTO)], 1)
    rows = rows_of(lines_of(found, options))
    assert len(rows) == 3 * 3 * (len(PLANNERS) + 1)
    refused = [row for row in rows if row.status is Status.UNSUPPORTED]
    assert not {row.key.algorithm for row in refused} & {AUTO, "direct", "gemm", "fft"}
    assert {row.status for row in rows if row not in refused} == {Status.OK}
    assert all(row.time_s > 0 for row in rows if row not in refused)
    assert isinstance(found[0], Task)


# Cold rows


class Counted(FakeBackend):
    """Counts plans, and runs by plan, but for those of a floor."""

    def __init__(self, **behaviour):
        super().__init__(behaviour or {"quick": FakeAlgorithm(seconds=1e-4)})
        self.operands, self.runs = [], []

    def plan(self, case, algorithm, operands, options):
        plan = super().plan(case, algorithm, operands, options)
        if not case.suite:
            return plan
        number, original = len(self.operands), plan.run
        self.operands.append(operands.x)

        def run():
            self.runs.append(number)
            original()

        plan.run = run
        return plan


def cold_rows(backend, caches=(COLD,), options=OPTIONS):
    found = tasks(FPROP.cases([SUITE]), specs(backend=backend), 1, caches)
    return {row.key.cache: row for row in rows_of(lines_of(found, options))}


def test_a_cold_row_rotates_through_operands_of_its_own():
    backend = Counted()
    row = cold_rows(backend)["cold"]
    assert row.status == "ok"
    assert row.time_s == pytest.approx(1e-4)
    assert len(backend.operands) == 10  # so that a sample of one launch each lasts a millisecond
    assert len({x.tobytes() for x in backend.operands}) == 10
    assert {r.launches for r in row.rounds} == {10}
    timed = backend.runs[backend.runs.index(9) + 1 : -1]  # after the first calls, and before the check at the end
    assert timed == [*range(10)] * (len(timed) // 10)
    assert backend.shared_device.sweeps == len(timed) // 10


def test_warm_and_cold_rows_share_one_verified_plan():
    backend = Counted(slow=FakeAlgorithm(seconds=1e-2))
    rows = cold_rows(backend, (WARM, COLD))
    assert len(backend.operands) == 1
    assert rows["cold"].verification == rows["warm"].verification
    assert {row.status for row in rows.values()} == {"ok"}


def test_a_further_set_that_cannot_be_planned_is_a_failed_row():
    class Once(Counted):
        def plan(self, *arguments):
            if self.operands:
                raise MemoryError("no more")
            return super().plan(*arguments)

    row = cold_rows(Once())["cold"]
    assert (row.status, row.reason.partition(" (")[0]) == ("out_of_memory", "MemoryError: no more")


# Honesty


class Cheat(FakeBackend):
    """A plan that is made dishonest by `spoil(plan)`."""

    def __init__(self, spoil):
        super().__init__({"quick": FakeAlgorithm()})
        self.spoil = spoil

    def plan(self, case, algorithm, operands, options):
        plan = super().plan(case, algorithm, operands, options)
        self.spoil(plan, operands)
        return plan


def poisons_nothing(plan, _):
    plan.poison = lambda: None


def computes_when_asked(plan, _):
    run, output = plan.run, plan.output
    plan.run = lambda: None
    plan.output = lambda: (run(), output())[1]


def writes_into_its_operands(plan, operands):
    run = plan.run

    def spoiling():
        run()
        operands.x.flags.writeable = True
        operands.x[0] += 1

    plan.run = spoiling


def gives_up_later(plan, _):
    run, runs = plan.run, itertools.count()
    plan.run = lambda: run() if next(runs) < 5 else None


def turns_wrong_later(plan, _):
    run, runs = plan.run, itertools.count()

    def turning():
        run()
        if next(runs) >= 5:
            plan.output()[0] += 1

    plan.run = turning


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (poisons_nothing, "96 elements of the output are not NaN after poison()"),
        (computes_when_asked, "96 elements of the output are not NaN after poison()"),
        (writes_into_its_operands, "the plan wrote into its operands: x"),
        (gives_up_later, "after timing, 96 of 96 elements differ from what was verified"),
        (turns_wrong_later, "after timing, 48 of 96 elements differ from what was verified"),
    ],
)
def test_a_plan_that_cheats_is_wrong_and_has_no_time(spoil, reason):
    row = measure(backend=Cheat(spoil))["quick"]
    assert row.status == "wrong"
    assert row.reason.startswith(reason)
    assert row.time_s is None


@pytest.mark.parametrize(("error", "status"), [(SystemExit(3), "failed"), (MemoryError("3"), "out_of_memory")])
def test_a_plan_that_breaks_after_it_was_timed_has_failed(error, status):
    def breaks_later(plan, _):
        poison, calls = plan.poison, itertools.count()

        def poison_once():
            if next(calls) >= 1:
                raise error
            poison()

        plan.poison = poison_once

    row = measure(backend=Cheat(breaks_later))["quick"]
    assert (row.status, row.time_s) == (status, None)
    assert row.reason.startswith(f"after timing, {type(error).__name__}: 3 (test_runner.py:")


def test_a_plan_that_rounds_differently_each_time_is_right():
    def jitter(plan, _):
        run, runs = plan.run, itertools.count()

        def rounding():
            run()
            plan.output()[...] *= np.float32(1 + (next(runs) % 3) * 6e-8)

        plan.run = rounding

    assert measure(backend=Cheat(jitter))["quick"].status == "ok"


@pytest.mark.parametrize("error", [SystemExit(0), BaseException("by a backend"), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("method", ["plan", "run", "output"])
def test_a_backend_that_exits_is_a_failed_row(method, error):
    def leave(*_):
        raise error

    behaviour = {"quick": FakeAlgorithm(plan_error=error if method == "plan" else None)}
    backend = FakeBackend(behaviour) if method == "plan" else Cheat(lambda plan, _: setattr(plan, method, leave))
    assert measure(backend=backend)["quick"].status == "failed"


def test_a_run_that_raises_anything_later_is_a_failed_row():
    row = measure(quick=FakeAlgorithm(run_error=BaseException("late"), good_runs=20))["quick"]
    assert (row.status, row.reason.partition(" (")[0]) == ("failed", "BaseException: late")
