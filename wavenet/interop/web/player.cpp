// Owns one clip from its seed to its audio, for a page: the random numbers of a torch generator,
// the length, what steers each frame, and audio chunk by chunk. Compiled behind native.cpp, in one
// unit with it, for a model whose samples are codes. Knows nothing of pages: they hand in memory.
//
// Macros beside those of native.cpp:
//   CONDITION: channels of what steers the model; 0: nothing does
//   LABELS, CATEGORIES: labels of a clip, and the categories of all of them together
//   POSITION_HOP: samples of a frame of the position; 0: the model does not know its position
//   POSITION_FRAMES, POSITION_SHARES: rows of the position's tables
//   SILENCE: the code that is read first
//   PACKED_LANES, PACKED_TILE: what the weights were packed for

#include <new>
#include <random>

#ifdef __wasm__  // no library of C++ is linked; std::stable_sort does without more memory
const std::nothrow_t std::nothrow{};
void* operator new(size_t, const std::nothrow_t&) noexcept { return nullptr; }
void operator delete(void*) noexcept {}
#endif

static_assert(LANES == PACKED_LANES && TILE == PACKED_TILE, "weights packed for other vectors");

namespace {

constexpr int CHUNK = 1024;     // samples drawn at once, at most
constexpr double WIDEST = 2.0;  // standard deviations of a drawn length
constexpr int E = padded(CONDITION);

// The arrays of a model lie one behind the other, each on a 64-byte boundary. In front of them
// stands how many bytes from the beginning each of them lies, in this order.
enum Array {
    BODY_WEIGHTS,  // the first four as in Streams
    HEAD_WEIGHTS,
    EMBEDDING,
    BIASES,
    GATE_BIASES,  // (LAYERS, 2 G)
    STEERING,     // LAYERS products (2 G, CONDITION)
    ROWS,         // (CATEGORIES, E); of the position (2 POSITION_FRAMES + POSITION_SHARES, E)
    AUDIO,        // (Q) int16: of each code
    LOG_LENGTHS,  // doubles: of ln(samples) the mean and the deviation, and (CATEGORIES) offsets
};

struct Arrays {
    const char* bytes;

    template <typename T = float>
    const T* of(Array which) const {
        const int32_t* places = reinterpret_cast<const int32_t*>(bytes);
        return reinterpret_cast<const T*>(bytes + places[which]);
    }
};

// torch.Generator on the CPU.
struct Generator {
    std::mt19937 engine;

    // torch.rand in float32
    float uniform() { return (float)(engine() & 0xffffffu) * 0x1p-24f; }

    // in float64
    double fine_uniform() {
        const uint64_t high = engine(), low = engine();
        return (double)((high << 32 | low) & 0x1fffffffffffffu) * 0x1p-53;
    }

    // torch.randn(()) in float32: Box and Muller's, computed in float64
    float normal() {
        const double angle = 2 * 3.14159265358979323846 * fine_uniform();
        return (float)(std::sqrt(-2 * std::log1p(-fine_uniform())) * std::cos(angle));
    }
};

struct Player {
    Arrays model;
    Streams streams;
    Sampling how;
    uint32_t seed;
    Generator generator;
    int32_t row[LABELS + 1];  // of ROWS, for each label
    int64_t length, done;     // samples
    float *features, *before_gate, *noise;
    int64_t* codes;
    int16_t* audio;
};

// Hands out memory, on 64-byte boundaries.
struct Room {
    char* base;
    int64_t taken = 0;

