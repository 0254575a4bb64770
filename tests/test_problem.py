"""Problems and cases: extents against brute force, and every rule that a bad one breaks."""

import copy
import itertools
import json
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convbench.errors import InputError
from convbench.problem import (
    MAX_EXTENT,
    PRECISIONS,
    Axis,
    Case,
    ConvPass,
    Dtype,
    Epilogue,
    Layout,
    MathMode,
    Problem,
)

PROPERTY = settings(max_examples=200)
SMALL = {"batch": 2, "in_channels": 4, "out_channels": 6, "input_size": (9, 8), "filter_size": (3, 2)}


def make(**changes):
    return Problem(**(SMALL | changes))


@st.composite
def axes(draw):
    """A legal axis: any stride and dilation, uneven padding, cropped as far as one output is left."""
    extent, taps = draw(st.integers(1, 14)), draw(st.integers(1, 6))
    stride, dilation, before = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 7))
    least = dilation * (taps - 1) + 1 - extent - before
    after = draw(st.integers(least, max(least, 7)))
    return Axis(extent, taps, stride, dilation, before, after)


@st.composite
def problems(draw):
    chosen = draw(st.lists(axes(), min_size=1, max_size=3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    return Problem(
        batch=draw(st.integers(0, 3)),
        in_channels=groups * draw(st.integers(1, 3)),
        out_channels=groups * draw(st.integers(1, 3)),
        groups=groups,
        input_size=tuple(axis.input for axis in chosen),
        filter_size=tuple(axis.filter for axis in chosen),
        stride=tuple(axis.stride for axis in chosen),
        dilation=tuple(axis.dilation for axis in chosen),
        padding=tuple((axis.before, axis.after) for axis in chosen),
    )


def positions(axis):
    """First elements, in the padded input, of the filter placements that lie inside it."""
    padded = range(axis.input + axis.before + axis.after)
    return [
        start
        for start in padded[:: axis.stride]
        if all(start + tap * axis.dilation in padded for tap in range(axis.filter))
    ]


def hits(axis):
    """(output, tap, input) wherever a tap lands inside the input."""
    for output, start in enumerate(positions(axis)):
        for tap in range(axis.filter):
            element = start + tap * axis.dilation - axis.before
            if 0 <= element < axis.input:
                yield output, tap, element


# Extents


@PROPERTY
@given(axes())
@example(Axis(5, 3, 1, 2, 0, 0))  # dilated: (filter − 1)·dilation + 1 = 5 elements, not 3·2
@example(Axis(224, 11, 4, 1, 2, 2))
@example(Axis(10, 1, 3, 1, 0, -9))
def test_output_counts_the_valid_positions(axis):
    assert axis.output == len(positions(axis)) >= 1
    assert axis.reach == max(tap * axis.dilation for tap in range(axis.filter))


@PROPERTY
@given(axes())
@example(Axis(1, 2, 1, 2, 1, 1))  # both taps land in padding
def test_span_holds_the_outputs_whose_tap_lands_inside(axis):
    for tap in range(axis.filter):
        first, stop = axis.span(tap)
        expected = [output for output, other, _ in hits(axis) if other == tap]
        assert list(range(first, stop)) == expected
        assert 0 <= first <= stop


@pytest.mark.parametrize(
    ("extent", "taps", "stride", "dilation", "padding", "output"),
    [
        (224, 11, 4, 1, (2, 2), 55),  # the talk's example
        (224, 11, 4, 1, (0, 0), 54),
        (227, 11, 4, 1, (0, 0), 55),
        (56, 3, 1, 1, (1, 1), 56),
        (56, 1, 2, 1, (0, 0), 28),
        (32, 3, 1, 2, (2, 2), 32),
        (5, 5, 1, 1, (0, 0), 1),
        (10, 3, 2, 1, (0, 1), 5),
        (10, 3, 1, 1, (0, -2), 6),
        (MAX_EXTENT, 1, 1, 1, (0, 0), MAX_EXTENT),
    ],
)
def test_output_extents_by_hand(extent, taps, stride, dilation, padding, output):
    p = make(
        input_size=(extent,), filter_size=(taps,), stride=(stride,), dilation=(dilation,), padding=(padding,)
    )  # fmt: skip
    assert p.output_size == (output,)


@PROPERTY
@given(problems())
def test_shapes(p):
    output = tuple(len(positions(axis)) for axis in p.axes)
    assert p.ndim == len(p.input_size)
    assert p.output_size == output
    assert p.x_shape == (p.batch, p.in_channels, *p.input_size)
    assert p.w_shape == (p.out_channels, p.in_channels // p.groups, *p.filter_size)
    assert p.y_shape == (p.batch, p.out_channels, *output)


def test_left_out_fields():
    p = make()
    assert (p.stride, p.dilation, p.padding, p.groups) == ((1, 1), (1, 1), ((0, 0), (0, 0)), 1)


def test_a_batch_of_0_is_legal():
    p = make(batch=0)
    assert (p.x_shape, p.y_shape) == ((0, 4, 9, 8), (0, 6, 7, 7))
    assert Case(suite="s", name="n", problem=p, conv_pass=ConvPass.WGRAD).accumulation_length == 1


# Rules

BIG = MAX_EXTENT + 1
BAD = [
    # (changes, what the message must say: field, value, rule)
    ({"batch": -1}, ["batch", "-1", ">= 0"]),
    ({"batch": True}, ["batch", "True", "integer"]),
    ({"batch": 1.0}, ["batch", "1.0", "integer"]),
    ({"batch": "1"}, ["batch", "'1'", "integer"]),
    ({"batch": None}, ["batch", "None", "integer"]),
    ({"batch": BIG}, ["batch", str(BIG), str(MAX_EXTENT)]),
    ({"batch": math.nan}, ["batch", "nan", "integer"]),
    ({"in_channels": 0}, ["in_channels", "got 0", ">= 1"]),
    ({"in_channels": False}, ["in_channels", "False", "integer"]),
    ({"in_channels": 4.5}, ["in_channels", "4.5", "integer"]),
    ({"in_channels": BIG}, ["in_channels", str(BIG), str(MAX_EXTENT)]),
    ({"out_channels": 0}, ["out_channels", "got 0", ">= 1"]),
    ({"out_channels": -6}, ["out_channels", "-6", ">= 1"]),
    ({"out_channels": "six"}, ["out_channels", "'six'", "integer"]),
    ({"groups": 0}, ["groups", "got 0", ">= 1"]),
    ({"groups": True}, ["groups", "True", "integer"]),
    ({"groups": -2}, ["groups", "-2", ">= 1"]),
    ({"groups": 3}, ["in_channels", "multiple of groups (3)", "got 4"]),
    ({"groups": 4}, ["out_channels", "multiple of groups (4)", "got 6"]),
    ({"input_size": ()}, ["input_size", "()", "1, 2 or 3"]),
    ({"input_size": (1, 2, 3, 4)}, ["input_size", "(1, 2, 3, 4)", "1, 2 or 3"]),
    ({"input_size": 9}, ["input_size", "got 9", "1, 2 or 3"]),
    ({"input_size": None}, ["input_size", "None", "1, 2 or 3"]),
    ({"input_size": "98"}, ["input_size", "'9", "integer"]),
    ({"input_size": (9, 0)}, ["input_size_w", "got 0", ">= 1"]),
    ({"input_size": (0, 8)}, ["input_size_h", "got 0", ">= 1"]),
    ({"input_size": (9, True)}, ["input_size_w", "True", "integer"]),
    ({"input_size": (9.0, 8)}, ["input_size_h", "9.0", "integer"]),
    ({"input_size": (9, BIG)}, ["input_size_w", str(BIG), str(MAX_EXTENT)]),
    ({"input_size": (9, 8, 7)}, ["filter_size", "(3, 2)", "3 entries"]),
    ({"filter_size": (3,)}, ["filter_size", "(3,)", "2 entries"]),
    ({"filter_size": (3, 3, 3)}, ["filter_size", "(3, 3, 3)", "2 entries"]),
    ({"filter_size": ()}, ["filter_size", "()", "2 entries"]),
    ({"filter_size": 3}, ["filter_size", "got 3", "2 entries"]),
    ({"filter_size": 0}, ["filter_size", "got 0", "2 entries"]),
    ({"filter_size": (0, 2)}, ["filter_size_h", "got 0", ">= 1"]),
    ({"filter_size": (3, -2)}, ["filter_size_w", "-2", ">= 1"]),
    ({"filter_size": (3, "2")}, ["filter_size_w", "'2'", "integer"]),
    ({"stride": (0, 1)}, ["stride_h", "got 0", ">= 1"]),
    ({"stride": (1, 1.5)}, ["stride_w", "1.5", "integer"]),
    ({"stride": (1,)}, ["stride", "(1,)", "2 entries"]),
    ({"stride": 2}, ["stride", "got 2", "2 entries"]),
    ({"stride": 0}, ["stride", "got 0", "2 entries"]),
    ({"stride": None}, ["stride", "None", "2 entries"]),
    ({"stride": False}, ["stride", "False", "2 entries"]),
    ({"stride": (1, BIG)}, ["stride_w", str(BIG), str(MAX_EXTENT)]),
    ({"dilation": (1, 0)}, ["dilation_w", "got 0", ">= 1"]),
    ({"dilation": (True, 1)}, ["dilation_h", "True", "integer"]),
    ({"dilation": (1, 1, 1)}, ["dilation", "(1, 1, 1)", "2 entries"]),
    ({"dilation": 0}, ["dilation", "got 0", "2 entries"]),
    ({"padding": ((0, 0),)}, ["padding", "((0, 0),)", "2 pairs"]),
    ({"padding": 1}, ["padding", "got 1", "2 pairs"]),
    ({"padding": 0}, ["padding", "got 0", "2 pairs"]),
    ({"padding": None}, ["padding", "None", "2 pairs"]),
    ({"padding": (1, 1)}, ["padding_h", "got 1", "pair (before, after)"]),
    ({"padding": ((0, 0), (1,))}, ["padding_w", "(1,)", "pair (before, after)"]),
    ({"padding": ((0, 0, 0), (1, 1))}, ["padding_h", "(0, 0, 0)", "pair (before, after)"]),
    ({"padding": ((-1, 0), (0, 0))}, ["padding_h before", "-1", ">= 0"]),
    ({"padding": ((0, 0), (0, 0.5))}, ["padding_w after", "0.5", "integer"]),
    ({"padding": ((0, 0), (False, 0))}, ["padding_w before", "False", "integer"]),
    ({"padding": ((0, 0), (0, BIG))}, ["padding_w after", str(BIG), str(MAX_EXTENT)]),
    ({"padding": ((0, 0), (0, -BIG))}, ["padding_w after", str(-BIG), str(MAX_EXTENT)]),
    ({"filter_size": (10, 2)}, ["filter_size_h", "spans 10", "padded input has 9"]),
    ({"filter_size": (3, 2), "dilation": (1, 8)}, ["filter_size_w", "spans 9", "dilation 8", "padded input has 8"]),
    ({"padding": ((0, -7), (0, 0))}, ["filter_size_h", "spans 3", "padded input has 2"]),
    ({"padding": ((0, 0), (0, -8)), "filter_size": (1, 1)}, ["filter_size_w", "spans 1", "padded input has 0"]),
    ({"padding": ((0, 0), (0, -50))}, ["filter_size_w", "padded input has -42"]),
]


@pytest.mark.parametrize(("changes", "fragments"), BAD, ids=[str(changes)[:60] for changes, _ in BAD])
def test_a_broken_rule_is_one_line_with_field_value_and_rule(changes, fragments):
    with pytest.raises(InputError) as caught:
        make(**changes)
    message = str(caught.value)
    assert "\n" not in message
    assert [fragment for fragment in fragments if fragment not in message] == [], message


@pytest.mark.parametrize("name", ["batch", "in_channels", "input_size", "padding"])
def test_an_integer_too_long_to_print_is_refused_too(name):
    huge = 1 << 20_000  # str() of it raises ValueError
    value = {"input_size": (9, huge), "padding": ((0, 0), (0, huge))}.get(name, huge)
    with pytest.raises(InputError, match=name):
        make(**{name: value})


def test_the_largest_values_are_accepted():
    p = make(
        batch=MAX_EXTENT,
        in_channels=MAX_EXTENT,
        out_channels=MAX_EXTENT,
        groups=MAX_EXTENT,
        input_size=(MAX_EXTENT, MAX_EXTENT),
        filter_size=(MAX_EXTENT, 1),
        stride=(1, MAX_EXTENT),
        padding=((0, 0), (0, -MAX_EXTENT + 1)),
    )
    assert p.output_size == (1, 1)
    assert p.w_shape == (MAX_EXTENT, 1, MAX_EXTENT, 1)


def test_the_filter_may_fill_the_padded_input_exactly():
    assert make(filter_size=(9, 8)).output_size == (1, 1)
    assert make(filter_size=(11, 8), padding=((1, 1), (0, 0))).output_size == (1, 1)


def test_frozen():
    p = make()
    with pytest.raises(FrozenInstanceError):
        p.batch = 3
    with pytest.raises(FrozenInstanceError):
        Case(suite="s", name="n", problem=p, conv_pass=ConvPass.FPROP).repeat = 2
    with pytest.raises(FrozenInstanceError):
        p.axes[0].stride = 2


def test_replace_validates_again_and_forgets_what_it_had_computed():
    p = make()
    assert p.output_size == (7, 7)
    assert replace(p, input_size=(5, 5)).output_size == (3, 4)
    with pytest.raises(InputError, match="batch"):
        replace(p, batch=-1)


@PROPERTY
@given(problems())
def test_equal_problems_hash_alike_and_copies_are_equal(p):
    again = Problem.from_dict(p.to_dict())
    assert p.output_size  # computed once on one of the two only
    assert again == p
    assert hash(again) == hash(p)
    assert copy.deepcopy(p) == p
    assert pickle.loads(pickle.dumps(p)) == p
    assert replace(p, batch=p.batch + 1) != p


# To and from a file


@PROPERTY
@given(problems())
def test_a_problem_survives_a_file(p):
    assert Problem.from_dict(p.to_dict()) == p
    through_json = Problem.from_dict(json.loads(json.dumps(p.to_dict())))
    assert through_json == p
    assert hash(through_json) == hash(p)  # lists have become tuples again
    assert type(through_json.padding[0]) is tuple


@pytest.mark.parametrize(
    ("written", "fragment"),
    [
        ({}, "batch"),
        ({key: value for key, value in SMALL.items() if key != "filter_size"}, "filter_size"),
        (SMALL | {"bacth": 1}, "bacth"),
        (SMALL | {"batch": -1}, "batch must be >= 0"),
        (SMALL | {1: 2}, "not a problem"),
        (None, "not a problem"),
        ([], "not a problem"),
    ],
)
def test_what_is_not_a_problem_is_refused_in_one_line(written, fragment):
    with pytest.raises(InputError) as caught:
        Problem.from_dict(written)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"batch": 128, "in_channels": 3, "out_channels": 96, "input_size": (224, 224), "filter_size": (11, 11),
             "stride": (4, 4), "padding": ((2, 2), (2, 2))},
            "128×3×224×224 → 96, 11×11 /4 p2",
        ),
        ({}, "2×4×9×8 → 6, 3×2"),
        ({"stride": (1, 2)}, "2×4×9×8 → 6, 3×2 /1×2"),
        ({"padding": ((1, 1), (0, 0))}, "2×4×9×8 → 6, 3×2 p1×0"),
        ({"padding": ((0, 1), (0, 1))}, "2×4×9×8 → 6, 3×2 p(0,1)"),
        ({"padding": ((1, -1), (2, 2))}, "2×4×9×8 → 6, 3×2 p(1,-1)×2"),
        ({"dilation": (2, 2)}, "2×4×9×8 → 6, 3×2 d2"),
        ({"groups": 2}, "2×4×9×8 → 6, 3×2 g2"),
        ({"input_size": (9,), "filter_size": (3,)}, "2×4×9 → 6, 3"),
    ],
)  # fmt: skip
def test_describe(changes, text):
    assert make(**changes).describe() == text


