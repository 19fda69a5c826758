"""The command `jaxrl.sweep`: a small sweep is stopped and resumed, and errors are reported before a run starts."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrl.reporting.run_folder import read_run
from jaxrl.sweep import main, plan_sweep

ROOT = Path(__file__).parents[1]
FORMAT = "configs/ablations/format_reward.py:tiny"
SMALL = {
    "steps": 2,
    "prompts": 4,
    "samples": 4,
    "pool.p3": 8,
    "sampling.max_new_tokens": 8,
    "unroll": 1,
    "sampler.devices": 0,
    "sampler.rows": 16,
    "evaluation.pool.p2": 0,
    "evaluation.pool.p3": 4,
    "evaluation.samples": 1,
    "evaluation.max_new_tokens": 8,
    "layout.micro_tokens": 512,
    "layout.multiple": 64,
    "layout.ratio": 2.0,
    "wandb.mode": "off",
    "checkpoint.every": 1,
    "compile_cache": "",
}


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_stopped_sweep_resumes_and_does_not_change_finished_runs(small, tmp_path, capsys):
    workdir = tmp_path / "sweep"
    fields = [f"--config.{name}={value}" for name, value in (SMALL | {"model": small.base}).items()]
    arguments = [f"--config={FORMAT}", f"--workdir={workdir}", *fields, "--seeds=3"]
    first, second = workdir / "strict_seed3", workdir / "answer_only_seed3"
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxrl.sweep", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not second.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 75, out + err
    assert err.startswith("jaxrl.sweep: stopped by SIGTERM; ") and err.count("\n") == 1
    assert main([*arguments, "--list"]) == 0
    listed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in listed] == [["0", "strict", "3", str(first)], ["1", "answer_only", "3", str(second)]]
    assert listed[0][4] == "finished" and listed[1][4] in ("to do", "step 1 of 2")  # its child was stopped too

    before = modification_times(first)
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "0: strict, seed 3: finished\n" in out and "1: answer_only, seed 3: finished in" in out
    assert modification_times(first) == before
    # Trained with two rules and evaluated with one, so that the two are comparable.
    runs = [read_run(folder) for folder in (first, second)]
    assert [run.config["reward"]["rule"] for run in runs] == ["strict-2", "answer-only-2"]
    assert {result.rule for run in runs for result in run.evaluations} == {"strict-2"}
    table = (workdir / "table.md").read_text(encoding="utf-8")
    assert table in out and "Not comparable" not in table
    assert "| strict | 1 of 1 | 2 |" in table and "| answer_only | 1 of 1 | 2 |" in table

    (workdir / "table.md").unlink()
    (workdir / "report.html").unlink()
    assert main([*arguments, "--report"]) == 0
    assert table in capsys.readouterr().out
    assert (workdir / "report.html").exists() and "strict (n = 1)" in (workdir / "plot.svg").read_text()


SWEEP = """
from configs import stage1

def get_config(size=""):
    return stage1.get_config(size)

def get_sweep(size=""):
    return {"settings": {"plain": {}, SETTING}, "seeds": (0, 1)}
"""


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('"hot": {"sampling.temperatur": 2.0}', 'setting hot: .*"?temperature'),
        ('"hot": {"sampling.hotness": 2.0}', "setting hot: .*hotness"),
        ('"hot": {"samples": "many"}', "setting hot: .*many"),
        ('"few": {"samples": 1}', "setting few: stage1.samples: expected 2 or more, .*, got 1"),
        ('"a/b": {}', "setting 'a/b': expected a name"),
        ('"cold": {"init_from": "/no/run"}', "setting cold: .*/no/run"),
    ],
)
def test_every_setting_is_checked_before_a_run_starts(tmp_path, setting, message):
    file = tmp_path / "mine.py"
    file.write_text(SWEEP.replace("SETTING", setting))
    with pytest.raises(ValueError, match=message):
        plan_sweep(f"{file}:tiny", {}, tmp_path / "sweep")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_fields_set_by_the_sweep_cannot_be_overridden(tmp_path):
    with pytest.raises(ValueError, match=r"setting strict: reward.rule is set by the sweep"):
        plan_sweep(FORMAT, {"reward.rule": "strict-2"}, tmp_path)
    with pytest.raises(ValueError, match=r"setting strict: seed is set by the sweep"):
        plan_sweep(FORMAT, {"seed": 1}, tmp_path)


def test_runs_and_their_command_lines(tmp_path):
    runs = plan_sweep(FORMAT, {"steps": 3}, tmp_path / "s", seeds=[4, 5])
    assert [(run.index, run.setting, run.seed) for run in runs] == [
        (0, "strict", 4),
        (1, "strict", 5),
        (2, "answer_only", 4),
        (3, "answer_only", 5),
    ]
    assert {run.steps for run in runs} == {3}
    assert runs[3].arguments == (
        "-m",
        "jaxrl.train",
        f"--config={FORMAT}",
        "--config.steps=3",
        "--config.reward.rule=answer-only-2",
        "--config.seed=5",
        f"--workdir={tmp_path / 's' / 'answer_only_seed5'}",
        "--processes=1",
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--index=6"], "--index: expected 0 to 5, got 6"),
        (["--devices=0", "--parallel=2"], "got both"),
        (["--devices="], "--devices: expected different devices"),
        (["--seeds=0,x"], "--seeds: expected different whole numbers"),
    ],
)
def test_invalid_flags_are_errors_of_one_sentence(tmp_path, flags, message, capsys):
    workdir = tmp_path / "sweep"
    assert main([f"--config={FORMAT}", f"--workdir={workdir}", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not workdir.exists()


def test_config_file_without_settings_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has no get_sweep"):
        plan_sweep("configs/stage1.py:tiny", {}, tmp_path)
