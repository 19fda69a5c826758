"""Finds a model by folder or by its name on the Hugging Face hub, and downloads only the required files."""

import re
from pathlib import Path

from models.folder import COMPANIONS, CONFIG, INDEX, read_config_json

REQUIRED_FILES = (CONFIG, INDEX, "*.safetensors", *COMPANIONS)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_TIMEOUT_SECONDS = 10.0


def not_found_message(name: str, why: str) -> str:
    """The error message for a model that was not found."""
    return (
        f"model {name!r} not found: {why}. Pass a local folder with config.json and safetensors weights "
        "(--config.model=PATH, --model=PATH), log in to the hub with `hf auth login` on a machine with access, or "
        "use the bundled model with `:tiny` after the config file."
    )


def resolve_model(name: str | Path) -> Path:
    """The folder of a model: `name` itself if it is a folder, else the hub's snapshot, downloaded if needed.

    A cached snapshot is used without a network. Raises FileNotFoundError that lists the searched locations and what
    to do. A connection to the hub times out after HUB_TIMEOUT_SECONDS.
    """
    text = str(name)
    folder = Path(text).expanduser()
    if folder.is_dir():
        read_config_json(folder)  # raises if the folder has no model
        return folder
    if not HUB_NAME.fullmatch(text):
        raise FileNotFoundError(not_found_message(text, f"no folder {folder.absolute()}"))
    return _from_hub(text)


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download  # slow to import
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    searched = f"no folder {Path(name).absolute()}, no complete copy in {constants.HF_HUB_CACHE}"
    try:
        return Path(
            snapshot_download(
                name, allow_patterns=list(REQUIRED_FILES), ignore_patterns=["*/*"], etag_timeout=HUB_TIMEOUT_SECONDS
            )
        )
    except GatedRepoError as error:
        why = "the hub requires a login and an accepted license"
        raise FileNotFoundError(not_found_message(name, why)) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(not_found_message(name, f"{searched}, and no such repository on the hub")) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(not_found_message(name, f"{searched}, and the hub is unreachable")) from error
    except Exception as error:  # the client's transport errors differ between versions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = f"{searched}, and the download failed ({reason}); repeat the command to resume it"
        raise FileNotFoundError(not_found_message(name, why)) from error
