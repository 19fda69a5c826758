"""Prompts: each form says what the rule demands, the template is applied once, and no example name is in a puzzle."""

import re

import pytest

from data_gen import names, prompts
from data_gen.generate import PuzzleSpec, generate
from data_gen.prompts import PromptSpec, build_messages, puzzle_instruction, puzzle_prompt, question_text

PUZZLE = next(iter(generate(PuzzleSpec(3), 1, 1)))


class Template:
    """A chat template that marks its turns."""

    chat_template = "set"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"


@pytest.mark.parametrize("form", prompts.FORMS)
@pytest.mark.parametrize("opens", [False, True])
def test_every_form_asks_the_question_once(form, opens):
    prompt = puzzle_prompt(PUZZLE, PromptSpec(form, opens), Template())
    assert prompt.count(PUZZLE.quiz) == 1
    assert prompt.endswith("<think>") == opens
    assert prompt.count("[assistant]") == (form == "chat")


def test_messages_are_the_chat_prompt_in_parts():
    asked = question_text(PUZZLE, "chat"), puzzle_instruction(PUZZLE)
    parts = build_messages(*asked, PromptSpec("chat"))
    told = Template().apply_chat_template(parts, tokenize=False, add_generation_prompt=True)
    assert told == puzzle_prompt(PUZZLE, PromptSpec("chat"), Template())
    short = question_text(PUZZLE, "terse")
    assert build_messages(short, asked[1], PromptSpec("terse")) == [{"role": "user", "content": short}]
    for spec, said in ((PromptSpec("base"), "--form=chat"), (PromptSpec("chat", True), "nobody can open <think>")):
        with pytest.raises(ValueError, match=said):
            build_messages(*asked, spec)


@pytest.mark.parametrize("form", ["base", "chat"])
def test_instructions_name_both_parts_and_both_roles(form):
    prompt = puzzle_prompt(PUZZLE, PromptSpec(form), Template())
    for word in ("<think>", "</think>", "<answer>", "</answer>", *PUZZLE.roles):
        assert word in prompt


def test_names_of_the_example_never_appear_in_puzzles():
    example = set(re.findall(r"\b[A-Z][a-z]+\b", prompts._ROLES))
    assert example >= {"Quillon", "Vesper"}
    known = {
        name for value in vars(names).values() if isinstance(value, tuple) for name in value if isinstance(name, str)
    }
    assert not {"Quillon", "Vesper"} & known


def test_a_tokenizer_without_template_is_refused():
    with pytest.raises(ValueError, match="chat template"):
        puzzle_prompt(PUZZLE, PromptSpec("chat"), object())
