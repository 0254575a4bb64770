"""Whether an NVIDIA driver offers a GPU here, before anything is installed: prints the extra that fits it, "cudnn13".

    python benchmarks/gpu/driver.py

Where there is none, one line says what is missing, and the exit code is 1. Needs nothing but Python; `make gpu-report`
asks it first.
"""

import ctypes
import sys

LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
EXTRAS = {13: "cudnn13", 12: "cudnn12"}
"""By the newest CUDA release that a driver knows: a newer driver runs an older release, never the reverse."""


def driver() -> ctypes.CDLL | None:
    """The driver's library; None where there is none."""
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def missing(library: ctypes.CDLL | None) -> str | None:
    """Why no GPU can be used, in one line; None where one can."""
    if library is None:
        return f"no NVIDIA driver answers on this machine ({LIBRARIES[0]}); in a container, start it with its GPUs"
    count = ctypes.c_int()
    if error := library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver offers no GPU (CUDA error {error})"
    if not count.value:
        return "the NVIDIA driver offers no GPU (does CUDA_VISIBLE_DEVICES hide it?)"
    return None if extra(library) else "the NVIDIA driver is older than CUDA 12, which is needed: bring it up to date"


def extra(library: ctypes.CDLL) -> str | None:
    """The extra of convbench for this driver; None where it is too old for all of them."""
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    return next((name for release, name in EXTRAS.items() if version.value >= release * 1000), None)


def main() -> None:
    """Prints the extra, or says what is missing."""
    library = driver()
    if reason := missing(library):
        sys.exit(f"gpu-report needs a GPU: {reason}")
    assert library is not None
    print(extra(library))


if __name__ == "__main__":
    main()
