"""`python -m jaxrl.sweep --config=configs/ablations/X.py[:SIZE]`: every setting with every seed, then table and page.

The config file has `get_config`, the base run as `jaxrl.train` takes it, and `get_sweep(size)`: {"settings": {name:
{field: value}}, "seeds": (0, 1, 2)}, fields named as on the command line. `--config.field=value` changes all runs.
`--stop_losers=10,20` stops the worse half of the settings after these steps; see jaxrl/sweeps/halving_decisions.py.
"""

import itertools
import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from jaxrl.flags import FLAGS, WORKDIR, overrides, plain, run, with_overrides
from jaxrl.reporting.files import write_text
from jaxrl.reporting.page import write_page
from jaxrl.reporting.run_folder import read_run
from jaxrl.runtime.signals import Stopped
from jaxrl.runtime.streams import unfailing
from jaxrl.sweeps.halving import Halving, read_decisions
from jaxrl.sweeps.plot import sweep_svg
from jaxrl.sweeps.runner import Member, finished, run_members, state
from jaxrl.sweeps.table import sweep_markdown
from jaxrl.training.run_spec import RunSpec, run_spec
from jaxrl.training.workdir import check_start, check_workdir
from models.source import resolve_model

_LIST = flags.DEFINE_boolean("list", False, "Only print index, setting, seed, folder and state of every run.")
_REPORT = flags.DEFINE_boolean("report", False, "Only write table and page, from what there is.")
_INDEX = flags.DEFINE_integer("index", None, "Run this one only, as one task of a job array.", lower_bound=0)
_PARALLEL = flags.DEFINE_integer("parallel", None, "Runs at a time on this machine.", lower_bound=1)
_DEVICES = flags.DEFINE_list("devices", None, "GPUs, 0,1,2,3: one run on each at a time (CUDA_VISIBLE_DEVICES).")
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds instead of those of the config file, 0,1,2.")
_STOP_LOSERS = flags.DEFINE_list("stop_losers", [], "Steps, 10,20: after each, the clearly worse half is stopped.")


def plan(
    path: str, given: Mapping[str, Any], workdir: Path, seeds: Sequence[int] | None = None, judged: Sequence[int] = ()
) -> list[Member]:
    """The runs of the sweep of `--config=path`, settings first, in folders of `workdir`; each is checked, none started.

    given: fields that all runs have changed. seeds: None for those of the file. judged: steps after which every run has
    to be evaluated. Raises ValueError or OSError, naming the setting, for a field that does not exist, a value or a
    folder that is refused.
    """
    file, _, size = path.partition(":")
    module = runpy.run_path(file)
    if "get_sweep" not in module:
        raise ValueError(f"{file} has no get_sweep and is no sweep; see configs/ablations/ for some.")
    sweep = module["get_sweep"](size)
    if sweep.keys() != {"settings", "seeds"}:
        raise ValueError(f"{file}: expected get_sweep to return settings and seeds, got {', '.join(sweep)}.")
    members: list[Member] = []
    for setting, changes in sweep["settings"].items():
        if not re.fullmatch(r"[\w.-]+", setting):
            raise ValueError(f"setting {setting!r}: expected a name of letters, digits and . _ - for its folders.")
        twice = sorted(given.keys() & (changes.keys() | {"seed", "workdir"}))
        if twice:
            raise ValueError(f"setting {setting}: {twice[0]} is set by the sweep; leave out --config.{twice[0]}.")
        for seed in sweep["seeds"] if seeds is None else seeds:
            folder, fields = workdir / f"{setting}_seed{seed}", {**given, **changes, "seed": seed}
            try:
                spec = _checked(with_overrides(module["get_config"](size), fields), folder)
                _check_judged(spec, judged)
            except (ValueError, OSError) as error:
                raise ValueError(f"setting {setting}: {error}") from error
            arguments = (
                "-m",
                "jaxrl.train",
                f"--config={path}",
                *overrides(fields),
                f"--workdir={folder}",
                "--processes=1",
            )
            members.append(
                Member(len(members), setting, seed, folder, spec.model, spec.total_steps, spec.export, arguments)
            )
    return members


def _checked(config: ConfigDict, folder: Path) -> RunSpec:
    """What the child will make of its arguments, with all that it would refuse before it computes or writes."""
    fields = plain(config) | {"workdir": str(folder)}
    spec = run_spec(fields)
    check_start(spec)
    check_workdir(folder, fields)
    return spec


