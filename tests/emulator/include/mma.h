// Matrices of a warp. Lane 0 has them whole and computes; the others have nothing.
#pragma once
#include "cuda_bf16.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
namespace precision {
struct tf32;
}
enum layout_t { mem_row_major, mem_col_major };

template <class T> struct Stored {
    using Type = T;
};
template <> struct Stored<precision::tf32> {
    using Type = float;
};

template <class Use, int M, int N, int K> struct Extents;
template <int M, int N, int K> struct Extents<matrix_a, M, N, K> {
    static const int ROWS = M, COLUMNS = K;
};
template <int M, int N, int K> struct Extents<matrix_b, M, N, K> {
    static const int ROWS = K, COLUMNS = N;
};
template <int M, int N, int K> struct Extents<accumulator, M, N, K> {
    static const int ROWS = M, COLUMNS = N;
};

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment : Extents<Use, M, N, K> {
    static const int num_elements = fragment::ROWS * fragment::COLUMNS;
    typename Stored<T>::Type x[num_elements];
};

template <class Use, int M, int N, int K, class T, class L, class S>
void fill_fragment(fragment<Use, M, N, K, T, L> &f, S value) {
    for (auto &x : f.x) x = value;
}

template <class Fragment, class S> void load(Fragment &f, const S *from, unsigned stride, bool by_rows) {
    emulator_sync_warp();
    if (emulator_lane() == 0)
        for (int i = 0; i < Fragment::ROWS; i++)
            for (int j = 0; j < Fragment::COLUMNS; j++) f.x[i * Fragment::COLUMNS + j] = by_rows ? from[i * stride + j] : from[j * stride + i];
    emulator_sync_warp();
}
template <class Use, int M, int N, int K, class T, class S>
void load_matrix_sync(fragment<Use, M, N, K, T, row_major> &f, const S *from, unsigned stride) {
    load(f, from, stride, true);
}
template <class Use, int M, int N, int K, class T, class S>
void load_matrix_sync(fragment<Use, M, N, K, T, col_major> &f, const S *from, unsigned stride) {
    load(f, from, stride, false);
}
template <int M, int N, int K, class T, class S>
void load_matrix_sync(fragment<accumulator, M, N, K, T> &f, const S *from, unsigned stride, layout_t layout) {
    load(f, from, stride, layout == mem_row_major);
}

template <int M, int N, int K, class T, class S>
void store_matrix_sync(S *to, const fragment<accumulator, M, N, K, T> &f, unsigned stride, layout_t layout) {
    emulator_sync_warp();
    if (emulator_lane() == 0)
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) (layout == mem_row_major ? to[i * stride + j] : to[j * stride + i]) = f.x[i * N + j];
    emulator_sync_warp();
}

template <int M, int N, int K, class T, class LA, class LB, class C>
void mma_sync(fragment<accumulator, M, N, K, C> &d, const fragment<matrix_a, M, N, K, T, LA> &a,
              const fragment<matrix_b, M, N, K, T, LB> &b, const fragment<accumulator, M, N, K, C> &c) {
    if (emulator_lane() != 0) return;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            float sum = c.x[i * N + j];
            for (int k = 0; k < K; k++) sum += float(a.x[i * K + k]) * float(b.x[k * N + j]);
            d.x[i * N + j] = sum;
        }
}

inline float __float_to_tf32(float value) { return emulator::tf32(value); }

}  // namespace nvcuda::wmma
