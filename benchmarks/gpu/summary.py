"""summary.md and the plots of a GPU report, from what its folder holds; what is missing is named, with the reason."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import answers
import ratios
from limits import without_folders
from parts import PRECISIONS, SUITES, is_text, read_object, read_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from convbench.result import Run

FRAGMENTS = {
    "timer": "Beside an independent timer",
    "counters": "Beside Nsight Compute",
    "memcheck": "compute-sanitizer memcheck",
    "racecheck": "compute-sanitizer racecheck",
}


def write(out: Path) -> None:
    """Writes all of them; a plot or table that fails is named in the summary."""
    runs, notes = _runs(out)
    notes += _plots(out, runs)
    sections = [_head(out), _parts(out, runs), _answers(out, notes), _ratios(runs), *_tables(runs), *_fragments(out)]
    lines = [line for section in sections for line in section]
    if notes:
        lines += ["## Left out", "", *(f"- {note}" for note in notes), ""]
    (out / "summary.md").write_text("\n".join(lines), encoding="utf-8")


def names() -> list[str]:
    """Of the runs of a report, in their order."""
    return [of.suite if p == "fp32" else f"{of.suite}-{p}" for p in PRECISIONS for of in SUITES]


def _runs(out: Path) -> tuple[dict[str, Run], list[str]]:
    """The runs that have a time, by name, and why others are left out."""
    from convbench.journal import read_run

    found, notes = {}, []
    for name in names():
        path = out / f"{name}.jsonl"
        if not path.is_file():
            continue
        try:
            run = read_run(path)
        except Exception as error:  # noqa: BLE001  the other runs go on
            notes.append(f"{path.name}: {_line(error)}")
            continue
        if any(row.time_s is not None for row in run.rows):
            found[name] = run
        else:
            notes.append(f"{path.name}: no row has a time")
    return found, notes


def _line(error: BaseException) -> str:
    return without_folders(f"{type(error).__name__}: {error}".splitlines()[0])


def _plots(out: Path, runs: dict[str, Run]) -> list[str]:
    """Draws all pictures; the result says which could not be drawn."""
    from convbench.cli.output import write_output
    from convbench.render.plot import picture
    from convbench.render.plot.scene import Choice, make_scene

    def draw(target: str, kind: str, chosen: Sequence[str], theme: str = "light") -> Callable[[], None]:
        def drawn() -> None:
            scene = make_scene([(f"{name}.jsonl", runs[name]) for name in chosen], Choice())
            write_output(out / target, picture(scene, kind, ".svg", theme))

        return drawn

    networks = [name for name in runs if not name.endswith("tf32") and _is_network(runs[name])]
    wanted = {f"{name}.svg": draw(f"{name}.svg", "roofline", [name]) for name in runs if name != "smoke"}
    for name in [*networks, *runs][:1]:
        wanted["dark.svg"] = draw("dark.svg", "roofline", [name], "dark")
        wanted["ceilings.svg"] = draw("ceilings.svg", "ceilings", [name])
    if networks:
        wanted["network.svg"] = draw("network.svg", "network", networks)
    notes = []
    for target, drawn in wanted.items():
        try:
            drawn()
        except Exception as error:  # noqa: BLE001  the other pictures are drawn
            notes.append(f"{target}: {_line(error)}")
    return notes


def _is_network(run: Run) -> bool:
    return any(suite.get("network") is not False for suite in run.header["suites"])


def _head(out: Path) -> list[str]:
    """What was measured on, and with what."""
    facts = read_object(out / "device.json")
    machine = facts.get("machine")
    name = machine.get("gpu_name") if isinstance(machine, dict) else None
    lines = [f"# {name if name and is_text(name) else 'A GPU'}", ""]
    for title in ("packages", "libraries", "backends"):
        found = facts.get(title)
        if isinstance(found, dict):
            told = [f"{key} {'usable' if value is None else value}" for key, value in found.items()]
            lines += [f"{title}: {', '.join(filter(is_text, told))}", ""]
    return lines


def _parts(out: Path, runs: Mapping[str, Run]) -> list[str]:
    """What came of each part."""
    found = read_parts(out / "parts.json")
    if not found:
        return []
    rows = []
    for name, of in found.items():
        told = (str(of["reason"]) or _tested(out, name), _statuses(runs.get(name)))
        reason = "; ".join(filter(None, told)).replace("|", "/")
        rows.append(f"| {name} | {of['title']} | {of['status']} | {of['seconds']:.0f} s | {reason} |")
    return ["## Parts", "", "| part | does | | took | |", "|---|---|---|---:|---|", *rows, ""]


def _statuses(run: Run | None) -> str:
    """How many rows of a run have which status."""
    counts = Counter(row.status for row in run.rows) if run else Counter()
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _tested(out: Path, name: str) -> str:
    """How many tests passed; nothing of other parts."""
    log = out / "logs" / f"{name}.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if name == "tests" and log.is_file() else []
    return lines[-1] if lines else ""


def _answers(out: Path, notes: list[str]) -> list[str]:
    try:
        return ["## Questions", "", *answers.table(answers.read(out)), ""]
    except Exception as error:  # noqa: BLE001  what a damaged file holds may be anything
        notes.append(f"answers: {_line(error)}")
        return []


def _ratios(runs: dict[str, Run]) -> list[str]:
    rows = [row for name, run in runs.items() if not name.startswith("smoke") for row in run.rows]  # not for speed
    return ["## Ratios", "", *ratios.report(rows)] if rows else []


def _tables(runs: dict[str, Run]) -> list[list[str]]:
    """Totals of networks, and counts of bounds."""
    from convbench.render import render
    from convbench.render.bounds import bounds_table
    from convbench.render.results import totals_table

    sections = []
    for name, run in runs.items():
        found = [totals_table(run), bounds_table(run)]
        sections.append([f"## {name}", "", render([table for table in found if table is not None], "markdown")])
    return sections


def _fragments(out: Path) -> list[list[str]]:
    """What other programs wrote in Markdown."""
    found = []
    for name, title in FRAGMENTS.items():
        path = out / f"{name}.md"
        if path.is_file():
            found.append([f"## {title}", "", path.read_text(encoding="utf-8", errors="replace")])
    log = out / "logs" / "ceilings.txt"
    if log.is_file():
        found.append(["## Ceilings", "", log.read_text(encoding="utf-8", errors="replace")])
    return found
