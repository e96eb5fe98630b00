"""Capture an amplifier or a pedal from a pair of recordings: its model, as a `.nam` file.

    python examples/amp/pair.py pair        # an amplifier that is synthesised
    python examples/amp/train.py pair/input.wav pair/output.wav --out amp
    python examples/amp/play.py guitar.wav amp/model.nam out.wav

Needs auraloss: pip install 'wavenet-torch[amp]'. Writes OUT/model.nam, which plugins load, the
checkpoint that a run goes on from, and pictures.

The network is neural-amp-modeler's, built from our blocks. Its error is the energy of what is
wrong against that of what is wanted, over all samples, with a spectral loss beside it:

    ESR = sum (y - y')^2 / sum y^2      (Wright, Damskaegg and Valimaki 2019, "Real-time black-box
                                         modelling with recurrent neural networks", equation 11)
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from recordings import read_pair

from wavenet.interop import nam
from wavenet.plotting import save_figure

logger = logging.getLogger(__name__)

STEPS = 200  # of an epoch
WINDOWS = [512, 1024, 2048]  # of the spectral loss, in samples
SCORED = 8192  # samples of each crop that are compared, behind their context
CHUNK = 1 << 18  # samples of the held-out part at a time
SPECTRA = {
    "fft_sizes": [512, 1024, 2048],
    "hop_sizes": [128, 256, 512],
    "win_lengths": [512, 1024, 2048],
}


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """`count` crops: of x with the whole context of what is compared, of y without.

    Crop i of an epoch is decided by the two numbers alone, so that a run can be gone on with.
    """

    def __init__(self, x: Tensor, y: Tensor, context: int, count: int, epoch: int) -> None:
        self.x, self.y, self.context, self.count, self.epoch = x, y, context, count, epoch

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(self.epoch * self.count + index)
        room = len(self.x) - self.context - SCORED
        first = int(torch.randint(room + 1, (), generator=rng))
        middle, end = first + self.context, first + self.context + SCORED
        return self.x[first:end], self.y[middle:end]


class Capture(pl.LightningModule):
    """A model of neural-amp-modeler's, its loss, and what it has not heard in training."""

    def __init__(
        self, model: nam.NAM, pair: tuple[Tensor, Tensor], held_out: int, **how: Any
    ) -> None:
        super().__init__()
        self.model, self.how = model, how
        (x, y), context = pair, model.receptive_field - 1
        cut = len(x) - held_out
        self.trained, self.kept = (x[:cut], y[:cut]), (x[cut - context :], y[cut:])
        self.spectral: Any = None
        if how["stft"]:
            self.spectral = spectral_loss()

    def train_dataloader(self) -> DataLoader[Any]:
        """Another one each epoch."""
        count, context = STEPS * self.how["batch"], self.model.receptive_field - 1
        crops = Crops(*self.trained, context, count, self.current_epoch)
        return DataLoader(crops, self.how["batch"])

    def val_dataloader(self) -> list[int]:
        return [0]  # the held-out part, at once

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = (sound.unsqueeze(1) for sound in batch)
        made = self.model.valid(x)
        loss = esr(made, y)
        self.log("esr", loss.detach(), prog_bar=True)
        return loss if self.spectral is None else loss + self.how["stft"] * self.spectral(made, y)

    def validation_step(self, batch: Any, index: int) -> None:
        error = esr(self.held_out(), self.kept[1].to(self.device))
        self.log("held_out_esr", error, prog_bar=True, batch_size=1)

    @torch.no_grad()
    def held_out(self) -> Tensor:
        """What the model makes of the held-out part, (T,)."""
        x, context = self.kept[0].to(self.device), self.model.receptive_field - 1
        places = range(0, len(x) - context, CHUNK)
        made = [self.model.valid(x[None, None, i : i + CHUNK + context]) for i in places]
        return torch.cat(made, dim=-1).flatten()

    def configure_optimizers(self) -> Any:
        """Adam, a hundredth of the learning rate left at the end, by the same share each epoch."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.how["learning_rate"])
        decay = 0.01 ** (1 / self.how["epochs"])
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)]


def esr(made: Tensor, wanted: Tensor) -> Tensor:
    """The error-to-signal ratio over all samples: 0 is perfect, 1 is silence."""
    return (made - wanted).square().sum() / wanted.square().sum().clamp_min(1e-9)


def spectral_loss() -> Any:
    """The multi-resolution STFT loss of Yamamoto et al. 2020, "Parallel WaveGAN", by auraloss."""
    try:
        from auraloss.freq import MultiResolutionSTFTLoss
    except ImportError as error:
        raise ValueError(
            "The spectral loss needs auraloss: pip install 'wavenet-torch[amp]'. Or leave it out: "
            "--stft 0."
        ) from error
    return MultiResolutionSTFTLoss(
        fft_sizes=WINDOWS, hop_sizes=[size // 4 for size in WINDOWS], win_lengths=WINDOWS
    )


def plot(capture: Capture, rate: float) -> Any:
    """The held-out part's loudest hundredth of a second, and the spectrum of signal and error."""
    from matplotlib.figure import Figure

    wanted, made = capture.kept[1], capture.held_out().cpu()
    middle = int(wanted.abs().argmax())
    part = slice(max(0, middle - round(0.005 * rate)), middle + round(0.005 * rate))
    figure = Figure(figsize=(7, 6), layout="constrained")
    wave, spectrum = figure.subplots(2)
    time = 1000 * torch.arange(len(wanted))[part] / rate
    wave.plot(time, wanted[part], label="recorded")
    wave.plot(time, made[part], "--", label="model")
    wave.set(xlabel="ms of the held-out part", title=f"ESR {float(esr(made, wanted)):.5f}")
    window = torch.hann_window(2048)
    for name, sound in (("recorded", wanted), ("error", made - wanted)):
        power = torch.stft(sound, 2048, window=window, return_complex=True).abs().square().mean(1)
        hertz = torch.linspace(0, rate / 2, len(power))
        spectrum.semilogx(hertz[1:], 10 * power[1:].clamp_min(1e-12).log10(), label=name)
    spectrum.set(xlabel="Hz", ylabel="dB")
    wave.legend()
    spectrum.legend()
    return figure


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description="Capture an amplifier from a pair of recordings.")
    p.add_argument("input", type=Path, help="what was played into it, a mono wav")
    p.add_argument("output", type=Path, help="what came out of it, recorded at the same time")
    p.add_argument("--out", type=Path, default=Path("amp"), help="folder (%(default)s)")
    p.add_argument("--size", choices=nam.PRESETS, default="feather", help="(%(default)s)")
    p.add_argument("--sample_rate", type=int, default=48_000, help="in Hz (%(default)s)")
    p.add_argument("--held_out", type=float, default=10.0, help="last seconds (%(default)s)")
    p.add_argument("--epochs", type=int, default=14, help=f"of {STEPS} steps (%(default)s)")
    p.add_argument("--batch", type=int, default=4, help="crops of a step (%(default)s)")
    p.add_argument("--learning_rate", type=float, default=0.004, help="at first (%(default)s)")
    p.add_argument("--stft", type=float, default=2e-4, help="share of the spectral loss")
    p.add_argument("--name", help="of the amplifier, for the plugins that show it")
    p.add_argument("--resume", action="store_true", help="go on with the run in --out")
    return p


