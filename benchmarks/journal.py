"""Reading a result file: seconds, processor seconds and peak memory, each file read by a process of its own.

    python benchmarks/journal.py [--rows 100000] [--samples 10]

Writes files of the rows that a long run would have to a temporary folder: 30 rows of a problem (three passes, ten
algorithms), each with its verification and the phases of its work. Prints a table; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.backends import Sample
from convbench.journal import SCHEMA_VERSION, canary_line, case_line, round_line
from convbench.problem import Case, ConvPass, Problem
from convbench.result import Row, RowKey, Status
from convbench.timing import Round
from convbench.work import Phase, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = {
    "type": "header", "schema_version": SCHEMA_VERSION, "convbench_version": "0.1.0", "created": "2026-01-01T00:00:00Z",
    "command": ["convbench", "run"], "suites": [], "seed": 0, "options": {"threads": 1},
    "environment": {"libraries": {}, "blas": []}, "devices": {},
}  # fmt: skip
VERIFICATION = {
    "passed": True, "reason": "", "max_error": 2.5e-7, "rms_error": 1.25e-7, "bound_share": 0.0625, "compared": 4096,
    "contracted_axis": "k", "contracted_length": 384,
}  # fmt: skip
READ = """
import resource, sys, time
from pathlib import Path
from convbench.journal import read_run
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started, used = time.perf_counter(), time.process_time()
run = read_run(Path(sys.argv[1]))
seconds, used = time.perf_counter() - started, time.process_time() - used
print(len(run.rows), seconds, used, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def keys(count: int) -> Iterator[RowKey]:
    """So many keys, 30 of each problem."""
    for index in range(-(-count // 30)):
        problem = Problem(batch=128, in_channels=64, out_channels=64, input_size=(28, 28 + index), filter_size=(3, 3),
                          padding=((1, 1), (1, 1)))  # fmt: skip
        for conv_pass, algorithm in product(ConvPass, range(10)):
            case = Case(suite=f"suite{index % 40}", name=f"conv{index}", problem=problem, conv_pass=conv_pass)
            yield RowKey(case=case, backend="cpu", algorithm=f"gemm-{algorithm}", device="cpu", threads=8)


def lines(rows: int, rounds: int, samples: int) -> Iterator[dict[str, Any]]:
    """The lines of such a run, in the order in which they would be written."""
    yield HEADER
    phases = tuple(
        Phase(name=name, flops=13_493_145_600, bytes_read=77_209_728, bytes_written=148_684_800,
              footprint_bytes=225_894_528, launches=16) for name in ("gather", "product")
    )  # fmt: skip
    for index, key in zip(range(rows), keys(rows), strict=False):
        yield case_line(index, Row(key=key, status=Status.PARTIAL, resolved=key.algorithm, plan_s=0.00123456,
                                   first_call_s=0.0234567, workspace_bytes=44_957_696, work=Work(phases),
                                   verification=VERIFICATION))  # fmt: skip
    for number in range(rounds):
        yield canary_line(number, "cpu", {"compute": 0.000758666, "memory": 0.002162369})
        for index in range(rows):
            taken = tuple(
                Sample(0.0234567 + i * 1e-5, 0.0456789, ("switched",) if i == 3 else ()) for i in range(samples)
            )
            yield round_line(index, number, Round(1, taken), "max_time" if number == rounds - 1 else None)


def measure(path: Path, rows: int, rounds: int, samples: int) -> str:
    """One line of the table."""
    with path.open("w", encoding="utf-8") as file:
        count = 0
        for line in lines(rows, rounds, samples):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            count += 1
    output = subprocess.run([sys.executable, "-c", READ, str(path)], check=True, capture_output=True, text=True).stdout
    found, seconds, used, peak = (float(text) for text in output.split())
    assert found == rows
    size = path.stat().st_size
    return (
        f"{rows:>9,} {rounds:>7} {count:>9,} {size / 1e6:>8.0f} {seconds:>8.2f} {used:>8.2f} "
        f"{used / count * 1e6:>8.1f} {peak / 1e6:>8.0f} {peak / rows:>9.0f}"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=10, help="of a round")
    arguments = parser.parse_args()
    print("     rows  rounds     lines       MB        s    CPU s  µs/line  peak MB  byte/row")
    with tempfile.TemporaryDirectory() as folder:
        for rows, rounds in ((arguments.rows // 2, 1), (arguments.rows, 1), (arguments.rows, 6)):
            print(measure(Path(folder) / "run.jsonl", rows, rounds, arguments.samples), flush=True)


if __name__ == "__main__":
    main()
