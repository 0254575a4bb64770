"""The page of `convbench report`: its size, and how long a browser takes to load and to draw it.

    python benchmarks/report.py [FILE...] [--rows 8000] [--repeat 7]

Of each result file, reports/epyc-2-cpus/googlenet.jsonl if none is named, and of so many rows: those of the first file,
again and again, under other names. Prints a table of medians; needs the extra `browser` and a chromium, as the tests.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from convbench.journal import read_run
from convbench.render.html import report_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from convbench.result import Run

DEFAULT = Path(__file__).parent.parent / "reports/epyc-2-cpus/googlenet.jsonl"
DRAWN = "#roofline-chart .marks", "#speedups-chart .marks"


def with_rows(run: Run, count: int) -> Run:
    """The run with its rows again and again, each time under other names of problems."""
    endless = (
        replace(row, key=replace(row.key, case=replace(row.key.case, name=f"{row.key.case.name}-{turn}")))
        for turn in itertools.count()
        for row in run.rows
    )
    return replace(run, rows=tuple(itertools.islice(endless, count)))


def seconds(browser: Browser, path: Path) -> tuple[float, float]:
    """Until the load event, and until the charts are there."""
    page = browser.new_page()
    page.goto(path.as_uri())
    for selector in DRAWN:
        page.wait_for_selector(selector)
    drawn_s = page.evaluate("performance.now()") / 1e3
    load_s = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1e3
    page.close()
    return load_s, drawn_s


def main() -> None:
    """Builds the pages, opens each, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, default=[DEFAULT])
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--repeat", type=int, default=7)
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CONVBENCH_BROWSER") or shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium: apt-get install chromium, or name it in CONVBENCH_BROWSER")
    runs = {path.stem: read_run(path) for path in arguments.files}
    runs[f"{arguments.rows} rows"] = with_rows(next(iter(runs.values())), arguments.rows)
    print("| page | rows | size | load event | drawn |\n|---|---:|---:|---:|---:|")
    with sync_playwright() as started, tempfile.TemporaryDirectory() as folder:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, run in runs.items():
            path = Path(folder) / "report.html"
            path.write_text(report_html({name: run}), encoding="utf-8")
            taken = [seconds(browser, path) for _ in range(arguments.repeat)]
            load_s, drawn_s = (median(values) for values in zip(*taken, strict=True))
            size = path.stat().st_size / 1e6
            print(f"| {name} | {len(run.rows)} | {size:.2f} MB | {load_s:.2f} s | {drawn_s:.2f} s |")
        browser.close()


if __name__ == "__main__":
    main()
