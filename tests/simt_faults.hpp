// Part of simt.cpp: what ends a launch from outside, faults of the machine and the limit of its time.
#pragma once
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>

namespace simt {

static sigjmp_buf escape;

static bool in_guard(const char* address) {
    const char* stack = job->stacks + STACK_BYTES * current;
    return address >= stack && address < stack + GUARD_BYTES;
}

static void on_signal(int number, siginfo_t* info, void*) {
    if (number == SIGVTALRM) report(current, "has not ended after %g s", job->limit_s);
    else if (number == SIGFPE) report(current, "an integer division by zero");
    else report(current, in_guard(static_cast<char*>(info->si_addr)) ? "its stack overflows" : "a segmentation fault");
    siglongjmp(escape, 1);
}

static void run_guarded(void (*run)()) {
    struct sigaction action = {}, old[3];
    const int signals[3] = {SIGSEGV, SIGFPE, SIGVTALRM};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    static char signal_stack[64 << 10];
    stack_t stack = {}, old_stack;
    stack.ss_sp = signal_stack;
    stack.ss_size = sizeof signal_stack;
    sigaltstack(&stack, &old_stack);
    itimerval limit = {}, none = {};
    limit.it_value.tv_sec = static_cast<time_t>(job->limit_s);
    limit.it_value.tv_usec = static_cast<suseconds_t>(1e6 * (job->limit_s - limit.it_value.tv_sec));
#ifdef SIMT_SANITIZE
    const int first = 2; // faults are the sanitizer's to tell
#else
    const int first = 0;
#endif
    for (int i = first; i < 3; ++i) sigaction(signals[i], &action, &old[i]);
    setitimer(ITIMER_VIRTUAL, &limit, nullptr);
    if (!sigsetjmp(escape, 1)) run();
    setitimer(ITIMER_VIRTUAL, &none, nullptr);
    for (int i = first; i < 3; ++i) sigaction(signals[i], &old[i], nullptr);
    sigaltstack(&old_stack, nullptr);
}

}  // namespace simt
