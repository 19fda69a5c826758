"""What a run needs on each device, phase by phase, before anything of it is made."""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from jaxrl.algorithms.batch import Batch
from jaxrl.learning.mesh import DECODE_RULES, abstract_mesh, row_shards
from jaxrl.learning.micro_batches import rows_of
from jaxrl.learning.state import TrainState, abstract_params, abstract_state
from jaxrl.planning import lower_learner as learner
from jaxrl.planning import lower_sampler as sampler
from jaxrl.planning.collectives import Collective, read_collectives
from jaxrl.planning.memory import (
    FLOAT,
    Phase,
    decode_temporaries,
    device_bytes,
    finish_temporaries,
    forward_temporaries,
    learning_temporaries,
    merge_temporaries,
    prefill_temporaries,
    sync_temporaries,
)
from jaxrl.runtime.devices import sampling_count
from jaxrl.runtime.hardware import Devices
from jaxrl.sampling.sampler import batches_within, default_cache_lengths, default_prompt_lengths
from jaxrl.training.components import Components, learner_parts, update_spec
from jaxrl.training.run_spec import RunSpec
from models.cache import cache_bytes
from models.config import Qwen2Config
from models.qwen2 import Qwen2

PROMPT_ROWS = 4  # of one prefill on a device, as the sampler has it
GIB = 2**30
DOUBT = 0.35
"""How far the estimate of temporaries may be too high: `train` refuses only what doesn't fit without this share."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A run on devices; prompt: tokens of its longest prompt."""

    spec: RunSpec
    config: Qwen2Config
    prompt: int
    devices: Devices

    @property
    def longest(self) -> int:
        """Tokens of the longest row, as `build_machine` wants them."""
        limits = [stage.max_new_tokens for stage in self.spec.stages]
        return self.prompt + max(*limits, self.spec.evaluation.max_new_tokens)

    @property
    def mesh(self) -> AbstractMesh:
        """The mesh without its devices. Raises ValueError where it does not cover them."""
        return abstract_mesh(self.spec.mesh, self.devices.count)

    @property
    def samplers(self) -> int:
        """Devices that sample."""
        count = sampling_count(self.spec.sampler_devices) if self.devices.on_cpu and self.devices.hosts == 1 else 0
        return count or self.devices.count

    @property
    def beside(self) -> int:
        """Devices that sample out of the memory of one that learns."""
        return math.ceil(self.samplers / self.devices.count)

    @property
    def row_shards(self) -> int:
        """Parts into which the sampler splits its rows."""
        return self.samplers // self.split

    @property
    def asked(self) -> int:
        """Rows of the largest call of the sampler: a step's, or an evaluation's."""
        evaluation = self.spec.evaluation
        return max(self.rows, sum(count for _, count in evaluation.pool) * max(evaluation.samples, 1))

    @property
    def batches(self) -> int:
        """Batches of the sampler that a device holds at once."""
        spec, longest = self.spec, self.cache_lengths[-1]
        fit = batches_within(
            int(spec.sampler_memory * GIB), self.config, spec.sampler_rows, longest, spec.dtype, self.split
        )
        return min(fit, math.ceil(self.asked / (spec.sampler_rows * self.row_shards)))

    @property
    def cache_lengths(self) -> tuple[int, ...]:
        """Those of the sampler, ascending."""
        return default_cache_lengths(self.spec.sampler_rows, self.config.num_attention_heads, self.longest)

    @property
    def prompt_bucket(self) -> int:
        """Positions of a prefill of the longest prompt."""
        return next(length for length in default_prompt_lengths(self.longest) if length >= self.prompt)

    @property
    def split(self) -> int:
        """Devices that decode the same rows together."""
        return self.mesh.shape["tensor"]

    @property
    def rows(self) -> int:
        """Rows of the largest step, over all devices."""
        return max(stage.prompts * (stage.samples + (self.spec.loss.needs == "greedy")) for stage in self.spec.stages)

    def changed(self, **fields: Any) -> "Job":
        """The job with other fields of its specification."""
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, **fields))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Phases with their bytes, and what follows from them.

    source: "compiler" or "shapes". collectives, compile_seconds: of each program; empty where nothing was compiled.
    """

    job: Job
    phases: tuple[Phase, ...]
    source: str
    collectives: Mapping[str, Sequence[Collective]]
    compile_seconds: Mapping[str, float]

    @property
    def largest_phase(self) -> Phase:
        """The one that takes most."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def fits(self) -> bool:
        """Whether every phase does."""
        return self.largest_phase.bytes <= self.job.devices.memory

    @property
    def hopeless(self) -> bool:
        """Whether some phase does not fit even if its temporaries were overestimated by DOUBT."""
        doubt = DOUBT if self.source == "shapes" else 0.0
        return any(phase.bytes - doubt * phase.parts["temporaries"] > self.job.devices.memory for phase in self.phases)


