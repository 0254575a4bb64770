"""What the doctor finds: each rule on facts that are given, facts on trees of files, noise in simulated time."""

import json
import math
import os
import random
import re
import sys
import tempfile
from dataclasses import replace

import pytest
from click.testing import CliRunner
from fake_cuda import H200, fake_device

from convbench.backends import Sample, cuda
from convbench.backends.cpu import device as cpu_device
from convbench.cli import main
from convbench.cli.doctor import _difference
from convbench.doctor import RULES, Cost, Facts, Finding, Window, findings
from convbench.doctor import noise as noise_module
from convbench.doctor import read as reading
from convbench.doctor.noise import Kernel, fitted, gpu_kernels, kernels, noise, noise_floor
from convbench.environment import Level
from convbench.errors import InputError
from convbench.machine import Machine
from convbench.testing import FakeClock, FakeDevice
from convbench.timing import Round

OK, NOTE, WARNING = Level.OK, Level.NOTE, Level.WARNING
BLANK = {"blas": [], "variables": {}, "load": None}


def facts(*, machine=None, environment=None, **known):
    of = {"os": "Linux", "arch": "x86_64", "cpu_count": 4} | (machine or {})
    return Facts(environment=BLANK | (environment or {}), machine=Machine(**of), **known)


def cost(ratio, low=None, high=None):
    return Cost(
        with_flop_per_s=ratio * 1e11, without_flop_per_s=1e11, ratio=ratio, low=low or ratio, high=high or ratio
    )


FORCED = {"blas": [{"architecture": "Haswell"}], "variables": {"OPENBLAS_CORETYPE": "Haswell"}}
AVX512 = {"isa": ("avx2", "avx512f")}


# Rules


