"""Models and runs made by older commits go on being what they were: see tests/stored."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import arguments, load, train, write_corpus
from torch import Tensor

import wavenet
from wavenet import WaveNet, bits_per_sample, generate
from wavenet.checkpoints import load_model

STORED = Path(__file__).parent / "stored"
EXPECTED = json.loads((STORED / "expected.json").read_text())
LENGTHS = [1500, 900, 1200]


def model_of(name: str) -> WaveNet:
    return WaveNet.from_pretrained(STORED / "run" / "model" if name == "run" else name)


def some_clips() -> Tensor:
    """(3, 1500): decaying tones in a little noise."""
    generator, time = torch.Generator().manual_seed(7), torch.arange(1500) / 8000
    tones = [
        0.4 * torch.sin(2 * torch.pi * hertz * time) * torch.exp(-3 * time)
        + 0.01 * torch.randn(1500, generator=generator)
        for hertz in (220.0, 330.0, 470.0)
    ]
    return torch.stack(tones)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_older_model_has_the_same_bits_per_sample(name: str) -> None:
    labels = EXPECTED[name]["labels"]
    bits = bits_per_sample(model_of(name), some_clips(), labels, lengths=LENGTHS)
    assert bits == pytest.approx(EXPECTED[name]["bits"], abs=1e-6)


@pytest.mark.parametrize("engine", ["naive", "step", "cached", "native"])
@pytest.mark.parametrize(("guidance", "key"), [(0.5, "codes"), (0.0, "codes_unguided")])
@pytest.mark.parametrize("name", EXPECTED)
def test_an_older_model_draws_the_same_codes_from_the_same_seed(
    name: str, guidance: float, key: str, engine: str
) -> None:
    model, expected = model_of(name), torch.tensor(EXPECTED[name][key])
    if engine == "naive":  # the whole receptive field for every sample
        expected = expected[:, :10]
    audio = generate(
        model,
        num_samples=expected.shape[1],
        batch_size=3,
        labels=EXPECTED[name]["labels"],
        seed=5,
        guidance=guidance,
        engine=engine,
        precision="float32" if engine == "native" else "float64",
    )
    codes = model.output.encode(audio)
    if engine == "native":  # float32 may part on an edge of the CDF
        same = (codes == expected).float().cumprod(dim=1).mean()
        assert same > 0.9
    else:
        assert torch.equal(codes, expected)


def test_an_older_training_checkpoint_is_read_as_its_export() -> None:
    model = load_model(STORED / "run" / "checkpoints" / "last.ckpt")
    export = model_of("run")
    assert model.config == export.config
    assert all(
        torch.equal(value, export.state_dict()[name]) for name, value in model.state_dict().items()
    )


def test_an_older_run_goes_on_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps by the older commit and six by this one are its twelve in one go."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(STORED / "run", tmp_path / "runs" / "older")
    settings: dict[str, Any] = {
        "model__position_hop": 16,
        "model__final_lr_ratio": 1.0,
        "data__label_dropout": 0.1,
        "trainer__max_steps": 12,
        "trainer__val_check_interval": 6,
    }
    checkpoint = tmp_path / "runs" / "older" / "checkpoints" / "last.ckpt"
    config = Path(wavenet.__file__).parent.parent / "configs" / "default.yaml"
    train(
        "fit",
        *("--config", config, "--ckpt_path", checkpoint),
        *arguments(write_corpus(tmp_path / "audio"), **settings),
    )
    reached, expected = load(checkpoint), load_file(STORED / "after_12_steps.safetensors")
    assert reached["global_step"] == 12
    weights = {k.removeprefix("wavenet."): v for k, v in reached["state_dict"].items()}
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        assert torch.allclose(value, expected[name], atol=1e-4), name
    before = load_file(STORED / "run" / "model" / "model.safetensors")
    assert any(not torch.allclose(before[name], expected[name], atol=1e-2) for name in expected)
