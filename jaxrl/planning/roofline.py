"""The least time a step can take: what has to be computed, read and sent, at the rates that the vendor publishes.

A phase takes as long as the slowest of the three, as if the others were hidden behind it wholly (Williams et al. 2009,
"Roofline"). Launches, the host and everything that is not one of the three are left out, so a real step is slower.
"""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrl.learning.mesh import row_shards
from jaxrl.learning.micro_batches import cut
from jaxrl.planning.collectives import Collective
from jaxrl.planning.memory import FLOAT, device_bytes
from jaxrl.planning.plan import GIB, PROMPT_ROWS, Job, Plan, held_state, largest_shape
from jaxrl.runtime.hardware import Devices
from jaxrl.training.components import update_spec
from jaxrl.training.run_spec import StageSpec
from models.cache import BLOCK, cache_bytes
from models.flops import forward_flops

Sent = Callable[[str, int], tuple[Collective, ...]]
"""The collectives of so many runs of a program."""


class Work(NamedTuple):
    """What one device does in a phase of one step. sent: its collectives."""

    name: str
    flops: float
    moved: float  # bytes from and to its memory
    sent: tuple[Collective, ...]

    def seconds(self, devices: Devices) -> dict[str, float]:
        """At least so many for each of the three, at the published rates."""
        rates = devices.accelerator.rates
        links = sum(collective.sent / link_rate(collective.group, devices) for collective in self.sent)
        return {"matmul": self.flops / rates.matmul, "memory": self.moved / rates.memory, "link": links}


def step_times(plan: Plan, response: int | None) -> list[dict[str, Any]]:
    """A step of each stage, as plain values: its phases with their seconds at least, what bounds them, and the bytes
    that a device sends in each kind of collective.

    response: mean tokens of a response; None: the stage's limit. Empty for devices without published rates.
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
            for found in work.sent:
                sent[found.kind] += round(found.sent)
            phases.append(
                {
                    "name": work.name,
                    "seconds": seconds[bound],
                    "bound": bound,
                    "flops": work.flops,
                    "memory_bytes": round(work.moved),
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
    """The steps to read, line by line."""
    if not steps:
        return []
    lines = [
        "",
        f"Seconds of a step at the published rates ({plan.job.devices.accelerator.rates.source}); no run can "
        "be faster:",
    ]
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
    """Bytes a second between devices with these numbers; rings over several hosts use an adapter for each member."""
    hosts = len({device * devices.hosts // devices.count for device in group})
    rates = devices.accelerator.rates
    return rates.link if hosts == 1 else min(rates.link, len(group) / hosts * rates.network)


def step_work(job: Job, stage: StageSpec, response: int, programs: Mapping[str, Sequence[Collective]]) -> list[Work]:
    """A step of a stage whose responses all have `response` tokens, after the longest prompt.

    programs: the collectives of a run of `sync`, `prefill`, `reference`, `values`, `accumulate`, `finish` and the
    critic's two, and of one token of `decode`. `reference` is all that is passed forward before the update: of the
    reference, of the critic, and of the policy where it is asked for old log-probabilities.
    """

    def sent(program: str, times: int) -> tuple[Collective, ...]:
        return tuple(found._replace(times=found.times * times) for found in programs[program])

    return [*_sampling_work(job, stage, response, sent), *_learning_work(job, stage, response, sent)]


def _sampling_work(job: Job, stage: StageSpec, response: int, sent: Sent) -> list[Work]:
    spec, config, count = job.spec, job.config, job.devices.count
    state, weights = held_state(job)
    frozen = 0 if state.base is None else device_bytes(state.base)
    used = device_bytes(state.params) if state.base is None else frozen
    rows = stage.prompts * (stage.samples + (spec.loss.needs == "greedy"))
    own = math.ceil(rows / job.row_shards)  # rows of one row shard
    steps = math.ceil(own * response / min(own, spec.sampler_rows * job.batches))
    lengths = np.array(job.cache_lengths)
    positions = np.arange(job.prompt, job.prompt + response)
    cache = cache_bytes(config, job.batches * spec.sampler_rows, 1, spec.dtype, job.split) / BLOCK
    read = cache * lengths[np.searchsorted(lengths, positions)].mean()
    prompt, whole = (forward_flops(config, np.array([length])) for length in (job.prompt, job.prompt + response))
    asked = np.full(stage.prompts, job.prompt_bucket)
    return [
        Work("sync", 0.0, used + 2 * frozen + weights, sent("sync", 1)),  # merged weights are written and read
        Work("prefill", forward_flops(config, asked, head=False) / count, weights, sent("prefill", 1)),
        Work("decode", rows * (whole - prompt) / count, steps * (weights + read), sent("decode", steps)),
    ]


def _learning_work(job: Job, stage: StageSpec, response: int, sent: Sent) -> list[Work]:
    spec, config, count = job.spec, job.config, job.devices.count
    state, _ = held_state(job)
    width, trained = jnp.dtype(spec.dtype).itemsize, device_bytes(state.params)
    frozen = 0 if state.base is None else device_bytes(state.base)
    pieces = cut(
        np.full(stage.prompts * stage.samples, job.prompt + response),
        update_spec(spec, job.longest).layout,
        row_shards(job.mesh),
    )
    padded = np.concatenate([np.full(piece.size, piece.length) for piece in pieces])
    forward, valued = (forward_flops(config, padded, head=head) / count for head in (True, False))
    backward = (2 if spec.lora else 3) + (spec.remat == "full")  # frozen weights need no product for their gradients
    updates, turns = spec.epochs * spec.minibatches, spec.epochs * len(pieces)

    def learning(name: str, forward: float, moments: Any, masters: int, frozen: int = 0) -> Work:
        # A sum of gradients for each micro-batch; masters and moments are read and written.
        moved = turns * (3 * masters + frozen) + updates * 2 * (masters + device_bytes(moments))
        return Work(
            "update",
            spec.epochs * backward * forward,
            moved,
            sent(f"{name}accumulate", turns) + sent(f"{name}finish", updates),
        )

    old = updates > 1 or spec.loss.kl_placement == "reward"
    passes = (spec.loss.kl_placement != "none") + old
    gathered = frozen or trained * width // FLOAT
    before = Work(
        "reference", passes * forward, passes * len(pieces) * gathered, sent("reference", passes * len(pieces))
    )
    update = learning("", forward, state.opt_state, trained, frozen)
    if state.critic is not None:
        masters = device_bytes(state.critic.params)
        before = _both(
            before, Work("reference", valued, len(pieces) * masters * width // FLOAT, sent("values", len(pieces)))
        )
        update = _both(update, learning("critic_", valued, state.critic.opt_state, masters))
    return [before, update] if before.flops else [update]


def _both(one: Work, other: Work) -> Work:
    """One after the other, under the first one's name."""
    return Work(one.name, one.flops + other.flops, one.moved + other.moved, one.sent + other.sent)


