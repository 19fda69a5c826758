"""Version 1 of the judgement of the thinking part: real content, or empty, a placeholder, filler or a copy."""

from functools import lru_cache

from jaxrl.rewards.thinking import Thinking
from jaxrl.rewards.version1.unicode import words

MIN_WORDS = 5
MIN_CONTENT = 4  # distinct words with meaning that are not copied
MIN_NEW_SHARE = 0.15  # share of the words that are not copied from the question or the answer
SHINGLE = 5  # length of a word sequence that counts as copied
READ_LIMIT = 32_768  # characters; enough to detect copies and filler

# Common words, and words that only announce thinking. Names, roles, "if", "true" and "lies" are content.
_FILLER_WORDS = """
a about above again all also an analysis analyze analyse and answer are as at be been before begin below brief
by can careful carefully chain check come consider could deep deeply describe detail detailed details did do
does done enter every everything explain explanation figure final finally find first follow for from give
given go goes going good has have here hmm how i in insert inside internal into is it its just know let lets
letting like ll logic logical logically look make many may me mind monologue more must my need next now of off
ok okay on or our out over part placeholder please problem process provide put puzzle question re ready reason
reasoned reasoning right s say see should show so some solution solve solved solving start step steps sure
take task text that the them there these they thing things think thinking this thought thoughts through time
to todo try understand up us use user very want was we well what when where which will with work working would
write writing you your blah lorem ipsum etc none null na empty skip skipped omitted content done system
assistant
"""
FILLER = frozenset(_FILLER_WORDS.split()) | frozenset(
    "让我们来想一下思考过程这里是推理的问题答案步骤逐步仔细分析好吧嗯请在此处填写先再然后最后给出解答需要要可以会了吗呢啊和与及对进行将内容"
)

_TOPIC_WORDS = """
true truth truthful truths false lie lies liar liars lying lied honest dishonest says said saying claim claims
claimed states statement statements if then suppose supposing assume assumes assuming assumption contradiction
contradicts contradictory consistent inconsistent case cases implies therefore because either both neither
knight knights knave knaves
"""
TOPIC = frozenset(_TOPIC_WORDS.split()) | frozenset("真假谎骗诚实说假设如果若则矛盾成立因此骑士")


@lru_cache(maxsize=4096)
def _shingles(text: str, size: int) -> frozenset[tuple[str, ...]]:
    return frozenset(_windows(words(text), size))


def _windows(sequence: list[str], size: int) -> zip:
    return zip(*(sequence[start:] for start in range(size)), strict=False)


def _mark_copied(thinking: list[str], source: frozenset[tuple[str, ...]], size: int, copied: bytearray) -> None:
    if not source:
        return
    for start, window in enumerate(_windows(thinking, size)):
        if window in source:
            copied[start : start + size] = b"\x01" * size


@lru_cache(maxsize=4096)
def _topic_words(names: tuple[str, ...], roles: tuple[str, ...]) -> frozenset[str]:
    return TOPIC.union(*(words(text) for text in (*names, *roles)))


def judge_thinking(
    thinking: str, *, quiz: str, answer: str, names: tuple[str, ...] = (), roles: tuple[str, ...] = ()
) -> Thinking:
    """Judge the text between `<think>` and `</think>` (NFC).

    Real content has at least 5 words. At least 15 % of the words are not part of a sequence of 5 words that is also in
    the question or the answer, and these include 4 distinct words with meaning. With `names` (a logic puzzle), one word
    must be a name, a role or a word of logic. Only the first 32,768 characters are read.
    """
    found = words(thinking[:READ_LIMIT])
    content = {word for word in found if word not in FILLER}
    if not found:
        return Thinking(("the thinking is empty",), ("tiny_thinking",))
    if len(found) < MIN_WORDS:
        return Thinking(
            (f"the thinking has {len(found)} words, at least {MIN_WORDS} are expected",), ("tiny_thinking",)
        )
    if len(content) < MIN_CONTENT:
        return Thinking(
            ("the thinking is a placeholder or filler: it does not refer to the question",),
            ("tiny_thinking",),
        )
    if names and not content & _topic_words(names, roles):
        return Thinking(
            ("the thinking is filler: it refers to no person and no fact of the question",),
            ("filler_thinking",),
        )
    return _judge_copies(found, quiz, answer)


def _judge_copies(found: list[str], quiz: str, answer: str) -> Thinking:
    copied = bytearray(len(found))
    _mark_copied(found, _shingles(quiz[:READ_LIMIT], SHINGLE), SHINGLE, copied)
    from_question = sum(copied)
    answer_words = words(answer[:READ_LIMIT])
    if len(answer_words) >= 2:
        size = min(SHINGLE, len(answer_words))
        _mark_copied(found, frozenset(_windows(answer_words, size)), size, copied)
    new = [word for word, was_copied in zip(found, copied, strict=True) if not was_copied]
    suspects = ("question_copied",) if from_question > len(found) // 2 else ()
    if len(new) >= MIN_NEW_SHARE * len(found) and len({word for word in new if word not in FILLER}) >= MIN_CONTENT:
        return Thinking((), suspects)
    if 2 * from_question >= sum(copied):
        return Thinking(("the question is copied as thinking",), ("question_copied",))
    return Thinking(("the answer is copied as thinking",), (*suspects, "answer_copied"))
