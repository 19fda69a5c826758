"""The command `jaxrl.sweep`: a small sweep that is stopped and goes on, and what is refused before anything starts."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from jaxrl.base_model.trainer import save_base
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.state import init_params
from jaxrl.reporting.run_folder import read_run
from jaxrl.sweep import plan
from models.config import Qwen2Config
from models.qwen2 import Qwen2
from models.vocabulary import build_tokenizer

ROOT = Path(__file__).parents[1]
CONFIG = Qwen2Config(288, 16, 32, 2, 2, 1, 8, rope_theta=1e4, tie_word_embeddings=True, max_position_embeddings=256)
FORMAT = "configs/ablations/format_reward.py:tiny"
SMALL = {
    "steps": 2,
    "prompts": 4,
    "samples": 4,
    "pool.p3": 8,
    "sampling.max_new_tokens": 8,
    "unroll": 1,
    "evaluation.pool.p2": 0,
    "evaluation.pool.p3": 4,
    "evaluation.samples": 1,
    "evaluation.max_new_tokens": 8,
    "layout.micro_tokens": 512,
    "layout.multiple": 64,
    "layout.ratio": 2.0,
    "wandb.mode": "off",
    "checkpoint.every": 1,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model of a few thousand parameters."""
    folder = tmp_path_factory.mktemp("base") / "model"
    params = init_params(Qwen2(CONFIG), make_mesh(MeshSpec(data=1), jax.devices()[:1]), jax.random.key(3))
    tokenizer = build_tokenizer(["Ann says: Bob is a knave and Ann is a knight. Who is what?"], 288)
    save_base(folder, params, CONFIG, tokenizer)
    return folder


def command(path, workdir, *flags, fields=()):
    """The sweep as a process."""
    given = [f"--config.{name}={value}" for name, value in dict(fields).items()]
    return subprocess.Popen(
        [sys.executable, "-m", "jaxrl.sweep", f"--config={path}", f"--workdir={workdir}", *given, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process, status=0):
    out, err = process.communicate(timeout=500)
    assert process.returncode == status, out + err
    return out, err


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_sweep_that_was_stopped_goes_on_and_leaves_finished_runs_alone(base, tmp_path):
    workdir, fields = tmp_path / "sweep", SMALL | {"model": base, "compile_cache": tmp_path / "compiled"}

    def again(*flags):
        return command(FORMAT, workdir, "--seeds=3", *flags, fields=fields)

    first, second = workdir / "strict_seed3", workdir / "answer_only_seed3"
    process = again()
    while not second.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = said(process, status=75)
    assert err == "jaxrl.sweep: stopped by SIGTERM; start the same command again to go on.\n"
    listed = [line.split("\t") for line in said(again("--list"))[0].splitlines()]
    assert [line[:4] for line in listed] == [["0", "strict", "3", str(first)], ["1", "answer_only", "3", str(second)]]
    assert listed[0][4] == "finished" and listed[1][4] in ("to do", "step 1 of 2")  # its child was stopped too

    before = times(first)
    out, _ = said(again())
    assert "0: strict, seed 3: finished\n" in out and "1: answer_only, seed 3: finished in" in out
    assert times(first) == before
    # Trained by two rules, evaluated by one: else the two could not stand in one table.
    runs = [read_run(folder) for folder in (first, second)]
    assert [run.config["reward"]["rule"] for run in runs] == ["strict-1", "answer-only-1"]
    assert {run.config["compile_cache"] for run in runs} == {str(tmp_path / "compiled")}
    assert any((tmp_path / "compiled").iterdir())
    assert {result.rule for run in runs for result in run.evaluations} == {"strict-1"}
    table = (workdir / "table.md").read_text(encoding="utf-8")
    assert table in out and "Not comparable" not in table
    assert "| strict | 1 of 1 | 2 |" in table and "| answer_only | 1 of 1 | 2 |" in table

    (workdir / "table.md").unlink()
    (workdir / "report.html").unlink()
    assert table in said(again("--report"))[0]
    assert (workdir / "report.html").exists() and "strict (n = 1)" in (workdir / "plot.svg").read_text()


SWEEP = """
from configs import stage1

def get_config(size=""):
    return stage1.get_config(size)

def get_sweep(size=""):
    return {"settings": {"plain": {}, SETTING}, "seeds": (0, 1)}
"""


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ('"hot": {"sampling.temperatur": 2.0}', 'setting hot: Did you mean "temperature" instead of "temperatur"?'),
        ('"hot": {"sampling.hotness": 2.0}', "setting hot: the config has no field 'hotness'"),
        ('"hot": {"samples": "many"}', "setting hot: .*samples=many"),
        ('"few": {"samples": 1}', "setting few: stage1.samples: expected 2 or more, as .*, got 1"),
        ('"a/b": {}', "setting 'a/b': expected a name"),
        ('"cold": {"init_from": "/no/run"}', "setting cold: this run starts from /no/run"),
    ],
)
def test_every_setting_is_checked_and_named_before_anything_starts(tmp_path, setting, told):
    file = tmp_path / "mine.py"
    file.write_text(SWEEP.replace("SETTING", setting))
    with pytest.raises(ValueError, match=told):
        plan(f"{file}:tiny", {}, tmp_path / "sweep")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_what_the_sweep_sets_can_not_be_given_too(tmp_path):
    with pytest.raises(ValueError, match=r"setting strict: reward.rule is set by the sweep"):
        plan(FORMAT, {"reward.rule": "strict-1"}, tmp_path)
    with pytest.raises(ValueError, match=r"setting strict: seed is set by the sweep"):
        plan(FORMAT, {"seed": 1}, tmp_path)


def test_the_runs_are_what_the_command_line_would_make_of_them(tmp_path):
    members = plan(FORMAT, {"steps": 3}, tmp_path / "s", seeds=[4, 5])
    assert [(member.index, member.setting, member.seed) for member in members] == [
        (0, "strict", 4),
        (1, "strict", 5),
        (2, "answer_only", 4),
        (3, "answer_only", 5),
    ]
    assert {member.steps for member in members} == {3}
    assert members[3].arguments == (
        "-m",
        "jaxrl.train",
        f"--config={FORMAT}",
        "--config.steps=3",
        "--config.reward.rule=answer-only-1",
        "--config.seed=5",
        f"--workdir={tmp_path / 's' / 'answer_only_seed5'}",
        "--processes=1",
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--index=6"], "--index: expected 0 to 5, got 6"),
        (["--devices=0", "--parallel=2"], "got both"),
        (["--devices="], "--devices: expected different devices"),
        (["--seeds=0,x"], "--seeds: expected different whole numbers"),
        (["--stop_losers=5"], "--stop_losers=5: expected a step before the last (20) after which runs are evaluated"),
        (["--stop_losers=20", "--config.evaluation.every=5"], "--stop_losers=20: expected a step before the last (20)"),
    ],
)
def test_wrong_flags_are_refused_in_one_sentence(tmp_path, flags, told):
    workdir = tmp_path / "sweep"
    _, err = said(command(FORMAT, workdir, *flags), status=2)
    assert told in err and "Traceback" not in err
    assert not workdir.exists()


def test_a_file_without_settings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no get_sweep"):
        plan("configs/stage1.py:tiny", {}, tmp_path)
