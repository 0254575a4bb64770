"""`torch`: PyTorch's convolutions on this machine's processor (extra `torch`); torch itself is loaded by `plan`."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from convbench.accuracy import SUM_ACCURACY
from convbench.backends import AUTO, DEFAULTS, Candidate, PlanOptions, Probe
from convbench.errors import UnsupportedError, unknown_name
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.work import nominal_flops

if TYPE_CHECKING:
    from convbench.backends import Device, Plan
    from convbench.operands import Operands
    from convbench.problem import Axis

ALGORITHMS = ("onednn", "onednn-blocked", "native", "nnpack")
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Variable by which torch asks for huge pages, as NumPy does without being told; read at its first allocation."""
LARGEST_NNPACK_FILTER = 16
"""NNPACK's largest transform has 16×16 points."""
NNPACK_POINTS = LARGEST_NNPACK_FILTER**2
KEPT_BLOCKS = 3
"""Blocks that glibc keeps at most of one that is freed and asked for again, aligned: measured, as LIBRARY_BYTES."""
LIBRARY_BYTES = 16 << 20
"""What oneDNN's code and caches add."""
WINOGRAD_ACCURACY = 1e-5
"""The tier of F(6×6, 3×3), which NNPACK may take for filters of 3×3."""


class TorchBackend:
    """`onednn`, its blocked layout, torch's own kernels (`native`) and `nnpack`; `auto` is what a network gets."""

    name = "torch"

    def probe(self) -> str | None:
        """Whether torch is installed; it is not loaded."""
        found = importlib.util.find_spec("torch")
        return None if found else 'PyTorch is not installed: pip install "convbench[torch]"'

    def device(self) -> Device:
        """The processor, the same as the cpu backend's."""
        from convbench.backends.cpu.device import CpuDevice

        return CpuDevice()

    def peaks(self, threads: int) -> list[Probe]:
        """A convolution that oneDNN is at its fastest with: it exceeds the products of many a BLAS."""
        from convbench.operands import Operands

        problem = Problem(
            batch=8 * threads, in_channels=128, out_channels=128, input_size=(28, 28), filter_size=(3, 3),
            padding=((1, 1), (1, 1)),
        )  # fmt: skip
        case = Case(suite="", name="peak", problem=problem, conv_pass=ConvPass.FPROP, dtype=Dtype.FP32,
                    math_mode=MathMode.FP32, layout=Layout.NHWC, epilogue=Epilogue.NONE)  # fmt: skip
        plan = self.plan(case, "onednn", Operands(problem, case.dtype, 0), PlanOptions(threads=threads))

        def run(count: int) -> None:
            for _ in range(count):
                plan.run()

        return [Probe("compute", case.math_mode, nominal_flops(problem), run)]

    def algorithms(self, case: Case, options: PlanOptions = DEFAULTS) -> list[Candidate]:
        """The algorithms, and `auto`, which is torch's own choice between onednn and native."""
        found = {name: _candidate(name, case, options.threads) for name in ALGORITHMS}
        chosen = "onednn" if takes_onednn(case, options.threads) else "native"
        return [replace(found[chosen], algorithm=AUTO, resolves_to=chosen), *found.values()]

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> Plan:
        """The case made ready."""
        if algorithm not in (AUTO, *ALGORITHMS):
            raise unknown_name("algorithm", algorithm, [AUTO, *ALGORITHMS], where=" of backend torch")
        if reason := _reason(algorithm, case, options.threads):
            raise UnsupportedError(reason)
        os.environ.setdefault(HUGE_PAGES, "1")
        from convbench.backends.torch.plans import make_plan

        return make_plan(case, algorithm, operands, options)


def split_padding(axis: Axis) -> tuple[int, tuple[int, int]]:
    """Padding of an axis that torch's convolution takes, the same on both sides, and (before, after) left to add.

    Only the padding before the input decides where outputs lie; that after it may be as large, if no output is added.
    """
    if replace(axis, after=axis.before).output == axis.output:
        return axis.before, (0, 0)
    both = max(0, min(axis.before, axis.after))
    return both, (axis.before - both, axis.after - both)


