"""The GPU as a device, on a simulated one: its clock and witnesses, and its identity."""

import sys
from dataclasses import replace

import pytest
from fake_cuda import CYCLE_S, EVENT_S, H200, CudaError, fake_device

from convbench.backends import Sample
from convbench.backends.cuda.clock import HELD_CYCLES
from convbench.backends.cuda.gpu import CudaDevice
from convbench.backends.cuda.nvml import Nvml
from convbench.errors import ConvbenchError
from convbench.machine import cpu_machine
from convbench.testing import FakeDevice
from convbench.timing import RowTimer, TimingOptions


def simulated(monkeypatch, kernel_s=1e-3, **options):
    """A device whose every kernel takes as long, and what is simulated of it."""
    device, simulation, library = fake_device(monkeypatch, kernel_s=lambda *_: kernel_s, **options)
    device.clock(1)  # which measures its overhead
    simulation.log.clear()
    return device, simulation, library


# The clock


def test_a_sample_is_a_graph_of_all_launches_and_is_replayed(monkeypatch):
    device, simulation, _ = simulated(monkeypatch, 1e-6)
    clock = device.clock(1)
    calls = []

    def run():
        calls.append(1)
        simulation.enqueue(1e-6)

    samples = [clock.sample(run, 100) for _ in range(3)]
    assert simulation.log == ["activate", "capture 100", "activate", "activate"]
    assert len(calls) == 100  # captured once: they enqueue nothing then
    assert samples == [Sample(pytest.approx(100e-6 + EVENT_S), None, ())] * 3


def test_other_launches_or_another_run_are_captured_anew(monkeypatch):
    device, simulation, _ = simulated(monkeypatch)
    clock = device.clock(1)
    first, second = (lambda: simulation.enqueue(1e-3)), (lambda: simulation.enqueue(2e-3))
    times = [clock.sample(run, launches).wall_s for run, launches in [(first, 1), (first, 2), (second, 2), (second, 2)]]
    assert times == pytest.approx([1e-3 + EVENT_S, 2e-3 + EVENT_S, 4e-3 + EVENT_S, 4e-3 + EVENT_S])
    assert [entry for entry in simulation.log if "capture" in entry] == ["capture 1", "capture 2", "capture 2"]


def test_what_cannot_be_captured_is_launched_while_the_gpu_is_held(monkeypatch):
    device, simulation, _ = simulated(monkeypatch, launch_s=20e-6)
    simulation.uncapturable = CudaError("cudaErrorStreamCaptureUnsupported")
    calls = []

    def run():
        calls.append(1)
        simulation.enqueue(1e-6)

    clock = device.clock(1)
    sample = clock.sample(run, 100)
    assert sample == Sample(pytest.approx(100e-6 + EVENT_S), None, ())  # and not 100 launches by the host, 2 ms
    clock.sample(run, 50)
    assert len(calls) == 100 + 100 + 50  # it is not tried again


def test_a_host_that_is_too_slow_is_a_witness(monkeypatch):
    device, simulation, _ = simulated(monkeypatch, launch_s=200e-6)
    simulation.uncapturable = CudaError("cudaErrorStreamCaptureUnsupported")
    sample = device.clock(1).sample(lambda: simulation.enqueue(1e-6), 100)
    assert sample.flags == ("late",)
    assert sample.disturbed


def test_work_that_is_broken_raises_what_it_raises(monkeypatch):
    device, _, _ = simulated(monkeypatch)

    def run():
        raise CudaError("CUDNN_STATUS_EXECUTION_FAILED")

    with pytest.raises(CudaError, match="EXECUTION_FAILED"):
        device.clock(1).sample(run, 3)


@pytest.mark.parametrize("text", [
    "cudaErrorMemoryAllocation: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUFFT_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED", "Out of memory allocating 512 bytes",
])  # fmt: skip
@pytest.mark.parametrize("within", ["clock", "plan"])
def test_memory_that_is_short_is_a_memory_error_and_is_freed(monkeypatch, text, within):
    device, simulation, _ = simulated(monkeypatch)

    def run():
        raise CudaError(text)

    def work():
        if within == "clock":
            device.clock(1).sample(run, 1)
        with device.memory_errors():
            run()

    with pytest.raises(MemoryError, match=text):
        work()
    assert simulation.log.count("free_unused") == 1


