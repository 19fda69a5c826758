"""Optimizers from optax with one signature: the learning rate is an argument of `update`."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

KINDS = ("adamw", "adafactor", "muon", "sgd")
DECAYED = ("kernel", "embedding")


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """Gradient clipping by global norm (0: off), then the update rule, then decoupled weight decay of matrices.

    moment_dtype: of the first moment, "float32" or "bfloat16"; adafactor has none. b1: first-moment decay of adamw,
    momentum of sgd. b2, eps: of adamw. Muon applies Adam with these to parameters that are not matrices; its matrices
    have momentum 0.95. Adafactor uses the constants of its paper.
    """

    kind: str = "adamw"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    moment_dtype: str = "float32"

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"optimizer: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.moment_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"moment_dtype: expected float32 or bfloat16, got {self.moment_dtype!r}")
        if self.kind == "adafactor" and self.moment_dtype != "float32":
            raise ValueError(
                f"moment_dtype: expected float32 with adafactor, which has no first moment, got "
                f"{self.moment_dtype!r}; leave it out, or use adamw"
            )
        for field in ("b1", "b2"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field}: expected 0 to under 1, got {getattr(self, field)}")
        if not 0 < self.eps < math.inf:  # with 0, a weight that never had a gradient becomes 0 / 0
            raise ValueError(f"eps: expected above 0, got {self.eps}")
        for field in ("weight_decay", "clip_norm"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"{field}: expected 0 or more, got {getattr(self, field)}")


def make_optimizer(spec: OptimizerSpec) -> optax.GradientTransformationExtraArgs:
    """`update(grads, opt_state, params, learning_rate=...)`. The learning rate may be traced.

    Sources: AdamW, arXiv 1711.05101; Adafactor, arXiv 1804.04235; Muon (Jordan 2024), with Adam on parameters that are
    not matrices.
    """
    clip = optax.clip_by_global_norm(spec.clip_norm) if spec.clip_norm > 0 else optax.identity()
    dtype = jnp.dtype(spec.moment_dtype)
    if spec.kind == "adamw":
        rule = optax.scale_by_adam(spec.b1, spec.b2, spec.eps, mu_dtype=dtype)
    elif spec.kind == "adafactor":
        rule = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    elif spec.kind == "muon":
        rule = _muon(spec, dtype)
    else:
        rule = optax.trace(spec.b1, accumulator_dtype=dtype) if spec.b1 > 0 else optax.identity()
    decay = optax.add_decayed_weights(spec.weight_decay, mask=is_decayed) if spec.weight_decay else optax.identity()
    return optax.chain(clip, rule, decay, _scale_by_learning_rate())


def is_decayed(params: Any) -> Any:
    """True for kernels and embeddings, False for biases and norms: the weight decay mask."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _leaf_name(path) in DECAYED, params)


def _muon(spec, dtype):
    def dimensions(params):
        return jax.tree.map(lambda x: MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params)

    def kinds(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "matrix" if _leaf_name(path) == "kernel" else "other", params
        )

    # The entries of an orthogonal matrix have an RMS of 1 / sqrt(max(rows, columns)), Adam's updates one of about 0.2.
    # This scale gives both the same learning rate (Liu et al. 2025, arXiv 2502.16982, section 2.2).
    match = optax.stateless_with_tree_map(lambda x, _: x * (0.2 * max(x.shape[-2:]) ** 0.5))  # pyright: ignore[reportAttributeAccessIssue]
    matrix = optax.chain(scale_by_muon(mu_dtype=dtype, weight_dimension_numbers=dimensions), match)
    return optax.partition(
        {"matrix": matrix, "other": optax.scale_by_adam(spec.b1, spec.b2, spec.eps, mu_dtype=dtype)}, kinds
    )


def _scale_by_learning_rate():
    def update(updates, state, params=None, *, learning_rate, **extra):
        del params, extra
        return jax.tree.map(lambda x: -learning_rate * x, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _leaf_name(path):
    """The name of the parameter. Paths of boxed leaves end in one more key, an attribute `value`."""
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return names[-1] if names else ""
