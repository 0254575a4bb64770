"""Our measured ceilings of the CPU beside plain C loops: ratios, same run, interleaved.

The loops are below; the system's C compiler builds them for this CPU (-O3 -march=native), pthreads run them. Every
probe and its loop are timed in turn, ROUNDS times. `ours` is what `convbench machine` would say, `C` the same statistic
of the loop, over the same sizes. `C` copies with plain loads and stores, where `copyto` may pass the caches by.

Below, why a ceiling is the first quartile of the times of five passes: the rounds are cut into groups of five, and for
each statistic it is printed how far groups differ, and how far they are from the best of all rounds.
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import numpy as np

from convbench import calibrate
from convbench.backends import Probe
from convbench.backends.cpu.device import CpuDevice
from convbench.backends.cpu.probes import MIXES, aligned
from convbench.calibrate import Pass
from convbench.machine import cpu_count
from convbench.stats import first_quartile

ROUNDS = 20
ACCUMULATORS = 12
C = """
#include <pthread.h>
#include <time.h>
#ifdef __AVX512F__
#define WIDTH 64
#else
#define WIDTH 32
#endif
typedef float f __attribute__((vector_size(WIDTH)));
typedef double d __attribute__((vector_size(WIDTH)));
#define FMA(V, T) static void fma_##V(long n) { V a[12], m, c; long i; int k; \\
  for (k = 0; k < 12; k++) a[k] = (V){(T)k}; m = a[1] * (T)0.5; c = a[2]; \\
  for (i = 0; i < n; i++) { _Pragma("GCC unroll 12") for (k = 0; k < 12; k++) a[k] = a[k] * m + c; } \\
  for (k = 0; k < 12; k++) __asm__ volatile("" :: "x"(a[k])); }
FMA(f, float)
FMA(d, double)

struct task { int kind; long n, passes; float *x, *y, *z; pthread_barrier_t *go; struct timespec start, end; };

static void pass(struct task *t) {
  const f *x = (const f *)t->x, *y = (const f *)t->y; f *w = (f *)t->y, *z = (f *)t->z;
  long i, n = t->n * 4 / WIDTH;
  if (t->kind == 2) {  /* n is a multiple of 4 vectors */
    f s0 = x[0], s1 = s0, s2 = s0, s3 = s0;
    for (i = 0; i < n; i += 2) { s0 += x[i]; s1 += y[i]; s2 += x[i + 1]; s3 += y[i + 1]; }
    s0 += s1 + s2 + s3;
    __asm__ volatile("" :: "x"(s0));
  } else if (t->kind == 3) for (i = 0; i < n; i++) w[i] = x[i];
  else for (i = 0; i < n; i++) z[i] = x[i] + 3.0f * y[i];
  __asm__ volatile("" ::: "memory");
}

static void *work(void *p) {
  struct task *t = p;
  pthread_barrier_wait(t->go);
  clock_gettime(CLOCK_MONOTONIC, &t->start);
  if (t->kind == 0) fma_f(t->passes);
  else if (t->kind == 1) fma_d(t->passes);
  else for (long i = 0; i < t->passes; i++) pass(t);
  clock_gettime(CLOCK_MONOTONIC, &t->end);
  return 0;
}

static double at(struct timespec t) { return t.tv_sec + 1e-9 * t.tv_nsec; }

int width(void) { return WIDTH; }

/* seconds from the first start to the last end; x: threads buffers, parts of n floats in each */
double timed(int kind, int threads, long n, long passes, float **x) {
  pthread_t made[threads]; struct task tasks[threads]; pthread_barrier_t go; double first, last;
  pthread_barrier_init(&go, 0, threads);
  for (int i = 0; i < threads; i++) {
    tasks[i] = (struct task){kind, n, passes, x[i], x[i] + n, x[i] + 2 * n, &go};
    pthread_create(&made[i], 0, work, &tasks[i]);
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(made[i], 0);
    if (!i || at(tasks[i].start) < first) first = at(tasks[i].start);
    if (!i || at(tasks[i].end) > last) last = at(tasks[i].end);
  }
  pthread_barrier_destroy(&go);
  return last - first;
}
"""


@dataclass
class Pair:
    """A probe and its loop: seconds of a run of each, round by round."""

    probe: Probe
    count: int
    kind: int
    ours: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)


def compiled(folder: str) -> ctypes.CDLL | None:
    """The loops above; None where they cannot be compiled."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    source, library = Path(folder) / "loops.c", Path(folder) / "loops.so"
    source.write_text(C)
    flags = ["-O3", "-march=native", "-fno-tree-loop-distribute-patterns", "-shared", "-fPIC", "-pthread", "-w"]
    if compiler is None or subprocess.run([compiler, *flags, "-o", library, source], check=False).returncode:
        return None
    loops = ctypes.CDLL(str(library))
    loops.timed.restype = ctypes.c_double
    loops.timed.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_void_p]
    return loops


