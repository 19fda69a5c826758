"""The shortest run that holds the laws of a run together: two steps, killed, resumed and exported."""

import jax
import numpy as np
import pytest

from jaxrl.reporting.rollouts import read_rollouts, rollout_path
from jaxrl.training import run_log
from models.convert import load_params

pytestmark = pytest.mark.check

TWO_STEPS = {"stages.stage1.steps": 1, "stages.stage2.steps": 1, "evaluation.samples": 1}


def test_a_killed_run_of_two_steps_resumes_exactly_and_exports_its_weights(small, judged, tmp_path, monkeypatch):
    """Killed while the second step is written: the same command gives the same numbers, rollouts and weights."""
    fields = small.fields(tmp_path / "killed", TWO_STEPS)
    undisturbed = small.fields(tmp_path / "undisturbed", TWO_STEPS)
    for config in (fields, undisturbed):
        del config["stages"]["stage3"]
    small.run(undisturbed).train()
    write = run_log.write_rollouts

    def killed(folder, step, groups):
        if step == 2:
            raise KeyboardInterrupt
        return write(folder, step, groups)

    with monkeypatch.context() as patch:
        patch.setattr(run_log, "write_rollouts", killed)
        with pytest.raises(KeyboardInterrupt):
            small.run(fields).train()
    small.run(fields).train()
    first, second = tmp_path / "killed", tmp_path / "undisturbed"
    records = small.numbers(first)
    assert records == small.numbers(second) and [record["step"] for record in records] == [0, 1, 2]
    assert all(record["gradient_norm"] > 0 and record["mismatch/max"] < 1e-3 for record in records[1:])
    for step in (1, 2):
        assert (
            rollout_path(first / "rollouts", step).read_bytes() == rollout_path(second / "rollouts", step).read_bytes()
        )
    responses = [each for group in read_rollouts(rollout_path(first / "rollouts", 1)) for each in group.responses]
    assert {each.sound for each in responses} == {False} and all(each.error for each in responses)  # noise
    assert records[1]["share/sound"] == records[0]["evaluation/p3/sampled/sound"] == 0
    assert sum(value for name, value in records[1].items() if name.startswith("reasoning_errors/")) == 1
    exported = jax.tree.leaves(jax.device_get(load_params(first / "export", small.config)))
    for mine, theirs, written in zip(small.params(first), small.params(second), exported, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(mine, written)
