"""Load a model for sampling: a Hugging Face folder or name, or a run's checkpoint."""

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
from models.backends import decode_kernels
from models.cache import BLOCK, cache_bytes
from models.config import Qwen2Config
from models.convert import load_params
from models.folder import read_config
from models.qwen2 import Qwen2
from models.source import resolve_model
from models.tokenizer import check_vocabulary, eos_ids, load_tokenizer

SAMPLER_DEVICES = -1
"""`sampler.devices` for a model without a run: on a CPU one virtual device per core."""
CPU_CACHE_MEMORY = 1.0
"""Default of `sampler.memory` on a virtual CPU device, in GiB. The devices share the host's memory."""


class Source(NamedTuple):
    """A model's files. `folder` has config and tokenizer; the weights are in `run` at `step`, or in `folder`."""

    name: str
    folder: Path
    run: Path | None
    step: int | None
    config: Qwen2Config
    tokenizer: Any
    eos_ids: tuple[int, ...]


def find_model(name: str) -> Source:
    """The files of RUN (its newest checkpoint), RUN@step, a Hugging Face folder or a hub name. Reads no weights.

    Raises FileNotFoundError or ValueError that says where it looked.
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
    """Whether RUN or RUN@step names a run folder."""
    candidates = [name, name.rpartition("@")[0]] if "@" in name else [name]
    return any((Path(folder).expanduser() / "checkpoints").is_dir() for folder in candidates)


def stored_config(name: str) -> dict[str, Any]:
    """The config of the run RUN or RUN@step. Raises FileNotFoundError or ValueError if it is not of jaxrl.train."""
    config = run_config(split_run(name)[0])
    if "task" not in config:
        raise ValueError(f"{name} is a run of supervised training and has no task; name a run of jaxrl.train.")
    return config


def load_params_of(source: Source, dtype: str, mesh: Mesh) -> Any:
    """The model's scanned parameters, sharded over the mesh: of a folder in `dtype`, of a run as they are stored."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(Qwen2(source.config), mesh))
    if source.run is None:
        return load_params(source.folder, source.config, shardings=shardings, dtype=jnp.dtype(dtype))
    return restore_params(source.run, source.config, source.step, shardings=shardings)[0]


def make_sampler(config: Qwen2Config, mesh: Mesh, devices: Sequence[jax.Device] | None, **settings: Any) -> Sampler:
    """A `Sampler` over these devices, each with a copy of the weights.

    devices: None for the learner's mesh, with weights sharded as `decode_shardings` has them.
    """
    if devices is None:
        return Sampler(config, mesh, weight_shardings=decode_shardings(config, mesh), **settings)
    return Sampler(config, make_mesh(MeshSpec(), devices), **settings)


def load_policy(source: Source, fields: Mapping[str, Any], longest: int) -> tuple[Sampler, Any]:
    """A sampler and its decode weights.

    fields: `dtype`, `devices` and `sampler` of a run's config. A `sampler.memory` of None is CPU_CACHE_MEMORY on a CPU,
    and one batch elsewhere. longest: tokens of prompt and response together.
    """
    mesh = make_mesh(MeshSpec(data=1, fsdp=-1), learning_devices(fields["devices"]))
    params = load_params_of(source, fields["dtype"], mesh)
    settings = fields["sampler"]
    memory, rows, dtype = settings["memory"], settings["rows"], jnp.dtype(fields["dtype"])
    if memory is None:
        batch = (
            cache_bytes(
                source.config, rows or decode_kernels(jax.default_backend()).decode_rows, longest + BLOCK, dtype
            )
            / 2**30
        )
        memory = CPU_CACHE_MEMORY if jax.default_backend() == "cpu" and batch < CPU_CACHE_MEMORY else 0.0
    sampler = make_sampler(
        source.config,
        mesh,
        sampling_devices(settings["devices"]),
        dtype=dtype,
        longest=longest,
        rows=rows,
        memory=int(memory * 2**30),
    )
    return sampler, sampler.decode_weights(params)
