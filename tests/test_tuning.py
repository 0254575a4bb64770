"""What `auto` takes under --tune: measured once, on the fake backend and its simulated time, then remembered."""

import itertools
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from fake_cudnn import PLANS, FakePlan, fake_backend
from tiny import FPROP, SUITE, specs

from convbench import tuning
from convbench.backends import AUTO
from convbench.lost import DeviceLostError
from convbench.problem import ConvPass
from convbench.result import COLD, WARM, Row, Status
from convbench.runner import Progress, RunOptions, Spent
from convbench.tasks import Selection, tasks
from convbench.testing import FakeAlgorithm, FakeBackend, FakeDevice
from convbench.timing import TimingOptions

OPTIONS = RunOptions(threads=1, max_memory=1 << 30, timing=TimingOptions(), tune=True)
FIRST_IS_SLOW = {"slow": FakeAlgorithm(seconds=3e-3), "quick": FakeAlgorithm(seconds=1e-3)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Recorded(FakeBackend):
    """Knows which algorithms were planned."""

    def __init__(self, behaviour):
        super().__init__(behaviour)
        self.planned = []

    def plan(self, case, algorithm, operands, options):
        self.planned.append(algorithm)
        return super().plan(case, algorithm, operands, options)


def tune(options=OPTIONS, selection=FPROP, caches=(WARM,), backend=None, **behaviour):
    """(what the rows of auto are told to take, the backend, events, warnings)."""
    backend = backend or Recorded(behaviour or FIRST_IS_SLOW)
    found = tasks(selection.cases([SUITE]), specs(AUTO, backend=backend), options.threads, caches, options.accuracy,
                  options.workspace_limit_bytes)  # fmt: skip
    events, warnings = [], []
    steps = tuning.tuned(found, options, Spent(), warnings.append)
    try:
        while True:
            events.append(next(steps))
    except StopIteration as stop:
        return [task.chosen for task in stop.value], backend, events, warnings


def test_the_fastest_is_taken():
    chosen, backend, events, warnings = tune()
    assert chosen == ["quick"]
    assert backend.planned == ["slow", "quick", "quick"]  # timed, and then the fastest is verified
    assert events == [Progress(0, "tune")]
    assert warnings == []


def test_the_choice_is_remembered():
    tune()
    chosen, backend, _, _ = tune()
    assert (chosen, backend.planned) == (["quick"], [])


def test_a_task_told_what_to_take_has_the_memory_of_that():
    behaviour = {"slow": FakeAlgorithm(seconds=3e-3, memory_bytes=10), "quick": FakeAlgorithm(memory_bytes=7777)}
    found = tasks(FPROP.cases([SUITE]), specs(AUTO, "slow", **behaviour), 1)
    told = found[0].taking("quick")
    assert (told.algorithm, told.key.algorithm, told.candidate.memory_bytes) == ("quick", AUTO, 7777)
    assert (found[0].algorithm, found[1].algorithm) == (AUTO, "slow")


def test_rows_asked_for_by_name_are_left_alone():
    backend = Recorded(FIRST_IS_SLOW)
    found = tasks(FPROP.cases([SUITE]), specs("slow", "quick", backend=backend), 1)
    steps = tuning.tuned(found, OPTIONS, Spent(), print)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == found
    assert backend.planned == []


def test_only_those_of_the_least_estimate_are_measured(monkeypatch):
    """Those without an estimate come last, in the backend's order."""
    monkeypatch.setattr(tuning, "CONTENDERS", 3)
    behaviour = {
        "unknown": FakeAlgorithm(seconds=1e-6), "worst": FakeAlgorithm(seconds=1e-5, estimated_s=4.0),
        "good": FakeAlgorithm(estimated_s=2.0), "best": FakeAlgorithm(seconds=5e-3, estimated_s=1.0),
        "fair": FakeAlgorithm(seconds=2e-3, estimated_s=3.0),
    }  # fmt: skip
    chosen, backend, _, _ = tune(**behaviour)
    assert backend.planned == ["best", "good", "fair", "good"]
    assert chosen == ["good"]


LISTED = {f"eng{place}": FakeAlgorithm(seconds=1e-3 * (9 - place)) for place in range(8)}
"""A list in the backend's order, without estimates; the last is the fastest."""


def test_all_of_a_list_without_estimates_are_measured():
    chosen, backend, _, _ = tune(**LISTED)
    assert backend.planned == [*LISTED, "eng7"]
    assert chosen == ["eng7"]


@pytest.mark.parametrize("memory_bytes", [0, 1 << 29])
def test_a_list_is_measured_as_long_as_it_does_not_take_too_long(monkeypatch, memory_bytes):
    """Three are in any case; here each takes 3 s to be planned, of the 10 s that two for a row allow."""
    monkeypatch.setattr(tuning, "CONTENDERS", 3)
    now = [0.0]

    class Slow(Recorded):
        def plan(self, case, algorithm, operands, options):
            now[0] += 3.0
            return super().plan(case, algorithm, operands, options)

    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now[0])
    backend = Slow({name: replace(a, memory_bytes=memory_bytes) for name, a in LISTED.items()})
    assert tune(backend=backend)[0] == ["eng3"]
    assert backend.planned == ["eng0", "eng1", "eng2", "eng3", "eng3"]
    hasty = replace(OPTIONS, timing=TimingOptions(max_time_s=0.1))
    backend = Slow(backend.behaviour)
    assert tune(hasty, selection=replace(FPROP, globs=("second",)), backend=backend)[0] == ["eng2"]


