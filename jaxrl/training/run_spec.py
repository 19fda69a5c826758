"""A run's specification: the config, validated once and frozen. No other module reads the config."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from data_gen.prompts import PromptSpec
from jaxrl.algorithms.advantages import Needs
from jaxrl.algorithms.losses import LossSpec
from jaxrl.algorithms.recipes import recipe
from jaxrl.checkpointing.checkpoints import CheckpointSpec
from jaxrl.learning.mesh import MeshSpec
from jaxrl.learning.optimizer import OptimizerSpec
from jaxrl.learning.reference_policy import ReferenceSpec
from jaxrl.reporting.wandb_writer import WandbSpec
from jaxrl.rewards import RULES, RewardValues
from jaxrl.sampling.types import MIN_TEMPERATURE
from jaxrl.tasks.pools import pool_table, stages_of
from jaxrl.tasks.registry import check_rule, make_task
from jaxrl.tasks.task import Task
from jaxrl.training.guard import GuardSpec
from jaxrl.training.stage_spec import StageSpec, stage_order, stage_spec
from models.lora import LoRASpec
from models.qwen2 import REMAT


@dataclasses.dataclass(frozen=True)
class EvaluationSpec:
    """Evaluation on held-out problems.

    pool: (kind, number of problems) pairs. every: steps between evaluations; 0: before the first and after the last
    step only. rule: judges the responses; empty: the training rule.
    """

    pool: tuple[tuple[str, int], ...]
    samples: int
    temperature: float
    max_new_tokens: int
    every: int
    rule: str = ""

    def __post_init__(self):
        for field, least in (("samples", 0), ("max_new_tokens", 1), ("every", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"evaluation.{field}: expected {least} or more, got {getattr(self, field)}.")
        if not (self.temperature == 0 or MIN_TEMPERATURE <= self.temperature < math.inf):
            raise ValueError(
                f"evaluation.temperature: expected 0 (greedy) or at least {MIN_TEMPERATURE}, got {self.temperature}."
            )


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The model and how it is computed.

    path: Hugging Face folder or hub name. init_from: run folder to start from, `RUN` or `RUN@step`; empty: start from
    `path`. dtype: of matrix products, decode weights and KV cache. remat: a name in `models.qwen2.REMAT`. unroll:
    layers per iteration of the scan over layers. lora: None trains all weights.
    """

    path: str
    init_from: str
    dtype: str
    attention: str
    remat: str
    unroll: int
    lora: LoRASpec | None


@dataclasses.dataclass(frozen=True)
class RewardSpec:
    """The scoring rule and the reward of each verdict."""

    rule: str
    values: RewardValues


