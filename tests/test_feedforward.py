"""Properties of streaming: audio in, audio out, block by block, natively what `forward` gives."""

import logging
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close
from test_nam import CONFIGS, filled
from test_native import REPOSITORY, sanitized
from torch import Tensor, nn

import wavenet
import wavenet.engines.native.feedforward as feedforward
from wavenet import (
    Added,
    AddedBy,
    Block,
    CausalConv1d,
    Chain,
    Concatenated,
    Delay,
    FiLM,
    Gated,
    GatedBy,
    LookaheadConv1d,
    Parallel,
    Pointwise,
    Residual,
    ResidualStack,
    Scaled,
    Select,
    Shortcut,
    Stack,
)
from wavenet.engines import EngineFailed, EngineUnavailable, build_streamer
from wavenet.engines.native.feedforward import NativeStreamer
from wavenet.engines.reading import copied, flat, read
from wavenet.engines.streaming import TorchStreamer
from wavenet.interop import nam
from wavenet.interop.nam.activations import Fasttanh, LeakyHardtanh, Softsigmoid
from wavenet.interop.nam.file import model_of

CUTS = (1, 7, 64, 1000)
STEERED = 2  # channels of a condition
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "softsign": nn.Softsign,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "prelu": lambda: nn.PReLU(3, init=0.3),
    "hardtanh": lambda: nn.Hardtanh(-0.5, 2.0),
    "elu": lambda: nn.ELU(0.7),
    "fasttanh": Fasttanh,
    "leaky hardtanh": lambda: LeakyHardtanh(-2.0, 1.0, 0.1, 0.3),
    "softsigmoid": Softsigmoid,
}


# Networks


def amp_block(width: int, dilation: int, kernel_size: int = 3, **parts: Any) -> Block:
    usual = {
        "dilated": CausalConv1d(width, width, kernel_size, dilation=dilation),
        "gate": nn.Tanh(),
        "mix": Residual(width, width),
        "skip": nn.Identity(),
    }
    return Block(**{**usual, **parts})


def sizes_as_lists() -> nn.Module:
    """Two stacks of different width, each layer with a kernel and a dilation of its own."""
    layers = list(zip([2, 6, 15, 1, 3], [1, 7, 40, 1, 130], strict=True))
    wide = Stack(amp_block(11, d, k, steer=Added(STEERED, 11)) for k, d in layers)
    narrow = Stack(amp_block(3, d, k, steer=FiLM(STEERED, 3)) for k, d in layers)
    return Chain(
        *(CausalConv1d(1, 11, 1), Select(wide, 1), nn.Conv1d(11, 3, 1, bias=False)),
        *(Select(narrow, 1), CausalConv1d(3, 1, 16)),
    )


def every_part() -> nn.Module:
    """A block a part that the others do not have."""
    knob = Chain(nn.Conv1d(STEERED, 5, 1), nn.Tanh(), nn.Conv1d(5, 6, 1))
    blocks = [
        amp_block(6, 1, steer=AddedBy(STEERED, knob), skip=CausalConv1d(6, 4, 1)),
        amp_block(6, 2, gate=Chain(nn.ELU(), FiLM(STEERED, 6, groups=2)), skip=nn.Conv1d(6, 4, 1)),
        amp_block(
            *(6, 4),
            dilated=CausalConv1d(6, 12, 2, dilation=4, groups=2),
            steer=Added(STEERED, 12, groups=2),
            gate=GatedBy(nn.Tanh(), nn.Hardswish()),
            mix=Shortcut(Chain(nn.Conv1d(6, 6, 1, groups=3), Scaled(STEERED, 6))),
            skip=nn.Conv1d(6, 4, 1, groups=2),
        ),
        amp_block(
            *(6, 8),
            dilated=Chain(FiLM(STEERED, 6), CausalConv1d(6, 8, 3, dilation=8, bias=False)),
            gate=Gated(),
            mix=Residual(4, 6, scale=0.5**0.5),
        ),
    ]
    return Stack(blocks)


