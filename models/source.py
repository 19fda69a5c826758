"""Where a model comes from: a folder, or a name on the Hugging Face hub (only the needed files)."""

import re
from pathlib import Path

from models.folder import COMPANIONS, CONFIG, INDEX, read_config_json

NEEDED = (CONFIG, INDEX, "*.safetensors", *COMPANIONS)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PROBE_SECONDS = 10.0


def three_ways(name: str, why: str) -> str:
    """The sentence for a model that is not to be had."""
    return (
        f"the model {name!r} is not to be had: {why}. Three ways on: point to a local folder with "
        "config.json and safetensors weights (--config.model=PATH, --model=PATH), log in to the hub with "
        "`hf auth login` on a machine that reaches it, or "
        "use the embedded model with `:tiny` behind the config file."
    )


def resolve_model(name: str | Path) -> Path:
    """The folder of a model: `name` itself when it is one, else the hub's, downloaded where needed.

    A model downloaded before is found without a network. Raises FileNotFoundError that says what was looked
    at and the three ways on; never retries for long.
    """
    text = str(name)
    folder = Path(text).expanduser()
    if folder.is_dir():
        read_config_json(folder)  # says what is wrong with a folder that holds no model
        return folder
    if not HUB_NAME.fullmatch(text):
        raise FileNotFoundError(three_ways(text, f"there is no folder {folder.absolute()}"))
    return _from_hub(text)


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download  # slow to import, and only needed here
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    looked = f"no folder {Path(name).absolute()}, no whole copy in {constants.HF_HUB_CACHE}"
    try:
        return Path(
            snapshot_download(name, allow_patterns=list(NEEDED), ignore_patterns=["*/*"], etag_timeout=PROBE_SECONDS)
        )
    except GatedRepoError as error:
        why = "the hub asks for a login and an accepted licence"
        raise FileNotFoundError(three_ways(name, why)) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(three_ways(name, f"{looked}, and the hub knows no such name")) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(three_ways(name, f"{looked}, and the hub is out of reach")) from error
    except Exception as error:  # the client's transport errors have other names in every version
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = f"{looked}, and the download broke off ({reason}); the same command again resumes it"
        raise FileNotFoundError(three_ways(name, why)) from error
