"""Runs killed at random moments: what their result files still hold, and whether --resume completes them.

    python benchmarks/kill.py [--kills 100] [--seed 0]

The long form of tests/test_fire.py. A run is killed (SIGKILL, its whole process group) up to four times at random
moments, resumed after each kill, and at last left alone; its rows and their statuses must then be those of an
uninterrupted run. A line counts as lost where it was in the file before the kill and is not afterwards; a round where
its line is in the file and it is not among the rows read. Prints a table, and ends with 1 if anything was lost.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from fire import finish, kill, start, statuses


def moments(path: Path) -> tuple[float, float]:
    """Seconds of an uninterrupted run before its first line, and of the rest."""
    started = time.monotonic()
    process = start(path)
    while not path.exists() or not path.stat().st_size:
        time.sleep(0.001)
    first = time.monotonic()
    code, _, err = finish(process)
    assert code == 0, err
    return first - started, time.monotonic() - first


def main() -> None:
    """Kills, resumes, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    moment: Counter[str] = Counter()
    problems: list[str] = []
    runs = kills = lines = unfinished = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.jsonl"
        before, during = moments(whole)
        while kills < arguments.kills:
            path = Path(folder) / f"run{runs}.jsonl"
            runs += 1
            for count in range(rng.randint(1, 4)):
                # One in five before the first new line, while the program starts; the others while it measures.
                early = rng.random() < 0.2
                after = -rng.uniform(0, before) if early else rng.uniform(0, during)
                try:
                    left = kill(path, after, *(["--resume"] if count else []))
                except AssertionError as error:
                    problems.append(f"run {runs}, kill {count + 1}, seed {arguments.seed}: {error}")
                    break
                if left.finished:
                    break
                kills += 1
                moment["without a header" if not left.lines_after else "without a round" if not left.rounds
                       else "with rounds"] += 1  # fmt: skip
                lines += left.lines_before
                unfinished += bool(left.unfinished)
            code, _, err = finish(start(path, "--resume"))
            if code or statuses(path) != statuses(whole):
                problems.append(f"run {runs}, seed {arguments.seed}: not completed, exit code {code}: {err}")
    print(f"{kills} kills of {runs} runs, each resumed until complete; an uninterrupted run takes ", end="")
    print(f"{before:.1f} s to its first line and {during:.1f} s from there")
    for what, count in moment.most_common():
        print(f"{count:>7} files {what}")
    print(f"{lines:>7} lines in files at the moment of a kill")
    print(f"{unfinished:>7} files with an unfinished last line")
    print(f"{len(problems):>7} lines or rounds lost, files unreadable, runs not completed")
    print("\n".join(problems), end="")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
