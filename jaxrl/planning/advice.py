"""The table of a plan, the phase that does not fit, the largest sizes that fit, and the settings to change."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxrl.learning.mesh import row_shards
from jaxrl.planning.plan import GIB, Job, Plan, plan_shapes
from jaxrl.training.components import update_spec
from models.qwen2 import REMAT

Change = tuple[str, Any, Callable[[Job], Job]]
"""Name and new value of a field, and the function that changes a job."""


def largest_sizes(plan: Plan) -> dict[str, int]:
    """The largest `layout.micro_tokens` and `sampler.rows` that fit, each changed alone; 0 if none fits.

    They are limited to the size of a step and based on the estimate, for a compiled plan corrected by its difference to
    the compiler at the configured sizes.
    """
    job, shards = plan.job, row_shards(plan.job.mesh)
    estimated = {phase.name: phase.parts["temporaries"] for phase in plan_shapes(job).phases}
    correction = {phase.name: phase.parts["temporaries"] - estimated[phase.name] for phase in plan.phases}

    def fits(changed: Job, names: tuple[str, ...]) -> bool:
        phases = [phase for phase in plan_shapes(changed).phases if phase.name in names]
        return all(phase.bytes + correction[phase.name] <= job.devices.memory for phase in phases)

    length = update_spec(job.spec, job.longest).layout.buckets[-1]
    return {
        "layout.micro_tokens": length
        * shards
        * _largest(
            lambda rows: fits(job.changed(layout={"micro_tokens": rows * shards * length}), ("reference", "update")),
            math.ceil(job.rows / shards),
        ),
        "sampler.rows": _largest(
            lambda rows: fits(job.changed(sampler={"rows": rows}), ("prefill", "decode")),
            math.ceil(job.sampled_rows / job.row_shards),
        ),
    }


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` that fits, 0 if 1 does not fit."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def check_fits(job: Job, print_fn: Callable[[str], None]) -> None:
    """Raises ValueError with the plan and advice if a run cannot fit; prints a warning if it may not fit."""
    if not job.devices.memory:
        return
    plan = plan_shapes(job)
    if plan.cannot_fit:
        raise ValueError(f"{shortage(plan)}\n{phase_table(plan)}\n{advice(plan)}")
    if not plan.fits:
        print_fn(f"warning: {shortage(plan)} {advice(plan)}")


def shortage(plan: Plan) -> str:
    """The phase that does not fit, in one sentence."""
    phase, memory = plan.largest_phase, plan.job.devices.memory
    return (
        f"this run needs {phase.bytes / GIB:.1f} GiB on each device in the phase {phase.name}, but a device has "
        f"{memory / GIB:.1f} GiB ({plan.job.devices})."
    )


def phase_table(plan: Plan) -> str:
    """GiB per device: one line per phase, one column per part."""
    names = list(dict.fromkeys(name for phase in plan.phases for name in phase.parts))
    lines = [["phase", "total", *names]]
    for phase in plan.phases:
        parts = [f"{phase.parts[name] / GIB:.2f}" if name in phase.parts else "" for name in names]
        lines.append([phase.name, f"{phase.bytes / GIB:.2f}", *parts])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def advice(plan: Plan) -> str:
    """Changes that make the run fit: each single change that does, else a combination, else more devices."""
    job, changes = plan.job, _changes(plan)
    single = [f"--config.{name}={value}" for name, value, change in changes if plan_shapes(change(job)).fits]
    if single:
        return f"It fits with {' or '.join(single)}."
    combination = _combination(plan, changes)
    if combination:
        return f"It fits with {combination}."
    for factor in (2, 4, 8, 16, 32, 64) if -1 in dataclasses.astuple(job.spec.mesh) else ():
        devices = dataclasses.replace(job.devices, count=factor * job.devices.count, hosts=factor * job.devices.hosts)
        wider = plan_shapes(dataclasses.replace(job, devices=devices))
        combination = "" if wider.fits else _combination(wider, _changes(wider))
        if wider.fits or combination:
            return f"It fits on {devices.count} such devices{'' if wider.fits else f' with {combination}'}."
    return "No known change makes it fit; use a smaller model (for example CONFIG.py:1.5b)."


def _combination(plan: Plan, changes: Sequence[Change]) -> str:
    """A combination of changes that makes the run fit, or an empty text."""
    accepted = {}
    for name, value, change in changes:
        changed = plan_shapes(change(plan.job))
        if changed.largest_phase.bytes < plan.largest_phase.bytes:
            plan, accepted[name] = changed, value
        if plan.fits:
            break
    return " ".join(f"--config.{name}={value}" for name, value in accepted.items()) if plan.fits else ""


def _changes(plan: Plan) -> list[Change]:
    """Changes of fields that reduce memory, in the order in which to try them."""
    spec, counts = plan.job.spec, largest_sizes(plan)

    def change(**fields: Any) -> Callable[[Job], Job]:
        return lambda job: job.changed(**fields)

    def change_optimizer(**fields: Any) -> Callable[[Job], Job]:
        return lambda job: job.changed(optimizer=fields)

    changes = []
    if 0 < counts["layout.micro_tokens"] < spec.layout.micro_tokens:
        count = counts["layout.micro_tokens"]
        changes.append(("layout.micro_tokens", count, change(layout={"micro_tokens": count})))
    if 0 < counts["sampler.rows"] < spec.sampler.rows:
        changes.append(("sampler.rows", counts["sampler.rows"], change(sampler={"rows": counts["sampler.rows"]})))
    policies = list(REMAT)  # from the most memory to the least
    changes += [
        ("remat", policy, change(model={"remat": policy}))
        for policy in policies[policies.index(spec.model.remat) + 1 :]
    ]
    if (spec.model.attention, spec.model.dtype) == ("plain", "bfloat16") and not plan.job.devices.on_cpu:
        changes.append(("attention", "cudnn", change(model={"attention": "cudnn"})))
    if spec.layout.head_tokens > 2048:
        changes.append(("layout.head_tokens", 2048, change(layout={"head_tokens": 2048})))
    if spec.optimizer.moment_dtype == "float32" and spec.optimizer.kind in ("adamw", "muon"):
        changes.append(("optimizer.moment_dtype", "bfloat16", change_optimizer(moment_dtype="bfloat16")))
    for tensor in (2, 4, 8):
        divides = plan.job.config.num_key_value_heads % tensor == 0 and plan.job.devices.count % tensor == 0
        if divides and spec.mesh.tensor < tensor and spec.mesh.fsdp == -1:
            mesh = dataclasses.replace(spec.mesh, tensor=tensor)
            changes.append(("mesh.tensor", tensor, change(mesh=mesh)))
    if spec.optimizer.kind == "muon":  # its step orthogonalizes the matrices of all layers at once
        changes.append(("optimizer.kind", "adamw", change_optimizer(kind="adamw")))
    last = ("sampler.rows", "optimizer.kind")  # fewer slots slow down decoding; the optimizer changes the results
    return sorted(changes, key=lambda row: last.index(row[0]) if row[0] in last else -1)
