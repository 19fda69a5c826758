"""Prompts: every form states the required format, applies the template once and avoids the names of puzzles."""

import re

import pytest

from data_gen import names, prompts
from data_gen.generate import generate
from data_gen.prompts import (
    PromptSpec,
    build_messages,
    is_thinking_open,
    puzzle_instruction,
    puzzle_prompt,
    question_text,
)
from data_gen.spec import PuzzleSpec

pytestmark = pytest.mark.check

PUZZLE = next(iter(generate(PuzzleSpec(3), 1, 1)))


class Template:
    """A chat template that marks the roles of messages."""

    chat_template = "set"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"


@pytest.mark.parametrize("form", prompts.FORMS)
@pytest.mark.parametrize("opens", [False, True])
def test_every_form_contains_the_question_once(form, opens):
    prompt = puzzle_prompt(PUZZLE, PromptSpec(form, opens), Template())
    assert prompt.count(PUZZLE.quiz) == 1
    assert prompt.endswith("<think>") == opens
    assert prompt.count("[assistant]") == (form == "chat")


def test_messages_are_the_parts_of_the_chat_prompt():
    question, instruction = question_text(PUZZLE, "chat"), puzzle_instruction(PUZZLE)
    messages = build_messages(question, instruction, PromptSpec("chat"))
    rendered = Template().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == puzzle_prompt(PUZZLE, PromptSpec("chat"), Template())
    short = question_text(PUZZLE, "terse")
    assert build_messages(short, instruction, PromptSpec("terse")) == [{"role": "user", "content": short}]
    for spec, error in ((PromptSpec("base"), "--form=chat"), (PromptSpec("chat", True), "<think> can't be appended")):
        with pytest.raises(ValueError, match=error):
            build_messages(question, instruction, spec)


@pytest.mark.parametrize("form", ["base", "chat"])
def test_instructions_contain_all_tags_and_both_roles(form):
    prompt = puzzle_prompt(PUZZLE, PromptSpec(form), Template())
    for word in ("<think>", "</think>", "<answer>", "</answer>", *PUZZLE.roles):
        assert word in prompt


def test_names_of_the_example_answer_are_not_names_of_puzzles():
    example = set(re.findall(r"\b[A-Z][a-z]+\b", prompts._ROLES))
    assert example >= {"Quillon", "Vesper"}
    known = {
        name for value in vars(names).values() if isinstance(value, tuple) for name in value if isinstance(name, str)
    }
    assert not {"Quillon", "Vesper"} & known


def test_an_example_of_the_tags_in_the_question_does_not_open_thinking():
    assert not is_thinking_open("Write <think> and </think>.\nassistant\n")
    assert not is_thinking_open("assistant\n<think>\n\n</think>\n\n")
    assert is_thinking_open("assistant\n<think>\n")


def test_a_tokenizer_without_chat_template_raises():
    with pytest.raises(ValueError, match="chat template"):
        puzzle_prompt(PUZZLE, PromptSpec("chat"), object())