@pytest.mark.parametrize(
    ("check", "known", "level", "text"),
    [
        ("load", {"environment": {"load": [2.0, 0, 0]}}, OK, "load average 2.00 on 4 CPUs"),
        ("load", {"environment": {"load": [2.1, 0, 0]}}, WARNING, "load average 2.10 on 4 CPUs"),
        ("other processes", {"idle": Window(others=0.05)}, OK, "took 5.0% of the CPUs' time"),
        ("other processes", {"idle": Window(others=0.3, processes=(("cc1", 1.2),))}, WARNING, "(CPUs: cc1 1.20)"),
        ("waiting", {"busy": Window(waited=0.01)}, OK, "in 1.0% of the time"),
        ("waiting", {"busy": Window(waited=0.02)}, WARNING, "in 2.0% of the time"),
        ("stolen time", {"busy": Window(stolen=0.0)}, OK, "took 0% of"),
        ("stolen time", {"busy": Window(stolen=0.25)}, WARNING, "took 25% of"),
        ("virtualisation", {"machine": {"virtualised": False}}, OK, "none"),
        ("virtualisation", {"machine": {"virtualised": True}}, NOTE, "a virtual machine"),
        ("governor", {"governors": ("performance",), "driver": "acpi-cpufreq"}, OK, "performance (acpi-cpufreq)"),
        ("governor", {"governors": ("performance", "schedutil")}, NOTE, "performance/schedutil: the clock follows"),
        ("governor", {"governors": ("powersave",), "driver": "intel_pstate"}, NOTE, "the clock follows the load"),
        ("governor", {"governors": ("powersave",), "driver": "acpi-cpufreq"}, WARNING, "stays at its lowest"),
        ("turbo", {"boost": False}, OK, "off"),
        ("turbo", {"boost": True}, NOTE, "on: the clock depends"),
        ("power", {"on_battery": False}, OK, "no battery"),
        ("power", {"on_battery": True}, WARNING, "on battery"),
        ("CPUs per core", {"machine": {"physical_cores": 4}}, OK, "4 CPUs on 4 cores"),
        ("CPUs per core", {"machine": {"physical_cores": 2}}, NOTE, "4 CPUs on 2 cores"),
        ("affinity", {"online_cpus": 4}, OK, "all 4 CPUs"),
        ("affinity", {"online_cpus": 8}, NOTE, "4 of 8 CPUs"),
        ("CPU quota", {"quota_cpus": math.inf}, OK, "none"),
        ("CPU quota", {"quota_cpus": 4.0}, OK, "4.00 CPUs' worth"),
        ("CPU quota", {"quota_cpus": 1.5}, WARNING, "1.50 CPUs' worth of time on 4 CPUs"),
        ("threads", {}, OK, "no variable sets them"),
        ("threads", {"environment": {"variables": {"OMP_NUM_THREADS": "4"}}}, OK, "OMP_NUM_THREADS=4"),
        ("threads", {"environment": {"variables": {"MKL_NUM_THREADS": "1"}}}, NOTE, "MKL_NUM_THREADS=1 on 4 CPUs"),
        ("threads", {"environment": {"variables": {"OMP_NUM_THREADS": "4,2"}}}, NOTE, "OMP_NUM_THREADS=4,2"),
        ("BLAS core", {"environment": {"blas": [{"architecture": "Zen"}]}}, OK, "its Zen kernels"),
        ("BLAS core", {"environment": FORCED, "machine": AVX512}, WARNING, "(OPENBLAS_CORETYPE=Haswell)"),
        ("BLAS core", {"environment": FORCED, "machine": AVX512, "cost": cost(0.5)}, WARNING, "its Haswell kernels"),
        ("BLAS core", {"environment": FORCED, "machine": AVX512, "cost": cost(1.1)}, NOTE, "its Haswell kernels"),
        ("variables", {"environment": {"variables": {"MALLOC_CONF": "x"}}}, OK, "none steers BLAS"),
        ("variables", {"environment": FORCED}, NOTE, "OPENBLAS_CORETYPE=Haswell: what it costs was not measured"),
        ("variables", {"environment": FORCED, "cost": cost(0.5, 0.4, 0.6)}, WARNING,
         "OPENBLAS_CORETYPE=Haswell: one thread's product at 50.0 Gflop/s, without at 100 Gflop/s: × 0.50 (0.40–0.60)"),
        ("variables", {"environment": FORCED, "cost": cost(0.96)}, NOTE, "× 0.96"),
        ("variables", {"environment": FORCED, "cost": cost(0.9, 0.7, 1.1)}, NOTE, "× 0.90 (0.70–1.10)"),
        ("memory", {"machine": {"memory_bytes": 1 << 30}, "available_bytes": 1 << 29}, OK, "512 MiB of 1.00 GiB"),
        ("memory", {"machine": {"memory_bytes": 1 << 30}, "available_bytes": 1 << 29, "swap_bytes": 1 << 20}, NOTE,
         "1.00 MiB of swap in use"),
        ("memory", {"machine": {"memory_bytes": 1 << 30}, "available_bytes": 1 << 26}, WARNING, "64.0 MiB of 1.00 GiB"),
        ("huge pages", {"huge_pages": "always"}, OK, "always"),
        ("huge pages", {"huge_pages": "never"}, NOTE, "never"),
        ("NUMA nodes", {"numa_nodes": 1}, OK, "one"),
        ("NUMA nodes", {"numa_nodes": 2}, NOTE, "2: memory may be far"),
        ("clock", {"clock_source": "tsc", "clock_reading_s": 5e-8}, OK, "tsc, 50.0 ns a reading"),
        ("clock", {"clock_source": "hpet"}, WARNING, "hpet"),
        ("clock", {"clock_reading_s": 2e-6}, WARNING, "2.00 µs a reading"),
    ],
)  # fmt: skip
def test_a_rule(check, known, level, text):
    found = RULES[check](facts(**known))
    assert found is not None
    assert found[0] is level
    assert text in found[1]
    assert level is not WARNING or found[2], "a warning says what to do"


def test_what_is_not_known_is_named_and_not_judged():
    found, unknown = findings(Facts(environment=BLANK, machine=Machine(os="Fake", arch="fake")))
    assert {f.check for f in found} == {"threads", "variables"}  # the environment is always known
    assert unknown == [check for check in RULES if check not in {"threads", "variables"}]


def test_the_most_serious_come_first():
    found, _ = findings(facts(boost=True, huge_pages="always", quota_cpus=1.0, numa_nodes=2))
    levels = [f.level for f in found]
    assert levels == sorted(levels, key=[WARNING, NOTE, OK].index)
    assert found[0] == Finding("CPU quota", *RULES["CPU quota"](facts(quota_cpus=1.0)))
    assert len(set(levels)) == 3


# Facts


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


CPU = "sys/devices/system/cpu"


