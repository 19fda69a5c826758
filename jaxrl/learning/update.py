"""The update: all optimizer steps of a rollout, in micro-batches of a few shapes, with one denominator per step."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxrl.algorithms.advantages import Needs
from jaxrl.algorithms.batch import Batch, Totals
from jaxrl.algorithms.critic_loss import explained_variance, value_loss
from jaxrl.algorithms.logp import shift, token_logp
from jaxrl.algorithms.losses import LossSpec, policy_loss
from jaxrl.learning.ahead_of_time import AheadOfTime
from jaxrl.learning.gradient_accumulation import GradientAccumulation, maxima_by_row_block
from jaxrl.learning.mesh import row_sharding, row_shards
from jaxrl.learning.micro_batches import LayoutSpec, MicroBatch, gather_rows, padding_share, split_into_micro_batches
from jaxrl.learning.state import Critic, TrainState, abstract_state
from jaxrl.runtime.multihost import gather_to_host
from models.flops import forward_flops
from models.lora import join
from models.params import head_kernel
from models.value_head import Qwen2Value


class Scalars(NamedTuple):
    """Values that change from step to step. Traced, so that a new value does not recompile."""

    learning_rate: float
    temperature: float = 1.0
    kl_coefficient: float = 0.0
    critic_learning_rate: float = 0.0


@dataclasses.dataclass(frozen=True)
class UpdateSpec:
    """Optimizer steps per rollout, and how each is computed.

    Every epoch takes one optimizer step on each of `minibatches` parts of the rollout, in order, of about equally many
    rows. With more than one optimizer step per rollout, the learner computes old log-probabilities before the first.
    head_tokens: tokens per chunk of the head, over all devices (memory: head_tokens x vocabulary x 4 bytes).
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
        """Optimizer steps per rollout."""
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
    """Log-probabilities of the tokens and entropies of their distributions, by the learner's model (`token_logp`)."""
    hidden, _ = model.apply({"params": params}, tokens, _positions(tokens), lengths)
    kernel = head_kernel(params, model.config)
    return token_logp(
        hidden,
        kernel,
        tokens,
        temperature,
        chunk_tokens=head_tokens,
        entropy_gradient=entropy_gradient,
        logits=model.kernels.logits,
    )


def forward_values(
    model: Qwen2Value, params: Any, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
) -> Float[Array, "B T"]:
    """The critic's value of the state in which each token was sampled: its output at the token before."""
    return shift(model.apply({"params": params}, tokens, _positions(tokens), lengths))


def _positions(tokens):
    return jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)


def compile_logp(model: nn.Module, mesh: Mesh, spec: UpdateSpec) -> AheadOfTime:
    """`logp(params, tokens, lengths, temperature) -> [B, T]` on device arrays: jitted, forward only.

    Its layers are not unrolled: without gradients that is no slower, and it compiles in half the time.
    """
    model = model.clone(unroll=1)

    def logp(params, tokens, lengths, temperature):
        return forward(model, params, tokens, lengths, temperature, head_tokens=spec.head_tokens)[0]

    return AheadOfTime(jax.jit(logp, out_shardings=row_sharding(mesh)), lambda params, tokens, *_: tokens.shape)


def make_logp(
    compiled: AheadOfTime, mesh: Mesh, layout: LayoutSpec
) -> Callable[[Any, np.ndarray, np.ndarray, float], np.ndarray]:
    """`logp(params, tokens [B, T], lengths [B], temperature) -> [B, T]` on host arrays, in micro-batches.

    compiled: from `compile_logp`. Zeros at position 0 and beyond each row's length. layout: of the update; see
    `LayoutSpec.for_forward`.
    """
    layout = layout.for_forward()

    def logp(params, tokens, lengths, temperature):
        return _in_micro_batches(compiled, mesh, layout, params, tokens, lengths, np.float32(temperature))

    return logp


