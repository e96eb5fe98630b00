"""Owns what is done with damaged files: audio, corpora, CSVs, checkpoints, exports, libraries.

Each function takes a case of its strategy, makes the file in the present folder, hands it to the
library, and raises `Wrong` where what comes back is neither the whole file's content nor an error.
"""

import contextlib
import csv
import io
import json
import math
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tiny_corpora import unprepared
from tiny_runs import RATE, load

from faults.outcomes import Wrong
from faults.sandbox import CANARY, said
from faults.stock import encoded, same_weights, stock
from faults.values import damaged, drop_path, set_path
from wavenet import WaveNet, generate
from wavenet.audio import load_audio, read_audio
from wavenet.checkpoints import load_model
from wavenet.corpus.listing import read_metadata

Case = dict[str, Any]
WHOLE = ("0_a_0.wav", "1_b_1.wav", "2_a_2.wav")


# --- Audio ------------------------------------------------------------------------------------


def audio_file(case: Case) -> None:
    path = make_audio(case, Path("x.wav"))
    samples, rate = read_audio(path)
    if samples.dim() != 2 or samples.dtype != torch.float32 or not samples.numel():
        raise Wrong("read_audio: shape or type", (samples.shape, samples.dtype))
    if not torch.isfinite(samples).all() or rate < 1:
        raise Wrong("read_audio: not finite, or no rate", rate)
    mono = load_audio(path, RATE)
    if mono.dim() != 1 or not mono.numel() or not torch.isfinite(mono).all():
        raise Wrong("load_audio: shape, or not finite", tuple(mono.shape))
    wanted = samples.shape[1] * RATE / rate
    if abs(len(mono) - wanted) > 2 + wanted / 500:
        raise Wrong("load_audio: length", (len(mono), wanted))


def make_audio(case: Case, path: Path) -> Path:
    """A case of `strategies.audio_files`, written to this path."""
    if "other" in case:
        _make_other(case["other"], path)
    else:
        path.write_bytes(_audio_bytes(case))
    return path


def _audio_bytes(case: Case) -> bytes:
    if "bytes" in case:
        return case["bytes"].encode("latin-1")
    if "floats" in case:
        buffer = io.BytesIO()
        levels = np.array(case["floats"], np.float32)
        soundfile.write(buffer, levels, RATE, "FLOAT", format="WAV")
        return buffer.getvalue()
    return damaged(_encoded(**case["audio"]), case["mutations"])


def _encoded(kind: str, rate: int, channels: int, frames: int, subtype: str) -> bytes:
    """Where the format does not take them, the nearest that it takes."""
    default = soundfile.default_subtype(kind)
    if kind in ("OGG", "MP3"):
        rate = min(max(rate, 8000), 48000)  # libsndfile's own writer crashes on others
    for how in ((subtype, rate, channels), (default, rate, channels), (default, RATE, 1)):
        with contextlib.suppress(soundfile.SoundFileError, ValueError, TypeError):
            return encoded(kind, *how, frames)
    return encoded("WAV", "PCM_16", rate, channels, frames)


def _make_other(what: str, path: Path) -> None:
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("nothing" if what == "dangling" else path.name)


def corpus(case: Case) -> None:
    """One awkward file among whole ones: these are prepared as ever."""
    root = Path("corpus")
    root.mkdir()
    for name in WHOLE:
        shutil.copy(stock().corpus / name, root / name)
    make_audio(case["file"], root / case["name"])
    settings = case["settings"]
    made = unprepared(root, **{"label_pattern": None, **settings})
    _prepare(made, bool(settings))
    found = {clip.path: clip for split in ("train", "val") for clip in _clips(made, split)}
    audible = settings.get("sample_rate", 8000) >= 100  # the whole files last a tenth of a second
    if audible and (missing := set(WHOLE) - set(found)):
        raise Wrong("a whole file is lost beside a damaged one", sorted(missing))
    if not {"normalize", "trim_silence_db", "sample_rate"} & set(settings):
        for name in WHOLE:
            wanted, _ = soundfile.read(root / name, dtype="int16")
            if not np.array_equal(made.levels(found[name]), wanted):
                raise Wrong("a whole file is prepared otherwise beside a damaged one", name)


def _prepare(made: Any, unusual: bool) -> None:
    """Settings may be refused; a single file is skipped, whatever it is."""
    try:
        made.prepare()
    except (ValueError, OSError, RuntimeError) as error:
        if unusual:
            raise
        raise Wrong("one awkward file aborts a corpus", repr(error)) from error


def _clips(made: Any, split: str) -> list[Any]:
    return made.clips(split) if made.has(split) else []


