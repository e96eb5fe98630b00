"""Properties of the Triton engine: the other engines' codes, whatever the sizes, batch and tile.

The kernel runs on the CPU in Triton's interpreter, in a process of its own; the tests marked `gpu`
run it on a GPU. Codes are judged as the native engine's are: each must be the one that float64
draws, or lie on an edge of the CDF.
"""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import (
    LABELS,
    Interpreter,
    assert_close,
    shifted,
    small_model,
    some_codes,
    some_labels,
    some_uniforms,
    steered,
)
from test_mixtures import (
    SEEN,
    assert_drawn_from,
    distances,
    mixture_model,
    some_levels,
    uniforms_of,
)
from test_native import SAMPLINGS, SIZES, assert_drawn
from triton.runtime.errors import OutOfResources

import wavenet.engines.triton.engine
from wavenet import MixtureOfLogistics, Sampling, WaveNet
from wavenet.conditioning import with_and_without
from wavenet.engines import (
    FEW,
    Engine,
    EngineState,
    EngineUnavailable,
    build_engine,
    take_apart,
)
from wavenet.engines.triton.engine import TritonEngine, resources, tile_for, tiles_for
from wavenet.outputs import Mixture

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
ONE, TILE = 1, 16
SHARED_LIMIT = {
    80: 163 * 1024,
    90: 227 * 1024,
}  # bytes of shared memory a block may have, CUDA programming guide
MODELS: dict[str, dict[str, Any]] = {
    "default": {
        "layers_per_cycle": 10,
        "cycles": 2,
        "residual_channels": 32,
        "gate_channels": 32,
        "skip_channels": 128,
    },
    "reference": {},
    "mixture": {"output": MixtureOfLogistics()},
    "wide": {"residual_channels": 128, "gate_channels": 128, "skip_channels": 256},
}


def engine_of(
    model: WaveNet, batch_size: int, tile: int, dtype: torch.dtype = F32, device: str = "cpu"
) -> Any:
    built = TritonEngine(take_apart(model.to(device)), batch_size, dtype, tile=tile)
    return steered(built, model, batch_size)


def few(settings: dict[str, Any]) -> dict[str, Any]:
    """With two layers: the interpreter takes a third of a millisecond an operation."""
    return {
        **settings,
        "cycles": 1,
        "layers_per_cycle": min(2, settings.get("layers_per_cycle", 2)),
    }


# Codes


def assert_codes(
    settings: dict[str, Any], batch: int, tile: int, samples: int, sampling: Sampling, device: str
) -> None:
    model = small_model(dtype=F32, **settings)
    engine = engine_of(model, batch, tile, device=device)
    assert_drawn(model.cpu(), _OnCpu(engine), batch, samples, sampling)


