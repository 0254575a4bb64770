"""The verdict as JSON, all of it, in SI units."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from convbench.compare import Verdict

if TYPE_CHECKING:
    from convbench.compare import Comparison
    from convbench.render.ci.facts import Facts

SCHEMA = 1
"""Raised when a field changes its meaning or goes; new ones may come."""


def verdict(facts: Facts) -> str:
    """One object: what was compared, what came of it, and every row."""
    compared = facts.compared
    content = {
        "schema": SCHEMA,
        "suite": facts.suite,
        "file": facts.file,
        "baseline": facts.baseline,
        "exit_code": facts.exit_code,
        "fail_on_inconclusive": facts.fail_on_inconclusive,
        "verdicts": {verdict: compared.verdicts[verdict] for verdict in Verdict},
        "factor": compared.factor,
        "launches": compared.launches,
        "canaries": dict(compared.canaries),
        "changed": [{"name": name, "base": base, "new": new} for name, base, new in compared.changed],
        "rows": [_row(facts, name, row) for name, row in zip(facts.names(), compared.rows, strict=True)],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _row(facts: Facts, name: str, row: Comparison) -> dict[str, Any]:
    key, case = row.key, row.key.case
    file, line = facts.place(row)
    return {
        "name": name, "suite": case.suite, "problem": case.name, "batch": case.problem.batch, "pass": case.conv_pass,
        "dtype": case.precision, "layout": case.layout_name, "epilogue": case.epilogue, "cache": key.cache,
        "backend": key.backend, "algorithm": key.algorithm, "accuracy": key.accuracy, "device": key.device,
        "threads": key.threads, "workspace_limit_bytes": key.workspace_limit_bytes,
        "base_s": row.base_s, "new_s": row.new_s, "ratio": row.ratio,
        "ratio_low": row.interval and row.interval[0], "ratio_high": row.interval and row.interval[1],
        "threshold": row.threshold, "launches": row.launches, "verdict": row.verdict, "reason": row.reason,
        "detail": row.detail or None, "reproduce": facts.command(row), "file": file, "line": line,
    }  # fmt: skip