@PROPERTY
@given(problems(), st.data())
def test_a_problem_that_differs_in_one_field_is_described_differently(p, data):
    name = data.draw(st.sampled_from([field.name for field in fields(Problem)]))
    value = getattr(p, name)
    if isinstance(value, tuple):
        axis = data.draw(st.integers(0, p.ndim - 1))
        entry = (value[axis][0], value[axis][1] + 1) if name == "padding" else value[axis] + 1
        changes = {name: (*value[:axis], entry, *value[axis + 1 :])}
    elif name == "groups":
        changes = {"groups": 2 * value, "in_channels": 2 * p.in_channels, "out_channels": 2 * p.out_channels}
    else:
        changes = {name: value + p.groups}
    try:
        other = replace(p, **changes)
    except InputError:  # the longer or sparser filter no longer fits
        return
    assert other.describe() != p.describe()


# Layouts

LAYOUT_NAMES = {
    Layout.NCHW: ("ncw", "nchw", "ncdhw"),
    Layout.NHWC: ("nwc", "nhwc", "ndhwc"),
    Layout.CHWN: ("cwn", "chwn", "cdhwn"),
}
FILTER_NAMES = {
    Layout.NCHW: ("kcs", "kcrs", "kctrs"),
    Layout.NHWC: ("ksc", "krsc", "ktrsc"),
    Layout.CHWN: ("csk", "crsk", "ctrsk"),
}


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("layout", list(Layout))
def test_layout_names_and_order(layout, ndim):
    name = LAYOUT_NAMES[layout][ndim - 1]
    assert layout.name_for(ndim) == name
    assert Layout.parse(name) is layout
    order = layout.order(ndim)
    assert sorted(order) == list(range(ndim + 2))
    assert "".join(("nc" + "dhw"[3 - ndim :])[axis] for axis in order) == name
    assert "".join(("kc" + "trs"[3 - ndim :])[axis] for axis in order) == FILTER_NAMES[layout][ndim - 1]


