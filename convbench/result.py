"""What came of a run: rows, what was asked for in each, and the run that holds them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from convbench.backends import REMARKS
from convbench.stats import drifted, median, pooled_interval
from convbench.work import Work, nominal_flops

if TYPE_CHECKING:
    from convbench.problem import Case
    from convbench.timing import Round


WARM, COLD = "warm", "cold"
"""Whether caches hold what the last run of a plan left there, or something else."""


class Status(StrEnum):
    """What came of a row."""

    OK = "ok"
    PARTIAL = "partial"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    SKIPPED = "skipped"
    WRONG = "wrong"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"


class Remark(StrEnum):
    """What to know about a row's time."""

    FEW_ROUNDS = "few_rounds"
    DISTURBED = "disturbed"
    DRIFT = "drift"


BROKEN = {Status.WRONG, Status.FAILED, Status.OUT_OF_MEMORY, Status.TIMEOUT}
"""Statuses that make a run end with exit code 6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowKey:
    """What was asked for: rows of different runs are matched by it.

    `algorithm` is the requested one, "auto" included; `cache` says whether caches were warm or cold; `accuracy` is the
    tier that "auto" was limited to, None where an algorithm was asked for by name.
    """

    case: Case
    backend: str
    algorithm: str
    device: str
    cache: str = WARM
    threads: int = 1
    accuracy: float | None = None

    def label(self) -> str:
        """The row in words, for messages."""
        text = f"{self.case.label()} {self.backend}:{self.algorithm}"
        return text if self.cache == WARM else f"{text} {self.cache}"

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a file."""
        fields = asdict(self)
        fields["case"]["layout"] = self.case.layout_name
        return fields


@dataclass(frozen=True, kw_only=True)
class Row:
    """One key and what happened to it.

    Attributes:
        reason: why there is no time, or less than asked for; empty where all went well.
        resolved: the algorithm that ran, where planning got that far.
        plan_s: seconds that planning took; first_call_s those of the first run, apart from all samples.
        verification: fields of verify.Verification.
        rounds: raw samples by round.
        stop_reason: why measuring ended.
        phases: seconds of each phase of `work`, run by run, where they were asked for; apart from all samples.
        floor_s: seconds that the algorithm takes for the smallest problem that it does; None where not measured.
    """

    key: RowKey
    status: Status
    reason: str = ""
    resolved: str | None = None
    plan_s: float | None = None
    first_call_s: float | None = None
    workspace_bytes: int | None = None
    work: Work | None = None
    verification: dict[str, Any] | None = None
    rounds: tuple[Round, ...] = ()
    stop_reason: str | None = None
    phases: tuple[tuple[float, ...], ...] = ()
    floor_s: float | None = None

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Seconds per launch, one value per round."""
        return tuple(r.value_s for r in self.rounds)

    @property
    def time_s(self) -> float | None:
        """Median over rounds, in seconds; None without a round, and for a wrong or failed row."""
        timed = self.values and self.status in {Status.OK, Status.PARTIAL}
        return median(self.values) if timed else None

    @property
    def interval_s(self) -> tuple[float, float] | None:
        """95 % interval of the median, around the median of each process; None below six rounds."""
        return pooled_interval(self._by_process) if self.time_s is not None else None

    @cached_property
    def _by_process(self) -> list[list[float]]:
        """Values of the rounds of each worker process."""
        found: dict[int, list[float]] = {}
        for measured, value in zip(self.rounds, self.values, strict=True):
            found.setdefault(measured.process, []).append(value)
        return list(found.values())

    @property
    def phases_s(self) -> tuple[float, ...] | None:
        """Median seconds of each phase of `work`; None where they were not measured."""
        return tuple(map(median, zip(*self.phases, strict=True))) if self.phases else None

    @property
    def effective_flop_per_s(self) -> float | None:
        """Nominal flops per second: compares algorithms, may exceed the peak."""
        return nominal_flops(self.key.case.problem) / self.time_s if self.time_s else None

    @property
    def executed_flop_per_s(self) -> float | None:
        """Executed flops per second: stands under the roof."""
        return self.work.executed_flops / self.time_s if self.time_s and self.work else None

    @property
    def disturbed_rounds(self) -> int:
        """Rounds in which a witness spoke against every sample, so that they count all the same."""
        return sum(r.disturbed for r in self.rounds)

    @property
    def samples(self) -> tuple[int, int]:
        """How many samples a witness spoke against, and how many there are."""
        return sum(len(r.flagged) for r in self.rounds), sum(len(r.columns.wall_s) for r in self.rounds)

    @property
    def witnesses(self) -> Counter[str]:
        """How many samples each witness spoke against."""
        flags = (flag for r in self.rounds for names in r.columns.flags.values() for flag in names)
        return Counter(flag for flag in flags if flag not in REMARKS)

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """Why the time should not be taken at its word; none for a row without one."""
        if self.time_s is None:
            return ()
        found = {
            Remark.FEW_ROUNDS: self.interval_s is None,
            Remark.DISTURBED: 2 * self.disturbed_rounds >= len(self.rounds),
            Remark.DRIFT: any(map(drifted, self._by_process)),
        }
        return tuple(remark for remark, holds in found.items() if holds)


@dataclass(frozen=True, slots=True)
class Run:
    """A journal, folded. `note` says what was forgiven while reading it."""

    header: dict[str, Any]
    rows: tuple[Row, ...]
    canaries: tuple[dict[str, float], ...] = ()
    note: str = ""
    end: int = field(default=0, compare=False)
    """Bytes of the file up to the last whole line: where a resumed run goes on."""
    next_row: int = field(default=0, compare=False)
    """The first row index that no line uses."""
