"""One convolution and what is asked of it; the only place that computes output extents.

Terms are those of the glossary in docs/method.md. What is computed is a cross-correlation, the "convolution" of
machine learning: y[n, k, p] = Σ_c,r w[k, c, r] · x[n, c, p·stride + r·dilation − before].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from convbench.errors import InputError, shown

MAX_EXTENT = 2**31 - 1
"""Largest extent accepted: what the 32-bit integers of every convolution library hold."""

AXIS_NAMES = {1: "w", 2: "hw", 3: "dhw"}
TAP_NAMES = {1: "s", 2: "rs", 3: "trs"}


class ConvPass(StrEnum):
    """Which of the three products: y from x and w, dx from dy and w, dw from x and dy."""

    FPROP = "fprop"
    DGRAD = "dgrad"
    WGRAD = "wgrad"


class Dtype(StrEnum):
    """How tensors are stored."""

    FP64 = "fp64"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2}[self]


class MathMode(StrEnum):
    """Which pipe multiplies; -tc is a tensor core that accumulates in fp32."""

    FP64 = "fp64"
    FP32 = "fp32"
    TF32 = "tf32"
    FP16_TC = "fp16-tc"
    BF16_TC = "bf16-tc"


PRECISIONS: dict[str, tuple[Dtype, MathMode]] = {
    "fp64": (Dtype.FP64, MathMode.FP64),
    "fp32": (Dtype.FP32, MathMode.FP32),
    "tf32": (Dtype.FP32, MathMode.TF32),
    "fp16": (Dtype.FP16, MathMode.FP16_TC),
    "bf16": (Dtype.BF16, MathMode.BF16_TC),
}
"""The values of `--dtype`: storage and math mode."""


class Epilogue(StrEnum):
    """What fprop does with its result before it is stored."""

    NONE = "none"
    BIAS = "bias"
    BIAS_RELU = "bias+relu"


class Layout(StrEnum):
    """Order of a tensor's axes in memory, outermost first, named for two spatial axes."""

    NCHW = "nchw"
    NHWC = "nhwc"
    CHWN = "chwn"

    def name_for(self, ndim: int) -> str:
        """The layout's name for `ndim` spatial axes: "ncw", "nchw" or "ncdhw"."""
        return self.value.replace("hw", AXIS_NAMES[ndim])

    def order(self, ndim: int) -> tuple[int, ...]:
        """The axes of a canonical (n, c, spatial…) or (k, c, taps…) array in memory order, outermost first.

        The filter follows its activations: KCRS with nchw, KRSC with nhwc, CRSK with chwn.
        """
        spatial = tuple(range(2, 2 + ndim))
        return {
            Layout.NCHW: (0, 1, *spatial),
            Layout.NHWC: (0, *spatial, 1),
            Layout.CHWN: (1, *spatial, 0),
        }[self]

    @classmethod
    def parse(cls, text: str) -> Layout:
        """The layout called `text`, by its 1-D, 2-D or 3-D name.

        Raises:
            InputError: no layout has that name.
        """
        names = {layout.name_for(ndim): layout for layout in cls for ndim in AXIS_NAMES}
        if text not in names:
            raise InputError(f"unknown layout {text!r}; allowed: {', '.join(cls)} and their 1-D and 3-D forms")
        return names[text]


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a problem: extents in elements, and where each filter tap lands."""

    input: int
    filter: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def output(self) -> int:
        """floor((input + before + after − dilation·(filter − 1) − 1) / stride) + 1."""
        return (self.input + self.before + self.after - self.reach - 1) // self.stride + 1

    @property
    def reach(self) -> int:
        """Distance from the first tap to the last, in input elements."""
        return self.dilation * (self.filter - 1)

    def span(self, tap: int) -> tuple[int, int]:
        """(first, stop) of the outputs for which `tap` lands inside the input; first == stop if there is none."""
        offset = tap * self.dilation - self.before
        first = max(0, -(offset // self.stride))
        stop = min(self.output, (self.input - 1 - offset) // self.stride + 1)
        return first, max(first, stop)


def _integer(name: str, value: object, lowest: int | None, highest: int = MAX_EXTENT) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} must be an integer, got {shown(value)}")
    if lowest is not None and value < lowest:
        raise InputError(f"{name} must be >= {lowest}, got {shown(value)}")
    if abs(value) > highest:
        raise InputError(f"{name} must be at most {highest} in size, got {shown(value)}")
    return value


def _per_axis(name: str, value: object, ndim: int, lowest: int) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or len(value) != ndim:
        raise InputError(f"{name} must have {ndim} entries, one per spatial axis, got {shown(value)}")
    return tuple(_integer(f"{name}_{axis}", v, lowest) for axis, v in zip(AXIS_NAMES[ndim], value, strict=True))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One 1-D, 2-D or 3-D convolution. Spatial fields hold one entry per axis, outermost first.

    Attributes:
        batch: images per minibatch, N; 0 is legal.
        in_channels: input maps, C.
        out_channels: output maps, K.
        input_size: input extents, (D,)H,W.
        filter_size: filter extents, (T,)R,S.
        groups: channel groups, G; depthwise when equal to in_channels.
        stride: per axis; all 1 if left out.
        dilation: per axis; all 1 if left out.
        padding: (before, after) per axis; `after` may differ from `before` and be negative, which crops.

    Raises:
        InputError: a field breaks a rule; the text names field, value and rule.
    """

    batch: int
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    filter_size: tuple[int, ...]
    groups: int = 1
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name, lowest in (("batch", 0), ("in_channels", 1), ("out_channels", 1), ("groups", 1)):
            _integer(name, getattr(self, name), lowest)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise InputError(f"{name} must be a multiple of groups ({self.groups}), got {getattr(self, name)}")
        if not isinstance(self.input_size, Sequence) or len(self.input_size) not in AXIS_NAMES:
            raise InputError(f"input_size must have 1, 2 or 3 entries, got {shown(self.input_size)}")
        ndim = len(self.input_size)
        for name in ("input_size", "filter_size", "stride", "dilation"):
            value = getattr(self, name)
            if value == () and name in {"stride", "dilation"}:
                value = (1,) * ndim
            object.__setattr__(self, name, _per_axis(name, value, ndim, 1))
        padding = ((0, 0),) * ndim if self.padding == () else self.padding
        if not isinstance(padding, Sequence) or len(padding) != ndim:
            raise InputError(
                f"padding must have {ndim} pairs (before, after), one per spatial axis, got {shown(padding)}"
            )
        pairs = []
        for axis, pair in zip(AXIS_NAMES[ndim], padding, strict=True):
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise InputError(f"padding_{axis} must be a pair (before, after), got {shown(pair)}")
            pairs.append(
                (_integer(f"padding_{axis} before", pair[0], 0), _integer(f"padding_{axis} after", pair[1], None))
            )
        object.__setattr__(self, "padding", tuple(pairs))
        for letter, extents in zip(AXIS_NAMES[ndim], self.axes, strict=True):
            padded = extents.input + extents.before + extents.after
            if padded <= extents.reach:
                raise InputError(
                    f"filter_size_{letter} spans {extents.reach + 1} elements (filter {extents.filter}, dilation "
                    f"{extents.dilation}) but the padded input has {padded}: no output is left"
                )

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.input_size)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The spatial axes, outermost first."""
        return tuple(
            Axis(n, r, s, d, before, after)
            for n, r, s, d, (before, after) in zip(
                self.input_size, self.filter_size, self.stride, self.dilation, self.padding, strict=True
            )
        )

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """Output extents, (Z,)P,Q."""
        return tuple(axis.output for axis in self.axes)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """(N, C, input extents…)."""
        return (self.batch, self.in_channels, *self.input_size)

    @property
    def w_shape(self) -> tuple[int, ...]:
        """(K, C/G, filter extents…)."""
        return (self.out_channels, self.in_channels // self.groups, *self.filter_size)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """(N, K, output extents…)."""
        return (self.batch, self.out_channels, *self.output_size)

    def describe(self) -> str:
        """The shape in one short line: "128×3×224×224 → 96, 11×11 /4 p2"."""

        def times(values: Sequence[object]) -> str:
            return "×".join(str(v) for v in (values[:1] if len(set(values)) == 1 else values))

        text = f"{'×'.join(map(str, self.x_shape))} → {self.out_channels}, {'×'.join(map(str, self.filter_size))}"
        if set(self.stride) != {1}:
            text += f" /{times(self.stride)}"
        if any(pair != (0, 0) for pair in self.padding):
            text += " p" + times([f"{b}" if b == a else f"({b},{a})" for b, a in self.padding])
        if set(self.dilation) != {1}:
            text += f" d{times(self.dilation)}"
        return text + (f" g{self.groups}" if self.groups > 1 else "")

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Problem:
        """The problem written by `to_dict`.

        Raises:
            InputError: a field is missing, unknown or breaks a rule.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            raise InputError(f"not a problem: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Case:
    """A problem, and which pass, types, layout and epilogue of it.

    Attributes:
        suite: name of the suite it comes from.
        name: the problem's name there.
        repeat: how often the problem occurs in its network.

    Raises:
        InputError: an epilogue with a pass other than fprop, or a math mode that does not go with the dtype.
    """

    suite: str
    name: str
    problem: Problem
    conv_pass: ConvPass
    dtype: Dtype = Dtype.FP32
    math_mode: MathMode = MathMode.FP32
    layout: Layout = Layout.NCHW
    epilogue: Epilogue = Epilogue.NONE
    repeat: int = 1

    def __post_init__(self) -> None:
        if (self.dtype, self.math_mode) not in PRECISIONS.values():
            allowed = ", ".join(f"{dtype} with {math_mode}" for dtype, math_mode in PRECISIONS.values())
            raise InputError(f"math mode {self.math_mode} does not go with dtype {self.dtype}; allowed: {allowed}")
        if self.epilogue is not Epilogue.NONE and self.conv_pass is not ConvPass.FPROP:
            raise InputError(f"epilogue {self.epilogue} belongs to fprop; {self.conv_pass} takes none")

    @property
    def precision(self) -> str:
        """The name that `--dtype` gives this dtype and math mode."""
        return next(name for name, pair in PRECISIONS.items() if pair == (self.dtype, self.math_mode))

    @property
    def layout_name(self) -> str:
        """The layout, by its name for this number of axes."""
        return self.layout.name_for(self.problem.ndim)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Canonical shape of what the pass writes: y, dx or dw."""
        p = self.problem
        return {ConvPass.FPROP: p.y_shape, ConvPass.DGRAD: p.x_shape, ConvPass.WGRAD: p.w_shape}[self.conv_pass]

    @property
    def accumulation_length(self) -> int:
        """Most products summed into one output element, L in docs/method.md."""
        p = self.problem
        taps = 1
        for axis in p.axes:
            if self.conv_pass is ConvPass.WGRAD:
                taps *= axis.output
            elif self.conv_pass is ConvPass.DGRAD:
                # taps that meet in one element lie stride/gcd apart, the outputs that they belong to dilation/gcd
                common = math.gcd(axis.stride, axis.dilation)
                taps *= min(-(-axis.filter * common // axis.stride), -(-axis.output * common // axis.dilation))
            else:
                taps *= axis.filter
        others = {
            ConvPass.FPROP: p.in_channels // p.groups,
            ConvPass.DGRAD: p.out_channels // p.groups,
            ConvPass.WGRAD: p.batch,
        }
        return max(1, taps * others[self.conv_pass])

    def label(self) -> str:
        """The case in words, for messages: "alexnet/conv1 fprop fp32 nchw"."""
        text = f"{self.suite}/{self.name} {self.conv_pass} {self.precision} {self.layout_name}"
        return text if self.epilogue is Epilogue.NONE else f"{text} {self.epilogue}"
