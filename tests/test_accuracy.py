"""Tiers: what a relative L2 error may be."""

from dataclasses import replace

import numpy as np
import pytest

from convbench.accuracy import ACCURACIES, SUM_ACCURACY, l2_bound, l2_share, tier_reason
from convbench.problem import PRECISIONS, Case, ConvPass, Problem


def case_of_length(length, precision="fp32"):
    dtype, math_mode = PRECISIONS[precision]
    problem = Problem(batch=1, in_channels=length, out_channels=1, input_size=(2,), filter_size=(1,))
    return Case(suite="s", name="p", problem=problem, conv_pass=ConvPass.FPROP, dtype=dtype, math_mode=math_mode)


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_a_tier_is_the_error_itself_in_fp32(accuracy):
    for length in (1, 100, 1024):
        assert l2_bound(case_of_length(length), accuracy) == accuracy


def test_sums_of_more_products_are_allowed_more():
    assert l2_bound(case_of_length(4 * 1024), 1e-6) == pytest.approx(2e-6)
    assert l2_bound(case_of_length(100 * 1024), 1e-6) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("precision", "factor"), [("fp64", 2.0**-29), ("tf32", 2.0**14), ("fp16", 2.0**13), ("bf16", 2.0**16)]
)
def test_other_precisions_are_allowed_as_many_of_their_roundoffs(precision, factor):
    assert l2_bound(case_of_length(7, precision), 1e-5) == pytest.approx(1e-5 * factor)


@pytest.mark.parametrize("length", [1, 30, 1024, 30_000, 300_000])
def test_fp32_terms_added_one_by_one_keep_the_tier_of_sums(length):
    """Of any length: the allowance grows as their error does, and is no more than a few times that."""
    products = np.random.default_rng(1).standard_normal((300, 2, length), dtype=np.float32).prod(axis=1)
    sums, exact = np.cumsum(products, axis=1)[:, -1], products.sum(axis=1, dtype=np.float64)
    error = np.sqrt(np.mean((sums - exact) ** 2) / np.mean(exact**2))
    share, reason = l2_share(case_of_length(length), SUM_ACCURACY, error, 1.0)
    assert share < 0.8
    assert reason == ""
    if length >= 1024:
        assert share > 0.3


def test_an_error_beyond_its_tier_is_told_with_both():
    share, reason = l2_share(case_of_length(4096), 1e-6, 9e-6, 3.0)
    assert share == pytest.approx(1.5)
    assert reason == "the relative L2 error is 3e-06, the stated accuracy of 1e-06 allows 2e-06 here"


def test_where_the_result_is_zero_no_error_is_allowed():
    assert l2_share(case_of_length(1), 1e-6, 0.0, 0.0) == (0.0, "")
    share, reason = l2_share(case_of_length(1), 1e-4, 1e-30, 0.0)
    assert share == float("inf")
    assert reason


@pytest.mark.parametrize("accuracy", [None, 1e-12, *ACCURACIES])
def test_a_tier_may_be_any_up_to_the_loosest(accuracy):
    assert tier_reason(accuracy) is None


@pytest.mark.parametrize("accuracy", [0, -1e-6, 1.1e-4, 1, float("nan"), float("inf")])
def test_a_tier_that_says_nothing_is_refused(accuracy):
    assert tier_reason(accuracy) == f"the stated accuracy is {accuracy:g}, allowed is more than 0 and up to 0.0001"


def test_a_case_of_no_products_is_allowed_the_tier():
    problem = Problem(batch=0, in_channels=1, out_channels=1, input_size=(2,), filter_size=(1,))
    empty = replace(case_of_length(1), problem=problem, conv_pass=ConvPass.WGRAD)
    assert l2_bound(empty, 1e-5) == 1e-5
