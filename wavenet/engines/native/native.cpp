// Owns the arithmetic of the native engine. Two loops share its vectors and functions, and a library
// has one of them. Sampling: one WaveNet step for a group of streams, the draw of the next sample,
// and the loop over N samples around both. Feed-forward: audio in, audio out, block by block. Knows
// nothing of Python, files, threads or where its memory comes from: engine.py and feedforward.py
// hand all of it in.
//
// FEED_FORWARD, the names of instructions, makes the feed-forward loop, for all models; see there.
// Without it, sampling is compiled for one model and one CPU. The sizes are macros too:
//   RESIDUAL, GATE, SKIP, HEAD, PARAMS: channels
//   KERNEL: taps of the layers; INPUT_KERNEL: of the input convolution
//   DILATIONS: one for each layer, separated by commas
//   MIXTURES: 0 for a categorical output, else components; NOISE, LOG_SCALE_MIN: of a mixture
//   WEIGHTS: 0 for float32, 1 for bfloat16, 2 for int8
//
// Shapes: B streams, C channels padded to whole vectors, channels innermost. A product's weights
// lie in the order in which they are read, and the products in the order in which a step takes
// them, so that one sample is one pass through memory:
//   [tile of TILE vectors of outputs][group of inputs][vector of the tile][lane][input of group]
// where a group is one input in float32, two in bfloat16, four in int8 (what one dot-product
// instruction takes).
//
// The past taps' product does not wait for the layer below (van den Oord et al. 2016, equation 2;
// the split is nv-wavenet's).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#if (WEIGHTS == 1 && defined(__AVX512BF16__)) || (WEIGHTS == 2 && defined(__AVX512VNNI__))
#include <immintrin.h>
#endif

namespace {

// TILE: vectors of a tile. SUMS: vectors of sums that at most three streams take at once.
#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, TILE = 4, SUMS = 24;  // 32 registers: 4 streams x 4 vectors
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, TILE = 2, SUMS = 12;  // 16 registers: 4 streams x 2
#elif defined(__wasm__)
constexpr int VECTOR_BYTES = 16, TILE = 4, SUMS = 4;  // 16 registers on x86; one tile at a time was fastest
#else
constexpr int VECTOR_BYTES = 16, TILE = 4, SUMS = 24;  // NEON has 32 registers, SSE spills a little
#endif
#if defined(__x86_64__)
#define IN_REGISTER(value) asm("" : "+v"(value))
#elif defined(__wasm__)
#define IN_REGISTER(value)  // there are none
#else
#define IN_REGISTER(value) asm("" : "+w"(value))
#endif
constexpr int LANES = VECTOR_BYTES / 4;
constexpr int STREAMS = 4;  // of one tile

typedef float Vector __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef int32_t Integers __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES), may_alias));

// 1.5 * 2^23: adding it rounds to an integer, kept in the low bits.
constexpr float ROUNDING = 12582912.0f;

constexpr int padded(int channels) { return (channels + LANES - 1) / LANES * LANES; }

#ifndef FEED_FORWARD
constexpr int DILATION[] = {DILATIONS};
constexpr int LAYERS = sizeof(DILATION) / sizeof(DILATION[0]);
constexpr int C = padded(RESIDUAL), G = padded(GATE), S = padded(SKIP);
constexpr int D = padded(HEAD), Q = padded(PARAMS);
#endif

inline Vector splat(float value) { return value - Vector{}; }
inline Vector& vector(float* p) { return *reinterpret_cast<Vector*>(p); }
inline const Vector& vector(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline Vector smaller(Vector a, Vector b) { return b < a ? b : a; }  // a where one is NaN
inline Vector larger(Vector a, Vector b) { return b > a ? b : a; }

#ifndef FEED_FORWARD

// The three kinds of weights. A kind says how a row of inputs is kept (`store`: rounded as weights
// are), what stands before a tile's weights (HEADER elements for each row of outputs) and behind a
// row of inputs (TAIL elements), and how sums begin, grow by the product with one group of inputs,
// and end in y.

struct Float32 {
    using Element = float;
    using Weights = Vector;
    using Sums = Vector;
    static constexpr int GROUP = 1, HEADER = 0, TAIL = 0;
    static Vector inputs(const float* x) { return splat(*x); }
    static Vector weights(const float* w) { return vector(w); }
    static Vector add_product(Vector sums, Vector w, Vector x) { return sums + w * x; }
    static Vector begin(const float* y, const float*) { return vector(y); }
    static void end(float* y, Vector sums, const float*, int, const float*) { vector(y) = sums; }
    static void store(float* to, const float* values, int channels) {
        std::memcpy(to, values, channels * sizeof(float));
    }
};

struct BFloat16 {
    using Element = uint16_t;
    using Weights = Bits;
    using Sums = Vector;
    static constexpr int GROUP = 2, HEADER = 0, TAIL = 0;
    static Bits inputs(const uint16_t* x) {
        uint32_t pair;
        std::memcpy(&pair, x, sizeof pair);
        return pair - Bits{};
    }
    static Bits weights(const uint16_t* w) { return *reinterpret_cast<const Bits*>(w); }
    static Vector begin(const float* y, const uint16_t*) { return vector(y); }
    static void end(float* y, Vector sums, const uint16_t*, int, const uint16_t*) {
        vector(y) = sums;
    }
    static void store(uint16_t* to, const float* values, int channels) {
        for (int i = 0; i < channels; i += LANES) store(to + i, vector(values + i));
    }
#if WEIGHTS == 1 && defined(__AVX512BF16__)
    static Vector add_product(Vector sums, Bits w, Bits x) {
        return (Vector)_mm512_dpbf16_ps((__m512)sums, (__m512bh)w, (__m512bh)x);
    }
    static void store(uint16_t* to, Vector values) {
        _mm256_store_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)values));
    }
