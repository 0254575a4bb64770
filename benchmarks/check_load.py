"""Bursts of load on one CPU, for benchmarks/check.py.

    python benchmarks/check_load.py CPU SEED

Matrix products, or sweeps over memory larger than the caches, for 0.05 to 2 s, then nothing for up to 1 s; until the
process that started it ends, or ends it.
"""

from __future__ import annotations

import os
import random
import sys
import time

PRODUCT = 512
SWEEP_BYTES = 128 << 20


def main() -> None:
    """Loads the CPU."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    import numpy as np  # starts its threads: on that CPU alone

    rng = random.Random(int(sys.argv[2]))
    parent = os.getppid()
    a, product = np.ones((PRODUCT, PRODUCT)), np.empty((PRODUCT, PRODUCT))
    memory = np.zeros(SWEEP_BYTES // 8)
    kinds = [lambda: np.matmul(a, a, out=product), lambda: np.add(memory, 1, out=memory)]
    while os.getppid() == parent:
        run, until = rng.choice(kinds), time.monotonic() + rng.uniform(0.05, 2)
        while time.monotonic() < until:
            run()
        time.sleep(rng.uniform(0, 1))


if __name__ == "__main__":
    main()
