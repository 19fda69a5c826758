"""The compiled parts of a run, built once from its specification."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh

from jaxrl.algorithms.advantages import Needs
from jaxrl.inference.load import make_sampler
from jaxrl.learning.mesh import make_mesh, sharding_constraint
from jaxrl.learning.micro_batches import LayoutSpec, length_buckets
from jaxrl.learning.optimizer import make_optimizer
from jaxrl.learning.reference_policy import make_reference_update
from jaxrl.learning.state import Critic, TrainState, abstract_params, abstract_state, init_state
from jaxrl.learning.update import Update, UpdateSpec, compile_logp, make_logp, make_update, make_values
from jaxrl.runtime.devices import learning_devices, sampling_devices
from jaxrl.sampling import Sampler
from jaxrl.training.run_spec import RunSpec
from models.backends import platform_of, training_kernels
from models.config import Qwen2Config
from models.lora import merge
from models.params import Params
from models.qwen2 import Qwen2
from models.value_head import Qwen2Value, value_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Components:
    """Model, mesh, sampler, update and what else a run computes with.

    longest: tokens of the longest prompt plus response. seed: initializes adapters.
    logp: (params, tokens [B, T], lengths [B], temperature) -> log-probabilities [B, T], by the learner.
    values: (critic's params, tokens, lengths) -> values [B, T], if the algorithm has a critic.
    update_reference: (state, step) -> state with the moving reference of the step; the state itself without one.
    merge_adapters: (base, adapters) -> plain weights, if the run trains adapters.
    """

    config: Qwen2Config
    mesh: Mesh
    model: Qwen2
    optimizer: optax.GradientTransformationExtraArgs
    critic: Critic | None
    sampler: Sampler
    update: Update
    logp: Callable[[Params, np.ndarray, np.ndarray, float], np.ndarray]
    values: Callable[[Params, np.ndarray, np.ndarray], np.ndarray] | None
    has_moving_reference: bool
    update_reference: Callable[[TrainState, int], TrainState]
    merge_adapters: Callable[[Params, Params], Params] | None
    longest: int
    seed: int

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the training state."""
        return abstract_state(
            self.model, self.optimizer, self.mesh, self.critic, moving_reference=self.has_moving_reference
        )

    def init_state(self, params: Params) -> TrainState:
        """The state before step 1, from these parameters. A run that trains adapters takes over their buffers."""
        return init_state(
            self.model,
            self.optimizer,
            self.mesh,
            params,
            self.critic,
            moving_reference=self.has_moving_reference,
            key=jax.random.key(self.seed),
        )

    def decode_weights(self, state: TrainState) -> Any:
        """The sampler's weights. Adapters are merged, so that they cost nothing while decoding."""
        params = self.merge_adapters(state.base, state.params) if self.merge_adapters else state.params
        return self.sampler.decode_weights(params)


def build_components(
    spec: RunSpec, config: Qwen2Config, longest: int, devices: Sequence[jax.Device] | None = None
) -> Components:
    """Everything but the state, for these devices (None: those that the specification names).

    Raises ValueError as `check_positions`.
    """
    check_positions(longest, config)
    sampler_devices = None if devices else sampling_devices(spec.sampler.devices)
    mesh = make_mesh(spec.mesh, devices or learning_devices(spec.devices))
    layout = update_spec(spec, longest)
    model, optimizer, critic = learner_parts(spec, config, mesh)
    logp = compile_logp(model, mesh, layout)  # shared by the update and reference log-probabilities
    return Components(
        config=config,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        critic=critic,
        sampler=make_sampler(
            config,
            mesh,
            sampler_devices,
            dtype=jnp.dtype(spec.model.dtype),
            longest=longest,
            memory=int(spec.sampler.memory * 2**30),
            rows=spec.sampler.rows,
            chunk=spec.sampler.chunk,
            few_shapes=spec.sampler.few_shapes,
        ),
        update=make_update(model, optimizer, spec.algorithm.loss, mesh, layout, critic, logp),
        logp=make_logp(logp, mesh, layout.layout),
        values=make_values(critic.model, mesh, layout.layout) if critic else None,
        has_moving_reference=spec.algorithm.reference.moves,
        update_reference=make_reference_update(spec.algorithm.reference),
        merge_adapters=_make_merge(model, mesh) if spec.model.lora else None,
        longest=longest,
        seed=spec.seed,
    )


def update_spec(spec: RunSpec, longest: int) -> UpdateSpec:
    """How updates are split into micro-batches. longest: tokens of the longest row."""
    layout = spec.layout
    buckets = length_buckets(
        longest, shortest=min(layout.shortest, longest), multiple=layout.multiple, ratio=layout.ratio
    )
    return UpdateSpec(
        LayoutSpec(buckets, layout.micro_tokens, layout.few_shapes),
        spec.algorithm.epochs,
        spec.algorithm.minibatches,
        layout.head_tokens,
    )


def learner_parts(
    spec: RunSpec, config: Qwen2Config, mesh: Mesh | AbstractMesh
) -> tuple[Qwen2, optax.GradientTransformationExtraArgs, Critic | None]:
    """The learner's model, its optimizer, and the critic if the algorithm has one."""
    settings = dict(
        dtype=jnp.dtype(spec.model.dtype),
        remat=spec.model.remat,
        attention=spec.model.attention,
        unroll=spec.model.unroll,
        constrain=sharding_constraint(mesh),
        kernels=training_kernels(platform_of(mesh)),
        lora=spec.model.lora,
    )
    if spec.model.lora:
        settings["param_dtype"] = jnp.dtype(spec.model.dtype)  # frozen weights need no float32 masters
    critic = None
    if spec.algorithm.loss.needs is Needs.CRITIC:
        critic = Critic(Qwen2Value(value_config(config), **settings), make_optimizer(spec.optimizer))
    return Qwen2(config, **settings), make_optimizer(spec.optimizer), critic


def check_positions(longest: int, config: Qwen2Config) -> None:
    """Raises ValueError if `longest` tokens are more than the model has positions."""
    if longest > config.max_position_embeddings:
        raise ValueError(
            f"prompt and response: expected at most {config.max_position_embeddings} tokens (the model's positions), "
            f"got {longest}; lower sampling.max_new_tokens. Dual chunk attention, which extends some models, is not "
            "supported."
        )


def param_shardings(components: Components) -> Any:
    """Shardings of the learner's parameters, without adapters."""
    return _shardings(components.model, components.mesh)


def _shardings(model: Qwen2, mesh: Mesh) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_params(model.clone(lora=None), mesh))


def _make_merge(model: Qwen2, mesh: Mesh) -> Callable[[Params, Params], Params]:
    return jax.jit(functools.partial(merge, spec=model.lora), out_shardings=_shardings(model, mesh))
