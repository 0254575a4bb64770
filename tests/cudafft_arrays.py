"""The kernels of cudafft on the CPU: by NumPy, as the contract has them, and as they are, by the emulator."""

import functools
import math

import numpy as np
from fft_arrays import NumpyArrays
from simt import CpuModule

from convbench.backends.cpu.device import CpuDevice
from convbench.backends.cudafft import CudafftBackend, kernels
from convbench.backends.cudafft.kernels import PLANES, TRANSFORMS
from convbench.problem import ConvPass


def memory_from(view):
    """All elements from the first one of a view on: what a kernel can reach from its address."""
    whole = view
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    assert whole.flags.c_contiguous
    assert whole.dtype == view.dtype
    first = (view.__array_interface__["data"][0] - whole.__array_interface__["data"][0]) // view.itemsize
    return whole.reshape(-1)[first:]


def structure(where):
    """Fields of struct Planes, which may have arrived as bytes."""
    (found,) = where.reshape(-1).view(np.dtype([*PLANES]))
    return found


def addresses(transform, where, offsets, groups):
    """Offsets (groups, planes, points) from a tensor's first element, -1 where nothing lies."""
    of = structure(where)
    planes = np.arange(of["planes"])
    image, channel = planes // of["columns"], planes % of["columns"]
    tables, absent = [], 3 - transform.ndim
    for axis in reversed(range(3)):
        tiles, phases = of["tiles"][axis], of["phases"][axis]
        row = image % tiles * phases + channel % phases
        image, channel = image // tiles, channel // phases
        if axis >= absent:
            size = transform.size[axis - absent]
            table = offsets[of["first"][axis] :][: tiles * phases * size].reshape(-1, size)
            tables.insert(0, table[row])
    start = np.arange(groups)[:, None] * of["group"] + image * of["image"] + channel * of["channel"]
    found, present = np.zeros((len(planes), 1), np.int64), np.ones((len(planes), 1), bool)
    for table in tables:
        found = (found[:, :, None] + table[:, None, :]).reshape(len(planes), -1)
        present = (present[:, :, None] & (table >= 0)[:, None, :]).reshape(len(planes), -1)
    return np.where(present, start[:, :, None] + found, -1)


def upper(numbers, bits=11):
    """Complex numbers of which both parts keep so many significant bits, rounded."""
    mantissa, exponent = np.frexp(numbers.view(np.float32))
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits).astype(np.float32).view(np.complex64)


class NumpyKernels:
    """The kernels of one transform; they compute in float64."""

    def __init__(self, transform):
        self.transform = transform
        self.axes = tuple(range(2, 2 + transform.ndim))

    def planes(self, tensor, where, offsets, groups):
        found = addresses(self.transform, where, offsets, groups)
        memory = memory_from(tensor)
        assert found.max(initial=0) < memory.size
        return np.where(found < 0, 0.0, memory[found].astype(np.float64)).reshape(
            *found.shape[:2], *self.transform.size
        )

    def bins(self, planes):
        full = np.fft.fftn(planes, axes=self.axes)
        return full[(slice(None), slice(None), *self.transform.frequencies().T)].swapaxes(1, 2)

    def full(self, spectra):
        """The spectra of real planes (groups, planes, size…) whose bins (groups, bins, planes) are given."""
        size, frequencies = self.transform.size, self.transform.frequencies()
        found = np.zeros((spectra.shape[0], spectra.shape[2], *size), np.complex128)
        mirrored = -frequencies % size
        for places, values in ((mirrored, spectra.conj()), (frequencies, spectra)):
            found[(slice(None), slice(None), *places.T)] = values.swapaxes(1, 2)
        return found

    def store(self, planes, tensor, where, offsets, bias, relu):
        groups = planes.shape[0]
        of, found = structure(where), addresses(self.transform, where, offsets, groups)
        planes = planes.reshape(found.shape)
        if isinstance(bias, np.ndarray):
            channel = np.arange(of["planes"]) % of["columns"] // math.prod(of["phases"].tolist())
            planes = planes + bias.astype(np.float64).reshape(groups, -1)[:, channel, None]
        if relu:
            planes = np.maximum(planes, 0)
        kept = found >= 0
        assert np.unique(found[kept]).size == np.count_nonzero(kept), "an element is stored twice"
        memory_from(tensor)[found[kept]] = planes[kept]

    def inverse_of(self, spectra):
        return np.fft.ifftn(self.full(spectra), axes=self.axes).real * self.transform.points

    def forward(self, grid, tensor, spectra, where, offsets):
        spectra[...] = self.bins(self.planes(tensor, where, offsets, grid[1]))

    def inverse(self, grid, spectra, tensor, where, offsets, bias, relu):
        self.store(self.inverse_of(spectra), tensor, where, offsets, bias, relu)

    def fused(self, grid, source, filters, target, where, offsets, to, to_offsets, conjugate, scale, bias, relu):
        spectra = self.bins(self.planes(source, where, offsets, grid[1]))
        factors = filters.reshape(grid[1], self.transform.bins, 1) * np.float64(scale)
        planes = self.inverse_of(spectra * (factors.conj() if conjugate else factors))
        self.store(planes, target, to, to_offsets, bias, relu)


