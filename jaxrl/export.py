"""Export an Orbax checkpoint of a run as a Hugging Face folder, which is re-read and compared.

python -m jaxrl.export --checkpoint=runs/stage3@200 --output=exported
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxrl.checkpointing.restore import check_base, open_adapters, open_params, run_config, run_lora, split_run
from jaxrl.command_line import CommandParser, run
from models.adapter_folder import save_adapter
from models.convert import open_params as open_model
from models.convert import save_params
from models.folder import read_config
from models.source import resolve_model

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_size(text: str) -> int:
    """Bytes in "5GB", "512MiB" or "1000000". Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not match or match.group(2) not in UNITS or float(match.group(1)) * UNITS[match.group(2)] < 1:
        raise ValueError(f"expected a size such as 5GB, 512MiB or 1000000, got {text!r}; write a number and a unit.")
    return int(float(match.group(1)) * UNITS[match.group(2)])


def export(
    run_name: str, output: Path, source: str | None, dtype: str | None, max_shard_size: str | None, adapter: bool
) -> str:
    """Export one checkpoint; returns a sentence that reports what was done."""
    started = time.monotonic()
    limit = None if max_shard_size is None else parse_size(max_shard_size)
    run, step = split_run(run_name)
    folder = resolve_model(source if source is not None else str(run_config(run)["model"]))
    if adapter:
        step = _export_adapter(run, step, output, folder if source else None, dtype or max_shard_size)
    else:
        config = read_config(folder)
        params, step = open_params(run, config, step, folder=folder)
        save_params(output, params, config, source_folder=folder, dtype=dtype, max_shard_bytes=limit)
    size = sum(path.stat().st_size for path in output.iterdir())
    return (
        f"{output}: step {step} of {run}, {size / 1e6:.1f} MB, re-read and compared, {time.monotonic() - started:.1f} s"
    )


def _export_adapter(run: Path, step: int | None, output: Path, base: Path | None, unused: str | None) -> int:
    lora, fields = run_lora(run), run_config(run)
    if lora is None:
        raise ValueError(
            f"--adapter: expected a run with adapters (lora.rank above 0), but {run} trained all weights; "
            "leave out --adapter."
        )
    if unused:
        raise ValueError(
            f"--adapter writes one small float32 file: expected no --dtype and no --max-shard-size, got {unused}."
        )
    if fields["init_from"] and base is None:
        raise ValueError(
            f"the adapters belong to the weights of {fields['init_from']}, which are not in a model folder "
            "yet; export these first and give that folder as --source."
        )
    adapters, step = open_adapters(run, step)
    if base is not None:
        check_base(run, open_model(base, read_config(base)), fields["dtype"])
    loaded = jax.tree.map(lambda leaf: leaf[:], adapters)
    save_adapter(output, loaded, lora, str(base or fields["model"]))
    return step


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("jaxrl.export", __doc__)
    parser.add_argument("--checkpoint", required=True, help="RUN or RUN@step; without a step the newest")
    parser.add_argument("--output", required=True, type=Path, help="the folder to write or replace")
    parser.add_argument("--source", help="the model that the run started from; default: the run's field `model`")
    parser.add_argument("--dtype", help="bfloat16, float16 or float32; default: as the source stores it")
    parser.add_argument("--max-shard-size", help="such as 5GB; default: as the source's files")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="for a run with LoRA adapters: export only these, for PEFT; default: merged into the model",
    )
    return parser


def export_checkpoint(given: argparse.Namespace) -> None:
    """Run the command. Raises ValueError and OSError with one sentence each."""
    jax.config.update("jax_platforms", "cpu")  # needs no accelerator, and one may be busy training
    print(export(given.checkpoint, given.output, given.source, given.dtype, given.max_shard_size, given.adapter))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), export_checkpoint, argv)


if __name__ == "__main__":
    sys.exit(main())