#else
    static Vector add_product(Vector sums, Bits w, Bits x) {
        sums += (Vector)(w << 16) * (Vector)(x << 16);  // a bfloat16 is the upper half of a float32
        return sums + (Vector)(w & 0xffff0000u) * (Vector)(x & 0xffff0000u);
    }
    static void store(uint16_t* to, Vector values) {
        typedef uint16_t Halves __attribute__((vector_size(VECTOR_BYTES / 2), may_alias));
        const Bits bits = (Bits)values;
        Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
        rounded = values == values ? rounded : Bits{} + 0x7fc0u;  // or a NaN could become infinite
        *reinterpret_cast<Halves*>(to) = __builtin_convertvector(rounded, Halves);
    }
#endif
};

// Weights are q * scale with q in -127..127 and one scale for each row of outputs; inputs are
// (u - 128) * scale with u in 1..255 and one scale, which stands behind them. So the sum of w x is
// both scales * (sum of q u - 128 * sum of q): the header holds each row's scale and its
// -128 * sum of q.
struct Int8 {
    using Element = int8_t;
    using Weights = Bits;
    using Sums = Integers;
    static constexpr int GROUP = 4, HEADER = 8, TAIL = LANES;
    static Bits inputs(const int8_t* x) {
        uint32_t four;
        std::memcpy(&four, x, sizeof four);
        return four - Bits{};
    }
    static Bits weights(const int8_t* w) { return *reinterpret_cast<const Bits*>(w); }
#if WEIGHTS == 2 && defined(__AVX512VNNI__)
    static Integers add_product(Integers sums, Bits w, Bits x) {
        return (Integers)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)w);
    }
#else
    static Integers add_product(Integers sums, Bits w, Bits x) {
        for (int i = 0; i < 32; i += 8)
            sums += ((Integers)(w << (24 - i)) >> 24) * (Integers)((x >> i) & 0xffu);
        return sums;
    }
#endif
    static Integers begin(const float*, const int8_t* offsets) {
        return *reinterpret_cast<const Integers*>(offsets);
    }
    static void end(float* y, Integers sums, const int8_t* header, int row, const int8_t* tail) {
        float scale;
        std::memcpy(&scale, tail, sizeof scale);
        vector(y) += __builtin_convertvector(sums, Vector) *
                     (vector(reinterpret_cast<const float*>(header) + row) * scale);
    }
    static void store(int8_t* to, const float* values, int channels) {
        typedef uint8_t Bytes __attribute__((vector_size(LANES)));
        Vector largest{}, wrong{};
        for (int i = 0; i < channels; i += LANES) {
            const Vector v = vector(values + i);
            largest = larger(larger(largest, v), -v);
            wrong += v - v;  // NaN where a value is not finite; the scale hands it on
        }
        float top = 0, scale = 0;
        for (int i = 0; i < LANES; i++) top = std::max(top, largest[i]), scale += wrong[i];
        scale += top / 127;
        const Vector inverse = splat(top > 0 ? 127 / top : 0);
        for (int i = 0; i < channels; i += LANES) {
            const Vector shifted = vector(values + i) * inverse + (ROUNDING + 128);
            const Bytes u = __builtin_convertvector((Bits)shifted, Bytes);  // the low byte
            std::memcpy(to + i, &u, sizeof u);
        }
        std::memcpy(to + channels, &scale, sizeof scale);
    }
};

#if WEIGHTS == 0
using Body = Float32;
#elif WEIGHTS == 1
using Body = BFloat16;
#else
using Body = Int8;
#endif
using Element = Body::Element;
constexpr int CX = C + Body::TAIL, GX = G + Body::TAIL;  // a row of inputs as it is kept

// Products

template <typename Kind, int vectors, int in>
constexpr int tile_size =
    vectors * LANES * (Kind::HEADER + (in + Kind::GROUP - 1) / Kind::GROUP * Kind::GROUP);

// y[s] += W x[s] for `streams` streams and `tiles` neighbouring tiles of `vectors` vectors of
// outputs. Each output's sum runs over the inputs in the same order whatever the streams beside it,
// so that a stream sounds the same in every batch, to the bit.
template <typename Kind, int streams, int tiles, int vectors, int in, int y_stride>
inline void tile(float* y, const typename Kind::Element* x, const typename Kind::Element* weights) {
    constexpr int groups = (in + Kind::GROUP - 1) / Kind::GROUP;
    constexpr int row = vectors * LANES * Kind::GROUP;
    constexpr int size = tile_size<Kind, vectors, in>, x_stride = padded(in) + Kind::TAIL;
    constexpr int head = Kind::HEADER * vectors * LANES;
    typename Kind::Sums sums[streams][tiles][vectors];
    for (int s = 0; s < streams; s++)
        for (int t = 0; t < tiles; t++)
            for (int v = 0; v < vectors; v++)
                sums[s][t][v] =
                    Kind::begin(y + s * y_stride + (t * vectors + v) * LANES,
                                weights + t * size + (vectors + v) * LANES * Kind::HEADER / 2);
    for (int i = 0; i < groups; i++) {
        typename Kind::Weights w[tiles][vectors];
#pragma GCC unroll 4
        for (int t = 0; t < tiles; t++)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                w[t][v] = Kind::weights(weights + t * size + head + i * row +
                                        v * LANES * Kind::GROUP);
                if (streams > 1) IN_REGISTER(w[t][v]);  // or it is read again for every stream
            }
#pragma GCC unroll 8
        for (int s = 0; s < streams; s++) {
            const auto inputs = Kind::inputs(x + s * x_stride + i * Kind::GROUP);
#pragma GCC unroll 4
            for (int t = 0; t < tiles; t++)
#pragma GCC unroll 8
                for (int v = 0; v < vectors; v++)
                    sums[s][t][v] = Kind::add_product(sums[s][t][v], w[t][v], inputs);
        }
    }
    for (int s = 0; s < streams; s++)
        for (int t = 0; t < tiles; t++)
            for (int v = 0; v < vectors; v++)
                Kind::end(y + s * y_stride + (t * vectors + v) * LANES, sums[s][t][v],
                          weights + t * size, v * LANES, x + s * x_stride + padded(in));
}

