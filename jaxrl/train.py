"""Train, evaluate and export a model. The same command resumes a run that was stopped.

    python -m jaxrl.train --config=configs/stage3.py[:tiny]
    python -m jaxrl.train --manifest=RUN/manifest.json --workdir=NEW

Exit status: 0 finished, 1 and 2 an error, 3 stopped by the guard, 75 stopped by a signal; see docs/running.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl.command_line import ConfigParser, plain, run
from jaxrl.renamed_fields import check_renamed


def make_parser() -> ConfigParser:
    """The flags of the command."""
    parser = ConfigParser("jaxrl.train", __doc__, "stage1.py", instead="manifest")
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="RUN/manifest.json",
        help="reproduce this run, with the config.json beside its manifest, in another --workdir; without --config",
    )
    group = parser.add_argument_group("a run of several processes; each gets the same command")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="number of processes; default: as started by Slurm or Kubernetes; 1: this process alone",
    )
    group.add_argument("--process", type=int, metavar="K", help="index of this process, from 0")
    return parser


def train(given: argparse.Namespace) -> None:
    """Run the command. Raises ValueError and OSError with one sentence each."""
    from jaxrl.reporting.manifest import compare_manifests
    from jaxrl.runtime.devices import prepare_devices
    from jaxrl.runtime.multihost import is_primary, join_processes, launched_by_scheduler, run_on_primary
    from jaxrl.training.run_spec import run_spec
    from jaxrl.training.workdir import check_start, check_workdir
    from models.source import resolve_model

    manifest, fields = _past_run(given) if given.manifest else (None, _fields(given))
    process = (given.coordinator, given.processes, given.process)
    is_member = given.processes != 1 or given.coordinator is not None
    is_member = launched_by_scheduler() if process == (None, None, None) else is_member
    prepare_devices(fields["devices"], fields["compile_cache"], 0 if is_member else fields["sampler"]["devices"])
    if is_member:  # before the checks: if one process fails, the others end too
        join_processes(*process)
    spec = run_spec(fields)
    model_folder = resolve_model(spec.model.path)
    run_on_primary(lambda: check_start(spec))
    run_on_primary(lambda: check_workdir(spec.workdir, fields))

    from rich.console import Console

    from jaxrl.planning.advice import check_fits
    from jaxrl.planning.plan import Job
    from jaxrl.reporting.terminal import Terminal
    from jaxrl.runtime.hardware import check_attention, present_devices
    from jaxrl.training.initial_state import resolve_init_from
    from jaxrl.training.trainer import Trainer

    console = None if is_primary() else Console(quiet=True)
    with Terminal(spec.total_steps, f"jaxrl {spec.name}", console) as terminal:
        trainer = Trainer(resolve_init_from(spec), model_folder, terminal, fields)
        devices = present_devices(trainer.components.mesh.devices.flat)
        check_attention(spec.model.attention, devices)
        check_fits(Job(spec, trainer.components.config, trainer.problem_set.longest_prompt(), devices), terminal.log)
        for line in compare_manifests(manifest, trainer.manifest()) if manifest else ():
            terminal.log(line)
        results = trainer.train()
    if is_primary():
        _print_results(spec, results)


def _fields(given: argparse.Namespace) -> dict[str, Any]:
    return plain(given.config.value) | ({"workdir": str(given.workdir)} if given.workdir else {})


def _past_run(given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and fields of the run to reproduce. Raises ValueError and OSError, as `train`."""
    from jaxrl.reporting.manifest import read_past_run
    from jaxrl.training.run_spec import run_spec

    if given.config is not None or not given.workdir:
        raise ValueError("--manifest reproduces a run: expected --workdir=NEW beside it, and no --config.")
    manifest, fields = read_past_run(given.manifest, given.workdir)
    commit = manifest["commit"] or "which its manifest does not have"
    try:
        check_renamed(fields)
        run_spec(fields)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the config.json beside {given.manifest} is not of this version ({error}); use the run's commit, {commit}."
        ) from error
    return manifest, fields


def _print_results(spec: Any, results: Any) -> None:
    """Print both evaluations side by side, write the report, and print where everything is."""
    from jaxrl.evaluation.examples import side_by_side
    from jaxrl.evaluation.results import comparison_markdown
    from jaxrl.reporting.page import write_page
    from jaxrl.reporting.run_folder import read_run
    from jaxrl.training.trainer import AFTER, BEFORE

    page = write_page(spec.workdir / "report.html", [read_run(spec.workdir)])
    print(side_by_side(results[BEFORE], results[AFTER]))
    print(comparison_markdown(results[BEFORE], results[AFTER]))
    print(f"run:    {spec.workdir}")
    if spec.export:
        print(f"export: {spec.workdir / 'export'}")
    print(f"report: {page}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), train, argv, exit_at_signal=True, drop_output=True)


if __name__ == "__main__":
    sys.exit(main())
