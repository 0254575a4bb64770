// What stands before a CUDA source when g++ compiles it for the CPU (simt.py), so that its kernels run without a GPU.
//
// Each thread of a block is a fiber that runs until it waits for others, at a barrier or in a collective of its warp;
// simt.cpp says who is next. Blocks run one after another.
// Known: indices, static and dynamic shared memory, __syncthreads and its variants, __syncwarp, shuffles, votes,
// atomics, vector types, the usual math. Not known: half precision, cooperative groups, asynchronous copies, tensor
// cores, PTX. A product and a sum are rounded one by one, which a GPU may fuse.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <utility>

#define __host__
#define __device__
#define __global__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// In a section of its own, so that all of it can be filled with NaN before each block. `extern __shared__` never gets
// here: simt.py makes a reference to dynamic() of it.
#define __shared__ static __attribute__((section("simt_shared")))

// What simt_watch.hpp shall not see.
#define SIMT_UNWATCHED __attribute__((noinline, no_sanitize("thread")))

#define SIMT_VECTORS(T, name, alignment2, alignment4) \
    struct __align__(alignment2) name##2 { T x, y; }; \
    struct name##3 { T x, y, z; }; \
    struct __align__(alignment4) name##4 { T x, y, z, w; }; \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTORS(char, char, 2, 4)
SIMT_VECTORS(unsigned char, uchar, 2, 4)
SIMT_VECTORS(short, short, 4, 8)
SIMT_VECTORS(unsigned short, ushort, 4, 8)
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(unsigned, uint, 8, 16)
SIMT_VECTORS(long long, longlong, 16, 16)
SIMT_VECTORS(unsigned long long, ulonglong, 16, 16)
SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(double, double, 16, 16)
#undef SIMT_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// ---- what simt.cpp does ----

#pragma GCC visibility push(hidden)
namespace simt {

constexpr int WARP = 32;

extern uint3 thread, block;        // of the fiber that runs
extern dim3 block_size, grid_size; // of the launch
extern int lane;                   // of the fiber that runs, in its warp

struct Site { int number, line; const char* function; }; // of a barrier; `number` tells two on one line apart
enum Reduce { OR, AND, COUNT };

char* dynamic();                                                        // the dynamic shared memory
int barrier(Site site, int predicate = 0, Reduce reduce = OR);
uint64_t ballot(const char* name, unsigned mask, int predicate);        // one bit for each lane that takes part
uint64_t exchange(const char* name, unsigned mask, uint64_t value, int source, int width); // the value of lane `source`
void before_atomic();                                                   // another thread may come first
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

struct Array { const char* start; uint64_t bytes, argument; }; // one of the arguments

struct Launch { // simt.py has the same
    void (*run)(void**); // one thread of the kernel, on the arguments; filled in here, as most_threads is
    void** arguments;
    const Array* arrays;
    char* stacks;        // of simt_stacks(), one for the process
    char* error;         // room for a message, empty where all went well
    uint64_t error_bytes, shared_bytes, seed; // shared: dynamic
    double limit_s;      // of the processor's time: a kernel that takes longer spins
    unsigned grid[3], block[3];
    int array_count;
    int order;           // 0 ascending, 1 descending, 2 random
    int most_threads;    // of __launch_bounds__
};
void launch(const Launch&);

template <class T> T shuffle(const char* name, unsigned mask, T value, int source, int width) {
    static_assert(std::is_arithmetic<T>::value, "a shuffle moves a number");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = exchange(name, mask, bits, source, width);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

// What a parameter is: a pointer (its size is then the alignment that the address must have), an integer, signed or
// not, a floating-point number or a struct.
template <class T> constexpr char kind() {
    if (std::is_pointer<T>::value) return '*';
    if (std::is_floating_point<T>::value) return 'f';
    if (std::is_class<T>::value) return 's';
    return std::is_signed<T>::value ? 'i' : 'u';
}
template <class T> constexpr size_t size() {
    typedef std::remove_pointer_t<T> Target;
    if constexpr (!std::is_pointer<T>::value) return sizeof(T);
    else if constexpr (std::is_void<Target>::value) return 1;
    else return alignof(Target);
}

template <class F> struct Kernel;
template <class... A> struct Kernel<void (*)(A...)> {
    static constexpr char kinds[] = {kind<A>()..., '\0'};
    static constexpr size_t sizes[] = {size<A>()..., 0};
    template <void (*F)(A...), size_t... I>
    SIMT_UNWATCHED static void call(void** arguments, std::index_sequence<I...>) {
        F(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
    }
    template <void (*F)(A...)> static void run(void** arguments) {
        call<F>(arguments, std::index_sequence_for<A...>());
    }
};
constexpr int most_threads(int threads = 1024, ...) { return threads; }

}  // namespace simt
#pragma GCC visibility pop

#ifndef SIMT_RUNTIME // simt.cpp includes headers of C, which have functions of the names that follow

// simt.py puts one of these for each kernel behind the source.
#define SIMT_KERNEL(name, ...) \
    extern "C" __attribute__((visibility("default"))) const char* simt_kinds_##name() { \
        return simt::Kernel<decltype(&name)>::kinds; \
    } \
    extern "C" __attribute__((visibility("default"))) const size_t* simt_sizes_##name() { \
        return simt::Kernel<decltype(&name)>::sizes; \
    } \
    extern "C" __attribute__((visibility("default"))) void simt_launch_##name(simt::Launch* simt_launch) { \
        simt_launch->run = &simt::Kernel<decltype(&name)>::run<&name>; \
        simt_launch->most_threads = simt::most_threads(__VA_ARGS__); \
        simt::launch(*simt_launch); \
    }

