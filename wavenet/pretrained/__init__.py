"""Owns the names of saved models: bundled ones, which lie beside this file, and ones on the Hugging Face Hub.

Knows nothing of what a model is: it turns a name into a folder, and a folder into a repository of the Hub.
"""

import os
import re
from pathlib import Path
from types import ModuleType

from wavenet.version import __version__

DEFAULT = "fsdd"
FILES = [
    "config.json",
    "model.safetensors",
]  # of a saved model, as `WaveNet.save_pretrained` writes them
HERE = Path(__file__).parent
REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # user/model


def bundled() -> list[str]:
    """The names of the models that come with the library."""
    return sorted(path.parent.name for path in HERE.glob("*/config.json"))


def find(name: str | os.PathLike[str]) -> Path:
    """The folder of a saved model: an existing folder, else a bundled model, else a download of user/model from the Hub.

    A text user/model whose user/ is a folder here is a path with a slip in it, and is not asked for on the Hub.
    Raises FileNotFoundError for a name that is none of them, ValueError for user/model where huggingface_hub is missing.
    """
    if Path(name).is_dir():
        return Path(name)
    if os.fspath(name) in bundled():  # also as a Path, which command lines make of it
        return HERE / name
    if isinstance(name, str) and REPO_ID.fullmatch(name) and not Path(name).parent.exists():
        return _download(name)
    what = "this is a file, not a saved model" if Path(name).exists() else "there is no such model"
    raise FileNotFoundError(f"{os.fspath(name)}: {what}. {_accepted()}")


def upload(folder: Path, repo_id: str, *, private: bool) -> str:
    """The two files of a saved model to the Hub's repository user/model, made where there is none; its address."""
    hub = _hub(repo_id).HfApi(library_name="wavenet", library_version=__version__)
    made = hub.create_repo(repo_id, private=private, exist_ok=True)
    message = f"A model of wavenet {__version__}"
    hub.upload_folder(
        repo_id=made.repo_id, folder_path=folder, allow_patterns=FILES, commit_message=message
    )
    return str(made)


def _download(repo_id: str) -> Path:
    hub = _hub(repo_id)
    try:
        return Path(hub.snapshot_download(repo_id, allow_patterns=FILES, library_name="wavenet"))
    except (OSError, ValueError) as error:  # no network, no such repository, one that needs a login
        raise FileNotFoundError(
            f"{repo_id} is no folder here, and the Hugging Face Hub did not give it "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). {_accepted()}"
        ) from error


def _hub(repo_id: str) -> ModuleType:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{repo_id}: to reach the Hugging Face Hub, huggingface_hub must be installed: pip install 'wavenet[hub]'. "
            f"Without it, models come from folders and by the bundled names: {', '.join(bundled())}."
        ) from error
    return huggingface_hub


def _accepted() -> str:
    return (
        f"Give a bundled model ({', '.join(bundled())}), a folder as save_pretrained writes it and a training run leaves "
        "it in runs/NAME/model, or user/model of the Hugging Face Hub."
    )
