"""The calls of cuDNN's front end (module `cudnn`): is it there, graphs, plan lists with notes and workspace, builds."""

from __future__ import annotations

import functools
import importlib.util
import re
from typing import TYPE_CHECKING, Any

from convbench.backends.cuda.runtime import import_crash, is_out_of_memory
from convbench.backends.cudnn.graphs import NOTES, Description, Offered
from convbench.errors import UnsupportedError
from convbench.problem import ConvPass, Dtype, Epilogue

if TYPE_CHECKING:
    from collections.abc import Callable

EXTRA = 'pip install "convbench[cudnn13]" (or cudnn12, with an older driver)'
OLDEST_FRONTEND = (1, 28)
OLDEST = (9, 2)
"""Of cuDNN: the first whose front end asks a plan for its workspace before it builds it (plans.h)."""
MODES = ("A", "B", "FALLBACK")
"""Heuristics, in their order: the learned one, another one, and the engines that always work."""
TYPES = {Dtype.FP64: "DOUBLE", Dtype.FP32: "FLOAT", Dtype.FP16: "HALF", Dtype.BF16: "BFLOAT16"}
BARRED = "Deselecting execution plan"
TOO_MUCH = re.compile(r"workspace violation\. Requires (\d+)")
"""What a plan says that a note bars, and one that asks for more workspace than is allowed: both before it is built."""


