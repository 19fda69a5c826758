"""Code, messages and documentation use the terms of docs/glossary.md."""

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.check

ROOT = Path(__file__).parents[1]
# The left column of the last table of docs/glossary.md. None of these phrases is a term of the field.
PHRASES = (
    r"\b(goes|go|going|gone|went) on (with|from|after|where)\b",
    r"\b(goes|gone|went) on\b",
    r"\bpast run again\b",
    r"\b(is|are|was|were) drawn\b",
    r"\ba draw\b",
    r"\b(other|new|every|each|same|fresh|token|rollout|problem|seed) draws?\b",
    r"\brace run\b",
    r"\b(is|are) turned\b",
    r"\bturned once\b",
    r"\bas (it|they) (lies?|stands?)\b",
    r"\bplacers?\b",
    r"\bstays? whole\b",
    r"\b(is|are|was|were) asked\b(?! for)",
    r"\basked for by\b",
    r"\bblind\b",
    r"\blessons?\b",
    r"\b(is|are|was|were) taught\b",
    r"\bteaches\b",
    r"\bunseated\b",
    r"\bseats?\b",
    r"\b(is|are) given up\b",
    r"\bcut (off|back|into)\b",
    r"\bin pieces\b",
    r"\bstretch(es)?\b",
    r"\bto be had\b",
    r"\bowed\b",
    r"\bsettle[sd]?\b",
    r"\b(is|are) told\b",
    r"\b(is|are) said\b",
    r"\bheap\b",
    r"\bin the way that\b",
)
PATTERN = re.compile("|".join(PHRASES), re.IGNORECASE)
# docs/glossary.md lists the words; puzzles, prompts and word lists are data.
EXEMPT = ("docs/glossary.md", "tests/test_glossary.py", "jaxrl/reporting/words/", "tests/golden/")


def tracked_texts() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "*.py", "*.md", "*.js"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listing.stdout.splitlines() if not name.startswith(EXEMPT)]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_no_text_uses_a_word_that_the_glossary_avoids():
    found = []
    for path in tracked_texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if match := PATTERN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]!r} in {line.strip()[:90]}")
    assert not found, "\n".join(found)


def test_the_pattern_matches_every_phrase_of_the_last_table():
    table = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").rpartition("| not | but |\n|---|---|\n")[2]
    cells = [re.sub(r"\(.*?\)", "", line.split("|")[1]) for line in table.splitlines()]
    phrases = [phrase.strip() for cell in cells for phrase in cell.split(",")]
    assert len(phrases) > 20 and [phrase for phrase in phrases if not PATTERN.search(phrase)] == []


def test_the_pattern_finds_private_words():
    assert PATTERN.search("the run goes on after step 3") and PATTERN.search("a token is drawn")
    assert not PATTERN.search("the run resumes after step 3, and a token is sampled")
