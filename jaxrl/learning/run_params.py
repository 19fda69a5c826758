"""The parameters of a run's checkpoint, without its optimizer: for export, evaluation and generation."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Sharding, SingleDeviceSharding

from models.config import Qwen2Config
from models.names import check_params


def split_run(name: str) -> tuple[Path, int | None]:
    """`RUN@step` -> folder and step, `RUN` -> folder and None. Raises FileNotFoundError, ValueError."""
    folder, mark, step = name.rpartition("@")
    if not mark or Path(name).is_dir():  # a folder may have an @ in its name
        folder, step = name, ""
    if mark and folder != name and not re.fullmatch(r"\d+", step):
        raise ValueError(
            f"expected RUN or RUN@step with a whole number, got {name!r}; write for example {folder}@100."
        )
    run = Path(folder).expanduser()
    if not (run / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"expected a run folder with checkpoints/ at {run}, found none; "
            "name the folder that was given as --workdir."
        )
    return run, int(step) if step else None


def run_steps(run: Path) -> list[int]:
    """Steps with a whole checkpoint, rising."""
    return sorted(
        int(path.name)
        for path in (run / "checkpoints").iterdir()
        if path.name.isdigit() and (path / "state").is_dir()
    )


def run_config(run: Path) -> dict[str, Any]:
    """The run's `config.json`. Raises FileNotFoundError, ValueError."""
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {path} beside the checkpoints, found none; name a whole run folder."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not readable JSON ({error}); restore it from a copy.") from error


def restore_params(
    run: Path, config: Qwen2Config, step: int | None = None, *, shardings: Any = None
) -> tuple[dict[str, Any], int]:
    """Scanned parameters of checkpoint `step` (None: the newest) in their stored dtype, and that step.

    shardings: a tree like the parameters, or one sharding for all; None is the first device. Raises
    FileNotFoundError where there is no such checkpoint, ValueError where it is of another model.
    """
    steps = run_steps(run)
    if not steps:
        raise FileNotFoundError(f"no checkpoint in {run / 'checkpoints'}; train first, or name another run.")
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f"no checkpoint of step {step} in {run}; there are {', '.join(map(str, steps))}."
        )
    step = steps[-1] if step is None else step
    folder = (run / "checkpoints" / str(step) / "state").absolute()
    if shardings is None:
        shardings = SingleDeviceSharding(jax.devices()[0])
    reader = ocp.PyTreeCheckpointHandler()
    try:
        stored = reader.metadata(folder).tree["params"]
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), jnp.dtype(leaf.dtype)), stored
        )
        check_params(shapes, config)
        if isinstance(shardings, Sharding):
            shardings = jax.tree.map(lambda _, place=shardings: place, shapes)
        item = {
            "params": jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                shapes,
                shardings,
            )
        }
        arguments = ocp.args.PyTreeRestore(
            item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True
        )
        return reader.restore(folder, args=arguments)["params"], step
    finally:
        reader.close()
