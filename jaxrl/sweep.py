"""Run every setting of a sweep with every seed, and write a table, a plot and a page that compare them.

    python -m jaxrl.sweep --config=configs/ablations/kl.py[:tiny]

The config file has `get_config`, the base run as `jaxrl.train` takes it, and `get_sweep(ARG)`, which returns
{"settings": {name: {field: value}}, "seeds": (0, 1, 2)}. Overrides change all runs. The same command resumes.
Exit status: 0 finished, 1 some runs failed, 2 nothing was done, 75 stopped by a signal.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxrl.command_line import ConfigParser, override, override_arguments, plain, read_module, run, unfailing_streams
from jaxrl.reporting.files import write_text
from jaxrl.reporting.page import write_page
from jaxrl.reporting.run_folder import read_run
from jaxrl.runtime.signals import Stopped
from jaxrl.sweeps.plot import sweep_svg
from jaxrl.sweeps.runner import SweepRun, run_sweep, state
from jaxrl.sweeps.table import sweep_markdown
from jaxrl.training.run_spec import RunSpec, run_spec
from jaxrl.training.workdir import check_start, check_workdir
from models.source import resolve_model


def make_parser() -> ConfigParser:
    """The flags of the command."""
    parser = ConfigParser(
        "jaxrl.sweep", __doc__, "ablations/kl.py", workdir="the folder of the sweep; each run has a folder in it"
    )
    parser.add_argument("--list", action="store_true", help="only print index, setting, seed, folder and state of runs")
    parser.add_argument("--report", action="store_true", help="only write table, plot and page from existing results")
    parser.add_argument("--index", type=int, help="execute only this run, for example as one task of a job array")
    parser.add_argument("--parallel", type=int, help="runs at a time on this machine (1)")
    parser.add_argument("--devices", metavar="0,1,2,3", help="GPUs, with one run on each (sets CUDA_VISIBLE_DEVICES)")
    parser.add_argument("--seeds", metavar="0,1,2", help="seeds instead of those of the config file")
    return parser


def plan_sweep(
    path: str, overrides: Mapping[str, Any], workdir: Path, seeds: Sequence[int] | None = None
) -> list[SweepRun]:
    """The runs of the sweep in FILE.py[:ARG], settings first, each in a folder of `workdir`. All are checked.

    overrides: fields changed in all runs. seeds: None for those of the file. Raises ValueError or OSError, naming the
    setting, for a field that does not exist and for a value or a folder that is refused.
    """
    file, _, argument = path.partition(":")
    module = read_module(path)
    if "get_sweep" not in module:
        raise ValueError(f"{file} has no get_sweep, so it is not a sweep; see configs/ablations/ for examples.")
    sweep = module["get_sweep"](argument)
    if sweep.keys() != {"settings", "seeds"}:
        raise ValueError(f"{file}: expected get_sweep to return settings and seeds, got {', '.join(sweep)}.")
    runs: list[SweepRun] = []
    for setting, changes in sweep["settings"].items():
        if not re.fullmatch(r"[\w.-]+", setting):
            raise ValueError(f"setting {setting!r}: expected a name of letters, digits and . _ - for its folders.")
        twice = sorted(overrides.keys() & (changes.keys() | {"seed", "workdir"}))
        if twice:
            raise ValueError(f"setting {setting}: {twice[0]} is set by the sweep; leave out --config.{twice[0]}.")
        for seed in sweep["seeds"] if seeds is None else seeds:
            folder = workdir / f"{setting}_seed{seed}"
            changed = override_arguments({**overrides, **changes, "seed": seed})
            try:
                spec = _checked(override(module["get_config"](argument), changed), folder)
            except (ValueError, OSError) as error:
                raise ValueError(f"setting {setting}: {error}") from error
            command = ("-m", "jaxrl.train", f"--config={path}", *changed, f"--workdir={folder}", "--processes=1")
            runs.append(
                SweepRun(len(runs), setting, seed, folder, spec.model.path, spec.total_steps, spec.export, command)
            )
    return runs


def _checked(config: ConfigDict, folder: Path) -> RunSpec:
    """The specification that the child process will have. Raises all that it would raise before it computes."""
    fields = plain(config) | {"workdir": str(folder)}
    spec = run_spec(fields)
    check_start(spec)
    check_workdir(folder, fields)
    return spec


def sweep(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status. Raises ValueError and OSError with one sentence each."""
    slots, seeds = _slots(given), None if given.seeds is None else _whole_numbers("seeds", given.seeds)
    workdir = given.workdir or Path(given.config.value.workdir)
    if (workdir / "config.json").exists():
        raise ValueError(f"{workdir} is the folder of one run; choose another --workdir for the sweep.")
    runs = plan_sweep(given.config.path, given.config.overrides, workdir, seeds)
    if given.list:
        for member in runs:
            print(member.index, member.setting, member.seed, member.workdir, state(member), sep="\t")
        return 0
    if given.report:
        return _report(workdir, runs)
    if given.index is not None and not 0 <= given.index < len(runs):
        raise ValueError(f"--index: expected 0 to {len(runs) - 1}, got {given.index}; --list shows them.")
    with unfailing_streams():
        return _execute(workdir, runs, given.index, slots)