@pytest.mark.parametrize("text", ["", "NCHW", "nchw ", "hwcn", "nc", "ndchw", "channels_last"])
def test_an_unknown_layout_is_refused_with_those_allowed(text):
    with pytest.raises(InputError) as caught:
        Layout.parse(text)
    assert all(word in str(caught.value) for word in (repr(text), "nchw", "nhwc", "chwn"))


# Cases


def case(problem=None, **changes):
    return Case(
        **{"suite": "alexnet", "name": "conv1", "problem": problem or make(), "conv_pass": ConvPass.FPROP, **changes}
    )


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "alexnet/conv1 fprop fp32 nchw"),
        ({"conv_pass": ConvPass.WGRAD, "layout": Layout.CHWN}, "alexnet/conv1 wgrad fp32 chwn"),
        ({"math_mode": MathMode.TF32}, "alexnet/conv1 fprop tf32 nchw"),
        ({"epilogue": Epilogue.BIAS_RELU}, "alexnet/conv1 fprop fp32 nchw bias+relu"),
        ({"dtype": Dtype.BF16, "math_mode": MathMode.BF16_TC}, "alexnet/conv1 fprop bf16 nchw"),
        (
            {"problem": make(input_size=(9,), filter_size=(3,)), "layout": Layout.NHWC},
            "alexnet/conv1 fprop fp32 nwc",
        ),
    ],
)
def test_label(changes, label):
    assert case(**changes).label() == label


