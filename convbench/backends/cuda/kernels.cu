// What shows a GPU's ceilings, holds it back, and fills its memory. No headers: NVRTC compiles this as it is.
// Parameters are pointers and long long. CHAINS and STEPS are given by probes.py.

// Independent chains of multiply-adds, kept in registers: CHAINS * STEPS of them in a pass of a thread.
template <typename T>
__device__ void chains(T* out, long long passes) {
  T x[CHAINS], a = T(-0.999) - T(1e-6) * T(threadIdx.x), b = T(1e-3) * T(blockIdx.x % 7 + 1);
#pragma unroll
  for (int c = 0; c < CHAINS; ++c) x[c] = T(c + 1);
  for (long long pass = 0; pass < passes; ++pass) {
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
#pragma unroll
      for (int c = 0; c < CHAINS; ++c) x[c] = x[c] * a + b;
    }
  }
  T sum = 0;
#pragma unroll
  for (int c = 0; c < CHAINS; ++c) sum += x[c];
  out[blockIdx.x * (long long)blockDim.x + threadIdx.x] = sum;
}

extern "C" __global__ void fma_fp32(float* out, long long passes) { chains<float>(out, passes); }
extern "C" __global__ void fma_fp64(double* out, long long passes) { chains<double>(out, passes); }

// Past L1, so that a working set is in L2 or in DRAM; volatile, so that each pass loads again.
__device__ float4 load(const float4* p) {
  float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(p));
  return v;
}

__device__ void store(float4* p, float4 v) {
  asm volatile("st.global.cg.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w));
}

__device__ float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// Goes over arrays of `each` float4 a thread: batches of four loads are under way at a time.
template <int ARRAYS>
__device__ void traffic(float4* x, float4* y, float4* z, long long each, long long passes) {
  const long long threads = (long long)gridDim.x * blockDim.x;
  const long long first = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  float4 sum = make_float4(0, 0, 0, 0);
  for (long long pass = 0; pass < passes; ++pass) {
    for (long long i = 0; i < each; i += 4) {
      float4 v[4], w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (i + j < each) {
          v[j] = load(x + (i + j) * threads + first);
          if (ARRAYS == 3) w[j] = load(y + (i + j) * threads + first);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (i + j < each) {
          if (ARRAYS == 1) sum = sum + v[j];
          if (ARRAYS == 2) store(y + (i + j) * threads + first, v[j]);
          if (ARRAYS == 3) store(z + (i + j) * threads + first, v[j] + w[j]);
        }
      }
    }
  }
  // Never true of what `fill` writes; the compiler cannot know, and keeps the loads.
  if (ARRAYS == 1 && sum.x + sum.y + sum.z + sum.w == 1e30f) x[first] = sum;
}

extern "C" __global__ void traffic_read(float4* x, float4* y, float4* z, long long each, long long passes) {
  traffic<1>(x, y, z, each, passes);
}
extern "C" __global__ void traffic_copy(float4* x, float4* y, float4* z, long long each, long long passes) {
  traffic<2>(x, y, z, each, passes);
}
extern "C" __global__ void traffic_add(float4* x, float4* y, float4* z, long long each, long long passes) {
  traffic<3>(x, y, z, each, passes);
}

extern "C" __global__ void empty() {}

// Holds the GPU for so many of its cycles, while the host queues what is to be timed.
extern "C" __global__ void spin(long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {
  }
}

// Random values from -1 to 1, a hash of their index; `type` is a cudaDataType: 0 fp32, 1 fp64, 2 fp16, 14 bf16.
extern "C" __global__ void fill(void* out, long long count, long long type) {
  const long long threads = (long long)gridDim.x * blockDim.x;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += threads) {
    unsigned h = (unsigned)i * 2654435761u + 12345u;
    h = (h ^ (h >> 16)) * 2246822519u;
    h = (h ^ (h >> 13)) * 3266489917u;
    const float value = (float)((h ^ (h >> 16)) >> 8) * (2.0f / 16777216.0f) - 1.0f;
    if (type == 0) ((float*)out)[i] = value;
    if (type == 1) ((double*)out)[i] = value;
    if (type == 14) ((unsigned short*)out)[i] = (unsigned short)(__float_as_uint(value) >> 16);
    if (type == 2) {
      unsigned short bits;
      asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
      ((unsigned short*)out)[i] = bits;
    }
  }
}