def test_facts_of_a_laptop(tmp_path):
    root = tree(tmp_path, {
        f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n", f"{CPU}/cpu1/cpufreq/scaling_governor": "performance\n",
        f"{CPU}/cpu0/cpufreq/scaling_driver": "intel_pstate\n", f"{CPU}/intel_pstate/no_turbo": "0\n",
        "sys/class/power_supply/BAT0/type": "Battery\n", "sys/class/power_supply/BAT0/status": "Discharging\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 1000 7 -2\n/file file 10 3 -3\n",
        "sys/devices/system/node/node0/x": "", "sys/devices/system/node/node1/x": "",
        "sys/devices/system/node/possible": "0-1",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
    })  # fmt: skip
    found = reading.files(root)
    assert found["governors"] == ("performance", "powersave")
    assert (found["driver"], found["boost"], found["on_battery"]) == ("intel_pstate", True, True)
    assert (found["huge_pages"], found["swap_bytes"], found["numa_nodes"]) == ("madvise", 10 * 1024, 2)
    assert found["clock_source"] == "hpet"


@pytest.mark.parametrize(
    ("name", "text", "boost"),
    [("intel_pstate/no_turbo", "1", False), ("cpufreq/boost", "1", True), ("cpufreq/boost", "0", False)],
)
def test_turbo(tmp_path, name, text, boost):
    assert reading.files(tree(tmp_path, {f"{CPU}/{name}": text}))["boost"] is boost


@pytest.mark.parametrize(
    ("files", "expected"),
    [({"AC/type": "Mains"}, False), ({"BAT0/type": "Battery", "BAT0/status": "Full"}, False),
     ({"m/type": "Battery", "m/scope": "Device", "m/status": "Discharging"}, False),
     ({"m/type": "Battery", "m/scope": "System", "m/status": "Discharging"}, True)],
)  # fmt: skip
def test_a_battery_counts_if_it_is_the_machines(tmp_path, files, expected):
    root = tree(tmp_path, {f"sys/class/power_supply/{name}": text for name, text in files.items()})
    assert reading.files(root)["on_battery"] is expected


def test_nothing_is_invented_where_there_are_no_files(tmp_path):
    found = reading.files(tmp_path)
    unknown = {"quota_cpus", "driver", "boost", "on_battery", "huge_pages", "swap_bytes", "numa_nodes"}
    assert {name for name in unknown if found[name] is not None} == set()
    assert found["governors"] == ()
    seen, _ = findings(Facts(**found))
    assert {"governor", "turbo", "power", "CPU quota"}.isdisjoint(f.check for f in seen)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.stat": ""}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
          "sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/box\n", "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "300000\n",
          "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"proc/self/cgroup": "3:cpuset:/\nnonsense\n"}, None),
    ],
)  # fmt: skip
def test_the_quota_of_control_groups(tmp_path, files, cpus):
    assert reading._quota_cpus(tree(tmp_path, files)) == cpus


def stat(pid, name, ticks):
    return f"{pid} ({name}) S {'0 ' * 10}{ticks} 0 0 0 20 0 1 0 0\n"


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="no clock ticks here")
def test_a_window_says_what_happened_meanwhile(tmp_path, monkeypatch):
    tick = os.sysconf("SC_CLK_TCK")
    clock, own = iter([10.0, 12.0]), iter([5.0, 6.0])
    times = iter([(10.0, 1.0, 100.0), (13.0, 1.5, 104.0)])
    monkeypatch.setattr(reading, "machine_times", lambda: next(times))
    monkeypatch.setattr(reading.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(reading.time, "process_time", lambda: next(own))
    root = tree(tmp_path, {"proc/7/stat": stat(7, "a) b", 0), "proc/8/stat": stat(8, "idle", 5 * tick),
                           f"proc/{os.getpid()}/stat": stat(os.getpid(), "me", 0),
                           "proc/pressure/cpu": "some avg10=0 total=1000\nfull total=9\n"})  # fmt: skip

    def run():
        tree(root, {"proc/7/stat": stat(7, "a) b", 3 * tick), "proc/9/stat": stat(9, "new", tick),
                    f"proc/{os.getpid()}/stat": stat(os.getpid(), "me", 9 * tick),
                    "proc/pressure/cpu": "some avg10=0 total=501000\n"})  # fmt: skip

    found = reading.window(run, root)
    assert found.others == pytest.approx(2.0 / 4)  # 3 s busy less 1 s of our own, of 4 s
    assert found.stolen == pytest.approx(0.5 / 4)
    assert found.waited == pytest.approx(0.25)
    assert found.processes == (("a) b", 1.5), ("new", 0.5))


def test_a_window_where_the_system_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "machine_times", lambda: None)
    assert reading.window(lambda: None, tmp_path) == Window()


