"""The benchmark of the regression check: its limits, its slower backend, its simulated machines, what it repeats."""

import importlib.util
import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convbench import verify
from convbench.backends import AUTO, PlanOptions, parse_backend
from convbench.backends.cpu import CpuBackend
from convbench.compare import Verdict
from convbench.noise import Noise
from convbench.operands import Operands
from convbench.problem import ConvPass
from convbench.stats import first_quartile
from convbench.suite import load_suite
from convbench.tasks import Selection

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # for those that import it
    spec.loader.exec_module(module)
    return module


tables, backend, model, script = map(loaded, ("check_tables", "check_backend", "check_model", "check"))
SUITE = load_suite(str(BENCHMARKS / "check.toml"))
CASES = Selection(passes=(ConvPass.FPROP,)).cases([SUITE])
STILL = Noise()


# Limits


@pytest.mark.parametrize(
    ("hits", "count", "expected"),
    [
        (0, 300, 0.0099363),  # 1 − 0.05^(1/300), the rule of three
        (0, 1, 0.95),
        (1, 10, 0.3942),  # Clopper and Pearson's 90 % interval of 1 in 10, as tabulated: 0.0051 to 0.3942
        (10, 10, 1.0),
    ],
)
def test_upper_limit_by_known_values(hits, count, expected):
    assert tables.upper_limit(hits, count) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (3, 20), (57, 60), (4, 4000)])
def test_so_few_hits_have_a_probability_of_5_percent_at_the_limit(hits, count):
    limit = tables.upper_limit(hits, count)
    few = sum(math.comb(count, k) * limit**k * (1 - limit) ** (count - k) for k in range(hits + 1))
    assert few == pytest.approx(0.05)
    assert tables.lower_limit(count - hits, count) == pytest.approx(1 - limit)


def test_cells_by_hand():
    assert tables.at_most(0, 300) == "0 %, ≤ 0.99 % (0 of 300)"
    assert tables.at_least(9, 10) == "90.0 %, ≥ 60.6 % (9 of 10)"
    assert tables.at_most(0, 0) == "–"
    assert tables.at_least(6000, 6000) == "100 %, ≥ 99.95 % (6000 of 6000)"


def test_tally_counts_alarms_among_decided_rows_and_finds_among_all_changed_ones():
    tally = tables.Tally()
    tally.add([(True, Verdict.REGRESSION), (False, Verdict.REGRESSION), (False, Verdict.OK), (False, Verdict.IMPROVED)])
    tally.add([(True, Verdict.INCONCLUSIVE), (False, Verdict.INCONCLUSIVE)])
    assert tally.found() == tables.at_least(1, 2)
    assert tally.alarms() == tables.at_most(1, 3)
    assert tally.faster() == tables.at_most(1, 4)
    assert (tally.suites, tally.suites_alarmed, tally.suites_undecided, tally.undecided) == (2, 1, 1, 2)


# The slower backend


def tenth(case):
    """The case with a tenth of its images."""
    return replace(case, problem=replace(case.problem, batch=10))


@pytest.mark.parametrize("algorithm", script.ALGORITHMS)
@pytest.mark.parametrize("case", [*map(tenth, CASES)], ids=lambda case: case.name)
def test_more_images_leave_the_result_right(case, algorithm):
    operands = Operands(case.problem, case.dtype, seed=3)
    for half in backend.HALVES:
        slower = backend.MoreImages(20, half)
        plan = slower.plan(case, algorithm, operands, PlanOptions())
        assert verify.verify(case, plan, operands, seed=0).passed
        assert plan.output().shape == case.output_shape


@pytest.mark.parametrize(("percent", "half"), [*itertools.product(backend.EFFECTS, backend.HALVES)])
def test_the_stated_share_of_more_flops_in_one_half(percent, half):
    """By the algorithm's own count of what it executes; what it does to the filter once does not grow."""
    slower = parse_backend(f"{BENCHMARKS / 'check_backend.py'}:More{percent}{half}")[0].backend
    same = parse_backend(f"{BENCHMARKS / 'check_backend.py'}:Same")[0].backend
    for case in CASES[:2]:
        operands = Operands(case.problem, case.dtype, seed=0)
        for algorithm in script.ALGORITHMS:
            flops, more = (
                of.plan(case, algorithm, operands, PlanOptions()).work.executed_flops for of in (same, slower)
            )
            expected = 1 + percent / 100 if backend.changed(case.name, half) else 1
            assert more / flops == pytest.approx(expected, abs=0.002)


def test_half_of_the_suites_problems_are_in_each_half():
    names = [case.name for case in CASES]
    assert len(names) * len(script.ALGORITHMS) == script.ROWS
    for half in backend.HALVES:
        assert sum(backend.changed(name, half) for name in names) == len(names) // 2


def test_auto_takes_what_it_takes_without_more_images():
    for case in CASES:
        expected = CpuBackend().algorithms(case)[0].resolves_to
        found = {c.algorithm: c for c in backend.MoreImages(20, "odd").algorithms(case)}
        assert found[AUTO].resolves_to == expected
        assert found[AUTO].memory_bytes == found[expected].memory_bytes


