"""Owns the Triton engine's kernel, `run_streams`: a chunk of samples for all streams in one launch.

Time, layers, head and the draw of each sample are loops inside it; a program runs a tile of M
streams from the first sample of the chunk to the last, and never waits for another program. What
makes a step short:

- What a layer takes from samples before t is computed while the layer before it is still at work
  (as in NVIDIA's nv-wavenet), since it does not depend on sample t.
- The input convolution's newest tap is looked up in a table, one row for each code; of levels it
  is a product by one number.
- Skips and head are products in pieces of PIECE columns, so that neither registers nor shared
  memory run out.

A tile of 16 streams or more multiplies on the tensor cores. A program of a single stream (ONE)
multiplies by multiply-adds, which wait less. Sums, the residual stream, the logits and the draw are
float32. Knows nothing of models; `wavenet.engines.triton.engine` packs the weights and holds the
memory.

Shapes: M streams of a tile, L layers, K kernel size, C residual, G gate, S skip, H head channels,
Q parameters of a sample, all but L and K powers of two. Written for the interpreter too
(TRITON_INTERPRET=1), which runs it on the CPU for tests.
"""

import triton
import triton.language as tl

from wavenet.triton_common import product, tanh


@triton.jit
def _add_product(total, x, weight, ONE: tl.constexpr):
    """total + x @ weight: (M, K) x (K, N).

    Of one row, x is turned to the weight's layout, not the weight to that of x: the larger one
    would go through shared memory, behind barriers (benchmarks/counts.py counts them).
    """
    if ONE:
        return total + tl.sum(tl.trans(x.to(tl.float32)) * weight.to(tl.float32), axis=0)[None]
    return product(x, weight, total, "ieee")


@triton.jit
def _block(pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr, width):
    """A (ROWS, COLUMNS) block of a matrix whose rows are `width` long."""
    return tl.load(pointer + tl.arange(0, ROWS)[:, None] * width + tl.arange(0, COLUMNS)[None])


@triton.jit
def _ring_row(ring, rings, layer, now, stream, batch, C: tl.constexpr):
    """Where the inputs (M, C) of a layer at time `now` lie.

    rings: (L + 1, 3), of first slot, slots - 1 and dilation.
    """
    slot = tl.load(rings + 3 * layer) + (now & tl.load(rings + 3 * layer + 1))
    return ring + (slot.to(tl.int64) * batch + stream[:, None]) * C + tl.arange(0, C)[None]


