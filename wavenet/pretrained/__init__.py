"""Owns the names of saved models: bundled ones, in this folder, and ones on the Hugging Face Hub.

Knows nothing of models: it turns a name into a folder, and uploads a folder to the Hub.
"""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from wavenet.installation import DISTRIBUTION
from wavenet.version import __version__

logger = logging.getLogger(__name__)

DEFAULT = "fsdd"
FILES = ["config.json", "model.safetensors"]  # what `WaveNet.save_pretrained` writes
CARD = "README.md"  # of a model on the Hub
HERE = Path(__file__).parent
REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # user/model


def bundled() -> list[str]:
    """The names of the models that are part of the library."""
    return sorted(path.parent.name for path in HERE.glob("*/config.json"))


def credit(name: str | os.PathLike[str]) -> str:
    """Whose a bundled model and its corpus are, and under which licence, of its card; else ""."""
    if os.fspath(name) not in bundled() or Path(name).is_dir():
        return ""
    card = (HERE / name / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^credit: (.+)$", card, re.MULTILINE)
    return found[1] if found else ""


def find(name: str | os.PathLike[str]) -> Path:
    """The folder of a saved model: an existing folder, else a bundled model, else a Hub download.

    If `name` is user/model and a folder user/ exists here, it counts as a mistyped path and is not
    looked up on the Hub. Raises FileNotFoundError if nothing is found, and ValueError for a
    download without huggingface_hub.
    """
    if Path(name).is_dir():
        return Path(name)
    if os.fspath(name) in bundled():  # a name may also be a Path: command lines pass one
        return HERE / name
    if isinstance(name, str) and REPO_ID.fullmatch(name) and not Path(name).parent.exists():
        return _download(name)
    what = "this is a file, not a saved model" if Path(name).exists() else "there is no such model"
    raise FileNotFoundError(f"{os.fspath(name)}: {what}. {_accepted()}")


def upload(folder: Path, repo_id: str, *, private: bool, card: Callable[[str], str]) -> str:
    """Uploads the two files of a saved model to user/model on the Hub; returns its address.

    The repository is created if it does not exist. card: user/model -> the text of its model card,
    for a repository that has none; the card that somebody wrote stays as it is.
    """
    hub = _hub(repo_id).HfApi(library_name=DISTRIBUTION, library_version=__version__)
    repository = hub.create_repo(repo_id, private=private, exist_ok=True)
    files, name = [*FILES], repository.repo_id
    if hub.file_exists(name, CARD):
        logger.info("%s has a model card, which stays as it is", name)
    else:
        (folder / CARD).write_text(card(name), encoding="utf-8")
        files.append(CARD)
    message = f"A model of {DISTRIBUTION} {__version__}"
    hub.upload_folder(
        repo_id=name, folder_path=folder, allow_patterns=files, commit_message=message
    )
    return str(repository)


def _download(repo_id: str) -> Path:
    hub = _hub(repo_id)
    try:
        return Path(
            hub.snapshot_download(
                repo_id,
                allow_patterns=FILES,
                library_name=DISTRIBUTION,
                library_version=__version__,
            )
        )
    except (OSError, ValueError) as error:  # no network, no such repository, or it needs a login
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise FileNotFoundError(
            f"{repo_id} is not a folder here, and it could not be downloaded from the Hugging Face "
            f"Hub ({type(error).__name__}: {reason}). {_accepted()}"
        ) from error


def _hub(repo_id: str) -> ModuleType:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{repo_id}: the Hugging Face Hub needs huggingface_hub: pip install "
            "'wavenet-torch[hub]'. "
            "Without it, give a folder or the name of a bundled model: "
            f"{', '.join(bundled())}."
        ) from error
    return huggingface_hub


def _accepted() -> str:
    return (
        f"Give a bundled model ({', '.join(bundled())}), a folder that save_pretrained or a "
        "training run wrote (runs/NAME/model), or user/model of the Hugging Face Hub."
    )
