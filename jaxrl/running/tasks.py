"""Tasks: where prompts come from and how responses are judged. Knights and knaves is the one that is shipped."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_gen.canonical import canonical, split_of
from data_gen.generate import generate
from data_gen.prompts import PromptSpec, build_prompt
from data_gen.puzzle import Puzzle
from data_gen.ways import way_of
from jaxrl.rewards import RewardValues, Verdict, score
from jaxrl.running.settings import PuzzlesSpec


@dataclasses.dataclass(frozen=True)
class KnightsAndKnaves:
    """Puzzles by split, prompts through the tokenizer, verdicts by the rule. Everything is a function of the seed."""

    puzzles: PuzzlesSpec
    prompt: PromptSpec
    rule: str
    values: RewardValues
    tokenizer: Any
    eos_ids: tuple[int, ...]
    seed: int

    def draw(self, split: str, people: Sequence[tuple[int, int]]) -> list[Puzzle]:
        """(number of people, count) pairs of puzzles of one split, no two equal up to renaming."""
        drawn = []
        for number, count in people:
            mine = (
                puzzle for puzzle in generate(self.puzzles.of(number), self.seed, None)
                if split_of(canonical(puzzle.statements), self.puzzles.split_seed, self.puzzles.splits) == split
            )
            drawn.extend(itertools.islice(mine, count))
        return drawn

    def encode(self, puzzle: Puzzle) -> list[int]:
        """The prompt as token ids; special tokens only where the prompt text has them."""
        text = build_prompt(puzzle, self.prompt, self.tokenizer)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Response tokens as text, special tokens visible, the one final end token left out."""
        tokens = list(tokens)
        if tokens and tokens[-1] in self.eos_ids:
            tokens.pop()
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def judge(self, puzzle: Puzzle, response: str, truncated: bool) -> Verdict:
        """The verdict of the run's rule, the same for training and evaluation."""
        return score(response, quiz=puzzle.quiz, people=puzzle.people, roles=puzzle.roles,
                     prompt_opens_think=self.prompt.opens_think, truncated=truncated, values=self.values,
                     rule=self.rule)

    def way_of(self, response: str) -> str:
        """Which taught way a response follows; only the embedded model's own wording can be told apart."""
        return way_of(response) if self.prompt.form == "terse" else ""


def choose(pool: int, prompts: int, seed: Sequence[int], step: int) -> np.ndarray:
    """Which puzzles of a pool step number `step` (from 0) asks: epoch after epoch, each in an order of its own.

    The remainder of an epoch that does not fill a step is left out, so a step never asks a puzzle twice.
    """
    steps = pool // prompts
    epoch, place = divmod(step, steps)
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*seed, epoch]))).permutation(pool)
    return order[place * prompts : (place + 1) * prompts]
