"""The reference against the definition written out, against SciPy, and against laws of convolution."""

import itertools

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from convbench import reference
from convbench.operands import Operands, grouped
from convbench.problem import ConvPass, Dtype, Problem
from convbench.testing import random_cases

RANDOM_PROBLEMS = [case.problem for case in random_cases(seed=31, count=100, max_macs=3000)]


def by_definition(p, x, w, dy):
    """y, dx and dw, one multiply-add at a time; the filter sees zeros outside the input."""
    y, dx, dw = np.zeros(p.y_shape), np.zeros(p.x_shape), np.zeros(p.w_shape)
    channels, filters = p.in_channels // p.groups, p.out_channels // p.groups
    for out in itertools.product(*map(range, p.output_size)):
        for tap in itertools.product(*map(range, p.filter_size)):
            place = [
                o * s + r * d - before
                for o, s, r, d, (before, _) in zip(out, p.stride, tap, p.dilation, p.padding, strict=True)
            ]
            if not all(0 <= i < extent for i, extent in zip(place, p.input_size, strict=True)):
                continue
            for n, k, c in itertools.product(range(p.batch), range(p.out_channels), range(channels)):
                at_x = (n, k // filters * channels + c, *place)
                at_w, at_y = (k, c, *tap), (n, k, *out)
                y[at_y] += w[at_w] * x[at_x]
                dx[at_x] += w[at_w] * dy[at_y]
                dw[at_w] += dy[at_y] * x[at_x]
    return y, dx, dw


def passes(p, x, w, dy, power=1):
    """y, dx and dw by the reference, canonical."""
    x, w, dy = grouped(x, p.groups, 1), grouped(w, p.groups, 0), grouped(dy, p.groups, 1)
    y = reference.fprop(p.axes, x, w, power)
    dx = reference.dgrad(p.axes, dy, w, power)
    dw = reference.wgrad(p.axes, dy, x, power)
    return y.reshape(p.y_shape), dx.reshape(p.x_shape), dw.reshape(p.w_shape)


def tensors(p, seed=0):
    operands = Operands(p, Dtype.FP64, seed)
    return operands.x, operands.w, operands.dy


def assert_close(actual, expected):
    for conv_pass, a, e in zip(ConvPass, actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12, err_msg=conv_pass)


def test_random_problems_have_every_feature():
    assert {p.ndim for p in RANDOM_PROBLEMS} == {1, 2, 3}
    for feature in (
        lambda p: p.groups > 1,
        lambda p: p.batch == 0,
        lambda p: p.batch > 1,
        lambda p: any(s > 1 and r > 1 for s, r in zip(p.stride, p.filter_size, strict=True)),
        lambda p: any(s > r for s, r in zip(p.stride, p.filter_size, strict=True)),
        lambda p: any(d > 1 and r > 1 for d, r in zip(p.dilation, p.filter_size, strict=True)),
        lambda p: any(after < 0 for _, after in p.padding),
        lambda p: any(before != after for before, after in p.padding),
    ):
        assert sum(map(feature, RANDOM_PROBLEMS)) >= 5


@pytest.mark.parametrize("problem", RANDOM_PROBLEMS, ids=Problem.describe)
def test_equals_the_definition(problem):
    operands = tensors(problem)
    assert_close(passes(problem, *operands), by_definition(problem, *operands))


@pytest.mark.parametrize("problem", RANDOM_PROBLEMS[:25], ids=Problem.describe)
def test_power_2_is_the_pass_on_squares(problem):
    x, w, dy = tensors(problem)
    assert_close(passes(problem, x, w, dy, power=2), by_definition(problem, x**2, w**2, dy**2))


def test_result_does_not_depend_on_the_blocks_of_images(monkeypatch):
    problem = Problem(batch=7, in_channels=4, out_channels=6, groups=2, input_size=(6, 5), filter_size=(3, 2),
                      padding=((1, 1), (0, 1)))  # fmt: skip
    operands = tensors(problem)
    whole = passes(problem, *operands)
    for images in (1, 2, 3):
        monkeypatch.setattr(reference, "BLOCK_BYTES", images * 8 * 4 * 6 * 5)
        assert_close(passes(problem, *operands), whole)


def test_converts_before_it_multiplies():
    problem = Problem(batch=1, in_channels=1, out_channels=1, input_size=(1,), filter_size=(1,))
    large = np.full((1, 1, 1), 1e30, np.float32)
    assert passes(problem, large, large, large)[0] == pytest.approx(1e60)
    assert passes(problem, large, large, large, power=2)[0] == pytest.approx(1e120)


def test_input_that_no_tap_reaches_has_no_gradient():
    problem = Problem(batch=1, in_channels=1, out_channels=1, input_size=(8,), filter_size=(1,), stride=(3,))
    ones = [np.ones(shape) for shape in (problem.x_shape, problem.w_shape, problem.y_shape)]
    assert passes(problem, *ones)[1].ravel().tolist() == [1, 0, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize(("size", "taps"), [((17,), (4,)), ((9, 8), (3, 4)), ((5, 6, 7), (2, 3, 1))])
class TestAgainstScipy:
    def test_fprop_is_a_valid_correlation_summed_over_channels(self, size, taps):
        problem = Problem(batch=2, in_channels=3, out_channels=2, input_size=size, filter_size=taps)
        x, w, dy = tensors(problem)
        expected = [
            [sum(scipy.signal.correlate(x[n, c], w[k, c], "valid") for c in range(3)) for k in range(2)]
            for n in range(2)
        ]
        np.testing.assert_allclose(passes(problem, x, w, dy)[0], expected, atol=1e-12)

    def test_dgrad_is_a_full_convolution_summed_over_filters(self, size, taps):
        problem = Problem(batch=2, in_channels=3, out_channels=2, input_size=size, filter_size=taps)
        x, w, dy = tensors(problem)
        expected = [
            [sum(scipy.signal.convolve(dy[n, k], w[k, c], "full") for k in range(2)) for c in range(3)]
            for n in range(2)
        ]
        np.testing.assert_allclose(passes(problem, x, w, dy)[1], expected, atol=1e-12)

    def test_wgrad_is_a_valid_correlation_summed_over_images(self, size, taps):
        problem = Problem(batch=2, in_channels=3, out_channels=2, input_size=size, filter_size=taps)
        x, w, dy = tensors(problem)
        expected = [
            [sum(scipy.signal.correlate(x[n, c], dy[n, k], "valid") for n in range(2)) for c in range(3)]
            for k in range(2)
        ]
        np.testing.assert_allclose(passes(problem, x, w, dy)[2], expected, atol=1e-12)

    def test_stride_dilation_and_padding_in_scipys_terms(self, size, taps):
        ndim = len(size)
        problem = Problem(batch=1, in_channels=1, out_channels=1, input_size=size, filter_size=taps,
                          stride=(2,) * ndim, dilation=(3,) * ndim, padding=((4, 3),) * ndim)  # fmt: skip
        x, w, dy = tensors(problem)
        spread = np.zeros([3 * (r - 1) + 1 for r in taps])
        spread[(slice(None, None, 3),) * ndim] = w[0, 0]
        full = scipy.signal.correlate(np.pad(x[0, 0], ((4, 3),) * ndim), spread, "valid")
        expected = full[(slice(None, None, 2),) * ndim]
        np.testing.assert_allclose(passes(problem, x, w, dy)[0][0, 0], expected, atol=1e-12)


@st.composite
def problems(draw):
    """Any small problem, built axis by axis so that hypothesis can shrink it."""
    groups, ndim = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    axes = []
    for _ in range(ndim):
        taps, dilation, before = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 4))
        after, stride = draw(st.integers(-2, 4)), draw(st.integers(1, 4))
        least = max(1, dilation * (taps - 1) + 1 - before - after)
        axes.append((draw(st.integers(least, least + 5)), taps, stride, dilation, (before, after)))
    size, taps, stride, dilation, padding = zip(*axes, strict=True)
    return Problem(
        batch=draw(st.integers(0, 3)),
        in_channels=groups * draw(st.integers(1, 3)),
        out_channels=groups * draw(st.integers(1, 3)),
        groups=groups, input_size=size, filter_size=taps, stride=stride, dilation=dilation, padding=padding,
    )  # fmt: skip


