// Complex products of many small matrices, for few channels a group, where cuBLAS has little to do per matrix.
// No headers: NVRTC compiles this as it is; kernels.py gives THREADS. Matrices lie one after another: x (rows, channels),
// w (filters, channels), y (rows, filters); out = scale * product, added to what is there if `add`. Any grid will do:
// kernels.py says which is good.

__device__ __forceinline__ void store(float2* out, float2 sum, float scale, int add) {
  const float2 old = add ? *out : make_float2(0.0f, 0.0f);
  *out = make_float2(old.x + scale * sum.x, old.y + scale * sum.y);
}

// A thread per row of the result: a row of `first` times each column of `second`, of which element t lies at column * next
// + t * step. Where rows are few, a block takes several matrices.
template <bool CONJUGATE>
__device__ __forceinline__ void rows_times(const float2* first, const float2* second, float2* out, int matrices, int rows,
                                           int terms, int columns, int next, int step, float scale, int add) {
  int width = 1;
  while (width < rows && width < THREADS) width *= 2;
  const int each = THREADS / width;
  for (int matrix = blockIdx.x * each + threadIdx.x / width; matrix < matrices; matrix += gridDim.x * each) {
    const float2* const b = second + (long long)matrix * terms * columns;
    for (int row = blockIdx.y * width + threadIdx.x % width; row < rows; row += gridDim.y * width) {
      const long long at = (long long)matrix * rows + row;
      const float2* const a = first + at * terms;
      for (int column = 0; column < columns; ++column) {
        float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 4
        for (int t = 0; t < terms; ++t) {
          const float2 u = a[t], v = b[column * next + t * step];
          const float imaginary = CONJUGATE ? -v.y : v.y;
          sum.x += u.x * v.x - u.y * imaginary;
          sum.y += u.x * imaginary + u.y * v.x;
        }
        store(out + at * columns + column, sum, scale, add);
      }
    }
  }
}

// y = x wᴴ.
extern "C" __global__ void __launch_bounds__(THREADS)
    fprop(const float2* __restrict__ x, const float2* __restrict__ w, float2* __restrict__ y, int matrices, int rows,
          int channels, int filters, float scale, int add) {
  rows_times<true>(x, w, y, matrices, rows, channels, filters, channels, 1, scale, add);
}

// dx = dy w.
extern "C" __global__ void __launch_bounds__(THREADS)
    dgrad(const float2* __restrict__ y, const float2* __restrict__ w, float2* __restrict__ x, int matrices, int rows,
          int channels, int filters, float scale, int add) {
  rows_times<false>(y, w, x, matrices, rows, filters, channels, 1, channels, scale, add);
}

// dw = dyᴴ x. The rows are many and the results few, so a warp makes a result: lanes share the rows, and add up.
extern "C" __global__ void __launch_bounds__(THREADS)
    wgrad(const float2* __restrict__ y, const float2* __restrict__ x, float2* __restrict__ w, int matrices, int rows,
          int channels, int filters, float scale, int add) {
  constexpr int WARPS = THREADS / 32;
  const int lane = threadIdx.x % 32, results = filters * channels;
  for (int matrix = blockIdx.x * WARPS + threadIdx.x / 32; matrix < matrices; matrix += gridDim.x * WARPS) {
    for (int i = blockIdx.y; i < results; i += gridDim.y) {
      const float2* a = y + (long long)matrix * rows * filters + i / channels;
      const float2* b = x + (long long)matrix * rows * channels + i % channels;
      float2 sum = make_float2(0.0f, 0.0f);
      for (int row = lane; row < rows; row += 32) {
        const float2 u = a[(long long)row * filters], v = b[(long long)row * channels];
        sum.x += u.x * v.x + u.y * v.y;
        sum.y += u.x * v.y - u.y * v.x;
      }
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        sum.x += __shfl_xor_sync(0xffffffffu, sum.x, distance);
        sum.y += __shfl_xor_sync(0xffffffffu, sum.y, distance);
      }
      if (lane == 0) store(w + (long long)matrix * results + i, sum, scale, add);
    }
  }
}

// The upper 11 of the 24 significant bits of a number, rounded.
__device__ __forceinline__ float upper(float value) {
  return __uint_as_float(__float_as_uint(value) + 0x1000u & ~0x1fffu);
}

// Numbers as sums of two that tf32 holds: the upper bits stay where they are, the rest, which is exact, goes to `low`.
extern "C" __global__ void __launch_bounds__(THREADS)
    split(float2* __restrict__ numbers, float2* __restrict__ low, long long count) {
  for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < count; i += gridDim.x * (long long)THREADS) {
    const float2 value = numbers[i], high = make_float2(upper(value.x), upper(value.y));
    numbers[i] = high;
    low[i] = make_float2(value.x - high.x, value.y - high.y);
  }
}
