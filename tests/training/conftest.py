"""Runs with a step that the guard rejects."""

import numpy as np
import pytest
from fixtures.recovery import SPARSE

from jaxrl.training.step import Step


def poison(patch):
    """Make the advantages of step 4 NaN, before the first reseed."""
    real = Step.collect

    def collect(self, state, reference, plan, timed):
        collected = real(self, state, reference, plan, timed)
        if plan.step == 4 and plan.reseeds == 0:
            nan = np.full_like(collected.batch.advantages, np.nan)
            collected = collected._replace(batch=collected.batch._replace(advantages=nan))
        return collected

    patch.setattr(Step, "collect", collect)


@pytest.fixture
def poisoned(monkeypatch):
    """The advantages of step 4 are NaN, before the first reseed."""
    poison(monkeypatch)


@pytest.fixture(scope="package")
def poisoned_run(small, tmp_path_factory):
    """Workdir and messages of a run that is poisoned and nothing else."""
    from fixtures.small_runs import parity_rewards

    workdir = tmp_path_factory.mktemp("poisoned") / "run"
    with pytest.MonkeyPatch.context() as patch, parity_rewards():
        poison(patch)
        small.run(small.fields(workdir, {**SPARSE, "evaluation.every": 3})).train()
    return workdir, list(small.logged)