# Cost of variables


def test_without_variables_there_is_no_cost(monkeypatch):
    monkeypatch.setattr(reading, "_product_s", lambda _environ: pytest.fail("measured"))
    assert reading.variables_cost({"PATH": "x", "MALLOC_CONF": "y"}) is None


def test_the_cost_is_the_median_ratio_of_pairs(monkeypatch):
    drift = iter(range(1, 100))

    def product_s(environ):
        assert environ["PATH"] == "x"
        slow = 2.0 if "OPENBLAS_CORETYPE" in environ else 1.0
        return slow * (1 + 1e-3 * next(drift))

    monkeypatch.setattr(reading, "_product_s", product_s)
    found = reading.variables_cost({"PATH": "x", "OPENBLAS_CORETYPE": "Haswell"}, pairs=7)
    assert found.ratio == pytest.approx(0.5, rel=2e-3)
    assert found.low < found.ratio < found.high  # in alternation: the drift is on both sides
    assert found.with_flop_per_s / found.without_flop_per_s == pytest.approx(0.5, rel=1e-2)


def test_a_product_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(reading, "PRODUCT_SIZE", 8)
    assert reading._product_s(os.environ) >= 0


@pytest.mark.parametrize("executable", ["", "no-such-interpreter"])
def test_a_process_that_fails_is_no_cost(monkeypatch, executable):
    monkeypatch.setattr(reading, "PRODUCT", "print('no number')")
    monkeypatch.setattr(reading.sys, "executable", executable or sys.executable)
    assert reading.variables_cost({**os.environ, "OMP_NUM_THREADS": "1"}) is None


# Noise


def kernel_on(device, name="product", *, largest=1 << 23, parallel=False):
    """A kernel whose run takes as many simulated nanoseconds as its size."""
    return Kernel(
        name=name, make=lambda size: lambda: device.advance(size * 1e-9), largest=largest, parallel=parallel
    )  # fmt: skip


def rounds(values, flags=()):
    return [Round(1, (Sample(value, value, tuple(flags)),)) for value in values]


@pytest.mark.parametrize("size_s", noise_module.SIZES_S)
@pytest.mark.parametrize("largest", [1000, 1 << 23])
def test_a_kernel_is_made_to_last(size_s, largest):
    device = FakeDevice()
    run = fitted(kernel_on(device, largest=largest), size_s, FakeClock(device))()
    before = device.now_s
    run()
    assert device.now_s - before == pytest.approx(size_s, rel=0.25)


def test_a_kernel_is_sized_by_its_undisturbed_launches():
    device, rng = FakeDevice(), random.Random(0)

    def make(size):
        return lambda: device.advance(size * 1e-9 + rng.choice((0.0, 8e-3, 8e-3)))

    clock = FakeClock(device)
    before = device.now_s
    run = fitted(Kernel(name="product", make=make), 1e-4, clock)()
    assert device.now_s - before < 3  # the fit itself is bounded
    assert min(clock.sample(run, 1).wall_s for _ in range(50)) == pytest.approx(1e-4, rel=0.25)


class BusyClock(FakeClock):
    """The machine is busy: of a sample, `work` is what the processor did, and the rest was waiting."""

    def __init__(self, device, waits, work=1.0):
        super().__init__(device)
        self.waits, self.work = waits, work

    def sample(self, run, launches):
        clean = super().sample(run, launches)
        wait = self.waits(self.samples)
        self.device.advance(wait)
        wall = clean.wall_s + wait
        return Sample(wall, clean.wall_s * self.work, ("waited",) if wait else ())


def test_a_kernel_on_one_thread_is_sized_by_what_the_processor_did():
    device = FakeDevice()
    run = fitted(kernel_on(device), 1e-2, BusyClock(device, lambda _: 0.04))()
    assert FakeClock(device).sample(run, 1).wall_s == pytest.approx(1e-2, rel=0.25)
    run = fitted(kernel_on(device), 1e-2, BusyClock(device, lambda _: 0.0, work=0.0))()  # a coarse clock
    assert FakeClock(device).sample(run, 1).wall_s == pytest.approx(1e-2, rel=0.25)


