"""How often `convbench check --against` is right: false alarms, and slow-downs found.

    python benchmarks/check.py model [--suites 2000] [--rows 12] [--launches 12]
    python benchmarks/check.py aa [--against PYTHON] [--rows 300] [--results runs/check-aa.jsonl]
    python benchmarks/check.py ab [--effect 3,5,10,20] [--rows 60] [--load] [--results runs/check-ab.jsonl]

`model` simulates launches and stored runs of many suites on made-up machines (check_model.py); the real functions
decide. `aa` runs the real command on the twelve rows of check.toml, one thread, until it has compared so many of them,
with nothing changed: every second check with a load in bursts on another CPU (check_load.py). `ab` does the same with a
backend that convolves so many percent more images in half of the rows (check_backend.py), until so many of these are
checked for each effect. Both append each check to their file of results, do only what is missing there, and print
Markdown tables of all that it holds. Limits are those of Clopper and Pearson, one-sided, of 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from check_backend import EFFECTS, HALVES, changed
from check_model import print_tables
from check_tables import Tally, percent, print_table, spread

from convbench.compare import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HERE = Path(__file__).parent
SUITE, BACKEND = HERE / "check.toml", HERE / "check_backend.py"
ALGORITHMS = ("gemm", "auto")
ROWS = 6 * len(ALGORITHMS)
"""Of check.toml."""
DECIDED = {0, 3}
"""Exit codes of a check whose rows could all be measured."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Of a check: percent more images in a half of the rows, 0 for none, and whether another CPU was loaded."""

    effect: int
    half: str
    loaded: bool


@dataclass(frozen=True, slots=True)
class Done:
    """A check: how long it took, and its rows as {"row", "changed", "verdict", "reason", "ratio", "launches"}."""

    setting: Setting
    wall_s: float
    rows: list[dict[str, Any]]


def command(setting: Setting, against: str, launches: int | None, written: Path) -> list[str]:
    """The command line of a check."""
    name = f"{BACKEND}:More{setting.effect}{setting.half}" if setting.effect else "cpu"
    return [
        sys.executable, "-m", "convbench", "check", str(SUITE), "--against", against, "--write", f"json={written}",
        *(["--against-backend", f"mine={BACKEND}:Same"] if setting.effect else []),
        *(["--launches", str(launches)] if launches else []),
        "--", *(word for algorithm in ALGORITHMS for word in ("-b", f"{name}:{algorithm}")),
        "--pass", "fprop", "--threads", "1",
    ]  # fmt: skip


def check(setting: Setting, against: str, launches: int | None, seed: int) -> Done:
    """Runs one.

    Raises:
        SystemExit: it could not measure all rows, or was interrupted.
    """
    with tempfile.TemporaryDirectory() as folder, load(seed) if setting.loaded else nullcontext():
        written = Path(folder) / "verdict.json"
        started = time.perf_counter()
        words = command(setting, against, launches, written)
        code = subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode
        if code not in DECIDED:
            sys.exit(f"convbench check ended with exit code {code}")
        wall_s = time.perf_counter() - started
        rows = json.loads(written.read_text())["rows"]
    kept = [
        {"row": f"{row['problem']} {row['algorithm']}",
         "changed": bool(setting.effect) and changed(row["problem"], setting.half),
         **{name: row[name] for name in ("verdict", "reason", "ratio", "launches")}}
        for row in rows
    ]  # fmt: skip
    return Done(setting, wall_s, kept)


