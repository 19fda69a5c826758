"""Prompt texts.

Prompt forms: "base" (plain text, for models without a chat template), "chat" (the tokenizer's chat template) and
"terse" (only the question, for models too small to follow instructions). If a prompt ends with <think>, the response
starts inside the thinking part. Some chat templates end with <think> themselves (DeepSeek-R1-Distill), so this is read
from the rendered prompt by `is_thinking_open`.
"""

import dataclasses
import re
from typing import Any

from data_gen.puzzle import Puzzle, with_article

FORMS = ("base", "chat", "terse")

_INSTRUCTION = """\
Work the question out step by step before you answer. Write your reasoning between <think> and </think>, then your \
final answer between <answer> and </answer>, and nothing else. """
_ROLES = """\
In the answer give every person's role, for example <answer>Quillon is {truth}, Vesper is {lie}.</answer>"""

NUMBER = _INSTRUCTION + "In the answer give the number that is asked for, for example <answer>217</answer>"
TEXT = _INSTRUCTION + "In the answer give the result alone, in the form that the question asks for."

_SETTING = "On an island everybody is either {truth}, who always tells the truth, or {lie}, who always lies."

_BASE = """\
A person brings a question and a careful reasoner answers it.
{instruction}

Question: {question}
Response:"""

_EMPTY_THINKING = re.compile(r"<think>\s*</think>\s*\Z")


@dataclasses.dataclass(frozen=True)
class PromptSpec:
    """How prompts are written.

    form: one of FORMS. opens_think: append <think> to prompts that don't end with it already.
    """

    form: str = "chat"
    opens_think: bool = False

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"prompt.form: expected one of {', '.join(FORMS)}, got {self.form!r}.")


def question_text(puzzle: Puzzle, form: str) -> str:
    """Setting, statements and the final question; "terse" has no setting. A standalone puzzle is its own question."""
    if puzzle.standalone:
        return puzzle.quiz
    if form == "terse":
        return f"{puzzle.quiz} Who is what?"
    truth, lie = map(with_article, puzzle.roles)
    setting = _SETTING.format(truth=truth, lie=lie)
    return f"{setting} {puzzle.quiz} Who is {truth} and who is {lie}?"


def puzzle_instruction(puzzle: Puzzle) -> str:
    """The instruction for a puzzle: the format of the response, with an example answer."""
    truth, lie = map(with_article, puzzle.roles)
    return _INSTRUCTION + _ROLES.format(truth=truth, lie=lie)


def puzzle_prompt(puzzle: Puzzle, spec: PromptSpec, tokenizer: Any) -> str:
    """The prompt of a puzzle; see `build_prompt`."""
    return build_prompt(question_text(puzzle, spec.form), puzzle_instruction(puzzle), spec, tokenizer)


def build_prompt(question: str, instruction: str, spec: PromptSpec, tokenizer: Any) -> str:
    """The prompt of a question as text.

    tokenizer: a Hugging Face tokenizer, used only by the form "chat". Raises ValueError if it has no chat template.
    """
    if spec.form == "terse":
        prompt = f"{question}\n"
    elif spec.form == "base":
        prompt = _BASE.format(instruction=instruction, question=question) + " "
    else:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "prompt.form=chat: expected a tokenizer with a chat template, got one without; set prompt.form=base."
            )
        messages = _messages(question, instruction)
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return _open_thinking(prompt) if spec.opens_think else prompt


def is_thinking_open(prompt: str) -> bool:
    """Whether a rendered prompt ends inside the thinking part, so that the response must not open it again."""
    return prompt.rstrip().endswith("<think>")


def _open_thinking(prompt: str) -> str:
    """The prompt with one open <think> at its end, which replaces an empty thinking part (Qwen3's way to skip it)."""
    return prompt if is_thinking_open(prompt) else f"{_EMPTY_THINKING.sub('', prompt)}<think>"


def build_messages(question: str, instruction: str, spec: PromptSpec) -> list[dict[str, str]]:
    """The prompt as chat messages, for a server that applies the chat template; "terse" is only the question.

    Raises ValueError for the form "base" and for `opens_think`, which chat messages can't express.
    """
    if spec.form == "base":
        raise ValueError(
            "prompt.form=base: a server applies its chat template to every message, so the plain text of this form "
            "can't be sent; use --form=chat."
        )
    if spec.opens_think:
        raise ValueError(
            "prompt.opens_think: a server ends the prompt itself, so <think> can't be appended; use --form=chat "
            "without --opens-think."
        )
    messages = _messages(question, instruction)
    return messages[1:] if spec.form == "terse" else messages


def _messages(question: str, instruction: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": instruction}, {"role": "user", "content": question}]
