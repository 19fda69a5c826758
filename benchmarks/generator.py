"""Puzzles per second on one core: sampling, checking for one solution, deduplication, wording and writing.

    python benchmarks/generator.py

Targets: 8,000, 5,000 and 2,500 for 3, 5 and 8 people. The recipe's puzzles are "classic" at depth 1.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.dataset import write_jsonl
from data_gen.generate import generate
from data_gen.puzzle import to_record
from data_gen.spec import WORDINGS, PuzzleSpec

COUNT, ROUNDS = 3000, 6


def puzzles_per_second(spec: PuzzleSpec, folder: str) -> float:
    """The best of ROUNDS, since other programs on the machine can only slow a round down."""
    best = float("inf")
    for seed in range(ROUNDS):
        started = time.perf_counter()
        write_jsonl(Path(folder) / "puzzles.jsonl", map(to_record, generate(spec, seed, COUNT)))
        best = min(best, time.perf_counter() - started)
    return COUNT / best


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for wording, depth in itertools.product(WORDINGS, (1, 2)):
            for people in (3, 5, 8, 12):
                speed = puzzles_per_second(PuzzleSpec(people, depth=depth, wording=wording), folder)
                print(f"{wording:7} depth {depth} {people:2} people {speed:8.0f} puzzles per second")


if __name__ == "__main__":
    main()