def run(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pl.seed_everything(0, verbose=False)
    x, y, _ = read_pair(args.input, args.output, args.sample_rate)
    metadata = {"name": args.name} if args.name else {}
    model = nam.NAM(nam.PRESETS[args.size], args.sample_rate, metadata)
    held_out = round(args.held_out * args.sample_rate)
    least = held_out + model.receptive_field + SCORED
    if len(x) < least or held_out < 1:
        raise ValueError(
            f"The recordings last {len(x) / args.sample_rate:.1f} s; with --held_out "
            f"{args.held_out:g} at least {least / args.sample_rate:.1f} s are needed."
        )
    how = {name: getattr(args, name) for name in ("batch", "learning_rate", "stft", "epochs")}
    capture = Capture(model, (x, y), held_out, **how)
    last = args.out / "last.ckpt"
    if args.resume and not last.is_file():
        raise ValueError(f"--resume: there is no '{last}'. Leave out --resume for a new run.")
    keep = {"dirpath": args.out, "monitor": "held_out_esr", "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", save_last=True, save_weights_only=False, **keep)
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="auto",
        devices=1,
        callbacks=[best, TQDMProgressBar(refresh_rate=10)],
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        gradient_clip_val=1.0,
    )
    begun = time.monotonic()
    trainer.fit(capture, ckpt_path=str(last) if args.resume else None, weights_only=True)
    found = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    capture.load_state_dict(found["state_dict"])
    capture.cpu().eval()
    nam.save(model, args.out / "model.nam")
    save_figure(args.out / "capture.png", plot(capture, args.sample_rate))
    print(
        f"held-out ESR {float(esr(capture.held_out(), capture.kept[1])):.5f} after "
        f"{time.monotonic() - begun:.0f} s\n{args.out / 'model.nam'}\n{args.out / 'capture.png'}\n"
        f"play it: python examples/amp/play.py guitar.wav {args.out / 'model.nam'} out.wav"
    )


def main(arguments: list[str] | None = None) -> None:
    try:
        run(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
