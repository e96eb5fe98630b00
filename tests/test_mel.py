"""Properties of mel conditioning: where a frame lies, what its features are, what is refused."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, assert_close, shifted, small_model, some_codes
from safetensors.torch import load_file, save_file
from tiny_corpora import write_tone
from torch import Tensor

from wavenet import Config, Mel, WaveNet, bits_per_sample, generate, nats_per_sample, stream
from wavenet.conditioning import MelFeatures, MelFeed
from wavenet.conditioning.mel import frames_within
from wavenet.corpus.batches import ClipBatches, ClipTable, CropBatches, Framing

RATE = 8000
SMALL: dict[str, Any] = {"bands": 6, "hop": 8, "window": 24, "lookahead": 2}
WAYS = ["hold", "linear", "learned"]
ENGINES = ["step", "cached", "native"]


def small_mel(upsampling: Any = "linear", **settings: Any) -> Mel:
    return Mel(**{**SMALL, "upsampling": upsampling, **settings})


def mel_model(upsampling: str = "linear", **settings: Any) -> WaveNet:
    return small_model(mel=small_mel(upsampling), **settings).float()


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# Frames


def test_frames_are_those_of_torchaudio_with_windows_centred_on_them() -> None:
    import torchaudio

    mel, audio = Mel(bands=20, hop=64, window=256, low=50, high=3500), noise(640)
    transform = torchaudio.transforms.MelSpectrogram(
        RATE, 256, hop_length=64, f_min=50, f_max=3500, n_mels=20, power=1.0,
        center=False, norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    padded = torch.nn.functional.pad(audio, (96, 96))
    expected = transform(padded).clamp_min(1e-5).log()
    assert_close(mel.spectrogram(audio, RATE), expected)


@pytest.mark.parametrize("where", [0, 8, 15, 40, 79])
def test_an_impulse_is_loudest_in_the_frame_that_covers_it(where: int) -> None:
    mel, audio = small_mel(window=8, bands=2), torch.zeros(80)
    audio[where // 8 * 8 + 4] = 1.0  # the middle of its frame
    loudness = mel.spectrogram(audio, RATE).mean(0)
    assert int(loudness.argmax()) == where // 8


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 80])
def test_the_last_frame_may_be_short(samples: int) -> None:
    assert small_mel().spectrogram(noise(2, samples), RATE).shape == (2, 6, -(-samples // 8))


def test_silence_has_the_floor_in_every_band() -> None:
    mel = small_mel()
    frames = mel.spectrogram(torch.zeros(1, 40), RATE)
    assert torch.equal(frames, torch.full_like(frames, math.log(1e-5)))
    unit = small_mel(scaling="unit")
    assert float(MelFeatures(unit)(frames).abs().max()) < 1e-6


@pytest.mark.parametrize("start", [0, 8, 24])
def test_frames_of_a_part_are_those_of_the_whole_clip(start: int) -> None:
    """Beyond the clip's ends they are silence, whatever the window reaches."""
    mel, clip = small_mel("learned"), noise(61)
    before, after = mel.surroundings
    around = torch.nn.functional.pad(clip, (before, after + 100))
    part = around[start : before + start + 40 + after][None]
    position = torch.tensor([[start, 61]])
    made = frames_within(mel, part, position, RATE)
    whole = mel.spectrogram(clip, RATE)
    for index in range(made.shape[2]):
        number = start // 8 - 2 + index
        inside = 0 <= number < whole.shape[1]
        expected = whole[:, number] if inside else torch.full((6,), mel.silence)
        assert_close(made[0, :, index], expected, number)


# Features


def test_hold_gives_each_frame_to_all_its_samples() -> None:
    mel = small_mel("hold")
    frames = noise(1, 6, 3)
    assert mel.feature_hop == 8 and mel.context == 0
    assert_close(MelFeatures(mel)(frames), (frames + 7) / 2)


def test_linear_is_numpys_interpolation_between_the_middles_of_frames() -> None:
    mel, frames = small_mel("linear", step=1), noise(1, 6, 5)
    features = MelFeatures(mel)(frames)[0]  # of frames 1 to 3
    scaled = (frames[0] + 7) / 2
    middles, samples = np.arange(5) * 8 + 3.5, np.arange(8, 32)
    for band in range(6):
        expected = np.interp(samples, middles, scaled[band].double().numpy())
        assert_close(features[band], torch.from_numpy(expected).float(), band)


