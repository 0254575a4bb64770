// A fiber has a stack of its own and runs until it goes to another one.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#ifdef SIMT_SANITIZE
extern "C" void __sanitizer_start_switch_fiber(void** left, const void* bottom, size_t bytes);
extern "C" void __sanitizer_finish_switch_fiber(void* mine, const void** bottom, size_t* bytes);
extern "C" void __asan_unpoison_memory_region(const volatile void* where, size_t bytes);
#endif

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)
// The registers that a function has to keep go on the stack, and the stack is changed.
asm(R"(
.text
.p2align 4
.hidden simt_switch
.globl simt_switch
.type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch, .-simt_switch
)");
extern "C" void simt_switch(void** from, void* to);
#else
#include <ucontext.h>
#define SIMT_UCONTEXT
#endif

namespace simt {

constexpr int MOST_THREADS = 1024;        // of a block
constexpr size_t STACK_BYTES = 256 << 10;    // generous: unoptimised code keeps all of its temporaries
constexpr size_t GUARD_BYTES = 4096;         // the lowest of them, which nobody may touch

struct Fiber {
#ifdef SIMT_UCONTEXT
    ucontext_t context;
#else
    void* context;
#endif
    const void* bottom; // of the stack, above the guard
    size_t bytes;
};

static void go(Fiber& from, Fiber& to, bool ends = false) {
#ifdef SIMT_SANITIZE
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(ends ? nullptr : &fake, to.bottom, to.bytes);
#else
    (void)ends;
#endif
#ifdef SIMT_UCONTEXT
    swapcontext(&from.context, &to.context);
#else
    simt_switch(&from.context, to.context);
#endif
#ifdef SIMT_SANITIZE
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// A fiber that begins in `main` when somebody goes to it. `number` is among those of the stacks.
static void make(Fiber& fiber, char* stacks, int number, void (*main)()) {
    char* const stack = stacks + STACK_BYTES * number;
    fiber.bottom = stack + GUARD_BYTES;
    fiber.bytes = STACK_BYTES - GUARD_BYTES;
#ifdef SIMT_SANITIZE
    __asan_unpoison_memory_region(fiber.bottom, fiber.bytes); // of what a fiber that was left behind had there
#endif
#ifdef SIMT_UCONTEXT
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack + GUARD_BYTES;
    fiber.context.uc_stack.ss_size = fiber.bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, main, 0);
#else
    // Stacks of one size would all meet in the same lines of the caches: each begins a little lower than the last.
    void** top = reinterpret_cast<void**>(stack + STACK_BYTES - 64 - number % 64 * 64);
    *--top = nullptr;                                      // main never returns
    *--top = reinterpret_cast<void*>(main);                // where the first switch returns to,
    for (int kept = 0; kept < 6; ++kept) *--top = nullptr; // with these registers
    fiber.context = top;
#endif
}

}  // namespace simt

// Stacks for all fibers of a process, or null.
extern "C" __attribute__((visibility("default"))) void* simt_stacks() {
    void* made = mmap(nullptr, simt::STACK_BYTES * simt::MOST_THREADS, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED) return nullptr;
    for (int i = 0; i < simt::MOST_THREADS; ++i)
        mprotect(static_cast<char*>(made) + simt::STACK_BYTES * i, simt::GUARD_BYTES, PROT_NONE);
    return made;
}
