"""The device on a real GPU: pytest -m gpu. It has not run yet: no GPU was there when it was written."""

import pytest

from convbench import calibrate
from convbench.backends import cuda
from convbench.backends.cuda.clock import HELD_CYCLES
from convbench.datasheet import matching_datasheet

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device():
    if reason := cuda.unusable():
        pytest.skip(reason)
    found = cuda.device()
    found.activate()
    for _ in range(20):  # an idle GPU runs at a fraction of its clock
        spin(found, 50_000_000)()
    found.cuda.synchronize()
    return found


def spin(device, cycles):
    return lambda: device.cuda.launch("spin", 1, 1, cycles)


def test_the_machine_is_known(device):
    machine = device.machine()
    assert machine.gpu_name
    assert machine.gpu_units > 0
    assert machine.cache_bytes["l2"] == device.cache_bytes() > 0
    assert device.nvml.is_there
    assert machine.gpu_power_limit_w is None or machine.gpu_power_limit_w > 10


def test_a_sample_lasts_as_long_as_its_launches(device):
    clock = device.clock(1)
    run = spin(device, 1_000_000)
    run()
    one, ten = (min(clock.sample(run, launches).wall_s for _ in range(5)) for launches in (1, 10))
    assert 9 < ten / one < 11
    assert 1e-4 < one < 1e-2


def test_events_around_nothing_take_little(device):
    assert 0.5e-6 <= device.clock(1).overhead_s < 50e-6


def test_the_host_is_in_time_for_a_graph(device):
    clock = device.clock(1)
    run = spin(device, 1000)
    run()
    assert sum("late" in clock.sample(run, 100).flags for _ in range(20)) <= 2
    assert HELD_CYCLES > 0


def test_what_waits_cannot_be_captured_and_is_timed_all_the_same(device):
    clock = device.clock(1)

    def run():
        device.cuda.launch("spin", 1, 1, 100_000)
        device.cuda.synchronize()

    run()
    assert clock.sample(run, 3).wall_s > 0
    assert clock.sample(spin(device, 1000), 3).wall_s > 0  # and the stream is whole again


def test_sweeps_slow_down_what_lies_in_l2(device):
    from convbench.backends.cuda.probes import Team

    team = Team(device.cuda, device.properties.units)
    buffer = team.filled(8 * team.grain_bytes)
    clock = device.clock(1)

    def run():
        team.move("read", (buffer, buffer, buffer), 8, 1)

    run()
    warm = min(clock.sample(run, 1).wall_s for _ in range(10))
    cold = []
    for _ in range(10):
        device.sweep_cache(1)
        cold.append(clock.sample(run, 1).wall_s)
    assert min(cold) > warm


def test_memory_that_is_short_is_a_memory_error_and_the_next_allocation_works(device):
    device.activate()

    def allocate():
        with device.memory_errors():
            device.cuda.allocate(1 << 50)

    with pytest.raises(MemoryError):
        allocate()
    assert device.cuda.allocate(1 << 20).nbytes == 1 << 20


def test_canaries_run(device):
    clock = device.clock(1)
    for run in device.canaries().values():
        run()
        assert 1e-5 < clock.sample(run, 1).wall_s < 0.1


def test_ceilings_are_below_the_datasheet(device):
    found = calibrate.measure(device, 1)
    assert {"fp32", "fp64"} <= set(found.compute)
    assert {"l2", "dram"} <= set(found.bandwidth)
    assert 1e-7 < found.launch.value < 2e-5
    sheet = matching_datasheet(device.machine())
    if sheet is not None:
        printed = sheet.ceilings()
        assert all(
            found.compute[mode].value <= 1.05 * of.value
            for mode, of in printed.compute.items()
            if mode in found.compute
        )
        assert found.bandwidth["dram"].value <= 1.05 * printed.bandwidth["dram"].value
