"""Tokens per second of the sampler and of Hugging Face's `generate`: same weights, float32, CPU, interleaved rounds.

    python benchmarks/sampler.py [--cores=1] [--rounds=3] [--shapes=tiny,mid] [--kinds=fixed,lengths]

fixed: 8 prompts x 8 samples, exactly 256 new tokens. lengths: 512 rows over 64 slots with log-normal lengths (median
100, at most 512) as in real rollouts; Hugging Face gets batches of 64, each as long as its longest row. The sampler is
timed twice: with unknown lengths, as in a rollout, and with the lengths as limits, which it uses to start the longest
rows first. Only tokens that a row keeps are counted. The sampler has one virtual device per core; fixed: all rows in
one batch per device, lengths: batches of up to 32 rows. Needs the test extra (torch).
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

SHAPES = {
    "tiny": {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 1024,
    },
    "mid": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 2048,
    },
}
VOCABULARY, PROMPT, NEW = 2048, 64, 256
PROMPTS, SAMPLES = 8, 8
MEDIAN, SPREAD, LONGEST, ROWS, SLOTS = 100, 0.8, 512, 512, 64


def spread_lengths(generator: np.random.Generator) -> np.ndarray:
    """Response lengths [ROWS] with a long tail."""
    lengths = np.exp(generator.normal(np.log(MEDIAN), SPREAD, ROWS))
    return np.clip(lengths, 4, LONGEST).astype(np.int32)


def make_model(shape: str, folder: Path):
    """(torch model, our config, our scanned parameters) with the same random weights."""
    import torch
    import transformers

    from models.convert import load_params
    from models.folder import read_config

    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **SHAPES[shape],
    )
    model = transformers.Qwen2ForCausalLM(config).eval()
    model.save_pretrained(folder)
    config = read_config(folder)
    return model, config, load_params(folder, config)


def ours(config, params, prompts: np.ndarray, rows: int, spec, group: int) -> tuple[Callable[[int], float], object]:
    """(a function from a step number to the slots' occupancy, the sampler). rows: slots of a batch on a device."""
    from jaxrl.sampling import Coordinates, Sampler

    sampler = Sampler(config, longest=PROMPT + LONGEST, slots=SLOTS, rows=rows)
    weights = sampler.decode_weights(params)

    def run(step: int) -> float:
        coordinates = Coordinates(0, step, np.arange(len(prompts)), np.arange(group))
        return sampler.sample(weights, prompts.tolist(), group, coordinates, spec).occupancy

    return run, sampler


def theirs(model, prompts: np.ndarray, lengths: np.ndarray) -> Callable[..., None]:
    """Runs `generate` for the first `rows` rows (None: all) in batches of SLOTS, each up to its longest row."""
    import torch

    def run(step: int, rows: int | None = None) -> None:
        torch.manual_seed(step)
        for first in range(0, rows or len(prompts), SLOTS):
            new = int(lengths[first : first + SLOTS].max())
            tokens = torch.tensor(prompts[first : first + SLOTS])
            with torch.no_grad():
                model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    min_new_tokens=new,
                    max_new_tokens=new,
                )

    return run


def timed(run: Callable[[int], object], step: int) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    run(step)
    return time.perf_counter() - began


@contextmanager
def unknown_lengths():
    """The queue in the order of the request, because limits do not predict lengths where rows end by themselves."""
    from jaxrl.sampling.scheduler import Queue

    def in_order(limit: np.ndarray, devices: int, rows: np.ndarray) -> Queue:
        return Queue(np.full_like(limit, LONGEST), devices, rows)

    with mock.patch("jaxrl.sampling.engine.Queue", in_order):
        yield


def without_lengths(run: Callable[[int], float]) -> Callable[[int], float]:
    """The run with unknown lengths."""

    def unaware(step: int) -> float:
        with unknown_lengths():
            return run(step)

    return unaware


def compare(our_runs: dict[str, Callable[[int], float]], their_run: Callable[..., None], tokens: int, rounds: int):
    """Warm up, then time all in interleaved rounds; prints the medians and their ratios."""
    occupancy = {name: run(0) for name, run in our_runs.items()}
    their_run(0, SLOTS)
    ours, theirs = {name: [] for name in our_runs}, []
    for step in range(1, rounds + 1):
        for name, run in our_runs.items():
            ours[name].append(timed(run, step))
        theirs.append(timed(their_run, step))
    other = tokens / statistics.median(theirs)
    for name, seconds in ours.items():
        ratios = [b / a for a, b in zip(seconds, theirs, strict=True)]
        print(
            f"{name:24} {tokens / statistics.median(seconds):9.0f} tokens/s   Hugging Face {other:8.0f}   ratio "
            f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})   occupancy "
            f"{occupancy[name]:.1%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cores for both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--kinds", default="fixed,lengths")
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])  # before XLA and torch count cores
    import jax
    import torch

    from jaxrl.sampling import SamplingSpec

    jax.config.update("jax_num_cpu_devices", given.cores)
    torch.set_num_threads(given.cores)
    generator = np.random.default_rng(0)
    prompts = generator.integers(1, VOCABULARY, (PROMPTS, PROMPT))
    lengths = spread_lengths(generator)
    print(f"{given.cores} cores, {given.rounds} rounds")
    for shape in given.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            model, config, params = make_model(shape, Path(folder))
        if "fixed" in given.kinds:
            run, _ = ours(config, params, prompts, SLOTS // given.cores, SamplingSpec(NEW, ()), SAMPLES)
            repeated = np.repeat(prompts, SAMPLES, axis=0)
            fixed = np.full(PROMPTS * SAMPLES, NEW)
            compare({f"{shape}, fixed": run}, theirs(model, repeated, fixed), int(fixed.sum()), given.rounds)
        if "lengths" not in given.kinds:
            continue
        group = ROWS // PROMPTS
        rows = min(32, SLOTS // given.cores)
        run, sampler = ours(config, params, prompts, rows, SamplingSpec(lengths, ()), group)
        repeated = np.repeat(prompts, group, axis=0)
        runs = {f"{shape}, lengths unknown": without_lengths(run), f"{shape}, lengths as limits": run}
        compare(runs, theirs(model, repeated, lengths), int(lengths.sum()), given.rounds)
        before = sampler.traces
        seconds = first_tokens(sampler, params, prompts[:, 1:])
        print(
            f"{shape:14} first call with prompts one token shorter: {seconds:.2f} s, compiled "
            f"{sum(sampler.traces.values()) - sum(before.values())} programs"
        )


def first_tokens(sampler, params, prompts: np.ndarray) -> float:
    """Seconds to the first tokens of a call with other prompts of the same bucket."""
    from jaxrl.sampling import Coordinates, SamplingSpec

    weights = sampler.decode_weights(params)
    coordinates = Coordinates(0, 0, np.arange(len(prompts)), np.arange(SAMPLES))
    return timed(lambda _: sampler.sample(weights, prompts.tolist(), SAMPLES, coordinates, SamplingSpec(1, ())), 0)


if __name__ == "__main__":
    main()
