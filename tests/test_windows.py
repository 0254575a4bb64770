"""Correlations as windows: every product of the definition once, in whole, by residue and by chunk."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from convbench.backends.cpu.windows import Chunked, Window, correlations, pieces
from convbench.problem import Axis, Case, ConvPass, Problem

AXES = st.builds(
    lambda extra, taps, stride, dilation, before, after: Axis(
        max(1, dilation * (taps - 1) + 1 - before - after) + extra, taps, stride, dilation, before, after
    ),
    st.integers(0, 12), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 6), st.integers(-3, 6),
)  # fmt: skip
WINDOWS = st.builds(
    Window, st.integers(0, 9), st.integers(1, 12), st.just(9), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3),
    st.integers(-4, 6),
)  # fmt: skip


def case_of(axis, conv_pass):
    problem = Problem(
        batch=1,
        in_channels=1,
        out_channels=1,
        input_size=(axis.input,),
        filter_size=(axis.filter,),
        stride=(axis.stride,),
        dilation=(axis.dilation,),
        padding=((axis.before, axis.after),),
    )
    return Case(suite="test", name="p", problem=problem, conv_pass=conv_pass)


def products(window):
    """(element written, element read, tap of the filter) of each product of a window that meets no padding."""
    for o, r in itertools.product(range(window.outputs), range(window.taps)):
        element = o * window.stride + r * window.dilation - window.before
        if 0 <= element < window.source:
            yield window.first + o * window.step, element, window.first_tap + r * window.tap_step


@given(AXES)
def test_the_definition_and_its_transpose_take_each_product_once(axis):
    wanted = sorted(
        (p, x, tap)
        for p, tap in itertools.product(range(axis.output), range(axis.filter))
        if 0 <= (x := p * axis.stride + tap * axis.dilation - axis.before) < axis.input
    )
    for conv_pass in (ConvPass.FPROP, ConvPass.WGRAD):
        ((window,),) = correlations(case_of(axis, conv_pass))
        assert sorted(products(window)) == wanted
    found = [product for (window,) in correlations(case_of(axis, ConvPass.DGRAD)) for product in products(window)]
    assert sorted((p, x, tap) for x, p, tap in found) == wanted


@given(AXES)
def test_no_element_is_written_by_two_correlations_and_slices_say_where(axis):
    for conv_pass in ConvPass:
        written = []
        for (window,) in correlations(case_of(axis, conv_pass)):
            everything = slice(0, window.outputs)
            places = list(range(window.written))[window.places(everything)]
            assert places == [window.first + o * window.step for o in range(window.outputs)]
            taps = list(range(axis.filter))[window.tap_slice]
            assert taps == [window.first_tap + r * window.tap_step for r in range(window.taps)]
            written += places
        assert len(set(written)) == len(written)


@given(WINDOWS, st.data())
def test_what_lies_under_a_part(window, data):
    start = data.draw(st.integers(0, max(0, window.outputs - 1)))
    part = slice(start, data.draw(st.integers(start + 1, max(start + 1, window.outputs))))
    size, inside, there = window.under(part)
    first = part.start * window.stride - window.before
    last = (part.stop - 1) * window.stride + window.reach - window.before
    assert size == last - first + 1
    assert inside.stop - inside.start == there.stop - there.start
    elements = range(first, last + 1)
    assert list(elements)[inside] == [e for e in elements if 0 <= e < window.source]
    if inside.start < inside.stop:
        assert first + inside.start == there.start


@given(WINDOWS)
def test_spans_are_the_outputs_that_meet_no_padding(window):
    for tap in range(window.taps):
        hit = [o for o in range(window.outputs)
               if 0 <= o * window.stride + tap * window.dilation - window.before < window.source]  # fmt: skip
        assert list(window.span(tap)) == hit


@given(WINDOWS)
def test_residues_read_what_the_window_reads(window):
    if window.dilation != 1:
        return
    taps, elements = list(range(window.taps)), list(range(window.source))
    found = []
    for own_taps, read, residue in window.residues():
        seen, own = elements[read], taps[own_taps]
        assert residue.taps == len(own)
        assert residue.source == len(seen)
        found += [(o, seen[e], own[tap]) for o, e, tap in products(residue)]
    assert sorted(found) == sorted(products(window))


@given(
    st.lists(WINDOWS, min_size=1, max_size=3),
    st.integers(0, 4), st.booleans(), st.integers(1, 60), st.integers(1, 3), st.data(),
)  # fmt: skip
def test_sizes_of_chunks_add_up(windows, batch, images_first, budget, threads, data):
    outer = data.draw(st.integers(0, len(windows) - 1))
    windows = [Window(w.outputs, w.source, w.written, w.taps, 1 if a < outer else w.stride, w.dilation, w.before)
               for a, w in enumerate(windows)]  # fmt: skip
    chunked = Chunked(tuple(windows), batch, images_first, budget, threads, outer)
    strips = gathered = points = clipped = 0
    boxes = list(chunked.boxes())
    assert len(boxes) == chunked.chunks
    for n, outputs in boxes:
        images, counts = n.stop - n.start, [part.stop - part.start for part in outputs]
        assert images * math.prod(counts) <= budget
        points += images * math.prod(counts)
        strip = images * math.prod(w.under(part)[0] for w, part in zip(windows, outputs, strict=True))
        rows = math.prod(count + w.reach for count, w in zip(counts[:outer], windows, strict=False))
        windows_of = images * rows * math.prod(counts[outer:]) * chunked.inner_taps
        assert strip <= chunked.strip
        assert windows_of <= chunked.gathered
        strips, gathered = strips + strip, gathered + windows_of
        for tap in chunked.outer_taps:
            parts = chunked.clip(tap, outputs)
            clipped += images * math.prod(part.stop - part.start for part in parts) * math.prod(counts[outer:])
    assert points == batch * math.prod(w.outputs for w in windows)
    assert clipped == chunked.outer_points
    if points:
        assert (strips, gathered) == (chunked.all_strips, chunked.all_gathered)
        assert len(boxes) >= pieces(points, pieces(points, threads))  # each thread's share, or less, is a chunk
