"""Plans of the torch backend. Importing this module loads torch."""

from __future__ import annotations

import ctypes
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convbench.backends import AUTO, ErrorBound, PlanOptions
from convbench.backends.cpu.bilinear import winograd
from convbench.backends.torch import NNPACK_POINTS, scratch_bytes, split_padding
from convbench.errors import UnsupportedError
from convbench.problem import Case, ConvPass, Epilogue, Layout
from convbench.work import nominal_work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convbench.operands import Operands

FIRST_LAYER_CHANNELS = 4
"""Up to so many input channels oneDNN's blocked convolutions read nchw as it is."""
CHAIN_GROWTH = 2.0
"""Of sums in one chain: an element's error follows its partial sums, some of which stray far from their usual size.

oneDNN adds so in nhwc: of 4.8 M outputs of 2304 products each, one was beyond the bound of growth 1.
"""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""


@functools.cache
def keep_pages() -> None:
    """Makes glibc keep the memory of freed tensors for the next ones, in the whole process; elsewhere nothing.

    torch allocates its output in each call. By default glibc gives large blocks back to the system and gets fresh pages
    for the next, which cost more to clear than many a convolution takes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another system or C library
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)


def make_plan(case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> TorchPlan:
    """The plan of an algorithm; `auto` is resolved.

    Raises:
        UnsupportedError: torch would not take what was asked for.
    """
    keep_pages()
    torch.set_num_threads(options.threads)
    if algorithm == "onednn-blocked":
        return BlockedPlan(case, operands, options)
    if algorithm == "nnpack":
        return NnpackPlan(case, operands, options)
    if algorithm == "native":
        return NativePlan(case, operands, options)
    plan = TorchPlan(case, operands, options)
    own = plan.own_kernel()
    if own and algorithm != AUTO:
        raise UnsupportedError(f"this version of torch takes its own kernel ({own}) for this case, not oneDNN")
    return NativePlan(case, operands, options) if own else plan


class TorchPlan:
    """What torch does by itself: `onednn` where it takes oneDNN.

    One spatial axis becomes two of which the first has extent 1, as inside torch.conv1d. The output is a new tensor
    after each run, in the memory of the last one.
    """

    algorithm = "onednn"
    error_bound = ErrorBound(growth=CHAIN_GROWTH)

    def __init__(self, case: Case, operands: Operands, options: PlanOptions) -> None:
        p = case.problem
        self.case, self.threads = case, options.threads
        self.work, self.workspace_bytes = nominal_work(case), scratch_bytes(self.algorithm, case)
        padding, added = zip(*map(split_padding, p.axes), strict=True)
        flat = 2 - p.ndim if p.ndim < 2 else 0
        self._stride, self._dilation = [1] * flat + [*p.stride], [1] * flat + [*p.dilation]
        self._padding = [0] * flat + [*padding]
        # What torch's convolutions take from `stride` on: not transposed.
        self._where = self._stride, self._padding, self._dilation, False, [0] * len(self._stride), p.groups
        self._added = [side for pair in reversed(added) for side in pair]  # torch counts axes from the last
        self._format: Any = torch.contiguous_format
        if case.layout is Layout.NHWC:
            self._format = torch.channels_last_3d if p.ndim == 3 else torch.channels_last
        roles = {ConvPass.FPROP: "dy", ConvPass.DGRAD: "x", ConvPass.WGRAD: "w"}
        made = roles.pop(case.conv_pass)
        tensors: dict[str, Any] = {name: self.tensor(getattr(operands, name)) for name in roles.values()}
        self._out: Any = self.tensor(np.full(case.output_shape, np.nan, operands.dtype))
        self._x: Any = tensors.get("x")
        self._w: Any = tensors.get("w")
        self._dy: Any = tensors.get("dy")
        self._bias = None if case.epilogue is Epilogue.NONE else torch.tensor(operands.bias)
        # torch asks for the shape and layout of what it computes.
        if made == "x":
            self._x = self.pad(torch.empty_like(self._out))
        elif made == "w":
            self._w = torch.empty_like(self._out)
        self._call = {ConvPass.FPROP: self._fprop, ConvPass.DGRAD: self._dgrad, ConvPass.WGRAD: self._wgrad}[
            case.conv_pass
        ]

    def tensor(self, array: NDArray[Any]) -> Any:
        """A copy in the case's layout, with at least two spatial axes."""
        if array.ndim == 3:
            array = array[:, :, None]
        stored = torch.empty(array.shape, dtype=getattr(torch, str(array.dtype)), memory_format=self._format)
        stored.numpy()[...] = array  # torch warns of read-only arrays
        return stored

    def pad(self, x: Any) -> Any:
        """`x` with the padding that the convolution does not take."""
        return padded(x, self._added)

    def own_kernel(self) -> str | None:
        """Name of the kernel that torch would take instead of oneDNN; None if that is what it takes."""
        x = self._x if self.case.conv_pass is ConvPass.DGRAD else self.pad(self._x)
        name: str = torch._C._select_conv_backend(x, self._w, self._bias, *self._where, None).name
        return None if name.startswith("Mkldnn") else name

    def run(self) -> None:
        """Computes into a new tensor, after the last one has made room for it."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        self._out = None
        self._out = self._call()

    def _fprop(self) -> Any:
        y = torch.convolution(self.pad(self._x), self._w, self._bias, *self._where)
        return y.relu_() if self.case.epilogue is Epilogue.BIAS_RELU else y

    def _dgrad(self) -> Any:
        dx = self._backward(self._x, (True, False, False))[0]
        return padded(dx, [-side for side in self._added])

    def _wgrad(self) -> Any:
        return self._backward(self.pad(self._x), (False, True, False))[1]

    def _backward(self, x: Any, mask: tuple[bool, ...]) -> Any:
        backward = torch.ops.aten.convolution_backward.default
        return backward(self._dy, x, self._w, None, *self._where, mask)

    def poison(self) -> None:
        """Fills the output with NaN, where it lies."""
        self._out.fill_(math.nan)

    def output(self) -> NDArray[Any]:
        """The output as a canonical view."""
        found: NDArray[Any] = self._out.numpy()
        return found[:, :, 0] if self.case.problem.ndim == 1 else found


class NativePlan(TorchPlan):
    """torch's own kernels: what it takes where oneDNN is switched off or has not the type."""

    algorithm = "native"

    def run(self) -> None:
        """As the other, with oneDNN and NNPACK switched off meanwhile."""
        onednn, nnpack = torch._C._get_mkldnn_enabled(), torch._C._get_nnpack_enabled()
        torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags() warns of other settings
        torch._C._set_nnpack_enabled(False)
        try:
            super().run()
        finally:
            torch._C._set_mkldnn_enabled(onednn)
            torch._C._set_nnpack_enabled(nnpack)


