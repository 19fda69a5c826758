"""Published accuracies of other models on knights-and-knaves puzzles, and which puzzles they can be compared on."""

from data_gen.names import TRADITIONAL_ROLES
from data_gen.perturb import Writing, find_writing
from data_gen.puzzle import LEAVES, Puzzle, depth_of
from data_gen.spec import PuzzleSpec

# By number of people ("p3": three). Source: Logic-RL (Xie et al. 2025, arXiv 2502.14768), on puzzles like those of
# K-and-K/knights-and-knaves. Ours have the same kinds of statements and similar English, but another generator, so only
# differences of ten points or more are meaningful.
PUBLISHED: dict[str, dict[str, float]] = {
    "Qwen2.5-7B-Instruct-1M": {"p2": 0.49, "p3": 0.40, "p4": 0.25, "p5": 0.11, "p6": 0.06, "p7": 0.02, "p8": 0.01},
    "Qwen2.5-7B-Instruct-1M + Logic-RL": {
        "p2": 0.99,
        "p3": 0.99,
        "p4": 0.94,
        "p5": 0.92,
        "p6": 0.91,
        "p7": 0.80,
        "p8": 0.67,
    },
    "GPT-4o": {"p2": 0.68, "p3": 0.57, "p4": 0.49, "p5": 0.32, "p6": 0.23, "p7": 0.21, "p8": 0.11},
    "o1": {"p2": 0.83, "p3": 0.51, "p4": 0.38, "p5": 0.38, "p6": 0.35, "p7": 0.30, "p8": 0.20},
    "o3-mini-high": {"p2": 0.99, "p3": 0.98, "p4": 0.97, "p5": 0.95, "p6": 0.94, "p7": 0.89, "p8": 0.83},
}
COMPARABLE = "Published accuracies on puzzles of the same distribution (arXiv 2502.14768; about 5 points of error):"

_PUBLISHED_OPENING = "A very special island is inhabited only by knights and knaves."


def is_published_spec(spec: PuzzleSpec) -> bool:
    """Whether puzzles of the spec have the published distribution: the wording "classic", and all other defaults."""
    return spec == PuzzleSpec(spec.people)


def is_published_puzzle(puzzle: Puzzle) -> bool:
    """Whether a puzzle of a file is of the published data set, or has its statements in our wording "classic"."""
    if puzzle.roles != TRADITIONAL_ROLES or not all(map(_is_plain, puzzle.statements)):
        return False
    return puzzle.quiz.startswith(_PUBLISHED_OPENING) or find_writing(puzzle) == Writing("classic")


def _is_plain(statement: tuple) -> bool:
    """Whether a statement has at most one operator, over at most two claims."""
    return statement[0] in LEAVES or (depth_of(statement) == 1 and len(statement) <= 3)
