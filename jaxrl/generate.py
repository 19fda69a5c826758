"""Completions of given prompts, or one completion of a past run drawn again.

    python -m jaxrl.generate --model=MODEL --prompts=FILE.jsonl --output=FILE.jsonl --samples=4 --temperature=0.8
    python -m jaxrl.generate --replay=RUN --step=40 --prompt=3 --sample=7

The same command again goes on with an interrupted --output. OUTPUT.settings.json beside it holds what the completions
depend on; a command with other settings or prompts is refused, and nothing that stands in the file is written over.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from jaxrl.inference.load import Source
    from jaxrl.sampling import Completions, StopStrings
    from models.config import Qwen2Config

# Fields of a run's config, where a model is sampled from that no run speaks of: all devices there are, one a core.
DEVICES, SAMPLER_DEVICES, COMPILE_CACHE = 0, -1, "~/.cache/jaxrl"


def read_prompts(path: Path, tokenizer: Any) -> list[tuple[Any, list[int]]]:
    """(id as it was given, token ids) of a file with `id` and `prompt` (text) or `messages` (chat) in each line.

    Raises ValueError naming the line that does not fit.
    """
    return [(record["id"], tokens) for _, tokens, record in read_records(path, tokenizer)]


def read_records(path: Path, tokenizer: Any) -> list[tuple[str, list[int], dict[str, Any]]]:
    """(id as text, token ids, the whole record) of each line, as `read_prompts`."""
    from data_gen.dataset import read_jsonl

    found: dict[str, tuple[str, list[int], dict[str, Any]]] = {}
    for number, record in enumerate(read_jsonl(path), start=1):
        name, given = record.get("id"), [key for key in ("prompt", "messages") if key in record]
        if name is None or not _is_text(str(name)) or len(given) != 1 or str(name) in found:
            raise ValueError(
                f"{path}, prompt {number}: expected an `id` of its own and either `prompt` or `messages`, "
                f"got {json.dumps(record)[:120]}."
            )
        if not _is_asked(record):
            raise ValueError(
                f"{path}, prompt {number}: expected `prompt` to be text, or `messages` to be one or more "
                "objects with a `role` and a `content` that are text, got "
                f"{json.dumps(record[given[0]])[:120]}."
            )
        text = record["prompt"] if "prompt" in record else _chat(record["messages"], tokenizer, path, number)
        found[str(name)] = (str(name), list(tokenizer(text, add_special_tokens=False)["input_ids"]), record)
    if not found:
        raise ValueError(f"{path} holds no prompt.")
    return list(found.values())


def _is_asked(record: Mapping[str, Any]) -> bool:
    """Whether the record's `prompt` is text, or its `messages` are."""
    if "prompt" in record:
        return _is_text(record["prompt"])
    messages = record["messages"]
    return (
        isinstance(messages, list)
        and len(messages) > 0
        and all(
            isinstance(message, dict) and _is_text(message.get("role")) and _is_text(message.get("content"))
            for message in messages
        )
    )


