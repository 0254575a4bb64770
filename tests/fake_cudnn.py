"""The front end of cuDNN without cuDNN, on a simulated GPU: graphs compute by the reference, where strides say.

`FakeCudnn` has what convbench.backends.cudnn takes from the module `cudnn`, with the front end's messages.
"""

import itertools
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from fake_cuda import FakeCuda, fake_device

from convbench import reference
from convbench.backends import cuda as cuda_module
from convbench.backends.cudnn import CudnnBackend
from convbench.backends.cudnn.graphs import NOTES
from convbench.operands import grouped
from convbench.problem import PRECISIONS, Axis, Case, ConvPass, Epilogue, Layout, Problem

MOST_BYTES = 16 << 20
"""A larger block is a canary's or a sweep's, and never looked at."""


@dataclass
class FakePointer:
    ptr: int
    _bytes: np.ndarray
    _stream: object

    def memset_async(self, value, size, stream):
        assert stream is self._stream
        self._bytes[:size] = value


class FakeMemory:
    """A block of the simulated GPU's memory: CuPy's array of bytes, as far as it is used."""

    def __init__(self, cuda, size):
        self.cuda, self.nbytes = cuda, size
        self.bytes = np.full(size, 0x11, np.uint8)
        self.data = FakePointer(next(cuda.addresses), self.bytes, cuda.stream)
        cuda.memory[self.data.ptr] = self.bytes

    def set(self, array):
        assert array.dtype == np.uint8
        self.bytes[:] = array

    def get(self):
        return self.bytes.copy()

    def __del__(self):
        self.cuda.used_bytes -= self.nbytes
        del self.cuda.memory[self.data.ptr]


class MemoryCuda(FakeCuda):
    """A simulated GPU whose memory can be read."""

    def __init__(self, **options):
        super().__init__(**options)
        self.addresses, self.memory = itertools.count(1 << 20, 1 << 20), {}
        self.stream = SimpleNamespace(ptr=77)
        self.free_when_asked_to_free = None

    def free_unused(self):
        super().free_unused()
        self.free_when_asked_to_free = self.free_bytes()

    def allocate(self, size):
        if size > self.free_bytes():
            raise MemoryError("cudaErrorMemoryAllocation: out of memory")
        if size > MOST_BYTES:
            return super().allocate(size)
        self.used_bytes += size
        return FakeMemory(self, size)


class GraphNotSupportedError(Exception):
    pass


@dataclass
class FakePlan:
    """A plan in the list: its name, notes and workspace; what it says when it is built, raises when it is run."""

    name: str
    notes: tuple = ()
    workspace: int = 0
    build_error: Exception | None = None
    run_error: Exception | None = None
    seconds: float = 50e-6
    spoil: float = 1.0
    behavior: tuple = ("RUNTIME_COMPILATION",)
    kernel_error: Exception | None = None  # what is said where something waits for its run
    epilogues: tuple = ("none", "bias")  # with which it is offered; relu counts as its bias


PLANS = (
    FakePlan("eng38_k2=4_k13=0", ("TENSOR_CORE", "DOWN_CONVERT_INPUTS"), 1 << 20),
    FakePlan("eng1_k2=1", (), 4096),
    FakePlan("eng1_k2=2", ("NONDETERMINISTIC",), 64),
    FakePlan("eng0", (), 0, seconds=20e-6),
)


class FakeTensor:
    def __init__(self, dim=None, stride=None):
        self.dim, self.stride, self.is_output = dim, stride, False

    def set_output(self, value):
        self.is_output = value
        return self

    def set_data_type(self, data_type):
        return self

    def set_dim(self, dim):
        self.dim = dim
        return self

    def set_stride(self, stride):
        self.stride = stride
        return self


class FakeCudnn:
    """The module. `plans` is the list for every graph; `graph_error` is raised where plans are created."""

    __version__ = "1.28.0"
    __spec__ = SimpleNamespace(name="cudnn")
    cudnnGraphNotSupportedError = GraphNotSupportedError
    data_type = SimpleNamespace(FLOAT=np.float32, DOUBLE=np.float64, HALF=np.float16, BFLOAT16="bf16")
    heur_mode = SimpleNamespace(A="A", B="B", FALLBACK="FALLBACK")
    numerical_note = SimpleNamespace(**{note: note for note in NOTES})

    def __init__(self, cuda, plans=PLANS, version=92801, graph_error=None):
        self.cuda, self.plans, self.version, self.graph_error = cuda, plans, version, graph_error
        self.built, self.graphs, self.handle_error = [], 0, None

    def backend_version(self):
        if isinstance(self.version, Exception):
            raise self.version
        return self.version

    def create_handle(self):
        if self.handle_error:
            raise self.handle_error
        return "handle"

    def set_stream(self, handle, stream):
        assert (handle, stream) == ("handle", 77)

    def pygraph(self, **options):
        self.graphs += 1
        return FakeGraph(self, **options)


