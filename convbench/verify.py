"""Verification of a plan's result before it is timed: docs/method.md, "Verification".

Two checks against the float64 reference. The first covers every element at the cost of a fraction of the pass: the
output contracted with random signs along one axis must equal the pass on operands contracted first (Freivalds). The
second compares elements one by one: all of them in small problems, else whole planes of a few images and channels,
which hold every corner, edge and tile seam.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench import reference
from convbench.accuracy import STORAGE_ROUNDOFF, l2_share, relative_bound, tier_reason
from convbench.operands import Operands, grouped
from convbench.problem import Case, ConvPass
from convbench.work import nominal_macs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from convbench.backends import ErrorBound, Plan

SIGMAS = 6.0
"""z: how many standard deviations a contraction, a sum of many such errors, may lie off."""
DRAWS = 2
SMALL_MACS = 1 << 22
"""Problems of up to so many multiply-adds and outputs are compared element by element, whole."""
CONTRACTED_ELEMENTS = 1 << 20
"""Elements that a contraction converts to float64 at once."""
SAMPLES = 256
"""Least number of elements compared one by one in larger ones."""
LARGEST_GROWTH = 1000.0
"""Most that a plan may multiply its bound by.

An FFT of 2⁴⁰ points has 40 and Winograd's larger tiles reach hundreds. With 1000 an fp32 sum of 1000 products may be
off by about 1 % of its size already: beyond, no check could tell it from a wrong one.
"""
KEPT_BYTES = 16 << 20
"""Largest reference that is kept for the other plans of a case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The outcome.

    Attributes:
        passed: whether every check held.
        reason: what failed and where; empty if nothing did.
        max_error: largest error of a compared element, relative to the root mean square of the reference.
        rms_error: root mean square error of the compared elements, relative to the same.
        bound_share: largest error of any check as a share of what it is allowed; above 1 the check fails.
        accuracy: tier that the relative L2 error was held to; None where none was stated.
        compared: elements compared one by one.
        contracted_axis: "n", "k" or "c": the axis contracted for the check of every element.
        contracted_length: its length, m: an isolated error shows from about √m times an element's bound.
    """

    passed: bool
    reason: str = ""
    max_error: float | None = None
    rms_error: float | None = None
    bound_share: float | None = None
    accuracy: float | None = None
    compared: int = 0
    contracted_axis: str = ""
    contracted_length: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a file."""
        return asdict(self)


def verify(case: Case, plan: Plan, operands: Operands, seed: int, accuracy: float | None = None) -> Verification:
    """Runs `plan` (whose epilogue must be none) once on a poisoned output and checks what it wrote.

    `accuracy` is the tier that it is held to, the one that it states itself if left out.
    """
    plan.poison()
    plan.run()
    accuracy = getattr(plan, "accuracy", None) if accuracy is None else accuracy
    return check(case, plan.output(), operands, plan.error_bound, seed, accuracy)


def check(
    case: Case, output: NDArray[Any], operands: Operands, bound: ErrorBound, seed: int, accuracy: float | None = None
) -> Verification:
    """Checks `output`, canonical, against the reference for `operands`; its relative L2 error too, given a tier."""
    if output.shape != case.output_shape:
        return Verification(passed=False, reason=f"output has shape {output.shape}, expected {case.output_shape}")
    if reason := bound_reason(bound) or tier_reason(accuracy) or _not_finite(output):
        return Verification(passed=False, reason=reason)
    checker = Checker(case, output, operands, bound, seed)
    axis, length = checker.contraction
    contraction_share, contraction_reason = checker.contract()
    samples = checker.compare(accuracy)
    return Verification(
        passed=not (contraction_reason or samples.reason),
        reason=samples.reason or contraction_reason,
        max_error=samples.max_error,
        rms_error=samples.rms_error,
        bound_share=max(contraction_share, samples.share),
        accuracy=accuracy,
        compared=samples.count,
        contracted_axis=axis,
        contracted_length=length,
    )


