"""Golden verdicts of handwritten responses, honest and tricky, the same for NFC and NFD."""

import json
import unicodedata
from pathlib import Path

import pytest

from jaxrl.rewards import SUSPECTS, VERDICTS, score

pytestmark = pytest.mark.check

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "golden" / "scored_cases.jsonl").read_text(encoding="utf-8").splitlines()
]


def judge(case, response):
    return score(
        response,
        quiz=case["quiz"],
        people=case["people"],
        roles=case["roles"],
        rule=case["rule"],
        prompt_opens_think=case["prompt_opens_think"],
        truncated=case["truncated"],
        target=case.get("target"),
    )


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden_verdict(case):
    verdict = judge(case, case["response"])
    assert verdict.verdict == case["verdict"], verdict.reasons
    assert verdict.rule == case["rule"]
    assert bool(verdict.reasons) == (verdict.verdict != "correct")
    assert verdict.reward == verdict.format_reward + verdict.answer_reward
    assert set(verdict.suspects) <= set(SUSPECTS)
    for form in ("NFC", "NFD"):
        assert judge(case, unicodedata.normalize(form, case["response"])).verdict == case["verdict"]


def test_there_are_enough_cases_of_every_verdict():
    assert len(CASES) >= 150
    assert {case["verdict"] for case in CASES} == set(VERDICTS)