@pytest.mark.parametrize(("hop", "step"), [(8, 2), (64, 16), (275, 11), (7, 1), (1, 1)])
def test_a_step_is_the_largest_divisor_up_to_16_and_a_quarter_of_the_hop(
    hop: int, step: int
) -> None:
    assert Mel(hop=hop).feature_hop == step


def test_the_learned_upsampling_begins_as_linear_and_looks_as_far_as_it_says() -> None:
    learned, linear = MelFeatures(small_mel("learned")), MelFeatures(small_mel("linear"))
    frames = noise(1, 6, 9)
    assert_close(learned(frames), linear(frames[..., 1:-1]))
    torch.nn.init.normal_(learned.around[2].weight)  # type: ignore[index]
    changed = frames.clone()
    changed[..., 0] += 1  # two frames before the first
    different = (learned(changed) != learned(frames)).any(1)[0]
    assert different.tolist() == [True] * 4 + [False] * 16  # of the first frame alone


# The model


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("others", [{}, {"labels": LABELS}, {"labels": LABELS, "position_hop": 16}])
def test_a_timeline_in_pieces_is_the_condition_of_the_whole(
    way: str, others: dict[str, Any]
) -> None:
    model = mel_model(way, **others)
    labels = {"digit": torch.tensor([0, 2]), "speaker": torch.tensor([1, 1])} if others else None
    lengths, mel = torch.tensor([77, 77]), small_mel().spectrogram(noise(2, 77), RATE)
    position = model.beginning(2, lengths)
    whole = model.condition(labels, mel, position, 77)
    timeline = model.timeline(labels, lengths, mel)
    assert whole is not None
    for start, stop in ((0, 77), (0, 1), (5, 33), (31, 32), (76, 77)):
        piece = timeline.between(start, stop)
        assert piece is not None
        assert_close(piece.over(stop - start), whole.over(77)[..., start:stop], (start, stop))


def test_labels_and_mel_stand_beside_each_other() -> None:
    model = mel_model("hold", labels=LABELS)
    labels = {"digit": torch.tensor([1]), "speaker": torch.tensor([0])}
    mel = small_mel().spectrogram(noise(1, 16), RATE)
    condition = model.condition(labels, mel, time=16)
    assert condition is not None and condition.features.shape == (1, 3 + 6, 2)
    named = model.label_embedding(labels)
    assert torch.equal(condition.features[:, :3], named.expand(1, 3, 2))
    assert model.config.condition_width == 9


def test_a_sample_is_steered_by_its_own_frame_and_by_those_within_the_context() -> None:
    model = mel_model("linear")
    codes, mel = some_codes(1, 80), small_mel().spectrogram(noise(1, 80), RATE)
    changed = mel.clone()
    changed[..., 5] += 2.0
    one, other = (model(shifted(model, codes), mel=frames) for frames in (mel, changed))
    different = (one != other).any(1)[0].nonzero()[:, 0]
    first = int(different[0])
    assert first == 36  # half a frame before frame 5, which begins at 40


def test_settings_and_weights_come_back(tmp_path: Path) -> None:
    model = mel_model("learned", labels=LABELS)
    model.save_pretrained(tmp_path / "model")
    again = WaveNet.from_pretrained(tmp_path / "model")
    assert again.mel == model.mel and again.config == model.config
    audio = noise(50)
    labels = {"digit": "1", "speaker": "bob"}
    assert bits_per_sample(model, audio, labels) == bits_per_sample(again, audio, labels)


def test_a_model_without_mel_says_nothing_of_it_in_its_settings() -> None:
    assert "mel" not in Config().settings() and Config().mel is None


# Likelihood


def test_nats_are_those_of_forward() -> None:
    model = mel_model("learned")
    codes, mel = some_codes(2, 61), small_mel().spectrogram(noise(2, 61), RATE)
    params = model(shifted(model, codes), mel=mel)
    expected = model.output.nats(params, codes)
    assert_close(nats_per_sample(model, codes, chunk_size=13, mel=mel), expected)


