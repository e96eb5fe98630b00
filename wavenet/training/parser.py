"""Owns what the parser of `train` tells: a help of three screens, and the nearest of a wrong name.

Knows nothing of what the settings do: their texts are those of the docstrings.
"""

import argparse
import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from lightning.pytorch.cli import LightningArgumentParser

from wavenet.installation import nearest, proposing, spelled

NAME_WIDTH, WIDTH = 34, 100  # columns of the help: of the names, of all
FEW = 10  # classes that an error names
SECTIONS = {
    "data": "Audio",
    "model": "Network and optimiser",
    "samples": "Samples that are drawn after validations",
    "ema": "Average of the weights: what is validated, sampled from and exported",
    "checkpoint": "Checkpoints",
    "": "Run",
    "trainer": "Trainer, of Lightning: the usual settings",
}
USUAL = {  # of the Trainer's settings, in fewer words than its own
    "trainer.max_steps": "Optimiser steps until the end.",
    "trainer.max_time": "Stop after this time, DD:HH:MM:SS.",
    "trainer.val_check_interval": "Steps between two validations.",
    "trainer.accelerator": "cpu, gpu, or auto.",
    "trainer.devices": "How many devices, or which: 2, [0,3], or auto.",
    "trainer.num_nodes": "Machines that train together.",
    "trainer.strategy": "How devices share the work: ddp, fsdp, or auto.",
    "trainer.precision": "32-true, bf16-mixed or 16-mixed; where none is given, the device's best.",
    "trainer.accumulate_grad_batches": "Batches of an optimiser step.",
    "trainer.gradient_clip_val": "Norm that longer gradients are scaled down to.",
    "trainer.logger": "false for no TensorBoard, or the class of another logger.",
    "trainer.log_every_n_steps": "Steps between two points of the curves.",
}
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}
SHORTER = {
    **USUAL,
    "help": "",
    "model.compile": "torch.compile the training step: true, false, auto: on a GPU, in long runs.",
    "model.fused": "Residual blocks as Triton kernels: true, false, or auto: not until measured.",
    "config": "A recipe by its name, or a file of settings.",
    "print_config": "Print all settings as such a file.",
    "seed_everything": "Decides the first weights, the order of the clips and the crops.",
    "ckpt_path": "Go on with this run: its folder, a .ckpt file, or last for the newest. With "
    "validate and test, the weights that are scored.",
    "data.augment": "Changes of rows: .gain_db, .speed, .noise_snr_db, .share (all off)",
    "data.seed": "",  # that of the run, unless somebody wants two
    "weights_only": "",  # never anything else here
}


