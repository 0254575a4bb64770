"""Runs as one HTML page that needs nothing else, and the same facts as tables. How to read it: docs/report.md.

Names, notes and paths come from files, so they are never markup: Python escapes what it writes into the page, the
facts for the script are JSON in which no tag can end, and the script sets texts only. The page's own policy lets
nothing run but the two scripts that it was made with, and lets nothing load.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from convbench import __version__
from convbench.errors import InputError
from convbench.render.bounds import percent
from convbench.render.html.facts import page_facts
from convbench.render.html.machines import machines_html
from convbench.render.html.merge import brief, merged, numbered
from convbench.render.html.tables import ceilings_of, gaps_table, prose_html, table_html, text_html
from convbench.render.machine import device_name
from convbench.render.phases import phases_table
from convbench.render.results import MARKS, backends_table, rows_table, totals_table
from convbench.result import Remark
from convbench.stats import median

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convbench.claims import Claim
    from convbench.render import Table
    from convbench.result import Run

__all__ = ["charts_missing", "report_html", "report_tables", "table_html"]

_PLACE = re.compile(r"\{\{(\w+)\}\}")
SCRIPTS = ("rows.js", "charts.js", "page.js")
REMARKS = {
    Remark.DISTURBED: "disturbed in half of the rounds or more",
    Remark.FEW_ROUNDS: "with too few rounds for an interval",
    Remark.DRIFT: "that drifted during the run",
}
WINNERS = "How often each algorithm is the fastest of its case"


def charts_missing() -> str | None:
    """What to install for the page's charts; None where it is there."""
    from importlib.util import find_spec

    return None if find_spec("vl_convert") else 'vl-convert is not installed: pip install "convbench[report]"'


def report_html(runs: Mapping[str, Run], claims: Sequence[Claim] = ()) -> str:
    """The page on `runs`, by the name that each is to be called; with a section per claim above the others.

    Raises:
        InputError: the library of the charts is missing.
    """
    if missing := charts_missing():
        raise InputError(missing)
    runs = dict(zip(numbered(runs), runs.values(), strict=True))
    charts, script = _library(), "".join(map(_asset, SCRIPTS))
    tables = report_tables(runs)
    rows, winners = tables["rows"], tables["backends"]
    summary = [tables[key] for key in ("totals", "backends", "gaps") if key in tables and tables[key].rows]
    parts = {
        "policy": f"script-src {_hash(charts)} {_hash(script)}",
        "title": text_html(_title(runs, claims)),
        "version": text_html(__version__),
        "style": _asset("page.css"),
        "links": "".join(f'<a href="#claim-{text_html(of.key)}">{text_html(of.title)}</a> ' for of in claims),
        "claims": "".join(map(_claim, claims)),
        "machines": machines_html(runs),
        "summary": _said([*runs], rows, winners) + "".join(table_html(table, brief([*runs])) for table in summary),
        "notes": "".join(f"<li>{prose_html(note)}</li>" for note in rows.notes),
        "facts": _embedded(page_facts(runs, rows)),
        "charts": charts,
        "script": script,
    }
    return _PLACE.sub(lambda place: parts[place[1]], _asset("page.html"))


def report_tables(runs: Mapping[str, Run]) -> dict[str, Table]:
    """The facts of a report as tables, by key, the summary first; of several runs with a column that says which."""
    rows = merged({name: rows_table(run) for name, run in runs.items()})
    winners = merged({name: backends_table(run) for name, run in runs.items()})
    found = [
        _merged_known(totals_table, runs), replace(winners, title=WINNERS), gaps_table(rows), ceilings_of(runs), rows,
        _merged_known(phases_table, runs),
    ]  # fmt: skip
    return {table.key: table for table in found if table}


def _merged_known(make: Callable[[Run], Table | None], runs: Mapping[str, Run]) -> Table | None:
    known = {name: table for name, run in runs.items() if (table := make(run))}
    return merged(known) if known else None


def _title(runs: Mapping[str, Run], claims: Sequence[Claim]) -> str:
    if claims:
        devices = [device for run in runs.values() for device in run.header["devices"].values()]
        return f"The talk's claims: {_listed([device_name(device['machine']) for device in devices])}"
    suites = [suite for run in runs.values() for suite in run.header["suites"]]
    return _listed([str(suite.get("title") or suite["name"]) for suite in suites] or ["no suite"])


def _listed(names: Sequence[str]) -> str:
    names = [*dict.fromkeys(names)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _said(names: Sequence[str], rows: Table, winners: Table) -> str:
    """What is in each run, in some sentences, as HTML."""
    paragraphs = []
    for name in names:
        of_run = [row for row in rows.rows if row["run"] == name]
        best = [row for row in of_run if row["times_fastest"] == 1]
        rows_here = f"{len(of_run)} row{'s' if len(of_run) != 1 else ''}"
        timed = sum(row["time_s"] is not None for row in of_run)
        said = [f"{rows_here}, {timed} with a time." if of_run else "There are no rows."]
        wins = {row["algorithm"]: row["fastest"] for row in winners.rows if row["run"] == name}
        if best:
            first = max(wins, key=lambda algorithm: wins[algorithm])
            said.append(f"{first} is the fastest in {wins[first]} of {sum(wins.values())} cases.")
        if attained := [row["attained"] for row in best if row["attained"] is not None]:
            said.append(
                f"Half of the fastest rows attain {percent(median(attained))} of what the machine allows, or more."
            )
        said.append(_noise(of_run))
        paragraphs.append(f"<p><b>{text_html(name)}</b>: {text_html(' '.join(filter(None, said)))}</p>")
    return "".join(paragraphs)


def _noise(rows: Sequence[Mapping[str, Any]]) -> str:
    """How far the times of a run can be trusted, in a sentence; "" where there are none."""
    timed = [row for row in rows if row["time_s"] is not None]
    if not timed:
        return ""
    remarks = Counter(remark for row in timed for remark in (row["remarks"] or "").split())
    marked = [f"{remarks[remark]} {text} ({MARKS[remark][0]})" for remark, text in REMARKS.items() if remarks[remark]]
    samples, disturbed = (sum(row[key] for row in timed) for key in ("samples", "disturbed_samples"))
    left_out = f"; {percent(disturbed / samples)} of all samples were disturbed" if disturbed else ""
    doubtful = f"Doubtful times: {', '.join(marked)}" if marked else "No time is marked as doubtful"
    return f"{doubtful}{left_out}."


def _claim(claim: Claim) -> str:
    tables = "".join(map(table_html, claim.tables))
    title, question, conclusion = map(prose_html, (claim.title, claim.question, claim.conclusion))
    return (
        f'<section class="claim" id="claim-{text_html(claim.key)}"><h2>{title}</h2><p class="question">{question}</p>'
        f'<p class="conclusion">{conclusion}</p>{tables}</section>'
    )


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle


def _asset(name: str) -> str:
    return (resources.files("convbench.render.html") / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """How a policy names an inline script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _embedded(facts: Any) -> str:
    """JSON that cannot end the element around it, whatever names are in it."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
