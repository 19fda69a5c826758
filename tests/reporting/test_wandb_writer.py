"""wandb gets all records, and its failures never affect the run."""

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord
from jaxrl.reporting.wandb_writer import (
    WandbSpec,
    WandbWriter,
    is_logged_in,
    readable_curves,
    stored_run_id,
    wandb_modes,
)

ROOT = Path(__file__).parents[2]


def test_mode_follows_login_and_environment(tmp_path):
    logged_out = {"HOME": str(tmp_path)}
    assert wandb_modes("auto", logged_out) == ("offline",)
    assert wandb_modes("auto", logged_out | {"WANDB_API_KEY": "k"}) == ("online", "offline")
    assert wandb_modes("online", logged_out | {"WANDB_MODE": "offline"}) == ("offline",)
    assert wandb_modes("online", logged_out | {"WANDB_MODE": "disabled"}) == ()
    assert wandb_modes("off", logged_out | {"WANDB_API_KEY": "k"}) == ()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert is_logged_in(logged_out)
    with pytest.raises(ValueError, match="offline or off, got 'of'"):
        WandbSpec(mode="of")
    with pytest.raises(ValueError, match="samples of 1 or more"):
        WandbSpec(samples=0)


@pytest.fixture
def fake_wandb(monkeypatch):
    """A fake wandb that records its calls. `fail` holds the calls that fail."""
    fake = types.ModuleType("wandb")
    fake.logged, fake.inits, fake.fail, fake.hang = [], [], set(), threading.Event()

    class FakeWandbRun:
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
        run = FakeWandbRun()
        run.id = options["id"]
        return run

    fake.init, fake.Settings, fake.teardown = init, lambda **options: options, lambda: fake.inits.append("teardown")
    fake.Table = lambda columns, data: {"columns": columns, "data": data}
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", "online")
    yield fake
    fake.hang.set()


def test_all_records_are_sent_and_resume_keeps_the_id(tmp_path, fake_wandb):
    for first in (1, 3):
        writer = WandbWriter(WandbSpec(), tmp_path, {"seed": 1})
        writer.write({"step": first, "reward/mean": 0.5, "warnings": ["only in metrics.jsonl"]})
        writer.close()
    assert fake_wandb.logged == [{"step": step, "reward/mean": 0.5, "curves/mean reward": 0.5} for step in (1, 3)]
    assert {options["id"] for options in fake_wandb.inits} == {stored_run_id(tmp_path)}


def test_unreachable_server_falls_back_to_offline(tmp_path, fake_wandb):
    fake_wandb.fail, messages = {"online"}, []
    writer = WandbWriter(WandbSpec(), tmp_path, {}, messages.append)
    writer.write({"step": 1})
    writer.close()
    first, teardown, second = fake_wandb.inits
    assert (first["mode"], teardown, second["mode"]) == ("online", "teardown", "offline")
    assert fake_wandb.logged == [{"step": 1}]
    assert messages == [
        "wandb is unreachable (no network): the run is logged offline; upload it with "
        f"`wandb sync --id {stored_run_id(tmp_path)} {tmp_path}/wandb/offline-run-*`."
    ]


def test_main_curves_have_readable_names():
    record = {
        "step": 4,
        "reward/mean": 1.5,
        "share/correct": 0.25,
        "share/bad_format": 0.5,
        "length/mean": 400.0,
        "evaluation/p3/sampled/accuracy": 0.2,
        "evaluation/p3/greedy/accuracy": 0.3,
        "evaluation/all/sampled/accuracy": 0.1,
        "entropy": 0.7,
    }
    sound = {"share/sound": 0.2, "evaluation/p3/sampled/sound": 0.15}
    assert readable_curves(record | sound).items() - readable_curves(record).items() == {
        ("curves/share sound", 0.2),
        ("curves/held-out sound accuracy, 3 people", 0.15),
    }
    assert readable_curves(record) == {
        "curves/mean reward": 1.5,
        "curves/share correct": 0.25,
        "curves/share with a format error": 0.5,
        "curves/mean response length (tokens)": 400.0,
        "curves/held-out accuracy, 3 people": 0.2,
        "curves/held-out accuracy, all": 0.1,
    }
    assert readable_curves({"step": 4}) == {}


def groups(step, count):
    """`count` problems with two responses each."""
    answers = [ResponseRecord(f"words {index}", "correct", (), (), 1.0, 2.0, 3.0, 0.5, 7, True) for index in range(2)]
    return [
        GroupRecord(step, "stage1", number, f"id{number}", "p3", "prompt", "solution", tuple(answers))
        for number in range(count)
    ]


