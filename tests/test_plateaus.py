"""Levels from made-up size curves: what falls is found, what is noise is not."""

import math
import random

import pytest

from convbench.ceilings import CurvePoint
from convbench.plateaus import RAMP, find_levels

KIB, MIB = 1 << 10, 1 << 20
REPORTED = {"l2": 1 * MIB, "l3": 32 * MIB}
L1 = 32 * KIB


def curve(caches, rates, largest=256 * MIB, noise=0.0, seed=0, mixes=("read", "copy", "add")):
    """Bandwidth over size: each cache keeps all up to 0.8 of it and nothing from 1.8 on; `rates` of caches and DRAM."""
    rng = random.Random(seed)
    points = []
    for step in range(round(2 * math.log2(largest / (64 * KIB))) + 1):
        size = round(64 * KIB * 2 ** (step / 2))
        cost = 1 / rates[0]
        for cache, near, far in zip(caches, rates, rates[1:], strict=False):
            left = min(1.0, max(0.0, math.log(size / cache / 0.8) / math.log(1.8 / 0.8)))
            cost += left * (1 / far - 1 / near)
        points += [
            CurvePoint(mix=mix, size_bytes=size, bytes_per_s=math.exp(rng.gauss(0, noise)) / cost) for mix in mixes
        ]
    return points


def names(levels):
    return [level.name for level in levels]


def test_plateaus_are_named_by_the_sizes_that_the_system_reports():
    levels = find_levels(curve((1 * MIB, 32 * MIB), (1e11, 7e10, 2e10)), REPORTED, L1)
    assert names(levels) == ["l2", "l3", "dram"]
    assert [level.capacity_bytes for level in levels] == [1 * MIB, 32 * MIB, None]
    assert not any(level.warning for level in levels)


def test_a_plateau_holds_no_size_of_the_next():
    """What is read at its ends is within 5 % of its rate."""
    points = curve((1 * MIB, 32 * MIB), (1e11, 7e10, 2e10))
    for level, rate in zip(find_levels(points, REPORTED, L1), (1e11, 7e10, 2e10), strict=True):
        inside = [p.bytes_per_s for p in points if level.low <= p.size_bytes <= level.high]
        assert min(inside) == pytest.approx(rate, rel=0.05)
        assert max(inside) == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("caches", "rates"), [
    ((1 * MIB, 32 * MIB), (1e11, 7e10, 2e10)), ((512 * KIB, 16 * MIB), (2e11, 1.2e11, 4e10)),
    ((2 * MIB, 32 * MIB), (3e11, 1e11, 3e10)),
], ids=range(3))  # fmt: skip
def test_without_a_word_of_the_system_noisy_curves_show_their_caches(caches, rates, seed):
    levels = find_levels(curve(caches, rates, noise=0.05, seed=seed), {}, L1)
    assert names(levels) == ["l2", "l3", "dram"]
    for level, cache in zip(levels, caches, strict=False):
        assert 1 / 1.6 < level.capacity_bytes / cache < 1.6


@pytest.mark.parametrize("seed", range(8))
def test_a_flat_curve_is_one_level(seed):
    points = curve((), (3e10,), noise=0.05, seed=seed)
    assert names(find_levels(points, {}, L1)) == ["dram"]


@pytest.mark.parametrize("seed", range(8))
def test_a_level_that_cannot_be_seen_is_not_invented(seed):
    """An L3 as slow as main memory."""
    points = curve((1 * MIB,), (1e11, 3e10), noise=0.03, seed=seed)
    assert names(find_levels(points, {"l2": 1 * MIB}, L1)) == ["l2", "dram"]


def test_a_cache_that_is_not_seen_is_no_part_of_the_next():
    """Its sizes, which may be fast, belong to no level."""
    points = curve((32 * MIB,), (7e10, 2e10))
    levels = find_levels(points, REPORTED, L1)
    assert names(levels) == ["l3", "dram"]
    assert levels[0].low == RAMP[1] * REPORTED["l2"]


def test_a_slice_of_a_cache_is_what_the_curve_says():
    """Virtual machines report the whole socket's."""
    levels = find_levels(curve((1 * MIB, 16 * MIB), (1e11, 7e10, 2e10)), {"l2": 1 * MIB, "l3": 64 * MIB}, L1)
    assert names(levels) == ["l2", "l3", "dram"]
    assert levels[1].capacity_bytes == pytest.approx(16 * MIB, rel=0.3)
    assert "the system says 64 MiB, the size curve shows about" in levels[1].warning
    assert levels[0].warning == ""


def test_l1_is_no_level():
    """Sizes that are partly in it belong to none."""
    levels = find_levels(curve((128 * KIB, 2 * MIB), (4e11, 1e11, 2e10)), {"l2": 2 * MIB}, 128 * KIB)
    assert names(levels) == ["l2", "dram"]
    assert levels[0].low >= RAMP[1] * 128 * KIB


def test_no_curve_has_no_levels():
    assert find_levels([], REPORTED, L1) == []


def test_a_single_size_is_main_memory():
    point = CurvePoint(mix="read", size_bytes=1 << 30, bytes_per_s=1e10)
    assert names(find_levels([point], REPORTED, L1)) == ["dram"]
