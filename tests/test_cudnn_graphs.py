"""The cudnn backend without cuDNN: what it would be told of a case, and what the notes of its plans mean."""

from dataclasses import replace

import pytest
from fake_cudnn import make_case
from hypothesis import given
from hypothesis import strategies as st

from convbench.backends import ErrorBound
from convbench.backends.cudnn.graphs import FORBIDDEN, NOTES, Offered, describe, padding
from convbench.errors import UnsupportedError
from convbench.problem import PRECISIONS, Axis, MathMode


def axis(extent, taps, stride=1, dilation=1, before=0, after=0):
    return Axis(extent, taps, stride, dilation, before, after)


# What a graph is told


def test_a_case_as_cudnn_is_told_it():
    case = make_case("wgrad", layout="nhwc", groups=2, stride=(1, 2), dilation=(2, 1), padding=((1, 1), (0, 1)))
    found = describe(case)
    assert found.tensors["x"].dims == (2, 4, 9, 8)
    assert found.tensors["x"].strides == (9 * 8 * 4, 1, 8 * 4, 4)
    assert found.tensors["w"].dims == (6, 2, 3, 2)
    assert found.tensors["w"].strides == (3 * 2 * 2, 1, 2 * 2, 2)
    assert found.tensors["y"].dims == (2, 6, 7, 4)
    assert (found.output, found.stride, found.dilation) == ("w", (1, 2), (2, 1))
    assert (found.before, found.after) == ((1, 0), (1, 0))  # without the column after, there are as many outputs


def test_one_axis_becomes_two():
    fields = {"input_size": (20,), "filter_size": (5,), "stride": (3,), "padding": ((2, 2),)}
    found = describe(make_case(epilogue="bias", **fields))
    assert [tensor.dims for tensor in found.tensors.values()] == [
        (2, 4, 1, 20), (6, 4, 1, 5), (2, 6, 1, 7), (1, 6, 1, 1),
    ]  # fmt: skip
    assert found.tensors["x"].strides == (80, 20, 20, 1)
    assert (found.before, found.after, found.stride, found.dilation) == ((0, 2), (0, 2), (1, 3), (1, 1))


def test_three_axes_stay():
    fields = {"input_size": (4, 5, 6), "filter_size": (1, 2, 3)}
    assert describe(make_case("dgrad", layout="nhwc", **fields)).tensors["y"].strides == (4 * 4 * 4 * 6, 1, 96, 24, 6)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"batch": 0}, "cuDNN takes no batch of 0"),
        ({"layout": "chwn"}, "no layout with the batch innermost"),
        ({"padding": ((0, -3), (0, 0))}, "crops no input: its padding after an axis is at least 0, not -3"),
    ],
)
def test_what_it_cannot_be_told(fields, reason):
    with pytest.raises(UnsupportedError, match=reason):
        describe(make_case(**fields))


@pytest.mark.parametrize(
    ("given_axis", "told"),
    [
        (axis(8, 3, before=1, after=1), (1, 1)),
        (axis(8, 3, before=1, after=0), (1, 0)),
        (axis(8, 3, before=0, after=2), (0, 2)),
        (axis(8, 3, stride=2, before=0, after=1), (0, 1)),  # "same": one side more
        (axis(9, 3, stride=2, before=1, after=2), (1, 1)),
        (axis(9, 2, stride=3, before=0, after=-1), (0, 0)),  # what it crops, no output reads
        (axis(8, 3, stride=2, before=2, after=-1), (2, 0)),
    ],
)
def test_padding(given_axis, told):
    assert padding(given_axis) == told


@given(
    st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.integers(-5, 5)
)
def test_padding_gives_as_many_outputs_or_there_is_none_that_would(extent, taps, stride, dilation, before, after):
    asked = axis(extent, taps, stride, dilation, before, after)
    if extent + before + after <= asked.reach:
        return
    try:
        told = padding(asked)
    except UnsupportedError:
        others = (replace(asked, after=other).output for other in range(stride + 6))
        assert asked.output not in others
        return
    assert told[0] == before
    assert told[1] >= 0
    assert replace(asked, after=told[1]).output == asked.output


# What a plan's notes mean


@pytest.mark.parametrize(
    ("precision", "notes", "able"),
    [
        ("fp32", (), True),
        ("fp32", ("NONDETERMINISTIC", "WINOGRAD", "FFT", "STRICT_NAN_PROP"), True),
        ("fp32", ("TENSOR_CORE",), False),
        ("fp32", ("DOWN_CONVERT_INPUTS",), False),
        ("tf32", ("TENSOR_CORE", "DOWN_CONVERT_INPUTS"), True),
        ("tf32", ("REDUCED_PRECISION_REDUCTION",), False),
        ("fp16", ("TENSOR_CORE",), True),
        ("bf16", ("TENSOR_CORE", "REDUCED_PRECISION_REDUCTION"), False),
        ("fp64", ("TENSOR_CORE",), True),
    ],
)
def test_math_modes(precision, notes, able):
    reason = Offered(name="eng0", workspace_bytes=0, notes=notes).reason(PRECISIONS[precision][1], None)
    assert (reason is None) == able


def test_every_math_mode_is_known_and_every_note_spelled():
    assert set(FORBIDDEN) == set(MathMode)
    assert {note for notes in FORBIDDEN.values() for note in notes} <= {*NOTES}


def test_reasons_are_sentences():
    plan = Offered(name="eng0", workspace_bytes=5, notes=("TENSOR_CORE", "DOWN_CONVERT_INPUTS"))
    assert plan.reason(MathMode.FP32, None) == (
        "multiplies on tensor cores and rounds its operands to fewer bits, which is not fp32"
    )
    assert plan.reason(MathMode.TF32, 4) == "asks for 5 bytes of workspace, the limit is 4"
    assert plan.reason(MathMode.TF32, 5) is None


def test_transforms_are_less_exact():
    bounds = {
        note: Offered(name="e", workspace_bytes=0, notes=(note,)).error_bound
        for note in ("WINOGRAD", "FFT", "TENSOR_CORE")
    }
    assert bounds["TENSOR_CORE"] == ErrorBound(growth=2)
    assert bounds["FFT"].growth == 12
    assert bounds["WINOGRAD"].transform_points == 64
    assert Offered(name="e", workspace_bytes=0, notes=("WINOGRAD",)).accuracy == 1e-5
