"""Two devices in one run: a backend is made for each, and rows, canaries, floors and ceilings stay apart."""

import json
import os
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_cuda import fake_device
from plots import row as drawn
from plots import run_of
from stored import row, run
from test_runner import OPTIONS, lines_of, rows_of
from test_workers import run_program
from tiny import FPROP, SUITE

from convbench import backends, calibrate
from convbench.backends import ENTRY_POINTS, BackendSpec, PlanOptions, cuda, device_index, load, parse_backend
from convbench.ceilings import Ceiling, Ceilings
from convbench.cli import main
from convbench.compare import Reason, Verdict, compare
from convbench.compare import pairs as pairs_of
from convbench.errors import InputError, NotComparableError
from convbench.floor import Floors
from convbench.journal import read_run
from convbench.pairs import _timer
from convbench.render.bounds import bounds_table
from convbench.render.ci import Facts
from convbench.render.comparison import comparison_table, means_table
from convbench.render.html import report_tables
from convbench.render.html.facts import page_facts
from convbench.render.phases import phases_table
from convbench.render.plot.facts import network_bars, speedups
from convbench.render.plot.scene import Choice, make_scene, panels
from convbench.render.results import backends_table, rows_table, totals_table
from convbench.result import Status
from convbench.tasks import tasks, versions
from convbench.testing import FakeAlgorithm, FakeBackend, FakeDevice