def test_the_best_of_cudnns_list_is_taken(monkeypatch):
    """Its order is the heuristics'. A plan on tensor cores is no contender, one that fails is left out."""
    plans = (*PLANS[:3], FakePlan("eng2", run_error=RuntimeError("no"), seconds=1e-6), FakePlan("eng3", seconds=30e-6),
             PLANS[3], FakePlan("eng4", seconds=40e-6))  # fmt: skip
    backend, _ = fake_backend(monkeypatch, plans=plans)
    assert tune(backend=backend)[0] == ["eng0"]
    limited = replace(OPTIONS, workspace_limit_bytes=0)
    backend, _ = fake_backend(monkeypatch, plans=(FakePlan("eng9", workspace=1, seconds=1e-6), *plans))
    assert tune(limited, backend=backend)[0] == ["eng0"]


def test_what_is_wrong_is_given_up_for_the_next(folder):
    """The fastest are verified, one after another, until one is right."""
    wrong = {"eng7": replace(LISTED["eng7"], fault=off), "eng6": replace(LISTED["eng6"], fault=off)}
    chosen, backend, _, _ = tune(**(LISTED | wrong))
    assert chosen == ["eng5"]
    assert backend.planned == [*LISTED, "eng7", "eng6", "eng5"]
    (entry,) = stored(folder)["choices"].values()
    assert [*entry["seconds"]] == [f"eng{place}" for place in range(6)]


def test_accuracy_limits_the_choice():
    behaviour = {"exact": FakeAlgorithm(seconds=3e-3), "usual": FakeAlgorithm(seconds=2e-3, accuracy=1e-5),
                 "loose": FakeAlgorithm(seconds=1e-3, accuracy=1e-4)}  # fmt: skip
    expected = {1e-4: "loose", 1e-5: "usual", 1e-6: "exact"}
    for accuracy, name in expected.items():
        assert tune(replace(OPTIONS, accuracy=accuracy), **behaviour)[0] == [name]


def off(right):
    return right + 1


@pytest.mark.parametrize("trouble", [
    {"fault": off}, {"plan_error": RuntimeError("no")}, {"run_error": MemoryError(), "good_runs": 0},
    {"run_error": RuntimeError("no"), "good_runs": 3}, {"reason": "not here"}, {"memory_bytes": 1 << 40},
], ids=["wrong", "no plan", "no run", "breaks while timed", "unsupported", "too large"])  # fmt: skip
def test_what_cannot_be_measured_is_not_taken(trouble):
    behaviour = {"slow": FakeAlgorithm(seconds=3e-3), "bad": FakeAlgorithm(seconds=1e-6, **trouble),
                 "quick": FakeAlgorithm()}  # fmt: skip
    assert tune(**behaviour)[0] == ["quick"]


def test_where_nothing_can_be_measured_the_choice_is_left_to_the_backend(folder):
    behaviour = {"one": FakeAlgorithm(fault=off), "two": FakeAlgorithm(fault=off)}
    assert tune(**behaviour)[0] == [None]
    assert not folder.exists()


def test_a_single_candidate_needs_no_measurement():
    chosen, backend, _, _ = tune(only=FakeAlgorithm(), other=FakeAlgorithm(reason="no"))
    assert (chosen, backend.planned) == (["only"], [])


class Losing(FakeDevice):
    """Lost as soon as "bad" has run, or been verified, in this process."""

    gone = False

    def lost(self):
        return "an illegal address" if self.gone else None


class LosesItsDevice(Recorded):
    """Loses it with "bad", in its run number `good_runs`; then nothing can be planned any more."""

    def __init__(self, good_runs=0):
        super().__init__({"slow": FakeAlgorithm(seconds=3e-3), "bad": FakeAlgorithm(seconds=1e-4, good_runs=good_runs),
                          "quick": FakeAlgorithm(), "last": FakeAlgorithm(seconds=2e-3)})  # fmt: skip
        self.shared_device = Losing()

    def plan(self, case, algorithm, operands, options):
        plan = super().plan(case, algorithm, operands, options)
        if self.shared_device.gone:
            raise RuntimeError("an illegal address")
        left = [plan.behaviour.good_runs]
        run = plan.run

        def losing():
            left[0] -= 1
            if algorithm == "bad" and left[0] < 0:
                self.shared_device.gone = True
                raise RuntimeError("an illegal address")
            run()

        plan.run = losing
        return plan


