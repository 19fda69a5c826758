"""Tasks: where problems come from and how responses are judged. A row of TASKS is what `config.task.name` chooses."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from data_gen.canonical import canonical, split_of
from data_gen.dataset import read_jsonl
from data_gen.generate import generate
from data_gen.prompts import (
    NUMBER,
    TEXT,
    PromptSpec,
    build_messages,
    build_prompt,
    puzzle_instruction,
    question_text,
)
from data_gen.puzzle import Puzzle
from data_gen.spec import PuzzleSpec
from data_gen.ways import HabitSpec, answer_text, way_of, write_response
from jaxrl.evaluation.problems import Problem
from jaxrl.rewards import RULES, RewardValues, Verdict, score
from jaxrl.sampling import SamplingSpec, StopStrings

_CAREFUL = HabitSpec((("careful", 1.0),))

Pool = Sequence[tuple[str, int]]
"""(kind, how many problems of it) pairs, such as ("p3", 600)."""


class Task(Protocol):
    """What a task has to say; see `PuzzleTask` for the one that is shipped with data."""

    answers: str
    """What a rule needs to judge it: "people", "target" or "verifier" (`jaxrl.rewards.Rule.needs`)."""
    teaches: bool
    """Whether it has a solver that writes responses, `lesson(problem) -> str`, to learn from."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The task of `config.task` without its name. Raises ValueError, before anything is read, for wrong fields."""

    def draw(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """Problems of a split ("train" or "test"), no two of one form, none of a form in `exclude`.

        A function of its arguments. Raises ValueError for an unknown kind or where there are not so many.
        """

    def asked(self, problem: Problem, form: str) -> tuple[str, str]:
        """(question, instruction) for a prompt of the form."""

    def facts(self, problem: Problem) -> dict[str, Any]:
        """What `jaxrl.rewards.score` has to know of the problem."""


@dataclasses.dataclass(frozen=True)
class PuzzleTask:
    """Knights and knaves, written by `data_gen` as the run goes; kinds are "p2" to "p12", by number of people."""

    depth: int
    width: int
    wording: str
    operators: tuple[tuple[str, float], ...]
    splits: tuple[tuple[str, float], ...]
    split_seed: int
    answers = "people"
    teaches = True

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """See `Task`."""
        task = cls(**_known(cls, fields) | {"operators": operator_weights(fields["operators"]),
                                            "splits": tuple(fields["splits"].items())})
        _check_splits(task.splits)
        return task

    def draw(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """See `Task`; no two puzzles are equal up to renaming people and reordering operands."""
        drawn = []
        for kind, count in pool:
            puzzles = generate(self._spec(kind), seed, None, exclude)
            formed = ((puzzle, canonical(puzzle.statements)) for puzzle in puzzles)
            mine = (pair for pair in formed if split_of(pair[1], self.split_seed, self.splits) == split)
            drawn.extend(_puzzle_problem(kind, *pair) for pair in itertools.islice(mine, count))
        return drawn

    def asked(self, problem: Problem, form: str) -> tuple[str, str]:
        """See `Task`."""
        return question_text(problem.content, form), puzzle_instruction(problem.content)

    def facts(self, problem: Problem) -> dict[str, Any]:
        """See `Task`."""
        puzzle: Puzzle = problem.content
        return {"quiz": puzzle.quiz, "people": puzzle.people, "roles": puzzle.roles}

    def lesson(self, problem: Problem) -> str:
        """Every case tried in turn until all statements fit, as the solver finds it, and the answer."""
        return write_response(problem.content, _CAREFUL, np.random.default_rng(0))  # one way only: nothing is drawn

    def _spec(self, kind: str) -> PuzzleSpec:
        people = re.fullmatch(r"p(\d+)", kind)
        if not people:
            raise ValueError(f"pool: expected fields such as p3 (puzzles of three people), got {kind!r}.")
        number = int(people[1])
        return PuzzleSpec(number, depth=self.depth, width=min(self.width, number), operators=self.operators,
                          wording=self.wording)


@dataclasses.dataclass(frozen=True)
class FileTask:
    """Questions with a number as their answer, from JSON lines as GSM8K has them: `question`, and `answer` ending in
    `#### number`. files: (kind, split, path)."""

    files: tuple[tuple[str, str, Path], ...]
    answers = "target"
    teaches = False

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """See `Task`. `files` is kind -> {"train": path, "test": path}."""
        named = _known(cls, fields)["files"]
        return cls(tuple((kind, split, Path(path)) for kind, paths in named.items() for split, path in paths.items()))

    def draw(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """See `Task`; the first problems of each file, in its order, whatever the seed."""
        del seed
        drawn, taken = [], set(exclude)
        for kind, count in pool:
            paths = [path for name, part, path in self.files if (name, part) == (kind, split)]
            if not paths:
                raise ValueError(f"pool: expected a kind with a {split} file in task.files, got {kind!r}.")
            drawn.extend(_take(kind, count, taken, self._read(kind, paths[0])))
        return drawn

    def _read(self, kind: str, path: Path) -> Iterable[Problem]:
        if not path.is_file():
            raise FileNotFoundError(f"task.files: expected a file of JSON lines, found no {path}.")
        for number, record in enumerate(read_jsonl(path), start=1):
            if not all(isinstance(record.get(field), str) for field in ("question", "answer")):
                raise ValueError(f"{path}, question {number}: expected texts `question` and `answer`, got fields "
                                 f"{', '.join(record) or 'none'}.")
            question, answer = record["question"], record["answer"].rpartition("####")[2].strip()
            if not re.fullmatch(r"-?[\d,]+(\.\d+)?", answer):
                raise ValueError(f"{path}, question {number}: expected an answer that ends in a number, got "
                                 f"{answer!r}.")
            mark, form = _mark(kind, question, answer), _plain_form(question)
            yield Problem(mark, kind, question, answer, form, False, (), answer)

    def asked(self, problem: Problem, form: str) -> tuple[str, str]:
        """See `Task`."""
        del form
        return problem.question, NUMBER

    def facts(self, problem: Problem) -> dict[str, Any]:
        """See `Task`."""
        return {"quiz": problem.question, "target": problem.content}


@dataclasses.dataclass(frozen=True)
class GymTask:
    """Any dataset of the package reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760), checked by its own program.

    Kinds are the package's dataset names; splits divide all questions by their text. Needs `pip install jaxrl[gym]`.
    """

    splits: tuple[tuple[str, float], ...]
    split_seed: int
    answers = "verifier"
    teaches = False

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """See `Task`."""
        task = cls(**_known(cls, fields) | {"splits": tuple(fields["splits"].items())})
        _check_splits(task.splits)
        return task

    def draw(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """See `Task`."""
        try:
            import reasoning_gym
        except ImportError as error:
            raise ValueError(f"task.name is 'gym', which needs the package reasoning-gym: pip install 'jaxrl[gym]' "
                             f"({error}).") from error
        drawn, taken = [], set(exclude)
        for kind, count in pool:
            if kind not in reasoning_gym.factory.DATASETS:
                raise ValueError(f"pool: expected a dataset of reasoning-gym, got {kind!r}; there are "
                                 f"{', '.join(sorted(reasoning_gym.factory.DATASETS))}.")
            share = dict(self.splits)[split] / sum(share for _, share in self.splits)
            size = int(4 * count / share) + 100  # enough for a split, also where a part of the questions repeats
            dataset = reasoning_gym.create_dataset(kind, seed=seed, size=size)
            drawn.extend(_take(kind, count, taken, self._of_split(kind, dataset, split)))
        return drawn

    def _of_split(self, kind: str, dataset: Any, split: str) -> Iterable[Problem]:
        for entry in dataset:
            question, form = entry["question"], _plain_form(entry["question"])
            if split_of(form, self.split_seed, self.splits) == split:
                answer = str(entry["answer"])
                # Its id says nothing of the stored answer, which some datasets give as Python's hashes fall; the
                # package's version, which the manifest has, decides what is right.
                yield Problem(_mark(kind, question), kind, question, answer, form, False, (), (dataset, entry))

    def asked(self, problem: Problem, form: str) -> tuple[str, str]:
        """See `Task`."""
        del form
        return problem.question, TEXT

    def facts(self, problem: Problem) -> dict[str, Any]:
        """See `Task`; an answer counts as right only with the full score of the dataset's own program."""
        dataset, entry = problem.content
        return {"quiz": problem.question, "verifier": lambda answer: dataset.score_answer(answer, entry) >= 1}


TASKS: dict[str, type[Task]] = {"knights_and_knaves": PuzzleTask, "gsm8k": FileTask, "gym": GymTask}


def make_task(fields: Mapping[str, Any], rule: str) -> Task:
    """The task of `config.task`. Raises ValueError where the name, a field or the rule does not fit."""
    fields = dict(fields)
    name = fields.pop("name", None)
    if name not in TASKS:
        raise ValueError(f"task.name: expected one of {', '.join(TASKS)}, got {name!r}.")
    task = TASKS[name].from_fields(fields)
    check_rule("reward.rule", rule, name, task)
    return task


def check_rule(field: str, rule: str, name: str, task: Task) -> None:
    """Raises ValueError, naming the config's field, where the rule can't judge the task called `name`."""
    if rule not in RULES or RULES[rule].needs != task.answers:
        fitting = ", ".join(row for row, known in RULES.items() if known.needs == task.answers)
        raise ValueError(f"{field}: expected a rule that can judge the task {name!r} ({fitting}), got {rule!r}.")


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A task as a model meets it: prompts as token ids, responses as text, verdicts by the run's rule."""

    task: Task
    prompt: PromptSpec
    rule: str
    values: RewardValues
    tokenizer: Any
    eos_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()

    def encode(self, problem: Problem) -> list[int]:
        """The prompt as token ids; special tokens only where the prompt text has them."""
        text = build_prompt(*self.task.asked(problem, self.prompt.form), self.prompt, self.tokenizer)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def lesson(self, problem: Problem) -> list[int]:
        """What the task's solver writes, as the tokens that the model should have drawn, the last of which ends it."""
        text = self.task.lesson(problem)
        if self.prompt.opens_think:
            text = text.removeprefix("<think>")
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*tokens, self.tokenizer.eos_token_id]

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """The prompt as chat messages, for a server that has the template; ValueError where they can't say it."""
        return build_messages(*self.task.asked(problem, self.prompt.form), self.prompt)

    def decode(self, tokens: Sequence[int]) -> str:
        """Response tokens as text, special tokens visible, the one final end token left out."""
        tokens = list(tokens)
        if tokens and tokens[-1] in self.eos_ids:
            tokens.pop()
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def judge(self, problem: Problem, response: str, truncated: bool) -> Verdict:
        """The verdict of the run's rule, the same for training and evaluation."""
        return score(response, **self.task.facts(problem), prompt_opens_think=self.prompt.opens_think,
                     truncated=truncated, values=self.values, rule=self.rule)

    def drawing(self, max_new_tokens: int, temperature: float, **truncation: float) -> SamplingSpec:
        """How responses of this dialogue are drawn: what ends them, and the settings given."""
        stop = StopStrings(self.stop, lambda tokens: self.tokenizer.decode(tokens, skip_special_tokens=False))
        return SamplingSpec(max_new_tokens, self.eos_ids, temperature, stop=stop, **truncation)

    def way_of(self, response: str) -> str:
        """Which taught way a response follows; only the embedded model's own wording can be told apart."""
        return way_of(response) if self.prompt.form == "terse" else ""


def choose(pool: int, prompts: int, seed: Sequence[int], step: int) -> np.ndarray:
    """Which problems of a pool step number `step` (from 0) asks: epoch after epoch, each in an order of its own.

    The remainder of an epoch that does not fill a step is left out, so a step never asks a problem twice.
    """
    steps = pool // prompts
    epoch, place = divmod(step, steps)
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*seed, epoch]))).permutation(pool)
    return order[place * prompts : (place + 1) * prompts]


