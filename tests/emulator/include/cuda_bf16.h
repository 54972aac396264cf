// bfloat16: operations are those of f32, rounded to the nearest, ties to even.
#pragma once
#include "device.h"

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) {
        const uint32_t u = emulator::bits<uint32_t>(value);
        const bool is_nan = (u & 0x7fffffff) > 0x7f800000;
        bits = is_nan ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
    }
    template <class T> requires std::is_arithmetic_v<T> __nv_bfloat16(T value) : __nv_bfloat16(float(value)) {}
    operator float() const { return emulator::bits<float>(uint32_t(bits) << 16); }
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

#define OPERATION(op) \
    inline __nv_bfloat16 operator op(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) op float(b); }
OPERATION(+) OPERATION(-) OPERATION(*) OPERATION(/)
#undef OPERATION
#define COMPARISON(op) \
    inline bool operator op(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) op float(b); }
COMPARISON(<) COMPARISON(>) COMPARISON(<=) COMPARISON(>=) COMPARISON(==) COMPARISON(!=)
#undef COMPARISON
#define FUNCTION(name, of_f32) \
    inline __nv_bfloat16 name(__nv_bfloat16 a) { return of_f32(float(a)); }
FUNCTION(operator-, -) FUNCTION(__habs, fabsf) FUNCTION(hexp, expf) FUNCTION(hlog, logf) FUNCTION(hsqrt, sqrtf) FUNCTION(hrsqrt, rsqrt)
FUNCTION(htanh, tanhf) FUNCTION(hfloor, floorf) FUNCTION(hceil, ceilf) FUNCTION(hsin, sinf) FUNCTION(hcos, cosf) FUNCTION(hrint, rintf)
FUNCTION(htrunc, truncf) FUNCTION(hrcp, 1.0f /)
#undef FUNCTION
inline __nv_bfloat16 __hmax(__nv_bfloat16 a, __nv_bfloat16 b) { return fmaxf(a, b); }
inline __nv_bfloat16 __hmin(__nv_bfloat16 a, __nv_bfloat16 b) { return fminf(a, b); }
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) { return fmaf(a, b, c); }
