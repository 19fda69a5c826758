"""Restores parts of a run's checkpoint: parameters, and the optimizer state for a run that starts from it."""

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
    """`RUN@step` -> (folder, step); `RUN` -> (folder, None). Raises FileNotFoundError, ValueError."""
    folder, mark, step = name.rpartition("@")
    if not mark or Path(name).is_dir():  # the name of a folder may contain an @
        folder, step = name, ""
    if mark and folder != name and not re.fullmatch(r"\d+", step):
        raise ValueError(f"expected RUN or RUN@step with a whole number, got {name!r}; write for example {folder}@100.")
    run = Path(folder).expanduser()
    if not (run / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"expected a run folder with checkpoints/ at {run}, found none; pass the --workdir of a run."
        )
    return run, int(step) if step else None


def pin_step(name: str) -> str:
    """`RUN` -> `RUN@step` with the step of its newest checkpoint. Raises as `split_run` and `checkpoint_folder`."""
    run, step = split_run(name)
    return f"{run}@{checkpoint_folder(run, step)[1]}"


def resolved_init_from(run: Path, init_from: str) -> str:
    """`init_from` with the step that was resolved when the run started, from its manifest; without one, `init_from`."""
    path = run / "manifest.json"
    stored = json.loads(path.read_text(encoding="utf-8")).get("init_from") if path.is_file() else ""
    return stored or init_from


def run_steps(run: Path) -> list[int]:
    """Steps with a complete checkpoint, in increasing order."""
    return sorted(
        int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit() and (path / "state").is_dir()
    )


def run_config(run: Path) -> dict[str, Any]:
    """The run's `config.json`. Raises FileNotFoundError, ValueError."""
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected {path} beside the checkpoints, found none; pass a complete run folder.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not readable JSON ({error}); restore it from a copy.") from error


def checkpoint_folder(run: Path, step: int | None = None) -> tuple[Path, int]:
    """The folder of checkpoint `step` (None: the newest), and its step. Raises FileNotFoundError if there is none."""
    steps = run_steps(run)
    if not steps:
        raise FileNotFoundError(f"no checkpoint in {run / 'checkpoints'}; train first, or pass another run.")
    if step is not None and step not in steps:
        raise FileNotFoundError(f"no checkpoint of step {step} in {run}; choose one of {', '.join(map(str, steps))}.")
    step = steps[-1] if step is None else step
    return (run / "checkpoints" / str(step) / "state").absolute(), step


def run_lora(run: Path) -> LoRASpec | None:
    """The adapters that a run trains; None if it trains all weights."""
    fields = run_config(run) if (run / "config.json").is_file() else {}
    has_adapters = "lora" in fields and fields["lora"]["rank"]  # runs of other commands have no field `lora`
    return LoRASpec(**fields["lora"]) if has_adapters else None


def check_base(run: Path, base: Any, dtype: str) -> None:
    """Raises ValueError if these are not the frozen weights of a run with adapters, by their fingerprint.

    base: arrays, or leaves that read them from files. dtype: the run's dtype of frozen weights.
    """
    path = run / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {path} with the fingerprint of the adapters' base, found none; pass a complete run folder."
        )
    expected, found = json.loads(path.read_text(encoding="utf-8"))["weights"], fingerprint(base, dtype)
    if found != expected:
        raise ValueError(
            f"the adapters of {run} belong to weights with the fingerprint {expected}, but those that the run started "
            f"from (model, or init_from) now have {found}; restore the old ones, or pass their folder."
        )


def open_adapters(run: Path, step: int | None = None) -> tuple[dict[str, Any], int]:
    """Adapters of checkpoint `step` (None: the newest) with a `StoredArray` at each leaf, and the step."""
    folder, step = checkpoint_folder(run, step)
    return _opened(folder, _stored(folder)), step


