"""Parts of a run's checkpoint: parameters to export, evaluate and sample from, and what another run goes on with."""

import contextlib
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxrl.checkpointing.array_layout import array_handler, open_array, restore_arguments
from jaxrl.checkpointing.fingerprint import fingerprint
from jaxrl.learning.state import TrainState
from models.config import Qwen2Config
from models.convert import load_params
from models.convert import open_params as open_model
from models.hf_names import check_params
from models.lora import LoRASpec, merge, merge_lazily
from models.source import resolve_model


def split_run(name: str) -> tuple[Path, int | None]:
    """`RUN@step` -> folder and step, `RUN` -> folder and None. Raises FileNotFoundError, ValueError."""
    folder, mark, step = name.rpartition("@")
    if not mark or Path(name).is_dir():  # a folder may have an @ in its name
        folder, step = name, ""
    if mark and folder != name and not re.fullmatch(r"\d+", step):
        raise ValueError(f"expected RUN or RUN@step with a whole number, got {name!r}; write for example {folder}@100.")
    run = Path(folder).expanduser()
    if not (run / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"expected a run folder with checkpoints/ at {run}, found none; "
            "name the folder that was given as --workdir."
        )
    return run, int(step) if step else None


def with_step(name: str) -> str:
    """`RUN` -> `RUN@step` of its newest checkpoint now. Raises as `split_run` and `checkpoint_folder` do."""
    run, step = split_run(name)
    return f"{run}@{checkpoint_folder(run, step)[1]}"


def origin(run: Path, init_from: str) -> str:
    """What `init_from` was for a run that has begun: with the step that was the newest then, as its manifest has it."""
    path = run / "manifest.json"
    stored = json.loads(path.read_text(encoding="utf-8")).get("init_from") if path.is_file() else ""
    return stored or init_from


def run_steps(run: Path) -> list[int]:
    """Steps with a whole checkpoint, rising."""
    return sorted(
        int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit() and (path / "state").is_dir()
    )


def run_config(run: Path) -> dict[str, Any]:
    """The run's `config.json`. Raises FileNotFoundError, ValueError."""
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected {path} beside the checkpoints, found none; name a whole run folder.")
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
        raise FileNotFoundError(f"no checkpoint of step {step} in {run}; there are {', '.join(map(str, steps))}.")
    step = steps[-1] if step is None else step
    return (run / "checkpoints" / str(step) / "state").absolute(), step


def run_lora(run: Path) -> LoRASpec | None:
    """The adapters that a run trains; None: it trains all weights."""
    fields = run_config(run) if (run / "config.json").is_file() else {}
    adapts = "lora" in fields and fields["lora"]["rank"]  # runs of other commands have no such choice
    return LoRASpec(**fields["lora"]) if adapts else None


def check_base(run: Path, base: Any, dtype: str) -> None:
    """Raises ValueError where these are not the weights that a run with adapters began with.

    base: arrays, or leaves that read them from files. dtype: what the run rounds a frozen weight to.
    """
    path = run / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {path} to tell which weights the adapters belong to, found none; name a whole run folder."
        )
    then, now = json.loads(path.read_text(encoding="utf-8"))["weights"], fingerprint(base, dtype)
    if now != then:
        raise ValueError(
            f"the adapters of {run} belong to weights with the fingerprint {then}, and those that it "
            f"began with (model, or init_from) now have {now}; put the old ones back, or name them."
        )


def open_adapters(run: Path, step: int | None = None) -> tuple[dict[str, Any], int]:
    """Adapters of checkpoint `step` (None: the newest) with a `StoredArray` at each leaf, and that step."""
    folder, step = checkpoint_folder(run, step)
    return _opened(folder, _stored(folder)), step


def open_params(
    run: Path, config: Qwen2Config, step: int | None = None, *, folder: Path | None = None
) -> tuple[dict[str, Any], int]:
    """Scanned parameters of checkpoint `step` (None: the newest), each leaf still in its files, and that step.

    Nothing is read before it is asked for, but the base of adapters, to compare it with what the run began with; they
    are merged as they are read. folder: the run's model, where it is not where the run found it.
    Raises as `restore_params` does.
    """
    lora = run_lora(run)
    if lora is None:
        stored, step = checkpoint_folder(run, step)
        shapes = _stored(stored)
        check_params(shapes, config)
        return _opened(stored, shapes), step
    adapters, step = open_adapters(run, step)
    fields = run_config(run)
    if fields["init_from"]:
        begun, at = split_run(origin(run, fields["init_from"]))
        base, _ = open_params(begun, config, at, folder=folder)
    else:
        base = open_model(folder or resolve_model(fields["model"]), config)
    check_base(run, base, fields["dtype"])
    return merge_lazily(base, adapters, lora), step


