// The SIMT emulator at work: fibers, who is next, barriers and collectives of warps. See simt.hpp and simt.py.
//
// An error here, undefined on a GPU: threads that wait for ever, a lane that is not in its own mask, a value asked of
// a lane that does not take part, lanes of a warp that wait for each other in different collectives, threads of a block
// at different barriers. Not noticed: the barrier of a function that is called in two branches is one place.
#define SIMT_RUNTIME
#include "simt.hpp"
#include "simt_fibers.hpp"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

// The section of static shared memory; both are null where no kernel has any.
extern "C" char __start_simt_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_simt_shared[] __attribute__((weak, visibility("hidden")));

namespace simt {

constexpr int MOST_WARPS = MOST_THREADS / WARP;
constexpr size_t MOST_SHARED_BYTES = 232448; // 227 KiB, what sm_90 and sm_100 give a block

struct Lane { // what it brought to a collective, and what it takes away
    const char* name;
    unsigned mask;
    uint64_t value, result;
    int source; // of a shuffle; -1: a ballot
};

struct Warp {
    unsigned alive, ready, at_barrier, in_collective; // one bit for each lane
    Lane lanes[WARP];
};

uint3 thread, block;
dim3 block_size, grid_size;
int lane;

static const Launch* job;
static Fiber fibers[MOST_THREADS], home;
static Warp warps[MOST_WARPS];
static unsigned ready_warps;
static int current, count, alive, arrived; // fibers: the running one, all, not ended, at the barrier
static Site barrier_site;
static int votes[3], outcome[3]; // by Reduce, of the barrier that is open and of the last
static uint64_t random_state;
static char* dynamic_bytes;

#ifdef SIMT_WATCH
#include "simt_watch.hpp"
#else
static void watch_launch() {}
static void watch_block(uint64_t) {}
static void watch_barrier() {}
static void watch_syncwarp(int, unsigned) {}
static void watch_end() {}
#endif

static uint64_t random_below(uint64_t end) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % end;
}

// ---- fibers ----

static void place(int next) {
    current = next;
    lane = next % WARP;
    thread = {next % block_size.x, next / block_size.x % block_size.y, next / (block_size.x * block_size.y)};
}

static int choose() { // the next of those that can run; -1: none
    if (!ready_warps) return -1;
    if (job->order == 0) {
        const int warp = __builtin_ctz(ready_warps);
        return warp * WARP + __builtin_ctz(warps[warp].ready);
    }
    if (job->order == 1) {
        const int warp = 31 - __builtin_clz(ready_warps);
        return warp * WARP + 31 - __builtin_clz(warps[warp].ready);
    }
    int all = 0, warp = 0;
    for (unsigned left = ready_warps; left; left &= left - 1)
        all += __builtin_popcount(warps[__builtin_ctz(left)].ready);
    int nth = static_cast<int>(random_below(all));
    while (nth >= __builtin_popcount(warps[warp].ready)) nth -= __builtin_popcount(warps[warp++].ready);
    unsigned ready = warps[warp].ready;
    while (nth--) ready &= ready - 1;
    return warp * WARP + __builtin_ctz(ready);
}

static void set_ready(int warp, unsigned lanes) {
    warps[warp].ready |= lanes;
    ready_warps |= 1u << warp;
}

static void set_waiting(int warp, unsigned lanes) {
    warps[warp].ready &= ~lanes;
    if (!warps[warp].ready) ready_warps &= ~(1u << warp);
}

static void report_list(int who, const char* format, va_list values) {
    place(who);
    const int used = snprintf(job->error, job->error_bytes, "block (%u, %u, %u), thread (%u, %u, %u): ", block.x,
                              block.y, block.z, thread.x, thread.y, thread.z);
    vsnprintf(job->error + used, job->error_bytes - used, format, values);
}

static void report(int who, const char* format, ...) __attribute__((format(printf, 2, 3)));
static void report(int who, const char* format, ...) {
    va_list values;
    va_start(values, format);
    report_list(who, format, values);
    va_end(values);
}

[[noreturn]] static void leave() {
    go(fibers[current], home, true);
    __builtin_unreachable();
}

[[noreturn]] static void fail_at(int who, const char* format, ...) __attribute__((format(printf, 2, 3)));
static void fail_at(int who, const char* format, ...) {
    va_list values;
    va_start(values, format);
    report_list(who, format, values);
    leave();
}

void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    report_list(current, format, values);
    leave();
}

static bool same(const Lane& a, const Lane& b) { return a.mask == b.mask && a.name == b.name; }

