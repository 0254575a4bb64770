"""Machines: which one this is."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from convbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ISA_FLAGS = {
    "avx": "avx", "avx2": "avx2", "fma": "fma", "avx512f": "avx512f", "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16", "amx_tile": "amx", "neon": "neon", "asimd": "neon", "sve": "sve", "sve2": "sve2",
}  # fmt: skip
"""Instruction sets that a convolution's speed depends on: the kernel's name for each, and ours."""


def is_number(value: object) -> bool:
    """Whether `value` is a finite number, and within what a float can hold; bool is none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def known(value: Any) -> dict[str, Any]:
    """The fields of a dataclass and of those inside it, without what is None."""
    return asdict(value, dict_factory=lambda items: {key: entry for key, entry in items if entry is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine at hand. What cannot be read is None, or absent; there is no host name in it.

    Attributes:
        os: "Linux", "Darwin", "Windows".
        arch: "x86_64", "aarch64", "arm64".
        cpu_count: logical CPUs that this process may use.
        physical_cores: cores behind those.
        isa: names from ISA_FLAGS.
        cache_bytes: data caches by level as the first CPU sees them: one core's L1 and L2, one L3.
        memory_bytes: main memory, or the container's limit where that is less.
        virtualised: whether a hypervisor is underneath.
        gpu_memory_bytes: total memory of the GPU; gpu_units its streaming multiprocessors.
        gpu_mig: the name of the slice, where the GPU is shared out; gpu_power_limit_w its power limit, in watts;
            gpu_clock_hz the highest clock that its streaming multiprocessors may have.
    """

    os: str
    arch: str
    cpu_model: str | None = None
    cpu_count: int | None = None
    physical_cores: int | None = None
    isa: tuple[str, ...] = ()
    cache_bytes: Mapping[str, int] = field(default_factory=dict)
    memory_bytes: int | None = None
    virtualised: bool | None = None
    gpu_name: str | None = None
    gpu_compute_capability: str | None = None
    gpu_units: int | None = None
    gpu_memory_bytes: int | None = None
    gpu_mig: str | None = None
    gpu_power_limit_w: float | None = None
    gpu_clock_hz: float | None = None

    @property
    def fingerprint(self) -> str:
        """12 hex digits of a SHA-256 over what stays the same from run to run.

        Memory of the host, caches and instruction sets are left out: a container's limit or a new kernel changes how
        they are reported, not which machine it is. GPU memory counts in whole GiB, for drivers keep a varying rest.
        """
        identity = [
            self.os, self.arch, self.cpu_model, self.cpu_count, self.virtualised, self.gpu_name, self.gpu_mig,
            round((self.gpu_memory_bytes or 0) / 2**30), round(self.gpu_power_limit_w or 0),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """What is known, for a file."""
        return known(self) | {"isa": list(self.isa)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Machine:
        """The machine written by `to_dict`.

        Raises:
            InputError: a field is missing or unknown.
        """
        try:
            return cls(**(dict(fields) | {"isa": tuple(fields.get("isa", ()))}))
        except (TypeError, AttributeError) as error:
            raise InputError(f"not a machine: {error}") from None


def cpu_count() -> int:
    """Logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_machine(root: str | Path = "/") -> Machine:
    """This machine, from /proc and /sys below `root`; elsewhere from sysctl (macOS) and Python's `platform`."""
    root = Path(root)
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    facts: dict[str, Any] = {"os": platform.system(), "arch": platform.machine()}
    facts["cpu_count"] = len(cpus) if cpus else os.cpu_count()
    info = _read(root / "proc/cpuinfo")
    if info is not None:
        facts |= _cpuinfo(info, cpus)
        facts["cache_bytes"] = _caches(root / "sys/devices/system/cpu/cpu0/cache")
        if facts["virtualised"] is None and (root / "proc/device-tree/hypervisor").exists():
            facts["virtualised"] = True
    elif platform.system() == "Darwin":
        facts |= _darwin(_sysctl())
    else:
        facts["cpu_model"] = platform.processor() or None
    return Machine(**facts, memory_bytes=_memory_bytes(root))


def available_memory_bytes(root: str | Path = "/") -> int | None:
    """Bytes that can be had without swapping: MemAvailable, or what a container's limit leaves where that is less.

    Where the system does not say, its physical memory; None where even that is not known.
    """
    root = Path(root)
    available = _meminfo(root, "MemAvailable")
    if available is None:
        return _memory_bytes(root)
    return min([available, *(max(0, limit - used) for limit, used in _cgroup_memory(root))])


def _cpuinfo(text: str, cpus: set[int] | None) -> dict[str, Any]:
    """Facts of /proc/cpuinfo: one block of "key : value" lines per logical CPU. `cpus` are those that may be used."""
    blocks = [
        {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in text.strip().split("\n\n")
    ]
    first = blocks[0]
    flags = (first.get("flags") or first.get("features") or "").split()
    model = first.get("model name")
    if model is None and "cpu part" in first:  # Arm kernels print numbers for a name
        model = f"implementer {first.get('cpu implementer')}, part {first['cpu part']}"
    names = None if cpus is None else {str(cpu) for cpu in cpus}
    usable = [block for block in blocks if names is None or block.get("processor") in names]
    cores = {(block.get("physical id"), block["core id"]) for block in usable if "core id" in block}
    return {
        "cpu_model": model,
        "physical_cores": len(cores) or None,
        "isa": tuple(sorted({ISA_FLAGS[flag] for flag in flags if flag in ISA_FLAGS})),
        "virtualised": "hypervisor" in flags if "flags" in first else None,  # x86 alone has a bit for it
    }


def _caches(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = ((_read(index / name) or "").strip() for name in ("level", "type", "size"))
        kib = size.removesuffix("K")  # "1024K"; some virtual machines say "0K", which is no answer
        if level and kind in {"Data", "Unified"} and kib.isdigit() and int(kib) > 0:
            found[f"l{level}"] = int(kib) * 1024
    return dict(sorted(found.items()))


def _memory_bytes(root: Path) -> int | None:
    total = _meminfo(root, "MemTotal")
    if total is None and platform.system() != "Linux" and hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for limit, _ in _cgroup_memory(root)]
    return min([total, *limits]) if total is not None else None


def _meminfo(root: Path, key: str) -> int | None:
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name == key and value.split()[:1] and value.split()[0].isdigit():
            return int(value.split()[0]) * 1024  # the file says kB and means KiB
    return None


def _cgroup_memory(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of each control group that this process is in, version 1 or 2, ancestors included.

    Inactive file pages are not counted as used: the kernel drops them first.
    """
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        controllers, path = line.split(":", 2)[1:] if line.count(":") >= 2 else ("", "/")
        if not controllers:
            mount, names = "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file ")
        elif "memory" in controllers.split(","):
            mount = "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for part in (group, *group.parents):
            folder = root / mount / part
            limit, used = (_read(folder / name) for name in names[:2])
            stat = (_read(folder / "memory.stat") or "").splitlines()
            idle = next((int(entry.split()[1]) for entry in stat if entry.startswith(names[2])), 0)
            if limit and limit.strip().isdigit():  # "max": no limit
                yield int(limit), max(0, int(used) - idle) if used else 0


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _sysctl() -> dict[str, str]:
    """What `sysctl` prints of a Mac's hardware; nothing where there is no such command."""
    import subprocess

    command = ["sysctl", "hw", "machdep.cpu", "kern.hv_vmm_present"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split(": ", 1) for line in run.stdout.splitlines() if ": " in line)


def _darwin(facts: Mapping[str, str]) -> dict[str, Any]:
    caches = {"l1": "hw.l1dcachesize", "l2": "hw.l2cachesize", "l3": "hw.l3cachesize"}
    isa = {"neon": "hw.optional.neon", "avx2": "hw.optional.avx2_0", "avx512f": "hw.optional.avx512f"}
    hypervisor = facts.get("kern.hv_vmm_present")
    return {
        "cpu_model": facts.get("machdep.cpu.brand_string"),
        "physical_cores": int(facts.get("hw.physicalcpu", 0)) or None,
        "cache_bytes": {level: int(facts[key]) for level, key in caches.items() if int(facts.get(key, 0)) > 0},
        "isa": tuple(sorted(name for name, key in isa.items() if facts.get(key) == "1")),
        "virtualised": hypervisor == "1" if hypervisor is not None else None,
    }