@settings(max_examples=100)
@given(problems())
def test_adjoint(problem):
    """<dy, conv(x, w)> = <dgrad(dy, w), x> = <wgrad(dy, x), w>."""
    x, w, dy = tensors(problem)
    y, dx, dw = passes(problem, x, w, dy)
    size = np.linalg.norm(dy) * np.linalg.norm(y) + 1
    assert np.vdot(dx, x) == pytest.approx(np.vdot(dy, y), abs=1e-13 * size)
    assert np.vdot(dw, w) == pytest.approx(np.vdot(dy, y), abs=1e-13 * size)


@settings(max_examples=50)
@given(problems(), st.floats(-4, 4), st.floats(-4, 4))
def test_linear_in_each_operand(problem, alpha, beta):
    first, second = tensors(problem, seed=1), tensors(problem, seed=2)
    for role, changed in (("x", (0, 2)), ("w", (0, 1)), ("dy", (1, 2))):
        place = ("x", "w", "dy").index(role)
        others = list(first)
        others[place] = second[place]
        mixed = list(first)
        mixed[place] = alpha * first[place] + beta * second[place]
        for result in changed:
            expected = alpha * passes(problem, *first)[result] + beta * passes(problem, *others)[result]
            np.testing.assert_allclose(passes(problem, *mixed)[result], expected, rtol=1e-11, atol=1e-11, err_msg=role)


