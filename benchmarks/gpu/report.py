"""Everything that a GPU has to show, in one command and in a given time: answers, ceilings, suites, tables, plots.

    python benchmarks/gpu/report.py [--out reports/h200] [--minutes 10] [--only PART] [--force]

Each part runs in a process of its own with a time limit; one that fails leaves its reason in the report, and what was
measured is kept. Run again, it does what is missing, and continues runs that were cut short; --force does all anew.
`--tables` only writes tables and plots again, from what was measured, and needs no GPU. docs/gpu.md describes the
parts. Exit code 1 and one line where there is no GPU: then nothing is written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import limits
import summary
from limits import CUT, DONE, FAILED, Outcome
from parts import HERE, LEAST_S, ROOT, Part, allowed_s, parts, read_parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FINISH_S = 45.0
"""Kept back from the time for tables and plots."""
IDENTITY_S = 90.0
SKIPPED = "not begun"


def identity() -> dict[str, Any]:
    """What identity.py finds out.

    Raises:
        SystemExit: there is no GPU to report on, in one line.
    """
    try:
        found = subprocess.run(
            [sys.executable, str(HERE / "identity.py")], capture_output=True, text=True, timeout=IDENTITY_S, check=False
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"gpu-report: the GPU does not answer within {IDENTITY_S:.0f} s")
    if found.returncode:
        lines = found.stderr.strip().splitlines() or [f"exit code {found.returncode}"]
        sys.exit(f"gpu-report needs a GPU: {lines[-1]}")
    facts: dict[str, Any] = json.loads(found.stdout)
    return facts


def slug(gpu_name: str) -> str:
    """A GPU's name as a folder's: "NVIDIA H200" is h200."""
    return re.sub(r"[^a-z0-9]+", "-", gpu_name.lower().removeprefix("nvidia ")).strip("-") or "gpu"


def machine_name(facts: Mapping[str, Any]) -> str:
    """The folder's name for this GPU."""
    machine = facts.get("machine")
    return slug(machine.get("gpu_name") or "gpu") if isinstance(machine, dict) else "gpu"


def usable(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """What each backend lacks, by name."""
    found = facts.get("backends")
    return found if isinstance(found, dict) else {}


def timed(path: Path) -> bool:
    """Whether a row of a result file has a time."""
    from convbench.journal import read_run

    return path.is_file() and any(row.time_s is not None for row in read_run(path).rows)


class Report:
    """A folder, and what came of the parts so far, which parts.json says after each of them."""

    def __init__(self, out: Path, lacking: Mapping[str, str | None], deadline_s: float, force: bool = False) -> None:
        self.out, self._lacking, self._deadline_s, self._force = out, lacking, deadline_s, force
        self.outcomes = read_parts(out / "parts.json")
        (out / "logs").mkdir(parents=True, exist_ok=True)
        (out / "answers").mkdir(exist_ok=True)

    def run(self, chosen: Sequence[Part]) -> None:
        """Runs those that are not done yet, in their shares of the time that is left."""
        done = {name for name, outcome in self.outcomes.items() if outcome["status"] == DONE and not self._force}
        waiting = [part for part in chosen if part.name not in done]
        for index, part in enumerate(waiting):
            left_s = self._deadline_s - time.monotonic()
            self._note(part, self._one(part, allowed_s(part, waiting[index + 1 :], left_s)))

    def _one(self, part: Part, seconds: float) -> Outcome:
        if part.needs and all(self._lacking.get(name, "not there") for name in part.needs):
            reasons = (f"{name}: {self._lacking.get(name, 'not there')}" for name in part.needs)
            return Outcome(status=SKIPPED, reason="; ".join(reasons))
        if seconds < LEAST_S:
            return Outcome(status=SKIPPED, reason="no time was left")
        print(f"{part.name}: up to {seconds:.0f} s", flush=True)
        log = self.out / "logs" / f"{part.name}.txt"
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        found = limits.run(self._command(part), seconds, log, env, part.good)
        if part.run_file is None:
            return found
        if found.status == DONE and not timed(part.run_file):
            return replace(found, status=FAILED, reason="no row has a time")
        return replace(found, reason=f"{found.reason}, before the first row") if not part.run_file.is_file() else found

    def _command(self, part: Part) -> tuple[str, ...]:
        """The part's command; a run that was cut short goes on where it was."""
        if part.run_file is None:
            return part.command
        cut = self.outcomes.get(part.name, {}).get("status") == CUT and part.run_file.is_file()
        return (*part.command, "--resume" if cut and not self._force else "--force")

    def _note(self, part: Part, outcome: Outcome) -> None:
        if outcome.status != SKIPPED or part.name not in self.outcomes:
            self.outcomes[part.name] = asdict(outcome) | {"title": part.title}
        path = self.out / "parts.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self.outcomes, indent=1) + "\n", encoding="utf-8")
        new.replace(path)
        print(f"{part.name}: {outcome.status} after {outcome.seconds:.0f} s {outcome.reason}".rstrip(), flush=True)


def arguments_of(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="reports/ and the GPU's name if left out")
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="only this part; may be repeated")
    parser.add_argument("--force", action="store_true", help="measure again what is there")
    parser.add_argument("--tables", action="store_true", help="only write tables and plots again; needs --out")
    arguments = parser.parse_args(words)
    if not 0 < arguments.minutes < math.inf:
        parser.error(f"--minutes must be above 0 and finite, got {arguments.minutes:g}")
    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        parser.error(f"--out must be a folder, and {arguments.out} is none")
    if arguments.tables and (arguments.out is None or not arguments.out.is_dir()):
        parser.error("--tables needs --out, a folder that a report is in")
    names = [part.name for part in parts(Path(), ())]
    if unknown := [name for name in arguments.only if name not in names]:
        parser.error(f"there is no part {unknown[0]!r}; parts are {', '.join(names)}")
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    """Runs the parts, then writes the tables; a file that cannot be read or written is one line."""
    try:
        _main(arguments_of(words))
    except OSError as error:
        sys.exit(f"gpu-report: {error.filename}: {error.strerror}")


def _main(arguments: argparse.Namespace) -> None:
    if arguments.tables:
        summary.write(arguments.out)
        return
    started = time.monotonic()
    facts = identity()
    out = arguments.out or ROOT / "reports" / machine_name(facts)
    lacking = usable(facts)
    chosen = parts(out, [name for name, reason in lacking.items() if reason is None])
    if arguments.only:
        chosen = [part for part in chosen if part.name in arguments.only]
    report = Report(out, lacking, started + 60 * arguments.minutes - FINISH_S, arguments.force)
    (out / "device.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    try:
        report.run(chosen)
    finally:
        summary.write(out)
    failed = [name for name, outcome in report.outcomes.items() if outcome["status"] == FAILED]
    print(f"{out / 'summary.md'} is written" + (f"; failed: {', '.join(failed)}" if failed else ""))


if __name__ == "__main__":
    main()