def _is_text(value: Any) -> bool:
    """Whether it is a string without halves of characters, which no tokenizer takes."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def _chat(messages: Any, tokenizer: Any, path: Path, number: int) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{path}, prompt {number}: `messages` need a model with a chat template; write `prompt`.")
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def check_room(prompts: Sequence[tuple[Any, list[int]]], max_new_tokens: int, config: "Qwen2Config") -> None:
    """Raises ValueError naming the first prompt that is empty, or too long for the model with its completion."""
    positions = config.max_position_embeddings
    if max_new_tokens >= positions:
        raise ValueError(
            f"--max-new-tokens: expected less than {positions}, the positions that the model knows, got "
            f"{max_new_tokens}."
        )
    for name, tokens in prompts:
        if not 1 <= len(tokens) <= positions - max_new_tokens:
            raise ValueError(
                f"prompt {name!r}: expected 1 to {positions - max_new_tokens} tokens, as the model knows "
                f"{positions} positions and --max-new-tokens={max_new_tokens} of them are for the "
                f"completion, got {len(tokens)}; change the prompt or --max-new-tokens."
            )


def settings(given: argparse.Namespace, source: "Source", prompts: Sequence[tuple[Any, list[int]]]) -> dict[str, Any]:
    """All that the completions depend on, as JSON has it."""
    from jaxrl.inference.completions_file import prompts_hash

    named = ("samples", "seed", "temperature", "top_k", "top_p", "min_p", "stop", "max_new_tokens", "dtype")
    return {
        "model": str((source.run or source.folder).resolve()),
        "checkpoint": source.step,
        "prompts": len(prompts),
        "prompts_hash": prompts_hash(prompts),
        **{name: getattr(given, name) for name in named},
    }


def complete(given: argparse.Namespace, console: "Console") -> Iterator[str]:
    """Draw what is still missing, a part of the prompts at a time; yields a sentence for each part.

    console: shows a bar while a part is drawn, if it is a terminal.
    """
    import numpy as np

    from jaxrl.inference.completions_file import CompletionFile
    from jaxrl.inference.load import find_model, load_policy
    from jaxrl.sampling import Coordinates, SamplingSpec, StopStrings

    # Refused, where it has to be, before a model is looked for: one that is not at hand is downloaded.
    drawing = SamplingSpec(given.max_new_tokens, (), given.temperature, given.top_k, given.top_p, given.min_p)
    source = find_model(given.model)
    stop = StopStrings(tuple(given.stop), partial(source.tokenizer.decode, skip_special_tokens=False))
    drawing = dataclasses.replace(drawing, eos_ids=source.eos_ids, stop=stop)
    prompts = read_prompts(given.prompts, source.tokenizer)
    check_room(prompts, given.max_new_tokens, source.config)
    file = CompletionFile(given.output, [name for name, _ in prompts], given.samples, settings(given, source, prompts))
    done = file.lines // given.samples
    if file.lines:
        yield f"{done} of {len(prompts)} prompts are in {given.output} already"
    if done == len(prompts):
        return
    file.begin()
    fields = {
        "dtype": given.dtype,
        "devices": DEVICES,
        "sampler": {"rows": given.rows, "devices": SAMPLER_DEVICES, "memory": given.memory},
    }
    longest = max(len(tokens) for _, tokens in prompts) + given.max_new_tokens
    samples = np.arange(given.samples, dtype=np.int32)
    with _memory_that_fills(), _bar(console) as bar:
        sampler, weights = load_policy(source, fields, longest)
        shown = bar.add_task("completions", total=(len(prompts) - done) * given.samples)
        for first in range(done, len(prompts), given.batch):
            part = prompts[first : first + given.batch]
            ended = (first - done) * given.samples
            coordinates = Coordinates(given.seed, 0, np.arange(first, first + len(part), dtype=np.int32), samples)
            drawn = sampler.sample(
                weights,
                [tokens for _, tokens in part],
                given.samples,
                coordinates,
                drawing,
                lambda count, _, ended=ended: bar.update(shown, completed=ended + count),
            )
            records = _records(part, drawn, source.eos_ids, stop)
            file.add(records[file.lines - first * given.samples :])  # a killed command may have left the first of them
            yield f"{first + len(part)} of {len(prompts)} prompts"
    traces = sorted(sampler.traces.items())
    yield (
        f"programs compiled, or taken from {COMPILE_CACHE}: {sum(count for _, count in traces)} "
        f"({', '.join(f'{name} {count}' for name, count in traces)})"
    )


@contextmanager
def _memory_that_fills() -> Iterator[None]:
    """Says what to do where a device's memory runs out; nothing is lost, as --rows is none of the settings."""
    from jax.errors import JaxRuntimeError

    try:
        yield
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(
            f"a device's memory is full ({str(error).splitlines()[0]:.200}); the same command with fewer "
            "--rows or less --memory goes on with what is drawn."
        ) from error


