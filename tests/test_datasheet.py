import json

import pytest

from convbench import datasheet
from convbench.ceilings import Ceilings
from convbench.datasheet import datasheets, load_datasheet, matching_datasheet, parse_datasheet
from convbench.errors import InputError
from convbench.machine import Machine

NAMES = list(datasheets())
SHEETS = {name: load_datasheet(name) for name in NAMES}

MINIMAL = """
schema = 1
name = "x"
title = "X"
vendor = "V"
kind = "gpu"
units = 10
clock_hz = 1e9
checked = ["formula"]
[sources]
web = "a page"
[peak.fp32]
flop_per_s = 1.28e12
fma_per_clock = 64
source = "web"
[dram]
bytes_per_s = 1e11
source = "web"
"""


@pytest.mark.parametrize("name", NAMES)
def test_datasheet_is_complete(name):
    sheet = SHEETS[name]
    assert sheet.name == name
    assert sheet.title.startswith(sheet.vendor)
    assert sheet.kind == "gpu"
    assert "fp32" in sheet.peaks
    assert sheet.checked
    assert "formula" in sheet.checked
    used = {peak.source for peak in sheet.peaks.values()} | {sheet.dram["source"]}
    used |= {p.published_source for p in sheet.peaks.values()} | {sheet.dram.get("published_source")}
    used |= {sheet.l2.get("source"), sheet.l2.get("published_source"), sheet.launch.get("source")}
    assert set(sheet.sources) <= used | set(sheet.checked), "a source that backs nothing"
    assert any("http" in text for text in sheet.sources.values())


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name in NAMES for mode in SHEETS[name].peaks])
def test_peak_follows_from_its_formula(name, mode):
    peak = SHEETS[name].peaks[mode]
    if not peak.exception:
        assert peak.flop_per_s == pytest.approx(SHEETS[name].formula_flop_per_s(mode), rel=0.02)


