"""What on this machine will disturb a measurement: facts, and the rules that judge them.

`read` reads the facts, `noise` measures how far two rows of the same kernel differ here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convbench import environment
from convbench.environment import BLAS_PREFIXES, Found, Level
from convbench.units import format_bytes, format_si, format_time, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convbench.machine import Machine

OTHERS_SHARE = 0.05
"""Share of the CPUs' time that other processes may take (docs/method.md)."""
LOST_SHARE = 0.01
"""Share of the time that may be lost to waiting or to the host: the default `--precision`."""
COST_SHARE = 0.05
"""Share of a product's rate that variables may cost."""
SLOW_CLOCKS = {"hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"}
"""Clock sources of Linux that are read from a device or by a system call, which takes a microsecond or more."""
SLOW_READING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing that may disturb a measurement.

    Attributes:
        check: the thing.
        level: how much it matters.
        text: what was found.
        advice: what to do about it; "" where there is nothing.
    """

    check: str
    level: Level
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What happened while the machine was watched; None for what the system does not say.

    Attributes:
        others: share of all CPUs' time that other processes took.
        stolen: share of all CPUs' time that the host of this virtual machine took.
        waited: share of the time in which some task waited for a CPU.
        processes: the other processes that took most, with the CPUs that each kept busy.
    """

    others: float | None = None
    stolen: float | None = None
    waited: float | None = None
    processes: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The rate of a matrix product on one thread, flop/s, with and without the variables that steer BLAS.

    `ratio` is the median over pairs of processes, with / without; `low` and `high` its 95 % interval.
    """

    with_flop_per_s: float
    without_flop_per_s: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was read; None for what this system does not say.

    Attributes:
        environment: as `environment.collect` gives it.
        quota_cpus: CPUs' worth of time that control groups allow; infinite without a limit.
        governors: of all CPUs, each once; `driver` sets them.
        boost: whether the clock may exceed its nominal value.
        on_battery: whether a battery of the machine is being discharged.
        swap_bytes: of swap space in use.
        clock_reading_s: what one reading of the clock costs.
        idle: while this process slept; `busy` while it kept all its CPUs busy.
        cost: of the variables that steer BLAS, where there are any.
    """

    environment: dict[str, Any]
    machine: Machine
    online_cpus: int | None = None
    quota_cpus: float | None = None
    governors: tuple[str, ...] = ()
    driver: str | None = None
    boost: bool | None = None
    on_battery: bool | None = None
    huge_pages: str | None = None
    swap_bytes: int | None = None
    available_bytes: int | None = None
    numa_nodes: int | None = None
    clock_source: str | None = None
    clock_reading_s: float | None = None
    idle: Window = Window()
    busy: Window = Window()
    cost: Cost | None = None


# Rules


def _others(facts: Facts) -> Found | None:
    share = facts.idle.others
    if share is None:
        return None
    names = ", ".join(f"{name} {cpus:.2f}" for name, cpus in facts.idle.processes)
    text = f"took {_percent(share)} of the CPUs' time while this process slept" + (f" (CPUs: {names})" if names else "")
    return (Level.WARNING, text, "end them, or wait") if share > OTHERS_SHARE else (Level.OK, text, "")


def _waiting(facts: Facts) -> Found | None:
    share = facts.busy.waited
    if share is None:
        return None
    text = f"tasks waited for a CPU in {_percent(share)} of the time that all were at work"
    if share > LOST_SHARE:
        return Level.WARNING, text, "use fewer threads than CPUs (--threads), or end what else is running"
    return Level.OK, text, ""


def _stolen(facts: Facts) -> Found | None:
    share = facts.busy.stolen
    if share is None:
        return None
    text = f"the host took {_percent(share)} of the CPUs' time while all were at work"
    return (Level.WARNING, text, "other guests share this host: repeat runs") if share > LOST_SHARE else (
        Level.OK, text, "")  # fmt: skip


def _virtualisation(facts: Facts) -> Found | None:
    if facts.machine.virtualised is None:
        return None
    if facts.machine.virtualised:
        return Level.NOTE, "a virtual machine", "clocks and other guests cannot be seen: trust `run`'s intervals"
    return Level.OK, "none", ""


def _governor(facts: Facts) -> Found | None:
    if not facts.governors:
        return None
    names = "/".join(facts.governors)
    text = names + (f" ({facts.driver})" if facts.driver else "")
    if names == "performance":
        return Level.OK, text, ""
    # The drivers in active mode follow the load under this name; under all others the clock stays at its lowest.
    pinned = "powersave" in facts.governors and facts.driver not in {"intel_pstate", "amd-pstate-epp"}
    advice = "cpupower frequency-set -g performance"
    if pinned:
        return Level.WARNING, f"{text}: the clock stays at its lowest", advice
    return Level.NOTE, f"{text}: the clock follows the load", advice


def _boost(facts: Facts) -> Found | None:
    if facts.boost is None:
        return None
    if facts.boost:
        return Level.NOTE, "on: the clock depends on temperature and on how many CPUs work", "switch it off to compare"
    return Level.OK, "off", ""


def _power(facts: Facts) -> Found | None:
    if facts.on_battery is None:
        return None
    if facts.on_battery:
        return Level.WARNING, "on battery: clocks may be capped", "connect the mains"
    return Level.OK, "no battery is being discharged", ""


def _siblings(facts: Facts) -> Found | None:
    cpus, cores = facts.machine.cpu_count, facts.machine.physical_cores
    if not cpus or not cores:
        return None
    if cpus > cores:
        return Level.NOTE, f"{cpus} CPUs on {cores} cores: two share one core's units", f"compare --threads {cores}"
    return Level.OK, f"{cpus} CPUs on {cores} cores", ""