def test_clips_of_different_lengths_are_scored_as_alone() -> None:
    model, audio, lengths = mel_model("learned"), noise(3, 90), [90, 17, 33]
    alone = [bits_per_sample(model, clip[:n]) * n for clip, n in zip(audio, lengths, strict=True)]
    together = bits_per_sample(model, audio, lengths=lengths)
    assert together == pytest.approx(sum(alone) / sum(lengths), rel=1e-5)


# Engines and streams


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("others", [{}, {"labels": LABELS, "position_hop": 16}])
def test_every_engine_draws_what_the_naive_one_draws(
    engine: str, way: str, others: dict[str, Any]
) -> None:
    model, mel = mel_model(way, **others), small_mel().spectrogram(noise(2, 120), RATE)
    settings: dict[str, Any] = {"mel": mel, "batch_size": 2, "seed": 4}
    expected = generate(model, engine="naive", **settings)
    assert expected.shape == (2, 120)
    assert torch.equal(generate(model, engine=engine, **settings), expected)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_lower_precision_is_steered_too(precision: str) -> None:
    model, mel = mel_model(), small_mel().spectrogram(noise(1, 120), RATE)
    one = generate(model, mel=mel, precision=precision)
    assert one.shape == (1, 120)
    assert not torch.equal(one, generate(model, mel=mel + 3, precision=precision))


