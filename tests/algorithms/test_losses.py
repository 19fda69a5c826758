"""Losses and gradients compared with the published equations in numpy, and the shared denominator of a step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.algorithms import kl
from jaxrl.algorithms.advantages import Needs, compute_advantages, value_targets
from jaxrl.algorithms.batch import Batch, totals_of
from jaxrl.algorithms.critic_loss import value_loss
from jaxrl.algorithms.losses import SUPERVISED, LossSpec, combine_info, policy_loss
from jaxrl.algorithms.recipes import RECIPES, recipe

pytestmark = pytest.mark.check

MASK = np.array([[0, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], np.float32)
RNG = np.random.default_rng(0)
LOGP, OLD, REF, SAMPLE = (jnp.asarray(-2 + 0.5 * RNG.normal(size=(4, 5)), jnp.float32) for _ in range(4))
ADVANTAGE = np.array([1.2, -0.7, -1.5, 2.0], np.float32)
BATCH = Batch(
    jnp.zeros((4, 5), jnp.int32),
    jnp.array([5, 2, 4, 3]),
    jnp.asarray(MASK),
    jnp.asarray(MASK * ADVANTAGE[:, None]),
    OLD,
    REF,
    SAMPLE,
)


def value_and_grad(spec, batch=BATCH, logp=LOGP):
    (value, info), grad = jax.value_and_grad(lambda x: policy_loss(x, batch, spec), has_aux=True)(logp)
    return float(value), np.asarray(grad), info


def by_hand(name):
    """Value and gradient with respect to logp of the policy loss, token by token, as in the papers."""
    lp, old = np.asarray(LOGP, np.float64), np.asarray(OLD, np.float64)
    spec, total, grad = RECIPES[name], 0.0, np.zeros((4, 5))
    rows = int((MASK.sum(1) > 0).sum())
    for b in range(4):
        places = np.flatnonzero(MASK[b])
        for t in places:
            ratio, a = np.exp(lp[b, t] - old[b, t]), ADVANTAGE[b]
            if name == "gspo":
                ratio = np.exp((lp[b, places] - old[b, places]).mean())
            weight = {
                "token_mean": 1 / MASK.sum(),
                "sequence_mean": 1 / (len(places) * rows),
                "sequence_sum": 1 / rows,
                "fixed_length": 1 / (rows * max(spec.max_length, 1)),
            }[spec.reduction]
            if name == "cispo":
                total -= weight * min(ratio, 1 + spec.clip_high) * a * lp[b, t]
                grad[b, t] -= weight * min(ratio, 1 + spec.clip_high) * a
            elif name in ("rloo", "remax"):
                total -= weight * a * lp[b, t]
                grad[b, t] -= weight * a
            else:
                bounded = min(max(ratio, 1 - spec.clip_low), 1 + spec.clip_high)
                total -= weight * min(ratio * a, bounded * a)
                grad[b, t] -= weight * ratio * a * (ratio * a <= bounded * a)
    return total, grad


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_matches_its_paper(name):
    spec = dataclasses.replace(RECIPES[name], kl_placement="none")
    value, grad, info = value_and_grad(spec)
    expected, expected_grad = by_hand(name)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(info["policy_loss"], expected, rtol=2e-5)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("count", [2, 4])
def test_parts_of_a_step_add_up_to_the_step(name, count):
    """Rows of different lengths in parts, one of them without tokens: same loss, gradient and metrics."""
    spec = recipe(name, max_length=4)
    _value, grad, info = value_and_grad(spec)
    total, grads = None, []
    for rows in np.split(np.arange(4), count):
        part = Batch(*(None if x is None else x[rows] for x in BATCH))
        loss = lambda x, part=part: policy_loss(x, part, spec, totals=totals_of(BATCH.loss_mask))  # noqa: E731
        (_, one), g = jax.value_and_grad(loss, has_aux=True)(LOGP[rows])
        total = one if total is None else combine_info(total, one)
        grads.append(g)
    np.testing.assert_allclose(np.concatenate(grads), grad, rtol=1e-5, atol=1e-7)
    for key in info:
        np.testing.assert_allclose(total[key], info[key], rtol=1e-5, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("name", RECIPES)
def test_nan_outside_the_mask_affects_neither_value_nor_gradient(name):
    spec = recipe(name, max_length=4)
    dirty = Batch(*BATCH[:3], *(jnp.where(MASK > 0, x, jnp.nan) for x in BATCH[3:7]))
    value, grad, _ = value_and_grad(spec)
    dirty_value, dirty_grad, info = value_and_grad(spec, dirty, jnp.where(MASK > 0, LOGP, jnp.nan))
    assert value == dirty_value
    np.testing.assert_array_equal(grad, dirty_grad)
    assert all(np.isfinite(x) for x in info.values())


def test_kl_golden():
    """log(policy / reference) = 0.5: k1 = 0.5, k2 = 0.125, k3 = e^-0.5 - 1 + 0.5 = 0.10653066."""
    policy, reference = jnp.array([-1.0]), jnp.array([-1.5])
    np.testing.assert_allclose([kl.k1(policy, reference)[0], kl.k2(policy, reference)[0]], [0.5, 0.125])
    np.testing.assert_allclose(kl.k3(policy, reference)[0], 0.10653066, rtol=1e-6)
    slope = jax.grad(lambda x: kl.k3(x, reference)[0])(policy)
    np.testing.assert_allclose(slope, [1 - np.exp(-0.5)], rtol=1e-6)
    far = kl.k3(jnp.array([-100.0]), jnp.array([0.0]))
    np.testing.assert_allclose(far, [np.exp(10.0) - 11.0], rtol=1e-6)


def test_the_kl_has_the_reduction_of_the_loss_and_a_traced_coefficient():
    spec = recipe("grpo", reduction="sequence_mean")
    free = policy_loss(LOGP, BATCH, dataclasses.replace(spec, kl_placement="none"))[0]
    with_kl, info = jax.jit(lambda c: policy_loss(LOGP, BATCH, spec, kl_coefficient=c))(0.5)
    d = np.asarray(REF - LOGP, np.float64)
    k3 = np.exp(d) - d - 1
    rows = [(k3[b] * MASK[b]).sum() / MASK[b].sum() for b in range(3)]
    np.testing.assert_allclose(with_kl - free, 0.5 * np.mean(rows), rtol=1e-4)
    np.testing.assert_allclose(info["kl"], (k3 * MASK).sum() / MASK.sum(), rtol=1e-5)


def test_without_old_logp_the_ratio_is_one_and_the_gradient_the_policy_gradient():
    _, grad, info = value_and_grad(recipe("grpo", kl_placement="none"), BATCH._replace(old_logp=None))
    assert info["ratio_mean"] == 1 and info["ratio_max"] == 1 and info["clip_share"] == 0
    np.testing.assert_allclose(grad, -MASK * ADVANTAGE[:, None] / MASK.sum(), rtol=1e-6)


def test_supervised_is_cross_entropy():
    batch = BATCH._replace(advantages=BATCH.loss_mask, old_logp=None, ref_logp=None)
    value, grad, _ = value_and_grad(SUPERVISED, batch)
    np.testing.assert_allclose(value, -(np.asarray(LOGP) * MASK).sum() / MASK.sum(), rtol=1e-6)
    np.testing.assert_allclose(grad, -MASK / MASK.sum(), rtol=1e-6)


def test_the_entropy_bonus_is_subtracted_from_the_loss_and_has_a_gradient():
    entropy = jnp.asarray(np.abs(SAMPLE))
    spec = recipe("grpo", entropy_coefficient=0.2)
    loss = lambda x, spec: policy_loss(LOGP, BATCH, spec, entropy=x)[0]  # noqa: E731
    free = loss(entropy, recipe("grpo"))
    value, grad = jax.value_and_grad(loss)(jnp.where(MASK > 0, entropy, jnp.nan), spec)
    np.testing.assert_allclose(free - value, 0.2 * (np.asarray(entropy) * MASK).sum() / MASK.sum(), rtol=1e-5)
    np.testing.assert_allclose(grad, -0.2 * MASK / MASK.sum(), rtol=1e-6)


def test_dual_clip_golden():
    """A = -1, ratio e^2 = 7.39: the loss is 7.39 without dual_clip, and 3 with dual_clip 3, where the gradient is 0."""
    batch = Batch(
        jnp.zeros((1, 1), jnp.int32),
        jnp.ones((1,), jnp.int32),
        jnp.ones((1, 1)),
        -jnp.ones((1, 1)),
        -2 * jnp.ones((1, 1)),
    )
    spec = recipe("dapo")
    np.testing.assert_allclose(value_and_grad(spec, batch, jnp.zeros((1, 1)))[0], np.exp(2.0), rtol=1e-6)
    value, grad, info = value_and_grad(dataclasses.replace(spec, dual_clip=3.0), batch, jnp.zeros((1, 1)))
    assert value == 3.0 and grad[0, 0] == 0.0 and info["clip_share"] == 1.0


def test_truncated_importance_sampling_golden():
    spec = recipe("grpo", kl_placement="none", importance_cap=1.5)
    weight = np.minimum(np.exp(np.asarray(OLD - SAMPLE)), 1.5)
    plain = value_and_grad(recipe("grpo", kl_placement="none"))[1]
    np.testing.assert_allclose(value_and_grad(spec)[1], plain * weight, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("old", [OLD, None])
def test_the_gap_between_sampler_and_learner(old):
    """Measured with the weights that sampled: changes by later steps on the same rollout are not a mismatch."""
    info = value_and_grad(RECIPES["grpo"], BATCH._replace(old_logp=old))[2]
    gap = np.abs(np.asarray((LOGP if old is None else old) - SAMPLE))[MASK > 0]
    np.testing.assert_allclose([info["logp_gap_mean"], info["logp_gap_max"]], [gap.mean(), gap.max()], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl": "k1"}, "k1 in the loss has no gradient"),
        ({"reduction": "mean"}, "reduction: expected one of token_mean"),
        ({"reduction": "fixed_length"}, "expected 1 or more, got 0"),
        ({"surrogate": "ppo"}, "surrogate: expected one of clip"),
        ({"advantage": "gae"}, "advantage: expected one of group_zscore"),
        ({"refills": 1}, "above 0 only with drop_equal=True"),
        ({"lam": 1.5}, "lam: expected 0 to 1"),
        ({"importance_cap": 0.0}, "importance_cap: expected above 0, or None"),
        # At ratio 1 these would remove the gradient of all tokens of one sign of the advantage.
        ({"dual_clip": 0.5}, "dual_clip: expected above 1, or None"),
        ({"clip_high": -0.1}, "clip_high: expected above 0, got -0.1"),
        ({"clip_low": 1.5}, "clip_low: expected above 0, up to 1, got 1.5"),
        ({"clip_low": 0.0}, "clip_low: expected above 0"),
        ({"clip_high": 0.0}, "clip_high: expected above 0"),
        ({"entropy_coefficient": float("nan")}, "entropy_coefficient: expected a number, got nan"),
        ({"kl_coefficient": float("inf")}, "kl_coefficient: expected 0 or more, got inf"),
        ({"kl_coefficient": -1.0}, "kl_coefficient: expected 0 or more"),
    ],
)
def test_invalid_specs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LossSpec(**changes)


def test_an_entropy_bonus_without_entropy_is_an_error():
    with pytest.raises(ValueError, match=r"entropy_coefficient=0\.01 needs the entropy of every token, got None"):
        policy_loss(LOGP, BATCH, recipe("grpo", entropy_coefficient=0.01))


@pytest.mark.parametrize("name", [*RECIPES, "sft"])
def test_unread_fields_change_nothing_and_all_others_do(name):
    """Compares values and gradients of advantages and losses for two values of each field."""
    spec = recipe(name, max_length=20)
    others = {
        "clip_low": 1e-5,
        "clip_high": 1e-5,
        "dual_clip": 1.0001,
        "kl": "k3" if spec.kl == "k2" else "k2",
        "kl_coefficient": 3.0,
        "gamma": 0.5,
        "lam": 0.5,
        "value_clip": 1e-4,
        "importance_cap": 1e-2,
    }
    if name == "sft":
        del others["importance_cap"]  # needs `sample_logp`, which demonstrations do not have

    def everything(spec, sign):
        mask, rewards = jnp.asarray(MASK), sign * jnp.asarray(ADVANTAGE).reshape(2, 2)
        penalty = mask * (spec.kl_coefficient * (spec.kl_placement == "reward")) * kl.ESTIMATORS[spec.kl](OLD, REF)
        values = mask * SAMPLE
        advantages = compute_advantages(
            spec.advantage, rewards, mask, penalty, values=values, greedy=rewards[0], gamma=spec.gamma, lam=spec.lam
        )
        loss, grad, _ = value_and_grad(spec, BATCH._replace(advantages=advantages))
        if spec.needs is Needs.CRITIC:
            targets = value_targets(rewards, mask, penalty, values, spec.gamma, spec.lam)
            critic = BATCH._replace(values=values, returns=targets)
            loss += float(value_loss(LOGP, critic, spec)[0])
        return loss, *grad.flatten()

    for field, other in others.items():
        changed = dataclasses.replace(spec, **{field: other})
        same = all(everything(changed, sign) == everything(spec, sign) for sign in (1, -1))
        assert same == (field in spec.unused_fields), field


def test_unknown_recipes_and_fields_are_errors():
    with pytest.raises(ValueError, match=r"expected one of grpo, .* got 'gpro'"):
        recipe("gpro")
    with pytest.raises(ValueError, match="got clip"):
        recipe("grpo", clip=0.2)
