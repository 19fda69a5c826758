"""A lower bound of the time of a step from its FLOPs, memory traffic and communication, at the published peak rates.

A phase takes as long as the slowest of the three, assuming perfect overlap (Williams et al. 2009, "Roofline"). Kernel
launches, the host and all other work are not counted, so a real step takes longer.
"""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrl.algorithms.advantages import Needs
from jaxrl.learning.mesh import row_shards
from jaxrl.learning.micro_batches import split_into_micro_batches
from jaxrl.planning.collectives import Collective
from jaxrl.planning.memory import FLOAT, device_bytes
from jaxrl.planning.plan import GIB, PROMPT_ROWS, Job, Plan, largest_shape, state_shapes
from jaxrl.runtime.hardware import Devices
from jaxrl.training.components import update_spec
from jaxrl.training.stage_spec import StageSpec
from models.cache import BLOCK, cache_bytes
from models.flops import forward_flops

CollectivesFn = Callable[[str, int], tuple[Collective, ...]]
"""(program, executions) -> its collectives."""


class PhaseWork(NamedTuple):
    """The work of one device in a phase of one step."""

    name: str
    flops: float
    memory_bytes: float  # read and written
    collectives: tuple[Collective, ...]

    def seconds(self, devices: Devices) -> dict[str, float]:
        """Lower bounds by resource, at the published peak rates."""
        rates = devices.accelerator.peak_rates
        link = sum(collective.bytes_sent / link_rate(collective.group, devices) for collective in self.collectives)
        return {"matmul": self.flops / rates.matmul, "memory": self.memory_bytes / rates.memory, "link": link}


def step_times(plan: Plan, response: int | None) -> list[dict[str, Any]]:
    """A step of each stage as plain values: by phase the lower bound in seconds, the resource that limits it, and the
    bytes sent by a device in each kind of collective.

    response: mean tokens of a response; None: the limit of the stage. Empty for devices without published rates.
    """
    job, devices = plan.job, plan.job.devices
    if devices.accelerator is None:
        return []
    programs = expected_collectives(job) | dict(plan.collectives)
    steps = []
    for stage in job.spec.stages:
        tokens = min(response or stage.max_new_tokens, stage.max_new_tokens)
        phases = []
        for work in step_work(job, stage, tokens, programs):
            seconds = work.seconds(devices)
            bound = max(seconds, key=seconds.get)
            sent = collections.Counter()
            for collective in work.collectives:
                sent[collective.kind] += round(collective.bytes_sent)
            phases.append(
                {
                    "name": work.name,
                    "seconds": seconds[bound],
                    "bound": bound,
                    "flops": work.flops,
                    "memory_bytes": round(work.memory_bytes),
                    "sent_bytes": dict(sent),
                }
            )
        steps.append(
            {
                "stage": stage.name,
                "rows": stage.prompts * stage.samples,
                "response_tokens": tokens,
                "seconds": sum(phase["seconds"] for phase in phases),
                "phases": phases,
            }
        )
    return steps


