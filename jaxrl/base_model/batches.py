"""Examples of the corpus as tokens: the vocabulary and the batches."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from data_gen.corpus import Example, write_corpus
from data_gen.prompts import PromptSpec, puzzle_prompt
from jaxrl.algorithms.batch import Batch
from jaxrl.base_model.spec import SupervisedSpec
from models.vocabulary import build_tokenizer

VOCABULARY_EXAMPLES = 4000
"""Examples of each phase that the vocabulary is built from."""


def train_tokenizer(spec: SupervisedSpec, examples: int = VOCABULARY_EXAMPLES) -> Any:
    """A tokenizer with a vocabulary built from the first examples of every phase."""
    texts = []
    for phase in spec.phases:
        for example in itertools.islice(write_corpus(phase.corpus, spec.seed), examples):
            texts.append(puzzle_prompt(example.puzzle, spec.prompt, None) + example.response)
    return build_tokenizer(texts, spec.model.vocab_size)


def make_batch(spec: SupervisedSpec, phase: int, step: int, tokenizer: Any) -> Batch:
    """The batch of a step of a phase: a function of (spec.seed, phase, step), so a resumed run skips no data."""
    seed = int(np.random.SeedSequence([spec.seed, phase, step]).generate_state(1, np.uint64)[0] >> 1)
    examples = list(itertools.islice(write_corpus(spec.phases[phase].corpus, seed), spec.rows))
    return encode(examples, spec.prompt, tokenizer, spec.longest)


def encode(examples: Sequence[Example], prompt: PromptSpec, tokenizer: Any, longest: int) -> Batch:
    """Rows of prompt, response and EOS token, truncated to `longest` tokens; the loss is on response and EOS.

    Raises ValueError for a prompt of `longest` tokens or more.
    """
    prompts = tokenizer([puzzle_prompt(example.puzzle, prompt, tokenizer) for example in examples])["input_ids"]
    longest_prompt = max(map(len, prompts))
    if longest_prompt >= longest:
        raise ValueError(
            f"longest: expected more than the {longest_prompt} tokens of the longest prompt, got {longest}; raise it."
        )
    responses = tokenizer([example.response for example in examples])["input_ids"]
    rows = [
        (start, [*end, tokenizer.eos_token_id][: longest - len(start)])
        for start, end in zip(prompts, responses, strict=True)
    ]
    lengths = np.array([len(start) + len(end) for start, end in rows], np.int32)
    tokens, loss_mask = (np.zeros((len(rows), lengths.max()), dtype) for dtype in (np.int32, np.float32))
    for row, (start, end) in enumerate(rows):
        tokens[row, : lengths[row]] = start + end
        loss_mask[row, len(start) : lengths[row]] = 1
    return Batch(tokens, lengths, loss_mask, advantages=loss_mask)


def prefetch(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches, each computed in a thread while the previous one is used. `batches` must not end."""
    batches = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, batches)
        while True:
            batch = pending.result()
            pending = thread.submit(next, batches)
            yield batch
