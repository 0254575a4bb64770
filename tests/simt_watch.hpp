// Part of simt.cpp: watches each load and store of kernels that g++ compiles with -fsanitize=thread; the calls that it
// puts in end here and not in its library. An error is what lies outside of the arrays that the launch was given and of
// shared memory, and a race: two threads at one word, one of them storing, with nothing between that orders them.
//
// What orders two threads: a barrier of their block, and __syncwarp of a mask that has both. Shuffles and votes do not
// (CUDA C++ Programming Guide, "Warp Shuffle Functions": they imply no memory barrier). Atomics are left out.

struct Access { // the last of its kind
    unsigned block, epoch, clock; // block: 1 + its index, 0 where there was no access
    int thread;
};

struct Word { // 4 bytes
    Access store, loads[2]; // of two threads that nothing orders, if there are: one is not the one that will store
};

struct Region {
    const char *start, *end;
    Word* words;
    int argument; // SHARED: not one
};

constexpr int SHARED = -1;
static Region* regions;
static int region_count;
static unsigned block_number, epoch;             // epoch: counts barriers
static unsigned clocks[MOST_WARPS][WARP];        // of each lane: counts its __syncwarps
static unsigned seen[MOST_WARPS][WARP][WARP];    // the clock of another lane up to which this one is ordered after it

extern "C" char __ehdr_start[] __attribute__((visibility("hidden")));
extern "C" char _end[] __attribute__((visibility("hidden")));

static void add_region(const char* start, size_t bytes, int argument) {
    if (bytes == 0) return;
    const size_t words = bytes / 4 + 2;
    regions[region_count++] = {start, start + bytes, static_cast<Word*>(calloc(words, sizeof(Word))), argument};
}

static void watch_launch() {
    regions = static_cast<Region*>(calloc(job->array_count + 2, sizeof(Region)));
    add_region(__start_simt_shared, __stop_simt_shared - __start_simt_shared, SHARED);
    add_region(dynamic_bytes, job->shared_bytes, SHARED);
    for (int i = 0; i < job->array_count; ++i) {
        const Array& array = job->arrays[i];
        add_region(array.start, array.bytes, array.argument);
    }
}

static void watch_end() {
    while (region_count) free(regions[--region_count].words);
    free(regions);
}

static void watch_block(uint64_t index) {
    block_number = static_cast<unsigned>(index) + 1;
    epoch = 0;
    memset(seen, 0, sizeof seen);
    for (auto& warp : clocks)
        for (unsigned& clock : warp) clock = 1;
}

static void watch_barrier() { ++epoch; }

static void watch_syncwarp(int warp, unsigned lanes) {
    unsigned known[WARP] = {};
    for (unsigned left = lanes; left; left &= left - 1) {
        const int i = __builtin_ctz(left);
        seen[warp][i][i] = clocks[warp][i]++;
        for (int other = 0; other < WARP; ++other)
            if (known[other] < seen[warp][i][other]) known[other] = seen[warp][i][other];
    }
    for (unsigned left = lanes; left; left &= left - 1) memcpy(seen[warp][__builtin_ctz(left)], known, sizeof known);
}

static bool ordered(const Access& past, bool shared) { // it came before what the running thread does now
    if (!past.block) return true;
    if (past.block != block_number) return shared; // another block's shared memory
    if (past.thread == current || past.epoch != epoch) return true;
    return past.thread / WARP == current / WARP && seen[current / WARP][lane][past.thread % WARP] >= past.clock;
}

static const Region* region_of(const char* address, size_t bytes) {
    for (int i = 0; i < region_count; ++i)
        if (address >= regions[i].start && address + bytes <= regions[i].end) return &regions[i];
    return nullptr;
}

static bool is_own(const char* address) { // on the fiber's stack, or a variable or constant of the library
    const char* bottom = static_cast<const char*>(fibers[current].bottom);
    if (address >= bottom && address < bottom + fibers[current].bytes) return true;
    return address >= __ehdr_start && address < _end;
}

