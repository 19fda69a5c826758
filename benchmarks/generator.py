"""Puzzles a second on one core, everything included: drawn, unique, deduplicated, worded, written.

python benchmarks/generator.py            targets: 8,000 / 5,000 / 2,500 for 3 / 5 / 8 people
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


def rate(spec: PuzzleSpec, folder: str) -> float:
    """The best of ROUNDS: other programs on the machine can only slow a round down."""
    best = float("inf")
    for seed in range(ROUNDS):
        began = time.perf_counter()
        write_jsonl(Path(folder) / "puzzles.jsonl", map(to_record, generate(spec, seed, COUNT)))
        best = min(best, time.perf_counter() - began)
    return COUNT / best


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for wording in ("varied", "plain"):
            for people in (3, 5, 8, 12):
                speed = rate(PuzzleSpec(people, wording=wording), folder)
                print(f"{wording:7} {people:2} people {speed:8.0f} puzzles a second")


if __name__ == "__main__":
    main()
