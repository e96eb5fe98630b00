"""Owns the command lines: train.py, generate.py and the evaluation with awkward flags and configs.

A command ends with status 0 and what it promises, or says why not. Raises `Wrong` where it does
neither: a file that is missing or not whole, files where nobody expects them, an error that comes
only after the work.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
import yaml
from tiny_runs import RATE, train

from faults.files import make_checkpoint
from faults.outcomes import Wrong
from faults.sandbox import CANARY, said
from faults.stock import EVALUATION, evaluate_command, generate_command, stock
from faults.values import damaged, set_path
from wavenet import WaveNet

Case = Any
TINY = {"trainer__max_steps": 1, "samples__count": 1, "trainer__val_check_interval": 1}
TINY |= {"samples__every_n_validations": 0}
EXPECTED = {"runs", "runs2", CANARY, "cache", "here"}  # what train.py may leave
PROGRESS = "generating:"  # the bar's, once samples are drawn


def _typed(value: str) -> str:
    """A name in capitals stands for a thing of the stock."""
    here = stock()
    names = {
        "RUN": here.run,
        "RUNS": here.folder / "runs",
        "EXPORT": here.export,
        "CHECKPOINT": here.checkpoint,
        "CORPUS": here.corpus,
        "FILE": here.folder / "file",  # where a folder is asked for
        "ABSOLUTE": Path("elsewhere").resolve(),
        "TONE": here.folder / "tone.wav",
    }
    return str(names.get(value, value))


def _line(flags: Sequence[Sequence[str]]) -> list[str]:
    return [f"{name}={_typed(value)}" for name, value in flags]


# --- generate.py ------------------------------------------------------------------------------


def generate(case: Case) -> None:
    given = dict(case)
    given.setdefault("--checkpoint", "RUN")
    given.setdefault("--seconds", "0.002")
    if given["--seconds"] == "inf" and given.get("--out") == "-":
        given["--seconds"] = "0.01"  # without end is what that asks for
    try:
        generate_command(*_line(list(given.items())))
    except SystemExit as error:
        if error.code in (None, 0):
            _require_wavs(given)
        elif PROGRESS in said() and not list(Path.cwd().rglob("*.wav")):
            raise Wrong("generate.py refuses only after the work", error.code) from error
        raise
    _require_wavs(given)


def _require_wavs(given: dict[str, str]) -> None:
    """What a command that ended well has left."""
    names = [item.partition("=")[0] for item in given.get("--labels", "").split(",") if item]
    _require(len(names) == len(set(names)), "a label given twice is taken", names)
    if "--gallery" in given:
        return _require(Path(given["--gallery"], "index.html").is_file(), "no gallery")
    if given.get("--out") == "-":
        return None
    found = sorted(Path.cwd().rglob("*.[wW][aA][vV]"))
    wanted = int(given.get("--batch", "1"))
    _require(len(found) == wanted, "another number of wav files", (len(found), wanted))
    for path in found:
        audio, rate = soundfile.read(path)
        _require(rate == RATE and len(audio), "a wav file of another rate, or empty")
        if "--prompt" not in given:
            expected = round(float(given["--seconds"]) * RATE)
            _require(len(audio) == expected, "a wav file of another length", len(audio))
    if given.get("--plot"):
        _require(Path(given["--plot"]).stat().st_size > 100, "no picture")
    return None


def _require(right: Any, what: str, seen: object = "") -> None:
    if not right:
        raise Wrong(f"generate.py: {what}", seen)


# --- The evaluation ---------------------------------------------------------------------------


def evaluate(case: Case) -> None:
    base = dict(flag.split("=", 1) for flag in EVALUATION)
    given = {"--checkpoint": "RUN", "--root": "CORPUS", **base, **dict(case)}
    line = [
        x if not x.startswith("--real-lengths=") else "--real-lengths"
        for x in _line(list(given.items()))
    ]
    evaluate_command(*line)
    if given.get("--out") and not Path(given["--out"], "evaluation.json").is_file():
        raise Wrong("the evaluation left no evaluation.json")


# --- train.py ---------------------------------------------------------------------------------


def train_flags(case: Case) -> None:
    flags = _line([(name, value) for name, value in case["flags"] if name != "--config"])
    configs = [_typed(value) for name, value in case["flags"] if name == "--config"]
    if "--ckpt_path=last" in flags:
        shutil.copytree(stock().run, "runs/whole")
    command = [case["command"]] if case["command"] else []
    first = [f"--config={configs[0]}"] if configs else []
    train(*command, *first, *stock().settings(**TINY), *flags)
    if not command or command == ["fit"]:
        _require_run(flags)
    _require_tidy()


def _require_run(flags: Sequence[str]) -> None:
    """A run has its model, or is a trial without files."""
    if any(flag.startswith(("--trainer.fast_dev_run", "--ckpt_path")) for flag in flags):
        return
    models = list(Path.cwd().rglob("model.safetensors"))
    outside = any(flag.startswith(("--name=", "--runs=")) for flag in flags)
    if not models and not outside:
        raise Wrong("train.py ended well and left no model", flags)
    for path in models:
        WaveNet.from_pretrained(path.parent)


def _require_tidy() -> None:
    here = Path.cwd()
    if litter := {path.name for path in here.iterdir()} - EXPECTED:
        raise Wrong("train.py leaves files beside runs/", sorted(litter))
    beside = {path.name for path in here.parent.iterdir()} - {"output", "stack", "tmp", here.name}
    if beside:
        raise Wrong("train.py leaves files outside the folder it runs in", sorted(beside))


def _base_config() -> dict[str, Any]:
    """The settings of a tiny run as a config holds them."""
    table: dict[str, Any] = {"data": {"sample_rate": RATE}}
    for flag in stock().settings(**TINY):
        name, _, value = flag[2:].partition("=")
        parent, _, key = name.partition(".")
        kept = value if key.endswith("pattern") or key == "root" else yaml.safe_load(value)
        table.setdefault(parent, {})[key] = kept
    return table


def yaml_file(case: Case) -> None:
    """train.py with a config that somebody has written by hand, and got wrong."""
    Path("c.yaml").write_bytes(_yaml_bytes(case))
    # A file that is cut short may be right, and lack nothing but the end of a short run.
    bound = ["--trainer.max_steps=4"] if "mutations" in case else []
    train("--config=c.yaml", "--name=run", *bound)
    _require_run([])


def _yaml_bytes(case: Case) -> bytes:
    table = _base_config()
    if "text" in case:
        return case["text"].encode("latin-1")
    if "mutations" in case:
        return damaged(yaml.safe_dump(table).encode(), case["mutations"])
    if "encoding" in case:
        table["data"]["val_pattern"] = "é|_[45]"
        return yaml.safe_dump(table, allow_unicode=True).encode(case["encoding"])
    text = []
    for number, (key, value) in enumerate(case["changes"]):
        set_path(table, key, f"VALUE{number}")
        text.append(value if isinstance(value, str) else _as_yaml(value))
    written = yaml.safe_dump(table)
    for number, value in enumerate(text):
        written = written.replace(f"VALUE{number}", value)
    return written.encode()


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).partition("\n")[0]


# --- Somebody else's run ----------------------------------------------------------------------

CALLBACK = {"class_path": "faults.canary.Callback"}
FOREIGN: dict[str, dict[str, Any]] = {
    "class_path callback": {"trainer.callbacks": [CALLBACK]},
    "class_path logger": {"trainer.logger": {"class_path": "faults.canary.Logger"}},
    "plugin": {"trainer.plugins": [{"class_path": "faults.canary.Plugin"}]},
}


def run_folder(case: Case) -> None:
    """To resume or to judge a run that came from somewhere else runs none of its code."""
    run = Path("runs/foreign")
    shutil.copytree(stock().run, run)
    checkpoint = run / "checkpoints/last.ckpt"
    if "checkpoint" in case:
        checkpoint.unlink()
        make_checkpoint(case["checkpoint"], checkpoint)
    else:
        _change_config(case["config"], run / "config.yaml")
    train(case["command"], f"--ckpt_path={checkpoint}", "--trainer.max_steps=7")


def _change_config(what: str, config: Path) -> None:
    table = yaml.safe_load(config.read_text())
    if what == "prepare":
        Path("prepare.py").write_text(f"open({str(Path(CANARY).resolve())!r}, 'w')\n")
        table["data"] |= {"prepare": str(Path("prepare.py").resolve()), "root": "nothing/here"}
    for key, value in FOREIGN.get(what, {}).items():
        set_path(table, key, value)
    text = yaml.safe_dump(table)
    if what == "python tag":
        text = f"name: !!python/object/apply:os.system ['touch {CANARY}']\n" + text
    config.unlink()
    if what == "folder":
        config.mkdir()
    elif what != "gone":
        config.write_text("" if what == "empty" else text)
