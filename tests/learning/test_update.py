"""The batch layout is invisible: micro-batches, buckets, padding and devices do not change an update."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.algorithms.advantages import Needs
from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.recipes import RECIPES, recipe
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.micro_batches import LayoutSpec
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.state import Critic, init_params, init_state
from jaxrl.learning.update import Scalars, UpdateSpec, compile_logp, make_logp, make_update, make_values
from models.config import Qwen2Config
from models.qwen2 import Qwen2
from models.value_head import Qwen2Value

CONFIG = Qwen2Config(32, 16, 32, 2, 4, 2, 4, tie_word_embeddings=True)
MODEL = Qwen2(CONFIG)
# Plain gradient descent: the change of the parameters is the gradient, and no rule hides its size.
DESCENT = make_optimizer(OptimizerSpec("sgd", b1=0.0, clip_norm=0.0))
SCALARS = Scalars(0.1, temperature=1.3, kl_coefficient=0.2, critic_learning_rate=0.05)
WHOLE = UpdateSpec(LayoutSpec((24,), 24 * 8))


@pytest.fixture(scope="module", autouse=True)
def without_optimizations():
    """Most of the time here would be compiler optimizations, and no law here depends on them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make_batch(seed=0):
    """8 rows of very unequal lengths: one with EOS as its first new token, one without loss tokens."""
    rng = np.random.default_rng(seed)
    prompt = np.array([3, 3, 5, 5, 2, 2, 4, 4])
    lengths = np.array([4, 20, 6, 17, 23, 9, 4, 8], np.int32)
    positions = np.arange(23)[None]
    mask = ((positions >= prompt[:, None]) & (positions < lengths[:, None])).astype(np.float32)
    tokens = rng.integers(0, 32, (8, 23)).astype(np.int32)
    advantages = mask * rng.normal(size=(8, 1)).astype(np.float32)
    sample, reference = -3 + 0.3 * rng.normal(size=(2, 8, 23)).astype(np.float32)
    values, returns = rng.normal(size=(2, 8, 23)).astype(np.float32)
    return Batch(tokens, lengths, mask, advantages, None, reference, sample, values, returns)


def critic_of(loss, optimizer=DESCENT, model=MODEL):
    if loss.needs is not Needs.CRITIC:
        return None
    return Critic(Qwen2Value(model.config), optimizer)


def run(
    batch=None,
    spec=WHOLE,
    mesh_spec=None,
    loss=RECIPES["grpo"],
    scalars=SCALARS,
    optimizer=DESCENT,
    devices=1,
    model=MODEL,
):
    mesh = make_mesh(mesh_spec or MeshSpec(), jax.devices()[:devices])
    critic = critic_of(loss, optimizer, model)
    state = init_state(model, optimizer, mesh, init_params(model, mesh, jax.random.key(0)), critic)
    if critic:  # a head of zeros would give the trunk no gradient
        head = state.critic.params["value_head"]
        head["vector"] = jax.device_put(jnp.linspace(-1, 1, 16), head["vector"].sharding)
    state, info = make_update(model, optimizer, loss, mesh, spec, critic)(state, batch or make_batch(), scalars)
    return state, {name: float(value) for name, value in info.items()}


def host_logp(model, mesh, spec):
    """`make_logp` with a program of its own."""
    return make_logp(compile_logp(model, mesh, spec), mesh, spec.layout)


LAYOUT_NAMES = ("padding_share", "micro_batches")


def assert_same_update(left, right, tolerance=1e-5):
    trained = [(state.params, state.critic and state.critic.params) for state, _ in (left, right)]
    for x, y in zip(*map(jax.tree.leaves, trained), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=tolerance, rtol=tolerance)
    for name in set(left[1]) - set(LAYOUT_NAMES):
        np.testing.assert_allclose(left[1][name], right[1][name], rtol=1e-4, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("rows", "micro_batches"), [pytest.param(2, 4, marks=pytest.mark.check), (4, 3)])
def test_micro_batches_change_nothing(rows, micro_batches):
    split = run(spec=UpdateSpec(LayoutSpec((24,), 24 * rows)))
    assert split[1]["micro_batches"] == micro_batches
    assert_same_update(split, run())


MESHES = MeshSpec(data=1, fsdp=2, tensor=2), MeshSpec(data=2, fsdp=2), MeshSpec(data=2, fsdp=1, tensor=2)


