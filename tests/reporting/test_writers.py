"""metrics.jsonl survives being killed; wandb can't hurt a run."""

import json
import math
import sys
import threading
import time
import types

import numpy as np
import pytest

from jaxrl.reporting.writers import (
    JsonlWriter,
    WandbSpec,
    WandbWriter,
    is_logged_in,
    read_metrics,
    stored_run_id,
    wandb_modes,
)


def run(path, steps, restored=None):
    writer = JsonlWriter(path, restored)
    for step in steps:
        writer.write(
            {"step": step, "reward/mean": step / 3, "share/correct": np.float32(step) / np.float32(7)}
        )
    writer.close()


def test_a_killed_and_resumed_file_is_the_file_of_an_unbroken_run(tmp_path):
    run(tmp_path / "whole.jsonl", range(9))
    broken = tmp_path / "broken.jsonl"
    run(broken, range(6))
    with open(broken, "ab") as stream:
        stream.write(b'{"step": 6, "reward/me')  # killed in the middle of a line
    run(broken, range(5, 9), restored=4)
    assert broken.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_values_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    value = np.float32(0.1)
    writer.write(
        {"step": 1, "loss/total": value, "reward/mean": math.nan, "ratio/mean": -math.inf, "stage": "one"}
    )
    record = read_metrics(path)[0]
    assert np.float32(record["loss/total"]) == value
    assert record["loss/total"] == float(value)
    assert math.isnan(record["reward/mean"])
    assert record["ratio/mean"] == -math.inf
    json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON: no bare NaN


def test_a_record_is_on_disk_when_write_returns(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.write({"step": 1})
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    with pytest.raises(ValueError, match="written already"):
        writer.write({"step": 1})


def test_a_missing_step_and_a_spoilt_line_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    run(path, [1, 2, 4])
    with pytest.raises(ValueError, match="step 3 is missing"):
        JsonlWriter(path, restored_step=4)
    path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_modes_follow_the_login_and_the_environment(tmp_path):
    nobody = {"HOME": str(tmp_path)}
    assert wandb_modes("auto", nobody) == ("offline",)
    assert wandb_modes("auto", nobody | {"WANDB_API_KEY": "k"}) == ("online", "offline")
    assert wandb_modes("online", nobody | {"WANDB_MODE": "offline"}) == ("offline",)
    assert wandb_modes("online", nobody | {"WANDB_MODE": "disabled"}) == ()
    assert wandb_modes("off", nobody | {"WANDB_API_KEY": "k"}) == ()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert is_logged_in(nobody)
    with pytest.raises(ValueError, match="offline"):
        WandbSpec(mode="of")


@pytest.fixture
def fake_wandb(monkeypatch):
    """A wandb that remembers what it was given and fails where it is told to."""
    fake = types.ModuleType("wandb")
    fake.logged, fake.inits, fake.fail, fake.hang = [], [], set(), threading.Event()

    class Run:
        def define_metric(self, *names, **options): ...

        def log(self, record):
            if "log" in fake.fail:
                raise BrokenPipeError("service died")
            if "hang" in fake.fail:
                fake.hang.wait(60)
            fake.logged.append(record)

        def finish(self): ...

    def init(**options):
        fake.inits.append(options)
        if options["mode"] in fake.fail:
            raise RuntimeError("no network\nlong trace")
        return Run()

    fake.init, fake.Settings = init, lambda **options: options
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", "online")
    yield fake
    fake.hang.set()


def test_wandb_gets_every_record_and_the_same_id_after_resume(tmp_path, fake_wandb):
    for first in (1, 3):
        writer = WandbWriter(WandbSpec(), tmp_path, {"seed": 1})
        writer.write({"step": first, "reward/mean": 0.5, "warnings": ["kept in the file only"]})
        writer.close()
    assert fake_wandb.logged == [{"step": 1, "reward/mean": 0.5}, {"step": 3, "reward/mean": 0.5}]
    assert {options["id"] for options in fake_wandb.inits} == {stored_run_id(tmp_path)}


def test_wandb_without_network_goes_offline(tmp_path, fake_wandb):
    fake_wandb.fail = {"online"}
    writer = WandbWriter(WandbSpec(), tmp_path, {})
    writer.write({"step": 1})
    writer.close()
    assert [options["mode"] for options in fake_wandb.inits] == ["online", "offline"]
    assert fake_wandb.logged == [{"step": 1}]


@pytest.mark.parametrize("failure", [{"online", "offline"}, {"log"}])
def test_a_wandb_failure_is_one_sentence_and_the_run_goes_on(tmp_path, fake_wandb, failure):
    fake_wandb.fail, said = failure, []
    writer = WandbWriter(WandbSpec(), tmp_path, {}, said.append)
    for step in range(3):
        writer.write({"step": step})
        time.sleep(0.02)
    writer.close()
    assert len(said) == 1
    assert "\n" not in said[0]


def test_a_hanging_wandb_holds_nothing_up(tmp_path, fake_wandb):
    fake_wandb.fail, said = {"hang"}, []
    writer = WandbWriter(WandbSpec(close_timeout=0.1), tmp_path, {}, said.append)
    for step in range(5000):  # more than the queue holds
        writer.write({"step": step})
    writer.close()
    assert fake_wandb.logged == []  # everything above was over before wandb took the first record
    assert "left behind" in said[0]


def test_wandb_off_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    writer = WandbWriter(WandbSpec(mode="off"), tmp_path, {}, pytest.fail)
    writer.write({"step": 1})
    writer.close()
    assert list(tmp_path.iterdir()) == []
