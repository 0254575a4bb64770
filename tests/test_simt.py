"""The SIMT emulator: what CUDA defines it does, what CUDA leaves undefined it finds."""

import re

import numpy as np
import pytest
import simt
from simt import ORDERS, CpuModule, SimtError, needs_compiler

pytestmark = needs_compiler

SOURCE = r"""
#define MADE(name, value) extern "C" __global__ void name(int* out) { out[threadIdx.x] = value; }
MADE(seven, 7)
MADE(from_options, FROM_OPTIONS)

extern "C" __global__ void __launch_bounds__(WIDE * (1 + 1), 2) indices(int* out, int width) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    out[(blockIdx.z * gridDim.y * blockDim.y + y) * width + x] += 1 + x + 100 * y + 10000 * blockIdx.z;
}

struct Pair { long long first; int second[2]; };
__constant__ float TABLE[2] = {0.5f, 2.f};
extern "C" __global__ void arguments(double* out, const float* null, float f, double d, int i, unsigned u, long long l,
                                     Pair p, bool b) {
    const double all[] = {null ? 1. : 0., f, d, double(i), double(u), double(l), double(p.first), double(p.second[1]),
                          double(b), TABLE[1]};
    out[threadIdx.x] = all[threadIdx.x];
}

extern "C" __global__ void vectors(float4* out) {
    const float2 a = make_float2(1.f, 2.f);
    const int3 b = make_int3(3, 4, 5);
    out[threadIdx.x] = make_float4(a.x, a.y, b.z, sizeof(float3) + alignof(float4));
}

extern "C" __global__ void numbers(float* out) {
    float s, c;
    sincospif(0.25f, &s, &c);
    const float all[] = {s, c, fmaf(2, 3, 4), sqrt(9.f), max(1, 2), fminf(1, 2), rsqrtf(4), __int_as_float(0x3f800000),
                         float(__brev(1u) >> 31), float(__popc(7)), float(__clz(1)), float(__umulhi(1u << 31, 6)),
                         fabsf(-1)};
    out[threadIdx.x] = all[threadIdx.x];
}

template <int N> __device__ int turned(int i) {
    __shared__ int held[N];
    held[i] = i;
    __syncthreads();
    return held[N - 1 - i];
}
extern "C" __global__ void shared(int* out) {
    extern __shared__ __align__(16) int2 moved[];
    __shared__ int first[64], second;
    const int i = threadIdx.x;
    moved[i] = make_int2(i, -i);
    first[i] = turned<64>(i);
    if (i == 0) second = 5;
    __syncthreads();
    out[i] = moved[63 - i].x + 1000 * first[i] + 1000000 * second;
}
extern "C" __global__ void unset(float* out) {
    extern __shared__ float dynamic[];
    __shared__ float fixed[32];
    const int i = threadIdx.x;
    out[64 * blockIdx.x + i] = fixed[i];
    out[64 * blockIdx.x + 32 + i] = dynamic[i];
    fixed[i] = dynamic[i] = 1;
}

extern "C" __global__ void sums(float* values) {
    float v = values[threadIdx.x];
    for (int lanes = 16; lanes; lanes /= 2) v += __shfl_xor_sync(0xffffffffu, v, lanes);
    values[threadIdx.x] = v;
}
extern "C" __global__ void shuffles(int* out, int amount, int width, int* sizes) {
    const int i = threadIdx.x;
    out[i] = __shfl_sync(~0u, i, amount, width);
    out[32 + i] = __shfl_up_sync(~0u, i, amount, width);
    out[64 + i] = __shfl_down_sync(~0u, i, amount, width);
    out[96 + i] = __shfl_xor_sync(~0u, i, amount, width);
    sizes[i] = __shfl_sync(~0u, 1ll << 40, 0) >> 38;
    sizes[32 + i] = (int)__shfl_sync(~0u, 0.5 + i, 7);
}
extern "C" __global__ void halves(int* out) {  // two groups of a warp, each in its own sequence
    const int i = threadIdx.x;
    if (i < 16) out[i] = __shfl_xor_sync(0x0000ffffu, i, 1) + __shfl_xor_sync(0x0000ffffu, i, 2);
    else { __syncwarp(0xffff0000u); out[i] = __any_sync(0xffff0000u, i == 20); }
}
extern "C" __global__ void votes(int* out) {
    const int i = threadIdx.x;
    const unsigned full = 0xffffffffu;
    out[i] = __ballot_sync(full, i % 3 == 0);
    out[64 + i] = __any_sync(full, i == 40) + 2 * __all_sync(full, i < 48) + 4 * __all_sync(full, i < 32);
    out[128 + i] = __syncthreads_or(i == 3) + 2 * __syncthreads_and(i != 3);
    out[192 + i] = __syncthreads_count(i < 10);
}
extern "C" __global__ void ended(int* out) {  // those that are gone keep nobody waiting
    const int i = threadIdx.x;
    if (i >= 40) return;
    __syncthreads();
    out[i] = __ballot_sync(~0u, 1);
    __syncthreads();
}
extern "C" __global__ void atomics(int* counts, float* sum, unsigned* bits, unsigned long long* last) {
    atomicAdd(&counts[0], 1); atomicSub(counts + 1, 1);
    atomicMax(counts + 2, threadIdx.x); atomicMin(counts + 3, -int(threadIdx.x));
    atomicAdd(sum, 0.5f);
    atomicOr(bits, 1u << threadIdx.x % 32); atomicXor(bits + 1, 1u); atomicAnd(bits + 2, ~(1u << threadIdx.x % 32));
    atomicCAS(last, 5ull, 6ull); atomicExch(last + 1, 9ull);
}
"""