[[noreturn]] static void outside(const char* address, size_t bytes, const char* what, size_t code) {
    const Region* nearest = nullptr;
    ptrdiff_t least = 0;
    for (int i = 0; i < region_count; ++i) {
        const Region& region = regions[i];
        const ptrdiff_t distance = address < region.start ? address - region.start : address + bytes - region.end;
        if (!nearest || __builtin_labs(distance) < __builtin_labs(least)) nearest = &region, least = distance;
    }
    if (!nearest || address < reinterpret_cast<char*>(4096))
        fail("@%zx a %s of %zu bytes at a null pointer", code, what, bytes);
    char name[40] = "shared memory";
    if (nearest->argument != SHARED) snprintf(name, sizeof name, "argument %d", nearest->argument);
    fail("@%zx a %s of %zu bytes outside of all arrays: %td bytes %s %s", code, what, bytes, __builtin_labs(least),
         least < 0 ? "before" : "behind the end of", name);
}

[[noreturn]] static void race(const Access& past, const char* then, const Region& region, size_t offset,
                              const char* what, size_t code) {
    char name[40] = "shared memory", who[60];
    if (region.argument != SHARED) snprintf(name, sizeof name, "argument %d", region.argument);
    if (past.block == block_number) snprintf(who, sizeof who, "thread %d of its block", past.thread);
    else snprintf(who, sizeof who, "thread %d of block %u", past.thread, past.block - 1);
    fail("@%zx a race: a %s at byte %zu of %s, and a %s there by %s", code, what, offset, name, then, who);
}

static void watch(const void* where, size_t bytes, bool store, const void* from) {
    if (!job) return;
    const char *address = static_cast<const char*>(where), *what = store ? "store" : "load";
    const size_t code = static_cast<const char*>(from) - 1 - __ehdr_start; // of the call
    const Region* region = region_of(address, bytes);
    if (!region) {
        if (is_own(address)) return;
        outside(address, bytes, what, code);
    }
    if (bytes < 4) return; // its neighbours in the word may be others'
    const bool shared = region->argument == SHARED;
    const Access now = {block_number, epoch, clocks[current / WARP][lane], current};
    const size_t offset = address - region->start;
    const size_t first = (offset + reinterpret_cast<uintptr_t>(region->start) % 4) / 4;
    for (size_t i = first; i < first + bytes / 4; ++i) {
        Word& word = region->words[i];
        if (!ordered(word.store, shared)) race(word.store, "store", *region, offset, what, code);
        if (!store) {
            const int slot = ordered(word.loads[0], shared) ? 0 : 1;
            if (slot == 0 || ordered(word.loads[1], shared)) word.loads[slot] = now;
            continue;
        }
        for (const Access& load : word.loads)
            if (!ordered(load, shared)) race(load, "load", *region, offset, what, code);
        word.store = now;
        word.loads[0].block = word.loads[1].block = 0;
    }
}

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define SIMT_WATCHED(bytes) \
    void __tsan_read##bytes(void* where) { watch(where, bytes, false, __builtin_return_address(0)); } \
    void __tsan_write##bytes(void* where) { watch(where, bytes, true, __builtin_return_address(0)); } \
    void __tsan_unaligned_read##bytes(void* where) { watch(where, bytes, false, __builtin_return_address(0)); } \
    void __tsan_unaligned_write##bytes(void* where) { watch(where, bytes, true, __builtin_return_address(0)); }
SIMT_WATCHED(1) SIMT_WATCHED(2) SIMT_WATCHED(4) SIMT_WATCHED(8) SIMT_WATCHED(16)
#undef SIMT_WATCHED
void __tsan_read_range(void* where, long bytes) { watch(where, bytes, false, __builtin_return_address(0)); }
void __tsan_write_range(void* where, long bytes) { watch(where, bytes, true, __builtin_return_address(0)); }
}
