"""Every recipe from rewards to gradient: this library, the equations of public trainers in torch, and stored numbers.

`python tests/algorithms/test_golden.py` rewrites the stored numbers, from the torch side alone. The equations are those
of TRL (grpo_trainer, rloo_trainer), verl (core_algos) and OpenRLHF (experience_maker, loss), with one exception:
whitening divides by n tokens here and in the paper of REINFORCE++, by n - 1 in verl and TRL (`masked_whiten`).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.check

PATH = Path(__file__).parents[1] / "golden" / "algorithms.json"
# Two prompts with three samples each; positions 0 and 1 are the prompt. Lengths 4, 1, 2 (EOS first), 3, 4, 2.
LENGTHS = np.array([4, 1, 2, 3, 4, 2])
MASK = ((np.arange(6) >= 2) & (np.arange(6) < 2 + LENGTHS[:, None])).astype(np.float64)
REWARDS = np.array([[3.0, -3.0, -0.5], [1.0, -1.5, 3.0]])
GREEDY = np.array([-0.5, 3.0])
_RNG = np.random.default_rng(7)
LOGP, OLD, REF, SAMPLE = -1.5 + 0.4 * _RNG.normal(size=(4, 6, 6))
VALUES, OLD_VALUES = _RNG.normal(size=(2, 6, 6))
KL, LIMIT, BUFFER = 0.05, 5, 2


def tensor(x):
    return torch.tensor(np.asarray(x), dtype=torch.float64)


mask = tensor(MASK)


def whiten(x):
    mean = (x * mask).sum() / mask.sum()
    variance = (((x - mean) ** 2) * mask).sum() / mask.sum()
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def token_level(rewards, penalty):
    """The reward at the last token, minus the penalty of every token."""
    out = -penalty * mask
    for row, length in enumerate(LENGTHS):
        out[row, 1 + length] += rewards.reshape(-1)[row]
    return out


def discounted(rewards, gamma):
    out, running = torch.zeros_like(rewards), torch.zeros(len(rewards), dtype=torch.float64)
    for t in reversed(range(rewards.shape[1])):
        running = (rewards[:, t] + gamma * running) * mask[:, t]
        out[:, t] = running
    return out


def generalised(rewards, values, gamma, lam):
    """GAE, row by row, over the tokens of the row."""
    out = torch.zeros_like(rewards)
    for row, length in enumerate(LENGTHS):
        running = following = 0.0
        for t in reversed(range(2, 2 + length)):
            delta = rewards[row, t] + gamma * following - values[row, t]
            running = delta + gamma * lam * running
            following, out[row, t] = values[row, t], running
    return out


def per_row(x):
    return x.reshape(-1)[:, None] * mask


def clipped(ratio, advantages, low=0.2, high=0.2):
    return torch.maximum(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - low, 1 + high))


def k3(logp, ref):
    return torch.exp(ref - logp) - (ref - logp) - 1


def token_mean(x):
    return (x * mask).sum() / mask.sum()


def row_mean(x):
    return ((x * mask).sum(1) / mask.sum(1)).mean()


def formulas(logp):
    """name -> (loss, advantages) with `logp` as the variable."""
    old, ref, values = tensor(OLD), tensor(REF), tensor(OLD_VALUES)
    rewards, ratio = tensor(REWARDS), torch.exp(logp - tensor(OLD))
    k1 = KL * (old - ref)  # in the reward: of the policy that sampled
    centered = rewards - rewards.mean(1, keepdim=True)
    zscore = per_row(centered / (rewards.std(1, keepdim=True) + 1e-6))
    out = {"grpo": (token_mean(clipped(ratio, zscore) + KL * k3(logp, ref)), zscore)}

    out["dr_grpo"] = (clipped(ratio, per_row(centered)) * mask).sum() / (6 * LIMIT), per_row(centered)

    length = tensor(LENGTHS)
    late = torch.clamp((LIMIT - BUFFER - length) / BUFFER, -1, 0).reshape(2, 3)
    shaped = rewards + late
    a = per_row((shaped - shaped.mean(1, keepdim=True)) / (shaped.std(1, keepdim=True) + 1e-6))
    out["dapo"] = token_mean(clipped(ratio, a, 0.2, 0.28)), a

    mean_ratio = torch.exp(((logp - old) * mask).sum(1) / mask.sum(1))  # one ratio per row, GSPO equation 7
    row_loss = torch.maximum(-zscore[:, 2] * mean_ratio, -zscore[:, 2] * torch.clamp(mean_ratio, 1 - 3e-4, 1 + 4e-4))
    out["gspo"] = row_loss.mean(), zscore

    weight = torch.clamp(ratio, max=5.0).detach()
    out["cispo"] = token_mean(-weight * zscore * logp), zscore

    a = whiten(discounted(token_level(rewards, k1), 1.0))
    out["reinforce_pp"] = token_mean(clipped(ratio, a)), a

    a = whiten(per_row(centered))
    out["reinforce_pp_baseline"] = token_mean(clipped(ratio, a) + KL * 0.5 * (logp - ref) ** 2), a

    scored = rewards - (k1 * mask).sum(1).reshape(2, 3)
    a = (scored - (scored.sum(1, keepdim=True) - scored) / 2).reshape(-1)
    out["rloo"] = -(a * (logp * mask).sum(1)).mean(), per_row(a)

    a = (discounted(token_level(rewards, k1), 1.0) - per_row(tensor(GREEDY)[:, None].repeat(1, 3))) * mask
    out["remax"] = -((a * logp * mask).sum(1)).mean(), a

    a = whiten(generalised(token_level(rewards, k1), values, 0.99, 0.9))
    out["ppo"] = token_mean(clipped(ratio, a)), a

    weight = torch.clamp(torch.exp(old - tensor(SAMPLE)), max=1.1)  # truncated importance sampling
    out["grpo, importance_cap 1.1"] = token_mean(clipped(ratio, zscore) * weight), zscore
    return out


def critic(values):
    """verl and TRL: half the larger of two squared errors, mean over tokens; the targets are advantage + old value."""
    old = tensor(OLD_VALUES)
    rewards = token_level(tensor(REWARDS), KL * (tensor(OLD) - tensor(REF)))
    returns = (generalised(rewards, old, 0.99, 0.9) + old) * mask
    near = old + torch.clamp(values - old, -0.5, 0.5)
    return 0.5 * token_mean(torch.maximum((values - returns) ** 2, (near - returns) ** 2)), returns


def by_torch():
    """All numbers, in the stored format."""
    found = {}
    for name in formulas(tensor(LOGP)):
        logp = tensor(LOGP).requires_grad_()
        loss, advantages = formulas(logp)[name]
        loss.backward()
        found[name] = {"loss": loss.item(), "advantages": advantages.tolist(), "gradient": logp.grad.tolist()}
    values = tensor(VALUES).requires_grad_()
    loss, returns = critic(values)
    loss.backward()
    found["critic"] = {"loss": loss.item(), "returns": returns.tolist(), "gradient": values.grad.tolist()}
    return found


if __name__ == "__main__":
    PATH.write_text(json.dumps(by_torch(), indent=1) + "\n")
else:
    import jax
    import jax.numpy as jnp

    from jaxrl.algorithms import RECIPES, Batch, compute_advantages, policy_loss, recipe, value_loss
    from jaxrl.algorithms.advantages import overlong_penalty, value_targets, whiten_tokens
    from jaxrl.algorithms.kl import k1

    STORED = json.loads(PATH.read_text())
    F32 = {
        name: jnp.asarray(x, jnp.float32)
        for name, x in (
            ("mask", MASK),
            ("rewards", REWARDS),
            ("greedy", GREEDY),
            ("logp", LOGP),
            ("old", OLD),
            ("ref", REF),
            ("sample", SAMPLE),
            ("values", VALUES),
            ("old_values", OLD_VALUES),
        )
    }
    CASES = {name: (name, {}) for name in RECIPES} | {
        "ppo": ("ppo", {"gamma": 0.99, "lam": 0.9}),
        "dr_grpo": ("dr_grpo", {"max_length": LIMIT}),
        "grpo, importance_cap 1.1": ("grpo", {"importance_cap": 1.1, "kl_placement": "none"}),
    }

    def hidden(x):
        """NaN outside the mask."""
        return jnp.where(F32["mask"] > 0, x, jnp.nan)

    def ours(name):
        """(loss, advantages, gradient) computed by this library."""
        row, changes = CASES[name]
        spec, f = recipe(row, **changes), F32
        penalty = KL * k1(f["old"], f["ref"]) if spec.kl_placement == "reward" else None
        rewards = f["rewards"]
        if spec.overlong_buffer:
            rewards += overlong_penalty(jnp.asarray(LENGTHS, jnp.int32), LIMIT, BUFFER).reshape(2, 3)
        advantages = compute_advantages(
            spec.advantage,
            rewards,
            f["mask"],
            penalty,
            values=hidden(f["old_values"]),
            greedy=f["greedy"],
            gamma=spec.gamma,
            lam=spec.lam,
        )
        batch = Batch(
            jnp.zeros((6, 6), jnp.int32),
            jnp.asarray(2 + LENGTHS, jnp.int32),
            f["mask"],
            advantages,
            hidden(f["old"]),
            hidden(f["ref"]),
            hidden(f["sample"]),
        )

        def loss(logp):
            return policy_loss(logp, batch, spec, kl_coefficient=KL)[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(hidden(f["logp"]))
        return {"loss": value, "advantages": advantages, "gradient": gradient}

    def same(left, right, tolerance):
        assert left.keys() == right.keys()
        for key in left:
            np.testing.assert_allclose(left[key], right[key], rtol=tolerance, atol=tolerance / 10, err_msg=key)

    def test_the_stored_numbers_match_the_equations():
        found = by_torch()
        assert found.keys() == STORED.keys() == CASES.keys() | {"critic"}
        for name, numbers in found.items():
            same(numbers, STORED[name], 1e-9)

    @pytest.mark.parametrize("name", CASES)
    def test_every_recipe_matches_public_trainers(name):
        assert np.abs(STORED[name]["gradient"]).max() > 1e-3
        same(ours(name), STORED[name], 2e-5)

    def test_whitening_matches_public_trainers_except_for_the_unbiased_variance():
        """`masked_whiten` of verl and TRL uses the variance times n / (n - 1)."""
        inside = tensor(VALUES)[mask > 0]
        theirs = (inside - inside.mean()) * torch.rsqrt(inside.var(correction=1) + 1e-8)
        found = whiten_tokens(hidden(F32["values"]), F32["mask"])[MASK > 0]
        count = MASK.sum()
        np.testing.assert_allclose(found * ((count - 1) / count) ** 0.5, theirs, rtol=1e-5)

    def test_the_critic_loss_matches_public_trainers():
        f = F32
        penalty = hidden(KL * k1(f["old"], f["ref"]))
        returns = value_targets(f["rewards"], f["mask"], penalty, hidden(f["old_values"]), 0.99, 0.9)
        batch = Batch(
            jnp.zeros((6, 6), jnp.int32),
            jnp.asarray(2 + LENGTHS, jnp.int32),
            f["mask"],
            f["mask"],
            values=hidden(f["old_values"]),
            returns=hidden(returns),
        )

        def loss(values):
            return value_loss(values, batch, RECIPES["ppo"])

        (value, info), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(hidden(f["values"]))
        same({"loss": value, "returns": returns, "gradient": gradient}, STORED["critic"], 2e-5)
        moved = np.abs(VALUES - OLD_VALUES)[MASK > 0] > 0.5
        assert 0 < info["value_clip_share"] <= moved.mean()
