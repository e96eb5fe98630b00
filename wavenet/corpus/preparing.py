"""Owns the prepared folder: one file of 16-bit PCM and a manifest, made once from a root of audio.

Knows nothing of labels, splits or models: one preparation serves every output. The file
`audio.s16` holds the clips end to end, little-endian int16; `manifest.json` says what lies where.
A folder is named after the hash of its files' contents and the settings, and appears whole or not
at all, so that any number of processes may prepare at once or be killed. What is being made is held
by a lock beside it, NAME.lock: others wait for it, and what a killed process left half-made is told
from a living one's.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import filelock
import torch

from wavenet.audio import RESAMPLERS, resampler
from wavenet.corpus.decoding import PCM, Decoded, DecodeSettings, decode_clip
from wavenet.corpus.listing import find_audio
from wavenet.files import cache_folder, write_whole
from wavenet.installation import require
from wavenet.installation import script as found

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2  # of the prepared folder; a new one prepares anew
AUDIO_NAME, MANIFEST_NAME = "audio.s16", "manifest.json"
UNREADABLE = "unreadable"  # in place of the hash of such a file
# NAME.lock, NAME.RANDOM.tmp and .NAME.RANDOM are beside a prepared folder or a file of hashes, NAME
FEW = 10  # files that are named in one line
BESIDE = re.compile(r"\.?([0-9a-f]{32}|digests-[0-9a-f]{16}\.json)\.(?:lock|\w+\.tmp|\w{8})")

TOTALS = ("samples", "kept", "clipped", "clipped_files")  # of all clips; before trimming, after it

Manifest = dict[str, Any]  # as `prepare_clips` writes it
Item = TypeVar("Item")
Result = TypeVar("Result")


# --- The corpus's own prepare.py --------------------------------------------------------------


def make_audio(root: Path, script: str) -> None:
    """Run `python SCRIPT --out ROOT` where there is no audio yet. A second process waits.

    data/NAME/prepare.py is the library's own where there is no such file here. Raises ValueError if
    the script is not there or fails.
    """
    if _has_audio(root):
        return
    path = found(script)
    if not path.is_file():
        raise ValueError(f"'{root}' holds no audio, and --data.prepare '{script}' does not exist.")
    user = os.getuid() if hasattr(os, "getuid") else 0
    with filelock.FileLock(
        Path(tempfile.gettempdir(), f"wavenet-prepare-{user}-{_place(root)}.lock")
    ):
        if _has_audio(root):
            return
        logger.info("'%s' holds no audio yet; running %s.", root.absolute(), path)
        done = subprocess.run([sys.executable, str(path), "--out", str(root)], check=False)
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
    """`cache_dir`, or else a folder of this root's own in the user's cache.

    Older versions prepared in a hidden folder of root: where it is there, it is used.
    """
    if cache_dir is not None:
        return Path(cache_dir)
    older = root / ".wavenet-cache"
    if os.access(older, os.W_OK):
        return older
    return cache_folder() / "prepared" / f"{root.resolve().name}-{_place(root)}"


def locate(root: Path, paths: Sequence[str], settings: DecodeSettings, cache: Path) -> Path:
    """The prepared folder in `cache` for these files and settings, whether it exists or not."""
    digests = digest_files(root, paths, cache / f"digests-{_place(root)}.json")
    # The empty list keeps the names of folders that were prepared when missing files stood there.
    contents = [FORMAT_VERSION, asdict(settings), sorted(digests.items()), []]
    return cache / hashlib.blake2b(json.dumps(contents).encode(), digest_size=16).hexdigest()


def digest_files(root: Path, paths: Sequence[str], cache: Path) -> dict[str, str]:
    """A hash of each file's contents.

    The file `cache` remembers them by size and modification time, so again is quick. Another
    process that is at these files is waited for.
    """
    stamps = {path: _stamp(root / path) for path in paths}
    known = _known_digests(cache, stamps)
    if len(known) < len(stamps):
        with _held(cache):
            known = _known_digests(cache, stamps)
            fresh = _fresh_digests(root, [path for path in paths if path not in known])
            known |= fresh
            if set(fresh.values()) - {UNREADABLE}:
                _keep_digests(cache, stamps, known)
    return known


def _known_digests(cache: Path, stamps: Mapping[str, list[int]]) -> dict[str, str]:
    """Those that the file has for these stamps; a damaged file has none."""
    try:
        kept = json.loads(cache.read_bytes())
        return {
            path: kept[path][2]
            for path, stamp in stamps.items()
            if kept.get(path, [])[:2] == stamp and re.fullmatch("[0-9a-f]{32}", kept[path][2])
        }
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def _fresh_digests(root: Path, paths: Sequence[str]) -> dict[str, str]:
    return dict(zip(paths, _in_order(_digest, [root / path for path in paths]), strict=True))


def _keep_digests(cache: Path, stamps: Mapping[str, list[int]], digests: Mapping[str, str]) -> None:
    kept = {
        path: [*stamps[path], digest] for path, digest in digests.items() if digest != UNREADABLE
    }
    try:
        write_whole(cache, json.dumps(kept).encode())
    except OSError as error:  # the next run will read the files again
        logger.warning("The files' hashes could not be kept in '%s': %s.", cache, error.strerror)


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

    Another process that is at it is waited for, and what it made is kept; if it dies, this one goes
    on. Raises ValueError if no file is usable, and OSError, saying where to and how much room there
    is, when writing fails.
    """
    with _held(target):
        if not target.exists():
            _prepare(root, paths, settings, target)


