"""What the GPU report asks CUDA's libraries, on stand-ins for these: the calls, and what is made of their results."""

import sys
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
from fft_arrays import NumpyArrays
from gpu_programs import gpu

from convbench import reference
from convbench.errors import UnsupportedError
from convbench.operands import grouped

__all__ = ["gpu"]  # a fixture


class Cupy(fake_cupy.FakeCupy):
    """The stand-in, with what the questions call beside."""

    def asarray(self, values):
        return np.array(values).view(fake_cupy.Array)

    def empty(self, shape, dtype):
        return np.zeros(shape, dtype).view(fake_cupy.Array)

    def full(self, shape, value, dtype):
        return np.full(shape, value, dtype).view(fake_cupy.Array)


class Stream:
    ptr = 77

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def device(monkeypatch):
    backend, _, cuda = fake_cupy.fake_backend(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy", Cupy(cuda))
    cuda.stream = Stream()
    return backend.device()


class Timer:
    """Every run takes two microseconds."""

    def warm(self, run):
        run()
        return lambda: 2e-6


def test_transforms_are_right_with_every_layout(gpu, device, monkeypatch):
    monkeypatch.setattr(gpu.ask_cuda, "TILES", 6)
    monkeypatch.setattr(gpu.ask_cuda, "kernels_of", lambda timer, run: ["radix"])
    (answer,) = gpu.ask_cuda.transforms(device, Timer())
    assert {name: of["error"] < 1e-5 for name, of in answer.data.items()} == {
        "plain": True, "by bins": True, "overlapping": True
    }  # fmt: skip
    assert "plain 1 kernels (radix), 2.0 µs; by bins 1 kernels" in answer.sentence
    assert "WRONG" not in answer.sentence


class Products(NumpyArrays):
    """Products that are right, but for those by three multiplications, which this cuBLAS lacks."""

    def __init__(self, device):
        pass

    def product(self, conv_pass, first, second, out, scale, add, mode):
        if mode == "fp32-3m":
            raise UnsupportedError("this cuBLAS has no such function")
        super().product(conv_pass, first, second, out, scale, add, mode)


def test_products_have_an_error_or_a_reason(gpu, device, monkeypatch):
    monkeypatch.setattr("convbench.backends.cuda.arrays.CudaArrays", Products)
    monkeypatch.setattr(gpu.ask_cuda, "BINS", 3)
    (answer,) = gpu.ask_cuda.products(device, Timer())
    assert answer.data["fp32"]["error"] < 1e-6
    assert "refused" in answer.data["fp32-3m"]
    assert "fp32-3m is refused (UnsupportedError: this cuBLAS has no such function)" in answer.sentence


def test_phases_of_fft_backends_stand_beside_a_copy(gpu, device, monkeypatch):
    phases = [
        SimpleNamespace(name="transform x", traffic_bytes=4000),
        SimpleNamespace(name="product", traffic_bytes=2000),
    ]
    plan = SimpleNamespace(
        algorithm="fft-32x32",
        run=lambda: None,
        run_phases=lambda clock: [2e-6, 1e-6],
        work=SimpleNamespace(phases=phases),
    )
    backends = [SimpleNamespace(name=name, plan=lambda *words: plan) for name in ("cudnn", "cudafft")]
    monkeypatch.setattr(gpu.ask_cuda, "usable", lambda: backends)
    monkeypatch.setattr(gpu.ask_cuda, "_copy_bytes_per_s", lambda device, timer: 4e9)
    (answer,) = gpu.ask_cuda.own_kernels(device, Timer())
    assert answer.sentence.endswith("cudafft (fft-32x32): transform x 2 µs at 50%, product 1 µs at 50%.")


class Legacy:
    """libcudnn's older calls, as far as they are made: one algorithm is offered, IMPLICIT_GEMM, and it computes."""

    def __init__(self, case_of):
        self.dims, self.handles, self._case_of = {}, 0, case_of

    def __getattr__(self, name):
        return lambda *arguments: 0  # setters without a word

    def _made(self, descriptor):
        self.handles += 1
        descriptor._obj.value = self.handles
        return 0

    cudnnCreate = cudnnCreateTensorDescriptor = cudnnCreateFilterDescriptor = _made
    cudnnCreateConvolutionDescriptor = _made

    def cudnnSetTensor4dDescriptor(self, descriptor, layout, dtype, *dims):
        assert (layout, dtype) == (0, 0)
        self.dims[descriptor.value] = dims
        return 0

    def cudnnSetFilter4dDescriptor(self, descriptor, dtype, layout, *dims):
        self.dims[descriptor.value] = dims
        return 0

    def cudnnSetConvolutionMathType(self, descriptor, kind):
        assert kind == 3
        return 0

    def cudnnGetConvolutionForwardWorkspaceSize(self, handle, x, w, convolution, y, algorithm, size):
        size._obj.value = 64
        return 0 if algorithm < 2 else 3000

    def cudnnGetConvolutionBackwardDataWorkspaceSize(self, handle, w, y, convolution, x, algorithm, size):
        return 3000

    def cudnnGetConvolutionBackwardFilterWorkspaceSize(self, handle, x, y, convolution, w, algorithm, size):
        return 0 if algorithm == 2 else 3000

    def cudnnConvolutionForward(
        self, handle, one, xd, x, wd, w, convolution, algorithm, work, work_bytes, zero, yd, y
    ):  # fmt: skip
        if algorithm:
            return 5000
        assert work_bytes.value == 64
        x, w, y = (
            fake_cupy.at(of.value, int(np.prod(self.dims[d.value])), np.float32).reshape(self.dims[d.value])
            for of, d in ((x, xd), (w, wd), (y, yd))
        )
        axes = self._case_of(x.shape, w.shape).problem.axes
        y[...] = reference.fprop(axes, grouped(x, 1, 1), grouped(w, 1, 0)).reshape(y.shape)
        return 0


def test_the_older_calls_are_asked_and_run(gpu, device, monkeypatch):
    def case_of(x, w):
        return gpu.ask_legacy.made_case(
            batch=x[0], in_channels=x[1], out_channels=w[0], input_size=x[2:], filter_size=w[2:]
        )

    monkeypatch.setattr(gpu.ask_legacy, "SHAPES", ((2, 3, 4, 8, 3),))
    monkeypatch.setattr(gpu.ask_legacy, "library", lambda: Legacy(case_of))
    (answer,) = gpu.ask_legacy.legacy(device, Timer())
    (rows,) = answer.data.values()
    assert rows["fprop IMPLICIT_GEMM"]["right"]
    assert rows["fprop IMPLICIT_GEMM"]["error"] < 1e-6
    assert rows["fprop IMPLICIT_PRECOMP_GEMM"] == "offered, but does not run: cudnnConvolutionForward answers 5000"
    assert rows["fprop FFT"] is None
    assert "FFT 0 fprop, 0 dgrad, 1 wgrad (0 ran right)" in answer.sentence


def test_versions_and_properties_are_read_one_by_one(gpu, monkeypatch):
    def broken():
        raise ImportError("no libnvrtc")

    runtime = SimpleNamespace(
        driverGetVersion=lambda: 13010, runtimeGetVersion=lambda: 13000,
        getDeviceProperties=lambda index: {"name": b"NVIDIA H200\0", "uuid": b"x", "l2CacheSize": 60 << 20, "major": 9},
    )  # fmt: skip
    made = SimpleNamespace(
        runtime=runtime, nvrtc=SimpleNamespace(getVersion=broken), cufft=SimpleNamespace(getVersion=lambda: 12000),
        cublas=SimpleNamespace(getVersion=lambda handle: 130100),
        device=SimpleNamespace(get_cublas_handle=lambda: 1),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=made))
    monkeypatch.setitem(sys.modules, "cudnn", SimpleNamespace(backend_version=lambda: 91900))
    found = gpu.identity.libraries()
    assert (found["driver"], found["cudnn"], found["cublas"]) == (13010, 91900, 130100)
    assert found["nvrtc"] == "not known: ImportError: no libnvrtc"
    assert gpu.identity.properties() == {"l2CacheSize": 60 << 20, "major": 9, "name": "NVIDIA H200"}


