"""The checks of cudafft's kernels see mistakes: they fail for each barrier left out and each index off by one."""

import re
from dataclasses import dataclass

import numpy as np
from cudafft_arrays import upper
from cudafft_check import Buffer, Launcher, assert_close, check_forward, check_fused, check_inverse, unset
from simt import ORDERS, CpuModule, SimtError, needs_compiler, run_apart

from convbench.backends.cudafft import kernels

pytestmark = needs_compiler

KEYWORDS = {"return", "else", "case"}
"""What stands before an expression though it looks like a type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One mistake. `inserted` are texts by position in the source that make it if the variable `mutant` says so."""

    kind: str
    line: int
    text: str
    inserted: tuple[tuple[int, str], ...]

    def __str__(self):
        return f"{self.kind} of line {self.line}: {self.text}"


def code_of(source):
    """The source with blanks for its comments and preprocessor lines."""
    blank = re.compile(r"//[^\n]*|/\*.*?\*/|^[ \t]*#[^\n]*", re.DOTALL | re.MULTILINE)
    return blank.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), source)


def mutants_of(source):
    """Every barrier, every subscript that is no declaration, and every sum of a pointer."""
    code = code_of(source)
    places = [
        *(("barrier", *found.span()) for found in re.finditer(r"__sync(threads|warp)\w*\s*\([^;]*\)\s*;", code)),
        *(("index", *span) for span in subscripts(code)),
        *(("pointer", *span) for span in sums_of_pointers(code)),
    ]
    mutants = []
    for number, (kind, begin, end) in enumerate(sorted(places, key=lambda place: place[1]), 1):
        shift = f"(mutant == {number}) - (mutant == -{number})"
        inserted = {
            "barrier": [(begin, f"if (met[{number}] = true, mutant != {number}) ")],
            "index": [(begin, "("), (end, f") + {shift}")],
            "pointer": [(end, f"{shift} + ")],
        }[kind]
        line = source.count("\n", 0, begin) + 1
        text = source.split("\n")[line - 1].strip()
        mutants.append(Mutant(kind=kind, line=line, text=text, inserted=tuple(inserted)))
    return mutants


def subscripts(code):
    """Where the indices between [ and ] begin and end."""
    opened, declared = [], set()
    for i, character in enumerate(code):
        if character == "[":
            opened.append(i)
        elif character == "]":
            begin = opened.pop()
            if declares(code, begin, declared):
                declared.add(begin)
            elif code[begin + 1 : i].strip():
                yield begin + 1, i


def declares(code, bracket, declared):
    """Whether the bracket is of a declaration: a type is before the name, or another array of the same statement."""
    before, *after = re.search(r"(?:(\w+)|(\S))\s*(\w+)\s*$", code[:bracket]).groups()
    if before:
        return before not in KEYWORDS
    statement = max(code.rfind(mark, 0, bracket) for mark in ";{}")
    return after[0] == "," and any(statement < other < bracket for other in declared)


def sums_of_pointers(code):
    """Where a pointer or an array stands before a plus: the span up to what is added."""
    names = set(re.findall(r"\w\*\s*(?:(?:const|__restrict__)\s+)*(\w+)", code))
    names |= set(re.findall(r"\w\s+(\w+)\s*\[", code)) - KEYWORDS
    for found in re.finditer(r"(?<![\w.>])(\w+)\s*\+\s*(?![+=])", code):
        if found[1] in names:
            yield found.span()


def with_mutants(source, mutants):
    """All of them in one source, which is compiled once.

    Kernel `choose` says which is there, an index off by 1 or, for a negative number, by -1; `ask` tells which barriers
    were met since.
    """
    inserted = sorted((place for mutant in mutants for place in mutant.inserted), key=lambda place: place[0])
    ends = [position for position, _ in inserted] + [len(source)]
    parts = [source[: ends[0]], *(text + source[a:b] for (a, text), b in zip(inserted, ends[1:], strict=True))]
    code = "".join(parts).replace("__forceinline__ constexpr", "__forceinline__")  # a variable is no constant
    count = len(mutants) + 1
    return f"""int mutant; bool met[{count}]; {code}
extern "C" __global__ void choose(int number) {{ mutant = number; for (bool& one : met) one = false; }}
extern "C" __global__ void ask(int* out) {{ for (int i = 0; i < {count}; ++i) out[i] = met[i]; }}
"""


