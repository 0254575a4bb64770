"""How the cpu backend compares with others on the suite `peers`: ratios by layer, pass and threads, and by class.

    convbench run peers --isolate --layout nchw,nhwc $(python benchmarks/peers.py --backends) -b torch -o peers.jsonl
    python benchmarks/peers.py peers.jsonl [MORE.jsonl ...]

A ratio is the time of our fastest row over that of the fastest row of all other backends, over algorithms and layouts:
below 1 the cpu backend is faster. Each class of layers has a target for the geometric mean of its ratios.
`--without nnpack` leaves rows of an algorithm out, on both sides. `--backends` prints the arguments that choose all
algorithms of the cpu backend but `direct`, which is the definition and slow.
`make bench-peers` does both, on one thread and on all.
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from convbench.backends import AUTO
from convbench.backends.cpu import CpuBackend
from convbench.journal import read_run
from convbench.problem import ConvPass
from convbench.result import Row
from convbench.suite import load_suite
from convbench.tasks import Selection

FORWARD, BACKWARD = (ConvPass.FPROP,), (ConvPass.DGRAD, ConvPass.WGRAD)
WIDE = ("alex2", "over2", "k7", "k9", "k11", "k13", "alex3", "alex3_b1", "alex5", "vgg3_2", "vgg5_1", "vgg5_1_b1")
# (class, passes, its layers, target): the first that holds a row counts.
CLASSES = (
    ("5×5 stride 1, batched", FORWARD, ("alex2", "over2"), 0.5),
    ("7×7 to 13×13", FORWARD, ("k7", "k9", "k11", "k13"), 0.35),
    ("3×3, 100 tiles or more, 192-512 maps", FORWARD, ("alex3", "alex5", "vgg3_2", "vgg5_1"), 0.8),
    ("3×3×3", FORWARD, ("c3d2a",), 0.75),
    ("1-D, 7 taps", FORWARD, ("char_k7",), 0.6),
    ("1-D, 3 taps", FORWARD, ("char_k3",), 0.8),
    ("depthwise 31×31", FORWARD, ("depthwise31",), 0.7),
    ("1×1; 3×3 on 13² and 14² at batch 1", FORWARD, ("pointwise", "alex3_b1", "vgg5_1_b1"), 1.1),
    ("11×11 stride 4, 3 channels", FORWARD, ("alex1",), 1.1),
    ("3×3, 3 channels", FORWARD, ("vgg1_1",), 1.5),
    ("depthwise 3×3", FORWARD, ("depthwise3",), 3.0),
    ("dgrad and wgrad, 3 taps or more, stride 1", BACKWARD, (*WIDE, "vgg1_1", "c3d2a", "char_k7", "char_k3"), 0.75),
    ("dgrad and wgrad, the others", BACKWARD, ("depthwise31", "depthwise3", "pointwise", "alex1"), None),
)

Key = tuple[str, ConvPass, int]
"""Layer, pass and threads."""
Pair = tuple[Row | None, Row | None]
"""The fastest rows, ours and the others'."""


def fastest(rows: Iterable[Row], without: Iterable[str] = ()) -> dict[Key, Pair]:
    """The fastest verified rows of each key, but for algorithms in `without`."""
    found: dict[Key, Pair] = {}
    for row in rows:
        if row.time_s is None or row.key.algorithm in without:
            continue
        key = (row.key.case.name, row.key.case.conv_pass, row.key.threads)
        ours, theirs = found.get(key, (None, None))
        if row.key.backend == "cpu":
            ours = min(filter(None, (ours, row)), key=lambda r: r.time_s)
        else:
            theirs = min(filter(None, (theirs, row)), key=lambda r: r.time_s)
        found[key] = ours, theirs
    return found


def ratio(pair: Pair) -> float | None:
    """Our time over theirs; None where one is missing."""
    ours, theirs = pair
    return ours.time_s / theirs.time_s if ours and theirs else None


def geometric_mean(values: Iterable[float]) -> float:
    """The exponential of the mean logarithm."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def shown(row: Row | None) -> str:
    """A side of a pair: its time, and what it was."""
    if row is None:
        return "–"
    name = row.resolved or row.key.algorithm
    error = (row.verification or {}).get("rms_error")
    return f"{row.time_s * 1e3:9.3f} ms  {name} {row.key.case.layout_name}" + (f" {error:.0e}" if error else "")


def report(found: dict[Key, Pair]) -> list[str]:
    """Lines of a table for each class and number of threads."""
    lines = []
    for title, passes, layers, target in CLASSES:
        for threads in sorted({threads for _, _, threads in found}):
            keys = [(layer, conv_pass, threads) for layer in layers for conv_pass in passes]
            ratios = {key: value for key in keys if key in found and (value := ratio(found[key])) is not None}
            if not ratios:
                continue
            mean = geometric_mean(ratios.values())
            verdict = "no target" if target is None else f"target {target}: " + ("met" if mean <= target else "missed")
            lines.append(f"\n{title}, {threads} thread{'s' if threads > 1 else ''}: {mean:.2f} ({verdict})")
            for key in keys:
                if key in found:
                    value = f"{ratios[key]:6.2f}" if key in ratios else "     –"
                    ours, theirs = map(shown, found[key])
                    lines.append(f"  {key[0]:12} {key[1]:6}{value}  {ours:44}  {theirs}")
    return lines


def backends() -> str:
    """The `-b` arguments for all algorithms of the cpu backend but `direct`."""
    case = Selection().cases([load_suite("peers")])[0]
    names = [candidate.algorithm for candidate in CpuBackend().algorithms(case)]
    return " ".join(f"-b cpu:{name}" for name in names if name not in {AUTO, "direct"})


def main() -> None:
    """Reads the runs, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--backends", action="store_true", help="print the arguments for the cpu backend, and stop")
    parser.add_argument("--without", action="append", default=[], metavar="ALGORITHM", help="leave its rows out")
    arguments = parser.parse_args()
    if arguments.backends:
        print(backends())
        return
    if not arguments.files:
        parser.error("name the result files")
    rows = [row for path in arguments.files for row in read_run(path).rows]
    found = fastest(rows, arguments.without)
    print("ratio: ours / fastest other, below 1 the cpu backend is faster; then time, algorithm, layout and RMS error")
    print("\n".join(report(found)))


if __name__ == "__main__":
    main()
