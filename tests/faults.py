"""Faults that a convolution may have, each as the output it would write: what verification must catch.

test_verify.py injects them into a few fixed problems, benchmarks/verification.py into thousands of random ones.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convbench import reference
from convbench.backends import ErrorBound, PlanOptions
from convbench.backends.cpu import CpuBackend
from convbench.operands import Operands, grouped
from convbench.problem import Axis, Case, ConvPass, Dtype, Layout, MathMode, Problem
from convbench.work import Work

Array = NDArray[Any]

PROBLEMS = {
    "1d": Problem(batch=4, in_channels=6, out_channels=6, groups=2, input_size=(31,), filter_size=(5,),
                  stride=(3,), dilation=(2,), padding=((3, 2),)),
    "2d": Problem(batch=3, in_channels=8, out_channels=8, groups=2, input_size=(13, 12), filter_size=(3, 3),
                  stride=(2, 1), dilation=(1, 2), padding=((1, 2), (2, 1))),
    "3d": Problem(batch=2, in_channels=4, out_channels=4, groups=2, input_size=(6, 7, 8), filter_size=(3, 2, 3),
                  stride=(1, 2, 1), dilation=(2, 1, 1), padding=((2, 2), (1, 0), (1, 2))),
    "dense": Problem(batch=5, in_channels=12, out_channels=12, input_size=(16, 16), filter_size=(3, 3),
                     padding=((1, 1), (1, 1))),
    "depthwise": Problem(batch=5, in_channels=6, out_channels=6, groups=6, input_size=(9, 8), filter_size=(3, 3),
                         padding=((1, 1), (1, 2))),
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """`make` takes a case, its operands and the poisoned output, and returns what is there after the run."""

    name: str
    make: Callable[[Case, Operands, Array], Array]
    applies: Callable[[Case], bool] = lambda case: True


class FaultyPlan:
    """A plan that writes what a fault makes of its output; without a fault, the reference rounded to the dtype."""

    algorithm = "faulty"
    work = Work(())
    workspace_bytes = 0

    def __init__(self, case: Case, operands: Operands, error_bound: ErrorBound, fault: Fault | None = None) -> None:
        self.case, self.operands, self.error_bound, self.fault = case, operands, error_bound, fault
        self.array: Array = np.zeros(case.output_shape, operands.dtype)

    def run(self) -> None:
        written = (
            self.fault.make(self.case, self.operands, self.array) if self.fault else correct(self.case, self.operands)
        )
        self.array = written.astype(self.operands.dtype)

    def poison(self) -> None:
        self.array = np.full_like(self.array, np.nan)

    def output(self) -> Array:
        return self.array


def make_case(problem: Problem, conv_pass: ConvPass, dtype: Dtype = Dtype.FP32, layout: Layout = Layout.NCHW) -> Case:
    math_mode = MathMode.FP64 if dtype is Dtype.FP64 else MathMode.FP32
    return Case(suite="test", name="p", problem=problem, conv_pass=conv_pass, dtype=dtype, math_mode=math_mode,
                layout=layout)  # fmt: skip


def bounds(case: Case, operands: Operands) -> dict[str, ErrorBound]:
    """The two kinds of bound: element-wise (direct and gemm), and the FFT's over a whole plane."""
    fft = CpuBackend().plan(case, "fft", operands, PlanOptions())
    return {"direct": ErrorBound(), "fft": fft.error_bound}


def run_pass(conv_pass: ConvPass, problem: Problem, x: Array, w: Array, dy: Array) -> Array:
    """The float64 reference on canonical arrays."""
    x, w, dy = grouped(x, problem.groups, 1), grouped(w, problem.groups, 0), grouped(dy, problem.groups, 1)
    if conv_pass is ConvPass.WGRAD:
        dw = reference.wgrad(problem.axes, dy, x)
        return dw.reshape(dw.shape[0] * dw.shape[1], *dw.shape[2:])
    out = reference.fprop(problem.axes, x, w) if conv_pass is ConvPass.FPROP else reference.dgrad(problem.axes, dy, w)
    return out.reshape(out.shape[0], out.shape[1] * out.shape[2], *out.shape[3:])


def correct(case: Case, operands: Operands, problem: Problem | None = None, **changed: Array) -> Array:
    """The pass in float64, of another problem or other operands if they are given."""
    tensors = {"x": operands.x, "w": operands.w, "dy": operands.dy, **changed}
    return run_pass(case.conv_pass, problem or case.problem, **tensors)