@dataclasses.dataclass(frozen=True)
class AlgorithmSpec:
    """The loss, its reference policy, and how often a rollout is used."""

    loss: LossSpec
    reference: ReferenceSpec
    critic_learning_rate: float
    epochs: int
    minibatches: int

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps per rollout."""
        return self.epochs * self.minibatches


@dataclasses.dataclass(frozen=True)
class BatchLayoutSpec:
    """Sizes of micro-batches. `micro_tokens` and `head_tokens` count tokens over all devices.

    Row lengths are padded to multiples of `multiple`, from `shortest` on; each bucket is at most `ratio` times the
    previous one. few_shapes: see `LayoutSpec`. compile_ahead: see `jaxrl.training.compilation`.
    """

    micro_tokens: int
    multiple: int
    ratio: float
    head_tokens: int
    shortest: int = 48  # defaults: of runs whose stored config has no such field
    few_shapes: bool = False
    compile_ahead: bool = False


@dataclasses.dataclass(frozen=True)
class SamplerSpec:
    """Size of the sampler, as `sampler` in `configs/base.py`. memory: GiB of a device for caches."""

    rows: int
    chunk: int
    memory: float
    devices: int
    few_shapes: bool = False  # default: of runs whose stored config has no such field


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """A training run: its config as validated, frozen groups."""

    name: str
    seed: int
    workdir: Path
    devices: int
    mesh: MeshSpec
    model: ModelSpec
    prompt: PromptSpec
    stop: tuple[str, ...]
    task: Task
    reward: RewardSpec
    algorithm: AlgorithmSpec
    optimizer: OptimizerSpec
    layout: BatchLayoutSpec
    sampler: SamplerSpec
    evaluation: EvaluationSpec
    checkpoint: CheckpointSpec
    guard: GuardSpec
    wandb: WandbSpec
    rollouts_every: int
    export: bool
    stages: tuple[StageSpec, ...]

    def changed(self, **fields: Any) -> Self:
        """A copy with other fields; a dict changes single fields of a group: `changed(model={"remat": "none"})`."""
        groups = {
            name: dataclasses.replace(getattr(self, name), **value) if isinstance(value, dict) else value
            for name, value in fields.items()
        }
        return dataclasses.replace(self, **groups)

    @property
    def total_steps(self) -> int:
        """Steps of all stages, if none ends early."""
        return sum(stage.steps for stage in self.stages)


def run_spec(config: dict[str, Any]) -> RunSpec:
    """The specification of a config given as plain dicts. Raises ValueError naming the field that does not fit."""
    c = config
    _check_fields(c)
    stages = stages_of(c)
    reward = dict(c["reward"])
    rule = reward.pop("rule")
    if rule not in RULES:
        raise ValueError(f"reward.rule: expected one of {', '.join(RULES)}, got {rule!r}.")
    task = make_task(c["task"], rule)
    loss, algorithm = _algorithm(c["algorithm"], stages)
    if loss.needs is Needs.SOLVER and not task.has_solver:
        raise ValueError(
            f"algorithm.recipe: {c['algorithm']['recipe']} learns from demonstrations of the task's solver, and "
            f"{c['task']['name']} has no solver; choose another recipe or the task knights_and_knaves."
        )
    evaluation = EvaluationSpec(**c["evaluation"] | {"pool": pool_table("evaluation", c["evaluation"]["pool"])})
    if evaluation.rule:
        check_rule("evaluation.rule", evaluation.rule, c["task"]["name"], task)
        task = task.judged_by(rule, evaluation.rule)
    guard = GuardSpec(**c["guard"])
    stage_specs = tuple(stage_spec(key, fields, loss, guard) for key, fields in sorted(stages.items(), key=stage_order))
    lora = _lora(c["lora"], loss, algorithm["reference"]["decay"])
    _check_evaluations(evaluation, stage_specs, c["checkpoint"]["best"])
    return RunSpec(
        name=c["name"],
        seed=c["seed"],
        workdir=Path(c["workdir"]),
        devices=c["devices"],
        mesh=MeshSpec(**c["mesh"]),
        model=ModelSpec(
            path=c["model"], lora=lora, **{f: c[f] for f in ("init_from", "dtype", "attention", "remat", "unroll")}
        ),
        prompt=PromptSpec(**c["prompt"]),
        stop=tuple(c["stop"]),
        task=task,
        reward=RewardSpec(rule, RewardValues(**reward)),
        algorithm=AlgorithmSpec(loss, **algorithm | {"reference": ReferenceSpec(**algorithm["reference"])}),
        optimizer=OptimizerSpec(**c["optimizer"]),
        layout=BatchLayoutSpec(**c["layout"]),
        sampler=SamplerSpec(**c["sampler"]),
        evaluation=evaluation,
        checkpoint=CheckpointSpec(**c["checkpoint"]),
        guard=guard,
        wandb=WandbSpec(**c["wandb"], name=Path(c["workdir"]).name),
        rollouts_every=c["rollouts"]["every"],
        export=c["export"],
        stages=stage_specs,
    )


def _check_fields(c: dict[str, Any]) -> None:
    """Checks the fields that no specification class checks. Raises ValueError."""
    for field, known in (
        ("dtype", ("bfloat16", "float32")),
        ("attention", ("cudnn", "plain")),
        ("remat", tuple(REMAT)),
    ):
        if c[field] not in known:
            raise ValueError(f"{field}: expected one of {', '.join(known)}, got {c[field]!r}.")
    if (c["attention"], c["dtype"]) == ("cudnn", "float32"):
        raise ValueError(
            "attention: expected plain with dtype=float32, since cuDNN's kernels take bfloat16 only, got "
            "cudnn; set --config.attention=plain."
        )
    for field, value, least in (
        ("devices", c["devices"], 0),
        ("sampler.devices", c["sampler"]["devices"], -1),
        ("sampler.memory", c["sampler"]["memory"], 0),
    ):
        if value < least:
            raise ValueError(f"{field}: expected {least} or more, got {value}.")
    if c["rollouts"]["every"] < 1:
        raise ValueError(f"rollouts.every: expected 1 or more, got {c['rollouts']['every']}.")


def _check_evaluations(evaluation: EvaluationSpec, stages: Sequence[StageSpec], best: int) -> None:
    """Raises ValueError if a stage's end or the best checkpoints depend on evaluations that are never made."""
    if best and not evaluation.every:
        raise ValueError("checkpoint.best: expected evaluation.every above 0 to rank checkpoints, got 0.")
    kinds = [kind for kind, _ in evaluation.pool]
    for stage in stages:
        until, field = stage.until, f"{stage.name}.until"
        if not 0 <= until.accuracy <= 1 or until.evaluations < 1:
            raise ValueError(
                f"{field}: expected an accuracy of 0 (off) to 1 and 1 or more evaluations, got "
                f"{until.accuracy} and {until.evaluations}."
            )
        if until.accuracy and until.kind not in kinds:
            raise ValueError(
                f"{field}.kind: expected a kind of evaluation.pool ({', '.join(kinds)}), got {until.kind!r}."
            )
        if until.accuracy and not (evaluation.every and evaluation.samples):
            raise ValueError(
                f"{field}: expected evaluation.every and evaluation.samples above 0, since the stage ends by "
                f"accuracy, got {evaluation.every} and {evaluation.samples}."
            )


