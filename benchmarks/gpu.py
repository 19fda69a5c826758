"""Speed of one GPU: attention, decoding and updates with random weights, compared with its data sheet.

    python benchmarks/gpu.py [--sizes=1.5b,7b] [--rows=64,128,256,512] [--contexts=512,1024,2048] [--parts=decode,...]

attention: cuDNN's kernel and the plain one, forward and backward, on rows of unequal lengths: times, and the largest
    difference; and attention of one token over a KV cache, by matrix products and by cuDNN.
decode: tokens per second of the sampler's decode program, with row positions spread evenly up to twice the context. The
    ceiling is one read of the weights and of the context's keys and values per step at the published bandwidth, or the
    matrix products at the published rate, whichever is slower.
update: stage 2 of the recipe on one device: tokens per second without padding; FLOPs without recomputation, as a share
    of the measured rate of a large matrix product and of the published one; and the peak memory compared with the plan,
    without a reference. If all weights with their moments do not fit, Adafactor or adapters are used instead.

Each part runs in its own process. Cases that do not fit the device or the model are listed and skipped. Exit status 1
if a part fails or cuDNN differs. On a CPU it runs with --sizes=tiny, without ceilings and cuDNN. attention and decode
need only jax, flax and numpy; update reads the recipe's config, so it needs the project's other dependencies as well.
"""

import argparse
import importlib.util
import multiprocessing
import os
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # also executed in the process of each part

GIB = 2**30
CHUNK, ROUNDS, PROMPT, UPDATED = 64, 3, 400, 64
TOLERANCE = 0.03  # of the largest value, between two orders of bfloat16 sums


def _random_weights(shapes: Any) -> Any:
    import jax

    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.tree.unflatten(structure, list(jax.random.split(jax.random.key(0), len(leaves))))
    init = jax.jit(
        lambda keys: jax.tree.map(lambda x, key: 0.02 * jax.random.normal(key, x.shape, x.dtype), shapes, keys)
    )
    return init(keys)


def seconds(run: Callable[[], Any]) -> float:
    """The fastest of a few runs, without compilation."""
    import jax

    jax.block_until_ready(run())
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return min(times)


def model_config(size: str):
    """The config of a preset, or of `tiny`."""
    from models.config import preset
    from models.folder import read_config

    return read_config(ROOT / "models" / "tiny") if size == "tiny" else preset(size)


def present():
    """The first device, as the planner describes it."""
    import jax

    from jaxrl.runtime.hardware import present_devices

    return present_devices(jax.devices()[:1])


