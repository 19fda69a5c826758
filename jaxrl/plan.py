"""`python -m jaxrl.plan --config=configs/stage2.py --devices=4xA100-80GB`: will a run fit, and how fast could it be?

Bytes on each device in every phase of a step, without running anything and without the weights: from XLA's own compiler
for GPUs where it is installed (`pip install 'jaxrl[cuda12]'`, no GPU needed), else from shapes. docs/memory.md says how
to read it.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from jaxrl.flags import plain, run

PROMPT = 400
"""Tokens of the longest prompt, where no tokenizer is at hand: five people's puzzle in a chat template."""

_DEVICES = flags.DEFINE_string("devices", None, "The devices: cpu, or 4xA100-80GB, 1xH200, 64xH100-80GB, 2xA100-40GB.")
_HOSTS = flags.DEFINE_integer(
    "hosts", None, "Hosts that the GPUs are in; default: as few as 8 GPUs a host allow.", lower_bound=1
)
_PROMPT = flags.DEFINE_integer(
    "prompt_tokens",
    None,
    "Tokens of the longest prompt; default: as the model's folder "
    f"makes them, or {PROMPT} where there is only its name.",
    lower_bound=1,
)
_RESPONSE = flags.DEFINE_integer(
    "response_tokens", None, "Mean tokens of a response, for times; default: the limit.", lower_bound=1
)
_SHAPES = flags.DEFINE_boolean("shapes", False, "From shapes, in seconds, also where the compiler is installed.")
_JSON = flags.DEFINE_boolean("json", False, "Print one JSON object.")


def plan(config: ConfigDict) -> int:
    """The command behind the flags; exit status 1 where the run does not fit. Raises ValueError and OSError."""
    from jaxrl.planning.plan import Job
    from jaxrl.planning.report import plan_report
    from jaxrl.runtime.hardware import read_devices
    from jaxrl.training.run_spec import run_spec

    if not _DEVICES.value:
        raise ValueError("expected --devices=cpu, or --devices=4xA100-80GB and the like.")
    fields = plain(config)
    spec = run_spec(fields)
    devices = read_devices(_DEVICES.value, max(fields["devices"], 1), _HOSTS.value)
    found = _plan(Job(spec, *_model_and_prompt(spec), devices))
    report = plan_report(found, _RESPONSE.value)
    print(json.dumps(report, indent=2) if _JSON.value else _text(found, report))
    return 0 if found.fits else 1


def _model_and_prompt(spec: Any) -> tuple[Any, int]:
    """The model's shape and its longest prompt: from its folder, or by its name."""
    from jaxrl.training.problem_pools import load_problem_set
    from models.config import preset
    from models.folder import read_config

    folder = Path(spec.model).expanduser()
    if not folder.is_dir():
        return preset(spec.model), _PROMPT.value or PROMPT
    if _PROMPT.value:
        return read_config(folder), _PROMPT.value
    asked, config = load_problem_set(spec, folder)
    return config, asked.longest_prompt()


def _plan(job: Any) -> Any:
    from jaxrl.planning.compile_only import compile_only_devices, compiler_at_hand
    from jaxrl.planning.plan import plan_compiled, plan_shapes
    from jaxrl.training.components import build_components, check_attention, check_positions

    check_positions(job.longest, job.config)
    check_attention(job.spec.attention, on_cpu=job.devices.on_cpu)
    if job.devices.on_cpu or _SHAPES.value or not compiler_at_hand():
        return plan_shapes(job)
    devices = compile_only_devices(job.devices.name, job.devices.count, job.devices.hosts)
    return plan_compiled(job, build_components(job.spec, job.config, job.longest, devices))


def _text(plan: Any, report: dict[str, Any]) -> str:
    """The plan to read."""
    from jaxrl.planning.advice import shortage, table
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
        table(plan),
        "",
        fits if plan.fits else f"It does not fit: {shortage(plan)} {report['advice']}",
        f"Largest that fit, each alone: {largest}.",
    ]
    return "\n".join([*lines, *times_table(plan, report["steps"])])


if __name__ == "__main__":
    run("jaxrl.plan", plan)
