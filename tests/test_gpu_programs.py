"""The programs of the GPU report on what is simulated: the timer, the questions; what profilers write; ratios."""

import ctypes
from types import SimpleNamespace

import pytest
from fake_cuda import fake_device
from fake_cudnn import fake_backend
from gpu_programs import gpu
from nvrtc import compiled

from convbench.problem import PRECISIONS, ConvPass
from convbench.result import Row, RowKey, Status
from convbench.suite import load_suite
from convbench.tasks import Selection
from convbench.timing import Columns, Round

__all__ = ["gpu"]  # a fixture


# --- the independent timer


class FakeStream:
    def __init__(self, cuda):
        self._cuda, self.ptr = cuda, 77

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def synchronize(self):
        self._cuda.synchronize()

    def begin_capture(self):
        self._cuda._capturing = []

    def end_capture(self):
        nodes, self._cuda._capturing = self._cuda._capturing, None
        if self._cuda.uncapturable:
            raise self._cuda.uncapturable
        return SimpleNamespace(
            upload=lambda stream: None, launch=lambda stream: self._cuda.enqueue(sum(nodes)), graph=5
        )


def fake_cupy(cuda):
    """CuPy as far as timer.py calls it."""

    class Event:
        def __init__(self):
            self.made = cuda.event()

        def record(self, stream):
            self.made.record()

    def raw_kernel(source, name):
        assert f"void {name}(" in source
        return lambda grid, block, arguments: cuda.enqueue(int(arguments[0]) * 1e-9)

    def elapsed_ms(start, end):
        return cuda.elapsed_s(start.made, end.made) * 1e3

    return SimpleNamespace(RawKernel=raw_kernel, cuda=SimpleNamespace(Event=Event, get_elapsed_time=elapsed_ms))


@pytest.fixture
def device(monkeypatch):
    made, cuda, _ = fake_device(monkeypatch)
    cuda.stream = FakeStream(cuda)
    return made


@pytest.fixture
def events(gpu, device):
    return gpu.timer.EventTimer(fake_cupy(device.cuda), device.cuda.stream)


@pytest.mark.parametrize("seconds", [30e-6, 1e-3])
def test_both_timers_agree_on_a_simulated_gpu(gpu, device, events, seconds):
    found = gpu.timer.compared("row", lambda: device.cuda.enqueue(seconds), device.clock(1), events)
    assert found.agrees
    assert found.events_s == pytest.approx(seconds, rel=0.01)


def test_what_cannot_be_captured_is_launched_one_by_one(gpu, device, events):
    device.cuda.uncapturable = RuntimeError("not permitted")
    assert events.captured(lambda: None, 1) is None
    assert events.warm(lambda: device.cuda.enqueue(1e-3))() == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_the_kernel_that_holds_the_gpu_compiles(gpu, architecture):
    assert "0 bytes spill stores" in compiled(gpu.timer.SPIN, architecture, ())[1]


def test_a_row_that_is_off_is_named(gpu):
    good, bad = gpu.timer.Compared("a", 1.02, 1.0, 1.0), gpu.timer.Compared("b", 1.0, 1.0, 1.04)
    assert (good.agrees, bad.agrees) == (True, False)
    assert gpu.timer.table([good, bad])[-1].endswith("| 1.000, 0.962 | off by more than 3% |")


# --- questions, on what is simulated


def test_the_floor_of_the_events_is_found(gpu, device, events):
    (answer,) = gpu.ask_cuda.floor(device, events)
    assert answer.data["nothing_us"] == pytest.approx(2.0)
    assert answer.data["empty_in_graph_us"] == pytest.approx(1.0, rel=0.1)


def test_sweeps_are_compared(gpu, device, events):
    (answer,) = gpu.ask_cuda.sweep(device, events)
    assert answer.data["warm_us"] == pytest.approx(3.0)
    assert "of reads" in answer.sentence


@pytest.fixture
def cudnn(gpu, monkeypatch):
    backend, _ = fake_backend(monkeypatch)
    monkeypatch.setattr(gpu.ask_cudnn, "CudnnBackend", lambda: backend)
    small = {"batch": 2, "in_channels": 4, "out_channels": 4, "input_size": (16, 16)}
    made = gpu.ask_cudnn.made_case
    monkeypatch.setattr(gpu.ask_cudnn, "made_case", lambda *words, **fields: made(*words, **fields | small))
    return backend


