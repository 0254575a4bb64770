"""The page of `convbench report` in a real browser: Debian's chromium, or what CONVBENCH_BROWSER names."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from plots import many, row, run_of

from convbench.backends import Sample
from convbench.placement import placed_rows
from convbench.render import render
from convbench.render.html import charts_missing, report_html, report_tables
from convbench.render.results import rows_table
from convbench.result import Status
from convbench.timing import Round

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
expect = playwright.expect
BROWSER = os.environ.get("CONVBENCH_BROWSER") or shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(not BROWSER, reason="no chromium: apt-get install chromium, or name it in CONVBENCH_BROWSER"),
    pytest.mark.skipif(charts_missing() is not None, reason=str(charts_missing())),
]
EVIL = '</script><img src=x onerror="window.hacked=1"><b>'
PHASES = {"gather": 2e-4, "product": 8e-4}
LOCAL = re.compile("(file|data|blob):")
POINTS = "#roofline-chart .mark-symbol.role-mark path"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page on runs, and holds at the end that nothing was complained of, and nothing asked from a network."""
    said, contexts = [], []

    def open_page(runs, *, width=1280, height=900, scheme="light", touch=False):
        path = tmp_path / "report.html"
        path.write_text(report_html(runs), encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not LOCAL.match(request.url) else None)
        page.goto(path.as_uri())
        page.wait_for_selector("#roofline-chart .marks, #roofline-absent:not([hidden])")
        page.wait_for_selector("#speedups-chart .marks, #speedups-absent:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def run():
    """Four layers by two algorithms in two passes, with phases, and a row without a time."""
    failed = row("last", "gemm", seconds=1e-3)
    return run_of(*many(4, "gemm", "fft", passes=("fprop", "wgrad"), phases=PHASES), failed)


def shown(page, column):
    """The cells of a column of the table of rows."""
    headers = page.locator("#table thead th").all_inner_texts()
    place = next(index for index, text in enumerate(headers) if text.split()[0] == column)
    return page.locator(f"#table tbody tr td:nth-child({place + 1})").all_inner_texts()


def head(page, column):
    return page.locator("#table thead button", has_text=column).first


def test_all_is_drawn(opened):
    page = opened({"a": run()})
    assert page.locator(POINTS).count() == 17
    assert page.locator("#table tbody tr").count() == 17
    assert page.locator("#phases-chart .mark-rect.role-mark path").count() == 2 * 16
    assert page.locator("#filters output").inner_text() == "17 of 17 rows"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hover_shows_the_case_and_leaves_with_the_pointer(opened):
    page = opened({"a": run()})
    assert page.locator("#tip").is_hidden()
    page.locator(POINTS).nth(3).hover(force=True)
    tip = page.locator("#tip")
    tip.wait_for(state="visible")
    assert "inception_" in tip.inner_text()
    assert "attained" in tip.inner_text()
    page.mouse.move(5, 5)
    tip.wait_for(state="hidden")


def test_a_click_on_a_point_picks_its_row_and_a_row_its_point(opened):
    page = opened({"a": run()})
    page.locator(POINTS).nth(5).click(force=True)
    picked = page.locator("#table tr[aria-selected=true]")
    picked.wait_for()
    assert picked.count() == 1
    name = picked.locator("button").inner_text()
    assert page.locator("aside.detail h3").inner_text().startswith(name)
    boxes = [page.locator(name).bounding_box() for name in ("#rows .scroll", "#table tr[aria-selected=true]")]
    assert boxes[0]["y"] < boxes[1]["y"] < boxes[0]["y"] + boxes[0]["height"]
    page.locator("#table tbody button").nth(0).press("Enter")
    expect(page.locator("#table tbody tr").first).to_have_attribute("aria-selected", "true")
    sizes = page.locator(POINTS).evaluate_all("found => found.map((path) => path.getBoundingClientRect().width)")
    assert max(sizes) > 1.5 * sorted(sizes)[-2]


@pytest.mark.parametrize(
    ("name", "value", "column", "count"),
    [("pass", "wgrad", "pass", 8), ("name", "cpu:fft", "algorithm", 8), ("dtype", "fp64", "dtype", 1)],
)
def test_a_filter_leaves_its_rows_everywhere(opened, name, value, column, count):
    page = opened({"a": run_of(*run().rows[:16], row("double", dtype="fp64"))})
    page.locator(f"#filters [name={name}]").select_option(value)
    expect(page.locator(POINTS)).to_have_count(count)
    assert set(shown(page, column)) == {value}
    assert page.locator("#filters output").inner_text() == f"{count} of 17 rows"
    page.locator("#filters button[type=reset]").click()
    expect(page.locator(POINTS)).to_have_count(17)


def test_layers_are_found_by_a_part_of_their_name(opened):
    page = opened({"a": run()})
    page.locator("#filters [name=problem]").fill("INCEPTION_2/")
    assert set(shown(page, "layer")) == {"inception_2/3x3"}
    page.locator("#filters [name=problem]").fill("nothing like it")
    page.locator("#speedups-absent").wait_for(state="visible")
    assert page.locator("#table tbody tr").count() == 0
    for section in ("rows", "phases", "speedups"):
        expect(page.locator(f"#{section}-absent")).to_have_text("The filters leave no row.")
    page.locator("#filters button[type=reset]").click()
    expect(page.locator("#rows-absent")).to_be_hidden()
    expect(page.locator("#table")).to_be_visible()


def test_what_a_filter_leaves_without_phases_is_not_called_unmeasured(opened):
    page = opened({"a": run_of(row("with", phases=PHASES), row("without"))})
    page.locator("#filters [name=problem]").fill("without")
    expect(page.locator("#phases-absent")).to_have_text("No row that the filters leave has phases.")
    none = opened({"a": run_of(row("without"))})
    text = "No phases were measured: convbench run --phases measures them."
    expect(none.locator("#phases-absent")).to_have_text(text)
    assert none.locator("#phases-absent code").inner_text() == "convbench run --phases"


def test_sorting_goes_both_ways_by_value_with_absent_ones_last(opened):
    slow, quick, none = row("slow", seconds=1.5), row("quick", seconds=2e-6), row("none")
    page = opened({"a": run_of(slow, quick, row("mid", seconds=3e-3), untimed(none))})
    head(page, "time").click()
    assert shown(page, "layer") == ["quick", "mid", "slow", "none"]
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("time")
    head(page, "time").click()
    assert shown(page, "layer") == ["slow", "mid", "quick", "none"]
    assert page.locator("th[aria-sort]").count() == 1
    head(page, "layer").focus()
    page.keyboard.press("Enter")
    assert shown(page, "layer") == ["mid", "none", "quick", "slow"]


def untimed(found):
    return replace(found, status=Status.UNSUPPORTED, reason="no", rounds=(), stop_reason=None)


def test_downloads_hold_the_rows_that_the_filters_leave(opened):
    page = opened({"a": run()})
    page.locator("#filters [name=pass]").select_option("wgrad")
    with page.expect_download() as waiting:
        page.locator("#json").click()
    rows = json.loads(Path(waiting.value.path()).read_text())
    assert {found["pass"] for found in rows} == {"wgrad"}
    assert rows[0]["time_s"] == run().rows[2].time_s
    with page.expect_download() as waiting:
        page.locator("#csv").click()
    lines = Path(waiting.value.path()).read_text().splitlines()
    assert len(lines) == 9
    assert lines[0] == render([report_tables({"a": run()})["rows"]], "csv").splitlines()[0]


def test_speedups_are_over_the_chosen_baseline(opened):
    page = opened({"a": run()})
    texts = "#speedups-chart .mark-text.role-mark text"
    expect(page.locator(texts)).to_have_text("0.50×, faster in 0 of 8")
    page.locator("[name=baseline]").select_option("cpu:fft")
    expect(page.locator(texts)).to_have_text("2.00×, faster in 8 of 8")


def test_before_and_after_share_a_page(opened):
    before, after = run_of(*many(4, "gemm")), run_of(*many(4, "gemm"))
    page = opened({"before": before, "after": after})
    assert page.locator(POINTS).count() == 8
    assert page.locator("#machine-choice").is_hidden()
    page.locator("#filters [name=run]").select_option("after")
    expect(page.locator(POINTS)).to_have_count(4)
    assert set(shown(page, "run")) == {"after"}
    page.locator("#table tbody button").nth(0).press("Enter")
    details = page.locator("aside.detail dl")
    expect(details.locator("dt").first).to_have_text("run")
    expect(details.locator("dd").first).to_have_text("after")


def test_details_have_notes_and_meters(opened):
    meters = {"window_s": 0.3, "energy_j": 108.0, "power_w": 412.0, "temperature_c": 45.0, "sm_clock_hz": 1.98e9}
    metered = replace(row("a"), notes=("FFT", "RUNTIME_COMPILATION"), build_s=0.25,
                      rounds=(Round(100, (Sample(0.29, None),), meters=meters),) * 7)  # fmt: skip
    page = opened({"a": run_of(metered)})
    page.locator("#table tbody button").nth(0).press("Enter")
    details = page.locator("aside.detail dl").first
    names, values = (details.locator(tag).all_inner_texts() for tag in ("dt", "dd"))
    found = dict(zip(names, values, strict=False))
    assert found["plan's notes"] == "FFT RUNTIME_COMPILATION"
    assert found["building, within planning"] == "250 ms"
    assert (found["energy of a run"], found["power"]) == ("1.04 J", "412 W")
    assert (found["temperature"], found["clock"]) == ("45.0 °C", "1.98 GHz")
    assert "memory's clock" not in found


def test_intervals_say_both_of_their_ends(opened):
    whole = row("a")
    wide = replace(whole, rounds=tuple(Round(1, (Sample(t, t),)) for t in (1e-3,) * 5 + (1.5e-3,) * 2))
    (text,) = shown(opened({"a": run_of(wide)}), "interval")
    (fact,) = rows_table(run_of(wide)).rows
    low, high = (abs(end) for end in fact["interval"])
    assert low != high
    column = next(column for column in rows_table(run_of(wide)).columns if column.key == "interval")
    assert text == column.show(fact["interval"])


@pytest.mark.parametrize("width", [1280, 390])
def test_no_point_lies_on_the_name_of_a_roof(opened, width):
    rows = [row(f"a{place}", channels=2 + 2 * place, seconds=2e-4 * (1 + place)) for place in range(6)]
    page = opened({"a": run_of(*rows)}, width=width)
    box = "found => found.map((one) => one.getBoundingClientRect()).map((at) => [at.left, at.top, at.right, at.bottom])"
    names = page.locator("#roofline-chart .mark-text.role-mark text").evaluate_all(box)
    points = page.locator(POINTS).evaluate_all(box)
    assert len(names) == 4
    for left, top, right, bottom in names:
        assert not [at for at in points if at[0] < right and at[2] > left and at[1] < bottom and at[3] > top]


def test_a_table_that_goes_on_to_the_right_has_a_shadow_there(opened):
    names = ["measured_before_that_change", "measured_before_this_change"]
    page = opened({name: run() for name in names})
    assert page.evaluate("document.querySelector('#rows .scroll').scrollWidth > 1200")
    assert (
        page.locator("#rows .scroll").evaluate("box => getComputedStyle(box).backgroundAttachment").count("local") == 2
    )
    cell = page.locator("#table tbody td").first
    assert cell.get_attribute("title") in names
    assert cell.bounding_box()["width"] < 180


def test_each_machine_has_its_roofline(opened):
    here, there = run_of(*many(4, "gemm")), run_of(*many(3, "gemm"))
    there.header["devices"]["cpu"]["fingerprint"] = "another"
    page = opened({"here": here, "there": there})
    assert page.locator(POINTS).count() == 4
    page.locator("[name=machine]").select_option("1")
    expect(page.locator(POINTS)).to_have_count(3)


def fills(page, selector):
    return page.locator(selector).evaluate_all("found => found.map((path) => path.getAttribute('fill'))")


BARS = "#phases-chart .mark-rect.role-mark path"
NINE = ["gather", "transform x", "transform w", "transform dy", "product", "scatter", "inverse y", "inverse dx", "copy"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phases_of_one_kind_share_a_colour_and_no_others_do(opened, scheme):
    phases = {name: 1e-4 * place for place, name in enumerate(NINE, start=1)}
    page = opened({"a": run_of(row("a", phases=phases))}, scheme=scheme)
    kinds = {name: name.split()[0] for name in NINE}
    by_kind = {}
    for name, fill in zip(NINE, fills(page, BARS), strict=True):
        by_kind.setdefault(kinds[name], set()).add(fill)
    assert all(len(found) == 1 for found in by_kind.values())
    assert len(set.union(*by_kind.values())) == len(by_kind) == 6
    page.locator(POINTS).nth(0).click(force=True)
    assert "phase transform dy" in page.locator("aside.detail").inner_text()


def test_more_kinds_than_colours_leave_the_smallest_as_other(opened):
    phases = {f"phase{place}": 1e-4 * place for place in range(1, 13)}
    page = opened({"a": run_of(row("a", phases=phases))})
    texts = page.locator("#phases-chart .role-legend-label text").all_text_contents()
    assert texts == [*(f"phase{place}" for place in range(6, 13)), "other"]
    found = fills(page, BARS)
    assert len({*found[:5]}) == 1  # the five smallest
    assert len({*found}) == 8


def test_more_algorithms_than_colours_leave_the_rarest_as_other(opened):
    often = many(2, *(f"algorithm{place}" for place in range(7)))
    page = opened({"a": run_of(*often, row("b", "rare"), row("c", "rarer"))})
    texts = page.locator("#roofline-chart .role-legend-label text").all_text_contents()
    assert texts[:8] == [*(f"cpu:algorithm{place}" for place in range(7)), "other"]


def test_shapes_are_the_bounds_of_the_rows(opened):
    rows = run().rows
    page = opened({"a": run_of(*rows), "b": run_of(row("bare"), ceilings=None)})
    texts = page.locator("#roofline-chart .role-legend-label text").all_text_contents()
    known = [f"{bound}-bound" for bound in dict.fromkeys(of.judgement.bound for of in placed_rows(run_of(*rows))[0])]
    assert {text for text in texts if "bound" in text} == {*known, "bound not known"}


@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_are_cut_before_the_algorithm(opened, width):
    layer = "a_very_long_name_of_a_block/and_of_a_layer_in_it"
    rows = [row(layer, name, phases=PHASES) for name in ("winograd", "gemm")]
    run_names = ["measured_before_that_change", "measured_before_this_change"]
    page = opened({name: run_of(*rows) for name in run_names}, width=width)
    legend = page.locator("#roofline-chart .role-legend-label text").all_text_contents()
    bars = page.locator("#phases-chart .role-axis-label text").all_text_contents()[-4:]
    speedups = page.locator("#speedups-chart .role-axis-label text").all_text_contents()[-3:]
    for texts, count in ((legend[:4], 4), (bars, 4), (speedups, 3)):
        assert len({*texts}) == count
        assert all("…" in text for text in texts)
        assert all(text.endswith(("cpu:winograd", "cpu:gemm")) for text in texts)


def test_effective_rates_are_hollow_and_beside(opened):
    page = opened({"a": run()})
    page.locator("[name=effective]").check()
    expect(page.locator(POINTS)).to_have_count(34)
    assert sum(fill in {None, "none", "transparent"} for fill in fills(page, POINTS)) == 17


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_tables_not_the_page(opened, scheme):
    page = opened({"a": run()}, width=390, height=844, scheme=scheme, touch=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelector('#rows .scroll').scrollWidth > innerWidth")
    point = page.locator(POINTS).nth(2)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2 + 7, box["y"] + box["height"] / 2)  # beside it, as fingers do
    page.locator("aside.detail h3").wait_for()


def luminance(page, selector, prop):
    """0 for black to 255 for white."""
    found = page.evaluate(
        "([selector, prop]) => getComputedStyle(document.querySelector(selector))[prop]", [selector, prop]
    )
    red, green, blue = map(float, re.findall(r"[\d.]+", found)[:3])
    return 0.3 * red + 0.6 * green + 0.1 * blue


def test_dark_mode_is_dark_and_can_change_while_it_is_open(opened):
    page = opened({"a": run()}, scheme="dark")
    assert luminance(page, "body", "backgroundColor") < 40
    assert luminance(page, "body", "color") > 180
    axis = "#roofline-chart .role-axis-label text"
    assert luminance(page, axis, "fill") > 180
    page.emulate_media(color_scheme="light")
    expect(page.locator(axis).first).to_have_css("fill", "rgb(27, 31, 36)")
    assert luminance(page, "body", "backgroundColor") > 230


def test_hostile_names_stay_texts(opened):
    found = row(EVIL, phases={EVIL: 1e-3}, suite=EVIL)
    page = opened({EVIL: run_of(found, row(EVIL, "fft", suite=EVIL))})
    page.locator(POINTS).nth(0).hover(force=True)
    page.locator("#tip").wait_for(state="visible")
    page.locator(POINTS).nth(0).click(force=True)
    page.locator("aside.detail h3").wait_for()
    assert page.locator("aside.detail h3").inner_text() == f"{EVIL} fprop"
    assert shown(page, "layer") == [EVIL, EVIL]
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("rows", [[], [row("a")], [untimed(row("a"))]], ids=["none", "one", "untimed"])
def test_small_runs_are_a_page(opened, rows):
    page = opened({"a": run_of(*rows)})
    assert page.locator("#table tbody tr").count() == len(rows)
    assert page.locator("#speedups-absent").is_visible()
    assert page.locator("#roofline-absent").is_hidden() == any(found.time_s for found in rows)


def test_without_ceilings_there_is_no_roofline_but_all_else(opened):
    page = opened({"a": run_of(*run().rows, ceilings=None)})
    assert page.locator("#roofline-chart").is_hidden()
    assert "No ceilings were measured" in page.locator("#roofline-absent").inner_text()
    assert page.locator("#table tbody tr").count() == 17
    assert page.locator("#phases-chart svg.marks").is_visible()


def test_8000_rows_are_paged(opened):
    page = opened({"a": run_of(*many(4000, "gemm", "fft"))})
    assert page.locator("#table tbody tr").count() == 100
    assert page.locator("#page").inner_text() == "1–100 of 8000"
    page.locator("#next").click()
    assert page.locator("#page").inner_text() == "101–200 of 8000"
    head(page, "time").click()
    assert page.locator("#page").inner_text() == "1–100 of 8000"
    page.locator("#filters [name=problem]").fill("inception_3999/")
    assert page.locator("#table tbody tr").count() == 2