// The same for few streams: tiles at once, as far as registers hold their sums.
template <typename Kind, int streams, int tiles, int vectors, int in, int y_stride>
inline void few(float* y, const typename Kind::Element* x, const typename Kind::Element* weights) {
    constexpr int at_once = streams * tiles * vectors <= SUMS ? tiles : 1;
    for (int t = 0; t < tiles; t += at_once)
        tile<Kind, streams, at_once, vectors, in, y_stride>(
            y + t * vectors * LANES, x, weights + t * tile_size<Kind, vectors, in>);
}

// The same for all streams: a tile of weights is read once and serves them from the cache.
template <typename Kind, int tiles, int vectors, int in, int y_stride>
inline void column(
    float* y, const typename Kind::Element* x, const typename Kind::Element* weights, int batch) {
    constexpr int x_stride = padded(in) + Kind::TAIL;
    int s = 0;
    for (; s + STREAMS <= batch; s += STREAMS)
        for (int t = 0; t < tiles; t++)
            tile<Kind, STREAMS, 1, vectors, in, y_stride>(
                y + s * y_stride + t * vectors * LANES, x + s * x_stride,
                weights + t * tile_size<Kind, vectors, in>);
    y += s * y_stride;
    x += s * x_stride;
    switch (batch - s) {
        case 1: few<Kind, 1, tiles, vectors, in, y_stride>(y, x, weights); break;
        case 2: few<Kind, 2, tiles, vectors, in, y_stride>(y, x, weights); break;
        case 3: few<Kind, 3, tiles, vectors, in, y_stride>(y, x, weights); break;
    }
}

// y (batch, out) += W (out, in) x (batch, in). Returns the weights behind W.
template <typename Kind, int in, int out>
inline const typename Kind::Element* multiply_add(
    float* y, const typename Kind::Element* x, const typename Kind::Element* weights, int batch) {
    constexpr int vectors = out / LANES, whole = vectors / TILE, rest = vectors % TILE;
    for (int t = 0; t + 2 <= whole; t += 2, weights += 2 * tile_size<Kind, TILE, in>)
        column<Kind, 2, TILE, in, out>(y + t * TILE * LANES, x, weights, batch);
    if constexpr (whole % 2) {
        column<Kind, 1, TILE, in, out>(y + (whole - 1) * TILE * LANES, x, weights, batch);
        weights += tile_size<Kind, TILE, in>;
    }
    if constexpr (rest > 0) {
        column<Kind, 1, rest, in, out>(y + whole * TILE * LANES, x, weights, batch);
        weights += tile_size<Kind, rest, in>;
    }
    return weights;
}

#endif  // of sampling's products

// Elementwise

// e^x for |x| < 88, within 2 units in the last place. Cephes' split of ln 2, and its polynomial on
// [-ln 2 / 2, ln 2 / 2].
inline Vector exponential(Vector x) {
    const Vector shifted = x * 1.44269504f + ROUNDING, n = shifted - ROUNDING;
    const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    return p * (Vector)(((Bits)shifted << 23) + 0x3f800000u);  // the shift drops ROUNDING's bits
}

inline Vector between(Vector x, float low, float high) {
    return smaller(larger(x, splat(low)), splat(high));
}

// z = tanh(filter) * sigmoid(gate) (equation 2), both as one fraction of exponentials. Beyond the
// bounds float32 cannot tell the result from its limit.
inline Vector gated(Vector filter, Vector gate) {
    const Vector e = exponential(2.0f * between(filter, -10.0f, 10.0f));
    return (e - 1.0f) / ((e + 1.0f) * (1.0f + exponential(-between(gate, -40.0f, 40.0f))));
}

template <typename F>
inline void for_vectors(int count, F f) {
    for (int i = 0; i < count; i += LANES) f(i);
}

#ifndef FEED_FORWARD

inline void copy_rows(float* to, const float* row, int channels, int batch) {
    for (int b = 0; b < batch; b++) std::memcpy(to + b * channels, row, channels * sizeof(float));
}

}  // namespace

