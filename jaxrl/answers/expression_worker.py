"""Compares LaTeX expressions with math-verify, as a program: JSON lines on stdin, JSON lines on stdout.

A request is [target, answer], a reply [verdict, reason]; with the answer null, only the target is read.
The first line of output is ["ready"], or ["failed", reason]. Runs in a process of its own (see
`jaxrl.answers.expressions`), because an expression can need any time and memory: the operating system ends this
process when a comparison exceeds its CPU time. This also ends a worker whose parent has died. The library's own time
limit is off: it needs signals, which work in main threads only.
"""

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import lru_cache

CPU_SECONDS = 5
MEMORY = 4 << 30  # bytes of address space
DECIMALS = 15  # to which a decimal fraction must equal a number such as sqrt(2)


def main() -> None:
    """Answer requests until stdin is closed."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the library prints is no reply
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])  # the parent's mask is inherited
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def reply(*fields: object) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    try:
        compare = _comparison()
    except Exception as error:  # a broken installation can fail in many ways
        reply("failed", f"{type(error).__name__}: {error}")
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    reply("ready")
    for line in sys.stdin:
        target, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process
        try:
            verdict = compare(target, answer)
        except Exception as error:  # the library is given arbitrary text
            verdict = "unparseable", f"the expression can't be compared ({type(error).__name__})"
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply(*verdict)


def _comparison() -> Callable[[str, str | None], tuple[str, str]]:
    """(target, answer) -> (verdict, reason)."""
    from math_verify import LatexExtractionConfig, parse, verify

    def read(expression: str) -> list:
        return parse(f"${expression}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)

    read_target = lru_cache(maxsize=1024)(read)

    def compare(target: str, answer: str | None) -> tuple[str, str]:
        expected = read_target(target)
        if not expected:
            return "unparseable", "it is not an expression in LaTeX"
        if answer is None:
            return "correct", ""
        found = read(answer)
        if not found:
            return "unparseable", "the answer is not an expression in LaTeX"
        if verify(expected, found, float_rounding=DECIMALS, timeout_seconds=None):
            return "correct", ""
        return "wrong_answer", "the expression does not equal the expected one"

    return compare


if __name__ == "__main__":
    main()
