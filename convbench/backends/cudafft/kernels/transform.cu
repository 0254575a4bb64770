// Real Fourier transforms of planes and their inverses, and both around a product. No headers: NVRTC compiles this as it is.
// kernels.py gives the sizes as macros, and says what a Transform is; docs/cudafft.md explains the design.
//
// A block transforms PLANES consecutive planes of one group. A plane has FIRST rows of MIDDLE * LAST columns, the real
// points of 2 or 3 axes, or one axis of FIRST * LAST points, element LAST * row + column. What a thread transforms is in
// its registers: first the columns, real points of which KEPT bins suffice; then, through shared memory, lines of what
// the columns became, one along MIDDLE (if there is one) and one along LAST. The inverse goes the other way.

constexpr int HALF = FIRST / 2;
constexpr int KEPT = HALF + 1;
constexpr int COLUMNS = MIDDLE * LAST;
constexpr int LINES = KEPT * MIDDLE;
constexpr int BINS = LINES * LAST;
constexpr bool ONE_AXIS = AXES == 1;
constexpr bool HAS_MIDDLE = AXES == 3;
constexpr int ROW_STEP = ONE_AXIS ? LAST : 1;

// A tensor as a matrix of planes per group, see kernels.py.
struct Planes {
  long long group, image, channel;
  int planes, columns;
  int tiles[3], phases[3];
  int first[3];
  int pad_;
};

// ---- transforms in registers: every index is known when the loops are unrolled, or an array would be in memory ----

// cos(2 pi k / 64).
__device__ __forceinline__ constexpr float cosine(int k) {
  constexpr float quarter[17] = {1.0f,          0.99518472667f, 0.98078528040f, 0.95694033573f, 0.92387953251f, 0.88192126435f,
                                 0.83146961230f, 0.77301045336f, 0.70710678119f, 0.63439328416f, 0.55557023302f, 0.47139673683f,
                                 0.38268343237f, 0.29028467725f, 0.19509032202f, 0.09801714033f, 0.0f};
  k &= 63;
  return k <= 16 ? quarter[k] : k <= 32 ? -quarter[32 - k] : k <= 48 ? -quarter[k - 32] : quarter[64 - k];
}