# --- CSVs -------------------------------------------------------------------------------------


def csv_file(case: Case) -> None:
    root = Path("corpus")
    root.mkdir()
    for name in WHOLE:
        shutil.copy(stock().corpus / name, root / name)
    Path("outside").mkdir()
    shutil.copy(stock().corpus / WHOLE[0], "outside/o.wav")
    _write_table(case, root / "labels.csv")
    table = read_metadata(root / "labels.csv")
    _require_as_written(case, table.labels)
    made = unprepared(root, metadata="labels.csv")
    made.prepare()
    clips = [clip for split in ("train", "val", "test") for clip in _clips(made, split)]
    for clip in clips:
        if not (root / clip.path).resolve().is_relative_to(root.resolve()):
            raise Wrong("a CSV's path leaves the root", clip.path)


def _write_table(case: Case, path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=case["separator"])
    writer.writerow(case["columns"])
    writer.writerows(case["rows"])
    path.write_bytes(text.getvalue().encode(case["encoding"], errors="replace"))


def _require_as_written(case: Case, labels: dict[str, dict[str, str]]) -> None:
    """Every row's labels come back, where each column has a name of its own."""
    columns = case["columns"]
    if case["encoding"] == "latin-1" and not str(case).isascii():
        raise Wrong("a CSV that is not UTF-8 is read as if it were")
    if len(set(columns)) < len(columns):
        raise Wrong("a CSV whose header names a column twice is taken", columns)
    found = sorted(tuple(sorted(values.values())) for values in labels.values())
    kept = [number for number, name in enumerate(columns) if name not in ("path", "split")]
    rows = [tuple(sorted(row[number].strip() for number in kept)) for row in case["rows"]]
    if case["encoding"] != "latin-1" and found != sorted(rows):
        raise Wrong("a CSV's labels are read otherwise than they are written", (found, rows))


# --- Checkpoints ------------------------------------------------------------------------------


