import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.ceilings import Ceiling, Ceilings
from convbench.errors import InputError
from convbench.problem import MathMode, Problem
from convbench.roofline import Bound, Flag, Thresholds, attainable, judge, place, ridge_point
from convbench.work import Phase, Work, nominal_flops

MIB = 2**20


def measured(value, sigma=0.0):
    return Ceiling(value=value, kind="measured", sigma=sigma)


def ceilings(*, fp32=60e12, tf32=400e12, dram=4.3e12, launch_s=2.4e-6, sigma=0.0, is_gpu=True, **levels):
    """`levels`: l2=(bandwidth, capacity)."""
    return Ceilings(
        compute={"fp32": measured(fp32, sigma), "tf32": measured(tf32, sigma)},
        bandwidth={"dram": measured(dram, sigma)} | {k: measured(v[0], sigma) for k, v in levels.items()},
        capacity_bytes={k: v[1] for k, v in levels.items()},
        launch=measured(launch_s, sigma) if launch_s else None,
        is_gpu=is_gpu,
    )


def phase(flops, size, launches=1, footprint=None):
    return Phase(
        name="all",
        flops=flops,
        bytes_read=size - size // 3,
        bytes_written=size // 3,
        footprint_bytes=size if footprint is None else footprint,
        launches=launches,
    )


def one_phase(flops, size, launches=1, footprint=None):
    return Work((phase(flops, size, launches, footprint),))