def test_a_kernel_on_several_threads_is_sized_by_a_launch_without_a_witness():
    device = FakeDevice()
    clock = BusyClock(device, lambda sample: 0.04 if sample % 15 else 0.0, work=2.0)
    run = fitted(kernel_on(device), 1e-2, clock, threads=2)()
    assert FakeClock(device).sample(run, 1).wall_s == pytest.approx(1e-2, rel=0.25)
    before = device.now_s
    fitted(kernel_on(device), 1e-2, BusyClock(device, lambda _: 0.04, work=2.0), threads=2)
    assert device.now_s - before < 8  # where all are disturbed it comes to an end


@pytest.mark.parametrize(("excess", "text"), [(0.0123, "1.2%"), (0.99, "99%"), (1.5, "× 2.5"), (224.0, "× 225")])
def test_a_difference_beyond_double_is_a_factor(excess, text):
    assert _difference(excess) == text


def test_each_row_has_arrays_of_its_own():
    for kernel in kernels():
        first, second = (kernel.make(16) for _ in range(2))
        first()
        second()
        arrays = [{id(cell.cell_contents) for cell in run.__closure__} for run in (first, second)]
        shared = arrays[0] & arrays[1]
        assert shared <= {id(sys.modules["numpy"])}


def test_noise_of_rounds_that_are_given():
    a, b = rounds([1.0] * 6), rounds([1.1] * 6, ["switched"])
    found = noise([(a, a), (a, b), (b, a)], size_s=1.0, kernel="copy", threads=1)
    assert found.difference == pytest.approx(0.1)  # whichever of the two is larger
    assert found.half_width == 0
    assert found.flagged == pytest.approx(2 / 6)
    assert (found.time_s, found.repeats) == (1.0, 3)


def test_too_few_rounds_have_no_interval():
    assert noise([(rounds([1.0]), rounds([1.0]))], size_s=1.0, kernel="copy", threads=1).half_width is None


def test_the_noise_floor_of_a_machine_without_noise():
    device = FakeDevice()
    of = [kernel_on(device, parallel=True), kernel_on(device, "copy")]
    found = noise_floor(device, 4, 0.0, of=of, sizes_s=(1e-4, 1e-2))
    assert [(n.kernel, n.threads, n.size_s) for n in found] == [
        ("product", 1, 1e-4), ("product", 1, 1e-2), ("copy", 1, 1e-4), ("copy", 1, 1e-2),
        ("product", 4, 1e-4), ("product", 4, 1e-2),
    ]  # fmt: skip
    assert all(n.difference < 1e-9 and n.flagged == 0 and n.repeats == 1 for n in found)


def test_on_one_thread_nothing_is_measured_twice():
    device = FakeDevice()
    assert len(noise_floor(device, 1, 0.0, of=[kernel_on(device, parallel=True)], sizes_s=(1e-3,))) == 1


def test_noise_that_is_there_is_found():
    device, rng = FakeDevice(), random.Random(0)
    noisy = Kernel(name="product", make=lambda size: lambda: device.advance(size * 1e-9 * rng.choice((1.0, 1.5, 2.0))))
    (found,) = noise_floor(device, 1, 0.0, of=[noisy], sizes_s=(1e-2,))
    assert found.half_width > 0.05


def test_it_is_repeated_while_that_fits(monkeypatch):
    device = FakeDevice()
    monkeypatch.setattr(noise_module.time, "perf_counter", lambda: device.now_s)
    one = noise_floor(device, 1, 1e-3, of=[kernel_on(device)], sizes_s=(1e-3,))
    several = noise_floor(device, 1, 2.0, of=[kernel_on(device)], sizes_s=(1e-3,))
    assert one[0].repeats == 1
    assert several[0].repeats > 3


def test_a_kernel_that_fails_is_an_error():
    device = FakeDevice()
    calls = iter(range(100))

    def make(size):
        def run():
            if next(calls) > 20:
                raise RuntimeError("lost")
            device.advance(1e-3)

        return run

    with pytest.raises(RuntimeError, match="lost"):
        noise_floor(device, 1, 0.0, of=[Kernel(name="product", make=make)], sizes_s=(1e-3,))


def kernel_s(name, *arguments):
    """As an H200: 4 µs for a pass of multiply-adds, 4 TB/s for a copy."""
    if name == "fma_fp32":
        return 4e-6 * arguments[-1]
    return arguments[-2] * 132 * 2048 * 16 * 2 / 4e12 if name == "traffic_copy" else 1e-6


