"""The memory that a run needs on each device, by phase, before any array is allocated."""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from jaxrl.algorithms.advantages import Needs
from jaxrl.algorithms.batch import Batch
from jaxrl.learning.mesh import DECODE_RULES, MeshSpec, abstract_mesh, row_shards
from jaxrl.learning.micro_batches import micro_batch_rows
from jaxrl.learning.state import TrainState, abstract_params, abstract_state
from jaxrl.planning.collectives import Collective, read_collectives
from jaxrl.planning.lower_learner import lower_update
from jaxrl.planning.lower_sampler import lower_sampler
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
from jaxrl.runtime.cpu import sampling_count
from jaxrl.runtime.hardware import Devices
from jaxrl.sampling.sampler import PROMPT_ROWS, batches_within, default_cache_lengths, default_prompt_lengths
from jaxrl.training.components import Components, learner_parts, update_spec
from jaxrl.training.run_spec import RunSpec
from models.backends import decode_kernels
from models.cache import cache_bytes
from models.config import Qwen2Config
from models.qwen2 import Qwen2

GIB = 2**30
ESTIMATE_TOLERANCE = 0.35
"""Relative error of the estimated temporaries: `train` stops only if a run does not fit even with that much less."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A run on devices. prompt_tokens: length of its longest prompt."""

    spec: RunSpec
    config: Qwen2Config
    prompt_tokens: int
    devices: Devices

    @property
    def longest(self) -> int:
        """Tokens of the longest row, as `build_components` expects them."""
        limits = [stage.max_new_tokens for stage in self.spec.stages]
        return self.prompt_tokens + max(*limits, self.spec.evaluation.max_new_tokens)

    @property
    def mesh(self) -> AbstractMesh:
        """The mesh without devices. Raises ValueError if its shape does not match the number of devices."""
        return abstract_mesh(self.spec.mesh, self.devices.count)

    @property
    def sampling_devices(self) -> int:
        """Number of devices that sample."""
        count = sampling_count(self.spec.sampler.devices) if self.devices.on_cpu and self.devices.hosts == 1 else 0
        return count or self.devices.count

    @property
    def samplers_per_device(self) -> int:
        """Number of sampling devices that share the memory of one learning device."""
        return math.ceil(self.sampling_devices / self.devices.count)

    @property
    def row_shards(self) -> int:
        """Number of shards of the sampler's rows."""
        return self.sampling_devices // self.tensor

    @property
    def sampled_rows(self) -> int:
        """Rows of the largest call of the sampler, in a step or in an evaluation."""
        evaluation = self.spec.evaluation
        return max(self.rows, sum(count for _, count in evaluation.pool) * max(evaluation.samples, 1))

    @property
    def batches(self) -> int:
        """Number of decode batches that a device holds at the same time."""
        spec, longest = self.spec, self.cache_lengths[-1]
        fit = batches_within(
            int(spec.sampler.memory * GIB), self.config, spec.sampler.rows, longest, spec.model.dtype, self.tensor
        )
        return min(fit, math.ceil(self.sampled_rows / (spec.sampler.rows * self.row_shards)))

    @property
    def cache_lengths(self) -> tuple[int, ...]:
        """The cache lengths of the sampler, ascending."""
        kernels = decode_kernels("cpu" if self.devices.on_cpu else "gpu")
        rows, few = self.spec.sampler.rows, self.spec.sampler.few_shapes
        return default_cache_lengths(kernels, rows, self.config.num_attention_heads, self.longest, few=few)

    @property
    def prompt_bucket(self) -> int:
        """Padded length of the longest prompt in a prefill."""
        return next(length for length in default_prompt_lengths(self.longest) if length >= self.prompt_tokens)

    @property
    def tensor(self) -> int:
        """Size of the tensor-parallel axis: devices that decode the same rows together."""
        return self.mesh.shape["tensor"]

    @property
    def rows(self) -> int:
        """Rows of the largest step, over all devices."""
        return max(
            stage.prompts * (stage.samples + (self.spec.algorithm.loss.needs is Needs.GREEDY))
            for stage in self.spec.stages
        )

    def changed(self, **fields: Any) -> "Job":
        """The job with changed fields of its specification."""
        return dataclasses.replace(self, spec=self.spec.changed(**fields))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The memory of a job by phase.

    source: "compiler" or "shapes". collectives, compile_seconds: by program; empty if nothing was compiled.
    """

    job: Job
    phases: tuple[Phase, ...]
    source: str
    collectives: Mapping[str, Sequence[Collective]]
    compile_seconds: Mapping[str, float]

    @property
    def largest_phase(self) -> Phase:
        """The phase that needs the most memory."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def fits(self) -> bool:
        """Whether every phase fits."""
        return self.largest_phase.bytes <= self.job.devices.memory

    @property
    def cannot_fit(self) -> bool:
        """Whether a phase does not fit even if its temporaries are overestimated by ESTIMATE_TOLERANCE."""
        tolerance = ESTIMATE_TOLERANCE if self.source == "shapes" else 0.0
        return any(
            phase.bytes - tolerance * phase.parts["temporaries"] > self.job.devices.memory for phase in self.phases
        )