class ContractArrays(NumpyArrays):
    """NumPy in the place of CUDA: kernels do what the contract says, of structures that arrive as bytes."""

    def upload(self, array):
        return np.array(array.view(np.uint8) if array.dtype.fields else array, order="C")

    def kernel(self, source, name, options):
        if source == kernels.product_source():
            return self._split if name == "split" else functools.partial(self._product, ConvPass(name))
        assert source == kernels.source()
        (transform,) = [each for each in TRANSFORMS if kernels.options(each) == options]
        run = getattr(NumpyKernels(transform), name)

        def launch(grid, block, arguments, shared_bytes):
            assert (block, shared_bytes) == ((transform.threads,), transform.shared_bytes)
            planes = structure(arguments[5 if name == "fused" else 2])["planes"]
            assert grid == transform.grid(planes, grid[1])
            run(grid, *arguments)

        return launch

    def _split(self, grid, block, arguments, shared_bytes):
        numbers, low, count = arguments
        assert numbers.size == low.size == count
        whole = numbers.copy()
        numbers[...] = upper(whole)
        low[...] = whole - numbers

    def _product(self, conv_pass, grid, block, arguments, shared_bytes):
        *matrices, count, rows, channels, filters, scale, add = arguments
        shapes = {"x": (rows, channels), "w": (filters, channels), "y": (rows, filters)}
        names = {ConvPass.FPROP: "xwy", ConvPass.DGRAD: "ywx", ConvPass.WGRAD: "yxw"}[conv_pass]
        first, second, out = (m.reshape(count, *shapes[name]) for m, name in zip(matrices, names, strict=True))
        super().product(conv_pass, first, second, out, scale, add, "fp32")


class EmulatedArrays(ContractArrays):
    """The kernels themselves on the emulator; all threads in one order, and all that they touch watched."""

    def __init__(self, order="random", seed=0, watch=True):
        self._how, self._watch = {"order": order, "seed": seed}, watch

    def kernel(self, source, name, options):
        run = module(source, options, self._watch).get_function(name)
        return lambda grid, block, arguments, shared_bytes: run(
            grid, block, arguments, shared_mem=shared_bytes, **self._how
        )


@functools.cache
def module(source, options, watch):
    return CpuModule(source, options, watch=watch)


class HostCudafft(CudafftBackend):
    """The backend on such arrays."""

    def __init__(self, arrays=ContractArrays):
        super().__init__()
        self._made = arrays

    def probe(self):
        return None

    def device(self):
        return CpuDevice()

    def _arrays(self):
        return self._made()