def make_values(
    model: Qwen2Value, mesh: Mesh, layout: LayoutSpec
) -> Callable[[Any, np.ndarray, np.ndarray], np.ndarray]:
    """`values(params, tokens [B, T], lengths [B]) -> [B, T]`, the critic on host arrays; zeros as in `make_logp`."""

    def values(params, tokens, lengths):
        return forward_values(model, params, tokens, lengths)

    compiled, layout = jax.jit(values, out_shardings=row_sharding(mesh)), layout.for_forward()
    return lambda params, tokens, lengths: _in_micro_batches(compiled, mesh, layout, params, tokens, lengths)


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
        logp: AheadOfTime | None = None,
    ):
        if (loss.needs is Needs.CRITIC) != (critic is not None):
            raise ValueError(
                f"advantage {loss.advantage!r}: expected {'a' if critic is None else 'no'} critic, got "
                f"{'none' if critic is None else 'one'}; pass one where the advantage needs it, and only there"
            )
        self.model, self.loss, self.mesh, self.spec = model, loss, mesh, spec
        self.logp = compile_logp(model, mesh, spec) if logp is None else logp
        self.host_logp = make_logp(self.logp, mesh, spec.layout)

        def policy_objective(params, base, micro, totals, scalars):
            logp, entropy = forward(
                model,
                params if base is None else join(base, params),
                micro.tokens,
                micro.lengths,
                scalars.temperature,
                head_tokens=spec.head_tokens,
                entropy_gradient=loss.entropy_coefficient != 0.0,
            )

            def loss_of_rows(logp, entropy, rows):
                return policy_loss(
                    logp, rows, loss, entropy=entropy, totals=totals, kl_coefficient=scalars.kl_coefficient
                )

            return maxima_by_row_block(loss_of_rows, row_shards(mesh), logp, entropy, micro)

        def value_objective(params, base, micro, totals, scalars):
            del base, scalars
            values = forward_values(critic.model, params, micro.tokens, micro.lengths)  # pyright: ignore[reportOptionalMemberAccess]
            return value_loss(values, micro, loss, totals=totals)

        shardings = jax.tree.map(lambda x: x.sharding, abstract_state(model, optimizer, mesh, critic))
        self.policy = GradientAccumulation(policy_objective, optimizer, shardings.policy, mesh)
        self.critic = critic and GradientAccumulation(value_objective, critic.optimizer, shardings.critic, mesh)

    @property
    def traces(self) -> Counter[tuple[int, int]]:
        """Number of traces of the policy's micro-batch program, by shape (rows, length)."""
        return self.policy.traces

    def __call__(self, state: TrainState, batch: Batch, scalars: Scalars) -> tuple[TrainState, dict[str, Any]]:
        """All optimizer steps of one rollout. batch: host arrays. `state` is donated. Returns the state and `info`."""
        scalars = Scalars(*(np.float32(value) for value in scalars))
        parts = self._minibatches(batch)
        if not parts:  # nothing to learn from, but momentum and weight decay would change the weights
            return state, dict.fromkeys(("tokens", "loss_tokens", "padding_share", "micro_batches", "model_flops"), 0)
        # All parts are prepared before the first step, because old log-probabilities are of the weights that sampled.
        steps = [self.micro_batches(part, state.model_params, scalars) for part in parts]
        infos = []
        for _ in range(self.spec.epochs):
            for micros, totals in steps:
                state, info = self._step(state, micros, totals, scalars)
                infos.append(info)
        return state, _mean_info(infos) | self._counts(parts)

    def micro_batches(self, part: Batch, params: Any, scalars: Scalars) -> tuple[list[Batch], Totals]:
        """The micro-batches of one optimizer step, on their devices, and the denominators of the step.

        params: the policy's weights, for old log-probabilities where these are needed.
        """
        if self.loss.needs_reference and part.ref_logp is None:
            raise ValueError("a KL in the loss needs batch.ref_logp, got None; fill it before the update")
        if self.spec.steps > 1 and part.old_logp is None:
            part = part._replace(old_logp=self.host_logp(params, part.tokens, part.lengths, scalars.temperature))
        micros = [jax.device_put(gather_rows(part, micro), row_sharding(self.mesh)) for micro in self._split(part)]
        tokens, rows = part.loss_mask.sum(), (part.loss_mask > 0).any(axis=1).sum()
        return micros, Totals(np.float32(max(tokens, 1)), np.float32(max(rows, 1)))

    def abstract_micro_batch(self, rows: int, length: int, *, sampled: bool = True) -> Batch:
        """Shapes and shardings of a micro-batch of the update. sampled: as for `Batch.sample_logp`."""
        by_row = row_sharding(self.mesh)
        grid = jax.ShapeDtypeStruct((rows, length), np.float32, sharding=by_row)
        return Batch(
            tokens=jax.ShapeDtypeStruct((rows, length), np.int32, sharding=by_row),
            lengths=jax.ShapeDtypeStruct((rows,), np.int32, sharding=by_row),
            loss_mask=grid,
            advantages=grid,
            old_logp=grid if self.spec.steps > 1 else None,
            ref_logp=None if self.loss.kl_placement == "none" else grid,
            sample_logp=grid if sampled else None,
            **dict.fromkeys(("values", "returns"), grid if self.critic else None),
        )

    def compile_ahead(self, executor: Executor, state: TrainState, *, sampled: bool = True) -> int:
        """Compile the programs for all shapes of the layout in the executor's threads, shortest rows first.

        state: shapes and shardings. sampled: whether batches have `sample_logp`. Returns the number of programs.
        """
        layout, shards = self.spec.layout, row_shards(self.mesh)
        scalars = Scalars(*(np.float32(0),) * len(Scalars._fields))
        micros = [self.abstract_micro_batch(*shape, sampled=sampled) for shape in layout.shapes(shards)]
        forward = [self.abstract_micro_batch(*shape) for shape in layout.for_forward().shapes(shards)]
        needs_logp = self.spec.steps > 1 or self.loss.kl_placement != "none"
        for micro in forward if needs_logp else ():
            self.logp.compile_ahead(executor, state.model_params, micro.tokens, micro.lengths, scalars.temperature)
        self.policy.compile_ahead(executor, state.params, state.base, micros, scalars)
        if self.critic:
            self.critic.compile_ahead(executor, state.critic.params, None, micros, scalars)  # pyright: ignore[reportOptionalMemberAccess]
        return (len(forward) if needs_logp else 0) + len(micros) * (2 if self.critic else 1)

    def _step(self, state, micros, totals, scalars):
        """One optimizer step of the policy and, if there is one, of the critic."""
        policy, info = self.policy.step(state.policy, state.base, micros, totals, scalars, scalars.learning_rate)
        state = state._replace(step=state.step + 1, params=policy.params, opt_state=policy.opt_state)
        if self.critic:
            critic, of_critic = self.critic.step(
                state.critic, None, micros, totals, scalars, scalars.critic_learning_rate
            )
            state = state._replace(critic=critic)
            info |= {f"critic_{name}" if name in info else name: x for name, x in of_critic.items()}
        return state, info

    def _minibatches(self, batch: Batch) -> list[Batch]:
        """The rows of each optimizer step of an epoch, without rows that have no loss token."""
        batch = Batch(*(None if x is None else np.asarray(x) for x in batch))
        rows = np.flatnonzero((batch.loss_mask > 0).any(axis=1))
        parts = [part for part in np.array_split(rows, self.spec.minibatches) if len(part)]
        return [Batch(*(None if x is None else x[part] for x in batch)) for part in parts]

    def _split(self, part: Batch) -> list[MicroBatch]:
        return split_into_micro_batches(part.lengths, self.spec.layout, row_shards(self.mesh))

    def _counts(self, parts: list[Batch]) -> dict[str, Any]:
        """The metrics of the update that are computed on the host."""
        micros = [micro for part in parts for micro in self._split(part)]
        lengths = np.concatenate([part.lengths for part in parts])
        flops = forward_flops(self.model.config, lengths)
        counts = {
            "tokens": int(lengths.sum()),
            "loss_tokens": int(sum(part.loss_mask.sum() for part in parts)),
            "padding_share": padding_share(lengths, micros),
            "micro_batches": len(micros),
        }
        if self.critic:
            flops += forward_flops(self.model.config, lengths, head=False)
            batch = Batch(*(None if x[0] is None else np.concatenate(x) for x in zip(*parts, strict=True)))
            counts["explained_variance"] = explained_variance(batch)
        passes = 2 if self.model.lora else 3  # frozen weights need no products for their own gradients
        return counts | {"model_flops": passes * self.spec.epochs * flops}