def takes_onednn(case: Case, threads: int) -> bool:
    """Whether torch takes oneDNN by itself: for fp32, but for small and 1×1 cases where its own kernels are quicker.

    Source: `ConvParams::use_mkldnn` of torch 2.13 (aten/src/ATen/native/Convolution.cpp); a test compares the two.
    """
    p = case.problem
    if case.dtype is not Dtype.FP32 or not p.batch:
        return False
    taps = ((1, *p.filter_size) if p.ndim == 1 else p.filter_size)[-2:]
    # Of three axes torch multiplies the first two: it takes four extents of its input, whatever their number.
    elements = p.batch * p.in_channels * math.prod([a.input + sum(split_padding(a)[1]) for a in p.axes][:2])
    plain = p.stride == p.dilation == (1,) * p.ndim and p.batch < 16 and max(taps) == 1 and threads == 1
    return not plain and (p.groups > 1 or min(taps) > 3 or p.batch > 1 or elements > 20480)


def _reason(algorithm: str, case: Case, threads: int) -> str | None:
    if case.precision not in {"fp32", "fp64"}:
        return f"on a CPU, torch is measured in fp32 and fp64, not in {case.precision}"
    if case.layout is Layout.CHWN:
        return "torch has no layout with the batch innermost: nchw and nhwc are measured"
    if algorithm in {AUTO, "native"}:
        return None
    if algorithm == "onednn":
        return None if takes_onednn(case, threads) else "torch takes its own kernels for this case, not oneDNN"
    return _special_reason(algorithm, case)


def _special_reason(algorithm: str, case: Case) -> str | None:
    """Why what torch does not take by itself cannot do a case."""
    p = case.problem
    even = not any(any(split_padding(axis)[1]) for axis in p.axes)
    if case.dtype is not Dtype.FP32 or case.conv_pass is not ConvPass.FPROP or not even or not p.batch:
        return f"{algorithm} is for fprop in fp32, with the same padding on both sides and a batch of at least 1"
    unit = p.stride == p.dilation == (1,) * p.ndim
    small = all(a.before < a.filter <= LARGEST_NNPACK_FILTER for a in p.axes)
    plane = p.ndim == 2 and p.groups == 1 and case.layout is Layout.NCHW
    if algorithm == "nnpack" and not (unit and small and plane):
        return "nnpack is for 2-D in nchw, one group, stride and dilation 1, filters up to 16 and padding below that"
    return None


def _candidate(name: str, case: Case, threads: int) -> Candidate:
    if reason := _reason(name, case, threads):
        return Candidate(name, reason)
    p = case.problem
    tensors = sum(map(math.prod, (p.x_shape, p.w_shape, p.y_shape))) * case.dtype.itemsize
    blocks = max(KEPT_BLOCKS, p.groups) if name == "native" else KEPT_BLOCKS  # each group's may lie elsewhere
    scratch = blocks * scratch_bytes(name, case)
    accuracy = WINOGRAD_ACCURACY if name == "nnpack" and p.filter_size == (3, 3) else SUM_ACCURACY
    return Candidate(name, None, tensors + scratch + LIBRARY_BYTES, scratch, accuracy=accuracy)


def scratch_bytes(algorithm: str, case: Case) -> int:
    """Memory that a run needs beside its tensors, estimated: torch does not say.

    oneDNN may reorder each tensor; torch's own kernels gather the windows of all images of a group into a matrix;
    NNPACK transforms the filter, and all tiles of an image, which are as small as the filter at worst.
    """
    p = case.problem
    x, w, y = map(math.prod, (p.x_shape, p.w_shape, p.y_shape))
    copies = x if any(any(split_padding(axis)[1]) for axis in p.axes) else 0
    if algorithm == "native":
        elements = (
            x + y + math.prod(p.filter_size) * (x // p.groups // math.prod(p.input_size)) * math.prod(p.output_size)
        )
    elif algorithm == "nnpack":
        tiles = math.prod(-(-a.output // (LARGEST_NNPACK_FILTER + 1 - a.filter)) for a in p.axes)
        elements = NNPACK_POINTS * (w // math.prod(p.filter_size) + (p.in_channels + p.out_channels) * tiles)
    else:
        elements = x + w + y
    return (copies + elements) * case.dtype.itemsize
