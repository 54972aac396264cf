// The CUDA driver API, as far as CubeCL and Brazier call it. Memory of the device is memory of this process; work is done when it is
// launched. Signatures are those of cuda.h.
#include "driver.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <string>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

using Address = unsigned long long;

// CUresult
const int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_BINARY = 209, NOT_FOUND = 500, NOT_READY = 600, NOT_SUPPORTED = 801;

const size_t MEMORY = size_t(8) << 30;
// Larger allocations are not filled: that would touch every page of them.
const size_t FILLED = size_t(64) << 20;
const size_t PAGE = 4096;
// Of addresses, as cuMemAlloc aligns them.
const size_t ALIGNMENT = 512;

int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int arch() { return number("EMULATOR_ARCH", 80); }

bool only_compiles() {
    static const bool does = getenv("EMULATOR_ONLY_COMPILE");
    return does;
}

bool traces() {
    static const bool does = getenv("EMULATOR_TRACE");
    return does;
}

// Of a block and of a grid.
const unsigned THREADS = 1024, EXTENT = 1024, EXTENT_Z = 64;
const unsigned GRID_X = 2147483647, GRID_YZ = 65535;
unsigned shared_limit() { return arch() >= 90 ? 232448 : arch() >= 80 ? 166912 : 65536; }

std::mutex lock;
using Guard = std::lock_guard<std::mutex>;

// Streams. Only collectives are begun and not done: how many of each.

struct Collectives {
    int begun = 0, done = 0;
};

uintptr_t next_stream = 1;
std::map<void *, Collectives> streams;
std::condition_variable one_is_done;

// Stands behind the collectives that its stream had begun when it was recorded.
struct Event {
    void *stream = nullptr;
    int begun = 0;
    std::chrono::steady_clock::time_point at;
};

void wait_for(void *stream, int count) {
    std::unique_lock<std::mutex> guard(lock);
    one_is_done.wait(guard, [&] { return streams[stream].done >= count; });
}

// Before anything else is done on a stream.
void wait_for_all(void *stream) {
    int begun;
    {
        Guard guard(lock);
        begun = streams[stream].begun;
    }
    wait_for(stream, begun);
}

// Memory

struct Allocation {
    char *base;
    size_t mapped;
    size_t size;
};

std::map<Address, Allocation> allocations;
size_t allocated = 0;

void check(Address address, size_t size, const char *what) {
    Guard guard(lock);
    auto after = allocations.upper_bound(address);
    bool inside = after != allocations.begin();
    if (inside) {
        auto [first, allocation] = *std::prev(after);
        inside = address + size <= first + allocation.size;
    }
    if (size > 0 && !inside) {
        fprintf(stderr, "emulator: %s of %zu bytes at %llx is outside of what is allocated\n", what, size, address);
        abort();
    }
}

// Kernels

struct Module {
    void *library = nullptr;
    std::string path;
};

struct Function {
    void (*call)(void **) = nullptr;
    std::string name;
};

}  // namespace

API cuInit(unsigned) { return SUCCESS; }
API cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
API cuGetErrorName(int error, const char **name) {
    *name = error == SUCCESS ? "CUDA_SUCCESS" : error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_THE_EMULATOR";
    return SUCCESS;
}
API cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

API cuDeviceGetCount(int *count) { return *count = number("EMULATOR_GPUS", 1), SUCCESS; }
API cuDeviceGet(int *device, int index) { return *device = index, SUCCESS; }
// CubeCL tells Turing with tensor cores from Turing without by "GTX".
API cuDeviceGetName(char *name, int size, int) {
    snprintf(name, size, arch() == 75 ? "Emulated GTX" : "Emulated GPU");
    return SUCCESS;
}
API cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = MEMORY, SUCCESS; }
API cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = MEMORY - allocated, *total = MEMORY, SUCCESS; }
API cuDeviceGetPCIBusId(char *id, int size, int device) { return snprintf(id, size, "0000:%02x:00.0", device + 1), SUCCESS; }
API cuDeviceGetUuid_v2(char *uuid, int device) { return memset(uuid, device + 1, 16), SUCCESS; }

