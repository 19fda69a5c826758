"""All optimizer steps of one rollout: micro-batches of a few shapes, one denominator a step."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxrl.algorithms.batch import Batch, Totals
from jaxrl.algorithms.critic_loss import explained_variance, value_loss
from jaxrl.algorithms.logp import shift, token_logp
from jaxrl.algorithms.losses import LossSpec, policy_loss
from jaxrl.learning.gradient_accumulation import GradientAccumulation
from jaxrl.learning.mesh import row_sharding, row_shards
from jaxrl.learning.micro_batches import LayoutSpec, Piece, cut, padding_share, take
from jaxrl.learning.state import Critic, Learned, TrainState, abstract_state
from jaxrl.runtime.multihost import fetch
from models.flops import forward_flops
from models.lora import join
from models.params import head_kernel
from models.value_head import Qwen2Value


class Scalars(NamedTuple):
    """What a stage or a schedule changes from step to step; traced, so that no value recompiles."""

    learning_rate: float
    temperature: float = 1.0
    kl_coefficient: float = 0.0
    critic_learning_rate: float = 0.0


@dataclasses.dataclass(frozen=True)
class UpdateSpec:
    """How often a rollout is used, and how the work is cut.

    Every epoch goes over the rollout in `minibatches` parts of about equally many rows, in order, an optimizer step
    each. With more than one optimizer step per rollout, old log-probabilities come from a pass of the learner before
    the first.
    head_tokens: tokens per piece of the head, over all devices (memory: head_tokens x vocabulary x 4 bytes).
    """

    layout: LayoutSpec
    epochs: int = 1
    minibatches: int = 1
    head_tokens: int = 8192

    def __post_init__(self):
        for field in ("epochs", "minibatches", "head_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: expected 1 or more, got {getattr(self, field)}")

    @property
    def steps(self) -> int:
        """Optimizer steps of a rollout."""
        return self.epochs * self.minibatches


def forward(
    model: nn.Module,
    params: Any,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    temperature: Float[Array, ""],
    *,
    head_tokens: int,
    entropy_gradient: bool = False,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability of every token and entropy before it, by the learner's model (see `token_logp`)."""
    hidden, _ = model.apply({"params": params}, tokens, _positions(tokens), lengths)
    kernel = head_kernel(params, model.config)
    return token_logp(hidden, kernel, tokens, temperature, chunk_tokens=head_tokens, entropy_gradient=entropy_gradient)


def forward_values(
    model: Qwen2Value, params: Any, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
) -> Float[Array, "B T"]:
    """The critic's value of the state in which each token was drawn: what it says behind the token before."""
    return shift(model.apply({"params": params}, tokens, _positions(tokens), lengths))


def _positions(tokens):
    return jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)


def make_logp(
    model: nn.Module, mesh: Mesh, spec: UpdateSpec
) -> Callable[[Any, np.ndarray, np.ndarray, float], np.ndarray]:
    """`logp(params, tokens[B, T], lengths[B], temperature) -> [B, T]` on the host: forward only.

    Zeros at position 0 and beyond each row's length.
    """
    program = _logp_program(model, mesh, spec)

    def logp(params, tokens, lengths, temperature):
        return _by_pieces(program, mesh, spec.layout, params, tokens, lengths, np.float32(temperature))

    return logp


def make_values(
    model: Qwen2Value, mesh: Mesh, layout: LayoutSpec
) -> Callable[[Any, np.ndarray, np.ndarray], np.ndarray]:
    """`values(params, tokens[B, T], lengths[B]) -> [B, T]` on the host, by the critic; zeros as in `make_logp`."""

    def values(params, tokens, lengths):
        return forward_values(model, params, tokens, lengths)

    program = jax.jit(values, out_shardings=row_sharding(mesh))
    return lambda params, tokens, lengths: _by_pieces(program, mesh, layout, params, tokens, lengths)