def _bar(console: "Console") -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _records(
    part: Sequence[tuple[Any, list[int]]], drawn: "Completions", eos_ids: Sequence[int], stop: "StopStrings"
) -> list[Mapping[str, Any]]:
    """The lines of these prompts' completions. `text` is of the tokens without an EOS, cut before a stop string."""
    group, records = len(drawn.lengths) // len(part), []
    for row, length in enumerate(drawn.lengths):
        tokens = drawn.tokens[row, :length].tolist()
        text = stop.decode(tokens[:-1] if tokens[-1] in eos_ids else tokens)
        records.append(
            {
                "id": part[row // group][0],
                "sample": row % group,
                "text": stop.cut(text),
                "tokens": tokens,
                "logp": [round(float(value), 6) for value in drawn.logp[row, :length]],
                "finish": "stop" if drawn.finished[row] else "length",
            }
        )
    return records


def replay_one(given: argparse.Namespace) -> int:
    """Draw one completion of a past run again; 0 when it is identical, 1 when it is not."""
    from jaxrl.checkpointing.restore import run_config
    from jaxrl.reporting.terminal import Terminal
    from jaxrl.runtime.devices import prepare_devices
    from jaxrl.training.run_spec import run_spec
    from models.source import resolve_model

    folder = Path(given.replay).expanduser()
    config = run_config(folder) | {"workdir": str(folder)}
    prepare_devices(config["devices"], config["compile_cache"], config["sampler"]["devices"])
    from jaxrl.training.replay import replay
    from jaxrl.training.trainer import Run

    spec = run_spec(config)
    found = replay(
        Run(spec, resolve_model(spec.model), Terminal(spec.total_steps), config), given.step, given.prompt, given.sample
    )
    print(found.prompt + found.again.text)
    if found.identical:
        print(f"--- identical to what step {given.step} stored")
        return 0
    print(f"--- DIFFERS from what step {given.step} stored: {'; '.join(found.differences)}")
    print(found.stored.text)
    return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jaxrl.generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="RUN, RUN@step, a Hugging Face folder or name")
    parser.add_argument("--prompts", type=Path, help="JSON lines: id, and prompt or messages")
    parser.add_argument(
        "--output", type=Path, help="JSON lines: id, sample, text, tokens, logp, finish; gone on with if it exists"
    )
    parser.add_argument("--samples", type=int, default=1, help="completions of each prompt (1)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (1.0)")
    parser.add_argument("--top-k", type=int, default=0, help="0 is off (0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 is off (1)")
    parser.add_argument("--min-p", type=float, default=0.0, help="0 is off (0)")
    parser.add_argument(
        "--stop",
        nargs="*",
        default=[],
        metavar="TEXT",
        help="strings that end a completion; the text is cut before them, the tokens behind the one that completes it",
    )
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="(1024)")
    parser.add_argument("--seed", type=int, default=0, help="0 to 2^32 - 1 (0)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="(bfloat16)")
    parser.add_argument("--batch", type=int, default=64, help="prompts between two writes (64)")
    parser.add_argument(
        "--rows",
        type=int,
        help="completions that a device decodes together, in one cache; fewer take "
        "less memory (32 on a CPU, where it should be a multiple of 32; else 128)",
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="of each device for caches: so many times --rows as fit are in work at once; 0: once (1 on a CPU, else 0)",
    )
    parser.add_argument(
        "--replay", metavar="RUN", help="draw a completion of this run again, with --step, --prompt and --sample"
    )
    for name, help in (("step", "from 1"), ("prompt", "from 0"), ("sample", "from 0")):
        parser.add_argument(f"--{name}", type=int, help=f"with --replay: {help}")
    given = parser.parse_args(arguments)
    _check_flags(parser, given)
    return given


def _check_flags(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Ends the command where flags are missing, of the other kind of call, or out of range."""
    drawing, replaying = ("model", "prompts", "output"), ("step", "prompt", "sample")
    needed, foreign = (replaying, drawing) if given.replay else (drawing, replaying)
    if missing := [f"--{name}" for name in needed if getattr(given, name) is None]:
        parser.error(f"expected {', '.join(missing)}.")
    if extra := [f"--{name}" for name in foreign if getattr(given, name) is not None]:
        parser.error(f"expected no {', '.join(extra)} {'with' if given.replay else 'without'} --replay.")
    for name in ("batch", "samples", "rows"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"expected a --{name} of 1 or more, got {getattr(given, name)}.")
    if given.memory is not None and not 0 <= given.memory < float("inf"):
        parser.error(f"expected a --memory of 0 or more GiB, got {given.memory}.")
    if not 0 <= given.seed < 2**32:
        parser.error(f"expected a --seed of 0 to 2^32 - 1, got {given.seed}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = _parse(arguments)
    try:
        if given.replay:
            return replay_one(given)
        from rich.console import Console

        from jaxrl.runtime.devices import prepare_devices

        prepare_devices(DEVICES, COMPILE_CACHE, SAMPLER_DEVICES)
        for sentence in complete(given, Console()):
            print(sentence, flush=True)
        print(f"completions: {given.output}")
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"jaxrl.generate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
