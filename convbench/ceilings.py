"""Ceilings: what a device can do at most. Rules: docs/method.md, "Ceilings"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convbench.errors import InputError, shown
from convbench.machine import is_number, known

if TYPE_CHECKING:
    from collections.abc import Mapping

CEILING_KINDS = ("datasheet", "predicted", "measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """One bound of a machine.

    Attributes:
        value: flop/s, B/s, or seconds for a latency.
        kind: "datasheet" as printed, "predicted" for a derated datasheet, "measured" on the machine itself.
        sigma: relative standard deviation of `value`; 0 where it is not known.
        minimum: smallest measured value; `maximum` the largest, `count` how many, `date` when (ISO 8601).

    Raises:
        InputError: a field breaks a rule.
    """

    value: float
    kind: str
    sigma: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    count: int | None = None
    date: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in CEILING_KINDS:
            raise InputError(f"kind of a ceiling must be one of {', '.join(CEILING_KINDS)}; got {self.kind!r}")
        if not is_number(self.value) or self.value <= 0:
            raise InputError(f"value of a ceiling must be a number above 0, got {self.value!r}")
        for name in ("minimum", "maximum", "count"):
            value = getattr(self, name)
            if value is not None and not is_number(value):
                raise InputError(f"{name} of a ceiling must be a number, got {shown(value)}")
        if not is_number(self.sigma) or self.sigma < 0:
            raise InputError(f"sigma of a ceiling must be a number of at least 0, got {self.sigma!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Bandwidth at one size of the working set.

    Attributes:
        mix: "read", "copy" or "add".
        size_bytes: of all arrays that are gone over, by all threads together.
        bytes_per_s: bytes read and written over time.
        sigma: relative standard deviation.
    """

    mix: str
    size_bytes: int
    bytes_per_s: float
    sigma: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.size_bytes, self.bytes_per_s)
        if not (isinstance(self.mix, str) and all(is_number(n) and n > 0 for n in numbers) and is_number(self.sigma)):
            raise InputError(f"a point of a curve must be a mix and numbers above 0, got {shown(self)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """All bounds of one device.

    Attributes:
        compute: peak by math mode ("fp32", "tf32", …), flop/s.
        bandwidth: by level ("dram", "l2", "l3"), B/s: that of the fastest mix, which no traffic should exceed.
        capacity_bytes: of the caches among those levels, as one run on `threads` threads sees them.
        launch: latency of one launch, seconds; None where it is not known, and then it counts as 0. Of a GPU that of a
            launch in a graph, as rows are timed.
        launch_stream: of a GPU the same on a stream, launched from Python; None where it is not known.
        is_gpu: a GPU's L2 holds less of a working set than a CPU's caches do.
        threads: CPU threads that these bounds hold for; None where that does not apply.
        mixes: bandwidth by level and mix of traffic ("read", "copy", "add"), B/s.
        curve: bandwidth over the size of the working set, as measured: what levels were told from.
        contended: why the machine was not quiet enough while they were measured; "" where it was.
        warnings: what is odd about them, a line each.
    """

    compute: Mapping[str, Ceiling]
    bandwidth: Mapping[str, Ceiling]
    capacity_bytes: Mapping[str, int] = field(default_factory=dict)
    launch: Ceiling | None = None
    launch_stream: Ceiling | None = None
    is_gpu: bool = False
    threads: int | None = None
    mixes: Mapping[str, Mapping[str, Ceiling]] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()
    contended: str = ""
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The ceilings, for a file; what is not known is left out."""
        return known(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Ceilings:
        """The ceilings written by `to_dict`.

        Raises:
            InputError: a field is missing, unknown or breaks a rule.
        """
        try:
            values = dict(fields)
            for name in ("compute", "bandwidth"):
                values[name] = {key: Ceiling(**ceiling) for key, ceiling in values[name].items()}
            for name in ("launch", "launch_stream"):
                values[name] = Ceiling(**values[name]) if values.get(name) else None
            values["mixes"] = {
                level: {mix: Ceiling(**ceiling) for mix, ceiling in mixes.items()}
                for level, mixes in values.get("mixes", {}).items()
            }
            values["curve"] = tuple(CurvePoint(**point) for point in values.get("curve", ()))
            values["warnings"] = tuple(map(str, values.get("warnings", ())))
            sizes, threads = dict(values.get("capacity_bytes", {})), values.get("threads")
            values["capacity_bytes"] = sizes
            if not all(map(is_number, sizes.values())) or not (threads is None or is_number(threads)):
                raise InputError("capacity_bytes and threads must be numbers")
            return cls(**values)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise InputError(f"not a set of ceilings: {error}") from None
