"""Laws of a whole run, on a random model of a few thousand parameters: exact resume, layouts, traces, export."""

import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import generate
from jaxrl.checkpointing.fingerprint import fingerprint
from jaxrl.inference.load import find_model
from jaxrl.reporting.manifest import compare_manifests, read_past_run
from jaxrl.reporting.rollouts import read_rollouts, rollout_path, write_rollouts
from jaxrl.training import rollout, run_log
from jaxrl.training.replay import replay
from jaxrl.training.workdir import check_workdir
from models.convert import load_params, save_params

STEPS = 6


def test_it_learns_something(small, whole):
    _, workdir = whole
    assert any(record["gradient_norm"] > 0 for record in small.numbers(workdir)[1:])
    first, last = small.params(workdir, STEPS - 1), small.params(workdir)
    assert any((a != b).any() for a, b in zip(first, last, strict=True))


def test_the_terminal_shows_the_progress_of_sampling(whole):
    run, _ = whole
    assert run.phases.count(("rollout", 16, 16)) == STEPS
    assert run.phases.count(("evaluation, greedy", 6, 6)) == run.phases.count(("evaluation, sampled", 12, 12)) == 2


@pytest.mark.parametrize(
    ("module", "name", "calls"), [(run_log, "write_rollouts", 4), (rollout, "score_completions", 3)]
)
def test_a_killed_run_resumes_exactly(small, whole, judged, tmp_path, monkeypatch, module, name, calls):
    """Law 2: the process dies inside step `calls`; the same command resumes, bit for bit."""
    fields = small.fields(tmp_path / "run")
    real, seen = getattr(module, name), []

    def dies(*args):
        seen.append(args)
        if len(seen) == calls:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, dies)
        with pytest.raises(KeyboardInterrupt):
            small.run(fields).train()
    small.run(fields).train()
    assert small.numbers(tmp_path / "run") == small.numbers(whole[1])
    for step in range(1, STEPS + 1):
        mine, theirs = (rollout_path(folder / "rollouts", step) for folder in (tmp_path / "run", whole[1]))
        assert mine.read_bytes() == theirs.read_bytes()
    for mine, theirs in zip(small.params(tmp_path / "run"), small.params(whole[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_sharded_parameters_give_the_same_run(small, whole, judged, tmp_path):
    """Law 4: parameters sharded over four devices instead of copied; the first rollout is the same to the bit."""
    fields = small.fields(tmp_path / "run", {"devices": 0, "mesh.data": 1, "mesh.fsdp": -1})
    small.run(fields).train()
    mine, theirs = (read_rollouts(rollout_path(folder / "rollouts", 1)) for folder in (tmp_path / "run", whole[1]))
    assert mine == theirs
    for name in ("loss/total", "gradient_norm", "entropy"):
        mine, theirs = (small.numbers(folder)[1][name] for folder in (tmp_path / "run", whole[1]))
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_nothing_compiles_after_the_first_stage(whole):
    """One trace for each shape, although temperature and learning rate changed from stage to stage."""
    run, _ = whole
    assert run.components.update.traces
    assert set(run.components.update.traces.values()) == {1}


def test_steps_have_different_puzzles_and_sample_different_tokens(whole):
    """A constant seed would give the same responses to a puzzle at every step."""
    groups = {}
    for step in range(1, STEPS + 1):
        for group in read_rollouts(rollout_path(whole[1] / "rollouts", step)):
            groups.setdefault(group.problem, []).append([response.response for response in group.responses])
    repeated = [texts for texts in groups.values() if len(texts) > 1]
    assert repeated
    assert all(first != second for texts in repeated for first, second in itertools.pairwise(texts))
    assert all(len(set(group)) > 1 for texts in groups.values() for group in texts)


def test_the_export_has_the_trained_weights(small, whole):
    """Law 5: the exported folder holds the last checkpoint's weights to the bit."""
    exported = load_params(whole[1] / "export", small.config)
    for mine, theirs in zip(jax.tree.leaves(jax.device_get(exported)), small.params(whole[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("step", [1, STEPS])
def test_a_completion_is_replayed(whole, step):
    """Law 1 across time: a past completion depends only on the weights, the step and two indices."""
    run, workdir = whole
    stored = read_rollouts(rollout_path(workdir / "rollouts", step))
    found = replay(run, step, 2, 3)
    assert found.identical and found.again.text == stored[2].responses[3].response
    assert found.prompt == stored[2].prompt


def test_a_run_for_gpus_can_be_inspected_but_not_trained_on_a_cpu(small, tmp_path):
    """Replaying a completion does not use the learner's attention."""
    run = small.run(small.fields(tmp_path / "run", {"attention": "cudnn", "dtype": "bfloat16"}))
    with pytest.raises(ValueError, match="attention: expected plain on a CPU, which has no cuDNN"):
        run.train()
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_replayed_is_an_error(whole):
    with pytest.raises(FileNotFoundError, match=r"after step 2, and that checkpoint was not kept; steps .*: 1, 6 "):
        replay(whole[0], 3, 0, 0)
    with pytest.raises(ValueError, match="sample: expected 0 to 3"):
        replay(whole[0], 1, 0, 4)


def test_replay_reports_whether_the_completion_is_identical(whole, tmp_path, monkeypatch, capsys):
    """Status 0, 1 or 2; text, length and end are compared separately."""
    folder = tmp_path / "run"
    shutil.copytree(whole[1], folder, ignore=shutil.ignore_patterns("checkpoints", "export"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def command(sample, step=1):
        return generate.main(["--replay=~/run", f"--step={step}", "--prompt=2", f"--sample={sample}"])

    groups = read_rollouts(rollout_path(folder / "rollouts", 1))
    stored = groups[2].responses[:3]
    changed = [
        {"response": stored[0].response + "x"},
        {"length": stored[1].length + 1},
        {"finished": not stored[2].finished},
    ]
    responses = [response._replace(**change) for response, change in zip(stored, changed, strict=True)]
    groups[2] = groups[2]._replace(responses=(*responses, *groups[2].responses[3:]))
    write_rollouts(folder / "rollouts", 1, groups)
    length, finished = stored[1].length, stored[2].finished
    for sample, message in enumerate(
        ("text", f"length (stored {length + 1}, now {length})", f"finished (stored {not finished}, now {finished})")
    ):
        assert command(sample) == 1
        assert f"--- DIFFERS from what step 1 stored: {message}\n" in capsys.readouterr().out
    assert command(3) == 0
    assert (
        capsys.readouterr().out == f"{groups[2].prompt}{groups[2].responses[3].response}\n"
        "--- identical to what step 1 stored\n"
    )
    assert command(4) == command(0, step=3) == 2
    assert "sample: expected 0 to 3" in (message := capsys.readouterr().err) and "was not kept" in message


def test_a_run_resolves_to_its_newest_checkpoint(whole):
    """As a number, so that a file of completions is not resumed with later weights."""
    assert find_model(str(whole[1])).step == find_model(f"{whole[1]}@{STEPS}").step == STEPS
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 99"):
        find_model(f"{whole[1]}@99")


def test_a_folder_of_another_config_is_refused_by_field(small, whole):
    fields = small.fields(whole[1], {"seed": 7})
    with pytest.raises(ValueError, match=r"seed \(there 0, now 7\)"):
        check_workdir(whole[1], fields)


def test_evaluation_puzzles_are_not_training_puzzles(whole):
    run, _ = whole
    held_out = {problem.id for problem in run.problem_set.held_out}
    assert not held_out & {problem.id for pool in run.problem_set.pools.values() for problem in pool}


def test_a_manifest_lists_what_has_changed(small, whole, tmp_path):
    """A change of rule or problems is an error; other changes are one line each."""
    run, workdir = whole
    then, fields = read_past_run(workdir / "manifest.json", tmp_path / "again")
    assert fields == run.config | {"workdir": str(tmp_path / "again")}
    now = run.manifest()
    assert compare_manifests(then, now) == []
    older = then | {"commit": "abc", "versions": then["versions"] | {"jax": "0.1"}}
    assert compare_manifests(older, now) == [
        f"changed since: commit was 'abc', is {now['commit']!r}",
        f"changed since: versions.jax was '0.1', is {now['versions']['jax']!r}",
    ]
    other = small.run(fields | {"seed": 1}).manifest()
    with pytest.raises(ValueError, match=r"cannot be reproduced: problems\.held_out\.hash \(then .*commit it was made"):
        compare_manifests(then, other)
    with pytest.raises(ValueError, match=r"rule \(then 'strict-0', now 'strict-2'\)"):
        compare_manifests(then | {"rule": "strict-0"}, now)


def test_a_past_run_is_not_reproduced_from_other_weights(small, whole, tmp_path):
    """A run is identified by its initial weights, at any step; one different bit is an error."""
    run, workdir = whole
    then, fields = read_past_run(workdir / "manifest.json", tmp_path / "again")
    config = small.config
    params = load_params(small.base, config)
    assert (
        then["weights"]
        == fingerprint(params)
        == run.manifest()["weights"]
        != fingerprint(load_params(workdir / "export", config))
    )
    leaves, tree = jax.tree.flatten(params)
    changed = jax.tree.unflatten(tree, [jnp.nextafter(leaves[0], jnp.full_like(leaves[0], jnp.inf)), *leaves[1:]])
    shutil.copytree(small.base, tmp_path / "model")
    save_params(tmp_path / "model", changed, config, source_folder=small.base)
    other = small.run(fields | {"model": str(tmp_path / "model")})
    with pytest.raises(ValueError, match=r"cannot be reproduced: weights \(then .*the model it started from"):
        compare_manifests(then, other.manifest())
    assert not (tmp_path / "again").exists()


def test_a_past_run_is_not_reproduced_into_its_own_folder(whole):
    with pytest.raises(ValueError, match="is the folder of the run to reproduce"):
        read_past_run(whole[1] / "manifest.json", whole[1])
    with pytest.raises(FileNotFoundError, match=r"got no .*no_such/manifest\.json"):
        read_past_run(whole[1] / "no_such" / "manifest.json", whole[1])