# Always tested: the plain case, ratios of sequences, and a critic. The others differ in one row of a table.
FAST_RECIPES = ("grpo", "gspo", "ppo")


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        pytest.param(name, mesh, marks=() if name in FAST_RECIPES else pytest.mark.slow)
        for name, mesh in zip(RECIPES, itertools.cycle(MESHES), strict=False)
    ],
)
def test_four_devices_and_buckets_change_nothing(name, mesh):
    """With old log-probabilities that differ from the learner's, so that ratios differ from 1 and are clipped."""
    batch = make_batch()
    batch = batch._replace(old_logp=batch.sample_logp)
    four = UpdateSpec(LayoutSpec((12, 24), 48)), mesh
    loss = recipe(name, max_length=20)
    one, other = run(batch, loss=loss), run(batch, *four, loss=loss, devices=4)
    assert one[1]["grad_norm"] > 0.01 and one[1].get("critic_grad_norm", 1) > 0.01
    assert_same_update(one, other)


def test_the_head_in_chunks_changes_nothing():
    chunks = dataclasses.replace(WHOLE, head_tokens=40)
    loss = recipe("grpo", entropy_coefficient=0.3)
    assert_same_update(run(loss=loss), run(loss=loss, spec=chunks))


def test_the_content_of_padding_has_no_effect():
    clean = make_batch()
    beyond = np.arange(23)[None] >= clean.lengths[:, None]
    garbage = [None if x is None else np.where(beyond, np.float32(np.nan), x) for x in clean[3:]]
    dirty = Batch(np.where(beyond, 10**6, clean.tokens), *clean[1:3], *garbage)
    spec = UpdateSpec(LayoutSpec((8, 24), 48))
    assert_same_update(run(clean, spec, loss=RECIPES["ppo"]), run(dirty, spec, loss=RECIPES["ppo"]), tolerance=0)


@pytest.mark.check
def test_the_update_is_the_gradient_of_the_loss():
    """Compared with the gradient of the loss of full logits, written out here, over the whole batch."""
    batch = make_batch()
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    params = init_params(MODEL, mesh, jax.random.key(0))
    positions = jnp.broadcast_to(jnp.arange(23)[None], (8, 23))

    def logp(params):
        tokens, lengths = jnp.asarray(batch.tokens), jnp.asarray(batch.lengths)
        hidden, _ = MODEL.apply({"params": params}, tokens, positions, lengths)
        every = jax.nn.log_softmax(hidden @ params["embed"]["embedding"].T / SCALARS.temperature)
        chosen = jnp.take_along_axis(every[:, :-1], jnp.asarray(batch.tokens)[:, 1:, None], axis=-1)[..., 0]
        return jnp.pad(chosen, ((0, 0), (1, 0)))

    def loss(params):
        mine, difference = logp(params), batch.ref_logp - logp(params)
        ratio = jnp.exp(mine - jax.lax.stop_gradient(mine))
        token = -ratio * batch.advantages + SCALARS.kl_coefficient * (jnp.exp(difference) - difference - 1)
        return jnp.sum(token * batch.loss_mask) / batch.loss_mask.sum()

    value, grads = jax.value_and_grad(loss)(params)
    state, info = run(batch)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-5)
    moved = jax.tree.map(lambda new, old: (old - new) / SCALARS.learning_rate, state.params, params)
    for x, y in zip(jax.tree.leaves(moved), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(x, y, atol=3e-6, rtol=1e-3)


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


@pytest.mark.parametrize("rows", [8, 0])
def test_a_batch_without_a_loss_token_moves_nothing(rows):
    """Neither momentum nor weight decay apply, and the state is not deleted."""
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    adam = make_optimizer(OptimizerSpec(weight_decay=0.1))
    state = init_state(MODEL, adam, mesh, init_params(MODEL, mesh, jax.random.key(0)))
    update = make_update(MODEL, adam, RECIPES["grpo"], mesh, WHOLE)
    state, _ = update(state, make_batch(), SCALARS)
    before = jax.device_get(state)
    batch = Batch(*(None if x is None else x[:rows] for x in make_batch()))
    state, info = update(state, batch._replace(loss_mask=0 * batch.loss_mask), SCALARS)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)
    assert info["loss_tokens"] == info["micro_batches"] == info["model_flops"] == 0


def test_the_state_is_donated():
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    state = init_state(MODEL, DESCENT, mesh, init_params(MODEL, mesh, jax.random.key(0)))
    make_update(MODEL, DESCENT, RECIPES["grpo"], mesh, WHOLE)(state, make_batch(), SCALARS)
    assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.opt_state)))