# The model


@pytest.mark.parametrize("effect", [0.0, 0.03, 0.1])
def test_without_noise_all_is_found_and_nothing_else(effect):
    machine = model.Machine(course=STILL, process=STILL, state=STILL)
    launched, stored, spread = model.checked(model.Suites(machine=machine, effect=effect), 3)
    assert spread == 0
    assert launched.rows == {(True, Verdict.REGRESSION): 9, (False, Verdict.OK): 27} if effect else {(False, "ok"): 36}
    suspects = 9 if effect > 0.05 else 0  # a stored run needs the least effect, launches half of it
    assert stored.named(Verdict.SUSPECT) == suspects
    assert stored.named(Verdict.OK) == 36 - suspects


def test_launches_share_the_machine_and_not_the_process():
    course = Noise(wander=0.2, memory=0.9999, drift=1e-4)
    shared = model.Suites(machine=model.Machine(course=course, process=STILL, state=STILL), effect=0.0)
    own = model.Suites(machine=model.Machine(course=STILL, process=Noise(jitter=0.01), state=STILL), effect=0.0)
    assert np.abs(shared.log_ratios(0)).max() < 0.02
    assert own.log_ratios(0).std() == pytest.approx(0.01 * math.sqrt(2), rel=0.2)
    assert np.array_equal(own.log_ratios(5), own.log_ratios(5))
    assert not np.array_equal(own.log_ratios(5), own.log_ratios(6))


def test_first_quartiles_are_those_of_stats():
    values = np.random.default_rng(0).random((4, 11))
    assert model._first_quartiles(values).tolist() == [first_quartile(row.tolist()) for row in values]


# What is repeated


def done(setting, verdict=Verdict.OK, ratio=1.0):
    rows = [
        {"row": f"c{place} gemm", "changed": place == 1 and setting.effect > 0, "verdict": verdict, "reason": "r",
         "ratio": ratio, "launches": [ratio, ratio * 1.02, ratio * 0.99]}
        for place in (1, 2)
    ]  # fmt: skip
    return script.Done(setting, 60.0, rows)


def test_only_what_a_file_lacks_is_measured(tmp_path, monkeypatch):
    results = tmp_path / "runs" / "aa.jsonl"
    asked = []
    monkeypatch.setattr(script, "check", lambda setting, *_: asked.append(setting) or done(setting))
    settings = script.aa_settings(30)
    assert [setting.loaded for setting in settings] == [False, True, False, True]
    first = script.run(settings[:3], results, "python", None)
    assert script.read(results) == first
    assert len(script.run(settings, results, "python", None)) == 4
    assert asked == settings[:3] + settings[3:]
    assert len(results.read_text().splitlines()) == 4


def test_every_effect_changes_so_many_rows_in_both_halves():
    settings = script.ab_settings([5, 20], 60, loaded=True)
    assert len(settings) == 2 * 60 // (script.ROWS // 2)
    assert {(of.effect, of.half) for of in settings} == {(e, half) for e in (5, 20) for half in backend.HALVES}


def test_tables_of_made_up_checks(capsys):
    quiet, loud = script.Setting(0, "", False), script.Setting(0, "", True)
    script.aa_table([done(quiet), done(loud, Verdict.REGRESSION)])
    found = capsys.readouterr().out
    assert "| loaded | 1 | 2 | 100 %, ≤ 100 % (2 of 2) | 0 %, ≤ 77.6 % (0 of 2) | 0 |" in found
    assert "| together | 2 | 4 | 50.0 %, ≤ 90.2 % (2 of 4) |" in found
    script.ab_tables([done(script.Setting(10, "odd", False), Verdict.REGRESSION, 1.25)])
    found = capsys.readouterr().out
    assert "| +10 % | quiet | 1.250 | 100 %, ≥ 5.0 % (1 of 1) | 100 %, ≤ 100 % (1 of 1) |" in found
    assert "| c1 gemm | 1.250, 1 of 1 |" in found


def test_a_checks_rows_are_read_from_its_verdict(monkeypatch):
    row = {"problem": "c3", "algorithm": "gemm", "verdict": "ok", "reason": "within_noise", "ratio": 1.0,
           "launches": [1.0], "more": None}  # fmt: skip

    def ran(words, **_):
        (written,) = (Path(word.removeprefix("json=")) for word in words if word.startswith("json="))
        written.write_text(json.dumps({"rows": [row, row | {"problem": "c4"}]}))
        return type("Ended", (), {"returncode": 0})

    monkeypatch.setattr(script.subprocess, "run", ran)
    found = script.check(script.Setting(5, "odd", False), "python", 12, 0)
    assert [(of["row"], of["changed"]) for of in found.rows] == [("c3 gemm", True), ("c4 gemm", False)]
    assert "more" not in found.rows[0]