def operator_weights(table: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """{"tells_truth": 1.0} -> (("tells-truth", 1.0),): statements write their names with a hyphen."""
    return tuple((name.replace("_", "-"), weight) for name, weight in table.items())


def _puzzle_problem(kind: str, puzzle: Puzzle, form: str) -> Problem:
    solution = answer_text(puzzle, puzzle.solution)
    return Problem(puzzle.id, kind, puzzle.quiz, solution, form, all(puzzle.solution), puzzle.names, puzzle)


def _take(kind: str, count: int, taken: set[str], problems: Iterable[Problem]) -> list[Problem]:
    """The first `count` problems whose forms are not in `taken`, which grows by theirs."""
    found = []
    for problem in problems:
        if len(found) == count:
            break
        if problem.form not in taken:
            taken.add(problem.form)
            found.append(problem)
    if len(found) < count:
        raise ValueError(f"pool: asked for {count} problems of {kind!r}, but there are only {len(found)} different "
                         "ones; ask for fewer.")
    return found


def _known(task: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    wanted = [field.name for field in dataclasses.fields(task)]
    if sorted(wanted) != sorted(fields):
        raise ValueError(f"task: expected the fields name, {', '.join(wanted)}, got name, {', '.join(fields)}.")
    return dict(fields)


def _check_splits(splits: Sequence[tuple[str, float]]) -> None:
    if {"train", "test"} - {name for name, share in splits if share > 0}:
        raise ValueError(f"task.splits: expected shares above 0 for train and test, got {dict(splits)}.")


def _mark(kind: str, *content: str) -> str:
    """An id of what is asked and what is right, so that a manifest's hash of ids tells when either was changed."""
    return f"{kind}-{hashlib.blake2b(chr(0).join(content).encode(), digest_size=6).hexdigest()}"


def _plain_form(question: str) -> str:
    return " ".join(question.casefold().split())
