"""Problems to prompts, and responses to verdicts."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from data_gen.prompts import PromptSpec, build_messages, build_prompt, is_thinking_open
from jaxrl.rewards import RewardValues, Verdict, score
from jaxrl.sampling import SamplingSpec, StopStrings
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Reasoning, Task


@dataclasses.dataclass(frozen=True)
class PromptFormat:
    """The text interface of a run: prompts as token ids, responses as text, verdicts by the run's rule.

    tokenizer: None for a model on a server, which gets messages and renders the prompt itself.
    """

    task: Task
    prompt: PromptSpec
    rule: str
    values: RewardValues
    tokenizer: Any
    eos_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()

    def encode(self, problem: Problem) -> list[int]:
        """The prompt as token ids. The tokenizer adds no special tokens to those in the text."""
        text = build_prompt(*self.task.prompt_parts(problem, self.prompt.form), self.prompt, self.tokenizer)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @functools.cached_property
    def opens_think(self) -> bool:
        """Whether prompts end with <think>, read from a rendered one: chat templates may open it or not."""
        return is_thinking_open(build_prompt("", "", self.prompt, self.tokenizer))

    def demonstration(self, problem: Problem) -> list[int]:
        """The response of the task's solver as token ids, with EOS: the target of supervised learning."""
        text = self.task.demonstration(problem)
        if self.opens_think:
            text = text.removeprefix("<think>")
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*tokens, self.tokenizer.eos_token_id]

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """The prompt as chat messages, for a server. Raises ValueError as `data_gen.prompts.build_messages`."""
        return build_messages(*self.task.prompt_parts(problem, self.prompt.form), self.prompt)

    def decode(self, tokens: Sequence[int]) -> str:
        """Response tokens as text, with special tokens, without the final EOS."""
        tokens = list(tokens)
        if tokens and tokens[-1] in self.eos_ids:
            tokens.pop()
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def judge(self, problem: Problem, response: str, truncated: bool) -> Verdict:
        """The verdict of the run's rule; training and evaluation use the same.

        Whether the response starts inside the thinking is read from the rendered prompt, or from the response of a
        server (no `tokenizer`), whose prompt is unknown.
        """
        is_rendered = self.tokenizer is not None or self.prompt.opens_think
        return score(
            response,
            **self.task.facts(problem),
            prompt_opens_think=self.opens_think if is_rendered else is_opened_by_server(response),
            truncated=truncated,
            values=self.values,
            rule=self.rule,
        )

    def sampling_spec(self, max_new_tokens: int, temperature: float, **truncation: float) -> SamplingSpec:
        """A sampling specification with the EOS tokens and stop strings of this format."""
        stop = StopStrings(self.stop, lambda tokens: self.tokenizer.decode(tokens, skip_special_tokens=False))
        return SamplingSpec(max_new_tokens, self.eos_ids, temperature, stop=stop, **truncation)

    def classify(self, response: str) -> str:
        """The response's style, as the task names it; "" where the task doesn't distinguish styles."""
        return self.task.classify(response, self.prompt.form)

    def check_reasoning(self, problem: Problem, response: str) -> Reasoning | None:
        """What the task's verifier finds in the reasoning; None where the task can't verify it."""
        return self.task.check_reasoning(problem, response, self.prompt.form) if self.task.verifies_reasoning else None


def is_opened_by_server(response: str) -> bool:
    """Whether the server's chat template opened the thinking: the response ends it once and never opens it."""
    return "<think>" not in response and response.count("</think>") == 1
