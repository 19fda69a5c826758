"""Prompts as a task sees them: thinking is opened once, and judged by what the rendered prompt or the server did."""

import pytest

from data_gen.prompts import PromptSpec, is_thinking_open
from jaxrl.command_line import default_fields
from jaxrl.evaluation.remote import describe_openings
from jaxrl.rewards import RewardValues
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.tasks.registry import make_task
from models.tokenizer import load_tokenizer

pytestmark = pytest.mark.check

# What chat templates of the supported families do at the end of a prompt, in our own words.
_MESSAGES = "{% for message in messages %}"
TEMPLATES = {
    "qwen2.5": _MESSAGES
    + "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "qwen3-without-thinking": _MESSAGES
    + "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}",
    "r1-distill": "{{ bos_token }}"
    + _MESSAGES
    + "{% if message.role == 'system' %}{{ message.content }}{% else %}<｜User｜>{{ message.content }}{% endif %}"
    + "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
    "llama3": "{{ bos_token }}"
    + _MESSAGES
    + "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
    + "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "olmo2": "{{ bos_token }}"
    + _MESSAGES
    + "<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}"
    + "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
}
OPENED = "{t}</think>\n<answer>{a}</answer>"
COMPLETE = "<think>{t}</think>\n<answer>{a}</answer>"
TASK = make_task(default_fields()["task"], "strict-2")


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("family", TEMPLATES)
def test_thinking_is_opened_once_and_judged_as_rendered(family, opens):
    tokenizer = load_tokenizer("models/tiny")
    tokenizer.chat_template = TEMPLATES[family]
    prompt_format = PromptFormat(TASK, PromptSpec("chat", opens), "strict-2", RewardValues(), tokenizer, ())
    (problem,) = TASK.select("test", [("p3", 1)], 0)
    prompt = str(tokenizer.decode(prompt_format.encode(problem)))
    ending = prompt[prompt.rindex(problem.question) :]
    expected = opens or family == "r1-distill"
    assert ending.count("<think>") == (1 if expected or "without" in family else 0)
    assert is_thinking_open(prompt) == expected == ending.rstrip().endswith("<think>")
    parts = {"t": f"If {problem.names[0]} lied, the claim would refute itself.", "a": problem.solution}
    for response, is_right in ((OPENED, expected), (COMPLETE, not expected)):
        verdict = prompt_format.judge(problem, response.format(**parts), truncated=False)
        assert (verdict.verdict == "correct") == is_right, verdict.reasons


def test_a_server_opens_thinking_or_not_and_its_responses_tell():
    prompt_format = PromptFormat(TASK, PromptSpec("chat"), "strict-2", RewardValues(), None, ())
    (problem,) = TASK.select("test", [("p3", 1)], 0)
    parts = {"t": f"If {problem.names[0]} lied, the claim would refute itself.", "a": problem.solution}
    for form in (OPENED, COMPLETE):
        assert prompt_format.judge(problem, form.format(**parts), truncated=False).verdict == "correct"
    for form in ("{t}<answer>{a}</answer>", "{t}</think>{t}</think><answer>{a}</answer>", "{a}"):
        assert prompt_format.judge(problem, form.format(**parts), truncated=False).verdict == "bad_format"


def test_a_mix_of_openings_is_reported_in_one_sentence():
    own, opened, broken = "<think>x</think><answer>7</answer>", "x</think><answer>7</answer>", "7"
    assert describe_openings([own, broken]) == ""
    assert describe_openings([opened, opened, broken]).startswith("2 of 3 responses have </think> without <think>")
    assert "in 1 more the model writes <think> itself" in describe_openings([opened, own])
