"""Owns the command `wavenet export`: a model as a folder, for ONNX Runtime, or as a page.

Knows nothing of the formats: `WaveNet.save_pretrained` and `wavenet.interop` write them.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wavenet.checkpoints import load_model, model_name
from wavenet.conditioning import Condition, label_ids
from wavenet.files import write_whole
from wavenet.generation import seconds_of, stream
from wavenet.installation import CommandParser, recipes
from wavenet.model import WaveNet
from wavenet.pretrained import credit
from wavenet.results import require_place
from wavenet.terminal import label_choice, run_command

SECONDS = 1.0  # of a clip that needs a plan, from a model that does not draw its length
RUNNER = "run.py"  # beside the ONNX file
SPEAKER = Path("examples", "speak_onnx.py")  # what it is


def parser(prog: str) -> argparse.ArgumentParser:
    p = CommandParser(
        prog=prog,
        description="Write a model as a folder of its own, for ONNX Runtime, or as a page that "
        "draws and plays in a browser.",
        epilog="examples:\n"
        f"  {prog} runs/default/checkpoints/best.ckpt --folder my_model\n"
        f"  {prog} fsdd --onnx digits/seven.onnx --labels digit=7,speaker=jackson\n"
        f"  python digits/{RUNNER} digits/seven.onnx seven.wav\n"
        f"  {prog} fsdd --web page/    then open page/index.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a run, its model/ folder, a .ckpt file, fsdd (bundled) or user/model of the Hugging "
        "Face Hub",
    )
    add_targets(p)
    add_clip(p)
    return p


def add_targets(p: argparse.ArgumentParser) -> None:
    """What is to be written: one of them or more."""
    p.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="model.safetensors and config.json, as from_pretrained and generate read them",
    )
    p.add_argument(
        "--onnx",
        type=Path,
        metavar="FILE",
        help="one autoregressive step with its state as inputs and outputs; beside FILE.onnx lie "
        f"FILE.npz, the state to begin with, and {RUNNER}, which speaks without PyTorch",
    )
    p.add_argument(
        "--web",
        type=Path,
        metavar="FOLDER",
        help="FOLDER/index.html, one page with the network in it: it draws, plays and shows clips "
        "in any browser, without a server",
    )
    p.add_argument(
        "--credit",
        metavar="TEXT",
        help="at the foot of that page: whose the weights and the corpus are, and under which "
        "licence; default: for a bundled model what its card says",
    )


def add_clip(p: argparse.ArgumentParser) -> None:
    """The clip whose condition lies beside the ONNX file."""
    p.add_argument(
        "--labels",
        type=label_choice,
        default={},
        metavar="NAME=VALUE,...",
        help="of the clip beside --onnx; left out: drawn from the seed",
    )
    p.add_argument(
        "--seconds",
        type=float,
        help="of that clip, from a model that plans its clips; default: drawn from the seed",
    )
    p.add_argument("--seed", type=int, default=0, help="of what is drawn (%(default)s)")


def main(arguments: Sequence[str] | None = None, prog: str = "wavenet export") -> None:
    logging.basicConfig(format="%(message)s")  # of others warnings alone: the exporter logs much
    logging.getLogger("wavenet").setLevel(logging.INFO)
    run_command(lambda: run(parser(prog).parse_args(arguments)))


def run(args: argparse.Namespace) -> None:
    if args.folder is None and args.onnx is None and args.web is None:
        raise ValueError("Nothing is asked for: give --folder DIR, --onnx FILE or --web FOLDER.")
    if args.web is not None:
        require_place(args.web / "index.html", ".html", "--web")
    model = load_model(args.checkpoint)
    if args.onnx is not None:
        write_onnx(model, args)
    if args.folder is not None:
        model.save_pretrained(args.folder)
        print(args.folder)
    if args.web is not None:
        write_web(model, args)


def write_web(model: WaveNet, args: argparse.Namespace) -> None:
    from wavenet.interop import web

    name = model_name(args.checkpoint)
    said = credit(args.checkpoint) if args.credit is None else args.credit
    print(web.export(model, args.web, name=name, credit=said))


def write_onnx(model: WaveNet, args: argparse.Namespace) -> None:
    """The graph, its arrays and, where the samples are codes, what runs them."""
    from wavenet.interop import onnx

    if model.mel is not None:
        raise ValueError(
            "--onnx: this model is steered by mel frames, which come while it speaks. Export it "
            "from Python: wavenet.interop.onnx.export(model, FILE, condition=model.condition(...))."
        )
    runner, content = args.onnx.with_name(RUNNER), (recipes() / SPEAKER).read_bytes()
    require_ours(runner, content)
    onnx.export(model, args.onnx, condition=clip_condition(model, args))
    print(args.onnx)
    if model.output.categorical:
        write_whole(runner, content)
        print(f"hear it: python {runner} {args.onnx} out.wav")


def require_ours(runner: Path, content: bytes) -> None:
    """Raises ValueError where another file has that name."""
    if runner.exists() and not (runner.is_file() and runner.read_bytes() == content):
        raise ValueError(
            f"--onnx: '{runner}' is a file of another kind, and would be written over. Name a file "
            "in another folder."
        )


def clip_condition(model: WaveNet, args: argparse.Namespace) -> Condition | None:
    """What steers one clip from its beginning to its end; None for a model that nothing steers."""
    if not model.config.condition_width:
        return None
    seconds = seconds_of(model, args.seconds, SECONDS)
    clip = stream(model, seconds=seconds, labels=args.labels, seed=args.seed, engine="step")
    assert clip.lengths is not None
    length = int(clip.lengths[0])
    steered: dict[str, Any] = {"labels": label_ids(model.labels, clip.labels, 1)}
    hop = model.config.position_hop
    with torch.no_grad():
        if not hop:
            return model.condition(**steered)
        made = model.condition(**steered, position=torch.tensor([[0, length]]), time=length)
    assert made is not None
    return Condition(made.features[..., ::hop], hop)  # each frame of the position once