GPUS = """
from convbench.errors import InputError
from convbench.testing import FakeAlgorithm, FakeBackend


class Gpu(FakeBackend):
    name = "gpu"

    def __init__(self, index=0):
        super().__init__({"quick": FakeAlgorithm(seconds=1e-3 * (1 + index))}, index=index)
        self.index = index

    def device(self):
        if self.index > 1:
            raise InputError(f"there is no GPU {self.index}: CUDA offers 2, counted from 0")
        return super().device()

    def versions(self):
        return {"driver": "9.9"}


class Plain(FakeBackend):
    name = "plain"

    def __init__(self):
        super().__init__({"quick": FakeAlgorithm()})


class Stubborn(FakeBackend):
    name = "stubborn"

    def __init__(self, index=0):
        super().__init__(index=0)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "gpus.py").write_text(GPUS)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments, code=0):
    result = CliRunner().invoke(main, arguments, prog_name="convbench", catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


MEASURED = ("run", "smoke", "--filter", "plain-3x3", "--pass", "fprop", "--threads", "1", "--max-time", "20ms", "-q")
BOTH = ("-b", "gpus.py:Gpu:quick", "-b", "gpus.py:Plain:quick")


def measured(*arguments, code=0):
    invoke(*MEASURED, "-o", "r.jsonl", *arguments, code=code)
    return read_run(Path("r.jsonl"))


# How a backend comes by its device


def test_a_backend_that_takes_an_index_is_made_for_each_device_and_another_once():
    text = "./gpus.py:Gpu:quick"
    found = parse_backend(text, (0, 1))
    assert [(s.index, s.backend.device().name, s.algorithm, s.text) for s in found] == [
        (0, "fake:0", "quick", text), (1, "fake:1", "quick", text),
    ]  # fmt: skip
    assert [spec.index for spec in parse_backend(text)] == [None]
    assert [(s.index, s.backend.device().name) for s in parse_backend("gpus.py:Plain", (0, 1))] == [(None, "fake")]


def test_so_is_one_behind_an_entry_point(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    specs = load(EntryPoint("gpu", "gpus:Gpu", ENTRY_POINTS), devices=(1,))
    assert [(spec.index, spec.text) for spec in specs] == [(1, "gpu")]
    assert [spec.index for spec in load(EntryPoint("text", "builtins:str", ENTRY_POINTS), devices=(1,))] == [None]


@pytest.mark.parametrize("name", ["cudnn", "cufft"])
def test_our_own_take_an_index(monkeypatch, name):
    monkeypatch.setattr(cuda, "device", FakeDevice)
    assert [spec.backend.device().name for spec in parse_backend(name, (1, 0))] == ["fake:1", "fake:0"]


@pytest.mark.parametrize(
    ("name", "index"), [("cuda:0", 0), ("cuda:12", 12), ("cpu", None), ("", None), ("a:b", None), ("cuda:", None),
                      ("gpu:01", None), ("fake:" + 5000 * "9", None), ("fake:٣", None)],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_the_number_of_a_device(name, index):
    assert device_index(name) == index


def test_rows_of_two_devices_are_never_taken_for_those_of_one():
    cases = FPROP.cases([SUITE])
    found = tasks(cases, parse_backend("gpus.py:Gpu:quick", (1, 0)), 1)
    assert [task.key.device for task in found] == ["fake:1", "fake:0"]
    with pytest.raises(InputError, match="backend stubborn cannot be used: made for device 1, it runs on 'fake:0'"):
        tasks(cases, parse_backend("gpus.py:Stubborn", (1,)), 1)


def test_a_limit_of_workspaces_is_asked_for_and_part_of_the_key():
    asked = []

    class Asked(FakeBackend):
        def algorithms(self, case, options):
            asked.append(options)
            return super().algorithms(case, options)

        def plan(self, case, algorithm, operands, options):
            asked.append(options)
            return super().plan(case, algorithm, operands, options)

    found = tasks(FPROP.cases([SUITE]), [BackendSpec(Asked(), "quick")], 1, workspace_limit_bytes=0)
    rows_of(lines_of(found, replace(OPTIONS, workspace_limit_bytes=0)))
    assert {options.workspace_limit_bytes for options in asked} == {0}
    assert [task.key.workspace_limit_bytes for task in found] == [0]
    assert found[0].key != tasks(FPROP.cases([SUITE]), [BackendSpec(Asked(), "quick")], 1)[0].key


def test_versions_are_the_devices_and_its_backends():
    class Device(FakeDevice):
        def versions(self):
            return {"driver": "1"}

    assert versions(Device(), parse_backend_of("Gpu") + parse_backend_of("Plain")) == {"driver": "9.9"}
    assert versions(FakeDevice(), []) == {}

    class Odd(FakeBackend):
        def versions(self):
            return {"driver": 1}

    with pytest.raises(InputError, match=r"versions\(\) gave \{'driver': 1\}, not texts by name"):
        versions(FakeDevice(), [Odd()])


def test_versions_are_not_too_long():
    device = FakeDevice()
    device.versions = lambda: {f"{number:03} {'x' * 600}": "y" * 600 for number in range(60)}
    said = versions(device, [])
    assert len(said) == 50
    assert {(len(name), len(text)) for name, text in said.items()} == {(500, 500)}


def parse_backend_of(name):
    return [spec.backend for spec in parse_backend(f"gpus.py:{name}")]


# What is kept apart while it is measured


def test_floors_are_those_of_a_device():
    floors = Floors(PlanOptions(), 0)
    case = FPROP.cases([SUITE])[0]
    one, two = (spec.backend for spec in parse_backend("gpus.py:Gpu", (0, 1)))
    assert [floors.of(backend, "quick", case) for backend in (one, two, one)] == pytest.approx([1e-3, 2e-3, 1e-3])


def test_each_device_has_its_own_canaries_and_its_own_clock(monkeypatch):
    gpus = []
    for index, seconds in ((0, 1e-3), (1, 2e-3)):
        device, simulation, _ = fake_device(monkeypatch, index, kernel_s=lambda *_, seconds=seconds: seconds)
        device.advance = simulation.enqueue  # by which a FakePlan runs
        backend = FakeBackend({"quick": FakeAlgorithm(seconds=50e-6 * (1 + index))})
        backend.shared_device = device
        gpus.append(BackendSpec(backend, "quick", "", index))
    found = tasks(FPROP.cases([SUITE]), [*gpus, BackendSpec(FakeBackend(), "quick")], 1)
    lines = lines_of(found)
    canaries = [line for line in lines if line["type"] == "canary"]
    assert [line["device"] for line in canaries[:6]] == ["cuda:0", "cuda:1", "fake"] * 2
    first = {line["device"]: line["seconds"]["compute"] for line in canaries[:3]}
    assert first == {"cuda:0": pytest.approx(1e-3, rel=0.01), "cuda:1": pytest.approx(2e-3, rel=0.01),
                     "fake": pytest.approx(1e-3)}  # fmt: skip
    assert [row.time_s for row in rows_of(lines)] == pytest.approx([50e-6, 100e-6, 1e-3], rel=0.01)


def test_a_device_that_fails_at_its_canaries_has_none():
    class Failing(FakeDevice):
        def canaries(self):
            raise MemoryError

    backend = FakeBackend({"quick": FakeAlgorithm()}, index=1)
    backend.shared_device = Failing(1)
    lines = lines_of(tasks(FPROP.cases([SUITE]), [BackendSpec(backend), BackendSpec(FakeBackend(), "quick")], 1))
    assert {line["device"] for line in lines if line["type"] == "canary"} == {"fake"}
    assert [row.status for row in rows_of(lines)] == [Status.OK, Status.OK]


# The command line


def test_a_run_on_two_devices():
    found = measured(*BOTH, "--device", "0,cuda:1", "--no-ceilings")
    assert [(r.key.device, r.key.name) for r in found.rows] == [
        ("fake:0", "gpu:quick"), ("fake:1", "gpu:quick@fake:1"), ("fake", "plain:quick"),
    ]  # fmt: skip
    assert [r.time_s for r in found.rows] == pytest.approx([1e-3, 2e-3, 1e-3])
    assert [*found.header["devices"]] == [*found.canaries] == ["fake:0", "fake:1", "fake"]
    assert [of.get("versions") for of in found.header["devices"].values()] == [{"driver": "9.9"}] * 2 + [None]
    shown = invoke("show", "r.jsonl").output
    assert shown.count("gpu:quick@fake:1") == 1
    assert compare(found, found).verdicts == {Verdict.OK: 3}


def test_without_the_option_it_is_the_first_device():
    assert [r.key.device for r in measured(*BOTH, "--no-ceilings").rows] == ["fake:0", "fake"]


@pytest.mark.parametrize("command", [
    (*MEASURED, *BOTH, "--device", "0,5", "-o", "r.jsonl"), ("machine", "--device", "5"),
    ("check", "smoke", "--against", "python", "--", "-b", "gpus.py:Gpu", "--device", "5"),
    ("talk", "-b", "gpus.py:Gpu", "--device", "5", "--only", "batch", "-q"),
], ids=["run", "machine", "check", "talk"])  # fmt: skip
def test_a_device_that_is_not_there_is_one_line(here, monkeypatch, command):
    monkeypatch.syspath_prepend(here)
    entries = [EntryPoint("gpu", "gpus:Gpu", ENTRY_POINTS)]
    monkeypatch.setattr(backends, "entry_points", lambda group: entries)
    result = invoke(*command, code=1)
    assert result.stderr == "Error: there is no GPU 5: CUDA offers 2, counted from 0\n"
    assert not Path("r.jsonl").exists()


@pytest.mark.parametrize("command", [
    (*MEASURED, "-b", "gpus.py:Plain"), ("check", "smoke", "--against", "python", "--", "-b", "gpus.py:Plain"),
    ("talk", "-b", "gpus.py:Plain", "--only", "batch"),
], ids=["run", "check", "talk"])  # fmt: skip
def test_a_device_for_backends_without_one_is_one_line(command):
    assert invoke(*command, "--device", "1", code=1).stderr == (
        "Error: --device chooses GPUs, and no backend here runs on one (plain); `convbench list backends` says which "
        "can\n"
    )


@pytest.mark.parametrize(("probe", "said"), [
    ("raise RuntimeError('no\\nstack')", "broken cannot be used: RuntimeError: no stack (gpus.py:"),
    ("raise SystemExit(0)", "broken cannot be used: SystemExit: 0 (gpus.py:"),
    ("return 7", "broken cannot be used: probe() gave 7, not None or a reason"),
])  # fmt: skip
def test_a_plug_in_whose_probe_breaks_is_left_out_where_nobody_asked_for_it(here, monkeypatch, probe, said):
    source = f"class Broken(Plain):\n    name = 'broken'\n    def probe(self):\n        {probe}\n"
    (here / "gpus.py").write_text(f"{GPUS}\n\n{source}")
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "gpus", raising=False)
    entries = [EntryPoint(name, f"gpus:{name.title()}", ENTRY_POINTS) for name in ("broken", "plain")]
    monkeypatch.setattr(backends, "entry_points", lambda group: entries)
    result = invoke(*MEASURED, "--no-ceilings", "-o", "r.jsonl")
    assert result.stderr.startswith(f"warning: backend {said}")
    assert "; it is left out\n" in result.stderr
    assert [row.key.name for row in read_run(Path("r.jsonl")).rows] == ["plain:auto"]
    assert said in invoke(*MEASURED, "-b", "gpus.py:Broken", code=1).stderr
    listed = {
        fact["name"]: fact for fact in json.loads(invoke("list", "backends", "--format", "json").stdout)["backends"]
    }
    assert said in listed["broken"]["reason"]
    assert [listed[name]["usable"] for name in ("broken", "plain")] == [False, True]
    assert said in invoke("machine", "--format", "csv").stderr


@pytest.mark.parametrize("text", ["x", "-1", "0,", "cuda", "cpu", "1.5", "²", "10000"])
def test_what_names_no_device(text):
    assert f"{text.split(',')[-1]!r} is not a GPU" in invoke(*MEASURED, f"--device={text}", code=2).stderr


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("0MiB", 0), ("256MiB", 256 << 20), ("1", 1)])
def test_sizes_of_a_limit(text, size):
    found = measured(*BOTH, "--no-ceilings", "--workspace-limit", text)
    assert found.header["options"]["workspace_limit_bytes"] == size
    assert {row.key.workspace_limit_bytes for row in found.rows} == {size}


def test_what_is_no_limit():
    assert "'-1' is not a size" in invoke(*MEASURED, "--workspace-limit", "-1", code=2).stderr


@pytest.mark.parametrize("how", [("--isolate",), ("--processes", "2")])
def test_worker_processes_measure_on_the_same_devices(here, how):
    done = run_program("--filter", "plain-3x3", "--pass", "fprop", *BOTH, "--device", "1,0", *how, "--workspace-limit",
                       "1MiB", "-o", "r.jsonl", cwd=here, env=os.environ | {"TMPDIR": str(here)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = read_run(here / "r.jsonl")
    assert [(r.key.device, r.status) for r in found.rows] == [("fake:1", "ok"), ("fake:0", "ok"), ("fake", "ok")]
    assert [r.time_s for r in found.rows] == pytest.approx([2e-3, 1e-3, 1e-3])
    assert {*found.canaries} == {"fake:0", "fake:1", "fake"}


def test_a_device_that_ends_its_process_takes_no_other_along(here):
    """Neither where it is asked what it can do, nor in the worker of another one."""
    made = "    def __init__(self, index=0):\n        index and os._exit(3)\n        super().__init__(index)\n"
    (here / "gpus.py").write_text(f"import os\n{GPUS}\n\nclass Kills(Gpu):\n{made}")
    done = run_program("--filter", "plain-3x3", "--pass", "fprop", "-b", "gpus.py:Kills:quick", "--device", "0,1",
                       "--isolate", "-o", "r.jsonl", cwd=here, env=os.environ | {"TMPDIR": str(here)})  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert {(r.key.device, r.status, r.reason) for r in read_run(here / "r.jsonl").rows} == {
        ("", "failed", "asked what it can do on device 1, it ended its process (exit code 3)"), ("fake:0", "ok", ""),
    }  # fmt: skip


def test_a_run_is_resumed_on_its_own_devices():
    measured(*BOTH, "--device", "1", "--no-ceilings")
    error = invoke(*MEASURED, "-o", "r.jsonl", *BOTH, "--device", "0", "--no-ceilings", "--resume", code=1).stderr
    assert "r.jsonl cannot be resumed: its machine was {'fake:1':" in error
    error = invoke(*MEASURED, "-o", "r.jsonl", *BOTH, "--device", "1", "--no-ceilings", "--resume", "--workspace-limit",
                   "0", code=1).stderr  # fmt: skip
    assert "r.jsonl cannot be resumed: its workspace_limit_bytes was None, now 0" in error


def test_a_pair_of_processes_measures_on_the_rows_device():
    key = measured(*BOTH, "--device", "1", "--no-ceilings", "--workspace-limit", "9").rows[0].key
    timer, status, reason = _timer({"plan": key.to_dict(), "backend": "gpus.py:Gpu", "verify": True})
    assert (status, reason) == (Status.OK, "")
    assert timer.round()[0].value_s == pytest.approx(2e-3)


def test_ceilings_are_those_of_each_device(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    entries = [EntryPoint("gpu", "gpus:Gpu", ENTRY_POINTS), EntryPoint("plain", "gpus:Plain", ENTRY_POINTS)]
    monkeypatch.setattr(backends, "entry_points", lambda group: entries)
    monkeypatch.setattr(calibrate, "measurable", lambda device: True)
    monkeypatch.setattr(calibrate, "measure", lambda device, *_: Ceilings(
        compute={"fp32": Ceiling(value=1e9 * (1 + (device_index(device.name) or 0)), kind="measured")},
        bandwidth={"dram": Ceiling(value=1e9, kind="measured")}))  # fmt: skip
    tables = json.loads(invoke("machine", "--device", "0,1", "--measure", "--format", "json").stdout)
    assert {"gpu:quick", "gpu:quick@fake:1", "plain:quick"} == {row["algorithm"] for row in tables["floors"]}
    found = measured(*BOTH, "--device", "0,1")
    assert {name: of["ceilings"]["compute"]["fp32"]["value"] for name, of in found.header["devices"].items()} == {
        "fake:0": 1e9, "fake:1": 2e9, "fake": 1e9,
    }  # fmt: skip
    invoke("machine", "--device", "1", "--format", "csv")


# What is said of two devices


def on(row, device):
    return replace(row, key=replace(row.key, device=device))


@pytest.fixture
def two():
    """A run of the same two rows on two GPUs that are alike, the second one slower."""
    rows = [
        drawn("a", backend="gpu", phases={"in": seconds, "out": seconds}, seconds=seconds) for seconds in (1e-3, 2e-3)
    ]
    found = run_of(*(on(row, f"cuda:{index}") for index, row in enumerate(rows)))
    cpu = found.header["devices"]["cpu"]
    of = {f"cuda:{i}": cpu | {"machine": cpu["machine"] | {"gpu_name": "NVIDIA H200"}} for i in range(2)}
    return replace(found, header=found.header | {"devices": of})


NAMES = ["gpu:gemm", "gpu:gemm@cuda:1"]


def test_tables_have_a_line_for_each_device(two):
    for table in (rows_table(two), phases_table(two), bounds_table(two), backends_table(two)):
        found = [fact.get("name", fact.get("algorithm")) for fact in table.rows]
        assert [*dict.fromkeys(found)] == NAMES, table.key
    totals = {fact["algorithm"]: fact["total_s"] for fact in totals_table(two).rows}
    assert totals == pytest.approx({NAMES[0]: 2e-3, NAMES[1]: 4e-3, "fastest of each": 2e-3})
    assert rows_table(two).title.startswith("tiny · 2 × NVIDIA H200 · ")
    assert [fact["device"] for fact in rows_table(two).rows] == ["cuda:0", "cuda:1"]


def test_plots_have_a_series_for_each_device(two):
    scene = make_scene([("r.jsonl", two)], Choice())
    assert [panel.device for panel in panels(scene)[0]] == ["cuda:0", "cuda:1"]
    assert [panel.title for panel in panels(scene)[0]] == ["cuda:0", "cuda:1"]
    assert [point.identity for panel in panels(scene)[0] for point in panel.points] == [("a",), ("a",)]
    baseline, bars, _ = speedups(replace(scene, baseline=NAMES[0]))
    assert (baseline, [dict(bar.values) for bar in bars[0].bars]) == (NAMES[0], [{NAMES[1]: 0.5}])
    assert [bar.name for bar in network_bars(scene)[0][0].bars][:2] == NAMES


def test_a_report_has_a_machine_for_each_device(two):
    facts = page_facts({"r": two}, report_tables({"r": two})["rows"])
    assert [machine["device"] for machine in facts["machines"]] == ["cuda:0", "cuda:1"]
    assert facts["rows"]["columns"]["machine"] == [0, 1]
    assert facts["rows"]["columns"]["name"] == NAMES


def test_comparisons_keep_devices_apart(two):
    slower = replace(two, rows=(two.rows[0], replace(two.rows[1], rounds=drawn("a", seconds=4e-3).rounds)))
    compared = compare(two, slower)
    assert [(row.key.device, row.ratio) for row in compared.rows] == [("cuda:0", 1.0), ("cuda:1", pytest.approx(2.0))]
    assert [fact["name"] for fact in comparison_table(compared).rows] == NAMES
    assert {fact["algorithm"]: fact["ratio"] for fact in means_table(compared).rows} == {NAMES[0]: 1.0, NAMES[1]: 2.0}
    names = Facts(compared=compared, suite="tiny", baseline="b", exit_code=0).names()
    assert [name.rpartition(" ")[2] for name in names] == NAMES
    (pair,) = pairs_of(two, *NAMES)
    assert (pair.first.key.device, pair.second.key.device, pair.ratio) == ("cuda:0", "cuda:1", 2.0)


def test_a_device_that_only_one_run_has_is_missing_or_new(two):
    header = {"devices": {"cuda:0": two.header["devices"]["cuda:0"]}}
    alone = replace(two, rows=two.rows[:1], header=two.header | header)
    assert [row.verdict for row in compare(two, alone).rows] == [Verdict.OK, Verdict.MISSING]
    assert [row.verdict for row in compare(alone, two).rows] == [Verdict.OK, Verdict.NEW]
    other = {"devices": {"cuda:1": two.header["devices"]["cuda:1"]}}
    with pytest.raises(NotComparableError, match=r"not comparable: device was cuda:0, is now cuda:1$"):
        compare(alone, replace(two, rows=two.rows[1:], header=two.header | other))


def test_rows_are_judged_by_the_canaries_of_their_own_device():
    rows = [on(row(), device) for device in ("cuda:0", "cuda:1")]
    header = {"devices": {device: {"fingerprint": "abc", "machine": {}} for device in ("cuda:0", "cuda:1")}}
    canaries = {"cuda:0": ({"compute": 1e-3},), "cuda:1": ({"compute": 1e-3},)}
    base = replace(run(*rows, **header), canaries=canaries)
    new = replace(base, canaries=canaries | {"cuda:1": ({"compute": 2e-3},)})
    compared = compare(base, new)
    assert [(found.verdict, found.reason) for found in compared.rows] == [
        (Verdict.OK, Reason.WITHIN_NOISE), (Verdict.INCONCLUSIVE, Reason.CLOCK),
    ]  # fmt: skip
    assert compared.canaries == {"cuda:0 compute": 1.0, "cuda:1 compute": 2.0}


def test_versions_of_drivers_are_listed_where_they_changed():
    def on_driver(version):
        return run(row(), devices={"cpu": {"fingerprint": "abc", "machine": {}, "versions": {"driver": version}}})

    assert compare(on_driver("1"), on_driver("2")).changed == (("driver of cpu", "1", "2"),)