extern "C" {

struct Sampling {
    float temperature;  // 0: the likeliest
    int32_t top_k;      // 0: all
    float top_p;        // 1: all
    float guidance;     // of groups of two streams, see draw_group
};

// A group of streams, and where all that belongs to them lies. Pointers are to whole vectors (64
// bytes).
struct Streams {
    int64_t batch, group, time;  // group: neighbouring streams that share each sample
    const Element* weights;      // all products of a step before the head, in order
    const float* head;           // the head's two products
    const void* embedding;       // see `embed` of the output
    const float* before_gate;    // (frames, LAYERS, B, 2 G): bias and condition
    int64_t hop, offset;         // samples of a frame; those of the first frame that are over
    // input (C), residuals (LAYERS - 1, C), sum of skips (S), head (D), out (Q)
    const float* biases;
    // (slots, B, CX): INPUT_KERNEL - 1 slots of embedded samples, then each layer's history
    Element* ring;
    int64_t* last;   // (B): the last sample, not yet fed
    float* scratch;  // scratch_floats(B)
    float residual_scale;
};

int32_t lanes() { return LANES; }
int32_t tile_vectors() { return TILE; }
int32_t input_group() { return Body::GROUP; }
int64_t streams_bytes() { return sizeof(Streams); }
int32_t tail() { return Body::TAIL; }
int64_t scratch_floats(int64_t batch) { return batch * (C + CX + 2 * G + GX + S + D + Q) + 2 * Q; }

}  // extern "C"

namespace {

// A history of (KERNEL - 1) * dilation inputs: the input of time t lies in slot t mod history,
// where that of t - history lay.
struct History {
    Element* slots;
    int64_t length, dilation;
    Element* at(int64_t time, int64_t row) const { return slots + time % length * row; }
};

// What is added before the gates at sample t of a call, (LAYERS, B, 2 G). hop 0: the one frame
// holds for ever.
const float* frame(const Streams& g, int64_t t) {
    const int64_t index = g.hop ? (g.offset + t) / g.hop : 0;
    return g.before_gate + index * LAYERS * g.batch * 2 * G;
}

// Outputs. One says how a sample becomes features as they are kept (`embed`), and how a sample is
// drawn from its parameters and NOISE random numbers (`draw`; p, spare: room for Q floats each).

#if MIXTURES == 0

// The codes that top-p drops get probability 0. Kept are the likeliest codes, up to the one with
// which their probabilities reach p.
void keep_likeliest(float* p, float* ordered, float top_p) {
    int codes[Q];
    for (int q = 0; q < Q; q++) codes[q] = q;
    std::stable_sort(codes, codes + Q, [&](int a, int b) { return p[a] > p[b]; });
    std::memcpy(ordered, p, Q * sizeof(float));
    double reached = 0, kept = 0;
    for (int q = 0; q < Q; q++) {
        const float here = ordered[codes[q]];
        reached += here;
        if ((float)reached - here < top_p) kept += here;
        else p[codes[q]] = 0;
    }
    for_vectors(Q, [&](int i) { vector(p + i) = vector(p + i) / splat((float)kept); });
}

// wavenet.MuLaw: PARAMS logits, one for each code.
struct Categorical {
    static_assert(Q == PARAMS, "the logits fill whole vectors");

    // table: (PARAMS, CX)
    static void embed(Element* to, int64_t code, const void* table) {
        std::memcpy(to, static_cast<const Element*>(table) + code * CX, CX * sizeof(Element));
    }

    // The rule of wavenet.Sampling: the first code whose cumulative probability exceeds u times the
    // total.
    static int64_t draw(
        const float* logits, const float* u, const Sampling& how, float* p, float* spare) {
        if (how.temperature == 0) return std::max_element(logits, logits + Q) - logits;
        Vector largest = splat(-INFINITY);
        for_vectors(Q, [&](int i) {
            vector(p + i) = vector(logits + i) / splat(how.temperature);
            largest = larger(largest, vector(p + i));
        });
        float top = largest[0];
        for (int i = 1; i < LANES; i++) top = std::max(top, largest[i]);
        float kth = -INFINITY;
        if (how.top_k > 0 && how.top_k < Q) {
            std::memcpy(spare, p, Q * sizeof(float));
            std::nth_element(spare, spare + how.top_k - 1, spare + Q, std::greater<float>());
            kth = spare[how.top_k - 1];
        }
        Vector sums{};
        for_vectors(Q, [&](int i) {
            const Vector e = exponential(larger(vector(p + i) - top, splat(-87.0f)));
            sums += vector(p + i) = vector(p + i) < splat(kth) ? Vector{} : e;
        });
        float total = 0;
        for (int i = 0; i < LANES; i++) total += sums[i];
        for_vectors(Q, [&](int i) { vector(p + i) = vector(p + i) / splat(total); });
        if (how.top_p < 1) keep_likeliest(p, spare, how.top_p);
        double cumulative = 0;
        for (int q = 0; q < Q; q++) p[q] = (float)(cumulative += p[q]);
        const float edge = std::min(*u, 0x1.fffffep-1f) * p[Q - 1];
        Integers below{};
        for_vectors(Q, [&](int i) {
            below -= vector(p + i) <= splat(edge);  // a comparison is -1 where it holds
        });
        int count = 0;
        for (int i = 0; i < LANES; i++) count += below[i];
        return std::min(count, Q - 1);
    }
};

using Output = Categorical;

#else

// wavenet.outputs.Mixture: logits (where PARAMS has room for them), means, log scales, MIXTURES
// each. Of the random numbers the last is a deviate of scale 1, the one before it chooses.
struct LocationScale {
    static constexpr int N = MIXTURES, MEANS = PARAMS - 2 * N, LOG_SCALES = PARAMS - N;
    static constexpr float HALF = 32767.5f;  // levels from audio 0 to audio 1

