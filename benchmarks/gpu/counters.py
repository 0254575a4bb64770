"""What Nsight Compute counts, beside what convbench says of the same runs; and compute-sanitizer on our own kernels.

    python benchmarks/gpu/counters.py [--out counters.md]
    python benchmarks/gpu/counters.py --sanitizer memcheck [--out memcheck.md]

The first runs the rows of cases.py under `ncu`, once each, and prints DRAM bytes over `traffic_bytes`, and shares of
the speed of light beside the bound; the clocks are left alone. The second runs the suite `smoke` on cudafft. Either
fails with one line where the tool is not installed or not permitted.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

METRICS = {
    "dram__bytes_read.sum": "read_bytes",
    "dram__bytes_write.sum": "written_bytes",
    "gpu__time_duration.sum": "time_ns",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "compute_percent",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory_percent",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "sm__inst_executed.avg.pct_of_peak_sustained_elapsed": "issue_percent",
}
"""Of ncu, and our names. The percentages are those of its section SpeedOfLight, and instructions as a share of all that
the schedulers could have issued: the floor by instructions over the time."""
PERCENTAGES = tuple(name for name in METRICS.values() if name.endswith("_percent"))
SEPARATOR = "empty"
"""The kernel of kernels.cu that is launched before each row, which tells their kernels apart."""
SANITIZER_ERRORS = re.compile(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)")
FOUND = 9
"""The exit code that the sanitizer is told to end with where it finds something."""


@dataclass(slots=True)
class Counted:
    """What ncu counted of one row: sums over its kernels, percentages weighted by their time."""

    kernels: int = 0
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    time_ns: float = 0.0
    weighted: dict[str, float] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        """Adds one kernel."""
        self.kernels += 1
        self.read_bytes += values.get("read_bytes", 0.0)
        self.written_bytes += values.get("written_bytes", 0.0)
        time_ns = values.get("time_ns", 0.0)
        self.time_ns += time_ns
        for name in PERCENTAGES:
            self.weighted[name] = self.weighted.get(name, 0.0) + values.get(name, 0.0) * time_ns

    def percent(self, name: str) -> float | None:
        """Share of the speed of light, over the time of all kernels; None without a time."""
        return self.weighted.get(name, 0.0) / self.time_ns if self.time_ns else None


def parse(text: str) -> list[Counted]:
    """The rows of `ncu --csv --page raw --print-units base`: a kernel per line, told apart by the kernel SEPARATOR.

    Raises:
        SystemExit: it is no such CSV, with what ncu says instead.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID",')), None)
    if start is None:
        said = [line for line in lines if line.startswith("==")] or ["it wrote nothing"]
        sys.exit(f"ncu counted nothing: {said[-1].strip('= ')}")
    found: list[Counted] = []
    for row in csv.DictReader(lines[start:]):
        name = row.get("Kernel Name") or ""
        if not name:  # the line of units
            continue
        if re.match(rf"{SEPARATOR}\b", name):
            found.append(Counted())
        elif found:
            found[-1].add({ours: _number(row.get(theirs)) for theirs, ours in METRICS.items()})
    return found


def _number(text: str | None) -> float:
    """A number as ncu writes it: with commas between thousands; 0 for "n/a"."""
    try:
        return float((text or "0").replace(",", ""))
    except ValueError:
        return 0.0