def test_plans_are_run_timed_and_verified(gpu, cudnn):
    device = cudnn.device()
    device.cuda.stream = SimpleNamespace(ptr=77)
    timer = SimpleNamespace(captured=lambda run, count: None, warm=lambda run: lambda: 1e-6)
    calls, errors = gpu.ask_cudnn.plans(device, timer)
    assert (calls.question, errors.question) == (4, 5)
    assert {row["strict"] for row in calls.data} == {True, False}
    assert "0 of them can be captured" in calls.sentence
    assert "strict plans err by" in errors.sentence


def test_a_plan_that_does_not_run_is_counted(gpu, cudnn, monkeypatch):
    monkeypatch.setattr(gpu.ask_cudnn, "_plan", lambda *words: (_ for _ in ()).throw(RuntimeError("broken")))
    calls, errors = gpu.ask_cudnn.plans(cudnn.device(), None)
    assert calls.sentence.startswith("None of ")
    assert "0 strict ones err" in errors.sentence


def test_kernels_are_told_by_engine(gpu, cudnn, monkeypatch):
    monkeypatch.setattr(gpu.ask_cudnn, "kernels_of", lambda timer, run: ["one", "two"])
    (answer,) = gpu.ask_cudnn.kernels(cudnn.device(), None)
    engines = [name.split()[-1].partition("_")[0] for name in answer.data]
    assert engines == ["eng38", "eng1", "eng0"] * 3
    assert answer.sentence.startswith("Of 9 plans 9 launch 2, 0 are not known;")


def test_kernels_that_cannot_be_told_leave_the_reason(gpu, cudnn, monkeypatch):
    def broken(timer, run):
        raise RuntimeError("the driver answers with CUDA error 400")

    monkeypatch.setattr(gpu.ask_cudnn, "kernels_of", broken)
    (answer,) = gpu.ask_cudnn.kernels(cudnn.device(), None)
    assert answer.sentence.startswith("Of 9 plans 9 are not known;")
    assert set(answer.data.values()) == {"RuntimeError: the driver answers with CUDA error 400"}


def test_lists_are_compared_and_engines_scanned_case_by_case(gpu, cudnn, monkeypatch):
    monkeypatch.setattr(gpu.ask_cudnn, "_engines", lambda backend, case, note, refused: [3] if note == "FFT" else [])
    (answer,) = gpu.ask_cudnn.fft(cudnn.device(), None)
    assert answer.sentence.startswith("By graph, of 18 cases in fp32 and nchw: FFT: 0 plans of the lists, 15 engines")
    monkeypatch.setattr(gpu.ask_cudnn, "SCAN_S", 0.0)
    (answer,) = gpu.ask_cudnn.fft(cudnn.device(), None)
    assert answer.sentence.startswith("By graph, of 0 cases")


def test_the_older_calls_are_summed_up(gpu):
    names = {"fprop": gpu.ask_legacy.FORWARD, "dgrad": gpu.ask_legacy.DATA, "wgrad": gpu.ask_legacy.FILTER}
    rows = {f"{conv_pass} {name}": None for conv_pass, of in names.items() for name in of}
    rows |= {"fprop FFT": {"right": True}, "fprop WINOGRAD_NONFUSED": "offered, but does not run", "wgrad FFT": 0}
    sentence = gpu.ask_legacy._sentence({"shape": rows})
    assert "FFT 1 fprop, 0 dgrad, 1 wgrad (1 ran right)" in sentence
    assert "WINOGRAD_NONFUSED 1 fprop, 0 dgrad, 0 wgrad (0 ran right)" in sentence