def test_other_errors_are_left_as_they_are(monkeypatch):
    device, simulation, _ = simulated(monkeypatch)
    with pytest.raises(CudaError, match="illegal"), device.memory_errors():
        raise CudaError("cudaErrorIllegalAddress: an illegal memory access")
    assert "free_unused" not in simulation.log


@pytest.mark.parametrize("step_s", [-1.0, float("nan"), float("inf")])
def test_events_that_give_no_time_are_an_error(monkeypatch, step_s):
    device, simulation, _ = simulated(monkeypatch)
    simulation.step_s = step_s
    with pytest.raises(ConvbenchError, match=r"events of CUDA gave (-0\.99|nan|inf)"):
        device.clock(1).sample(lambda: simulation.enqueue(1e-3), 1)


def test_the_overhead_is_that_of_two_events_but_what_they_resolve_at_least(monkeypatch):
    device, simulation, _ = fake_device(monkeypatch)
    assert device.clock(1).overhead_s == pytest.approx(EVENT_S)
    device, simulation, _ = fake_device(monkeypatch)
    simulation.step_s = -EVENT_S
    assert device.clock(1).overhead_s == 0.5e-6


def test_the_gpu_is_held_for_longer_than_a_graph_takes_to_launch():
    assert 100e-6 <= HELD_CYCLES * CYCLE_S <= 1e-3


# Witnesses


@pytest.mark.parametrize(
    ("reasons", "flags", "disturbed"),
    [
        (0, (), False),
        (0x40, ("throttled",), True),
        (0x04, ("power_cap",), False),
        (0x24, ("throttled", "power_cap"), True),
    ],
)
def test_throttling_speaks_against_a_sample_and_the_power_cap_is_a_remark(monkeypatch, reasons, flags, disturbed):
    device, simulation, library = simulated(monkeypatch)
    library.reasons = reasons
    sample = device.clock(1).sample(lambda: simulation.enqueue(1e-3), 1)
    assert sample.flags == flags
    assert sample.disturbed == disturbed


def test_throttling_during_one_sample_leaves_the_others_clean(monkeypatch):
    device, simulation, library = simulated(monkeypatch)
    hot = iter([0, 0x20, 0])

    def reasons(_):
        return next(hot)

    monkeypatch.setattr(library, "nvmlDeviceGetCurrentClocksEventReasons", reasons)
    clock = device.clock(1)
    assert [clock.sample(lambda: simulation.enqueue(1e-3), 1).flags for _ in range(3)] == [(), ("throttled",), ()]


def round_of(device, simulation, before_each=(None, None, None)):
    """Flags of samples that were watched; what is called before each of them."""
    clock = device.clock(1)
    ended = clock.watch()
    samples = []
    for change in before_each:
        if change:
            change()
        samples.append(clock.sample(lambda: simulation.enqueue(1e-3), 1))
    return [sample.flags for sample in ended(samples)]


def test_a_counter_of_heat_speaks_against_the_whole_round(monkeypatch):
    device, simulation, library = simulated(monkeypatch)
    assert round_of(device, simulation) == [()] * 3
    assert round_of(device, simulation, (None, lambda: setattr(library, "thermal_ns", 10))) == [("throttled",)] * 2


def test_another_process_speaks_against_the_whole_round(monkeypatch):
    device, simulation, library = simulated(monkeypatch)
    other = lambda: setattr(library, "processes", [1, 2])  # noqa: E731
    assert round_of(device, simulation, (None, other)) == [("others",)] * 2
    assert round_of(device, simulation) == [("others",)] * 3


