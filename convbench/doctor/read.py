"""The facts that the doctor judges: what files say, what happens while the machine is watched, what variables cost."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from convbench import environment
from convbench.backends.cpu.device import CpuClock, machine_times
from convbench.doctor import Cost, Facts, Window, steering
from convbench.machine import available_memory_bytes, cpu_machine
from convbench.stats import median, median_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PAIRS = 7
"""Pairs of processes that a cost is measured by: one more than a 95 % interval needs."""
PRODUCT_SIZE = 1024
"""Extent of the matrix product that shows a cost."""
PROCESSES = 3
"""Processes that a window names."""
PRODUCT = """
import statistics, sys, time
import numpy as np
from threadpoolctl import threadpool_limits

n = int(sys.argv[1])
a, b = np.random.default_rng(0).standard_normal((2, n, n), dtype=np.float32)
c = np.empty_like(a)
times = []
with threadpool_limits(1):
    for _ in range(8):
        start = time.process_time()
        np.matmul(a, b, out=c)
        times.append(time.process_time() - start)
print(statistics.median(times[1:]))
"""
"""Run in a process of its own: prints the processor time of a matrix product on one thread, in seconds."""


def read(root: str | Path = "/", *, watch_s: float = 1.0) -> Facts:
    """All facts, from files below `root` and by watching the machine for twice `watch_s` seconds."""
    facts = files(root)
    threads = facts["machine"].cpu_count or 1
    return Facts(
        **facts,
        clock_reading_s=CpuClock().overhead_s,
        idle=window(lambda: time.sleep(watch_s), root),
        busy=window(lambda: work(watch_s, threads), root),
        cost=variables_cost(os.environ),
    )


def files(root: str | Path = "/") -> dict[str, Any]:
    """The fields of Facts that need no watching and no measuring."""
    root = Path(root)
    cpus, supplies = root / "sys/devices/system/cpu", root / "sys/class/power_supply"
    governors = {text for path in sorted(cpus.glob("cpu*/cpufreq/scaling_governor")) if (text := _line(path))}
    no_turbo, boost = _line(cpus / "intel_pstate/no_turbo"), _line(cpus / "cpufreq/boost")
    batteries = [  # those of mice and the like have the scope "Device"
        [_line(path / name) for name in ("type", "scope", "status")] for path in supplies.glob("*")
    ]
    huge = _line(root / "sys/kernel/mm/transparent_hugepage/enabled") or ""
    nodes = root / "sys/devices/system/node"
    return {
        "environment": environment.collect(),
        "machine": cpu_machine(root),
        "online_cpus": os.cpu_count(),
        "quota_cpus": _quota_cpus(root),
        "governors": tuple(sorted(governors)),
        "driver": _line(cpus / "cpu0/cpufreq/scaling_driver"),
        "boost": no_turbo == "0" if no_turbo is not None else boost == "1" if boost is not None else None,
        "on_battery": any(
            kind == "Battery" and scope != "Device" and status == "Discharging" for kind, scope, status in batteries
        )
        if supplies.is_dir()
        else None,
        "huge_pages": huge.partition("[")[2].partition("]")[0] or None,
        "swap_bytes": _swap_bytes(root),
        "available_bytes": available_memory_bytes(root),
        "numa_nodes": sum(1 for _ in nodes.glob("node[0-9]*")) or None,
        "clock_source": _line(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
    }


def _line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return None


def _swap_bytes(root: Path) -> int | None:
    """Sum of the column "Used" of /proc/swaps, in KiB there, below a line of headers."""
    try:
        lines = (root / "proc/swaps").read_text().splitlines()[1:]
        return sum(int(line.split()[-2]) for line in lines) * 1024
    except (OSError, ValueError, IndexError):
        return None


def _quota_cpus(root: Path) -> float | None:
    """The least of quota / period over the control groups of this process, version 1 or 2, ancestors included."""
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        if mount.is_dir():
            limits.append(math.inf)
        group = PurePosixPath(path.lstrip("/"))
        for folder in (mount / part for part in (group, *group.parents)):
            if controllers:
                words = [_line(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
            else:
                words = (_line(folder / "cpu.max") or "").split()
            if len(words) == 2 and all(word.isdigit() and int(word) for word in words):  # without a limit: max, or -1
                limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# Watching


def window(run: Callable[[], object], root: str | Path = "/") -> Window:
    """What happened while `run` ran."""
    root = Path(root)
    start, own = time.perf_counter(), time.process_time()
    before, waited, processes = machine_times(), _waited_us(root), _processes(root)
    run()
    after, waited_after, processes_after = machine_times(), _waited_us(root), _processes(root)
    elapsed, own = time.perf_counter() - start, time.process_time() - own
    shares: dict[str, float] = {}
    if before and after and after[2] > before[2]:
        busy, stolen, total = (b - a for a, b in zip(before, after, strict=True))
        shares = {"others": max(0.0, busy - own) / total, "stolen": stolen / total}
    if waited is not None and waited_after is not None:
        shares["waited"] = min(1.0, (waited_after - waited) * 1e-6 / elapsed)
    used = {
        pid: (name, (seconds - processes.get(pid, (name, 0.0))[1]) / elapsed)
        for pid, (name, seconds) in processes_after.items()
    }
    most = sorted(used.values(), key=lambda entry: -entry[1])[:PROCESSES]
    return Window(**shares, processes=tuple((name, cpus) for name, cpus in most if cpus >= 0.01))


def _waited_us(root: Path) -> int | None:
    """Microseconds since boot in which some task waited for a CPU: "some avg10=… total=N" in the first line."""
    total = (_line(root / "proc/pressure/cpu") or "").rpartition("total=")[2]
    return int(total) if total.isdigit() else None


def _processes(root: Path) -> dict[str, tuple[str, float]]:
    """{pid: (name, seconds of CPU time)} of the other processes: fields 2, 14 and 15 of /proc/PID/stat."""
    found = {}
    for path in (root / "proc").glob("[0-9]*/stat"):
        head, _, rest = _text(path).rpartition(")")
        fields = rest.split()
        if len(fields) > 12 and path.parent.name != str(os.getpid()):
            found[path.parent.name] = (
                head.partition("(")[2], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            )  # fmt: skip
    return found


def work(seconds: float, threads: int) -> None:
    """Keeps `threads` CPUs busy with matrix products.

    A host takes CPUs from a virtual machine only while it uses them.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    a, b = np.random.default_rng(0).standard_normal((2, 512, 512), dtype=np.float32)
    end = time.perf_counter() + seconds
    with threadpool_limits(threads):
        while time.perf_counter() < end:
            np.matmul(a, b)


