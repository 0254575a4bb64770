"""Pictures: what is drawn where, labels that do not collide, and files that come out the same each time."""

import functools
import itertools
import math
import re
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb
from plots import CEILINGS, ceiling, many, row, run_of, scene_of

from convbench.ceilings import Ceilings
from convbench.errors import InputError
from convbench.render.plot import SCENE_KINDS, SUFFIXES, THEMES, draw, picture
from convbench.render.plot.labels import Taken, along, label_point
from convbench.render.plot.points import MOST_NUMBERED
from convbench.render.plot.scene import DENSE, MOST_PANELS, Choice, make_scene, panels
from convbench.render.plot.style import HATCHES, MARKERS, THEME, drawing
from convbench.render.plot.terminal import terminal
from convbench.roofline import Bound


@pytest.fixture(autouse=True)
def our_settings():
    with drawing(THEME["light"]):
        yield


def labelled(axes, pattern):
    """Artists of the axes by their label, where it matches."""
    found = [artist for artist in axes.get_children() if re.fullmatch(pattern, str(artist.get_label()))]
    assert found, pattern
    return found


def corners(text):
    """The four corners of a text centred at its position, in pixels, turned as it is."""
    x, y = text.get_transform().transform(text.get_position())
    turned = math.radians(text.get_rotation())
    upright = text.get_rotation()
    text.set_rotation(0)
    box = text.get_window_extent()
    text.set_rotation(upright)
    spots = itertools.product((-box.width / 2, box.width / 2), (-box.height / 2, box.height / 2))
    return np.array([
        (x + dx * math.cos(turned) - dy * math.sin(turned), y + dx * math.sin(turned) + dy * math.cos(turned))
        for dx, dy in spots
    ])  # fmt: skip


def apart(a, b):
    """Whether two rectangles are, by the axes that could separate them."""
    for shape in (a, b):
        for side in (shape[1] - shape[0], shape[2] - shape[0]):
            p, q = a @ side, b @ side
            if p.max() <= q.min() or q.max() <= p.min():
                return True
    return False


SCENES = {
    "sparse": many(6, "gemm", "winograd"),
    "numbered": many(12, "gemm", "winograd", passes=("fprop", "dgrad")),
    "dense": many(57, passes=("fprop", "dgrad", "wgrad")),
    "two dtypes": many(10) + many(10, dtype="fp64"),
    "on one spot": [row(f"twin-{place}") for place in range(30)],
}


@functools.cache
def drawn(name, kind="roofline"):
    """The scene called `name`, drawn once."""
    return draw(scene_of(*SCENES[name]), kind)


@pytest.mark.parametrize("kind", ["roofline", "model"])
@pytest.mark.parametrize("name", SCENES)
def test_labels_collide_neither_with_each_other_nor_with_marks(name, kind):
    figure = drawn(name, kind)
    count = 0
    for axes in figure.axes:
        texts = labelled(axes, "_label|_.*-label")
        boxes = [(text.get_text(), corners(text)) for text in texts]
        for (first, a), (second, b) in itertools.combinations(boxes, 2):
            assert apart(a, b), (first, second)
        edges = axes.bbox
        for text, box in boxes:
            assert edges.padded(1).contains(*box.min(0)), text
            assert edges.padded(1).contains(*box.max(0)), text
        own = [corners(text) for text in labelled(axes, "_label")]
        marks = [axes.transData.transform(mark.get_offsets()[0]) for mark in labelled(axes, "_executed-.*")]
        assert not any(box.min(0)[0] < x < box.max(0)[0] and box.min(0)[1] < y < box.max(0)[1]
                       for box in own for x, y in marks)  # fmt: skip
        count += len(own)
    left_out = [
        int(found) for text in figure.texts for found in re.findall(r"(\d+) of \d+ labels left out", text.get_text())
    ]
    assert count + sum(left_out) == len(SCENES[name])
    assert sum(left_out) <= 0.1 * count


