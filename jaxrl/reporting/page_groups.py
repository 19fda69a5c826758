"""Selects the rollout groups that are embedded in the report, within a size budget, and marks behaviours in texts."""

import itertools
import json
from collections import Counter
from collections.abc import Sequence

from jaxrl.evaluation.results import Sample
from jaxrl.reporting.behaviours import find_behaviours
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord, read_rollouts, rollout_path
from jaxrl.reporting.run_folder import RunFolder, stage_bands
from jaxrl.rewards import VERDICTS
from jaxrl.tasks.problem import kind_label

# Size of the groups as JSON. Compressed they take a third to a tenth; incompressible text slightly more than 1.
# A page is at most 25 MB.
BUDGET_BYTES = 20_000_000
MAX_STEPS = 60  # steps with rollouts in the page
MAX_RESPONSES = 16  # per group: the first ones, which are a random sample


def choose_groups(run: RunFolder, budget_bytes: int) -> tuple[list[dict[str, object]], str]:
    """Groups for the report, and a sentence with the numbers of shown and stored groups.

    Takes evenly spaced steps including the first and last of each stage, with an equal share of the budget each.
    Prefers problems that were selected at earlier steps, so that a prompt can be followed across steps. Takes the first
    16 responses of a group, fewer if the budget is short.
    """
    if not run.rollout_steps:
        return [], "This run stored no rollouts."
    edges = {step for band in stage_bands(run.records) for step in (band.first, band.last)}
    steps = _evenly_spaced(run.rollout_steps, edges, MAX_STEPS)
    chosen: list[dict[str, object]] = []
    seen: Counter[str] = Counter()
    shown = responses = 0
    stored = written = 0
    for step in steps:
        groups = read_rollouts(rollout_path(run.rollouts, step))
        left = budget_bytes / len(steps)
        for group in sorted(groups, key=lambda group: -seen[group.problem]):
            data, size = _group_within_budget(group, left)
            if data is None:
                break
            left -= size
            shown += 1
            responses += data["shown"]
            chosen.append(data)
            seen[group.problem] += 1
        stored += len(groups)
        written += sum(len(group.responses) for group in groups)
    note = (
        f"This page has {shown} of {stored} groups and {responses} of {written} responses of {len(steps)} steps. "
        f"The run folder has the rollouts of {len(run.rollout_steps)} steps in rollouts/. "
        "Each square is a response, coloured by verdict."
    )
    if any(group["sound"] is not None for group in chosen):
        note += " A hollow square is a correct response with a wrong step in its reasoning."
    return chosen, note


def _group_within_budget(group: GroupRecord, budget_bytes: float) -> tuple[dict[str, object] | None, int]:
    """The group with as many responses as fit, and its size in bytes; None if not even one response fits."""
    limit = MAX_RESPONSES
    while limit:
        data = _group(group, limit)
        size = len(json.dumps(data, ensure_ascii=False).encode())
        if size <= budget_bytes:
            return data, size
        limit //= 2
    return None, 0


def marks(text: str, names: Sequence[str] = ()) -> list[list[object]]:
    """Behaviours in the text as [name, start, end], in UTF-16 units as JavaScript counts."""
    offsets = _utf16_offsets(text)
    return [[hit.behaviour, offsets[hit.start], offsets[hit.end]] for hit in find_behaviours(text, names=names)]


def _utf16_offsets(text: str) -> Sequence[int]:
    """The UTF-16 units before each character of the text and at its end."""
    if text.isascii():
        return range(len(text) + 1)
    return [0, *itertools.accumulate(2 if ord(letter) > 0xFFFF else 1 for letter in text)]


def response_data(response: ResponseRecord | Sample, names: Sequence[str] = ()) -> dict[str, object]:
    """A response as data of the page, with its behaviours and the span of its first wrong step in UTF-16 units."""
    offsets, text = _utf16_offsets(response.response), response.response
    span = [offsets[min(position, len(text))] for position in response.span]
    return response._asdict() | {"marks": marks(text, names), "span": span}


def _evenly_spaced(steps: Sequence[int], edges: set[int], limit: int) -> list[int]:
    if len(steps) <= limit:
        return list(steps)
    kept = {step for step in steps if step in edges}
    free = max(2, limit - len(kept))
    kept |= {steps[round(i * (len(steps) - 1) / (free - 1))] for i in range(free)}
    return sorted(kept)


def _group(group: GroupRecord, limit: int) -> dict[str, object]:
    """A group as data of the page: the verdicts of all responses, and the texts of the first `limit`.

    Equal responses are merged into one with its number of `times`.
    """
    verdicts = Counter(response.verdict for response in group.responses)
    times = Counter(group.responses[:limit])
    responses = [response_data(response, group.names) | {"times": count} for response, count in times.items()]
    verified = all(response.sound is not None for response in group.responses)
    fields = group._asdict() | {
        "kind": kind_label(group.kind),
        "verdicts": [[name, verdicts[name]] for name in VERDICTS if verdicts[name]],
        "sound": sum(response.is_sound for response in group.responses) if verified else None,
        "shown": times.total(),
        "responses": responses,
    }
    del fields["prompt_index"], fields["names"]
    return fields