def matmul_rate(width: int = 8192) -> float:
    """FLOPs per second of a large matrix product in bfloat16."""
    import jax
    import jax.numpy as jnp

    one = jax.random.normal(jax.random.key(0), (width, width), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    return 2 * width**3 * 20 / seconds(lambda: [product(one, one) for _ in range(20)][-1])


def attention(size: str, rows: list[int], contexts: list[int]) -> None:
    """cuDNN compared with the plain kernel."""
    differing = _compare_kernels(size)
    for count in rows:
        for context in contexts:
            _attend_cache(size, count, context)
    if differing:
        raise SystemExit(f"attention {size}: cuDNN differs by more than {TOLERANCE} in {', '.join(differing)}")


def _compare_kernels(size: str) -> list[str]:
    """Time forward and backward passes over full rows. Returns what differs by more than TOLERANCE."""
    import jax
    import jax.numpy as jnp

    from models.attention import attend

    config, on_gpu = model_config(size), not present().on_cpu
    kinds, dtype = (("plain", "cudnn"), jnp.bfloat16) if on_gpu else (("plain",), jnp.float32)
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    batch, length = 4, 1024 if on_gpu else 128
    keys = jax.random.split(jax.random.key(0), 4)
    query, upstream = (jax.random.normal(key, (batch, length, heads, width), dtype) for key in keys[:2])
    key, value = (jax.random.normal(key, (batch, length, kv_heads, width), dtype) for key in keys[2:])
    lengths = jnp.array([length, length // 2, length - 7, 1], jnp.int32)
    mask = (jnp.arange(length)[None] < lengths[:, None])[..., None, None]

    def forward(query, key, value, kind):
        return jnp.where(mask, attend(query, key, value, lengths, kind), 0).astype(jnp.float32)

    def loss(query, key, value, kind):
        return jnp.sum(forward(query, key, value, kind) * upstream.astype(jnp.float32))

    results = {}
    for kind in kinds:
        output, gradient = jax.jit(forward, static_argnums=3), jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
        results[kind] = (output(query, key, value, kind), *gradient(query, key, value, kind))
        forward_ms = 1e3 * seconds(partial(output, query, key, value, kind))
        backward_ms = 1e3 * seconds(partial(gradient, query, key, value, kind))
        print(
            f"attention {size}, {batch} x {length}, {kind}: forward {forward_ms:.2f} ms, backward {backward_ms:.2f} ms",
            flush=True,
        )
    differing = []
    if on_gpu:
        for name, one, other in zip(
            ("output", "query", "key", "value"), *(results[kind] for kind in kinds), strict=True
        ):
            one, other = (x.astype(jnp.float32) for x in (one, other))
            difference = float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(one)))
            print(f"  {name}: cuDNN differs by {difference:.1e} of the largest value")
            differing += [] if difference <= TOLERANCE else [name]
    return differing


def _attend_cache(size: str, count: int, context: int) -> None:
    """Time attention of one token per row over a KV cache of `count` rows."""
    import jax
    import jax.numpy as jnp

    from models.backends import decode_kernels

    config, on_gpu = model_config(size), not present().on_cpu
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    kv_heads, width = config.num_key_value_heads, config.head_dim
    positions = jnp.linspace(0, 2 * context - 1, count).astype(jnp.int32)
    cache_size = 2 * context * count * kv_heads * width * 2 * jnp.dtype(dtype).itemsize
    layout = decode_kernels(jax.default_backend()).cache
    cache = layout.init(config, count, 2 * context, dtype)
    query = jax.random.normal(jax.random.key(0), (count, 1, config.num_attention_heads, width), dtype)
    cases = {"products": (jax.jit(lambda q, k, v, at: layout.attend(q, (k, v), at)), cache.keys[0], cache.values[0])}
    if on_gpu:
        zeros = jnp.zeros((count, 2 * context, kv_heads, width), dtype)
        cases["cuDNN"] = (jax.jit(_cudnn_attend_cached), zeros, zeros)
    results = []
    for name, (attend, keys, values) in cases.items():
        duration = seconds(lambda: [attend(query, keys, values, positions) for _ in range(20)][-1]) / 20  # noqa: B023
        results.append(f"{name} {1e6 * duration:.0f} us, {cache_size / duration / 1e9:.0f} GB/s of the full cache")
    print(f"one token over a cache, {count} rows, mean context {context}: {'; '.join(results)}", flush=True)


def _cudnn_attend_cached(query: Any, key: Any, value: Any, positions: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        key_value_seq_lengths=positions + 1,
        query_seq_lengths=jnp.ones_like(positions),
        implementation="cudnn",
    )


def decode(size: str, rows: list[int], contexts: list[int]) -> None:
    """Tokens per second of the decode program."""
    import jax
    import jax.numpy as jnp

    from jaxrl.learning.mesh import MeshSpec, make_mesh
    from jaxrl.sampling import Sampler
    from jaxrl.sampling.sampler import abstract_weights
    from models.cache import cache_bytes

    config, device = model_config(size), present()
    dtype = jnp.float32 if device.on_cpu else jnp.bfloat16
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    weights = None
    for context in contexts:
        longest = 2 * context
        if longest > config.max_position_embeddings:
            print(
                f"decode {size}, mean context {context}: skipped, needs {longest} positions, the model has "
                f"{config.max_position_embeddings}",
                flush=True,
            )
            continue
        for count in rows:
            case = f"decode {size}, {count} rows, mean context {context}"
            sampler = Sampler(
                config, mesh, dtype=dtype, longest=longest, rows=count, chunk=CHUNK, cache_lengths=(longest,)
            )
            shapes = abstract_weights(sampler.model)
            weight_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
            needed = weight_bytes + cache_bytes(config, count, longest, dtype)
            if needed > device.memory:
                print(f"{case}: skipped, needs {needed / GIB:.0f} GiB of {device.memory / GIB:.0f}", flush=True)
                continue
            if weights is None:
                weights = _random_weights(shapes)
            step_seconds = _decode_seconds(sampler, weights, count, longest) / CHUNK
            line = f"{case}: {count / step_seconds:,.0f} tokens/s"
            if device.accelerator:
                line += _ceiling(
                    config, device.accelerator.peak_rates, dtype, count, context, weight_bytes, step_seconds
                )
            print(line, flush=True)
            del sampler


def _decode_seconds(sampler: Any, weights: Any, count: int, longest: int) -> float:
    """Seconds of one chunk of decode steps with a full batch."""
    import jax.numpy as jnp

    from jaxrl.sampling.types import initial_slots

    ones = np.ones(count, np.float32)
    settings = {
        "max_new_tokens": np.full(count, 2**30, np.int32),
        "top_k": np.zeros(count, np.int32),
        "temperature": ones,
        "top_p": ones,
        "min_p": np.zeros(count, np.float32),
    }
    positions = np.linspace(1, longest - CHUNK, count).astype(np.int32)
    programs, eos = sampler.programs, jnp.asarray((-1,), jnp.int32)
    cache = programs.empty_cache(longest)

    def chunk():
        nonlocal cache  # it is donated
        slots = programs.put(initial_slots(settings, positions))
        cache, *outputs = programs.decode[False](weights, cache, slots, np.int32(CHUNK), eos)
        return outputs

    return seconds(chunk)


def _ceiling(
    config: Any, rates: Any, dtype: Any, count: int, context: int, weight_bytes: int, step_seconds: float
) -> str:
    """The most tokens per second that the published rates allow, and the share of it that a decode step reached."""
    from models.cache import cache_bytes
    from models.flops import forward_flops

    read = weight_bytes + cache_bytes(config, count, 64, dtype) / 64 * context
    flops = count * np.diff([forward_flops(config, np.array([n])) for n in (context, context + 1)])[0]
    full_read = (weight_bytes + cache_bytes(config, count, 2 * context, dtype)) / rates.memory
    ceiling = count / max(read / rates.memory, flops / rates.matmul)
    return (
        f", ceiling {ceiling:,.0f}, reached {count / step_seconds / ceiling:.0%} "
        f"({full_read / step_seconds:.0%} of what reading the full cache allows)"
    )


def update(size: str, rows: list[int], contexts: list[int]) -> None:
    """An update of UPDATED rows, with the settings of stage 2."""
    del rows, contexts
    import jax

    from jaxrl.learning.state import init_params
    from jaxrl.learning.update import Scalars
    from jaxrl.training.components import build_components
    from models.flops import forward_flops

    config, device = model_config(size), present()
    variant, job, needed = _fitting_variant(size, config, device)
    if job is None:
        return
    spec = job.spec
    measured_rate = matmul_rate() if device.accelerator else 0.0
    components = build_components(spec, config, job.longest, jax.devices()[:1])
    state = components.init_state(init_params(components.model.clone(lora=None), components.mesh, jax.random.key(0)))
    batch = _random_batch(config, job)
    times = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        state, info = components.update(state, batch, Scalars(1e-7, 1.0, spec.stages[0].kl_coefficient))
        jax.block_until_ready((state, info))
        times.append(time.perf_counter() - started)
    best, tokens = min(times[1:]), batch.lengths.sum()
    line = f"update {size}, {variant}: {UPDATED} rows, {tokens:,} tokens: {tokens / best:,.0f} tokens/s"
    if device.accelerator:
        passes = 2 if spec.model.lora else 3  # frozen weights have no gradients
        rate = passes * forward_flops(config, batch.lengths) / best
        published = device.accelerator.peak_rates.matmul
        peak = jax.devices()[0].memory_stats()["peak_bytes_in_use"]
        line += (
            f", {rate / measured_rate:.1%} of {measured_rate / 1e12:.0f} TFLOP/s measured, {rate / published:.1%} of "
            f"{published / 1e12:.0f} published, peak {peak / GIB:.1f} GiB, planned {needed / GIB:.1f} GiB "
            f"({peak / needed:.2f})"
        )
    print(line, flush=True)


def _fitting_variant(size: str, config: Any, device: Any) -> tuple[str, Any, int]:
    """The first variant of stage 2 that fits the device: its name, its job, and the bytes it needs. (.., None, ..) if
    none fits."""
    import dataclasses

    from configs import stage2
    from jaxrl.command_line import plain
    from jaxrl.learning.mesh import MeshSpec
    from jaxrl.planning.plan import Job, plan_shapes
    from jaxrl.training.run_spec import run_spec
    from models.lora import LoRASpec

    full = dataclasses.replace(run_spec(plain(stage2.get_config(size))), mesh=MeshSpec())
    adafactor = dataclasses.replace(full.optimizer, kind="adafactor", moment_dtype="float32")
    variants = {
        "all weights": full,
        "all weights, Adafactor": dataclasses.replace(full, optimizer=adafactor),
        "adapters of rank 16": full.changed(model={"lora": LoRASpec(16, 32.0)}),
    }
    for variant, spec in variants.items():
        job = Job(spec, config, PROMPT if size != "tiny" else 64, device)
        planned = next(phase for phase in plan_shapes(job).phases if phase.name == "update")
        needed = planned.bytes - planned.parts.get("reference", 0)  # the benchmark has no reference
        if needed <= device.memory:
            return variant, job, needed
        print(
            f"update {size}, {variant}: skipped, needs {needed / GIB:.0f} GiB of {device.memory / GIB:.0f}", flush=True
        )
    return "", None, 0


def _random_batch(config: Any, job: Any) -> Any:
    """UPDATED rows with log-normal lengths and random tokens and advantages."""
    from jaxrl.algorithms.batch import Batch

    generator = np.random.default_rng(0)
    lengths = np.exp(generator.normal(np.log(job.longest / 3), 0.5, UPDATED))
    lengths = np.clip(lengths, job.prompt_tokens + 8, job.longest).astype(np.int32)
    positions = np.arange(job.longest)[None]
    loss_mask = ((positions >= job.prompt_tokens) & (positions < lengths[:, None])).astype(np.float32)
    return Batch(
        generator.integers(0, config.vocab_size, loss_mask.shape, np.int32),
        lengths,
        loss_mask,
        generator.normal(size=(UPDATED, 1)).astype(np.float32) * loss_mask,
        ref_logp=-loss_mask if job.spec.algorithm.loss.needs_reference else None,
    )


PARTS = {"attention": attention, "decode": decode, "update": update}


def run_part(part: str, size: str, rows: list[int], contexts: list[int]) -> None:
    """Run a part in this process."""
    if importlib.util.find_spec("jaxtyping") is None:  # only annotations need it
        import jax

        shapeless = type("Shapeless", (), {"__class_getitem__": lambda *_: Any})
        stand_in = types.ModuleType("jaxtyping")
        vars(stand_in).update(dict.fromkeys(("Bool", "Float", "Int", "UInt32"), shapeless), Array=jax.Array)
        sys.modules["jaxtyping"] = stand_in
    PARTS[part](size, rows, contexts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1.5b,7b")
    parser.add_argument("--rows", default="64,128,256,512")
    parser.add_argument("--contexts", default="512,1024,2048")
    parser.add_argument("--parts", default=",".join(PARTS))
    given = parser.parse_args()
    rows, contexts = ([int(x) for x in text.split(",")] for text in (given.rows, given.contexts))
    os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.92")
    failed = False
    spawn = multiprocessing.get_context("spawn")
    for size in given.sizes.split(","):
        for part in given.parts.split(","):
            process = spawn.Process(target=run_part, args=(part, size, rows, contexts))
            process.start()
            process.join()
            if process.exitcode:
                failed = True
                print(f"{part} {size}: exited with status {process.exitcode}", flush=True)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
