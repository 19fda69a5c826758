"""Responses before and after training to the same problems, as plain text for the terminal."""

from jaxrl.evaluation.results import EvaluationResult, Item, Sample


def side_by_side(before: EvaluationResult, after: EvaluationResult, count: int = 3) -> str:
    """The first `count` problems of the most frequent kind, each with one response before and one after training.

    The selection does not depend on the verdicts.
    """
    after_by_problem = {item.problem: item for item in after.items}
    kinds = [item.kind for item in before.items]
    most_frequent = max(sorted(set(kinds)), key=kinds.count)
    pairs = [
        (item, after_by_problem[item.problem])
        for item in before.items
        if item.kind == most_frequent and item.problem in after_by_problem
    ]
    return "\n\n".join(
        "\n".join([old.question, f"  solution: {old.solution}", *_response("before", old), *_response("after", new)])
        for old, new in pairs[:count]
    )


def _response(name: str, item: Item) -> list[str]:
    sample = (item.sampled or item.greedy)[0]
    return [
        f"  {name} ({', '.join(filter(None, (sample.verdict, _soundness(sample), f'{sample.length} tokens')))}):",
        *(f"    {line}" for line in sample.response.splitlines()),
    ]


def _soundness(sample: Sample) -> str:
    """Whether the reasoning is sound, or where it first goes wrong; "" if it is not verified."""
    return {None: "", True: "sound", False: f"not sound: {sample.error}"}[sample.sound]
