"""Units, in and out: the only place that formats or parses a quantity.

Inside convbench every value is SI (seconds, bytes, flop, flop/s); k, M, G are powers of 10³, Ki, Mi, Gi of 2¹⁰.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from convbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
MOST_BYTES = 1 << 60
"""Of a size: an exbibyte, more than any memory, and well within what a file of results can hold."""
_SIZES = {"": 1, "B": 1} | {
    f"{prefix}{i}B": (1024 if i else 1000) ** power for power, prefix in enumerate("kMGT", start=1) for i in ("", "i")
}
_SIZES["KiB"] = _SIZES["kiB"]
_SIZES["KB"] = _SIZES["kB"]
_DURATIONS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-zµ%]*)\s*")


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent: 0.0123, 1.23, 123, 12340."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value: 9.996 is 10.0
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def _rounded(value: float, digits: int) -> float:
    """`value` to `digits` significant digits: what decides its prefix, so that 999.9996 MB is 1.00 GB."""
    return float(f"{value:.{digits - 1}e}")


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """`value` with an SI prefix; 1e9 with unit "B/s" is "1.00 GB/s"."""
    scale, prefix = next(((s, p) for s, p in _SI if abs(_rounded(value, digits)) >= s), _SI[-1])
    return f"{significant(value / scale, digits)} {prefix}{unit}"


def time_unit(seconds: float) -> tuple[float, str]:
    """The scale (seconds) and name of the unit that suits a time."""
    return next(((s, u) for s, u in _TIME if abs(seconds) >= s), _TIME[-1] if seconds else _TIME[0])


def format_time(seconds: float, digits: int = 3) -> str:
    """A time with its unit; 0.00123 is "1.23 ms"."""
    scale, unit = time_unit(_rounded(seconds, digits))
    return f"{significant(seconds / scale, digits)} {unit}"


def format_bytes(count: float) -> str:
    """A capacity in binary units; 2³⁰ is "1.00 GiB"."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(count) >= 1024**power:
            return f"{significant(count / 1024**power)} {unit}"
    return f"{count:.0f} B"


def _parse(text: str, units: Mapping[str, float], what: str, example: str, *, zero: bool = False) -> float:
    match = _QUANTITY.fullmatch(text)
    if not match or match[2] not in units:
        allowed = ", ".join(u for u in units if u)
        raise InputError(f"{text!r} is not a {what}; write a number and one of {allowed}, such as {example}")
    value = float(match[1]) * units[match[2]]
    if not math.isfinite(value) or value < 0 or not (value or zero):
        raise InputError(f"{what} must be a number {'of at least' if zero else 'above'} 0, got {text!r}")
    return value


def parse_bytes(text: str) -> int:
    """Bytes of "8GiB", "500MB" or "1024".

    Raises:
        InputError: not a positive size.
    """
    return max(1, round(_parse(text, _SIZES, "size", "8GiB")))


def parse_limit(text: str) -> int:
    """Bytes of "256MiB" or "0".

    Raises:
        InputError: not a size, or one that no memory has.
    """
    size = round(_parse(text, _SIZES, "size", "256MiB", zero=True))
    if size > MOST_BYTES:
        raise InputError(f"{text!r} is too much; allowed are sizes of up to 1048576TiB")
    return size


def parse_duration(text: str) -> float:
    """Seconds of "2s", "500ms" or "1.5".

    Raises:
        InputError: not a positive duration.
    """
    return _parse(text, _DURATIONS, "duration", "2s")


def parse_fraction(text: str) -> float:
    """The fraction of "1%" or "0.01".

    Raises:
        InputError: not a fraction above 0 and below 1.
    """
    value = _parse(text, {"%": 0.01, "": 1.0}, "fraction", "1%")
    if value >= 1:
        raise InputError(f"fraction must be below 100%, got {text!r}")
    return value


def counted(count: int, one: str, many: str = "") -> str:
    """How many there are of something: "1 row", "2 rows"."""
    return f"{count} {one if count == 1 else many or one + 's'}"
