"""Why no GPU can be used, and the calls of CuPy, on a CuPy that is made up and on the real one as far as it goes."""

import ctypes
import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock, call

import pytest
from fake_cuda import CudaError

from convbench.backends import cuda
from convbench.backends.cuda import cublas, runtime
from convbench.backends.cuda.gpu import cuda_device
from convbench.backends.cuda.runtime import Cuda
from convbench.errors import InputError
from convbench.problem import MathMode


def cupy_that(driver=13020, built=13020, count=1, capability="90", taken=None, **broken):
    """A CuPy as it is found; `broken` are names of its cuda module that raise, `taken` what all but the last GPU do."""

    class CudaModule(ModuleType):
        def __getattr__(self, name):
            if name in broken:
                raise broken[name]
            raise AttributeError(name)

    def device_count():
        if isinstance(count, Exception):
            raise count
        return count

    cupy = ModuleType("cupy")
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    cupy.cuda = CudaModule("cupy.cuda")
    cupy.cuda.runtime = SimpleNamespace(
        driverGetVersion=lambda: driver, runtimeGetVersion=lambda: built, getDeviceCount=device_count
    )

    class Device:
        compute_capability = capability

        def __init__(self, index):
            self._index = index

        @property
        def mem_info(self):
            if taken and self._index + 1 < max(count, 2):
                raise taken
            return 1 << 30, 1 << 31

    cupy.cuda.Device = Device
    for name in {"nvrtc", "cublas"} - set(broken):
        setattr(cupy.cuda, name, SimpleNamespace(getVersion=lambda: (13, 2)))
    return cupy


@pytest.fixture
def with_cupy(monkeypatch):
    """Makes a CuPy of `cupy_that` the one that is installed, beside nvidia-ml-py."""
    pynvml = ModuleType("pynvml")
    pynvml.__spec__ = importlib.machinery.ModuleSpec("pynvml", None)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)

    def install(**options):
        monkeypatch.setitem(sys.modules, "cupy", cupy_that(**options))
        return cuda.unusable()

    yield install
    cuda_device.cache_clear()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"driver": 0}, "no NVIDIA driver answers"),
        ({"driver": 12040}, r"driver knows CUDA up to 12\.4, this CuPy is for CUDA 13: .*convbench\[cuda12\]"),
        ({"count": 0}, "offers no GPU .*CUDA_VISIBLE_DEVICES"),
        ({"count": CudaError("cudaErrorNoDevice: no CUDA-capable device\nmore")}, "offers no GPU .*cudaErrorNoDevice"),
        ({"capability": "70"}, r"CUDA 13 needs compute capability 7\.5, this GPU has 7\.0: .*convbench\[cuda12\]"),
        ({"nvrtc": ImportError("no libnvrtc.so.13\nsearched in")}, r"no libnvrtc\.so\.13\): .*convbench\[cuda13\]"),
        ({"cublas": ImportError("no libcublas.so.13")}, r"no libcublas\.so\.13\): .*convbench\[cuda13\]"),
        (
            {"taken": CudaError("cudaErrorDevicesUnavailable: busy\nmore")},
            r"cannot be used \(CudaError: cudaErrorDevicesU",
        ),
    ],
)
def test_one_line_says_what_is_missing_and_which_extra_brings_it(with_cupy, options, said):
    reason = with_cupy(**options)
    assert re.search(said, reason)
    assert "\n" not in reason
    with pytest.raises(InputError, match=said):
        cuda.device()


@pytest.mark.parametrize(
    "options", [{}, {"built": 12090}, {"built": 12090, "capability": "70"}, {"count": 2, "taken": CudaError("busy")}]
)
def test_a_gpu_that_can_be_used(with_cupy, options):
    assert with_cupy(**options) is None


def test_a_gpu_that_is_not_there(with_cupy):
    assert with_cupy(count=2) is None
    for index in (2, -1):
        with pytest.raises(InputError, match=f"there is no GPU {index}: CUDA offers 2, counted from 0"):
            cuda.device(index)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Installs a CuPy with this source, and says why it cannot be used."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)

    def install(source):
        (tmp_path / "cupy.py").write_text(source)
        runtime.import_crash.cache_clear()
        return cuda.unusable()

    yield install
    runtime.import_crash.cache_clear()


@pytest.mark.parametrize("error", [
    ImportError("libcuda.so.1: cannot open"), RuntimeError("numpy\nis too old"), SystemExit("no GPU"), GeneratorExit(),
])  # fmt: skip
def test_a_broken_cupy_is_said_in_one_line(installed, error):
    reason = installed(f"raise {error!r}")
    assert reason.startswith(f"CuPy is installed but does not load ({type(error).__name__}: ")
    assert reason.endswith('pip install "convbench[cuda13]" (or cuda12, with an older driver)')
    assert "\n" not in reason


@pytest.mark.parametrize(("source", "how"), [
    ("import os; os.kill(os.getpid(), 11)", "crashes (signal 11)"), ("import os; os._exit(3)", "crashes (exit code 3)"),
    ("import time; time.sleep(1e6)", "takes longer than 1 s"),
])  # fmt: skip
def test_a_cupy_that_ends_or_hangs_its_process_is_tried_in_another_once(installed, monkeypatch, source, how):
    monkeypatch.setattr(runtime, "IMPORT_S", 1.0)
    reason = installed(source)
    assert reason.startswith(f"CuPy is installed but its import {how}: pip install ")
    monkeypatch.setattr(subprocess, "run", None)
    assert cuda.unusable() == reason