class FakeGraphs:
    """The driver's calls for graphs: 5 has a kernel, a copy and a child, 6, which has a kernel of the other kind."""

    def __init__(self):
        self.nodes, self.kinds = {5: [1, 2, 3], 6: [4]}, {1: 0, 2: 1, 3: 4, 4: 0}

    def cuGraphGetNodes(self, graph, nodes, count):
        found = self.nodes[graph.value]
        if nodes is None:
            count._obj.value = len(found)
        else:
            nodes[:] = found
        return 0

    def cuGraphNodeGetType(self, node, kind):
        kind._obj.value = self.kinds[node.value]
        return 0

    def cuGraphChildGraphNodeGetGraph(self, node, graph):
        graph._obj.value = 6
        return 0

    def cuGraphKernelNodeGetParams_v2(self, node, found):
        setattr(found._obj, "function" if node.value == 1 else "kernel", 11)
        return 0

    def cuFuncGetName(self, name, function):
        name._obj.value = b"plain_kernel"
        return 0

    def cuKernelGetName(self, name, kernel):
        name._obj.value = b"x" * 500
        return 0


def test_kernels_of_a_graph_have_names(gpu):
    assert gpu.nodes.kernels(5, FakeGraphs()) == ["plain_kernel", "(memcpy)", "x" * gpu.nodes.LONGEST + "…"]
    broken = SimpleNamespace(cuGraphGetNodes=lambda *words: 400)
    with pytest.raises(RuntimeError, match="error 400"):
        gpu.nodes.kernels(5, broken)
    assert ctypes.sizeof(gpu.nodes.KernelParameters) == 72  # CUDA_KERNEL_NODE_PARAMS_v2 of cuda.h, by hand


# --- Nsight Compute and compute-sanitizer


CSV = """==PROF== Connected to process 77
==PROF== Disconnected from process 77
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum","sm__throughput.avg.pct_of_peak_sustained_elapsed","gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed","gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed","sm__inst_executed.avg.pct_of_peak_sustained_elapsed"
"","","","","","","","","","","","byte","byte","ns","%","%","%","%"
"0","77","python3","127.0.0.1","empty","1","7","(1, 1, 1)","(1, 1, 1)","0","9.0","0","0","1,024","0.1","0.2","0.3","0.4"
"1","77","python3","127.0.0.1","gemm<float, 3>(float *, int)","1","7","(128, 1, 1)","(132, 1, 1)","0","9.0","1,000,000","500,000","3,000","80","20","10","44"
"2","77","python3","127.0.0.1","emptying(int)","1","7","(128, 1, 1)","(132, 1, 1)","0","9.0","0","500,000","1,000","40","60","50","20"
"3","77","python3","127.0.0.1","empty()","1","7","(1, 1, 1)","(1, 1, 1)","0","9.0","0","0","1,024","0.1","0.2","0.3","0.4"
"4","77","python3","127.0.0.1","gemm<float, 3>(float *, int)","1","7","(128, 1, 1)","(132, 1, 1)","0","9.0","n/a","0","n/a","n/a","n/a","n/a","n/a"
"""  # noqa: E501  as ncu writes it


def test_counters_are_summed_by_row(gpu):
    first, second = gpu.counters.parse(CSV)
    assert (first.kernels, first.read_bytes, first.written_bytes, first.time_ns) == (2, 1e6, 1e6, 4000)
    assert first.percent("compute_percent") == pytest.approx((80 * 3 + 40) / 4)
    assert (second.kernels, second.read_bytes, second.percent("dram_percent")) == (1, 0.0, None)


def test_counters_stand_beside_the_model(gpu):
    rows = [{"label": "a", "bound": "compute", "launches": 2, "traffic_bytes": 1_000_000},
            {"label": "b", "bound": None, "launches": 1, "traffic_bytes": 0}]  # fmt: skip
    lines = gpu.counters.table(rows, gpu.counters.parse(CSV))
    assert lines[2] == "| a | compute | 2 | 2 | 2.0 MB | 1.0 MB | 2.00 | 70 % | 30 % | 20 % | 38 % |"
    assert lines[3] == "| b | – | 1 | 1 | 0.0 MB | 0.0 MB | – | – | – | – | – |"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it wrote nothing"),
        ("==ERROR== ERR_NVGPUCTRPERM: no permission", "ERROR== ERR_NVGPUCTRPERM: no permission"),
    ],
)
def test_ncu_that_counts_nothing_says_why(gpu, text, reason):
    with pytest.raises(SystemExit, match=reason):
        gpu.counters.parse(text)


