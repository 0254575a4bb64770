"""The benchmark that compares backends: which rows it takes, and that its classes cover the suite."""

import importlib.util
import itertools
from pathlib import Path

import pytest

from convbench.backends import Sample
from convbench.problem import ConvPass, Layout
from convbench.result import Row, RowKey, Status
from convbench.suite import load_suite
from convbench.tasks import Selection
from convbench.timing import Round

SPEC = importlib.util.spec_from_file_location("peers", Path(__file__).parent.parent / "benchmarks/peers.py")
peers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(peers)


def row(layer, backend, algorithm, seconds, layout=Layout.NCHW, threads=1, conv_pass=ConvPass.FPROP):
    selection = Selection(passes=(conv_pass,), layouts=(layout,), globs=(layer,))
    key = RowKey(case=selection.cases([load_suite("peers")])[0], backend=backend, algorithm=algorithm, device="cpu",
                 threads=threads)  # fmt: skip
    status = Status.OK if seconds else Status.FAILED
    rounds = (Round(1, (Sample(seconds),)),) if seconds else ()
    return Row(key=key, status=status, resolved=f"{algorithm}-4", rounds=rounds, verification={"rms_error": 2e-7})


def test_every_layer_and_pass_belongs_to_one_class():
    listed = [key for _, passes, layers, _ in peers.CLASSES for key in itertools.product(layers, passes)]
    assert len(listed) == len(set(listed))
    names = [entry.name for entry in load_suite("peers").problems]
    assert set(listed) == set(itertools.product(names, ConvPass))


ROWS = [
    row("k7", "cpu", "gemm", 4e-3),
    row("k7", "cpu", "dft", 1e-3, Layout.NHWC),
    row("k7", "torch", "onednn", 5e-3),
    row("k7", "torch", "nnpack", 2e-3),
    row("k9", "cpu", "dft", 1e-3),
    row("k9", "torch", "onednn", 8e-3),
    row("k11", "cpu", "dft", 1e-3),
    row("k11", "torch", "onednn", None),
    row("k7", "cpu", "dft", 3e-3, threads=2),
    row("k7", "torch", "onednn", 2e-3, threads=2),
]


def test_the_fastest_of_each_side_counts():
    found = peers.fastest(ROWS)
    pair = found["k7", ConvPass.FPROP, 1]
    assert [r.key.algorithm for r in pair] == ["dft", "nnpack"]
    assert peers.ratio(pair) == pytest.approx(0.5)
    assert peers.ratio(found["k11", ConvPass.FPROP, 1]) is None
    assert peers.ratio(peers.fastest(ROWS, ["nnpack"])["k7", ConvPass.FPROP, 1]) == pytest.approx(0.2)
    assert peers.ratio(peers.fastest(ROWS, ["dft"])["k7", ConvPass.FPROP, 1]) == pytest.approx(2.0)


def test_the_report_has_a_mean_for_each_class_and_number_of_threads():
    assert [" ".join(line.split()) for line in peers.report(peers.fastest(ROWS))] == [
        "7×7 to 13×13, 1 thread: 0.25 (target 0.35: met)",
        "k7 fprop 0.50 1.000 ms dft-4 nhwc 2e-07 2.000 ms nnpack-4 nchw 2e-07",
        "k9 fprop 0.12 1.000 ms dft-4 nchw 2e-07 8.000 ms onednn-4 nchw 2e-07",
        "k11 fprop – 1.000 ms dft-4 nchw 2e-07 –",
        "7×7 to 13×13, 2 threads: 1.50 (target 0.35: missed)",
        "k7 fprop 1.50 3.000 ms dft-4 nchw 2e-07 2.000 ms onednn-4 nchw 2e-07",
    ]


def test_all_algorithms_but_the_definition_are_measured():
    words = peers.backends().split()
    assert set(words[::2]) == {"-b"}
    assert {"cpu:gemm", "cpu:fft"} <= set(words[1::2])
    assert not {"cpu:direct", "cpu:auto"} & set(words)
