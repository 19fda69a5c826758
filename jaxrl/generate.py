"""Completions of given prompts, or one completion of a past run drawn again.

    python -m jaxrl.generate --model=MODEL --prompts=FILE.jsonl --output=FILE.jsonl --samples=4 --temperature=0.8
    python -m jaxrl.generate --replay=RUN --step=40 --prompt=3 --sample=7
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Where a model is sampled from that no run speaks of: fields of a run's config.
HERE = {"devices": 0, "sampler": {"rows": None, "devices": -1, "memory": 1.0}, "compile_cache": "~/.cache/jaxrl"}


def read_prompts(path: Path, tokenizer: Any) -> list[tuple[str, list[int]]]:
    """(id, token ids) of a file with `id` and `prompt` (text) or `messages` (chat) in each line.

    Raises ValueError naming the line that does not fit.
    """
    return [(name, tokens) for name, tokens, _ in read_records(path, tokenizer)]


def read_records(path: Path, tokenizer: Any) -> list[tuple[str, list[int], dict[str, Any]]]:
    """As `read_prompts`, with each line's whole record beside."""
    from data_gen.dataset import read_jsonl

    found: dict[str, tuple[str, list[int], dict[str, Any]]] = {}
    for number, record in enumerate(read_jsonl(path), start=1):
        name, given = record.get("id"), [key for key in ("prompt", "messages") if key in record]
        if name is None or len(given) != 1 or str(name) in found:
            raise ValueError(f"{path}, prompt {number}: expected an `id` of its own and either `prompt` or `messages`, "
                             f"got {json.dumps(record, ensure_ascii=False)[:120]}.")
        text = record["prompt"] if "prompt" in record else _chat(record["messages"], tokenizer, path, number)
        found[str(name)] = (str(name), list(tokenizer(text, add_special_tokens=False)["input_ids"]), record)
    if not found:
        raise ValueError(f"{path} holds no prompt.")
    return list(found.values())