__device__ __forceinline__ float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ __forceinline__ float2 operator-(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
__device__ __forceinline__ float2 operator*(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
__device__ __forceinline__ float2 conjugate_of(float2 a) { return make_float2(a.x, -a.y); }

// v times e^(SIGN 2 pi i k / N), for constants k; a quarter of a turn costs nothing.
template <int N, int SIGN>
__device__ __forceinline__ float2 turned(float2 v, int k) {
  if (k == 0) return v;
  if (4 * k == N) return make_float2(-SIGN * v.y, SIGN * v.x);
  return v * make_float2(cosine(64 / N * k), SIGN * cosine(64 / N * k - 16));
}

// Two at a time where N is 2 or 8, else four: 64 is 4 4 4, 32 is 4 2 4.
template <int N>
constexpr int RADIX = N == 2 || N == 8 ? 2 : 4;

// Where `fft` leaves bin k.
template <int N>
__device__ __forceinline__ constexpr int place_of(int k) {
  if constexpr (N == 1) return 0;
  else return k % RADIX<N> * (N / RADIX<N>) + place_of<N / RADIX<N>>(k / RADIX<N>);
}

// Bins sum_n v[n] e^(SIGN 2 pi i n k / N) in place, in the order of `place_of`; decimation in frequency.
template <int N, int SIGN>
__device__ __forceinline__ void fft(float2* v) {
  if constexpr (N > 1) {
    constexpr int radix = RADIX<N>, rest = N / radix;
#pragma unroll
    for (int n = 0; n < rest; ++n) {
      if constexpr (radix == 2) {
        const float2 a = v[n], b = v[n + rest];
        v[n] = a + b;
        v[n + rest] = turned<N, SIGN>(a - b, n);
      } else {
        const float2 a = v[n] + v[n + 2 * rest], b = v[n] - v[n + 2 * rest];
        const float2 c = v[n + rest] + v[n + 3 * rest], d = turned<4, SIGN>(v[n + rest] - v[n + 3 * rest], 1);
        v[n] = a + c;
        v[n + rest] = turned<N, SIGN>(b + d, n);
        v[n + 2 * rest] = turned<N, SIGN>(a - c, 2 * n);
        v[n + 3 * rest] = turned<N, SIGN>(b - d, 3 * n);
      }
    }
#pragma unroll
    for (int r = 0; r < radix; ++r) fft<rest, SIGN>(v + r * rest);
  }
}

// ---- where things lie ----

// A plane: its start in the tensor, its row in the table of each axis, and its channel among those of all groups.
struct Place {
  long long start;
  int table[AXES];
  int channel;
};

__device__ __forceinline__ constexpr int points_of(int axis) {
  return ONE_AXIS ? FIRST * LAST : axis == 0 ? FIRST : axis == AXES - 1 ? LAST : MIDDLE;
}

// Places of the block's planes, found once since it takes divisions; returns how many planes there are.
__device__ __forceinline__ int find_places(Place* places, const Planes* where) {
  const int first = blockIdx.x * PLANES, p = threadIdx.x;
  const int count = min(PLANES, where->planes - first);
  if (p < count) {
    int image = (first + p) / where->columns, channel = (first + p) % where->columns, channels = where->columns;
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis) {
      const int tiles = where->tiles[axis + 3 - AXES], phases = where->phases[axis + 3 - AXES];
      const int row = image % tiles * phases + channel % phases;
      places[p].table[axis] = where->first[axis + 3 - AXES] + row * points_of(axis);
      image /= tiles;
      channel /= phases;
      channels /= phases;
    }
    places[p].start = blockIdx.y * where->group + image * where->image + channel * where->channel;
    places[p].channel = blockIdx.y * channels + channel;
  }
  return count;
}

// A column of a plane in the tensor: `rows` are offsets from `start`, negative where nothing lies.
struct Column {
  const int* rows;
  long long start;
  bool empty;
};

__device__ __forceinline__ Column find_column(const Place& place, const int* offsets, int column) {
  if constexpr (ONE_AXIS) return {offsets + place.table[0] + column, place.start, false};
  const int last = offsets[place.table[AXES - 1] + column % LAST];
  const int middle = HAS_MIDDLE ? offsets[place.table[1] + column / LAST] : 0;
  return {offsets + place.table[0], place.start + last + middle, last < 0 || middle < 0};
}

// Threads share the columns so that neighbours are neighbours in memory: along the planes if those are interleaved.
struct Columns {
  bool interleaved;
  __device__ __forceinline__ explicit Columns(const Planes* where)
      : interleaved((where->columns > 1 ? where->channel : where->image) == 1) {}
  __device__ __forceinline__ int plane(int item) const { return interleaved ? item % PLANES : item / COLUMNS; }
  __device__ __forceinline__ int column(int item) const { return interleaved ? item / PLANES : item % COLUMNS; }
};

// In shared memory: STRIDE_FIRST from bin to bin of a column, STRIDE_MIDDLE and STRIDE_LAST from column to column.
__device__ __forceinline__ int position(int column) { return column / LAST * STRIDE_MIDDLE + column % LAST * STRIDE_LAST; }

// Lines along LAST, for neighbouring threads of neighbouring planes: so what they store lies together.
struct Line {
  int plane, kept, bin, position;
  __device__ __forceinline__ explicit Line(int item)
      : plane(item % PLANES),
        kept(item / PLANES % KEPT),
        bin((kept * MIDDLE + item / PLANES / KEPT) * LAST),
        position(kept * STRIDE_FIRST + item / PLANES / KEPT * STRIDE_MIDDLE + plane) {}
};

// ---- stages ----

// Between the digits of one axis: e^(-2 pi i column kept / (FIRST LAST)), kept in shared memory behind the bins.
__device__ __forceinline__ void fill_twiddles(float2* twiddles) {
  if constexpr (ONE_AXIS) {
    for (int i = threadIdx.x; i < LAST * KEPT; i += THREADS) {
      float s, c;
      sincospif(-2.0f / (FIRST * LAST) * (i / KEPT * (i % KEPT)), &s, &c);
      twiddles[i] = make_float2(c, s);
    }
  }
}

// Columns from the tensor, zero where nothing lies, to their bins in shared memory. Two reals make one complex number;
// the bins of the even and the odd elements are told apart afterwards by their symmetry.
__device__ __forceinline__ void analyse_columns(float2* bins, const float* tensor, const Place* places,
                                                const int* offsets, Columns columns, int count) {
#pragma unroll 1
  for (int item = threadIdx.x; item < COLUMNS * PLANES; item += THREADS) {
    const int p = columns.plane(item), x = columns.column(item);
    if (p >= count) continue;
    const Column column = find_column(places[p], offsets, x);
    float2 v[HALF];
#pragma unroll
    for (int n = 0; n < HALF; ++n) {
      const int even = column.rows[2 * n * ROW_STEP], odd = column.rows[(2 * n + 1) * ROW_STEP];
      v[n].x = column.empty || even < 0 ? 0.0f : tensor[column.start + even];
      v[n].y = column.empty || odd < 0 ? 0.0f : tensor[column.start + odd];
    }
    fft<HALF, -1>(v);
    float2* out = bins + position(x) + p;
    out[0] = make_float2(v[0].x + v[0].y, 0.0f);
    out[HALF * STRIDE_FIRST] = make_float2(v[0].x - v[0].y, 0.0f);
#pragma unroll
    for (int k = 1; k <= HALF / 2; ++k) {
      const float2 a = v[place_of<HALF>(k)], b = conjugate_of(v[place_of<HALF>(HALF - k)]);
      const float2 even = make_float2(0.5f * (a.x + b.x), 0.5f * (a.y + b.y));
      const float2 odd = turned<FIRST, -1>(make_float2(0.5f * (a.y - b.y), 0.5f * (b.x - a.x)), k);
      out[k * STRIDE_FIRST] = even + odd;
      if (k < HALF - k) out[(HALF - k) * STRIDE_FIRST] = conjugate_of(even - odd);
    }
  }
}

// Columns from their bins in shared memory to the tensor, not where nothing lies.
__device__ __forceinline__ void synthesise_columns(const float2* bins, float* tensor, const Place* places,
                                                   const int* offsets, Columns columns, int count, const float* bias,
                                                   int relu) {
#pragma unroll 1
  for (int item = threadIdx.x; item < COLUMNS * PLANES; item += THREADS) {
    const int p = columns.plane(item), x = columns.column(item);
    if (p >= count) continue;
    const Column column = find_column(places[p], offsets, x);
    if (column.empty) continue;
    const float2* in = bins + position(x) + p;
    float2 v[HALF];
    const float first = in[0].x, last = in[HALF * STRIDE_FIRST].x;
    v[0] = make_float2(first + last, first - last);
#pragma unroll
    for (int k = 1; k <= HALF / 2; ++k) {
      const float2 a = in[k * STRIDE_FIRST], b = conjugate_of(in[(HALF - k) * STRIDE_FIRST]);
      const float2 even = a + b, odd = turned<FIRST, 1>(a - b, k);
      v[k] = make_float2(even.x - odd.y, even.y + odd.x);
      if (k < HALF - k) v[HALF - k] = make_float2(even.x + odd.y, odd.x - even.y);
    }
    fft<HALF, 1>(v);
    const float add = bias ? bias[places[p].channel] : 0.0f;
#pragma unroll
    for (int row = 0; row < FIRST; ++row) {
      const int offset = column.rows[row * ROW_STEP];
      const float2 pair = v[place_of<HALF>(row / 2)];
      const float value = (row % 2 ? pair.y : pair.x) + add;
      if (offset >= 0) tensor[column.start + offset] = relu && value < 0.0f ? 0.0f : value;
    }
  }
}

// Lines along MIDDLE, in place.
template <int SIGN>
__device__ __forceinline__ void transform_middle(float2* bins, int count) {
#pragma unroll 1
  for (int item = threadIdx.x; item < KEPT * LAST * PLANES; item += THREADS) {
    const int p = item % PLANES, kept = item / PLANES % KEPT, x = item / PLANES / KEPT;
    if (p >= count) continue;
    float2* line = bins + kept * STRIDE_FIRST + x * STRIDE_LAST + p;
    float2 v[MIDDLE];
#pragma unroll
    for (int n = 0; n < MIDDLE; ++n) v[n] = line[n * STRIDE_MIDDLE];
    fft<MIDDLE, SIGN>(v);
#pragma unroll
    for (int n = 0; n < MIDDLE; ++n) line[n * STRIDE_MIDDLE] = v[place_of<MIDDLE>(n)];
  }
}

// A line along LAST, from shared memory to its bins, in the order of `place_of`.
__device__ __forceinline__ void analyse_line(float2* v, const float2* bins, const float2* twiddles, const Line& line) {
#pragma unroll
  for (int n = 0; n < LAST; ++n) {
    v[n] = bins[line.position + n * STRIDE_LAST];
    if constexpr (ONE_AXIS) v[n] = v[n] * twiddles[n * KEPT + line.kept];
  }
  fft<LAST, -1>(v);
}

// A line along LAST, from its bins to shared memory.
__device__ __forceinline__ void synthesise_line(float2* v, float2* bins, const float2* twiddles, const Line& line) {
  fft<LAST, 1>(v);
#pragma unroll
  for (int n = 0; n < LAST; ++n) {
    float2 value = v[place_of<LAST>(n)];
    if constexpr (ONE_AXIS) value = value * conjugate_of(twiddles[n * KEPT + line.kept]);
    bins[line.position + n * STRIDE_LAST] = value;
  }
}

// ---- kernels: a grid of blocks of planes, by groups ----

// The bins of the planes of a tensor.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    forward(const float* __restrict__ tensor, float2* __restrict__ spectra, const Planes* __restrict__ where,
            const int* __restrict__ offsets) {
  extern __shared__ float2 bins[];
  __shared__ Place places[PLANES];
  float2* const twiddles = bins + KEPT * STRIDE_FIRST;
  const int count = find_places(places, where);
  fill_twiddles(twiddles);
  __syncthreads();
  analyse_columns(bins, tensor, places, offsets, Columns(where), count);
  __syncthreads();
  if constexpr (HAS_MIDDLE) {
    transform_middle<-1>(bins, count);
    __syncthreads();
  }
  const long long planes = where->planes;
#pragma unroll 1
  for (int item = threadIdx.x; item < LINES * PLANES; item += THREADS) {
    const Line line(item);
    if (line.plane >= count) continue;
    float2 v[LAST];
    analyse_line(v, bins, twiddles, line);
    float2* out = spectra + (blockIdx.y * (long long)BINS + line.bin) * planes + blockIdx.x * PLANES + line.plane;
#pragma unroll
    for (int k = 0; k < LAST; ++k, out += planes) *out = v[place_of<LAST>(k)];
  }
}

