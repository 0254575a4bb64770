"""Plans of the cudnn backend, and how tensors get to the GPU and back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.errors import UnsupportedError
from convbench.operands import decode, encode, from_layout, to_layout
from convbench.problem import Case, ConvPass, Epilogue
from convbench.work import nominal_work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from convbench.backends.cuda.gpu import CudaDevice
    from convbench.backends.cudnn.frontend import Graph
    from convbench.backends.cudnn.graphs import Offered
    from convbench.operands import Operands

ALL_ONES = 0xFF
"""Bytes of which NaN consists, in every one of these types (IEEE 754: all exponent bits set, mantissa not 0)."""


def make_plan(case: Case, chosen: Sequence[Offered], operands: Operands, device: CudaDevice, graph: Graph) -> CudnnPlan:
    """The first of the chosen that cuDNN builds, with its tensors on the GPU.

    Raises:
        UnsupportedError: it builds none of them.
        MemoryError: the GPU's memory is short.
    """
    device.activate()
    with device.memory_errors():
        refusals: list[UnsupportedError] = []
        started = time.perf_counter()
        for offered in chosen:
            try:
                workspace_bytes = graph.build(offered.name)
            except UnsupportedError as error:
                refusals.append(error)
                continue
            build_s = time.perf_counter() - started
            return CudnnPlan(case, offered, workspace_bytes, build_s, operands, device, graph)
    raise refusals[0]


class CudnnPlan:
    """A built plan of cuDNN with its tensors, in the case's layout, and its workspace on the GPU.

    Attributes:
        notes: numerical and behaviour notes of its engine.
        build_s: seconds that it took to build, and to try those before it.
    """

    def __init__(
        self, case: Case, offered: Offered, workspace_bytes: int, build_s: float, operands: Operands,
        device: CudaDevice, graph: Graph,
    ) -> None:  # fmt: skip
        self.algorithm, self.accuracy, self.error_bound = offered.name, offered.accuracy, offered.error_bound
        self.notes, self.build_s = (*offered.notes, *offered.behavior), build_s
        self.work, self.workspace_bytes = nominal_work(case), workspace_bytes
        self._case, self._device, self._offered, self._graph = case, device, offered, graph
        read = {ConvPass.FPROP: ("x", "w"), ConvPass.DGRAD: ("y", "w"), ConvPass.WGRAD: ("x", "y")}[case.conv_pass]
        buffers = {name: self._upload(getattr(operands, "dy" if name == "y" else name)) for name in read}
        if case.epilogue is not Epilogue.NONE:
            buffers["bias"] = self._upload(operands.bias.reshape(1, -1, *[1] * case.problem.ndim))
        (made,) = {"x", "w", "y"} - {*read}
        buffers[made] = self._out = device.cuda.allocate(self._output_bytes)
        self._workspace = device.cuda.allocate(max(1, workspace_bytes))
        self._buffers = buffers  # they live as long as the plan
        pointers = {name: buffer.data.ptr for name, buffer in buffers.items()}
        self._execute = graph.runner(offered.name, pointers, self._workspace.data.ptr)
        self.poison()
        device.cuda.synchronize()

    @property
    def _output_bytes(self) -> int:
        return int(np.prod(self._case.output_shape)) * self._case.dtype.itemsize

    def _upload(self, canonical: NDArray[Any]) -> Any:
        """A copy on the GPU, as bytes, its axes in the case's layout."""
        stored = to_layout(encode(canonical, self._case.dtype), self._case.layout)
        buffer = self._device.cuda.allocate(stored.nbytes)
        buffer.set(stored.reshape(-1).view(np.uint8))
        return buffer

    def run(self) -> None:
        """Enqueues the plan."""
        self._device.activate()
        with self._device.memory_errors():
            self._execute()

    def over(self, operands: Operands) -> CudnnPlan:
        """The same plan, not built again, over other operands and with a workspace of its own."""
        self._device.activate()
        with self._device.memory_errors():
            return CudnnPlan(
                self._case, self._offered, self.workspace_bytes, self.build_s, operands, self._device, self._graph
            )

    def poison(self) -> None:
        """Fills the output with NaN, enqueued."""
        self._device.activate()
        self._out.data.memset_async(ALL_ONES, self._out.nbytes, self._device.cuda.stream)

    def output(self) -> NDArray[Any]:
        """A copy of the output, canonical; of bf16 in fp32."""
        self._device.activate()
        self._device.cuda.synchronize()
        case = self._case
        stored = self._out.get().view(encode(np.empty(0), case.dtype).dtype)
        order = case.layout.order(case.problem.ndim)
        lying = stored.reshape([case.output_shape[axis] for axis in order])
        return from_layout(decode(lying, case.dtype), case.layout)
