"""`cudnn`: NVIDIA's convolutions, through nvidia-cudnn-frontend (extras `cudnn13`, `cudnn12`).

Algorithms are cuDNN's plans by their names, in the order of its heuristics; `auto` is the first of them. Without a GPU
they are listed, too, for one that is described. Execution has not run on a GPU yet.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convbench.backends import AUTO, DEFAULTS, Candidate, PlanOptions
from convbench.backends.cudnn.graphs import Offered, describe
from convbench.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.backends import Plan
    from convbench.backends.cuda.gpu import CudaDevice
    from convbench.backends.cudnn.frontend import Graph
    from convbench.backends.cudnn.graphs import Description
    from convbench.operands import Operands
    from convbench.problem import Case


class CudnnBackend:
    """cuDNN's plans by name, and `auto`, the first of its list that may be taken; `index` counts GPUs."""

    name = "cudnn"

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self._known: dict[Case, list[Offered] | str] = {}

    def probe(self) -> str | None:
        """Whether cuDNN can be called, and then whether there is a GPU to run it on."""
        return self._missing or self._no_gpu

    def names(self, algorithm: str) -> bool:
        """Whether cuDNN may call a plan so: names differ from case to case."""
        return re.fullmatch(r"eng\d+(_k\d+=-?\d+)*", algorithm) is not None

    def listed_for(self) -> str | None:
        """The GPU that is described, where there is none."""
        if self._missing or self._no_gpu is None:
            return None
        from convbench.backends.cudnn.deviceless import described_gpu

        return f"cudnn's plans are those for an {described_gpu()}; none can run here: {self._no_gpu}"

    @functools.cached_property
    def _missing(self) -> str | None:
        from convbench.backends.cudnn.frontend import missing

        return missing()

    @functools.cached_property
    def _no_gpu(self) -> str | None:
        from convbench.backends import cuda

        return cuda.unusable()

    def device(self) -> CudaDevice:
        """The GPU."""
        from convbench.backends import cuda

        return cuda.device(self._index)

    def versions(self) -> dict[str, str]:
        """Of the library that is loaded, wherever it came from."""
        import cudnn

        from convbench.backends.cudnn.frontend import version

        return {"cuDNN": ".".join(map(str, version(cudnn)))}

    def algorithms(self, case: Case, options: PlanOptions = DEFAULTS) -> list[Candidate]:
        """The plans; without a GPU those for the one that is described. No estimates: their order is the heuristics'.

        Where there are none, `auto` alone, with the reason.
        """
        try:
            offered = self._offered(case)
        except UnsupportedError as error:
            return [Candidate(AUTO, str(error))]
        tensors = sum(math.prod(tensor.dims) for tensor in describe(case).tensors.values()) * case.dtype.itemsize
        found = [_candidate(plan, case, tensors, options) for plan in offered]
        chosen = next((c for c in found if c.reason is None and c.accuracy <= options.accuracy), None)
        if chosen is None:
            return [Candidate(AUTO, _none_left(found, options)), *found]
        return [replace(chosen, algorithm=AUTO, resolves_to=chosen.algorithm), *found]

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> Plan:
        """The case made ready: the plan built, which may compile for seconds, and its tensors on the GPU."""
        offered = {plan.name: plan for plan in self._offered(case)}
        if algorithm == AUTO:
            candidates = self.algorithms(case, options)
            if reason := candidates[0].reason:
                raise UnsupportedError(reason)
            able = [c for c in candidates[1:] if c.reason is None and c.accuracy <= options.accuracy]
            chosen = [offered[candidate.algorithm] for candidate in able]
        elif algorithm not in offered:
            raise UnsupportedError(f"cuDNN lists no plan {algorithm!r} for this case: names differ from case to case")
        elif reason := offered[algorithm].reason(case.math_mode, options.workspace_limit_bytes):
            raise UnsupportedError(reason)
        else:
            chosen = [offered[algorithm]]
        from convbench.backends.cudnn.plans import make_plan

        return make_plan(case, chosen, operands, self.device(), self._graph(describe(case)))

    def _graph(self, of: Description) -> Graph:
        """A new graph on the GPU."""
        import cudnn

        from convbench.backends.cudnn.frontend import Graph

        self.device().activate()
        return Graph(cudnn, of, handle=self._handle)

    @functools.cached_property
    def _handle(self) -> Any:
        """A handle that enqueues on the device's stream, for as long as the process lives.

        Raises:
            UnsupportedError: cuDNN gives none, as where the GPU's memory is full; it is asked again the next time.
        """
        import cudnn

        from convbench.backends.cudnn.frontend import first_line

        device = self.device()
        device.activate()
        try:
            with device.memory_errors():
                handle = cudnn.create_handle()
        except (RuntimeError, MemoryError) as error:
            raise UnsupportedError(f"cuDNN does not start on {device.name}: {first_line(error)}") from error
        cudnn.set_stream(handle=handle, stream=device.cuda.stream.ptr)
        return handle

    @functools.cached_property
    def _lister(self) -> Any:
        from convbench.backends.cudnn.deviceless import Lister

        return Lister()

    def _offered(self, case: Case) -> Sequence[Offered]:
        """The list of plans for a case, looked up once.

        Raises:
            UnsupportedError: there is none.
        """
        if not (self._missing or self._no_gpu):
            self._handle  # noqa: B018  that there is none now must not be remembered
        question = replace(case, suite="", name="", repeat=1)
        if question not in self._known:
            try:
                self._known[question] = self._listed(describe(case))
            except UnsupportedError as error:
                self._known[question] = str(error)
        known = self._known[question]
        if isinstance(known, str):
            raise UnsupportedError(known)
        return known

    def _listed(self, of: Description) -> list[Offered]:
        if self._missing:
            raise UnsupportedError(self._missing)
        if self._no_gpu:
            listed: list[Offered] = self._lister.plans(of)
            return listed
        from convbench.backends.cudnn.frontend import list_plans

        return list_plans(functools.partial(self._graph, of))


def _candidate(plan: Offered, case: Case, tensors: int, options: PlanOptions) -> Candidate:
    if reason := plan.reason(case.math_mode, options.workspace_limit_bytes):
        return Candidate(plan.name, reason)
    return Candidate(plan.name, None, tensors + plan.workspace_bytes, accuracy=plan.accuracy)


def _none_left(found: Sequence[Candidate], options: PlanOptions) -> str:
    """Why none of the plans can be taken."""
    if any(candidate.reason is None for candidate in found):
        return f"none of cuDNN's plans that can be taken keeps {options.accuracy:g}"
    reasons = [*dict.fromkeys(candidate.reason for candidate in found)]
    which = f"cuDNN's {len(found)} plans" if len(found) > 1 else "cuDNN's only plan"
    return f"{which} cannot be taken: {reasons[0]}{f' (and {len(reasons) - 1} other reasons)' if reasons[1:] else ''}"
