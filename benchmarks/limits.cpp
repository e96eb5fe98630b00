// The limits of a sampler on one core: how fast a block of weights is read from cache, and how many
// multiply-adds per second the vector units compute. It shares no code with the engines.

#include <cstdint>

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif
typedef float Vector __attribute__((vector_size(VECTOR_BYTES), may_alias));

extern "C" {

// Reads a block of `bytes` (a multiple of 1024) `times` times.
float read_block(const char* block, int64_t bytes, int64_t times) {
    Vector sums[8] = {};
    for (int64_t i = 0; i < times; i++)
        for (const char* p = block; p < block + bytes; p += 8 * VECTOR_BYTES)
#pragma GCC unroll 8
            for (int v = 0; v < 8; v++)
                sums[v] += *reinterpret_cast<const Vector*>(p + v * VECTOR_BYTES);
    for (int v = 1; v < 8; v++) sums[0] += sums[v];
    return sums[0][0];
}

// Computes `times` * multiply_adds_per_round() multiply-adds in registers.
float multiply_add(int64_t times, float factor) {
    Vector sums[12];
    const Vector f = factor - Vector{};
    for (int v = 0; v < 12; v++) sums[v] = (float)v - Vector{};
    for (int64_t i = 0; i < times; i++)
#pragma GCC unroll 12
        for (int v = 0; v < 12; v++) sums[v] = sums[v] * f + f;
    for (int v = 1; v < 12; v++) sums[0] += sums[v];
    return sums[0][0];
}

int64_t multiply_adds_per_round() { return 12 * VECTOR_BYTES / 4; }
}