    // rows: (2, C), features = audio * the first + the second
    static void embed(Element* to, int64_t level, const void* rows) {
        alignas(VECTOR_BYTES) float features[C];
        const float *weight = static_cast<const float*>(rows), *bias = weight + C;
        const Vector audio = splat((2 * level - 65535) / 65535.0f);
        for_vectors(C, [&](int i) {
            vector(features + i) = audio * vector(weight + i) + vector(bias + i);
        });
        Body::store(to, features, C);
    }

    // The rule of wavenet.Sampling, as above, without top-k and top-p.
    static int choose(const float* logits, float u, float temperature) {
        const int top = (int)(std::max_element(logits, logits + N) - logits);
        if (temperature == 0) return top;
        float cumulative[N];
        double total = 0;
        for (int i = 0; i < N; i++)
            cumulative[i] = (float)(total += std::exp((logits[i] - logits[top]) / temperature));
        const float edge = std::min(u, 0x1.fffffep-1f) * cumulative[N - 1];
        int chosen = 0;
        while (chosen < N - 1 && cumulative[chosen] <= edge) chosen++;
        return chosen;
    }

    static int64_t draw(
        const float* params, const float* noise, const Sampling& how, float*, float*) {
        const int i = MEANS > 0 ? choose(params, noise[0], how.temperature) : 0;
        const float log_scale = between(params[LOG_SCALES + i], LOG_SCALE_MIN, 20.0f);
        float audio = params[MEANS + i];
        if (how.temperature > 0) audio += how.temperature * std::exp(log_scale) * noise[NOISE - 1];
        return (int64_t)between(std::floor(HALF * audio), -32768.0f, 32767.0f) + 32768;
    }

    static float between(float x, float low, float high) {
        return std::min(std::max(x, low), high);
    }
};

using Output = LocationScale;

#endif

// One step: feeds each stream's last sample; returns its parameters (B, Q) in scratch.
const float* step(Streams& g, const float* before_gate) {
    const int batch = (int)g.batch;
    const int64_t row = (int64_t)batch * CX;
    float *x = g.scratch, *h = x + batch * C, *skips = h + batch * 2 * G,
          *hidden = skips + batch * S, *params = hidden + batch * D;
    Element *rounded = reinterpret_cast<Element*>(params + batch * Q), *z = rounded + row;
    const Element* w = g.weights;
    const float* bias = g.biases;
    History past{g.ring, INPUT_KERNEL - 1, 1};

    for (int b = 0; b < batch; b++) Output::embed(rounded + b * CX, g.last[b], g.embedding);
    copy_rows(x, bias, C, batch);
    bias += C;
    for (int k = INPUT_KERNEL - 1; k > 0; k--)
        w = multiply_add<Body, RESIDUAL, C>(
            x, past.at(g.time + INPUT_KERNEL - 1 - k, row), w, batch);
    w = multiply_add<Body, RESIDUAL, C>(x, rounded, w, batch);
    if (INPUT_KERNEL > 1) std::memcpy(past.at(g.time, row), rounded, row * sizeof(Element));

    const float* skip_bias = bias + (LAYERS - 1) * C;
    copy_rows(skips, skip_bias, S, batch);
    for (int layer = 0; layer < LAYERS; layer++) {
        past = {past.slots + past.length * row, (KERNEL - 1) * (int64_t)DILATION[layer],
                DILATION[layer]};
        std::memcpy(h, before_gate + (int64_t)layer * batch * 2 * G, batch * 2 * G * sizeof(float));
        // Oldest first: t - k * dilation, in the slot of t + (KERNEL - 1 - k) * dilation.
        for (int k = KERNEL - 1; k > 0; k--)
            w = multiply_add<Body, RESIDUAL, 2 * G>(
                h, past.at(g.time + (KERNEL - 1 - k) * past.dilation, row), w, batch);
        for (int b = 0; b < batch; b++) Body::store(rounded + b * CX, x + b * C, C);
        w = multiply_add<Body, RESIDUAL, 2 * G>(h, rounded, w, batch);
        if (KERNEL > 1) std::memcpy(past.at(g.time, row), rounded, row * sizeof(Element));
        for (int b = 0; b < batch; b++) {
            float* both = h + b * 2 * G;  // the gate's result takes the filter's place
            for_vectors(G, [&](int i) {
                vector(both + i) = gated(vector(both + i), vector(both + G + i));
            });
            Body::store(z + b * GX, both, G);
        }
        if (layer < LAYERS - 1) {
            for (int b = 0; b < batch; b++)
                for_vectors(C, [&](int i) { vector(x + b * C + i) += vector(bias + i); });
            bias += C;
            w = multiply_add<Body, GATE, C>(x, z, w, batch);
            if (g.residual_scale != 1.0f)
                for_vectors(batch * C, [&](int i) { vector(x + i) *= g.residual_scale; });
        }
        w = multiply_add<Body, GATE, S>(skips, z, w, batch);
    }

    const auto relu = [](float* values, int count) {
        for_vectors(count, [&](int i) {
            vector(values + i) = larger(vector(values + i), splat(0.0f));
        });
    };
    bias = skip_bias + S;
    relu(skips, batch * S);
    copy_rows(hidden, bias, D, batch);
    const float* head = multiply_add<Float32, SKIP, D>(hidden, skips, g.head, batch);
    relu(hidden, batch * D);
    copy_rows(params, bias + D, Q, batch);
    multiply_add<Float32, HEAD, Q>(params, hidden, head, batch);
    g.time++;
    return params;
}

bool finite(const float* params) {
    Vector differences{};
    for_vectors(Q, [&](int i) {
        differences += vector(params + i) - vector(params + i);  // 0, or NaN where not finite
    });
    for (int i = 0; i < LANES; i++)
        if (!(differences[i] == 0.0f)) return false;
    return true;
}

// One sample for a group of streams, whose params (group, Q) lie one behind the other. In a group
// of two, the second's are made without a condition, and the first's are pushed away from them
// (classifier-free guidance).
int64_t draw_group(
    const float* params, int64_t group, const float* noise, const Sampling& how, float* p,
    float* spare) {
    if (group == 2) {
        const float* without = params + Q;
        const Vector w = splat(how.guidance);
        for_vectors(Q, [&](int i) {
            vector(p + i) = vector(params + i) + w * (vector(params + i) - vector(without + i));
        });
        params = p;
    }
    return Output::draw(params, noise, how, p, spare);
}

}  // namespace