// The tensor from its bins, plus the bias if there is one, negative values replaced by zero if `relu`.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    inverse(const float2* __restrict__ spectra, float* __restrict__ tensor, const Planes* __restrict__ where,
            const int* __restrict__ offsets, const float* __restrict__ bias, int relu) {
  extern __shared__ float2 bins[];
  __shared__ Place places[PLANES];
  float2* const twiddles = bins + KEPT * STRIDE_FIRST;
  const int count = find_places(places, where);
  const long long planes = where->planes;
  if constexpr (ONE_AXIS) {
    fill_twiddles(twiddles);
    __syncthreads();
  }
#pragma unroll 1
  for (int item = threadIdx.x; item < LINES * PLANES; item += THREADS) {
    const Line line(item);
    if (line.plane >= count) continue;
    const float2* in = spectra + (blockIdx.y * (long long)BINS + line.bin) * planes + blockIdx.x * PLANES + line.plane;
    float2 v[LAST];
#pragma unroll
    for (int k = 0; k < LAST; ++k, in += planes) v[k] = *in;
    synthesise_line(v, bins, twiddles, line);
  }
  __syncthreads();
  if constexpr (HAS_MIDDLE) {
    transform_middle<1>(bins, count);
    __syncthreads();
  }
  synthesise_columns(bins, tensor, places, offsets, Columns(where), count, bias, relu);
}