def beside() -> nn.Module:
    """Branches with a past of their own each, joined in both ways; two outputs."""
    late = Parallel(LookaheadConv1d(4, 3, 5, lookahead=2), Delay(4, 2), join=Concatenated())
    return Chain(
        CausalConv1d(2, 4, 3),
        Parallel(nn.Identity(), Chain(CausalConv1d(4, 4, 3, dilation=9), nn.ELU())),
        Parallel(CausalConv1d(4, 4, 2), CausalConv1d(4, 4, 3), nn.Sequential(nn.ReLU())),
        *(late, Pointwise(nn.PReLU(7)), nn.Dropout(0.5), nn.Conv1d(7, 5, 1)),
        Stack([amp_block(5, 3), amp_block(5, 1, mix=None)], collect=Concatenated()),
    )


class Own(nn.Module):
    """A module of somebody else's, which says how it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels = 1
        self.conv, self.stack = CausalConv1d(1, 6, 5), Stack([amp_block(6, 1), amp_block(6, 2)])

    def forward(self, x: Tensor) -> Tensor:
        return 0.3 * self.stack(self.conv(x))[1]

    def init_state(self, batch_size: int) -> Any:
        return self.stack.init_state(batch_size), self.conv.init_state(batch_size)

    def step(self, x: Tensor, state: Any) -> Any:
        h, conv = self.conv.step(x, state[1])
        (_, y), stack = self.stack.step(h, state[0])
        return 0.3 * y, (stack, conv)

    def traced(self, reader: Any, x: Any, state: Any, condition: Any = None) -> Any:
        h = reader.step(self.conv, x, state[1])
        return reader.scaled(reader.step(self.stack, h, state[0])[1], 0.3)


def normed() -> nn.Module:
    network = Chain(CausalConv1d(1, 4, 3), nn.Tanh(), CausalConv1d(4, 1, 2, dilation=3))
    nn.utils.parametrizations.weight_norm(network.parts[0])
    return network


@cache
def document(name: str) -> dict[str, Any]:
    return filled(CONFIGS[name])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"nam {name}": lambda s=settings: nam.NAM(s) for name, settings in nam.PRESETS.items()},
    **{f"nam {name}": lambda name=name: model_of(document(name)) for name in CONFIGS},
    "nam container": lambda: nam.Container([nam.NAM(nam.PRESETS["nano"])], [1.0]),
    "sizes as lists": sizes_as_lists,
    "every part": every_part,
    "beside": beside,
    "own": Own,
    "weight norm": normed,
    "paper": lambda: ResidualStack([1, 2, 4, 8], 7, 5, 9, 2, condition_channels=STEERED),
    "wide": lambda: Stack([amp_block(70, 1), amp_block(70, 33)]),
    "one convolution": lambda: CausalConv1d(3, 5, 4, dilation=50),
    "no memory": lambda: Chain(nn.Conv1d(2, 3, 1), nn.Tanh()),
    **{
        f"act {name}": lambda made=act: Chain(CausalConv1d(1, 3, 2), made())
        for name, act in ACTIVATIONS.items()
    },
}


def network(name: str) -> Any:
    """With weights that are larger than at the beginning of training."""
    made = NETWORKS[name]().float().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.5)
    return made


def inputs(made: Any, batch: int, time: int, held: bool = False) -> list[Tensor]:
    """x, and a condition where there is one: at each time, or one that holds."""
    generator = torch.Generator().manual_seed(1)
    program, _ = read(copied(made), "native")
    times = (time, 1 if held else time)
    return [
        torch.randn(batch, channels, n, generator=generator)
        for channels, n in zip(program.inputs, times, strict=False)
    ]


def outputs(made: Any, given: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return list(flat(made(*given)))


def streamed(streamer: Any, given: list[Tensor], cut: int) -> list[Tensor]:
    """The outputs of blocks of `cut` samples, put together."""
    time, made = given[0].shape[-1], []
    for start in range(0, time, cut):
        here = [t[..., start : start + cut] if t.shape[-1] == time else t for t in given]
        made.append(list(flat(streamer.process(*here))))
    return [torch.cat(pieces, dim=-1) for pieces in zip(*made, strict=True)]


def assert_same(actual: list[Tensor], expected: list[Tensor], where: object = "") -> None:
    """Within 1e-5 of the largest value, which in an amplifier's output is far below 1."""
    for one, other in zip(actual, expected, strict=True):
        scale = float(other.abs().max())
        assert_close(one / scale, other / scale, where)


# What forward computes