@pytest.fixture(scope="module")
def module():
    return CpuModule(SOURCE, ("-DFROM_OPTIONS=3", "-DWIDE=32", "--use_fast_math", "-arch=sm_90"))


def ints(count):
    return np.zeros(count, np.int32)


def out_of(module, name, count, *more, block=32, **launch):
    out = ints(count)
    module.get_function(name)((1,), (block,), (out, *more), **launch)
    return out.tolist()


def test_kernels_that_macros_write(module):
    assert out_of(module, "seven", 32) == [7] * 32
    assert out_of(module, "from_options", 32) == [3] * 32


@pytest.mark.parametrize("order", ORDERS)
def test_every_thread_of_every_block_runs_once(module, order):
    out = np.zeros((3, 4 * 2, 2 * 8), np.int32)
    module.get_function("indices")((2, 4, 3), (8, 2), (out, np.int32(16)), order=order, seed=5)
    z, y, x = np.indices(out.shape)
    assert (out == 1 + x + 100 * y + 10000 * z).all()


def test_arguments_of_all_kinds(module):
    pair = np.array((2**40, (0, 9)), np.dtype([("first", "i8"), ("second", "i4", 2)]))[()]
    out = np.zeros(12)
    view = out[1:]  # the address of the first element is what counts
    numbers = np.float32(0.5), np.float64(0.25), np.int32(-3), np.uint32(2**31), np.int64(-(2**40)), pair, np.bool_(1)
    module.get_function("arguments")(1, 10, (view, 0, *numbers))
    assert out.tolist() == [0, 0, 0.5, 0.25, -3, 2**31, -(2**40), 2**40, 9, 1, 2, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "indices has 2 parameters, 0 are given"),
        ((ints(16), 16), "argument 1 is of type int: give a NumPy scalar"),
        ((ints(16), np.int64(16)), "argument 1 is a int64, the parameter has 4 bytes of kind 'i'"),
        ((ints(16), np.float32(16)), "argument 1 is a float32, the parameter has 4 bytes of kind 'i'"),
        ((7, np.int32(16)), "argument 0 is a pointer: give an array, or 0 for none"),
        ((ints(16).view(np.int8)[1:], np.int32(16)), "argument 0 is at an address that is no multiple of 4"),
    ],
)
def test_arguments_that_do_not_fit(module, arguments, message):
    with pytest.raises(SimtError, match=re.escape(message)):
        module.get_function("indices")(1, 1, arguments)