def pieces(mel: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    yield from mel.split(sizes, dim=-1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunk", [1, 8, 50, 1000])
@pytest.mark.parametrize("sizes", [[1] * 15, [4, 1, 10], [15]])
def test_frames_as_they_come_give_what_the_whole_gives(
    way: str, chunk: int, sizes: list[int]
) -> None:
    model, mel = mel_model(way), small_mel().spectrogram(noise(2, 120), RATE)
    settings: dict[str, Any] = {"batch_size": 2, "engine": "cached", "seed": 1}
    chunks = stream(model, mel=pieces(mel, sizes), chunk_size=chunk, **settings)
    assert chunks.lengths is None
    assert torch.equal(torch.cat(list(chunks), dim=1), generate(model, mel=mel, **settings))


@pytest.mark.parametrize(("way", "ahead"), [("hold", 0), ("linear", 1), ("learned", 2)])
def test_a_frame_is_heard_once_the_frames_of_its_context_have_come(way: str, ahead: int) -> None:
    model, mel = mel_model(way), small_mel().spectrogram(noise(80), RATE)
    taken = 0

    def come() -> Iterator[Tensor]:
        nonlocal taken
        for frame in mel.split(1, dim=1):
            taken += 1
            yield frame

    chunks = stream(model, mel=come(), chunk_size=8, engine="cached")
    for heard in range(1, 11):
        next(chunks)
        assert taken == min(10, heard + ahead)


def test_a_feed_forgets_what_lies_behind() -> None:
    mel = small_mel("learned")
    feed = MelFeed(mel, (torch.zeros(6, 1) for _ in range(10_000)), 1)
    for first in range(9_000):
        feed(first - 2, 5)
        assert feed._kept.shape[-1] <= 6


def test_clips_of_different_lengths_are_drawn_as_alone() -> None:
    model = mel_model("learned")
    mels = [small_mel().spectrogram(noise(n, seed=n), RATE) for n in (80, 24, 56)]
    chunks = stream(model, mel=mels, batch_size=3, seed=7, engine="cached", chunk_size=30)
    clips = chunks.cut(torch.cat(list(chunks), dim=1))
    for index, (clip, mel) in enumerate(zip(clips, mels, strict=True)):
        alone = generate(model, mel=mel, seed=7 + index, engine="cached")[0]
        assert torch.equal(clip, alone)


def test_a_prompt_lies_under_the_first_frames() -> None:
    model, audio = mel_model(), noise(120)
    mel, clip = small_mel().spectrogram(audio, RATE), model.output.decode(some_codes(1, 40))[0]
    made = generate(model, mel=mel, prompt=clip, seed=2, engine="cached")
    assert made.shape == (1, 80)
    assert torch.equal(made, generate(model, mel=mel, prompt=clip, seed=2, engine="naive"))


def test_guidance_pushes_from_the_labels_and_keeps_the_mel() -> None:
    model = mel_model("hold", labels=LABELS, unlabelled=True)
    settings: dict[str, Any] = {
        "labels": {"digit": "1", "speaker": "bob"},
        "mel": small_mel().spectrogram(noise(120), RATE),
        "guidance": 0.7,
    }
    expected = generate(model, engine="naive", **settings)
    assert torch.equal(generate(model, engine="cached", **settings), expected)


# Batches


def framed_table(root: Path, lengths: list[int]) -> tuple[ClipTable, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    clips = [rng.integers(-(2**15), 2**15, n).astype("<i2") for n in lengths]
    path = root / "audio.s16"
    path.write_bytes(b"".join(clip.tobytes() for clip in clips))
    ends = np.cumsum(lengths)
    return ClipTable(path, ends - lengths, np.array(lengths), {}), clips


def test_crops_begin_with_a_frame_and_bring_the_audio_around(tmp_path: Path) -> None:
    table, clips = framed_table(tmp_path, [900, 300, 50])
    framing = Framing(hop=10, before=25, after=33)
    batches = CropBatches(table, 20, 64, 4, seed=1, framing=framing)
    by_length = {len(clip): clip for clip in clips}
    seen = 0
    for number in range(12):
        batch = batches[number]
        width = batch["audio"].shape[1] - 25 - 33
        assert width % 260 == 0 and width - 260 < batch["scored"].max() <= width
        for row in range(4):
            start, length = batch["position"][row].tolist()
            clip, audio = by_length[length], batch["audio"][row].numpy()
            assert start % 10 == 0
            padded = np.pad(clip, (25, 2000))
            assert np.array_equal(audio, padded[start : start + len(audio)])
            first = int(batch["scored"][row, 0])
            assert start + first == 0 or first >= 19  # the receptive field lies before it
            seen += start > 0
    assert seen > 5


def test_whole_clips_bring_silence_around_them(tmp_path: Path) -> None:
    table, clips = framed_table(tmp_path, [30, 10])
    batch = ClipBatches(table, 2, framing=Framing(8, 4, 6))[0]
    assert batch["audio"].shape == (2, 4 + 32 + 6)
    for row, clip in zip(batch["audio"].numpy(), reversed(clips), strict=True):
        assert np.array_equal(row, np.pad(clip, (4, 38 - len(clip))))


def test_training_sees_the_frames_of_the_clips_and_validation_is_exact(tmp_path: Path) -> None:
    from wavenet.training.data import AudioDataModule
    from wavenet.training.module import LitWaveNet

    for index in range(4):
        write_tone(tmp_path / f"{index}.wav", seconds=0.03 + 0.011 * index)
    data = AudioDataModule(
        str(tmp_path), RATE, val_fraction=0.5, crop_samples=64, batch_size=2, num_workers=0
    )
    data.setup()
    lit = LitWaveNet(
        sample_rate=RATE, labels={}, cycles=1, layers_per_cycle=2, residual_channels=4,
        gate_channels=4, skip_channels=4, mel={**SMALL, "upsampling": "learned"},
    )  # fmt: skip
    lit.configure_model()
    data.receptive_field, data.framing = lit.receptive_field, lit.framing
    clips = {len(data.audio(clip)): data.audio(clip) for clip in data.clips("val")}
    batch = data.whole_clips("val")[0]
    context = lit.network.mel.context
    for row, (_, length) in enumerate(batch["position"].tolist()):
        whole = lit.network.mel.spectrogram(torch.from_numpy(clips[length]), RATE)
        made = lit._mel(batch)[row, :, context : context + whole.shape[1]]
        assert_close(made, whole)
    bits = []
    lit.log = lambda name, value, **_: bits.append((name, float(value)))  # type: ignore[method-assign]
    lit.validation_step(batch, 0)
    total = sum(bits_per_sample(lit.network, torch.from_numpy(x)) * n for n, x in clips.items())
    assert bits == [("val_bits", pytest.approx(total / sum(clips), rel=1e-4))]


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bands": 0}, "mel.bands must be an integer from 1"),
        ({"hop": 0}, "mel.hop must be an integer from 1"),
        ({"hop": 300, "window": 200}, "mel.window must be an integer from 300"),
        ({"upsampling": "cubic"}, "mel.upsampling must be one of hold, linear, learned"),
        ({"hop": 10, "step": 4}, "mel.step must be a divisor of the hop, 10 samples, but got 4"),
        ({"floor": 0}, "mel.floor must be a magnitude between 0 and 1"),
        ({"low": 500, "high": 400}, "must be rising frequencies"),
        ({"lookahead": True}, "mel.lookahead must be an integer"),
    ],
)
def test_settings_that_make_no_mel_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mel(**settings)


def test_a_setting_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"its settings \(bands, hop, window.*'n_mels': 80"):
        Config(mel={"n_mels": 80})  # type: ignore[arg-type]


