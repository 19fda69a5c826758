"""Mathematical answers: numbers, texts, and expressions in LaTeX that math-verify compares in a worker process.

A target that is a number is judged by the number reader, exactly; one in words by the words. All others (roots,
polynomials, intervals, sets, tuples, matrices) are compared by math-verify (https://github.com/huggingface/Math-Verify),
which must be installed: `pip install 'jaxrl[math]'`. Expressions are compared by value: an answer that is equal to the
target but not simplified is correct, unless it is copied from the question.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path

from jaxrl.answers.expression_worker import CPU_SECONDS
from jaxrl.answers.numbers import read_number

MAX_LENGTH = 500  # characters of an answer
WALL_SECONDS = 120  # for a worker that neither computes nor answers, and for its start


def check_installed() -> str:
    """Why mathematical answers can't be compared here; "" if they can."""
    if importlib.util.find_spec("math_verify") is not None:
        return ""
    return "expected the package math-verify, found none; run pip install 'jaxrl[math]'"


def check_target(target: str) -> str:
    """Why answers can't be compared with a target; "" if they can."""
    target = _expression(_boxed(target))
    if not target:
        return "it is empty"
    if read_number(target).value is not None or _plain_words(target):
        return ""
    return _compared(target, None)[1]


def judge_math(answer: str, target: str, quiz: str) -> tuple[str, str]:
    """(verdict, reason) for an answer; verdict is "correct", "wrong_answer" or "unparseable".

    target: an expression, or a text that ends in a box with one. quiz: the question; an expression of it is no answer,
    unless it is the target.
    """
    target = _boxed(target)
    expected = read_number(target)
    if expected.value is not None:
        number = read_number(answer.strip())
        if number.value is None:
            return "unparseable", number.reason
        wrong = f"the number is {str(number.value)[:40]}"
        return ("correct", "") if number.value == expected.value else ("wrong_answer", wrong)
    if len(answer) > MAX_LENGTH:
        return "unparseable", f"the answer has more than {MAX_LENGTH} characters"
    target, answer = _expression(target), _expression(answer)
    if not answer:
        return "unparseable", "the answer is empty"
    if _plain_words(target):
        right = _plain_words(target) == _plain_words(rf"\text{{{answer}}}")
        return ("correct", "") if right else ("wrong_answer", "the answer is not the expected text")
    reason = _unclear(answer, target) or _copied(answer, target, quiz)
    if reason:
        return "unparseable", reason
    return _compared(target, answer)


_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?answer\s*(?:is\s*:?|:)\s*", re.IGNORECASE
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))


def _expression(text: str) -> str:
    """The expression that a text consists of, or that its only box contains; otherwise the text."""
    text = text.strip()
    boxes = list(_BOX.finditer(text))
    if len(boxes) == 1:
        inside = _braced(text, boxes[0].end())
        around = _LEAD.sub("", text[: boxes[0].start()]) + text[boxes[0].end() + len(inside) :]
        text = text if re.search(r"[^\s.$*\\(){}\[\]]", around) else inside
    while True:
        before = text
        text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
        text = text.strip().removesuffix(".").strip()
        for start, end in _DELIMITERS:
            if len(text) > len(start + end) and text.startswith(start) and text.endswith(end):
                text = text[len(start) : -len(end)].strip()
                break
        if text == before:
            return text


def _boxed(text: str) -> str:
    """The content of the last box of a text, or the text if it has none."""
    boxes = list(_BOX.finditer(text))
    return _braced(text, boxes[-1].end()) if boxes else text


def _braced(text: str, start: int) -> str:
    """The content of the braces that open before `start`; "" if they don't close."""
    depth = 1
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[start:end]
    return ""


_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")


def _plain_words(text: str) -> str:
    """The letters of a text in words, such as `\\text{Monday}` or `(C)`, folded; "" for anything else."""
    plain = text
    for _ in range(2):  # a text in a text
        plain = _TEXT_COMMAND.sub(r" \1 ", plain)
    words = re.findall(r"[^\W\d_]+", plain)
    if re.search(r"[^\s\w.,()'\"-]|[\d_]", plain) or not words:
        return ""
    is_text = plain != text or any(len(word) > 3 for word in words) or re.fullmatch(r"\(?[A-Z]\)?", plain.strip())
    return " ".join(words).casefold() if is_text else ""