TRANSFORMS = {name: t for name in ("8x8", "16", "8x8x8", "16x16") for t in kernels.TRANSFORMS if t.name == name}
"""The smallest of each number of axes, and one whose constants are more than those of 8 points."""


def check_transform(launcher):
    """Each kernel, with more planes than a block has and every kind of plane."""
    transform, rng = launcher.transform, np.random.default_rng(0)
    others = (1,) * (transform.ndim - 1)
    many = {"tiles": (*others, 2), "phases": (2, *others), "groups": 2}
    images = transform.planes_per_block // 4 + 1
    check_forward(launcher, rng, images=images, channels=2, **many)
    check_inverse(launcher, rng, True, False, images=images, channels=2, **many)
    check_inverse(launcher, rng, False, True, images=1)
    one = {"tiles": many["tiles"], "groups": 2, "images": 2 * images}
    check_fused(launcher, rng, True, True, False, **one)
    check_fused(launcher, rng, False, False, True, **one)


def check_products(module, order):
    """Each kernel, with more results than a block has threads."""
    rng = np.random.default_rng(0)
    matrices, rows, channels, filters = 5, 70, 3, 2

    def made(*shape):
        return Buffer((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64))

    x, w, y = made(matrices, rows, channels), made(matrices, filters, channels), made(matrices, rows, filters)
    a, b, c = (buffer.array.astype(np.complex128) for buffer in (x, w, y))
    for name, first, second, expected in (
        ("fprop", x, w, a @ b.conj().swapaxes(1, 2)),
        ("dgrad", y, w, c @ b),
        ("wgrad", y, x, c.conj().swapaxes(1, 2) @ a),
    ):
        out = unset(expected.shape, np.complex64)
        grid = kernels.product_grid(name, matrices, rows, channels, filters)
        counts = (np.int32(count) for count in (matrices, rows, channels, filters))
        args = (first.array, second.array, out.array, *counts, np.float32(0.5), np.int32(0))
        module.get_function(name)(grid, kernels.PRODUCT_THREADS, args, order=order)
        assert_close(out.checked(), 0.5 * expected)


def check_split(module, order):
    """With more numbers than a grid has threads, of both signs."""
    rng = np.random.default_rng(0)
    count = 300
    values = (rng.standard_normal(count) + 1j * rng.standard_normal(count)).astype(np.complex64)
    high, low = Buffer(values), unset(count, np.complex64)
    module.get_function("split")(2, kernels.PRODUCT_THREADS, (high.array, low.array, np.int64(count)), order=order)
    np.testing.assert_array_equal(high.checked(), upper(values))
    np.testing.assert_array_equal(low.checked(), values - upper(values))


def judge(name, numbers):
    """Prints, for each of these mutants, what saw it, or nothing, and whether it was met."""
    transform = TRANSFORMS.get(name)
    source = kernels.source() if transform else kernels.product_source()
    options = kernels.options(transform) if transform else kernels.product_options()
    mutants = mutants_of(source)
    module = CpuModule(with_mutants(source, mutants), options, watch=True)
    for number in numbers:
        module.get_function("choose")(1, 1, (np.int32(number),))
        seen = ""
        for order in ORDERS:
            try:
                if transform:
                    check_transform(Launcher(module, transform, order))
                else:
                    check_products(module, order)
                    check_split(module, order)
            except (SimtError, AssertionError) as error:
                seen = f"{type(error).__name__} {order} {error}".split("\n")[0]
                break
        met = np.zeros(len(mutants) + 1, np.int32)
        module.get_function("ask")(1, 1, (met,))
        print(number, met[abs(number)], seen, sep="\t", flush=True)