@pytest.mark.parametrize(
    ("grid", "block", "shared_mem", "message"),
    [
        (1, 65, 0, "more threads than __launch_bounds__ allows"),
        (1, (32, 64), 0, "a block has 1 to 1024 threads"),
        (1, (1, 1, 65), 0, "at most 64 along z"),
        (0, 32, 0, "a grid has at least 1 block"),
        ((1, 65536), 32, 0, "more than 65535 blocks along y or z"),
        (1, 32, 232449, "at most 232448 bytes"),
    ],
)
def test_launches_that_a_gpu_refuses(module, grid, block, shared_mem, message):
    with pytest.raises(SimtError, match=f"indices: invalid launch: .*{message}"):
        module.get_function("indices")(grid, block, (ints(99), np.int32(1)), shared_mem=shared_mem)


def test_a_kernel_that_is_not_there(module):
    with pytest.raises(SimtError, match='no kernel extern "C" __global__ nothing'):
        module.get_function("nothing")


def test_a_source_that_does_not_compile(tmp_path):
    with pytest.raises(SimtError, match=r"kernels.cu:2:.*missing"):
        CpuModule('extern "C" __global__ void k() {\n    missing(); }', folder=tmp_path)
    assert not [*tmp_path.glob("*.so")]


def test_vectors_and_numbers(module):
    out = np.zeros((3, 4), np.float32)
    module.get_function("vectors")(1, 3, (out,))
    assert out.tolist() == [[1, 2, 5, 28]] * 3
    out = np.zeros(13, np.float32)
    module.get_function("numbers")(1, 13, (out,))
    half = 0.5**0.5
    assert out == pytest.approx([half, half, 10, 3, 2, 1, 0.5, 1, 1, 3, 31, 3, 1])


@pytest.mark.parametrize("order", ORDERS)
def test_shared_memory(module, order):
    found = out_of(module, "shared", 64, block=64, shared_mem=512, order=order)
    assert found == [63 - i + 1000 * (63 - i) + 5000000 for i in range(64)]


def test_shared_memory_is_nan_before_each_block(module):
    out = np.zeros(3 * 64, np.float32)
    module.get_function("unset")(3, 32, (out,), shared_mem=128)
    assert np.isnan(out).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("width", [32, 8, 1])
@pytest.mark.parametrize("amount", [0, 1, 5, 16])
def test_shuffles(module, amount, width, order):
    out, sizes = ints(128), ints(64)
    module.get_function("shuffles")(1, 32, (out, np.int32(amount), np.int32(width), sizes), order=order)
    for i in range(32):
        first = i // width * width
        last = first + width - 1
        wanted = [first + amount % width, i - amount, i + amount, i ^ amount]
        reached = [True, wanted[1] >= first, wanted[2] <= last, wanted[3] <= last]
        assert out[i::32].tolist() == [lane if there else i for lane, there in zip(wanted, reached, strict=True)]
    assert sizes.tolist() == [4] * 32 + [7] * 32


@pytest.mark.parametrize("order", ORDERS)
def test_a_sum_over_a_warp(module, order):
    values = np.arange(64, dtype=np.float32)
    module.get_function("sums")(1, 64, (values,), order=order)
    assert values.tolist() == [496] * 32 + [1520] * 32


@pytest.mark.parametrize("order", ORDERS)
def test_groups_of_a_warp_are_free_of_each_other(module, order):
    found = out_of(module, "halves", 32, order=order)
    assert found == [(i ^ 1) + (i ^ 2) for i in range(16)] + [1] * 16


@pytest.mark.parametrize("order", ORDERS)
def test_votes(module, order):
    found = np.array(out_of(module, "votes", 256, block=64, order=order)).reshape(4, 64)
    ballots = [sum(1 << i % 32 for i in range(first, first + 32) if i % 3 == 0) for first in (0, 32)]
    assert (found[0] & 0xFFFFFFFF).tolist() == [ballot for ballot in ballots for _ in range(32)]
    assert found[1].tolist() == [6] * 32 + [1] * 32
    assert found[2].tolist() == [1] * 64
    assert found[3].tolist() == [10] * 64


@pytest.mark.parametrize("order", ORDERS)
def test_threads_that_have_ended_keep_nobody_waiting(module, order):
    assert out_of(module, "ended", 64, block=64, order=order) == [-1] * 32 + [255] * 8 + [0] * 24


