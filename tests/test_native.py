"""Properties of the native engine: the other engines' codes, in float32 and bfloat16, at all sizes.

A stream of 20,000 samples meets edges of the CDF that float32 and float64 place differently. So
what an engine drew is given back to the model in float64, and every code must be the one that the
same uniform draws there, or lie within EDGE of it.
"""

import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    LABELS,
    assert_close,
    shifted,
    small_model,
    some_codes,
    some_labels,
    some_uniforms,
    steered,
)
from torch import Tensor

import wavenet.engines.native.engine
from wavenet import Sampling, WaveNet
from wavenet.engines import Engine, build_engine, take_apart
from wavenet.engines.cached import CachedEngine
from wavenet.engines.native.compiler import CompilerError
from wavenet.engines.native.engine import NativeEngine

REPOSITORY = Path(__file__).parent.parent
F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
PLAIN = Sampling()
EDGE = 1e-5  # of the CDF: what float32 and its sums may be off by
SIZES: dict[str, dict[str, Any]] = {
    "kernel-1": {"kernel_size": 1},
    "input-1": {"input_kernel_size": 1},
    "kernel-2": {"layers_per_cycle": 5},
    "kernel-3": {"kernel_size": 3, "residual_scale": 1.0},
    "kernel-5": {"kernel_size": 5, "layers_per_cycle": 2},
    "one-layer": {"cycles": 1, "layers_per_cycle": 1},
    "channels-17": {
        "residual_channels": 17,
        "gate_channels": 5,
        "skip_channels": 33,
        "head_channels": 16,
    },
    "channels-33": {
        "residual_channels": 33,
        "gate_channels": 33,
        "skip_channels": 5,
        "kernel_size": 3,
    },
    "channels-64": {
        "residual_channels": 64,
        "gate_channels": 72,
        "skip_channels": 130,
        "head_channels": 200,
    },
    "labels": {"labels": LABELS},
}
SAMPLINGS = [
    Sampling(0.0),
    Sampling(0.6),
    Sampling(1.3),
    Sampling(1.0, top_k=1),
    Sampling(1.0, top_k=5),
    Sampling(1.0, top_k=256),
    Sampling(1.0, top_k=400),
    Sampling(1.1, 0, 0.8),
    Sampling(1.0, 0, 1e-6),
    Sampling(2.0, 9, 0.5),
]


def native(model: WaveNet, batch_size: int = 3, dtype: torch.dtype = F32) -> Any:
    return steered(NativeEngine(take_apart(model), batch_size, dtype), model, batch_size)


def logits_before(model: WaveNet, codes: Tensor, prompt: Tensor) -> Tensor:
    """The model's logits in float64 for codes (B, T) that follow a prompt (B, P): (B, Q, T)."""
    model, heard = model.to(F64), torch.cat([prompt, codes], dim=1)
    with torch.no_grad():
        return model(shifted(model, heard), some_labels(len(codes)) if model.labels else None)[
            ..., prompt.shape[1] :
        ]


def differences(
    model: WaveNet, codes: Tensor, uniforms: Tensor, sampling: Sampling, prompt: Tensor
) -> int:
    """How many codes are not those that float64 draws.

    Asserts that each of them is drawn within EDGE of the uniform or of top_p.
    """
    logits = logits_before(model, codes, prompt).transpose(1, 2).flatten(0, 1)  # (B * T, Q)
    flat, u = codes.flatten(), uniforms.flatten().to(F64)
    different = (sampling.draw(logits, u) != flat).nonzero().flatten()
    for place in different.tolist():
        row, code, near = logits[place : place + 1], int(flat[place]), []
        for nudge in (-EDGE, 0.0, EDGE):
            top_p = min(1.0, sampling.top_p + nudge) if sampling.top_p < 1 else 1.0
            nudged = Sampling(sampling.temperature, sampling.top_k, max(1e-9, top_p))
            near += [
                int(nudged.draw(row, (u[place : place + 1] + other).clamp(0, 1)))
                for other in (-EDGE, 0.0, EDGE)
            ]
        assert min(near) <= code <= max(near), f"place {place}: drew {code}, float64 draws {near}"
    return len(different)


