// Stacks of their own to run on, and the switch from one to another.
#pragma once
#include <algorithm>
#include <cstddef>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

constexpr size_t STACK_BYTES = 1 << 16;

#if defined(__x86_64__)
// ucontext makes a system call a switch; six registers are all that a call must preserve.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
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
)");
struct Context {
    void* stack_pointer;
    void start(char* stack, void (*entry)()) {
        void** top = reinterpret_cast<void**>(stack + STACK_BYTES) - 8;
        std::fill(top, top + 8, nullptr);
        top[6] = reinterpret_cast<void*>(entry);  // where the first switch returns to
        stack_pointer = top;
    }
    void switch_to(Context& other) { simt_switch(&stack_pointer, other.stack_pointer); }
};
#else
struct Context {
    ucontext_t context;
    void start(char* stack, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = STACK_BYTES;
        makecontext(&context, entry, 0);
    }
    void switch_to(Context& other) { swapcontext(&context, &other.context); }
};
#endif

}  // namespace simt
