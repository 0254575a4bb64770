import json
import os
import platform
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from convbench import machine
from convbench.ceilings import Ceiling, Ceilings
from convbench.errors import InputError
from convbench.machine import (
    Machine,
    available_memory_bytes,
    cpu_machine,
)
from convbench.problem import MathMode

MIB = 2**20


@pytest.mark.parametrize(("change", "message"), [
    ({"value": 0.0}, "value of a ceiling must be a number above 0, got 0.0"),
    ({"value": float("nan")}, "value of a ceiling"),
    ({"sigma": -0.1}, "sigma of a ceiling must be a number of at least 0"),
    ({"kind": "guessed"}, "kind of a ceiling must be one of datasheet, predicted, measured; got 'guessed'"),
])  # fmt: skip
def test_a_ceiling_keeps_its_rules(change, message):
    with pytest.raises(InputError, match=message):
        Ceiling(**({"value": 1.0, "kind": "measured"} | change))


def test_ceilings_survive_a_file():
    full = Ceiling(value=1e12, kind="measured", sigma=0.01, minimum=9e11, maximum=1.1e12, count=9, date="2026-11-24")
    ceilings = Ceilings(
        compute={MathMode.FP32.value: full}, bandwidth={"dram": full, "l3": full}, capacity_bytes={"l3": MIB}
    )
    assert Ceilings.from_dict(json.loads(json.dumps(ceilings.to_dict()))) == ceilings
    for broken in ({}, {"compute": {}}, {"compute": 1, "bandwidth": {}}, {"compute": {}, "bandwidth": {}, "x": 1}):
        with pytest.raises(InputError, match="not a set of ceilings"):
            Ceilings.from_dict(broken)


CPUINFO = "\n\n".join(
    f"processor\t: {cpu}\nmodel name\t: Some CPU 9000\ncpu MHz\t\t: {{mhz}}\n"
    f"physical id\t: 0\ncore id\t\t: {cpu // 2}\n"
    "flags\t\t: fpu sse2 avx avx2 fma avx512f hypervisor"
    for cpu in range(4)
)


def tree(root, *, mhz=2000, total_kib=16 * 2**20, available_kib=8 * 2**20, cpuinfo=CPUINFO, **files):
    """A canned /proc and /sys; `files` adds or replaces paths, with __ for /."""
    cache = "sys/devices/system/cpu/cpu0/cache"
    content = {
        "proc/cpuinfo": cpuinfo.replace("{mhz}", str(mhz)),
        "proc/meminfo": f"MemTotal:       {total_kib} kB\nMemAvailable:   {available_kib} kB\n",
        "proc/sys/kernel/hostname": "secret-host\n",
    }
    caches = [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("2", "Unified", "1024K"), ("3", "Unified", "32768K")]
    for index, entry in enumerate(caches):
        for name, value in zip(("level", "type", "size"), entry, strict=True):
            content[f"{cache}/index{index}/{name}"] = value + "\n"
    content |= {name.replace("__", "/"): text for name, text in files.items()}
    for name, text in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def _four_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def test_machine_from_proc_and_sys(tmp_path):
    found = cpu_machine(tree(tmp_path))
    assert found == Machine(
        os="Linux", arch="x86_64", cpu_model="Some CPU 9000", cpu_count=4, physical_cores=2,
        isa=("avx", "avx2", "avx512f", "fma"), cache_bytes={"l1": 32 * 1024, "l2": MIB, "l3": 32 * MIB},
        memory_bytes=16 * 2**30, virtualised=True,
    )  # fmt: skip
    assert available_memory_bytes(tmp_path) == 8 * 2**30
    text = json.dumps(found.to_dict())
    assert Machine.from_dict(json.loads(text)) == found
    assert "secret-host" not in text


def test_affinity_limits_cpus_and_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3}, raising=False)
    found = cpu_machine(tree(tmp_path))
    assert (found.cpu_count, found.physical_cores) == (2, 1)


def test_arm_prints_numbers_for_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    info = "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
    found = cpu_machine(tree(tmp_path, cpuinfo=info))
    assert found.cpu_model == "implementer 0x41, part 0xd40"
    assert found.isa == ("neon", "sve")
    assert found.virtualised is None
    assert found.physical_cores is None