class FakeGraph:
    def __init__(self, module, io_data_type, intermediate_data_type, compute_data_type, handle, device_property):
        assert (handle is None) != (device_property is None)
        assert intermediate_data_type == compute_data_type
        assert (compute_data_type == np.float64) == (io_data_type == np.float64)
        self._module, self._io = module, io_data_type
        self._barred, self._limit = set(), None
        self._built = set()

    def tensor(self, name, dim, stride, data_type):
        assert data_type == self._io
        assert len(dim) == len(stride) >= 4
        return FakeTensor(dim, stride)

    def _conv(self, conv_pass, first, second, stride, dilation, padding=None, pre_padding=None, post_padding=None):
        self._pass, self._operands, self._bias, self._relu = conv_pass, (first, second), None, False
        before, after = (padding, padding) if padding else (pre_padding, post_padding)
        assert min(*before, *after) >= 0
        self._where = before, after, stride, dilation
        self._out = FakeTensor()
        return self._out

    def conv_fprop(self, image, weight, **where):
        return self._conv(ConvPass.FPROP, image, weight, **where)

    def conv_dgrad(self, loss, filter, **where):
        return self._conv(ConvPass.DGRAD, loss, filter, **where)

    def conv_wgrad(self, image, loss, **where):
        return self._conv(ConvPass.WGRAD, loss, image, **where)

    def bias(self, input, bias):
        self._bias = bias
        return input

    def relu(self, input):
        self._relu = True
        return input

    def validate(self):
        assert self._out.is_output

    def build_operation_graph(self):
        pass

    def create_execution_plans(self, modes):
        assert modes == ["A", "B", "FALLBACK"]
        if self._module.graph_error:
            raise self._module.graph_error
        epilogue = "bias" if self._bias else "none"
        self._plans = [plan for plan in self._module.plans if epilogue in plan.epilogues]

    def get_execution_plan_count(self):
        return len(self._plans)

    def get_plan_name_at_index(self, index):
        return self._plans[index].name

    def get_behavior_notes_for_plan_at_index(self, index):
        return [f"behavior_note.{note}" for note in self._plans[index].behavior]

    def select_numeric_notes(self, notes):
        self._barred |= {i for i, plan in enumerate(self._plans) if not {*notes} <= {*plan.notes}}

    def deselect_workspace_greater_than(self, limit):
        self._limit = limit

    def build_plan_at_index(self, index):
        plan = self._plans[index]
        if index in self._barred:
            raise GraphNotSupportedError("Deselecting execution plan")
        if self._limit is not None and plan.workspace > self._limit:
            raise GraphNotSupportedError(
                f"[cudnn_frontend] Error: Skipping plan since workspace violation. Requires {plan.workspace}"
            )
        if plan.build_error:
            raise plan.build_error
        self._built.add(index)
        self._module.built.append(plan.name)

    def get_workspace_size_plan_at_index(self, index):
        return self._plans[index].workspace

    def execute_plan_at_index(self, pointers, workspace, index, handle):
        plan = self._plans[index]
        assert index in self._built
        assert handle == "handle"
        assert self._module.cuda.memory[workspace].nbytes >= plan.workspace
        if plan.run_error:
            raise plan.run_error
        self._module.cuda.enqueue(plan.seconds)
        if plan.kernel_error:
            self._module.cuda.broken = plan.kernel_error
        if self._module.cuda._capturing is not None:
            return
        first, second = (self._view(pointers, tensor) for tensor in self._operands)
        result = plan.spoil * self._computed(first, second)
        if self._bias:
            result += self._view(pointers, self._bias).astype(np.float64)
        self._store(pointers, np.maximum(result, 0) if self._relu else result)

    def _memory(self, pointers, tensor):
        io = np.uint16 if self._io == "bf16" else self._io
        memory = self._module.cuda.memory[pointers[tensor]].view(io)
        extent = 1 + sum((dim - 1) * stride for dim, stride in zip(tensor.dim, tensor.stride, strict=True))
        assert extent == len(memory)  # dense, and all of it
        strides = [stride * memory.itemsize for stride in tensor.stride]
        return np.lib.stride_tricks.as_strided(memory, tensor.dim, strides)

    def _view(self, pointers, tensor):
        found = self._memory(pointers, tensor)
        return (found.astype(np.uint32) << 16).view(np.float32) if self._io == "bf16" else found

    def _store(self, pointers, result):
        if self._io == "bf16":
            result = result.astype(np.float32).view(np.uint32) + 0x8000 >> 16
        self._memory(pointers, self._out)[...] = result

    def _computed(self, first, second):
        x, w, y = {
            ConvPass.FPROP: (first, second, self._out), ConvPass.DGRAD: (self._out, second, first),
            ConvPass.WGRAD: (second, self._out, first),
        }[self._pass]  # fmt: skip
        shapes = [t.dim if isinstance(t, FakeTensor) else t.shape for t in (x, w, y)]
        groups = shapes[0][1] // shapes[1][1]
        before, after, stride, dilation = self._where
        axes = [Axis(*a) for a in zip(shapes[0][2:], shapes[1][2:], stride, dilation, before, after, strict=True)]
        assert [axis.output for axis in axes] == [*shapes[2][2:]]
        split = 0 if self._pass is not ConvPass.WGRAD else 1
        function = {"fprop": reference.fprop, "dgrad": reference.dgrad, "wgrad": reference.wgrad}[self._pass]
        return function(axes, grouped(first, groups, 1), grouped(second, groups, split)).reshape(self._out.dim)


def fake_backend(monkeypatch, **options):
    """(a backend on a simulated GPU, the FakeCudnn that it calls)."""
    device, _, _ = fake_device(monkeypatch)
    device.cuda = MemoryCuda()
    module = FakeCudnn(device.cuda, **options)
    monkeypatch.setitem(sys.modules, "cudnn", module)
    monkeypatch.setattr(cuda_module, "unusable", lambda: None)
    monkeypatch.setattr(cuda_module, "device", lambda index=0: device)
    return CudnnBackend(), module


def make_case(conv_pass="fprop", precision="fp32", layout="nchw", epilogue="none", **fields):
    fields = {"batch": 2, "in_channels": 4, "out_channels": 6, "input_size": (9, 8), "filter_size": (3, 2)} | fields
    dtype, math_mode = PRECISIONS[precision]
    return Case(suite="test", name="p", problem=Problem(**fields), conv_pass=ConvPass(conv_pass), dtype=dtype,
                math_mode=math_mode, layout=Layout(layout), epilogue=Epilogue(epilogue))  # fmt: skip
