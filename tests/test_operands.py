"""Operands: the same numbers for everyone, in any layout."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbench.operands import NUMPY_DTYPES, Operands, decode, encode, from_layout, grouped, index, to_layout
from convbench.problem import Dtype, Layout, Problem

PROPERTY = settings(max_examples=100)
PROBLEMS = [
    Problem(batch=3, in_channels=4, out_channels=6, groups=2, input_size=(9,), filter_size=(3,)),
    Problem(batch=2, in_channels=3, out_channels=5, input_size=(7, 8), filter_size=(3, 2), stride=(2, 1)),
    Problem(batch=1, in_channels=2, out_channels=3, input_size=(4, 5, 6), filter_size=(1, 2, 3)),
]
ROLES = ["x", "w", "dy", "bias"]
DTYPES = list(NUMPY_DTYPES)


def ndim_of(problem):
    return f"{problem.ndim}d"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=ndim_of)
def test_shapes_and_dtype(problem, dtype):
    operands = Operands(problem, dtype, seed=1)
    shapes = {role: getattr(operands, role).shape for role in ROLES}
    assert shapes == {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape, "bias": problem.w_shape[:1]}
    assert {getattr(operands, role).dtype for role in ROLES} == {NUMPY_DTYPES[dtype]}
    assert NUMPY_DTYPES[dtype].itemsize == dtype.itemsize


@pytest.mark.parametrize(("dtype", "bits"), [(Dtype.FP16, 11), (Dtype.BF16, 8)])
def test_narrow_types_hold_what_they_can_store(dtype, bits):
    narrow, wide = (Operands(PROBLEMS[1], which, seed=1).x for which in (dtype, Dtype.FP32))
    assert narrow.dtype == np.float32
    assert np.array_equal(decode(encode(narrow, dtype), dtype), narrow)
    assert 2.0 ** -(bits + 2) < np.max(np.abs(narrow - wide) / np.abs(wide)) <= 2.0**-bits


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80), (-2.0, 0xC000), (1 + 2**-8, 0x3F80), (1 + 3 * 2**-8, 0x3F82), (1 + 2**-8 + 2**-20, 0x3F81),
        (3e38, 0x7F62), (1e-40, 0x0001),
    ],
)  # fmt: skip
def test_bf16_rounds_to_nearest_ties_to_even(value, bits):
    assert encode(np.array([value], np.float32), Dtype.BF16)[0] == bits


def test_every_bf16_comes_back_as_it_went():
    bits = np.arange(1 << 16, dtype=np.uint16)
    numbers = decode(bits, Dtype.BF16)
    finite = np.isfinite(numbers)
    assert np.array_equal(encode(numbers[finite], Dtype.BF16), bits[finite])


def test_numpy_has_two_of_the_dtypes():
    assert {dtype: str(there) for dtype, there in NUMPY_DTYPES.items()} == {
        Dtype.FP64: "float64",
        Dtype.FP32: "float32",
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_seed_gives_the_same_numbers_in_any_order_of_asking(dtype, role):
    first, second = Operands(PROBLEMS[1], dtype, seed=7), Operands(PROBLEMS[1], dtype, seed=7)
    for other in reversed(ROLES):
        getattr(second, other)
    assert np.array_equal(getattr(first, role), getattr(second, role))
    assert getattr(first, role) is getattr(first, role)


@pytest.mark.parametrize("role", ROLES)
def test_another_seed_gives_other_numbers(role):
    first, second = (getattr(Operands(PROBLEMS[1], Dtype.FP32, seed), role) for seed in (0, 1))
    assert not np.any(first == second)


def test_no_two_roles_or_seeds_share_numbers():
    # a seed and a role added up would make x of seed 1 the w of seed 0
    problem = Problem(batch=4, in_channels=4, out_channels=4, input_size=(2,), filter_size=(2,), padding=((1, 0),))
    starts = [
        tuple(np.ravel(getattr(Operands(problem, Dtype.FP64, seed), role))[:4]) for seed in range(4) for role in ROLES
    ]
    assert len(set(starts)) == len(starts) == 16


@pytest.mark.parametrize("role", ROLES)
def test_read_only(role):
    values = getattr(Operands(PROBLEMS[0], Dtype.FP32, seed=1), role)
    with pytest.raises(ValueError, match="read-only"):
        values[...] = 0


def test_values_are_normal():
    problem = Problem(batch=64, in_channels=64, out_channels=1, input_size=(64,), filter_size=(1,))
    for dtype in DTYPES:
        x = Operands(problem, dtype, seed=3).x
        assert abs(x.mean()) < 0.02
        assert abs(x.std() - 1) < 0.02
        assert np.isfinite(x).all()
        assert np.count_nonzero(x) == x.size
        assert 0.66 < np.mean(np.abs(x) < 1) < 0.70


def test_a_batch_of_0_has_empty_tensors():
    operands = Operands(
        Problem(batch=0, in_channels=2, out_channels=3, input_size=(5,), filter_size=(3,)), Dtype.FP32, 1
    )
    assert (operands.x.size, operands.dy.size, operands.w.size) == (0, 0, 18)


# Layouts


@pytest.mark.parametrize(("layout", "ndim"), list(itertools.product(Layout, (1, 2, 3))))
def test_a_layout_is_contiguous_in_memory_order_and_turns_back(layout, ndim):
    shape = (2, 3, 4, 5, 6)[: ndim + 2]
    canonical = np.arange(math.prod(shape)).reshape(shape)
    stored = to_layout(canonical, layout)
    assert stored.flags.c_contiguous
    letters = "nc" + "dhw"[3 - ndim :]
    extents = dict(zip(letters, canonical.shape, strict=True))
    assert stored.shape == tuple(extents[letter] for letter in layout.name_for(ndim))
    back = from_layout(stored, layout)
    assert np.array_equal(back, canonical)
    assert np.shares_memory(back, stored)
    assert to_layout(back, layout).tobytes() == stored.tobytes()


@PROPERTY
@given(
    st.lists(st.integers(0, 4), min_size=3, max_size=5),
    st.sampled_from(Layout),
    st.sampled_from([np.float32, np.float64]),
)
def test_to_and_from_layout_are_inverse(shape, layout, dtype):
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    for there, back in ((to_layout, from_layout), (from_layout, to_layout)):
        again = back(there(values, layout), layout)
        assert again.shape == values.shape
        assert again.dtype == values.dtype
        assert np.array_equal(again, values)


def test_every_element_stands_where_its_layout_says():
    canonical = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    n, c, h, w = 1, 2, 3, 4
    value = canonical[n, c, h, w]
    assert to_layout(canonical, Layout.NCHW)[n, c, h, w] == value
    assert to_layout(canonical, Layout.NHWC)[n, h, w, c] == value
    assert to_layout(canonical, Layout.CHWN)[c, h, w, n] == value


def test_nchw_is_the_canonical_order_and_costs_no_copy():
    x = Operands(PROBLEMS[1], Dtype.FP32, seed=1).x
    assert np.shares_memory(to_layout(x, Layout.NCHW), x)
    assert not np.shares_memory(to_layout(x, Layout.NHWC), x)


# Groups


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_grouped_is_a_view_with_its_axis_split(axis, groups):
    shape = [5, 5, 5]
    shape[axis] = 6
    values = np.arange(150).reshape(shape)
    for array in (values, values[::-1, :, ::-1], from_layout(to_layout(values, Layout.CHWN), Layout.CHWN)):
        view = grouped(array, groups, axis)
        assert view.shape == (*shape[:axis], groups, 6 // groups, *shape[axis + 1 :])
        assert np.shares_memory(view, array)
        for group, channel in itertools.product(range(groups), range(6 // groups)):
            split = view.take(group, axis).take(channel, axis)
            assert np.array_equal(split, array.take(group * (6 // groups) + channel, axis))


def test_index_is_what_brackets_make_of_the_same_parts():
    values = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(values[index(0, ..., slice(1, 3))], values[0, ..., 1:3])
    assert values[index()].shape == values.shape
