"""The arrays of the cufft backend on NumPy and SciPy, and a backend that runs on them."""

import contextlib

import numpy as np
import scipy.fft

from convbench.backends.cpu.device import CpuDevice
from convbench.backends.cuda.cublas import ProductMode
from convbench.backends.cufft import CufftBackend
from convbench.backends.cufft.arrays import FftArrays
from convbench.problem import ConvPass


class NumpyArrays(FftArrays):
    """As strict as cuFFT: the way back destroys the spectra."""

    xp = np

    def active(self):
        return contextlib.nullcontext()

    def upload(self, array):
        return np.array(array, order="C")

    def download(self, array):
        return array.copy()

    def forward(self, planes, spectra, by_bins):
        assert planes.flags.c_contiguous
        assert spectra.flags.c_contiguous
        axes = tuple(range(1, planes.ndim))

        def run():
            found = scipy.fft.rfftn(planes, axes=axes).reshape(len(planes), -1)
            spectra[...] = found.T if by_bins else found

        return run

    def inverse(self, spectra, planes, by_bins):
        number, *size = planes.shape
        half = (number, *size[:-1], size[-1] // 2 + 1)
        axes = tuple(range(1, planes.ndim))

        def run():
            found = (spectra.T if by_bins else spectra).reshape(half)
            planes[...] = scipy.fft.irfftn(found, s=size, axes=axes, norm="forward")
            spectra.fill(np.nan)

        return run

    def product(self, conv_pass, first, second, out, scale, add, mode):
        assert (mode is ProductMode.FP64) == (out.dtype == np.complex128)
        assert all(matrices.flags.c_contiguous for matrices in (first, second, out))
        if conv_pass is ConvPass.FPROP:
            found = first @ second.conj().swapaxes(1, 2)
        elif conv_pass is ConvPass.DGRAD:
            found = first @ second
        else:
            found = first.conj().swapaxes(1, 2) @ second
        found *= scale
        if add:
            out += found
        else:
            out[...] = found

    def kernel(self, source, name, options):
        raise NotImplementedError


class NumpyCufft(CufftBackend):
    """The backend, but for the calls of CUDA."""

    def probe(self):
        return None

    def device(self):
        return CpuDevice()

    def _arrays(self):
        return NumpyArrays()
