"""How far `auto` of the cpu backend is from the best of its algorithms, over all built-in suites.

    python benchmarks/regret.py [--batch 1] [--layout nchw,nhwc] [--accuracy 1e-5] [--limit-gflop 8] [--save FILE]
    python benchmarks/regret.py --load FILE [--fit]

Runs each algorithm that keeps the accuracy on each different problem and pass, on one thread: the least processor time
of a few runs. Prints the regret of `auto` (the time of what it takes over that of the fastest) as geometric mean, by
the best algorithm, and the worst cases; `--save` keeps the times, `--load` judges the present constants of choice.py by
kept ones, and `--fit` prints the constants of least relative error for each algorithm.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import scipy.optimize

from convbench.backends import PlanOptions
from convbench.backends.cpu import CpuBackend
from convbench.backends.cpu.choice import counts, estimated_seconds
from convbench.backends.cpu.threads import blas_threads
from convbench.backends.cpu.tiling import FAMILIES
from convbench.operands import Operands
from convbench.problem import Case, Layout
from convbench.suite import builtin_suites, load_suite
from convbench.tasks import Selection
from convbench.work import Work, nominal_flops

if TYPE_CHECKING:
    from collections.abc import Callable

LEFT_OUT = {"auto", "direct"}


@dataclass(frozen=True, slots=True)
class Timed:
    """An algorithm of a case: its least seconds, and its work."""

    case: str
    algorithm: str
    resolved: str
    seconds: float
    work: list[dict[str, object]]


def cases(batch: int, layouts: list[Layout], limit: float) -> list[Case]:
    """The different problems and passes of all built-in suites."""
    found: dict[object, Case] = {}
    for name in builtin_suites():
        for case in Selection(batch=batch, layouts=layouts).cases([load_suite(name)]):
            if nominal_flops(case.problem) <= limit and case.precision == "fp32":
                found.setdefault((case.problem, case.conv_pass, case.layout), case)
    return list(found.values())


def measure(case: Case, accuracy: float) -> list[Timed]:
    """Every algorithm of a case."""
    backend, options = CpuBackend(), PlanOptions(threads=1, accuracy=accuracy)
    operands = Operands(case.problem, case.dtype, seed=1)
    found = []
    for candidate in backend.algorithms(case, options):
        if candidate.algorithm in LEFT_OUT or candidate.reason or candidate.accuracy > accuracy:
            continue
        if candidate.memory_bytes > 4 << 30:
            continue
        plan = backend.plan(case, candidate.algorithm, operands, options)
        name = f"{case.suite}/{case.name} {case.conv_pass} {case.layout_name} {case.problem.describe()}"
        found.append(Timed(name, candidate.algorithm, plan.algorithm, least_seconds(plan.run), plan.work.to_list()))
    return found


def least_seconds(run: Callable[[], object]) -> float:
    """Of two to eight runs after a first one."""
    run()
    taken: list[float] = []
    while len(taken) < 2 or (sum(taken) < 0.04 and len(taken) < 8):
        start = time.thread_time()
        run()
        taken.append(time.thread_time() - start)
    return max(min(taken), 1e-9)


def report(found: list[Timed]) -> None:
    """The regrets."""
    by_case: dict[str, list[Timed]] = defaultdict(list)
    for timed in found:
        by_case[timed.case].append(timed)
    regrets, by_best = [], defaultdict(list)
    for name, options in by_case.items():
        best = min(options, key=lambda t: t.seconds)
        taken = min(options, key=lambda t: estimated_seconds(t.algorithm, Work.from_list(t.work), 1))
        regrets.append((taken.seconds / best.seconds, name, taken, best))
        by_best[best.algorithm].append(taken.seconds / best.seconds)
    mean = math.exp(fmean(math.log(regret) for regret, *_ in regrets))
    times = sum(t.seconds for _, _, t, _ in regrets) / sum(b.seconds for *_, b in regrets)
    print(f"{len(regrets)} cases: regret of auto: geometric mean {mean:.3f}, of the sum of all times {times:.3f}")
    for name, values in sorted(by_best.items()):
        print(f"  {name:14} is best in {len(values):4}: geometric mean {math.exp(fmean(map(math.log, values))):.3f}, "
              f"worst {max(values):.2f}")  # fmt: skip
    for regret, name, taken, best in sorted(regrets, key=lambda r: -r[0])[:12]:
        print(f"  {regret:5.2f}  {name}: {taken.resolved} {taken.seconds * 1e3:.3g} ms, "
              f"{best.resolved} {best.seconds * 1e3:.3g} ms")  # fmt: skip


def fit(found: list[Timed]) -> None:
    """The constants of least relative error, by algorithm."""
    for algorithm in sorted({timed.algorithm for timed in found}):
        rows = [t for t in found if t.algorithm == algorithm and t.seconds > 2e-5]
        matrix = np.array([counts(Work.from_list(t.work)) for t in rows])
        scaled = matrix / np.array([t.seconds for t in rows])[:, None]
        constants, _ = scipy.optimize.nnls(scaled, np.ones(len(rows)))
        spread = np.std(np.log(np.maximum(scaled @ constants, 1e-9)))
        fields = ", ".join(f"{value:.2e}" for value in constants)
        print(f'    "{algorithm}": Rates({fields}),  # {len(rows)} plans, {spread:.0%}')


def main() -> None:
    """Measures or loads, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--layout", default="nhwc")
    parser.add_argument("--accuracy", type=float, default=1e-5)
    parser.add_argument("--limit-gflop", type=float, default=8.0, help="largest case measured [8]")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path, nargs="*")
    parser.add_argument("--fit", action="store_true")
    arguments = parser.parse_args()
    found: list[Timed] = []
    if arguments.load:
        for path in arguments.load:
            kept = [Timed(**fields) for fields in json.loads(path.read_text())]
            found += [timed for timed in kept if FAMILIES.get(timed.algorithm, 0.0) <= arguments.accuracy]
    else:
        layouts = [Layout(name) for name in arguments.layout.split(",")]
        with blas_threads(1):
            for case in cases(arguments.batch, layouts, arguments.limit_gflop * 1e9):
                found += measure(case, arguments.accuracy)
        if arguments.save:
            arguments.save.write_text(json.dumps([asdict(timed) for timed in found]))
    if arguments.fit:
        fit(found)
    report(found)


if __name__ == "__main__":
    main()