def test_response_tables_are_sent_every_samples_every_steps(tmp_path, fake_wandb):
    writer = WandbWriter(WandbSpec(samples=3, samples_every=2), tmp_path, {})
    for step in range(1, 5):
        writer.write_samples(step, groups(step, 5))
    writer.close()
    assert [entry["step"] for entry in fake_wandb.logged] == [2, 4]
    table = fake_wandb.logged[1]["samples"]
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == [
        {
            "step": 4,
            "stage": "stage1",
            "problem": f"id{number}",
            "kind": "3 people",
            "prompt": "prompt",
            "response": "words 0",
            "verdict": "correct",
            "reward": 3.0,
            "advantage": 0.5,
            "length": 7,
            "sound": None,
            "first wrong step": "",
        }
        for number in range(3)
    ]
    fake_wandb.logged.clear()
    without_tables = WandbWriter(WandbSpec(samples_every=0), tmp_path, {})
    without_tables.write_samples(10, groups(10, 5))
    without_tables.close()
    assert fake_wandb.logged == []


@pytest.mark.parametrize("failure", [{"online", "offline"}, {"log"}])
def test_wandb_failure_is_one_message_and_does_not_raise(tmp_path, fake_wandb, failure):
    fake_wandb.fail, messages = failure, []
    writer = WandbWriter(WandbSpec(), tmp_path, {}, messages.append)
    for step in range(3):
        writer.write({"step": step})
        time.sleep(0.02)
    writer.close()
    assert len(messages) == 1
    assert "\n" not in messages[0]


def test_hanging_wandb_does_not_block(tmp_path, fake_wandb):
    fake_wandb.fail, messages = {"hang"}, []
    writer = WandbWriter(WandbSpec(close_timeout=0.1), tmp_path, {}, messages.append)
    for step in range(5000):  # more than the queue holds
        writer.write({"step": step})
    writer.close()
    assert fake_wandb.logged == []  # all writes returned before wandb took the first record
    assert "the upload was abandoned" in messages[0]


def test_mode_off_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    writer = WandbWriter(WandbSpec(mode="off"), tmp_path, {}, pytest.fail)
    writer.write({"step": 1})
    writer.close()
    assert list(tmp_path.iterdir()) == []


# A resumed run: steps 0 to 2 in one process, 2 and 3 in a second one.
RUN = """
import sys
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord
from jaxrl.reporting.wandb_writer import WandbSpec, WandbWriter
first, last = int(sys.argv[2]), int(sys.argv[3])
response = ResponseRecord("words", "correct", (), (), 1.0, 2.0, 3.0, None, 7, True)
writer = WandbWriter(WandbSpec(name="warm", samples_every=2, init_timeout=float(sys.argv[4])), sys.argv[1], {"seed": 5})
for step in range(first, last):
    writer.write({"step": step, "reward/mean": step / 4, "warnings": ["none"]})
    writer.write_samples(step, [GroupRecord(step, "stage1", 0, "id", "p3", "prompt", "solution", (response,))])
writer.close()
"""


def stored(workdir):
    """Reads the records of wandb's file of an offline run.

    Format: a header of seven bytes, then protobuf messages in LevelDB's log format (doc/log_format.md of
    github.com/google/leveldb).
    """
    from wandb.proto import wandb_internal_pb2

    (path,) = workdir.glob("wandb/offline-run-*/*.wandb")
    data, offset, record, records = path.read_bytes(), 7, b"", []
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        size, kind = struct.unpack("<HB", data[offset + 4 : offset + 7])
        record, offset = record + data[offset + 7 : offset + 7 + size], offset + 7 + size
        if kind in (1, 4):  # a full record, or the last fragment of one
            records.append(wandb_internal_pb2.Record.FromString(record))
            record = b""
    return records


@pytest.mark.parametrize("login", [False, True])
def test_real_wandb_logs_offline_without_login_or_network(tmp_path, login):
    folders = {f"WANDB_{name}_DIR": str(tmp_path / "folders") for name in ("CACHE", "CONFIG", "DATA")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | folders
    environment |= {"HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"}  # nothing listens there
    environment |= {"WANDB_API_KEY": "a" * 40} if login else {}
    names = []
    for part, (first, last) in enumerate(((0, 3), (2, 4))):
        done = subprocess.run(
            [sys.executable, "-c", RUN, tmp_path / "run", str(first), str(last), "2"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert ("wandb is unreachable" in done.stdout) == login and "wandb is disabled" not in done.stdout
        kept = stored(tmp_path / "run")
        lines = [
            {item.nested_key[0]: item.value_json for item in record.history.item}
            for record in kept
            if record.WhichOneof("record_type") == "history"
        ]
        numbers = [
            [json.loads(line[name]) for name in ("step", "reward/mean", "curves/mean reward")]
            for line in lines
            if "reward/mean" in line
        ]
        assert numbers == [[step, step / 4, step / 4] for step in range(first, last)]
        (run,) = (record.run for record in kept if record.WhichOneof("record_type") == "run")
        names.append((run.run_id, run.display_name, run.project))
        assert run.run_id == stored_run_id(tmp_path / "run")
        shutil.move(tmp_path / "run" / "wandb", tmp_path / f"part{part}")
    assert names[0] == names[1] and names[0][1:] == ("warm", "jaxrl")
    tables = [json.loads(path.read_text()) for path in tmp_path.glob("part0/offline-run-*/files/media/table/*.json")]
    assert [table["data"][0][5] for table in tables] == ["words", "words"]  # steps 0 and 2
