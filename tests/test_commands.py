"""Commands refuse bad input with one sentence and status 2, before anything is written; importing them is quick."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def command(*arguments, module="jaxrl.train"):
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/stage1.py:tiny", "--config.sampling.temperatur=1"], 'Did you mean "temperature"'),
        (
            ["--config=configs/stage1.py:tiny", "--config.evaluation.pool.p9=3"],
            "no field 'p9', asked for by --config.eval",
        ),
        (["--config=configs/stage1.py:tinny"], "expected a size of tiny"),
        (["--config=configs/stage1.py:tiny", "--config.samples=1"], "samples: expected 2 or more"),
        (["--config=configs/stage1.py:tiny", "--config.model=/no/such/folder"], "no folder /no/such/folder"),
        (["--config=configs/stage2.py:tiny", "--config.init_from=/no/run"], "starts from /no/run"),
        ([], "expected --config=FILE.py"),
        (["--manifest=/no/such/manifest.json"], "found no /no/such/manifest.json"),
        (["--manifest=/no/such/manifest.json", "--config=configs/stage1.py:tiny"], "and no --config"),
    ],
)
def test_train_refuses_with_one_sentence(arguments, said, tmp_path):
    workdir = tmp_path / "run"
    done = command(*arguments, f"--workdir={workdir}")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not workdir.exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    done = command("--config=configs/stage1.py:tiny", f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert "is not empty and is no run folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_importing_the_command_loads_no_heavy_library():
    """What makes an import slow is named instead of timed: a clock in a test fails on a busy machine."""
    heavy = ("torch", "transformers", "wandb", "plotly", "orbax")
    code = f"import sys, jaxrl.train; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