@pytest.mark.parametrize("name", [name for name in NAMES if "bus_bits" in SHEETS[name].dram])
def test_bandwidth_follows_from_the_bus(name):
    dram = SHEETS[name].dram
    assert dram["bytes_per_s"] == pytest.approx(dram["bus_bits"] * dram["transfers_per_s"] / 8, rel=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_peaks_are_ordered_as_the_hardware_is(name):
    sheet = SHEETS[name]
    peak = {mode: entry.flop_per_s for mode, entry in sheet.peaks.items()}
    capability = float(sheet.compute_capability)
    assert ("tf32" in peak) == ("bf16-tc" in peak) == (capability >= 8.0)
    assert ("fp16-tc" in peak) == (capability >= 7.0)
    assert peak.get("fp64", 0) <= peak["fp32"]
    if "tf32" in peak:
        assert peak["tf32"] >= peak["fp32"]
        assert peak["bf16-tc"] == peak["fp16-tc"]
        assert peak["tf32"] == pytest.approx(peak["fp16-tc"] / 2, rel=0.025)
    # Dense, with fp32 accumulation: FMA per clock and SM on tensor cores, by compute capability.
    geforce = {"8.6": 256, "8.9": 256, "12.0": 256}
    other = {"7.0": 512, "7.5": 512, "8.0": 1024, "8.6": 512, "8.7": 1024, "8.9": 512, "9.0": 2048, "10.0": 4096}
    if "fp16-tc" in peak:
        table = geforce if "GeForce" in sheet.title else other
        assert sheet.peaks["fp16-tc"].fma_per_clock == table[sheet.compute_capability]


@pytest.mark.parametrize("name", NAMES)
def test_ceilings_as_printed_and_as_predicted(name):
    printed, predicted = SHEETS[name].ceilings(), SHEETS[name].predicted()
    assert printed.is_gpu
    assert printed.launch is None
    assert {c.kind for c in printed.compute.values()} == {"datasheet"}
    assert {c.kind for c in [*predicted.compute.values(), *predicted.bandwidth.values()]} == {"predicted"}
    for mode, ceiling in predicted.compute.items():
        scalar = mode in {"fp32", "fp64"}
        assert (0.9 if scalar else 0.79) <= ceiling.value / printed.compute[mode].value <= (1.0 if scalar else 0.81)
    assert 0.83 <= predicted.bandwidth["dram"].value / printed.bandwidth["dram"].value <= 0.98
    assert predicted.bandwidth.get("l2", predicted.bandwidth["dram"]).value >= predicted.bandwidth["dram"].value
    assert 1e-6 <= predicted.launch.value <= 3e-6
    assert Ceilings.from_dict(json.loads(json.dumps(predicted.to_dict()))) == predicted


def test_published_measurements_win_over_factors():
    h200 = SHEETS["h200-sxm"].predicted()
    assert h200.bandwidth["dram"].value == 4.3e12
    assert h200.compute["bf16-tc"].value == 788e12
    assert h200.launch.value == 2.47e-6
    assert SHEETS["t4"].predicted().launch.value == datasheet.PREDICTED_LAUNCH_S
    assert SHEETS["t4"].predicted().bandwidth["dram"].value == pytest.approx(0.9 * 320e9)


def test_minimal_datasheet():
    sheet = parse_datasheet(MINIMAL.encode(), "x.toml")
    assert sheet.formula_flop_per_s("fp32") == 1.28e12
    assert sheet.ceilings().capacity_bytes == {}
    assert sheet.predicted().compute["fp32"].value == pytest.approx(0.95 * 1.28e12)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("units = 10", "unitz = 10", "unknown key 'unitz' in x.toml; did you mean 'units'"),
    ("units = 10", "", "x.toml: units is missing"),
    ("units = 10", "units = 1.5", "x.toml: units must be an integer above 0, got 1.5"),
    ("units = 10", "units = true", "x.toml: units must be an integer"),
    ("schema = 1", "schema = 2", "x.toml: schema must be 1, got 2"),
    ('kind = "gpu"', 'kind = "fpga"', "x.toml: kind must be gpu or cpu"),
    ("clock_hz = 1e9", "clock_hz = -1", "x.toml: clock_hz must be a number above 0, got -1"),
    ("clock_hz = 1e9", "clock_hz = inf", "x.toml: clock_hz must be a number above 0"),
    ("[peak.fp32]", "[peak.fp23]", r"unknown key 'fp23' in x.toml: \[peak\]; did you mean 'fp32'"),
    ("fma_per_clock = 64", "fma = 64", r"unknown key 'fma' in x.toml: \[peak.fp32\]"),
    ("fma_per_clock = 64", "", r"x.toml: \[peak.fp32\]: fma_per_clock is missing"),
    ('source = "web"\n[dram]', 'source = "wbe"\n[dram]', r"unknown source 'wbe' in x.toml: \[peak.fp32\]: source"),
    ('source = "web"\n[dram]', "source = [1]\n[dram]", r"\[peak.fp32\]: source must be the key of a source, got \[1\]"),
    ('source = "web"\n[dram]', "[dram]", r"x.toml: \[peak.fp32\]: source is missing"),
    ("bytes_per_s = 1e11", "bytes_per_s = '100 GB/s'", r"x.toml: \[dram\]: bytes_per_s must be a number above 0"),
    ("[dram]", "[dram]\npublished_bytes_per_s = 1e11", r"x.toml: \[dram\]: published_source is missing"),
    ("[dram]", "[l2]\nbytes = 1\nsource = 'web'\nways = 2\n[dram]", r"unknown key 'ways' in x.toml: \[l2\]"),
    ('checked = ["formula"]', 'checked = ["nobody"]', "unknown source 'nobody' in x.toml: checked"),
    ('web = "a page"', "web = 1", r"x.toml: \[sources\]: web must be a string"),
    ("[sources]", "[sources", "x.toml: not valid TOML"),
])  # fmt: skip
def test_a_wrong_datasheet_is_refused_with_file_table_and_key(old, new, message):
    assert old in MINIMAL
    with pytest.raises(InputError, match=message):
        parse_datasheet(MINIMAL.replace(old, new).encode(), "x.toml")


def test_unknown_machine_names_the_nearest():
    with pytest.raises(InputError, match="unknown machine 'h200'; did you mean 'h200-sxm'"):
        load_datasheet("h200")
    with pytest.raises(InputError, match="unknown machine 'zzzzzz'; known: a10, a100-40"):
        load_datasheet("zzzzzz")


@pytest.mark.parametrize(("name", "units", "sheet"), [
    ("NVIDIA H200", 132, "h200-sxm"), ("NVIDIA A100-SXM4-80GB", 108, "a100-80"),
    ("NVIDIA A100-SXM4-40GB", 108, "a100-40"), ("NVIDIA GeForce RTX 4090", 128, "rtx-4090"),
    ("Tesla T4", 40, "t4"), ("Tesla V100-SXM2-16GB", 80, "v100-sxm2"),
    ("NVIDIA H100 80GB HBM3", 132, "h100-sxm"), ("NVIDIA H100 PCIe", 114, "h100-pcie"), ("NVIDIA L40S", 142, "l40s"),
    ("NVIDIA H200", 66, None), ("NVIDIA A100", 108, None), ("NVIDIA Titan V", 80, None), (None, None, None),
])  # fmt: skip
def test_the_datasheet_of_a_gpu_is_found_by_model_and_units(name, units, sheet):
    found = matching_datasheet(Machine(os="Linux", arch="x86_64", gpu_name=name, gpu_units=units))
    assert (found.name if found else None) == sheet


def test_a_slice_of_a_gpu_has_no_datasheet():
    slice_ = Machine(os="Linux", arch="x86_64", gpu_name="NVIDIA H200", gpu_units=132, gpu_mig="1g.18gb")
    assert matching_datasheet(slice_) is None
