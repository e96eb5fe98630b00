"""Audio brought nearer to the mel frames it was made from, whole and as it comes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import small_model

from wavenet import Mel, WaveNet, generate, stream
from wavenet.conditioning import MelPass, match_mel, matched, within_silence
from wavenet.conditioning.filterbank import mel_bands
from wavenet.conditioning.matching import RELAXATION

RATE = 8000
MEL = Mel(bands=6, hop=20, window=50)  # not a whole number of hops, and margins that differ
VOICE = Mel(bands=40, hop=64, window=256)


def noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))


def frames_of(samples: int, mel: Mel = MEL, clips: int = 1) -> torch.Tensor:
    """Of audio that changes its loudness: (clips, M, F)."""
    swell = 3 * torch.linspace(-1, 1, samples).abs()
    return mel.spectrogram(swell * noise(clips, samples, seed=1), RATE)


@pytest.mark.parametrize("samples", [1, 19, 20, 21, 333])
@pytest.mark.parametrize("mel", [MEL, VOICE, Mel(bands=6, hop=25, window=50)])
def test_audio_that_fits_its_frames_stays_as_it_is(mel: Mel, samples: int) -> None:
    audio = noise(2, samples)
    made = match_mel(audio, mel.spectrogram(audio, RATE), mel, RATE, passes=3)
    torch.testing.assert_close(made, audio, atol=1e-6, rtol=0)


def test_a_pass_is_its_equation() -> None:
    """Window by window, in float64; frames outside the clip change nothing."""
    audio, mel, frames = noise(1, 400), MEL, frames_of(400)[0].double()
    window = torch.hann_window(mel.window, dtype=torch.float64)
    bands = mel_bands(mel.window // 2 + 1, mel.bands, RATE).double()
    padded = torch.nn.functional.pad(audio[0].double(), (100, 100))
    made, squares = torch.zeros(600).double(), torch.zeros(600).double()
    for f in range(-3, 23):
        part = slice(100 + f * mel.hop - 15, 100 + f * mel.hop + 35)
        spectrum = torch.fft.rfft(padded[part] * window)
        if 0 <= f < 20:
            short = frames[:, f] - (spectrum.abs() @ bands).clamp_min(mel.floor).log()
            spectrum = spectrum * torch.exp(
                RELAXATION * bands @ short / bands.sum(1).clamp_min(1e-9)
            )
        made[part] += torch.fft.irfft(spectrum, mel.window) * window
        squares[part] += window.square()
    expected = (made / squares)[100:500].clamp(-1, 1).float()
    result = match_mel(audio, frames.float(), mel, RATE, passes=1)[0]
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-4)


def test_each_pass_brings_the_frames_nearer() -> None:
    audio, frames = noise(1, 4000), frames_of(4000, VOICE)

    def away(passes: int) -> float:
        made = match_mel(audio, frames, VOICE, RATE, passes) if passes else audio
        return float((VOICE.spectrogram(made, RATE) - frames).abs().mean())

    distances = [away(passes) for passes in (0, 1, 2, 5)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.2 * distances[0]


@pytest.mark.parametrize("size", [1, 7, 20, 64, 1000])
def test_pieces_give_what_the_whole_gives(size: int) -> None:
    audio, frames = noise(2, 333), frames_of(333, clips=2)

    def source(first: int, count: int) -> torch.Tensor:
        return within_silence(MEL, frames, first, count)

    chain = [MelPass(MEL, source, RATE, 2) for _ in range(3)]
    pieces = list(matched(audio.split(size, dim=1), chain))
    whole = match_mel(audio, frames, MEL, RATE, passes=3)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-6, rtol=0)


def test_a_sample_waits_for_a_window_at_most_and_nothing_grows() -> None:
    frames = frames_of(5000)

    def source(first: int, count: int) -> torch.Tensor:
        return within_silence(MEL, frames, first, count)

    one, come, made = MelPass(MEL, source, RATE, 1), 0, 0
    for piece in noise(1, 5000).split(1, dim=1):
        come, made = come + 1, made + one.process(piece).shape[1]
        assert 0 <= come - made <= one.latency
    kept = [x for x in vars(one).values() if isinstance(x, torch.Tensor)]
    assert sum(x.untyped_storage().nbytes() for x in kept) < 8000
    assert made + one.end().shape[1] == 5000


def vocoder() -> WaveNet:
    return small_model(mel=MEL, sample_rate=RATE).float()


def given(clips: int = 1, count: int = 12) -> torch.Tensor:
    return frames_of(count * MEL.hop, clips=clips)


def test_generate_matches_what_it_drew() -> None:
    model, frames = vocoder(), given()
    drawn = generate(model, mel=frames, seed=3)
    expected = match_mel(drawn, frames, MEL, RATE, passes=2)
    assert not torch.equal(expected, drawn)
    torch.testing.assert_close(generate(model, mel=frames, seed=3, match_mel=2), expected)


@pytest.mark.parametrize("upsampling", ["hold", "linear"])
@pytest.mark.parametrize("settings", [{}, {"num_samples": 201}])
def test_frames_as_they_come_give_the_same_and_are_not_waited_for(
    upsampling: Any, settings: Any
) -> None:
    """None is asked for, at any chunk, that the model itself would not have asked for by then."""
    mel, frames = Mel(bands=6, hop=20, window=50, upsampling=upsampling), given(count=40)
    model = small_model(mel=mel, sample_rate=RATE).float()

    def asked(match_mel: int) -> tuple[list[tuple[int, int]], torch.Tensor]:
        come, at_chunks = 0, list[tuple[int, int]]()

        def pieces() -> Iterator[torch.Tensor]:
            nonlocal come
            for piece in frames.split(1, dim=-1):
                come += 1
                yield piece

        how = {"seed": 3, "chunk_size": 20, "match_mel": match_mel, **settings}
        chunks, made = stream(model, mel=pieces(), **how), []
        for chunk in chunks:
            made.append(chunk)
            at_chunks.append((sum(x.shape[1] for x in made), come))
        return at_chunks, torch.cat(made, dim=1)

    plain, _ = asked(0)
    matching, made = asked(3)
    whole = generate(model, mel=frames, seed=3, match_mel=3, **settings)
    torch.testing.assert_close(made, whole)
    assert matching[-1] == plain[-1]
    for samples, come in matching[:-1]:
        drawn = samples + 3 * mel.window + mel.hop  # at most: a window a pass, and a chunk
        assert come <= max(frames for at, frames in plain if at <= drawn)


def test_what_came_before_a_feed_ended_is_given_before_the_error() -> None:
    model, frames = vocoder(), given()
    chunks, made = stream(model, mel=iter([frames]), num_samples=300, match_mel=3), []
    with pytest.raises(ValueError, match="ended after 240 samples"):
        made.extend(chunks)
    expected = generate(model, mel=frames, match_mel=3)
    torch.testing.assert_close(torch.cat(made, dim=1), expected)


def test_autocast_changes_nothing() -> None:
    audio = noise(1, 333)
    with torch.autocast("cpu", torch.bfloat16):
        made = match_mel(audio, MEL.spectrogram(audio, RATE), MEL, RATE, passes=1)
    torch.testing.assert_close(made, audio, atol=1e-6, rtol=0)


def test_gains_have_a_limit_and_audio_stays_within_full_scale() -> None:
    quiet, loud = 1e-4 * noise(1, 400), frames_of(400) + 10
    once = match_mel(quiet, loud, MEL, RATE, passes=1)
    assert once.abs().max() < 1.01 * 100 * quiet.abs().max()
    assert match_mel(noise(1, 400), loud, MEL, RATE, passes=3).abs().max() == 1


def test_a_shorter_clip_of_a_batch_sounds_as_it_does_alone() -> None:
    model, frames = vocoder(), [given()[0], given(count=5)[0]]
    together = generate(model, mel=frames, batch_size=2, seed=3, match_mel=2)
    alone = generate(model, mel=frames[1], seed=4, match_mel=2)
    torch.testing.assert_close(together[1:, :100], alone)
    assert not together[1, 100:].any()


def test_a_prompt_is_matched_with_what_follows_and_not_given_back() -> None:
    model, frames = vocoder(), given()
    prompt = noise(1, 60)
    drawn = generate(model, mel=frames, prompt=prompt, seed=3)
    heard = torch.cat([model.output.decode(model.output.encode(prompt)), drawn], dim=1)
    expected = match_mel(heard, frames, MEL, RATE, passes=2)[:, 60:]
    made = generate(model, mel=frames, prompt=prompt, seed=3, match_mel=2)
    torch.testing.assert_close(made, expected)


@pytest.mark.parametrize(
    ("mel", "settings", "said"),
    [
        (None, {"num_samples": 5}, "none are given"),
        (Mel(bands=6, hop=40, window=79), {}, "overlap by half"),
        (Mel(bands=6, hop=20, window=50, given=True), {}, "another program's"),
        (MEL, {"match_mel": -1}, "from 0 to 1000 passes, but got -1"),
        (MEL, {"match_mel": 1.5}, "match_mel must be a whole number"),
    ],
)
def test_what_cannot_be_matched_is_refused_at_the_call(mel: Any, settings: Any, said: str) -> None:
    model = small_model(mel=mel, sample_rate=RATE).float()
    frames = {} if mel is None else {"mel": torch.zeros(6, 4)}
    with pytest.raises(ValueError, match=said):
        stream(model, **frames, **{"match_mel": 1, **settings})


def test_audio_of_one_clip_keeps_its_shape() -> None:
    audio, frames = noise(1, 240), given()
    made = match_mel(audio, frames, MEL, RATE, passes=1)
    assert torch.equal(match_mel(audio[0].double(), frames[0], MEL, RATE, passes=1), made[0])


@pytest.mark.parametrize(
    ("audio", "settings", "said"),
    [
        (noise(1, 241), {}, "12 frames"),
        (noise(1, 240), {"passes": 0}, "at least 1, but got 0"),
        (noise(1, 240), {"passes": 1.5}, "at least 1, but got 1.5"),
        (noise(1, 240)[0].numpy(), {}, "but got ndarray"),
        (torch.zeros(1, 0), {}, "at least one sample"),
        (torch.zeros(1, 240).short(), {}, "but got torch.int16"),
        (torch.full((1, 240), float("nan")), {}, "with 240 values NaN"),
        (noise(1, 240), {"mel": Mel(bands=6, hop=20, window=50, high=4001)}, "4001 Hz"),
    ],
)
def test_what_is_no_audio_of_the_frames_is_refused(audio: Any, settings: Any, said: str) -> None:
    how = {"mel": MEL, "sample_rate": RATE, **settings}
    with pytest.raises(ValueError, match=said):
        match_mel(audio, given(), **how)