def _stored(folder: Path) -> dict[str, Any]:
    """Shapes and dtypes of what a checkpoint has as parameters."""
    with contextlib.closing(array_handler()) as reader:
        stored = reader.metadata(folder).tree["params"]
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), jnp.dtype(leaf.dtype)), stored)


def _opened(folder: Path, shapes: Any) -> dict[str, Any]:
    return unflatten_dict({path: open_array(folder, ("params", *path)) for path in flatten_dict(shapes)})


def restore_params(
    run: Path, config: Qwen2Config, step: int | None = None, *, shardings: Any = None
) -> tuple[dict[str, Any], int]:
    """Scanned parameters of checkpoint `step` (None: the newest) in their stored dtype, and that step.

    Adapters are merged with their base, in float32.
    shardings: a tree like the parameters, or one sharding for all; None is the first device. Raises
    FileNotFoundError where there is no such checkpoint, ValueError where it is of another model, or where the base of
    adapters is no longer what it was.
    """
    folder, step = checkpoint_folder(run, step)
    lora, shapes = run_lora(run), _stored(folder)
    if shardings is None:
        shardings = SingleDeviceSharding(jax.devices()[0])
    if lora is None:
        check_params(shapes, config)
        return restore_tree(folder, {"params": _placed(shapes, shardings)})["params"], step
    fields = run_config(run)
    if fields["init_from"]:
        begun, at = split_run(origin(run, fields["init_from"]))
        base, _ = restore_params(begun, config, at, shardings=shardings)
    else:
        base = load_params(resolve_model(fields["model"]), config, shardings=shardings, dtype=jnp.float32)
    check_base(run, base, fields["dtype"])
    place = jax.tree.leaves(shardings)[0]
    whole = NamedSharding(place.mesh, PartitionSpec()) if isinstance(place, NamedSharding) else place
    adapters = restore_tree(folder, {"params": _placed(shapes, whole)})["params"]
    merged = jax.jit(partial(merge, spec=lora), out_shardings=shardings, donate_argnums=0)(base, adapters)
    return merged, step


def learned_parts(run: Path, state: TrainState, step: int | None = None) -> list[str]:
    """What of `state` besides its parameters checkpoint `step` (None: the newest) has with the same names, shapes and
    types: "opt_state", "critic".

    None of a folder that holds weights alone, nor of a run with another optimizer, algorithm or with adapters.
    """
    folder, _ = checkpoint_folder(run, step)
    note = json.loads((folder.parent / "note" / "metadata").read_text(encoding="utf-8"))
    saved = {tuple(leaf) for leaf in note["leaves"]}

    def wanted(part: str) -> set[tuple[str, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(getattr(state, part))
        return {(f".{part}{jax.tree_util.keystr(path)}", str(list(x.shape)), str(x.dtype)) for path, x in leaves}

    found = {part: {leaf for leaf in saved if leaf[0].startswith(f".{part}")} for part in ("opt_state", "critic")}
    return [part for part, leaves in found.items() if leaves and leaves == wanted(part)]


def inherit(run: Path, state: TrainState, step: int | None = None) -> TrainState:
    """The state with the `learned_parts` of a checkpoint in place of its own, which are given up."""
    parts = learned_parts(run, state, step)
    if not parts:
        return state
    shapes = {
        part: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), getattr(state, part))
        for part in parts
    }
    for leaf in jax.tree.leaves([getattr(state, part) for part in parts]):
        leaf.delete()  # moments are as large as all else together: never twice
    return state._replace(**restore_tree(checkpoint_folder(run, step)[0], shapes))


def _placed(shapes: Any, shardings: Any) -> Any:
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _, place=shardings: place, shapes)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )


def restore_tree(folder: Path, placed: Mapping[str, Any]) -> dict[str, Any]:
    """These parts of the checkpoint in `folder`, placed as their shapes say."""
    with contextlib.closing(array_handler(placed)) as reader:
        return reader.restore(folder, args=restore_arguments(placed, partial=True))
