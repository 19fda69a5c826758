"""Runs that a test can afford: a random model of a few thousand parameters, two steps a stage."""

import importlib
from pathlib import Path

import jax
import pytest
from rich.console import Console

from jaxrl.flags import plain
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.run_params import restore_params
from jaxrl.learning.state import init_params
from jaxrl.reporting.metrics import deterministic
from jaxrl.reporting.terminal import Terminal
from jaxrl.reporting.writers import read_metrics
from jaxrl.running import loop
from jaxrl.running.settings import run_spec
from jaxrl.running.supervised import save_base
from models.config import Qwen2Config
from models.qwen2 import Qwen2
from models.vocabulary import build_tokenizer


class SmallRuns:
    """Makes configs and runs of one model, and reads what they left."""

    config = Qwen2Config(288, 16, 32, 2, 2, 1, 8, rope_theta=1e4, tie_word_embeddings=True, max_position_embeddings=256)
    steps = 6

    def __init__(self, base: Path):
        self.base, self.said = base, []

    def fields(self, workdir, changes=()):
        """The shipped three stages, two steps each; `changes` are flat names and values."""
        config = importlib.import_module("configs.three_stage").get_config("tiny")
        pool = type(config)({"p3": 6})
        config.evaluation.pool = pool
        for stage in config.stages.values():
            stage.steps, stage.prompts, stage.samples, stage.pool = self.steps // 3, 4, 4, pool
            stage.sampling.max_new_tokens = 8
        config.update_from_flattened_dict({
            "model": str(self.base), "workdir": str(workdir), "unroll": 1, "devices": 1, "sampler.devices": 0,
            "sampler.rows": 16, "sampler.memory": 0.25, "wandb.mode": "off", "compile_cache": "",
            "layout.micro_tokens": 512, "layout.multiple": 64, "layout.ratio": 2.0, "evaluation.samples": 2,
            "evaluation.max_new_tokens": 8, "checkpoint.every": 1,
            # A random model writes noise, all of it badly formed and as uncertain as can be.
            "guard.entropy_max": 0.0, **{f"stages.stage{stage}.bounds.bad_format_max": 0.0 for stage in (1, 2, 3)},
            **dict(changes),
        })
        return plain(config)

    def run(self, fields):
        """The run, not yet trained; what it says is found in `said`."""
        spec, self.said = run_spec(fields), []
        terminal = Terminal(spec.total_steps, console=Console(quiet=True))
        terminal.say = self.said.append
        run = loop.Run(spec, Path(spec.model), terminal, fields)
        run.phases = []
        terminal.phase = lambda *phase: run.phases.append(phase)
        return run

    def numbers(self, workdir):
        """The lines of metrics.jsonl that no clock decides."""
        return [deterministic(record) for record in read_metrics(workdir / "metrics.jsonl")]

    def params(self, workdir, step=None):
        """Leaves of the parameters of a checkpoint."""
        return jax.tree.leaves(jax.device_get(restore_params(workdir, self.config, step)[0]))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Runs of a random Hugging Face folder with our tokenizer."""
    folder = tmp_path_factory.mktemp("base") / "model"
    params = init_params(Qwen2(SmallRuns.config), make_mesh(MeshSpec(data=1), jax.devices()[:1]), jax.random.key(3))
    tokenizer = build_tokenizer(["Ann says: Bob is a knave and Ann is a knight. Who is what?"], 288)
    save_base(folder, params, SmallRuns.config, tokenizer)
    return SmallRuns(folder)


@pytest.fixture(scope="module")
def judged():
    """Rewards that a random model can earn: even lengths are called correct, so advantages are not all zero."""
    patch = pytest.MonkeyPatch()
    judge = loop.Dialogue.judge

    def parity(self, problem, response, truncated):
        verdict = judge(self, problem, response, truncated)
        return verdict._replace(verdict="correct", reward=3.0) if len(response) % 2 else verdict

    patch.setattr(loop.Dialogue, "judge", parity)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def whole(small, judged, tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    run = small.run(small.fields(workdir))
    run.train()
    return run, workdir
