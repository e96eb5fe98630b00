"""Capture an amplifier or a pedal from recordings: its model, as a `.nam` file.

    python examples/amp/pair.py pair                 # an amplifier that is synthesised
    python examples/amp/train.py pair/input.wav pair/output.wav --out amp
    python examples/amp/play.py guitar.wav amp/model.nam out.wav

One model for many positions of the knobs, from a CSV of recordings and where the knobs stood:

    python examples/amp/train.py knobs/recordings.csv --out amp

Writes OUT/model.nam (plugins load it where there are no knobs), checkpoints and pictures. The
network is neural-amp-modeler's, of our blocks. What is wrong is measured against what is wanted:

    ESR = sum (y - y')^2 / sum y^2

over all samples, of pre-emphasised audio where that is asked for (Wright and Valimaki 2020,
"Perceptual loss function for neural modelling of audio systems"). In training a spectral loss is
added (auraloss, pip install -e '.[amp]'), and y^2 is the mean of the whole recording.

Shapes: B batch, K knobs, T time.
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
from torchaudio.functional import preemphasis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from amp.model import Amp
from amp.pictures import error_spectrograms, overview
from amp.recordings import Recording, read_pair, read_table

from wavenet.checkpoints import unpickled
from wavenet.interop import nam
from wavenet.plotting import save_figure
from wavenet.training.quiet import quiet_lightning

STEPS = 100  # of an epoch, after which the held-out part is heard
CHUNK = 1 << 18  # samples of the held-out part at a time
WINDOWS = [512, 1024, 2048]  # of the spectral loss, in samples
SETTINGS = (
    "size",
    "sample_rate",
    "batch",
    "crop",
    "learning_rate",
    "stft",
    "preemphasis",
    "seed",
    "epochs",
)
Crop = tuple[Tensor, Tensor, Tensor, Tensor]  # x, y, knobs (K, 1), the mean power of y


class Crops(Dataset[Crop]):
    """`count` crops: x with the whole context of what is compared, y without.

    Crop i is decided by the seed and i alone, so that a run can be gone on with.
    """

    def __init__(
        self, recordings: list[Recording], powers: Tensor, context: int, crop: int, count: int,
        seed: int,
    ) -> None:  # fmt: skip
        self.recordings, self.powers, self.context = recordings, powers, context
        self.crop, self.count, self.seed = crop, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Crop:
        rng = torch.Generator().manual_seed(self.seed + index)
        which = int(torch.randint(len(self.recordings), (), generator=rng))
        recording = self.recordings[which]
        room = len(recording.x) - self.context - self.crop
        begin = int(torch.randint(room + 1, (), generator=rng))
        middle, end = begin + self.context, begin + self.context + self.crop
        knobs = torch.tensor([*recording.knobs.values()]).view(-1, 1)
        return recording.x[begin:end], recording.y[middle:end], knobs, self.powers[which]


class Capture(pl.LightningModule):
    """An amplifier's model, its loss, and the end of each recording, which it does not train on."""

    def __init__(self, amp: Amp, recordings: list[Recording], args: argparse.Namespace) -> None:
        super().__init__()
        self.amp, self.args = amp, args
        held_out, context = round(args.held_out * args.sample_rate), amp.receptive_field - 1
        self.trained = [_part(one, 0, len(one.x) - held_out) for one in recordings]
        self.kept = [
            Recording(one.x[len(one.x) - held_out - context :], one.y[-held_out:], 0, one.knobs)
            for one in recordings
        ]
        self.powers = torch.stack([self.emphasised(one.y).square().mean() for one in self.trained])
        self.spectral: Any = spectral_loss() if args.stft else None
        self.history: list[list[float]] = []  # step, training and held-out ESR, once an epoch
        self.losses: list[Tensor] = []

    def emphasised(self, audio: Tensor) -> Tensor:
        """audio (..., T) -> (..., T - 1) where there is pre-emphasis: the first lacks its past."""
        share = self.args.preemphasis
        return preemphasis(audio, share)[..., 1:] if share else audio

    def train_dataloader(self) -> DataLoader[Any]:
        """Other crops each epoch."""
        count = STEPS * self.args.batch
        seed = (self.args.seed << 40) + self.current_epoch * count
        context = self.amp.receptive_field - 1
        crops = Crops(self.trained, self.powers, context, self.args.crop, count, seed)
        return DataLoader(crops, self.args.batch)

    def val_dataloader(self) -> list[int]:
        return [0]  # all at once

    def training_step(self, batch: Crop, index: int) -> Tensor:
        x, y, knobs, power = batch
        made, wanted = self.amp.valid(x[:, None], knobs), y[:, None]
        wrong = self.emphasised(made - wanted).square().mean(dim=(1, 2))
        loss = (wrong / power).mean()
        self.losses.append(loss.detach())
        self.log("esr", loss.detach(), prog_bar=True)
        return loss + self.args.stft * self.spectral(made, wanted) if self.spectral else loss

    def validation_step(self, batch: Any, index: int) -> None:
        """The mean over the recordings of each one's ESR, without pre-emphasis."""
        error = self.held_out_esr()
        self.log("held_out_esr", error, prog_bar=True, batch_size=1)
        heard = float(torch.stack(self.losses).mean()) if self.losses else float("nan")
        self.history.append([self.global_step, heard, error])
        self.losses.clear()

    def held_out_esr(self) -> float:
        errors = [esr(self.made(one), one.y) for one in self.kept]
        return sum(errors) / len(errors)

    @torch.no_grad()
    def made(self, kept: Recording) -> Tensor:
        """What the model makes of a held-out part, (T,), on the CPU."""
        x, context = kept.x.to(self.device), self.amp.receptive_field - 1
        knobs = torch.tensor([*kept.knobs.values()], device=self.device).view(1, -1, 1)
        pieces = [
            self.amp.valid(x[None, None, i : i + CHUNK + context], knobs)
            for i in range(0, len(x) - context, CHUNK)
        ]
        return torch.cat(pieces, dim=-1).flatten().cpu()

    def configure_optimizers(self) -> Any:
        """Adam, whose learning rate falls in a straight line to a hundredth, once an epoch."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.args.learning_rate)
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, self.args.epochs)
        return [optimizer], [falling]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["settings"] = described(self.args, self.amp)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


def _part(recording: Recording, begin: int, end: int) -> Recording:
    return Recording(recording.x[begin:end], recording.y[begin:end], 0, recording.knobs)


def esr(made: Tensor, wanted: Tensor) -> float:
    """The error-to-signal ratio over all samples: 0 is perfect, 1 is as good as silence."""
    return float((made - wanted).square().sum() / wanted.square().sum().clamp_min(1e-9))


def spectral_loss() -> Any:
    """The multi-resolution STFT loss of Yamamoto et al. 2020, "Parallel WaveGAN", by auraloss."""
    try:
        from auraloss.freq import MultiResolutionSTFTLoss
    except ImportError as error:
        raise ValueError(
            "The spectral loss needs auraloss: pip install -e '.[amp]', or pip install auraloss. "
            "Or leave that loss out: --stft 0."
        ) from error
    hops = [size // 4 for size in WINDOWS]
    return MultiResolutionSTFTLoss(fft_sizes=WINDOWS, hop_sizes=hops, win_lengths=WINDOWS)


def described(args: argparse.Namespace, amp: Amp) -> dict[str, Any]:
    """What a run must have in common with the one that it goes on with."""
    knobs = {name: list(ends) for name, ends in amp.knobs.items()}
    return {name: getattr(args, name) for name in SETTINGS} | {"knobs": knobs}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description="Capture an amplifier from recordings.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument(
        "recordings",
        type=Path,
        nargs="+",
        metavar="IN.wav OUT.wav | TABLE.csv",
        help="what was played and what was recorded; or a table of many, with knobs",
    )
    p.add_argument("--out", type=Path, default=Path("amp"), help="folder to write to")
    p.add_argument("--size", choices=nam.PRESETS, default="standard", help="of the network")
    p.add_argument("--sample_rate", type=int, default=48_000, help="Hz, of recordings and model")
    p.add_argument("--latency", type=int, help="of the recordings, in samples; found if not given")
    p.add_argument(
        "--held_out",
        type=float,
        default=10.0,
        help="seconds at the end of each recording that are not trained on",
    )
    p.add_argument("--epochs", type=int, default=40, help=f"of {STEPS} steps")
    p.add_argument("--batch", type=int, default=2, help="crops of a step")
    p.add_argument("--crop", type=int, default=8192, help="samples compared in each crop")
    p.add_argument(
        "--learning_rate", type=float, default=0.004, help="at first; a hundredth of it at the end"
    )
    p.add_argument("--stft", type=float, default=2e-4, help="weight of the spectral loss")
    p.add_argument(
        "--preemphasis",
        type=float,
        default=0.0,
        help="of the ESR in training: y[t] - share * y[t - 1], such as 0.85",
    )
    p.add_argument("--seed", type=int, default=0, help="of the weights and the crops")
    p.add_argument("--name", help="of the amplifier, for the plugins that show it")
    p.add_argument("--resume", action="store_true", help="go on with the run in --out")
    return p  # fmt: skip


def require_possible(args: argparse.Namespace) -> None:
    """Raises ValueError for settings that no run can have."""
    for name, least, most in (
        ("sample_rate", 8000, 400_000), ("held_out", 0.1, 3600), ("epochs", 1, 100_000),
        ("batch", 1, 4096), ("crop", 4096, 1 << 20), ("learning_rate", 1e-7, 1.0),
        ("stft", 0.0, 1.0), ("preemphasis", 0.0, 1.0), ("seed", 0, 1 << 20),
    ):  # fmt: skip
        if not least <= getattr(args, name) <= most:
            raise ValueError(
                f"--{name} must be from {least:g} to {most:g}, but is {getattr(args, name):g}."
            )


def read(args: argparse.Namespace) -> list[Recording]:
    """What was recorded. Raises ValueError for recordings that cannot be used."""
    paths = args.recordings
    if len(paths) == 1 and paths[0].suffix.lower() == ".csv":
        return read_table(paths[0], args.sample_rate, args.latency)
    if len(paths) != 2:
        raise ValueError(
            f"Give two recordings, IN.wav OUT.wav, or one table, TABLE.csv, but got "
            f"{' '.join(map(str, paths))}."
        )
    return read_pair(*paths, args.sample_rate, args.latency)


def new_amp(args: argparse.Namespace, recordings: list[Recording]) -> Amp:
    """Raises ValueError for recordings that are too short for it."""
    places = {
        name: [recording.knobs[name] for recording in recordings] for name in recordings[0].knobs
    }
    knobs = {name: (min(values), max(values)) for name, values in places.items()}
    torch.manual_seed(args.seed)
    metadata = {"name": args.name} if args.name else {}
    amp = Amp.of(nam.PRESETS[args.size], args.sample_rate, knobs, metadata)
    shortest = min(len(recording.x) for recording in recordings)
    needed = round(args.held_out * args.sample_rate) + amp.receptive_field + args.crop
    if shortest < needed:
        raise ValueError(
            f"The shortest recording lasts {shortest / args.sample_rate:.1f} s, but with "
            f"--held_out {args.held_out:g} at least {needed / args.sample_rate:.1f} s are needed; "
            "a few minutes are better."
        )
    return amp


def checked_resumption(args: argparse.Namespace, amp: Amp) -> str | None:
    """The checkpoint to go on with, if any.

    Raises ValueError where there is none, one of other settings, or one that would be lost.
    """
    last = args.out / "last.ckpt"
    if not args.resume:
        if last.exists():
            raise ValueError(
                f"'{args.out}' holds a run already. Go on with it, --resume, or give another --out."
            )
        return None
    if not last.is_file():
        raise ValueError(f"There is no '{last}' to go on with. Leave out --resume for a new run.")
    saved = unpickled(last, "a checkpoint of this example", f"Begin anew without '{last}'.")
    before, now = saved.get("settings", {}), described(args, amp)
    other = [f"{name} {before.get(name)}" for name in now if before.get(name) != now[name]]
    if other:
        raise ValueError(
            f"The run in '{args.out}' has {', '.join(other)}. Give the same, or another --out."
        )
    return str(last)


def fit(capture: Capture, out: Path, epochs: int, checkpoint: str | None) -> None:
    """Trains, and leaves the capture with the weights that were best on the held-out part."""
    best = ModelCheckpoint(out, "best", monitor="held_out_esr", enable_version_counter=False)
    last = ModelCheckpoint(out, "last", enable_version_counter=False)  # of every epoch
    trainer = pl.Trainer(
        max_epochs=epochs,
        devices=1,
        callbacks=[best, last, TQDMProgressBar(refresh_rate=10)],
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        gradient_clip_val=1.0,
    )
    trainer.fit(capture, ckpt_path=checkpoint, weights_only=True)
    found = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    capture.load_state_dict(found["state_dict"])
    capture.cpu().eval()


def write(capture: Capture, out: Path) -> None:
    """model.nam and the pictures."""
    rate = capture.args.sample_rate
    nam.save(capture.amp.network, out / "model.nam")
    made = [capture.made(one) for one in capture.kept[:4]]
    wanted = [one.y for one in capture.kept[:4]]
    titles = [
        ", ".join(f"{name} {value:g}" for name, value in one.knobs.items()) or "held out"
        for one in capture.kept[:4]
    ]
    save_figure(out / "capture.png", overview(wanted[0], made[0], rate, capture.history))
    save_figure(out / "error.png", error_spectrograms(wanted, made, rate, titles))


def run(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    require_possible(args)
    recordings = read(args)
    amp = new_amp(args, recordings)
    checkpoint = checked_resumption(args, amp)
    capture, begun, used = Capture(amp, recordings, args), time.monotonic(), time.process_time()
    fit(capture, args.out, args.epochs, checkpoint)
    write(capture, args.out)
    player = "examples/amp/play.py" + (" --knobs ..." if amp.knobs else "")
    print(
        f"held-out ESR {capture.held_out_esr():.5f}, after {time.monotonic() - begun:.0f} s "
        f"({time.process_time() - used:.0f} s of processor time)\n"
        + "\n".join(str(args.out / name) for name in ("model.nam", "capture.png", "error.png"))
        + f"\nplay it: python {player} guitar.wav {args.out / 'model.nam'} out.wav"
        + ("" if amp.knobs else ", or load it in a plugin for .nam files")
    )


def main(arguments: list[str] | None = None) -> None:
    quiet_lightning()
    try:
        run(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
