"""CuPy as far as our own convolutions call it, on NumPy: cuFFT's strided layouts, cuBLAS' products, by pointers.

Arrays are NumPy's with the two attributes that are CuPy's own. Calls of libraries check what the real ones would.
"""

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
from fake_cuda import CudaError, fake_device

from convbench.backends import cuda as cuda_module
from convbench.backends.cuda import cublas
from convbench.backends.cufft import CufftBackend

WORK_BYTES = 64
CALL_S = 1e-3
INT = range(-(2**31), 2**31)


class Array(np.ndarray):
    """NumPy's, with a pointer as CuPy has it."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self):
        return np.array(self)


def at(pointer, elements, dtype):
    """The memory at a pointer, as a flat array."""
    dtype = np.dtype(dtype)
    memory = (ctypes.c_char * (elements * dtype.itemsize)).from_address(pointer)
    return np.frombuffer(memory, dtype)


class FakeCupy:
    """The module; what it runs moves the time of a FakeCuda on. `fails` is raised by the library so called."""

    lib = np.lib
    add, maximum, conjugate, multiply = np.add, np.maximum, np.conjugate, np.multiply
    float32 = np.float32

    def __init__(self, cuda, fails=(), spoil=1.0):
        self._cuda, self.fails, self.spoil = cuda, dict(fails), spoil
        self.compiled, self.launches = [], []
        cufft = SimpleNamespace(
            CUFFT_R2C=0x2A, CUFFT_C2R=0x2C, CUFFT_D2Z=0x6A, CUFFT_Z2D=0x6C, CUFFT_FORWARD=-1, CUFFT_INVERSE=1,
            PlanNd=self._plan,
        )  # fmt: skip
        self.cublas = FakeCublas(self, cuda)
        self.cuda = SimpleNamespace(cufft=cufft, cublas=self.cublas)

    def called(self, name):
        if name in self.fails:
            raise self.fails[name]

    def empty(self, shape, dtype):
        self.called("empty")
        return np.full(shape, np.nan, dtype).view(Array)

    def array(self, values, order):
        assert order == "C"
        return np.array(values, order=order).view(Array)

    def _plan(self, *arguments):
        self.called("plan")
        return FakePlan(self, *arguments)

    def RawModule(self, code, options):
        self.called("compile")
        self.compiled.append((code, options))
        return SimpleNamespace(get_function=lambda name: FakeKernel(self, name))


class FakeCublas:
    """CuPy's module, and the functions of the library that are called through ctypes."""

    __file__ = "cublas.so"

    def __init__(self, cupy, cuda):
        self._cupy, self._cuda, self.has = cupy, cuda, {"handles": 0, "stream": None, "workspace": 0}

        # Functions of a library take what they are given; ctypes lets one say what that is.
        def workspace(handle, pointer, size):
            self.has["workspace"] = size
            return 0

        def plain(handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, a_step, b, b_type, ldb, b_step, beta, c, c_type,
                  ldc, c_step, batch, arithmetic, algorithm):  # fmt: skip
            dtype = {(4, 68): np.complex64, (4, 77): np.complex64, (5, 70): np.complex128}[c_type, arithmetic]
            assert (algorithm, a_type, b_type) == (-1, c_type, c_type)
            self.modes.append(arithmetic)
            return self._gemm(handle, op_a, op_b, m, n, k, alpha, a, lda, a_step, b, ldb, b_step, beta, c, ldc, c_step,
                              batch, dtype)  # fmt: skip

        def three(*arguments):
            self.modes.append("3m")
            return self._gemm(*arguments, np.complex64)

        self.modes = []
        self.symbols = SimpleNamespace(
            cublasSetWorkspace_v2=workspace, cublasGemmStridedBatchedEx=plain, cublasCgemm3mStridedBatched=three
        )

    def create(self):
        self.has["handles"] += 1
        return "handle"

    def setStream(self, handle, stream):
        if self._cuda._capturing is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        self.has["stream"] = stream

    def check_status(self, status):
        if status:
            raise CudaError(f"CUBLAS_STATUS_{status}")

    def _gemm(self, handle, op_a, op_b, m, n, k, alpha, a, lda, a_step, b, ldb, b_step, beta, c, ldc, c_step, batch,
              dtype):  # fmt: skip
        if "gemm" in self._cupy.fails:
            return self._cupy.fails["gemm"]
        assert handle == "handle"
        assert self.has["stream"] == self._cuda.stream.ptr
        assert self.has["workspace"]
        assert all(number in INT for number in (m, n, k, lda, ldb, ldc, batch))
        assert min(lda, ldb, ldc) >= 1
        self._cuda.enqueue(CALL_S)

        def matrices(pointer, rows, columns, ld, step, op=0):
            rows, columns = (rows, columns) if op == 0 else (columns, rows)
            assert ld >= rows
            memory = at(pointer, max(0, (batch - 1) * step + (columns - 1) * ld + rows), dtype)
            size = memory.itemsize
            found = np.lib.stride_tricks.as_strided(
                memory, (batch, rows, columns), (step * size, size, ld * size), writeable=op == 0
            )
            return found if op == 0 else found.conj().swapaxes(1, 2)

        product = matrices(a, m, k, lda, a_step, op_a) @ matrices(b, k, n, ldb, b_step, op_b)
        product *= alpha[0] + 1j * alpha[1]
        out = matrices(c, m, n, ldc, c_step)
        factor = beta[0] + 1j * beta[1]
        # Of beta 0, NaN in C does not count.
        out[...] = self._cupy.spoil * (product + factor * out if factor else product)
        return 0