def _chat(messages: Any, tokenizer: Any, path: Path, number: int) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{path}, prompt {number}: `messages` need a model with a chat template; write `prompt`.")
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def finished_ids(path: Path, samples: int) -> set[str]:
    """Ids whose samples are all in the file; what a killed command left of the prompt after them is taken away.

    Raises ValueError where the file holds something else.
    """
    if not path.is_file():
        return set()
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    lines = lines[: len(lines) // samples * samples]  # a prompt's samples are written side by side
    done: list[str] = []
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
            fits = record["sample"] == number % samples and {"tokens", "finish"} <= record.keys()
            name = record["id"]
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits or (number % samples and name != done[-1]):
            raise ValueError(f"{path}, line {number + 1}, is not of this command with --samples={samples}; choose "
                             "another --output.")
        if number % samples == 0:
            done.append(name)
    whole = b"".join(lines)
    if len(whole) < len(content):
        path.write_bytes(whole)
    return set(done)


def complete(given: argparse.Namespace) -> Iterator[str]:
    """Draw what is still missing, a part of the prompts at a time; yields a sentence for each part."""
    import numpy as np

    from jaxrl.running.policies import find_model, load_policy
    from jaxrl.sampling import Coordinates, SamplingSpec, StopStrings

    source = find_model(given.model)
    decode = partial(source.tokenizer.decode, skip_special_tokens=False)
    prompts = read_prompts(given.prompts, source.tokenizer)
    done = finished_ids(given.output, given.samples)
    places = [place for place, (name, _) in enumerate(prompts) if name not in done]
    if done:
        yield f"{len(done)} of {len(prompts)} prompts are in {given.output} already"
    longest = max(len(tokens) for _, tokens in prompts) + given.max_new_tokens
    sampler, weights = load_policy(source, HERE | {"dtype": given.dtype}, longest)
    stop = StopStrings(tuple(given.stop), decode)
    drawing = SamplingSpec(given.max_new_tokens, source.eos_ids, given.temperature, given.top_k, given.top_p,
                           given.min_p, stop)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(places), given.batch):
        part = places[first : first + given.batch]
        coordinates = Coordinates(given.seed, 0, np.array(part, np.int32), np.arange(given.samples, dtype=np.int32))
        drawn = sampler.sample(weights, [prompts[place][1] for place in part], given.samples, coordinates, drawing)
        lines = []
        for row in range(len(part) * given.samples):
            length = int(drawn.lengths[row])
            tokens = drawn.tokens[row, :length].tolist()
            text = decode(tokens[:-1] if tokens[-1] in source.eos_ids else tokens)
            lines.append(json.dumps({
                "id": prompts[part[row // given.samples]][0], "sample": row % given.samples, "text": stop.cut(text),
                "tokens": tokens, "logp": [round(float(value), 6) for value in drawn.logp[row, :length]],
                "finish": "stop" if drawn.finished[row] else "length",
            }, ensure_ascii=False))
        with given.output.open("a", encoding="utf-8") as file:  # whole prompts at a time: see finished_ids
            file.write("\n".join(lines) + "\n")
        yield f"{len(done) + first + len(part)} of {len(prompts)} prompts"


def replay_one(given: argparse.Namespace) -> int:
    """Draw one completion of a past run again; 0 when it is identical, 1 when it is not."""
    from jaxrl.learning.run_params import run_config
    from jaxrl.reporting.terminal import Terminal
    from jaxrl.running.devices import prepare_devices
    from jaxrl.running.settings import run_spec
    from models.source import resolve_model

    folder = Path(given.replay).expanduser()
    config = run_config(folder) | {"workdir": str(folder)}
    prepare_devices(config["devices"], config["compile_cache"], config["sampler"]["devices"])
    from jaxrl.running.loop import Run
    from jaxrl.running.replay import replay

    spec = run_spec(config)
    found = replay(Run(spec, resolve_model(spec.model), Terminal(spec.total_steps), config), given.step, given.prompt,
                   given.sample)
    print(found.prompt + found.again.text)
    if found.identical:
        print(f"--- identical to what step {given.step} stored")
        return 0
    print(f"--- DIFFERS from what step {given.step} stored: {'; '.join(found.differences)}")
    print(found.stored.text)
    return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jaxrl.generate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="RUN, RUN@step, a Hugging Face folder or name")
    parser.add_argument("--prompts", type=Path, help="JSON lines: id, and prompt or messages")
    parser.add_argument("--output", type=Path, help="JSON lines: id, sample, text, tokens, logp, finish; gone on with "
                        "if it exists")
    parser.add_argument("--samples", type=int, default=1, help="completions of each prompt (1)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (1.0)")
    parser.add_argument("--top-k", type=int, default=0, help="0 is off (0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 is off (1)")
    parser.add_argument("--min-p", type=float, default=0.0, help="0 is off (0)")
    parser.add_argument("--stop", nargs="*", default=[], metavar="TEXT", help="strings that end a completion; the text "
                        "is cut before them, the tokens behind the one that completes it")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="(1024)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="(bfloat16)")
    parser.add_argument("--batch", type=int, default=64, help="prompts between two writes (64)")
    parser.add_argument("--replay", metavar="RUN", help="draw a completion of this run again, with --step, --prompt "
                        "and --sample")
    for name in ("step", "prompt", "sample"):
        parser.add_argument(f"--{name}", type=int)
    given = parser.parse_args(arguments)
    needed = ("step", "prompt", "sample") if given.replay else ("model", "prompts", "output")
    missing = [f"--{name}" for name in needed if getattr(given, name) is None]
    if missing:
        parser.error(f"expected {', '.join(missing)}.")
    if given.batch < 1 or given.samples < 1:
        parser.error("expected --batch and --samples of 1 or more.")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = _parse(arguments)
    try:
        if given.replay:
            return replay_one(given)
        from jaxrl.running.devices import prepare_devices

        prepare_devices(HERE["devices"], HERE["compile_cache"], HERE["sampler"]["devices"])
        for sentence in complete(given):
            print(sentence, flush=True)
        print(f"completions: {given.output}")
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"jaxrl.generate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
