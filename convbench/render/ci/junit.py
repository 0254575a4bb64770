"""JUnit XML, which most CI systems read, after the schema of Jenkins' xUnit plug-in, junit-10.xsd."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from convbench.compare import Verdict
from convbench.errors import printable
from convbench.render.comparison import outcome_text

if TYPE_CHECKING:
    from convbench.compare import Comparison
    from convbench.render.ci.facts import Facts

FAILURES = {Verdict.FAILED, Verdict.MISSING, Verdict.REGRESSION}


def junit(facts: Facts) -> str:
    """A test case per row, whose `time` is its new seconds; that of a suite may have three decimals, too few for us.

    Rows that fail the check are failures. A suspect, and an inconclusive row where it does not fail the check, is
    skipped: of what is not a failure, GitLab and Jenkins show a reason for that alone, never the `system-out` of a case
    that passed. GitLab shows the text of the element, Jenkins its `message`, so both say what happened.
    """
    rows = facts.compared.rows
    outcomes = [_outcome(facts, row) for row in rows]
    counts = {"tests": str(len(rows)), "failures": str(outcomes.count("failure")), "errors": "0"}
    root = ET.Element("testsuites", {"name": "convbench"} | counts)
    suite = ET.SubElement(
        root, "testsuite", {"name": printable(facts.suite), "skipped": str(outcomes.count("skipped"))} | counts
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(facts):
        ET.SubElement(properties, "property", name=printable(name), value=printable(value))
    for name, row, outcome in zip(facts.names(), rows, outcomes, strict=True):
        suite_and_problem = f"{row.key.case.suite}.{row.key.case.name}"
        case = ET.SubElement(suite, "testcase", name=printable(name), classname=printable(suite_and_problem))
        if row.new_s is not None:
            case.set("time", f"{row.new_s:.9f}")
        if outcome:
            message = printable(f"{row.verdict}: {outcome_text(row)}")
            told = ET.SubElement(case, outcome, message=message, type=str(row.verdict))
            told.text = "\n".join([message, *map(printable, _more(facts, row))])
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _outcome(facts: Facts, row: Comparison) -> str:
    """The element that says so; empty for a row that passed."""
    unclear = row.verdict is Verdict.INCONCLUSIVE
    if row.verdict in FAILURES or (unclear and facts.fail_on_inconclusive):
        return "failure"
    return "skipped" if unclear or row.verdict in {Verdict.SUSPECT, Verdict.UNTIMED} else ""


def _properties(facts: Facts) -> list[tuple[str, str]]:
    compared = facts.compared
    found = [("baseline", facts.baseline), ("exit_code", str(facts.exit_code)), ("launches", str(compared.launches))]
    if compared.factor is not None:
        found.append(("factor", f"{compared.factor:.6g}"))
    found += [(f"canary {name}", f"{ratio:.6g}") for name, ratio in compared.canaries.items()]
    return found + [(f"changed {name}", f"{old} → {new}") for name, old, new in compared.changed]


def _more(facts: Facts, row: Comparison) -> list[str]:
    file, line = facts.place(row)
    where = [f"declared: {file}:{line}" if line else f"declared: {file}"] if file else []
    return [*where, f"reproduce: {facts.command(row)}"]