def _check_judged(spec: RunSpec, steps: Sequence[int]) -> None:
    every = spec.evaluation.every
    for step in steps:
        if not 0 < step < spec.total_steps or not every or step % every:
            raise ValueError(
                f"--stop_losers={step}: expected a step before the last ({spec.total_steps}) after which "
                f"runs are evaluated, at a multiple of evaluation.every, which is {every}."
            )


def sweep(config: ConfigDict) -> int:
    """The command behind the flags; returns the exit status. Raises ValueError and OSError with one sentence each."""
    slots = _slots()
    seeds = None if _SEEDS.value is None else _whole_numbers("seeds", _SEEDS.value)
    judged = _whole_numbers("stop_losers", _STOP_LOSERS.value) if _STOP_LOSERS.value else []
    workdir = Path(WORKDIR.value or config.workdir)
    if (workdir / "config.json").exists():
        raise ValueError(f"{workdir} is the folder of one run; choose another --workdir for the sweep.")
    flag = FLAGS["config"]
    members = plan(flag.config_filename, flag.override_values, workdir, seeds, judged)
    folders = {}
    for member in members:
        folders.setdefault(member.setting, []).append(member.workdir)
    halving = Halving(workdir / "stopped.json", folders, judged)
    if _LIST.value:
        for member in members:
            print(member.index, member.setting, member.seed, member.workdir, state(member, halving), sep="\t")
        return 0
    if _REPORT.value:
        return _report(workdir, members)
    if _INDEX.value is not None and _INDEX.value >= len(members):
        raise ValueError(f"--index: expected 0 to {len(members) - 1}, got {_INDEX.value}; --list shows them.")
    sys.stdout = unfailing(sys.stdout)
    chosen = members if _INDEX.value is None else [members[_INDEX.value]]
    for model in {member.model for member in chosen}:
        resolve_model(model)  # downloaded once, before several runs want it at a time
    unfinished = run_members(chosen, slots, halving, lambda line: print(line, flush=True))
    if _INDEX.value is None:
        _report(workdir, members)
    for why, these in (("not finished", unfinished.failed), ("waiting for the others", unfinished.waiting)):
        if these:
            names = ", ".join(f"{member.index} ({member.setting}, seed {member.seed})" for member in these)
            print(f"jaxrl.sweep: {why}: {names}; the same command goes on with them.", file=sys.stderr)
    return 1 if unfinished.failed else Stopped.status if unfinished.waiting else 0


def _slots() -> list[dict[str, str]]:
    """What each place for a run sets in its environment."""
    if _DEVICES.value is not None and _PARALLEL.value is not None:
        raise ValueError("expected --devices or --parallel, got both; --devices runs one on each.")
    if _DEVICES.value is not None:
        if not all(_DEVICES.value) or not 0 < len(_DEVICES.value) == len(set(_DEVICES.value)):
            raise ValueError(f"--devices: expected different devices, 0,1,2,3, got {','.join(_DEVICES.value)!r}.")
        return [{"CUDA_VISIBLE_DEVICES": device} for device in _DEVICES.value]
    return [{}] * (_PARALLEL.value or 1)


def _whole_numbers(flag: str, texts: Sequence[str]) -> list[int]:
    if not texts or not all(text.isdigit() for text in texts) or len(set(texts)) != len(texts):
        raise ValueError(f"--{flag}: expected different whole numbers, 0,1,2, got {','.join(texts)!r}.")
    return [int(text) for text in texts]


def _report(workdir: Path, members: Sequence[Member]) -> int:
    """Table and page of the runs that have steps; the exit status is 1 where there is none yet."""
    started = [member for member in members if (member.workdir / "metrics.jsonl").is_file()]
    runs = {member: read_run(member.workdir) for member in started}
    if not any(run.records for run in runs.values()):
        print(f"jaxrl.sweep: no run in {workdir} has a step yet, so there is nothing to report.", file=sys.stderr)
        return 1
    outcomes = [(member.setting, member.seed, runs.get(member)) for member in members]
    unfinished = {member.setting for member in members if not finished(member)}
    stops = itertools.chain.from_iterable(read_decisions(workdir / "stopped.json").values())
    text = sweep_markdown(workdir.resolve().name, outcomes, [stop for stop in stops if stop.setting in unfinished])
    print(text)
    print(f"table: {write_text(workdir / 'table.md', text)}")
    if picture := sweep_svg(workdir.resolve().name, outcomes):
        print(f"plot:  {write_text(workdir / 'plot.svg', picture)}")
    shown = [run for run in runs.values() if run.records]
    print(f"page:  {write_page(workdir / 'report.html', shown, title=workdir.resolve().name)}")
    return 0


if __name__ == "__main__":
    run("jaxrl.sweep", sweep)