class _OnCpu:
    """An engine whose answers come to the CPU, where the judge sits."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def prime(self, codes: torch.Tensor) -> torch.Tensor:
        return self.engine.prime(codes).cpu()

    def sample(self, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        return self.engine.sample(uniforms, sampling).cpu()


@pytest.mark.parametrize(
    ("name", "batch", "tile"),
    [
        ("kernel-1", 5, TILE),
        ("input-1", 2, TILE),
        ("kernel-2", 17, TILE),
        ("kernel-2", 2, ONE),
        ("kernel-3", 3, TILE),
        ("labels", 2, ONE),
        ("labels", 7, TILE),
        ("one-layer", 3, TILE),
        ("channels-17", 3, TILE),
        ("channels-64", 1, ONE),
    ],
)
def test_codes_are_those_of_the_model_in_float64(
    interpreter: Interpreter, name: str, batch: int, tile: int
) -> None:
    interpreter(assert_codes, few(SIZES[name]), batch, tile, 20, Sampling(), "cpu")


def assert_guided(device: str) -> None:
    """Against the cached engine in float32: pairs of streams, in the middle of clips."""
    model = small_model(
        dtype=F32, **few({"labels": LABELS, "unlabelled": True, "position_hop": 16})
    ).to(device)
    pairs = {name: ids.to(device) for name, ids in with_and_without(some_labels(3)).items()}
    lengths = torch.tensor([100, 100, 100, 100, 200, 200], device=device)
    with torch.no_grad():
        condition = model.timeline(pairs, lengths).between(45, 61)  # the last of frame 2, and on
    uniforms, how, codes = some_uniforms(3, 16), Sampling(1.1, top_k=200, guidance=1.5), []
    for name in ("triton", "cached"):
        engine = build_engine(model, 3, group=2, engine=name)
        codes.append(engine.sample(uniforms, how, condition).cpu())
        last = engine.state.last
        assert torch.equal(last[::2], last[1::2])
    same = (codes[0] == codes[1]).float().cumprod(dim=1).mean()
    assert same > 0.8, "float32 may part on an edge"
    engine = TritonEngine(take_apart(model), 3, F32, group=2, tile=1)
    with pytest.raises(ValueError, match="pairs of streams"):
        engine.sample(uniforms, Sampling(guidance=1.0), condition)


def test_placed_and_guided_codes_are_those_of_the_torch_engine(interpreter: Interpreter) -> None:
    interpreter(assert_guided, "cpu")


@pytest.mark.gpu
def test_placed_and_guided_codes_on_a_gpu_are_those_of_the_torch_engine() -> None:
    assert_guided("cuda")


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_codes_are_those_of_the_model_however_they_are_drawn(
    interpreter: Interpreter, sampling: Sampling
) -> None:
    interpreter(assert_codes, SIZES["one-layer"], 16, TILE, 12, sampling, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "tile"), [(3, ONE), (17, TILE), (33, 32)])
@pytest.mark.parametrize("name", SIZES)
def test_longer_streams_of_every_size(
    interpreter: Interpreter, name: str, batch: int, tile: int
) -> None:
    interpreter(assert_codes, SIZES[name], batch, tile, 150, Sampling(), "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize(("batch", "tile"), [(7, ONE), (40, TILE), (100, 64)])
@pytest.mark.parametrize(
    "name", ["kernel-1", "kernel-3", "channels-64", "labels"]
)  # each is seconds of compilation
def test_codes_on_a_gpu_are_those_of_the_model_in_float64(name: str, batch: int, tile: int) -> None:
    assert_codes(SIZES[name], batch, tile, 500, Sampling(), "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_codes_on_a_gpu_are_those_of_the_model_however_they_are_drawn(sampling: Sampling) -> None:
    assert_codes(SIZES["labels"], 7, TILE, 400, sampling, "cuda")


# Levels


def assert_levels(output: Mixture, tile: int, dtype: torch.dtype, sampling: Sampling) -> None:
    """Those of float64 but for rounding, and what the output draws from the same parameters."""
    model = mixture_model(output, F32, **few({"labels": LABELS}))
    uniforms, prompt = uniforms_of(output, 3, 16), some_levels(3, 8)
    engine = engine_of(model, 3, tile, dtype)
    engine.prime(prompt)
    drawn = torch.cat([engine.sample(x, sampling) for x in uniforms.split([5, 11], dim=1)], dim=1)
    again = engine_of(model, 3, tile, dtype)
    again.prime(prompt)
    params = again.teacher_forced(drawn)
    assert params.shape == (3, output.channels, 16)
    assert_drawn_from(output, params, uniforms, sampling, drawn, share=0.9)
    if dtype == F32:
        assert distances(model, drawn, uniforms, sampling, prompt).max() < SEEN
    with pytest.raises(ValueError, match=r"top_k=5: .* is a continuous distribution"):
        engine.sample(uniforms, Sampling(top_k=5))


@pytest.mark.parametrize(
    ("output", "tile", "dtype", "sampling"),
    [
        (MixtureOfLogistics(10), TILE, F32, Sampling()),
        (MixtureOfLogistics(3), ONE, F32, Sampling(0.7)),
        (MixtureOfLogistics(3), TILE, F32, Sampling(0.0)),
        (MixtureOfLogistics(3), TILE, BF16, Sampling()),
    ],
    ids=str,
)
def test_levels_are_those_of_the_model(
    interpreter: Interpreter, output: Mixture, tile: int, dtype: torch.dtype, sampling: Sampling
) -> None:
    interpreter(assert_levels, output, tile, dtype, sampling)


# Logits


def assert_forced(settings: dict[str, Any], tile: int, dtype: torch.dtype, device: str) -> None:
    model, codes = small_model(dtype=F32, **settings), some_codes(3, 30)
    logits = engine_of(model, 3, tile, dtype, device).teacher_forced(codes).cpu()
    labels = some_labels(3) if model.labels else None
    with torch.no_grad():
        expected = model.cpu().to(F64)(shifted(model, codes), labels).float()
    if dtype == F32:
        assert_close(logits, expected)
    else:
        error = (logits - expected).abs().max() / expected.abs().max()
        assert 1e-5 < error < 0.05, "above: rounded at all; below: to eight bits"


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(
    ("name", "tile"), [("kernel-3", TILE), ("labels", TILE), ("kernel-2", ONE)]
)
def test_forced_logits_are_those_of_forward(
    interpreter: Interpreter, name: str, tile: int, dtype: torch.dtype
) -> None:
    interpreter(assert_forced, few(SIZES[name]), tile, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("tile", [ONE, TILE, 32])
@pytest.mark.parametrize("name", ["kernel-3", "channels-64"])
def test_forced_logits_on_a_gpu_are_those_of_forward(
    name: str, tile: int, dtype: torch.dtype
) -> None:
    assert_forced(SIZES[name], tile, dtype, "cuda")


# State


def assert_state(settings: dict[str, Any], tile: int, dtype: torch.dtype, samples: int) -> None:
    """That of `WaveNet.step` over the same codes; from it the cached engine draws the same."""
    model, uniforms = small_model(dtype=F32, **settings), some_uniforms(2, samples + 10)
    engine, labels = engine_of(model, 2, tile, dtype), some_labels(2) if model.labels else None
    heard = engine.sample(uniforms[:, :samples], Sampling())
    state, expected = engine.state, model.init_state(2)
    if samples:
        _, expected = model.step(
            torch.cat([torch.full((2, 1), 128), heard[:, :-1]], dim=1), expected, labels
        )
    assert torch.equal(
        state.last, heard[:, -1] if samples else torch.full((2,), model.codec.silence)
    )
    close = {F32: 1e-5, BF16: 0.05}[dtype]
    for mine, theirs in zip(
        (state.model[0], *state.model[1]), (expected[0], *expected[1]), strict=True
    ):
        assert mine.shape == theirs.shape and mine.dtype == dtype and mine.is_contiguous()
        assert not theirs.numel() or (mine.float() - theirs).abs().max() <= close * max(
            1, theirs.abs().max()
        )
    if dtype == BF16:
        return
    other = steered(build_engine(model, 2, engine="cached"), model, 2)
    other.state = state
    ours = engine.sample(uniforms[:, samples:], Sampling())
    assert torch.equal(other.sample(uniforms[:, samples:], Sampling()), ours)
    engine.state = state
    assert torch.equal(engine.sample(uniforms[:, samples:], Sampling()), ours), (
        "a state can be put back"
    )
    assert EngineState(*state).last.shape == (2,)


@pytest.mark.parametrize("samples", [0, 1, 13])
@pytest.mark.parametrize(
    ("name", "tile", "dtype"), [("kernel-3", TILE, F32), ("labels", TILE, BF16)]
)
def test_state_is_canonical(
    interpreter: Interpreter, name: str, tile: int, dtype: torch.dtype, samples: int
) -> None:
    interpreter(assert_state, few(SIZES[name]), tile, dtype, samples)


def assert_alone_as_in_a_batch() -> None:
    model, uniforms = small_model(dtype=F32, **few({})), some_uniforms(5, 20)
    together = engine_of(model, 5, TILE).sample(uniforms, Sampling())
    for stream in (0, 4):
        alone = engine_of(model, 1, ONE).sample(uniforms[stream : stream + 1], Sampling())
        assert torch.equal(alone[0], together[stream])


def test_a_stream_is_the_same_alone_as_in_a_batch(interpreter: Interpreter) -> None:
    interpreter(assert_alone_as_in_a_batch)


def assert_time_wraps() -> None:
    model, uniforms = small_model(dtype=F32, **few({})), some_uniforms(1, 24)
    engine = engine_of(model, 1, ONE)
    expected = engine.sample(uniforms, Sampling())
    fresh = engine_of(model, 1, ONE)
    fresh.engine._time = (
        wavenet.engines.triton.engine.CLOCK - 10
    )  # the rings are zeros wherever the stream begins
    pieces = [fresh.sample(piece, Sampling()) for piece in uniforms.split(6, dim=1)]
    assert fresh.engine._time < 24 and torch.equal(torch.cat(pieces, dim=1), expected)


def test_a_stream_of_days_goes_on_where_the_clock_wraps(interpreter: Interpreter) -> None:
    interpreter(assert_time_wraps)


class Counting:
    """The kernel, with the samples of each launch noted."""

    def __init__(self) -> None:
        self.kernel, self.steps = wavenet.engines.triton.engine.run_streams, []

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def run(**arguments: Any) -> None:
            self.steps.append(arguments["steps"])
            self.kernel[grid](**arguments)

        return run


def assert_launches_are_short(labels: dict[str, list[str]] | None, expected: list[int]) -> None:
    model = small_model(dtype=F32, **few({"labels": labels}))
    engine, uniforms = engine_of(model, 2, TILE), some_uniforms(2, 30)
    start = engine.state
    whole = engine.sample(uniforms, Sampling())
    with pytest.MonkeyPatch.context() as patch:
        counting = Counting()
        patch.setattr(wavenet.engines.triton.engine, "MOST_STEPS", 7)
        patch.setattr(wavenet.engines.triton.engine, "run_streams", counting)
        engine.state = start
        assert torch.equal(engine.sample(uniforms, Sampling()), whole)
    assert counting.steps == expected
    assert wavenet.engines.triton.engine.MOST_STEPS == 1024


@pytest.mark.parametrize("labels", [None, LABELS], ids=["plain", "labels"])
def test_a_launch_is_of_so_many_samples_at_most(
    interpreter: Interpreter, labels: dict[str, list[str]] | None
) -> None:
    """A GPU with a screen ends longer ones, and Ctrl-C waits for them."""
    interpreter(assert_launches_are_short, labels, [7, 7, 7, 7, 2])


def assert_built_without_tf32() -> None:
    module, seen = wavenet.engines.triton.engine, []
    packed, check = module.Packed, module.check_against_model
    backend = torch.backends.cuda.matmul

    class Noting(packed):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any) -> None:
            seen.append(backend.fp32_precision)
            super().__init__(*args)

    def checked(*args: Any) -> None:
        seen.append(backend.fp32_precision)
        check(*args)

    before, backend.fp32_precision = backend.fp32_precision, "tf32"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "Packed", Noting)
            patch.setattr(module, "check_against_model", checked)
            engine_of(small_model(dtype=F32, **few({})), 2, TILE)
        assert seen == ["ieee", "ieee"] and backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


def test_an_engine_packs_and_checks_itself_without_tf32(interpreter: Interpreter) -> None:
    """Whose error is above the tolerance of the check."""
    interpreter(assert_built_without_tf32)


def assert_rows_are_shared_without_comparing(placed: bool) -> None:
    """Of frames, each stream has its own row; of what holds for ever, equal streams share one."""
    settings = few({"labels": LABELS, **({"position_hop": 16} if placed else {})})
    model = small_model(dtype=F32, **settings)
    labels = {name: torch.tensor([0, 1, 0]) for name in model.labels}
    lengths = torch.full((3,), 50) if placed else None
    with torch.no_grad():
        condition = model.timeline(labels, lengths).between(0, 4)
    engine, unique, compared = TritonEngine(take_apart(model), 3, F32), torch.Tensor.unique, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "unique", lambda *a, **k: compared.append(1) or unique(*a, **k))
        for _ in range(3):
            engine.sample(some_uniforms(3, 4), Sampling(), condition)
    rows = engine._weights.tensors["row"][:3].tolist()
    assert len(compared) == (0 if placed else 1)
    assert len(set(rows)) == (3 if placed else 2) and (rows[0] == rows[2]) != placed
    plain = TritonEngine(take_apart(small_model(dtype=F32, **few({}))), 3, F32)
    plain.sample(some_uniforms(3, 4), Sampling())
    assert plain._weights.rows == 1


@pytest.mark.parametrize("placed", [True, False], ids=["frames", "for ever"])
def test_streams_are_not_compared_at_every_frame(interpreter: Interpreter, placed: bool) -> None:
    """On a GPU the host would wait for it."""
    interpreter(assert_rows_are_shared_without_comparing, placed)


# Refusals


def assert_self_check_refuses(name: str) -> None:
    """A kernel that computes something else, planted by a changed weight, is not used."""
    model, packed = small_model(dtype=F32, **few({})), wavenet.engines.triton.engine.Packed

    class Faulty(packed):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if name in self.tensors:
                self.tensors[name].mul_(1.05)

        def steer(self, before: torch.Tensor, holds: bool = False) -> None:
            super().steer(before, holds)
            if name == "constants":
                self.tensors[name].mul_(1.05)

    wavenet.engines.triton.engine.Packed = Faulty  # type: ignore[misc]
    try:
        with pytest.raises(RuntimeError, match=r"triton engine checked itself .* engine='cached'"):
            engine_of(model, 2, TILE)
    finally:
        wavenet.engines.triton.engine.Packed = packed  # type: ignore[misc]


@pytest.mark.parametrize(
    "name", ["past_taps", "input_taps", "constants", "skip", "out", "residual_bias"]
)
def test_an_engine_that_computes_something_else_is_refused(
    interpreter: Interpreter, name: str
) -> None:
    interpreter(assert_self_check_refuses, name)


def assert_refuses_weights_that_are_not_finite() -> None:
    model = small_model(dtype=F32, **few({}))
    with torch.no_grad():
        model.stack.blocks[0].skip.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        engine_of(model, 1, ONE)


def test_weights_that_are_not_finite_are_refused(interpreter: Interpreter) -> None:
    interpreter(assert_refuses_weights_that_are_not_finite)


class Cramped:
    """A kernel on a GPU that has room for programs of one stream alone, or for none."""

    def __init__(self, most: int) -> None:
        self.kernel, self.most = wavenet.engines.triton.engine.run_streams, most

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        return lambda **arguments: self.run(grid, arguments)

    def run(self, grid: tuple[int], arguments: dict[str, Any]) -> None:
        if arguments["M"] > self.most:
            raise OutOfResources(300000, 232448, "shared memory")
        self.kernel[grid](**arguments)


def assert_what_does_not_fit_is_unavailable() -> None:
    wavenet.engines.triton.engine.run_streams = Cramped(0)
    with pytest.raises(
        EngineUnavailable, match=r"does not fit this GPU .*300000.*engine='cached' runs any size"
    ):
        TritonEngine(take_apart(small_model(dtype=F32)), 2, F32)


def assert_tiles_shrink_until_they_fit() -> None:
    wavenet.engines.triton.engine.MULTIPROCESSORS = 1  # two streams ask for a tile
    wavenet.engines.triton.engine.run_streams = Cramped(1)
    assert TritonEngine(take_apart(small_model(dtype=F32, **few({}))), 2, F32)._tile == 1
    with pytest.raises(EngineUnavailable):
        TritonEngine(take_apart(small_model(dtype=F32, **few({}))), 2, F32, tile=TILE)


def test_a_kernel_that_does_not_fit_is_an_engine_that_cannot_be_had(
    interpreter: Interpreter,
) -> None:
    interpreter(with_the_room_put_back, assert_what_does_not_fit_is_unavailable)


def test_tiles_shrink_until_they_fit(interpreter: Interpreter) -> None:
    interpreter(with_the_room_put_back, assert_tiles_shrink_until_they_fit)


def with_the_room_put_back(function: Callable[[], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("run_streams", "MULTIPROCESSORS"):
            patch.setattr(
                wavenet.engines.triton.engine, name, getattr(wavenet.engines.triton.engine, name)
            )
        function()


def test_a_model_on_the_cpu_and_other_precisions_are_refused() -> None:
    model = small_model(dtype=F32)
    with pytest.raises(ValueError, match=r"runs on CUDA, but the model is on cpu: move it"):
        build_engine(model, 1, engine="triton")
    with pytest.raises(ValueError, match="Only the native engine computes in int8"):
        build_engine(model, 1, engine="triton", precision="int8")


def test_without_triton_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wavenet.engines.triton.trial", None)
    with pytest.raises(
        ValueError, match=r"needs Triton, which cannot be imported .* engine='cached'"
    ):
        build_engine(small_model(dtype=F32), 1, engine="triton")


# Choice, and what the kernel takes


@pytest.mark.parametrize(
    ("batch", "tile"), [(1, 1), (132, 1), (133, 16), (2112, 16), (2113, 32), (4224, 32), (4225, 64)]
)
def test_tiles_grow_with_the_batch(batch: int, tile: int) -> None:
    assert tile_for(batch, torch.device("cpu")) == tile


@pytest.mark.parametrize(("streams", "tile"), [(40, 1), (41, 16), (640, 16), (641, 32), (1281, 64)])
def test_tiles_are_of_the_multiprocessors_that_the_gpu_has(
    streams: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wavenet.engines.triton.trial as trial

    gpu = torch.device("cuda:1")
    monkeypatch.setattr(
        wavenet.engines.triton.engine, "multiprocessors", lambda device: {gpu: 40}[device]
    )
    assert tile_for(streams, gpu) == tile and tiles_for(streams, 1, gpu)[0] == tile
    smallest = trial.smallest_for(tile, gpu)
    assert tile_for(smallest, gpu) == tile and smallest <= max(streams, 2)
    assert tile == 1 or tile_for(smallest - 1, gpu) < tile


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [FEW + 1, 200])
def test_auto_takes_triton_on_a_gpu_and_says_so(
    batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "wavenet"):
        engine = build_engine(small_model(dtype=F32).cuda(), batch)
    assert isinstance(engine, TritonEngine)
    assert (
        f"engine: triton (one kernel for a chunk of samples), float32, batch {batch}" in caplog.text
    )


@pytest.mark.parametrize(
    ("name", "tile", "dtype", "capability"),
    [
        ("reference", 16, BF16, 90),
        ("mixture", 1, F32, 80),
        *(
            pytest.param(name, tile, dtype, capability, marks=pytest.mark.slow)
            for name in MODELS
            for tile in (1, 16, 64)
            for dtype in (F32, BF16)
            for capability in (80, 90)
        ),
    ],
)
def test_the_kernel_compiles_without_a_gpu(
    name: str, tile: int, dtype: torch.dtype, capability: int
) -> None:
    """And fits the GPU's shared memory, but for large tiles of the wide model: it takes less."""
    found = resources(WaveNet(**MODELS[name]), 128, tile, dtype, capability)
    print(name, tile, dtype, capability, found)
    fits = name != "wide" or tile == 1 or (tile, dtype, capability) == (16, BF16, 90)
    assert found.registers <= 255 and (found.shared <= SHARED_LIMIT[capability]) == fits
    if (name, tile, dtype) == ("reference", 16, BF16):
        assert found.spilled == 0
