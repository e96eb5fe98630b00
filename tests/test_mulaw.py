"""Properties of mu-law coding. The reference is torchaudio's, which the package does not use."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchaudio.functional import mu_law_decoding, mu_law_encoding

from wavenet import MuLaw, WaveNet
from wavenet.outputs import FlooredMuLaw, output_from, output_settings

CLASSES = [2, 3, 16, 100, 255, 256, 257, 1024]


def dense_grid(dtype: torch.dtype = torch.float32) -> Tensor:
    """[-1, 1] in steps of 2^-18, so with all 16-bit values, and a logarithmic grid about zero."""
    even = torch.arange(-(2**18), 2**18 + 1, dtype=torch.float64) / 2**18
    near_zero = torch.logspace(-12, 0, 20001, dtype=torch.float64)
    return torch.cat([even, near_zero, -near_zero]).to(dtype)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_encoding_equals_torchaudio_on_a_dense_grid(classes: int, dtype: torch.dtype) -> None:
    audio = dense_grid(dtype)
    codes = MuLaw(classes).encode(audio)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, mu_law_encoding(audio, classes))
    assert codes.unique().tolist() == list(range(classes))


@pytest.mark.parametrize("classes", CLASSES)
def test_decoding_equals_torchaudio_on_every_code(classes: int) -> None:
    codes = torch.arange(classes)
    audio = MuLaw(classes).decode(codes)
    assert audio.dtype == torch.float32
    assert torch.equal(audio, mu_law_decoding(codes, classes))


@pytest.mark.parametrize("classes", CLASSES)
def test_codes_survive_the_way_to_audio_and_back(classes: int) -> None:
    codec, codes = MuLaw(classes), torch.arange(classes)
    assert torch.equal(codec.encode(codec.decode(codes)), codes)


@pytest.mark.parametrize("classes", CLASSES)
def test_audio_survives_within_half_a_step_of_the_curve(classes: int) -> None:
    def compressed(audio: Tensor) -> Tensor:
        return audio.sign() * torch.log1p((classes - 1) * audio.abs()) / math.log1p(classes - 1)

    codec, audio = MuLaw(classes), dense_grid()
    error = (compressed(codec.decode(codec.encode(audio))) - compressed(audio)).abs().max()
    assert float(error) <= 1 / (classes - 1) + 1e-5  # the curve is 2 high, in classes - 1 steps


def test_codes_rise_with_the_audio_from_end_to_end() -> None:
    codec = MuLaw()
    assert (codec.encode(dense_grid().sort().values).diff() >= 0).all()
    assert codec.encode(torch.tensor([-1.0, 1.0])).tolist() == [0, 255]
    assert codec.decode(torch.tensor([0, 255])).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("classes", CLASSES)
def test_silence_is_the_code_of_zero(classes: int) -> None:
    codec = MuLaw(classes)
    assert codec.encode(torch.tensor([0.0, -0.0])).tolist() == [codec.silence] * 2
    audible = codec.decode(torch.arange(classes)).abs()
    assert float(audible[codec.silence]) <= float(audible.min()) * (
        1 + 1e-3
    )  # an even count has two codes about zero


def test_silence_of_256_classes_is_128_and_all_but_inaudible() -> None:
    assert MuLaw().silence == 128
    assert float(MuLaw().decode(torch.tensor(128)).abs()) < 1e-4


def test_audio_beyond_full_scale_is_clipped() -> None:
    audio = torch.tensor([-math.inf, -7.0, -1.0 - 1e-6, 1.0 + 1e-6, 7.0, math.inf])
    assert MuLaw().encode(audio).tolist() == [0, 0, 0, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_audio_is_encoded_as_the_same_values_in_float32(dtype: torch.dtype) -> None:
    audio = dense_grid().to(dtype)
    assert torch.equal(MuLaw().encode(audio), MuLaw().encode(audio.float()))
    assert not torch.equal(
        mu_law_encoding(audio, 256), MuLaw().encode(audio)
    )  # too coarse there, hence the detour


def test_any_shape_is_kept_and_the_input_is_not_written() -> None:
    for shape in ((), (0,), (5,), (2, 3), (2, 3, 4)):
        audio = 3 * torch.randn(shape)
        before = audio.clone()
        codes = MuLaw().encode(audio)
        assert codes.shape == shape and MuLaw().decode(codes).shape == shape
        assert torch.equal(audio, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_codes_of_any_integer_type_are_decoded(dtype: torch.dtype) -> None:
    codes = torch.arange(0, 128, dtype=dtype)
    assert torch.equal(MuLaw().decode(codes), MuLaw().decode(torch.arange(0, 128)))


def test_uint8_reaches_the_highest_code() -> None:
    assert MuLaw().decode(torch.tensor([255], dtype=torch.uint8)).item() == 1.0


def test_nan_is_refused_and_counted() -> None:
    with pytest.raises(ValueError, match="2 NaN samples"):
        MuLaw().encode(torch.tensor([0.0, math.nan, 0.5, math.nan]))


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.bool])
def test_integer_audio_is_refused_with_the_remedy(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"floating-point audio.*32768"):
        MuLaw().encode(torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("value", [None, 5, [0.0], np.zeros(3)], ids=str)
def test_what_is_no_tensor_is_refused_with_the_remedy(value: Any) -> None:
    for method in (MuLaw().encode, MuLaw().decode):
        with pytest.raises(ValueError, match=r"takes a tensor, but got a .*torch\.as_tensor"):
            method(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_codes_that_are_not_integers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"integer codes in 0\.\.255"):
        MuLaw().decode(torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize(
    ("codes", "seen"), [([-1, 5], "from -1 to 5"), ([3, 256], "from 3 to 256")]
)
def test_codes_out_of_range_are_refused(codes: list[int], seen: str) -> None:
    with pytest.raises(ValueError, match=seen):
        MuLaw().decode(torch.tensor(codes))


@pytest.mark.parametrize("classes", [1, 0, -256, 2.0, True, "256", None])
def test_a_number_of_classes_that_makes_no_codec_is_refused(classes: object) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        MuLaw(classes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("classes", "mu"), [(256, 255), (256, 256), (16, 15), (17, 17)])
def test_floored_codes_are_rounded_down_with_their_own_compression(classes: int, mu: int) -> None:
    codec, audio = FlooredMuLaw(classes, mu), dense_grid(torch.float64)
    compressed = audio.sign() * torch.log1p(mu * audio.abs()) / math.log1p(mu)
    codes = codec.encode(audio)
    assert torch.equal(codes, ((compressed + 1) / 2 * mu).floor().long().clamp(max=classes - 1))
    assert codes.unique().tolist() == list(range(classes))
    assert codec.silence == int(codec.encode(torch.zeros(1, dtype=torch.float64)))
    expanded = codec.decode(codes).double()
    again = expanded.sign() * torch.log1p(mu * expanded.abs()) / math.log1p(mu)
    assert float((compressed - again).abs().max()) <= 2 / mu + 1e-5
    assert float((compressed - again)[codes < mu].min()) >= -1e-5, "never above the audio"


def test_the_silence_of_floored_codes_is_127_or_128() -> None:
    assert (FlooredMuLaw().silence, FlooredMuLaw(256, 256).silence, MuLaw().silence) == (
        127,
        128,
        128,
    )
    assert float(FlooredMuLaw(256, 256).decode(torch.tensor([128]))) == 0.0


def test_floored_codes_are_saved_as_such_and_older_libraries_refuse_them(tmp_path: Path) -> None:
    output = FlooredMuLaw(16, 16)
    assert output_from(json.loads(json.dumps(output_settings(output)))) == output != MuLaw(16)
    WaveNet(1, 2, output=output).save_pretrained(tmp_path)
    assert WaveNet.from_pretrained(tmp_path).output == output
    codec = json.loads((tmp_path / "config.json").read_text())["codec"]
    assert codec == {"name": "FlooredMuLaw", "classes": 0}, "older libraries refuse it by this"
    with pytest.raises(ValueError, match="a compression of 15 or 16, mu of its 16 classes, but go"):
        FlooredMuLaw(16, 14)
