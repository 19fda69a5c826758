"""`python -m jaxrl.train --config=configs/stage3.py[:tiny]`: train, evaluate, export. Started again, it goes on.

`python -m jaxrl.train --manifest=RUN/manifest.json --workdir=NEW` trains a past run again, as its config.json says.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from jaxrl.flags import WORKDIR, plain, run
from jaxrl.runtime.streams import unfailing

_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where several processes make the run.")
_PROCESSES = flags.DEFINE_integer(
    "processes",
    None,
    "How many they are; each gets the same command. Not given: as "
    "Slurm or Kubernetes has started them. 1: this one alone.",
    lower_bound=1,
)
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.", lower_bound=0)
_MANIFEST = flags.DEFINE_string("manifest", None, "manifest.json of a past run to train again, instead of --config.")


def train(config: ConfigDict | None) -> None:
    """The command behind the flags. Raises ValueError and OSError with one sentence each."""
    from jaxrl.runtime.devices import prepare_devices
    from jaxrl.runtime.multihost import is_primary, join_processes, run_on_primary, started_together
    from jaxrl.training.manifest import compare_manifests
    from jaxrl.training.run_spec import run_spec
    from jaxrl.training.workdir import check_start, check_workdir
    from models.source import resolve_model

    sys.stdout = unfailing(sys.stdout)
    then = None
    if _MANIFEST.value:
        then, fields = _past_run(config)
    else:
        fields = plain(config) | ({"workdir": WORKDIR.value} if WORKDIR.value else {})
    given = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    asked = _PROCESSES.value != 1 or _COORDINATOR.value is not None
    several = started_together() if given == (None, None, None) else asked
    prepare_devices(fields["devices"], fields["compile_cache"], 0 if several else fields["sampler"]["devices"])
    if several:  # before all that one of them may refuse: the others end with it then
        join_processes(*given)
    spec = run_spec(fields)
    model_folder = resolve_model(spec.model)
    run_on_primary(lambda: check_start(spec))
    run_on_primary(lambda: check_workdir(spec.workdir, fields))

    from rich.console import Console

    from jaxrl.evaluation.examples import side_by_side
    from jaxrl.evaluation.results import comparison_markdown
    from jaxrl.planning.advice import refuse_unfit
    from jaxrl.planning.plan import Job
    from jaxrl.reporting.page import write_page
    from jaxrl.reporting.run_folder import read_run
    from jaxrl.reporting.terminal import Terminal
    from jaxrl.runtime.hardware import present_devices
    from jaxrl.training.trainer import AFTER, BEFORE, Run

    console = None if is_primary() else Console(quiet=True)
    with Terminal(spec.total_steps, f"jaxrl {spec.name}", console) as terminal:
        training = Run(spec, model_folder, terminal, fields)
        devices = present_devices(training.components.mesh.devices.flat)
        refuse_unfit(Job(spec, training.components.config, training.asked.longest_prompt(), devices), terminal.say)
        for line in compare_manifests(then, training.manifest()) if then else ():
            terminal.say(line)
        found = training.train()
    if not is_primary():
        return
    page = write_page(spec.workdir / "report.html", [read_run(spec.workdir)])
    print(side_by_side(found[BEFORE], found[AFTER]))
    print(comparison_markdown(found[BEFORE], found[AFTER]))
    print(f"run:    {spec.workdir}")
    if spec.export:
        print(f"export: {spec.workdir / 'export'}")
    print(f"report: {page}")


def _past_run(config: ConfigDict | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and fields of the run to be repeated. Raises ValueError and OSError, as `train`."""
    from jaxrl.training.manifest import read_past_run
    from jaxrl.training.run_spec import run_spec

    if config is not None or not WORKDIR.value:
        raise ValueError("--manifest repeats a run as it was: expected --workdir=NEW beside it, and no --config.")
    then, fields = read_past_run(Path(_MANIFEST.value), Path(WORKDIR.value))
    try:
        run_spec(fields)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the config.json beside {_MANIFEST.value} is not of this version ({error}); use the commit "
            f"it was made with, {then['commit'] or 'which its manifest does not know'}."
        ) from error
    return then, fields


if __name__ == "__main__":
    run("jaxrl.train", train, instead="manifest")
