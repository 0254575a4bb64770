"""Where each row of a run stands under the ceilings of its machine. Recomputed from the run's file, never stored.

Rules: docs/method.md, "Placement and bound".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convbench.ceilings import Ceilings
from convbench.errors import InputError
from convbench.result import WARM
from convbench.roofline import Judgement, Placement, judge, place
from convbench.work import Work, nominal_work

if TYPE_CHECKING:
    from convbench.result import Row, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A timed row and what the model says of it.

    Attributes:
        row: with a time.
        work: the row's own, or the nominal work of its case where the algorithm's is unknown.
        nominal: whether that is so.
        placement: under the ceilings of the row's device.
        judgement: of the row's time.
        hint: what may explain a row that the model does not; "" where nothing fits, or nothing needs explaining.
    """

    row: Row
    work: Work
    nominal: bool
    placement: Placement
    judgement: Judgement
    hint: str = ""

    @property
    def time_s(self) -> float:
        """The measured time, seconds."""
        assert self.row.time_s is not None
        return self.row.time_s

    @property
    def to_win_s(self) -> float:
        """Seconds above the floor, which a perfect implementation of the same work would save; 0 above the roof."""
        return max(0.0, self.time_s - self.placement.floor_s)

    @property
    def intensity(self) -> float | None:
        """Executed flops per byte of traffic; None where nothing moves."""
        return self.work.executed_flops / self.work.traffic_bytes if self.work.traffic_bytes else None


def run_ceilings(run: Run) -> dict[str, Ceilings]:
    """The ceilings in a run's header, by device; devices without are left out.

    Raises:
        InputError: they are damaged.
    """
    devices = run.header["devices"].items()
    return {name: Ceilings.from_dict(of["ceilings"]) for name, of in devices if of.get("ceilings")}


def placed_row(row: Row, ceilings: Ceilings) -> Placed:
    """The placement of a timed row.

    Raises:
        InputError: no ceiling for the math mode of its case.
    """
    assert row.time_s is not None
    nominal = row.work is None
    work = row.work or nominal_work(row.key.case)
    placement = place(work, ceilings, row.key.case.math_mode, warm=row.key.cache == WARM, row_floor_s=row.floor_s)
    return Placed(row=row, work=work, nominal=nominal, placement=placement, judgement=judge(placement, row.time_s))


def placed_rows(run: Run) -> tuple[list[Placed], dict[str, int]]:
    """The timed rows of a run that can be placed, in order, and why others cannot: how many, by reason.

    Raises:
        InputError: the ceilings in the run's header are damaged.
    """
    ceilings = run_ceilings(run)
    placed: list[Placed] = []
    reasons: dict[str, int] = {}
    for row in run.rows:
        if row.time_s is None:
            continue
        try:
            if row.key.device not in ceilings:
                raise InputError(f"no ceilings of {row.key.device} in the run")  # noqa: TRY301  counted as any other
            placed.append(placed_row(row, ceilings[row.key.device]))
        except InputError as error:
            reasons[str(error)] = reasons.get(str(error), 0) + 1
    return placed, reasons
