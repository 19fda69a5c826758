"""The parameters of a run's checkpoint, without its optimizer: for export, evaluation and generation."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Sharding, SingleDeviceSharding

from jaxrl.learning.arrays import array_handler, open_array, restore_arguments
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


def checkpoint_folder(run: Path, step: int | None = None) -> tuple[Path, int]:
    """The folder of checkpoint `step` (None: the newest), and that step. Raises FileNotFoundError where it is not."""
    steps = run_steps(run)
    if not steps:
        raise FileNotFoundError(f"no checkpoint in {run / 'checkpoints'}; train first, or name another run.")
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f"no checkpoint of step {step} in {run}; there are {', '.join(map(str, steps))}."
        )
    step = steps[-1] if step is None else step
    return (run / "checkpoints" / str(step) / "state").absolute(), step


def _stored_shapes(folder: Path, config: Qwen2Config) -> dict[str, Any]:
    """Shapes and dtypes of the stored parameters. Raises ValueError where they are of another model."""
    with contextlib.closing(array_handler()) as reader:
        stored = reader.metadata(folder).tree["params"]
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), jnp.dtype(leaf.dtype)), stored)
    check_params(shapes, config)
    return shapes


def open_params(run: Path, config: Qwen2Config, step: int | None = None) -> tuple[dict[str, Any], int]:
    """Scanned parameters of checkpoint `step` (None: the newest) with a `StoredArray` at each leaf, and that step.

    Nothing is read before it is asked for. Raises as `restore_params` does.
    """
    folder, step = checkpoint_folder(run, step)
    paths = flatten_dict(_stored_shapes(folder, config))
    return unflatten_dict({path: open_array(folder, ("params", *path)) for path in paths}), step


def restore_params(
    run: Path, config: Qwen2Config, step: int | None = None, *, shardings: Any = None
) -> tuple[dict[str, Any], int]:
    """Scanned parameters of checkpoint `step` (None: the newest) in their stored dtype, and that step.

    shardings: a tree like the parameters, or one sharding for all; None is the first device. Raises
    FileNotFoundError where there is no such checkpoint, ValueError where it is of another model.
    """
    folder, step = checkpoint_folder(run, step)
    shapes = _stored_shapes(folder, config)
    if shardings is None:
        shardings = SingleDeviceSharding(jax.devices()[0])
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _, place=shardings: place, shapes)
    placed = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )
    with contextlib.closing(array_handler(placed)) as reader:
        return reader.restore(folder, args=restore_arguments({"params": placed}, partial=True))["params"], step