def _algorithm(c: dict[str, Any], stages: dict[str, Any]) -> tuple[LossSpec, dict[str, Any]]:
    """The recipe's loss with the fields that the config overrides, and the other fields of `algorithm`."""
    outside = ("epochs", "minibatches", "critic_learning_rate", "reference")
    changes = {field: value for field, value in c.items() if field not in ("recipe", *outside) and value is not None}
    # Dr.GRPO divides by the length limit of the run's responses.
    limit = max(fields["sampling"]["max_new_tokens"] for fields in stages.values())
    loss = recipe(c["recipe"], **{"max_length": limit} | changes)
    for field in sorted(changes.keys() & loss.unused_fields.keys()):
        raise ValueError(
            f"algorithm.{field}: expected none, since recipe {c['recipe']} does not use it, got "
            f"{changes[field]}; it needs {loss.unused_fields[field]}."
        )
    if loss.needs is Needs.SOLVER and loss.kl_placement == "reward":
        raise ValueError(
            f"algorithm.kl_placement: expected loss or none with recipe {c['recipe']}, which has no "
            "rewards, got reward."
        )
    if not 0 <= c["critic_learning_rate"] < math.inf:
        raise ValueError(f"algorithm.critic_learning_rate: expected 0 or more, got {c['critic_learning_rate']}.")
    if loss.kl_placement == "none" and c["reference"]["every"]:
        raise ValueError(
            f"algorithm.reference: a moving reference does nothing without a KL (recipe {c['recipe']}); set "
            "algorithm.kl_placement, or reference.every=0."
        )
    return loss, {field: c[field] for field in outside}


def _lora(c: dict[str, Any], loss: LossSpec, decay: float) -> LoRASpec | None:
    """The adapters, or None. Raises ValueError for parts of an algorithm that do not work with adapters."""
    if c["rank"] == 0:
        return None
    if loss.needs is Needs.CRITIC:
        raise ValueError(
            f"lora.rank: expected 0 with an algorithm that has a critic, got {c['rank']}: the critic would train all "
            "weights of a second model; choose another recipe."
        )
    if decay:
        raise ValueError(
            f"algorithm.reference.decay: expected 0 with lora.rank={c['rank']}, got {decay}: the mean "
            "of adapters is not the mean of the merged weights; use a copy every n steps (decay=0)."
        )
    return LoRASpec(**c)