def test_a_slower_clock_speaks_against_a_sample_unless_it_is_the_power_cap(monkeypatch):
    device, simulation, library = simulated(monkeypatch)

    def slower():
        library.clock_mhz = 1800

    def capped():
        library.reasons = 0x04

    assert round_of(device, simulation, (None, slower, capped)) == [(), ("clock",), ("power_cap",)]
    library.clock_mhz = None
    assert round_of(device, simulation) == [("power_cap",)] * 3


def test_samples_taken_before_the_watch_do_not_count(monkeypatch):
    device, simulation, library = simulated(monkeypatch)
    clock = device.clock(1)
    clock.sample(lambda: simulation.enqueue(1e-3), 1)
    library.clock_mhz = 1000
    ended = clock.watch()
    assert ended([clock.sample(lambda: simulation.enqueue(1e-3), 1)])[0].flags == ()
    assert clock.watch()([]) == []


# In the rotation


def timed(device, simulation, **more):
    options = TimingOptions(max_time_s=0.2, max_samples=3)
    return RowTimer(lambda: simulation.enqueue(50e-6), device.clock(1), options, **more)


def test_a_warm_row_is_timed_by_replay(monkeypatch):
    device, simulation, _ = simulated(monkeypatch)
    timer = timed(device, simulation)
    measured, _ = timer.round()
    assert measured.value_s == pytest.approx(50e-6, rel=0.01)
    captures = [entry for entry in simulation.log if "capture" in entry]
    timer.round()
    assert [entry for entry in simulation.log if "capture" in entry] == captures


@pytest.mark.parametrize("uncapturable", [None, CudaError("cudaErrorStreamCaptureUnsupported")])
def test_a_cold_row_sweeps_twice_the_l2_and_runs_each_plan_once(monkeypatch, uncapturable):
    device, simulation, _ = simulated(monkeypatch)
    simulation.uncapturable = uncapturable
    other = lambda: simulation.enqueue(150e-6)  # noqa: E731
    timer = timed(device, simulation, sweep=lambda: device.sweep_cache(1), others=[other])
    measured, _ = timer.round()
    assert measured.launches == 2
    assert measured.value_s == pytest.approx(100e-6, rel=0.02)
    assert simulation.log.count(f"sweep {120 << 20}") == 3
    if uncapturable is None:
        assert [entry for entry in simulation.log if "capture" in entry] == ["capture 2"]


def test_canaries_take_about_a_millisecond_and_more_than_the_l2(monkeypatch):
    def kernel_s(name, *arguments):
        return arguments[3] * 1e-6 if name == "traffic_copy" else {"fma_fp32": 1e-3, "fill": 0.0}[name]

    device, _, _ = fake_device(monkeypatch, kernel_s=kernel_s)
    canaries = device.canaries()
    assert set(canaries) == {"compute", "memory"}
    clock = device.clock(1)
    assert clock.sample(canaries["compute"], 1).wall_s == pytest.approx(1e-3 + EVENT_S)
    each = (128 << 20) // (132 * 4 * 256 * 16)
    assert clock.sample(canaries["memory"], 1).wall_s == pytest.approx(each * 1e-6 + EVENT_S)


# Identity


def test_the_machine_is_the_host_with_its_gpu(monkeypatch):
    device, _, library = simulated(monkeypatch)
    machine, host = device.machine(), cpu_machine()
    assert device.name == "cuda:0"
    assert (machine.gpu_name, machine.gpu_units, machine.gpu_compute_capability) == ("NVIDIA H200", 132, "9.0")
    assert (machine.gpu_memory_bytes, machine.gpu_power_limit_w, machine.gpu_mig) == (150_109_880_320, 700, None)
    assert machine.gpu_clock_hz == 1.98e9
    assert machine.cache_bytes == {"l2": 60 << 20}
    assert device.cache_bytes() == 60 << 20
    assert (machine.cpu_model, machine.cpu_count) == (host.cpu_model, host.cpu_count)
    assert machine.fingerprint != host.fingerprint
    library.clock_mhz = 100
    assert CudaDevice(device.cuda, device.nvml).machine().fingerprint == machine.fingerprint
    library.limit_mw = 500_000
    assert CudaDevice(device.cuda, device.nvml).machine().fingerprint != machine.fingerprint