def _affinity(facts: Facts) -> Found | None:
    cpus, online = facts.machine.cpu_count, facts.online_cpus
    if not cpus or not online:
        return None
    if cpus < online:
        return Level.NOTE, f"{cpus} of {online} CPUs", "the others may run what disturbs caches and memory"
    return Level.OK, f"all {online} CPUs", ""


def _quota(facts: Facts) -> Found | None:
    cpus, quota = facts.machine.cpu_count or 1, facts.quota_cpus
    if quota is None:
        return None
    if quota < cpus:
        text = f"{significant(quota)} CPUs' worth of time on {cpus} CPUs: threads are stopped when it is spent"
        return Level.WARNING, text, f"raise it, or --threads {max(1, math.floor(quota))}"
    return Level.OK, "none" if math.isinf(quota) else f"{significant(quota)} CPUs' worth of time on {cpus}", ""


def _threads(facts: Facts) -> Found | None:
    cpus = facts.machine.cpu_count or 1
    capped = {n: v for n, v in steering(facts.environment["variables"]).items() if n.endswith("_THREADS")}
    text = ", ".join(f"{name}={value}" for name, value in capped.items())
    if any(value != str(cpus) for value in capped.values()):
        return Level.NOTE, f"{text} on {cpus} CPUs", "`run` sets its own number: --threads"
    return Level.OK, text or "no variable sets them", ""


def _variables(facts: Facts) -> Found | None:
    names = steering(facts.environment["variables"])
    if not names:
        return Level.OK, "none steers BLAS", ""
    text = " ".join(f"{name}={value}" for name, value in names.items())
    cost = facts.cost
    if cost is None:
        return Level.NOTE, f"{text}: what it costs was not measured", "unset them"
    text += (
        f": one thread's product at {format_si(cost.with_flop_per_s, 'flop/s')}, without at "
        f"{format_si(cost.without_flop_per_s, 'flop/s')}: × {cost.ratio:.2f} ({cost.low:.2f}–{cost.high:.2f})"
    )
    if _costly(cost):
        return Level.WARNING, text, "unset them"
    return Level.NOTE, text, ""


def _costly(cost: Cost) -> bool:
    return cost.ratio < 1 - COST_SHARE and cost.high < 1


def _blas_core(facts: Facts) -> Found | None:
    found = environment.blas_core(facts.environment, facts.machine)
    if found and found[0] is Level.WARNING and facts.cost and not _costly(facts.cost):
        return Level.NOTE, found[1], "they cost nothing here: see variables"
    return found


def _huge_pages(facts: Facts) -> Found | None:
    found = facts.huge_pages
    if found is None:
        return None
    return (Level.OK, found, "") if found == "always" else (
        Level.NOTE, found, "large arrays may lie in small pages; `always` gives them large ones")  # fmt: skip


def _memory(facts: Facts) -> Found | None:
    free, total = facts.available_bytes, facts.machine.memory_bytes
    if free is None or not total:
        return None
    text = f"{format_bytes(free)} of {format_bytes(total)} available"
    text += f", {format_bytes(facts.swap_bytes)} of swap in use" if facts.swap_bytes else ""
    if free < 0.1 * total:
        return Level.WARNING, text, "free some: paging would be timed"
    return (Level.NOTE if facts.swap_bytes else Level.OK), text, ""


def _nodes(facts: Facts) -> Found | None:
    if facts.numa_nodes is None:
        return None
    if facts.numa_nodes > 1:
        return Level.NOTE, f"{facts.numa_nodes}: memory may be far from its CPU", "numactl --cpunodebind=0 --membind=0"
    return Level.OK, "one", ""


def _clock(facts: Facts) -> Found | None:
    source, seconds = facts.clock_source, facts.clock_reading_s
    if source is None and seconds is None:
        return None
    text = ", ".join([*([source] if source else []), *([f"{format_time(seconds)} a reading"] if seconds else [])])
    if source in SLOW_CLOCKS or (seconds or 0.0) > SLOW_READING_S:
        return Level.WARNING, text, "boot with the CPU's own counter as clock source (clocksource=tsc)"
    return Level.OK, text, ""


RULES: dict[str, Callable[[Facts], Found | None]] = {
    "load": lambda facts: environment.load(facts.environment, facts.machine),
    "other processes": _others,
    "waiting": _waiting,
    "stolen time": _stolen,
    "virtualisation": _virtualisation,
    "governor": _governor,
    "turbo": _boost,
    "power": _power,
    "CPUs per core": _siblings,
    "affinity": _affinity,
    "CPU quota": _quota,
    "threads": _threads,
    "BLAS core": _blas_core,
    "variables": _variables,
    "memory": _memory,
    "huge pages": _huge_pages,
    "NUMA nodes": _nodes,
    "clock": _clock,
}
"""Each check with its rule, which is None where the facts it needs are not known."""


def findings(facts: Facts) -> tuple[list[Finding], list[str]]:
    """What the rules find, the most serious first; and the checks whose facts this system does not say."""
    found = {check: rule(facts) for check, rule in RULES.items()}
    order = list(Level)[::-1]
    seen = [Finding(check, *entry) for check, entry in found.items() if entry]
    return sorted(seen, key=lambda f: order.index(f.level)), [check for check, entry in found.items() if not entry]


def _percent(share: float) -> str:
    return f"{significant(100 * share, 2)}%" if share >= 1e-4 else "0%"


def steering(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of the variables that steer BLAS."""
    return {name: value for name, value in variables.items() if name.startswith(BLAS_PREFIXES)}