def test_parameters_moments_and_gradients_are_sharded():
    """One of four devices holds about a quarter of the bytes of policy and critic; small arrays are replicated."""
    mesh, loss = make_mesh(MeshSpec(data=1, fsdp=4)), RECIPES["ppo"]
    adam = make_optimizer(OptimizerSpec(weight_decay=0.1))
    critic = critic_of(loss, adam)
    state = init_state(MODEL, adam, mesh, init_params(MODEL, mesh, jax.random.key(0)), critic, moving_reference=True)
    update = make_update(MODEL, adam, loss, mesh, WHOLE, critic)
    state, _ = update(state, make_batch(), SCALARS)
    (micro,), totals = update.micro_batches(make_batch(), state.params, SCALARS)
    grads = []
    for accumulation, params in ((update.policy, state.params), (update.critic, state.critic.params)):
        zeros = accumulation.zeros(params, accumulation.names(params, None, micro, totals, SCALARS))
        grads.append(
            accumulation.accumulate(zeros, params, None, micro, totals, Scalars(*map(np.float32, SCALARS))).grads
        )
        assert all(np.any(x) for x in jax.tree.leaves(grads[-1]))
    parts = (state.params, state.opt_state, state.critic.params, state.critic.opt_state, state.reference, *grads)
    for tree in parts:
        total = sum(x.nbytes for x in jax.tree.leaves(tree))
        here = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
        assert here < 0.35 * total


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon", "sgd"])
def test_every_optimizer_on_a_sharded_state(kind):
    moments = "float32" if kind == "adafactor" else "bfloat16"
    optimizer = make_optimizer(OptimizerSpec(kind, weight_decay=0.1, moment_dtype=moments))
    split = run(optimizer=optimizer, mesh_spec=MeshSpec(data=2, fsdp=2), devices=4)
    assert split[1]["update_norm"] > 0
    if moments == "bfloat16":
        assert moments in {str(leaf.dtype) for leaf in jax.tree.leaves(split[0].opt_state)}
    # Dividing by tiny second moments magnifies rounding errors.
    assert_same_update(split, run(optimizer=optimizer), tolerance=2e-3)


def test_factored_second_moments_on_a_sharded_state():
    """Adafactor factors the moments of matrices of 128 or more rows and columns; sharding changes nothing."""
    # A small rope_theta: with slowly rotating pairs the key bias has gradients of rounding errors only, and the first
    # step of a vector depends on their signs alone.
    model = Qwen2(Qwen2Config(160, 128, 256, 1, 4, 4, 32, rope_theta=10.0, tie_word_embeddings=True))
    optimizer = make_optimizer(OptimizerSpec("adafactor", weight_decay=0.1))
    split = run(optimizer=optimizer, mesh_spec=MeshSpec(data=1, fsdp=2, tensor=2), devices=4, model=model)
    sizes = [leaf.size for leaf in jax.tree.leaves(split[0].opt_state)]
    assert 128 in sizes and 256 in sizes and 160 in sizes and max(sizes) <= 256  # no moment is as large as its matrix
    assert split[1]["update_norm"] > 0.01
    assert_same_update(split, run(optimizer=optimizer, model=model), tolerance=1e-4)


def test_a_moment_dtype_for_adafactor_is_refused():
    with pytest.raises(ValueError, match="expected float32 with adafactor, which has no first moment"):
        OptimizerSpec("adafactor", moment_dtype="bfloat16")


def test_norms_and_biases_do_not_decay():
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    decay = make_optimizer(OptimizerSpec("sgd", b1=0.0, weight_decay=0.5))
    params = jax.tree.map(jnp.ones_like, init_params(MODEL, mesh, jax.random.key(0)))
    updates, _ = decay.update(jax.tree.map(jnp.zeros_like, params), decay.init(params), params, learning_rate=0.1)
    flat = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_flatten_with_path(updates)[0]}
    assert {name for name, x in flat.items() if (x == 0).all()} == {n for n in flat if "scale" in n or "bias" in n}


