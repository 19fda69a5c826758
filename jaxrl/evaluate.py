"""Evaluate a model, or compare two on the same problems, with the scorer and the prompts of training.

    python -m jaxrl.evaluate --model=runs/three_stage --people=2,3,4,5 --samples=8
    python -m jaxrl.evaluate --model=models/tiny --model=runs/three_stage_tiny --like=runs/three_stage_tiny
    python -m jaxrl.evaluate --model=https://HOST/v1 --name=MODEL --people=3,5 --output=evaluations/other.json
    python -m jaxrl.evaluate --model=FOLDER --data=gsm8k_test.jsonl --count=500
    python -m jaxrl.evaluate --model=FOLDER --data=people3_num100.jsonl --perturb=statement,leaf

A URL is an OpenAI-compatible server with chat completions. Its key is read from the environment. Answers are stored in
OUTPUT.answers.jsonl as they arrive, and the same command requests only the missing ones. Reasoning that the server
returns separately (`reasoning_content`) is put before the content as <think>...</think>. Lengths are those that the
server counts. The server chooses settings that a request does not contain: one that takes top_k or a repetition penalty
from the model's generation_config.json (vLLM without `--generation-config vllm`) samples from another distribution.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_gen.command_parser import whole_numbers
from data_gen.perturb import KINDS
from data_gen.puzzle_flags import add_puzzle_flags, puzzle_fields
from jaxrl.command_line import CommandParser, default_fields, run
from jaxrl.evaluation.endpoint import KEY_VARIABLE, LIMIT_FIELDS, is_endpoint, make_endpoint

if TYPE_CHECKING:
    from jaxrl.evaluation.results import EvaluationResult
    from jaxrl.inference.evaluate import EvaluationRequest


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("jaxrl.evaluate", __doc__)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="RUN, RUN@step, a Hugging Face folder or name, or a URL https://HOST/v1; two models are compared",
    )
    parser.add_argument(
        "--like",
        metavar="RUN",
        help="use task, prompts, rule and evaluation settings of this run; default: those of the first --model that is "
        "a run, else those of configs/base.py",
    )
    _add_problem_flags(parser)
    parser.add_argument("--samples", type=int, help="sampled responses to each problem, in addition to the greedy one")
    parser.add_argument(
        "--no-greedy",
        dest="greedy",
        action="store_false",
        help="sampled responses only, for servers that refuse temperature 0",
    )
    parser.add_argument("--temperature", type=float, help="of sampled responses")
    parser.add_argument("--max-new-tokens", type=int, help="limit of a response")
    parser.add_argument("--seed", type=int, help="selects the problems and seeds sampling")
    parser.add_argument("--form", choices=("chat", "base", "terse"), help="of the prompt, for models without a run")
    parser.add_argument("--opens-think", action="store_true", help="with --form: the prompt ends with <think>")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.json",
        help="all answers and results; with two models, FILE.before.json and FILE.after.json. The table is written as "
        ".md beside it and a page with the first answers as .html. Required with a URL",
    )
    group = parser.add_argument_group(
        "generated puzzles", "change the kind of puzzles; the defaults are those of --like, else the values in brackets"
    )
    add_puzzle_flags(group)
    _add_server_flags(parser.add_argument_group("servers"))
    return parser


def _add_problem_flags(parser: CommandParser) -> None:
    parser.add_argument("--people", type=whole_numbers, metavar="2,3,5", help="puzzles with these numbers of people")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="the problems of a file: puzzles of data_gen.build, puzzles in the format of the data set "
        "K-and-K/knights-and-knaves (JSON lines or parquet), or questions in GSM8K's format (`question`, and `answer` "
        "ending in `#### number`)",
    )
    parser.add_argument(
        "--perturb",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar=",".join(KINDS),
        help="evaluate the puzzles also with one change each, and show how often a correct response stays correct",
    )
    parser.add_argument(
        "--count",
        type=int,
        help="problems of each kind (default 100 with --people or --data; a file of puzzles may have fewer)",
    )


def _add_server_flags(group: Any) -> None:
    group.add_argument(
        "--name", action="append", default=[], metavar="MODEL", help="the model's name on the server, once per URL"
    )
    group.add_argument(
        "--key-variable",
        action="append",
        default=[],
        metavar="VARIABLE",
        help=f"environment variable that holds the key ({KEY_VARIABLE}); over http a key is sent only if this is given",
    )
    group.add_argument("--concurrency", type=int, default=8, help="requests at a time (8)")
    group.add_argument(
        "--retries",
        type=int,
        default=8,
        help="further attempts if a server is busy, fails or can't be reached, each after twice the pause (8, in about "
        "three minutes)",
    )
    group.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for one answer (600)")
    group.add_argument(
        "--limit-field",
        choices=LIMIT_FIELDS,
        default=LIMIT_FIELDS[0],
        help=f"the server's name for the limit of tokens ({LIMIT_FIELDS[0]})",
    )


def evaluate(given: argparse.Namespace) -> None:
    """Run the command. Raises ValueError and OSError with one sentence each."""
    check_flags(given)
    request = evaluation_request(given, default_fields())
    from jaxrl.runtime.devices import prepare_devices

    fields = request.fields
    prepare_devices(fields["devices"], fields["compile_cache"], fields["sampler"]["devices"])
    from jaxrl.evaluation.examples import side_by_side
    from jaxrl.evaluation.perturbation import perturbation_markdown
    from jaxrl.evaluation.results import comparison_markdown, markdown, to_json
    from jaxrl.reporting.files import write_text
    from jaxrl.reporting.page import write_page

    names = ["evaluation"] if len(given.model) == 1 else ["before", "after"]
    results = [evaluate_one() for evaluate_one in _prepare(given, request, names)]
    tables = [f"{result.model}\n\n{markdown(result)}{perturbation_markdown(result)}" for result in results]
    if len(results) == 2:
        tables += [comparison_markdown(*results)]
        print(side_by_side(*results), end="\n\n")
    text = "\n".join(tables)
    print(text, end="")
    if given.output:
        for result in results:
            print(f"answers: {write_text(_beside(given.output, result.name, names, 'json'), to_json(result))}")
        print(f"table:   {write_text(given.output.with_suffix('.md'), text)}")
        print(f"page:    {write_page(given.output.with_suffix('.html'), [], evaluations=results)}")


def check_flags(given: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not belong together."""
    unknown = [kind for kind in given.perturb if kind not in KINDS]
    if unknown or len(set(given.perturb)) < len(given.perturb):
        raise ValueError(f"expected --perturb as kinds out of {', '.join(KINDS)}, got {','.join(given.perturb)!r}.")
    if len(given.model) > 2:
        raise ValueError(f"expected one or two --model, got {len(given.model)}.")
    urls = sum(map(is_endpoint, given.model))
    if len(given.name) != urls:
        raise ValueError(f"expected a --name for each --model that is a URL ({urls}), got {len(given.name)}.")
    if len(given.key_variable) not in (0, urls):
        raise ValueError(f"expected no --key-variable, or one for each URL ({urls}), got {len(given.key_variable)}.")
    if urls and not given.output:
        raise ValueError("expected --output=FILE.json with a URL: answers that were paid for are stored beside it.")


