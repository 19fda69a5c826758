"""Evaluate one model, or compare two on the same problems, with the scorer and the prompts of training.

    python -m jaxrl.evaluate --model=runs/three_stage --people=2,3,4,5 --samples=8
    python -m jaxrl.evaluate --model=models/tiny --model=runs/three_stage_tiny --like=runs/three_stage_tiny
    python -m jaxrl.evaluate --model=https://HOST/v1 --name=MODEL --people=3,5 --output=evaluations/other.json
    python -m jaxrl.evaluate --model=FOLDER --data=gsm8k_test.jsonl --count=500

An address is an OpenAI-compatible server that is asked in messages. Its key is read from the environment. Every
answer is kept in OUTPUT.answers.jsonl as it comes, and the same command again asks only for what is missing. Reasoning
that the server hands over apart (`reasoning_content`) is put back before the content as <think>...</think>. Lengths are
the tokens that the server counts. What a request leaves open the server decides: one that takes top_k or a repetition
penalty from the model's generation_config.json (vLLM, if not started with `--generation-config vllm`) draws from
another distribution.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxrl.evaluation.endpoint import KEY_VARIABLE, LIMIT_FIELDS, Endpoint, is_endpoint, make_endpoint

if TYPE_CHECKING:
    from jaxrl.evaluation.results import EvaluationResult
    from jaxrl.inference.load import Source

# What a model is asked where no run says otherwise: the generator's and the recipe's own defaults.
OPERATORS = {"tells_truth": 0.5, "lies": 0.5, "not": 1.0, "and": 1.0, "or": 1.0, "implies": 1.0, "iff": 1.0}
PLAIN = {
    "task": {
        "name": "knights_and_knaves",
        "depth": 2,
        "width": 2,
        "wording": "varied",
        "operators": OPERATORS,
        "splits": {"train": 0.8, "test": 0.2},
        "split_seed": 0,
    },
    "prompt": {"form": "chat", "opens_think": True},
    "stop": (),
    "reward": {"rule": "strict-1"},
    "evaluation": {
        "pool": {"p3": 100, "p5": 100},
        "samples": 8,
        "temperature": 1.0,
        "max_new_tokens": 2048,
        "rule": "",
    },
    "seed": 0,
    "dtype": "bfloat16",
    "sampler": {"rows": None, "devices": -1, "memory": None},
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
    greedy: bool


def _with_data(fields: dict[str, Any], data: Path) -> dict[str, Any]:
    """The fields of a config with the questions of this file for its task, and a rule that can judge them."""
    from jaxrl.rewards import RULES

    task = {"name": "gsm8k", "files": {data.stem: {"test": str(data)}}}
    rule = fields["reward"]["rule"]
    rule = rule if rule in RULES and RULES[rule].needs == "target" else "gsm8k-1"
    return fields | {"task": task, "reward": fields["reward"] | {"rule": rule}}


def _settings(given: argparse.Namespace) -> Asked:
    """From --like, else from the first --model that is a run, else PLAIN; flags go before both."""
    from jaxrl.inference.load import is_run, stored_config
    from jaxrl.tasks.task import pool_table

    like = given.like or next((name for name in given.model if is_run(name)), None)
    fields = PLAIN | (stored_config(like) if like else {})
    usual = PLAIN["evaluation"] | fields["evaluation"]
    fields = fields | {"reward": fields["reward"] | {"rule": usual["rule"] or fields["reward"]["rule"]}}
    pool = dict(usual["pool"])
    if given.data:
        fields, pool = _with_data(fields, given.data), {given.data.stem: given.count}
    elif given.people:
        pool = {f"p{people}": given.count for people in given.people}
    elif given.count is not None:
        pool = {kind: given.count for kind, count in pool.items() if count}
    if given.form:
        fields = fields | {"prompt": {"form": given.form, "opens_think": given.opens_think}}
    elif not like and any(map(is_endpoint, given.model)):
        fields = fields | {"prompt": PLAIN["prompt"] | {"opens_think": False}}

    def chosen(name: str) -> Any:
        return usual[name] if getattr(given, name) is None else getattr(given, name)

    seed = fields["seed"] if given.seed is None else given.seed
    return Asked(
        fields,
        pool_table("evaluation", pool),
        chosen("samples"),
        chosen("temperature"),
        chosen("max_new_tokens"),
        seed,
        given.greedy,
    )


def _dialogue(asked: Asked, tokenizer: Any = None, ends: tuple[int, ...] = ()) -> "Dialogue":
    from data_gen.prompts import PromptSpec
    from jaxrl.rewards import RewardValues
    from jaxrl.tasks.prompting import PromptFormat
    from jaxrl.tasks.registry import make_task

    reward = dict(asked.fields["reward"])
    rule = reward.pop("rule")
    task, prompt = make_task(asked.fields["task"], rule), PromptSpec(**asked.fields["prompt"])
    return PromptFormat(task, prompt, rule, RewardValues(**reward), tokenizer, ends, tuple(asked.fields["stop"]))


def evaluate_model(source: "Source", asked: Asked, label: str) -> "EvaluationResult":
    """The EvaluationResult of a model whose weights are at hand. Raises OSError and ValueError in one sentence each."""
    import numpy as np

    from jaxrl.evaluation.evaluate import evaluate
    from jaxrl.inference.load import load_policy
    from jaxrl.sampling import Coordinates

    prompt_format = _dialogue(asked, source.tokenizer, source.eos_ids)
    problems = prompt_format.task.select("test", asked.pool, asked.seed)
    longest = max(len(prompt_format.encode(problem)) for problem in problems) + asked.max_new_tokens
    sampler, weights = load_policy(source, asked.fields, longest)

    def generate(prompts: list[list[int]], group_size: int, step: int, greedy: bool):
        coordinates = Coordinates(
            asked.seed, step, np.arange(len(prompts), dtype=np.int32), np.arange(group_size, dtype=np.int32)
        )
        drawing = prompt_format.sampling_spec(asked.max_new_tokens, 0.0 if greedy else asked.temperature)
        return sampler.sample(weights, prompts, group_size, coordinates, drawing)

    settings = {"temperature": asked.temperature, "max_new_tokens": asked.max_new_tokens, "seed": asked.seed}
    return evaluate(
        generate,
        problems,
        encode=prompt_format.encode,
        decode=prompt_format.decode,
        judge=prompt_format.judge,
        samples=asked.samples,
        greedy=asked.greedy,
        name=label,
        model=source.name,
        settings=settings,
        classify=prompt_format.classify,
    )


def prepare_endpoint(
    endpoint: Endpoint, asked: Asked, label: str, answers: Path, concurrency: int
) -> Callable[[], "EvaluationResult"]:
    """The evaluation of a model behind an address, all checked, nothing asked yet. answers: the file that keeps them.

    Raises ValueError for prompts that messages can't say, and for a file of other answers.
    """
    from jaxrl.evaluation.answer_log import AnswerLog
    from jaxrl.evaluation.remote import Asking, evaluate_endpoint

    prompt_format = _dialogue(asked)
    if prompt_format.stop:
        raise ValueError(
            f"responses end at {', '.join(map(repr, prompt_format.stop))} here (config.stop), which a server "
            "would cut away before the rule can see it; take a --like without stop strings."
        )
    problems = prompt_format.task.select("test", asked.pool, asked.seed)
    for problem in problems:
        prompt_format.messages(problem)
    asking = Asking(asked.samples, asked.temperature, asked.max_new_tokens, asked.seed, asked.greedy, concurrency)
    log = AnswerLog(answers, asking.settings(endpoint))

    def evaluate() -> "EvaluationResult":
        with log:
            return evaluate_endpoint(
                endpoint,
                problems,
                asking,
                log,
                messages=prompt_format.messages,
                judge=prompt_format.judge,
                name=label,
                classify=prompt_format.classify,
            )

    return evaluate


def _prepare(given: argparse.Namespace, asked: Asked, labels: Sequence[str]) -> list[Callable[[], "EvaluationResult"]]:
    """An evaluation for each --model, refused here if it has to be: before anything is computed or paid for."""
    from jaxrl.inference.load import find_model

    for model in given.model:
        refuse_trained(model, asked)
    names, variables, ready = iter(given.name), iter(given.key_variable), []
    for model, label in zip(given.model, labels, strict=True):
        if not is_endpoint(model):
            ready.append(partial(evaluate_model, find_model(model), asked, label))
            continue
        endpoint = make_endpoint(
            model,
            next(names),
            os.environ,
            next(variables, None),
            limit_field=given.limit_field,
            timeout=given.timeout,
            retries=given.retries,
        )
        ready.append(
            prepare_endpoint(
                endpoint, asked, label, _beside(given.output, label, labels, "answers.jsonl"), given.concurrency
            )
        )
    return ready


def refuse_trained(model: str, asked: Asked) -> None:
    """Raises ValueError where `model` is a run that was trained on a problem it is to be asked.

    Where its training data is gone a sentence on stderr says that this could not be checked.
    """
    from jaxrl.inference.load import is_run, stored_config
    from jaxrl.inference.training_problems import training_problems
    from jaxrl.tasks.overlap import refuse_overlap

    if not is_run(model):
        return
    try:
        trained = list(training_problems(stored_config(model)))
    except (OSError, ValueError) as error:
        print(f"jaxrl.evaluate: not checked whether {model} was trained on these problems ({error})", file=sys.stderr)
        return
    refuse_overlap(_dialogue(asked).task.select("test", asked.pool, asked.seed), trained)


def _beside(output: Path, label: str, labels: Sequence[str], ending: str) -> Path:
    """--output with another ending, and with the model's label where there are two."""
    return output.with_name(f"{output.stem}.{ending}" if len(labels) == 1 else f"{output.stem}.{label}.{ending}")


