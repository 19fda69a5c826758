"""Puzzles per second on one core: sampling, checking for one solution, deduplication, wording and writing.

    python benchmarks/generator.py

Targets: 8,000, 5,000 and 2,500 for 3, 5 and 8 people.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.dataset import write_jsonl
from data_gen.generate import PuzzleSpec, generate
from data_gen.puzzle import to_record

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
        for wording in ("varied", "plain"):
            for people in (3, 5, 8, 12):
                speed = puzzles_per_second(PuzzleSpec(people, wording=wording), folder)
                print(f"{wording:7} {people:2} people {speed:8.0f} puzzles per second")


if __name__ == "__main__":
    main()