class NnpackPlan(TorchPlan):
    """NNPACK: FFT on tiles of 8×8 or 16×16, or Winograd's F(6×6, 3×3), by its own choice."""

    algorithm = "nnpack"

    def __init__(self, case: Case, operands: Operands, options: PlanOptions) -> None:
        if not torch._nnpack_available():
            raise UnsupportedError("this torch has no NNPACK for this processor")
        super().__init__(case, operands, options)
        fft, tile = math.log2(NNPACK_POINTS), winograd(6, 3).growth ** 2
        growth = tile if case.problem.filter_size == (3, 3) else fft
        self.error_bound = ErrorBound(growth=growth, transform_points=NNPACK_POINTS)

    def _fprop(self) -> Any:
        y = torch._nnpack_spatial_convolution(self._x, self._w, self._bias, self._padding, self._stride)
        return y.relu_() if self.case.epilogue is Epilogue.BIAS_RELU else y


class BlockedPlan(TorchPlan):
    """oneDNN with its operands in the order that it likes best, put there beforehand.

    In nchw x, w and y lie in oneDNN's blocked order, as between the layers of a network that it holds whole; in nhwc
    only w does, as torch.compile arranges it for inference.
    """

    algorithm = "onednn-blocked"

    def __init__(self, case: Case, operands: Operands, options: PlanOptions) -> None:
        super().__init__(case, operands, options)
        groups, shape = case.problem.groups, list(self._x.shape)
        reorder: Any = getattr(torch._C._nn, f"mkldnn_reorder_conv{len(shape) - 2}d_weight")
        where = self._padding, self._stride, self._dilation, groups
        self._w = reorder(self._w.contiguous().to_mkldnn(), *where, shape)
        self._blocks: tuple[Any, ...] = (self._bias, *where)
        self._blocked_x = case.layout is Layout.NCHW
        if self._blocked_x:
            self._x = blocked(self._x)
            self._blocks = (None if self._bias is None else self._bias.to_mkldnn(), *where)

    def _fprop(self) -> Any:
        if self._blocked_x:
            y = torch.mkldnn_convolution(self._x, self._w, *self._blocks)
            return y.relu_() if self.case.epilogue is Epilogue.BIAS_RELU else y
        relu = "relu" if self.case.epilogue is Epilogue.BIAS_RELU else "none"
        return torch.ops.mkldnn._convolution_pointwise(self._x, self._w, *self._blocks, relu, [], "")

    def poison(self) -> None:
        """Fills the output with NaN, where it lies."""
        self._out.mul_(math.nan)

    def output(self) -> NDArray[Any]:
        """The output, copied where it is blocked."""
        if self._out.is_mkldnn:
            found: NDArray[Any] = self._out.to_dense().numpy()
            return found[:, :, 0] if self.case.problem.ndim == 1 else found
        return super().output()


def padded(x: Any, sides: list[int]) -> Any:
    """`x` with zeros added, and then elements cut off where a side is negative; itself where nothing is to be done."""
    added, cut = [max(0, side) for side in sides], [min(0, side) for side in sides]
    for amount in (added, cut):  # at once, torch would cut first, at times more than there is
        x = torch.nn.functional.pad(x, amount) if any(amount) else x
    return x


def blocked(x: Any) -> Any:
    """`x` in oneDNN's blocked order, in which its convolutions leave their outputs: that of one with filters of 1."""
    channels = x.shape[1]
    if channels <= FIRST_LAYER_CHANNELS:
        return x.to_mkldnn()
    ones, flat = torch.ones(channels, 1, *[1] * (x.ndim - 2)), [1] * (x.ndim - 2)
    return torch.mkldnn_convolution(x.to_mkldnn(), ones.to_mkldnn(), None, [0] * len(flat), flat, flat, channels)
