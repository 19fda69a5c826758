"""Hugging Face model -> orbax checkpoint in a run folder (step 0), which `jaxrl.export` turns back.

python -m jaxrl.convert --input=Qwen/Qwen2.5-0.5B --output=checkpoints/qwen
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.learning.state import TrainState
from models.convert import open_params, stored_dtype
from models.folder import read_config, replacing
from models.source import resolve_model


def convert(name: str, output: Path, dtype: str | None) -> str:
    """Convert one model, a few layers in memory at a time; returns the sentence that says what was done."""
    started = time.monotonic()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already and not empty; choose a new folder.")
    folder = resolve_model(name).absolute()
    config = read_config(folder)
    params = open_params(folder, config, dtype=stored_dtype(dtype))
    with replacing(output) as temporary:
        with Checkpoints(temporary / "checkpoints") as checkpoints:
            checkpoints.save(0, TrainState(np.zeros((), np.int32), params, {}), {"model": str(folder)})
        text = json.dumps({"model": str(folder)}, indent=2) + "\n"
        (temporary / "config.json").write_text(text, encoding="utf-8")
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"{output}: {size:,} parameters of {folder} as step 0, {time.monotonic() - started:.1f} s"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jaxrl.convert", description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, help="a Hugging Face folder, or a name on the hub")
    parser.add_argument("--output", required=True, type=Path, help="the run folder to write; must be new")
    parser.add_argument("--dtype", help="bfloat16, float16 or float32; default: what is stored")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = _parse(arguments)
    jax.config.update("jax_platforms", "cpu")
    try:
        print(convert(given.input, given.output, given.dtype))
    except (OSError, ValueError) as error:
        print(f"jaxrl.convert: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
