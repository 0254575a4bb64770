"""Ceilings of a simulated device, the checks of them, and what is remembered."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest

from convbench import calibrate
from convbench.backends import Probe
from convbench.calibrate import Pass
from convbench.ceilings import Ceiling, Ceilings
from convbench.datasheet import load_datasheet
from convbench.doctor import Cost
from convbench.errors import InputError
from convbench.machine import Machine
from convbench.testing import FakeClock, FakeDevice

MIB = 1 << 20
MACHINE = Machine(os="Linux", arch="x86_64", cpu_count=4, physical_cores=4, isa=("avx2", "fma"),
                  cache_bytes={"l1": 32 << 10, "l2": MIB, "l3": 32 * MIB})  # fmt: skip


class Busy(FakeClock):
    """Says of the samples of each watch, in turn, what disturbed them."""

    def __init__(self, device, witnesses=()):
        super().__init__(device)
        self.witnesses = iter(witnesses)

    def watch(self):
        flags = next(self.witnesses, ())
        return lambda samples: [replace(sample, flags=(*sample.flags, *flags)) for sample in samples]


class Simulated(FakeDevice):
    """fp32 at 80 Gflop/s, fp64 at half, 100, 70 and 20 GB/s from l2, l3 and memory, 1 µs a launch."""

    def __init__(self, witnesses=(), slow=(), machine=MACHINE):
        super().__init__()
        self.name = "simulated"
        self.witnesses, self.slow, self.own_machine = witnesses, slow, machine
        self.opened = self.closed = 0
        self.runs = 0

    def machine(self):
        return self.own_machine

    def clock(self, threads):
        return Busy(self, self.witnesses)

    @contextmanager
    def probes(self, threads):
        self.opened += 1
        yield [
            self._probe("compute", "fp32", 2e7, 2e7 / 80e9), self._probe("compute", "fp32", 2e12, 25.0),
            self._probe("compute", "fp64", 2e7, 2e7 / 40e9), self._probe("launch", "", 1.0, 1e-6),
            *(self._probe("bandwidth", mix, size, size / (share * rate), size)
              for mix, share in (("read", 1.0), ("add", 0.9))
              for size, rate in self.curve()),
        ]  # fmt: skip
        self.closed += 1

    def curve(self):
        sizes = [round((64 << 10) * 2 ** (step / 2)) for step in range(23)]
        return [(s, 100e9 if s < MIB else 70e9 if s < 32 * MIB else 20e9) for s in sizes]

    def _probe(self, kind, name, amount, seconds, size=0):
        def run(count):
            self.runs += count
            self.advance(count * seconds)

        return Probe(kind, name, amount, run, size)


def test_the_ceilings_of_a_simulated_device_are_what_it_simulates():
    device = Simulated()
    found = calibrate.measure(device, 1)
    assert {mode: c.value for mode, c in found.compute.items()} == pytest.approx({"fp32": 80e9, "fp64": 40e9})
    assert {level: c.value for level, c in found.bandwidth.items()} == pytest.approx(
        {"l2": 100e9, "l3": 70e9, "dram": 20e9})  # fmt: skip
    assert {mix: c.value for mix, c in found.mixes["l3"].items()} == pytest.approx({"read": 70e9, "add": 63e9})
    assert found.capacity_bytes == {"l2": MIB, "l3": 32 * MIB}
    assert found.launch.value == pytest.approx(1e-6)
    assert (found.threads, found.is_gpu, found.contended, found.warnings) == (1, False, "", ())
    assert len(found.curve) == 2 * 23
    assert {c.count for c in (*found.compute.values(), *found.bandwidth.values())} == {calibrate.PASSES}
    assert device.closed == 1


class Faster:
    """A backend that computes at 100 Gflop/s on a simulated device, or fails at it."""

    def __init__(self, device, name="faster", broken=False):
        self.device, self.name, self.broken = device, name, broken

    def peaks(self, threads):
        if self.broken:
            raise RuntimeError("no")
        return [self.device._probe("compute", "fp32", 2e7, 2e7 / 100e9)]


def test_a_backend_that_computes_faster_makes_the_peak():
    device = Simulated()
    assert calibrate.measure(device, 2, [Faster(device)]).compute["fp32"].value == pytest.approx(100e9)
    broken = Simulated()
    assert calibrate.measure(broken, 2, [Faster(broken, broken=True)]).compute["fp32"].value == pytest.approx(80e9)


def test_its_peak_is_remembered_for_runs_that_it_is_in():
    device, warnings = Simulated(), []
    calibrate.measure_and_remember(device, 2, warnings.append, [Faster(device)])
    assert calibrate.recall(device, 2, warnings.append) is None
    assert calibrate.recall(device, 2, warnings.append, [Faster(device)]).compute["fp32"].value == pytest.approx(100e9)
    assert not warnings


def test_a_product_that_takes_too_long_each_time_is_left_out():
    device = Simulated()
    probe = next(p for p in _probes(device) if p.amount == 2e12)
    assert calibrate.launches(probe, device.clock(1)) is None
    assert device.runs == 3  # the first may have been disturbed


def _probes(device):
    with device.probes(1) as found:
        return found


def test_samples_are_long_against_what_starting_them_costs():
    device = Simulated()
    probe = Probe("bandwidth", "read", 1.0, lambda count: device.advance(1e-3 + count * 1e-6), 1)
    count = calibrate.launches(probe, device.clock(1))
    assert 1e-3 + count * 1e-6 > 0.9 * calibrate.OVERHEADS * 1e-3


# Contention

QUIET, NOISY = (), ("others",)


@pytest.mark.parametrize(("witnesses", "passes", "contended"), [
    ([], 5, ""), ([NOISY], 5, ""), ([NOISY, NOISY], 5, ""), ([NOISY] * 4, 3, ""),
    ([NOISY] * 5, 7, "5 of 7 passes were disturbed (others)"),
    ([NOISY] * 6 + [("stolen",)], 7, "7 of 7 passes were disturbed (others, stolen)"),
], ids=["quiet", "one", "two", "four", "five", "all"])  # fmt: skip
def test_disturbed_passes_are_repeated_and_count_only_where_too_few_are_quiet(witnesses, passes, contended):
    found = calibrate.measure(Simulated(witnesses), 1)
    assert found.contended == contended
    assert found.compute["fp32"].count == passes


def test_a_quiet_pass_counts_and_a_disturbed_one_does_not():
    probe = Probe("compute", "fp32", 1e9, lambda count: None)
    quiet, slow = Pass((0.1,)), Pass((0.3,), ("others",))
    found = calibrate.evaluate([probe], [quiet, slow, quiet, slow, quiet], MACHINE, 1)
    assert found.compute["fp32"].value == pytest.approx(1e10)
    assert found.compute["fp32"].maximum == found.compute["fp32"].minimum
    assert found.contended == ""


def test_of_a_busy_machine_the_faster_passes_make_the_ceiling():
    probe = Probe("compute", "fp32", 1e9, lambda count: None)
    passes = [Pass((s,), ("others",)) for s in (0.1, 0.1, 0.3, 0.3, 0.3)]
    found = calibrate.evaluate([probe], passes, MACHINE, 1)
    assert found.compute["fp32"].value == pytest.approx(1e10)
    assert found.compute["fp32"].minimum == pytest.approx(1e9 / 0.3)
    assert found.compute["fp32"].sigma > 0.3


# Checks


def ceilings(**changes):
    def one(value):
        return Ceiling(value=value, kind="measured")

    fields = {"compute": {"fp32": one(1e11), "fp64": one(5e10)},
              "bandwidth": {"l2": one(1e11), "l3": one(5e10), "dram": one(2e10)}, "threads": 1}  # fmt: skip
    for name, values in changes.items():
        fields[name] = {key: one(value) for key, value in values.items()}
    return Ceilings(**fields)


def check(found, machine=MACHINE, sheet=None):
    return calibrate.checked(found, machine, sheet)


def test_what_can_be_right_is_left_alone():
    assert check(ceilings()) == ceilings()


def test_a_peak_beyond_what_arithmetic_allows_is_not_used():
    """Two units of 8 floats, 2 flops each, at 6.5 GHz: 208 Gflop/s."""
    assert check(ceilings(compute={"fp32": 217e9})).warnings == ()
    found = check(ceilings(compute={"fp32": 219e9}))
    assert found.compute == {}
    assert "broken calibration: fp32 at 219 Gflop/s" in found.warnings[0]
    wide = replace(MACHINE, isa=("avx512f",))
    assert check(ceilings(compute={"fp32": 219e9}), wide).warnings == ()
    arm = replace(MACHINE, arch="arm64")  # may have matrix units
    assert check(ceilings(compute={"fp32": 2e12}), arm).warnings == ()


def test_double_precision_is_not_faster():
    found = check(ceilings(compute={"fp32": 1e11, "fp64": 1.06e11}))
    assert found.compute == {}
    assert found.warnings == ("broken calibration: fp64 above fp32; neither is used",)


H200 = replace(MACHINE, gpu_name="NVIDIA H200", gpu_compute_capability="9.0", gpu_units=132, gpu_clock_hz=1.98e9)


def gpu_peaks(**compute):
    return replace(ceilings(compute=compute), is_gpu=True, threads=None)


def test_double_precision_on_tensor_cores_may_be_as_fast_as_single():
    """A data sheet says 67 Tflop/s of both; multiply-adds and library products reach one of them before the other."""
    true = gpu_peaks(fp32=60e12, fp64=66e12, **{"bf16-tc": 788e12})
    assert check(true, H200) == true


@pytest.mark.parametrize(
    ("mode", "most"), [("fp32", 66.9e12), ("fp64", 66.9e12), ("tf32", 535e12), ("fp16-tc", 1071e12)]
)
def test_a_gpu_does_no_more_than_its_units_at_its_highest_clock(mode, most):
    assert calibrate.most_flop_per_s(H200, None, mode) == pytest.approx(most, rel=1e-3)
    assert check(gpu_peaks(**{mode: 1.04 * most}), H200).warnings == ()
    found = check(gpu_peaks(**{mode: 1.06 * most}), H200)
    assert (found.compute, found.warnings[0].partition(" at ")[0]) == ({}, f"broken calibration: {mode}")


@pytest.mark.parametrize(
    "unknown", [{"gpu_clock_hz": None}, {"gpu_compute_capability": "99.0"}, {"gpu_compute_capability": None}]
)
def test_of_an_unknown_gpu_nobody_knows_what_it_cannot_do(unknown):
    assert check(gpu_peaks(fp32=1e18), replace(H200, **unknown)).warnings == ()


def test_half_rates_of_geforce_cards_are_not_those_of_their_chip():
    """The A10 multiplies twice as fast on tensor cores as the RTX 3090 of the same compute capability."""
    ampere, blackwell = (
        replace(H200, gpu_compute_capability=of, gpu_units=1, gpu_clock_hz=1.0) for of in ("8.6", "12.0")
    )
    assert calibrate.most_flop_per_s(ampere, None, "fp16-tc") == 2 * 512
    assert calibrate.most_flop_per_s(blackwell, None, "fp16-tc") is None
    assert calibrate.most_flop_per_s(blackwell, None, "fp32") == 2 * 128


def test_a_nearer_level_is_not_slower():
    found = check(ceilings(bandwidth={"l2": 4e10, "l3": 5e10, "dram": 2e10}))
    assert [*found.bandwidth] == ["l3", "dram"]
    assert found.warnings == ("broken calibration: l2 below l3; l2 is not used",)


def test_far_below_the_datasheet_is_said():
    sheet = load_datasheet("h200-sxm")
    printed = sheet.ceilings()
    near = {"fp32": 0.71 * printed.compute["fp32"].value}
    gpu = replace(MACHINE, arch="aarch64")
    dram = {"dram": 0.5 * printed.bandwidth["dram"].value}
    found = check(ceilings(compute=near, bandwidth=dram), gpu, sheet)
    assert [text.partition(":")[0] for text in found.warnings] == ["dram is 50 % of the datasheet's"]


def test_variables_that_steer_blas_are_named_with_the_peak_without_them():
    cost = Cost(with_flop_per_s=5e10, without_flop_per_s=1e11, ratio=0.5, low=0.4, high=0.6)
    text = calibrate.steered_warning({"OPENBLAS_CORETYPE": "Prescott"}, cost)
    assert text == ("OPENBLAS_CORETYPE=Prescott steers BLAS: a product on one thread at 50.0 Gflop/s, "
                    "at 100 Gflop/s in a process without")  # fmt: skip
    assert calibrate.steered_warning({"A": "1"}, None) == "A=1 steers BLAS; what it costs was not measured"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    monkeypatch.setattr(calibrate, "steering", lambda _environ: {})


# Remembering


def remembered(device, threads=1, warnings=None):
    return calibrate.recall(device, threads, [].append if warnings is None else warnings.append)


def test_ceilings_are_remembered_for_a_device_and_its_threads():
    device = Simulated()
    assert remembered(device) is None
    found = calibrate.measure_and_remember(device, 1, print)
    assert remembered(Simulated()) == found
    assert remembered(device, threads=2) is None
    assert remembered(Simulated(machine=replace(MACHINE, cpu_model="another"))) is None


def test_another_blas_has_other_ceilings(monkeypatch):
    calibrate.measure_and_remember(Simulated(), 1, print)
    monkeypatch.setattr(calibrate, "_blas", lambda: [["openblas", "9.9", "Other"]])
    assert remembered(Simulated()) is None


def test_ceilings_of_a_busy_machine_are_not_remembered():
    device = Simulated([NOISY] * 7)
    assert calibrate.measure_and_remember(device, 1, print).contended
    assert remembered(device) is None


def test_what_is_no_set_of_ceilings_is_measured_anew(cache):
    device = Simulated()
    calibrate.measure_and_remember(device, 1, print)
    path = cache / "ceilings.json"
    content = json.loads(path.read_text())
    for entry in content["ceilings"].values():
        entry["compute"] = 3
    path.write_text(json.dumps(content))
    warnings = []
    assert remembered(device, warnings=warnings) is None
    assert len(warnings) == 1
    assert "measured anew" in warnings[0]


def test_a_device_that_fails_is_one_line():
    class Failing(Simulated):
        def probes(self, threads):
            raise RuntimeError("no\nmemory")

    with pytest.raises(InputError, match=r"the ceilings of simulated cannot be measured: .*no memory"):
        calibrate.measure_and_remember(Failing(), 1, print)


def test_a_device_without_probes_is_not_measurable():
    assert not calibrate.measurable(FakeDevice())
    assert calibrate.measurable(Simulated())
