"""A WaveNet with a knob, built from the blocks: one value in [0, 1] sets the pitch it plays.

    python examples/knob.py [--steps 300]

Two things here are not in the library. A condition of its own: the knob's value becomes condition
features, and FiLM scales and shifts every layer by them. And a block without a gate: tanh alone.
The model still trains in parallel, is exact in bits per sample, and runs sample by sample: an
engine that runs any model takes it, and says so.
"""

import argparse
import logging
import math

import torch
from torch import Tensor, nn

import wavenet
from wavenet import Block, CausalConv1d, Condition, FiLM, Residual, Stack

RATE = 8000
LOW, HIGH = 200.0, 800.0  # Hz, the pitches of the knob at 0 and at 1


class KnobWaveNet(wavenet.WaveNet):
    """A WaveNet whose blocks have tanh for a gate and are steered by FiLM, by one knob."""

    def __init__(self, **settings: int) -> None:
        super().__init__(**settings)
        config = self.config
        self.knob = nn.Sequential(nn.Linear(1, config.condition_channels), nn.Tanh())
        dilations = wavenet.dilation_cycles(config.cycles, config.layers_per_cycle)
        self.stack = Stack(self._block(dilation) for dilation in dilations)

    def _block(self, dilation: int) -> Block:
        c = self.config
        return Block(
            dilated=CausalConv1d(
                c.residual_channels, c.gate_channels, c.kernel_size, dilation=dilation
            ),
            steer=FiLM(c.condition_channels, c.gate_channels),
            gate=nn.Tanh(),
            mix=Residual(c.gate_channels, c.residual_channels),
            skip=CausalConv1d(c.gate_channels, c.skip_channels, 1),
        )

    def turned_to(self, value: Tensor) -> Condition:
        """The knob's value (B,) in [0, 1] for each clip -> a condition that holds for all of it."""
        return Condition(self.knob(value[:, None])[..., None])


def tones(value: Tensor, samples: int) -> Tensor:
    """Sawtooth-like tones (B, samples) at a random phase, whose pitch the knob (B,) sets."""
    hertz = LOW * (HIGH / LOW) ** value[:, None]
    phase = torch.rand(len(value), 1) + hertz * torch.arange(samples) / RATE
    return 0.3 * sum(torch.sin(2 * math.pi * k * phase) / k for k in (1, 2, 3))


def train(model: KnobWaveNet, steps: int) -> float:
    """Returns the last steps' mean bits per sample."""
    optimizer, bits = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(steps):
        value = torch.rand(4)
        codes = model.encode(tones(value, 1200))
        params = model.predict(codes[:, :-1], model.turned_to(value))
        nats = model.output.nats(params, codes[:, 1:])
        loss = nats[:, model.receptive_field :].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bits.append(float(loss.detach()) / math.log(2))
    return sum(bits[-20:]) / len(bits[-20:])


def pitch(audio: Tensor) -> Tensor:
    """audio (B, T) -> the strongest frequency in Hz, (B,)."""
    spectrum = torch.fft.rfft(audio * torch.hann_window(audio.shape[1]), n=8 * audio.shape[1])
    return spectrum.abs().argmax(dim=1) * RATE / (8 * audio.shape[1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a small WaveNet with a knob, and turn it.")
    parser.add_argument("--steps", type=int, default=300, help="of training (%(default)s)")
    parser.add_argument("--samples", type=int, default=2000, help="of each clip (%(default)s)")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # which engine, and why
    torch.manual_seed(0)
    sizes = {"cycles": 1, "layers_per_cycle": 8, "residual_channels": 24, "gate_channels": 24}
    model = KnobWaveNet(**sizes, skip_channels=64, condition_channels=8, sample_rate=RATE)
    print(
        f"after {args.steps} steps: {train(model, args.steps):.2f} bits per sample (uniform: 8.00)"
    )
    value = torch.linspace(0, 1, 5)
    with torch.no_grad():
        condition = model.turned_to(value)
    audio = wavenet.generate(
        model, num_samples=args.samples, batch_size=5, condition=condition, temperature=0.7
    )
    for knob, wanted, heard in zip(value, LOW * (HIGH / LOW) ** value, pitch(audio), strict=True):
        print(f"knob {knob:.2f}: {wanted:4.0f} Hz asked for, {heard:4.0f} Hz played")


if __name__ == "__main__":
    main()
