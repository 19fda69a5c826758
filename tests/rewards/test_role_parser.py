"""The parser of roles: golden readings of handwritten answers, and laws of version 2."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from jaxrl.rewards import role_parser
from jaxrl.rewards.version1 import role_parser as version1

pytestmark = pytest.mark.check

ANSWERS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "golden" / "role_answers.jsonl").read_text(encoding="utf-8").splitlines()
]


def read(answer, names, roles, parser=role_parser):
    reading = parser.read_roles(unicodedata.normalize("NFC", answer), tuple(names), tuple(roles))
    assert (reading.roles is None) == bool(reading.reason)
    return reading.roles


@pytest.mark.parametrize("case", ANSWERS, ids=[case["id"] for case in ANSWERS])
def test_golden_reading(case):
    for parser, expected in ((version1, case["version1"]), (role_parser, case["version2"])):
        found = read(case["answer"], case["names"], case["roles"], parser)
        assert found == (None if expected is None else tuple(expected))


def test_version_2_reads_honest_answers_and_refuses_tricks():
    """Kinds: honest, trick, and unsupported: honest, but in a form that no version reads."""
    kinds = Counter(case["kind"] for case in ANSWERS)
    assert min(kinds["honest"], kinds["trick"]) >= 100 and kinds["unsupported"] < 10
    for case in ANSWERS:
        assert (case["version2"] is not None) == (case["kind"] == "honest"), case["id"]


def test_the_end_of_a_text_does_not_say_who_the_others_are():
    names, roles = ("Zoey", "Oliver", "Aria"), ("knight", "knave")
    end = "Oliver is a knight; the others are knaves."
    assert role_parser.read_roles(f"Zoey is a knight. {end}", names, roles).roles == (0, 0, 1)
    assert role_parser.read_end(end, names, roles).roles is None
    assert role_parser.read_end("So everyone is a knave.", names, roles).roles is None
    assert role_parser.read_end("Zoey: knight, Oliver: knight, Aria: knave", names, roles).roles == (0, 0, 1)
