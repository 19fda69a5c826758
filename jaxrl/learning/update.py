"""One optimizer step: micro-batches of a few shapes, one accumulator, one denominator."""

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
from jaxrl.algorithms.logp import token_logp
from jaxrl.algorithms.losses import LossSpec, combine_info, policy_loss
from jaxrl.learning.batching import LayoutSpec, Piece, cut, padding_share, take
from jaxrl.learning.mesh import replicated, row_sharding, row_shards
from jaxrl.learning.state import TrainState, abstract_state
from models.qwen2 import head_kernel


class Scalars(NamedTuple):
    """What a stage or a schedule changes from step to step; traced, so that no value recompiles."""

    learning_rate: float
    temperature: float = 1.0
    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0


@dataclasses.dataclass(frozen=True)
class UpdateSpec:
    """How often a rollout is used, and how the work is cut.

    Every epoch goes over the rollout in `minibatches` parts of whole groups (rows in order), an optimizer
    step each. With more than one optimizer step per rollout, old log-probabilities come from a pass of the
    learner before the first.
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


class Accumulator(NamedTuple):
    """Sums over the micro-batches of one optimizer step."""

    grads: Any
    info: dict[str, Array]


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
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    hidden, _ = model.apply({"params": params}, tokens, positions, lengths)
    kernel = head_kernel(params, model.config)
    return token_logp(
        hidden, kernel, tokens, temperature, chunk_tokens=head_tokens, entropy_gradient=entropy_gradient
    )


def make_logp(
    model: nn.Module, mesh: Mesh, spec: UpdateSpec
) -> Callable[[Any, np.ndarray, np.ndarray, float], np.ndarray]:
    """`logp(params, tokens[B, T], lengths[B], temperature) -> [B, T]` on the host: forward only.

    Zeros at position 0 and beyond each row's length.
    """
    program = _logp_program(model, mesh, spec)

    def logp(params, tokens, lengths, temperature):
        rows = Batch(tokens, lengths, np.zeros_like(tokens, np.float32), np.zeros_like(tokens, np.float32))
        out = np.zeros(tokens.shape, np.float32)
        pieces = cut(lengths, spec.layout, row_shards(mesh))
        parts = []
        for piece in pieces:
            micro = jax.device_put(take(rows, piece), row_sharding(mesh))
            parts.append(program(params, micro.tokens, micro.lengths, np.float32(temperature)))
        for piece, part in zip(pieces, parts, strict=True):
            width = min(piece.length, out.shape[1])
            out[piece.rows, :width] = np.asarray(part)[: len(piece.rows), :width]
        return np.where(np.arange(out.shape[1])[None] < lengths[:, None], out, np.float32(0))

    return logp


class Update:
    """`update(state, ref_params, batch, scalars) -> (state, info)`; see `make_update`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        loss: LossSpec,
        mesh: Mesh,
        spec: UpdateSpec,
    ):
        self.loss, self.mesh, self.spec = loss, mesh, spec
        self.traces: Counter[tuple[int, int]] = Counter()
        """How often the micro-batch program was traced, by shape (rows, length): never more than once
        each."""
        shardings = jax.tree.map(lambda x: x.sharding, abstract_state(model, optimizer, mesh))
        whole, blocks = replicated(mesh), row_shards(mesh)
        self._logp = _logp_program(model, mesh, spec)

        def placed(grads, info):
            # Largest values stay where their rows are until the end: a micro-batch then has one all-reduce less, which
            # matters where several virtual CPU devices may lock up in each (LOG.md).
            kept = {name: row_sharding(mesh) if name.endswith("_max") else whole for name in info}
            pin = jax.lax.with_sharding_constraint
            return Accumulator(jax.tree.map(pin, grads, shardings.params), jax.tree.map(pin, info, kept))

        def zeros(params, names):
            grads = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
            shapes = {name: (blocks,) if name.endswith("_max") else () for name in names}
            return placed(grads, {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()})

        def accumulate(total, params, micro, totals, scalars):
            self.traces[micro.tokens.shape] += 1
            grads, info = jax.grad(self._objective(model, micro, totals, scalars), has_aux=True)(params)
            grads = jax.tree.map(lambda x, y: x + y.astype(x.dtype), total.grads, grads)
            return placed(grads, combine_info(total.info, info))

        def finish(state, total, scalars):
            return _apply(optimizer, state, total, scalars)

        self._zeros = jax.jit(zeros, static_argnums=1)
        self._accumulate = jax.jit(accumulate, donate_argnums=0)
        self._finish = jax.jit(finish, donate_argnums=0, out_shardings=(shardings, whole))

    def __call__(
        self, state: TrainState, ref_params: Any, batch: Batch, scalars: Scalars
    ) -> tuple[TrainState, dict[str, Any]]:
        """All optimizer steps of one rollout. `state` is given up: its buffers are reused."""
        scalars = Scalars(*(np.float32(value) for value in scalars))
        steps = [self._place(part, ref_params, state.params, scalars) for part in self._parts(batch)]
        infos = []
        for _ in range(self.spec.epochs):
            for micros, totals in steps:
                total = self._zeros(state.params, _info_names(self.loss, micros[0]))
                for micro in micros:
                    total = self._accumulate(total, state.params, micro, totals, scalars)
                state, info = self._finish(state, total, scalars)
                infos.append(info)
        pieces = [piece for part in self._parts(batch) for piece in self._cut(part)]
        counts = {
            "tokens": int(batch.lengths.sum()),
            "loss_tokens": int(batch.loss_mask.sum()),
            "padding_share": padding_share(batch.lengths, pieces),
            "micro_batches": len(pieces),
        }
        return state, _mean_info(infos) | counts

    def _objective(self, model, micro, totals, scalars):
        def objective(params):
            logp, entropy = forward(
                model,
                params,
                micro.tokens,
                micro.lengths,
                scalars.temperature,
                head_tokens=self.spec.head_tokens,
                entropy_gradient=self.loss.entropy_bonus,
            )
            return policy_loss(
                logp,
                micro,
                self.loss,
                entropy=entropy,
                totals=totals,
                kl_coefficient=scalars.kl_coefficient,
                entropy_coefficient=scalars.entropy_coefficient,
                row_blocks=row_shards(self.mesh),
            )

        return objective

    def _parts(self, batch: Batch) -> list[Batch]:
        count = self.spec.minibatches
        if len(batch.lengths) % count:
            raise ValueError(
                f"minibatches={count} does not divide the {len(batch.lengths)} rows of the step; choose one that does"
            )
        rows = np.split(np.arange(len(batch.lengths)), count)
        return [Batch(*(None if x is None else np.asarray(x)[part] for x in batch)) for part in rows]

    def _cut(self, part: Batch) -> list[Piece]:
        return cut(part.lengths, self.spec.layout, row_shards(self.mesh))

    def _place(self, part, ref_params, params, scalars):
        """Micro-batches of one optimizer step on their devices, with what the loss needs; and the
        denominators."""
        several = self.spec.epochs * self.spec.minibatches > 1
        micros = [jax.device_put(take(part, piece), row_sharding(self.mesh)) for piece in self._cut(part)]
        if self.loss.needs_reference and part.ref_logp is None:
            if ref_params is None:
                raise ValueError(
                    "a KL in the loss needs a reference: pass ref_params or batch.ref_logp, got neither"
                )
            micros = [
                m._replace(ref_logp=self._logp(ref_params, m.tokens, m.lengths, scalars.temperature))
                for m in micros
            ]
        if several and part.old_logp is None:
            micros = [
                m._replace(old_logp=self._logp(params, m.tokens, m.lengths, scalars.temperature))
                for m in micros
            ]
        tokens, rows = part.loss_mask.sum(), (part.loss_mask > 0).any(axis=1).sum()
        return micros, Totals(np.float32(max(tokens, 1)), np.float32(max(rows, 1)))


