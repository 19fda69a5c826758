"""Evaluate a model behind an address: many requests at a time, every answer kept as it comes."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from jaxrl.evaluation.answer_log import AnswerLog, Place, mark
from jaxrl.evaluation.endpoint import Endpoint, Reply, ask
from jaxrl.evaluation.evaluate import Answer, evaluate_answers
from jaxrl.evaluation.results import EvaluationResult, Mode
from jaxrl.tasks.problem import Problem

Messages = list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Asking:
    """How a model behind an address is asked; `samples` of 0 or `greedy` False leave that mode out."""

    samples: int
    temperature: float
    max_new_tokens: int
    seed: int
    greedy: bool = True
    concurrency: int = 8  # requests under way at a time

    def __post_init__(self):
        if self.concurrency < 1:
            raise ValueError(f"expected a concurrency of 1 or more, got {self.concurrency}.")

    def settings(self, endpoint: Endpoint) -> dict[str, Any]:
        """What the answers depend on besides the question."""
        return {
            "endpoint": endpoint.url,
            "name": endpoint.name,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }

    def places(self, asked: str) -> Iterator[Place]:
        """Every answer that one question wants."""
        if self.greedy:
            yield Place(asked, "greedy", 0)
        yield from (Place(asked, "sampled", sample) for sample in range(self.samples))


class Request(NamedTuple):
    """One answer to be had."""

    place: Place
    problem: str
    messages: Messages


def evaluate_endpoint(
    endpoint: Endpoint,
    problems: Sequence[Problem],
    asking: Asking,
    log: AnswerLog,
    *,
    messages: Callable[[Problem], Messages],
    judge: Callable,
    classify: Callable[[str], str] | None = None,
    name: str = "evaluation",
    say: Callable[[str], None] = print,
) -> EvaluationResult:
    """As `jaxrl.evaluation.evaluate.evaluate`, of a model that is asked in messages.

    Lengths are the completion tokens that the server counts, "length" as the reason of the end is cut off. The
    settings of the result hold the sums of `prompt_tokens` and `completion_tokens`. Raises as `ask` does; the answers
    that came by then are in the log.
    """
    questions = [messages(problem) for problem in problems]
    marks = [mark(question) for question in questions]
    requests = [
        Request(place, problem.id, question)
        for problem, question, asked in zip(problems, questions, marks, strict=True)
        for place in asking.places(asked)
    ]
    ask_all(endpoint, requests, asking, log, say)

    def answers(group_size: int, greedy: bool) -> list[Answer]:
        mode: Mode = "greedy" if greedy else "sampled"
        replies = [log.replies[Place(asked, mode, sample)] for asked in marks for sample in range(group_size)]
        return [Answer(reply.text, reply.completion_tokens, reply.finish != "length") for reply in replies]

    used = [log.replies[request.place] for request in requests]
    counts = {field: sum(getattr(reply, field) for reply in used) for field in ("prompt_tokens", "completion_tokens")}
    return evaluate_answers(
        answers,
        problems,
        judge=judge,
        samples=asking.samples,
        greedy=asking.greedy,
        name=name,
        model=f"{endpoint.name} at {endpoint.url}",
        settings=asking.settings(endpoint) | counts,
        classify=classify,
    )


def ask_all(
    endpoint: Endpoint, requests: Sequence[Request], asking: Asking, log: AnswerLog, say: Callable[[str], None]
) -> None:
    """Asks for what the log does not have yet. Raises what the first failing request raises, after those under way."""
    missing = [request for request in requests if request.place not in log.replies]
    if len(missing) < len(requests):
        say(f"{len(requests) - len(missing)} of {len(requests)} answers are in {log.path} already")
    given_up = threading.Event()

    def rest(seconds: float) -> None:
        if given_up.wait(seconds):
            raise CancelledError

    def answer(request: Request) -> Reply:
        greedy = request.place.mode == "greedy"
        reply = ask(
            endpoint,
            request.messages,
            asking.max_new_tokens,
            0.0 if greedy else asking.temperature,
            None if greedy else _seed(asking.seed, request.place),
            rest,
        )
        log.add(request.place, request.problem, reply)
        return reply

    with ThreadPoolExecutor(asking.concurrency) as pool:
        futures = [pool.submit(answer, request) for request in missing]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if done * 10 // len(futures) > (done - 1) * 10 // len(futures):
                    say(f"{len(requests) - len(missing) + done} of {len(requests)} answers")
        except BaseException:
            given_up.set()  # those that rest give up; answers under way are still waited for and kept
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _seed(seed: int, place: Place) -> int:
    """A seed of its own for every sample of every question, 31 bits."""
    text = f"{seed} {place.asked} {place.sample}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1
