"""Where the tables of cudafft say that elements lie: what circular products of planes' points then compute."""

import itertools
import math
import random
from dataclasses import replace

import numpy as np
from cudafft_arrays import addresses
from hypothesis import given
from hypothesis import strategies as st
from test_cufft import problem
from test_cufft_planner import AXES

from convbench.backends.cpu.phases import axis_phases
from convbench.backends.cudafft.kernels import TRANSFORMS
from convbench.backends.cudafft.planner import CudafftPlanner
from convbench.backends.cudafft.tables import Lying, TransformAxis, table, transform_axis
from convbench.operands import from_layout, grouped
from convbench.problem import ConvPass, Epilogue, Layout, Problem
from convbench.testing import random_cases


def tables(cut):
    """{tensor: elements [tile][phase][point], -1 where there is none}; None where the filter does not fit."""
    if cut.step <= 0:
        return None
    size, phases = cut.size, len(axis_phases(cut.axis))
    shapes = {"x": (cut.count, phases), "w": (1, phases), "y": (cut.count, 1)}
    return {
        name: table(cut.places(name), size, 1)[: math.prod(shape)].reshape(*shape, size)
        for name, shape in shapes.items()
    }


def cuts(*passes):
    return st.builds(TransformAxis, AXES, st.sampled_from(passes), st.sampled_from([8, 16, 32]), st.booleans())


@given(cuts(ConvPass.FPROP))
def test_each_output_is_stored_once_and_meets_each_tap_at_its_element(cut):
    """y[p] = Σ x[p + q] w[q], circular, for each tile, over phases."""
    of, axis, size = tables(cut), cut.axis, cut.size
    if of is None:
        return
    stored = of["y"][of["y"] >= 0]
    assert sorted(stored) == [*range(axis.output)]
    for (tile, _, row), phase in itertools.product(np.argwhere(of["y"] >= 0), range(of["w"].shape[1])):
        for q in np.flatnonzero(of["w"][0, phase] >= 0):
            element = of["y"][tile, 0, row] * axis.stride + of["w"][0, phase, q] * axis.dilation - axis.before
            inside = 0 <= element < axis.input
            assert of["x"][tile, phase, (row + q) % size] == (element if inside else -1)