def _people(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jaxrl.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="RUN, RUN@step, a Hugging Face folder or name, or an address https://HOST/v1; given "
        "twice, the two are compared",
    )
    parser.add_argument(
        "--like",
        metavar="RUN",
        help="task, prompts, rule and evaluation of this run; default: those "
        "of the first --model that is a run, else chat prompts and the generator's defaults",
    )
    parser.add_argument("--people", type=_people, metavar="2,3,5", help="numbers of people, for puzzles")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE.jsonl",
        help="questions as GSM8K has them instead of puzzles: `question`, and `answer` ending in `#### number`",
    )
    parser.add_argument("--count", type=int, help="problems of each kind (default 100 with --people or --data)")
    parser.add_argument("--samples", type=int, help="sampled responses to each, besides the greedy one")
    parser.add_argument(
        "--no-greedy",
        dest="greedy",
        action="store_false",
        help="sampled responses only, for servers that refuse temperature 0",
    )
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--seed", type=int, help="of problems and of sampling")
    parser.add_argument("--form", choices=("chat", "base", "terse"), help="of the prompt, for models without a run")
    parser.add_argument("--opens-think", action="store_true", help="with --form: the prompt ends with <think>")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.json",
        help="every answer and the rows; with two models "
        "their names are put before .json. The table goes beside it as .md, with the first answers "
        "as a page in .html; needed with an address",
    )
    _endpoint_flags(parser.add_argument_group("for an address"))
    given = parser.parse_args(arguments)
    if given.people and given.data:
        parser.error("expected --people or --data, got both.")
    if (given.people or given.data) and given.count is None:
        given.count = 100
    if len(given.model) > 2:
        parser.error(f"expected one or two --model, got {len(given.model)}.")
    addresses = sum(map(is_endpoint, given.model))
    if len(given.name) != addresses:
        parser.error(f"expected a --name for each --model that is an address ({addresses}), got {len(given.name)}.")
    if len(given.key_variable) not in (0, addresses):
        parser.error(
            f"expected no --key-variable, or one for each address ({addresses}), got {len(given.key_variable)}."
        )
    if addresses and not given.output:
        parser.error("expected --output=FILE.json with an address: answers that were paid for are kept beside it.")
    return given