@pytest.mark.parametrize("order", ORDERS)
def test_atomics(module, order):
    counts, total, bits, last = (
        ints(4),
        np.zeros(1, np.float32),
        np.array([0, 1, -1], np.int32).view("u4"),
        np.array([5, 0], "u8"),
    )
    module.get_function("atomics")(3, 64, (counts, total, bits, last), order=order)
    assert counts.tolist() == [192, -192, 63, -63]
    assert total == 96
    assert bits.tolist() == [2**32 - 1, 1, 0]
    assert last.tolist() == [6, 9]


def test_random_orders_differ_by_seed_and_repeat():
    module = CpuModule(
        'extern "C" __global__ void turns(int* n, int* out) { out[atomicAdd(n, 1)] = blockIdx.x * 64 + threadIdx.x; }'
    )

    def turns_of(order, seed=0):
        out = ints(256)
        module.get_function("turns")(4, 64, (ints(1), out), order=order, seed=seed)
        return out.tolist()

    assert turns_of("asc") == [*range(256)]
    assert turns_of("desc") == [*range(255, -1, -1)]
    assert sorted(turns_of("random")) == [*range(256)]
    assert turns_of("random", 1) == turns_of("random", 1)
    assert turns_of("random", 1) != turns_of("random", 2)


MISUSE = r"""
#define FULL 0xffffffffu
#define KERNEL(name) extern "C" __global__ void name(float* x)
#define I threadIdx.x
KERNEL(divergent_barrier) {
    if (I < 40) __syncthreads(); else x[I] = __shfl_xor_sync(FULL, x[I], 1);
}
KERNEL(two_barriers) {
    if (I < 16)
        __syncthreads();
    else
        __syncthreads();
}
KERNEL(two_barriers_of_one_line) { if (I < 16) __syncthreads(); else __syncthreads(); }
template <int N> __device__ void meet() { __syncthreads(); }
KERNEL(barrier_of_two_templates) { if (I < 16) meet<1>(); else meet<2>(); }
KERNEL(barrier_and_vote) { if (I < 16) __syncthreads(); else __syncthreads_or(1); }
KERNEL(warp_waits_for_barrier) { if (I < 16) __syncthreads(); else __syncwarp(); }
KERNEL(not_in_its_mask) { x[I] = __shfl_xor_sync(0x0000ffffu, x[I], 1); }
KERNEL(reads_outside_the_mask) { if (I < 16) x[I] = __shfl_sync(0x0000ffffu, x[I], 20); }
KERNEL(reads_an_ended_lane) { if (I == 3) return; x[I] = __shfl_sync(FULL, x[I], 3); }
KERNEL(different_collectives) { if (I & 1) x[I] = __any_sync(FULL, 1); else x[I] = __all_sync(FULL, 1); }
KERNEL(different_masks) { if (I < 8) __syncwarp(0x0000ffffu); else if (I < 16) __syncwarp(0x00ffffffu); }
KERNEL(one_way_mask) { if (I < 8) __syncwarp(0x0000ffffu); }
KERNEL(odd_width) { x[I] = __shfl_sync(FULL, x[I], 0, 12); }
KERNEL(negative_lane) { x[I] = __shfl_xor_sync(FULL, x[I], -1, 1); }
KERNEL(trap) { if (I == 5) __trap(); }
KERNEL(far_away) { x[(1ll << 44) + I] = 0; }
KERNEL(by_zero) { x[I] = 100 / (int(I) - 7); }
__device__ float deep(float* x, int n) {
    volatile float held[1000];
    held[n % 1000] = x[0];
    return n ? deep(x, n - 1) + held[n % 1000] : 0;
}
KERNEL(too_deep) { if (I == 9) x[I] = deep(x, 66); }
KERNEL(endless) { while (*(volatile float*)x) {} }
KERNEL(fine) { x[I] = I; }
"""


