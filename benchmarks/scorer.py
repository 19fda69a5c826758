"""Time of the scorer: microseconds for typical responses, milliseconds for adversarial texts of 1 MB.

    python benchmarks/scorer.py

Exit status 1 if a typical response takes over 300 microseconds or a text of 1 MB over 100 milliseconds.
"""

import sys
import time
import unicodedata
from collections.abc import Callable

from jaxrl.rewards import score

MEGABYTE = 1_000_000
QUIZ = "Ann says: Bob is a knave. Bob says: Ann is a knight and Cal is a knight. Cal says: Bob is a knave."
PEOPLE = (("Ann", "knight"), ("Bob", "knave"), ("Cal", "knight"))
THINKING = "Try Ann=knight Bob=knave Cal=knight. Ann: Bob knave yes so true ok. Wait, Cal speaks of Bob too. "
ANSWER = "<answer>Ann is a knight, Bob is a knave, Cal is a knight.</answer>"
RULES = ("strict-2", "answer-only-2", "gsm8k-2", "exact-2")

FRAGMENTS = {
    "words": "so Ann lies and ",
    "question": QUIZ + " ",
    "openings": "<",
    "tags": "<think>",
    "ends": "</think>",
    "answers": ANSWER,
    "look-alikes": "<thnk>",
    "brackets": "[Ann]",
    "spaces": " ",
    "newlines": "\n",
    "spaced": "< \n/",
    "names": "Ann, ",
    "assertions": "Ann is a knight, ",
    "numbers": "1. ",
    "digits": "1",
    "commas": "1,234",
    "dots": ".",
    "dashes": "-",
    "quotes": "'",
    "stars": "*",
    "Chinese": "假设",
    "accents": "é",
    "marks": "\u0301",
    "two marks": "\u0316\u0301",
    "vowels": "\u0f73",
    "eleven marks": "a" + "\u0316\u0301" * 5,
    "jamo": "\u1100\u1161\u11a8",
    "emoji": "😀",
    "speakers": "\nUser",
    "null": "\0",
    "surrogates": "\ud800",
    "special": "<|im_end|>",
    "entities": "&lt;",
}


def fastest(call: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the fastest of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def score_response(response: str, rule: str = "strict-2") -> object:
    """Scores a response to the benchmark's question."""
    return score(
        response,
        quiz=QUIZ,
        people=PEOPLE,
        roles=("knight", "knave"),
        prompt_opens_think=False,
        truncated=False,
        rule=rule,
        target="72",
    )


def slowest_of(text: str) -> tuple[float, str]:
    """The slowest time over all rules and positions of the text in a response, and its position and rule."""
    positions = {
        "alone": text,
        "thinking": f"<think>{text}</think>{ANSWER}",
        "answer": f"<think>{THINKING}</think><answer>{text}</answer>",
        "NFD": unicodedata.normalize("NFD", text) if len(set(text)) > 1 and "\u0301" not in text else text,
    }
    timed = [
        (fastest(lambda r=response, n=rule: score_response(r, n), 2), f"{position}, {rule}")
        for position, response in positions.items()
        for rule in RULES
    ]
    return max(timed)


def main() -> int:
    """Prints the table and returns the exit status."""
    failed = False
    for name, response in {
        "60 words": f"<think>{THINKING * 3}</think>{ANSWER}",
        "200 words": f"<think>{THINKING * 10}</think>{ANSWER}",
    }.items():
        seconds = fastest(lambda r=response: score_response(r), 300)
        failed |= seconds > 300e-6
        print(f"{name:<16}{seconds * 1e6:>8.0f} us")
    for name, fragment in FRAGMENTS.items():
        text = fragment * (MEGABYTE // len(fragment.encode("utf-8", "surrogatepass")))
        seconds, where = slowest_of(text)
        failed |= seconds > 0.1
        print(f"1 MB of {name:<16}{seconds * 1e3:>8.1f} ms  ({where})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