def plan_shapes(job: Job) -> Plan:
    """The plan from shapes and shardings alone, in a fraction of a second."""
    return Plan(job, _phases(job, _estimate(job)), "shapes", {}, {})


def plan_compiled(job: Job, components: Components) -> Plan:
    """The plan with the temporaries of the compiler; `machine` is built for devices that can be compiled for."""
    temporaries, seconds, collectives = {}, {}, {}
    for name, program in lower_programs(job, components).items():
        began = time.perf_counter()
        compiled = program.compile()
        seconds[name] = time.perf_counter() - began
        temporaries[name] = compiled.memory_analysis().temp_size_in_bytes
        collectives[name] = read_collectives(compiled.as_text())
    return Plan(job, _phases(job, temporaries), "compiler", collectives, seconds)


def lower_programs(job: Job, components: Components) -> dict[str, jax.stages.Lowered]:
    """The largest programs of every phase, as the run would compile them."""
    state, cache = components.abstract(), components.sampler.cache_lengths[-1]
    truncated = any(stage.truncates for stage in job.spec.stages)
    merging = {"merge": components.merge.lower(state.base, state.params)} if components.merge else {}
    return merging | {
        "sync": components.sampler.programs.unroll.lower(state.params if state.base is None else state.base),
        **sampler.lower(components.sampler, cache, job.prompt_bucket, truncated),
        **learner.lower(components.update, state, *largest_shape(job)),
    }


def largest_shape(job: Job) -> tuple[int, int]:
    """Rows and length of the micro-batch that needs most, over all devices."""
    layout, shards = update_spec(job.spec, job.longest).layout, row_shards(job.mesh)
    shapes = [(rows_of(length, layout.micro_tokens, shards), length) for length in layout.buckets]
    model, *_ = learner_parts(job.spec, job.config, job.mesh)
    return max(shapes, key=lambda shape: learning_temporaries(model, job.mesh, *shape, job.spec.head_tokens, 0))


