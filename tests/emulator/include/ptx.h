// Instructions that CubeCL writes as assembly, after the PTX ISA (https://docs.nvidia.com/cuda/parallel-thread-execution).
#pragma once

namespace emulator {

inline float tf32(float value) {
    uint32_t u = bits<uint32_t>(value);
    if ((u & 0x7f800000) != 0x7f800000) u = (u + 0x1000) & ~0x1fffu;
    return bits<float>(u);
}

// The two halves of a register of two bf16.
inline float half(uint32_t pair, unsigned i) { return bits<float>(i == 0 ? pair << 16 : pair & 0xffff0000u); }

// `A` gives element k of a row of a lane's registers of A, `B` of a column of B.
template <unsigned K, class A, class B> void mma(float *d, A a, B b, const uint32_t (&mine)[6]) {
    auto words = emulator_words();
    const unsigned lane = emulator_lane(), group = lane / 4, in_group = lane % 4;
    memcpy(words[lane], mine, sizeof mine);
    emulator_sync_warp();
    for (unsigned i = 0; i < 4; i++) {
        const unsigned lower = i / 2, column = in_group * 2 + i % 2;
        for (unsigned k = 0; k < K; k++) d[i] += a(words, group, lower, k) * b(words, column, k);
    }
    emulator_sync_warp();
}

using Words = uint32_t (*)[16];

inline void mma_m16n8k8_tf32(float &d0, float &d1, float &d2, float &d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                             uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3) {
    float d[4] = {c0, c1, c2, c3};
    mma<8>(
        d, [](Words w, unsigned row, unsigned lower, unsigned k) { return tf32(bits<float>(w[row * 4 + k % 4][lower + k / 4 * 2])); },
        [](Words w, unsigned column, unsigned k) { return tf32(bits<float>(w[column * 4 + k % 4][4 + k / 4])); },
        {a0, a1, a2, a3, b0, b1});
    d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
}

inline void mma_m16n8k16_bf16(float &d0, float &d1, float &d2, float &d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                              uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3) {
    float d[4] = {c0, c1, c2, c3};
    mma<16>(
        d,
        [](Words w, unsigned row, unsigned lower, unsigned k) { return half(w[row * 4 + k % 8 / 2][lower + k / 8 * 2], k % 2); },
        [](Words w, unsigned column, unsigned k) { return half(w[column * 4 + k % 8 / 2][4 + k / 8], k % 2); },
        {a0, a1, a2, a3, b0, b1});
    d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
}

// Matrices of 8 by 8 numbers of 16 bits; lane 8 m + r has the address of row r of matrix m.
template <unsigned COUNT, bool TRANSPOSED> void ldmatrix(uint32_t *out, uint32_t address) {
    auto words = emulator_words();
    const unsigned lane = emulator_lane();
    words[lane][0] = address;
    emulator_sync_warp();
    for (unsigned matrix = 0; matrix < COUNT; matrix++) {
        uint16_t pair[2];
        for (unsigned i = 0; i < 2; i++) {
            const unsigned outer = lane / 4, inner = lane % 4 * 2 + i;
            const unsigned row = TRANSPOSED ? inner : outer, column = TRANSPOSED ? outer : inner;
            memcpy(&pair[i], emulator_shared + words[matrix * 8 + row][0] + column * 2, sizeof pair[i]);
        }
        memcpy(&out[matrix], pair, sizeof pair);
    }
    emulator_sync_warp();
}
template <bool TRANSPOSED> void ldmatrix_x2(uint32_t &a, uint32_t &b, uint32_t address) {
    uint32_t out[2];
    ldmatrix<2, TRANSPOSED>(out, address);
    a = out[0], b = out[1];
}
template <bool TRANSPOSED> void ldmatrix_x4(uint32_t &a, uint32_t &b, uint32_t &c, uint32_t &d, uint32_t address) {
    uint32_t out[4];
    ldmatrix<4, TRANSPOSED>(out, address);
    a = out[0], b = out[1], c = out[2], d = out[3];
}

// Of 16 bytes the first `size`, the rest zero; done at once.
template <class Pointer> void cp_async(uint32_t to, Pointer from, uint32_t size) {
    memset(emulator_shared + to, 0, 16);
    memcpy(emulator_shared + to, reinterpret_cast<const void *>(uintptr_t(from)), size);
}
// Expects one arrival more and, as the copies are done, arrives.
inline void cp_async_arrive(uint32_t) {}

template <class Pointer> void atom_add(float &old, Pointer at, float value) {
    old = atomicAdd(reinterpret_cast<float *>(uintptr_t(at)), value);
}

}  // namespace emulator