@pytest.fixture(scope="module")
def misuse():
    return CpuModule(MISUSE)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("divergent_barrier", r"deadlock, no thread can run; .* at __syncthreads.* of line 6.* in __shfl_xor_sync of"),
        ("two_barriers", r"at the barrier of line 1[02] while others of its block wait at that of line 1[02]"),
        ("two_barriers_of_one_line", r"at the barrier of line 14 while others of its block wait at that of line 14"),
        ("barrier_of_two_templates", r"at the barrier of line 15 while"),
        ("barrier_and_vote", r"at the barrier of line 17 while"),
        ("warp_waits_for_barrier", r"deadlock, .*: 0000ffff at __syncthreads.* of line 18; warp 0: ffff0000 in __sync"),
        ("not_in_its_mask", r"__shfl_xor_sync: lane (16|31) is not in its own mask 0000ffff"),
        ("reads_outside_the_mask", r"__shfl_sync of mask 0000ffff reads lane 20, which is not in the mask"),
        ("reads_an_ended_lane", r"__shfl_sync of mask ffffffff reads lane 3, which has ended"),
        ("different_collectives", r"in __a.._sync of mask f{8}, while lane \d+ waits for it in __a.._sync"),
        ("different_masks", r"in __syncwarp of mask 00(00|ff)ffff, while lane \d+ waits for it in __syncw"),
        ("odd_width", r"__shfl_sync: a width of 12, not a power of two"),
        ("negative_lane", r"__shfl_xor_sync reads lane -"),
        ("trap", r"thread \(5, 0, 0\): __trap\(\)"),
        ("far_away", r"a segmentation fault$"),
        ("by_zero", r"thread \(7, 0, 0\): an integer division by zero"),
        ("endless", r"thread .*: has not ended after 0.1 s$"),
        ("too_deep", r"thread \(9, 0, 0\): its stack overflows$"),
    ],
)  # fmt: skip
def test_misuse_is_an_error(misuse, name, message, order):
    x = np.ones(64, np.float32)
    with pytest.raises(SimtError, match=f"^{name}: block .*{message}"):
        misuse.get_function(name)(1, 64, (x,), order=order, limit_s=0.1)
    misuse.get_function("fine")(1, 64, (x,), order=order)  # nothing is left of it
    assert x.tolist() == [*range(64)]


RACES = r"""
#define I threadIdx.x
#ifdef WITHOUT
#undef __syncthreads
#define __syncthreads()
#define __syncwarp(mask)
#endif
extern "C" __global__ void write_then_read(float* x) {
    __shared__ float s[64]; s[I] = x[I]; __syncthreads(); x[I] = s[63 - I];
}
extern "C" __global__ void read_then_write(float* x) {
    __shared__ float s[64]; s[I] = I; if (I == 0) s[63] = 7;
    float v = x[63 - I]; __syncthreads(); x[I] = v;
}
extern "C" __global__ void within_a_warp(float* x) {
    __shared__ float s[64]; s[I] = x[I]; __syncwarp(~0u); x[I] = s[I ^ 1];
}
"""


@pytest.mark.parametrize("name", ["write_then_read", "read_then_write", "within_a_warp"])
def test_a_missing_barrier_shows_in_some_order(name):
    def results(*options):
        found = set()
        for order in ORDERS:
            x = np.arange(64, dtype=np.float32)
            CpuModule(RACES, options).get_function(name)(1, 64, (x,), order=order)
            found.add(x.tobytes())
        return found

    assert len(results()) == 1
    assert results("-DWITHOUT") - results()