[[noreturn]] static void deadlock() {
    char text[800] = "";
    size_t used = 0;
    for (int i = 0; i * WARP < count; ++i) {
        const Warp& warp = warps[i];
        if (warp.at_barrier && used < sizeof text)
            used += snprintf(text + used, sizeof text - used, "; warp %d: %08x at __syncthreads() of line %d", i,
                             warp.at_barrier, barrier_site.line);
        for (unsigned left = warp.in_collective; left && used < sizeof text;) {
            const Lane& first = warp.lanes[__builtin_ctz(left)];
            unsigned alike = 0;
            for (unsigned rest = left; rest; rest &= rest - 1)
                if (same(warp.lanes[__builtin_ctz(rest)], first)) alike |= rest & -rest;
            used += snprintf(text + used, sizeof text - used, "; warp %d: %08x in %s of mask %08x", i, alike,
                             first.name, first.mask);
            left &= ~alike;
        }
    }
    fail("deadlock, no thread can run%s", text);
}

static void wait() { // others run until it is this fiber's turn
    const int me = current, next = choose();
    if (next < 0) deadlock();
    if (next == me) return;
    place(next);
    go(fibers[me], fibers[next]);
}

// ---- barriers ----

static void open_barrier() { // if all are there
    if (!arrived || arrived != alive) return;
    arrived = 0;
    watch_barrier();
    memcpy(outcome, votes, sizeof outcome);
    for (int i = 0; i * WARP < count; ++i)
        if (warps[i].at_barrier) {
            set_ready(i, warps[i].at_barrier);
            warps[i].at_barrier = 0;
        }
}

int barrier(Site site, int predicate, Reduce reduce) {
    const unsigned bit = 1u << lane;
    if (!arrived) {
        barrier_site = site;
        votes[OR] = votes[COUNT] = 0;
        votes[AND] = 1;
    } else if (site.number != barrier_site.number || site.function != barrier_site.function) {
        fail("at the barrier of line %d while others of its block wait at that of line %d", site.line,
             barrier_site.line);
    }
    votes[OR] |= !!predicate;
    votes[AND] &= !!predicate;
    votes[COUNT] += !!predicate;
    warps[current / WARP].at_barrier |= bit;
    set_waiting(current / WARP, bit);
    ++arrived;
    open_barrier();
    wait();
    return outcome[reduce];
}

// ---- collectives of warps ----

static void complete(int index, const Lane& asked) { // a collective, if all lanes of its mask that are alive wait in it
    Warp& warp = warps[index];
    const unsigned part = asked.mask & warp.alive;
    if (!part || part & ~warp.in_collective) return;
    unsigned ballot = 0;
    for (unsigned left = part; left; left &= left - 1) {
        const int i = __builtin_ctz(left);
        if (!same(warp.lanes[i], asked)) return;
        if (warp.lanes[i].source < 0 && warp.lanes[i].value) ballot |= 1u << i;
    }
    for (unsigned left = part; left; left &= left - 1) {
        const int i = __builtin_ctz(left);
        Lane& one = warp.lanes[i];
        if (one.source >= 0 && !(part >> one.source & 1))
            fail_at(index * WARP + i, "%s of mask %08x reads lane %d, which %s", one.name, one.mask, one.source,
                    one.mask >> one.source & 1 ? "has ended" : "is not in the mask");
        one.result = one.source < 0 ? ballot : warp.lanes[one.source].value;
    }
    if (!strcmp(asked.name, "__syncwarp")) watch_syncwarp(index, part);
    warp.in_collective &= ~part;
    set_ready(index, part);
}

static uint64_t collective(const char* name, unsigned mask, uint64_t value, int source) {
    const int index = current / WARP;
    const unsigned bit = 1u << lane;
    Warp& warp = warps[index];
    if (!(mask & bit)) fail("%s: lane %d is not in its own mask %08x", name, lane, mask);
    Lane& mine = warp.lanes[lane];
    mine = {name, mask, value, 0, source};
    for (unsigned left = mask & warp.in_collective; left; left &= left - 1) {
        const Lane& other = warp.lanes[__builtin_ctz(left)];
        if (other.mask & bit && !same(mine, other))
            fail("in %s of mask %08x, while lane %d waits for it in %s of mask %08x", name, mask, __builtin_ctz(left),
                 other.name, other.mask);
    }
    warp.in_collective |= bit;
    set_waiting(index, bit);
    complete(index, mine);
    wait();
    return mine.result;
}

uint64_t ballot(const char* name, unsigned mask, int predicate) { return collective(name, mask, !!predicate, -1); }

uint64_t exchange(const char* name, unsigned mask, uint64_t value, int source, int width) {
    if (width < 1 || width > WARP || width & (width - 1))
        fail("%s: a width of %d, not a power of two up to 32", name, width);
    if (source < 0 || source >= WARP) fail("%s reads lane %d", name, source);
    return collective(name, mask, value, source);
}