def test_ncu_leaves_clocks_and_caches_alone(gpu, tmp_path):
    words = gpu.counters.command("ncu", tmp_path / "log", tmp_path / "rows")
    assert [words[words.index(f"--{of}-control") + 1] for of in ("clock", "cache")] == ["none", "none"]


def test_a_sanitizers_summaries_are_added_up(gpu):
    clean = ["========= COMPUTE-SANITIZER", "========= ERROR SUMMARY: 0 errors"]
    assert gpu.counters.verdict("memcheck", clean, 0)[1] == 0
    races = ["========= RACECHECK SUMMARY: 2 hazards displayed (1 errors, 1 warnings)"]
    assert gpu.counters.verdict("racecheck", races, 9)[1] == 2
    with pytest.raises(SystemExit, match="Device not supported"):
        gpu.counters.verdict("memcheck", ["========= Error: Device not supported"], 1)


# --- ratios


def row(layer, backend, seconds, precision="fp32", conv_pass=ConvPass.FPROP, suite="fbfft-layers"):
    selection = Selection(passes=(conv_pass,), precisions=(PRECISIONS[precision],), globs=(layer,))
    key = RowKey(case=selection.cases([load_suite(suite)])[0], backend=backend, algorithm="auto", device="cuda:0")
    status = Status.OK if seconds else Status.FAILED
    rounds = (Round(1, Columns((seconds,), (None,), {})),) if seconds else ()
    return Row(key=key, status=status, resolved=f"{backend}-plan", rounds=rounds)


ROWS = [
    row("L5", "cudafft", 1e-3), row("L5", "cudnn", 4e-3), row("L5", "cudnn", 2e-3), row("L5", "cudnn", 0.5e-3, "tf32"),
    row("L3", "cudafft", 1e-3), row("L3", "cudnn", 10e-3), row("L3", "cufft", 2e-3),
    row("L4", "cudafft", None), row("L4", "cudnn", 1e-3),
]  # fmt: skip


def test_the_fastest_row_of_each_side_counts(gpu):
    found = {key.name: sides for key, sides in gpu.ratios.fastest(ROWS).items()}
    strict, _, rounded, *_ = gpu.ratios.COMPARISONS
    assert gpu.ratios.ratio(found["L5"], strict) == pytest.approx(0.5)
    assert gpu.ratios.ratio(found["L5"], rounded) == pytest.approx(2.0)
    assert gpu.ratios.ratio(found["L4"], strict) is None


def test_means_are_geometric_by_class_and_pass(gpu):
    lines = gpu.ratios.report(ROWS)
    start = "**cudafft fp32 / cudnn fp32**: geometric mean of the ratios (of how many); below 1 the first is faster"
    title = next(place for place, line in enumerate(lines) if line.startswith(start))
    assert "0.25 is aimed at" in lines[title]
    assert lines[title + 2 : title + 8] == [
        "| layers | fprop | dgrad | wgrad | all passes |", "| --- | ---: | ---: | ---: | ---: |",
        "| 2-D, 3 taps | 0.50 (1) | – | – | 0.50 (1) |", "| 2-D, 9 taps or more | 0.10 (1) | – | – | 0.10 (1) |",
        "| stride 1, 5 taps or more, 64 maps or more | 0.10 (1) | – | – | 0.10 (1) |",
        "| all | 0.22 (2) | – | – | 0.22 (2) |",
    ]  # fmt: skip
    assert "| fbfft-layers L3 | fprop | 0.10 | 0.50 | – | 0.20 | 1.000 ms cudafft-plan |" in "\n".join(lines)


def test_with_nothing_to_compare_it_says_so(gpu):
    assert gpu.ratios.report([row("L4", "cudnn", 1e-3)])[0].startswith("No layer was timed by two")


def test_layers_have_classes(gpu):
    classes = {entry.name: gpu.ratios.class_of(entry.problem) for entry in load_suite("smoke").problems}
    assert classes["plain-3x3"] == "2-D, 3 taps"
    assert classes["pointwise"] == "2-D, 1 taps"
    assert {"2-D, depthwise", "2-D, stride above 1"} <= set(classes.values())
