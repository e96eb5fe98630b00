"""Properties of upsampling in stages: pieces are the whole, clips do not see each other.

Shapes: B batch, M bands, F frames.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close
from torch import Tensor

from wavenet import Config, Mel, WaveNet, bits_per_sample, generate, nats_per_sample
from wavenet.conditioning import MelFeatures, Smoothed, Transposed, mel_clips, within_silence

BANDS, RATE = 5, 8000
WAYS = [
    Smoothed([4, 3], pad=2),
    Smoothed([2, 1, 3], across=3),
    Smoothed([6]),
    Transposed([3, 2, 2], across=3),
]


def mel_of(way: Smoothed | Transposed, **settings: Any) -> Mel:
    return Mel(BANDS, way.hop, way.hop, upsampling=way, given=True, **settings)


def features_of(mel: Mel) -> MelFeatures:
    features = MelFeatures(mel).double()
    for parameter in features.parameters():
        torch.nn.init.normal_(parameter)
    return features


def some_frames(count: int, clips: int = 2) -> Tensor:
    return torch.randn(clips, BANDS, count, dtype=torch.float64)


def of_whole(features: MelFeatures, frames: Tensor) -> Tensor:
    context = features.mel.context
    return features(
        within_silence(features.mel, frames, -context, frames.shape[-1] + 2 * context)
    ).detach()


@pytest.mark.parametrize("way", WAYS, ids=repr)
def test_a_feature_depends_on_context_frames_and_no_more(way: Smoothed | Transposed) -> None:
    features, frames = features_of(mel_of(way)), some_frames(2 * way.context + 7, 1)
    middle, frames.requires_grad = way.context + 3, True
    here = features(frames)[..., 3 * way.hop : 4 * way.hop]
    seen = torch.autograd.grad(here.sum(), frames)[0][0].abs().sum(0).nonzero().flatten().tolist()
    assert set(seen) <= set(range(middle - way.context, middle + way.context + 1))
    assert {middle} <= set(seen)
    if isinstance(way, Smoothed):  # not one frame more than is needed on one side or the other
        assert middle - way.context in seen or middle + way.context in seen


@pytest.mark.parametrize("way", WAYS, ids=repr)
def test_features_of_pieces_are_those_of_the_whole(way: Smoothed | Transposed) -> None:
    mel, frames = mel_of(way), some_frames(9)
    features = features_of(mel)
    whole = of_whole(features, frames)
    assert whole.shape == (2, BANDS, 9 * way.hop)
    for piece in (1, 2, 5):
        made = [
            features(within_silence(mel, frames, at - way.context, piece + 2 * way.context))
            for at in range(0, 9, piece)
        ]
        assert_close(torch.cat(made, dim=-1)[..., : 9 * way.hop].detach(), whole, piece)


@pytest.mark.parametrize("way", WAYS, ids=repr)
def test_a_clip_beside_a_longer_one_has_the_features_it_has_alone(
    way: Smoothed | Transposed,
) -> None:
    mel, clips = mel_of(way), [some_frames(n, 1)[0] for n in (9, 1, 4)]
    features, together = features_of(mel), mel_clips(mel, clips, 3)
    context = way.context
    made = features(together(-context, 9 + 2 * context)).detach()
    assert made.isfinite().all(), "behind a clip's end too"
    for row, clip in zip(made, clips, strict=True):
        alone = of_whole(features, clip[None])[0]
        assert_close(row[..., : alone.shape[-1]], alone, clip.shape)


def test_a_new_upsampling_makes_constant_features_of_constant_frames() -> None:
    for way in WAYS:
        features = MelFeatures(replace(mel_of(way), bands=9))
        if isinstance(way, Smoothed):
            torch.nn.init.dirac_(features.stages.mix.weight)  # type: ignore[union-attr, arg-type]
        made = of_whole(features, torch.full((1, 9, 20), 3.0))
        inner = made[:, 3:-3, 8 * way.hop : -8 * way.hop]  # of bands and samples far from all edges
        assert_close(inner, torch.full_like(inner, 3.0), way)


def steered(way: Smoothed | Transposed) -> WaveNet:
    torch.manual_seed(0)
    model = WaveNet(1, 3, 2, 6, 5, 7, sample_rate=RATE, mel=mel_of(way)).eval().double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.mark.parametrize("way", WAYS, ids=repr)
def test_likelihoods_by_chunks_are_those_of_forward(way: Smoothed | Transposed) -> None:
    model, frames = steered(way), some_frames(6)
    codes = torch.randint(0, 256, (2, 6 * way.hop - 1))
    silent = torch.nn.functional.pad(codes[:, :-1], (1, 0), value=model.output.silence)
    expected = model.output.nats(model(silent, mel=frames), codes)
    for chunk in (7, 100):
        made = nats_per_sample(model, codes, chunk_size=chunk, mel=frames)
        assert_close(made.double(), expected.double(), chunk)
    bits = bits_per_sample(model, codes, mel=frames)
    assert bits == pytest.approx(float(expected.detach().mean()) / torch.log(torch.tensor(2.0)))


def test_a_model_with_such_mel_comes_back_and_generates_the_same(tmp_path: Path) -> None:
    for number, way in enumerate(WAYS):
        model, folder = steered(way).float(), tmp_path / str(number)
        model.save_pretrained(folder)
        again, frames = WaveNet.from_pretrained(folder), some_frames(4, 1).float()
        assert again.config == model.config and again.mel == model.mel
        assert torch.equal(generate(again, mel=frames), generate(model, mel=frames))


def test_settings_of_ordinary_mel_are_those_that_earlier_libraries_read(tmp_path: Path) -> None:
    plain = Config(mel=Mel(bands=4)).settings()["mel"]
    assert "given" not in plain and plain["upsampling"] == "linear"
    assert Config(mel=json.loads(json.dumps(plain))).mel == Mel(bands=4)
    for way in WAYS:
        settings = json.loads(json.dumps(Config(mel=mel_of(way)).settings()["mel"]))
        assert settings["given"] and Config(mel=settings).mel == mel_of(way)


def test_frames_of_another_program_are_taken_as_they_are() -> None:
    mel = Mel(BANDS, 8, 8, upsampling="hold", given=True)
    frames = some_frames(3)
    assert_close(MelFeatures(mel).double()(frames), frames)
    assert mel.silence == 0.0
    with pytest.raises(ValueError, match="make the frames with that program and give them"):
        bits_per_sample(WaveNet(1, 2, mel=mel), torch.zeros(1, 16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "Cubic", "scales": [4]}, "no upsampling named 'Cubic'; there are: Smoothed, Tra"),
        ({"name": "Smoothed"}, "takes scales, across, pad, the first of them always, but got {}"),
        ({"name": "Transposed", "scales": [4], "pad": 1}, "Transposed takes scales, across, the"),
        ({"name": "Smoothed", "scales": []}, "needs scales, a list of 1 to 16 whole numbers"),
        ({"name": "Smoothed", "scales": "44"}, "a list of 1 to 16 whole numbers, but got '44'"),
        (
            {"name": "Smoothed", "scales": [4, 0]},
            "an integer from 1 to 4096 for a scale, but got 0",
        ),
        ({"name": "Smoothed", "scales": [4], "across": 2}, "an odd number for across, not 2"),
        ({"name": "Smoothed", "scales": [4], "pad": -1}, "an integer from 0 to 64 for pad, but"),
        ({"name": "Smoothed", "scales": [4, 4]}, r"the scales \[4, 4\], which make 16 .*hop is 8"),
    ],
)
def test_upsamplings_that_there_are_not_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mel(BANDS, 8, 8, upsampling=settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="given must be true or false"):
        replace(Mel(), given="yes")  # type: ignore[arg-type]
