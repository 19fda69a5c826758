"""The training corpus of the embedded base model: puzzles with written-out responses."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_gen.canonical import canonical, split_of
from data_gen.generate import generate
from data_gen.puzzle import Puzzle
from data_gen.response_styles import ResponseSpec, write_response
from data_gen.spec import PuzzleSpec


@dataclasses.dataclass(frozen=True)
class CorpusSpec:
    """A mixture of puzzles and of responses.

    people: (number of people, weight). splits: (name, share) of all canonical forms; only the split "base" is used, so
    no puzzle of reinforcement learning or evaluation is in the corpus, not even with other names.
    """

    people: tuple[tuple[int, float], ...]
    puzzles: PuzzleSpec
    responses: ResponseSpec
    splits: tuple[tuple[str, float], ...]
    split_seed: int


class Example(NamedTuple):
    """A puzzle with its response."""

    puzzle: Puzzle
    response: str


def write_corpus(spec: CorpusSpec, seed: int) -> Iterator[Example]:
    """An endless stream of examples, a function of (spec, seed)."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x6A7178])))
    sources = {
        people: generate(dataclasses.replace(spec.puzzles, people=people, unique="text"), seed, None)
        for people, _ in spec.people
    }
    weights = np.array([weight for _, weight in spec.people])
    edges = np.cumsum(weights / weights.sum())
    while True:
        index = min(int(np.searchsorted(edges, generator.random(), side="right")), len(edges) - 1)
        for puzzle in sources[spec.people[index][0]]:
            if split_of(canonical(puzzle.statements), spec.split_seed, dict(spec.splits)) == "base":
                yield Example(puzzle, write_response(puzzle, spec.responses, generator))
                break