class _Code:
    """Unpickled, it makes the canary."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {CANARY}",)


def checkpoint(case: Case) -> None:
    path = make_checkpoint(case, Path("x.ckpt"))
    model = load_model(path)
    if "mutations" in case and not same_weights(model, load_model(stock().checkpoint)):
        raise Wrong("a damaged checkpoint is loaded with other weights")
    _require_usable(model)


def make_checkpoint(case: Case, path: Path) -> Path:
    """A case of `strategies.checkpoints`, written to this path."""
    whole = stock().checkpoint
    if "mutations" in case:
        path.write_bytes(damaged(whole.read_bytes(), case["mutations"]))
    elif "pickle" in case:
        _write_pickle(case["pickle"], path)
    else:
        contents = load(whole)
        _change(contents, case)
        torch.save(contents, path)
    return path


def _write_pickle(what: str, path: Path) -> None:
    contents = load(stock().checkpoint)
    if what == "code":
        path.write_bytes(pickle.dumps(_Code()))
    elif what == "code in zip":
        torch.save(_Code(), path)
    elif what == "code in state":
        torch.save({**contents, "callbacks": _Code()}, path)
    elif what == "module":
        torch.save(torch.nn.Linear(2, 2), path)
    elif what == "plain":
        path.write_bytes(pickle.dumps({"state_dict": {}, "hyper_parameters": {}}))
    elif what == "old":
        torch.save(contents, path, _use_new_zipfile_serialization=False)
    else:
        torch.save([1, 2] if what == "list" else torch.zeros(3), path)


def _change(contents: dict[str, Any], case: Case) -> None:
    if "weight" in case:
        _change_weight(contents["state_dict"], case)
    elif case.get("missing"):
        drop_path(contents, case["key"])
    else:
        set_path(contents, case["key"], case["value"])


def _change_weight(weights: dict[str, torch.Tensor], case: Case) -> None:
    name = list(weights)[case["weight"] % len(weights)]
    tensor = weights[name]
    changed = {
        "nan": torch.full_like(tensor, math.nan),
        "shape": torch.zeros(*tensor.shape, 2),
        "dtype": tensor.double(),
        "int": tensor.to(torch.int32),
        "sparse": tensor.to_sparse() if case["change"] == "sparse" else tensor,
    }
    if case["change"] == "gone":
        del weights[name]
    elif case["change"] == "more":
        weights["wavenet.more"] = tensor.clone()
    else:
        weights[name] = changed[case["change"]]


def _require_usable(model: WaveNet) -> None:
    """A model that was loaded draws audio, or says why it cannot."""
    labels = {name: values[0] for name, values in model.labels.items()}
    audio = generate(model, num_samples=3, engine="cached", labels=labels)
    if audio.shape != (1, 3) or not torch.isfinite(audio).all():
        raise Wrong("a model that was loaded draws audio of another shape, or not finite")


# --- Exports ----------------------------------------------------------------------------------


def export(case: Case) -> None:
    folder = make_export(case, Path("model"))
    model = WaveNet.from_pretrained(folder)
    _require_config_kept(case, model)
    _require_usable(model)


def make_export(case: Case, folder: Path) -> Path:
    """A case of `strategies.exports`, in this folder."""
    shutil.copytree(stock().export, folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    if case.get("older"):
        _make_older(config, weights)
    if "text" in case:
        config.write_bytes(case["text"].encode("latin-1"))
    elif "config mutations" in case:
        config.write_bytes(damaged(config.read_bytes(), case["config mutations"]))
    elif "weights" in case:
        _damage_weights(case, weights)
    elif "weight" in case:
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        _change_weight(tensors, case)
        save_file(tensors, weights)
    else:
        contents = json.loads(config.read_text())
        drop_path(contents, case["key"]) if case.get("missing") else set_path(
            contents, case["key"], case["value"]
        )
        config.write_text(json.dumps(contents))
    return folder


def _make_older(config: Path, weights: Path) -> None:
    """As it was while nothing tied the two files together: config.json alone decides."""
    from safetensors.torch import load_file, save_file

    save_file(load_file(weights), weights)
    contents = json.loads(config.read_text())
    contents.pop("checksum", None)
    config.write_text(json.dumps(contents))


def _damage_weights(case: Case, path: Path) -> None:
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    if case["weights"] == "folder":
        path.unlink()
        path.mkdir()
    elif case["weights"] == "empty":
        path.write_bytes(b"")
    elif case["weights"] == "cut":
        path.write_bytes(whole[: int(case["at"] * len(whole))])
    else:
        content = bytearray(whole)
        content[int(case["at"] * header)] = case["value"]
        path.write_bytes(bytes(content))


def _require_config_kept(case: Case, model: WaveNet) -> None:
    """A changed setting that is taken is the model's, or a warning says that it is not."""
    key = str(case.get("key", ""))
    name = key.removeprefix("model.")
    if not key.startswith("model.") or "." in name or case.get("missing") or said():
        return  # or a warning told of it
    found, wanted = getattr(model.config, name, None), case["value"]
    if (
        wanted is not None
        and wanted == wanted
        and found != wanted
        and name not in ("labels", "clip_length")
    ):
        raise Wrong("a setting of config.json is changed in silence", (name, wanted, found))
    if type(found) is not type(wanted) and isinstance(wanted, bool):
        raise Wrong("a setting of config.json changes its type in silence", (name, wanted))


# --- Compiled libraries -----------------------------------------------------------------------

CANARY_LIBRARY = "#include <cstdlib>\n__attribute__((constructor)) static void run() { FILE; }\n"


def library(case: Case) -> None:
    """A damaged library in the cache is not loaded, and does not change what is drawn."""
    cache = Path("cache")
    shutil.copytree(stock().libraries, cache)
    os.environ["WAVENET_CACHE"] = str(cache.resolve())
    for path in cache.glob("*.so"):
        _damage_library(case, path)
    labels = {"digit": "1", "speaker": "a"}
    drawn = [
        generate(stock().model(), num_samples=8, engine=engine, labels=labels)
        for engine in ("native", "cached")
    ]
    if not torch.equal(*drawn):
        raise Wrong("a damaged library draws other audio")


def _damage_library(case: Case, path: Path) -> None:
    whole, change = bytearray(path.read_bytes()), case["change"]
    path.unlink()
    if change == "folder":
        path.mkdir()
    elif change == "cut":
        path.write_bytes(whole[: int(case["at"] * len(whole))])
    elif change == "flip":
        whole[int(case["at"] * len(whole))] ^= 1
        path.write_bytes(whole)
    elif change == "empty":
        path.write_bytes(b"")
    else:
        shutil.copy(canary_library(), path)


def canary_library() -> Path:
    """A shared library that makes the canary when it is loaded, compiled once."""
    path = stock().folder / "canary.so"
    if not path.exists():
        import subprocess

        source = path.with_suffix(".cpp")
        source.write_text(CANARY_LIBRARY.replace("FILE", f'(void)!system("touch {CANARY}")'))
        part = path.with_suffix(f".{os.getpid()}")
        subprocess.run(["c++", "-shared", "-fPIC", "-o", part, source], check=True)
        os.replace(part, path)
    return path
