"""Laws of a whole run, on a random model of a few thousand parameters: exact resume, layouts, traces, export."""

import importlib
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxrl.flags import plain
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.run_params import restore_params
from jaxrl.learning.state import init_params
from jaxrl.reporting.metrics import deterministic
from jaxrl.reporting.rollouts import read_rollouts, rollout_path
from jaxrl.reporting.terminal import Terminal
from jaxrl.reporting.writers import read_metrics
from jaxrl.running import loop
from jaxrl.running.replay import replay
from jaxrl.running.settings import run_spec
from jaxrl.running.supervised import save_base
from jaxrl.running.workdir import check_workdir, compare_manifests, read_past_run
from models.config import Qwen2Config
from models.convert import load_params
from models.qwen2 import Qwen2
from models.vocabulary import build_tokenizer

CONFIG = Qwen2Config(288, 16, 32, 2, 2, 1, 8, rope_theta=1e4, tie_word_embeddings=True, max_position_embeddings=256)
STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random Hugging Face folder with our tokenizer."""
    folder = tmp_path_factory.mktemp("base") / "model"
    params = init_params(Qwen2(CONFIG), make_mesh(MeshSpec(data=1), jax.devices()[:1]), jax.random.key(3))
    tokenizer = build_tokenizer(["Ann says: Bob is a knave and Ann is a knight. Who is what?"], 288)
    save_base(folder, params, CONFIG, tokenizer)
    return folder


def fields_of(base, workdir, changes=()):
    """The shipped three stages, two steps each, with counts that a test can afford."""
    config = importlib.import_module("configs.three_stage").get_config("tiny")
    pool = type(config)({"p3": 6})
    config.update_from_flattened_dict({
        "model": str(base), "workdir": str(workdir), "unroll": 1, "wandb.mode": "off", "compile_cache": "",
        "layout.micro_tokens": 512, "layout.multiple": 64, "layout.ratio": 2.0, "evaluation.samples": 2,
        "evaluation.max_new_tokens": 8, "checkpoint.every": 1, **dict(changes),
    })
    config.evaluation.pool = pool
    for stage in config.stages.values():
        stage.steps, stage.prompts, stage.samples, stage.pool = STEPS // 3, 4, 4, pool
        stage.sampling.max_new_tokens = 8
    return plain(config)


def run_of(fields):
    spec = run_spec(fields)
    terminal = Terminal(spec.total_steps, console=Console(quiet=True))
    return loop.Run(spec, Path(spec.model), terminal, fields)


@pytest.fixture(scope="module")
def judged():
    """Rewards that a random model can earn: even lengths are called correct, so advantages are not all zero."""
    patch = pytest.MonkeyPatch()
    judge = loop.Dialogue.judge

    def parity(self, problem, response, truncated):
        verdict = judge(self, problem, response, truncated)
        return verdict._replace(verdict="correct", reward=3.0) if len(response) % 2 else verdict

    patch.setattr(loop.Dialogue, "judge", parity)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def whole(base, judged, tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    run = run_of(fields_of(base, workdir))
    run.train()
    return run, workdir


def numbers(workdir):
    return [deterministic(record) for record in read_metrics(workdir / "metrics.jsonl")]


def params_of(workdir, step=None):
    return jax.tree.leaves(jax.device_get(restore_params(workdir, CONFIG, step)[0]))


def test_it_learns_something(whole):
    _, workdir = whole
    assert any(record["gradient_norm"] > 0 for record in numbers(workdir)[1:])
    first, last = params_of(workdir, STEPS - 1), params_of(workdir)
    assert any((a != b).any() for a, b in zip(first, last, strict=True))


@pytest.mark.parametrize(("name", "calls"), [("write_rollouts", 4), ("score_completions", 3)])
def test_a_run_that_was_killed_equals_one_that_was_not(base, whole, judged, tmp_path, monkeypatch, name, calls):
    """Law 2: the process dies inside step `calls`; the same command goes on, bit for bit."""
    fields = fields_of(base, tmp_path / "run")
    real, seen = getattr(loop, name), []

    def dies(*args):
        seen.append(args)
        if len(seen) == calls:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, name, dies)
        with pytest.raises(KeyboardInterrupt):
            run_of(fields).train()
    run_of(fields).train()
    assert numbers(tmp_path / "run") == numbers(whole[1])
    for step in range(1, STEPS + 1):
        mine, theirs = (rollout_path(folder / "rollouts", step) for folder in (tmp_path / "run", whole[1]))
        assert mine.read_bytes() == theirs.read_bytes()
    for mine, theirs in zip(params_of(tmp_path / "run"), params_of(whole[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_parameters_split_over_devices_give_the_same_run(base, whole, judged, tmp_path):
    """Law 4: parameters sharded over four devices instead of copied; the first rollout is the same to the bit."""
    fields = fields_of(base, tmp_path / "run", {"mesh.data": 1, "mesh.fsdp": -1})
    run_of(fields).train()
    mine, theirs = (read_rollouts(rollout_path(folder / "rollouts", 1)) for folder in (tmp_path / "run", whole[1]))
    assert mine == theirs
    for name in ("loss/total", "gradient_norm", "entropy"):
        assert numbers(tmp_path / "run")[1][name] == pytest.approx(numbers(whole[1])[1][name], rel=1e-4, abs=1e-6)


def test_nothing_compiles_after_the_first_stage(whole):
    """One trace for each shape, although temperature and learning rate changed from stage to stage."""
    run, _ = whole
    assert run.machine.update.traces
    assert set(run.machine.update.traces.values()) == {1}


def test_steps_ask_other_puzzles_and_draw_other_tokens(whole):
    """The trap of a seed that does not move: the same puzzle at another step must not bring the same responses."""
    groups = {}
    for step in range(1, STEPS + 1):
        for group in read_rollouts(rollout_path(whole[1] / "rollouts", step)):
            groups.setdefault(group.problem, []).append([response.response for response in group.responses])
    asked_again = [texts for texts in groups.values() if len(texts) > 1]
    assert asked_again
    assert all(first != second for texts in asked_again for first, second in itertools.pairwise(texts))
    assert all(len(set(group)) > 1 for texts in groups.values() for group in texts)


def test_export_is_what_was_trained(whole):
    """Law 5: the exported folder holds the last checkpoint's weights to the bit."""
    exported = load_params(whole[1] / "export", CONFIG)
    for mine, theirs in zip(jax.tree.leaves(jax.device_get(exported)), params_of(whole[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("step", [1, STEPS])
def test_one_completion_is_drawn_again(whole, step):
    """Law 1 across time: the weights, the step and two indices are all that a past completion needs."""
    run, workdir = whole
    stored = read_rollouts(rollout_path(workdir / "rollouts", step))
    found = replay(run, step, 2, 3)
    assert found.identical and found.again == stored[2].responses[3].response
    assert found.prompt == stored[2].prompt


def test_what_can_not_be_drawn_again_is_said(whole):
    with pytest.raises(FileNotFoundError, match=r"after step 2, which were not kept; steps .* again: 1, 6 "):
        replay(whole[0], 3, 0, 0)
    with pytest.raises(ValueError, match="sample: expected 0 to 3"):
        replay(whole[0], 1, 0, 4)


def test_a_folder_of_another_config_is_refused_by_field(base, whole):
    fields = fields_of(base, whole[1], {"seed": 7})
    with pytest.raises(ValueError, match=r"seed \(there 0, now 7\)"):
        check_workdir(whole[1], fields)


def test_evaluation_puzzles_were_never_trained_on(whole):
    run, _ = whole
    held_out = {problem.id for problem in run.held_out}
    assert not held_out & {problem.id for pool in run.pools.values() for problem in pool}


def test_a_manifest_tells_what_is_no_longer_as_it_was(whole, tmp_path):
    """The past run's own numbers rest on rule and problems; all else is told, one line each."""
    run, workdir = whole
    then, fields = read_past_run(workdir / "manifest.json", tmp_path / "again")
    assert fields == run.config | {"workdir": str(tmp_path / "again")}
    now = run.manifest()
    assert compare_manifests(then, now) == []
    older = then | {"commit": "abc", "versions": then["versions"] | {"jax": "0.1"}}
    assert compare_manifests(older, now) == [
        f"not as then: commit was 'abc', is {now['commit']!r}",
        f"not as then: versions.jax was '0.1', is {now['versions']['jax']!r}"]
    other = run_of(fields | {"seed": 1}).manifest()
    with pytest.raises(ValueError, match=r"can't be repeated: problems\.held_out\.hash \(then .*commit it was made"):
        compare_manifests(then, other)
    with pytest.raises(ValueError, match=r"rule \(then 'strict-0', now 'strict-1'\)"):
        compare_manifests(then | {"rule": "strict-0"}, now)


def test_a_past_run_is_not_repeated_into_its_own_folder(whole):
    with pytest.raises(ValueError, match="is the run that is to be repeated"):
        read_past_run(whole[1] / "manifest.json", whole[1])
    with pytest.raises(FileNotFoundError, match=r"found no .*no_such/manifest\.json"):
        read_past_run(whole[1] / "no_such" / "manifest.json", whole[1])