@pytest.mark.parametrize("name", SCENES)
def test_every_roof_is_labelled_on_its_line_with_its_value(name):
    for axes in drawn(name).axes:
        dtype = "fp64" if "fp64" in axes.get_title(loc="left") else "fp32"
        texts = {"l2": "L2 100 GB/s", "l3": "L3 60.0 GB/s", "dram": "DRAM 25.0 GB/s",
                 dtype: f"{dtype} {200 if dtype == 'fp32' else 100} Gflop/s"}  # fmt: skip
        for level, expected in texts.items():
            (line,) = labelled(axes, f"_roof-measured-{level}")
            (text,) = labelled(axes, f"_roof-measured-{level}-label")
            assert text.get_text() == expected
            (x0, y0), (x1, y1) = axes.transData.transform(line.get_xydata())
            x, y = axes.transData.transform(text.get_position())
            length = math.hypot(x1 - x0, y1 - y0)
            off = abs((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length
            on = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length
            assert off < 12
            assert 0 < on < length
            turn = math.degrees(math.atan2(y1 - y0, x1 - x0)) - text.get_rotation()
            assert turn % 180 == pytest.approx(0, abs=0.1) or turn % 180 == pytest.approx(180, abs=0.1)


def test_roofs_are_where_the_ceilings_are():
    (axes,) = drawn("sparse").axes
    (peak,) = labelled(axes, "_roof-measured-fp32")
    assert set(peak.get_ydata()) == {200.0}
    assert min(peak.get_xdata()) == pytest.approx(2.0)  # from the ridge of the fastest level
    (dram,) = labelled(axes, "_roof-measured-dram")
    assert dram.get_ydata() / dram.get_xdata() == pytest.approx(25.0)
    assert tuple(dram.get_xydata()[1]) == pytest.approx((8.0, 200.0))
    (band,) = labelled(axes, "_ridge-l3")
    ends = band.get_paths()[0].get_extents()
    assert (ends.x0, ends.x1) == pytest.approx((200 / 60 / 1.33, 200 / 60 * 1.33))


def test_published_roofs_are_dashed_beside_measured_solid_ones():
    published = {"compute": {"fp32": ceiling(3e11, "datasheet")}, "bandwidth": {"dram": ceiling(4e10, "datasheet")}}
    (axes,) = draw(scene_of(*SCENES["sparse"], published=Ceilings.from_dict(published)), "roofline").axes
    assert {line.get_linestyle() for line in labelled(axes, "_roof-measured-[^-]*")} == {"-"}
    dashed = [line for line in labelled(axes, "_roof-datasheet-[^-]*") if hasattr(line, "get_linestyle")]
    assert [line.get_linestyle() for line in dashed] == ["--", "--"]
    (text,) = labelled(axes, "_roof-datasheet-dram-label")
    assert text.get_text() == "DRAM 40.0 GB/s"


def test_shape_and_colour_follow_the_bound():
    rows = [
        row("compute", channels=60, seconds=1e-3),
        row("bandwidth", channels=3, seconds=1e-3),
        replace(row("latency", channels=3), floor_s=9e-4),
    ]
    (axes,) = draw(scene_of(*rows), "roofline").axes
    colours = THEME["light"].bounds
    for bound in Bound:
        (mark,) = labelled(axes, f"_executed-{bound}")
        assert to_hex(mark.get_facecolor()[0]) == colours[bound]
        shape = mpl.markers.MarkerStyle(MARKERS[bound])
        expected = shape.get_path().transformed(shape.get_transform())
        assert np.array_equal(mark.get_paths()[0].vertices, expected.vertices)
    assert len(set(MARKERS.values())) == len(set(colours.values())) == 3


def test_executed_is_solid_effective_hollow_and_they_are_joined():
    (axes,) = draw(scene_of(row("half", executed=0.5), row("all", channels=20)), "roofline").axes
    (solid,) = labelled(axes, "_executed-half")
    ((x, low),) = solid.get_offsets()
    (hollow,) = labelled(axes, "_effective-half")
    ((above, high),) = hollow.get_xydata()
    assert (above, high) == pytest.approx((x, 2 * low))
    assert to_hex(hollow.get_markerfacecolor()) == THEME["light"].ground
    (join,) = labelled(axes, "_join")  # the other row executes what is nominal: it has one point
    assert join.get_xydata() == pytest.approx(np.array([(x, low), (x, high)]))


def test_a_row_whose_work_is_unknown_is_hollow():
    unknown = replace(row("a"), work=None)
    (axes,) = draw(scene_of(unknown), "roofline").axes
    (mark,) = labelled(axes, "_nominal-a")
    assert len(mark.get_facecolor()) == 0


def test_area_goes_with_the_time():
    (axes,) = draw(scene_of(row("long", seconds=4e-3), row("short", channels=10, seconds=2e-3)), "roofline").axes
    (long,), (short,) = labelled(axes, "_executed-long"), labelled(axes, "_executed-short")
    assert long.get_sizes()[0] == 2 * short.get_sizes()[0]


def test_the_second_series_has_an_outline():
    (axes,) = draw(scene_of(row("a"), row("a", "winograd", seconds=2e-3)), "roofline").axes
    edges = [to_hex(labelled(axes, f"_executed-a-cpu:{name}")[0].get_edgecolor()[0]) for name in ("gemm", "winograd")]
    assert edges == [THEME["light"].ground, THEME["light"].text]


def test_dense_points_are_numbered_as_in_the_table():
    figure = drawn("dense")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["fprop", "dgrad", "wgrad"]
    for axes in figure.axes:
        numbers = [int(text.get_text()) for text in labelled(axes, "_label")]
        assert len(numbers) == len(set(numbers))
        assert set(numbers) <= set(range(1, 58))
    table = [text.get_text() for text in figure.texts if text.get_label() == "_table"]
    assert table.count("fprop") == table.count("") / 2  # a head for each column of the table
    assert {row.key.case.name for row in SCENES["dense"]} <= set(table)
    assert [text for text in table if text.isdigit()] == [str(number) for number in range(1, 58)]


def test_the_table_fits_the_figure():
    for name in SCENES:
        figure = drawn(name)
        whole = figure.bbox
        for text in figure.texts:
            box = text.get_window_extent()
            assert whole.x0 <= box.x0, text
            assert box.x1 <= whole.x1, text
            assert whole.y0 <= box.y0, text


@pytest.mark.parametrize("length", [100, 200, 1000])
def test_a_long_title_stays_inside(length):
    scene = replace(scene_of(row("a")), title="W" * length, subtitle=f"{'m' * length}\nshort")
    figure = draw(scene, "network")
    for text in figure.texts:
        assert text.get_window_extent().x1 <= figure.bbox.x1, text


def test_panels_follow_dtype_then_series_then_pass():
    def titles(*rows):
        return [panel.title for panel in panels(scene_of(*rows))[0]]

    assert titles(*many(3)) == ["fp32"]
    assert titles(*many(3), *many(3, dtype="fp64")) == ["fp32", "fp64"]
    assert titles(*many(3, "gemm", "fft", "winograd")) == ["cpu:gemm", "cpu:fft", "cpu:winograd"]
    assert titles(*many(DENSE // 2 + 1, passes=("fprop", "dgrad"))) == ["fprop", "dgrad"]


def test_too_much_for_one_picture_is_refused():
    too_many = [row("a", f"algorithm-{place}") for place in range(MOST_PANELS + 1)]
    with pytest.raises(InputError, match="10 panels are too many"):
        draw(scene_of(*too_many), "roofline")
    with pytest.raises(InputError, match=r"201 points .* too many"):
        draw(scene_of(*many(MOST_NUMBERED + 1)), "roofline")
    with pytest.raises(InputError, match="bars are too many"):
        draw(scene_of(*many(300, "gemm", "fft")), "speedup")


def test_what_has_no_place_is_counted():
    figure = draw(scene_of(row("a"), row("b", dtype="bf16"), row("c", executed=0.0)), "roofline")
    notes = figure.texts[-1].get_text().replace("\n", " ")
    assert "1 of 3 rows not shown: no compute ceiling for math mode bf16-tc" in notes
    assert "1 of 3 rows not shown: no flops, or no bytes moved" in notes


@pytest.mark.parametrize("kind", ["roofline", "model", "ceilings"])
def test_ceilings_of_a_busy_machine_are_noted(kind):
    run = run_of(row("a"), ceilings=CEILINGS | {"contended": "3 of 7 passes were disturbed"})
    notes = draw(make_scene([("a", run)], Choice()), kind).texts[-1].get_text().replace("\n", " ")
    assert "ceilings of cpu were measured while the machine was not quiet: 3 of 7 passes were disturbed" in notes


def test_the_model_plot_has_a_diagonal_and_the_latency_floor():
    slow = replace(row("a", channels=3, seconds=3e-4), floor_s=1.5e-4)
    (axes,) = draw(scene_of(slow, row("b", seconds=2e-3)), "model").axes
    (diagonal,) = labelled(axes, "_diagonal-1.0")
    assert diagonal.get_xdata() == pytest.approx(diagonal.get_ydata())
    (floor,) = labelled(axes, "_latency-floor")
    assert set(floor.get_ydata()) == {1.5e-4}
    (mark,) = labelled(axes, "_executed-a")
    ((modelled, measured),) = mark.get_offsets()
    assert measured == pytest.approx(3e-4)
    assert modelled > 1.5e-4


def test_a_speed_up_is_the_baselines_time_over_the_others():
    rows = [row("a", "gemm"), row("a", "fft", seconds=5e-4), row("b", "gemm"), row("b", "fft", seconds=2e-3), row("c")]
    (axes,) = draw(scene_of(*rows), "speedup").axes
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert ends == pytest.approx([2.0, 0.5, 1.0])  # the last is the geometric mean
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["a", "b", "geometric mean"]
    (reverse,) = draw(scene_of(*rows, baseline="cpu:fft"), "speedup").axes
    assert reverse.patches[0].get_x() + reverse.patches[0].get_width() == pytest.approx(0.5)


def test_phases_are_shares_of_their_sum():
    rows = [row("a", phases={"gather": 1e-3, "product": 3e-3}), row("b")]
    figure = draw(scene_of(*rows), "phases")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.25, 0.75])
    assert "1 of 2 rows left out: no phases were measured" in figure.texts[-1].get_text()


def test_many_phases_end_in_other():
    names = {f"phase {place}": (20 - place) * 1e-3 for place in range(12)}
    (axes,) = draw(scene_of(row("a", phases=names)), "phases").axes
    assert len(axes.patches) == len(HATCHES) == 8
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(1.0)


def test_a_network_counts_its_layers_and_hides_what_is_incomplete():
    rows = [row("a"), row("b"), row("a", "fft", seconds=5e-4)]
    (axes,) = draw(scene_of(*rows), "network").axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([4e-3, 3e-3])  # gemm, fastest of each
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["4.00 ms", "incomplete: layers without a time: 1", "3.00 ms"]


def test_the_curve_of_bandwidth_has_its_levels_named():
    (axes,) = draw(scene_of(row("a")), "ceilings").axes
    for level, value in (("l2", 100.0), ("l3", 60.0), ("dram", 25.0)):
        (line,) = labelled(axes, f"_roof-{level}")
        (text,) = labelled(axes, f"_roof-{level}-label")
        assert set(line.get_ydata()) == {value}
        assert text.get_text().startswith(level.upper())
    boxes = [corners(text) for text in labelled(axes, "_.*-label")]
    assert all(apart(a, b) for a, b in itertools.combinations(boxes, 2))


def test_the_curve_of_bandwidth_is_titled_by_the_machine():
    scene = scene_of(row("a"))
    for text in (picture(scene, "ceilings", ".svg").decode(), terminal(scene, "ceilings", 80, color=False)):
        title = text.partition("<title>")[2] or text
        assert title.startswith("Test CPU: bandwidth by size of the working set")
        assert scene.title not in text


# Files


@pytest.mark.parametrize(
    ("kind", "suffix"), [*((kind, ".svg") for kind in SCENE_KINDS), *(("speedup", suffix) for suffix in SUFFIXES[1:])]
)
def test_files_are_the_same_each_time_whatever_the_settings(kind, suffix):
    scene = scene_of(*(replace(r, phases=((1e-3,),)) for r in many(3, "gemm", "fft")))
    first = picture(scene, kind, suffix)
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": None, "axes.facecolor": "red"}):
        assert picture(scene, kind, suffix) == first
        assert mpl.rcParams["font.size"] == 20


def test_an_svg_says_what_it_shows_and_not_when():
    scene = replace(scene_of(*many(3)), title='<"two" & more> $x$')
    svg = picture(scene, "roofline", ".svg").decode()
    assert '<svg role="img"' in svg
    assert '<title>&lt;"two" &amp; more&gt; $x$: roofline</title>' in svg
    assert re.search(r"<desc>Roofline: .* 3 rows of .*Test CPU.*</desc>", svg)
    assert "dc:date" not in svg
    identifiers = re.findall(r' id="([^"]*)"', svg)
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize("theme", THEMES)
def test_colours_can_be_seen_and_told_apart(theme):
    def linear(colour):
        c = np.array(to_rgb(colour))
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)

    def light(colour):
        return linear(colour) @ (0.2126, 0.7152, 0.0722) + 0.05

    of = THEME[theme]
    for colour in (*of.bounds.values(), *of.verdicts.values(), of.text, of.muted):
        contrast = light(colour) / light(of.ground)
        assert max(contrast, 1 / contrast) >= 3  # WCAG 2.1, 1.4.11
    # As seen without red-sensitive and without green-sensitive cones: Machado, Oliveira and Fernandes 2009.
    for matrix in (
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ):
        for colours in (of.bounds.values(), set(of.verdicts.values())):
            seen = [np.clip(np.array(matrix) @ linear(colour), 0, 1) ** (1 / 2.2) for colour in colours]
            assert all(np.linalg.norm(a - b) > 0.2 for a, b in itertools.combinations(seen, 2))


# Placing labels


@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), max_size=40),
    st.floats(5, 40), st.floats(5, 15), st.floats(0, 10),
)  # fmt: skip
def test_labels_never_overlap(points, width, height, radius):
    area = (0.0, 0.0, 300.0, 200.0)
    taken = Taken(area)
    found = [place for x, y in points if (place := label_point(taken, x, y, radius, (width, height)))]
    for x, y in found:
        assert width / 2 <= x <= 300 - width / 2
        assert height / 2 <= y <= 200 - height / 2
    for (a, b), (c, d) in itertools.combinations(found, 2):
        assert abs(a - c) >= width or abs(b - d) >= height


