"""A plan as plain values, as printed by `jaxrl.plan --json`."""

from typing import Any

from jaxrl.planning.advice import advice, largest_sizes
from jaxrl.planning.plan import Plan
from jaxrl.planning.roofline import step_times


def plan_report(plan: Plan, response: int | None) -> dict[str, Any]:
    """The plan with advice and step times, in bytes and seconds. response: as for `step_times`."""
    job = plan.job
    return {
        "config": job.spec.name,
        "model": job.spec.model.path,
        "devices": str(job.devices),
        "mesh": dict(job.mesh.shape),
        "prompt_tokens": job.prompt_tokens,
        "response_tokens": job.longest - job.prompt_tokens,
        "source": plan.source,
        "phases": [
            {"name": phase.name, "bytes_per_device": phase.bytes, "parts": dict(phase.parts)} for phase in plan.phases
        ],
        "device_bytes": job.devices.memory,
        "fits": plan.fits,
        "advice": "" if plan.fits else advice(plan),
        "largest": largest_sizes(plan),
        "compile_seconds": {name: round(seconds, 1) for name, seconds in plan.compile_seconds.items()},
        "steps": step_times(plan, response),
    }