@pytest.mark.parametrize("good_runs", [0, 3])
def test_a_fresh_process_does_not_try_again_with_what_a_device_was_lost(folder, good_runs):
    isolated = replace(OPTIONS, isolate=True)
    with pytest.raises(DeviceLostError, match=r"since tiny/first fprop fp32 nchw fake:bad failed \(an illegal addr"):
        tune(isolated, backend=LosesItsDevice(good_runs))
    (entry,) = stored(folder)["choices"].values()
    assert (entry["row"], entry["barred"]) == ("tiny/first fprop fp32 nchw fake:auto", ["bad"])
    chosen, backend, _, warnings = tune(isolated, backend=LosesItsDevice(good_runs))
    assert (chosen, backend.planned, warnings) == (["quick"], ["slow", "quick", "last", "quick"], [])
    (entry,) = stored(folder)["choices"].values()
    assert (entry["algorithm"], entry["barred"]) == ("quick", ["bad"])
    assert tune(isolated, backend=LosesItsDevice(good_runs))[0] == ["quick"]


def test_a_contender_with_which_the_device_is_lost_while_it_is_verified_is_barred_too(monkeypatch, folder):
    losing = LosesItsDevice(good_runs=1 << 30)

    def prepare(task, *_):
        losing.shared_device.gone = True
        return Row(key=task.key, status=Status.FAILED)

    monkeypatch.setattr(tuning, "prepare", prepare)
    with pytest.raises(DeviceLostError):
        tune(replace(OPTIONS, isolate=True), backend=losing)
    assert [entry["barred"] for entry in stored(folder)["choices"].values()] == [["bad"]]


def test_in_one_process_it_is_said_and_nothing_more_is_tuned_on_the_device():
    chosen, backend, _, warnings = tune(selection=Selection(), backend=LosesItsDevice())
    assert chosen == [None] * 6
    assert backend.planned == ["slow", "bad"]
    (warning,) = warnings
    assert warning.startswith("fake runs nothing more in this process since tiny/first fprop fp32 nchw fake:bad failed")


def test_where_it_cannot_be_remembered_no_fresh_process_is_asked_for(folder):
    """It would try the same again, without end."""
    folder.write_text("a file")
    chosen, _, _, warnings = tune(replace(OPTIONS, isolate=True), backend=LosesItsDevice())
    assert chosen == [None]
    assert "runs nothing more" in warnings[-1]


@pytest.mark.parametrize("needs", [1000, 1 << 29])
def test_candidates_that_do_not_fit_together_are_measured_one_after_another(needs):
    """The clock runs on between samples of interleaved plans, and not between those of one."""
    order = []

    class Watched(Recorded):
        def plan(self, case, algorithm, operands, options):
            plan = super().plan(case, algorithm, operands, options)
            run = plan.run
            plan.run = lambda: (order.append(algorithm), run())
            return plan

    behaviour = {name: replace(a, memory_bytes=needs) for name, a in FIRST_IS_SLOW.items()}
    assert tune(backend=Watched(behaviour))[0] == ["quick"]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes == (1 if needs > 1000 else 2 * tuning.SAMPLES + 1)


def test_warm_and_cold_rows_share_a_choice():
    chosen, backend, _, _ = tune(caches=(WARM, COLD))
    assert chosen == ["quick", "quick"]
    assert len(backend.planned) == 3


def test_it_is_what_the_runner_plans():
    from convbench.runner import run

    backend = Recorded(FIRST_IS_SLOW)
    (task,) = tasks(FPROP.cases([SUITE]), specs(AUTO, backend=backend), 1)
    lines = [event for event in run([task.taking("quick")], OPTIONS) if not isinstance(event, Progress)]
    assert (lines[0]["key"]["algorithm"], lines[0]["resolved"]) == (AUTO, "quick")


# What a choice depends on


def questions(**changes):
    """Of one task with something changed."""
    backend = changes.pop("backend", None) or FakeBackend()
    accuracy, threads, limit = changes.pop("accuracy", 1e-5), changes.pop("threads", 1), changes.pop("limit", None)
    (task, *_) = tasks(changes.pop("cases", FPROP.cases([SUITE])), specs(AUTO, backend=backend), threads,
                       accuracy=accuracy, workspace_limit_bytes=limit)  # fmt: skip
    return tuning.Surroundings().question(task)