def test_under_ncu_each_row_follows_its_separator(gpu, device, monkeypatch, tmp_path):
    log = []
    monkeypatch.setattr(device.cuda, "launch", lambda name, *words: log.append(name))
    profiler = SimpleNamespace(start=lambda: log.append("start"), stop=lambda: log.append("stop"))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(profiler=profiler)))
    work = SimpleNamespace(traffic_bytes=9, phases=[SimpleNamespace(launches=2), SimpleNamespace(launches=1)])
    plan = SimpleNamespace(run=lambda: log.append("run"), work=work)
    rows = [SimpleNamespace(label=name, plan=plan, backend=SimpleNamespace(device=lambda: device)) for name in "ab"]
    monkeypatch.setattr(gpu.cases, "planned", lambda: iter(rows))
    monkeypatch.setattr(gpu.counters, "_bound", lambda of: "compute")
    gpu.counters._profiled(tmp_path / "rows.json")
    assert log == ["start", "empty", "run", "empty", "run", "stop"]
    assert (tmp_path / "rows.json").read_text().count('"launches": 3') == 2


def test_rows_are_planned_with_what_is_usable_and_refusals_are_said(gpu, monkeypatch, capsys):
    def refuse(*words):
        raise UnsupportedError("not this one")

    able = SimpleNamespace(name="able", plan=lambda *words: SimpleNamespace(run=lambda: None, algorithm="quick"))
    monkeypatch.setattr(gpu.cases, "ROWS", (("smoke", "plain-3x3", gpu.cases.ConvPass.FPROP),))
    monkeypatch.setattr(gpu.cases, "usable", lambda: [able, SimpleNamespace(name="refusing", plan=refuse)])
    (row,) = gpu.cases.planned()
    assert row.label.endswith("able:quick")
    assert "refusing: UnsupportedError: not this one" in capsys.readouterr().out
