"""Generated clips next to real ones with the same labels, as one picture and wav files.

    python benchmarks/beside_real.py --run runs/fsdd --config configs/fsdd.yaml --data.root DIR \\
        --out out/ [--count 8]

The real clips are from the validation split, one for each category of the first label in turn. Each
generated clip has the labels and the length of a real one. Real clips are in the top row.
"""

import argparse
from pathlib import Path

import torch
from entropy import corpus

from wavenet import generate
from wavenet.audio import save_audio
from wavenet.checkpoints import load_model
from wavenet.plotting import plot_spectrograms
from wavenet.training.data import AudioDataModule, Clip


def choose(data: AudioDataModule, count: int) -> list[Clip]:
    """One validation clip for each category of the first label in turn; other labels vary."""
    name = next(iter(data.labels))
    rows = []
    for index in range(count):
        category = data.labels[name][index % len(data.labels[name])]
        same = [clip for clip in data.clips("val") if clip.labels[name] == category]
        rows.append(same[(7 * index) % len(same)])
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Generated clips next to real ones with the same labels."
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data.root", dest="root")
    parser.add_argument("--out", type=Path, default=Path("beside_real"))
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    data, model = corpus(args.config, args.root), load_model(args.run)
    clips = choose(data, args.count)
    labels = {name: [clip.labels[name] for clip in clips] for name in model.labels}
    batch = generate(
        model,
        num_samples=[clip.length for clip in clips],
        batch_size=len(clips),
        labels=labels,
        temperature=args.temperature,
        seed=args.seed,
    )
    real = [model.decode(model.encode(torch.from_numpy(data.audio(clip)))) for clip in clips]
    generated = [audio[: clip.length] for audio, clip in zip(batch, clips, strict=True)]
    names = [" ".join(clip.labels[name] for name in model.labels) for clip in clips]
    for index, (name, audio) in enumerate(zip(names, generated, strict=True)):
        save_audio(args.out / f"{index}-{name.replace(' ', '-')}.wav", audio, model.sample_rate)
    figure = plot_spectrograms({"real": real, "generated": generated}, model.sample_rate, names)
    figure.savefig(args.out / "beside_real.png", dpi=90)
    print(args.out / "beside_real.png")


if __name__ == "__main__":
    main()