def assert_drawn(
    model: WaveNet, engine: Engine, batch_size: int, samples: int, sampling: Sampling = PLAIN
) -> None:
    """What the engine draws, after a prompt, is what float64 draws."""
    prompt, uniforms = some_codes(batch_size, 40), some_uniforms(batch_size, samples)
    engine.prime(prompt)
    codes = torch.cat(
        [engine.sample(piece, sampling) for piece in uniforms.tensor_split([1, 9], dim=1)], dim=1
    )
    assert codes.shape == uniforms.shape and codes.dtype == torch.int64
    different = differences(model, codes, uniforms, sampling, prompt)
    assert different <= 1e-3 * codes.numel()
    if sampling.temperature and sampling.top_k != 1 and sampling.top_p > 1e-3:
        assert min(len(row.unique()) for row in codes) >= min(10, samples // 4)
    print(f"{codes.numel()} codes, {different} on an edge")


# The same codes as every other engine


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 16])
@pytest.mark.parametrize("settings", SIZES.values(), ids=SIZES)
def test_codes_are_those_of_the_model_in_float64(settings: dict[str, Any], batch_size: int) -> None:
    model = small_model(dtype=F32, **settings)
    assert_drawn(model, native(model, batch_size), batch_size, 300)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_codes_are_those_of_the_model_however_they_are_drawn(sampling: Sampling) -> None:
    model = small_model(dtype=F32, labels=LABELS)
    assert_drawn(model, native(model), 3, 400, sampling)


@pytest.mark.parametrize(("batch_size", "samples"), [(1, 20000), (7, 2000)])
@pytest.mark.parametrize(
    "settings", [SIZES["kernel-2"], SIZES["channels-33"]], ids=["kernel-2", "channels-33"]
)
def test_long_streams_stay_exact(settings: dict[str, Any], batch_size: int, samples: int) -> None:
    model = small_model(dtype=F32, **settings)
    assert_drawn(model, native(model, batch_size), batch_size, samples)


@pytest.mark.parametrize("name", ["naive", "cached"])
@pytest.mark.parametrize(
    "settings", [SIZES["kernel-2"], SIZES["kernel-3"], SIZES["labels"]], ids=str
)
def test_codes_are_those_of_the_other_engines(name: str, settings: dict[str, Any]) -> None:
    """Up to the first edge, of which there is hardly one in so short a stream."""
    model, uniforms = small_model(dtype=F32, **settings), some_uniforms(7, 150)
    other = steered(build_engine(model, 7, engine=name), model, 7)
    equal = (
        native(model, 7).sample(uniforms, Sampling()) == other.sample(uniforms, Sampling())
    ).all(dim=1)
    assert equal.sum() >= 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["naive", "cached"])
@pytest.mark.parametrize(("batch_size", "samples"), [(1, 20000), (7, 2000)])
@pytest.mark.parametrize("settings", SIZES.values(), ids=SIZES)
def test_long_streams_of_the_other_engines_too(
    settings: dict[str, Any], batch_size: int, samples: int, name: str
) -> None:
    model = small_model(dtype=F32, **settings)
    assert_drawn(model, native(model, batch_size), batch_size, samples)
    other = steered(build_engine(model, batch_size, engine=name), model, batch_size)
    assert_drawn(model, other, batch_size, samples)


# Teacher forced


@pytest.mark.parametrize("batch_size", [1, 3, 4, 6])
@pytest.mark.parametrize("settings", SIZES.values(), ids=SIZES)
def test_forced_logits_are_those_of_forward(settings: dict[str, Any], batch_size: int) -> None:
    model, codes = small_model(dtype=F32, **settings), some_codes(batch_size, 70)
    expected = logits_before(model, codes, codes[:, :0]).float()
    assert_close(native(model.float(), batch_size).teacher_forced(codes), expected)


@pytest.mark.parametrize(
    "settings", [SIZES["kernel-2"], SIZES["channels-33"], SIZES["labels"]], ids=str
)
def test_bfloat16_is_the_model_with_rounded_weights_and_inputs(settings: dict[str, Any]) -> None:
    model, codes = small_model(dtype=F32, **settings), some_codes(3, 70)
    engine = native(model, dtype=BF16)
    assert all(part.dtype == BF16 for part in (engine.state.model[0], *engine.state.model[1]))
    logits, expected = (
        engine.teacher_forced(codes),
        logits_before(model, codes, codes[:, :0]).float(),
    )
    error = (logits - expected).abs().max() / expected.abs().max()
    assert 1e-5 < error < 0.04, "above: rounded at all; below: to eight bits"


@pytest.mark.parametrize(
    "settings", [SIZES["kernel-2"], SIZES["channels-33"], SIZES["labels"]], ids=str
)
def test_int8_is_close_to_the_model(settings: dict[str, Any]) -> None:
    model, codes = small_model(dtype=F32, **settings), some_codes(3, 70)
    logits, expected = (
        native(model, dtype=torch.int8).teacher_forced(codes),
        logits_before(model, codes, codes[:, :0]).float(),
    )
    error = (logits - expected).abs().max() / expected.abs().max()
    assert 1e-4 < error < 0.1


