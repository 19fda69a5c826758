"""What all commands share: help, flags, configs with overrides, and one-sentence errors before anything is written."""

import importlib
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from data_gen.command_parser import CommandParser
from jaxrl import command_line, sft, train
from jaxrl.command_line import ConfigParser, load_config, plain, run
from jaxrl.renamed_fields import check_renamed
from jaxrl.runtime.signals import Ended

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(f"jaxrl.{path.stem}" for path in (ROOT / "jaxrl").glob("*.py") if "def main(" in path.read_text())
STAGE1 = "configs/stage1.py:tiny"


@pytest.fixture(autouse=True)
def compile_cache(monkeypatch, tmp_path):
    """Commands may set the folder of compiled programs."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("module", [*COMMANDS, "data_gen.build"])
def test_help_names_every_flag(module, capsys):
    command = importlib.import_module(module)
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    flags = command.make_parser().flags()
    assert f"python -m {module}" in shown and all(flag in shown for flag in flags) and len(flags) > 3
    assert not any("_" in flag for flag in flags)
    if "--config" in flags:
        assert "--config.FIELD" in flags and ("--workdir" in flags) == (module != "jaxrl.plan")  # it writes nothing
        field = "  optimizer: b1, b2" if module == "jaxrl.sft" else "  sampling: max_new_tokens, "
        assert field in shown


def test_all_commands_are_tested():
    names = "convert evaluate export generate inspect plan report score sft sweep train"
    assert {f"jaxrl.{name}" for name in names.split()} <= set(COMMANDS)


def test_underscores_are_dashes_and_values_keep_theirs():
    parser = CommandParser("x", None)
    parser.renamed = {"--old-name": "--new-name"}
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--stop", nargs="*")
    given = parser.parse_args(["--top_k=3", "--stop", "a_b", "c-d"])
    assert (given.top_k, given.stop) == (3, ["a_b", "c-d"])
    assert parser.parse_args(["--stop=a_b"]).stop == ["a_b"]
    for arguments, sentence in (
        (["--old_name=1"], "--old-name was renamed to --new-name"),
        (["--topk=1"], "unknown flag --topk; did you mean --top-k?"),
        (["--top=1"], "unknown flag --top"),  # no abbreviations
        (["word"], "unexpected argument 'word'"),
        (["--top-k=x"], "invalid int value: 'x'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            parser.parse_args(arguments)


def config_of(*arguments):
    return ConfigParser("x", None, "stage1.py").parse_args(arguments).config


def test_overrides_have_the_types_of_their_fields():
    config = config_of(
        "--config.samples", "8", f"--config={STAGE1}", "--config.sampling.temperature=2", "--config.stop=('a',)",
        "--config.algorithm.clip_high=0.3", "--config.algorithm.drop_equal=true", "--config.evaluation.pool={'p2': 4}",
        "--noconfig.export", "--config.learning_rate.drops=((4, 0.5),)", "--config.name=a=b",
    )  # fmt: skip
    fields = plain(config.value)
    assert (fields["samples"], fields["stop"], fields["export"], fields["name"]) == (8, ["a"], False, "a=b")
    assert type(fields["sampling"]["temperature"]) is float and fields["sampling"]["temperature"] == 2.0
    assert (fields["algorithm"]["clip_high"], fields["algorithm"]["drop_equal"]) == (0.3, True)
    assert fields["algorithm"]["clip_low"] is None
    assert fields["evaluation"]["pool"] == {"p2": 4} and fields["learning_rate"]["drops"] == [[4, 0.5]]
    assert config.path == STAGE1 and config.overrides["export"] == "false" and config.overrides["samples"] == "8"
    again = load_config(STAGE1, command_line.override_arguments(config.overrides))
    assert plain(again.value) == fields  # as a sweep passes them on


THREE = "configs/three_stage.py:tiny"
UNKNOWN = [
    (STAGE1, "sampling.temperatur=1", "no field 'sampling.temperatur'; did you mean --config.sampling.temperature?"),
    (STAGE1, "samplng.temperature=1", "no field 'samplng.temperature'; did you mean --config.sampling.temperature?"),
    (STAGE1, "evaluation.pool.p9=3", "--config.evaluation.pool.p9: the config has no field"),
    (STAGE1, "nonsense=1", "no field 'nonsense'; see --help"),
    (THREE, "steps=3", "no field 'steps'; did you mean --config.stages.stage1.steps?"),
    (THREE, "stages.stage2.smpling.temperature_end=1", "mean --config.stages.stage2.sampling.temperature_end?"),
    (STAGE1, "samples=many", "--config.samples=many: invalid literal"),
    (STAGE1, "mesh=3", "not a dict"),
    (STAGE1, "learning_rate.drops[0]=1", "out of range"),
    (STAGE1, "guard.remedy=rate", "config.guard.remedy=rate was renamed to config.guard.remedy=learning_rate."),
    ("configs/stage1.py:tinny", "", "expected a size of tiny"),
    ("configs/stag1.py:tiny", "", "found no configs/stag1.py; did you mean configs/stage1.py?"),
    ("setup.py", "", "expected a config file, found no setup.py; . has no configs"),
]


@pytest.mark.parametrize(("path", "override", "sentence"), UNKNOWN)
def test_a_config_that_can_not_be_read_is_one_sentence(path, override, sentence, capsys):
    assert sft.main([f"--config={path}", *([f"--config.{override}"] if override else [])]) == 2
    message = capsys.readouterr().err
    assert sentence in message and message.startswith("jaxrl.sft: ") and message.count("\n") == 1


def test_renamed_fields_are_found_in_configs_and_stages(tmp_path, monkeypatch):
    monkeypatch.setitem(command_line.RENAMED, "config.sampling.heat", "config.sampling.temperature")
    with pytest.raises(ValueError, match=r"config.sampling.heat was renamed to config.sampling.temperature\."):
        load_config(STAGE1, ["--config.sampling.heat=1"])
    sentence = r"config.stages.stage2.sampling.heat was renamed to config.stages.stage2.sampling.temperature\."
    with pytest.raises(ValueError, match=sentence):
        load_config(THREE, ["--config.stages.stage2.sampling.heat=1"])
    with pytest.raises(ValueError, match=sentence):  # a config.json of an older version
        check_renamed({"seed": 1, "stages": {"stage2": {"sampling": {"heat": 1.0}}}})
    own = tmp_path / "own.py"
    own.write_text("from configs import stage1\ndef get_config():\n    c = stage1.get_config()\n"
                   "    c.sampling.heat = 2.0\n    return c\n")  # fmt: skip
    with pytest.raises(ValueError, match=r"config\.sampling\.heat was renamed"):
        load_config(str(own))
    own.write_text("from configs import stage1\ndef get_config():\n    return stage1.get_config().samplings\n")
    with pytest.raises(ValueError, match=r"own.py: .*samplings"):
        load_config(str(own))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config=configs/stage1.py:tiny", "--config.samples=1"], "samples: expected 2 or more"),
        (["--config=configs/stage1.py:tiny", "--config.model=/no/such/folder"], "no folder /no/such/folder"),
        (["--config=configs/stage2.py:tiny", "--config.init_from=/no/run"], "starts from /no/run"),
        (["--config=configs/stage1.py:tiny", "--colour=red"], "unknown flag --colour"),
        ([], "expected --config=FILE.py"),
        (["--config.samples=3"], "expected --config=FILE.py"),
        (["--manifest=/no/such/manifest.json"], "no /no/such/manifest.json"),
        (["--manifest=/no/such/manifest.json", "--config=configs/stage1.py:tiny"], "and no --config"),
    ],
)
def test_train_refuses_with_one_sentence(arguments, sentence, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert train.main([*arguments, f"--workdir={workdir}"]) == 2
    message = capsys.readouterr().err
    assert sentence in message and message.startswith("jaxrl.train: ") and message.count("\n") == 1
    assert not workdir.exists()


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert train.main([f"--config={STAGE1}", f"--workdir={folder}"]) == 2
    assert "files without a config.json" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_exit_statuses(capsys):
    def raising(error):
        def command(given):
            raise error

        return command

    parser = CommandParser("jaxrl.some", None)
    assert run(parser, lambda given: None, []) == 0 and run(parser, lambda given: 1, []) == 1
    assert run(parser, raising(ValueError("wrong.")), []) == 2 and run(parser, raising(OSError("no disk.")), []) == 2
    assert run(parser, raising(Ended("the guard stops the run.")), []) == 3
    assert run(parser, raising(KeyboardInterrupt()), []) == 75
    assert capsys.readouterr().err.splitlines() == [
        "jaxrl.some: wrong.",
        "jaxrl.some: no disk.",
        "jaxrl.some: the guard stops the run.",
        "jaxrl.some: stopped by SIGINT; run the same command again.",
    ]
    with pytest.raises(ZeroDivisionError):
        run(parser, raising(ZeroDivisionError()), [])


def test_sft_makes_a_specification_of_the_shipped_config(monkeypatch, tmp_path):
    from jaxrl.base_model import trainer

    calls = []
    monkeypatch.setattr(trainer, "train_supervised", lambda *arguments: calls.append(arguments))
    assert sft.main(["--config=configs/tiny_base.py", f"--workdir={tmp_path / 'base'}", "--config.output=out"]) == 0
    ((spec, workdir, output, _),) = calls
    assert [phase.name for phase in spec.phases] == ["skill", "habit"]
    assert (workdir, output) == (tmp_path / "base", Path("out")) and (workdir / "config.json").is_file()


def test_importing_the_commands_loads_no_heavy_library():
    """What makes an import slow is named instead of timed: a clock in a test fails on a busy machine."""
    heavy = ("torch", "transformers", "wandb", "plotly", "orbax")
    light = ("train", "sft", "plan", "evaluate", "generate", "inspect", "score")
    code = "import sys, data_gen, data_gen.build; print('jax' in sys.modules, 'ml_collections' in sys.modules)\n"
    code += f"import {', '.join(f'jaxrl.{name}' for name in light)}; import models, jaxrl.inference\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False False", "[]"]


def test_packages_export_what_they_name():
    for package in ("data_gen", "models", "jaxrl.inference", "jaxrl.rewards", "jaxrl.algorithms", "jaxrl.sampling"):
        module = importlib.import_module(package)
        assert all(getattr(module, name) is not None for name in module.__all__), package
        with pytest.raises(AttributeError):
            module.no_such_name  # noqa: B018
