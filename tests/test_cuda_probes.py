"""A GPU's ceilings: found again on a simulated one, and the kernels behind them compiled."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from fake_cuda import H200, FakeCuda, fake_device
from nvrtc import compiled

from convbench import calibrate
from convbench.backends import ON_STREAM
from convbench.backends.cuda.probes import BUSY, MOVING, THREADS, Team, modes, sizes
from convbench.backends.cuda.runtime import CHAINS, STEPS, kernel_options, kernels_source
from convbench.ceilings import Ceilings
from convbench.problem import MathMode

PEAKS = {"fp32": 60e12, "fp64": 30e12}
PRODUCTS = {"fp32": 50e12, "fp64": 58e12, "tf32": 400e12, "fp16-tc": 750e12, "bf16-tc": 780e12}
L2, DRAM = 9e12, 4.2e12
NODE_S, CALL_S = 1.2e-6, 4e-6
ARRAYS = {"read": 1, "copy": 2, "add": 3}


def h200(name, *arguments):
    """Seconds that a kernel would take on a GPU of these ceilings; all but the first mix are a little slower."""
    if name.startswith("fma_"):
        return NODE_S + arguments[1] * 2 * CHAINS * STEPS * 132 * BUSY * THREADS / PEAKS[name.removeprefix("fma_")]
    if name.startswith("product_"):
        return NODE_S + 2 * arguments[0] ** 3 / PRODUCTS[name.removeprefix("product_")]
    if name.startswith("traffic_"):
        arrays, (each, passes) = ARRAYS[name.removeprefix("traffic_")], arguments[3:]
        moved = each * arrays * 132 * MOVING * THREADS * 16
        rate = L2 if moved <= H200.l2_bytes else DRAM
        return NODE_S + passes * moved / rate * (1 + 0.05 * (arrays - 1))
    return {"empty": NODE_S, "fill": 1e-3}[name]


def probes_of(monkeypatch, properties=H200):
    device, simulation, _ = fake_device(monkeypatch, properties=properties, kernel_s=h200)
    with device.probes(1) as found:
        return [*found], simulation


def test_calibration_finds_the_ceilings_of_a_simulated_gpu(monkeypatch):
    monkeypatch.setattr(calibrate, "_steered", list)
    device, simulation, _ = fake_device(monkeypatch, kernel_s=h200, launch_s=CALL_S)
    found = calibrate.measure(device, 2)
    assert found.is_gpu
    assert found.threads is None
    assert found.contended == ""
    assert found.warnings == ()
    best = {"fp32": 60e12, "fp64": 58e12} | {mode: PRODUCTS[mode] for mode in ("tf32", "fp16-tc", "bf16-tc")}
    assert {mode: ceiling.value for mode, ceiling in found.compute.items()} == pytest.approx(best, rel=0.02)
    assert {level: ceiling.value for level, ceiling in found.bandwidth.items()} == pytest.approx(
        {"l2": L2, "dram": DRAM}, rel=0.02
    )
    assert set(found.mixes["dram"]) == {"read", "copy", "add"}
    assert found.capacity_bytes == {"l2": H200.l2_bytes}
    assert found.launch.value == pytest.approx(NODE_S, rel=0.02)
    assert found.launch_stream.value == pytest.approx(CALL_S, rel=0.02)
    assert Ceilings.from_dict(found.to_dict()) == found
    assert simulation.log.count("free_unused") == 1


def test_a_throttled_gpu_is_contended(monkeypatch):
    monkeypatch.setattr(calibrate, "_steered", list)
    device, _, library = fake_device(monkeypatch, kernel_s=h200)
    library.reasons = 0x40
    assert "7 of 7 passes were disturbed (throttled)" in calibrate.measure(device, 1).contended
    library.reasons = 0x04
    assert calibrate.measure(device, 1).contended == ""


def test_launches_are_measured_in_a_graph_and_on_the_stream(monkeypatch):
    device, simulation, _ = fake_device(monkeypatch, kernel_s=h200, launch_s=CALL_S)
    clock = device.clock(1)
    with device.probes(1) as found:
        launches = {probe.name: probe for probe in found if probe.kind == "launch"}
        times = {name: clock.sample(lambda run=p.run: run(1000), 1).wall_s for name, p in launches.items()}
        simulation.synchronize()
        direct = clock.sample(calibrate.functools.partial(launches[ON_STREAM].run, 1000), 1)
    assert list(launches) == ["", ON_STREAM]  # the first is what rows pay
    assert times[""] == pytest.approx(1000 * NODE_S, rel=0.02)
    assert direct.wall_s == pytest.approx(1000 * CALL_S, rel=0.02)  # the host is the slower one
    assert direct.flags == ()


def test_working_sets_go_from_a_tenth_of_the_l2_to_two_gigabytes(monkeypatch):
    found, _ = probes_of(monkeypatch)
    grain = Team(FakeCuda(), 132).grain_bytes
    for mix, arrays in ARRAYS.items():
        seen = [probe.size_bytes for probe in found if probe.name == mix]
        assert seen == sorted(set(seen))
        assert seen[0] <= 0.15 * H200.l2_bytes
        assert 1 << 30 <= seen[-1] <= 2 << 30
        assert all(size % (arrays * grain) == 0 for size in seen)
        assert sum(0.1 * H200.l2_bytes <= size <= 0.4 * H200.l2_bytes for size in seen) >= 2
    assert all(probe.amount == probe.size_bytes for probe in found if probe.kind == "bandwidth")


@pytest.mark.parametrize("l2_bytes", [0, 1, 4 << 20, 40 << 20, 126 << 20])
def test_sizes_are_two_per_octave_and_never_too_large(l2_bytes):
    largest = 1 << 30
    found = sizes(max(1, l2_bytes), largest)
    assert found == sorted(found)
    assert found[-1] <= largest
    assert all(1.3 < b / a < 1.5 for a, b in pairwise(found) if a > 1000)
    assert sizes(60 << 20, 1 << 20) == [round(0.1 * (60 << 20))]


def test_a_small_gpu_gets_small_matrices_and_working_sets(monkeypatch):
    small = replace(H200, units=16, memory_bytes=1 << 30, l2_bytes=4 << 20)
    found, simulation = probes_of(monkeypatch, small)
    products = [probe.amount for probe in found if probe.kind == "compute" and probe.amount == 2.0 * 2048**3]
    assert len(products) == len(MathMode)
    assert max(probe.size_bytes for probe in found) <= small.memory_bytes / 4
    del found
    assert simulation.used_bytes == 0


def test_a_full_gpu_is_short_of_memory(monkeypatch):
    with pytest.raises(MemoryError, match="out of memory"):
        probes_of(monkeypatch, replace(H200, memory_bytes=1 << 20))


@pytest.mark.parametrize(
    ("capability", "missing"),
    [((6, 1), {"fp16-tc", "tf32", "bf16-tc"}), ((7, 5), {"tf32", "bf16-tc"}), ((8, 0), set())],
)
def test_math_modes_begin_with_the_gpus_that_have_units_for_them(capability, missing):
    assert set(MathMode) - set(modes(capability)) == missing


# The kernels

ARCHITECTURES = (80, 90, 100)
KERNELS = {"fma_fp32", "fma_fp64", "traffic_read", "traffic_copy", "traffic_add", "empty", "spin", "fill"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_and_keep_everything_in_registers(architecture):
    image, log = compiled(kernels_source(), f"sm_{architecture}", kernel_options())
    assert image.startswith(b"\x7fELF")
    assert set(re.findall(r"Compiling entry function '(\w+)'", log)) == KERNELS
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert set(frames) == {("0", "0", "0")}
    registers = dict(
        zip(re.findall(r"entry function '(\w+)'", log), re.findall(r"Used (\d+) registers", log), strict=True)
    )
    assert {
        name: int(count) for name, count in registers.items() if int(count) > 65536 // (THREADS * blocks(name))
    } == {}


def blocks(name):
    """How many blocks of a kernel share a multiprocessor's registers."""
    return MOVING if name.startswith("traffic") else BUSY


def test_the_compiler_left_the_work_in():
    ptx = compiled(kernels_source(), "compute_90", kernel_options(), "PTX")[0].decode()
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)\n}\n", ptx, re.DOTALL))
    assert set(bodies) == KERNELS
    for name, multiply_add in [("fma_fp32", "fma.rn.f32"), ("fma_fp64", "fma.rn.f64")]:
        assert 0 <= bodies[name].count(multiply_add) - CHAINS * STEPS <= 1  # one may make the factor
    for mix, arrays_read, arrays_written in [("read", 1, 0), ("copy", 1, 1), ("add", 2, 1)]:
        loads, stores = (bodies[f"traffic_{mix}"].count(f"{kind}.global.cg.v4.f32") for kind in ("ld", "st"))
        assert loads >= 4 * arrays_read  # a batch of four, more where it unrolls
        assert stores == loads // arrays_read * arrays_written