def kind(probe: Probe) -> int:
    """The loop of a probe, as `work` in C numbers them; -1 where it has none."""
    if probe.kind == "compute":
        return 0 if probe.name == "fp32" else 1
    return 2 + [*MIXES].index(probe.name) if probe.kind == "bandwidth" else -1


def loop_s(loops: ctypes.CDLL, pair: Pair, threads: int, buffers: list[np.ndarray]) -> float:
    """Seconds that the loop takes for what one run of the probe does."""
    pointers = (ctypes.c_void_p * threads)(*(buffer.ctypes.data for buffer in buffers))
    probe = pair.probe
    if probe.kind == "compute":
        each = 2 * ACCUMULATORS * loops.width() // (4 if pair.kind == 0 else 8)
        passes = max(1, int(min(probe.amount * pair.count / threads, 2e9) / each))
        return loops.timed(pair.kind, threads, 0, passes, pointers) * probe.amount / (passes * each * threads)
    length = probe.size_bytes // threads // MIXES[probe.name] // 4
    return loops.timed(pair.kind, threads, length, pair.count, pointers) / pair.count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=cpu_count())
    threads = parser.parse_args().threads
    with tempfile.TemporaryDirectory() as folder:
        loops = compiled(folder)
        if loops is None:
            sys.exit("no C compiler found that builds the loops (CC names one): nothing to compare with")
        compare(loops, threads)


def compare(loops: ctypes.CDLL, threads: int) -> None:
    """Times both sides and prints."""
    device = CpuDevice()
    with device.probes(threads) as probes:
        clock = device.clock(threads)
        pairs = [Pair(p, count, kind(p)) for p in probes if (count := calibrate.launches(p, clock)) is not None]
        most = max(p.probe.size_bytes for p in pairs) // threads // 4 + 64
        buffers = [aligned(most) for _ in range(threads)]
        for buffer in buffers:
            buffer[...] = 1.5
        watched = clock.watch()
        samples = []
        for _ in range(ROUNDS):
            for pair in pairs:
                samples.append(clock.sample(lambda p=pair: p.probe.run(p.count), 1))
                pair.ours.append(samples[-1].wall_s / pair.count)
                if pair.kind >= 0:
                    pair.loop.append(loop_s(loops, pair, threads, buffers))
        flags = {flag for sample in watched(samples) for flag in sample.flags}
    machine = device.machine()

    def ceilings(of: list[Pair], attribute: str) -> calibrate.Ceilings:
        passes = [Pass(tuple(getattr(pair, attribute)[i] for pair in of)) for i in range(ROUNDS)]
        return calibrate.evaluate([pair.probe for pair in of], passes, machine, threads)

    ours, theirs = ceilings(pairs, "ours"), ceilings([p for p in pairs if p.kind >= 0], "loop")
    print(f"{threads} threads, {ROUNDS} rounds; witnesses: {', '.join(sorted(flags)) or 'none'}")
    print(f"{'':12}{'ours':>10}{'C':>10}{'ours / C':>10}")
    for mode, found in ours.compute.items():
        line(mode, found.value, theirs.compute[mode].value, "Gflop/s")
    for level, mixes in ours.mixes.items():
        for mix, found in mixes.items():
            other = theirs.mixes.get(level, {}).get(mix)
            line(f"{level} {mix}", found.value, other.value if other else None, "GB/s")
    for name, found in (("our", ours), ("C's", theirs)):
        sizes = ", ".join(f"{level} {size / 2**20:.3g} MiB" for level, size in found.capacity_bytes.items())
        print(f"caches by {name} curve: {sizes}")
    statistics(pairs)


def line(name: str, ours: float, other: float | None, unit: str) -> None:
    """Prints a ceiling, in 1e9 of its unit, beside that of the loop."""
    right = f"{other / 1e9:10.1f}{ours / other:10.2f}" if other else f"{'–':>10}{'–':>10}"
    print(f"{name:12}{ours / 1e9:10.1f}{right}  {unit}")


def statistics(pairs: list[Pair]) -> None:
    """How far groups of five rounds differ, by statistic, over all probes: median and largest, in per cent."""
    print(f"\n{'of five':14}{'groups differ by':>18}{'at most':>9}{'above the best time by':>24}")
    for name, statistic in (("least", min), ("first quartile", first_quartile), ("median", median), ("mean", mean)):
        spreads, above = [], []
        for pair in pairs:
            values = [statistic(pair.ours[i : i + 5]) for i in range(0, ROUNDS, 5)]
            spreads.append(max(values) / min(values) - 1)
            above.append(median(values) / min(pair.ours) - 1)
        print(f"{name:14}{100 * median(spreads):17.1f}%{100 * max(spreads):8.0f}%{100 * median(above):23.1f}%")


if __name__ == "__main__":
    main()