def plan_shapes(job: Job) -> Plan:
    """The plan from shapes and shardings alone, in a fraction of a second."""
    return Plan(job, _phases(job, _estimate(job)), "shapes", {}, {})


def plan_compiled(job: Job, components: Components) -> Plan:
    """The plan with the temporaries of the compiler. components: built for compile-only devices."""
    temporaries, seconds, collectives = {}, {}, {}
    for name, program in lower_programs(job, components).items():
        start = time.perf_counter()
        compiled = program.compile()
        seconds[name] = time.perf_counter() - start
        temporaries[name] = compiled.memory_analysis().temp_size_in_bytes
        collectives[name] = read_collectives(compiled.as_text())
    return Plan(job, _phases(job, temporaries), "compiler", collectives, seconds)


def lower_programs(job: Job, components: Components) -> dict[str, jax.stages.Lowered]:
    """Lowers the largest programs of each phase as the run would compile them."""
    state, cache = components.abstract_state(), components.sampler.cache_lengths[-1]
    truncated = any(stage.truncates for stage in job.spec.stages)
    merge = {"merge": components.merge_adapters.lower(state.base, state.params)} if components.merge_adapters else {}
    return merge | {
        "sync": components.sampler.programs.unroll.lower(state.full_params),
        **lower_sampler(components.sampler, cache, job.prompt_bucket, truncated),
        **lower_update(components.update, state, *largest_shape(job)),
    }


def largest_shape(job: Job) -> tuple[int, int]:
    """Rows and length of the micro-batch with the largest temporaries, over all devices."""
    layout, shards = update_spec(job.spec, job.longest).layout, row_shards(job.mesh)
    shapes = [(micro_batch_rows(length, layout.micro_tokens, shards), length) for length in layout.buckets]
    model, *_ = learner_parts(job.spec, job.config, job.mesh)
    return max(shapes, key=lambda shape: learning_temporaries(model, job.mesh, *shape, job.spec.layout.head_tokens, 0))


