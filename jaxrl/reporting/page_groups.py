"""The groups that the report's browser shows, chosen so that the page stays small, and what is marked in texts."""

import json
from collections import Counter
from collections.abc import Sequence

from jaxrl.evaluation.problems import kind_label
from jaxrl.reporting.behaviours import find
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord, read_rollouts, rollout_path
from jaxrl.reporting.run_folder import Run, stage_bands

BUDGET_BYTES = 12_000_000  # of groups as JSON; packed into the page they take about a fifth
MOST_STEPS = 60  # whose rollouts are put into the page


def choose_groups(run: Run, budget_bytes: int) -> tuple[list[dict[str, object]], str]:
    """Groups for the browser, and a sentence that says how many of how many they are.

    Steps are taken evenly, always with the first and last of each stage; of each step the same share of the
    budget. Problems chosen at an earlier step come first, so that a prompt can be followed across steps.
    """
    if not run.rollout_steps:
        return [], "This run stored no rollouts."
    edges = {step for band in stage_bands(run.records) for step in (band.first, band.last)}
    steps = _spread(run.rollout_steps, edges, MOST_STEPS)
    chosen: list[dict[str, object]] = []
    seen: Counter[str] = Counter()
    shown = stored = 0
    for step in steps:
        groups = read_rollouts(rollout_path(run.rollouts, step))
        left = budget_bytes / len(steps)
        for group in sorted(groups, key=lambda group: -seen[group.problem]):
            packed = _group(group)
            size = len(json.dumps(packed, ensure_ascii=False).encode())
            if size > left:
                break
            left -= size
            shown += 1
            chosen.append(packed)
            seen[group.problem] += 1
        stored += len(groups)
    note = (
        f"{shown} of {stored} groups of {len(steps)} steps are in this page; the run stored "
        f"{len(run.rollout_steps)} steps, all of them in its folder rollouts/. Each square is a response, in the "
        "colour of its verdict."
    )
    return chosen, note


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


def _group(group: GroupRecord) -> dict[str, object]:
    """A group for the page; responses that are equal in everything stand once, with how many `times`."""
    times = Counter(group.responses)
    responses = [_response(response, group.names) | {"times": count} for response, count in times.items()]
    fields = group._asdict() | {"kind": kind_label(group.kind), "responses": responses}
    del fields["prompt_index"], fields["names"]
    return fields


def _response(response: ResponseRecord, names: Sequence[str]) -> dict[str, object]:
    return response._asdict() | {"marks": marks(response.response, names)}