@contextmanager
def load(seed: int) -> Iterator[None]:
    """Load on the last CPU that this process may use. What is measured may use all of them, as it does elsewhere."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        sys.exit("there is one CPU: none to be loaded beside what is measured")
    process = subprocess.Popen([sys.executable, HERE / "check_load.py", str(cpus[-1]), str(seed)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def read(results: Path) -> list[Done]:
    """The checks of a file; none where there is no file."""
    lines = results.read_text().splitlines() if results.exists() else []
    found = [json.loads(line) for line in lines]
    return [Done(Setting(**of["setting"]), of["wall_s"], of["rows"]) for of in found]


def run(settings: Iterable[Setting], results: Path, against: str, launches: int | None) -> list[Done]:
    """All checks of the file, once those of `settings` that it lacks are done and appended."""
    done = read(results)
    left = Counter(of.setting for of in done)
    results.parent.mkdir(parents=True, exist_ok=True)
    for seed, setting in enumerate(settings):
        if left[setting]:
            left[setting] -= 1
            continue
        print(f"check {len(done) + 1}: {setting}", file=sys.stderr)
        done.append(check(setting, against, launches, seed))
        with results.open("a") as file:
            file.write(json.dumps(asdict(done[-1])) + "\n")
    return done


def aa_settings(rows: int) -> list[Setting]:
    """By turns quiet and loaded, as many of one as of the other."""
    return [Setting(0, "", loaded) for _ in range(math.ceil(rows / 2 / ROWS)) for loaded in (False, True)]


def ab_settings(effects: list[int], rows: int, *, loaded: bool) -> list[Setting]:
    """All effects by turns, and the halves by turns."""
    checks = math.ceil(rows / (ROWS // 2))
    return [Setting(effect, HALVES[number % 2], loaded) for number in range(checks) for effect in effects]


def tallied(done: Iterable[Done]) -> Tally:
    """Their verdicts."""
    tally = Tally()
    for of in done:
        tally.add((row["changed"], Verdict(row["verdict"])) for row in of.rows)
    return tally


def noise(done: Iterable[Done]) -> str:
    """The spread of launches, of the middle one of all rows."""
    return percent(median(spread([*map(math.log, row["launches"])]) for of in done for row in of.rows))


def wall(done: list[Done]) -> str:
    """Seconds of a check."""
    return f"{median(of.wall_s for of in done):.0f} s"


def aa_table(done: list[Done]) -> None:
    """False alarms."""
    kinds = {"quiet": [of for of in done if not of.setting.loaded], "loaded": [of for of in done if of.setting.loaded]}
    kinds = {name: of for name, of in kinds.items() if of} | {"together": done}
    lines = []
    for name, of in kinds.items():
        tally = tallied(of)
        lines.append([name, str(len(of)), str(tally.rows.total()), tally.alarms(), tally.faster(),
                      str(tally.undecided), noise(of), wall(of)])  # fmt: skip
    print_table(
        f"Nothing changed: checks of {ROWS} rows",
        ["other CPU", "checks", "rows", "called slower", "called faster", "inconclusive rows", "spread",
         "time of a check"],
        lines,
    )  # fmt: skip


def ab_tables(done: list[Done]) -> None:
    """What was found, by effect and by row."""
    effects = sorted({of.setting.effect for of in done})
    by_effect = {(effect, loaded): [of for of in done if (of.setting.effect, of.setting.loaded) == (effect, loaded)]
                 for effect in effects for loaded in (False, True)}  # fmt: skip
    lines = []
    for (effect, loaded), of in by_effect.items():
        if of:
            tally = tallied(of)
            ratios = [row["ratio"] for check in of for row in check.rows if row["changed"] and row["ratio"]]
            lines.append([f"+{effect} %", "loaded" if loaded else "quiet", f"{median(ratios):.3f}", tally.found(),
                          tally.alarms(), tally.faster(), str(tally.undecided), noise(of), wall(of)])  # fmt: skip
    print_table(
        f"So many more images in half of {ROWS} rows",
        ["images", "other CPU", "median ratio", "changed, called slower", "not changed, called slower",
         "called faster", "inconclusive rows", "spread", "time of a check"],
        lines,
    )  # fmt: skip
    rows = sorted({row["row"] for of in done for row in of.rows})
    print_table(
        "By row: median ratio, and how often it was called slower",
        ["row", *(f"+{effect} %" for effect in effects)],
        [[name, *(_cell(name, (of for of in done if of.setting.effect == effect)) for effect in effects)]
         for name in rows],
    )  # fmt: skip


def _cell(name: str, done: Iterable[Done]) -> str:
    rows = [row for of in done for row in of.rows if row["row"] == name and row["changed"] and row["ratio"]]
    found = sum(row["verdict"] == Verdict.REGRESSION for row in rows)
    return f"{median(row['ratio'] for row in rows):.3f}, {found} of {len(rows)}" if rows else "–"


def effects(text: str) -> list[int]:
    """Percentages that check_backend.py has, such as "3,5"."""
    found = [int(part) for part in text.split(",")]
    if unknown := set(found) - set(EFFECTS):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)}: there are {EFFECTS}")
    return found


def main() -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    model, aa, ab = (parts.add_parser(name) for name in ("model", "aa", "ab"))
    model.add_argument("--suites", type=int, default=2000, help="of each machine and effect")
    model.add_argument("--rows", type=int, default=12, help="of a suite")
    model.add_argument("--launches", type=int, default=12)
    for part, rows in ((aa, 300), (ab, 60)):
        part.add_argument("--against", default=sys.executable, help="interpreter of an environment like this one")
        part.add_argument("--rows", type=int, default=rows)
        part.add_argument("--launches", type=int, help="of each row; what `convbench check` takes if left out")
        part.add_argument("--results", type=Path, default=Path("runs") / f"check-{'aa' if part is aa else 'ab'}.jsonl")
    ab.add_argument("--effect", type=effects, default=list(EFFECTS), help="percent more images")
    ab.add_argument("--load", action="store_true", help="on another CPU")
    options = parser.parse_args()
    if options.part == "model":
        print_tables(options.suites, options.rows, options.launches)
        return
    if options.part == "aa":
        settings, tables = aa_settings(options.rows), aa_table
    else:
        settings, tables = ab_settings(options.effect, options.rows, loaded=options.load), ab_tables
    tables(run(settings, options.results, options.against, options.launches))


if __name__ == "__main__":
    main()