@given(st.floats(0, math.pi / 2), st.floats(20, 100), st.floats(5, 15), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_boxes_cover_a_turned_text(angle, width, height, across, up):
    dx, dy = across * width, up * height
    x, y = dx * math.cos(angle) - dy * math.sin(angle), dx * math.sin(angle) + dy * math.cos(angle)
    slack = 1e-6
    assert any(x0 - slack <= x <= x1 + slack and y0 - slack <= y <= y1 + slack
               for x0, y0, x1, y1 in along(0.0, 0.0, angle, width, height))  # fmt: skip


# What a scene is made of


def test_runs_of_one_machine_go_together():
    scene = make_scene([("a", run_of(row("a"))), ("b", run_of(row("b"), ceilings=None))], Choice())
    assert len(draw(scene, "roofline").axes[0].collections) >= 2
    assert "placed" not in scene.title


def test_names_say_what_tells_rows_apart_and_no_more():
    plain, cold = row("a"), replace(row("a"), key=replace(row("a").key, cache="cold"))
    scene = scene_of(plain, cold, row("b"), row("c", suite="other"))
    assert [scene.problem(r) for r in scene.rows] == ["tiny/a warm", "tiny/a cold", "tiny/b", "other/c"]
    assert scene_of(row("b")).problem(row("b")) == "b"


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([("a", run_of())], "a: no row has a time, so there is nothing to draw"),
        ([("a", run_of(row("x"))), ("b", run_of(row("x")))], "a and b both have a time for tiny/x fprop fp32"),
        ([("a", run_of(row("x"))), ("b", run_of(row("y"), options={"threads": 8}))], "threads differ: 2 in a, 8 in b"),
        ([("a", run_of(row("x"), ceilings=None))], "no ceilings of cpu in this run.*machine --measure"),
        ([("a", run_of(row("x"), ceilings=CEILINGS | {"compute": {}}))], "no compute ceiling for math mode fp32"),
        ([("a", run_of(row("x", executed=0.0)))], "no row has both flops and bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(runs, message):
    with pytest.raises(InputError, match=message):
        draw(make_scene(runs, Choice()), "roofline")


def test_machines_are_not_mixed():
    other = run_of(row("y"))
    other.header["devices"]["cpu"] |= {"fingerprint": "ffff", "machine": {"cpu_model": "Other CPU"}}
    expected = r"machines differ: cpu is Test CPU \(0123456789ab\) in a, Other CPU \(ffff\) in b; plot them apart"
    with pytest.raises(InputError, match=expected):
        make_scene([("a", run_of(row("x"))), ("b", other)], Choice())


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("speedup", [row("a")], "nothing to compare cpu:gemm with"),
        ("speedup", [row("a"), row("b", "fft")], "no case has a time of cpu:gemm and of another"),
        ("phases", [row("a")], "no phases in the run: measure with `convbench run --phases`"),
        ("network", [replace(row("a"), status="failed"), row("b", suite="else")], None),
    ],
)
def test_what_a_kind_needs_is_said(kind, rows, message):
    if message is None:
        assert draw(scene_of(*rows), kind).axes
        return
    with pytest.raises(InputError, match=message):
        draw(scene_of(*rows), kind)


def test_an_unknown_baseline_names_the_nearest():
    with pytest.raises(InputError, match="unknown baseline 'cpu:gem'; did you mean 'cpu:gemm'"):
        draw(scene_of(row("a"), row("a", "fft"), baseline="cpu:gem"), "speedup")


def test_no_curve_is_said():
    scene = make_scene([("a", run_of(row("x"), ceilings=CEILINGS | {"curve": []}))], Choice())
    with pytest.raises(InputError, match="no curve of bandwidth over size"):
        draw(scene, "ceilings")