@pytest.mark.parametrize("name", list(PRECISIONS))
def test_precision_is_the_name_of_dtype_and_math_mode(name):
    dtype, math_mode = PRECISIONS[name]
    assert case(dtype=dtype, math_mode=math_mode).precision == name


@pytest.mark.parametrize(("dtype", "math_mode"), list(itertools.product(Dtype, MathMode)))
def test_a_math_mode_that_does_not_go_with_the_dtype_is_refused(dtype, math_mode):
    if (dtype, math_mode) in PRECISIONS.values():
        assert case(dtype=dtype, math_mode=math_mode).label()
    else:
        with pytest.raises(InputError) as caught:
            case(dtype=dtype, math_mode=math_mode)
        assert dtype.value in str(caught.value)
        assert math_mode.value in str(caught.value)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_itemsize(dtype):
    assert dtype.itemsize * 8 == int(dtype.value.removeprefix("bf").removeprefix("fp"))


@pytest.mark.parametrize("epilogue", [Epilogue.BIAS, Epilogue.BIAS_RELU])
@pytest.mark.parametrize("conv_pass", [ConvPass.DGRAD, ConvPass.WGRAD])
def test_an_epilogue_belongs_to_fprop(conv_pass, epilogue):
    assert case(epilogue=epilogue).epilogue is epilogue
    with pytest.raises(InputError, match=f"epilogue {epilogue.value.replace('+', '.')} .*fprop.*{conv_pass.value}"):
        case(conv_pass=conv_pass, epilogue=epilogue)