def _execute(workdir: Path, runs: Sequence[SweepRun], index: int | None, slots: list[dict[str, str]]) -> int:
    """Execute all runs, or one; returns the exit status."""
    chosen = runs if index is None else [runs[index]]
    for model in {member.model for member in chosen}:
        resolve_model(model)  # download it once, before several runs need it
    unfinished = run_sweep(chosen, slots, lambda line: print(line, flush=True))
    if index is None:
        _report(workdir, runs)
    for why, these in (("not finished", unfinished.failed), ("stopped", unfinished.stopped)):
        if these:
            names = ", ".join(f"{member.index} ({member.setting}, seed {member.seed})" for member in these)
            print(f"jaxrl.sweep: {why}: {names}; run the same command again to resume.", file=sys.stderr)
    return 1 if unfinished.failed else Stopped.status if unfinished.stopped else 0


def _slots(given: argparse.Namespace) -> list[dict[str, str]]:
    """Environment variables for each run that is executed at a time."""
    if given.devices is not None and given.parallel is not None:
        raise ValueError("expected --devices or --parallel, got both; --devices runs one on each.")
    if given.parallel is not None and given.parallel < 1:
        raise ValueError(f"--parallel: expected 1 or more, got {given.parallel}.")
    if given.devices is None:
        return [{}] * (given.parallel or 1)
    devices = given.devices.split(",")
    if not all(devices) or len(devices) != len(set(devices)):
        raise ValueError(f"--devices: expected different devices, 0,1,2,3, got {given.devices!r}.")
    return [{"CUDA_VISIBLE_DEVICES": device} for device in devices]


def _whole_numbers(flag: str, text: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.isdigit() for number in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError(f"--{flag}: expected different whole numbers, 0,1,2, got {text!r}.")
    return [int(number) for number in numbers]


def _report(workdir: Path, runs: Sequence[SweepRun]) -> int:
    """Write table, plot and page of the runs that have steps; exit status 1 if there is none."""
    folders = {member: read_run(member.workdir) for member in runs if (member.workdir / "metrics.jsonl").is_file()}
    shown = [folder for folder in folders.values() if folder.records]
    if not shown:
        print(f"jaxrl.sweep: no run in {workdir} has a step yet, so there is nothing to report.", file=sys.stderr)
        return 1
    name = workdir.resolve().name
    outcomes = [(member.setting, member.seed, folders.get(member)) for member in runs]
    text = sweep_markdown(name, outcomes)
    print(text)
    print(f"table: {write_text(workdir / 'table.md', text)}")
    if picture := sweep_svg(name, outcomes):
        print(f"plot:  {write_text(workdir / 'plot.svg', picture)}")
    print(f"page:  {write_page(workdir / 'report.html', shown, title=name)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), sweep, argv, exit_at_signal=True)


if __name__ == "__main__":
    sys.exit(main())
