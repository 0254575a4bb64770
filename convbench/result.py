"""What came of a run: rows, what was asked for in each, and the run that holds them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from convbench.backends import REMARKS, device_index
from convbench.stats import drifted, median, pooled_interval
from convbench.work import Work, nominal_flops

if TYPE_CHECKING:
    from collections.abc import Mapping

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

METERED_S = 1.0
"""Seconds of metered rounds from which a row has joules: NVML's energy is assumed to move on every 0.1 s, as readings
of power do (A100, H100; Yang, Adamek, Armour, arXiv 2312.02741), so that its ends are off by a tenth at most."""
BUSY_SHARE = 0.8
"""Share of those seconds that samples make up at least, or most of the energy may be that of what lies between them."""


def row_name(backend: str, algorithm: str, device: str) -> str:
    """An algorithm on a device, in one word: the device is named unless it is the only or the first one of its kind."""
    name = f"{backend}:{algorithm}"
    return f"{name}@{device}" if device_index(device) else name


@dataclass(frozen=True, slots=True, kw_only=True)
class RowKey:
    """What was asked for: rows of different runs are matched by it.

    `algorithm` is the requested one, "auto" included; `cache` says whether caches were warm or cold; `accuracy` is the
    tier that "auto" was limited to, None where an algorithm was asked for by name; `workspace_limit_bytes` the scratch
    memory that plans might ask for, None without a limit.
    """

    case: Case
    backend: str
    algorithm: str
    device: str
    cache: str = WARM
    threads: int = 1
    accuracy: float | None = None
    workspace_limit_bytes: int | None = None

    @property
    def name(self) -> str:
        """What runs the case: "backend:algorithm", or "backend:algorithm@cuda:1"."""
        return row_name(self.backend, self.algorithm, self.device)

    def label(self) -> str:
        """The row in words, for messages."""
        text = f"{self.case.label()} {self.name}"
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
        plan_s: seconds that planning took; build_s the part of them in which a library built or compiled its plan, None
            where it does not say; first_call_s those of the first run, apart from all samples.
        notes: what the plan says of itself, such as the notes of a library's engine.
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
    build_s: float | None = None
    notes: tuple[str, ...] = ()

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

    def meter(self, name: str) -> float | None:
        """Median over rounds of what a meter read; None where none did."""
        read = [r.meters[name] for r in self.rounds if name in r.meters]
        return median(read) if read else None

    @property
    def energy_j(self) -> float | None:
        """Joules of a run: its time at the mean power of the rounds, what lies between their samples included.

        None where no meter read them, for less than METERED_S, or where samples are not most of that time.
        """
        metered = [r for r in self.rounds if {"energy_j", "window_s"} <= r.meters.keys()]
        window_s = sum(r.meters["window_s"] for r in metered)
        if self.time_s is None or window_s < METERED_S or sum(r.spent_s for r in metered) < BUSY_SHARE * window_s:
            return None
        return self.time_s * sum(r.meters["energy_j"] for r in metered) / window_s

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
    """A journal, folded; canaries by device. `note` says what was forgiven while reading it."""

    header: dict[str, Any]
    rows: tuple[Row, ...]
    canaries: Mapping[str, tuple[dict[str, float], ...]] = field(default_factory=dict)
    note: str = ""
    end: int = field(default=0, compare=False)
    """Bytes of the file up to the last whole line: where a resumed run goes on."""
    next_row: int = field(default=0, compare=False)
    """The first row index that no line uses."""