// Numbers of CUdevice_attribute.
API cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
        case 1: *value = THREADS; break;
        case 2: case 3: *value = EXTENT; break;
        case 4: *value = EXTENT_Z; break;
        case 5: *value = GRID_X; break;
        case 6: case 7: *value = GRID_YZ; break;
        case 10: *value = 32; break;             // threads of a warp
        case 16: *value = 4; break;              // multiprocessors
        case 75: *value = arch() / 10; break;    // compute capability
        case 76: *value = arch() % 10; break;
        case 97: *value = shared_limit(); break;
        default: *value = 0;
    }
    return SUCCESS;
}

static thread_local void *current = nullptr;
API cuDevicePrimaryCtxRetain(void **context, int device) { return *context = reinterpret_cast<void *>(device + uintptr_t(1)), SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(void *context) { return current = context, SUCCESS; }
API cuCtxGetCurrent(void **context) { return *context = current, SUCCESS; }
API cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, SUCCESS; }

extern "C" __attribute__((visibility("default"))) void emulator_begun(void *stream) {
    Guard guard(lock);
    streams[stream].begun++;
}
extern "C" __attribute__((visibility("default"))) void emulator_done(void *stream) {
    Guard guard(lock);
    streams[stream].done++;
    one_is_done.notify_all();
}
API cuStreamCreate(void **stream, unsigned) {
    Guard guard(lock);
    *stream = reinterpret_cast<void *>(next_stream++);
    return SUCCESS;
}
API cuStreamCreateWithPriority(void **stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API cuStreamDestroy_v2(void *) { return SUCCESS; }
API cuStreamQuery(void *stream) {
    Guard guard(lock);
    return streams[stream].done == streams[stream].begun ? SUCCESS : NOT_READY;
}
API cuStreamSynchronize(void *stream) { return wait_for_all(stream), SUCCESS; }

API cuEventCreate(Event **event, unsigned) { return *event = new Event, SUCCESS; }
API cuEventDestroy_v2(Event *event) { return delete event, SUCCESS; }
API cuEventRecord(Event *event, void *stream) {
    Guard guard(lock);
    event->stream = stream;
    event->begun = streams[stream].begun;
    event->at = std::chrono::steady_clock::now();
    return SUCCESS;
}
API cuEventSynchronize(Event *event) { return wait_for(event->stream, event->begun), SUCCESS; }
API cuEventQuery(Event *event) {
    Guard guard(lock);
    return streams[event->stream].done >= event->begun ? SUCCESS : NOT_READY;
}
API cuStreamWaitEvent(void *, Event *event, unsigned) { return cuEventSynchronize(event); }
API cuEventElapsedTime_v2(float *ms, Event *from, Event *to) {
    // No device is faster; tuning divides by it.
    *ms = std::max(0.05f, std::chrono::duration<float, std::milli>(to->at - from->at).count());
    return SUCCESS;
}
API cuEventElapsedTime(float *ms, Event *from, Event *to) { return cuEventElapsedTime_v2(ms, from, to); }

// An allocation ends at a page that nobody may touch, and begins as NaN.
API cuMemAlloc_v2(Address *address, size_t size) {
    Guard guard(lock);
    if (size == 0) return INVALID_VALUE;
    if (allocated + size > MEMORY) return OUT_OF_MEMORY;
    size_t room = (size + PAGE - 1) / PAGE * PAGE;
    void *mapped = mmap(nullptr, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return OUT_OF_MEMORY;
    char *base = static_cast<char *>(mapped);
    mprotect(base + room, PAGE, PROT_NONE);
    char *first = base + (room - size) / ALIGNMENT * ALIGNMENT;
    if (size <= FILLED) memset(first, 0xFF, size);
    *address = reinterpret_cast<Address>(first);
    allocations[*address] = {base, room + PAGE, size};
    allocated += size;
    return SUCCESS;
}
API cuMemFree_v2(Address address) {
    Guard guard(lock);
    auto found = allocations.find(address);
    if (found == allocations.end()) {
        fprintf(stderr, "emulator: %llx is freed and was not allocated\n", address);
        abort();
    }
    allocated -= found->second.size;
    munmap(found->second.base, found->second.mapped);
    allocations.erase(found);
    return SUCCESS;
}
API cuMemAllocAsync(Address *address, size_t size, void *) { return cuMemAlloc_v2(address, size); }
API cuMemFreeAsync(Address address, void *) { return cuMemFree_v2(address); }
API cuMemAllocHost_v2(void **address, size_t size) {
    *address = aligned_alloc(PAGE, (size + PAGE - 1) / PAGE * PAGE);
    return *address ? SUCCESS : OUT_OF_MEMORY;
}
API cuMemFreeHost(void *address) { return free(address), SUCCESS; }

API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, void *stream) {
    wait_for_all(stream);
    check(to, size, "an upload");
    memcpy(reinterpret_cast<void *>(to), from, size);
    return SUCCESS;
}
API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, void *stream) {
    wait_for_all(stream);
    check(from, size, "a download");
    memcpy(to, reinterpret_cast<void *>(from), size);
    return SUCCESS;
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void *stream) {
    wait_for_all(stream);
    check(from, size, "a copy");
    check(to, size, "a copy");
    memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), size);
    return SUCCESS;
}
API cuMemsetD8Async(Address to, unsigned char value, size_t size, void *stream) {
    wait_for_all(stream);
    check(to, size, "a memset");
    memset(reinterpret_cast<void *>(to), value, size);
    return SUCCESS;
}