def make_update(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    loss: LossSpec,
    mesh: Mesh,
    spec: UpdateSpec,
    critic: Critic | None = None,
    logp: AheadOfTime | None = None,
) -> Update:
    """`update(state, batch, scalars) -> (state, info)`, compiled once per bucket and number of rows.

    batch: numpy arrays of the whole rollout, [B, T] with any T. `state` is donated. logp: from `compile_logp` with the
    same model, mesh and spec, to share one program with `make_logp`; None: compile another.

    info is flat. On the devices: loss, policy_loss, kl, ratio_mean, ratio_max, clip_share, entropy, logp_gap_mean,
    logp_gap_max, grad_norm, update_norm, skipped; with a critic value_loss, value_mean, value_clip_share,
    critic_grad_norm, critic_update_norm, critic_skipped. On the host: tokens, loss_tokens, padding_share,
    micro_batches, model_flops, and explained_variance with a critic. model_flops counts forward and backward passes
    over the true tokens, without recomputation, padding and the few FLOPs of adapters.

    A step whose gradient is not finite changes only `step`, and has skipped = 1. A batch without a loss token changes
    nothing; `info` then has only the counts, all 0.
    """
    return Update(model, optimizer, loss, mesh, spec, critic, logp)


def _in_micro_batches(compiled, mesh, layout, params, tokens, lengths, *arguments):
    """Applies a row-wise program to host rows of any lengths; zeros beyond each row's length."""
    mask = np.zeros_like(tokens, np.float32)
    batch, out = Batch(tokens, lengths, mask, mask), np.zeros(tokens.shape, np.float32)
    micro_batches = split_into_micro_batches(lengths, layout, row_shards(mesh))
    results = []
    for micro in micro_batches:
        rows = jax.device_put(gather_rows(batch, micro), row_sharding(mesh))
        results.append(compiled(params, rows.tokens, rows.lengths, *arguments))
    for micro, result in zip(micro_batches, results, strict=True):
        width = min(micro.length, out.shape[1])  # pyright: ignore[reportGeneralTypeIssues]
        out[micro.rows, :width] = gather_to_host(result)[: len(micro.rows), :width]
    return np.where(np.arange(out.shape[1])[None] < lengths[:, None], out, np.float32(0))  # pyright: ignore[reportGeneralTypeIssues]


def _mean_info(infos: list[dict[str, Array]]) -> dict[str, Any]:
    """Metrics of several optimizer steps: the maximum of `*_max`, the mean of all others."""
    if len(infos) == 1:
        return dict(infos[0])
    stacked = {name: jnp.stack([info[name] for info in infos]) for name in infos[0]}
    return {name: x.max() if name.endswith("_max") else x.mean() for name, x in stacked.items()}
