"""What a run computes with: model, mesh, sampler, update, state; built once from its specification."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from jaxrl.learning.batching import LayoutSpec, length_buckets
from jaxrl.learning.mesh import make_mesh, placer
from jaxrl.learning.optimizer import make_optimizer
from jaxrl.learning.reference import make_follow
from jaxrl.learning.run_params import restore_params, split_run
from jaxrl.learning.state import Critic, TrainState, abstract_params, abstract_state, init_state
from jaxrl.learning.update import Update, UpdateSpec, make_logp, make_update, make_values
from jaxrl.running.devices import learning_devices, sampling_devices
from jaxrl.running.policies import make_sampler
from jaxrl.running.settings import RunSpec
from jaxrl.sampling import Sampler
from models.config import Qwen2Config
from models.convert import load_params
from models.qwen2 import Qwen2
from models.value import Qwen2Value, value_config


@dataclasses.dataclass(frozen=True)
class Machine:
    """The compiled parts of a run.

    `logp` is the learner's forward pass, for references and old log-probabilities; `longest` the most tokens of prompt
    and response together. follow: moves the reference after a step; follows: whether the state has one. critic, values:
    of an algorithm with a critic, its parts and its forward pass.
    """

    config: Qwen2Config
    mesh: Mesh
    model: Qwen2
    optimizer: Any
    sampler: Sampler
    update: Update
    logp: Any
    longest: int
    follow: Any
    follows: bool
    critic: Critic | None
    values: Any

    def abstract(self) -> TrainState:
        """Shapes, types and shardings of the state."""
        return abstract_state(self.model, self.optimizer, self.mesh, self.critic, follows=self.follows)

    def begin(self, params: Any) -> TrainState:
        """The state before step 1, from these parameters."""
        return init_state(self.model, self.optimizer, self.mesh, params, self.critic, follows=self.follows)


def update_spec(spec: RunSpec, longest: int) -> UpdateSpec:
    """How the run cuts up its updates; `longest`: tokens of the longest row."""
    buckets = length_buckets(longest, shortest=min(48, longest), multiple=spec.length_multiple,
                             ratio=spec.length_ratio)
    return UpdateSpec(LayoutSpec(buckets, spec.micro_tokens), spec.epochs, spec.minibatches, spec.head_tokens)


def learner_parts(
    spec: RunSpec, config: Qwen2Config, mesh: Mesh | AbstractMesh
) -> tuple[Qwen2, optax.GradientTransformation, Critic | None]:
    """The model as it learns, its optimizer, and the critic of an algorithm that has one."""
    settings = dict(dtype=jnp.dtype(spec.dtype), remat=spec.remat, attention=spec.attention, unroll=spec.unroll,
                    place=placer(mesh))
    critic = None
    if spec.loss.needs == "critic":
        critic = Critic(Qwen2Value(value_config(config), **settings), make_optimizer(spec.optimizer))
    return Qwen2(config, **settings), make_optimizer(spec.optimizer), critic


def check_positions(longest: int, config: Qwen2Config) -> None:
    """Raises ValueError where `longest` tokens are more than the model knows positions."""
    if longest > config.max_position_embeddings:
        raise ValueError(f"prompt and response may take {longest} tokens, the model knows "
                         f"{config.max_position_embeddings} positions; lower sampling.max_new_tokens.")


def build_machine(
    spec: RunSpec, config: Qwen2Config, longest: int, devices: Sequence[jax.Device] | None = None
) -> Machine:
    """Everything but the state, for these devices (None: as the specification says, out of those there are).

    Raises ValueError as `check_positions`.
    """
    check_positions(longest, config)
    samplers = None if devices else sampling_devices(spec.sampler_devices)
    mesh, layout = make_mesh(spec.mesh, devices or learning_devices(spec.devices)), update_spec(spec, longest)
    model, optimizer, critic = learner_parts(spec, config, mesh)
    sampler = make_sampler(config, mesh, samplers, dtype=jnp.dtype(spec.dtype), longest=longest,
                           memory=int(spec.sampler_memory * 2**30), rows=spec.sampler_rows, chunk=spec.sampler_chunk)
    return Machine(
        config, mesh, model, optimizer, sampler, make_update(model, optimizer, spec.loss, mesh, layout, critic),
        make_logp(model, mesh, layout), longest, make_follow(spec.reference), spec.reference.follows, critic,
        critic and make_values(critic.model, mesh, layout.layout),
    )


def load_weights(machine: Machine, folder: Path) -> Any:
    """Float32 parameters of a Hugging Face folder, sharded as the learner wants them."""
    shardings = _param_shardings(machine)
    return load_params(folder, machine.config, shardings=shardings, dtype=jnp.float32)


def restore_weights(machine: Machine, run: Path, step: int | None) -> Any:
    """Float32 parameters of a run's checkpoint (None: the newest), sharded as the learner wants them."""
    return restore_params(run, machine.config, step, shardings=_param_shardings(machine))[0]


def first_state(machine: Machine, spec: RunSpec, folder: Path) -> TrainState:
    """The state before step 1: the weights of `init_from`, or of the model's folder, and fresh moments."""
    if not spec.init_from:
        return machine.begin(load_weights(machine, folder))
    run, step = split_run(spec.init_from)
    return machine.begin(restore_weights(machine, run, step))


def _param_shardings(machine: Machine) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_params(machine.model, machine.mesh))
