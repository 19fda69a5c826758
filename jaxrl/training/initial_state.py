"""Weights and state before step 1, and the fixed reference policy."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.checkpointing.restore import inherit, pin_step, resolved_init_from, restore_params, split_run
from jaxrl.learning.state import TrainState
from jaxrl.runtime.multihost import run_on_primary
from jaxrl.training.components import Components, param_shardings
from jaxrl.training.run_spec import RunSpec
from models.convert import load_params
from models.lora import join
from models.params import Params


def resolve_init_from(spec: RunSpec) -> RunSpec:
    """The specification with `init_from` as `RUN@step`.

    Without a step it is the newest checkpoint. It is looked up once, since the other run may still be training; a
    resumed run takes the step from its own manifest. Raises as `pin_step`.
    """
    if not spec.model.init_from:
        return spec
    resolved = run_on_primary(lambda: pin_step(resolved_init_from(spec.workdir, spec.model.init_from)))
    return spec.changed(model={"init_from": resolved})


def load_weights(components: Components, model_folder: Path) -> Params:
    """Parameters of a Hugging Face folder, sharded as the learner's: float32 masters, or a frozen base."""
    dtype = components.model.param_dtype
    return load_params(model_folder, components.config, shardings=param_shardings(components), dtype=dtype)


def restore_weights(components: Components, run: Path, step: int | None) -> Params:
    """Parameters of a run's checkpoint (None: the newest), adapters merged, sharded as the learner's."""
    params = restore_params(run, components.config, step, shardings=param_shardings(components))[0]
    return jax.tree.map(lambda leaf: leaf.astype(components.model.param_dtype), params)


def first_weights(components: Components, spec: RunSpec, model_folder: Path) -> Params:
    """The weights before step 1: those of `init_from`, or of the model folder."""
    if not spec.model.init_from:
        return load_weights(components, model_folder)
    return restore_weights(components, *split_run(spec.model.init_from))


def first_state(components: Components, spec: RunSpec, model_folder: Path) -> TrainState:
    """The state before step 1: the first weights with new optimizer moments and adapters.

    A run that starts from another run with the same optimizer inherits its moments (a stage with `fresh_optimizer`
    resets them) and its critic. New adapters have neither.
    """
    state = components.init_state(first_weights(components, spec, model_folder))
    if not spec.model.init_from or spec.model.lora:
        return state
    run, step = split_run(spec.model.init_from)
    return inherit(run, state, step)


def frozen_reference(components: Components, spec: RunSpec, model_folder: Path, state: TrainState) -> Any:
    """The fixed reference policy: the model in the folder.

    With adapters it is the frozen base with adapters of zeros, so that nothing is copied.
    """
    if state.base is None:
        return load_weights(components, model_folder)
    base = load_weights(components, model_folder) if spec.model.init_from else state.base
    return join(base, jax.tree.map(jnp.zeros_like, state.params))