WATCHED = r"""
#define KERNEL(name) extern "C" __global__ void name(float* x, const float* y)
#define I threadIdx.x
#define SHARED __shared__ volatile float s[64]; s[I] = I  /* volatile: each store stays */
KERNEL(no_barrier) { SHARED; x[I] = s[63 - I]; }
KERNEL(barrier) { SHARED; __syncthreads(); x[I] = s[63 - I]; __syncthreads(); s[63 - I] = 1; }
KERNEL(load_then_store) { SHARED; __syncthreads(); const float other = s[I ^ 33]; s[I] = other; }
KERNEL(warp) { SHARED; __syncwarp(); x[I] = s[I ^ 1]; __syncwarp(); s[I ^ 2] = 1; }
KERNEL(other_warp) { SHARED; __syncwarp(); x[I] = s[I ^ 33]; }
KERNEL(by_two_steps) {  // 0 with 1, then 1 with 2: 2 comes after 0
    SHARED;
    if (I < 2) __syncwarp(3);
    if (I == 1 || I == 2) __syncwarp(6);
    if (I == 2) s[0] = 1;
}
KERNEL(wrong_step) {
    SHARED;
    if (I == 1 || I == 2) __syncwarp(6);
    if (I < 2) __syncwarp(3);
    if (I == 2) s[0] = 1;
}
KERNEL(shuffle) { SHARED; __shfl_xor_sync(~0u, 1, 1); x[I] = s[I ^ 1]; }
KERNEL(third_reader) { SHARED; __syncthreads(); const float all = s[0]; if (I == 40) s[0] = all; }
KERNEL(one_store) { x[0] = 1; }
KERNEL(blocks) { x[I] = blockIdx.x; }
KERNEL(blocks_apart) { x[blockIdx.x * 32 + I] = y[(blockIdx.x * 32 + I) ^ 63]; }
KERNEL(dynamic_of_a_block) {
    extern __shared__ float d[];
    d[I] = I; __syncthreads(); x[blockIdx.x * 32 + I] = d[31 - I];
}
KERNEL(atomics) { atomicAdd(x, 1); }
KERNEL(behind) { ((float2*)x)[I + 1].y = 3; }
KERNEL(before) { x[I] = y[int(I) - 1]; }
KERNEL(behind_shared) { extern __shared__ float d[]; d[I + 1] = 1; }
KERNEL(null) { x[I] = y[I]; }
__constant__ float TABLE[2] = {1, 2};
KERNEL(own) { float v[3] = {1, y[I], 3}; x[I] = v[I % 3] + TABLE[I % 2]; }
"""
BEHIND = "bytes outside of all arrays: .* bytes behind the end of"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "grid", "block", "message"),
    [
        (
            "no_barrier",
            1,
            64,
            r"a race: a (load|store) at byte .* of shared memory, and a (load|store) there by thread",
        ),
        ("barrier", 1, 64, ""),
        ("load_then_store", 1, 64, "a race: a .* at byte .* of shared memory"),
        ("warp", 1, 64, ""),
        ("other_warp", 1, 64, "a race: a .* at byte .* of shared memory"),
        ("by_two_steps", 1, 32, ""),
        (
            "wrong_step",
            1,
            32,
            "a race: a store at byte .* of shared memory, and a store there by thread [02] of its block",
        ),
        ("shuffle", 1, 64, "a race: a .* at byte .* of shared memory"),
        ("third_reader", 1, 64, "a race: a .* at byte .* of shared memory"),
        ("one_store", 1, 2, "a race: a store at byte 0 of argument 0, and a store there by thread . of its block"),
        ("blocks", 2, 1, "a race: a store at byte 0 of argument 0, and a store there by thread 0 of block ."),
        ("blocks_apart", 2, 32, ""),
        ("dynamic_of_a_block", 2, 32, ""),
        ("atomics", 2, 64, ""),
        ("behind", 1, 32, f"a store of 4 {BEHIND} argument 0"),
        ("before", 1, 1, "a load of 4 bytes outside of all arrays: 4 bytes before argument 1"),
        ("behind_shared", 1, 32, f"a store of 4 {BEHIND} shared memory"),
        ("null", 1, 1, "a load of 4 bytes at a null pointer"),
        ("own", 1, 64, ""),
    ],
)
def test_loads_and_stores_are_watched(name, grid, block, message, order):
    kernel = CpuModule(WATCHED, watch=True).get_function(name)
    x, y = np.zeros(66, np.float32), np.zeros(65, np.float32)
    args = x[1:65] if name != "behind" else x[:64], 0 if name == "null" else y[1:]
    if not message:
        kernel(grid, block, args, shared_mem=128, order=order)
        return
    with pytest.raises(SimtError, match=message) as raised:
        kernel(grid, block, args, shared_mem=128, order=order)
    line = int(re.search(r"line (\d+):", str(raised.value))[1])
    assert re.findall(r"KERNEL\((\w+)\)", "\n".join(WATCHED.split("\n")[:line]))[-1] == name