def table(rows: Sequence[dict[str, Any]], counted: Sequence[Counted]) -> list[str]:
    """What convbench says beside what was counted, in Markdown."""

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:.0f} %"

    lines = [
        "| row | bound | kernels | launches | DRAM bytes | traffic | ratio | compute | memory | DRAM | issue |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row, of in zip(rows, counted, strict=True):
        dram, traffic = of.read_bytes + of.written_bytes, row["traffic_bytes"]
        shares = map(of.percent, PERCENTAGES)
        cells = [
            row["label"], row["bound"] or "–", str(of.kernels), str(row["launches"]), f"{dram / 1e6:.1f} MB",
            f"{traffic / 1e6:.1f} MB", f"{dram / traffic:.2f}" if traffic else "–", *map(percent, shares),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _profiled(rows_file: Path) -> None:
    """Runs under ncu: plans everything, then each row once between the profiler's start and stop."""
    import cupy
    from cases import planned

    plans = [*planned()]
    facts = [_facts(of) for of in plans]
    cupy.cuda.profiler.start()
    for of in plans:
        device: Any = of.backend.device()
        device.activate()
        device.cuda.launch(SEPARATOR, 1, 1)
        of.plan.run()
        device.cuda.synchronize()
    cupy.cuda.profiler.stop()
    rows_file.write_text(json.dumps(facts), encoding="utf-8")


def _facts(of: Any) -> dict[str, Any]:
    """What convbench says of a plan; its bound only where the machine's ceilings are remembered."""
    work = of.plan.work
    return {
        "label": of.label, "traffic_bytes": work.traffic_bytes, "launches": sum(p.launches for p in work.phases),
        "bound": _bound(of),
    }  # fmt: skip


def _bound(of: Any) -> str | None:
    from convbench import calibrate
    from convbench.machine import cpu_count
    from convbench.roofline import place

    ceilings = calibrate.recall(of.backend.device(), cpu_count(), print, [])
    return None if ceilings is None else str(place(of.plan.work, ceilings, of.case.math_mode, warm=True).bound)


def command(tool: str, log: Path, rows_file: Path) -> list[str]:
    """How ncu is run: caches and clocks as they are, kernels between start and stop of the profiler alone."""
    return [
        tool, "--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(METRICS), "--clock-control",
        "none", "--cache-control", "none", "--profile-from-start", "off", "--target-processes", "all", "--log-file",
        str(log), sys.executable, __file__, "--rows", str(rows_file),
    ]  # fmt: skip


def count(tool: str) -> list[str]:
    """The table, from a run under ncu."""
    with tempfile.TemporaryDirectory() as folder:
        log, rows_file = Path(folder) / "ncu.csv", Path(folder) / "rows.json"
        process = subprocess.run(command(tool, log, rows_file), capture_output=True, text=True, check=False)
        print(process.stdout, process.stderr, sep="\n")
        counted = parse(log.read_text(encoding="utf-8") if log.is_file() else process.stdout + process.stderr)
        if not rows_file.is_file():
            sys.exit("the program under ncu ended early: see above")
        rows = json.loads(rows_file.read_text(encoding="utf-8"))
    if len(rows) != len(counted):
        sys.exit(f"ncu saw {len(counted)} rows, {len(rows)} were run")
    return table(rows, counted)


def sanitized(tool: str, check: str, folder: Path) -> tuple[list[str], int]:
    """compute-sanitizer's word on the suite smoke with cudafft, and how much it found."""
    run = [
        sys.executable, "-m", "convbench", "run", "smoke", "-b", "cudafft:auto", "--max-time", "1ms", "--no-ceilings",
        "--quiet", "-o", str(folder / "smoke.jsonl"),
    ]  # fmt: skip
    options = ["--tool", check, "--error-exitcode", str(FOUND), "--target-processes", "all", "--print-limit", "20"]
    process = subprocess.run([tool, *options, *run], capture_output=True, text=True, check=False)
    text = process.stdout + process.stderr
    print(text)
    return verdict(check, text.splitlines(), process.returncode)


def verdict(check: str, lines: Iterable[str], code: int) -> tuple[list[str], int]:
    """One line for the summary, and how much was found.

    Raises:
        SystemExit: it did not get to its summary.
    """
    said = [line.strip("= ") for line in lines if line.startswith("=====")]
    sums = [match for line in said if (match := SANITIZER_ERRORS.search(line))]
    if not sums:
        sys.exit(f"compute-sanitizer {check} ended with code {code} and no summary: {said[-1] if said else 'no word'}")
    found = sum(int(match[1] or match[2]) for match in sums)
    return [f"{check}: {found} errors or hazards on the suite smoke with cudafft"], found


def main() -> None:
    """Counts or checks, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument("--sanitizer", choices=["memcheck", "racecheck"])
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rows:
        _profiled(arguments.rows)
        return
    name = "compute-sanitizer" if arguments.sanitizer else "ncu"
    tool = shutil.which(name)
    if tool is None:
        sys.exit(f"{name} is not installed here (it comes with the CUDA toolkit)")
    found = 0
    if arguments.sanitizer:
        with tempfile.TemporaryDirectory() as folder:
            lines, found = sanitized(tool, arguments.sanitizer, Path(folder))
    else:
        lines = count(tool)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    if found:
        sys.exit(lines[0])


if __name__ == "__main__":
    main()