// CUmemorytype
const int HOST = 1;
// CUDA_MEMCPY2D
struct Side {
    size_t x, y;
    int kind;
    const void *host;
    Address device;
    void *array;
    size_t pitch;
    char *at(size_t row) const {
        uintptr_t base = kind == HOST ? reinterpret_cast<uintptr_t>(host) : uintptr_t(device);
        return reinterpret_cast<char *>(base) + x + (y + row) * pitch;
    }
};
struct Copy {
    Side from, to;
    size_t width, height;
};
API cuMemcpy2DAsync_v2(const Copy *copy, void *stream) {
    wait_for_all(stream);
    for (const Side *side : {&copy->from, &copy->to})
        if (side->kind != HOST && copy->height > 0)
            check(reinterpret_cast<Address>(side->at(0)), (copy->height - 1) * side->pitch + copy->width, "a copy of rows");
    for (size_t row = 0; row < copy->height; row++) memcpy(copy->to.at(row), copy->from.at(row), copy->width);
    return SUCCESS;
}
// Bulk copies: compiled, never run.
API cuTensorMapEncodeTiled() { return only_compiles() ? SUCCESS : NOT_SUPPORTED; }

API cuModuleLoadData(Module **module, const void *image) {
    const std::string text = static_cast<const char *>(image);
    auto loaded = new Module;
    loaded->path = text.substr(0, text.find('\n'));
    if (!only_compiles()) {
        loaded->library = dlopen(loaded->path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!loaded->library) {
            fprintf(stderr, "emulator: %s\n", dlerror());
            return NO_BINARY;
        }
    }
    *module = loaded;
    return SUCCESS;
}
API cuModuleGetFunction(Function **function, Module *module, const char *name) {
    auto found = new Function;
    found->name = name;
    if (module->library) {
        void *symbol = dlsym(module->library, (std::string("emulator_call_") + name).c_str());
        if (!symbol) {
            fprintf(stderr, "emulator: %s has no kernel %s\n", module->path.c_str(), name);
            return NOT_FOUND;
        }
        found->call = reinterpret_cast<void (*)(void **)>(symbol);
    }
    *function = found;
    return SUCCESS;
}
API cuFuncSetAttribute(Function *, int, int) { return SUCCESS; }
API cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **arguments, void **) {
    const char *name = function->name.c_str();
    const bool has_grid = gx > 0 && gx <= GRID_X && gy > 0 && gy <= GRID_YZ && gz > 0 && gz <= GRID_YZ;
    const bool has_block = bx > 0 && by > 0 && bz > 0 && bz <= EXTENT_Z && bx * by * bz <= THREADS;
    const bool is_launched = has_grid && has_block && shared <= shared_limit();
    if (!is_launched || traces())
        fprintf(stderr, "emulator: %s: grid %u %u %u, block %u %u %u, %u bytes shared\n", name, gx, gy, gz, bx, by, bz, shared);
    if (!is_launched) return INVALID_VALUE;
    wait_for_all(stream);
    if (function->call) {
        static std::mutex one;
        std::lock_guard<std::mutex> guard(one);
        emulator_launch(function->call, arguments, {gx, gy, gz}, {bx, by, bz}, shared);
    }
    return SUCCESS;
}