// Both, around the product with the bins of the group's one filter: of tensors with one plane per image, tile and group.
extern "C" __global__ void __launch_bounds__(THREADS, FUSED_BLOCKS)
    fused(const float* __restrict__ source, const float2* __restrict__ filters, float* __restrict__ target,
          const Planes* __restrict__ from, const int* __restrict__ from_offsets, const Planes* __restrict__ to,
          const int* __restrict__ to_offsets, int conjugate, float scale, const float* __restrict__ bias, int relu) {
  extern __shared__ float2 bins[];
  __shared__ Place sources[PLANES], targets[PLANES];
  float2* const twiddles = bins + KEPT * STRIDE_FIRST;
  const int count = find_places(sources, from);
  find_places(targets, to);
  fill_twiddles(twiddles);
  __syncthreads();
  analyse_columns(bins, source, sources, from_offsets, Columns(from), count);
  __syncthreads();
  if constexpr (HAS_MIDDLE) {
    transform_middle<-1>(bins, count);
    __syncthreads();
  }
  const float imaginary_scale = conjugate ? -scale : scale;
#pragma unroll 1
  for (int item = threadIdx.x; item < LINES * PLANES; item += THREADS) {
    const Line line(item);
    if (line.plane >= count) continue;
    const float2* filter = filters + blockIdx.y * (long long)BINS + line.bin;
    float2 v[LAST], product[LAST];
    analyse_line(v, bins, twiddles, line);
#pragma unroll
    for (int k = 0; k < LAST; ++k) {
      const float2 factor = make_float2(scale * filter[k].x, imaginary_scale * filter[k].y);
      product[k] = v[place_of<LAST>(k)] * factor;
    }
    synthesise_line(product, bins, twiddles, line);
  }
  __syncthreads();
  if constexpr (HAS_MIDDLE) {
    transform_middle<1>(bins, count);
    __syncthreads();
  }
  synthesise_columns(bins, target, targets, to_offsets, Columns(to), count, bias, relu);
}
