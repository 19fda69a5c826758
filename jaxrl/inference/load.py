"""A model from wherever it stands, ready to be sampled from: a Hugging Face folder or name, or a run's checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxrl.checkpointing.restore import checkpoint_folder, restore_params, run_config, split_run
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.state import abstract_params, decode_shardings
from jaxrl.runtime.devices import learning_devices, sampling_devices
from jaxrl.sampling import Sampler
from jaxrl.sampling.sampler import ROW_UNIT
from models.cache import BLOCK, cache_bytes
from models.config import Qwen2Config
from models.convert import load_params
from models.folder import read_config
from models.qwen2 import Qwen2
from models.source import resolve_model
from models.tokenizer import check_vocabulary, eos_ids, load_tokenizer

CPU_CACHES = 1.0
"""GiB for caches of a virtual CPU device where nobody says how many: the memory is also everybody else's."""


class Source(NamedTuple):
    """Where a model's parts are: `folder` has config and tokenizer; `run` and `step` the weights, if not the folder."""

    name: str
    folder: Path
    run: Path | None
    step: int | None
    config: Qwen2Config
    tokenizer: Any
    eos_ids: tuple[int, ...]


def find_model(name: str) -> Source:
    """The parts of RUN (its newest checkpoint), RUN@step, a Hugging Face folder or a hub name; no weights are read yet.

    Raises FileNotFoundError or ValueError saying what was looked at.
    """
    run, step = split_run(name) if is_run(name) else (None, None)
    if run:
        step = checkpoint_folder(run, step)[1]
    folder = resolve_model(run_config(run)["model"] if run else name)
    tokenizer = load_tokenizer(folder)
    ends, config = eos_ids(folder, tokenizer), read_config(folder)
    check_vocabulary(tokenizer, config.vocab_size, ends)
    return Source(name, folder, run, step, config, tokenizer, ends)


def is_run(name: str) -> bool:
    """Whether RUN or RUN@step names a folder that a run has written."""
    candidates = [name, name.rpartition("@")[0]] if "@" in name else [name]
    return any((Path(folder).expanduser() / "checkpoints").is_dir() for folder in candidates)


def stored_config(name: str) -> dict[str, Any]:
    """The config that the run RUN or RUN@step was made with. Raises FileNotFoundError where there is none."""
    config = run_config(split_run(name)[0])
    if "task" not in config:
        raise ValueError(f"{name} is a run of supervised training and has no task; name a run of jaxrl.train.")
    return config


def load_params_of(source: Source, dtype: str, mesh: Mesh) -> Any:
    """The model's scanned parameters, spread over the mesh: a folder's in `dtype`, a run's as they are stored."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(Qwen2(source.config), mesh))
    if source.run is None:
        return load_params(source.folder, source.config, shardings=shardings, dtype=jnp.dtype(dtype))
    return restore_params(source.run, source.config, source.step, shardings=shardings)[0]


def make_sampler(config: Qwen2Config, mesh: Mesh, devices: Sequence[jax.Device] | None, **settings: Any) -> Sampler:
    """A `Sampler` over these devices, each with whole weights, or (None) over the learner's mesh, split as it splits
    weights that decode."""
    if devices is None:
        return Sampler(config, mesh, weight_shardings=decode_shardings(config, mesh), **settings)
    return Sampler(config, make_mesh(MeshSpec(), devices), **settings)


def load_policy(source: Source, fields: Mapping[str, Any], longest: int) -> tuple[Sampler, Any]:
    """A sampler and its decode weights. fields: `dtype`, `devices` and `sampler` of a run's config; `longest`: tokens
    of prompt and response together. Without `sampler.memory` (None) as many batches as CPU_CACHES holds are in work at
    once on a CPU, and one elsewhere; at least one."""
    mesh = make_mesh(MeshSpec(data=1, fsdp=-1), learning_devices(fields["devices"]))
    params = load_params_of(source, fields["dtype"], mesh)
    drawing = fields["sampler"]
    memory, rows, dtype = drawing["memory"], drawing["rows"], jnp.dtype(fields["dtype"])
    if memory is None:
        one = cache_bytes(source.config, rows or ROW_UNIT, longest + BLOCK, dtype) / 2**30
        memory = CPU_CACHES if jax.default_backend() == "cpu" and one < CPU_CACHES else 0.0
    sampler = make_sampler(
        source.config,
        mesh,
        sampling_devices(drawing["devices"]),
        dtype=dtype,
        longest=longest,
        rows=rows,
        memory=int(memory * 2**30),
    )
    return sampler, sampler.decode_weights(params)