class Update:
    """`update(state, batch, scalars) -> (state, info)`; see `make_update`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        loss: LossSpec,
        mesh: Mesh,
        spec: UpdateSpec,
        critic: Critic | None = None,
    ):
        if (loss.needs == "critic") != (critic is not None):
            raise ValueError(
                f"advantage {loss.advantage!r}: expected {'a' if critic is None else 'no'} critic, got "
                f"{'none' if critic is None else 'one'}; pass one where the advantage needs it, and only there"
            )
        self.model, self.loss, self.mesh, self.spec = model, loss, mesh, spec
        places = jax.tree.map(lambda x: x.sharding, abstract_state(model, optimizer, mesh, critic))
        self.logp = _logp_program(model, mesh, spec)

        def policy(params, base, micro, totals, scalars):
            logp, entropy = forward(
                model,
                params if base is None else join(base, params),
                micro.tokens,
                micro.lengths,
                scalars.temperature,
                head_tokens=spec.head_tokens,
                entropy_gradient=loss.entropy_coefficient != 0.0,
            )
            return policy_loss(
                logp,
                micro,
                loss,
                entropy=entropy,
                totals=totals,
                kl_coefficient=scalars.kl_coefficient,
                row_blocks=row_shards(mesh),
            )

        def value(params, base, micro, totals, scalars):
            del base, scalars
            values = forward_values(critic.model, params, micro.tokens, micro.lengths)
            return value_loss(values, micro, loss, totals=totals)

        self.policy = GradientAccumulation(policy, optimizer, Learned(places.params, places.opt_state), mesh)
        self.critic = critic and GradientAccumulation(value, critic.optimizer, places.critic, mesh)

    @property
    def traces(self) -> Counter[tuple[int, int]]:
        """How often the policy's micro-batch program was traced, by shape (rows, length)."""
        return self.policy.traces

    def __call__(self, state: TrainState, batch: Batch, scalars: Scalars) -> tuple[TrainState, dict[str, Any]]:
        """All optimizer steps of one rollout. `state` is given up: its buffers are reused."""
        scalars = Scalars(*(np.float32(value) for value in scalars))
        parts = self._parts(batch)
        if not parts:  # momentum and weight decay would move weights that nothing was learned for
            return state, dict.fromkeys(("tokens", "loss_tokens", "padding_share", "micro_batches", "model_flops"), 0)
        placed = [self.place(part, state.weights(state.params), scalars) for part in parts]
        infos = []
        for _ in range(self.spec.epochs):
            for micros, totals in placed:
                state, info = self._step(state, micros, totals, scalars)
                infos.append(info)
        return state, _mean_info(infos) | self._counts(parts)

    def place(self, part: Batch, params: Any, scalars: Scalars) -> tuple[list[Batch], Totals]:
        """Micro-batches of one optimizer step on their devices, with what the loss needs; and the denominators."""
        if self.loss.needs_reference and part.ref_logp is None:
            raise ValueError("a KL in the loss needs batch.ref_logp, got None; fill it before the update")
        micros = [jax.device_put(take(part, piece), row_sharding(self.mesh)) for piece in self._cut(part)]
        if self.spec.steps > 1 and part.old_logp is None:
            micros = [m._replace(old_logp=self.logp(params, m.tokens, m.lengths, scalars.temperature)) for m in micros]
        tokens, rows = part.loss_mask.sum(), (part.loss_mask > 0).any(axis=1).sum()
        return micros, Totals(np.float32(max(tokens, 1)), np.float32(max(rows, 1)))

    def _step(self, state, micros, totals, scalars):
        policy = Learned(state.params, state.opt_state)
        policy, info = self.policy.step(policy, state.base, micros, totals, scalars, scalars.learning_rate)
        state = state._replace(step=state.step + 1, params=policy.params, opt_state=policy.opt_state)
        if self.critic:
            critic, more = self.critic.step(state.critic, None, micros, totals, scalars, scalars.critic_learning_rate)
            own = {f"critic_{name}" if name in info else name: x for name, x in more.items()}
            state, info = state._replace(critic=critic), info | own
        return state, info

    def _parts(self, batch: Batch) -> list[Batch]:
        """The rows of each optimizer step of an epoch; rows without a loss token are left out."""
        batch = Batch(*(None if x is None else np.asarray(x) for x in batch))
        rows = np.flatnonzero((batch.loss_mask > 0).any(axis=1))
        parts = [part for part in np.array_split(rows, self.spec.minibatches) if len(part)]
        return [Batch(*(None if x is None else x[part] for x in batch)) for part in parts]

    def _cut(self, part: Batch) -> list[Piece]:
        return cut(part.lengths, self.spec.layout, row_shards(self.mesh))

    def _counts(self, parts: list[Batch]) -> dict[str, Any]:
        """What the host knows of the update."""
        pieces = [piece for part in parts for piece in self._cut(part)]
        lengths = np.concatenate([part.lengths for part in parts])
        flops = forward_flops(self.model.config, lengths)
        counts = {
            "tokens": int(lengths.sum()),
            "loss_tokens": int(sum(part.loss_mask.sum() for part in parts)),
            "padding_share": padding_share(lengths, pieces),
            "micro_batches": len(pieces),
        }
        if self.critic:
            flops += forward_flops(self.model.config, lengths, head=False)
            whole = Batch(*(None if x[0] is None else np.concatenate(x) for x in zip(*parts, strict=True)))
            counts["explained_variance"] = explained_variance(whole)
        passes = 2 if self.model.lora else 3  # nothing is multiplied for the gradients of frozen weights
        return counts | {"model_flops": passes * self.spec.epochs * flops}