def make_update(
    model: nn.Module, optimizer: optax.GradientTransformation, loss: LossSpec, mesh: Mesh, spec: UpdateSpec
) -> Update:
    """`update(state, ref_params, batch, scalars) -> (state, info)`, compiled once a bucket.

    `batch` holds numpy arrays of the whole rollout, [B, T] with any T. `ref_params` may be None where the
    loss has no KL, or where the batch brings `ref_logp`. `state` is donated. `info` is flat: losses, kl,
    ratio_mean, ratio_max, clip_share, entropy, logp_gap_mean, logp_gap_max, grad_norm, update_norm, skipped
    (all still on the device), and tokens, loss_tokens, padding_share, micro_batches (host numbers). A step
    whose gradient is not finite changes nothing but `step`, and says skipped = 1.
    """
    return Update(model, optimizer, loss, mesh, spec)


def _logp_program(model, mesh, spec):
    def logp(params, tokens, lengths, temperature):
        return forward(model, params, tokens, lengths, temperature, head_tokens=spec.head_tokens)[0]

    return jax.jit(logp, out_shardings=row_sharding(mesh))


def _apply(optimizer, state, total, scalars):
    norm = optax.tree.norm(total.grads)
    finite = jnp.isfinite(norm)
    grads = jax.tree.map(lambda x, p: x.astype(p.dtype), total.grads, state.params)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, learning_rate=scalars.learning_rate
        )
    params = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (params, opt_state), (state.params, state.opt_state)
    )
    info = {name: x.max() if name.endswith("_max") else x for name, x in total.info.items()} | {
        "grad_norm": norm,
        "update_norm": jnp.where(finite, optax.tree.norm(updates), 0.0),
        "skipped": 1.0 - finite.astype(jnp.float32),
    }
    return TrainState(state.step + 1, params, opt_state), info


def _info_names(loss: LossSpec, micro: Batch) -> tuple[str, ...]:
    """Names `policy_loss` will report for such a micro-batch."""
    one = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    shapes = Batch(*(None if x is None else one for x in micro))
    _, info = jax.eval_shape(lambda logp, batch: policy_loss(logp, batch, loss, entropy=logp), one, shapes)
    return tuple(sorted(info))


def _mean_info(infos: list[dict[str, Array]]) -> dict[str, Any]:
    """Measures of several optimizer steps: their mean, and the largest of `*_max`."""
    if len(infos) == 1:
        return dict(infos[0])
    stacked = {name: jnp.stack([info[name] for info in infos]) for name in infos[0]}
    return {name: x.max() if name.endswith("_max") else x.mean() for name, x in stacked.items()}