def evaluation_request(given: argparse.Namespace, defaults: dict[str, Any]) -> "EvaluationRequest":
    """What to evaluate. Flags override the run of --like (else the first --model that is a run), which overrides the
    defaults, the fields of configs/base.py."""
    from jaxrl.inference.evaluate import EvaluationRequest
    from jaxrl.inference.load import SAMPLER_DEVICES, is_run, stored_config
    from jaxrl.tasks.pools import pool_table

    like = given.like or next((name for name in given.model if is_run(name)), None)
    automatic = {"rows": None, "devices": SAMPLER_DEVICES, "memory": None}
    fields = defaults | (stored_config(like) if like else {"sampler": automatic})
    evaluation = defaults["evaluation"] | fields["evaluation"]
    fields = fields | {"reward": fields["reward"] | {"rule": evaluation["rule"] or fields["reward"]["rule"]}}
    fields, pool = _use_flags(given, fields, dict(evaluation["pool"]), defaults["reward"]["rule"])
    if given.form:
        fields = fields | {"prompt": {"form": given.form, "opens_think": given.opens_think}}
    elif not like and any(map(is_endpoint, given.model)):
        fields = fields | {"prompt": defaults["prompt"] | {"opens_think": False}}

    def setting(name: str) -> Any:
        return evaluation[name] if getattr(given, name) is None else getattr(given, name)

    seed = fields["seed"] if given.seed is None else given.seed
    settings = [setting(name) for name in ("samples", "temperature", "max_new_tokens")]
    return EvaluationRequest(fields, pool_table("evaluation", pool), *settings, seed, given.greedy, given.perturb)


