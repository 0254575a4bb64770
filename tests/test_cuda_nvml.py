"""What NVML says of a GPU, and which witness that makes."""

import os
import subprocess
import sys

import pytest
from fake_cuda import FakeNvml, open_nvml

from convbench.backends.cuda.nvml import Counters, Nvml, Reading


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (0x00, ()),
        (0x01, ()),  # idle
        (0x02, ()),  # clocks set by the user
        (0x04, ("power_cap",)),
        (0x08, ("throttled",)),
        (0x10, ()),  # in step with other GPUs
        (0x20, ("throttled",)),
        (0x40, ("throttled",)),
        (0x80, ("throttled",)),
        (0x100, ()),  # the display's clock
        (0x44, ("throttled", "power_cap")),
        (None, ()),
    ],
)
def test_reasons_for_a_lower_clock_are_witnesses(reasons, expected):
    assert Reading(reasons=reasons).flags() == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((5, 1), (5, 1), ()),
        ((5, 1), (6, 1), ("throttled",)),
        ((None, 1), (6, 1), ()),
        ((5, 1), (5, 2), ("others",)),
        ((5, 2), (5, 1), ("others",)),  # it ended meanwhile
        ((5, 0), (5, 0), ()),  # a container in which nobody is seen
        ((5, 2), (7, 2), ("throttled", "others")),
    ],
)
def test_counters_are_witnesses_against_a_round(before, after, expected):
    first, second = (Counters(thermal_ns=thermal, processes=processes) for thermal, processes in (before, after))
    assert second.since(first) == expected


def test_it_is_asked_for_the_gpu_by_its_place_on_the_bus(monkeypatch):
    library = FakeNvml()
    nvml = open_nvml(monkeypatch, library)
    assert nvml.is_there
    assert library.asked_for == "0000:19:00.0"
    assert nvml.reading() == Reading(reasons=0, sm_clock_hz=1.98e9)
    assert nvml.counters() == Counters(thermal_ns=0, processes=1)
    assert nvml.power_limit_w() == 700


def test_what_a_gpu_does_not_tell_is_not_known(monkeypatch):
    library = FakeNvml()
    library.reasons = library.clock_mhz = library.thermal_ns = library.processes = library.limit_mw = None
    library.energy_mj = library.power_mw = library.celsius = library.memory_mhz = library.most_mhz = None
    nvml = open_nvml(monkeypatch, library)
    assert (nvml.energy_j(), nvml.meters(), nvml.most_clock_hz()) == (None, {}, None)
    assert nvml.reading() == Reading()
    assert nvml.counters() == Counters()
    assert nvml.power_limit_w() is None


def test_meters_have_units(monkeypatch):
    library = FakeNvml()
    library.energy_mj = 2500
    nvml = open_nvml(monkeypatch, library)
    assert nvml.energy_j() == 2.5
    assert nvml.meters() == {"power_w": 350.0, "temperature_c": 45.0, "memory_clock_hz": 3.201e9}
    assert nvml.most_clock_hz() == 1.98e9


def test_nobody_knows_what_a_slice_takes(monkeypatch):
    library = FakeNvml()
    library.mig = [1, 1]
    nvml = open_nvml(monkeypatch, library)
    assert nvml.energy_j() is None
    assert nvml.meters().keys() == {"temperature_c", "memory_clock_hz"}


@pytest.mark.parametrize(("mig", "expected"), [(None, ("others",)), ([0, 0], ("others",)), ([1, 1], ())])
def test_processes_on_other_slices_are_no_witnesses(monkeypatch, mig, expected):
    library = FakeNvml()
    library.mig, library.processes = mig, [1, 2]
    nvml = open_nvml(monkeypatch, library)
    assert nvml.counters().since(nvml.counters()) == expected


def test_processes_of_a_run_are_one(monkeypatch):
    """The process that a run was started as holds memory on the GPU, and so do workers beside this one."""
    library = FakeNvml()
    nvml = open_nvml(monkeypatch, library)
    with subprocess.Popen(["sleep", "60"]) as worker:
        library.processes = [os.getpid(), worker.pid]
        assert nvml.counters().processes == 1
        library.processes += [os.getppid()]  # nobody of ours
        assert nvml.counters().processes == 2
        monkeypatch.setenv("CONVBENCH_RUN", str(os.getppid()))  # it started this one, but not the other
        assert nvml.counters().processes == 2
        library.processes = [os.getpid(), os.getppid()]
        assert nvml.counters().processes == 1
        worker.kill()
    library.processes = [os.getpid(), 2**31 - 1]  # gone
    assert nvml.counters().processes == 2


def test_a_worker_that_is_not_known_by_its_number_cannot_tell_who_the_others_are(monkeypatch):
    library = FakeNvml()
    library.processes = [-1, -2]
    nvml = open_nvml(monkeypatch, library)
    assert nvml.counters().processes == 2
    monkeypatch.setenv("CONVBENCH_RUN", "1")
    assert nvml.counters().processes == 0


def test_an_older_driver_has_another_name_for_reasons(monkeypatch):
    library = FakeNvml()
    library.reasons = None
    library.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x40
    assert open_nvml(monkeypatch, library).reading().flags() == ("throttled",)


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId"])
def test_without_a_driver_nothing_is_known(monkeypatch, call):
    library = FakeNvml()

    def fail(*_):
        raise library.NVMLError("NVML Shared Library Not Found")

    monkeypatch.setattr(library, call, fail)
    nvml = open_nvml(monkeypatch, library)
    assert not nvml.is_there
    assert nvml.reading() == Reading()
    assert nvml.power_limit_w() is None


def test_without_the_package_nothing_is_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    nvml = Nvml("0000:19:00.0")
    assert not nvml.is_there
    assert nvml.counters() == Counters()


def test_the_real_package_knows_the_calls():
    library = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    names = [name for name in vars(FakeNvml) if name.startswith("nvmlDevice")]
    assert [name for name in names if not hasattr(library, name)] == []
    assert (library.NVML_CLOCK_SM, library.NVML_CLOCK_MEM, library.NVML_TEMPERATURE_GPU) == (1, 2, 0)
    assert library.NVML_PERF_POLICY_THERMAL == 1
    slowed = ["HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown"]
    assert [getattr(library, f"nvmlClocksEventReason{name}") for name in slowed] == [0x08, 0x20, 0x40, 0x80]
    assert library.nvmlClocksEventReasonSwPowerCap == 0x04