def _prepare(root: Path, paths: Sequence[str], settings: DecodeSettings, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    manifest = _new_manifest(settings)
    try:
        temporary.mkdir(parents=True)
        _write_audio(temporary / AUDIO_NAME, root, paths, settings, manifest)
        _refuse_unusable(manifest, root)
        write_whole(temporary / MANIFEST_NAME, json.dumps(manifest).encode())
        _publish(temporary, target)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = _room(temporary, root, paths, manifest) if full else "Name"
        raise OSError(
            error.errno,
            f"Could not write the prepared audio to '{target.parent}': {error.strerror}. "
            f"{advice} another folder with --data.cache_dir",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _new_manifest(settings: DecodeSettings) -> Manifest:
    header = {"format_version": FORMAT_VERSION, "settings": asdict(settings)}
    manifest: Manifest = {**header, "samples": "int16, little-endian", "clips": [], "skipped": []}
    manifest["resampler"] = None  # what resampled files of another rate
    return {**manifest, "rates": Counter(), "totals": Counter(dict.fromkeys(TOTALS, 0))}


def _write_audio(
    file: Path, root: Path, paths: Sequence[str], settings: DecodeSettings, manifest: Manifest
) -> None:
    """Write every usable file's samples end to end, and into the manifest what was done."""
    require("Preparing audio", "tqdm")
    from tqdm import tqdm

    with file.open("wb") as output, _one_torch_thread():
        results = _in_order(lambda path: decode_clip(root / path, settings), paths)
        bar = tqdm(results, "Preparing audio", len(paths), unit="file", disable=None)
        for path, decoded in zip(paths, bar, strict=True):
            _note(manifest, path, decoded)
            if decoded.resampled:
                manifest["resampler"] = resampler()
            output.write(decoded.levels.tobytes())
        output.flush()
        os.fsync(output.fileno())


def _note(manifest: Manifest, path: str, decoded: Decoded) -> None:
    if decoded.skipped is not None:
        manifest["skipped"].append({"path": path, "reason": decoded.skipped})
        return
    totals, kept = manifest["totals"], len(decoded.levels)
    manifest["clips"].append({"path": path, "offset": totals["kept"], "length": kept})
    manifest["rates"][str(decoded.rate)] += 1
    totals.update(samples=decoded.samples, kept=kept)
    totals.update(clipped=decoded.clipped, clipped_files=int(decoded.clipped > 0))


def _room(temporary: Path, root: Path, paths: Sequence[str], manifest: Manifest) -> str:
    """How much is needed, by the files decoded so far, and how much there is; what to do."""
    there = shutil.disk_usage(temporary.parent).free
    there += sum(path.stat().st_size for path in temporary.glob("*"))
    decoded = [entry["path"] for entry in (*manifest["clips"], *manifest["skipped"])]
    read, total = (sum(_stamp(root / path)[0] for path in some) for some in (decoded, paths))
    needed = PCM.itemsize * manifest["totals"]["kept"] * total / max(read, 1)
    return (
        f"About {_size(needed)} are needed, and {_size(there)} are free there. Free more, or name"
    )


def _size(count: float) -> str:
    """Bytes for a reader: 15756 -> "15.8 kB"."""
    power = next((power for power in (4, 3, 2, 1) if count >= 1000**power), 0)
    return f"{count / 1000**power:.{min(power, 1)}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


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


# --- Beside other processes -------------------------------------------------------------------


@contextmanager
def _held(made: Path) -> Iterator[None]:
    """While it lasts, no other process makes `made`. Whoever dies holds nothing any longer.

    Where no lock can be had, as in some network folders, nothing is held: the work is then done
    twice, and the first to finish is kept.
    """
    lock = _acquired(made)
    try:
        yield
    finally:
        if lock is not None:
            _let_go(lock)


def _acquired(made: Path) -> filelock.BaseFileLock | None:
    lock = filelock.FileLock(_lock_of(made))
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.info("Another process is making '%s'; waiting for it.", made)
        lock.acquire()
    except (OSError, NotImplementedError):
        return None
    return lock


def _lock_of(made: Path) -> Path:
    return made.with_name(f"{made.name}.lock")


def _let_go(lock: filelock.BaseFileLock) -> None:
    with suppress(OSError):  # a process that waits takes a new file
        os.unlink(lock.lock_file)
    lock.release()


def sweep(cache: Path) -> None:
    """Remove what killed processes left half-made in `cache`, with their locks.

    What a living process makes is left alone: it holds the lock.
    """
    left = defaultdict(list)
    for path in cache.iterdir() if cache.is_dir() else ():
        if beside := BESIDE.fullmatch(path.name):
            left[beside[1]].append(path)
    for name, paths in left.items():
        lock = filelock.FileLock(_lock_of(cache / name))
        with suppress(filelock.Timeout, OSError, NotImplementedError):
            lock.acquire(timeout=0)
            for path in paths:
                _remove(path)
            _let_go(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- What a prepared folder tells -------------------------------------------------------------


def read_manifest(folder: Path, paths: Sequence[str], settings: DecodeSettings) -> Manifest:
    """The manifest of the prepared folder for these files and settings.

    Raises ValueError, naming the folder, if it or its audio is damaged or was made for others.
    """
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
        flaw = _flaw(manifest, paths, settings, (folder / AUDIO_NAME).stat().st_size)
    except OSError as error:
        flaw = f"'{error.filename}': {error.strerror}"
    except (ValueError, RecursionError) as error:
        flaw = f"{MANIFEST_NAME} is no JSON, {error}"
    if flaw:
        raise ValueError(
            f"The prepared audio in '{folder}' is damaged: {flaw}; delete that folder and start "
            "again."
        )
    return manifest


def _flaw(manifest: Any, paths: Sequence[str], settings: DecodeSettings, size: int) -> str:
    """What is wrong with it; nothing, where nothing is."""
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        return f"{MANIFEST_NAME} is not in format {FORMAT_VERSION}"
    if not _is_complete(manifest):
        return f"{MANIFEST_NAME} lacks what belongs there, or has it in another type"
    clips = manifest["clips"]
    if manifest["settings"] != asdict(settings):
        return f"{MANIFEST_NAME} has other settings"
    if sorted(entry["path"] for entry in (*clips, *manifest["skipped"])) != sorted(paths):
        return f"{MANIFEST_NAME} lists other files"
    ends = list(accumulate((clip["length"] for clip in clips), initial=0))
    if (
        [clip["offset"] for clip in clips] != ends[:-1]
        or min(ends) < 0
        or ends != sorted(set(ends))
    ):
        return f"{MANIFEST_NAME} does not put its clips end to end"
    if size != PCM.itemsize * ends[-1]:
        return f"{AUDIO_NAME} has {size} bytes instead of {PCM.itemsize * ends[-1]}"
    return ""


def _is_complete(manifest: Mapping[str, Any]) -> bool:
    """Whether everything that is read later is there and of its type; True is no whole number."""
    rates, totals = manifest.get("rates"), manifest.get("totals")
    return (
        _are_rows(manifest.get("clips"), {"path": str, "offset": int, "length": int})
        and _are_rows(manifest.get("skipped"), {"path": str, "reason": str})
        and _are_rows([totals], dict.fromkeys(TOTALS, int))
        and isinstance(rates, dict)
        and all(hz.isdecimal() and type(count) is int for hz, count in rates.items())
        and manifest.get("resampler") in (None, *RESAMPLERS)
    )


def _are_rows(rows: Any, fields: Mapping[str, type]) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, dict) and {name: type(value) for name, value in row.items()} == fields
        for row in rows
    )


def report_skipped(manifest: Manifest) -> None:
    """One warning for each file that was not used."""
    for entry in manifest["skipped"]:
        logger.warning("Skipped: %s", entry["reason"])


def recall_skipped(manifest: Manifest) -> None:
    """One warning for all files that were not used when the audio was prepared."""
    paths = [entry["path"] for entry in manifest["skipped"]]
    if paths:
        others = f" and {len(paths) - FEW} others" if len(paths) > FEW else ""
        logger.warning(
            "%d files are not used (each with its reason in manifest.json of the prepared audio): "
            "%s%s.",
            *(len(paths), ", ".join(paths[:FEW]), others),
        )


def report_changes(manifest: Manifest) -> None:
    """What resampling, clipping and trimming did, a line each where they did something."""
    totals, rate = manifest["totals"], manifest["settings"]["sample_rate"]
    _report_rates(manifest, rate)
    if totals["clipped"]:
        logger.warning(
            "%d samples in %d files lie beyond full scale and were clipped; "
            "--data.normalize peak would keep them.",
            *(totals["clipped"], totals["clipped_files"]),
        )
    if manifest["settings"]["trim_silence_db"] is not None:
        kept, seconds = totals["kept"] / totals["samples"], totals["kept"] / rate
        logger.info("Trimming silence keeps %.1f%% of the audio: %s.", 100 * kept, clock(seconds))


def _report_rates(manifest: Manifest, rate: int) -> None:
    rates = manifest["rates"]
    others = {hz: count for hz, count in rates.items() if int(hz) != rate}
    if not others:
        return
    by = manifest.get("resampler") or RESAMPLERS[0]  # older manifests do not say: it was the first
    found = ", ".join(f"{count} at {hz} Hz" for hz, count in others.items())
    counts = (sum(others.values()), sum(rates.values()))
    logger.info("Resampled %d of %d files to %d Hz by %s: %s.", *counts, rate, by, found)
    if by != (here := resampler()):
        logger.warning(
            "That audio was resampled by %s, and this environment resamples by %s. It is used as "
            "it is; audio that is read from now on, such as a prompt, goes through %s. To prepare "
            "it anew, give another --data.cache_dir.",
            *(by, here, here),
        )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 3723.4 -> "1:02:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