def test_a_cupy_that_is_loaded_is_not_tried(with_cupy, monkeypatch):
    runtime.import_crash.cache_clear()
    monkeypatch.setattr(subprocess, "run", None)
    assert with_cupy() is None


@pytest.mark.parametrize("package", ["cupy", "pynvml"])
def test_a_package_that_is_not_installed(with_cupy, monkeypatch, package):
    with_cupy()
    found = importlib.util.find_spec
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None if name == package else found(name))
    assert "is not installed: pip install" in cuda.unusable()


def test_importing_the_package_loads_nothing_heavy():
    modules = ["convbench.backends.cuda", *(f"convbench.backends.cuda.{name}" for name in ("gpu", "probes", "runtime"))]
    heavy = {"cupy", "numpy", "pynvml", "scipy"}
    code = f"import sys, {', '.join(modules)}; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# The calls of CuPy


@pytest.fixture
def recorded(monkeypatch):
    """A CuPy that records what it is called with."""
    cupy = MagicMock()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy


def test_a_gpu_has_a_stream_of_its_own(recorded):
    gpu = Cuda(2)
    recorded.cuda.Device.assert_called_with(2)
    recorded.cuda.Stream.assert_called_with(non_blocking=True)
    gpu.stream.use.reset_mock()
    gpu.activate()
    assert gpu.stream.use.call_count == 1
    assert recorded.cuda.Device().use.called


def test_a_capture_is_uploaded_and_launched_on_the_stream(recorded):
    gpu = Cuda(0)
    work = MagicMock()
    launch = gpu.capture(work)
    graph = gpu.stream.end_capture()
    assert work.call_count == 1
    graph.upload.assert_called_with(gpu.stream)
    assert graph.launch.call_count == 0
    launch()
    graph.launch.assert_called_once_with(gpu.stream)


def test_a_capture_that_breaks_is_ended_and_raises_what_broke_it(recorded):
    gpu = Cuda(0)
    gpu.stream.end_capture.side_effect = CudaError("cudaErrorStreamCaptureInvalidated")
    with pytest.raises(CudaError, match="Unsupported"):
        gpu.capture(MagicMock(side_effect=CudaError("cudaErrorStreamCaptureUnsupported")))
    assert gpu.stream.end_capture.call_count == 1
    with pytest.raises(CudaError, match="Invalidated"):  # nothing in the work said so
        gpu.capture(MagicMock())


def test_kernels_are_compiled_once_and_integers_are_64_bits(recorded):
    gpu = Cuda(0)
    buffer = object()
    gpu.launch("spin", 2, 3, 5)
    gpu.launch("fill", 1, 1, buffer, 7, 0)
    recorded.RawModule.assert_called_once_with(code=runtime.kernels_source(), options=runtime.kernel_options())
    kernel = recorded.RawModule().get_function()
    assert kernel.call_args_list == [call((2,), (3,), (5,)), call((1,), (1,), (buffer, 7, 0))]
    assert type(kernel.call_args_list[0].args[2][0]).__name__ == "int64"


@pytest.mark.parametrize("math_mode", MathMode)
def test_products_say_type_and_arithmetic(recorded, monkeypatch, math_mode):
    library = MagicMock()
    monkeypatch.setattr(cublas, "library", lambda calls: library)
    a = SimpleNamespace(data=SimpleNamespace(ptr=16))
    Cuda(0).product(math_mode, a, a, a, 512)
    given = library.cublasGemmEx.call_args.args
    assert len(given) == len(library.cublasGemmEx.argtypes)
    factors = [given[6][0], given[13][0]]
    assert ctypes.sizeof(given[6]) == (8 if math_mode is MathMode.FP64 else 4)
    data = {"fp64": 1, "fp32": 0, "tf32": 0, "fp16-tc": 2, "bf16-tc": 14}[math_mode]
    arithmetic = {"fp64": 70, "fp32": 68, "tf32": 77, "fp16-tc": 68, "bf16-tc": 68}[math_mode]
    assert given[3:6] == (512, 512, 512)
    assert (given[8], given[11], given[15]) == (data,) * 3
    assert given[17] == arithmetic
    assert factors == [1.0, 0.0]


def test_versions_are_written_as_people_do(recorded):
    recorded.cuda.runtime.driverGetVersion.return_value = 12040
    recorded.cuda.runtime.runtimeGetVersion.return_value = 13020
    assert Cuda(0).versions() == {"CUDA of the driver": "12.4", "CUDA runtime": "13.2"}


def test_times_are_seconds(recorded):
    recorded.cuda.get_elapsed_time.return_value = 1.5  # milliseconds
    assert Cuda(0).elapsed_s(None, None) == pytest.approx(1.5e-3)


def test_the_real_cupy_has_what_is_called():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    expected = {
        cupy: ["RawModule", "empty", "uint8", "get_default_memory_pool"],
        cupy.cuda: ["Device", "Stream", "Event", "get_elapsed_time", "nvrtc"],
        cupy.cuda.runtime: ["driverGetVersion", "runtimeGetVersion", "getDeviceCount", "getDeviceProperties"],
        cupy.cuda.Device: ["use", "pci_bus_id", "mem_info", "cublas_handle", "compute_capability"],
        cupy.cuda.Stream: ["use", "synchronize", "begin_capture", "end_capture"],
        cupy.cuda.Event: ["record", "done"],
        cupy.cuda.Graph: ["upload", "launch"],
        cupy.cuda.MemoryPointer: ["memset_async", "ptr"],
        cupy.cuda.MemoryPool: ["free_all_blocks", "free_bytes"],
        cupy.ndarray: ["data", "nbytes"],
    }
    assert [(where, name) for where, names in expected.items() for name in names if not hasattr(where, name)] == []
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