def test_the_noise_floor_of_a_gpu(monkeypatch):
    gpu, simulation, _ = fake_device(monkeypatch, 1, kernel_s=kernel_s)
    sizes = noise_module.SIZES_S
    found = noise_floor(gpu, 1, 0.0, of=gpu_kernels(gpu), sizes_s=sizes)
    assert [(n.kernel, n.size_s) for n in found] == [(kernel, s) for kernel in ("multiply-add", "copy") for s in sizes]
    assert [n.time_s for n in found] == pytest.approx([*sizes] * 2, rel=0.4)
    assert [(n.difference, n.flagged) for n in found] == [(0.0, 0.0)] * 10
    assert simulation.used_bytes < 2**20  # all has been given back


def test_copies_fit_into_a_small_gpu(monkeypatch):
    small = replace(H200, memory_bytes=2 << 30)
    gpu, _, _ = fake_device(monkeypatch, properties=small, kernel_s=kernel_s)
    found = noise_floor(gpu, 1, 0.0, of=gpu_kernels(gpu)[1:], sizes_s=(1e-3, 1e-1))
    assert [n.time_s for n in found] == pytest.approx([1e-3, 1e-1], rel=0.4)


# The command


@pytest.fixture
def simulated(monkeypatch, tmp_path):
    """Facts that are given, and noise in simulated time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a lock of its own
    device = FakeDevice()
    given = facts(boost=True, quota_cpus=1.0, machine={"cpu_count": 2})
    monkeypatch.setattr(cpu_device, "CpuDevice", lambda: device)
    monkeypatch.setattr(reading, "read", lambda: given)
    monkeypatch.setattr(noise_module, "kernels", lambda: [kernel_on(device, parallel=True)])


def invoke(*arguments):
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_the_command_shows_findings_and_noise(simulated):
    found = invoke("--time", "1ms")
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert lines[0].split() == ["check", "level", "what", "→", "advice"]
    assert max(map(len, lines[: lines.index("Noise floor") - 2])) <= 80
    assert lines[2].startswith("CPU quota")
    assert "warning" in lines[2]
    assert "not visible here: load, other processes" in found.stdout
    limits = "differences below these are noise on this machine: 0% on 1 thread, 0% on 2 threads"
    assert f"rows of about 1 ms: {limits}" in found.stdout


def test_json_and_csv(simulated):
    found = json.loads(invoke("--time", "1ms", "--format", "json").stdout)
    assert {row["check"]: row["level"] for row in found["findings"]}["turbo"] == "note"
    assert [row["size_s"] for row in found["noise"]] == [size for size in noise_module.SIZES_S for _ in range(2)]
    assert invoke("--quick", "--format", "csv").stdout.startswith("check,level,text,advice\nCPU quota,warning,")


def test_quick_measures_no_noise(simulated, monkeypatch):
    monkeypatch.setattr(noise_module, "noise_floor", lambda *_a, **_k: pytest.fail("measured"))
    assert "Noise floor" not in invoke("--quick").stdout


def test_gpus_have_a_noise_floor_each(simulated, monkeypatch):
    monkeypatch.setattr(cuda, "device", lambda index: fake_device(monkeypatch, index, kernel_s=kernel_s)[0])
    found = invoke("--time", "1ms", "--device", "0,1").stdout
    assert found.count("Noise floor") == 3
    assert "Noise floor of cuda:1" in found
    assert re.search(r"rows of about 100 µs: differences below these are noise on this machine: .*% on cuda:1", found)
    tables = json.loads(invoke("--time", "1ms", "--device", "1", "--format", "json").stdout)
    assert [*tables] == ["findings", "noise", "noise cuda:1"]


@pytest.mark.parametrize(("arguments", "code", "text"), [
    (("--quick", "--device", "0"), 2, "--quick measures no noise floor: it excludes --device"),
    (("--device", "3"), 1, "Error: no GPU here\n"),
])  # fmt: skip
def test_gpus_that_cannot_be_measured(monkeypatch, arguments, code, text):
    def device(index):
        raise InputError("no GPU here")

    monkeypatch.setattr(cuda, "device", device)
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exit_code == code
    assert text in result.stderr


def test_a_wrong_time_is_a_mistake_on_the_command_line():
    assert CliRunner().invoke(main, ["doctor", "--time", "soon"]).exit_code == 2


def test_all_facts_of_this_machine_can_be_judged():
    found, unknown = findings(reading.read(watch_s=0.01))
    assert {f.check for f in found} | set(unknown) == set(RULES)
    assert "clock" in {f.check for f in found}
