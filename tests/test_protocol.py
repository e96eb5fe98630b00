"""Tests of scoring as the SaShiMi paper does: clips are scaled, and come after silence.

The reference is written here from the protocol: scale the clip, encode it, put silence before it,
and read the log-likelihoods off one forward pass.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_runs import module, network, trainer

import wavenet
from wavenet.corpus import ClipTable, CropBatches, Scoring
from wavenet.corpus.batches import PLAIN
from wavenet.outputs.pcm import encode_scaled_pcm
from wavenet.training.data import AudioDataModule
from wavenet.training.module import LitWaveNet

RATE = 8000
LENGTHS = [900, 400, 60]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        walk = np.cumsum(rng.standard_normal(length)) + 40 * number
        soundfile.write(tmp_path / f"{number}_theo_{number}.wav", walk / 200, RATE, "PCM_16")
    return tmp_path


def built(data: AudioDataModule) -> LitWaveNet:
    lit = network(sample_rate=RATE, labels={})
    lit.configure_model()
    data.prepare_data()
    return lit


def scaled(audio: np.ndarray) -> torch.Tensor:
    low, high = float(audio.min()), float(audio.max())
    return torch.from_numpy(2 * (audio.astype(np.float64) - low) / (high - low + 1e-6) - 1).float()


def reference(model: wavenet.WaveNet, audio: np.ndarray) -> torch.Tensor:
    """(T,) nats of a clip's samples, the first from a receptive field of silence."""
    codes = model.output.encode(scaled(audio))
    silence = torch.full((model.receptive_field,), model.output.silence)
    params = model(torch.cat([silence, codes])[None, :-1])
    return model.output.nats(params, torch.cat([silence, codes])[None, 1:])[0, len(silence) - 1 :]


def test_validation_is_the_papers_figure(corpus: Path) -> None:
    data = module(corpus, label_pattern=None, val_pattern=".", protocol="sashimi")
    lit = built(data)
    nats = [reference(lit.network, data.audio(clip)) for clip in data.clips("val")]
    exact = float(torch.cat(nats).mean()) / math.log(2)
    assert validated(lit, data) == pytest.approx(exact, rel=1e-5)
    plain = module(corpus, label_pattern=None, val_pattern=".")
    assert abs(validated(lit, plain) - exact) > 1e-3, "another figure"


def validated(lit: LitWaveNet, data: AudioDataModule) -> float:
    """Bits per sample as validation has them, over all batches."""
    data.receptive_field = lit.receptive_field
    seen: list[tuple[float, int]] = []

    def log(_: str, value: torch.Tensor, batch_size: int, **__: object) -> None:
        seen.append((float(value), batch_size))

    lit.log = log  # type: ignore[assignment, method-assign]
    clips = data.whole_clips("val")
    for number in range(len(clips)):
        lit.validation_step(clips[number], 0)
    assert sum(count for _, count in seen) == sum(LENGTHS)
    return sum(value * count for value, count in seen) / sum(LENGTHS)


def test_a_crop_is_scored_as_the_whole_clip_is(corpus: Path) -> None:
    data = module(
        corpus, label_pattern=None, val_pattern="x", val_fraction=0.0, protocol="sashimi",
        crop_samples=70, batch_size=4,
    )  # fmt: skip
    lit = built(data)
    reach = lit.receptive_field
    whole = {clip.length: reference(lit.network, data.audio(clip)) for clip in data.clips("train")}
    batches, starts = data.batches(receptive_field=reach), set()
    for batch in map(batches.__getitem__, range(2 * len(batches))):
        samples = lit._samples(batch)
        nats = lit.network.output.nats(lit.network(samples[:, :-1]), samples[:, 1:])
        for row, (start, stop) in enumerate(batch["scored"].tolist()):
            place, length = batch["position"][row].tolist()
            assert start == reach - 1, "a receptive field of context, silence before the clip"
            wanted = whole[length][place + start : place + stop]
            torch.testing.assert_close(nats[row, start:stop], wanted, rtol=1e-4, atol=1e-4)
            starts.add(place)
    assert min(starts) < 0 < max(starts)


def test_a_constant_clip_is_the_lowest_level_and_around_it_is_silence() -> None:
    pcm = torch.tensor([[0, 5, 5, 5, 0]], dtype=torch.int16)
    inside = torch.tensor([[False, True, True, True, False]])
    extremes = torch.tensor([[5, 5]], dtype=torch.int16)
    codes = encode_scaled_pcm(wavenet.MuLaw(), pcm, extremes, inside)
    assert codes.tolist() == [[128, 0, 0, 0, 128]]


def test_extremes_are_those_of_the_whole_clip(tmp_path: Path) -> None:
    audio = np.array([3, -7, 2, 9, 0, 0, 1], "<i2")
    (tmp_path / "a").write_bytes(audio.tobytes())
    table = ClipTable(tmp_path / "a", np.array([0, 3]), np.array([3, 4]), {})
    batch = CropBatches(table, 2, 1, 6, framing=PLAIN, scoring=Scoring(True, 2))[0]
    found = {
        tuple(row) for row in torch.cat([batch["position"], batch["extremes"]], 1)[:, 1:].tolist()
    }
    assert found == {(3, -7, 3), (4, 0, 9)}


def test_it_trains(corpus: Path) -> None:
    data = module(corpus, label_pattern=None, val_pattern="0_", protocol="sashimi")
    trainer(max_steps=2).fit(network(), data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "s4"}, r"--data.protocol is sashimi or none, but got 's4'"),
        ({"protocol": "sashimi", "trailing_silence": 0.1}, "Leave one of them out"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    corpus: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module(corpus, **settings)


@pytest.mark.parametrize(
    "steering", [{"position_hop": 16}, {"mel": {"bands": 4, "hop": 8}}, {"preemphasis": 0.85}]
)
def test_models_with_mel_position_or_a_filter_are_refused(
    corpus: Path, steering: dict[str, Any]
) -> None:
    data = module(corpus, label_pattern=None, val_pattern="0_", protocol="sashimi")
    with pytest.raises(ValueError, match="for models without mel, position and preemphasis"):
        trainer(max_steps=1).fit(network(**steering), data)
