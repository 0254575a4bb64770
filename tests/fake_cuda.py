"""A CUDA device that is simulated, and the NVML beside it: time is a number, and kernels move it on.

`FakeCuda` has the methods of convbench.backends.cuda.runtime.Cuda, `FakeNvml` those of the pynvml module.
"""

import ctypes
from types import SimpleNamespace

from convbench.backends.cuda.gpu import CudaDevice
from convbench.backends.cuda.nvml import Nvml
from convbench.backends.cuda.runtime import Properties

CYCLE_S = 1 / 2e9
EVENT_S = 2e-6
H200 = Properties(
    name="NVIDIA H200", capability=(9, 0), units=132, memory_bytes=150_109_880_320, l2_bytes=60 << 20,
    pci_bus_id="0000:19:00.0",
)  # fmt: skip


class CudaError(Exception):
    """As CuPy's CUDARuntimeError."""


class FakeEvent:
    def __init__(self, cuda):
        self._cuda, self.at_s = cuda, None

    def record(self):
        self._cuda.enqueue(0.0)
        self.at_s = self._cuda.end_s

    @property
    def done(self):
        return self.at_s <= self._cuda.host_s


class FakeBuffer:
    """An array of bytes that has none."""

    def __init__(self, cuda, nbytes):
        self._cuda, self.nbytes = cuda, nbytes
        self.data = SimpleNamespace(ptr=1)

    def __getitem__(self, part):
        start, stop, _ = part.indices(self.nbytes)
        return FakeBuffer(None, max(0, stop - start))

    def __del__(self):
        if self._cuda:
            self._cuda.used_bytes -= self.nbytes


class FakeCuda:
    """Work that is enqueued begins when the host has done so and what was enqueued before has ended.

    `kernel_s` says how long a kernel takes: a function of its name and arguments. `host_s` is the host's own time, and
    each launch costs it `launch_s`. `uncapturable` is the error that ends a capture. `broken` is an error within a
    kernel, told where something waits for it: once, or, where it is `sticky`, by every call from then on.
    """

    def __init__(self, properties=H200, kernel_s=None, launch_s=5e-6):
        self._properties, self._kernel_s, self.launch_s = properties, kernel_s, launch_s
        self.host_s = self.end_s = 0.0
        self.used_bytes = 0
        self.log = []
        self.uncapturable = None
        self.broken, self.sticky, self._dead = None, False, False
        self.step_s = 0.0
        self._capturing = None

    def activate(self):
        self.log.append("activate")

    def properties(self):
        return self._properties

    def versions(self):
        return {"CUDA of the driver": "13.0", "CUDA runtime": "13.2"}

    def free_bytes(self):
        return self._properties.memory_bytes - self.used_bytes

    def free_unused(self):
        self.log.append("free_unused")

    def _tell(self, waiting=False):
        error = self.broken
        if error is not None and (self._dead or waiting):
            self._dead = self.sticky
            self.broken = error if self.sticky else None
            raise error

    def allocate(self, size):
        self._tell()
        if size > self.free_bytes():
            raise CudaError("cudaErrorMemoryAllocation: out of memory")
        self.used_bytes += size
        return FakeBuffer(self, size)

    def sweep(self, buffer):
        self.log.append(f"sweep {buffer.nbytes}")
        self.enqueue(buffer.nbytes / 4e12)

    def event(self):
        return FakeEvent(self)

    def elapsed_s(self, start, end):
        return end.at_s - start.at_s + EVENT_S + self.step_s

    def synchronize(self):
        if self._capturing is not None:
            raise CudaError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")
        self.host_s = max(self.host_s, self.end_s)
        self._tell(waiting=True)

    def capture(self, work):
        self._capturing = []
        try:
            work()
            if self.uncapturable:
                raise self.uncapturable
            nodes = self._capturing
        finally:
            self._capturing = None
        self.log.append(f"capture {len(nodes)}")
        return lambda: self.enqueue(sum(nodes))

    def launch(self, name, blocks, threads, *arguments):
        if name == "spin":
            seconds = arguments[0] * CYCLE_S
        elif self._kernel_s:
            seconds = self._kernel_s(name, *arguments)
        else:
            seconds = 1e-6
        self.enqueue(seconds)

    def product(self, math_mode, a, b, c, extent):
        self.enqueue(self._kernel_s(f"product_{math_mode}", extent) if self._kernel_s else 1e-3)

    def enqueue(self, seconds):
        """As any call that launches."""
        self._tell()
        if self._capturing is not None:
            self._capturing.append(seconds)
            return
        self.host_s += self.launch_s
        self.end_s = max(self.end_s, self.host_s) + seconds


class FakeNvml:
    """The functions of pynvml that are used, for one GPU; what is None is not supported."""

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.reasons, self.clock_mhz, self.thermal_ns, self.processes, self.limit_mw = 0, 1980, 0, [1], 700_000
        self.energy_mj, self.power_mw, self.celsius, self.most_mhz, self.memory_mhz = 0, 350_000, 45, 1980, 3201
        self.mig = None
        self.asked_for = None

    def nvmlInit(self):
        pass

    def nvmlSystemGetDriverVersion(self):
        return "580.65.06"

    def nvmlDeviceGetHandleByPciBusId(self, pci_bus_id):
        self.asked_for = pci_bus_id
        return ctypes.c_void_p(1)

    def _said(self, value):
        if value is None:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._said(self.reasons)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self._said({1: self.clock_mhz, 2: self.memory_mhz}[kind])

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        assert kind == 1
        return self._said(self.most_mhz)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._said(self.energy_mj)

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._said(self.power_mw)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        assert sensor == 0
        return self._said(self.celsius)

    def nvmlDeviceGetViolationStatus(self, handle, policy):
        assert policy == 1
        return SimpleNamespace(violationTime=self._said(self.thermal_ns))

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid) for pid in self._said(self.processes)]

    def nvmlDeviceGetMigMode(self, handle):
        return self._said(self.mig)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._said(self.limit_mw)


def open_nvml(monkeypatch, library):
    """An Nvml that imports `library` for pynvml."""
    monkeypatch.setitem(__import__("sys").modules, "pynvml", library)
    return Nvml(H200.pci_bus_id)


def fake_device(monkeypatch, index=0, **options):
    """(device, its FakeCuda, its FakeNvml)."""
    library = FakeNvml()
    nvml = open_nvml(monkeypatch, library)
    cuda = FakeCuda(**options)
    return CudaDevice(cuda, nvml, index), cuda, library
