"""Which GPU this is, and with what: versions, CUDA's properties, cuDNN's descriptor, backends and what they lack.

    python benchmarks/gpu/identity.py

Prints one JSON object. The descriptor is what stands by hand in convbench/backends/cudnn/h200.json: plans listed for it
are those of this GPU. What cannot be found out is there as the reason. Exit code 1 and one line where no GPU can be
used.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import shutil
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

BACKENDS = ("cudnn", "cufft", "cudafft")
PACKAGES = (
    "convbench", "cupy-cuda13x", "cupy-cuda12x", "numpy", "scipy", "nvidia-cudnn-frontend", "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12", "nvidia-ml-py", "cuda-bench", "cupti-python", "torch", "triton",
)  # fmt: skip
TOOLS = ("ncu", "compute-sanitizer", "nvdisasm", "nvcc")
PRIVATE = {"uuid", "luid", "luidDeviceNodeMask"}
"""What tells one GPU from another of its kind: of no use to a reader."""


def guarded(ask: Callable[[], Any]) -> Any:
    """What `ask` finds out, or the reason why it does not, so that one failure hides nothing else."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001  whatever a library raises is the answer
        return f"not known: {type(error).__name__}: {error}".splitlines()[0][:300]


def packages() -> dict[str, str]:
    """Versions of the packages that matter, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def libraries() -> dict[str, Any]:
    """Versions of the driver and of the libraries that are really loaded."""
    import cupy

    runtime = cupy.cuda.runtime

    def cudnn() -> int:
        import cudnn

        return int(cudnn.backend_version())

    asked = {
        "driver": runtime.driverGetVersion,
        "runtime": runtime.runtimeGetVersion,
        "nvrtc": lambda: cupy.cuda.nvrtc.getVersion(),  # noqa: PLW0108  CuPy loads it when it is asked for
        "cufft": lambda: cupy.cuda.cufft.getVersion(),  # noqa: PLW0108
        "cublas": lambda: cupy.cuda.cublas.getVersion(cupy.cuda.device.get_cublas_handle()),
        "cudnn": cudnn,
    }
    return {name: guarded(ask) for name, ask in asked.items()}


def properties() -> dict[str, Any]:
    """What CUDA says of the GPU, as far as JSON can hold it."""
    import cupy

    found = cupy.cuda.runtime.getDeviceProperties(0)
    return {
        name: value.decode(errors="replace").rstrip("\0") if isinstance(value, bytes) else value
        for name, value in sorted(found.items())
        if name not in PRIVATE and isinstance(value, bytes | int | float | tuple | list)
    }


def descriptor() -> dict[str, Any]:
    """Properties of the GPU as cuDNN lists plans for it without one."""
    import cudnn

    found: dict[str, Any] = json.loads(cudnn.create_device_properties(0).serialize())
    return found


def backends() -> dict[str, str | None]:
    """What each of our GPU backends lacks; None where it can be used."""
    from convbench.backends import available

    offered, found = available(), {}
    for name in BACKENDS:
        absent = "this convbench has no such backend"
        found[name] = guarded(lambda of=offered[name]: of.load()().probe()) if name in offered else absent
    return found


def facts() -> dict[str, Any]:
    """Everything."""
    from convbench.backends import cuda

    return {
        "machine": guarded(lambda: cuda.device().machine().to_dict()), "python": platform.python_version(),
        "packages": packages(), "libraries": guarded(libraries),
        "tools": {name: shutil.which(name) is not None for name in TOOLS}, "backends": guarded(backends),
        "properties": guarded(properties), "descriptor": guarded(descriptor),
    }  # fmt: skip


def main() -> None:
    """Prints the facts, or says why there is no GPU."""
    if importlib.util.find_spec("convbench") is None:
        sys.exit("convbench is not installed here: make gpu-report installs it, docs/gpu.md says how to do without")
    from convbench.backends import cuda

    if reason := cuda.unusable():
        sys.exit(reason)
    print(json.dumps(facts(), indent=1, default=str))


if __name__ == "__main__":
    main()
