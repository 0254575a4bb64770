"""A comparison for other programs: one text per kind of file, described in docs/ci.md, and GitHub's annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convbench.render.ci.annotations import github_annotations
from convbench.render.ci.facts import Facts
from convbench.render.ci.junit import junit
from convbench.render.ci.summary import summary
from convbench.render.ci.trackers import bencher, github_action_benchmark
from convbench.render.ci.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OUTPUTS", "Facts", "github_annotations"]

OUTPUTS: dict[str, Callable[[Facts], str]] = {
    "json": verdict,
    "markdown": summary,
    "junit": junit,
    "github-action-benchmark": github_action_benchmark,
    "bencher": bencher,
}
"""What makes the text of each kind of file."""