def problem(batch, channels, filters, extent, taps, groups=1):
    return Problem(
        batch=batch, in_channels=channels, out_channels=filters, groups=groups, input_size=(extent, extent),
        filter_size=(taps, taps), padding=((taps // 2, taps // 2),) * 2,
    )  # fmt: skip


SMALL, MIDDLE = problem(1, 64, 64, 56, 3), problem(64, 64, 64, 56, 3)
POINTWISE, DEPTHWISE = problem(64, 256, 64, 56, 1), problem(64, 512, 512, 28, 3, groups=512)


# The table of docs/method.md, "Placement and bound"; times in µs as printed there.
@pytest.mark.parametrize(
    ("shape", "mode", "launches", "flops", "size", "times", "bound"),
    [
        (SMALL, "fp32", 1, "2.312e8", "1.753e6", ("3.85", "0.41", "2.40", "6.25"), "compute"),
        (SMALL, "fp32", 5, "2.312e8", "1.753e6", ("3.85", "0.41", "12.0", "15.85"), "latency"),
        (MIDDLE, "fp32", 1, "1.480e10", "1.029e8", ("246.6", "23.9", "2.40", "249.0"), "compute"),
        (MIDDLE, "tf32", 1, "1.480e10", "1.029e8", ("37.0", "23.9", "2.40", "39.4"), "compute"),
        (POINTWISE, "fp32", 1, "6.577e9", "2.570e8", ("109.6", "59.8", "2.40", "112.0"), "compute"),
        (POINTWISE, "tf32", 1, "6.577e9", "2.570e8", ("16.4", "59.8", "2.40", "62.2"), "bandwidth"),
        (DEPTHWISE, "fp32", 1, "4.624e8", "2.055e8", ("7.71", "47.8", "2.40", "50.2"), "bandwidth"),
    ],
)
def test_vectors(shape, mode, launches, flops, size, times, bound):
    counted = 4 * (math.prod(shape.x_shape) + math.prod(shape.w_shape) + math.prod(shape.y_shape))
    assert f"{nominal_flops(shape):.3e}".replace("e+0", "e").replace("e+", "e") == flops
    assert f"{counted:.3e}".replace("e+0", "e") == size
    placement = place(one_phase(nominal_flops(shape), counted, launches), ceilings(), MathMode(mode), warm=False)
    seconds = (placement.compute_s, placement.memory_s, placement.latency_s, placement.floor_s)
    for printed, value in zip(times, seconds, strict=True):
        assert value * 1e6 == pytest.approx(float(printed), abs=0.51 * 10 ** -len(printed.partition(".")[2]))
    assert placement.bound == bound
    assert placement.level == "dram"
    assert not placement.ambiguous


def test_first_vector_is_1_61_ahead():
    placement = place(one_phase(231211008, 1753088), ceilings(), "fp32", warm=False)
    assert placement.ahead == pytest.approx(1.61, abs=0.005)


def test_on_the_ridge_is_ambiguous():
    machine = ceilings(launch_s=0)
    size = 43 * 10**9
    placement = place(one_phase(600 * 10**9, size), machine, "fp32", warm=False)
    assert ridge_point(machine, "fp32") * size == pytest.approx(600e9)
    assert placement.compute_s == pytest.approx(placement.memory_s)
    assert placement.latency_s == 0
    assert placement.ambiguous
    assert judge(placement, placement.floor_s).flag is Flag.AMBIGUOUS


@pytest.mark.parametrize(("ratio", "sigma", "ambiguous"), [
    (1.32, 0.0, True), (1.34, 0.0, False),
    (1.5, 0.1, False),  # Φ(0.405 / 0.141) = 0.998
    (1.5, 0.2, True),   # Φ(0.405 / 0.283) = 0.924
    (100.0, 0.2, False),
])  # fmt: skip
def test_ambiguity(ratio, sigma, ambiguous):
    machine = ceilings(fp32=1e12, dram=1e12, launch_s=0, sigma=sigma)
    assert place(one_phase(int(ratio * 10**9), 10**9), machine, "fp32", warm=False).ambiguous is ambiguous


def test_confidence_is_the_probability_that_the_larger_time_is_larger():
    def confidence(ratio, sigma):
        machine = ceilings(fp32=1e12, dram=1e12, launch_s=0, sigma=sigma)
        return place(one_phase(int(ratio * 10**9), 10**9), machine, "fp32", warm=False).confidence

    assert confidence(1.5, 0.2) == pytest.approx(0.924, abs=5e-4)
    assert confidence(1.5, 0.1) == pytest.approx(0.998, abs=5e-4)
    assert confidence(1.0, 0.1) == 0.5
    assert confidence(1.0, 0.0) == confidence(2.0, 0.0) == 1.0  # ceilings without a deviation leave no doubt
    assert place(one_phase(1, 0), ceilings(launch_s=0, sigma=0.3), "fp32", warm=False).confidence == 1.0


def test_level_depends_on_footprint_warmth_and_kind():
    gpu = ceilings(l2=(10e12, 50 * MIB))
    cpu = ceilings(l2=(1e12, 2 * MIB), l3=(0.5e12, 32 * MIB), is_gpu=False)

    def level(machine, footprint, warm=True):
        return place(one_phase(0, 1000, footprint=footprint), machine, "fp32", warm=warm).level

    assert level(gpu, 20 * MIB) == "l2"
    assert level(gpu, 20 * MIB + 1) == "dram"
    assert level(gpu, 1, warm=False) == "dram"
    assert [level(cpu, size) for size in (MIB, MIB + 1, 16 * MIB, 16 * MIB + 1)] == ["l2", "l3", "l3", "dram"]
    assert level(replace(gpu, bandwidth={"dram": measured(1e12)}), 1) == "dram"  # no bandwidth known for the L2


def test_phases_each_at_their_level():
    machine = ceilings(dram=1e12, l2=(4e12, 50 * MIB))
    work = Work((phase(10**9, 4 * 10**6, footprint=MIB), phase(10**9, 2 * 10**6, footprint=100 * MIB, launches=2)))
    placement = place(work, machine, "fp32", warm=True)
    assert placement.levels == ("l2", "dram")
    assert placement.memory_s == pytest.approx(1e-6 + 2e-6)
    assert placement.level == "dram"
    assert placement.latency_s == pytest.approx(3 * 2.4e-6)


def test_phases_each_at_the_peak_of_their_math_mode():
    machine = replace(ceilings(launch_s=0), compute={"fp32": measured(1e13), "tf32": measured(1e14, sigma=0.2)})
    work = Work((phase(10**9, 0), replace(phase(10**9, 0), math_mode="tf32")))
    assert place(work, machine, "fp32", warm=True).compute_s == pytest.approx(1e-4 + 1e-5)
    assert place(work, machine, "tf32", warm=True).compute_s == pytest.approx(2e-5)
    assert place(work, machine, "fp32", warm=True).sigma == pytest.approx(0.2 * 1e-5 / 1.1e-4)
    with pytest.raises(InputError, match="math mode tf32"):
        place(work, replace(machine, compute={"fp32": measured(1e13)}), "fp32", warm=True)


def test_row_floor_replaces_a_smaller_launch_latency():
    work = one_phase(10**6, 10**6)
    assert place(work, ceilings(), "fp32", warm=False, row_floor_s=9e-6).latency_s == 9e-6
    assert place(work, ceilings(), "fp32", warm=False, row_floor_s=1e-6).latency_s == 2.4e-6


def test_nothing_to_do():
    nothing = one_phase(0, 0)
    launched = place(nothing, ceilings(), "fp32", warm=True)
    assert (launched.bound, launched.level, launched.ahead) == (Bound.LATENCY, None, None)
    assert launched.floor_s == 2.4e-6
    for work in (nothing, Work(())):
        free = place(work, ceilings(launch_s=0, sigma=0.1), "fp32", warm=True)
        assert (free.bound, free.floor_s, free.ambiguous, free.sigma) == (Bound.COMPUTE, 0.0, False, 0.0)
        assert judge(free, 1e-6).attained == 0.0


@pytest.mark.parametrize(("share", "flag"), [
    (1.06, Flag.ABOVE_ROOF), (1.04, None), (0.61, None), (0.59, Flag.IMPLEMENTATION),
])  # fmt: skip
def test_flags_of_a_clear_placement(share, flag):
    placement = place(one_phase(10**12, 10**6), ceilings(), "fp32", warm=False)
    judgement = judge(placement, placement.floor_s / share)
    assert judgement.attained == pytest.approx(share)
    assert (judgement.flag, judgement.bound) == (flag, Bound.COMPUTE)


def test_above_roof_allows_three_sigma():
    placement = place(one_phase(10**13, 10**6), ceilings(sigma=0.05), "fp32", warm=False)
    assert placement.sigma == pytest.approx(0.05, rel=1e-3)
    assert judge(placement, placement.floor_s / 1.14).flag is None
    assert judge(placement, placement.floor_s / 1.16).flag is Flag.ABOVE_ROOF


def test_latency_is_the_verdict_from_half_of_the_time_on():
    placement = place(one_phase(231211008, 1753088), ceilings(), "fp32", warm=False)
    assert placement.bound is Bound.COMPUTE
    assert judge(placement, 4.79e-6).bound is Bound.LATENCY
    assert judge(placement, 4.81e-6).bound is Bound.COMPUTE


def test_thresholds_are_values():
    placement = place(one_phase(10**12, 10**6), ceilings(), "fp32", warm=False)
    strict = Thresholds(implementation=0.9)
    assert judge(placement, placement.floor_s / 0.8, thresholds=strict).flag is Flag.IMPLEMENTATION


def test_errors_name_what_is_missing():
    work = one_phase(10, 10)
    with pytest.raises(InputError, match="compute ceiling for math mode bf16-tc; this machine has fp32, tf32"):
        place(work, ceilings(), MathMode.BF16_TC, warm=False)
    with pytest.raises(InputError, match="bandwidth ceiling for dram; this machine has none"):
        place(work, replace(ceilings(), bandwidth={}), "fp32", warm=False)
    with pytest.raises(InputError, match="bandwidth ceiling for l3"):
        attainable(ceilings(), "fp32", "l3", 1.0)
    for time_s in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="time_s must be a number above 0"):
            judge(place(work, ceilings(), "fp32", warm=False), time_s)


def test_roofline_meets_at_the_ridge():
    machine = ceilings()
    ridge = ridge_point(machine, "fp32")
    assert ridge == pytest.approx(60 / 4.3)
    assert attainable(machine, "fp32", "dram", ridge) == pytest.approx(60e12)
    assert attainable(machine, "fp32", "dram", ridge / 2) == pytest.approx(30e12)
    assert attainable(machine, "fp32", "dram", ridge * 2) == 60e12


counts = st.integers(0, 10**14)
rates = st.floats(1e9, 1e16)
works = st.lists(st.tuples(counts, counts, st.integers(0, 9)), min_size=1, max_size=4).map(
    lambda rows: Work(tuple(phase(flops, size, launches) for flops, size, launches in rows))
)
machines = st.builds(
    lambda fp32, dram, l2, launch_s, sigma: ceilings(
        fp32=fp32, dram=dram, l2=(l2, 40 * MIB), launch_s=launch_s, sigma=sigma
    ),
    rates, rates, rates, st.floats(1e-8, 1e-3), st.floats(0, 0.3),
)  # fmt: skip


@given(works, machines, st.integers(2, 1000))
def test_times_scale_with_the_work(work, machine, k):
    scaled = Work(tuple(
        replace(p, flops=k * p.flops, bytes_read=k * p.bytes_read, bytes_written=k * p.bytes_written)
        for p in work.phases
    ))  # fmt: skip
    one, many = (place(w, machine, "fp32", warm=True) for w in (work, scaled))  # footprints stay, so levels do
    assert many.compute_s == pytest.approx(k * one.compute_s)
    assert many.memory_s == pytest.approx(k * one.memory_s)
    assert many.latency_s == one.latency_s


@given(works, machines, st.floats(1, 100), st.sampled_from(["fp32", "dram", "l2", "launch"]), st.booleans())
def test_a_better_ceiling_never_costs_time(work, machine, factor, which, warm):
    def raised(table):
        return {k: replace(v, value=v.value * factor) if k == which else v for k, v in table.items()}

    launch = replace(machine.launch, value=machine.launch.value / (factor if which == "launch" else 1))
    better = replace(machine, compute=raised(machine.compute), bandwidth=raised(machine.bandwidth), launch=launch)
    before, after = (place(work, m, "fp32", warm=warm) for m in (machine, better))
    for name in ("compute_s", "memory_s", "latency_s", "floor_s"):
        assert getattr(after, name) <= getattr(before, name) * (1 + 1e-12)


@given(works, machines, st.integers(-30, 30), st.booleans())
def test_the_unit_of_time_does_not_matter(work, machine, power, warm):
    k = 2.0**power  # exact in binary

    def slower(table):
        return {key: replace(c, value=c.value / k) for key, c in table.items()}

    other = replace(
        machine,
        compute=slower(machine.compute),
        bandwidth=slower(machine.bandwidth),
        launch=replace(machine.launch, value=machine.launch.value * k),
    )
    here, there = (place(work, m, "fp32", warm=warm) for m in (machine, other))
    assert there.floor_s == pytest.approx(here.floor_s * k, rel=1e-12)
    for name in ("bound", "level", "levels", "ahead", "confidence", "ambiguous"):
        assert getattr(there, name) == getattr(here, name)
    assert judge(there, k).flag == judge(here, 1.0).flag


@given(works, machines, st.booleans(), st.floats(1e-6, 1e3))
def test_half_the_ceilings_and_twice_the_launch_latency_take_twice_the_time(work, machine, warm, time_s):
    def half(table):
        return {key: replace(c, value=c.value / 2) for key, c in table.items()}

    launch = replace(machine.launch, value=2 * machine.launch.value)
    slower = replace(machine, compute=half(machine.compute), bandwidth=half(machine.bandwidth), launch=launch)
    here, there = (place(work, m, "fp32", warm=warm) for m in (machine, slower))
    assert there.floor_s == pytest.approx(2 * here.floor_s)
    assert judge(there, 2 * time_s).attained == pytest.approx(judge(here, time_s).attained)


@given(works, machines, st.integers(2, 1000), st.booleans(), st.floats(1e-6, 1e3))
def test_work_and_ceilings_scaled_together_change_nothing(work, machine, k, warm, time_s):
    def scaled(table):
        return {key: replace(c, value=c.value * k) for key, c in table.items()}

    more = Work(tuple(
        replace(p, flops=k * p.flops, bytes_read=k * p.bytes_read, bytes_written=k * p.bytes_written)
        for p in work.phases
    ))  # fmt: skip
    faster = replace(machine, compute=scaled(machine.compute), bandwidth=scaled(machine.bandwidth))
    here, there = place(work, machine, "fp32", warm=warm), place(more, faster, "fp32", warm=warm)
    assert (there.levels, there.latency_s) == (here.levels, here.latency_s)
    assert there.floor_s == pytest.approx(here.floor_s, rel=1e-12)
    assert judge(there, time_s).attained == pytest.approx(judge(here, time_s).attained, rel=1e-12)
    if not here.ambiguous:
        assert (there.bound, there.ambiguous) == (here.bound, False)


@given(works, machines, st.booleans())
def test_the_bound_is_the_largest_time(work, machine, warm):
    placement = place(work, machine, "fp32", warm=warm)
    times = {
        Bound.COMPUTE: placement.compute_s,
        Bound.BANDWIDTH: placement.memory_s,
        Bound.LATENCY: placement.latency_s,
    }
    assert times[placement.bound] == max(times.values())
    assert placement.ahead is None or placement.ahead >= 1
    assert placement.ambiguous or placement.ahead is None or placement.ahead > 1.33
    assert max(times.values()) <= placement.floor_s <= sum(times.values()) * (1 + 1e-12)


@given(works, machines, st.floats(1e-9, 1e3))
def test_at_most_one_flag_and_no_clamping(work, machine, time_s):
    placement = place(work, machine, "fp32", warm=False)
    judgement = judge(placement, time_s)
    assert judgement.attained == placement.floor_s / time_s
    if judgement.flag is None:
        assert 0.6 <= judgement.attained <= 1 + max(0.05, 3 * placement.sigma)
