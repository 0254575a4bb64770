"""What NVML says of a GPU, and which witness that makes."""

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
    nvml = open_nvml(monkeypatch, library)
    assert nvml.reading() == Reading()
    assert nvml.counters() == Counters()
    assert nvml.power_limit_w() is None


@pytest.mark.parametrize(("mig", "expected"), [(None, ("others",)), ([0, 0], ("others",)), ([1, 1], ())])
def test_processes_on_other_slices_are_no_witnesses(monkeypatch, mig, expected):
    library = FakeNvml()
    library.mig, library.processes = mig, [1, 2]
    nvml = open_nvml(monkeypatch, library)
    assert nvml.counters().since(nvml.counters()) == expected


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
    assert library.NVML_CLOCK_SM == 1
    assert library.NVML_PERF_POLICY_THERMAL == 1
    slowed = ["HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown"]
    assert [getattr(library, f"nvmlClocksEventReason{name}") for name in slowed] == [0x08, 0x20, 0x40, 0x80]
    assert library.nvmlClocksEventReasonSwPowerCap == 0x04