class FakeKernel:
    """A kernel that notes how it is launched, and is given 227 KiB of shared memory at most."""

    max_bytes = 227 << 10

    def __init__(self, cupy, name):
        self._cupy, self.name = cupy, name
        self.__dict__["max_dynamic_shared_size_bytes"] = 48 << 10

    def __setattr__(self, name, value):
        if name == "max_dynamic_shared_size_bytes" and value > self.max_bytes:
            raise CudaError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.__dict__[name] = value

    def __call__(self, grid, block, arguments, shared_mem):
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self._cupy._cuda.enqueue(CALL_S)
        self._cupy.launches.append((self.name, grid, block, arguments, shared_mem))


class FakePlan:
    """cufftMakePlanMany with all its arguments."""

    def __init__(self, cupy, shape, inembed, istride, idist, onembed, ostride, odist, kind, batch, order, axis, last):
        assert 1 <= len(shape) <= 3
        assert len(shape) == len(inembed) == len(onembed)
        numbers = (*shape, *inembed, *onembed, istride, idist, ostride, odist, batch)
        assert all(type(number) is int and number in INT for number in numbers)
        assert (order, axis) == ("C", len(shape) - 1)
        self._cupy, self._shape, self._kind, self._batch = cupy, shape, kind, batch
        self._source, self._target = (inembed, istride, idist), (onembed, ostride, odist)
        self._half = (*shape[:-1], shape[-1] // 2 + 1)
        self.forward = kind in (0x2A, 0x6A)
        assert last == shape[-1]
        self.work_area = SimpleNamespace(mem=SimpleNamespace(size=WORK_BYTES))

    def _view(self, array, extents, embedding, stride, distance):
        steps = [stride * int(np.prod(embedding[axis + 1 :])) for axis in range(len(extents))]
        last = (self._batch - 1) * distance + sum((e - 1) * s for e, s in zip(extents, steps, strict=True))
        assert last < array.size
        strides = [step * array.itemsize for step in (distance, *steps)]
        return np.lib.stride_tricks.as_strided(array.reshape(-1), (self._batch, *extents), strides)

    def fft(self, source, target, direction):
        self._cupy.called("fft")
        self._cupy._cuda.enqueue(CALL_S)
        single = self._kind in (0x2A, 0x2C)
        assert direction == (-1 if self.forward else 1)
        real, spectra = (source, target) if self.forward else (target, source)
        assert real.dtype == (np.float32 if single else np.float64)
        assert spectra.dtype == (np.complex64 if single else np.complex128)
        axes = tuple(range(1, 1 + len(self._shape)))
        if self.forward:
            planes = self._view(source, self._shape, *self._source)
            self._view(target, self._half, *self._target)[...] = np.fft.rfftn(planes, axes=axes)
        else:
            bins = self._view(source, self._half, *self._source)
            planes = np.fft.irfftn(bins, s=self._shape, axes=axes, norm="forward")
            self._view(target, self._shape, *self._target)[...] = planes
            source.fill(np.nan)


def fake_gpu(monkeypatch, **options):
    """(a simulated GPU, the FakeCupy that it is reached by, the FakeCuda of it)."""
    device, fake, _ = fake_device(monkeypatch)
    fake.stream = SimpleNamespace(ptr=77)
    module = FakeCupy(fake, **options)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(cublas, "library", lambda calls: calls.symbols)
    return device, module, fake


def fake_backend(monkeypatch, **options):
    """(a backend on a simulated GPU, the FakeCupy that it calls, the FakeCuda of its device)."""
    device, module, fake = fake_gpu(monkeypatch, **options)
    monkeypatch.setattr(cuda_module, "unusable", lambda: None)
    monkeypatch.setattr(cuda_module, "device", lambda index=0: device)
    return CufftBackend(), module, fake


OUT_OF_MEMORY = CudaError("cudaErrorMemoryAllocation: out of memory")
