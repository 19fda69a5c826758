"""The examples printed after training are selected by index, not by verdict, and pair the same problem."""

from jaxrl.evaluation.examples import side_by_side
from jaxrl.evaluation.results import EvaluationResult, Item, Sample


def result(name, verdict, order):
    items = tuple(
        Item(
            f"id{i}",
            f"p{people}",
            f"quiz {i}",
            f"solution {i}",
            False,
            (),
            (Sample(verdict, 3 + i, True, "", f"{name} response {i}"),),
        )
        for i, people in order
    )
    return EvaluationResult(name, "model", 0, "strict-1", {}, items)


def test_pairs_by_problem_and_takes_the_first_of_the_most_frequent_kind():
    order = [(0, 5), (1, 3), (2, 3), (3, 3)]
    text = side_by_side(result("before", "bad_format", order), result("after", "correct", order[::-1]), count=2)
    blocks = text.split("\n\n")
    assert len(blocks) == 2
    for number, block in zip((1, 2), blocks, strict=True):
        assert f"quiz {number}" in block and f"solution {number}" in block
        assert block.index(f"before response {number}") < block.index(f"after response {number}")
        assert "bad_format" in block and "correct" in block


def test_an_unsound_response_is_shown_with_its_first_error():
    (item,) = result("after", "correct", [(1, 3)]).items
    samples = [item.sampled[0]._replace(sound=sound, error=error) for sound, error in (
        (False, "check: wrong role"), (True, ""), (None, "")
    )]  # fmt: skip
    before, *others = (
        EvaluationResult("x", "m", 0, "r", {}, (item._replace(sampled=(sample,)),)) for sample in samples
    )
    assert "before (correct, not sound: check: wrong role, 4 tokens):" in side_by_side(before, before)
    assert "after (correct, sound, 4 tokens):" in side_by_side(before, others[0])
    assert "after (correct, 4 tokens):" in side_by_side(before, others[1])