def expected_collectives(job: Job) -> dict[str, list[Collective]]:
    """The large collectives of each program, from shapes: what `read_collectives` finds where the compiler is at hand.

    Weights are gathered in the products' type and gradients scattered over `fsdp`, gradients summed over `data`,
    activations over `tensor`.
    """
    spec, config, mesh = job.spec, job.config, job.mesh
    sizes, ids = dict(mesh.shape), np.arange(job.devices.count).reshape(*mesh.shape.values())
    groups = {"data": ids[:, 0, 0], "fsdp": ids[0, :, 0], "tensor": ids[0, 0, :]}
    width, layers = jnp.dtype(spec.dtype).itemsize, config.num_hidden_layers
    state, weights = held_state(job)
    shards, (rows, length) = row_shards(mesh), largest_shape(job)
    kernel = config.vocab_size * config.hidden_size // sizes["tensor"]  # elements, as those of `stacked`
    masters = device_bytes(state.params) // FLOAT
    used = state.params if state.base is None else state.base
    stacked = device_bytes(used["layers"]) // used["final_norm"]["scale"].dtype.itemsize * sizes["fsdp"]
    split = device_bytes(state.params["layers"]) // FLOAT * sizes["fsdp"]
    pieces = max(1, math.ceil(rows * length / spec.head_tokens))
    tokens = rows * length // shards

    def over(axis: str, kind: str, size: float, times: int) -> list[Collective]:
        group = tuple(groups[axis].tolist())
        return [Collective(kind, round(size), group, times)] if len(group) > 1 and times else []

    def trunk(passes: int) -> list[Collective]:
        return over("fsdp", "all-gather", stacked * width, passes)

    def gathered(passes: int) -> list[Collective]:
        # Several pieces of the head are recomputed (`token_logp`); the compiler may gather once for that and backward.
        times = pieces * (2 * passes - 1) if pieces > 1 else passes
        return trunk(passes) + over("fsdp", "all-gather", kernel * width, times)

    def summed(tokens: int, passes: int) -> list[Collective]:
        return over("tensor", "all-reduce", tokens * config.hidden_size * width, 2 * layers * passes)

    again = 2 if spec.remat == "full" else 1  # the layers' forward pass
    found = {
        "sync": over("fsdp", "all-gather", weights, 1),
        "prefill": summed(PROMPT_ROWS * job.prompt_bucket, 1),
        "decode": summed(spec.sampler_rows, 1),
        "reference": gathered(1) + summed(tokens, 1),
        "accumulate": gathered(2)
        + over("fsdp", "reduce-scatter", split * width, 1)
        + over("fsdp", "reduce-scatter", kernel * FLOAT, 0 if spec.lora else pieces)
        + over("data", "all-reduce", masters * FLOAT, 1)
        + summed(tokens, again + 1),
        "finish": [],
    }
    if state.critic is not None:  # with the policy's layers, but no head
        found |= {
            "values": trunk(1) + summed(tokens, 1),
            "critic_accumulate": trunk(2)
            + over("fsdp", "reduce-scatter", split * width, 1)
            + over("data", "all-reduce", device_bytes(state.critic.params), 1)
            + summed(tokens, again + 1),
            "critic_finish": [],
        }
    return found
