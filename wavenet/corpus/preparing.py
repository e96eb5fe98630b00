"""Owns the prepared folder: one file of 16-bit PCM and a manifest, made once from a root of audio.

Knows nothing of labels, splits or models: one preparation serves every output. The file
`audio.s16` holds the clips end to end, little-endian int16; `manifest.json` says what lies where.
A folder is named after the hash of its files' contents and the settings, and appears whole or not
at all, so that any number of processes may prepare at once or be killed.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import filelock
import torch

from wavenet.corpus.decoding import PCM, Decoded, DecodeSettings, decode_clip
from wavenet.corpus.listing import find_audio
from wavenet.files import cache_folder, write_whole

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2  # of the prepared folder; a new one prepares anew
AUDIO_NAME, MANIFEST_NAME = "audio.s16", "manifest.json"
UNREADABLE = "unreadable"  # in place of the hash of such a file
ABANDONED_SECONDS = 24 * 3600  # a half-made folder untouched for so long was left by a killed run

Manifest = dict[str, Any]  # as `prepare_clips` writes it
Item = TypeVar("Item")
Result = TypeVar("Result")


# --- The corpus's own prepare.py --------------------------------------------------------------


def make_audio(root: Path, script: str) -> None:
    """Run `python SCRIPT --out ROOT` where there is no audio yet. A second process waits.

    Raises ValueError if the script is not there or fails.
    """
    if _has_audio(root):
        return
    if not Path(script).is_file():
        raise ValueError(f"'{root}' holds no audio, and --data.prepare '{script}' does not exist.")
    user = os.getuid() if hasattr(os, "getuid") else 0
    with filelock.FileLock(
        Path(tempfile.gettempdir(), f"wavenet-prepare-{user}-{_place(root)}.lock")
    ):
        if _has_audio(root):
            return
        logger.info("'%s' holds no audio yet; running %s.", root, script)
        done = subprocess.run([sys.executable, script, "--out", str(root)], check=False)
    if done.returncode != 0:
        raise ValueError(
            f"--data.prepare '{script}' ended with status {done.returncode} (its message is "
            f"above); set that right, or fill '{root}' by hand."
        )


def _has_audio(root: Path) -> bool:
    return root.is_dir() and bool(find_audio(root))


def _place(root: Path) -> str:
    return hashlib.blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()


# --- Where a prepared folder lies -------------------------------------------------------------


def cache_of(root: Path, cache_dir: str | None) -> Path:
    """`cache_dir`, or `.wavenet-cache` in root, or the user's cache where root is read-only."""
    if cache_dir is not None:
        return Path(cache_dir)
    inside = root / ".wavenet-cache"
    if os.access(inside if inside.exists() else root, os.W_OK):
        return inside
    return cache_folder()


def locate(root: Path, paths: Sequence[str], settings: DecodeSettings, cache: Path) -> Path:
    """The prepared folder in `cache` for these files and settings, whether it exists or not."""
    digests = digest_files(root, paths, cache / f"digests-{_place(root)}.json")
    contents = [FORMAT_VERSION, asdict(settings), sorted(digests.items()), []]
    return cache / hashlib.blake2b(json.dumps(contents).encode(), digest_size=16).hexdigest()


def digest_files(root: Path, paths: Sequence[str], cache: Path) -> dict[str, str]:
    """A hash of each file's contents.

    The file `cache` remembers them by size and modification time, so again is quick.
    """
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        known = {}
    stamps = {path: _stamp(root / path) for path in paths}
    stale = [path for path in paths if known.get(path, [])[:2] != stamps[path]]
    fresh = _in_order(_digest, [root / path for path in stale])
    for path, digest in zip(stale, fresh, strict=True):
        known[path] = [*stamps[path], digest]
    digests = {path: known[path][2] for path in paths}
    if stale:
        kept = {path: known[path] for path in paths if digests[path] != UNREADABLE}
        write_whole(cache, json.dumps(kept).encode())
    return digests


def _stamp(path: Path) -> list[int]:
    try:
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns]
    except OSError:  # a link to nothing
        return [0, 0]


def _digest(path: Path) -> str:
    try:
        if path.is_file():  # a pipe would never end
            with path.open("rb") as file:
                hashed = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
                return hashed.hexdigest()
    except OSError:
        pass
    return UNREADABLE  # decoding will skip it and say why


