"""The optimizer step: training state, mesh, optimizers, micro-batches and the update.

update = make_update(model, optimizer, recipe("grpo"), mesh, UpdateSpec(LayoutSpec(length_buckets(512))))
state, info = update(state, batch, Scalars(learning_rate=1e-6))
"""

from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.micro_batches import LayoutSpec, length_buckets
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.reference_policy import ReferenceSpec, make_reference_update
from jaxrl.learning.state import Critic, TrainState, init_params, init_state
from jaxrl.learning.update import Scalars, UpdateSpec, compile_logp, make_logp, make_update, make_values

__all__ = [
    "Critic",
    "LayoutSpec",
    "MeshSpec",
    "OptimizerSpec",
    "ReferenceSpec",
    "Scalars",
    "TrainState",
    "UpdateSpec",
    "compile_logp",
    "init_params",
    "init_state",
    "length_buckets",
    "make_logp",
    "make_mesh",
    "make_optimizer",
    "make_reference_update",
    "make_update",
    "make_values",
]
