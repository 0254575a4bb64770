"""`convbench machine`, and how `run` comes by the ceilings in its header."""

import csv
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from convbench import calibrate
from convbench.ceilings import Ceiling, Ceilings
from convbench.cli import main
from convbench.datasheet import load_datasheet
from convbench.errors import InputError
from convbench.journal import read_run
from convbench.machine import Machine, cpu_machine
from convbench.render import render
from convbench.render.machine import ceilings_table, identity_table

SUITE = """
schema = 1
name = "tiny"

[[problem]]
name = "first"
batch = 1
in_channels = 2
out_channels = 3
input_size = 6
filter_size = 3
"""


def one(value, **fields):
    return Ceiling(value=value, kind="measured", **fields)


FOUND = Ceilings(
    compute={"fp32": one(9.1e10, sigma=0.004, minimum=9e10, maximum=9.2e10, count=5)},
    bandwidth={"l2": one(1e11), "dram": one(2e10)}, capacity_bytes={"l2": 1 << 20}, launch=one(3e-7), threads=1,
    mixes={"l2": {"read": one(1e11), "copy": one(9e10)}},
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SUITE)


@pytest.fixture
def measured(monkeypatch):
    """Counts how often ceilings are measured, which costs nothing here; its one entry is what comes out."""
    calls = []

    def measure(device, threads, _backends=()):
        calls.append((device.name, threads))
        return Ceilings(**{name: getattr(FOUND, name) for name in ("compute", "bandwidth")}, threads=threads)

    monkeypatch.setattr(calibrate, "measure", measure)
    return calls