def test_output_shape():
    p = make()
    shapes = {conv_pass: case(p, conv_pass=conv_pass).output_shape for conv_pass in ConvPass}
    assert shapes == {ConvPass.FPROP: p.y_shape, ConvPass.DGRAD: p.x_shape, ConvPass.WGRAD: p.w_shape}


def most_products(p, conv_pass):
    """Products inside the input per output element, at most. The three indices are separable, so axis by axis."""
    others = {
        ConvPass.FPROP: p.in_channels // p.groups,
        ConvPass.DGRAD: p.out_channels // p.groups,
        ConvPass.WGRAD: p.batch,
    }
    result_index = {ConvPass.FPROP: 0, ConvPass.WGRAD: 1, ConvPass.DGRAD: 2}[conv_pass]
    most = others[conv_pass]
    for axis in p.axes:
        elements = [hit[result_index] for hit in hits(axis)]
        most *= max(map(elements.count, elements), default=0)
    return most


@PROPERTY
@given(problems(), st.sampled_from(ConvPass))
@example(make(input_size=(9,), filter_size=(3,), dilation=(4,)), ConvPass.DGRAD)
@example(make(input_size=(21,), filter_size=(3,), stride=(2,), dilation=(3,)), ConvPass.DGRAD)  # taps 0 and 2 meet
@example(make(input_size=(15,), filter_size=(4,), dilation=(4,)), ConvPass.DGRAD)  # three outputs, four apart
def test_accumulation_length_bounds_the_products_of_every_element_and_is_reached_without_padding(p, conv_pass):
    assert case(p, conv_pass=conv_pass).accumulation_length >= max(1, most_products(p, conv_pass))
    padded = tuple(axis.input + axis.before + axis.after for axis in p.axes)
    p = replace(p, input_size=padded, padding=())
    assert case(p, conv_pass=conv_pass).accumulation_length == max(1, most_products(p, conv_pass))