@pytest.mark.parametrize("name", NETWORKS)
def test_the_blocks_put_together_are_forward_however_they_are_cut(name: str) -> None:
    made = network(name)
    given = inputs(made, 1, 1300)
    expected, streamer = outputs(made, given), NativeStreamer(made)
    first, whole = streamer.state, None
    for cut in CUTS:
        streamer.state = first
        actual = streamed(streamer, given, cut)
        assert_same(actual, expected, f"{name}, blocks of {cut}")
        whole = whole or actual
        assert all(map(torch.equal, actual, whole)), "to the bit, wherever a block begins"


@pytest.mark.parametrize("name", ["sizes as lists", "every part", "paper"])
def test_a_condition_that_holds_is_one_that_is_repeated(name: str) -> None:
    made = network(name)
    x, held = inputs(made, 2, 300, held=True)
    expected = outputs(made, [x, held])
    assert_same(streamed(NativeStreamer(made, 2), [x, held], 64), expected)
    repeated = [x, held.expand(-1, -1, 300)]
    assert_same(streamed(NativeStreamer(made, 2), repeated, 64), expected)


@pytest.mark.parametrize("name", ["nam lite", "nam film", "every part", "beside"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_is_the_same_to_the_bit_in_every_batch(name: str, threads: int) -> None:
    made = network(name)
    given = inputs(made, 7, 200)
    torch.set_num_threads(threads)
    together = streamed(NativeStreamer(made, 7), given, 64)
    torch.set_num_threads(1)
    assert_same(together, outputs(made, given))
    for row in (0, 2, 6):
        alone = streamed(NativeStreamer(made), [t[row : row + 1] for t in given], 64)
        assert all(torch.equal(a, b[row : row + 1]) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_that_of_float64_within_1e_6(name: str) -> None:
    x = torch.linspace(-40, 40, 30_000).view(1, 3, -1)
    made = ACTIVATIONS[name]()
    carried = Chain(CausalConv1d(3, 3, 1, bias=False), made).eval()
    with torch.no_grad():
        carried.parts[0].weight.copy_(torch.eye(3)[..., None])
        expected = made.double()(x.double())
    error = (NativeStreamer(carried.float()).process(x) - expected).abs() / expected.abs().clamp(
        min=1
    )
    assert float(error.max()) < 1e-6


def test_audio_may_lie_anywhere_and_have_any_dtype() -> None:
    made = network("beside")
    x = inputs(made, 2, 130)[0]
    expected = NativeStreamer(made, 2).process(x)
    for other in (x.mT.contiguous().mT, x.double(), x.clone().requires_grad_(),
                  torch.stack([x, x], dim=-1)[..., 0]):  # fmt: skip
        assert all(map(torch.equal, NativeStreamer(made, 2).process(other), expected))


def test_later_changes_to_the_network_do_not_reach_it() -> None:
    made = network("nam nano")
    x, streamer = inputs(made, 1, 64)[0], NativeStreamer(made)
    expected = outputs(made, [x])
    with torch.no_grad():
        made.arrays[0].rechannel.weight.zero_()
    assert_same([streamer.process(x)], expected)


# State


@pytest.mark.parametrize("name", ["nam older gated", "nam conditioned", "nam head",
                                  "every part", "beside", "own", "paper"])  # fmt: skip
@pytest.mark.parametrize("samples", [1, 63, 700])
def test_state_is_that_of_step_and_the_stream_goes_on_from_it_in_pytorch(
    name: str, samples: int
) -> None:
    made = network(name)
    given = inputs(made, 2, 900)
    parts = [[t[..., a:b] for t in given] for a, b in ((0, samples), (samples, 850), (850, 900))]
    streamer, expected = NativeStreamer(made, 2), outputs(made, given)
    first = list(flat(streamer.process(*parts[0])))
    with torch.no_grad():
        _, canonical = made.step(parts[0][0], made.init_state(2), *parts[0][1:])
        state = streamer.state
        for actual, wanted in zip(flat(state), flat(canonical), strict=True):
            assert actual.is_contiguous()
            assert_close(actual, wanted)
        second, state = made.step(parts[1][0], state, *parts[1][1:])
    streamer.process(*parts[2])  # what it did before must not matter
    streamer.state = state
    third = flat(streamer.process(*parts[2]))
    assert_same(list(map(lambda *t: torch.cat(t, -1), first, flat(second), third)), expected)


def test_a_state_is_a_copy() -> None:
    streamer = NativeStreamer(network("nam nano"))
    before = streamer.state
    kept = [tensor.clone() for tensor in flat(before)]
    streamer.process(torch.randn(1, 1, 64))
    assert all(map(torch.equal, flat(before), kept))
    streamer.state = before
    for tensor in flat(before):
        tensor.fill_(float("nan"))
    assert all(map(torch.equal, flat(streamer.state), kept))


def test_the_scratch_of_one_block_is_not_read_in_the_next() -> None:
    made = network("every part")
    given = inputs(made, 1, 400)
    streamer, expected = NativeStreamer(made), NativeStreamer(made)
    for start in range(0, 400, 50):
        here = [t[..., start : start + 50] for t in given]
        streamer._threads[0].kept.fill_(float("nan"))
        pairs = zip(streamer.process(*here), expected.process(*here), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_a_nan_stays_in_its_stream_and_leaves_it_after_the_receptive_field() -> None:
    made = network("sizes as lists")
    reach = made.receptive_field
    x, condition = inputs(made, 3, 40 + reach + 100)
    x[1, 0, 40] = float("nan")
    y = streamed(NativeStreamer(made, 3), [x, condition], 33)[0]
    assert bool(y[[0, 2]].isfinite().all()) and bool(y[1, 0, :40].isfinite().all())
    assert bool(y[1, 0, 40].isnan()) and bool(y[1, 0, 40 + reach - 1].isnan())
    assert bool(y[1, 0, 40 + reach :].isfinite().all())


def test_memory_does_not_grow_with_time() -> None:
    streamer, x = NativeStreamer(network("nam standard")), torch.randn(1, 1, 4000)
    streamer.process(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(60):
        streamer.process(x)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB


def test_the_scratch_does_not_grow_with_the_layers() -> None:
    def planes(layers: int) -> int:
        program, _ = read(Stack(amp_block(6, 2) for _ in range(layers)).eval(), "native")
        return program.scratch()[1]

    assert planes(4) == planes(20) < 60


def test_what_nobody_reads_is_not_computed() -> None:
    stack = Stack(amp_block(6, 2) for _ in range(3))
    kinds = [
        [i.kind for i in read(made.eval(), "native")[0].instructions]
        for made in (stack, Select(stack, 1))
    ]
    assert kinds[0].count("PRODUCT") == 6 and kinds[1].count("PRODUCT") == 5


# What is refused


class Odd(CausalConv1d):
    """Some other function, of which the engine knows nothing."""


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: Stack([amp_block(4, 1), amp_block(4, 2, gate=nn.GELU())]),
     r"no instructions for GELU \(its part 'blocks.1.gate'\)"),
    (lambda: Chain(CausalConv1d(1, 4, 3), nn.Tanh(), Odd(4, 1, 1)), r"for Odd \(its part '2'\)"),
    (lambda: Chain(nn.Conv1d(1, 4, 1), wavenet.CausalStridedConv1d(4, 4, 4, stride=2)),
     r"for CausalStridedConv1d \(its part '1'\)"),
    (lambda: Parallel(CausalConv1d(2, 1, 2), CausalConv1d(2, 3, 2)), "signals of 1 and 3 channels"),
    (lambda: Chain(nn.Tanh(), Pointwise(nn.LayerNorm(4))), "how many channels a Chain takes"),
    (lambda: Chain(Gated(), CausalConv1d(4, 4, 2)), "how many channels a Chain takes"),
    (lambda: Stack([amp_block(4, 1)], collect=nn.Identity()), "for Identity .its part 'collect'"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_it_cannot_run_is_refused_by_name(made: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(EngineUnavailable, match=message) as refused:
        NativeStreamer(made())
    assert "Run it in PyTorch, by its step (engine='torch')" in str(refused.value)


def test_a_network_elsewhere_or_damaged_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runs on the CPU, but the model is on meta"):
        NativeStreamer(network("nam nano").to("meta"))
    damaged = network("nam nano")
    with torch.no_grad():
        damaged.arrays[1].head.weight[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"arrays.1.head.weight is not finite"):
        NativeStreamer(damaged)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, but got 0"):
        NativeStreamer(network("nam nano"), 0)


def test_what_does_not_fit_is_refused() -> None:
    steered, plain = NativeStreamer(network("paper"), 2), NativeStreamer(network("nam nano"))
    x, condition = torch.zeros(2, 7, 5), torch.zeros(2, STEERED, 1)
    for streamer, given, message in (
        (plain, [x[:1]], r"x must have the shape \(1 streams, 1 channels, n >= 1\), but has"),
        (plain, [torch.zeros(1, 1, 0)], r"but has \(1, 1, 0\)"),
        (plain, [torch.zeros(1, 5)], r"but has \(1, 5\)"),
        (plain, [torch.zeros(1, 1, 5), condition], "takes no condition, but got one of shape"),
        (steered, [x], "takes a condition, but got none"),
        (steered, [x, condition.expand(-1, -1, 4)], "x.shape.-1. or 1"),
    ):
        with pytest.raises(ValueError, match=message):
            streamer.process(*given)
    with pytest.raises(ValueError, match=r"A state of this network is 22 tensors of shapes"):
        plain.state = steered.state


FAULTS = {
    "tap": ("at[s.buffer] - s.delay", "at[s.buffer] - s.delay + (s.delay > 8)"),
    "room": ("at[index] - b.history,", "at[index] - b.history + 1,"),
    "rest": ("vectors - v", "vectors - v - (vectors - v == 2)"),
}


@pytest.mark.parametrize(("right", "wrong"), FAULTS.values(), ids=FAULTS)
def test_a_library_that_computes_something_else_is_found_out(
    right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = feedforward.SOURCE.read_text()
    assert right in source
    (tmp_path / "native.cpp").write_text(source.replace(right, wrong))
    monkeypatch.setattr(feedforward, "SOURCE", tmp_path / "native.cpp")
    with pytest.raises(EngineFailed, match=r"checked itself against the model's step and was off"):
        NativeStreamer(network("nam lite"))


# The choice


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_auto_takes_the_native_engine_or_says_why_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="wavenet"):
        assert isinstance(build_streamer(network("nam nano")), NativeStreamer)
        assert messages(caplog) == ["engine: native (compiled for this CPU), float32, batch 1"]
        caplog.clear()
        stack = Stack([amp_block(4, 1, gate=nn.GELU())])
        streamer, x = build_streamer(stack), torch.randn(1, 4, 150)
        assert isinstance(streamer, TorchStreamer)
        (message,) = messages(caplog)
        assert re.match(
            r"engine: torch, .* since: .* for GELU \(its part 'blocks.0.gate'\)", message
        )
    assert_same(streamed(streamer, [x], 64), outputs(stack, [x]))
    with pytest.raises(EngineUnavailable, match="GELU"):
        build_streamer(stack, engine="native")
    with pytest.raises(ValueError, match="Unknown engine 'cuda'; there are: auto, native, torch"):
        build_streamer(stack, engine="cuda")


def test_without_a_compiler_auto_takes_pytorch_and_native_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.INFO, logger="wavenet"):
        assert isinstance(build_streamer(network("nam nano")), TorchStreamer)
    assert "apt install g++" in caplog.text
    with pytest.raises(EngineUnavailable, match=r"No C\+\+ compiler was found"):
        build_streamer(network("nam nano"), engine="native")


# The C++ source under a sanitizer


@pytest.mark.slow
def test_the_loop_is_clean_under_address_and_undefined_behaviour_sanitizers(
    tmp_path: Path,
) -> None:
    tests = "forward or batch or float64 or state or nan or holds or scratch"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(
        [*command, "-k", tests],
        cwd=REPOSITORY,
        env=sanitized(tmp_path, "address,undefined"),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert " passed" in run.stdout and list(tmp_path.glob("native-*.so"))


@pytest.mark.slow
def test_the_sanitizer_sees_a_read_past_the_end_of_a_row(tmp_path: Path) -> None:
    """So that the test above can fail."""
    source, right = feedforward.SOURCE.read_text(), "at[index] + BLOCK <= b.room"
    assert right in source
    (tmp_path / "native.cpp").write_text(source.replace(right, "at[index] + BLOCK <= 2 * b.room"))
    program = (
        "import pathlib, torch, wavenet; import wavenet.engines.native.feedforward as f; "
        f"f.SOURCE = pathlib.Path({str(tmp_path / 'native.cpp')!r}); "
        "f.NativeStreamer(wavenet.CausalConv1d(1, 1, 5)).process(torch.zeros(1, 1, 2000))"
    )
    command, environment = [sys.executable, "-c", program], sanitized(tmp_path, "address")
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode != 0 and "ERROR: AddressSanitizer" in run.stderr