def test_what_cannot_be_read_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "")
    found = cpu_machine(tmp_path)
    assert found == Machine(os="Linux", arch="x86_64", cpu_count=4)
    assert available_memory_bytes(tmp_path) is None
    sizeless = cpu_machine(tree(tmp_path, sys__devices__system__cpu__cpu0__cache__index2__size="0K\n"))
    assert "l2" not in sizeless.cache_bytes


V1 = {
    "proc__self__cgroup": "4:cpu,memory:/box/inner\n1:cpu:/\n",
    "sys__fs__cgroup__memory__box__memory.limit_in_bytes": f"{2**31}\n",
    "sys__fs__cgroup__memory__box__memory.usage_in_bytes": f"{2**30}\n",
    "sys__fs__cgroup__memory__box__memory.stat": f"inactive_file 1\ntotal_inactive_file {2**29}\n",
    "sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712\n",
}
V2 = {
    "proc__self__cgroup": "0::/box/inner\n",
    "sys__fs__cgroup__box__memory.max": f"{2**31}\n",
    "sys__fs__cgroup__box__memory.current": f"{2**30}\n",
    "sys__fs__cgroup__box__memory.stat": f"inactive_file {2**29}\n",
    "sys__fs__cgroup__box__inner__memory.max": "max\n",
}


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_a_containers_limit_counts(tmp_path, files):
    root = tree(tmp_path, **files)
    assert cpu_machine(root).memory_bytes == 2**31
    assert available_memory_bytes(root) == 2**30 + 2**29
    full = {name: f"{2**32}\n" if name.endswith(("current", "usage_in_bytes")) else t for name, t in files.items()}
    assert available_memory_bytes(tree(tmp_path, **full)) == 0


def test_mac(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine, "_sysctl", lambda: {
        "machdep.cpu.brand_string": "Apple M9", "hw.physicalcpu": "8", "hw.l1dcachesize": "65536",
        "hw.l2cachesize": "4194304", "hw.optional.neon": "1", "kern.hv_vmm_present": "0",
    })  # fmt: skip
    monkeypatch.setattr(os, "sysconf", lambda _: 2**16)
    found = cpu_machine(tmp_path)
    assert found.cpu_model == "Apple M9"
    assert found.physical_cores == 8
    assert found.cache_bytes == {"l1": 65536, "l2": 4 * MIB}
    assert (found.isa, found.virtualised, found.memory_bytes) == (("neon",), False, 2**32)
    assert available_memory_bytes(tmp_path) == 2**32


def test_sysctl_may_be_missing(monkeypatch):
    def no_such_command(*_args, **_options):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", no_such_command)
    assert machine._sysctl() == {}
    assert machine._darwin({})["cpu_model"] is None


def test_fingerprint_keeps_to_the_identity(tmp_path):
    found = cpu_machine(tree(tmp_path / "one"))
    other = cpu_machine(tree(tmp_path / "two", mhz=3456, total_kib=2**20, **V2))
    assert found != other
    assert found.fingerprint == other.fingerprint
    assert len(found.fingerprint) == 12
    assert int(found.fingerprint, 16) >= 0
    changes = (
        {"cpu_count": 8}, {"cpu_model": "Other"}, {"virtualised": False}, {"arch": "aarch64"}, {"gpu_name": "G"},
        {"gpu_memory_bytes": 2**36}, {"gpu_mig": "1g.10gb"}, {"gpu_power_limit_w": 350.0},
    )  # fmt: skip
    assert len({found.fingerprint, *(replace(found, **change).fingerprint for change in changes)}) == len(changes) + 1
    for change in ({"memory_bytes": 1}, {"isa": ()}, {"cache_bytes": {}}, {"physical_cores": 1}):
        assert replace(found, **change).fingerprint == found.fingerprint


def test_from_dict_refuses_what_it_does_not_know():
    with pytest.raises(InputError, match=r"not a machine: .*hostname"):
        Machine.from_dict({"os": "Linux", "arch": "x86_64", "hostname": "h"})


def test_this_machine():
    here = cpu_machine()
    assert here.cpu_count >= 1
    assert socket.gethostname() not in here.to_dict().values()
    assert Machine.from_dict(json.loads(json.dumps(here.to_dict()))).fingerprint == here.fingerprint


def test_start_up_loads_nothing_heavy():
    code = (
        "import sys, convbench.roofline, convbench.datasheet as d, convbench.machine as m;"
        "m.cpu_machine(); m.available_memory_bytes();"
        "d.load_datasheet('t4').predicted();"
        "print(*({'numpy', 'scipy', 'rich', 'click', 'cupy'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