def _endpoint_flags(group: Any) -> None:
    group.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="MODEL",
        help="what the server calls the model; once for each address",
    )
    group.add_argument(
        "--key-variable",
        action="append",
        default=[],
        metavar="VARIABLE",
        help="the environment "
        f"variable that holds the key ({KEY_VARIABLE}); over http no key is sent unless this names one",
    )
    group.add_argument("--concurrency", type=int, default=8, help="requests at a time (8)")
    group.add_argument(
        "--retries",
        type=int,
        default=8,
        help="further attempts when a server is busy, broken or out "
        "of reach, each after twice the pause; 8 take about three minutes (8)",
    )
    group.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for one answer (600)")
    group.add_argument(
        "--limit-field",
        choices=LIMIT_FIELDS,
        default=LIMIT_FIELDS[0],
        help=f"what the server calls the limit of tokens ({LIMIT_FIELDS[0]})",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = _parse(arguments)
    try:
        asked = _settings(given)
        from jaxrl.runtime.devices import prepare_devices

        prepare_devices(asked.fields["devices"], asked.fields["compile_cache"], asked.fields["sampler"]["devices"])
        from jaxrl.evaluation.examples import side_by_side
        from jaxrl.evaluation.results import comparison_markdown, markdown, to_json
        from jaxrl.reporting.files import write_text
        from jaxrl.reporting.page import write_page

        labels = ["evaluation"] if len(given.model) == 1 else ["before", "after"]
        results = [evaluate() for evaluate in _prepare(given, asked, labels)]
        tables = [f"{result.model}\n\n{markdown(result)}" for result in results]
        if len(results) == 2:
            tables += [comparison_markdown(*results)]
            print(side_by_side(*results), end="\n\n")
        text = "\n".join(tables)
        print(text, end="")
        for result in results if given.output else ():
            print(f"answers: {write_text(_beside(given.output, result.name, labels, 'json'), to_json(result))}")
        if given.output:
            print(f"table:   {write_text(given.output.with_suffix('.md'), text)}")
            print(f"page:    {write_page(given.output.with_suffix('.html'), [], evaluations=results)}")
    except (OSError, ValueError, FloatingPointError, json.JSONDecodeError) as error:
        print(f"jaxrl.evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