@given(cuts(ConvPass.DGRAD))
def test_each_input_that_a_tap_touches_is_stored_once_and_meets_each_tap_at_its_output(cut):
    """dx[m] = Σ dy[m - q] w[q], circular, for each tile and phase."""
    of, axis, size = tables(cut), cut.axis, cut.size
    if of is None:
        return
    touched = {
        element
        for p, tap in itertools.product(range(axis.output), range(axis.filter))
        if 0 <= (element := p * axis.stride + tap * axis.dilation - axis.before) < axis.input
    }
    stored = of["x"][of["x"] >= 0].tolist()
    assert len(stored) == len(set(stored))
    assert touched <= set(stored)
    if cut.apart and of["w"].shape[1] == 1:  # no gaps and no phases: then there is nothing else
        assert touched == set(stored)
    for tile, phase, row in np.argwhere(of["x"] >= 0):
        for q in np.flatnonzero(of["w"][0, phase] >= 0):
            steps = of["x"][tile, phase, row] + axis.before - of["w"][0, phase, q] * axis.dilation
            inside = steps % axis.stride == 0 and 0 <= steps // axis.stride < axis.output
            assert of["y"][tile, 0, (row - q) % size] == (steps // axis.stride if inside else -1)


@given(cuts(ConvPass.WGRAD))
def test_each_tap_is_stored_once_and_sums_the_outputs_whose_elements_it_meets(cut):
    """dw[q] = Σ dy[p] x[p + q], circular, over tiles."""
    of, axis, size = tables(cut), cut.axis, cut.size
    if of is None:
        return
    assert sorted(of["w"][of["w"] >= 0]) == [*range(axis.filter)]
    for _, phase, q in np.argwhere(of["w"] >= 0):
        tap = of["w"][0, phase, q]
        pairs = [
            (of["y"][tile, 0, row], element)
            for tile, _, row in np.argwhere(of["y"] >= 0)
            if (element := of["x"][tile, phase, (row + q) % size]) >= 0
        ]
        elements = [(p, p * axis.stride + tap * axis.dilation - axis.before) for p in range(axis.output)]
        assert sorted(pairs) == [pair for pair in elements if 0 <= pair[1] < axis.input]


@given(cuts(*ConvPass), st.sampled_from("xwy"))
def test_counts_of_rows_and_elements_are_those_of_the_table(cut, name):
    if cut.step <= 0:
        return
    found = table(cut.places(name), cut.size, 3)
    assert found.shape == (cut.table_rows(name), cut.size)
    assert np.count_nonzero(found >= 0) == cut.elements(name)


@given(AXES, st.sampled_from(ConvPass), st.sampled_from([8, 16, 32]))
def test_dilated_outputs_are_taken_apart_where_that_takes_fewer_tiles(axis, conv_pass, size):
    counts = [cut.count for apart in (False, True) if (cut := TransformAxis(axis, conv_pass, size, apart)).step > 0]
    found = transform_axis(axis, conv_pass, size)
    assert (found.count if found else None) == min(counts, default=None)
    if axis.dilation == 1:
        assert found is None or not found.apart


def test_a_plane_is_one_tile_where_both_borders_share_their_zeros():
    axes = problem(input_size=(14, 15), filter_size=(5, 5), padding=((2, 2), (2, 2))).axes
    counts = [transform_axis(axis, ConvPass.FPROP, 16).count for axis in axes]
    assert counts == [1, 2]  # 14 elements and 2 zeros are 16 points; 15 are one too many


def test_dilation_makes_images_of_outputs_that_lie_apart():
    # 3 taps 4 apart on 40 elements with 4 zeros at either end: 4 parts of 10 outputs, which share 10 elements.
    (axis,) = Problem(batch=1, in_channels=1, out_channels=1, input_size=(40,), filter_size=(3,), dilation=(4,),
                      padding=((4, 4),)).axes  # fmt: skip
    found = transform_axis(axis, ConvPass.FPROP, 16)
    assert (found.apart, found.count, found.reach) == (True, 4, 2)
    assert found.places("y")[1] == (slice(0, 10), slice(1, 41, 4))
    assert found.places("x")[1] == (slice(1, 11), slice(1, 41, 4))
    assert found.places("w") == ((slice(0, 3, 1), slice(0, 3, 1)),)
    assert transform_axis(axis, ConvPass.FPROP, 64).count == 1  # of gaps, one tile


# Tensors: every element of every layout at its address


@given(st.integers(0, 10**6))
def test_planes_are_found_at_the_strides_of_the_tensor(seed):
    """The addresses by struct and tables, against an array of addresses indexed by canonical axes."""
    rng = random.Random(seed)
    case = next(random_cases(seed, 1, 3000))
    p = case.problem
    of = CudafftPlanner(replace(case, epilogue=Epilogue.NONE), rng.choice([t for t in TRANSFORMS if t.ndim == p.ndim]))
    if of.reason or not of.chunk or of.tiles > 64:
        return
    for name, shape in (("x", p.x_shape), ("w", p.w_shape), ("y", p.y_shape)):
        lying = of.lying(name)
        where, offsets = lying.described(of.axes, of.matrix(name, of.chunk))
        found = addresses(of.transform, where.view(np.uint8), offsets, p.groups)
        stored = tuple(shape[axis] for axis in case.layout.order(p.ndim))
        at = from_layout(np.arange(math.prod(shape)).reshape(stored), case.layout)
        at = grouped(at, p.groups, 0 if name == "w" else 1)
        at = at if name == "w" else at.swapaxes(0, 1)  # (group, image or filter, channel, elements…)
        images = p.out_channels // p.groups if name == "w" else of.chunk
        channels = at.shape[2]
        places = [axis.places(name) for axis in of.axes]
        phases = [1 if name == "y" else len(axis_phases(axis)) for axis in p.axes]
        tiles = [len(each) // count for each, count in zip(places, phases, strict=True)]
        assert found.shape[1] == images * math.prod(tiles) * channels * math.prod(phases)
        for plane in rng.sample(range(found.shape[1]), min(8, found.shape[1])):
            row, column = divmod(plane, channels * math.prod(phases))
            image, *tile = np.unravel_index(row, (images, *tiles))
            channel, *phase = np.unravel_index(column, (channels, *phases))
            per_axis = [each[t * n + f] for each, t, n, f in zip(places, tile, phases, phase, strict=True)]
            rows, elements = zip(*per_axis, strict=True)
            for group in range(p.groups):
                due = np.full(of.transform.size, -1)
                due[rows] = at[(group, image, channel, *elements)]
                np.testing.assert_array_equal(found[group, plane], due.ravel())


def test_strides_by_hand():
    lying = Lying("x", (2, 6, 4, 5), Layout.NHWC, 3)
    assert lying.strides == (120, 1, 30, 6)
    shape = problem(input_size=(4, 5), filter_size=(3, 3))
    axes = [transform_axis(axis, ConvPass.FPROP, 8) for axis in shape.axes]
    where, offsets = lying.described(axes, (2, 2))
    assert (where["group"], where["image"], where["channel"], where["planes"], where["columns"]) == (2, 120, 1, 4, 2)
    assert offsets.tolist() == [0, 30, 60, 90, *[-1] * 4, 0, 6, 12, 18, 24, *[-1] * 3]
    assert where["first"].tolist() == [[0, 0, 8]]
