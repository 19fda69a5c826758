"""Responses before and after training on the same problems, as plain text for the terminal."""

from jaxrl.evaluation.results import EvaluationResult, Item


def side_by_side(before: EvaluationResult, after: EvaluationResult, count: int = 3) -> str:
    """The first `count` problems of the most frequent kind, with the sampled response of both.

    The choice looks at no verdict: nothing is picked because it looks good.
    """
    later = {item.problem: item for item in after.items}
    kinds = [item.kind for item in before.items]
    usual = max(sorted(set(kinds)), key=kinds.count)
    pairs = [(item, later[item.problem]) for item in before.items if item.kind == usual and item.problem in later]
    blocks = []
    for first, last in pairs[:count]:
        blocks.append(
            "\n".join([first.question, f"  solution: {first.solution}", *_told("before", first), *_told("after", last)])
        )
    return "\n\n".join(blocks)


def _told(name: str, item: Item) -> list[str]:
    samples = item.sampled or item.greedy
    return [
        f"  {name} ({samples[0].verdict}, {samples[0].length} tokens):",
        *(f"    {line}" for line in samples[0].response.splitlines()),
    ]
