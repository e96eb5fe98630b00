// Owns the arithmetic of the native engine: one WaveNet step for a group of streams, the draw of
// the next sample, and the loop over N samples around both. Knows nothing of Python, files, threads
// or where its memory comes from: engine.py hands all of it in.
//
// Compiled for one model and one CPU. The sizes are constants, given as macros:
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

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, TILE = 4;  // 32 registers: 4 streams x 4 vectors of sums
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, TILE = 2;  // 16 registers: 4 streams x 2
#else
constexpr int VECTOR_BYTES = 16, TILE = 4;  // NEON has 32 registers, SSE spills a little
#endif
#if defined(__x86_64__)
#define IN_REGISTER(value) asm("" : "+v"(value))
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

constexpr int DILATION[] = {DILATIONS};
constexpr int LAYERS = sizeof(DILATION) / sizeof(DILATION[0]);
constexpr int C = padded(RESIDUAL), G = padded(GATE), S = padded(SKIP);
constexpr int D = padded(HEAD), Q = padded(PARAMS);

inline Vector splat(float value) { return value - Vector{}; }
inline Vector& vector(float* p) { return *reinterpret_cast<Vector*>(p); }
inline const Vector& vector(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline Vector smaller(Vector a, Vector b) { return b < a ? b : a; }  // a where one is NaN
inline Vector larger(Vector a, Vector b) { return b > a ? b : a; }

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
        case 1: tile<Kind, 1, tiles, vectors, in, y_stride>(y, x, weights); break;
        case 2: tile<Kind, 2, tiles, vectors, in, y_stride>(y, x, weights); break;
        case 3: tile<Kind, 3, tiles, vectors, in, y_stride>(y, x, weights); break;
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