// ---- what CUDA has ----

#define threadIdx (simt::thread)
#define blockIdx (simt::block)
#define blockDim (simt::block_size)
#define gridDim (simt::grid_size)
#define warpSize 32

#define SIMT_HERE (simt::Site{__COUNTER__, __LINE__, __PRETTY_FUNCTION__})
#define __syncthreads() ((void)simt::barrier(SIMT_HERE))
#define __syncthreads_or(predicate) simt::barrier(SIMT_HERE, predicate, simt::OR)
#define __syncthreads_and(predicate) simt::barrier(SIMT_HERE, predicate, simt::AND)
#define __syncthreads_count(predicate) simt::barrier(SIMT_HERE, predicate, simt::COUNT)

inline void __syncwarp(unsigned mask = ~0u) { simt::ballot("__syncwarp", mask, 0); }
inline unsigned __ballot_sync(unsigned mask, int predicate) { return simt::ballot("__ballot_sync", mask, predicate); }
inline int __any_sync(unsigned mask, int predicate) { return simt::ballot("__any_sync", mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return simt::ballot("__all_sync", mask, !predicate) == 0; }

// Lanes of other segments of `width` lanes are out of reach: what they hold is left alone, a lane keeps its own value.
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int first = simt::lane & ~(width - 1);
    return simt::shuffle("__shfl_sync", mask, value, first | (source & (width - 1)), width);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    const int source = simt::lane ^ lanes, end = (simt::lane | (width - 1)) + 1;
    return simt::shuffle("__shfl_xor_sync", mask, value, source < end ? source : simt::lane, width);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    const int source = simt::lane - static_cast<int>(lanes), first = simt::lane & ~(width - 1);
    return simt::shuffle("__shfl_up_sync", mask, value, source >= first ? source : simt::lane, width);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    const int source = simt::lane + static_cast<int>(lanes), end = (simt::lane | (width - 1)) + 1;
    return simt::shuffle("__shfl_down_sync", mask, value, source < end ? source : simt::lane, width);
}

#define SIMT_ATOMIC(name, after) \
    template <class T, class V> SIMT_UNWATCHED T name(T* where, V given) { \
        simt::before_atomic(); \
        const T old = *where, value = static_cast<T>(given); \
        *where = static_cast<T>(after); \
        return old; \
    }
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicMax, old < value ? value : old)
SIMT_ATOMIC(atomicMin, value < old ? value : old)
SIMT_ATOMIC(atomicExch, value)
SIMT_ATOMIC(atomicAnd, old & value)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicXor, old ^ value)
#undef SIMT_ATOMIC
template <class T, class V> SIMT_UNWATCHED T atomicCAS(T* where, V expected, V wanted) {
    simt::before_atomic();
    const T old = *where;
    if (old == static_cast<T>(expected)) *where = static_cast<T>(wanted);
    return old;
}

inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() { simt::fail("__trap()"); }
template <class T> T __ldg(const T* where) { return *where; }
template <class T> T __ldcs(const T* where) { return *where; }
template <class T> T __ldcg(const T* where) { return *where; }
template <class T> T __ldca(const T* where) { return *where; }
template <class T> void __stcs(T* where, T value) { *where = value; }
template <class T> void __stcg(T* where, T value) { *where = value; }
template <class T> void __stwt(T* where, T value) { *where = value; }

#define SIMT_MATH1(name) \
    inline float name##f(float a) { return __builtin_##name##f(a); } \
    inline float name(float a) { return __builtin_##name##f(a); } \
    inline double name(double a) { return __builtin_##name(a); }
#define SIMT_MATH2(name) \
    inline float name##f(float a, float b) { return __builtin_##name##f(a, b); } \
    inline float name(float a, float b) { return __builtin_##name##f(a, b); } \
    inline double name(double a, double b) { return __builtin_##name(a, b); }
SIMT_MATH1(sqrt) SIMT_MATH1(sin) SIMT_MATH1(cos) SIMT_MATH1(tan) SIMT_MATH1(exp) SIMT_MATH1(exp2)
SIMT_MATH1(log) SIMT_MATH1(log2) SIMT_MATH1(tanh) SIMT_MATH1(fabs) SIMT_MATH1(floor) SIMT_MATH1(ceil)
SIMT_MATH1(round) SIMT_MATH1(rint) SIMT_MATH1(trunc)
SIMT_MATH2(fmax) SIMT_MATH2(fmin) SIMT_MATH2(fmod) SIMT_MATH2(pow) SIMT_MATH2(copysign)
#undef SIMT_MATH1
#undef SIMT_MATH2
inline float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float a) { return 1 / __builtin_sqrtf(a); }
inline double rsqrt(double a) { return 1 / __builtin_sqrt(a); }
inline void sincos(double a, double* s, double* c) { *s = __builtin_sin(a); *c = __builtin_cos(a); }
inline void sincosf(float a, float* s, float* c) { *s = __builtin_sinf(a); *c = __builtin_cosf(a); }
inline double sinpi(double a) { return __builtin_sin(3.14159265358979323846 * a); }
inline double cospi(double a) { return __builtin_cos(3.14159265358979323846 * a); }
inline float sinpif(float a) { return static_cast<float>(sinpi(a)); }
inline float cospif(float a) { return static_cast<float>(cospi(a)); }
inline void sincospi(double a, double* s, double* c) { *s = sinpi(a); *c = cospi(a); }
inline void sincospif(float a, float* s, float* c) { *s = sinpif(a); *c = cospif(a); }

inline int abs(int a) { return a < 0 ? -a : a; }
inline float abs(float a) { return __builtin_fabsf(a); }
inline double abs(double a) { return __builtin_fabs(a); }
template <class A, class B> constexpr auto max(A a, B b) -> decltype(a + b) { return a < b ? b : a; }
template <class A, class B> constexpr auto min(A a, B b) -> decltype(a + b) { return b < a ? b : a; }
inline bool isnan(float a) { return a != a; }
inline bool isinf(float a) { return __builtin_isinf(a); }

inline int __float_as_int(float a) { int b; memcpy(&b, &a, 4); return b; }
inline float __int_as_float(int a) { float b; memcpy(&b, &a, 4); return b; }
inline unsigned __float_as_uint(float a) { unsigned b; memcpy(&b, &a, 4); return b; }
inline float __uint_as_float(unsigned a) { float b; memcpy(&b, &a, 4); return b; }
inline int __float2int_rn(float a) { return static_cast<int>(__builtin_rintf(a)); }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a ? __builtin_clz(a) : 32; }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }
inline unsigned __brev(unsigned a) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= (a >> bit & 1) << (31 - bit);
    return reversed;
}

#endif