def bound_reason(bound: ErrorBound) -> str | None:
    """Why a plan's statement about its own errors cannot be accepted."""
    if not 1.0 <= bound.growth <= LARGEST_GROWTH:
        return f"the plan's error_bound has growth {bound.growth:g}, allowed are 1 to {LARGEST_GROWTH:g}"
    if bound.transform_points < 0:
        return f"the plan's error_bound has transform_points {bound.transform_points}, allowed are 0 and more"
    return None


def _not_finite(output: NDArray[Any]) -> str | None:
    bad = sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in output)  # part by part: little memory
    if not bad:
        return None
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(output))[0])
    return f"{bad} of {output.size} elements are unwritten or not finite, the first at {where}"


def first_violation(
    error: NDArray[Any], allowed: NDArray[Any], what: str, place: Callable[[list[int]], list[int]] = list
) -> str | None:
    """The worst element that is not within its allowance, in words; NaN counts as beyond.

    `place` turns an index of `error` into the one to report.
    """
    broken = ~(np.abs(error) <= allowed)
    if not broken.any():
        return None
    worst = np.unravel_index(int(np.argmax(np.where(broken, np.abs(error), -1))), error.shape)
    count = int(np.count_nonzero(broken))
    return (
        f"{what} {tuple(place([int(i) for i in worst]))} is off by {abs(error[worst]):.3g}, "
        f"allowed {allowed[worst]:.3g} ({count} of {error.size} beyond)"
    )


@dataclass(frozen=True, slots=True)
class _Samples:
    reason: str
    share: float
    max_error: float | None
    rms_error: float | None
    count: int