def times_table(plan: Plan, steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """The steps as lines of text."""
    if not steps:
        return []
    source = plan.job.devices.accelerator.peak_rates.source
    lines = ["", f"Lower bounds for a step in seconds, at the published rates ({source}):"]
    for step in steps:
        lines.append(
            f"  {step['stage']}: {step['rows']} responses of {step['response_tokens']} tokens: {step['seconds']:.1f} s"
        )
        for phase in step["phases"]:
            sent = ", ".join(f"{kind} {size / GIB:.1f} GiB" for kind, size in phase["sent_bytes"].items())
            lines.append(
                f"    {phase['name']:<10} {phase['seconds']:8.2f} s by {phase['bound']:<7}"
                + (f" each device sends: {sent}" if sent else "")
            )
    return lines


def link_rate(group: Sequence[int], devices: Devices) -> float:
    """Bytes per second between devices with these ids; rings over several hosts use one network adapter per member."""
    hosts = len({device * devices.hosts // devices.count for device in group})
    rates = devices.accelerator.peak_rates
    return rates.link if hosts == 1 else min(rates.link, len(group) / hosts * rates.network)


def step_work(
    job: Job, stage: StageSpec, response: int, programs: Mapping[str, Sequence[Collective]]
) -> list[PhaseWork]:
    """The phases of a step whose responses all have `response` tokens, after the longest prompt.

    programs: the collectives of one execution of `sync`, `prefill`, `reference`, `values`, `accumulate`, `finish`,
    `critic_accumulate` and `critic_finish`, and of one token of `decode`. The phase `reference` contains all forward
    passes before the update: of the reference, of the critic, and of the policy for old log-probabilities.
    """

    def collectives(program: str, times: int) -> tuple[Collective, ...]:
        return tuple(one._replace(times=one.times * times) for one in programs[program])

    return [*_sampling_work(job, stage, response, collectives), *_learning_work(job, stage, response, collectives)]


def _sampling_work(job: Job, stage: StageSpec, response: int, collectives: CollectivesFn) -> list[PhaseWork]:
    spec, config, count = job.spec, job.config, job.devices.count
    state, weights = state_shapes(job)
    frozen = 0 if state.base is None else device_bytes(state.base)
    used = device_bytes(state.params) if state.base is None else frozen
    rows = stage.prompts * (stage.samples + (spec.algorithm.loss.needs is Needs.GREEDY))
    shard_rows = math.ceil(rows / job.row_shards)
    steps = math.ceil(shard_rows * response / min(shard_rows, spec.sampler.rows * job.batches))
    lengths = np.array(job.cache_lengths)
    positions = np.arange(job.prompt_tokens, job.prompt_tokens + response)
    cache = cache_bytes(config, job.batches * spec.sampler.rows, 1, spec.model.dtype, job.tensor) / BLOCK
    read = cache * lengths[np.searchsorted(lengths, positions)].mean()
    prompt_flops, row_flops = (
        forward_flops(config, np.array([length])) for length in (job.prompt_tokens, job.prompt_tokens + response)
    )
    prompts = np.full(stage.prompts, job.prompt_bucket)
    return [
        # Merged weights are written and read.
        PhaseWork("sync", 0.0, used + 2 * frozen + weights, collectives("sync", 1)),
        PhaseWork("prefill", forward_flops(config, prompts, head=False) / count, weights, collectives("prefill", 1)),
        PhaseWork(
            "decode", rows * (row_flops - prompt_flops) / count, steps * (weights + read), collectives("decode", steps)
        ),
    ]


def _learning_work(job: Job, stage: StageSpec, response: int, collectives: CollectivesFn) -> list[PhaseWork]:
    spec, config, count = job.spec, job.config, job.devices.count
    state, _ = state_shapes(job)
    width, trained = jnp.dtype(spec.model.dtype).itemsize, device_bytes(state.params)
    frozen = 0 if state.base is None else device_bytes(state.base)
    micro_batches = split_into_micro_batches(
        np.full(stage.prompts * stage.samples, job.prompt_tokens + response),
        update_spec(spec, job.longest).layout,
        row_shards(job.mesh),
    )
    padded = np.concatenate([np.full(micro_batch.size, micro_batch.length) for micro_batch in micro_batches])
    forward, valued = (forward_flops(config, padded, head=head) / count for head in (True, False))
    # In units of the forward pass; frozen weights need no product for their gradients.
    backward = (2 if spec.model.lora else 3) + (spec.model.remat == "full")
    updates, iterations = spec.algorithm.epochs * spec.algorithm.minibatches, spec.algorithm.epochs * len(micro_batches)

    def learning(name: str, forward: float, moments: Any, masters: int, frozen: int = 0) -> PhaseWork:
        # Gradients are accumulated once per micro-batch; master weights and moments are read and written.
        memory_bytes = iterations * (3 * masters + frozen) + updates * 2 * (masters + device_bytes(moments))
        return PhaseWork(
            "update",
            spec.algorithm.epochs * backward * forward,
            memory_bytes,
            collectives(f"{name}accumulate", iterations) + collectives(f"{name}finish", updates),
        )

    old = updates > 1 or spec.algorithm.loss.kl_placement == "reward"
    passes = (spec.algorithm.loss.kl_placement != "none") + old
    gathered = frozen or trained * width // FLOAT
    before = PhaseWork(
        "reference",
        passes * forward,
        passes * len(micro_batches) * gathered,
        collectives("reference", passes * len(micro_batches)),
    )
    update = learning("", forward, state.opt_state, trained, frozen)
    if state.critic is not None:
        masters = device_bytes(state.critic.params)
        before = _add(
            before,
            PhaseWork(
                "reference",
                valued,
                len(micro_batches) * masters * width // FLOAT,
                collectives("values", len(micro_batches)),
            ),
        )
        update = _add(update, learning("critic_", valued, state.critic.opt_state, masters))
    return [before, update] if before.flops else [update]


def _add(one: PhaseWork, other: PhaseWork) -> PhaseWork:
    """The sum of both, with the name of the first."""
    return PhaseWork(
        one.name, one.flops + other.flops, one.memory_bytes + other.memory_bytes, one.collectives + other.collectives
    )


def expected_collectives(job: Job) -> dict[str, list[Collective]]:
    """The large collectives of each program, from shapes; with the compiler they are given by `read_collectives`.

    All-gather of weights in the compute dtype and reduce-scatter of gradients over `fsdp`; all-reduce of gradients over
    `data` and of activations over `tensor`.
    """
    spec, config, mesh = job.spec, job.config, job.mesh
    sizes, ids = dict(mesh.shape), np.arange(job.devices.count).reshape(*mesh.shape.values())
    groups = {"data": ids[:, 0, 0], "fsdp": ids[0, :, 0], "tensor": ids[0, 0, :]}
    width, layers = jnp.dtype(spec.model.dtype).itemsize, config.num_hidden_layers
    state, weights = state_shapes(job)
    shards, (rows, length) = row_shards(mesh), largest_shape(job)
    kernel = config.vocab_size * config.hidden_size // sizes["tensor"]  # elements, like `stacked`
    masters = device_bytes(state.params) // FLOAT
    used = state.full_params
    stacked = device_bytes(used["layers"]) // used["final_norm"]["scale"].dtype.itemsize * sizes["fsdp"]
    split = device_bytes(state.params["layers"]) // FLOAT * sizes["fsdp"]
    chunks = max(1, math.ceil(rows * length / spec.layout.head_tokens))
    tokens = rows * length // shards

    def over(axis: str, kind: str, size: float, times: int) -> list[Collective]:
        group = tuple(groups[axis].tolist())
        return [Collective(kind, round(size), group, times)] if len(group) > 1 and times else []

    def trunk(passes: int) -> list[Collective]:
        return over("fsdp", "all-gather", stacked * width, passes)

    def gathered(passes: int) -> list[Collective]:
        # Token chunks of the head are recomputed (`token_logp`); the compiler may gather once for that and backward.
        times = chunks * (2 * passes - 1) if chunks > 1 else passes
        return trunk(passes) + over("fsdp", "all-gather", kernel * width, times)

    def reduced(tokens: int, passes: int) -> list[Collective]:
        return over("tensor", "all-reduce", tokens * config.hidden_size * width, 2 * layers * passes)

    forward_passes = 2 if spec.model.remat == "full" else 1  # of the layers
    programs = {
        "sync": over("fsdp", "all-gather", weights, 1),
        "prefill": reduced(PROMPT_ROWS * job.prompt_bucket, 1),
        "decode": reduced(spec.sampler.rows, 1),
        "reference": gathered(1) + reduced(tokens, 1),
        "accumulate": gathered(2)
        + over("fsdp", "reduce-scatter", split * width, 1)
        + over("fsdp", "reduce-scatter", kernel * FLOAT, 0 if spec.model.lora else chunks)
        + over("data", "all-reduce", masters * FLOAT, 1)
        + reduced(tokens, forward_passes + 1),
        "finish": [],
    }
    if state.critic is not None:  # same layers as the policy, no head
        programs |= {
            "values": trunk(1) + reduced(tokens, 1),
            "critic_accumulate": trunk(2)
            + over("fsdp", "reduce-scatter", split * width, 1)
            + over("data", "all-reduce", device_bytes(state.critic.params), 1)
            + reduced(tokens, forward_passes + 1),
            "critic_finish": [],
        }
    return programs
