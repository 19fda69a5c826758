"""The text that the embedded base model is taught on: puzzles with written-out responses, phase by phase."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_gen.canonical import canonical, split_of
from data_gen.generate import PuzzleSpec, generate
from data_gen.puzzle import Puzzle
from data_gen.response_styles import HabitSpec, write_response


@dataclasses.dataclass(frozen=True)
class CorpusSpec:
    """What is drawn: number of people -> weight, the puzzle's kind, and how it is answered.

    splits: name -> share of all canonical forms; only puzzles of the split 'base' are ever shown here, so that
    reinforcement and evaluation meet puzzles (up to renaming) that the base has not seen.
    """

    people: tuple[tuple[int, float], ...]
    puzzles: PuzzleSpec
    habit: HabitSpec
    splits: tuple[tuple[str, float], ...]
    split_seed: int


class Example(NamedTuple):
    """One puzzle with the response that is taught."""

    puzzle: Puzzle
    response: str


def write_corpus(spec: CorpusSpec, seed: int) -> Iterator[Example]:
    """Examples without end, a function of (spec, seed)."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x6A7178])))
    sources = {
        people: generate(dataclasses.replace(spec.puzzles, people=people, unique="text"), seed, None)
        for people, _ in spec.people
    }
    weights = np.array([weight for _, weight in spec.people])
    edges = np.cumsum(weights / weights.sum())
    while True:
        place = min(int(np.searchsorted(edges, generator.random(), side="right")), len(edges) - 1)
        for puzzle in sources[spec.people[place][0]]:
            if split_of(canonical(puzzle.statements), spec.split_seed, dict(spec.splits)) == "base":
                yield Example(puzzle, write_response(puzzle, spec.habit, generator))
                break
