"""The batch layout is invisible: micro-batches, buckets, padding and devices change no number of an
update."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.recipes import RECIPES, recipe
from jaxrl.learning.batching import LayoutSpec
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.state import init_params, init_state
from jaxrl.learning.update import Scalars, UpdateSpec, make_logp, make_update
from models.config import Qwen2Config
from models.qwen2 import Qwen2

CONFIG = Qwen2Config(32, 16, 32, 2, 4, 2, 4, tie_word_embeddings=True)
MODEL = Qwen2(CONFIG)
# Plain gradient descent: the change of the parameters is the gradient, and no rule hides its size.
DESCENT = make_optimizer(OptimizerSpec("sgd", b1=0.0, clip_norm=0.0))
SCALARS = Scalars(0.1, temperature=1.3, kl_coefficient=0.2)
WHOLE = UpdateSpec(LayoutSpec((24,), 24 * 8))


def make_batch(seed=0):
    """8 rows of very unequal lengths: one whose first new token is EOS, one without any loss token."""
    rng = np.random.default_rng(seed)
    prompt = np.array([3, 3, 5, 5, 2, 2, 4, 4])
    lengths = np.array([4, 20, 6, 17, 23, 9, 4, 8], np.int32)
    place = np.arange(23)[None]
    mask = ((place >= prompt[:, None]) & (place < lengths[:, None])).astype(np.float32)
    tokens = rng.integers(0, 32, (8, 23)).astype(np.int32)
    advantages = mask * rng.normal(size=(8, 1)).astype(np.float32)
    sample = -3 + 0.3 * rng.normal(size=(8, 23)).astype(np.float32)
    return Batch(tokens, lengths, mask, advantages, sample_logp=sample)


def run(
    batch=None,
    spec=WHOLE,
    mesh_spec=None,
    loss=RECIPES["grpo"],
    scalars=SCALARS,
    optimizer=DESCENT,
    devices=1,
):
    mesh = make_mesh(mesh_spec or MeshSpec(), jax.devices()[:devices])
    params = init_params(MODEL, mesh, jax.random.key(0))
    reference = init_params(MODEL, mesh, jax.random.key(1))
    state = init_state(MODEL, optimizer, mesh, params)
    state, info = make_update(MODEL, optimizer, loss, mesh, spec)(
        state, reference, batch or make_batch(), scalars
    )
    return state, {name: float(value) for name, value in info.items()}


LAYOUT_NAMES = ("padding_share", "micro_batches")


def assert_same_update(left, right, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(left[0].params), jax.tree.leaves(right[0].params), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=tolerance, rtol=tolerance)
    for name in set(left[1]) - set(LAYOUT_NAMES):
        np.testing.assert_allclose(left[1][name], right[1][name], rtol=1e-4, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("rows", [1, 4])
def test_micro_batches_change_nothing(rows):
    split = run(spec=UpdateSpec(LayoutSpec((24,), 24 * rows)))
    assert split[1]["micro_batches"] == 8 / rows
    assert_same_update(split, run())


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo"])
def test_four_devices_and_buckets_change_nothing(name):
    """One recipe of each kind of surrogate; reductions and the rest are split in tests/algorithms."""
    buckets = UpdateSpec(LayoutSpec((12, 24), 48))
    four = run(loss=RECIPES[name], spec=buckets, mesh_spec=MeshSpec(data=1, fsdp=2, tensor=2), devices=4)
    assert_same_update(run(loss=RECIPES[name]), four)


def test_the_head_in_pieces_changes_nothing():
    pieces = dataclasses.replace(WHOLE, head_tokens=40)
    loss = recipe("grpo", entropy_bonus=True)
    scalars = SCALARS._replace(entropy_coefficient=0.3)
    assert_same_update(run(loss=loss, scalars=scalars), run(loss=loss, scalars=scalars, spec=pieces))


def test_what_lies_in_the_padding_is_never_seen():
    clean = make_batch()
    beyond = np.arange(23)[None] >= clean.lengths[:, None]
    garbage = [np.where(beyond, np.float32(np.nan), x) for x in (clean.advantages, clean.sample_logp)]
    dirty = clean._replace(
        tokens=np.where(beyond, 10**6, clean.tokens), advantages=garbage[0], sample_logp=garbage[1]
    )
    spec = UpdateSpec(LayoutSpec((8, 24), 48))
    assert_same_update(run(clean, spec), run(dirty, spec), tolerance=0)


def test_the_update_is_the_gradient_of_the_loss():
    """Against the loss written down here on full logits, the whole batch at once."""
    batch = make_batch()
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    params, reference = (init_params(MODEL, mesh, jax.random.key(seed)) for seed in (0, 1))
    place = jnp.broadcast_to(jnp.arange(23)[None], (8, 23))

    def logp(params):
        tokens, lengths = jnp.asarray(batch.tokens), jnp.asarray(batch.lengths)
        hidden, _ = MODEL.apply({"params": params}, tokens, place, lengths)
        every = jax.nn.log_softmax(hidden @ params["embed"]["embedding"].T / SCALARS.temperature)
        chosen = jnp.take_along_axis(every[:, :-1], jnp.asarray(batch.tokens)[:, 1:, None], axis=-1)[..., 0]
        return jnp.pad(chosen, ((0, 0), (1, 0)))

    def loss(params):
        mine, difference = logp(params), logp(reference) - logp(params)
        ratio = jnp.exp(mine - jax.lax.stop_gradient(mine))
        token = -ratio * batch.advantages + SCALARS.kl_coefficient * (jnp.exp(difference) - difference - 1)
        return jnp.sum(token * batch.loss_mask) / batch.loss_mask.sum()

    value, grads = jax.value_and_grad(loss)(params)
    state, info = run(batch)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-5)
    moved = jax.tree.map(lambda new, old: (old - new) / SCALARS.learning_rate, state.params, params)
    for x, y in zip(jax.tree.leaves(moved), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(x, y, atol=3e-6, rtol=1e-3)


def test_no_scalar_and_no_length_traces_again():
    mesh = make_mesh(MeshSpec())
    params = init_params(MODEL, mesh, jax.random.key(0))
    state = init_state(MODEL, DESCENT, mesh, params)
    update = make_update(MODEL, DESCENT, RECIPES["grpo"], mesh, UpdateSpec(LayoutSpec((8, 16, 24), 96)))
    rng = np.random.default_rng(0)
    for step in range(4):
        batch = make_batch(step)
        lengths = rng.integers(6, 23, 8).astype(np.int32)
        state, _info = update(
            state, params, batch._replace(lengths=lengths), Scalars(0.01 * step, 1 + step, 0.1 * step)
        )
    assert set(update.traces.values()) == {1} and len(update.traces) <= 3
    assert int(state.step) == 4


def test_several_updates_per_rollout_start_at_ratio_one_and_leave_it():
    once = run(spec=WHOLE)[1]
    assert once["ratio_mean"] == 1.0 and once["clip_share"] == 0.0
    twice = run(spec=dataclasses.replace(WHOLE, epochs=2))[1]
    assert twice["ratio_max"] > 1.001
    halves, info = run(spec=dataclasses.replace(WHOLE, minibatches=2))
    assert int(halves.step) == 2 and info["ratio_max"] > 1.001


def test_a_gradient_that_is_not_finite_changes_no_parameter():
    batch = make_batch()
    advantages = np.where(batch.loss_mask > 0, np.float32(np.inf), 0)
    state, info = run(batch._replace(advantages=advantages))
    assert info["skipped"] == 1.0 and int(state.step) == 1
    fresh = init_params(MODEL, make_mesh(MeshSpec(), jax.devices()[:1]), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state.params, fresh)


def test_parameters_and_moments_are_really_split():
    mesh = make_mesh(MeshSpec(data=1, fsdp=4))
    adam = make_optimizer(OptimizerSpec(weight_decay=0.1))
    state = init_state(MODEL, adam, mesh, init_params(MODEL, mesh, jax.random.key(0)))
    state, _ = make_update(MODEL, adam, RECIPES["grpo"], mesh, WHOLE)(
        state, state.params, make_batch(), SCALARS
    )
    for tree in (state.params, state.opt_state):
        total = sum(x.nbytes for x in jax.tree.leaves(tree))
        here = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
        assert here < 0.35 * total


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon"])
def test_every_optimizer_on_a_split_state(kind):
    optimizer = make_optimizer(OptimizerSpec(kind, weight_decay=0.1, moment_dtype="bfloat16"))
    split = run(optimizer=optimizer, mesh_spec=MeshSpec(data=2, fsdp=2), devices=4)
    assert split[1]["update_norm"] > 0
    # Rules that divide by tiny second moments magnify rounding.
    assert_same_update(split, run(optimizer=optimizer), tolerance=2e-3)


def test_norms_and_biases_do_not_decay():
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    decay = make_optimizer(OptimizerSpec("sgd", b1=0.0, weight_decay=0.5))
    params = jax.tree.map(jnp.ones_like, init_params(MODEL, mesh, jax.random.key(0)))
    updates, _ = decay.update(
        jax.tree.map(jnp.zeros_like, params), decay.init(params), params, learning_rate=0.1
    )
    flat = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_flatten_with_path(updates)[0]}
    assert {name for name, x in flat.items() if (x == 0).all()} == {
        n for n in flat if "scale" in n or "bias" in n
    }


def test_logp_of_the_learner_is_that_of_the_whole_batch():
    mesh = make_mesh(MeshSpec(data=4))
    params, batch = init_params(MODEL, mesh, jax.random.key(0)), make_batch()
    whole = make_logp(MODEL, mesh, WHOLE)(params, batch.tokens, batch.lengths, 0.7)
    small = make_logp(MODEL, mesh, UpdateSpec(LayoutSpec((4, 8, 24), 30)))(
        params, batch.tokens, batch.lengths, 0.7
    )
    np.testing.assert_allclose(whole, small, atol=1e-5)
    assert (whole[:, 0] == 0).all() and (whole[np.arange(23)[None] >= batch.lengths[:, None]] == 0).all()


def test_a_loss_that_needs_a_reference_says_so():
    with pytest.raises(ValueError, match=r"pass ref_params or batch.ref_logp"):
        mesh = make_mesh(MeshSpec())
        state = init_state(MODEL, DESCENT, mesh, init_params(MODEL, mesh, jax.random.key(0)))
        make_update(MODEL, DESCENT, RECIPES["grpo"], mesh, WHOLE)(state, None, make_batch(), SCALARS)


def test_replicas_meet_once_a_micro_batch():
    """Copies of the model add their gradients and measures in one collective; largest values wait for the end."""
    mesh, model = make_mesh(MeshSpec(data=-1)), Qwen2(CONFIG, unroll=CONFIG.num_hidden_layers)
    state = init_state(model, DESCENT, mesh, init_params(model, mesh, jax.random.key(0)))
    update = make_update(model, DESCENT, RECIPES["grpo"], mesh, WHOLE)
    micros, totals = update._place(make_batch(), state.params, state.params, SCALARS)
    total = update._zeros(state.params, ("clip_share", "entropy", "kl", "logp_gap_max", "logp_gap_mean", "loss",
                                         "policy_loss", "ratio_max", "ratio_mean"))
    program = update._accumulate.lower(total, state.params, micros[0], totals, SCALARS).compile().as_text()
    collectives = re.findall(r"\b(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\(", program)
    assert collectives == ["all-reduce"]