_FUNCTION_NAMES = """
sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log exp sqrt max min gcd lcm mod det and
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())


def _unclear(answer: str, target: str) -> str:
    """Why an answer is not one expression; "" if it is."""
    if "$" in answer or "\\boxed" in answer or "?" in answer:
        return "the answer is not one expression"
    if re.search(r"\\(?:approx|sim|simeq|cong|text\s*\{\s*(?:not|about|approx))|[≈~]", answer):
        return "the answer is an approximation or a negation"
    if (re.search(r"\d\s*:\s*\d", answer) and ":" not in target) or re.search(r"\d\s+\d", answer):
        return "numbers without an operator between them"
    if answer.count("=") > max(target.count("="), bool(re.match(r"[A-Za-z]\w*(?:\([a-z]\))?\s*=", answer))):
        return "the answer is a chain of equations"
    plain = re.sub(r"\\[A-Za-z]+", " ", _TEXT_COMMAND.sub(" ", answer))
    unknown = [word for word in re.findall(r"[A-Za-z]{3,}", plain) if word not in _FUNCTIONS and word not in target]
    return f"{unknown[0][:20]!r} is not a part of an expression" if unknown else ""


def _copied(answer: str, target: str, quiz: str) -> str:
    compact, expected, question = ("".join(text.split()) for text in (answer, target, quiz))
    if compact != expected and re.search(r"[-+*/^\\]", compact[1:]) and compact in question:
        return "the answer repeats an expression of the question"
    return ""


# The worker


class ExpressionWorker:
    """A process that compares expressions, started when it is first needed and again after it has died.

    May be used from any thread, and from a forked process, which gets a worker of its own.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def compare(self, target: str, answer: str | None) -> tuple[str, str]:
        """(verdict, reason); "unparseable" for an answer that needs too much time or memory.

        Without an answer, only the target is read.

        Raises RuntimeError if the worker does not start.
        """
        with self._lock:
            for _ in range(2):  # a worker that died for a reason of its own, such as a lack of memory, is tried again
                process = self._running()
                try:
                    reply = self._ask(process, [target, answer])
                except BaseException as error:  # also Ctrl-C: the reply must not be read as that to the next request
                    self._end(process)
                    if isinstance(error, TimeoutError):
                        return "unparseable", f"the comparison needs more than {WALL_SECONDS} seconds"
                    raise
                if reply:
                    return reply[0], reply[1]
                self._end(process)
                if process.returncode == -signal.SIGPROF:
                    return "unparseable", f"the comparison needs more than {CPU_SECONDS} seconds of computing"
        return "unparseable", "the comparison ended its process"

    def close(self) -> None:
        """End the process, if this process has one."""
        with self._lock:
            if self._process is not None and self._owner == os.getpid():
                self._end(self._process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid():
            return self._process
        # -P: the folder of this file is not a place for imports; it has a `numbers` of its own.
        command = [sys.executable, "-P", str(Path(__file__).with_name("expression_worker.py"))]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONHASHSEED": "0"},  # the order of sets is part of some verdicts
            start_new_session=True,  # Ctrl-C is for the run, which closes the worker
        )
        if self._owner != os.getpid():
            atexit.register(self.close)
        self._process, self._owner = process, os.getpid()
        try:
            greeting = _read_reply(process)
        except TimeoutError as error:
            greeting = ["failed", str(error)]
        if greeting != ["ready"]:
            self._end(process)
            reason = greeting[-1] if greeting else "the process ended"
            raise RuntimeError(f"rule math-1: math-verify does not start ({reason}); run pip install 'jaxrl[math]'.")
        return process

    def _ask(self, process: subprocess.Popen[bytes], request: list) -> list | None:
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:  # it has died since the last request
            return None
        return _read_reply(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End a process: an idle one ends when its input does, and one that does not is killed."""
        self._process = None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _read_reply(process: subprocess.Popen[bytes]) -> list | None:
    """A line of the worker's output, or None if the output ends. Raises TimeoutError after WALL_SECONDS."""
    deadline, received = time.monotonic() + WALL_SECONDS, b""
    while not received.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise TimeoutError(f"no reply in {WALL_SECONDS} seconds")
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            return None
        received += part
    return json.loads(received)


WORKER = ExpressionWorker()


@lru_cache(maxsize=8192)
def _compared(target: str, answer: str | None) -> tuple[str, str]:
    return WORKER.compare(target, answer)
