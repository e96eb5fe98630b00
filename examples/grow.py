"""A deeper WaveNet from one that is trained: more layers, and at first the same function.

    python examples/grow.py fsdd --layers_per_cycle 11 --out grown
    python train.py --config configs/fsdd.yaml --data.root DIR --model.init_from grown \\
        --model.layers_per_cycle 11

Each cycle gets layers of larger dilations behind its own. Their residuals and skips are zero, so
that the network computes what it did until training moves them: Net2Net (Chen et al. 2016), whose
deeper layers begin as the identity too. What was learned is kept, and the receptive field grows.
"""

import argparse
from pathlib import Path

import torch

from wavenet import WaveNet
from wavenet.checkpoints import load_model


def grow(model: WaveNet, layers_per_cycle: int) -> WaveNet:
    """A WaveNet with so many layers a cycle that computes what the model does, on any samples.

    Raises ValueError for fewer layers than the model has, and for a residual_scale, with which a
    new block could not hand on what it gets.
    """
    config = model.config
    before = config.layers_per_cycle
    if layers_per_cycle < before:
        raise ValueError(
            f"The model has {before} layers a cycle, which can become more, but not "
            f"{layers_per_cycle}."
        )
    if config.residual_scale != 1:
        raise ValueError(f"The model has residual_scale {config.residual_scale}; it must be 1.")
    settings = {**config.settings(), "layers_per_cycle": layers_per_cycle}
    grown = WaveNet(**settings, output=config.output)
    weights, known = grown.state_dict(), model.state_dict()
    for name in weights:
        if not name.startswith("stack.blocks."):
            weights[name] = known[name]
            continue
        index, _, part = name.removeprefix("stack.blocks.").partition(".")
        cycle, layer = divmod(int(index), layers_per_cycle)
        earlier = f"stack.blocks.{cycle * before + layer}.{part}"
        if layer < before and earlier in known:  # the last block has had no residual
            weights[name] = known[earlier]
        elif part.startswith(("residual.", "skip.")):
            weights[name] = torch.zeros_like(weights[name])
    grown.load_state_dict(weights)
    return grown.eval()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make a trained WaveNet deeper.")
    parser.add_argument(
        "checkpoint", help="a run, a .ckpt file, a model folder, or a bundled name, such as fsdd"
    )
    parser.add_argument("--layers_per_cycle", type=int, required=True, help="of the deeper model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the deeper model")
    args = parser.parse_args(arguments)
    model = load_model(args.checkpoint)
    try:
        grown = grow(model, args.layers_per_cycle)
    except ValueError as error:
        parser.error(str(error))
    grown.save_pretrained(args.out)
    print(
        f"{args.out}: {grown.num_parameters:,} parameters, receptive field {grown.receptive_field} "
        f"samples; before {model.num_parameters:,} and {model.receptive_field}"
    )


if __name__ == "__main__":
    main()
