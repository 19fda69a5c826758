"""`python -m jaxrl.sft --config=configs/tiny_base.py`: teach a small base model by supervised training."""

import sys
from pathlib import Path

from ml_collections import ConfigDict

from jaxrl.flags import WORKDIR, plain, run
from jaxrl.runtime.streams import unfailing


def supervised_spec(config: ConfigDict):
    """The config as one frozen specification. Raises ValueError where a field does not fit."""
    from data_gen.corpus import CorpusSpec
    from data_gen.generate import PuzzleSpec
    from data_gen.prompts import PromptSpec
    from data_gen.response_styles import FORMATS, HabitSpec
    from jaxrl.base_model.trainer import PhaseSpec, SupervisedSpec
    from jaxrl.learning.optimizer import OptimizerSpec
    from jaxrl.tasks.knights_and_knaves import operator_weights
    from models.config import Qwen2Config

    puzzles = config.puzzles.to_dict()
    splits, split_seed = tuple(puzzles.pop("splits").items()), puzzles.pop("split_seed")
    puzzles["operators"] = operator_weights(puzzles["operators"])

    def phase(name, fields):
        broken = FORMATS[1:]
        formats = (("right", 1 - fields.broken), *((form, fields.broken / len(broken)) for form in broken))
        ways = tuple((way.replace("_", "-"), weight) for way, weight in fields.ways.to_dict().items())
        people = tuple((int(name[1:]), share) for name, share in sorted(fields.people.to_dict().items()))
        corpus = CorpusSpec(people, PuzzleSpec(people[-1][0], **puzzles), HabitSpec(ways, formats), splits, split_seed)
        return PhaseSpec(name, corpus, fields.tokens, fields.learning_rate, fields.final_share, fields.warmup_steps)

    model = Qwen2Config(**config.model.to_dict())
    return SupervisedSpec(
        seed=config.seed,
        model=model,
        prompt=PromptSpec(**config.prompt.to_dict()),
        optimizer=OptimizerSpec(**config.optimizer.to_dict()),
        phases=tuple(phase(name, config.phases[name]) for name in config.order),
        rows=config.rows,
        micro_tokens=config.micro_tokens,
        save_minutes=config.save_minutes,
        longest=config.longest,
    )


def teach(config: ConfigDict) -> None:
    """The command behind the flags. Raises ValueError and OSError with one sentence each."""
    from jaxrl.base_model.trainer import train_supervised
    from jaxrl.runtime.devices import prepare_devices
    from jaxrl.training.workdir import check_workdir, claimed

    sys.stdout = unfailing(sys.stdout)
    if WORKDIR.value:
        config.workdir = WORKDIR.value
    spec = supervised_spec(config)
    check_workdir(Path(config.workdir), plain(config))
    prepare_devices(config.devices, "")
    with claimed(Path(config.workdir), plain(config)) as changes:
        for line in changes:
            print(line)
        train_supervised(spec, Path(config.workdir), Path(config.output), lambda line: print(line, flush=True))


if __name__ == "__main__":
    run("jaxrl.sft", teach)