class Other(FakeBackend):
    name = "other"


@pytest.mark.parametrize("change", [
    {"accuracy": 1e-4}, {"threads": 2}, {"limit": 0}, {"backend": Other()}, {"backend": FakeBackend(index=0)},
    {"cases": Selection(passes=(ConvPass.DGRAD,), globs=("first",)).cases([SUITE])},
    {"cases": Selection(passes=(ConvPass.FPROP,), globs=("second",)).cases([SUITE])},
], ids=["accuracy", "threads", "limit", "backend", "device", "pass", "problem"])  # fmt: skip
def test_another_question_has_another_answer(change):
    assert questions() == questions()
    assert questions(**change) != questions()


def test_the_versions_of_libraries_and_the_machine_are_part_of_it(monkeypatch):
    before = questions()
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "__version__", "9.9")
        assert questions() != before
    with monkeypatch.context() as patch:
        patch.setattr(np, "__version__", "0.0")  # what is loaded does not matter, but what is installed
        assert questions() == before
    collected = tuning.environment.collect()
    changed = collected | {"libraries": collected["libraries"] | {"numpy": "9.9"}}
    monkeypatch.setattr(tuning.environment, "collect", lambda: changed)
    assert questions() != before


def test_the_versions_of_drivers_are_part_of_it(monkeypatch):
    before = questions()
    monkeypatch.setattr(FakeBackend, "versions", lambda _: {"cuDNN": "9.9.9"}, raising=False)
    assert questions() != before
    monkeypatch.setattr(FakeDevice, "versions", lambda _: {"driver": "580"}, raising=False)
    assert questions() != before


def test_the_name_of_a_problem_is_not_part_of_it():
    case = FPROP.cases([SUITE])[0]
    assert questions(cases=[replace(case, suite="other", name="same", repeat=9)]) == questions()


# The file


def stored(folder):
    return json.loads((folder / "choices.json").read_text())


def test_the_file_says_what_was_measured(folder):
    tune()
    content = stored(folder)
    (entry,) = content["choices"].values()
    assert content["format"] == tuning.FORMAT
    assert (entry["row"], entry["algorithm"]) == ("tiny/first fprop fp32 nchw fake:auto", "quick")
    assert entry["seconds"] == {"slow": pytest.approx(3e-3), "quick": pytest.approx(1e-3)}
    assert [path.name for path in folder.iterdir()] == ["choices.json"]  # nothing half written beside it


DAMAGED = ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "choices": []}', '{"format": 1, "choices": {"a": 1}}',
           '{"format": 1, "choices": {"a": {"algorithm": 3}}}',
           '{"format": 1, "choices": {"a": {"algorithm": "x", "barred": [3]}}}', '{"format": 0, "choices": {}}',
           "[" * 100_000, "\udcff"]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_one_warning_and_written_anew(folder, content):
    folder.mkdir()
    (folder / "choices.json").write_bytes(content.encode(errors="surrogateescape"))
    chosen, _, _, warnings = tune()
    assert chosen == ["quick"]
    assert len(warnings) == 1
    assert "choices.json cannot be used" in warnings[0]
    assert "\n" not in warnings[0]
    assert len(stored(folder)["choices"]) == 1
    assert tune()[3] == []


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(folder):
    folder.mkdir()
    os.mkfifo(folder / "choices.json")
    chosen, _, _, warnings = tune()
    assert chosen == ["quick"]
    assert "choices.json cannot be used" in warnings[0]


def test_a_choice_that_is_not_offered_any_more_is_made_anew(folder):
    tune()
    content = stored(folder)
    (entry,) = content["choices"].values()
    entry["algorithm"] = "gone"
    (folder / "choices.json").write_text(json.dumps(content))
    chosen, backend, _, _ = tune()
    assert (chosen, backend.planned) == (["quick"], ["slow", "quick", "quick"])
    assert [c["algorithm"] for c in stored(folder)["choices"].values()] == ["quick"]


def test_a_folder_that_cannot_be_written_is_one_warning(folder):
    folder.write_text("a file")
    chosen, _, _, warnings = tune(selection=Selection())
    assert chosen == ["quick"] * 6
    assert len(warnings) == 2  # it can be neither read nor written
    assert "cannot be written (" in warnings[1]
    assert folder.read_text() == "a file"


def test_the_oldest_choices_are_forgotten(folder, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_CHOICES", 2)
    choices = tuning.Choices(folder, print)
    for question in ("a", "b", "a", "c"):
        choices.put(question, "row", {"x": 2.0, "y": 1.0})
    assert [*stored(folder)["choices"]] == ["a", "c"]
    again = tuning.Choices(folder, print)
    assert (again.get("a"), again.get("b"), again.get("c")) == ("y", None, "y")