def test_int8_inputs_survive_being_kept() -> None:
    """To half a step of their scale, and a second time to the bit; zeros stay zeros."""
    packed = native(small_model(dtype=F32), dtype=torch.int8)._weights
    rows = torch.randn(4, 3, packed.channels)
    rows[1, 1] = 0
    kept = packed.values(packed.kept(rows))
    assert (kept - rows).abs().max() <= 0.51 * rows.abs().max() / 127
    assert (
        torch.allclose(packed.values(packed.kept(kept)), kept, rtol=1e-6) and not kept[1, 1].any()
    )


def test_only_the_native_engine_computes_in_int8() -> None:
    with pytest.raises(ValueError, match="Only the native engine"):
        build_engine(small_model(dtype=F32), 1, engine="cached", precision="int8")
    assert isinstance(build_engine(small_model(dtype=F32), 1, precision="int8"), NativeEngine)


# State


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(
    "settings", [SIZES["kernel-1"], SIZES["kernel-3"], SIZES["labels"]], ids=str
)
@pytest.mark.parametrize("samples", [0, 1, 13, 70])
def test_state_is_canonical(settings: dict[str, Any], samples: int, dtype: torch.dtype) -> None:
    """That of `WaveNet.step` over the same codes; from it the cached engine draws the same."""
    model, uniforms = small_model(dtype=F32, **settings), some_uniforms(3, 100)
    engine = native(model, dtype=dtype)
    heard = engine.sample(uniforms[:, :samples], Sampling())
    state = engine.state
    expected, labels = model.init_state(3), some_labels(3) if model.labels else None
    inputs = torch.cat([torch.full((3, 1), model.codec.silence), heard], dim=1)
    if samples:
        _, expected = model.step(inputs[:, :-1], expected, labels)
    assert torch.equal(state.last, inputs[:, -1])
    for actual, wanted in zip(
        (state.model[0], *state.model[1]), (expected[0], *expected[1]), strict=True
    ):
        assert actual.is_contiguous() and not actual.is_inference() and actual.dtype == dtype
        assert_close(actual, wanted.detach().to(dtype))
    other = native(model, dtype=dtype)
    other.sample(uniforms, Sampling())  # what it did before must not matter
    other.state = state
    rest = engine.sample(uniforms[:, samples:], Sampling())
    assert torch.equal(other.sample(uniforms[:, samples:], Sampling()), rest)


def test_a_stream_moves_between_engines() -> None:
    model, uniforms = small_model(dtype=F32), some_uniforms(3, 90)
    whole = native(model).sample(uniforms, Sampling())
    first, second, third = native(model), CachedEngine(take_apart(model), 3, F32), native(model)
    codes = [first.sample(uniforms[:, :30], Sampling())]
    second.state = first.state
    codes.append(second.sample(uniforms[:, 30:50], Sampling()))
    third.state = second.state
    codes.append(third.sample(uniforms[:, 50:], Sampling()))
    assert torch.equal(torch.cat(codes, dim=1), whole)


# Batches and threads


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [F32, BF16, torch.int8])
def test_a_stream_is_the_same_to_the_bit_in_every_batch_and_with_every_thread(
    dtype: torch.dtype, three_threads: None
) -> None:
    model, codes = small_model(dtype=F32, **SIZES["channels-64"]), some_codes(16, 40)
    together = native(model, 16, dtype).teacher_forced(codes)
    for size in (1, 2, 3, 5, 7):
        torch.set_num_threads(1)
        assert torch.equal(
            native(model, size, dtype).teacher_forced(codes[:size]), together[:size]
        ), f"batch {size}"


def test_threads_share_the_streams(three_threads: None) -> None:
    model, uniforms = small_model(dtype=F32, labels=LABELS), some_uniforms(7, 200)
    engine = native(model, 7)
    assert [group.batch for group in engine._threads] == [3, 3, 1]
    codes = engine.sample(uniforms, Sampling())
    torch.set_num_threads(1)
    assert torch.equal(native(model, 7).sample(uniforms, Sampling()), codes)


def test_memory_does_not_grow_with_time() -> None:
    engine, uniforms = native(small_model(dtype=F32), 1), some_uniforms(1, 5000)
    engine.sample(uniforms, Sampling())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(40):
        engine.sample(uniforms, Sampling())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB


# What is refused


def test_what_it_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"float32, bfloat16 or int8.*float64.*cached engine"):
        build_engine(small_model(), 1, engine="native", precision="float64")
    with pytest.raises(ValueError, match=r"runs on the CPU.*meta"):
        NativeEngine(take_apart(small_model().to("meta")), 1, F32)


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    model = small_model(dtype=F32)
    with torch.no_grad():
        model.stack.blocks[2].skip.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"stack.blocks.2.skip.weight is not finite"):
        native(model)


