"""The parts of the GPU report: what each runs, and its share of the time."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CONVBENCH = (sys.executable, "-m", "convbench")
LEAST_S = 5.0
"""Seconds below which a part is not begun."""
LONGEST_S = 1e9
"""No part took so long."""
SHORTEST_ROW_S, LONGEST_ROW_S = 0.02, 0.2
"""Seconds of samples that a row gets at most; one that is steady ends before that, after seven rounds."""
STRICT_PLANS = 6
"""Of cuDNN, about so many for a case in strict fp32 (four with 9.28, eight with 9.19)."""
MEASURED_SHARE = 0.4
"""Of a run's time: the rest plans, compiles, verifies and warms up."""
KEPT = (0, 6)
"""Exit codes of `run`: all is well, and some rows failed, which the report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One program of the report.

    Attributes:
        title: what it does, for the summary.
        seconds: what it is thought to need, which is also its share of time beyond that.
        limit_s: the most that it gets, however much time there is.
        needs: backends of which one at least must be usable.
        good: exit codes that are no failure.
        run_file: the result file that it fills, and can continue.
    """

    name: str
    title: str
    command: tuple[str, ...]
    seconds: float
    limit_s: float
    needs: tuple[str, ...] = ()
    good: tuple[int, ...] = (0,)
    run_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A suite of the report.

    Attributes:
        seconds: for its run in strict fp32; tf32_seconds for that in tf32.
        batch: where its own takes too long to verify on the host.
        memory: of rows that are planned at once.
        all_plans: every plan of cuDNN in fp32, and both layouts in tf32.
    """

    suite: str
    seconds: float
    tf32_seconds: float
    batch: int | None = None
    memory: str = "16GiB"
    all_plans: bool = False


SUITES = (
    Measured(suite="fbfft-layers", seconds=100, tf32_seconds=40, all_plans=True),
    Measured(suite="smoke", seconds=40, tf32_seconds=15),
    Measured(suite="alexnet", seconds=35, tf32_seconds=15),
    Measured(suite="overfeat-fast", seconds=35, tf32_seconds=15),
    Measured(suite="vgg-a", seconds=40, tf32_seconds=20, batch=16),
    Measured(suite="c3d", seconds=40, tf32_seconds=20, batch=8),
    Measured(suite="charcnn-large", seconds=30, tf32_seconds=10),
    Measured(suite="googlenet", seconds=100, tf32_seconds=50, batch=32, memory="4GiB"),
)
"""In the order in which they are measured. Memory bounds the rows that are planned at once, so that an interrupted run
holds whole rows."""
PRECISIONS = {"fp32": ("cudnn", "cufft", "cudafft"), "tf32": ("cudnn", "cudafft")}
"""Strict fp32, and tf32 where a backend has it: two math modes, two files."""
QUESTIONS = {
    "floor": 10, "fft": 30, "legacy": 20, "plans": 50, "deviceless": 20, "products": 15, "transforms": 15,
    "own-kernels": 15, "kernels": 25, "sweep": 10,
}  # fmt: skip
"""Programs of questions.py, and seconds for each."""


def parts(out: Path, usable: Collection[str]) -> list[Part]:
    """All parts, in order: what the rest builds on, then what matters most; what there is no time for is the last."""
    runs = [_run(out, of, precision, usable) for precision in PRECISIONS for of in SUITES]
    first = [part for part in runs if part.name in {"fbfft-layers", "smoke", "alexnet", "fbfft-layers-tf32"}]
    last = [part for part in runs if part not in first and "googlenet" in part.name]
    return [
        _ceilings(), *first, _tests(), *_questions(out), _timer(out), _counters(out), *_sanitizers(out),
        *(part for part in runs if part not in [*first, *last]), *last,
    ]  # fmt: skip


def _ceilings() -> Part:
    return Part(
        name="ceilings", title="what the machine can do at most", seconds=50, limit_s=150,
        command=(*CONVBENCH, "machine", "--measure", "--format", "markdown"),
    )  # fmt: skip


def _run(out: Path, of: Measured, precision: str, usable: Collection[str]) -> Part:
    seconds = of.seconds if precision == "fp32" else of.tf32_seconds
    name = of.suite if precision == "fp32" else f"{of.suite}-{precision}"
    backends = [name for name in PRECISIONS[precision] if name in usable]
    every = of.all_plans and precision == "fp32"
    chosen = [("-b", "cudnn" if every and backend == "cudnn" else f"{backend}:auto") for backend in backends]
    layouts = "nchw,nhwc" if of.all_plans and precision != "fp32" else "nchw"
    variants = len(backends) * len(layouts.split(",")) + (STRICT_PLANS if every else 0)
    row_s = max_time_s(of, variants, seconds)
    path = out / f"{name}.jsonl"
    command = [
        *CONVBENCH, "run", of.suite, *(word for pair in chosen for word in pair), "--dtype", precision,
        "--layout", layouts, "--max-time", f"{row_s * 1e3:.0f}ms", "--max-memory", of.memory, "--phases", "--quiet",
        "-o", str(path),
    ]  # fmt: skip
    if of.batch:
        command += ["--batch", str(of.batch)]
    return Part(
        name=name, title=f"suite {of.suite} in {precision}, all passes", seconds=seconds, limit_s=4 * seconds,
        needs=PRECISIONS[precision], command=tuple(command), good=KEPT, run_file=path,
    )  # fmt: skip


def max_time_s(of: Measured, variants: int, seconds: float) -> float:
    """Seconds of samples for each row, so that all rows of a suite fit into `seconds`."""
    from convbench.suite import load_suite

    rows = 3 * len(load_suite(of.suite).problems) * max(1, variants)
    return min(LONGEST_ROW_S, max(SHORTEST_ROW_S, MEASURED_SHARE * seconds / rows))


def _program(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(HERE / f"{name}.py"), *arguments)


def _questions(out: Path) -> list[Part]:
    return [
        Part(
            name=f"question-{name}", title="see docs/gpu.md", seconds=seconds, limit_s=4 * seconds,
            command=_program("questions", name, "--out", str(out / "answers" / f"{name}.jsonl")),
        )
        for name, seconds in QUESTIONS.items()
    ]  # fmt: skip


def _timer(out: Path) -> Part:
    return Part(
        name="timer", title="times beside an independent timer, within 3 %", seconds=30, limit_s=120,
        command=_program("timer", "--out", str(out / "timer.md")),
    )  # fmt: skip


def _tests() -> Part:
    words = (
        "-q", "-m", "gpu", "--import-mode=importlib", "-o", f"pythonpath={ROOT / 'tests'}", "-p", "no:cacheprovider",
        "-W", "default", "--durations=10", str(ROOT / "tests/gpu"),
    )  # fmt: skip
    return Part(
        name="tests", title="pytest -m gpu", seconds=130, limit_s=240, command=(sys.executable, "-m", "pytest", *words)
    )


def _counters(out: Path) -> Part:
    return Part(
        name="counters", title="traffic and bound beside Nsight Compute", seconds=40, limit_s=150,
        command=_program("counters", "--out", str(out / "counters.md")),
    )  # fmt: skip


def _sanitizers(out: Path) -> list[Part]:
    return [
        Part(
            name=tool, title=f"compute-sanitizer {tool} on suite smoke, cudafft", seconds=20, limit_s=120,
            needs=("cudafft",), command=_program("counters", "--sanitizer", tool, "--out", str(out / f"{tool}.md")),
        )
        for tool in ("memcheck", "racecheck")
    ]  # fmt: skip


def allowed_s(part: Part, later: Sequence[Part], left_s: float) -> float:
    """Seconds that a part gets of `left_s`: what it is thought to need, or more where there is more for all.

    Time that a part leaves over is shared out among those after it; where there is too little, the last go without.
    """
    share = part.seconds / (part.seconds + sum(other.seconds for other in later))
    return max(0.0, min(part.limit_s, left_s, max(part.seconds, left_s * share)))


def read_parts(path: Path) -> dict[str, dict[str, Any]]:
    """What came of each part, as parts.json says; nothing where there is no such file.

    Entries that no report wrote are left out: one line says so, and the file is kept under another name.
    """
    found = read_object(path)
    good = {name: of for name, of in found.items() if is_text(name) and _is_outcome(of)}
    if bad := found.keys() - good.keys():
        _set_aside(path, f"{len(bad)} of its {len(found)} entries say nothing of a part")
        path.write_text(json.dumps(good, indent=1) + "\n", encoding="utf-8")
    return good


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; nothing where there is no such file.

    One that holds something else is kept under another name, and one line says so.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    _set_aside(path, "it holds no JSON object")
    return {}


def is_text(value: object) -> bool:
    """Whether a value is a text that a file can hold: JSON has halves of characters, too."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def _is_outcome(value: object) -> bool:
    """Whether a value of parts.json is what `Report` writes there: an Outcome and a title."""
    if not (isinstance(value, dict) and all(is_text(value.get(key)) for key in ("title", "status", "reason"))):
        return False
    seconds = value.get("seconds")
    return type(seconds) in {int, float} and 0 <= seconds < LONGEST_S  # type: ignore[operator]


def _set_aside(path: Path, reason: str) -> None:
    kept = path.replace(path.with_suffix(".damaged"))
    print(f"gpu-report: {path.name} is damaged ({reason}): it is kept as {kept.name}", file=sys.stderr)
