"""Generated clips beside real ones of the same labels, as one picture and wav files.

    python benchmarks/beside_real.py --run runs/fsdd --config configs/fsdd.yaml --data.root DIR --out out/ [--count 8]

The real clips are of the validation split, one for each category of the first label in turn; each generated clip has its
labels and its length. Top row real, bottom row generated.
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
    """One validation clip for each category of the first label in turn, the other labels varied."""
    name = next(iter(data.labels))
    rows = []
    for index in range(count):
        category = data.labels[name][index % len(data.labels[name])]
        same = [clip for clip in data.clips("val") if clip.labels[name] == category]
        rows.append(same[(7 * index) % len(same)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Generated clips beside real ones of the same labels."
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data.root", dest="root")
    parser.add_argument("--out", type=Path, default=Path("beside_real"))
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data, model = corpus(args.config, args.root), load_model(args.run)
    clips = choose(data, args.count)
    labels = {name: [clip.labels[name] for clip in clips] for name in model.labels}
    drawn = generate(
        model,
        num_samples=[clip.length for clip in clips],
        batch_size=len(clips),
        labels=labels,
        temperature=args.temperature,
        seed=args.seed,
    )
    real = [model.codec.decode(torch.from_numpy(data.codes(clip).copy())) for clip in clips]
    made = [audio[: clip.length] for audio, clip in zip(drawn, clips, strict=True)]
    names = [" ".join(clip.labels[name] for name in model.labels) for clip in clips]
    for index, audio in enumerate(made):
        save_audio(
            args.out / f"{index}-{names[index].replace(' ', '-')}.wav", audio, model.sample_rate
        )
    figure = plot_spectrograms({"real": real, "generated": made}, model.sample_rate, names)
    figure.savefig(args.out / "beside_real.png", dpi=90)
    print(args.out / "beside_real.png")


if __name__ == "__main__":
    main()
