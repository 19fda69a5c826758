"""Completions for a file of prompts. An interrupted file is resumed."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.errors import JaxRuntimeError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrl.inference.completions_file import CompletionFile, prompts_hash
from jaxrl.inference.load import SAMPLER_DEVICES, Source, find_model, load_policy
from jaxrl.inference.prompt_files import check_lengths, read_prompts
from jaxrl.sampling import Completions, Coordinates, SamplingSpec, StopStrings


@dataclasses.dataclass(frozen=True)
class GenerationSpec:
    """`samples` completions of each line of `prompts`, appended to `output` after every `batch` prompts.

    model: RUN, RUN@step, a Hugging Face folder or name. stop: strings that end a completion. rows: completions that a
    device decodes at a time (None: by backend). memory: GiB per device for caches (None: by backend). devices: virtual
    CPU devices (0: the machine's devices).
    """

    model: str
    prompts: Path
    output: Path
    samples: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    stop: tuple[str, ...]
    max_new_tokens: int
    seed: int
    dtype: str
    batch: int
    rows: int | None
    memory: float | None
    devices: int

    def sampling(self) -> SamplingSpec:
        """The sampling settings, without end tokens and stop strings. Raises ValueError for wrong values."""
        return SamplingSpec(self.max_new_tokens, (), self.temperature, self.top_k, self.top_p, self.min_p)

    def settings(self, source: Source, prompts: Sequence[tuple[Any, list[int]]]) -> dict[str, Any]:
        """All that the completions depend on, as plain values."""
        names = ("samples", "seed", "temperature", "top_k", "top_p", "min_p", "stop", "max_new_tokens", "dtype")
        return {
            "model": str((source.run or source.folder).resolve()),
            "checkpoint": source.step,
            "prompts": len(prompts),
            "prompts_hash": prompts_hash(prompts),
            **{name: getattr(self, name) for name in names},
            "stop": list(self.stop),
        }


def complete_file(spec: GenerationSpec, console: Console) -> Iterator[str]:
    """Write the completions that are missing in `spec.output`; yields a sentence after each batch of prompts.

    console: shows a progress bar if it is a terminal. Raises ValueError and OSError with one sentence each.
    """
    sampling = spec.sampling()  # checked before the model, which may have to be downloaded
    source = find_model(spec.model)
    stop = StopStrings(spec.stop, partial(source.tokenizer.decode, skip_special_tokens=False))
    sampling = dataclasses.replace(sampling, eos_ids=source.eos_ids, stop=stop)
    prompts = read_prompts(spec.prompts, source.tokenizer)
    check_lengths(prompts, spec.max_new_tokens, source.config)
    settings = spec.settings(source, prompts)
    file = CompletionFile(spec.output, [name for name, _ in prompts], spec.samples, settings)
    done = file.lines // spec.samples
    if file.lines:
        yield f"{done} of {len(prompts)} prompts are in {spec.output} already"
    if done == len(prompts):
        return
    file.begin()
    sampler_fields = {"rows": spec.rows, "devices": SAMPLER_DEVICES, "memory": spec.memory}
    fields = {"dtype": spec.dtype, "devices": spec.devices, "sampler": sampler_fields}
    longest = max(len(tokens) for _, tokens in prompts) + spec.max_new_tokens
    samples = np.arange(spec.samples, dtype=np.int32)
    with _explain_full_memory(), _progress_bar(console) as bar:
        sampler, weights = load_policy(source, fields, longest)
        task = bar.add_task("completions", total=(len(prompts) - done) * spec.samples)
        for first in range(done, len(prompts), spec.batch):
            batch = prompts[first : first + spec.batch]
            completed = (first - done) * spec.samples
            coordinates = Coordinates(spec.seed, 0, np.arange(first, first + len(batch), dtype=np.int32), samples)
            completions = sampler.sample(
                weights,
                [tokens for _, tokens in batch],
                spec.samples,
                coordinates,
                sampling,
                lambda count, _, completed=completed: bar.update(task, completed=completed + count),
            )
            records = completion_records(batch, completions, source.eos_ids, stop)
            file.add(records[file.lines - first * spec.samples :])  # an interrupted batch may have some lines already
            yield f"{first + len(batch)} of {len(prompts)} prompts"
    traces = sorted(sampler.traces.items())
    counts = ", ".join(f"{name} {count}" for name, count in traces)
    yield f"programs compiled, or loaded from the cache: {sum(count for _, count in traces)} ({counts})"


def completion_records(
    prompts: Sequence[tuple[Any, list[int]]], completions: Completions, eos_ids: Sequence[int], stop: StopStrings
) -> list[Mapping[str, Any]]:
    """The JSON records of completions. `text` is without the end token and ends before a stop string."""
    group, records = len(completions.lengths) // len(prompts), []
    for row, length in enumerate(completions.lengths):
        tokens = completions.tokens[row, :length].tolist()
        text = stop.decode(tokens[:-1] if tokens[-1] in eos_ids else tokens)
        records.append(
            {
                "id": prompts[row // group][0],
                "sample": row % group,
                "text": stop.truncate(text),
                "tokens": tokens,
                "logp": [round(float(value), 6) for value in completions.logp[row, :length]],
                "finish": "stop" if completions.finished[row] else "length",
            }
        )
    return records


@contextmanager
def _explain_full_memory() -> Iterator[None]:
    """Raises ValueError with advice if a device runs out of memory. --rows and --memory don't change completions."""
    try:
        yield
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(
            f"a device's memory is full ({str(error).splitlines()[0]:.200}); run the same command with fewer "
            "--rows or less --memory, which resumes."
        ) from error


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