void before_atomic() {
    if (job->order == 2) wait();
}

// ---- blocks ----

char* dynamic() { return dynamic_bytes; }

static void fiber_main() {
#ifdef SIMT_SANITIZE
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (!home.bytes) home.bottom = bottom, home.bytes = bytes;
#endif
    job->run(job->arguments);
    const int index = current / WARP;
    const unsigned bit = 1u << lane;
    Warp& warp = warps[index];
    warp.alive &= ~bit;
    set_waiting(index, bit);
    --alive;
    for (unsigned left = warp.in_collective; left; left &= left - 1)
        if (warp.in_collective & left & -left) complete(index, warp.lanes[__builtin_ctz(left)]);
    open_barrier();
    Fiber& mine = fibers[current];
    if (!alive) go(mine, home, true);
    const int next = choose();
    if (next < 0) deadlock();
    place(next);
    go(mine, fibers[next], true);
    __builtin_unreachable();
}

static void poison() {
    // Not memset, which the address sanitizer watches: what lies between the arrays is written too.
    for (volatile char* byte = __start_simt_shared; byte < __stop_simt_shared; ++byte) *byte = static_cast<char>(0xff);
    memset(dynamic_bytes, 0xff, job->shared_bytes);
}

static void run_block(uint64_t index) {
    block = {static_cast<unsigned>(index % grid_size.x), static_cast<unsigned>(index / grid_size.x % grid_size.y),
             static_cast<unsigned>(index / grid_size.x / grid_size.y)};
    alive = count;
    arrived = 0;
    ready_warps = 0;
    for (int i = 0; i * WARP < count; ++i) {
        const int lanes = count - i * WARP < WARP ? count - i * WARP : WARP;
        warps[i].alive = lanes == WARP ? ~0u : (1u << lanes) - 1;
        warps[i].ready = warps[i].at_barrier = warps[i].in_collective = 0;
        set_ready(i, warps[i].alive);
    }
    for (int i = 0; i < count; ++i) make(fibers[i], job->stacks, i, fiber_main);
    poison();
    watch_block(index);
    const int first = choose();
    place(first);
    go(home, fibers[first]);
}

static void run_blocks() {
    const uint64_t blocks = static_cast<uint64_t>(grid_size.x) * grid_size.y * grid_size.z;
    uint64_t step = 1, first = 0;
    if (job->order == 2) { // all of them, in a random sequence: a step that has no factor in common with their number
        first = random_below(blocks);
        uint64_t a, b;
        do {
            step = 1 + random_below(blocks);
            for (a = blocks, b = step; b;) { const uint64_t rest = a % b; a = b; b = rest; }
        } while (a != 1);
    }
    for (uint64_t i = 0; i < blocks && !job->error[0]; ++i)
        run_block(job->order == 1 ? blocks - 1 - i : (first + i * step) % blocks);
}

}  // namespace simt

#include "simt_faults.hpp"

namespace simt {

// ---- launches ----

static const char* invalid(const Launch& launch) {
    const uint64_t threads = static_cast<uint64_t>(launch.block[0]) * launch.block[1] * launch.block[2];
    if (threads < 1 || threads > MOST_THREADS || launch.block[2] > 64)
        return "a block has 1 to 1024 threads, at most 64 along z";
    if (threads > static_cast<uint64_t>(launch.most_threads))
        return "the block has more threads than __launch_bounds__ allows";
    if (!launch.grid[0] || !launch.grid[1] || !launch.grid[2]) return "a grid has at least 1 block";
    if (launch.grid[0] > 0x7fffffff || launch.grid[1] > 65535 || launch.grid[2] > 65535)
        return "the grid has more than 65535 blocks along y or z";
    if (launch.shared_bytes > MOST_SHARED_BYTES) return "a block has at most 232448 bytes of dynamic shared memory";
    return nullptr;
}

void launch(const Launch& given) {
    given.error[0] = '\0';
    if (const char* why = invalid(given)) {
        snprintf(given.error, given.error_bytes, "invalid launch: %s", why);
        return;
    }
    job = &given;
    block_size = {given.block[0], given.block[1], given.block[2]};
    grid_size = {given.grid[0], given.grid[1], given.grid[2]};
    count = block_size.x * block_size.y * block_size.z;
    random_state = given.seed * 0x9e3779b97f4a7c15u + 1;
    void* shared = nullptr;
    if (posix_memalign(&shared, 1024, given.shared_bytes)) abort(); // no byte more: the address sanitizer sees its end
    dynamic_bytes = static_cast<char*>(shared);
    watch_launch();
    run_guarded(run_blocks);
    watch_end();
    free(shared);
    dynamic_bytes = nullptr;
    job = nullptr;
}

}  // namespace simt
