"""`mec`: convolution as products over windows that are gathered along the last axis only."""

from __future__ import annotations

from convbench.backends.cpu.gemm import GemmPlan
from convbench.backends.cpu.gemm_planner import MecPlanner


class MecPlan(GemmPlan):
    """As `gemm`, with one product per tap of the other axes."""

    planner_class = MecPlanner