def test_a_band_above_half_the_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="8000 Hz has nothing above 4000 Hz"):
        small_mel(high=5000).spectrogram(noise(50), RATE)


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (torch.zeros(1, 5, 10), r"6 bands.* but got \(1, 5, 10\)"),
        (torch.zeros(10), r"got \(10,\)"),
        (torch.zeros(6, 10, dtype=torch.int64), "torch.int64"),
        (torch.zeros(3, 6, 10), r"for a batch of 1, but got \(3, 6, 10\)"),
        (torch.zeros(6, 0), "at least one frame"),
        (torch.full((6, 4), math.nan), "24 values that are NaN or infinite, the first in frame 0"),
        ([torch.zeros(6, 4), torch.zeros(6, 4)], "2 mel spectrograms for a batch of 1"),
        ("mel.npy", "but got str"),
        (None, "is conditioned on log mel spectrograms of 6 bands with a hop of 8 samples"),
    ],
)
def test_frames_that_do_not_fit_are_refused(mel: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(mel_model(), mel=mel)


def test_more_samples_than_frames_are_refused_with_both_and_the_hop() -> None:
    with pytest.raises(ValueError, match=r"4 frames with a hop of 8: 32 samples, but 33 are to be"):
        generate(mel_model(), mel=torch.zeros(6, 4), num_samples=33)
    with pytest.raises(ValueError, match=r"has 4 frames, but 33 samples with a hop of 8 have 5"):
        mel_model()(some_codes(1, 33), mel=torch.zeros(1, 6, 4))
    feed = stream(mel_model(), mel=iter([torch.zeros(6, 4)]), num_samples=33)
    with pytest.raises(ValueError, match="ended after 32 samples, but 33 were asked for"):
        list(feed)


def test_a_model_without_mel_refuses_one() -> None:
    with pytest.raises(ValueError, match="not conditioned on mel spectrograms; leave mel out"):
        generate(small_model(), num_samples=5, mel=torch.zeros(6, 4))


def test_a_model_that_plans_its_clips_wants_the_length_of_a_stream_of_frames() -> None:
    model = mel_model(position_hop=16)
    with pytest.raises(ValueError, match="does not say how long it is: give seconds"):
        stream(model, mel=iter([torch.zeros(6, 4)]))


# Saved by earlier libraries


def test_a_model_that_does_not_say_its_scaling_is_of_the_earlier_one(tmp_path: Path) -> None:
    model = small_model(mel=small_mel("hold", scaling="unit")).float()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model"]["mel"]["scaling"]
    config.pop("checksum")
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "model.safetensors")  # without the settings of the new one
    again = WaveNet.from_pretrained(tmp_path)
    assert again.mel == model.mel and again.mel.scaling == "unit"
    frames = noise(1, 6, 3)
    assert_close(MelFeatures(again.mel)(frames), 1 - frames / model.mel.silence)


def test_a_run_of_the_earlier_scaling_is_not_gone_on_with_in_another(tmp_path: Path) -> None:
    from wavenet.training.module import LitWaveNet

    lit = LitWaveNet(sample_rate=RATE, labels={}, cycles=1, layers_per_cycle=2, mel=SMALL)
    lit.configure_model()
    older = {k: v for k, v in lit.network.config.settings()["mel"].items() if k != "scaling"}
    with pytest.raises(ValueError, match=r"The checkpoint was trained with mel = .*scaling='unit'"):
        lit._refuse_other_network({**lit.network.config.settings(), "mel": older})