def test_logits_that_overflow_are_refused() -> None:
    model = small_model(dtype=F32)
    engine = native(model)
    engine._weights.head.fill_(1e38)
    with pytest.raises(ValueError, match="not finite"):
        engine.sample(some_uniforms(3, 5), Sampling())


FAULTS = {
    "head": ("relu(hidden, batch * D);", ""),
    "bias": ("+= vector(bias + i)", "-= vector(bias + i)"),
    "tap": ("(KERNEL - 1 - k) * past.dilation, row", "(KERNEL - 1 - k) * past.dilation + 1, row"),
    "ring": (
        "std::memcpy(past.at(g.time, row), rounded",
        "std::memcpy(past.at(g.time + 1, row), rounded",
    ),
}


@pytest.mark.parametrize("dtype", [F32, BF16, torch.int8])
@pytest.mark.parametrize(("right", "wrong"), FAULTS.values(), ids=FAULTS)
def test_a_library_that_computes_something_else_is_found_out(
    right: str, wrong: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = wavenet.engines.native.engine.SOURCE.read_text()
    assert right in source
    (tmp_path / "native.cpp").write_text(source.replace(right, wrong))
    monkeypatch.setattr(wavenet.engines.native.engine, "SOURCE", tmp_path / "native.cpp")
    with pytest.raises(RuntimeError, match="off by"):
        native(small_model(dtype=F32, layers_per_cycle=4), dtype=dtype)


# The choice


def test_auto_takes_it_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="wavenet"):
        engine = build_engine(small_model(dtype=F32), 2)
    assert isinstance(engine, NativeEngine)
    assert [
        record.getMessage() for record in caplog.records if "engine:" in record.getMessage()
    ] == ["engine: native (compiled for this model and CPU), float32, batch 2"]


def test_without_a_compiler_auto_says_how_to_get_one_and_native_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.INFO, logger="wavenet"):
        engine = build_engine(small_model(dtype=F32), 2)
    assert isinstance(engine, CachedEngine)
    (record,) = caplog.records
    assert "engine: cached" in record.getMessage() and "apt install g++" in record.getMessage()
    assert "\n" not in record.getMessage()
    with pytest.raises(CompilerError, match=r"No C\+\+ compiler was found.*apt install g\+\+"):
        build_engine(small_model(dtype=F32), 2, engine="native")


# The C++ source under a sanitizer


def sanitized(cache: Path, checks: str) -> dict[str, str]:
    """The environment of a process whose libraries are compiled anew under these sanitizers."""
    return {
        **os.environ,
        # the second, which Python has not loaded yet: or the first C++ exception ends the process
        "LD_PRELOAD": f"{_library_of_the_compiler('asan')}:{_library_of_the_compiler('stdc++')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "WAVENET_CACHE": str(cache),
        "WAVENET_CXXFLAGS": f"-fsanitize={checks} -fno-sanitize-recover=all -O1 -g",
        "PYTHONPATH": str(REPOSITORY),
    }


def _library_of_the_compiler(name: str) -> str:
    asking = ["c++", f"-print-file-name=lib{name}.so"]
    found = subprocess.run(asking, capture_output=True, text=True, check=True).stdout.strip()
    assert os.path.isabs(found), f"the compiler has no lib{name}.so"
    return found


@pytest.mark.slow
def test_the_source_is_clean_under_address_and_undefined_behaviour_sanitizers(
    tmp_path: Path,
) -> None:
    tests = (
        "(native and (guided or steer)) or codes_are_those_of_the_model or forced or rounded "
        "or canonical or int8"
    )
    files = [__file__, str(REPOSITORY / "tests" / "test_engines.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", tests]
    environment = sanitized(tmp_path, "address,undefined")
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert " passed" in run.stdout and list(tmp_path.glob("native-*.so"))


def test_the_sanitizer_sees_a_read_past_the_end(tmp_path: Path) -> None:
    """So that the test above can fail."""
    source = wavenet.engines.native.engine.SOURCE.read_text()
    fault = "bias = skip_bias + S;"
    assert fault in source
    (tmp_path / "native.cpp").write_text(source.replace(fault, "bias = skip_bias + S + 290;"))
    program = (
        "import sys, pathlib, torch; sys.path.insert(0, 'tests'); "
        "import wavenet.engines.native.engine as n; "
        f"n.SOURCE = pathlib.Path({str(tmp_path / 'native.cpp')!r}); "
        "from conftest import small_model; from wavenet.engines import take_apart; "
        "n.NativeEngine(take_apart(small_model(dtype=torch.float32)), 1, torch.float32)"
    )
    command, environment = [sys.executable, "-c", program], sanitized(tmp_path, "address")
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode != 0 and "heap-buffer-overflow" in run.stderr