# Cost of variables


def variables_cost(environ: Mapping[str, str], pairs: int = PAIRS) -> Cost | None:
    """What the variables that steer BLAS cost: a product on one thread, in fresh processes, by processor time.

    With the variables and without in turn, so that a slow minute falls on both. On one thread, since `run` sets the
    number of threads whatever the variables say. None where there are no variables, or where a process fails.
    """
    names = steering(environ)
    if not names:
        return None
    without = {name: value for name, value in environ.items() if name not in names}
    times: dict[bool, list[float]] = {True: [], False: []}
    for index in range(pairs):
        for steered in (True, False) if index % 2 else (False, True):
            seconds = _product_s(environ if steered else without)
            if seconds is None:
                return None
            times[steered].append(seconds)
    ratios = [bare / steered for steered, bare in zip(times[True], times[False], strict=True)]
    low, high = median_interval(ratios) or (min(ratios), max(ratios))
    flops = 2 * PRODUCT_SIZE**3
    return Cost(
        with_flop_per_s=flops / median(times[True]), without_flop_per_s=flops / median(times[False]),
        ratio=median(ratios), low=low, high=high,
    )  # fmt: skip


def _product_s(environ: Mapping[str, str]) -> float | None:
    command = [sys.executable, "-c", PRODUCT, str(PRODUCT_SIZE)]
    try:
        ran = subprocess.run(command, env=dict(environ), capture_output=True, text=True, check=True, timeout=60)
        return float(ran.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
