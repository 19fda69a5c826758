"""`jaxrl.plan` says in one object or one page whether a run fits, and refuses what it can't plan."""

import importlib
import json

import pytest

from jaxrl.flags import plain
from jaxrl.planning.plan import Job, plan_shapes
from jaxrl.planning.report import plan_report
from jaxrl.runtime.hardware import read_devices
from jaxrl.training.run_spec import run_spec
from models.config import preset
from models.folder import read_config
from tests.test_commands import command


def plan(*arguments):
    return command(*arguments, module="jaxrl.plan")


def test_stage_2_on_four_a100s():
    done = plan("--config=configs/stage2.py", "--devices=4xA100-80GB", "--shapes", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"] is True and found["source"] == "shapes" and found["advice"] == ""
    assert (found["prompt_tokens"], found["response_tokens"]) == (400, 2048)
    assert [phase["name"] for phase in found["phases"]] == ["sync", "prefill", "decode", "reference", "update"]
    for phase in found["phases"]:
        assert phase["bytes_per_device"] == sum(phase["parts"].values()) <= 72 * 2**30 < found["device_bytes"]
    assert found["largest"]["layout.micro_tokens"] > 16_384 and found["largest"]["sampler.rows"] > 128
    assert [step["stage"] for step in found["steps"]] == ["stage2"]


def test_a_model_that_nobody_has_on_the_desk():
    done = plan("--config=configs/stage2.py:32b", "--devices=64xH100-80GB", "--shapes")
    assert done.returncode == 1, done.stderr
    assert "64 x H100-80GB in 8 hosts (data 1, fsdp 64, tensor 1)" in done.stdout
    assert "It does not fit: this run needs" in done.stdout and "--config.mesh.tensor=4" in done.stdout
    assert "stage2: 512 responses of 2048 tokens" in done.stdout and "all-gather" in done.stdout


def test_the_embedded_model_on_a_cpu_with_its_own_prompts():
    done = plan("--config=configs/stage1.py:tiny", "--devices=cpu", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["steps"] == [] and found["source"] == "shapes"
    assert 40 < found["prompt_tokens"] < 160 and found["response_tokens"] == 352


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/stage2.py"], "expected --devices=cpu"),
        (["--config=configs/stage2.py", "--devices=1xH200", "--config.model=none/such"], "no preset for 'none/such'"),
        (
            ["--config=configs/stage2.py", "--devices=1xH200", "--config.sampling.max_new_tokens=300000"],
            "the model knows 262144 positions",
        ),
        (["--config=configs/stage2.py:0.5b", "--devices=cpu"], "attention: expected plain on a CPU"),
    ],
)
def test_what_can_not_be_planned_is_refused_in_one_sentence(arguments, said):
    done = plan(*arguments)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("stage", "size", "devices", "fits"),
    [
        *(
            (stage, *desk)
            for stage in ("stage1", "stage2", "stage3", "three_stage")
            for desk in (("7b", "4xA100-80GB", True), ("tiny", "cpu", True))
        ),
        ("stage1", "7b", "1xH200", False),
        ("three_stage", "7b", "2xA100-40GB", False),  # advice takes seconds
    ],
)
def test_every_stage_and_desk(stage, size, devices, fits):
    """What the command prints, made in this process from shapes."""
    spec = run_spec(plain(importlib.import_module(f"configs.{stage}").get_config(size)))
    config = read_config("models/tiny") if size == "tiny" else preset(spec.model)
    planned = Job(spec, config, 76 if size == "tiny" else 400, read_devices(devices))
    found = json.loads(json.dumps(plan_report(plan_shapes(planned), None)))
    assert found["source"] == "shapes"
    for phase in found["phases"]:
        assert set(phase) == {"name", "bytes_per_device", "parts"}
        assert phase["bytes_per_device"] == sum(phase["parts"].values())
    largest = max(phase["bytes_per_device"] for phase in found["phases"])
    assert found["fits"] is (largest <= found["device_bytes"]) is fits
    assert bool(found["advice"]) is not fits
    assert [step["stage"] for step in found["steps"]] == ([] if devices == "cpu" else stages_of(stage))


def stages_of(name):
    return ["stage1", "stage2", "stage3"] if name == "three_stage" else [name]