extern "C" {

// Free running: noise (B / group, n, NOISE) -> samples (B / group, n). Returns n, or the sample at
// which the params were not finite.
int64_t sample(
    Streams* g, int64_t n, const float* noise, int64_t* samples, const Sampling* how) {
    float *p = g->scratch + scratch_floats(g->batch) - 2 * Q, *spare = p + Q;
    const int64_t group = g->group;
    for (int64_t t = 0; t < n; t++) {
        const float* params = step(*g, frame(*g, t));
        for (int64_t b = 0; b < g->batch; b++)
            if (!finite(params + b * Q)) return t;
        for (int64_t row = 0; row < g->batch / group; row++) {
            const int64_t drawn = draw_group(
                params + row * group * Q, group, noise + (row * n + t) * NOISE, *how, p,
                spare);
            samples[row * n + t] = drawn;
            for (int64_t s = row * group; s < (row + 1) * group; s++) g->last[s] = drawn;
        }
    }
    return n;
}

// Teacher forced: the next samples (B, n) -> their params (n, B, Q).
void teacher_forced(Streams* g, int64_t n, const int64_t* samples, float* params) {
    for (int64_t t = 0; t < n; t++, params += g->batch * Q) {
        std::memcpy(params, step(*g, frame(*g, t)), g->batch * Q * sizeof(float));
        for (int64_t b = 0; b < g->batch; b++) g->last[b] = samples[b * n + t];
    }
}

}  // extern "C"

#else  // FEED_FORWARD

}  // namespace

// Feed-forward networks: a program of instructions over planes, run for BLOCK samples at a time.
//
// A plane is one channel in time, and vectors run over time: any number of channels fills them. A
// buffer is some planes. One with a history is a stream's own, and a product reads it some samples
// late, which is what a dilated convolution's tap does:
//
//     history 4, taps 4, 2 and 0 late      . . . . a b c d e f g h . . . .
//                                          |-------| <- 4 late
//                                              |-------| <- 2 late
//                                                  |-------| the block now, from `at` on
//
// A block is written behind the one before it; where a row has no more room, the history moves back
// to its front. Other buffers are scratch that one block leaves to the next.
//
// What lies in a vector behind the block's end is computed like the rest and read by nobody.

extern "C" {

// Planes of a buffer, so many samples late. buffer -1: there is none.
struct Signal {
    int32_t buffer, first, channels, delay;
};

// sources: of the list of all; numbers: where its weights or constants begin.
struct Instruction {
    int32_t kind, sources;
    int64_t first_source, numbers;
    Signal out, plus;
};

// Where plane 0 begins, floats from plane to plane, how many of them are samples, and how many
// planes there are.
struct Buffer {
    int64_t offset, stride, history, room, planes;
};

// A tensor outside, (streams, channels, n), by what is between neighbours.
struct Port {
    float* data;
    int64_t stream, channel, time;
};

struct Program {
    const Instruction* instructions;
    int64_t length;
    const Signal* sources;
    const Buffer* buffers;
    int64_t buffer_count;
    const float* numbers;
};

// Streams of one thread. memory: (B, memory_floats); at: (B, buffer_count), where the next sample
// of each buffer belongs, 0 for those without a history.
struct Streams {
    int64_t first, count;
    float* memory;
    int64_t memory_floats;
    int64_t* at;
    float* scratch;
};

}  // extern "C"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 4, COLUMNS = 4;  // of a tile of a product: outputs, vectors of time
#elif defined(__AVX__)
constexpr int ROWS = 4, COLUMNS = 3;
#else
constexpr int ROWS = 4, COLUMNS = 4;
#endif
constexpr int BLOCK = 64;  // samples: four of the widest vectors
constexpr int MOST_PORTS = 8;  // tensors that go in and out

enum Kind { FEED_FORWARD };  // an instruction

// A vector anywhere in memory: a tap is any number of samples late.
typedef float Anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
inline Anywhere& anywhere(float* p) { return *reinterpret_cast<Anywhere*>(p); }
inline const Anywhere& anywhere(const float* p) { return *reinterpret_cast<const Anywhere*>(p); }

// A stream's planes as they lie while a block is computed.
struct Planes {
    const Program& program;
    float* memory;
    float* scratch;
    const int64_t* at;

