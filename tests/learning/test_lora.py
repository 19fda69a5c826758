"""Adapters beside a frozen base: outputs, updates, and shardings."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.recipes import RECIPES, recipe
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.micro_batches import LayoutSpec
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.state import init_params, init_state
from jaxrl.learning.update import Scalars, UpdateSpec, make_update
from models.config import Qwen2Config
from models.lora import LoRASpec, join, merge, merge_lazily, pairs, split
from models.qwen2 import Qwen2
from tests.learning.test_update import assert_same_update, host_logp, make_batch

CONFIG = Qwen2Config(32, 16, 32, 2, 4, 2, 4)
LORA = LoRASpec(rank=3, alpha=6.0)
PLAIN, MODEL = Qwen2(CONFIG), Qwen2(CONFIG, lora=LORA)
DESCENT = make_optimizer(OptimizerSpec("sgd", b1=0.0, clip_norm=0.0))
WHOLE = UpdateSpec(LayoutSpec((24,), 24 * 8))
SCALARS = Scalars(0.1, temperature=1.3, kl_coefficient=0.2)
LINEAR = {"query", "key", "value", "output", "gate", "up", "down"}


def begin(optimizer=DESCENT, mesh=None, moving_reference=False, spread=0.3):
    """A state with random nonzero B (with zeros, A has no gradient); spread=0: fresh adapters."""
    mesh = mesh or make_mesh(MeshSpec(), jax.devices()[:1])
    params = init_params(PLAIN, mesh, jax.random.key(0))
    state = init_state(MODEL, optimizer, mesh, params, moving_reference=moving_reference, key=jax.random.key(1))

    def perturb(path, leaf):
        noise = spread * np.random.default_rng(len(str(path))).normal(size=leaf.shape)
        return jax.device_put(leaf + noise.astype(np.float32), leaf.sharding)

    return state._replace(params=jax.tree_util.tree_map_with_path(perturb, state.params))


def logp(model, params, mesh=None):
    batch = make_batch()
    mesh = mesh or make_mesh(MeshSpec(), jax.devices()[:1])
    return host_logp(model, mesh, WHOLE)(params, batch.tokens, batch.lengths, 1.3)


def run(mesh_spec=None, spec=WHOLE, devices=1, loss=RECIPES["grpo"]):
    mesh = make_mesh(mesh_spec or MeshSpec(), jax.devices()[:devices])
    state, info = make_update(MODEL, DESCENT, loss, mesh, spec)(begin(mesh=mesh), make_batch(), SCALARS)
    return state, {name: float(value) for name, value in info.items()}


def test_every_linear_layer_has_an_adapter_of_its_shape():
    state = begin()
    found = {
        path[-2]: (kernel, down, up)
        for path, down, up in pairs(state.params)
        for kernel in [flatten_dict(state.base)[path]]
    }
    assert set(found) == LINEAR
    for kernel, down, up in found.values():
        assert (down.shape, up.shape) == ((2, kernel.shape[1], 3), (2, 3, kernel.shape[2]))
    assert jax.tree.structure(state.model_params) == jax.tree.structure(join(*split(state.model_params)))


def test_adapters_are_initialized_as_in_peft():
    """B zero; A Kaiming-uniform with a = sqrt(5): uniform in +-1/sqrt(in), variance 1/(3 in), different per layer."""
    wide = Qwen2(Qwen2Config(32, 256, 512, 2, 4, 2, 64), lora=LoRASpec(32, 8.0))
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    params = init_params(wide.clone(lora=None), mesh, jax.random.key(0))
    state = init_state(wide, DESCENT, mesh, params, key=jax.random.key(1))
    for path, down, up in pairs(state.params):
        bound = down.shape[1] ** -0.5
        assert not np.any(up), path
        assert bound * 0.99 < np.abs(down).max() <= bound and np.var(down) == pytest.approx(bound**2 / 3, rel=0.05)
        assert (np.asarray(down[0]) != np.asarray(down[1])).all()


def test_fresh_adapters_change_no_bit():
    state = begin(spread=0.0)
    np.testing.assert_array_equal(logp(MODEL, state.model_params), logp(PLAIN, state.base))


def test_merged_weights_match_the_learner():
    state = begin()
    ours, base = logp(MODEL, state.model_params), logp(PLAIN, state.base)
    merged = merge(state.base, state.params, LORA)
    np.testing.assert_allclose(logp(PLAIN, merged), ours, atol=2e-5)
    assert np.abs(ours - base).max() > 0.1
    lazily = merge_lazily(state.base, state.params, LORA)
    for leaf, lazy in zip(jax.tree.leaves(merged), jax.tree.leaves(lazily), strict=True):
        np.testing.assert_allclose(lazy[:], leaf, atol=1e-6)
        np.testing.assert_array_equal(lazy[1:2], lazy[:][1:2])


def test_the_gradient_is_the_chain_rule_of_the_merged_weights():
    """dA = scale dW B' and dB = scale A' dW, with dW the gradient of a full update at the merged weights."""
    state, mesh = begin(), make_mesh(MeshSpec(), jax.devices()[:1])
    before = jax.tree.map(np.asarray, state.params)
    merged = merge(state.base, state.params, LORA)
    full = init_state(PLAIN, DESCENT, mesh, merged)
    kernels = flatten_dict(merged)
    full, _ = make_update(PLAIN, DESCENT, RECIPES["grpo"], mesh, WHOLE)(full, make_batch(), SCALARS)
    after, _ = run()
    moved = flatten_dict(full.params)
    for (path, down, up), (_, new_down, new_up) in zip(pairs(before), pairs(after.params), strict=True):
        change = np.asarray(moved[path]) - np.asarray(kernels[path])
        np.testing.assert_allclose(new_down - down, 2.0 * change @ up.swapaxes(1, 2), atol=1e-5, err_msg=str(path))
        np.testing.assert_allclose(new_up - up, 2.0 * down.swapaxes(1, 2) @ change, atol=1e-5, err_msg=str(path))
        assert np.abs(new_down - down).max() > 1e-4 and np.abs(new_up - up).max() > 1e-4


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_only_adapters_are_updated_and_have_moments(kind):
    optimizer = make_optimizer(OptimizerSpec(kind, weight_decay=0.1))
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    state = begin(optimizer)
    base, adapters = jax.tree.map(np.array, state.base), jax.tree.map(np.array, state.params)
    sizes = {leaf.size for leaf in jax.tree.leaves(adapters)}
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(adapters))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)) <= 2 * total + 200
    assert all(leaf.size <= max(sizes) for leaf in jax.tree.leaves(state.opt_state))
    state, info = make_update(MODEL, optimizer, RECIPES["grpo"], mesh, WHOLE)(state, make_batch(), SCALARS)
    jax.tree.map(np.testing.assert_array_equal, state.base, base)
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(adapters), strict=True):
        assert (np.asarray(new) != old).any()
    assert float(info["skipped"]) == 0


def test_four_devices_and_micro_batches_change_nothing():
    four = UpdateSpec(LayoutSpec((12, 24), 48)), 4
    assert_same_update(run(), run(MeshSpec(data=1, fsdp=2, tensor=2), *four))


def test_base_and_adapters_follow_the_same_sharding_rules():
    mesh = make_mesh(MeshSpec(data=1, fsdp=2, tensor=2))
    state = begin(make_optimizer(OptimizerSpec()), mesh)
    gate = [
        state.base["layers"]["mlp"]["gate"]["kernel"],
        state.params["layers"]["mlp"]["gate_lora_A"]["kernel"],
        state.params["layers"]["mlp"]["gate_lora_B"]["kernel"],
    ]
    parts = [leaf.nbytes // leaf.addressable_shards[0].data.nbytes for leaf in gate]
    assert parts == [4, 2, 2]


def test_a_step_costs_two_thirds_of_a_full_one():
    """By the compiler's FLOP count: frozen weights need no products for their gradients."""
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    config = Qwen2Config(32, 64, 256, 1, 4, 2, 16)
    spec, batch, flops = UpdateSpec(LayoutSpec((64,), 64 * 8)), make_batch(), {}
    for lora in (None, LoRASpec(1, 1.0)):
        model = Qwen2(config, lora=lora)
        state = init_state(
            model, DESCENT, mesh, init_params(model.clone(lora=None), mesh, jax.random.key(0)), key=jax.random.key(1)
        )
        update = make_update(model, DESCENT, recipe("grpo", kl_placement="none"), mesh, spec)
        micros, totals = update.micro_batches(Batch(*batch), state.model_params, SCALARS)
        names = update.policy.names(state.params, state.base, micros[0], totals, SCALARS)
        total = update.policy.zeros(state.params, names)
        program = update.policy.accumulate.lower(total, state.params, state.base, micros[0], totals, SCALARS)
        flops[lora] = program.compile().cost_analysis()["flops"]
    assert flops[LoRASpec(1, 1.0)] < 0.75 * flops[None]


def test_wrong_adapters_are_refused():
    for rank in (0, -1):
        with pytest.raises(ValueError, match=r"lora\.rank: expected a whole number"):
            LoRASpec(rank, 8.0)
    with pytest.raises(ValueError, match=r"lora\.alpha: expected above 0"):
        LoRASpec(8, 0.0)
