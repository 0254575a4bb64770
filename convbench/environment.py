"""What was true while a run was measured: versions, BLAS, threads, load. Never a host name or an absolute path."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.machine import Machine

LIBRARIES = ("numpy", "scipy", "threadpoolctl", "torch", "cupy-cuda12x", "cupy-cuda13x", "nvidia-cudnn-frontend",
             "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cudnn-jit-cu12", "nvidia-cudnn-jit-cu13",
             "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cufft", "nvidia-cufft-cu12", "nvidia-cuda-nvrtc",
             "nvidia-cuda-nvrtc-cu12", "nvidia-ml-py")  # fmt: skip
BLAS_PREFIXES = ("OPENBLAS_", "GOTO_", "OMP_", "MKL_", "BLIS_", "VECLIB_")
VARIABLE_PREFIXES = (*BLAS_PREFIXES, "MALLOC_", "NUMEXPR_")
OLDER_CORES = {
    "Prescott", "Barcelona", "Nehalem", "Sandybridge", "Bulldozer", "Piledriver", "Steamroller", "Excavator",
    "Haswell", "Zen",
}  # fmt: skip
"""Names that OpenBLAS gives to kernels without AVX-512."""
OPTION = re.compile(r"--[^=/]*=|-[A-Za-z]=?")
"""What may stand before a path in an argument: `--output=/a/b`, `-o/a/b`."""
SEPARATOR = re.compile(r"([;,])" if os.name == "nt" else r"([:;,])")
"""What may stand between paths, or between a path and a class; on Windows a colon follows a drive."""
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
PRESSURE = Path("/proc/pressure/cpu")


def collect() -> dict[str, Any]:
    """The environment, for a run's header. Imports NumPy, so that its BLAS is loaded and seen."""
    import numpy as np  # noqa: F401
    from threadpoolctl import threadpool_info

    return {
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}",
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "blas": [
            {
                key: pool.get(key)
                for key in ("internal_api", "version", "architecture", "num_threads", "threading_layer")
            }
            for pool in threadpool_info()
            if pool.get("user_api") == "blas"
        ],
        "variables": {
            name: relative_path(value)
            for name, value in sorted(os.environ.items())
            if name.startswith(VARIABLE_PREFIXES)
        },
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": _line(GOVERNOR),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "pressure": _line(PRESSURE),
        "git_revision": _git_revision(),
    }


class Level(StrEnum):
    """How much a finding matters to a measurement."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"


Found = tuple[Level, str, str]
"""What a rule finds: its level, what was found, and what to do about it ("" where there is nothing)."""


def blas_core(environment: dict[str, Any], machine: Machine) -> Found | None:
    """Whether BLAS runs kernels made for this CPU; None where it does not say which it runs."""
    cores = sorted({str(blas["architecture"]) for blas in environment["blas"] if blas.get("architecture")})
    if not cores:
        return None
    names = "/".join(cores)
    if "avx512f" not in machine.isa or not OLDER_CORES & set(cores):
        return Level.OK, f"BLAS runs its {names} kernels", ""
    forced = environment["variables"].get("OPENBLAS_CORETYPE")
    cause = f" (OPENBLAS_CORETYPE={forced})" if forced else ""
    advice = "unset it; `convbench doctor` measures what it costs" if forced else "a newer BLAS may have better ones"
    return Level.WARNING, f"AVX-512 CPU, but BLAS runs its {names} kernels{cause}", advice


def load(environment: dict[str, Any], machine: Machine) -> Found | None:
    """Whether the machine was busy in the last minute; None where the system does not say."""
    if not environment["load"]:
        return None
    average, cpus = environment["load"][0], machine.cpu_count or 1
    text = f"load average {average:.2f} on {cpus} CPUs in the last minute"
    if average > 0.5 * cpus:
        return (
            Level.WARNING,
            text,
            "what else is running will disturb a measurement: end it, or wait (an earlier run counts for a minute)",
        )
    return Level.OK, text, ""


def warnings(environment: dict[str, Any], machine: Machine) -> list[str]:
    """What in this environment makes its numbers unlike the machine's, one line each."""
    found = [rule(environment, machine) for rule in (blas_core, load)]
    return [f"{entry[1]}: {entry[2]}" for entry in found if entry and entry[0] is Level.WARNING]


def relative_command(arguments: Sequence[str]) -> list[str]:
    """The command line with every absolute path made relative, or cut to its last part."""
    return ["convbench", *(relative_path(argument) for argument in arguments)]


def relative_path(text: str) -> str:
    """`text` without absolute paths: relative to the working directory where it lies below it, else the last part."""
    option = OPTION.match(text)
    head = option[0] if option else ""
    return head + "".join(
        _shortened(part) if index % 2 == 0 else part for index, part in enumerate(SEPARATOR.split(text[len(head) :]))
    )


def _shortened(text: str) -> str:
    path = Path(text)
    if not path.is_absolute():
        return text
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _line(path: Path) -> str | None:
    try:
        return path.read_text().partition("\n")[0].strip()
    except OSError:
        return None


def _git_revision() -> str | None:
    """Revision of the repository in the working directory, "-dirty" appended where it has changes."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
