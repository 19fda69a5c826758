"""Every word that a model is told, and how a question becomes a prompt.

Forms: 'base' (plain text, for models without a chat template), 'chat' (the tokenizer's own template, applied once, at
run time) and 'terse' (the question alone, for models too small to follow instructions). With `opens_think` the prompt
ends inside an opened <think>, so the response starts with the thinking itself.
"""

import dataclasses
from typing import Any

from data_gen.puzzle import Puzzle

FORMS = ("base", "chat", "terse")

_INSTRUCTION = """\
Work the question out step by step before you answer. Write your reasoning between <think> and </think>, then your \
final answer between <answer> and </answer>, and nothing else. """
_ROLES = """\
In the answer give every person's role, for example <answer>Quillon is a {truth}, Vesper is a {lie}.</answer>"""

NUMBER = _INSTRUCTION + "In the answer give the number that is asked for, for example <answer>217</answer>"
TEXT = _INSTRUCTION + "In the answer give the result alone, in the form that the question asks for."

_SETTING = "On an island everybody is either a {truth}, who always tells the truth, or a {lie}, who always lies."

_BASE = """\
A person brings a question and a careful reasoner answers it.
{instruction}

Question: {question}
Response:"""


@dataclasses.dataclass(frozen=True)
class PromptSpec:
    """How questions are asked: `form` is one of FORMS; `opens_think` writes the opening <think> for the model."""

    form: str = "chat"
    opens_think: bool = False

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"prompt form must be one of {FORMS}, got {self.form!r}.")


def question_text(puzzle: Puzzle, form: str) -> str:
    """The question as asked: the setting, the statements and what is wanted (only the last two in 'terse')."""
    if form == "terse":
        return f"{puzzle.quiz} Who is what?"
    truth, lie = puzzle.roles
    setting = _SETTING.format(truth=truth, lie=lie)
    return f"{setting} {puzzle.quiz} Who is a {truth} and who is a {lie}?"


def puzzle_instruction(puzzle: Puzzle) -> str:
    """What is told beside a puzzle."""
    truth, lie = puzzle.roles
    return _INSTRUCTION + _ROLES.format(truth=truth, lie=lie)


def puzzle_prompt(puzzle: Puzzle, spec: PromptSpec, tokenizer: Any) -> str:
    """The prompt text for one puzzle; see `build_prompt`."""
    return build_prompt(question_text(puzzle, spec.form), puzzle_instruction(puzzle), spec, tokenizer)


def build_prompt(question: str, instruction: str, spec: PromptSpec, tokenizer: Any) -> str:
    """The prompt text for a question. `tokenizer` is used by the 'chat' form only (a Hugging Face tokenizer)."""
    if spec.form == "terse":
        prompt = f"{question}\n"
    elif spec.form == "base":
        prompt = _BASE.format(instruction=instruction, question=question) + " "
    else:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "prompt form 'chat' needs a tokenizer with a chat template, got one without; set prompt.form to 'base'."
            )
        turns = _turns(question, instruction)
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return f"{prompt}<think>" if spec.opens_think else prompt


def build_messages(question: str, instruction: str, spec: PromptSpec) -> list[dict[str, str]]:
    """The same words for a server that applies a chat template itself: 'chat' as always, 'terse' the question alone.

    Raises ValueError for what messages can't say: the form 'base', and a <think> that is opened for the model.
    """
    if spec.form == "base":
        raise ValueError(
            "prompt form 'base' is a text for models without a chat template, and a server puts its own "
            "around every message; ask with --form=chat."
        )
    if spec.opens_think:
        raise ValueError(
            "a server ends the prompt itself, so nobody can open <think> for its model; ask with "
            "--form=chat and without --opens-think."
        )
    turns = _turns(question, instruction)
    return turns[1:] if spec.form == "terse" else turns


def _turns(question: str, instruction: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": instruction}, {"role": "user", "content": question}]