def test_shift_of_the_input_shifts_the_output():
    problem = Problem(batch=1, in_channels=2, out_channels=3, input_size=(20, 20), filter_size=(3, 3))
    x, w, dy = tensors(problem)
    y = passes(problem, x, w, dy)[0]
    shifted = passes(problem, np.roll(x, (2, 3), (2, 3)), w, dy)[0]
    np.testing.assert_allclose(shifted[..., 2:, 3:], y[..., :-2, :-3], atol=1e-12)


# Very many taps


def test_transforms_give_the_definition(monkeypatch):
    """Within the least allowance of fp64, 8·2⁻⁵³ of the root with its floor (reference.FFT_FLOOR), and storing."""
    for problem in RANDOM_PROBLEMS:
        operands = [np.rint(4 * tensor) for tensor in tensors(problem)]  # integers, so that the definition is exact
        defined, squares = passes(problem, *operands), passes(problem, *operands, power=2)
        with monkeypatch.context() as patch:
            patch.setattr(reference, "fft_is_quicker", lambda *extents: True)
            by_fft, fft_squares = passes(problem, *operands), passes(problem, *operands, power=2)
        for conv_pass, a, b, root, floored in zip(ConvPass, by_fft, defined, squares, fft_squares, strict=True):
            where = f"{conv_pass} {problem.describe()}"
            assert (floored >= root * (1 - 1e-12)).all(), where  # an upper bound, zeros and small ones included
            first, second = (operands[role] for role in {"fprop": (0, 1), "dgrad": (2, 1), "wgrad": (2, 0)}[conv_pass])
            assert (floored <= root * (1 + 1e-12) + reference.FFT_FLOOR * (first**2).sum() * (second**2).sum()).all()
            assert (np.abs(a - b) <= 0.5 * 8 * 2.0**-53 * np.sqrt(floored) + 2.0**-53 * np.abs(b)).all(), where


@pytest.mark.skipif(not reference.EXTENDED, reason="no float wider than float64 here: the definition stays")
def test_only_very_many_taps_are_left_to_transforms():
    def quicker(**extents):
        problem = Problem(batch=2, **extents)
        return reference.fft_is_quicker(problem.axes, 2, problem.w_shape[1], problem.out_channels // problem.groups)

    assert quicker(in_channels=1, out_channels=1, input_size=(300, 300), filter_size=(100, 100))
    assert quicker(in_channels=4, out_channels=4, input_size=(60_000,), filter_size=(30_000,))
    assert not quicker(in_channels=3, out_channels=96, input_size=(224, 224), filter_size=(11, 11), stride=(4, 4))
    assert not quicker(in_channels=256, out_channels=256, input_size=(56, 56), filter_size=(3, 3))


def test_result_does_not_depend_on_the_taps_of_a_product(monkeypatch):
    problem = Problem(batch=3, in_channels=4, out_channels=6, groups=2, input_size=(9, 8), filter_size=(3, 4))
    operands = tensors(problem)
    whole = passes(problem, *operands)
    for rows in (1, 5, 1000):
        monkeypatch.setattr(reference, "ROWS", rows)
        assert_close(passes(problem, *operands), whole)
