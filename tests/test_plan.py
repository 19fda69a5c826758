"""`jaxrl.plan` reports whether a run fits, as text or as one JSON object; invalid arguments are one-sentence errors."""

import importlib
import json

import pytest

from jaxrl import plan
from jaxrl.command_line import plain
from jaxrl.planning.plan import Job, plan_shapes
from jaxrl.planning.report import plan_report
from jaxrl.runtime.hardware import read_devices
from jaxrl.training.run_spec import run_spec
from models.config import preset
from models.folder import read_config


def test_stage_2_on_four_a100s(capsys):
    assert plan.main(["--config=configs/stage2.py", "--devices=4xA100-80GB", "--shapes", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["fits"] is True and report["source"] == "shapes" and report["advice"] == ""
    assert (report["prompt_tokens"], report["response_tokens"]) == (256, 2048)
    assert [phase["name"] for phase in report["phases"]] == ["sync", "prefill", "decode", "reference", "update"]
    for phase in report["phases"]:
        assert phase["bytes_per_device"] == sum(phase["parts"].values()) <= 72 * 2**30 < report["device_bytes"]
    assert report["largest"]["layout.micro_tokens"] > 16_384 and report["largest"]["sampler.rows"] > 128
    assert [step["stage"] for step in report["steps"]] == ["stage2"]


def test_run_that_does_not_fit(capsys):
    assert plan.main(["--config=configs/stage2.py:32b", "--devices=64xH100-80GB", "--shapes"]) == 1
    text = capsys.readouterr().out
    assert "64 x H100-80GB in 8 hosts (data 1, fsdp 64, tensor 1)" in text
    assert "It does not fit: this run needs" in text and "--config.mesh.tensor=4" in text
    assert "stage2: 512 responses of 2048 tokens" in text and "all-gather" in text


def test_tiny_model_on_a_cpu_with_its_own_prompts(capsys):
    assert plan.main(["--config=configs/stage1.py:tiny", "--devices=cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"] == [] and report["source"] == "shapes"
    assert 40 < report["prompt_tokens"] < 160 and report["response_tokens"] == 352


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config=configs/stage2.py"], "expected --devices=cpu"),
        (
            ["--config=configs/stage2.py", "--devices=1xH200", "--prompt_tokens=0"],
            "--prompt-tokens: expected 1 or more",
        ),
        (["--config=configs/stage2.py", "--devices=1xH200", "--config.model=none/such"], "unknown preset 'none/such'"),
        (
            ["--config=configs/stage2.py", "--devices=1xH200", "--config.sampling.max_new_tokens=300000"],
            "expected at most 262144 tokens",
        ),
        (["--config=configs/stage2.py:0.5b", "--devices=cpu"], "attention: expected plain on a CPU"),
    ],
)
def test_invalid_arguments_are_errors_of_one_sentence(arguments, sentence, capsys):
    assert plan.main(arguments) == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("stage", "size", "devices", "fits"),
    [
        *(
            (stage, *setup)
            for stage in ("stage1", "stage2", "stage3", "three_stage")
            for setup in (("7b", "4xA100-80GB", True), ("tiny", "cpu", True))
        ),
        ("stage1", "7b", "1xH200", False),
        ("three_stage", "7b", "2xA100-40GB", False),
    ],
)
def test_report_of_every_stage(stage, size, devices, fits):
    """The report of the command, from shapes."""
    spec = run_spec(plain(importlib.import_module(f"configs.{stage}").get_config(size)))
    config = read_config("models/tiny") if size == "tiny" else preset(spec.model.path)
    planned = Job(spec, config, 76 if size == "tiny" else 256, read_devices(devices))
    report = json.loads(json.dumps(plan_report(plan_shapes(planned), None)))
    assert report["source"] == "shapes"
    for phase in report["phases"]:
        assert set(phase) == {"name", "bytes_per_device", "parts"}
        assert phase["bytes_per_device"] == sum(phase["parts"].values())
    largest = max(phase["bytes_per_device"] for phase in report["phases"])
    assert report["fits"] is (largest <= report["device_bytes"]) is fits
    assert bool(report["advice"]) is not fits
    stages = ["stage1", "stage2", "stage3"] if stage == "three_stage" else [stage]
    assert [step["stage"] for step in report["steps"]] == ([] if devices == "cpu" else stages)
