"""What a run computes with: model, mesh, sampler, update, state; built once from its specification."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from jaxrl.checkpointing.restore import inherit, restore_params, split_run
from jaxrl.inference.load import make_sampler
from jaxrl.learning.mesh import make_mesh, placer
from jaxrl.learning.micro_batches import LayoutSpec, length_buckets
from jaxrl.learning.optimizer import make_optimizer
from jaxrl.learning.reference_policy import make_follow
from jaxrl.learning.state import Critic, TrainState, abstract_params, abstract_state, init_state
from jaxrl.learning.update import Update, UpdateSpec, make_logp, make_update, make_values
from jaxrl.runtime.devices import learning_devices, sampling_devices
from jaxrl.sampling import Sampler
from jaxrl.training.run_spec import RunSpec
from models.config import Qwen2Config
from models.convert import load_params
from models.lora import join, merge
from models.qwen2 import Qwen2
from models.value_head import Qwen2Value, value_config


@dataclasses.dataclass(frozen=True)
class Components:
    """The compiled parts of a run.

    `logp` is the learner's forward pass, for references and old log-probabilities; `longest` the most tokens of prompt
    and response together. follow: moves the reference after a step; follows: whether the state has one. critic, values:
    of an algorithm with a critic, its parts and its forward pass. merge: of a model with adapters, (base, adapters) ->
    weights without any. seed: of the adapters' first state.
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
    merge: Any
    seed: int

    def abstract(self) -> TrainState:
        """Shapes, types and shardings of the state."""
        return abstract_state(self.model, self.optimizer, self.mesh, self.critic, follows=self.follows)

    def begin(self, params: Any) -> TrainState:
        """The state before step 1, from these parameters."""
        return init_state(
            self.model,
            self.optimizer,
            self.mesh,
            params,
            self.critic,
            follows=self.follows,
            key=jax.random.key(self.seed),
        )

    def decode_weights(self, state: TrainState) -> Any:
        """The sampler's weights; adapters are merged, so that they cost nothing while decoding."""
        params = state.params if state.base is None else self.merge(state.base, state.params)
        return self.sampler.decode_weights(params)


def update_spec(spec: RunSpec, longest: int) -> UpdateSpec:
    """How the run cuts up its updates; `longest`: tokens of the longest row."""
    buckets = length_buckets(longest, shortest=min(48, longest), multiple=spec.length_multiple, ratio=spec.length_ratio)
    return UpdateSpec(LayoutSpec(buckets, spec.micro_tokens), spec.epochs, spec.minibatches, spec.head_tokens)


def learner_parts(
    spec: RunSpec, config: Qwen2Config, mesh: Mesh | AbstractMesh
) -> tuple[Qwen2, optax.GradientTransformation, Critic | None]:
    """The model as it learns, its optimizer, and the critic of an algorithm that has one."""
    settings = dict(
        dtype=jnp.dtype(spec.dtype),
        remat=spec.remat,
        attention=spec.attention,
        unroll=spec.unroll,
        place=placer(mesh),
        lora=spec.lora,
    )
    if spec.lora:
        settings["param_dtype"] = jnp.dtype(spec.dtype)  # a frozen weight needs no more digits than its products
    critic = None
    if spec.loss.needs == "critic":
        critic = Critic(Qwen2Value(value_config(config), **settings), make_optimizer(spec.optimizer))
    return Qwen2(config, **settings), make_optimizer(spec.optimizer), critic


def check_positions(longest: int, config: Qwen2Config) -> None:
    """Raises ValueError where `longest` tokens are more than the model knows positions."""
    if longest > config.max_position_embeddings:
        raise ValueError(
            f"prompt and response may take {longest} tokens, the model knows "
            f"{config.max_position_embeddings} positions (dual chunk attention, with which some reach "
            "further, is not supported beyond its window); lower sampling.max_new_tokens."
        )


def check_attention(attention: str, *, on_cpu: bool) -> None:
    """Raises ValueError for cuDNN's attention on a CPU, before a first rollout has been drawn in vain."""
    if on_cpu and attention == "cudnn":
        raise ValueError(
            "attention: expected plain on a CPU, which has no cuDNN, got cudnn; set "
            "--config.attention=plain, or take the size :tiny, which is made for a CPU."
        )


def build_components(
    spec: RunSpec, config: Qwen2Config, longest: int, devices: Sequence[jax.Device] | None = None
) -> Components:
    """Everything but the state, for these devices (None: as the specification says, out of those there are).

    Raises ValueError as `check_positions`.
    """
    check_positions(longest, config)
    samplers = None if devices else sampling_devices(spec.sampler_devices)
    mesh, layout = make_mesh(spec.mesh, devices or learning_devices(spec.devices)), update_spec(spec, longest)
    model, optimizer, critic = learner_parts(spec, config, mesh)
    sampler = make_sampler(
        config,
        mesh,
        samplers,
        dtype=jnp.dtype(spec.dtype),
        longest=longest,
        memory=int(spec.sampler_memory * 2**30),
        rows=spec.sampler_rows,
        chunk=spec.sampler_chunk,
    )
    return Components(
        config,
        mesh,
        model,
        optimizer,
        sampler,
        make_update(model, optimizer, spec.loss, mesh, layout, critic),
        make_logp(model, mesh, layout),
        longest,
        make_follow(spec.reference),
        spec.reference.follows,
        critic,
        critic and make_values(critic.model, mesh, layout.layout),
        spec.lora and _make_merge(model, mesh),
        spec.seed,
    )


def load_weights(components: Components, folder: Path) -> Any:
    """Parameters of a Hugging Face folder as the learner wants them: their shards, float32 masters or a frozen base."""
    shardings = _param_shardings(components)
    return load_params(folder, components.config, shardings=shardings, dtype=components.model.param_dtype)


def restore_weights(components: Components, run: Path, step: int | None) -> Any:
    """The same of a run's checkpoint (None: the newest), its adapters merged."""
    params = restore_params(run, components.config, step, shardings=_param_shardings(components))[0]
    return jax.tree.map(lambda leaf: leaf.astype(components.model.param_dtype), params)


def first_weights(components: Components, spec: RunSpec, folder: Path) -> Any:
    """The weights before step 1: those of `init_from`, or of the model's folder."""
    if not spec.init_from:
        return load_weights(components, folder)
    return restore_weights(components, *split_run(spec.init_from))


def first_state(components: Components, spec: RunSpec, folder: Path) -> TrainState:
    """The state before step 1: the first weights, fresh moments and adapters.

    A run that starts from another of the same optimizer goes on with its moments (which a stage with `fresh_optimizer`
    then forgets), and with its critic; new adapters have neither.
    """
    state = components.begin(first_weights(components, spec, folder))
    if not spec.init_from or spec.lora:
        return state
    run, step = split_run(spec.init_from)
    return inherit(run, state, step)


def frozen_reference(components: Components, spec: RunSpec, folder: Path, state: TrainState) -> Any:
    """The first model, for a KL that is taken to it: a copy, or the base with adapters that do nothing (no copy)."""
    if state.base is None:
        return load_weights(components, folder)
    base = load_weights(components, folder) if spec.init_from else state.base
    return join(base, jax.tree.map(jnp.zeros_like, state.params))


def _make_merge(model: Qwen2, mesh: Mesh) -> Callable[[Any, Any], Any]:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(model.clone(lora=None), mesh))
    return jax.jit(functools.partial(merge, spec=model.lora), out_shardings=shardings)


def _param_shardings(components: Components) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_params(components.model.clone(lora=None), components.mesh))
