"""What a plan says beyond its numbers: the table, what is short, the largest sizes that fit, and what to change."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from jaxrl.learning.mesh import row_shards
from jaxrl.planning.plan import GIB, Job, Plan, plan_shapes
from jaxrl.training.components import update_spec
from models.qwen2 import REMAT


def largest_counts(plan: Plan) -> dict[str, int]:
    """The largest `layout.micro_tokens` and `sampler.rows` that fit when all else stays, up to what a step can use; 0
    where none does.

    By the estimate; where the plan is the compiler's, moved by what it said of the configured sizes.
    """
    job, shards = plan.job, row_shards(plan.job.mesh)
    estimated = {phase.name: phase.parts["temporaries"] for phase in plan_shapes(job).phases}
    off = {phase.name: phase.parts["temporaries"] - estimated[phase.name] for phase in plan.phases}

    def fits(changed: Job, names: tuple[str, ...]) -> bool:
        phases = [phase for phase in plan_shapes(changed).phases if phase.name in names]
        return all(phase.bytes + off[phase.name] <= job.devices.memory for phase in phases)

    length = update_spec(job.spec, job.longest).layout.buckets[-1]
    return {
        "layout.micro_tokens": length
        * shards
        * _largest(
            lambda rows: fits(job.changed(micro_tokens=rows * shards * length), ("reference", "update")),
            math.ceil(job.rows / shards),
        ),
        "sampler.rows": _largest(
            lambda rows: fits(job.changed(sampler_rows=rows), ("prefill", "decode")),
            math.ceil(job.asked / job.row_shards),
        ),
    }


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, 0 where 1 does not."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def refuse_unfit(job: Job, say: Callable[[str], None]) -> None:
    """Raises ValueError with the plan, and what to change, where a run can't fit; warns where it may not."""
    if not job.devices.memory:
        return
    plan = plan_shapes(job)
    if plan.hopeless:
        raise ValueError(f"{shortage(plan)}\n{table(plan)}\n{advice(plan)}")
    if not plan.fits:
        say(f"warning: {shortage(plan)} {advice(plan)}")


def shortage(plan: Plan) -> str:
    """One sentence: which phase does not fit."""
    phase, memory = plan.largest_phase, plan.job.devices.memory
    return (
        f"this run needs {phase.bytes / GIB:.1f} GiB on each device in the phase {phase.name}, and there are "
        f"{memory / GIB:.1f} GiB ({plan.job.devices})."
    )


def table(plan: Plan) -> str:
    """GiB on one device: a line a phase, a column a part."""
    names = list(dict.fromkeys(name for phase in plan.phases for name in phase.parts))
    lines = [["phase", "all", *names]]
    for phase in plan.phases:
        parts = [f"{phase.parts[name] / GIB:.2f}" if name in phase.parts else "" for name in names]
        lines.append([phase.name, f"{phase.bytes / GIB:.2f}", *parts])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def advice(plan: Plan) -> str:
    """What would make it fit: every change that does alone, else several together, else more devices."""
    job = plan.job
    alone = [f"--config.{name}={value}" for name, value, change in _changes(plan) if plan_shapes(change(job)).fits]
    if alone:
        return f"It fits with {' or '.join(alone)}."
    together = _together(plan)
    if together:
        return f"It fits with {together}."
    for factor in (2, 4, 8, 16, 32, 64) if -1 in dataclasses.astuple(job.spec.mesh) else ():
        devices = dataclasses.replace(job.devices, count=factor * job.devices.count, hosts=factor * job.devices.hosts)
        wider = plan_shapes(dataclasses.replace(job, devices=devices))
        together = _together(wider)
        if wider.fits or together:
            return f"It fits on {devices.count} such devices{'' if wider.fits else f' with {together}'}."
    return "No change that is known here makes it fit; take a smaller model (for example :1.5b behind the config file)."


def _together(plan: Plan) -> str:
    """Changes, one after another, that make it fit; empty where they don't."""
    taken = {}
    for name, value, change in _changes(plan):
        changed = plan_shapes(change(plan.job))
        if changed.largest_phase.bytes < plan.largest_phase.bytes:
            plan, taken[name] = changed, value
        if plan.fits:
            break
    return " ".join(f"--config.{name}={value}" for name, value in taken.items()) if plan.fits else ""


def _changes(plan: Plan) -> list[tuple[str, Any, Callable[[Job], Job]]]:
    """Fields that may be changed against a shortage: name, value, and the changed job."""
    spec, counts = plan.job.spec, largest_counts(plan)

    def change(**fields: Any) -> Callable[[Job], Job]:
        return lambda job: job.changed(**fields)

    def change_optimizer(**fields: Any) -> Callable[[Job], Job]:
        return lambda job: job.changed(optimizer=dataclasses.replace(job.spec.optimizer, **fields))

    found = [
        (name, counts[name], change(**{field: counts[name]}))
        for name, field in (("layout.micro_tokens", "micro_tokens"), ("sampler.rows", "sampler_rows"))
        if 0 < counts[name] < getattr(spec, field)
    ]
    policies = list(REMAT)  # from the one that keeps most to the one that keeps least
    found += [("remat", policy, change(remat=policy)) for policy in policies[policies.index(spec.remat) + 1 :]]
    if (spec.attention, spec.dtype) == ("plain", "bfloat16") and not plan.job.devices.on_cpu:
        found.append(("attention", "cudnn", change(attention="cudnn")))
    if spec.head_tokens > 2048:
        found.append(("layout.head_tokens", 2048, change(head_tokens=2048)))
    if spec.optimizer.moment_dtype == "float32" and spec.optimizer.kind in ("adamw", "muon"):
        found.append(("optimizer.moment_dtype", "bfloat16", change_optimizer(moment_dtype="bfloat16")))
    for tensor in (2, 4, 8):
        divides = plan.job.config.num_key_value_heads % tensor == 0 and plan.job.devices.count % tensor == 0
        if divides and spec.mesh.tensor < tensor and spec.mesh.fsdp == -1:
            mesh = dataclasses.replace(spec.mesh, tensor=tensor)
            found.append(("mesh.tensor", tensor, change(mesh=mesh)))
    if spec.optimizer.kind == "muon":  # its step holds all layers' matrices at once
        found.append(("optimizer.kind", "adamw", change_optimizer(kind="adamw")))
    last = ("sampler.rows", "optimizer.kind")  # fewer slots make decoding slower; another optimizer is another run
    return sorted(found, key=lambda row: last.index(row[0]) if row[0] in last else -1)
