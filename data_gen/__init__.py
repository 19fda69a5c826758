"""Knights-and-knaves puzzles: generation, solver, wording, prompts and files. Plain Python, no JAX."""

from data_gen.canonical import canonical, split_of
from data_gen.dataset import read_puzzles, write_jsonl
from data_gen.generate import generate
from data_gen.perturb import perturb
from data_gen.prompts import PromptSpec, puzzle_prompt
from data_gen.puzzle import Puzzle, from_record, to_record
from data_gen.solve import solutions
from data_gen.spec import PuzzleSpec

__all__ = [
    "PromptSpec",
    "Puzzle",
    "PuzzleSpec",
    "canonical",
    "from_record",
    "generate",
    "perturb",
    "puzzle_prompt",
    "read_puzzles",
    "solutions",
    "split_of",
    "to_record",
    "write_jsonl",
]
