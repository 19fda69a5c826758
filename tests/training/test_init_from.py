"""A run that starts from another one."""

import json
import shutil

from jaxrl.training import trainer


def test_a_run_that_starts_from_the_newest_checkpoint_reads_one_step_only(small, whole, judged, tmp_path, monkeypatch):
    """The other run may still train: weights, moments and the log line are of one step, at each start."""
    source, real, loads = tmp_path / "source", trainer.first_state, []
    shutil.copytree(whole[1], source)
    shutil.move(source / "checkpoints" / "6", tmp_path / "6")

    def begin(components, spec, folder):
        if not loads:  # the other run has made a step since the newest was looked up
            shutil.move(tmp_path / "6", source / "checkpoints" / "6")
        loads.append(spec.model.init_from)
        return real(components, spec, folder)

    monkeypatch.setattr(trainer, "first_state", begin)
    run = small.run(small.fields(tmp_path / "run", {"init_from": str(source), "evaluation.samples": 1}))
    run._restore(None)
    run._restore(None)  # as the guard does when it rolls back to the beginning
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"init_from": run.spec.model.init_from}))
    small.run(run.config)._restore(None)  # another start, before a checkpoint
    assert loads == [f"{source}@5"] * 3
