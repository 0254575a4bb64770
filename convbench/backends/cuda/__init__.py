"""NVIDIA GPUs: what the backends that run on one share. Nothing here loads CuPy before a device is asked for.

A plan is made and run on the device's own stream, which `CudaDevice.activate` makes current: so `plan`, `run`, `poison`
and `output` begin with it. It costs little, and is allowed while a run is captured in a graph. `run` makes no stream,
allocates nothing and never waits; whoever allocates does so within `CudaDevice.memory_errors`.

None of this has run on a GPU yet: the tests run it on a device that is simulated.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convbench.backends.cuda.gpu import CudaDevice


def unusable() -> str | None:
    """Why no CUDA device can be used here, in one line that names the extra to install; None where one can."""
    from convbench.backends.cuda.runtime import missing

    return missing()


def device(index: int = 0) -> CudaDevice:
    """GPU `index`, as CUDA counts them: the same object for every call.

    Raises:
        InputError: it cannot be used, for the reason that `unusable` gives, or there is no such GPU.
    """
    from convbench.backends.cuda.gpu import cuda_device

    return cuda_device(index)


class GpuBackend:
    """What backends of convolutions of our own share; `index` counts GPUs."""

    def __init__(self, index: int = 0) -> None:
        self._index = index

    def probe(self) -> str | None:
        """Whether there is a GPU, and what else it takes."""
        return self._unusable

    @functools.cached_property
    def _unusable(self) -> str | None:
        return unusable()

    def device(self) -> CudaDevice:
        """The GPU."""
        return device(self._index)