# Wrong outputs


def _of_output(change: Callable[[Case, Array], Array]) -> Callable[[Case, Operands, Array], Array]:
    return lambda case, operands, poisoned: change(case, correct(case, operands))


def _set(places: Any, value: float) -> Callable[[Case, Operands, Array], Array]:
    def change(case: Case, out: Array) -> Array:
        out[places] = value
        return out

    return _of_output(change)


def _channel_axis(case: Case) -> int:
    return 0 if case.conv_pass is ConvPass.WGRAD else 1


def _swap_first(out: Array, axis: int) -> Array:
    order = [1, 0, *range(2, out.shape[axis])]
    return np.take(out, order, axis=axis)


def _last_tile_missing(case: Case, out: Array) -> Array:
    tile = max(1, out.shape[-1] // 4)
    out[-1, -1, ..., -tile:] = 0
    return out


def _rms(out: Array) -> float:
    return float(np.sqrt(np.mean(out**2)))


def _border_copies_neighbour(case: Case, out: Array) -> Array:
    out[..., 0] = out[..., 1]
    return out


def _seam_repeated(case: Case, out: Array) -> Array:
    seam = out.shape[-1] // 2
    out[..., seam] = out[..., seam - 1]
    return out


def _one_element_off(case: Case, out: Array) -> Array:
    place = tuple(extent // 3 for extent in out.shape)
    out[place] += 0.01 * _rms(out)
    return out


def _layout_confused(case: Case, out: Array) -> Array:
    return np.ascontiguousarray(out.transpose(Layout.NHWC.order(case.problem.ndim))).reshape(out.shape)


def _partly_unwritten(case: Case, operands: Operands, poisoned: Array) -> Array:
    poisoned[..., :-1] = correct(case, operands)[..., :-1]
    return poisoned


def _images_swapped(case: Case, operands: Operands, poisoned: Array) -> Array:
    if case.conv_pass is ConvPass.WGRAD:
        return correct(case, operands, x=_swap_first(operands.x, 0))
    return _swap_first(correct(case, operands), 0)


def _bias_added(case: Case, operands: Operands, poisoned: Array) -> Array:
    return correct(case, operands) + operands.bias.reshape(-1, *[1] * case.problem.ndim)


def _other_operands(case: Case, operands: Operands, poisoned: Array) -> Array:
    return correct(case, Operands(case.problem, case.dtype, operands.seed + 1))


# Wrong filters: in wgrad the filter's gradient is changed


def _of_filter(change: Callable[[Problem, Array], Array]) -> Callable[[Case, Operands, Array], Array]:
    def make(case: Case, operands: Operands, poisoned: Array) -> Array:
        if case.conv_pass is ConvPass.WGRAD:
            return change(case.problem, correct(case, operands))
        return correct(case, operands, w=change(case.problem, operands.w.copy()))

    return make


def _channels_transposed(problem: Problem, w: Array) -> Array:
    return grouped(w, problem.groups, 0).swapaxes(1, 2).reshape(w.shape)


def _groups_rotated(problem: Problem, w: Array) -> Array:
    return np.roll(grouped(w, problem.groups, 0), 1, axis=0).reshape(w.shape)


def _last_tap_missing(problem: Problem, w: Array) -> Array:
    w[(..., *[-1] * problem.ndim)] = 0
    return w


def _first_filter_negated(problem: Problem, w: Array) -> Array:
    w[0] *= -1
    return w


# Wrong geometry: the output keeps its shape


def _of_axes(change: Callable[[Axis], Axis]) -> Callable[[Case, Operands, Array], Array]:
    def make(case: Case, operands: Operands, poisoned: Array) -> Array:
        axes = [change(axis) for axis in case.problem.axes]
        wrong = replace(
            case.problem,
            stride=tuple(a.stride for a in axes),
            dilation=tuple(a.dilation for a in axes),
            padding=tuple((a.before, a.after) for a in axes),
        )
        return correct(case, operands, wrong)

    return make


def _shifted(axis: Axis, by: int) -> Axis:
    return replace(axis, before=axis.before + by, after=axis.after - by)


def _fitted(axis: Axis, **changed: int) -> Axis:
    """The axis with other steps, and the padding after it that leaves the number of outputs as it was."""
    wrong = replace(axis, **changed)
    return replace(wrong, after=(axis.output - 1) * wrong.stride + wrong.reach + 1 - axis.input - axis.before)


def _padding_from(places: Callable[[Axis], Array]) -> Callable[[Case, Operands, Array], Array]:
    """Padding that repeats the input instead of zeros: element i of the padded axis is input element places[i]."""

    def make(case: Case, operands: Operands, poisoned: Array) -> Array:
        indices = [places(axis) for axis in case.problem.axes]
        padded = replace(case.problem, input_size=tuple(map(len, indices)), padding=())
        dilated = correct(case, operands, padded, x=operands.x[(slice(None), slice(None), *np.ix_(*indices))])
        if case.conv_pass is ConvPass.DGRAD:  # the adjoint of repeating: what was repeated is summed
            for axis, (index, extent) in enumerate(zip(indices, case.problem.input_size, strict=True), start=2):
                spread = np.moveaxis(dilated, axis, 0)
                folded = np.zeros((extent, *spread.shape[1:]))
                np.add.at(folded, index, spread)
                dilated = np.moveaxis(folded, 0, axis)
        return dilated

    return make


def _padded_places(axis: Axis) -> Array:
    return np.arange(-axis.before, axis.input + axis.after)


# Wrong arithmetic


def _significand(values: Array, bits: int) -> Array:
    """Values rounded to `bits` significand bits."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits)


def _rounded_operands(bits: int, case: Case, operands: Operands, poisoned: Array) -> Array:
    tensors = {"x": operands.x, "w": operands.w, "dy": operands.dy}
    return correct(case, operands, **{name: _significand(tensor, bits) for name, tensor in tensors.items()})


def _terms(case: Case, operands: Operands) -> list[dict[str, Array]]:
    """The operands of each term of the outer sum: over input channels, output channels or images."""
    p = case.problem
    summed = {ConvPass.FPROP: ("x", "w"), ConvPass.DGRAD: ("dy", "w"), ConvPass.WGRAD: ("x", "dy")}[case.conv_pass]
    count = {ConvPass.FPROP: p.w_shape[1], ConvPass.DGRAD: p.out_channels // p.groups, ConvPass.WGRAD: p.batch}
    tensors = {"x": operands.x, "w": operands.w, "dy": operands.dy}

    def keep(name: str, term: int) -> Array:
        """One tensor with everything but one channel of each group, or one image, set to 0."""
        kept = np.zeros_like(tensors[name])
        if case.conv_pass is ConvPass.WGRAD:
            kept[term] = tensors[name][term]
        elif name == "w" and case.conv_pass is ConvPass.FPROP:
            kept[:, term] = tensors[name][:, term]
        else:
            axis = 0 if name == "w" else 1
            places = (slice(None),) * (axis + 1) + (term,)
            grouped(kept, p.groups, axis)[places] = grouped(tensors[name], p.groups, axis)[places]
        return kept

    return [{name: keep(name, term) for name in summed} for term in range(count[case.conv_pass])]


def _half_accumulation(case: Case, operands: Operands, poisoned: Array) -> Array:
    total = np.zeros(case.output_shape, np.float16)
    for term in _terms(case, operands):
        total += correct(case, operands, **term).astype(np.float16)
    return total


def _last_term_missing(case: Case, operands: Operands, poisoned: Array) -> Array:
    terms = _terms(case, operands)[:-1]
    return sum((correct(case, operands, **term) for term in terms), start=np.zeros(case.output_shape))


# Where a fault changes anything


def _channels(case: Case) -> int:
    return case.output_shape[_channel_axis(case)]


def _plane(case: Case) -> int:
    return math.prod(case.output_shape[2:])


def _has_axis(condition: Callable[[Axis], bool]) -> Callable[[Case], bool]:
    return lambda case: any(map(condition, case.problem.axes))


def _square_taps(case: Case) -> bool:
    sizes = case.problem.filter_size
    return len(sizes) > 1 and sizes[0] == sizes[-1] > 1


def _square_channels(case: Case) -> bool:
    return case.problem.out_channels == case.problem.in_channels > case.problem.groups


def _wide(case: Case) -> bool:
    return case.output_shape[-1] > 1


def _padded(axis: Axis) -> bool:
    return axis.before > 0 or axis.after > 0


FAULTS = [
    Fault("nothing written", lambda case, operands, poisoned: poisoned),
    Fault("last column unwritten", _partly_unwritten),
    Fault("adds to what was there", lambda case, operands, poisoned: poisoned + correct(case, operands)),
    Fault("one NaN", _set((-1, 0), np.nan)),
    Fault("one infinity", _set((0, -1), np.inf)),
    Fault("wrong shape", _of_output(lambda case, out: out[..., None])),
    Fault("zeros", _of_output(lambda case, out: np.zeros_like(out))),
    Fault("result of other operands", _other_operands),
    Fault("scaled by 1.001", _of_output(lambda case, out: out * 1.001)),
    Fault("1 % of the RMS added", _of_output(lambda case, out: out + 0.01 * _rms(out))),
    Fault("bias added", _bias_added, lambda case: case.conv_pass is ConvPass.FPROP),
    Fault("relu applied", _of_output(lambda case, out: np.maximum(out, 0))),
    Fault("border copies its neighbour", _of_output(_border_copies_neighbour), _wide),
    Fault("last tile missing", _of_output(_last_tile_missing)),
    Fault("seam repeated", _of_output(_seam_repeated), _wide),
    Fault("one element off by 1 % of the RMS", _of_output(_one_element_off)),
    Fault("nhwc taken for nchw", _of_output(_layout_confused), lambda c: c.output_shape[1] > 1 and _plane(c) > 1),
    Fault("two images swapped", _images_swapped, lambda case: case.problem.batch > 1),
    Fault("two channels swapped", _of_output(lambda case, out: _swap_first(out, _channel_axis(case))),
          lambda case: _channels(case) > 1),
    Fault("taps transposed", _of_filter(lambda problem, w: w.swapaxes(2, -1)), _square_taps),
    Fault("filter's channels transposed", _of_filter(_channels_transposed), _square_channels),
    Fault("filter flipped", _of_filter(lambda problem, w: np.flip(w, tuple(range(2, w.ndim)))),
          _has_axis(lambda axis: axis.filter > 1)),
    Fault("groups swapped", _of_filter(_groups_rotated), lambda case: case.problem.groups > 1),
    Fault("last tap missing", _of_filter(_last_tap_missing)),
    Fault("one filter negated", _of_filter(_first_filter_negated)),
    Fault("padding off by one", _of_axes(partial(_shifted, by=1))),
    Fault("padding before and after exchanged", _of_axes(lambda a: replace(a, before=a.after, after=a.before)),
          lambda c: all(a.after >= 0 for a in c.problem.axes) and _has_axis(lambda a: a.before != a.after)(c)),
    Fault("padding repeats the edge", _padding_from(lambda a: np.clip(_padded_places(a), 0, a.input - 1)),
          _has_axis(_padded)),
    Fault("padding wraps around", _padding_from(lambda a: _padded_places(a) % a.input), _has_axis(_padded)),
    Fault("dilation dropped", _of_axes(partial(_fitted, dilation=1)),
          _has_axis(lambda axis: axis.dilation > 1 and axis.filter > 1)),
    Fault("stride dropped", _of_axes(partial(_fitted, stride=1)),
          _has_axis(lambda axis: axis.stride > 1 and axis.output > 1)),
    Fault("wrong phase of the stride", _of_axes(lambda axis: _shifted(axis, axis.stride - 1)),
          _has_axis(lambda axis: axis.stride > 1)),
    Fault("last channel or image of the sum missing", _last_term_missing),
    Fault("accumulates in fp16", _half_accumulation),
    Fault("operands rounded to 8 bits, as bf16", partial(_rounded_operands, 8)),
    Fault("operands rounded to 11 bits, as tf32", partial(_rounded_operands, 11)),
    Fault("operands rounded to 24 bits, as fp32", partial(_rounded_operands, 24), lambda c: c.dtype is Dtype.FP64),
]  # fmt: skip

CASES = [
    make_case(problem, conv_pass, dtype)
    for problem, conv_pass, dtype in [
        *itertools.product(PROBLEMS.values(), ConvPass, [Dtype.FP32]),
        *itertools.product([PROBLEMS["2d"]], ConvPass, [Dtype.FP64]),
    ]
]
"""What every fault that applies is injected into."""