class Parser(LightningArgumentParser):
    """LightningArgumentParser with a short `--help`, a full `--help-all`, and errors that propose.

    given: the command line, for what jsonargparse's errors leave out.
    """

    def __init__(self, *args: Any, given: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.given = given
        self.add_argument("--help-all", action=HelpAll, help="Every setting, in full.")

    def format_help(self, formatter: Any = None) -> str:
        if self._subcommands_action is not None:
            return super().format_help(formatter)
        return "\n\n".join([(self.description or "").rstrip(), *self._sections()]) + "\n"

    def format_all(self) -> str:
        """The help as jsonargparse writes it: every setting, the Trainer's too, in full."""
        return super().format_help()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # jsonargparse's own parser of a class, whose caller goes on
            super().error(message, ex)
        options = {name for parser in self._all() for name in parser._option_string_actions}
        types = {a.dest: getattr(a, "_typehint", None) for p in self._all() for a in p._actions}
        text = (
            _of_a_class(message, self.given, types)
            or _of_a_value(message, types)
            or proposing(message, options)
        )
        print(f"error: {text}\nAll settings: {spelled('train')} --help", file=sys.stderr)
        self.exit(2)

    def _all(self) -> list["Parser"]:
        """This parser, and those of its subcommands."""
        below = self._subcommands_action
        return [self, *(below.choices.values() if below is not None else [])]

    def _sections(self) -> Iterator[str]:
        width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
        for group, title in SECTIONS.items():
            rows = [_row(a, width) for a in self._actions if _group(a) == group and _is_shown(a)]
            yield "\n".join([f"{title}:", *rows])


class HelpAll(argparse.Action):
    """Prints every setting in full, and ends the process."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=kwargs.get("help"))

    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.format_all())
        parser.exit()


def _group(action: argparse.Action) -> str | None:
    """The part of a setting's name before the dot; None for what is no setting by name."""
    if not action.option_strings:
        return None
    return _name(action).rpartition(".")[0]


def _name(action: argparse.Action) -> str:
    """`data.root` for --data.root. A list has --NAME+ too, which adds to it."""
    return action.option_strings[-1].removeprefix("--").removesuffix("+")


def _is_shown(action: argparse.Action) -> bool:
    name = _name(action)
    if name in SECTIONS or name.endswith(".help"):
        return False  # a whole group from a file; what a class takes
    return bool(_text(action)) and (_group(action) != "trainer" or name in USUAL)


def _text(action: argparse.Action) -> str:
    """What the setting does, in a sentence."""
    if _name(action) in SHORTER:
        return SHORTER[_name(action)]
    text = " ".join((action.help or "").split())
    return re.split(r"(?<=[^.]\.) (?=[A-Z\[])", text)[0]


def _row(action: argparse.Action, width: int) -> str:
    name = f"--{_name(action)}"
    text, default = _text(action), action.default
    if getattr(action, "required", False):
        text += " Required."
    elif default not in (None, argparse.SUPPRESS) and not isinstance(default, dict):
        text += f" ({str(default).lower() if isinstance(default, bool) else default})"
    first, *others = textwrap.wrap(text, width - NAME_WIDTH)
    head = f"  {name:<{NAME_WIDTH - 2}}"
    lines = [head + first] if len(name) < NAME_WIDTH - 2 else [head, " " * NAME_WIDTH + first]
    return "\n".join([*lines, *(" " * NAME_WIDTH + line for line in others)])


def _of_a_class(message: str, given: Sequence[str], types: Mapping[str, Any]) -> str | None:
    """The error for a setting that a class does not have, such as --model.mel.band; or None.

    types: name of a setting -> its type.
    """
    wrong = re.search(r"Option '(\w+)' is not accepted", message)
    flags = [argument.partition("=")[0].removeprefix("--") for argument in given]
    whole = next((flag for flag in flags if wrong and flag.endswith(f".{wrong[1]}")), None)
    if wrong is None or whole is None:
        return None
    key = whole.rpartition(".")[0]
    class_path = re.search(r"class_path '([\w.]+)'", message)
    if class_path is not None:
        module, _, name = class_path[1].rpartition(".")
        owner = getattr(import_module(module), name)
    else:
        owner = next((kind for kind in _kinds(types.get(key)) if _is_class(kind)), None)
    if owner is None:
        return None
    known = list(inspect.signature(owner).parameters)
    return (
        f"--{whole}: {owner.__name__} has no such setting{nearest(wrong[1], known)}. It has "
        f"{', '.join(known)}."
    )


def _of_a_value(message: str, types: Mapping[str, Any]) -> str | None:
    """The error for a value that is of none of the setting's types (name -> type); or None."""
    key = re.search(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:Given value|Got value): (.*)", message)
    if key is None or value is None or types.get(key[1]) is None:
        return None
    kinds = _kinds(types[key[1]])
    allowed = [word for kind, word in WORDS.items() if kind in kinds]
    for kind in kinds:
        if get_origin(kind) is Literal:
            allowed += [str(choice) for choice in get_args(kind)]
        elif get_origin(kind) in (list, dict, tuple):
            allowed.append(f"a {get_origin(kind).__name__}")
        elif _is_class(kind):
            names = sorted(_below(kind))
            few = f": {', '.join(names)}" if len(names) <= FEW else ""
            allowed.append(f"a class (--{key[1]}.help){few}{nearest(value[1], names)}")
    return f"--{key[1]} is {value[1]!r}; it can be {', or '.join(allowed)}." if allowed else None


def _kinds(type_: Any) -> tuple[Any, ...]:
    """The types that a value can be of: those of a union, or the one."""
    return get_args(type_) if get_origin(type_) in (Union, UnionType) else (type_,)


def _below(kind: type) -> set[str]:
    """The names of the classes that are made of this one, those with a leading _ left out."""
    classes: list[type] = kind.__subclasses__()
    names = {below.__name__ for below in classes}.union(*map(_below, classes))
    return {name for name in names if not name.startswith("_")}


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type) and get_origin(kind) is None and kind not in WORDS