    const Buffer& buffer(const Signal& s) const { return program.buffers[s.buffer]; }
    int64_t stride(const Signal& s) const { return buffer(s).stride; }
    float* operator()(const Signal& s) const {
        const Buffer& b = buffer(s);
        float* const home = b.history ? memory : scratch;
        return home + b.offset + s.first * b.stride + at[s.buffer] - s.delay;
    }
};

// y[r] = b[r] + plus[r] + sum over planes x of w[r] x, for `rows` outputs from `row` on and
// `columns` vectors of time from t on. numbers: the rows' biases, then their weights, plane by
// plane. Each output's sum runs over the planes in the same order wherever the block begins, so
// that a sample is the same however the audio is cut, to the bit.
template <int rows, int columns>
inline void product_tile(
    const Planes& planes, const Instruction& i, const float* numbers, int row, int t) {
    Vector sums[rows][columns];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) sums[r][c] = splat(numbers[r]);
    if (i.plus.buffer >= 0) {
        const int64_t stride = planes.stride(i.plus);
        const float* plus = planes(i.plus) + row * stride + t;
        for (int r = 0; r < rows; r++, plus += stride)
            for (int c = 0; c < columns; c++) sums[r][c] += anywhere(plus + c * LANES);
    }
    const float* w = numbers + rows;
    const Signal* const sources = planes.program.sources + i.first_source;
    for (int s = 0; s < i.sources; s++) {
        const float* x = planes(sources[s]) + t;
        const int64_t stride = planes.stride(sources[s]);
        for (int channel = 0; channel < sources[s].channels; channel++, x += stride, w += rows) {
            Vector in[columns];
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) {
                in[c] = anywhere(x + c * LANES);
                IN_REGISTER(in[c]);  // or it is read again for every row
            }
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const Vector weight = splat(w[r]);
#pragma GCC unroll 4
                for (int c = 0; c < columns; c++) sums[r][c] += weight * in[c];
            }
        }
    }
    const int64_t stride = planes.stride(i.out);
    float* y = planes(i.out) + row * stride + t;
    for (int r = 0; r < rows; r++, y += stride)
        for (int c = 0; c < columns; c++) anywhere(y + c * LANES) = sums[r][c];
}

template <int rows>
inline void product_rows(
    const Planes& planes, const Instruction& i, const float* numbers, int row, int vectors) {
    int v = 0;
    for (; v + COLUMNS <= vectors; v += COLUMNS)
        product_tile<rows, COLUMNS>(planes, i, numbers, row, v * LANES);
    switch (vectors - v) {
        case 1: product_tile<rows, 1>(planes, i, numbers, row, v * LANES); break;
        case 2: product_tile<rows, 2>(planes, i, numbers, row, v * LANES); break;
        case 3: product_tile<rows, 3>(planes, i, numbers, row, v * LANES); break;
    }
}

void product(const Planes& planes, const Instruction& i, int vectors) {
    const float* numbers = planes.program.numbers + i.numbers;
    int64_t inputs = 0;
    for (int s = 0; s < i.sources; s++)
        inputs += planes.program.sources[i.first_source + s].channels;
    int row = 0;
    for (; row + ROWS <= i.out.channels; row += ROWS, numbers += ROWS * (1 + inputs))
        product_rows<ROWS>(planes, i, numbers, row, vectors);
    switch (i.out.channels - row) {
        case 1: product_rows<1>(planes, i, numbers, row, vectors); break;
        case 2: product_rows<2>(planes, i, numbers, row, vectors); break;
        case 3: product_rows<3>(planes, i, numbers, row, vectors); break;
    }
}

// y = f(constants of the channel, x...) at each time by itself, of `sources` signals x.
template <int sources, int count, typename F>
inline void each(const Planes& planes, const Instruction& i, int vectors, F f) {
    const Signal* const of = planes.program.sources + i.first_source;
    const float *constants = planes.program.numbers + i.numbers, *x[sources];
    int64_t strides[sources];
    for (int s = 0; s < sources; s++) x[s] = planes(of[s]), strides[s] = planes.stride(of[s]);
    float* y = planes(i.out);
    const int64_t stride = planes.stride(i.out);
    for (int channel = 0; channel < i.out.channels; channel++, y += stride, constants += count) {
        for (int t = 0; t < vectors * LANES; t += LANES) {
            const auto in = [&](int s) { return (Vector)anywhere(x[s] + t); };
            if constexpr (sources == 1) anywhere(y + t) = f(constants, in(0));
            if constexpr (sources == 2) anywhere(y + t) = f(constants, in(0), in(1));
            if constexpr (sources == 3) anywhere(y + t) = f(constants, in(0), in(1), in(2));
        }
        for (int s = 0; s < sources; s++) x[s] += strides[s];
    }
}

inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(-between(x, -40.0f, 40.0f))); }

inline Vector tanh(Vector x) {
    const Vector e = exponential(2.0f * between(x, -10.0f, 10.0f));
    return (e - 1.0f) / (e + 1.0f);
}

inline Vector magnitude(Vector x) { return (Vector)((Bits)x & 0x7fffffffu); }
inline Vector softsign(Vector x) { return x / (1.0f + magnitude(x)); }

// A rational function close to tanh, which amplifier plugins compute in its place.
inline Vector rational_tanh(Vector x) {
    const Vector size = magnitude(x), square = x * x;
    const Vector above = 2.45550750702956f * (1.0f + size) +
                         (0.893229853513558f + 0.821226666969744f * size) * square;
    const Vector inner = magnitude(x + 0.814642734961073f * x * size);
    return x * above / (2.44506634652299f + (2.44506634652299f + square) * inner);
}

