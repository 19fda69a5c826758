"""Evaluate one model, or compare two on the same problems, with the scorer and the prompts of training.

    python -m jaxrl.evaluate --model=runs/three_stage --people=2,3,4,5 --samples=8
    python -m jaxrl.evaluate --model=models/tiny --model=runs/three_stage_tiny --like=runs/three_stage_tiny
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# What a model is asked where no run says otherwise: the generator's and the recipe's own defaults.
OPERATORS = {"tells_truth": 0.5, "lies": 0.5, "not": 1.0, "and": 1.0, "or": 1.0, "implies": 1.0, "iff": 1.0}
PLAIN = {
    "task": {"name": "knights_and_knaves", "depth": 2, "width": 2, "wording": "varied", "operators": OPERATORS,
             "splits": {"train": 0.8, "test": 0.2}, "split_seed": 0},
    "prompt": {"form": "chat", "opens_think": True},
    "stop": (),
    "reward": {"rule": "strict-1"},
    "evaluation": {"pool": {"p3": 100, "p5": 100}, "samples": 8, "temperature": 1.0, "max_new_tokens": 2048,
                   "rule": ""},
    "seed": 0,
    "dtype": "bfloat16",
    "sampler": {"rows": None},
    "devices": 0,
    "compile_cache": "~/.cache/jaxrl",
}


class Asked(NamedTuple):
    """How models are to be evaluated."""

    fields: dict[str, Any]  # as in a run's config
    pool: tuple[tuple[str, int], ...]
    samples: int
    temperature: float
    max_new_tokens: int
    seed: int


def _settings(given: argparse.Namespace) -> Asked:
    """From --like, else from the first --model that is a run, else PLAIN; flags go before both."""
    from jaxrl.running.policies import is_run, stored_config
    from jaxrl.running.settings import pool_table

    like = given.like or next((name for name in given.model if is_run(name)), None)
    fields = PLAIN | (stored_config(like) if like else {})
    usual = PLAIN["evaluation"] | fields["evaluation"]
    fields = fields | {"reward": fields["reward"] | {"rule": usual["rule"] or fields["reward"]["rule"]}}
    pool = dict(usual["pool"])
    if given.people:
        pool = {f"p{people}": given.count for people in given.people}
    elif given.count is not None:
        pool = {kind: given.count for kind, count in pool.items() if count}
    if given.form:
        fields = fields | {"prompt": {"form": given.form, "opens_think": given.opens_think}}

    def chosen(name: str) -> Any:
        return usual[name] if getattr(given, name) is None else getattr(given, name)

    seed = fields["seed"] if given.seed is None else given.seed
    return Asked(fields, pool_table("evaluation", pool), chosen("samples"), chosen("temperature"),
                 chosen("max_new_tokens"), seed)


def evaluate_model(name: str, asked: Asked, label: str):
    """The EvaluationResult of one model. Raises OSError and ValueError with one sentence each."""
    import numpy as np

    from data_gen.prompts import PromptSpec
    from jaxrl.evaluation.evaluate import evaluate
    from jaxrl.rewards import RewardValues
    from jaxrl.running.policies import find_model, load_policy
    from jaxrl.running.tasks import Dialogue, make_task
    from jaxrl.sampling import Coordinates

    reward = dict(asked.fields["reward"])
    rule = reward.pop("rule")
    task = make_task(asked.fields["task"], rule)
    source = find_model(name)
    prompt = PromptSpec(**asked.fields["prompt"])
    dialogue = Dialogue(task, prompt, rule, RewardValues(**reward), source.tokenizer, source.eos_ids,
                        tuple(asked.fields["stop"]))
    problems = task.draw("test", asked.pool, asked.seed)
    longest = max(len(dialogue.encode(problem)) for problem in problems) + asked.max_new_tokens
    sampler, weights = load_policy(source, asked.fields["dtype"], longest, asked.fields["sampler"]["rows"])

    def generate(prompts: list[list[int]], group_size: int, step: int, greedy: bool):
        coordinates = Coordinates(asked.seed, step, np.arange(len(prompts), dtype=np.int32),
                                  np.arange(group_size, dtype=np.int32))
        drawing = dialogue.drawing(asked.max_new_tokens, 0.0 if greedy else asked.temperature)
        return sampler.sample(weights, prompts, group_size, coordinates, drawing)

    settings = {"temperature": asked.temperature, "max_new_tokens": asked.max_new_tokens, "seed": asked.seed}
    return evaluate(
        generate, problems, encode=dialogue.encode, decode=dialogue.decode, judge=dialogue.judge,
        samples=asked.samples, name=label, model=name, settings=settings,
        way_of=dialogue.way_of if prompt.form == "terse" else None,
    )


def _people(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jaxrl.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True,
                        help="RUN, RUN@step, a Hugging Face folder or name; given twice, the two are compared")
    parser.add_argument("--like", metavar="RUN", help="task, prompts, rule and evaluation of this run; default: those "
                        "of the first --model that is a run, else chat prompts and the generator's defaults")
    parser.add_argument("--people", type=_people, metavar="2,3,5", help="numbers of people, for puzzles")
    parser.add_argument("--count", type=int, help="problems of each kind (default 100 with --people)")
    parser.add_argument("--samples", type=int, help="sampled responses to each, besides the greedy one")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--seed", type=int, help="of problems and of sampling")
    parser.add_argument("--form", choices=("chat", "base", "terse"), help="of the prompt, for models without a run")
    parser.add_argument("--opens-think", action="store_true", help="with --form: the prompt ends with <think>")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="every answer and the rows; with two models "
                        "their names are put before .json. The table goes beside it as .md")
    given = parser.parse_args(arguments)
    if given.people and given.count is None:
        given.count = 100
    if len(given.model) > 2:
        parser.error(f"expected one or two --model, got {len(given.model)}.")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = _parse(arguments)
    try:
        asked = _settings(given)
        from jaxrl.running.devices import prepare_devices

        prepare_devices(asked.fields["devices"], asked.fields["compile_cache"])
        from jaxrl.evaluation.examples import side_by_side
        from jaxrl.evaluation.table import comparison_markdown, markdown, to_json
        from jaxrl.reporting.files import write_text

        labels = ["evaluation"] if len(given.model) == 1 else ["before", "after"]
        results = [evaluate_model(name, asked, label) for name, label in zip(given.model, labels, strict=True)]
        tables = [f"{result.model}\n\n{markdown(result)}" for result in results]
        if len(results) == 2:
            tables += [comparison_markdown(*results)]
            print(side_by_side(*results), end="\n\n")
        text = "\n".join(tables)
        print(text, end="")
        for result in results if given.output else ():
            name = given.output.stem if len(results) == 1 else f"{given.output.stem}.{result.name}"
            print(f"answers: {write_text(given.output.with_name(f'{name}.json'), to_json(result))}")
        if given.output:
            print(f"table:   {write_text(given.output.with_suffix('.md'), text)}")
    except (OSError, ValueError, FloatingPointError, json.JSONDecodeError) as error:
        print(f"jaxrl.evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