# --- Files side by side -----------------------------------------------------------------------


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Files are decoded side by side, one thread each; torch's own would only get in their way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """map(work, items) on a thread per core, a bounded distance ahead.

    Threads will do: soundfile and torch release the interpreter's lock.
    """
    with ThreadPoolExecutor(_cpus()) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 4 * _cpus():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# --- Making the folder ------------------------------------------------------------------------


def prepare_clips(root: Path, paths: Sequence[str], settings: DecodeSettings, target: Path) -> None:
    """Decode `paths` into the folder `target`: audio.s16 and manifest.json.

    Where another process made `target` first, that one's is kept: both hold the same. Raises
    ValueError if no file is usable, and OSError, saying where to, when writing fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        manifest = _write_audio(temporary / AUDIO_NAME, root, paths, settings)
        _refuse_unusable(manifest, root)
        write_whole(temporary / MANIFEST_NAME, json.dumps(manifest).encode())
        _publish(temporary, target)
    except OSError as error:
        raise OSError(
            error.errno,
            f"Could not write the prepared audio to '{target.parent}': {error.strerror}. "
            "Free space there, or name another folder with --data.cache_dir",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_audio(
    file: Path, root: Path, paths: Sequence[str], settings: DecodeSettings
) -> Manifest:
    """Write every usable file's samples end to end; return the manifest."""
    from tqdm import tqdm

    header = {"format_version": FORMAT_VERSION, "settings": asdict(settings)}
    manifest: Manifest = {**header, "samples": "int16, little-endian", "clips": [], "skipped": []}
    rates, totals = Counter[int](), Counter[str]()
    with file.open("wb") as output, _one_torch_thread():
        results = _in_order(lambda path: decode_clip(root / path, settings), paths)
        bar = tqdm(results, "Preparing audio", len(paths), unit="file", disable=None)
        for path, decoded in zip(paths, bar, strict=True):
            if decoded.skipped is not None:
                manifest["skipped"].append({"path": path, "reason": decoded.skipped})
                continue
            manifest["clips"].append({"path": path, **_append(output, decoded)})
            rates[decoded.rate] += 1
            totals.update(samples=decoded.samples, kept=len(decoded.levels))
            totals.update(clipped=decoded.clipped, clipped_files=int(decoded.clipped > 0))
        output.flush()
        os.fsync(output.fileno())
    return {**manifest, "rates": dict(rates), "totals": dict(totals)}


def _append(output: BinaryIO, decoded: Decoded) -> dict[str, int]:
    """Write the samples; return where they begin, counted in samples."""
    offset = output.tell() // PCM.itemsize
    output.write(decoded.levels.tobytes())
    return {"offset": offset, "length": len(decoded.levels)}


def _refuse_unusable(manifest: Manifest, root: Path) -> None:
    if manifest["clips"]:
        return
    reasons = "\n".join(f"  {entry['reason']}" for entry in manifest["skipped"][:5])
    raise ValueError(
        f"None of the {len(manifest['skipped'])} audio files for '{root}' can be used:\n{reasons}"
    )


def _publish(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not (target / MANIFEST_NAME).exists():
            raise
        logger.info("Another process prepared '%s' meanwhile; its audio is used.", target)


def _sweep(cache: Path) -> None:
    """Remove the half-made folders that killed runs left behind."""
    for folder in cache.glob("*.tmp"):
        newest = max(_modified(path) for path in (folder, *folder.glob("*")))
        if folder.is_dir() and time.time() - newest > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _modified(path: Path) -> float:
    """Seconds since the epoch; now, for what another process moved away meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


# --- What a prepared folder tells -------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared folder. Raises ValueError if its audio has not the right size."""
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    expected = PCM.itemsize * sum(clip["length"] for clip in manifest["clips"])
    found = (folder / AUDIO_NAME).stat().st_size
    if found != expected:
        raise ValueError(
            f"'{folder / AUDIO_NAME}' has {found} bytes instead of {expected}; "
            "delete that folder and start again."
        )
    return manifest


def report_skipped(manifest: Manifest) -> None:
    """One warning for each file that was not used."""
    for entry in manifest["skipped"]:
        logger.warning("Skipped: %s", entry["reason"])


def report_changes(manifest: Manifest) -> None:
    """What resampling, clipping and trimming did, a line each where they did something."""
    totals, rate = manifest["totals"], manifest["settings"]["sample_rate"]
    _report_rates(manifest["rates"], rate)
    if totals["clipped"]:
        logger.warning(
            "%d samples in %d files lie beyond full scale and were clipped; "
            "--data.normalize peak would keep them.",
            *(totals["clipped"], totals["clipped_files"]),
        )
    if manifest["settings"]["trim_silence_db"] is not None:
        kept, seconds = totals["kept"] / totals["samples"], totals["kept"] / rate
        logger.info("Trimming silence keeps %.1f%% of the audio: %s.", 100 * kept, clock(seconds))


def _report_rates(rates: Mapping[str, int], rate: int) -> None:
    others = {hz: count for hz, count in rates.items() if int(hz) != rate}
    if others:
        found = ", ".join(f"{count} at {hz} Hz" for hz, count in others.items())
        counts = (sum(others.values()), sum(rates.values()))
        logger.info("Resampled %d of %d files to %d Hz: %s.", *counts, rate, found)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 3723.4 -> "1:02:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