def make_update(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: LossSpec,
    mesh: Mesh,
    spec: UpdateSpec,
    critic: Critic | None = None,
) -> Update:
    """`update(state, batch, scalars) -> (state, info)`, compiled once a bucket.

    `batch` holds numpy arrays of the whole rollout, [B, T] with any T. `state` is donated. `info` is flat: losses, kl,
    ratio_mean, ratio_max, clip_share, entropy, logp_gap_mean, logp_gap_max, grad_norm, update_norm, skipped; with a
    critic value_loss, value_mean, value_clip_share, critic_grad_norm, critic_update_norm, critic_skipped (all still on
    the device); and tokens, loss_tokens, padding_share, micro_batches, explained_variance (with a critic), model_flops
    (host numbers). `model_flops` are those of forward and backward passes over the true tokens, without what is
    computed again or for padding, nor the few of adapters. A step whose gradient is not finite changes nothing but
    `step`, and says skipped = 1. A batch without a loss token changes nothing at all; `info` then has only counts of 0.
    """
    return Update(model, optimizer, loss, mesh, spec, critic)


def _by_pieces(program, mesh, layout, params, tokens, lengths, *arguments):
    """A row-wise program over host rows of any lengths; zeros beyond each."""
    rows = Batch(tokens, lengths, np.zeros_like(tokens, np.float32), np.zeros_like(tokens, np.float32))
    out = np.zeros(tokens.shape, np.float32)
    pieces = cut(lengths, layout, row_shards(mesh))
    parts = []
    for piece in pieces:
        micro = jax.device_put(take(rows, piece), row_sharding(mesh))
        parts.append(program(params, micro.tokens, micro.lengths, *arguments))
    for piece, part in zip(pieces, parts, strict=True):
        width = min(piece.length, out.shape[1])
        out[piece.rows, :width] = fetch(part)[: len(piece.rows), :width]
    return np.where(np.arange(out.shape[1])[None] < lengths[:, None], out, np.float32(0))


def _logp_program(model, mesh, spec):
    def logp(params, tokens, lengths, temperature):
        return forward(model, params, tokens, lengths, temperature, head_tokens=spec.head_tokens)[0]

    return jax.jit(logp, out_shardings=row_sharding(mesh))


def _mean_info(infos: list[dict[str, Array]]) -> dict[str, Any]:
    """Measures of several optimizer steps: their mean, and the largest of `*_max`."""
    if len(infos) == 1:
        return dict(infos[0])
    stacked = {name: jnp.stack([info[name] for info in infos]) for name in infos[0]}
    return {name: x.max() if name.endswith("_max") else x.mean() for name, x in stacked.items()}