def verdicts(name, numbers):
    """Number: (what saw it, whether it was met), by `judge` in a process of its own, which a mutant may bring down."""
    found, left = {}, list(numbers)
    while left:
        ran = run_apart(f"import test_cudafft_mutations as t\nt.judge({name!r}, {left})")
        for line in ran.stdout.splitlines():
            number, met, seen = line.split("\t")
            found[int(number)] = (seen, met == "1")
        rest = [number for number in left if number not in found]
        if ran.returncode == 0:
            assert not rest
        else:
            assert ran.returncode < 0, ran.stderr
            found[rest.pop(0)] = ("the end of the process", True)
        left = rest
    return found


def unseen(name, mutants, numbers):
    """The numbers that nothing saw. Every barrier that is met has to be missed; number 0 is no mistake."""
    barriers = {number for number, mutant in enumerate(mutants, 1) if mutant.kind == "barrier"}
    found = verdicts(name, [0, *sorted(barriers.union(numbers))])
    assert found.pop(0)[0] == ""
    for number in barriers:
        seen, met = found[number]
        assert seen or not met, f"{name}: nobody misses the {mutants[number - 1]}"
    return {number for number in numbers if not found[number][0]}


def numbers_of(mutants):
    return {sign * n for n, m in enumerate(mutants, 1) for sign in ((1,) if m.kind == "barrier" else (1, -1))}


EQUIVALENT = {
    # The table of twiddles moves as a whole, by one number into the padding behind the bins.
    ("pointer", -1, "float2* const twiddles = bins + KEPT * STRIDE_FIRST;"),
}
"""Mistakes that are none: kind, shift and line."""


def told(mutants, numbers):
    chosen = [(1 if number > 0 else -1, mutants[abs(number) - 1]) for number in sorted(numbers, key=abs)]
    return [(mutant.kind, shift, mutant.text) for shift, mutant in chosen]


def test_every_mistake_in_the_transforms_is_seen():
    mutants = mutants_of(kernels.source())
    left = numbers_of(mutants)
    assert len(left) > 150
    for name in TRANSFORMS:
        left = unseen(name, mutants, left)
    assert set(told(mutants, left)) == EQUIVALENT


def test_every_mistake_in_the_products_is_seen():
    mutants = mutants_of(kernels.product_source())
    assert told(mutants, unseen("products", mutants, numbers_of(mutants))) == []


def test_where_mistakes_can_be_made():
    source = """
constexpr int N = 2;  // of v[N]
struct Held { int first[3], second[N]; };
#pragma unroll
__device__ float both(const float* __restrict__ in, Held held, int i) {
  __shared__ float s[N], t[4];
  extern __shared__ float2 d[];
#pragma unroll 1
  s[i] = in[held.first[i + 1]];
  float* out = s + i;
  __syncthreads();
  if (i) return s[1]; else t[1] = i + N;
  __syncwarp(0xffu);
  return *(out + i);
}
"""
    found = [
        (mutant.kind, source[mutant.inserted[0][0] :].split(";")[0].split("]")[0]) for mutant in mutants_of(source)
    ]
    assert found == [
        ("index", "i"),
        ("index", "held.first[i + 1"),
        ("index", "i + 1"),
        ("pointer", "i"),
        ("barrier", "__syncthreads()"),
        ("index", "1"),
        ("index", "1"),
        ("barrier", "__syncwarp(0xffu)"),
        ("pointer", "i)"),
    ]
    text = with_mutants(source, mutants_of(source)).replace(" - (mutant == -", "~")
    assert "s[(i) + (mutant == 1)~1)] = in[(held.first[(i + 1) + (mutant == 3)~3)]) + (mutant == 2)~2)];" in text
    assert "float* out = s + (mutant == 4)~4) + i;" in text
    assert "  if (met[5] = true, mutant != 5) __syncthreads();" in text
