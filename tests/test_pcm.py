"""Tests of 16-bit PCM as an output's samples."""

from dataclasses import dataclass

import pytest
import torch

from wavenet.outputs import Gaussian, MuLaw, Output
from wavenet.outputs.pcm import encode_pcm

EVERY = torch.arange(-32768, 32768, dtype=torch.int16)


@dataclass(frozen=True)
class Steps:
    """An output of whole numbers about 0, `step` 16-bit levels each."""

    step: int

    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        return (audio * 32768).long() // self.step


@pytest.mark.parametrize("output", [MuLaw(256), MuLaw(64), MuLaw(300), Gaussian(), Steps(100)])
def test_every_level_is_encoded_as_the_output_encodes_its_audio(output: Output) -> None:
    found = encode_pcm(output, EVERY.view(256, 256))
    assert torch.equal(found.long().flatten(), output.encode(EVERY.float() / 32768))


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (MuLaw(256), torch.uint8),
        (MuLaw(257), torch.int16),
        (Gaussian(), torch.int32),
        (Steps(256), torch.int8),
        (Steps(1), torch.int16),
    ],
)
def test_samples_are_of_the_smallest_type_that_holds_them(
    output: Output, kind: torch.dtype
) -> None:
    assert encode_pcm(output, EVERY[:5]).dtype == kind


@pytest.mark.parametrize("output", [MuLaw(256), MuLaw(255), MuLaw(2), Gaussian()])
def test_what_pads_a_batch_is_silence(output: Output) -> None:
    assert encode_pcm(output, torch.zeros(1, dtype=torch.int16)).tolist() == [output.silence]


def test_other_than_16_bits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"16-bit PCM is a tensor of torch.int16, but got .*int32"):
        encode_pcm(MuLaw(), torch.zeros(3, dtype=torch.int32))
