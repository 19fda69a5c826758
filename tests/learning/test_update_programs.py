"""The compiled programs of an update: how often they are traced, their FLOPs and their collectives."""

import dataclasses
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import optax
import pytest

from jaxrl.algorithms.recipes import RECIPES, recipe
from jaxrl.learning import update as learner
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.micro_batches import LayoutSpec
from jaxrl.learning.state import abstract_state, init_params, init_state
from jaxrl.learning.update import Scalars, UpdateSpec, compile_logp, make_logp, make_update
from jaxrl.runtime.compilation import compile_monitor
from models.flops import forward_flops
from models.qwen2 import REMAT, Qwen2
from tests.learning.test_update import (
    CONFIG,
    DESCENT,
    MODEL,
    SCALARS,
    WHOLE,
    assert_same_update,
    critic_of,
    make_batch,
    run,
    without_optimizations,
)

__all__ = ["without_optimizations"]  # a fixture for all tests of this file


def test_rematerialization_changes_nothing():
    """Except FLOPs: "full" recomputes all products, "dots" only those of attention."""
    flops = {}
    for name in REMAT:
        model = Qwen2(CONFIG, remat=name)
        assert_same_update(run(model=model), run(), tolerance=1e-6)
        mesh = make_mesh(MeshSpec(), jax.devices()[:1])
        state = init_state(model, DESCENT, mesh, init_params(model, mesh, jax.random.key(0)))
        update = make_update(model, DESCENT, RECIPES["grpo"], mesh, WHOLE)
        micros, totals = update.micro_batches(make_batch(), state.params, SCALARS)
        gradient = jax.jit(jax.grad(update.policy.objective, has_aux=True))
        flops[name] = gradient.lower(state.params, None, micros[0], totals, SCALARS).compile().cost_analysis()["flops"]
    assert flops["none"] < flops["dots"] < flops["full"]