    template <typename T>
    T* take(int64_t count) {
        char* const here = base + taken;
        taken += (count * (int64_t)sizeof(T) + 63) / 64 * 64;
        return reinterpret_cast<T*>(here);
    }
};

constexpr int64_t slots() {
    int64_t sum = INPUT_KERNEL - 1;
    for (int dilation : DILATION) sum += (KERNEL - 1) * (int64_t)dilation;
    return sum;
}

constexpr int64_t ring_elements(int64_t batch) { return slots() * batch * CX; }

// Where all that belongs to a player lies behind it. Returns its bytes.
int64_t furnish(Player& p, char* base, int64_t batch) {
    Room room{base};
    room.take<Player>(1);
    p.streams.ring = room.take<Element>(ring_elements(batch));
    p.streams.last = room.take<int64_t>(batch);
    p.streams.scratch = room.take<float>(scratch_floats(batch));
    p.features = room.take<float>(batch * E);
    p.before_gate = room.take<float>(LAYERS * batch * 2 * G);
    p.noise = room.take<float>(CHUNK);
    p.codes = room.take<int64_t>(CHUNK);
    p.audio = room.take<int16_t>(CHUNK);
    return room.taken;
}

// The features of the frame that begins at a sample: sums of rows, as in LabelEmbedding and
// PositionEmbedding. The second stream of a pair has no labels.
void describe(const Player& p, int64_t begin) {
    std::memset(p.features, 0, p.streams.batch * E * sizeof(float));
    for (int64_t stream = 0; stream < p.streams.batch; stream++) {
        const auto add = [&](int64_t row) {
            const float* from = p.model.of(ROWS) + row * E;
            float* to = p.features + stream * E;
            for_vectors(E, [&](int i) { vector(to + i) += vector(from + i); });
        };
        for (int i = 0; i < LABELS && stream == 0; i++) add(p.row[i]);
#if POSITION_HOP
        constexpr int64_t hop = POSITION_HOP, last = POSITION_FRAMES - 1;
        add(CATEGORIES + std::min(begin / hop, last));
        add(CATEGORIES + POSITION_FRAMES + std::min((p.length - begin + hop - 1) / hop, last));
        add(CATEGORIES + 2 * POSITION_FRAMES + POSITION_SHARES * begin / p.length);
#endif
    }
}

// What is added before the gates, (LAYERS, B, 2 G): biases, and the features projected.
void steer(const Player& p) {
    const int batch = (int)p.streams.batch;
    const float *bias = p.model.of(GATE_BIASES), *w = p.model.of(STEERING);
    for (int layer = 0; layer < LAYERS; layer++, bias += 2 * G) {
        float* rows = p.before_gate + (int64_t)layer * batch * 2 * G;
        copy_rows(rows, bias, 2 * G, batch);
        if constexpr (CONDITION > 0)
            w = multiply_add<Float32, CONDITION, 2 * G>(rows, p.features, w, batch);
    }
}

}  // namespace

extern "C" {

// Bytes that a player of one stream, or of a guided pair, takes.
int32_t player_bytes(int32_t batch) {
    Player p{};
    return (int32_t)furnish(p, nullptr, batch);
}

// A new clip of a model, in memory of player_bytes(batch) on a 64-byte boundary. `choose` its
// labels, then `plan` it and say `how` to draw.
void begin(Player* player, const char* arrays, int32_t batch, float residual_scale, uint32_t seed) {
    Player& p = *player;
    p = Player{};
    p.model = {arrays};
    p.seed = seed;
    p.generator.engine.seed(seed);
    furnish(p, reinterpret_cast<char*>(player), batch);
    p.streams.batch = p.streams.group = batch;
    p.streams.weights = p.model.of<Element>(BODY_WEIGHTS);
    p.streams.head = p.model.of(HEAD_WEIGHTS);
    p.streams.embedding = p.model.of<void>(EMBEDDING);
    p.streams.biases = p.model.of(BIASES);
    p.streams.before_gate = p.before_gate;
    p.streams.residual_scale = residual_scale;
    std::memset(p.streams.ring, 0, ring_elements(batch) * sizeof(Element));
    for (int64_t s = 0; s < batch; s++) p.streams.last[s] = SILENCE;
}

// A label's category: a row of ROWS.
void choose(Player* p, int32_t label, int32_t row) { p->row[label] = row; }

// The clip's length, in samples: as given, rounded; 0: drawn from the seed (ClipLength).
int32_t plan(Player* p, double samples) {
    if (samples <= 0) {
        const double* log_lengths = p->model.of<double>(LOG_LENGTHS);
        double log = log_lengths[0];
        for (int i = 0; i < LABELS; i++) log += log_lengths[2 + p->row[i]];
        const double noise = Generator{std::mt19937(p->seed)}.normal();
        log += log_lengths[1] * std::min(std::max(noise, -WIDEST), WIDEST);
        samples = std::exp(log);
    }
    p->length = std::max((int64_t)1, (int64_t)__builtin_nearbyint(samples));
    return (int32_t)p->length;
}

void how(Player* p, float temperature, int32_t top_k, float top_p, float guidance) {
    p->how = {temperature, top_k, top_p, guidance};
}

// Draws the next n <= CHUNK samples, n no more than are left. Returns n, or fewer where the logits
// were not finite.
int32_t draw(Player* player, int32_t n) {
    Player& p = *player;
    for (int32_t made = 0, now; made < n; made += now) {
        const int64_t hop = POSITION_HOP ? POSITION_HOP : CHUNK, over = p.done % hop;
        describe(p, p.done - over);
        steer(p);
        now = (int32_t)std::min(hop - over, (int64_t)(n - made));
        for (int i = 0; i < now; i++) p.noise[i] = p.generator.uniform();
        if (sample(&p.streams, now, p.noise, p.codes + made, &p.how) < now) return made;
        for (int i = made; i < made + now; i++)
            p.audio[i] = p.model.of<int16_t>(AUDIO)[p.codes[i]];
        p.done += now;
    }
    return n;
}

// Of the last call of `draw`.
const int16_t* audio(const Player* p) { return p->audio; }
const int64_t* codes(const Player* p) { return p->codes; }

}  // extern "C"
