"""The groups that the report's browser shows, chosen so that the page stays small, and what is marked in texts."""

import json
from collections import Counter
from collections.abc import Sequence

from jaxrl.reporting.behaviours import find
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord, read_rollouts, rollout_path
from jaxrl.reporting.run_folder import Run, stage_bands
from jaxrl.rewards import VERDICTS
from jaxrl.tasks.problem import kind_label

# Of groups as JSON. Packed they take a third to a tenth, and gibberish hardly more than this: a page has 25 MB at most.
BUDGET_BYTES = 20_000_000
MOST_STEPS = 60  # whose rollouts are put into the page
MOST_RESPONSES = 16  # of a group: the first ones, which are as good a sample as any


def choose_groups(run: Run, budget_bytes: int) -> tuple[list[dict[str, object]], str]:
    """Groups for the browser, and a sentence that says how many of how many they are.

    Steps are taken evenly, always with the first and last of each stage; of each step the same share of the
    budget. Problems chosen at an earlier step come first, so that a prompt can be followed across steps. Of each
    group the first 16 responses are taken, fewer where the budget is short.
    """
    if not run.rollout_steps:
        return [], "This run stored no rollouts."
    edges = {step for band in stage_bands(run.records) for step in (band.first, band.last)}
    steps = _spread(run.rollout_steps, edges, MOST_STEPS)
    chosen: list[dict[str, object]] = []
    seen: Counter[str] = Counter()
    shown = responses = 0
    stored = written = 0
    for step in steps:
        groups = read_rollouts(rollout_path(run.rollouts, step))
        left = budget_bytes / len(steps)
        for group in sorted(groups, key=lambda group: -seen[group.problem]):
            packed, size = _fitting(group, left)
            if packed is None:
                break
            left -= size
            shown += 1
            responses += packed["shown"]
            chosen.append(packed)
            seen[group.problem] += 1
        stored += len(groups)
        written += sum(len(group.responses) for group in groups)
    note = (
        f"{shown} of {stored} groups and {responses} of {written} responses of {len(steps)} steps are in this page; "
        f"the run stored {len(run.rollout_steps)} steps, all of them in its folder rollouts/. Each square is a "
        "response, in the colour of its verdict."
    )
    return chosen, note


def _fitting(group: GroupRecord, budget_bytes: float) -> tuple[dict[str, object] | None, int]:
    """The group with as many responses as fit, and its size; None where not even one does."""
    most = MOST_RESPONSES
    while most:
        packed = _group(group, most)
        size = len(json.dumps(packed, ensure_ascii=False).encode())
        if size <= budget_bytes:
            return packed, size
        most //= 2
    return None, 0


def marks(text: str, names: Sequence[str] = ()) -> list[list[object]]:
    """Behaviours in the text as [name, start, end] in UTF-16 units, which is how browsers count."""
    hits = find(text, names=names)
    if text.isascii():
        return [[hit.behaviour, hit.start, hit.end] for hit in hits]
    places = [0]
    for letter in text:
        places.append(places[-1] + (2 if ord(letter) > 0xFFFF else 1))
    return [[hit.behaviour, places[hit.start], places[hit.end]] for hit in hits]


def _spread(steps: Sequence[int], edges: set[int], most: int) -> list[int]:
    if len(steps) <= most:
        return list(steps)
    kept = {step for step in steps if step in edges}
    free = max(2, most - len(kept))
    kept |= {steps[round(i * (len(steps) - 1) / (free - 1))] for i in range(free)}
    return sorted(kept)


def _group(group: GroupRecord, most: int) -> dict[str, object]:
    """A group for the page: the verdicts of all its responses, and the text of the first `most`.

    Responses that are equal in everything stand once, with how many `times`.
    """
    verdicts = Counter(response.verdict for response in group.responses)
    times = Counter(group.responses[:most])
    responses = [_response(response, group.names) | {"times": count} for response, count in times.items()]
    fields = group._asdict() | {
        "kind": kind_label(group.kind),
        "verdicts": [[name, verdicts[name]] for name in VERDICTS if verdicts[name]],
        "shown": times.total(),
        "responses": responses,
    }
    del fields["prompt_index"], fields["names"]
    return fields


def _response(response: ResponseRecord, names: Sequence[str]) -> dict[str, object]:
    return response._asdict() | {"marks": marks(response.response, names)}