def missing() -> str | None:
    """Why cuDNN cannot be called here, in one line; None where it can. Whether there is a GPU is another question."""
    if importlib.util.find_spec("cudnn") is None:
        return f"nvidia-cudnn-frontend is not installed: {EXTRA}"
    if crash := import_crash("cudnn"):
        return f"nvidia-cudnn-frontend is installed but its import {crash}: {EXTRA}"
    try:
        import cudnn

        frontend = str(cudnn.__version__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a broken installation may raise anything, or end the program
        return f"nvidia-cudnn-frontend is installed but does not load ({first_line(error)}): {EXTRA}"
    return _too_old(cudnn, frontend)


def _too_old(cudnn: Any, frontend: str) -> str | None:
    """Why this version of the front end, or the library that it finds, cannot be used."""
    if tuple(map(int, re.findall(r"\d+", frontend)[:2])) < OLDEST_FRONTEND:
        return f"nvidia-cudnn-frontend {frontend} is too old, 1.28 is needed: {EXTRA}"
    try:
        found = version(cudnn)
    except Exception as error:  # noqa: BLE001  the front end looks for the library now
        return f"cuDNN itself is missing ({first_line(error)}): {EXTRA}"
    if found < OLDEST:
        return f"cuDNN {'.'.join(map(str, found))} is too old, 9.2 is needed: {EXTRA}"
    return None


def version(cudnn: Any) -> tuple[int, int, int]:
    """Of cuDNN: 92801 is 9.28.1."""
    number = int(cudnn.backend_version())
    return number // 10000, number // 100 % 100, number % 100


def first_line(error: BaseException) -> str:
    """The first line of what an error says, which is the one for people."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].removeprefix("[cudnn_frontend] Error: ")[:200]


def declines(cudnn: Any) -> tuple[type[Exception], ...]:
    """What it raises where it does not take something, beside what it raises where something is broken."""
    return cudnn.cudnnGraphNotSupportedError, RuntimeError, ValueError


class Graph:
    """A graph with its list of plans: made for a device that is there (`handle`) or described (`properties`).

    Raises:
        UnsupportedError: cuDNN has no plan for it.
    """

    def __init__(self, cudnn: Any, of: Description, *, handle: Any = None, properties: Any = None) -> None:
        self._cudnn, self._handle = cudnn, handle
        compute = cudnn.data_type.DOUBLE if of.dtype is Dtype.FP64 else cudnn.data_type.FLOAT
        self._io = getattr(cudnn.data_type, TYPES[of.dtype])
        self._graph = cudnn.pygraph(
            io_data_type=self._io, intermediate_data_type=compute, compute_data_type=compute, handle=handle,
            device_property=properties,
        )  # fmt: skip
        self.tensors: dict[str, Any] = {}
        """What stands for each tensor when pointers are given."""
        try:
            self._define(of)
            self._graph.validate()
            self._graph.build_operation_graph()
            self._graph.create_execution_plans([getattr(cudnn.heur_mode, mode) for mode in MODES])
            self.names = [self._graph.get_plan_name_at_index(i) for i in range(self._graph.get_execution_plan_count())]
        except declines(cudnn) as error:
            raise UnsupportedError(_decline_text(cudnn, error)) from error
        if not self.names:
            raise UnsupportedError(_no_plan(cudnn))

    def _define(self, of: Description) -> None:
        for name, tensor in of.tensors.items():
            if name != of.output:
                self.tensors[name] = self._graph.tensor(
                    name=name, dim=[*tensor.dims], stride=[*tensor.strides], data_type=self._io
                )
        where = {"pre_padding": [*of.before], "post_padding": [*of.after], "stride": [*of.stride],
                 "dilation": [*of.dilation]}  # fmt: skip
        if of.before == of.after:
            where["padding"] = where.pop("pre_padding")
            del where["post_padding"]
        t = self.tensors
        if of.conv_pass is ConvPass.FPROP:
            out = self._graph.conv_fprop(image=t["x"], weight=t["w"], **where)
        elif of.conv_pass is ConvPass.DGRAD:
            out = self._graph.conv_dgrad(loss=t["y"], filter=t["w"], **where)
        else:
            out = self._graph.conv_wgrad(image=t["x"], loss=t["y"], **where)
        if of.epilogue is not Epilogue.NONE:
            out = self._graph.bias(input=out, bias=t["bias"])
        if of.epilogue is Epilogue.BIAS_RELU:
            out = self._graph.relu(input=out)
        made = of.tensors[of.output]
        out.set_output(True).set_data_type(self._io).set_dim([*made.dims]).set_stride([*made.strides])
        self.tensors[of.output] = out

    def _refusals(self, note: str | None) -> list[str]:
        """What each plan says where it must have a note, None for no matter which, and may have no workspace at all.

        Of workspace less than nothing is allowed: so that every plan declines before it is built.
        """
        if note is not None:
            self._graph.select_numeric_notes([getattr(self._cudnn.numerical_note, note)])
        self._graph.deselect_workspace_greater_than(-1)
        return [self._refusal(index) for index in range(len(self.names))]

    def _refusal(self, index: int) -> str:
        try:
            self._graph.build_plan_at_index(index)
        except declines(self._cudnn) as error:
            return first_line(error)
        return ""

    def _offered(self, index: int, refusal: str) -> Offered:
        asked = TOO_MUCH.search(refusal)
        behavior = self._graph.get_behavior_notes_for_plan_at_index(index)
        return Offered(
            name=self.names[index], workspace_bytes=int(asked[1]) if asked else 0,
            behavior=tuple(str(note).rpartition(".")[2] for note in behavior),
            declined="" if asked else f"cuDNN declines this plan: {refusal or 'it says no workspace'}",
        )  # fmt: skip

    def offered(self) -> list[Offered]:
        """The plans, without their notes; none of them can be built from this graph any more."""
        return [self._offered(index, refusal) for index, refusal in enumerate(self._refusals(None))]

    def carriers(self, note: str) -> set[str]:
        """Names of the plans that carry a note; none of them can be built from this graph any more."""
        refusals = zip(self.names, self._refusals(note), strict=True)
        return {name for name, refusal in refusals if BARRED not in refusal}

    def build(self, name: str) -> int:
        """Builds a plan, compiling where it has to, and gives the workspace that it asks for, in bytes.

        Raises:
            UnsupportedError: cuDNN does not build it. That memory is short is raised as cuDNN says it.
        """
        if name not in self.names:
            raise UnsupportedError(f"cuDNN no longer lists {name}")
        index = self.names.index(name)
        try:
            self._graph.build_plan_at_index(index)
        except declines(self._cudnn) as error:
            if is_out_of_memory(error):
                raise
            raise UnsupportedError(f"cuDNN does not build {name}: {first_line(error)}") from error
        return int(self._graph.get_workspace_size_plan_at_index(index))

    def runner(self, name: str, pointers: dict[str, int], workspace: int) -> Callable[[], None]:
        """What enqueues a built plan on these addresses, by tensor, on the stream of the handle."""
        index, given = self.names.index(name), {self.tensors[key]: pointers[key] for key in pointers}
        return functools.partial(
            self._graph.execute_plan_at_index, given, workspace, index, handle=self._handle
        )  # fmt: skip


def list_plans(make: Callable[[], Graph]) -> list[Offered]:
    """The plans of a graph in the order of the heuristics, with notes and workspace; nothing is built.

    The front end has no getter for numerical notes. So each is asked for on a graph of its own: what is not barred
    carries it. Lists are the same from graph to graph, and names unique within one.
    """
    found = {plan.name: plan for plan in reversed(make().offered())}
    carriers = {note: make().carriers(note) for note in NOTES}
    return [
        Offered(name=plan.name, workspace_bytes=plan.workspace_bytes, behavior=plan.behavior, declined=plan.declined,
                notes=tuple(note for note in NOTES if plan.name in carriers[note]))
        for plan in reversed(found.values())
    ]  # fmt: skip


def _no_plan(cudnn: Any) -> str:
    return f"cuDNN {'.'.join(map(str, version(cudnn)))} has no plan for this case"


def _decline_text(cudnn: Any, error: Exception) -> str:
    text = first_line(error)
    none = "No valid engine configs" in text or "proposed a plan" in text
    return _no_plan(cudnn) if none else f"{_no_plan(cudnn)}: {text}"
