"""Evaluation of a model behind an OpenAI-compatible server: concurrent requests, each response logged at once."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from jaxrl.evaluation.answer_log import AnswerKey, AnswerLog, hash_messages
from jaxrl.evaluation.endpoint import Endpoint, Reply, request_completion
from jaxrl.evaluation.evaluate import TextResponse, evaluate_responses
from jaxrl.evaluation.results import EvaluationResult, Mode
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.prompting import is_opened_by_server
from jaxrl.tasks.task import Reasoning

Messages = list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class RemoteEvaluationSpec:
    """Sampling parameters and concurrency. `samples` of 0 or `greedy` of False disables that mode."""

    samples: int
    temperature: float
    max_new_tokens: int
    seed: int
    greedy: bool = True
    concurrency: int = 8  # simultaneous requests

    def __post_init__(self):
        if self.concurrency < 1:
            raise ValueError(f"expected a concurrency of 1 or more, got {self.concurrency}.")

    def settings(self, endpoint: Endpoint) -> dict[str, Any]:
        """All that responses depend on, other than the prompt."""
        return {
            "endpoint": endpoint.url,
            "name": endpoint.name,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }

    def answer_keys(self, prompt_hash: str) -> Iterator[AnswerKey]:
        """The keys of all responses to one prompt."""
        if self.greedy:
            yield AnswerKey(prompt_hash, "greedy", 0)
        yield from (AnswerKey(prompt_hash, "sampled", sample) for sample in range(self.samples))


class CompletionRequest(NamedTuple):
    """A request for one response."""

    key: AnswerKey
    problem: str
    messages: Messages


def evaluate_endpoint(
    endpoint: Endpoint,
    problems: Sequence[Problem],
    spec: RemoteEvaluationSpec,
    log: AnswerLog,
    *,
    messages: Callable[[Problem], Messages],
    judge: Callable,
    classify: Callable[[str], str] = lambda response: "",
    check_reasoning: Callable[[Problem, str], Reasoning | None] = lambda problem, response: None,
    name: str = "evaluation",
    print_fn: Callable[[str], None] = print,
) -> EvaluationResult:
    """As `jaxrl.evaluation.evaluate.evaluate`, for a model that is prompted with chat messages.

    Lengths are completion tokens as counted by the server; a response is truncated if its finish reason is "length".
    The settings of the result contain the sums of `prompt_tokens` and `completion_tokens`. Raises as
    `request_completion` does; the responses received before that are in the log.
    """
    prompts = [messages(problem) for problem in problems]
    hashes = [hash_messages(prompt) for prompt in prompts]
    requests = [
        CompletionRequest(key, problem.id, prompt)
        for problem, prompt, prompt_hash in zip(problems, prompts, hashes, strict=True)
        for key in spec.answer_keys(prompt_hash)
    ]
    request_missing(endpoint, requests, spec, log, print_fn)

    def respond(group_size: int, greedy: bool) -> list[TextResponse]:
        mode: Mode = "greedy" if greedy else "sampled"
        keys = [AnswerKey(prompt_hash, mode, sample) for prompt_hash in hashes for sample in range(group_size)]
        replies = [log.replies[key] for key in keys]
        return [TextResponse(reply.text, reply.completion_tokens, reply.finish != "length") for reply in replies]

    used = [log.replies[request.key] for request in requests]
    if note := describe_openings([reply.text for reply in used]):
        print_fn(note)
    counts = {field: sum(getattr(reply, field) for reply in used) for field in ("prompt_tokens", "completion_tokens")}
    return evaluate_responses(
        respond,
        problems,
        judge=judge,
        samples=spec.samples,
        greedy=spec.greedy,
        name=name,
        model=f"{endpoint.name} at {endpoint.url}",
        settings=spec.settings(endpoint) | counts,
        classify=classify,
        check_reasoning=check_reasoning,
    )


def describe_openings(responses: Sequence[str]) -> str:
    """A sentence on responses that start inside the thinking because the server's chat template opens it, or ""."""
    opened = sum(map(is_opened_by_server, responses))
    own = sum("<think>" in response for response in responses)
    if not opened:
        return ""
    note = (
        f"{opened} of {len(responses)} responses have </think> without <think>: the server's chat template opens the "
        "thinking, and they are judged as continuations of <think>"
    )
    return f"{note}; in {own} more the model writes <think> itself, so read some of both." if own else f"{note}."


def request_missing(
    endpoint: Endpoint,
    requests: Sequence[CompletionRequest],
    spec: RemoteEvaluationSpec,
    log: AnswerLog,
    print_fn: Callable[[str], None],
) -> None:
    """Sends the requests whose responses are not in the log.

    Raises the exception of the first request that fails, after the requests in flight have completed.
    """
    missing = [request for request in requests if request.key not in log.replies]
    if len(missing) < len(requests):
        print_fn(f"{len(requests) - len(missing)} of {len(requests)} responses are already in {log.path}")
    cancelled = threading.Event()

    def sleep(seconds: float) -> None:
        if cancelled.wait(seconds):
            raise CancelledError

    def send(request: CompletionRequest) -> Reply:
        greedy = request.key.mode == "greedy"
        reply = request_completion(
            endpoint,
            request.messages,
            spec.max_new_tokens,
            0.0 if greedy else spec.temperature,
            None if greedy else _seed(spec.seed, request.key),
            sleep,
        )
        log.add(request.key, request.problem, reply)
        return reply

    with ThreadPoolExecutor(spec.concurrency) as pool:
        futures = [pool.submit(send, request) for request in missing]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if done * 10 // len(futures) > (done - 1) * 10 // len(futures):
                    print_fn(f"{len(requests) - len(missing) + done} of {len(requests)} responses")
        except BaseException:
            cancelled.set()  # requests that wait for a retry are cancelled; those in flight complete and are logged
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _seed(seed: int, key: AnswerKey) -> int:
    """A 31-bit seed for each sample of each prompt."""
    text = f"{seed} {key.prompt_hash} {key.sample}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1