def test_logp_of_the_learner_does_not_depend_on_the_layout():
    mesh = make_mesh(MeshSpec(data=4))
    params, batch = init_params(MODEL, mesh, jax.random.key(0)), make_batch()
    whole = host_logp(MODEL, mesh, WHOLE)(params, batch.tokens, batch.lengths, 0.7)
    small = host_logp(MODEL, mesh, UpdateSpec(LayoutSpec((4, 8, 24), 30)))(params, batch.tokens, batch.lengths, 0.7)
    np.testing.assert_allclose(whole, small, atol=1e-5)
    assert (whole[:, 0] == 0).all() and (whole[np.arange(23)[None] >= batch.lengths[:, None]] == 0).all()


def test_missing_inputs_of_a_loss_are_errors():
    with pytest.raises(ValueError, match=r"needs batch\.ref_logp, got None"):
        run(make_batch()._replace(ref_logp=None))
    with pytest.raises(ValueError, match=r"needs batch\.values and batch\.returns, got None"):
        run(make_batch()._replace(values=None), loss=RECIPES["ppo"])
    mesh = make_mesh(MeshSpec())
    with pytest.raises(ValueError, match="'whitened_gae': expected a critic, got none"):
        make_update(MODEL, DESCENT, RECIPES["ppo"], mesh, WHOLE)


def test_the_critic_learns_its_returns_and_leaves_the_policy_alone():
    """Compared with 0.5 (V - R)^2 of the hidden state before each token, averaged over all tokens, written out here."""
    batch, loss = make_batch(), recipe("ppo", value_clip=None)
    state, info = run(batch, UpdateSpec(LayoutSpec((12, 24), 48)), loss=loss)
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    params = init_params(MODEL, mesh, jax.random.key(0))
    head = {"vector": jnp.linspace(-1, 1, 16), "bias": jnp.zeros(1)}
    positions = jnp.broadcast_to(jnp.arange(23)[None], (8, 23))

    def objective(params):
        trunk = {name: x for name, x in params.items() if name != "value_head"}
        hidden, _ = MODEL.apply({"params": trunk}, jnp.asarray(batch.tokens), positions, jnp.asarray(batch.lengths))
        values = (hidden @ params["value_head"]["vector"] + params["value_head"]["bias"][None])[:, :-1]
        error = 0.5 * jnp.square(values - batch.returns[:, 1:]) * batch.loss_mask[:, 1:]
        return jnp.sum(error) / batch.loss_mask.sum()

    value, grads = jax.value_and_grad(objective)(params | {"value_head": head})
    np.testing.assert_allclose(info["value_loss"], value, rtol=1e-5)
    moved = jax.tree.map(
        lambda new, old: (old - new) / SCALARS.critic_learning_rate, state.critic.params, params | {"value_head": head}
    )
    for x, y in zip(jax.tree.leaves(moved), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-3)
    alone, _ = run(batch, UpdateSpec(LayoutSpec((12, 24), 48)), loss=recipe("ppo", advantage="group_zscore"))
    jax.tree.map(np.testing.assert_array_equal, state.params, alone.params)


def test_values_do_not_depend_on_the_layout_and_are_zero_at_the_start():
    mesh, batch, critic = make_mesh(MeshSpec(data=4)), make_batch(), critic_of(RECIPES["ppo"])
    state = init_state(MODEL, DESCENT, mesh, init_params(MODEL, mesh, jax.random.key(0)), critic)
    params = state.critic.params
    fresh = make_values(critic.model, mesh, WHOLE.layout)(params, batch.tokens, batch.lengths)
    assert (fresh == 0).all()
    params["value_head"] = {"vector": jnp.linspace(-1, 1, 16), "bias": jnp.full(1, 0.5)}
    whole, small = (
        make_values(critic.model, mesh, layout)(params, batch.tokens, batch.lengths)
        for layout in (WHOLE.layout, LayoutSpec((4, 8, 24), 30))
    )
    np.testing.assert_allclose(whole, small, atol=1e-5)
    within = np.arange(23)[None] < batch.lengths[:, None]
    assert (whole[:, 0] == 0).all() and (whole[~within] == 0).all() and (whole[:, 1:][within[:, 1:]] != 0).all()


def test_rows_without_a_loss_token_are_not_computed():
    """Dropped groups cost nothing and do not affect the results of the others."""
    batch = make_batch()
    batch.loss_mask[2:4] = 0
    without = Batch(*(None if x is None else np.delete(x, [2, 3], axis=0) for x in batch))
    left, right = run(batch), run(without)
    assert left[1]["tokens"] == int(without.lengths[(without.loss_mask > 0).any(axis=1)].sum())
    assert_same_update(left, right, tolerance=0)