def _use_flags(
    given: argparse.Namespace, fields: dict[str, Any], pool: dict[str, int], rule: str
) -> tuple[dict[str, Any], dict[str, int]]:
    """The fields and the pool with --data, --people and --count. rule: the default for puzzles."""
    from jaxrl.inference.evaluate import is_puzzle_file, use_data_file, use_puzzle_file
    from jaxrl.tasks.problem import kind_label
    from jaxrl.tasks.puzzle_files import count_kinds

    count = 100 if given.count is None else given.count
    kinds = [f"p{people}" for people in given.people or ()]
    if changes := puzzle_fields(given):
        fields = _change_puzzles(fields, changes, given.data)
    if given.data and is_puzzle_file(given.data):
        found = count_kinds(given.data)
        if not found or set(kinds) - set(found):
            wanted = f"of {', '.join(map(kind_label, kinds))}" if kinds else ""
            raise ValueError(
                f"{given.data}: expected puzzles {wanted}, got {', '.join(map(kind_label, found)) or 'none'}."
            )
        # A --count that the file can't fulfil is refused by the task.
        pool = {kind: min(count, found[kind]) if given.count is None else count for kind in kinds or found}
        return use_puzzle_file(fields, given.data, list(pool), rule), pool
    if given.data and kinds:
        raise ValueError(f"expected --people or --data, got both; {given.data} has questions, not puzzles.")
    if given.data:
        return use_data_file(fields, given.data), {given.data.stem: count}
    if kinds:
        return fields, dict.fromkeys(kinds, count)
    if given.count is not None:
        return fields, {kind: count for kind, default_count in pool.items() if default_count}
    return fields, pool


def _change_puzzles(fields: dict[str, Any], changes: dict[str, Any], data: Path | None) -> dict[str, Any]:
    """The fields with other generated puzzles. Raises ValueError if the problems are of a file or of another task."""
    flag = f"--{next(iter(changes)).replace('_', '-')}"
    if data or fields["task"]["name"] != "knights_and_knaves":
        source = f"the file {data}" if data else f"the task {fields['task']['name']!r}"
        raise ValueError(f"expected {flag} only with generated puzzles, got {source}; data_gen.build writes files.")
    if "operators" in changes:
        changes = changes | {"operators": {name.replace("-", "_"): weight for name, weight in changes["operators"]}}
    return fields | {"task": fields["task"] | changes}


def _prepare(
    given: argparse.Namespace, request: "EvaluationRequest", names: Sequence[str]
) -> list[Callable[[], "EvaluationResult"]]:
    """A function for each --model that evaluates it. Errors are raised before anything is computed or paid for."""
    from jaxrl.inference.evaluate import evaluate_model, prepare_endpoint, refuse_trained
    from jaxrl.inference.load import find_model

    trained: set[str] = set()
    for model in given.model:
        warning, forms = refuse_trained(model, request)
        trained |= forms
        if warning:
            print(f"jaxrl.evaluate: {warning}", file=sys.stderr)
    request = request._replace(avoid=frozenset(trained))
    server_names, variables, ready = iter(given.name), iter(given.key_variable), []
    for model, name in zip(given.model, names, strict=True):
        if not is_endpoint(model):
            ready.append(partial(evaluate_model, find_model(model), request, name))
            continue
        endpoint = make_endpoint(
            model,
            next(server_names),
            os.environ,
            next(variables, None),
            limit_field=given.limit_field,
            timeout=given.timeout,
            retries=given.retries,
        )
        answers = _beside(given.output, name, names, "answers.jsonl")
        ready.append(prepare_endpoint(endpoint, request, name, answers, given.concurrency))
    return ready


def _beside(output: Path, name: str, names: Sequence[str], ending: str) -> Path:
    """--output with another ending, and with the result's name if there are two."""
    return output.with_name(f"{output.stem}.{ending}" if len(names) == 1 else f"{output.stem}.{name}.{ending}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