class Checker:
    """Both checks of one output, on grouped views of it and its operands.

    Every pass is out(i, j) = Σ a(i, ·)·b(·, j), with i and j the two axes of images or channels that the output has:
    fprop a = x, b = w, i = n, j = k; dgrad a = dy, b = w, i = n, j = c; wgrad a = dy, b = x, i = k, j = c.
    """

    def __init__(self, case: Case, output: NDArray[Any], operands: Operands, bound: ErrorBound, seed: int) -> None:
        groups = case.problem.groups
        self.case, self.bound, self.rng = case, bound, np.random.default_rng([seed, 4])
        self.references = operands.references.setdefault((case.conv_pass, seed), {})
        self.axes = case.problem.axes
        conv_pass = case.conv_pass
        self.function: Callable[..., NDArray[np.float64]]
        if conv_pass is ConvPass.FPROP:
            self.names, self.function = ("n", "k"), reference.fprop
            self.norm_product = "ngc,gkc->ngk"
            self.a, self.b = grouped(operands.x, groups, 1), grouped(operands.w, groups, 0)
            self.axis_of_a, self.axis_of_b, self.axes_of_out = 0, 1, (0, 2)
        elif conv_pass is ConvPass.DGRAD:
            self.names, self.function = ("n", "c"), reference.dgrad
            self.norm_product = "ngk,gkc->ngc"
            self.a, self.b = grouped(operands.dy, groups, 1), grouped(operands.w, groups, 0)
            self.axis_of_a, self.axis_of_b, self.axes_of_out = 0, 2, (0, 2)
        else:
            self.names, self.function = ("k", "c"), reference.wgrad
            self.norm_product = "ngk,ngc->gkc"
            self.a, self.b = grouped(operands.dy, groups, 1), grouped(operands.x, groups, 1)
            self.axis_of_a, self.axis_of_b, self.axes_of_out = 2, 2, (1, 2)
        self.out = grouped(output, groups, 0 if conv_pass is ConvPass.WGRAD else 1)
        self.group_axes = {"a": 1, "b": 1 if conv_pass is ConvPass.WGRAD else 0,
                           "out": 0 if conv_pass is ConvPass.WGRAD else 1}  # fmt: skip

    @property
    def contraction(self) -> tuple[str, int]:
        """Name and length of the longer of the two axes."""
        lengths = [self.out.shape[axis] for axis in self.axes_of_out]
        return max(zip(self.names, lengths, strict=True), key=lambda pair: pair[1])

    def _reference(self, name: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """What `compute` gives, once for all plans of a case: it depends on operands, seed and name alone."""
        if name in self.references:
            return self.references[name]
        found = compute()
        if sum(array.nbytes for array in (found if isinstance(found, tuple) else (found,))) <= KEPT_BYTES:
            self.references[name] = found
        return found

    def _roots(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The root of the pass on squares of a and b, and Σ‖a‖²‖b‖² per plane."""
        root = np.sqrt(self.function(self.axes, a, b, 2))
        return root, np.einsum(self.norm_product, _squared_norms(a), _squared_norms(b))

    def _allowed(self, roots: tuple[NDArray[Any], NDArray[Any]], factor: float) -> NDArray[Any]:
        """Allowance per element from the root of the pass on squares of a and b (docs/method.md).

        A transform spreads the rounding errors of its whole plane evenly, so there the root is the largest of the
        plane. A plane of few outputs may by chance have small ones only: the norms of both operands, over the points
        that they are spread on, are then the better measure of the same.
        """
        root, norms = roots
        if self.bound.transform_points:
            spatial = tuple(range(3, root.ndim))
            # Errors are not spread less evenly than over a plane, whatever the plan says of its tiles.
            points = max(self.bound.transform_points, math.prod(self.case.problem.output_size))
            largest = root.max(axis=spatial, initial=0.0)
            root = np.maximum(largest, np.sqrt(norms / points)).reshape(*root.shape[:3], *[1] * len(spatial))
        return factor * relative_bound(self.case, self.bound) * root

    def allowed_in_plane(self, n: int, k: int) -> NDArray[Any]:
        """Allowance of fprop in one plane (1, output…)."""
        g, k = divmod(k, self.out.shape[2])
        allowed = self._allowed(self._roots(self.a[n : n + 1, g : g + 1], self.b[g : g + 1, k : k + 1]), 1.0)
        plane: NDArray[Any] = np.broadcast_to(allowed, (1, 1, 1, *self.case.problem.output_size))[0, 0]
        return plane

    def contract(self) -> tuple[float, str]:
        """The check of every element: (largest share of the allowance, reason or "")."""
        name, length = self.contraction
        first = name == self.names[0]
        signs = self.rng.choice([-1.0, 1.0], size=(DRAWS, length))
        axis, out_axis = (self.axis_of_a, self.axes_of_out[0]) if first else (self.axis_of_b, self.axes_of_out[1])
        operand = self.a if first else self.b

        def pair(contracted: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            return (contracted, self.b) if first else (self.a, contracted)

        expected = self._reference(
            ("contraction", axis), lambda: self.function(self.axes, *pair(_contract(operand, axis, signs)))
        )
        error = _contract(self.out, out_axis, signs)
        error -= expected
        del expected
        ones = np.ones((1, length))
        roots = self._reference(
            ("squares", axis), lambda: self._roots(*pair(np.sqrt(_contract(operand, axis, ones, power=2))))
        )
        allowed = self._allowed(roots, SIGMAS)
        del roots
        if storage := STORAGE_ROUNDOFF[self.case.dtype]:
            allowed = allowed + SIGMAS * storage * np.sqrt(_contract(self.out, out_axis, ones, power=2))
        allowed = np.broadcast_to(allowed, error.shape)
        reason = first_violation(error, allowed, f"the sum over {name} with random signs at")
        return _share(error, allowed), reason or ""

    def compare(self, accuracy: float | None) -> _Samples:
        """Elements one by one, and all of them together."""
        group, i, j = self._selection()
        where = tuple(map(tuple, (group, i, j)))

        def chosen_operands() -> tuple[NDArray[Any], NDArray[Any]]:
            a = _take(_take(self.a, self.group_axes["a"], group), self.axis_of_a, i)
            return a, _take(_take(self.b, self.group_axes["b"], group), self.axis_of_b, j)

        actual = _take(self.out, self.group_axes["out"], group)
        for axis, chosen in zip(self.axes_of_out, (i, j), strict=True):
            actual = _take(actual, axis, chosen)
        expected = self._reference(("elements", *where), lambda: self.function(self.axes, *chosen_operands()))
        allowed = self._allowed(self._reference(("roots", *where), lambda: self._roots(*chosen_operands())), 1.0)
        error = actual - expected
        if not error.size:
            return _Samples("", 0.0, None, None, 0)
        scale, typical, rms = _rms(expected), _rms(allowed) / relative_bound(self.case, self.bound), _rms(error)
        if storage := STORAGE_ROUNDOFF[self.case.dtype]:
            allowed = allowed + storage * np.abs(expected)
        allowed = np.broadcast_to(allowed, error.shape)

        def place(index: list[int]) -> list[int]:  # of the selection, grouped, to one of the output
            group_axis = self.group_axes["out"]
            for axis, chosen in zip((group_axis, *self.axes_of_out), (group, i, j), strict=True):
                index[axis] = chosen[index[axis]]
            g = index.pop(group_axis)
            index[group_axis] += g * self.out.shape[group_axis + 1]
            return index

        reason = first_violation(error, allowed, "element", place) or ""
        share = _share(error, allowed)
        if accuracy is not None:
            # A few results may all be small by chance; the root of their squared products hardly is.
            tier_share, beyond = l2_share(self.case, accuracy, rms, max(scale, typical))
            share, reason = max(share, tier_share), reason or beyond
        scale = scale or 1.0
        return _Samples(reason, share, float(np.max(np.abs(error))) / scale, rms / scale, error.size)

    def _selection(self) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Groups, and places along i and j, whose planes are compared: the ends and random ones in between."""
        extents = (self.case.problem.groups, *(self.out.shape[axis] for axis in self.axes_of_out))
        counts = selected_counts(self.case, extents)
        g, i, j = (self._places(extent, count) for extent, count in zip(extents, counts, strict=True))
        return g, i, j

    def _places(self, extent: int, count: int) -> list[int]:
        """The last place, and random ones before it."""
        if count >= extent:
            return list(range(extent))
        return sorted([*self.rng.choice(extent - 1, size=count - 1, replace=False).tolist(), extent - 1])


def selected_counts(case: Case, extents: Sequence[int]) -> list[int]:
    """How many groups, and places along i and j, are compared one by one, of the `extents` that there are."""
    outputs = math.prod(case.output_shape)
    if max(nominal_macs(case.problem), outputs) <= SMALL_MACS:
        return list(extents)
    counts = [min(extent, 2) for extent in extents]
    plane = outputs // max(1, math.prod(extents))
    while plane * math.prod(counts) < SAMPLES and counts != list(extents):
        smallest = min((n for n in range(3) if counts[n] < extents[n]), key=lambda n: counts[n])
        counts[smallest] += 1
    return counts


def _rms(array: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(array**2)))


def _contract(array: NDArray[Any], axis: int, signs: NDArray[np.float64], power: int = 1) -> NDArray[np.float64]:
    """Σ signs[d, m]·array[…m…]^power in float64, with d in the place of m: (…, draws, …)."""
    moved = np.moveaxis(array, axis, 0)
    total = np.zeros((len(signs), math.prod(moved.shape[1:])))
    count = max(1, CONTRACTED_ELEMENTS // max(1, total.shape[1]))
    for start in range(0, len(moved), count):
        chosen = moved[start : start + count]
        block = chosen.astype(np.float64, order="C").reshape(len(chosen), total.shape[1])
        if power == 2:
            block *= block
        total += signs[:, start : start + count] @ block
        del block  # before the next is made
    total = total.reshape(len(signs), *moved.shape[1:])
    return np.moveaxis(total, 0, axis)


def _squared_norms(array: NDArray[Any]) -> NDArray[np.float64]:
    """Σ over the spatial axes of the squares, in float64."""
    flat = array.reshape(*array.shape[:3], math.prod(array.shape[3:]))
    norms: NDArray[np.float64] = np.einsum("abci,abci->abc", flat, flat, dtype=np.float64)
    return norms


def _take(array: NDArray[Any], axis: int, places: Sequence[int]) -> NDArray[Any]:
    if len(places) == array.shape[axis]:
        return array
    return array[(slice(None),) * axis + (list(places),)]  # np.take would first copy all of a tensor that is not nchw


def _share(error: NDArray[Any], allowed: NDArray[Any]) -> float:
    """Largest |error| / allowed; where nothing is allowed, 0 if the error is 0 and infinity if not."""
    if not error.size:
        return 0.0
    size = np.abs(error)
    share = np.divide(size, allowed, out=np.where(size > 0, np.inf, 0.0), where=allowed > 0)
    del size
    return float(np.max(share))