// Straight lines: x between two bounds, a slope below and one above them.
inline Vector bent(Vector x, float low, float high, float below, float above) {
    return between(x, low, high) + below * smaller(x - low, Vector{}) +
           above * larger(x - high, Vector{});
}

void load(const Planes& planes, const Instruction& i, const Port& port, int64_t from, int n) {
    float* to = planes(i.out);
    for (int channel = 0; channel < i.out.channels; channel++, to += planes.stride(i.out)) {
        const float* x = port.data + channel * port.channel + from * port.time;
        if (port.time == 1) std::memcpy(to, x, n * sizeof(float));
        else
            for (int t = 0; t < n; t++) to[t] = x[t * port.time];
    }
}

void store(const Planes& planes, const Signal& source, const Port& port, int64_t from, int n) {
    const float* x = planes(source);
    for (int channel = 0; channel < source.channels; channel++, x += planes.stride(source))
        std::memcpy(port.data + channel * port.channel + from, x, n * sizeof(float));
}

void run(const Planes& planes, const Instruction& i, const Port* ports, int64_t from, int n) {
    using V = Vector;
    using K = const float*;
    const int vectors = (n + LANES - 1) / LANES;
    const auto one = [&](auto f) { each<1, 0>(planes, i, vectors, f); };
    const auto two = [&](auto f) { each<2, 0>(planes, i, vectors, f); };
    const auto three = [&](auto f) { each<3, 0>(planes, i, vectors, f); };
    switch (static_cast<Kind>(i.kind)) {
        case LOAD: return load(planes, i, ports[i.numbers], from, n);
        case STORE:
            return store(planes, planes.program.sources[i.first_source], ports[i.numbers], from, n);
        case PRODUCT: return product(planes, i, vectors);
        case COPY: return one([](K, V x) { return x; });
        case TANH: return one([](K, V x) { return tanh(x); });
        case SIGMOID: return one([](K, V x) { return sigmoid(x); });
        case SILU: return one([](K, V x) { return x * sigmoid(x); });
        case HARDSWISH: return one([](K, V x) { return x * between(x + 3.0f, 0, 6) / 6.0f; });
        case SOFTSIGN: return one([](K, V x) { return softsign(x); });
        case SOFTSIGMOID: return one([](K, V x) { return 0.5f * (1.0f + softsign(x)); });
        case RATIONAL_TANH: return one([](K, V x) { return rational_tanh(x); });
        case ELU:
            return each<1, 1>(planes, i, vectors, [](K k, V x) {
                return larger(x, V{}) + k[0] * (exponential(between(x, -80, 0)) - 1.0f);
            });
        case BENT:
            return each<1, 4>(planes, i, vectors, [](K k, V x) {
                return bent(x, k[0], k[1], k[2], k[3]);
            });
        case SCALE: return each<1, 1>(planes, i, vectors, [](K k, V x) { return k[0] * x; });
        case ADD: return two([](K, V x, V y) { return x + y; });
        case MULTIPLY: return two([](K, V x, V y) { return x * y; });
        case GATED: return two([](K, V filter, V gate) { return gated(filter, gate); });
        case MULTIPLY_ADD: return three([](K, V x, V y, V z) { return x * y + z; });
        case BLEND: return three([](K, V g, V x, V y) { return g * x + (1.0f - g) * y; });
    }
}

// Moves histories back to the front of their rows where a block has no more room behind them.
void make_room(const Program& program, float* memory, int64_t* at) {
    for (int64_t index = 0; index < program.buffer_count; index++) {
        const Buffer& b = program.buffers[index];
        if (!b.history || at[index] + BLOCK <= b.room) continue;
        float* row = memory + b.offset;
        for (int64_t plane = 0; plane < b.planes; plane++, row += b.stride)
            std::memmove(row, row + at[index] - b.history, b.history * sizeof(float));
        at[index] = b.history;
    }
}

// One stream's next n samples. ports: of this stream.
void process_stream(
    const Program& program, float* memory, int64_t* at, float* scratch, const Port* ports,
    int64_t n) {
    const Planes planes{program, memory, scratch, at};
    for (int64_t from = 0; from < n; from += BLOCK) {
        const int here = (int)std::min<int64_t>(BLOCK, n - from);
        make_room(program, memory, at);
        for (int64_t i = 0; i < program.length; i++)
            run(planes, program.instructions[i], ports, from, here);
        for (int64_t index = 0; index < program.buffer_count; index++)
            if (program.buffers[index].history) at[index] += here;
    }
}

}  // namespace

extern "C" {

int32_t block() { return BLOCK; }
int32_t rows() { return ROWS; }
int32_t most_ports() { return MOST_PORTS; }

// The next n samples of all the streams. ports: what LOAD reads and STORE writes, MOST_PORTS.
void process(const Program* program, const Streams* streams, const Port* ports, int64_t n) {
    for (int64_t s = streams->first; s < streams->first + streams->count; s++) {
        Port own[MOST_PORTS];
        for (int port = 0; port < MOST_PORTS; port++) {
            own[port] = ports[port];
            if (own[port].data) own[port].data += s * own[port].stream;
        }
        process_stream(
            *program, streams->memory + s * streams->memory_floats,
            streams->at + s * program->buffer_count, streams->scratch, own, n);
    }
}

}  // extern "C"

#endif
