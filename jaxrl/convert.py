"""Convert a Hugging Face model to an Orbax checkpoint in a run folder (step 0). `jaxrl.export` is the inverse.

python -m jaxrl.convert --input=Qwen/Qwen2.5-0.5B --output=checkpoints/qwen
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.command_line import CommandParser, run
from jaxrl.learning.state import TrainState
from models.convert import open_params, stored_dtype
from models.folder import read_config, replacing
from models.source import resolve_model


def convert(name: str, output: Path, dtype: str | None) -> str:
    """Convert one model with a few layers in memory at a time; returns a sentence that reports what was done."""
    started = time.monotonic()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not empty; choose a new folder.")
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


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("jaxrl.convert", __doc__)
    parser.add_argument("--input", required=True, help="a Hugging Face folder, or a name on the hub")
    parser.add_argument("--output", required=True, type=Path, help="the run folder to write; must be new")
    parser.add_argument("--dtype", help="bfloat16, float16 or float32; default: as stored")
    return parser


def convert_model(given: argparse.Namespace) -> None:
    """Run the command. Raises ValueError and OSError with one sentence each."""
    jax.config.update("jax_platforms", "cpu")
    print(convert(given.input, given.output, given.dtype))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), convert_model, argv)


if __name__ == "__main__":
    sys.exit(main())