def _phases(job: Job, temporaries: Mapping[str, int]) -> tuple[Phase, ...]:
    spec, config = job.spec, job.config
    state, weights = held_state(job)
    held = {"parameters": device_bytes(state.params), "moments": device_bytes(state.opt_state)}
    gradients, merged = held["parameters"], {}
    if state.base is not None:
        held["base"] = device_bytes(state.base)
        merged = {"merged": held["base"]}  # beside the base until the decode weights are made of it
    referring = spec.loss.kl_placement != "none"
    if referring:
        held["reference"] = held["parameters"]  # frozen or following, of one size
        if state.base is not None and spec.init_from and not spec.reference.follows:
            held["reference"] += held["base"]  # the first model is not what the adapters were put beside
    if state.critic is not None:
        held["critic"] = device_bytes(state.critic)
        gradients = max(gradients, device_bytes(state.critic.params))
    lengths = (0, *job.cache_lengths)
    weights *= job.beside
    cache, before = (
        job.beside * job.batches * cache_bytes(config, spec.sampler_rows, length, spec.dtype, job.split)
        for length in (lengths[-1], lengths[-2])
    )
    # A layer of one cache lies beside its longer self.
    grown = before // (job.beside * job.batches * config.num_hidden_layers)
    sampling = held | {"decode_weights": weights, "cache": cache}
    # A step's rows lie on their devices all at once, four bytes a token in each field.
    tokens = job.rows * update_spec(spec, job.longest).layout.buckets[-1] // row_shards(job.mesh)
    learning = held | {"batch": 4 * len(Batch._fields) * tokens}
    updates = [size for name, size in temporaries.items() if name.endswith(("accumulate", "finish"))]
    phases = [
        Phase(
            "sync",
            held
            | merged
            | {"decode_weights": weights, "temporaries": max(temporaries["sync"], temporaries.get("merge", 0))},
        ),
        Phase(
            "prefill",
            sampling | {"prompts": _prompt_bytes(job), "temporaries": max(temporaries["prefill"], temporaries["seat"])},
        ),
        Phase("decode", sampling | {"temporaries": max(temporaries["decode"], grown)}),
        Phase("reference", learning | {"temporaries": temporaries["reference"]}),
        Phase("update", learning | {"gradients": gradients, "temporaries": max(updates)}),
    ]
    passes = referring or spec.epochs * spec.minibatches > 1  # else nobody asks for log-probabilities alone
    return tuple(phase for phase in phases if phase.name != "reference" or passes)


def _estimate(job: Job) -> dict[str, int]:
    """Temporaries of each program from shapes."""
    spec, config, mesh = job.spec, job.config, job.mesh
    model, *_ = learner_parts(spec, config, mesh)
    (state, _), shape = held_state(job), largest_shape(job)
    decode = decode_temporaries(config, spec.sampler_rows, job.split)
    return {
        "sync": sync_temporaries(state.params if state.base is None else state.base, mesh, spec.dtype),
        "prefill": prefill_temporaries(config, PROMPT_ROWS, job.prompt_bucket, spec.dtype, job.split),
        "seat": decode,
        "decode": decode,
        "reference": forward_temporaries(model, mesh, *shape, spec.head_tokens),
        "accumulate": learning_temporaries(model, mesh, *shape, spec.head_tokens, device_bytes(state.params)),
        "finish": finish_temporaries(state.params, spec.optimizer.kind),
    } | ({} if state.base is None else {"merge": merge_temporaries(state.base)})


def _prompt_bytes(job: Job) -> int:
    """Caches and logits of the prompts that wait for a slot on one device: one for each row when drawing greedily."""
    seats = min(job.spec.sampler_rows * job.batches, math.ceil(job.asked / job.row_shards))
    prompts = math.ceil(seats / PROMPT_ROWS) * PROMPT_ROWS
    cache = cache_bytes(job.config, prompts, job.prompt_bucket, job.spec.dtype, job.split)
    return job.beside * (cache + prompts * job.config.vocab_size * FLOAT)


def held_state(job: Job) -> tuple[TrainState, int]:
    """Shapes of the state, and bytes of the decode weights on a device."""
    return _held_by(dataclasses.replace(job.spec, micro_tokens=1, sampler_rows=1), job.config, job.devices.count)


@functools.lru_cache(maxsize=16)
def _held_by(spec: RunSpec, config: Qwen2Config, count: int) -> tuple[TrainState, int]:
    mesh = abstract_mesh(spec.mesh, count)
    model, optimizer, critic = learner_parts(spec, config, mesh)
    state = abstract_state(model, optimizer, mesh, critic, follows=spec.reference.follows)
    weights = device_bytes(abstract_params(Qwen2(config), mesh, DECODE_RULES))
    return state, weights * jnp.dtype(spec.dtype).itemsize // FLOAT