def _phases(job: Job, temporaries: Mapping[str, int]) -> tuple[Phase, ...]:
    spec, config = job.spec, job.config
    state, weights = state_shapes(job)
    persistent = {"parameters": device_bytes(state.params), "moments": device_bytes(state.opt_state)}
    gradients, merged = persistent["parameters"], {}
    if state.base is not None:
        persistent["base"] = device_bytes(state.base)
        merged = {"merged": persistent["base"]}  # exists until the decode weights are computed from it
    has_reference = spec.algorithm.loss.kl_placement != "none"
    if has_reference:
        persistent["reference"] = persistent["parameters"]  # fixed or moving, of the same size
        if state.base is not None and spec.model.init_from and not spec.algorithm.reference.moves:
            persistent["reference"] += persistent["base"]  # the initial model differs from the base of the adapters
    if state.critic is not None:
        persistent["critic"] = device_bytes(state.critic)
        gradients = max(gradients, device_bytes(state.critic.params))
    lengths = (0, *job.cache_lengths)
    weights *= job.samplers_per_device
    cache, shorter_cache = (
        job.samplers_per_device
        * job.batches
        * cache_bytes(config, spec.sampler.rows, length, spec.model.dtype, job.tensor)
        for length in (lengths[-1], lengths[-2])
    )
    # When a cache grows, one layer exists in both lengths.
    growth = shorter_cache // (job.samplers_per_device * job.batches * config.num_hidden_layers)
    sampling = persistent | {"decode_weights": weights, "cache": cache}
    # All rows of a step are on the devices at the same time, four bytes per token and field.
    tokens = job.rows * update_spec(spec, job.longest).layout.buckets[-1] // row_shards(job.mesh)
    learning = persistent | {"batch": 4 * len(Batch._fields) * tokens}
    updates = [size for name, size in temporaries.items() if name.endswith(("accumulate", "finish"))]
    phases = [
        Phase(
            "sync",
            persistent
            | merged
            | {"decode_weights": weights, "temporaries": max(temporaries["sync"], temporaries.get("merge", 0))},
        ),
        Phase(
            "prefill",
            sampling
            | {"prompts": _prompt_bytes(job), "temporaries": max(temporaries["prefill"], temporaries["insert"])},
        ),
        Phase("decode", sampling | {"temporaries": max(temporaries["decode"], growth)}),
        Phase("reference", learning | {"temporaries": temporaries["reference"]}),
        Phase("update", learning | {"gradients": gradients, "temporaries": max(updates)}),
    ]
    if not has_reference and spec.algorithm.optimizer_steps == 1:  # no log-probabilities before the update
        phases = [phase for phase in phases if phase.name != "reference"]
    return tuple(phases)


def _estimate(job: Job) -> dict[str, int]:
    """Estimated temporaries of each program."""
    spec, config, mesh = job.spec, job.config, job.mesh
    model, *_ = learner_parts(spec, config, mesh)
    (state, _), shape = state_shapes(job), largest_shape(job)
    decode = decode_temporaries(config, spec.sampler.rows, job.tensor)
    return {
        "sync": sync_temporaries(state.full_params, mesh, spec.model.dtype),
        "prefill": prefill_temporaries(config, PROMPT_ROWS, job.prompt_bucket, spec.model.dtype, job.tensor),
        "insert": decode,
        "decode": decode,
        "reference": forward_temporaries(model, mesh, *shape, spec.layout.head_tokens),
        "accumulate": learning_temporaries(model, mesh, *shape, spec.layout.head_tokens, device_bytes(state.params)),
        "finish": finish_temporaries(state.params, spec.optimizer.kind),
    } | ({} if state.base is None else {"merge": merge_temporaries(state.base)})


def _prompt_bytes(job: Job) -> int:
    """Caches and logits of prefilled prompts on one device; with greedy decoding there is one prompt per row."""
    rows = min(job.spec.sampler.rows * job.batches, math.ceil(job.sampled_rows / job.row_shards))
    prompts = math.ceil(rows / PROMPT_ROWS) * PROMPT_ROWS
    cache = cache_bytes(job.config, prompts, job.prompt_bucket, job.spec.model.dtype, job.tensor)
    return job.samplers_per_device * (cache + prompts * job.config.vocab_size * FLOAT)


def state_shapes(job: Job) -> tuple[TrainState, int]:
    """Shapes of the training state, and bytes of the decode weights per device."""
    spec = job.spec.changed(  # these fields do not affect the state, so plans that differ in them share a cache entry
        model={"remat": "full", "attention": "plain"}, layout={"micro_tokens": 1, "head_tokens": 1}, sampler={"rows": 1}
    )
    weights = _decode_weights(job.config, spec.mesh, job.devices.count)
    return _state(spec, job.config, job.devices.count), weights * jnp.dtype(spec.model.dtype).itemsize


@functools.lru_cache(maxsize=128)
def _decode_weights(config: Qwen2Config, mesh: MeshSpec, count: int) -> int:
    """Elements of the decode weights per device."""
    return device_bytes(abstract_params(Qwen2(config), abstract_mesh(mesh, count), DECODE_RULES)) // FLOAT


@functools.lru_cache(maxsize=128)
def _state(spec: RunSpec, config: Qwen2Config, count: int) -> TrainState:
    mesh = abstract_mesh(spec.mesh, count)
    model, optimizer, critic = learner_parts(spec, config, mesh)
    return abstract_state(model, optimizer, mesh, critic, moving_reference=spec.algorithm.reference.moves)