@triton.jit
def _before_gate(
    constants, row, past_taps, ring, rings, layer, now, stream, batch,
    K: tl.constexpr, C: tl.constexpr, G: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    """Bias, condition and all taps but the newest of a layer's filter and gate, (M, G) each."""
    constant = constants + row[:, None] + layer * 2 * G + tl.arange(0, G)[None]
    filter_, gate = tl.load(constant), tl.load(constant + G)
    dilation = tl.load(rings + 3 * (layer + 1) + 2)
    for k in tl.static_range(K - 1):
        x = tl.load(
            _ring_row(ring, rings, layer + 1, now - (K - 1 - k) * dilation, stream, batch, C)
        )
        taps = past_taps + (layer * (K - 1) + k) * 2 * C * G
        filter_ = _add_product(filter_, x, _block(taps, C, G, G), ONE)
        gate = _add_product(gate, x, _block(taps + C * G, C, G, G), ONE)
    return filter_, gate


@triton.jit
def _dense(
    source, weight, bias, target, stream, batch,
    PARTS: tl.constexpr, DEPTH: tl.constexpr, OUT: tl.constexpr, WIDTH: tl.constexpr,
    M: tl.constexpr, ONE: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """target = source @ weight + bias.

    (PARTS, B, DEPTH) x (PARTS * DEPTH, OUT) -> (OUT / WIDTH, B, WIDTH).
    """
    d, w = tl.arange(0, DEPTH), tl.arange(0, WIDTH)
    for piece in range(OUT // WIDTH):
        total = tl.zeros((M, WIDTH), tl.float32) + tl.load(bias + piece * WIDTH + w)[None]
        for part in range(PARTS):
            x = tl.load(source + (part * batch + stream[:, None]) * DEPTH + d[None])
            total = _add_product(
                total,
                x,
                _block(weight + part * DEPTH * OUT + piece * WIDTH, DEPTH, WIDTH, OUT),
                ONE,
            )
        if RELU:
            total = tl.maximum(total, 0.0)
        place = target + (piece * batch + stream[:, None]) * WIDTH + w[None]
        tl.store(place, total.to(target.dtype.element_ty))


@triton.jit
def _least_kept(key, mass, limit):
    """The smallest integer v for which the mass (M, Q) of keys above v is less than the limit (M,).

    It is found bit by bit. Keys (M, Q) are not negative. An entry is kept where what lies above it
    has not yet reached the limit: where key >= v.
    """
    least = limit.to(tl.int32) * 0
    for bit in range(31):
        trial = least + (1 << (30 - bit))
        above = tl.sum(tl.where(key >= trial[:, None], mass, 0.0), axis=1)
        least = tl.where(above >= limit, trial, least)
    return least[:, None]


@triton.jit
def _draw(
    logits, uniform, temperature, top_k, top_p,
    Q: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
):  # fmt: skip
    """`Sampling.draw`: logits (M, Q), uniform (M,) -> codes (M,) int32.

    Weights are compared by their bits, as integers.
    """
    q = tl.arange(0, Q)[None]
    top = tl.max(logits, axis=1)[:, None]
    if GREEDY:
        return tl.min(tl.where(logits == top, q, Q - 1), axis=1)
    weight = tl.exp((logits - top) / temperature)
    if TOP_K:
        key = weight.to(tl.int32, bitcast=True)
        weight = tl.where(key < _least_kept(key, weight * 0 + 1, uniform * 0 + top_k), 0.0, weight)
    if TOP_P:
        key, limit = weight.to(tl.int32, bitcast=True), top_p * tl.sum(weight, axis=1)
        least = _least_kept(key, weight, limit)
        equal = (key == least).to(tl.float32)  # of equal ones the lower codes come first
        before = (tl.cumsum(equal, axis=1) - equal) * least.to(tl.float32, bitcast=True)
        above = tl.sum(tl.where(key > least, weight, 0.0), axis=1)[:, None]
        weight = tl.where(
            (key > least) | ((key == least) & (above + before < limit[:, None])), weight, 0.0
        )
    cumulative = tl.cumsum(weight, axis=1)
    edge = tl.minimum(uniform, 1 - 2**-24) * tl.max(cumulative, axis=1)
    return tl.minimum(tl.sum((cumulative <= edge[:, None]).to(tl.int32), axis=1), Q - 1)


# Outputs: how a sample becomes features, and how it is drawn. MIXTURES is 0 for codes; else there
# are so many components, whose means begin at parameter MEANS.


@triton.jit
def _embedded(table, sample, C: tl.constexpr, MIXTURES: tl.constexpr):
    """Codes (M,) -> rows of a table (codes, C); levels (M,) -> audio * row 0 + row 1. (M, C)."""
    column = tl.arange(0, C)[None]
    if MIXTURES == 0:
        features = tl.load(table + sample[:, None] * C + column)
    else:
        audio = (2 * sample - 65535).to(tl.float32) / 65535
        features = audio[:, None] * tl.load(table + column) + tl.load(table + C + column)
    return features


@triton.jit
def _drawn(
    params, random, temperature, top_k, top_p, log_scale_min,
    Q: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
    NOISE: tl.constexpr, MIXTURES: tl.constexpr, MEANS: tl.constexpr,
):  # fmt: skip
    """params (M, Q), where each stream's random numbers lie (M,) -> samples (M,) int32."""
    first = tl.load(random)
    if MIXTURES == 0:
        sample = _draw(params, first, temperature, top_k, top_p, Q, GREEDY, TOP_K, TOP_P)
    else:
        deviate = tl.load(random + NOISE - 1)
        sample = _draw_level(
            params, first, deviate, temperature, log_scale_min, Q, GREEDY, MIXTURES, MEANS
        )
    return sample


@triton.jit
def _draw_level(
    params, uniform, deviate, temperature, log_scale_min,
    Q: tl.constexpr, GREEDY: tl.constexpr, MIXTURES: tl.constexpr, MEANS: tl.constexpr,
):  # fmt: skip
    """`Mixture.draw`: params (M, Q), uniform and deviate (M,) -> levels (M,) int32."""
    q = tl.arange(0, Q)[None]
    chosen = (uniform * 0).to(tl.int32)
    if MEANS > 0:
        logits = tl.where(q < MIXTURES, params, float("-inf"))
        chosen = _draw(logits, uniform, temperature, 0, 1.0, Q, GREEDY, False, False)
    place = chosen[:, None] + MEANS
    audio = tl.sum(tl.where(q == place, params, 0.0), axis=1)
    if not GREEDY:
        log_scale = tl.sum(tl.where(q == place + MIXTURES, params, 0.0), axis=1)
        log_scale = tl.minimum(tl.maximum(log_scale, log_scale_min), 20.0)
        audio += temperature * tl.exp(log_scale) * deviate
    level = tl.floor(32767.5 * audio)  # from the middle one, 32768
    return tl.minimum(tl.maximum(level, -32768.0), 32767.0).to(tl.int32) + 32768


@triton.jit(
    do_not_specialize=[
        "time", "steps", "hop", "offset", "temperature", "top_k", "top_p", "guidance", "rows",
        "log_scale_min",
    ]
)  # fmt: skip
def run_streams(
    last, samples, noise, forced_params, ring, gates, skips, hidden, params,
    row, constants, embedding, first, input_taps, past_taps, now_taps, residual, residual_bias,
    skip, skip_bias, head, head_bias, out, out_bias, rings,
    time, steps, hop, offset, temperature, top_k, top_p, guidance, scale, batch, rows,
    log_scale_min,
    L: tl.constexpr, K: tl.constexpr, K_INPUT: tl.constexpr, C: tl.constexpr, G: tl.constexpr,
    S: tl.constexpr, H: tl.constexpr, Q: tl.constexpr, PIECE: tl.constexpr, M: tl.constexpr,
    ONE: tl.constexpr, FORCED: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr,
    TOP_P: tl.constexpr, GUIDED: tl.constexpr, NOISE: tl.constexpr, MIXTURES: tl.constexpr,
    MEANS: tl.constexpr,
):  # fmt: skip
    """`steps` samples of a tile of M streams. Pointers: `Packed` (weights) and `Memory`.

    A barrier stands between what the threads of a program write to memory and what others of them
    read from it.
    """
    stream = tl.program_id(0) * M + tl.arange(0, M)
    c, g, q = tl.arange(0, C), tl.arange(0, G), tl.arange(0, Q)
    S_PIECE: tl.constexpr = min(S, PIECE)
    H_PIECE: tl.constexpr = min(H, PIECE)
    Q_PIECE: tl.constexpr = min(Q, PIECE)
    kind = ring.dtype.element_ty
    heard = tl.load(last + stream)
    place_of_row = tl.load(row + stream) * (L * 2 * G)  # where each stream's constants begin
    t = 0
    while t < steps:
        now = time + t
        frame = ((offset + t) // hop).to(tl.int64)
        constant = place_of_row + frame * (rows * L * 2 * G)
        features = _embedded(embedding, heard, C, MIXTURES)
        tl.store(_ring_row(ring, rings, 0, now, stream, batch, C), features.to(kind))
        x = _embedded(first, heard, C, MIXTURES)
        for k in tl.static_range(K_INPUT - 1):
            past = tl.load(_ring_row(ring, rings, 0, now - (K_INPUT - 1 - k), stream, batch, C))
            x = _add_product(x, past, _block(input_taps + k * C * C, C, C, C), ONE)
        filter_, gate = _before_gate(
            constants, constant, past_taps, ring, rings, 0, now, stream, batch, K, C, G, ONE
        )
        for layer in range(L):
            tl.store(_ring_row(ring, rings, layer + 1, now, stream, batch, C), x.to(kind))
            taps = now_taps + layer * 2 * C * G
            filter_ = _add_product(filter_, x.to(kind), _block(taps, C, G, G), ONE)
            gate = _add_product(gate, x.to(kind), _block(taps + C * G, C, G, G), ONE)
            z = (tanh(filter_) * tl.sigmoid(gate)).to(kind)
            following = tl.minimum(layer + 1, L - 1)
            filter_, gate = _before_gate(
                constants,
                constant,
                past_taps,
                ring,
                rings,
                following,
                now,
                stream,
                batch,
                K,
                C,
                G,
                ONE,
            )
            tl.store(gates + (layer * batch + stream[:, None]) * G + g[None], z)
            x = scale * x + tl.load(residual_bias + layer * C + c)[None]
            x = _add_product(x, z, _block(residual + layer * G * C, G, C, C), ONE)
        tl.debug_barrier()
        _dense(gates, skip, skip_bias, skips, stream, batch, L, G, S, S_PIECE, M, ONE, True)
        tl.debug_barrier()
        _dense(
            skips,
            head,
            head_bias,
            hidden,
            stream,
            batch,
            S // S_PIECE,
            S_PIECE,
            H,
            H_PIECE,
            M,
            ONE,
            True,
        )
        tl.debug_barrier()
        _dense(
            hidden,
            out,
            out_bias,
            params,
            stream,
            batch,
            H // H_PIECE,
            H_PIECE,
            Q,
            Q_PIECE,
            M,
            ONE,
            False,
        )
        tl.debug_barrier()
        shared = stream // 2 * 2 if GUIDED else stream  # both of a pair draw, and draw the same
        place = ((q // Q_PIECE)[None] * batch + shared[:, None]) * Q_PIECE + (q % Q_PIECE)[None]
        found = tl.load(params + place)
        if GUIDED:
            found += guidance * (found - tl.load(params + place + Q_PIECE))
        if FORCED:
            tl.store(
                forced_params + (t * batch + stream[:, None]).to(tl.int64) * Q + q[None], found
            )
            heard = tl.load(samples + t * batch + stream)
        else:
            random = noise + (t * batch + shared) * NOISE
            heard = _drawn(
                found,
                random,
                temperature,
                top_k,
                top_p,
                log_scale_min,
                Q,
                GREEDY,
                TOP_K,
                TOP_P,
                NOISE,
                MIXTURES,
                MEANS,
            )
            tl.store(samples + t * batch + stream, heard)
        t += 1
    tl.store(last + stream, heard)