OUTSIDE = r"""
extern "C" __global__ void global(float* x) { x[blockIdx.x * 32 + threadIdx.x] = 1; }
extern "C" __global__ void dynamic(float* x) { extern __shared__ float s[]; s[threadIdx.x] = 1; }
__device__ __noinline__ void store(float* where, int i) { where[i] = 1; }
extern "C" __global__ void fixed(float* x) { __shared__ float s[32]; store(s, threadIdx.x); }
extern "C" __global__ void indexed(float* x) { __shared__ float s[32]; s[threadIdx.x] = 1; }
extern "C" __global__ void overflow(float* x) { int big = 2147483647; x[0] = big + int(threadIdx.x); }
extern "C" __global__ void stuck(float* x) { if (threadIdx.x) __syncwarp(); else __syncthreads(); }
"""


@pytest.mark.parametrize(
    ("name", "good", "bad", "message"),
    [
        ("global", "(3, 32)", "(4, 32)", "heap-buffer-overflow .*kernels.cu:2"),
        ("dynamic", "(1, 32)", "(1, 33)", "heap-buffer-overflow .*kernels.cu:3"),
        ("fixed", "(1, 32)", "(1, 33)", "global-buffer-overflow .*kernels.cu:4"),
        ("indexed", "(1, 32)", "(1, 33)", r"kernels.cu:6.* index 32 out of bounds for type 'float \[32\]'"),
        ("overflow", "(1, 1)", "(1, 2)", "kernels.cu:7.* signed integer overflow"),
    ],
)
def test_the_sanitizers_catch_what_is_out_of_bounds(name, good, bad, message):
    ran = simt.run_sanitized(f"""
import contextlib
import numpy as np
import test_simt as t
module = t.CpuModule(t.OUTSIDE, sanitize=True)
x = np.zeros(96, np.float32)
for order in t.ORDERS:
    with contextlib.suppress(t.SimtError):
        module.get_function("stuck")(1, 32, (x,), order=order)
    module.get_function({name!r})(*{good}, (x,), shared_mem=128, order=order)
print("in bounds", flush=True)
module.get_function({name!r})(*{bad}, (x,), shared_mem=128)
""")
    assert ran.stdout == "in bounds\n", ran.stderr
    assert re.search(message, ran.stderr, re.DOTALL)
    assert ran.returncode


def test_without_the_switch_in_assembler():
    module = CpuModule(SOURCE, ("-DFROM_OPTIONS=3", "-DWIDE=32"), flags=("-O1", "-DSIMT_UCONTEXT"))
    assert out_of(module, "shared", 64, block=64, shared_mem=512)[0] == 63 + 63000 + 5000000
    with pytest.raises(SimtError, match="deadlock"):
        CpuModule(MISUSE, flags=("-O1", "-DSIMT_UCONTEXT")).get_function("warp_waits_for_barrier")(1, 64, (ints(1),))


def test_libraries_are_kept_for_their_owner(tmp_path, monkeypatch):
    folder = tmp_path / "new"
    source = 'extern "C" __global__ void one(int* x) { *x = N; }'
    built = []
    compile_ = simt._compile
    monkeypatch.setattr(simt, "_compile", lambda *given: built.append(given) or compile_(*given))
    for options, times in (("-DN=1",), 3), (("-DN=1",), 0), (("-DN=2",), 2):
        x = ints(1)
        CpuModule(source, options, folder=folder).get_function("one")(1, 1, (x,))
        assert x[0] == int(options[0][-1])
        assert len(built) == times
        built.clear()
    assert folder.stat().st_mode & 0o777 == 0o700
    simt._forget(folder)
    assert len([*folder.glob("*.so")]) == 2
    monkeypatch.setattr(simt, "KEPT_S", -1)
    simt._forget(folder)
    assert not [*folder.iterdir()]


def test_libraries_are_not_loaded_from_where_others_write(cache):
    assert simt._folder() == cache / "simt"
    (cache / "simt").chmod(0o777)
    elsewhere = simt._folder()
    assert elsewhere != cache / "simt"
    assert elsewhere.parent.stat().st_mode & 0o777 == 0o700
