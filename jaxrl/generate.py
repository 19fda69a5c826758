"""Generate completions of given prompts, or replay one completion of a run.

    python -m jaxrl.generate --model=MODEL --prompts=FILE.jsonl --output=FILE.jsonl --samples=4 --temperature=0.8
    python -m jaxrl.generate --replay=RUN --step=40 --prompt=3 --sample=7

The same command resumes an interrupted --output. OUTPUT.settings.json beside it has the settings that the completions
depend on; a command with other settings or prompts is refused, and nothing in the file is overwritten. Exit status 1 of
--replay: the completion differs from the stored one.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrl.command_line import CommandParser, default_fields, run


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("jaxrl.generate", __doc__)
    parser.add_argument("--model", help="RUN, RUN@step, a Hugging Face folder or name")
    parser.add_argument("--prompts", type=Path, help="JSON lines: id, and prompt or messages")
    parser.add_argument(
        "--output", type=Path, help="JSON lines: id, sample, text, tokens, logp, finish; resumed if it exists"
    )
    parser.add_argument("--samples", type=int, default=1, help="completions of each prompt (1)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: greedy (1.0)")
    parser.add_argument("--top-k", type=int, default=0, help="0: off (0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1: off (1)")
    parser.add_argument("--min-p", type=float, default=0.0, help="0: off (0)")
    parser.add_argument(
        "--stop",
        nargs="*",
        default=[],
        metavar="TEXT",
        help="strings that end a completion; its text ends before them, its tokens after the one that completes them",
    )
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="limit of a completion (1024)")
    parser.add_argument("--seed", type=int, default=0, help="0 to 2^32 - 1 (0)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="(bfloat16)")
    parser.add_argument("--batch", type=int, default=64, help="prompts between two writes (64)")
    parser.add_argument(
        "--rows",
        type=int,
        help="completions that a device decodes at a time, in one cache; fewer take less memory (on a CPU 32, of which "
        "it should be a multiple; else 128)",
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="memory of each device for caches: as many batches of --rows as fit are decoded at a time; 0: one batch "
        "(on a CPU 1, else 0)",
    )
    group = parser.add_argument_group("reproduce a completion of a run")
    group.add_argument("--replay", metavar="RUN", help="the run folder; needs --step, --prompt and --sample")
    for name, help in (("step", "from 1"), ("prompt", "from 0"), ("sample", "from 0")):
        group.add_argument(f"--{name}", type=int, help=f"with --replay: {help}")
    return parser


def generate(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status. Raises ValueError and OSError with one sentence each."""
    check_flags(given)
    if given.replay:
        return replay_one(Path(given.replay).expanduser(), given.step, given.prompt, given.sample)
    from rich.console import Console

    from jaxrl.inference.generate import GenerationSpec, complete_file
    from jaxrl.inference.load import SAMPLER_DEVICES
    from jaxrl.runtime.devices import prepare_devices

    defaults = default_fields()
    prepare_devices(defaults["devices"], defaults["compile_cache"], SAMPLER_DEVICES)
    given.devices, given.stop = defaults["devices"], tuple(given.stop)
    spec = GenerationSpec(**{field.name: getattr(given, field.name) for field in dataclasses.fields(GenerationSpec)})
    for sentence in complete_file(spec, Console()):
        print(sentence, flush=True)
    print(f"completions: {given.output}")
    return 0


def check_flags(given: argparse.Namespace) -> None:
    """Raises ValueError for flags that are missing, that belong to the other use, or that are out of range."""
    generating, replaying = ("model", "prompts", "output"), ("step", "prompt", "sample")
    needed, excluded = (replaying, generating) if given.replay else (generating, replaying)
    if missing := [f"--{name}" for name in needed if getattr(given, name) is None]:
        raise ValueError(f"expected {', '.join(missing)}.")
    if extra := [f"--{name}" for name in excluded if getattr(given, name) is not None]:
        raise ValueError(f"expected no {', '.join(extra)} {'with' if given.replay else 'without'} --replay.")
    for name in ("batch", "samples", "rows"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise ValueError(f"expected a --{name} of 1 or more, got {getattr(given, name)}.")
    if given.memory is not None and not 0 <= given.memory < float("inf"):
        raise ValueError(f"expected a --memory of 0 or more GiB, got {given.memory}.")
    if not 0 <= given.seed < 2**32:
        raise ValueError(f"expected a --seed of 0 to 2^32 - 1, got {given.seed}.")


def replay_one(folder: Path, step: int, prompt: int, sample: int) -> int:
    """Sample a completion of a run again; returns 0 if it is identical, 1 if it is not."""
    from jaxrl.checkpointing.restore import run_config
    from jaxrl.renamed_fields import check_renamed
    from jaxrl.reporting.terminal import Terminal
    from jaxrl.runtime.devices import prepare_devices
    from jaxrl.training.run_spec import run_spec
    from models.source import resolve_model

    config = run_config(folder) | {"workdir": str(folder)}
    check_renamed(config)
    prepare_devices(config["devices"], config["compile_cache"], config["sampler"]["devices"])
    from jaxrl.training.initial_state import resolve_init_from
    from jaxrl.training.replay import replay
    from jaxrl.training.trainer import Trainer

    spec = resolve_init_from(run_spec(config))
    trainer = Trainer(spec, resolve_model(spec.model.path), Terminal(spec.total_steps), config)
    result = replay(trainer, step, prompt, sample)
    print(result.prompt + result.again.text)
    if result.identical:
        print(f"--- identical to what step {step} stored")
        return 0
    print(f"--- DIFFERS from what step {step} stored: {'; '.join(result.differences)}")
    print(result.stored.text)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), generate, argv)


if __name__ == "__main__":
    sys.exit(main())