def open_params(
    run: Path, config: Qwen2Config, step: int | None = None, *, folder: Path | None = None
) -> tuple[dict[str, Any], int]:
    """Scanned parameters of checkpoint `step` (None: the newest), each leaf still in its files, and the step.

    Leaves are read when they are indexed, and adapters are merged then. Only the base of adapters is read at once, to
    check its fingerprint. folder: of the run's model, if it was moved. Raises as `restore_params`.
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
        source, source_step = split_run(resolved_init_from(run, fields["init_from"]))
        base, _ = open_params(source, config, source_step, folder=folder)
    else:
        base = open_model(folder or resolve_model(fields["model"]), config)
    check_base(run, base, fields["dtype"])
    return merge_lazily(base, adapters, lora), step


def _stored(folder: Path) -> dict[str, Any]:
    """Shapes and dtypes of the parameters in a checkpoint."""
    with contextlib.closing(array_handler()) as handler:
        stored = handler.metadata(folder).tree["params"]
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), jnp.dtype(leaf.dtype)), stored)


def _opened(folder: Path, shapes: Any) -> dict[str, Any]:
    """A `StoredArray` for each parameter."""
    return unflatten_dict({path: open_array(folder, ("params", *path)) for path in flatten_dict(shapes)})


def restore_params(
    run: Path, config: Qwen2Config, step: int | None = None, *, shardings: Any = None
) -> tuple[dict[str, Any], int]:
    """Scanned parameters of checkpoint `step` (None: the newest) in their stored dtype, and the step.

    Adapters are merged with their base, in float32. shardings: a tree like the parameters, or one sharding for all
    (None: the first device). Raises FileNotFoundError if there is no such checkpoint, ValueError if it belongs to
    another model or the base of its adapters has changed.
    """
    folder, step = checkpoint_folder(run, step)
    lora, shapes = run_lora(run), _stored(folder)
    if shardings is None:
        shardings = SingleDeviceSharding(jax.devices()[0])
    if lora is None:
        check_params(shapes, config)
        return restore_tree(folder, {"params": _with_shardings(shapes, shardings)})["params"], step
    fields = run_config(run)
    if fields["init_from"]:
        source, source_step = split_run(resolved_init_from(run, fields["init_from"]))
        base, _ = restore_params(source, config, source_step, shardings=shardings)
    else:
        base = load_params(resolve_model(fields["model"]), config, shardings=shardings, dtype=jnp.float32)
    check_base(run, base, fields["dtype"])
    sharding = jax.tree.leaves(shardings)[0]
    replicated = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
    adapters = restore_tree(folder, {"params": _with_shardings(shapes, replicated)})["params"]
    merged = jax.jit(partial(merge, spec=lora), out_shardings=shardings, donate_argnums=0)(base, adapters)
    return merged, step


def learned_parts(run: Path, state: TrainState, step: int | None = None) -> list[str]:
    """Parts of `state`, of "opt_state" and "critic", that checkpoint `step` (None: the newest) can restore.

    A part can be restored if its arrays have the same names, shapes and dtypes in both. No part can if the checkpoint
    has weights alone, or is of a run with another optimizer or with adapters.
    """
    folder, _ = checkpoint_folder(run, step)
    note = json.loads((folder.parent / "note" / "metadata").read_text(encoding="utf-8"))
    saved = {tuple(leaf) for leaf in note["leaves"]}

    def required(part: str) -> set[tuple[str, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(getattr(state, part))
        return {(f".{part}{jax.tree_util.keystr(path)}", str(list(x.shape)), str(x.dtype)) for path, x in leaves}

    stored = {part: {leaf for leaf in saved if leaf[0].startswith(f".{part}")} for part in ("opt_state", "critic")}
    return [part for part, leaves in stored.items() if leaves and leaves == required(part)]


def inherit(run: Path, state: TrainState, step: int | None = None) -> TrainState:
    """The state with the `learned_parts` of a checkpoint. The arrays they replace are deleted."""
    parts = learned_parts(run, state, step)
    if not parts:
        return state
    shapes = {
        part: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), getattr(state, part))
        for part in parts
    }
    for leaf in jax.tree.leaves([getattr(state, part) for part in parts]):
        leaf.delete()  # before reading: moments take as much memory as everything else
    return state._replace(**restore_tree(checkpoint_folder(run, step)[0], shapes))


def _with_shardings(shapes: Any, shardings: Any) -> Any:
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _, sharding=shardings: sharding, shapes)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def restore_tree(folder: Path, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """These parts of the checkpoint in `folder`, with the shapes, dtypes and shardings of `abstract`."""
    with contextlib.closing(array_handler(abstract)) as handler:
        return handler.restore(folder, args=restore_arguments(abstract, partial=True))
