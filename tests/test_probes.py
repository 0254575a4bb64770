"""The micro-kernels of the CPU: they do what they say, on as many threads as they say. Nothing is timed."""

import threading
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest

from convbench.backends.cpu import probes
from convbench.backends.cpu.device import CpuDevice
from convbench.backends.cpu.probes import ALIGNMENT, MIXES, RELEASED, SMALLEST_BYTES, Passes, Team, aligned, slices


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(probes, "EXTENTS", (8, 16, 32))


@pytest.mark.parametrize("threads", [1, 3])
def test_every_probe_runs_and_states_what_it_moves(threads):
    with probes.cpu_probes(threads, threads << 20) as found:
        for probe in found:
            for count in (0, 1, 3):
                probe.run(count)
    traffic = [probe for probe in found if probe.kind == "bandwidth"]
    assert [p.name for p in found if p.kind == "compute"] == ["fp32"] * 3 + ["fp64"] * 3
    assert [p.amount for p in found if p.name == "fp64"] == [2 * 8**3 * threads, 2 * 16**3 * threads, 2 * 32**3]
    assert len(traffic) == 9 * len(MIXES)
    assert all(probe.amount == probe.size_bytes for probe in traffic)
    assert {probe.size_bytes for probe in traffic if probe.name == "read"} == {
        probe.size_bytes for probe in traffic if probe.name == "add"
    }
    assert [probe.kind for probe in found].count("launch") == 1


def test_the_cpu_has_probes_beyond_its_caches(monkeypatch):
    device = CpuDevice()
    asked = []
    monkeypatch.setattr(probes, "cpu_probes", lambda threads, largest: asked.append((threads, largest)))
    device.probes(2)
    ((threads, largest),) = asked
    assert threads == 2
    assert largest > 2 * device.cache_bytes()


def test_the_threads_of_a_context_end_with_it():
    before = threading.active_count()
    with probes.cpu_probes(3, 1 << 18):
        inside = threading.active_count()
        others = [thread for thread in threading.enumerate() if thread.name.startswith("Thread-")]
    for thread in others:
        thread.join(5)
    assert inside == before + 2
    assert threading.active_count() == before


# Slices


@pytest.mark.parametrize("largest", [1, 1 << 16, 1 << 20, 1 << 27, 100_000_000])
def test_slices_go_from_the_smallest_to_the_largest_two_per_octave(largest):
    sizes = slices(largest)
    assert sizes[0] == pytest.approx(SMALLEST_BYTES, rel=0.01)
    assert sizes[-1] == pytest.approx(max(largest, SMALLEST_BYTES), rel=0.2)
    assert all(1.38 < b / a < 1.45 for a, b in pairwise(sizes))
    assert all(size % (arrays * ALIGNMENT) == 0 for size in sizes for arrays in MIXES.values())


@pytest.mark.parametrize("length", [16, 1000, 100_000])
def test_arrays_begin_at_a_cache_line(length):
    array = aligned(length)
    assert (array.ctypes.data % ALIGNMENT, array.size, array.dtype) == (0, length, np.float32)


# Passes


def parts(arrays, size=64, threads=1):
    rng = np.random.default_rng(1)
    return [[rng.standard_normal(size, dtype=np.float32) for _ in range(arrays)] for _ in range(threads)]


@pytest.mark.parametrize("count", [1, 5, 600])
def test_add_and_copy_write_every_element(count):
    (added,), (copied,) = parts(3), parts(2)
    Passes("add", [added])(count, 0)
    assert np.array_equal(added[2], added[0] + added[1])
    Passes("copy", [copied])(count, 0)
    assert np.array_equal(copied[1], -copied[0])


def test_long_copies_are_copies(monkeypatch):
    monkeypatch.setattr(probes, "COPY_BYTES", 0)
    (copied,) = parts(2)
    Passes("copy", [copied])(2, 0)
    assert np.array_equal(copied[1], copied[0])


@pytest.mark.parametrize("mix", ["add", "copy"])
def test_no_passes_touch_nothing(mix):
    (arrays,) = parts(MIXES[mix])
    before = arrays[-1].copy()
    Passes(mix, [arrays])(0, 0)
    assert np.array_equal(arrays[-1], before)


@pytest.mark.parametrize("count", [RELEASED - 1, RELEASED])
def test_reads_go_over_both_arrays_as_often_as_asked(count, monkeypatch):
    """Below RELEASED by `dot`, from there on in one `vecdot`, of which the results are kept."""
    dots = []
    monkeypatch.setattr(np, "dot", lambda a, b: dots.append((a.size, b.size)))
    (arrays,) = parts(2)
    passes = Passes("read", [arrays])
    passes(count, 0)
    if count < RELEASED:
        assert dots == [(64, 64)] * count
    else:
        results = passes._views[0][1][2]
        assert results == pytest.approx(np.full(count, np.sum(arrays[0] * arrays[1])), rel=1e-4)


def test_each_thread_has_slices_of_its_own():
    arrays = parts(3, threads=2)
    passes = Passes("add", arrays)
    passes(2, 1)
    assert not np.array_equal(arrays[0][2], arrays[0][0] + arrays[0][1])
    assert np.array_equal(arrays[1][2], arrays[1][0] + arrays[1][1])


# The team


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_all_threads_of_a_team_work_at_once(threads):
    """Each waits for all the others, so none may have ended before."""
    with closing(Team(threads)) as team:
        together = threading.Barrier(threads)
        seen = []
        for _ in range(3):
            team.run(lambda index: (together.wait(5), seen.append((index, threading.get_ident()))))
    assert sorted(index for index, _ in seen) == sorted([*range(threads)] * 3)
    assert len(set(seen)) == threads  # the same thread each time
    assert (0, threading.get_ident()) in seen


@pytest.mark.parametrize("broken", [0, 1])
def test_what_a_thread_raises_is_raised_and_the_team_goes_on(broken):
    def work(index):
        if index == broken:
            raise MemoryError("no room")

    done = []
    with closing(Team(2)) as team:
        with pytest.raises(MemoryError, match="no room"):
            team.run(work)
        team.run(done.append)
    assert sorted(done) == [0, 1]