def test_no_scalar_and_no_length_traces_again(monkeypatch):
    """Gradients and log-probabilities are traced once per shape, optimizer steps once."""
    calls = Counter()

    def counted(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    for name in ("forward", "forward_values"):
        monkeypatch.setattr(learner, name, counted(name, getattr(learner, name)))
    optimizer = optax.GradientTransformationExtraArgs(DESCENT.init, counted("finish", DESCENT.update))
    mesh, loss = make_mesh(MeshSpec(), jax.devices()[:1]), recipe("ppo", kl_placement="loss", kl="k3")
    critic = critic_of(loss, optimizer)
    state = init_state(MODEL, optimizer, mesh, init_params(MODEL, mesh, jax.random.key(0)), critic)
    spec = UpdateSpec(LayoutSpec((8, 16, 24), 96), epochs=2)
    update = make_update(MODEL, optimizer, loss, mesh, spec, critic)
    rng = np.random.default_rng(0)
    for step in range(4):
        batch = make_batch(step)
        lengths = rng.integers(6, 23, 8).astype(np.int32)
        mask = batch.loss_mask * (np.arange(23)[None] < lengths[:, None])
        changed = batch._replace(lengths=lengths, loss_mask=mask)
        state, _info = update(state, changed, Scalars(0.01 * step, 1 + step, 0.1 * step, 0.02 * step))
    shapes = len(update.traces)
    assert set(update.traces.values()) == {1} and shapes <= 4 and update.critic.traces == update.traces
    # One more each for the names of the metrics, from shapes alone.
    assert calls == {"forward": 2 * shapes + 1, "forward_values": shapes + 1, "finish": 2}
    assert int(state.step) == 8


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_programs_compiled_ahead_in_another_thread_are_those_that_the_update_runs(name):
    """No call compiles them again, and no number changes. On one device: virtual devices may deadlock."""
    mesh, loss = make_mesh(MeshSpec(), jax.devices()[:1]), recipe(name, kl_placement="loss", kl="k3")
    critic, spec = critic_of(loss), UpdateSpec(LayoutSpec((12, 24), 96, few_shapes=True), epochs=2)
    batch = make_batch() if critic else make_batch()._replace(values=None, returns=None)
    results = []
    for ahead in (False, True):
        state = init_state(MODEL, DESCENT, mesh, init_params(MODEL, mesh, jax.random.key(0)), critic)
        update = make_update(MODEL, DESCENT, loss, mesh, spec, critic)
        if ahead:
            with ThreadPoolExecutor(1) as executor:
                programs = update.compile_ahead(executor, abstract_state(MODEL, DESCENT, mesh, critic))
            assert programs == (5 if critic else 3)  # log-probabilities have one shape, gradients two
        traced = Counter(update.traces)
        before = compile_monitor().totals().programs
        logp = update.host_logp(state.params, batch.tokens, batch.lengths, 1.3)
        micros, totals = update.micro_batches(batch, state.params, SCALARS)
        assert not ahead or compile_monitor().totals().programs == before
        state, info = update(state, batch, SCALARS)
        assert not ahead or (update.traces == traced == Counter(dict.fromkeys(traced, 1)) and len(traced) == 2)
        # Neither log-probabilities nor gradients are compiled now, only the optimizer steps.
        assert not ahead or compile_monitor().totals().programs - before <= 2
        results.append(jax.device_get((logp, micros, totals, state, info)))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_the_update_and_host_logp_share_one_program(monkeypatch):
    calls = Counter()

    def counted(*args, **kwargs):
        calls["forward"] += 1
        return forward(*args, **kwargs)

    forward = learner.forward
    monkeypatch.setattr(learner, "forward", counted)
    mesh, spec = make_mesh(MeshSpec(), jax.devices()[:1]), dataclasses.replace(WHOLE, epochs=2)
    params, batch = init_params(MODEL, mesh, jax.random.key(0)), make_batch()
    compiled = compile_logp(MODEL, mesh, spec)
    logp = make_logp(compiled, mesh, spec.layout)(params, batch.tokens, batch.lengths, 1.3)
    update = make_update(MODEL, DESCENT, RECIPES["grpo"], mesh, spec, logp=compiled)
    (micro,), _ = update.micro_batches(batch, params, Scalars(*map(np.float32, SCALARS)))
    assert calls["forward"] == 1
    for row in np.flatnonzero(batch.loss_mask.any(axis=1)):
        length = batch.lengths[row]
        (same,) = [i for i in range(8) if np.array_equal(micro.tokens[i, :length], batch.tokens[row, :length])]
        np.testing.assert_array_equal(micro.old_logp[same, :length], logp[row, :length])


def test_model_flops_are_six_per_weight_and_token_plus_attention():
    """Computed from shapes: 2 FLOPs per weight, forward once and backward twice; t + 1 keys for token t."""
    batch = make_batch()
    used = batch.lengths[(batch.loss_mask > 0).any(axis=1)]
    params = init_params(MODEL, make_mesh(MeshSpec(), jax.devices()[:1]), jax.random.key(0))
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    weights = sum(x.size for path, x in flat if "kernel" in str(path) or "embedding" in str(path))
    keys = sum(sum(range(1, length + 1)) for length in used)
    attention = 2 * 2 * 4 * 4 * keys * 2  # scores and mixture, 4 heads of size 4, 2 layers
    assert run()[1]["model_flops"] == 3 * (2 * weights * used.sum() + attention)
    assert forward_flops(CONFIG, used) * 3 * 2 == run(spec=dataclasses.replace(WHOLE, epochs=2))[1]["model_flops"]


def test_replicas_communicate_once_per_micro_batch():
    """Replicas sum gradients and metrics in one all-reduce; maxima are reduced with the optimizer step."""
    mesh, model = make_mesh(MeshSpec(data=-1)), Qwen2(CONFIG, unroll=CONFIG.num_hidden_layers)
    state = init_state(model, DESCENT, mesh, init_params(model, mesh, jax.random.key(0)))
    update = make_update(model, DESCENT, RECIPES["grpo"], mesh, WHOLE)
    micros, totals = update.micro_batches(make_batch(), state.params, SCALARS)
    total = update.policy.zeros(state.params, update.policy.names(state.params, None, micros[0], totals, SCALARS))
    program = update.policy.accumulate.lower(total, state.params, None, micros[0], totals, SCALARS).compile().as_text()
    collectives = re.findall(r"\b(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\(", program)
    assert collectives == ["all-reduce"]
