"""What one GPU reaches: attention, decoding and updates with random weights, beside what its vendor promises.

    python benchmarks/gpu.py [--sizes=1.5b,7b] [--rows=64,128,256,512] [--contexts=512,1024,2048] [--parts=decode,...]

attention: cuDNN's kernel and the plain path, forward and backward, on rows of unequal lengths: largest difference, and
times; and attention of one token over a cache, by products and by cuDNN. decode: tokens a second of the sampler's own
program; rows stand at positions spread evenly up to twice the context. Its ceiling: weights and the keys and values of
the context read once a step at the published bandwidth, or the products at the published rate, whichever is slower.
update: stage 2 of the recipe on one device: true tokens a second, operations without recomputation as a share of a
large product's measured rate and of the published one, and the device's peak memory beside the plan's without a
reference, which is not held here. Where all weights with their moments don't fit, the first that does of Adafactor and
of adapters is taken, and named. Exit status 1 where a part fails, or cuDNN differs.
What does not fit the device or the model is named and left out. Each part has a process of its own. On a CPU it runs
with --sizes=tiny, without ceilings and cuDNN. attention and decode need jax, flax and numpy alone; update takes the
recipe's config, so it needs the project's other packages as well.
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
sys.path.insert(0, str(ROOT))  # each part's own process runs this line too

GIB = 2**30
CHUNK, ROUNDS, PROMPT, UPDATED = 64, 3, 400, 64
TOLERANCE = 0.03  # of the largest value, between two orders of bfloat16 sums


def _random_weights(shapes: Any, keys: Any) -> Any:
    import jax

    return jax.tree.map(lambda x, key: 0.02 * jax.random.normal(key, x.shape, x.dtype), shapes, keys)


def seconds(run: Callable[[], Any]) -> float:
    """The fastest of a few runs, the compilation left out."""
    import jax

    jax.block_until_ready(run())
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - began)
    return min(found)


def shape_of(size: str):
    """The model's shape, by a preset's name or `tiny`."""
    from models.config import preset
    from models.folder import read_config

    return read_config(ROOT / "models" / "tiny") if size == "tiny" else preset(size)


def present():
    """The first device, as the planner knows it."""
    import jax

    from jaxrl.runtime.hardware import present_devices

    return present_devices(jax.devices()[:1])


def matmul_rate(width: int = 8192) -> float:
    """Operations a second of a large product in bfloat16."""
    import jax
    import jax.numpy as jnp

    one = jax.random.normal(jax.random.key(0), (width, width), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    return 2 * width**3 * 20 / seconds(lambda: [product(one, one) for _ in range(20)][-1])


def attention(size: str, rows: list[int], contexts: list[int]) -> None:
    """cuDNN beside the plain path."""
    import jax
    import jax.numpy as jnp

    from models.attention import attend
    from models.backends import decode_kernels

    config, on_gpu = shape_of(size), not present().on_cpu
    kinds, dtype = (("plain", "cudnn"), jnp.bfloat16) if on_gpu else (("plain",), jnp.float32)
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    batch, length = 4, 1024 if on_gpu else 128
    keys = jax.random.split(jax.random.key(0), 4)
    query, upstream = (jax.random.normal(key, (batch, length, heads, width), dtype) for key in keys[:2])
    key, value = (jax.random.normal(key, (batch, length, groups, width), dtype) for key in keys[2:])
    lengths = jnp.array([length, length // 2, length - 7, 1], jnp.int32)
    real = (jnp.arange(length)[None] < lengths[:, None])[..., None, None]

    def forward(query, key, value, kind):
        return jnp.where(real, attend(query, key, value, lengths, kind), 0).astype(jnp.float32)

    def loss(query, key, value, kind):
        return jnp.sum(forward(query, key, value, kind) * upstream.astype(jnp.float32))

    found = {}
    for kind in kinds:
        ahead, back = jax.jit(forward, static_argnums=3), jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
        found[kind] = (ahead(query, key, value, kind), *back(query, key, value, kind))
        forward_ms = 1e3 * seconds(partial(ahead, query, key, value, kind))
        backward_ms = 1e3 * seconds(partial(back, query, key, value, kind))
        print(
            f"attention {size}, {batch} x {length}, {kind}: forward {forward_ms:.2f} ms, backward {backward_ms:.2f} ms",
            flush=True,
        )
    differing = []
    if on_gpu:
        for name, one, other in zip(("output", "query", "key", "value"), *(found[kind] for kind in kinds), strict=True):
            one, other = (x.astype(jnp.float32) for x in (one, other))
            off = float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(one)))
            print(f"  {name}: cuDNN differs by {off:.1e} of the largest value")
            differing += [] if off <= TOLERANCE else [name]

    for count in rows:
        for context in contexts:
            positions = jnp.linspace(0, 2 * context - 1, count).astype(jnp.int32)
            size_bytes = 2 * context * count * groups * width * 2 * jnp.dtype(dtype).itemsize
            layout = decode_kernels(jax.default_backend()).cache
            cache = layout.init(config, count, 2 * context, dtype)
            one = jax.random.normal(keys[0], (count, 1, heads, width), dtype)
            flat = jnp.zeros((count, 2 * context, groups, width), dtype)
            paths = {"products": jax.jit(lambda q, k, v, at, layout=layout: layout.attend(q, (k, v), at))}
            if on_gpu:
                paths["cuDNN"] = jax.jit(
                    lambda q, k, v, at: jax.nn.dot_product_attention(
                        q,
                        k,
                        v,
                        key_value_seq_lengths=at + 1,
                        query_seq_lengths=jnp.ones_like(at),
                        implementation="cudnn",
                    )
                )
            told = []
            for name, run in paths.items():
                sides = (cache.keys[0], cache.values[0]) if name == "products" else (flat, flat)
                took = seconds(lambda: [run(one, *sides, positions) for _ in range(20)][-1]) / 20  # noqa: B023
                told.append(f"{name} {1e6 * took:.0f} us, {size_bytes / took / 1e9:.0f} GB/s of the whole cache")
            print(f"one token over a cache, {count} rows, mean context {context}: {'; '.join(told)}", flush=True)
    if differing:
        raise SystemExit(f"attention {size}: cuDNN is off by more than {TOLERANCE} in {', '.join(differing)}")


def decode(size: str, rows: list[int], contexts: list[int]) -> None:
    """Tokens a second of the decode program."""
    import jax
    import jax.numpy as jnp

    from jaxrl.learning.mesh import MeshSpec, make_mesh
    from jaxrl.sampling import Sampler
    from jaxrl.sampling.sampler import abstract_weights
    from jaxrl.sampling.types import initial_slots
    from models.cache import cache_bytes
    from models.flops import forward_flops

    config, device = shape_of(size), present()
    dtype = jnp.float32 if device.on_cpu else jnp.bfloat16
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    weights = None
    for context in contexts:
        longest = 2 * context
        if longest > config.max_position_embeddings:
            print(
                f"decode {size}, mean context {context}: left out, needs {longest} positions of the "
                f"{config.max_position_embeddings} that the model knows",
                flush=True,
            )
            continue
        for count in rows:
            sampler = Sampler(
                config, mesh, dtype=dtype, longest=longest, rows=count, chunk=CHUNK, cache_lengths=(longest,)
            )
            shapes = abstract_weights(sampler.model)
            weight_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
            needed = weight_bytes + cache_bytes(config, count, longest, dtype)
            if needed > device.memory:
                print(
                    f"decode {size}, {count} rows, mean context {context}: left out, needs {needed / GIB:.0f} GiB of "
                    f"{device.memory / GIB:.0f}",
                    flush=True,
                )
                continue
            if weights is None:
                keys = jax.tree.unflatten(
                    jax.tree.structure(shapes), list(jax.random.split(jax.random.key(0), len(jax.tree.leaves(shapes))))
                )
                weights = jax.jit(partial(_random_weights, shapes))(keys)
            ones = np.ones(count, np.float32)
            settings = {
                "max_new_tokens": np.full(count, 2**30, np.int32),
                "top_k": np.zeros(count, np.int32),
                "temperature": ones,
                "top_p": ones,
                "min_p": np.zeros(count, np.float32),
            }
            begin = np.linspace(1, longest - CHUNK, count).astype(np.int32)
            programs, eos = sampler.programs, jnp.asarray((-1,), jnp.int32)
            held = [programs.empty_cache(longest)]

            def chunk():
                slots = programs.put(initial_slots(settings, begin))  # noqa: B023
                held[0], *found = programs.decode[False](weights, held[0], slots, np.int32(CHUNK), eos)  # noqa: B023
                return found

            took = seconds(chunk) / CHUNK
            said = f"decode {size}, {count} rows, mean context {context}: {count / took:,.0f} tokens/s"
            if device.accelerator:
                read = weight_bytes + cache_bytes(config, count, 64, dtype) / 64 * context
                work = count * np.diff([forward_flops(config, np.array([n])) for n in (context, context + 1)])[0]
                rates = device.accelerator.rates
                whole = (weight_bytes + cache_bytes(config, count, longest, dtype)) / rates.memory
                ceiling = count / max(read / rates.memory, work / rates.matmul)
                said += f", ceiling {ceiling:,.0f}, reached {count / took / ceiling:.0%}"
                said += f" ({whole / took:.0%} of what reading the whole cache allows)"
            print(said, flush=True)
            del held, sampler, programs


def update(size: str, rows: list[int], contexts: list[int]) -> None:
    """An update of UPDATED rows as stage 2 makes them."""
    del rows, contexts
    import dataclasses

    import jax

    from configs import stage2
    from jaxrl.algorithms.batch import Batch
    from jaxrl.command_line import plain
    from jaxrl.learning.mesh import MeshSpec
    from jaxrl.learning.state import init_params
    from jaxrl.learning.update import Scalars
    from jaxrl.planning.plan import Job, plan_shapes
    from jaxrl.training.components import build_components
    from jaxrl.training.run_spec import run_spec
    from models.flops import forward_flops
    from models.lora import LoRASpec

    config, device = shape_of(size), present()
    whole = dataclasses.replace(run_spec(plain(stage2.get_config(size))), mesh=MeshSpec())
    adafactor = dataclasses.replace(whole.optimizer, kind="adafactor", moment_dtype="float32")
    variants = {
        "all weights": whole,
        "all weights, Adafactor": dataclasses.replace(whole, optimizer=adafactor),
        "adapters of rank 16": whole.changed(model={"lora": LoRASpec(16, 32.0)}),
    }
    for variant, spec in variants.items():
        job = Job(spec, config, PROMPT if size != "tiny" else 64, device)
        planned = next(phase for phase in plan_shapes(job).phases if phase.name == "update")
        needed = planned.bytes - planned.parts.get("reference", 0)  # no reference is held here
        if needed <= device.memory:
            break
        print(
            f"update {size}, {variant}: left out, needs {needed / GIB:.0f} GiB of {device.memory / GIB:.0f}", flush=True
        )
    else:
        return
    reached = matmul_rate() if device.accelerator else 0.0
    components = build_components(spec, config, job.longest, jax.devices()[:1])
    state = components.init_state(init_params(components.model.clone(lora=None), components.mesh, jax.random.key(0)))
    generator = np.random.default_rng(0)
    lengths = np.clip(
        np.exp(generator.normal(np.log(job.longest / 3), 0.5, UPDATED)), job.prompt_tokens + 8, job.longest
    )
    lengths = lengths.astype(np.int32)
    place = np.arange(job.longest)[None]
    sampled = ((place >= job.prompt_tokens) & (place < lengths[:, None])).astype(np.float32)
    tokens = generator.integers(0, config.vocab_size, sampled.shape, np.int32)
    zeros = np.zeros_like(sampled)
    batch = Batch(
        tokens,
        lengths,
        sampled,
        generator.normal(size=(UPDATED, 1)).astype(np.float32) * sampled,
        ref_logp=zeros - 1.0 * sampled if spec.algorithm.loss.needs_reference else None,
    )
    took = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        state, info = components.update(state, batch, Scalars(1e-7, 1.0, spec.stages[0].kl_coefficient))
        jax.block_until_ready((state, info))
        took.append(time.perf_counter() - began)
    best = min(took[1:])
    said = (
        f"update {size}, {variant}: {UPDATED} rows, {lengths.sum():,} true tokens: {lengths.sum() / best:,.0f} tokens/s"
    )
    if device.accelerator:
        passes = 2 if spec.model.lora else 3  # frozen weights have no gradients
        done, published = passes * forward_flops(config, lengths) / best, device.accelerator.rates.matmul
        peak = jax.devices()[0].memory_stats()["peak_bytes_in_use"]
        said += (
            f", {done / reached:.1%} of {reached / 1e12:.0f} TFLOP/s measured, {done / published:.1%} of "
            f"{published / 1e12:.0f} published, peak {peak / GIB:.1f} GiB, planned {needed / GIB:.1f} GiB "
            f"({peak / needed:.2f})"
        )
    print(said, flush=True)


PARTS = {"attention": attention, "decode": decode, "update": update}


def run_part(part: str, size: str, rows: list[int], contexts: list[int]) -> None:
    """A part in a process of its own."""
    if importlib.util.find_spec("jaxtyping") is None:  # the project's annotations need it, what is timed does not
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
                print(f"{part} {size}: ended with status {process.exitcode}", flush=True)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
