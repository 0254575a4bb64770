"""What the driver's management library (NVML) says of a GPU while it works, and how that speaks against a sample."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbench.backends import POWER_CAP, RUN

THROTTLED = "throttled"
SLOWER_CLOCK = "clock"
OTHERS = "others"
SLOWED = 0x08 | 0x20 | 0x40 | 0x80
"""Reasons for a lower clock that are no ordinary state: hardware slowdown, thermal slowdown by software, by hardware,
power brake. Source: nvmlClocksEventReasons, nvml.h."""
CAPPED = 0x04
"""The power cap holds the clock down: what a GPU under full load runs at, for as long as one likes."""
CLOCK_SHARE = 0.95
"""Share of the fastest clock of a round below which a sample ran at another one."""
_SM_CLOCK, _MEMORY_CLOCK = 1, 2
_THERMAL_POLICY = 1
_GPU_SENSOR = 0
"""NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_PERF_POLICY_THERMAL and NVML_TEMPERATURE_GPU of nvml.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What NVML says at one moment; what a GPU or driver does not tell is None.

    Attributes:
        reasons: why the clock is not higher, as bits.
        sm_clock_hz: clock of the streaming multiprocessors.
    """

    reasons: int | None = None
    sm_clock_hz: float | None = None

    def flags(self) -> tuple[str, ...]:
        """Witnesses against a sample during which it was read."""
        reasons = self.reasons or 0
        found = {THROTTLED: reasons & SLOWED, POWER_CAP: reasons & CAPPED}
        return tuple(flag for flag, bits in found.items() if bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What NVML counts over longer times: ns that heat held the clock down, and processes that compute on the GPU.

    All processes of a run count as one, which is seen where any is.
    """

    thermal_ns: int | None = None
    processes: int = 0

    def since(self, before: Counters) -> tuple[str, ...]:
        """Witnesses against all samples between two of them."""
        found = []
        if self.thermal_ns is not None and before.thermal_ns is not None and self.thermal_ns > before.thermal_ns:
            found.append(THROTTLED)
        if max(self.processes, before.processes) > 1:
            found.append(OTHERS)
        return tuple(found)


class Nvml:
    """One GPU as NVML knows it. Where it has no NVML, or a call is not supported, nothing is known: no error.

    Of a slice of a GPU (MIG) it is the whole GPU: clocks and heat are those of all slices, power and energy are not
    told, since nobody knows which slice takes how much, and processes do not count, since those of other slices have
    memory and multiprocessors of their own.
    """

    def __init__(self, pci_bus_id: str) -> None:
        self._handle: Any = None
        try:
            import pynvml

            self._library = pynvml
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)
        except Exception:  # noqa: BLE001  not installed, no library, a GPU it does not manage: witnesses are then missing
            return

    @property
    def is_there(self) -> bool:
        """Whether it answers: a GPU without has no witnesses."""
        return self._handle is not None

    def reading(self) -> Reading:
        """Reasons and clock, now."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # drivers before 535 know it by its former name
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        clock = self._ask("nvmlDeviceGetClockInfo", _SM_CLOCK)
        return Reading(reasons=reasons, sm_clock_hz=clock * 1e6 if clock else None)

    def counters(self) -> Counters:
        """Heat and processes, now."""
        thermal = self._ask("nvmlDeviceGetViolationStatus", _THERMAL_POLICY)
        listed = () if self._sliced else self._ask("nvmlDeviceGetComputeRunningProcesses") or ()
        processes = _count({process.pid for process in listed})
        return Counters(thermal_ns=thermal.violationTime if thermal else None, processes=processes)

    @property
    def _sliced(self) -> bool:
        return bool((self._ask("nvmlDeviceGetMigMode") or (0, 0))[0])  # now, and from the next reset on

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded, counted in mJ from Volta on; None of a slice."""
        millijoules = None if self._sliced else self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    def meters(self) -> dict[str, float]:
        """What can be read now: "power_w", "temperature_c", "memory_clock_hz".

        Power is that of the whole board, from Ampere on, but for the A100, its mean over a second (nvml.h); none of a
        slice.
        """
        milliwatts = None if self._sliced else self._ask("nvmlDeviceGetPowerUsage")
        celsius = self._ask("nvmlDeviceGetTemperature", _GPU_SENSOR)
        megahertz = self._ask("nvmlDeviceGetClockInfo", _MEMORY_CLOCK)
        read = {"power_w": (milliwatts, 1e-3), "temperature_c": (celsius, 1.0), "memory_clock_hz": (megahertz, 1e6)}
        return {name: value * unit for name, (value, unit) in read.items() if value is not None}

    def most_clock_hz(self) -> float | None:
        """The highest clock that the multiprocessors may have."""
        megahertz = self._ask("nvmlDeviceGetMaxClockInfo", _SM_CLOCK)
        return megahertz * 1e6 if megahertz else None

    def power_limit_w(self) -> float | None:
        """The limit that is in force."""
        milliwatts = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return milliwatts / 1e3 if milliwatts else None

    def versions(self) -> dict[str, str]:
        """Of the driver; nothing where it is not told."""
        try:
            return {"NVIDIA driver": str(self._library.nvmlSystemGetDriverVersion())}
        except Exception:  # noqa: BLE001  no library, or none that answers
            return {}

    def _ask(self, name: str, *arguments: Any) -> Any:
        """What a call of NVML says of this GPU; None where it does not."""
        if self._handle is None:
            return None
        try:
            return getattr(self._library, name)(self._handle, *arguments)
        except (self._library.NVMLError, AttributeError):  # not supported here, or by this driver; an old pynvml
            return None


def _count(pids: set[int]) -> int:
    """How many processes these are, all that belong to this run counted as one: those hold memory, and wait.

    In a container the driver may know processes by other numbers. Then a worker, beside which there are others of its
    run, cannot tell whose they are.
    """
    if os.getpid() not in pids:
        return 0 if RUN in os.environ else len(pids)
    return 1 + sum(not _of_this_run(pid) for pid in pids)


def _of_this_run(pid: int) -> bool:
    """Whether it is this process, the one that the run was started as, or another worker of that."""
    head = int(os.environ.get(RUN, os.getpid()))
    if pid in {os.getpid(), head}:
        return True
    try:  # the fourth field of proc(5)'s stat, after a name that may hold anything but is in parentheses
        parent = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
    except (OSError, IndexError):
        return False
    return int(parent) == head
