"""A vocoder from a WaveNet that is trained: mel frames steer it, in the place of labels.

    python examples/to_vocoder.py fsdd --bands 40 --hop 64 --window 256 --out started
    python train.py --config configs/fsdd_vocoder.yaml --data.root DIR --model.init_from started \\
        --model.layers_per_cycle 11

The network keeps what it knows of sound. What steers it is drawn anew, and small, so that little of
that is lost at first. The position in the clip goes with the labels.
"""

import argparse
from pathlib import Path

import torch

from wavenet import Mel, WaveNet
from wavenet.checkpoints import load_model

SHARE = 0.3  # of what the new weights of a condition are drawn with


def to_vocoder(model: WaveNet, mel: Mel) -> WaveNet:
    """A WaveNet with the model's weights, but those of its conditions, that mel frames steer."""
    unsteered = {"labels": None, "unlabelled": False, "clip_length": None, "position_hop": 0}
    settings = {**model.config.settings(), **unsteered, "mel": mel}
    vocoder = WaveNet(**settings, output=model.output)
    weights, known = vocoder.state_dict(), model.state_dict()
    for name in weights:
        if ".condition." in name:
            weights[name] = SHARE * weights[name]
        elif name in known and not name.startswith("mel_features."):
            weights[name] = known[name]
    vocoder.load_state_dict(weights)
    return vocoder.eval()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make a vocoder from a trained WaveNet.")
    parser.add_argument(
        "checkpoint", help="a run, a .ckpt file, a model folder, or a bundled name, such as fsdd"
    )
    parser.add_argument("--bands", type=int, default=80, help="mel bands (%(default)s)")
    parser.add_argument("--hop", type=int, default=256, help="samples of a frame (%(default)s)")
    parser.add_argument(
        "--window", type=int, default=1024, help="samples of its window (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the new weights (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the vocoder")
    args = parser.parse_args(arguments)
    try:
        mel = Mel(bands=args.bands, hop=args.hop, window=args.window, upsampling="learned")
    except ValueError as error:
        parser.error(str(error))
    torch.manual_seed(args.seed)
    vocoder = to_vocoder(load_model(args.checkpoint), mel)
    vocoder.save_pretrained(args.out)
    print(f"{args.out}: {vocoder.num_parameters:,} parameters, {args.bands} mel bands")


if __name__ == "__main__":
    main()