def test_versions_are_the_drivers_and_cudas(monkeypatch):
    device, _, library = simulated(monkeypatch)
    assert device.versions() == {"CUDA of the driver": "13.0", "CUDA runtime": "13.2", "NVIDIA driver": "580.65.06"}
    monkeypatch.setattr(library, "nvmlSystemGetDriverVersion", None)
    assert "NVIDIA driver" not in device.versions()


def test_a_slice_of_a_gpu_is_another_machine(monkeypatch):
    whole = simulated(monkeypatch)[0].machine()
    slice_ = replace(H200, name="NVIDIA H200 MIG 1g.18gb", units=16, memory_bytes=18 << 30, l2_bytes=7 << 20)
    machine = simulated(monkeypatch, properties=slice_)[0].machine()
    assert (machine.gpu_name, machine.gpu_mig) == ("NVIDIA H200", "1g.18gb")
    assert machine.fingerprint != whole.fingerprint


def test_plans_may_have_most_of_what_is_free(monkeypatch):
    device, simulation, _ = simulated(monkeypatch)
    held = simulation.allocate(10 << 30)
    assert device.free_bytes() == int(0.9 * (H200.memory_bytes - held.nbytes))


@pytest.mark.parametrize("sticky", [False, True])
def test_a_gpu_is_lost_where_an_error_comes_again(monkeypatch, sticky):
    device, simulation, _ = simulated(monkeypatch)
    assert device.lost() is None
    simulation.broken, simulation.sticky = CudaError("cudaErrorIllegalAddress: an illegal\nmore"), sticky
    assert device.lost() == ("CudaError: cudaErrorIllegalAddress: an illegal" if sticky else None)
    assert device.lost() == ("CudaError: cudaErrorIllegalAddress: an illegal" if sticky else None)


def test_waiting_tells_what_went_wrong(monkeypatch):
    device, simulation, _ = simulated(monkeypatch)
    device.synchronize()
    simulation.broken = CudaError("cudaErrorLaunchFailure")
    with pytest.raises(CudaError, match="LaunchFailure"):
        device.synchronize()
    simulation.broken = CudaError("cudaErrorMemoryAllocation")
    with pytest.raises(MemoryError):
        device.synchronize()


def test_meters_are_those_of_the_round(monkeypatch):
    device, simulation, library = simulated(monkeypatch)
    clock = device.clock(1)
    assert clock.meters() == {}
    library.energy_mj = 5000
    watched = clock.watch()
    samples = []
    for clock_mhz in (1980, 1500, 1900):
        library.clock_mhz = clock_mhz
        samples.append(clock.sample(lambda: simulation.enqueue(1e-3), 1))
    library.energy_mj = 5750
    watched(samples)
    meters = clock.meters()
    assert (meters["energy_j"], meters["sm_clock_hz"], meters["power_w"]) == (0.75, 1.9e9, 350)
    assert 0 < meters["window_s"] < 60
    for unknown in (0, None):  # the driver was loaded anew; it no longer tells
        library.energy_mj = 5750
        watched = clock.watch()
        library.energy_mj = unknown
        watched([])
        assert "energy_j" not in clock.meters()


def test_a_device_can_be_activated_among_several(monkeypatch):
    device, simulation, _ = simulated(monkeypatch)
    device.activate()
    assert simulation.log == ["activate"]
    assert CudaDevice(simulation, device.nvml, 3).name == "cuda:3"


def test_the_device_has_all_that_a_device_has(monkeypatch):
    device, _, _ = simulated(monkeypatch)
    needed = {name for name in dir(FakeDevice) if not name.startswith("_")} - {"advance"}
    assert {name for name in needed if not hasattr(device, name)} == set()


def test_without_nvml_a_gpu_has_no_witnesses_and_works(monkeypatch):
    device, simulation, _ = simulated(monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    device = CudaDevice(simulation, Nvml(H200.pci_bus_id))
    assert round_of(device, simulation) == [()] * 3
    assert device.machine().gpu_power_limit_w is None
