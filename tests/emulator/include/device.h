// What a kernel finds without including anything: CUDA's words and functions, for one thread at a time.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
    unsigned x, y, z;
};

extern "C" {
extern uint3 threadIdx, blockIdx, blockDim, gridDim;
extern char *emulator_shared;
void emulator_sync_block();
// Waits for the living lanes of the warp.
void emulator_sync_warp();
void emulator_let_others();
unsigned emulator_lane();
unsigned emulator_living();
uint32_t (*emulator_words())[16];
}

namespace emulator {

template <class To, class From> To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A> *>(arguments[I])...);
}
template <class... A> void call(void (*kernel)(A...), void **arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>{});
}

// Each lane's value of another one.
template <class T> T shuffle(T value, unsigned from) {
    static_assert(sizeof(T) <= 8);
    auto words = emulator_words();
    memcpy(words[emulator_lane()], &value, sizeof value);
    emulator_sync_warp();
    memcpy(&value, words[from % 32], sizeof value);
    emulator_sync_warp();
    return value;
}

}  // namespace emulator

inline void __syncthreads() { emulator_sync_block(); }
inline void __syncwarp(unsigned = ~0u) { emulator_sync_warp(); }
inline void __threadfence() {}
inline unsigned __activemask() { return emulator_living(); }
template <class T> T __shfl_sync(unsigned, T value, unsigned lane) { return emulator::shuffle(value, lane); }
template <class T> T __shfl_xor_sync(unsigned, T value, unsigned mask) { return emulator::shuffle(value, emulator_lane() ^ mask); }

inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
const int warpSize = 32;
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline float rsqrt(float v) { return 1.0f / sqrtf(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frsqrt_rn(float v) { return 1.0f / sqrtf(v); }
inline float __frcp_rn(float v) { return 1.0f / v; }
inline float __expf(float v) { return expf(v); }
inline float __logf(float v) { return logf(v); }
inline float __sinf(float v) { return sinf(v); }
inline float __cosf(float v) { return cosf(v); }
inline float __powf(float a, float b) { return powf(a, b); }
inline float __fsqrt_rn(float v) { return sqrtf(v); }
inline float __tanhf(float v) { return tanhf(v); }
using std::abs, std::ceil, std::cos, std::erf, std::exp, std::floor, std::fma, std::isinf, std::isnan, std::log, std::log1p, std::pow,
    std::round, std::sin, std::sqrt, std::tanh, std::trunc;

template <class T, class U> T atomicAdd(T *at, U value) {
    T old = *at;
    *at = old + T(value);
    return old;
}

// Shared memory has addresses of 32 bits, from 0 on.
inline uint64_t __cvta_generic_to_shared(const void *at) { return static_cast<const char *>(at) - emulator_shared; }

#include "ptx.h"
