"""Optimizers compared with their equations: clipping, AdamW with decay, Muon's scale, Adafactor, momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer

RNG = np.random.default_rng(0)
PARAMS = {"kernel": RNG.normal(size=(6, 8)).astype(np.float32), "bias": RNG.normal(size=8).astype(np.float32)}
GRADS = [{name: RNG.normal(size=x.shape).astype(np.float32) for name, x in PARAMS.items()} for _ in range(3)]
LEARNING_RATE = 0.01


def taken(spec, params=PARAMS, grads=GRADS):
    """The parameters after each update."""
    optimizer, state, seen = make_optimizer(spec), None, []
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for grad in grads:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
            updates, state = optimizer.update(grad, state, params, learning_rate=LEARNING_RATE)
        params = jax.tree.map(jnp.add, params, updates)
        seen.append(jax.device_get(params))
    return seen


def clipped(grad, norm):
    """The gradient, clipped to this global norm."""
    whole = np.sqrt(sum(np.square(x).sum() for x in grad.values()))
    return {name: x * min(1.0, norm / whole) for name, x in grad.items()}


def test_adamw_follows_its_paper_after_clipping_by_global_norm():
    """arXiv 1711.05101, algorithm 2: bias correction, decoupled decay of matrices only."""
    b1, b2, eps, decay = 0.8, 0.95, 1e-3, 0.1
    spec = OptimizerSpec("adamw", b1, b2, eps, weight_decay=decay, clip_norm=1.0)
    params = {name: x.astype(np.float64) for name, x in PARAMS.items()}
    first, second = (dict.fromkeys(PARAMS, 0.0) for _ in range(2))
    for step, (grad, seen) in enumerate(zip(GRADS, taken(spec), strict=True), start=1):
        for name, g in clipped(grad, 1.0).items():
            first[name] = b1 * first[name] + (1 - b1) * g
            second[name] = b2 * second[name] + (1 - b2) * g**2
            move = first[name] / (1 - b1**step) / (np.sqrt(second[name] / (1 - b2**step)) + eps)
            params[name] -= LEARNING_RATE * (move + (decay * params[name] if name == "kernel" else 0))
            np.testing.assert_allclose(seen[name], params[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("norm", "scale"), [(0.0, 1.0), (1e9, 1.0), (0.5, None)])
def test_only_gradients_above_clip_norm_are_scaled_and_0_turns_it_off(norm, scale):
    (seen,) = taken(OptimizerSpec("sgd", b1=0.0, clip_norm=norm), grads=GRADS[:1])
    expected = GRADS[0] if scale else clipped(GRADS[0], norm)
    for name in PARAMS:
        np.testing.assert_allclose(seen[name], PARAMS[name] - LEARNING_RATE * expected[name], rtol=1e-5, atol=1e-6)


def test_momentum_accumulates_gradients():
    seen, trace, params = taken(OptimizerSpec("sgd", b1=0.5, clip_norm=0.0)), 0.0, PARAMS["kernel"]
    for grad, now in zip(GRADS, seen, strict=True):
        trace = 0.5 * trace + grad["kernel"]
        params = params - LEARNING_RATE * trace
        np.testing.assert_allclose(now["kernel"], params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (3, 64, 256)])
def test_muon_updates_matrices_of_any_shape_at_the_scale_of_adam(shape):
    """Liu et al. 2025, arXiv 2502.16982, section 2.2: RMS 0.2 and equal singular values; one learning rate for both."""
    grad = RNG.normal(size=shape).astype(np.float32)
    (seen,) = taken(OptimizerSpec("muon"), {"kernel": np.zeros(shape, np.float32)}, [{"kernel": grad}])
    for move in (seen["kernel"] / LEARNING_RATE).reshape(-1, *shape[-2:]):
        wide = max(move.shape)
        # Five steps of Newton and Schulz leave singular values between 0.7 and 1.2 of the exact one.
        assert np.sqrt(np.mean(np.square(move))) == pytest.approx(0.2, rel=0.2)
        values = np.linalg.svd(move, compute_uv=False) / (0.2 * wide**0.5)
        assert values.min() > 0.5 and values.max() < 1.4


def test_muon_applies_adam_to_other_parameters():
    muon, adam = taken(OptimizerSpec("muon")), taken(OptimizerSpec("adamw"))
    for mine, theirs in zip(muon, adam, strict=True):
        np.testing.assert_allclose(mine["bias"], theirs["bias"], rtol=1e-6)
    assert np.abs(muon[0]["kernel"] - adam[0]["kernel"]).max() > 1e-3


def test_adafactors_first_step_divides_by_row_and_column_means():
    """arXiv 1804.04235, algorithm 4: row and column means of squares of large matrices; updates clipped to RMS 1."""
    grad = RNG.normal(size=(128, 160)) * np.exp(RNG.normal(size=(128, 1)) + RNG.normal(size=160))
    (seen,) = taken(
        OptimizerSpec("adafactor", clip_norm=0.0),
        {"kernel": np.zeros((128, 160), np.float32)},
        [{"kernel": grad.astype(np.float32)}],
    )
    square = np.square(grad)
    rows, columns = square.mean(axis=1, keepdims=True), square.mean(axis=0, keepdims=True)
    move = grad / np.sqrt(rows * columns / square.mean())
    move /= max(1.0, np.sqrt(np.mean(np.square(move))))
    np.testing.assert_allclose(seen["kernel"], -LEARNING_RATE * move, rtol=1e-3, atol=1e-6)
