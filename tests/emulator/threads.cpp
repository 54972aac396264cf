// Threads of a block, each with a stack of its own, one after the other: a thread runs until it waits. Blocks follow each other.
#include "driver.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" {
Extent threadIdx, blockIdx, blockDim, gridDim;
char *emulator_shared;
}

namespace {

const unsigned WARP = 32;
const size_t STACK = size_t(512) << 10;
const size_t LONGEST_WAIT = 50'000'000;

enum class State { Ready, AtBlock, AtWarp, Done };

struct Thread {
    void *stack_pointer;
    State state;
    Extent index;
    char *stack;
};

Thread threads[1024];
unsigned count, now;
void *scheduler;
void (*kernel)(void **);
void **kernel_arguments;
char shared_memory[256 << 10] __attribute__((aligned(1024)));
// What lanes of a warp tell each other: sixteen words each.
uint32_t words[32][WARP][16];
size_t spins;

[[noreturn]] void fail(const char *why, unsigned done, unsigned waiting) {
    fprintf(stderr, "emulator: %s (of %u threads %u are done and %u at the block's barrier)\n", why, count, done, waiting);
    abort();
}

}  // namespace

// Keeps what a function has to keep (System V, x86-64) on the stack it leaves, and goes on with the other one.
extern "C" void emulator_switch(void **from, void *to);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
)");

namespace {

void leave(State state) {
    threads[now].state = state;
    emulator_switch(&threads[now].stack_pointer, scheduler);
}

void enter() {
    kernel(kernel_arguments);
    leave(State::Done);
    abort();
}

void start(Thread &thread, unsigned number) {
    if (!thread.stack) {
        void *stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) abort();
        thread.stack = static_cast<char *>(stack);
    }
    // As if `enter` had been called from nowhere and had called `emulator_switch`.
    void **top = reinterpret_cast<void **>(thread.stack + STACK - 16);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(enter);
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
    thread.stack_pointer = top;
    thread.state = State::Ready;
    thread.index = {number % blockDim.x, number / blockDim.x % blockDim.y, number / (blockDim.x * blockDim.y)};
}

// Lets warps go on of which every living lane waits for the others.
bool release_warps() {
    bool any_released = false;
    for (unsigned first = 0; first < count; first += WARP) {
        const unsigned last = first + WARP < count ? first + WARP : count;
        bool any = false, all = true;
        for (unsigned t = first; t < last; t++) {
            any |= threads[t].state == State::AtWarp;
            all &= threads[t].state == State::AtWarp || threads[t].state == State::Done;
        }
        if (!any || !all) continue;
        any_released = true;
        for (unsigned t = first; t < last; t++)
            if (threads[t].state == State::AtWarp) threads[t].state = State::Ready;
    }
    return any_released;
}

void run_block(unsigned shared) {
    // What nobody wrote is NaN here, too.
    memset(shared_memory, 0xFF, shared);
    spins = 0;
    for (unsigned t = 0; t < count; t++) start(threads[t], t);
    for (;;) {
        unsigned done = 0, waiting = 0;
        bool goes_on = false;
        for (unsigned t = 0; t < count; t++) {
            Thread &thread = threads[t];
            if (thread.state == State::Ready) {
                now = t;
                threadIdx = thread.index;
                emulator_switch(&scheduler, thread.stack_pointer);
            }
            done += thread.state == State::Done;
            waiting += thread.state == State::AtBlock;
            goes_on |= thread.state == State::Ready;
        }
        if (done == count) return;
        goes_on |= release_warps();
        if (waiting > 0 && waiting + done == count) {
            // Those that have returned are not waited for (CUDA C++ Programming Guide, "Synchronization Functions").
            goes_on = true;
            for (unsigned t = 0; t < count; t++)
                if (threads[t].state == State::AtBlock) threads[t].state = State::Ready;
        }
        if (!goes_on) fail("threads wait at different places", done, waiting);
    }
}

}  // namespace

extern "C" {
void emulator_sync_block() { leave(State::AtBlock); }
void emulator_sync_warp() { leave(State::AtWarp); }
void emulator_let_others() {
    if (++spins > LONGEST_WAIT) fail("threads wait for ever", 0, 0);
    leave(State::Ready);
}
unsigned emulator_lane() { return now % WARP; }
uint32_t (*emulator_words())[16] { return words[now / WARP]; }
unsigned emulator_living() {
    unsigned mask = 0, first = now / WARP * WARP;
    for (unsigned t = first; t < first + WARP && t < count; t++)
        if (threads[t].state != State::Done) mask |= 1u << (t - first);
    return mask;
}
}

void emulator_launch(void (*call)(void **), void **arguments, Extent grid, Extent block, unsigned shared) {
    if (shared > sizeof shared_memory) fail("more shared memory than a block can have", 0, 0);
    kernel = call;
    kernel_arguments = arguments;
    emulator_shared = shared_memory;
    gridDim = grid;
    blockDim = block;
    count = block.x * block.y * block.z;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                run_block(shared);
            }
}
