"""Whether a run fits into the memory of given devices, and how fast it could be.

    python -m jaxrl.plan --config=configs/stage2.py --devices=4xA100-80GB

Nothing is run and no weights are needed. Bytes per device in each phase of a step come from XLA's GPU compiler if it is
installed (`pip install 'jaxrl[cuda12]'`, no GPU needed), otherwise from shapes. docs/memory.md explains the output.
Exit status 1: the run does not fit.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl.command_line import ConfigParser, plain, run

PROMPT_TOKENS = 256  # classic puzzles of five people have at most 240 (docs/puzzles.md)
"""Length of the longest prompt if the model's tokenizer is not present: a puzzle of five people in a chat template."""


def make_parser() -> ConfigParser:
    """The flags of the command."""
    parser = ConfigParser("jaxrl.plan", __doc__, "stage1.py", workdir=None)
    parser.add_argument("--devices", metavar="4xA100-80GB", help="cpu, or such as 4xA100-80GB, 1xH200, 64xH100-80GB")
    parser.add_argument("--hosts", type=int, help="number of hosts; default: 8 GPUs per host")
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        help=f"length of the longest prompt; default: from the model's folder, or {PROMPT_TOKENS} if it is not present",
    )
    parser.add_argument("--response-tokens", type=int, help="mean length of responses, for times; default: the limit")
    parser.add_argument("--shapes", action="store_true", help="estimate from shapes in seconds, without the compiler")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def plan(given: argparse.Namespace) -> int:
    """Run the command; returns 1 if the run does not fit. Raises ValueError and OSError with one sentence each."""
    from jaxrl.planning.plan import Job
    from jaxrl.planning.report import plan_report
    from jaxrl.runtime.hardware import read_devices
    from jaxrl.training.run_spec import run_spec

    for flag in ("hosts", "prompt_tokens", "response_tokens"):
        if getattr(given, flag) is not None and getattr(given, flag) < 1:
            raise ValueError(f"--{flag.replace('_', '-')}: expected 1 or more, got {getattr(given, flag)}.")
    if not given.devices:
        raise ValueError("expected --devices=cpu, or --devices=4xA100-80GB and the like.")
    fields = plain(given.config.value)
    spec = run_spec(fields)
    devices = read_devices(given.devices, max(fields["devices"], 1), given.hosts or 0)
    planned = _plan(Job(spec, *_model_and_prompt(spec, given.prompt_tokens), devices), given.shapes)
    report = plan_report(planned, given.response_tokens)
    print(json.dumps(report, indent=2) if given.json else _text(planned, report))
    return 0 if planned.fits else 1


def _model_and_prompt(spec: Any, prompt_tokens: int | None) -> tuple[Any, int]:
    """The model's config and the length of its longest prompt: from its folder, or by its name."""
    from jaxrl.training.problem_pools import load_problem_set
    from models.config import preset
    from models.folder import read_config

    folder = Path(spec.model.path).expanduser()
    if not folder.is_dir():
        return preset(spec.model.path), prompt_tokens or PROMPT_TOKENS
    if prompt_tokens:
        return read_config(folder), prompt_tokens
    problems, config = load_problem_set(spec, folder)
    return config, problems.longest_prompt()


def _plan(job: Any, from_shapes: bool) -> Any:
    from jaxrl.planning.compile_only import compile_only_devices, has_gpu_compiler
    from jaxrl.planning.plan import plan_compiled, plan_shapes
    from jaxrl.runtime.hardware import check_attention
    from jaxrl.training.components import build_components, check_positions

    check_positions(job.longest, job.config)
    check_attention(job.spec.model.attention, job.devices)
    if job.devices.on_cpu or from_shapes or not has_gpu_compiler():
        return plan_shapes(job)
    devices = compile_only_devices(job.devices.name, job.devices.count, job.devices.hosts)
    return plan_compiled(job, build_components(job.spec, job.config, job.longest, devices))


def _text(plan: Any, report: dict[str, Any]) -> str:
    """The plan as text."""
    from jaxrl.planning.advice import phase_table, shortage
    from jaxrl.planning.plan import GIB
    from jaxrl.planning.roofline import times_table

    source = {"compiler": "XLA's compiler for these GPUs", "shapes": "shapes (temporaries are estimated)"}[plan.source]
    if plan.compile_seconds:
        source += f"; compiled in {sum(plan.compile_seconds.values()):.0f} s"
    sizes = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    most, memory = plan.largest_phase.bytes / GIB, plan.job.devices.memory / GIB
    fits = f"It fits: at most {most:.1f} of {memory:.1f} GiB on a device."
    largest = " and ".join(f"{name}={count}" for name, count in report["largest"].items())
    lines = [
        f"{report['config']}: {report['model']} on {report['devices']} ({sizes}), rows of {report['prompt_tokens']} + "
        f"{report['response_tokens']} tokens",
        f"GiB on each device, from {source}:",
        "",
        phase_table(plan),
        "",
        fits if plan.fits else f"It does not fit: {shortage(plan)} {report['advice']}",
        f"Largest values that fit, each changed alone: {largest}.",
    ]
    return "\n".join([*lines, *times_table(plan, report["steps"])])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), plan, argv)


if __name__ == "__main__":
    sys.exit(main())