def invoke(*arguments, code=0):
    result = CliRunner().invoke(main, arguments, prog_name="convbench", catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def run(*arguments, code=0):
    return invoke("run", "tiny.toml", "--pass", "fprop", "-b", "cpu:gemm", "--threads", "1", "--max-time", "10ms",
                  "-o", "r.jsonl", *arguments, code=code)  # fmt: skip


def stored(path):
    return read_run(Path(path)).header["devices"]["cpu"]["ceilings"]


# machine


def test_it_shows_identity_and_what_is_remembered(measured):
    result = invoke("machine", "--threads", "1")
    assert cpu_machine().fingerprint in result.stdout
    assert "Ceilings of cpu on 1 thread\n" in result.stdout
    assert "100 Gflop/s" in result.stdout
    assert measured == []
    assert result.stderr == ""


def test_where_nothing_is_remembered_it_says_how_to_measure(cache, measured):
    (cache / "ceilings.json").unlink()
    result = invoke("machine", "--threads", "1")
    assert "Ceilings" not in result.stdout
    assert result.stderr == "no ceilings of cpu are remembered for --threads 1: --measure measures them\n"
    assert "91.0 Gflop/s" in invoke("machine", "--threads", "1", "--measure").stdout
    assert measured == [("cpu", 1)]
    assert "91.0 Gflop/s" in invoke("machine", "--threads", "1").stdout
    assert measured == [("cpu", 1)]


def test_measuring_anew_replaces_what_is_remembered(measured):
    invoke("machine", "--threads", "1", "--measure")
    assert measured == [("cpu", 1)]
    assert "91.0 Gflop/s" in invoke("machine", "--threads", "1").stdout


def test_json_and_csv_are_in_si_units(measured):
    tables = json.loads(invoke("machine", "--threads", "1", "--format", "json").stdout)
    facts = {row["fact"]: row["value"] for row in tables["machine"]}
    assert facts["fingerprint"] == cpu_machine().fingerprint
    assert {row["ceiling"]: row["value"] for row in tables["ceilings"]}["fp32"] == 1e11
    rows = [*csv.DictReader(io.StringIO(invoke("machine", "--threads", "1", "--format", "csv").stdout))]
    assert rows[0]["ceiling"] == "fp32"
    assert float(rows[0]["value"]) == 1e11


def test_too_many_threads_are_an_error():
    assert "--threads must be at most" in invoke("machine", "--threads", "9999", code=1).stderr


def test_the_table_has_mixes_and_the_datasheet_beside_them():
    text = render([ceilings_table("cpu", FOUND, None)], "table")
    assert re.search(r"fp32 +91.0 Gflop/s +0.40% +5 +90.0 Gflop/s +92.0 Gflop/s\n", text)
    for name in ("L2 read", "L2 copy", "DRAM", "launch", "300 ns"):
        assert name in text
    assert "datasheet" not in text
    sheet = load_datasheet("h200-sxm")
    (row, *_) = json.loads(render([ceilings_table("cuda:0", FOUND, sheet)], "json"))["ceilings"]
    assert row["datasheet"] == sheet.ceilings().compute["fp32"].value
    assert row["share"] == pytest.approx(9.1e10 / row["datasheet"])
    assert "datasheet: NVIDIA H200 SXM" in render([ceilings_table("cuda:0", FOUND, sheet)], "table")


def test_a_gpus_launches_are_told_apart():
    gpu = replace(FOUND, launch_stream=one(4e-6))
    rows = json.loads(render([ceilings_table("cuda:0", gpu, None)], "json"))["ceilings"]
    assert [(row["ceiling"], row["value"]) for row in rows[-2:]] == [
        ("launch in a graph", 3e-7), ("launch on a stream", 4e-6),
    ]  # fmt: skip


def test_every_table_says_what_is_odd():
    odd = Ceilings(compute=FOUND.compute, bandwidth={}, contended="5 of 7 passes were disturbed (others)",
                   warnings=("broken calibration: x",))  # fmt: skip
    text = render([ceilings_table("cpu", odd, None)], "markdown")
    assert "contended: 5 of 7 passes were disturbed (others)" in text
    assert "warning: broken calibration: x" in text


def test_facts_with_units_are_shown_with_them():
    gpu = Machine(os="Linux", arch="x86_64", gpu_memory_bytes=1 << 37, gpu_clock_hz=1.98e9)
    text = render([identity_table("cuda:0", gpu)], "table")
    assert re.search(r"gpu memory +128 GiB\n", text)
    assert re.search(r"gpu clock +1\.98 GHz\n", text)


def test_what_is_not_known_of_a_machine_is_not_shown():
    text = render([identity_table("cpu", Machine(os="Linux", arch="riscv64"))], "table")
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["device", "fingerprint", "os", "arch"]


# run


def test_a_run_stores_what_is_remembered(measured):
    result = run()
    assert Ceilings.from_dict(stored("r.jsonl")).compute["fp32"].value == 1e11
    assert measured == []
    assert "ceilings" not in result.stderr


def test_where_nothing_is_remembered_a_run_measures_first_and_says_so(cache, measured):
    (cache / "ceilings.json").unlink()
    result = run()
    assert result.stderr.count("measuring the ceilings of cpu, once for this machine and --threads 1\n") == 1
    assert Ceilings.from_dict(stored("r.jsonl")).compute == FOUND.compute
    run("--force")
    assert measured == [("cpu", 1)]


def test_no_ceilings_leaves_them_out(cache, measured):
    (cache / "ceilings.json").unlink()
    run("--no-ceilings")
    assert (stored("r.jsonl"), measured) == (None, [])


def test_what_is_resumed_keeps_its_ceilings(cache, measured):
    run("--no-ceilings")
    (cache / "ceilings.json").unlink()
    run("--resume")
    assert (stored("r.jsonl"), measured) == (None, [])


def test_a_run_without_rows_to_measure_measures_no_ceilings(cache, measured):
    (cache / "ceilings.json").unlink()
    run("--max-memory", "1", code=6)
    assert measured == []


def test_workers_measure_none(cache, measured, monkeypatch):
    """They are processes of their own, that would remember what they measured."""
    (cache / "ceilings.json").unlink()
    arguments = ["run", "tiny.toml", "--pass", "fprop", "-b", "cpu:gemm", "--threads", "1", "--max-time", "10ms",
                 "--processes", "2", "-o", "r.jsonl"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["convbench", *arguments])
    invoke(*arguments)
    assert measured == [("cpu", 1)]
    (kept,) = json.loads((cache / "ceilings.json").read_text())["ceilings"].values()
    assert Ceilings.from_dict(kept).compute == FOUND.compute


def test_ceilings_of_a_busy_machine_are_stored_with_a_warning(cache, monkeypatch):
    (cache / "ceilings.json").unlink()
    busy = Ceilings(compute={}, bandwidth={}, contended="all passes were disturbed")
    monkeypatch.setattr(calibrate, "measure", lambda *_asked: busy)
    result = run()
    assert "warning: ceilings of cpu are contended: all passes were disturbed; they are not remembered" in result.stderr
    assert Ceilings.from_dict(stored("r.jsonl")) == busy
    assert not (cache / "ceilings.json").exists()


def test_a_device_that_fails_costs_a_warning(cache, monkeypatch):
    (cache / "ceilings.json").unlink()

    def broken(*_asked):
        raise MemoryError("no room")

    monkeypatch.setattr(calibrate, "measure", broken)
    result = run()
    assert "warning: the ceilings of cpu cannot be measured: " in result.stderr
    assert stored("r.jsonl") is None
    with pytest.raises(InputError, match="no room"):
        calibrate.measure_and_remember(_cpu(), 1, print)


def _cpu():
    from convbench.backends.cpu.device import CpuDevice

    return CpuDevice()


def test_a_folder_in_the_place_of_the_file_costs_a_warning(cache, measured):
    (cache / "ceilings.json").unlink()
    (cache / "ceilings.json").mkdir()
    result = run()
    assert "ceilings.json cannot be used (IsADirectoryError): ceilings are measured anew" in result.stderr
    assert Ceilings.from_dict(stored("r.jsonl")).compute == FOUND.compute
    assert [entry.name for entry in cache.iterdir()] == ["ceilings.json"]


def test_measuring_shows_the_floors_of_all_algorithms(measured):
    facts = json.loads(invoke("machine", "--measure", "--threads", "1", "--format", "json").stdout)
    floors = {row["algorithm"]: row for row in facts["floors"]}
    assert {"cpu:direct", "cpu:gemm", "cpu:fft", "cpu:winograd"} <= set(floors)
    assert all(floors["cpu:gemm"][f"{conv_pass}_s"] > 0 for conv_pass in ("fprop", "dgrad", "wgrad"))
    assert "floors" not in json.loads(invoke("machine", "--threads", "1", "--format", "json").stdout)
