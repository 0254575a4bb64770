"""cuDNN's older calls, through ctypes: which algorithms they offer, and whether they run. Not run on a GPU yet."""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from answers import Answer
from cases import made_case

from convbench.backends import ErrorBound
from convbench.operands import Operands
from convbench.verify import check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timer import EventTimer

    from convbench.backends.cuda.gpu import CudaDevice

FORWARD = (
    "IMPLICIT_GEMM",
    "IMPLICIT_PRECOMP_GEMM",
    "GEMM",
    "DIRECT",
    "FFT",
    "FFT_TILING",
    "WINOGRAD",
    "WINOGRAD_NONFUSED",
)
DATA = ("ALGO_0", "ALGO_1", "FFT", "FFT_TILING", "WINOGRAD", "WINOGRAD_NONFUSED")
FILTER = ("ALGO_0", "ALGO_1", "FFT", "ALGO_3", "WINOGRAD", "WINOGRAD_NONFUSED", "FFT_TILING")
"""cudnnConvolutionFwdAlgo_t, …BwdDataAlgo_t, …BwdFilterAlgo_t, in the order of their numbers (cudnn_cnn.h)."""
NCHW, FLOAT, CROSS_CORRELATION, FMA_MATH = 0, 0, 1, 3
"""cudnnTensorFormat_t, cudnnDataType_t, cudnnConvolutionMode_t, and CUDNN_FMA_MATH of cudnnMathType_t: no TF32."""
SHAPES = ((32, 64, 64, 32, 3), (32, 64, 64, 32, 5), (32, 64, 64, 32, 13), (16, 32, 32, 128, 11))
"""Images, channels, filters, extent of the input and of the filter; no padding, stride 1."""
BOUND = ErrorBound(growth=64.0, transform_points=4096)
"""Wide enough for every transform: whether it is right at all is what is asked."""


def library() -> ctypes.CDLL:
    """The libcudnn that this process has loaded, wherever the front end found it."""
    import cudnn

    cudnn.backend_version()
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    path = re.search(r"\S*/libcudnn\.so\.9\S*", maps)
    return ctypes.CDLL(path[0] if path else "libcudnn.so.9")


class Calls:
    """A handle, and descriptors of one shape."""

    def __init__(self, cudnn: Any, stream: int, shape: tuple[int, int, int, int, int]) -> None:
        self._cudnn = cudnn
        self.handle, self.x, self.y, self.w, self.convolution = (ctypes.c_void_p() for _ in range(5))
        n, c, k, extent, taps = shape
        out = extent - taps + 1
        self._do("Create", ctypes.byref(self.handle))
        self._do("SetStream", self.handle, ctypes.c_void_p(stream))
        for descriptor, dims in ((self.x, (n, c, extent, extent)), (self.y, (n, k, out, out))):
            self._do("CreateTensorDescriptor", ctypes.byref(descriptor))
            self._do("SetTensor4dDescriptor", descriptor, NCHW, FLOAT, *dims)
        self._do("CreateFilterDescriptor", ctypes.byref(self.w))
        self._do("SetFilter4dDescriptor", self.w, FLOAT, NCHW, k, c, taps, taps)
        self._do("CreateConvolutionDescriptor", ctypes.byref(self.convolution))
        self._do("SetConvolution2dDescriptor", self.convolution, 0, 0, 1, 1, 1, 1, CROSS_CORRELATION, FLOAT)
        self._do("SetConvolutionMathType", self.convolution, FMA_MATH)

    def _do(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._cudnn, f"cudnn{name}")(*arguments):
            raise RuntimeError(f"cudnn{name} answers {status}")

    def workspace(self, conv_pass: str, algorithm: int) -> int | None:
        """Bytes that an algorithm asks for; None where it is not offered."""
        name, operands = {
            "fprop": ("Forward", (self.x, self.w, self.convolution, self.y)),
            "dgrad": ("BackwardData", (self.w, self.y, self.convolution, self.x)),
            "wgrad": ("BackwardFilter", (self.x, self.y, self.convolution, self.w)),
        }[conv_pass]
        size = ctypes.c_size_t()
        ask = getattr(self._cudnn, f"cudnnGetConvolution{name}WorkspaceSize")
        refused = ask(self.handle, *operands, algorithm, ctypes.byref(size))
        return None if refused else size.value

    def forward(self, x: Any, w: Any, y: Any, algorithm: int, work: Any, work_bytes: int) -> None:
        """Enqueues the forward pass."""
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        pointer = ctypes.c_void_p
        self._do(
            "ConvolutionForward", self.handle, ctypes.byref(one), self.x, pointer(x.data.ptr), self.w,
            pointer(w.data.ptr), self.convolution, algorithm, pointer(work.data.ptr), ctypes.c_size_t(work_bytes),
            ctypes.byref(zero), self.y, pointer(y.data.ptr),
        )  # fmt: skip


def legacy(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Every algorithm of every pass: is it offered; those of the forward pass run, verified and timed."""
    import cupy
    import numpy as np

    cudnn, data = library(), {}
    device.activate()
    for shape in SHAPES:
        n, c, k, extent, taps = shape
        case = made_case(batch=n, in_channels=c, out_channels=k, input_size=(extent,) * 2, filter_size=(taps,) * 2)
        operands = Operands(case.problem, case.dtype, 0)
        calls = Calls(cudnn, device.cuda.stream.ptr, shape)
        x, w = (cupy.asarray(np.ascontiguousarray(values, np.float32)) for values in (operands.x, operands.w))
        rows: dict[str, Any] = {}
        for conv_pass, names in (("fprop", FORWARD), ("dgrad", DATA), ("wgrad", FILTER)):
            for number, name in enumerate(names):
                asked = calls.workspace(conv_pass, number)
                rows[f"{conv_pass} {name}"] = asked
                if asked is not None and conv_pass == "fprop":
                    y = cupy.full(case.output_shape, np.nan, np.float32)
                    work = cupy.empty(max(1, asked), np.uint8)
                    run = functools.partial(calls.forward, x, w, y, number, work, asked)
                    rows[f"{conv_pass} {name}"] = _ran(run, y, case, operands, timer)
        data[f"{n}×{c}×{extent}² to {k}, {taps}×{taps}"] = rows
    yield Answer(question=1, program="legacy", sentence=_sentence(data), data=data)


def _ran(run: Any, y: Any, case: Any, operands: Operands, timer: EventTimer) -> Any:
    try:
        run()
        found = check(case, y.get(), operands, BOUND, 0, None)
        return {"error": found.rms_error, "right": found.passed, "us": timer.warm(run)() * 1e6}
    except RuntimeError as error:
        return f"offered, but does not run: {error}"


def _sentence(data: dict[str, dict[str, Any]]) -> str:
    """Which of the transforms are offered, and for how many of the shapes."""
    told = []
    for name in ("FFT", "FFT_TILING", "WINOGRAD", "WINOGRAD_NONFUSED"):
        counts = [
            f"{sum(rows[f'{conv_pass} {name}'] is not None for rows in data.values())} {conv_pass}"
            for conv_pass in ("fprop", "dgrad", "wgrad")
        ]
        ran = sum(isinstance(rows[f"fprop {name}"], dict) and rows[f"fprop {name}"]["right"] for rows in data.values())
        told.append(f"{name} {', '.join(counts)} ({ran} ran right)")
    return f"By the older calls, FMA math, offered for so many of {len(data)} shapes: {'; '.join(told)}."
