"""From a config to frozen specifications: the one place where fields become objects, and wrong ones are refused."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from data_gen.prompts import PromptSpec
from jaxrl.algorithms.losses import LossSpec
from jaxrl.algorithms.recipes import recipe
from jaxrl.algorithms.schedules import ScheduleSpec
from jaxrl.checkpointing.checkpoints import CheckpointSpec
from jaxrl.learning.mesh import MeshSpec
from jaxrl.learning.optimizer import OptimizerSpec
from jaxrl.learning.reference_policy import ReferenceSpec
from jaxrl.reporting.wandb_writer import WandbSpec
from jaxrl.rewards import RULES, RewardValues
from jaxrl.sampling.types import COLDEST, LARGEST
from jaxrl.tasks.registry import check_rule, make_task
from jaxrl.tasks.task import Task, pool_table
from jaxrl.training.guard import GuardSpec
from models.lora import LoRASpec
from models.qwen2 import REMAT


@dataclasses.dataclass(frozen=True)
class UntilSpec:
    """A stage ends early once sampled held-out accuracy of `kind` was `accuracy` or more (0: never) in each of so many
    evaluations in a row."""

    accuracy: float
    kind: str
    evaluations: int

    @property
    def metric(self) -> str:
        """Where a step's record has the accuracy."""
        return f"evaluation/{self.kind}/sampled/accuracy"


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One stage of at most `steps` steps. pool: (kind, how many problems of it the stage draws from).

    Schedules count the stage's steps from 0.
    """

    name: str
    steps: int
    until: UntilSpec
    pool: tuple[tuple[str, int], ...]
    prompts: int
    samples: int
    temperature: ScheduleSpec
    top_k: ScheduleSpec
    top_p: ScheduleSpec
    min_p: ScheduleSpec
    max_new_tokens: int
    learning_rate: ScheduleSpec
    kl_coefficient: float
    fresh_optimizer: bool
    guard: GuardSpec

    def __post_init__(self):
        for field, least in (("steps", 1), ("prompts", 1), ("samples", 1), ("max_new_tokens", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{self.name}.{field}: expected {least} or more, got {getattr(self, field)}.")
        pool = sum(count for _, count in self.pool)
        if pool < self.prompts:
            raise ValueError(
                f"{self.name}: a step asks {self.prompts} problems but the pool has {pool}; "
                "raise the counts in `pool` or lower `prompts`."
            )

    @property
    def truncates(self) -> bool:
        """Whether some step leaves out unlikely tokens."""
        off = ((self.top_k, 0), (self.top_p, 1), (self.min_p, 0))
        return any(value != neutral for schedule, neutral in off for value in _ends(schedule))


@dataclasses.dataclass(frozen=True)
class EvaluationSpec:
    """Held-out problems by kind, samples of each, and how often (0: before the first and after the last).

    rule: what judges the responses; empty: the rule of training.
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
        if not (self.temperature == 0 or COLDEST <= self.temperature < math.inf):
            raise ValueError(
                f"evaluation.temperature: expected 0 (greedy) or at least {COLDEST}, got {self.temperature}."
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

    Row lengths are padded to multiples of `multiple`, each bucket at most `ratio` times the previous one.
    """

    micro_tokens: int
    multiple: int
    ratio: float
    head_tokens: int


@dataclasses.dataclass(frozen=True)
class SamplerSpec:
    """Size of the sampler. See `configs/base.py` for units."""

    rows: int
    chunk: int
    memory: float
    devices: int


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
    """The config (as plain dicts) as one specification. Raises ValueError naming the field that does not fit."""
    c = config
    stages = c["stages"] if "stages" in c else {c["name"]: c}
    reward = dict(c["reward"])
    rule = reward.pop("rule")
    if rule not in RULES:
        raise ValueError(f"reward.rule: expected one of {', '.join(RULES)}, got {rule!r}.")
    task = make_task(c["task"], rule)
    loss, algorithm = _algorithm(c["algorithm"], stages)
    if loss.needs == "solver" and not task.has_solver:
        raise ValueError(
            f"algorithm.recipe: {c['algorithm']['recipe']} learns what the task's solver writes, and "
            f"{c['task']['name']} has none; take another recipe or the task knights_and_knaves."
        )
    evaluation = EvaluationSpec(**c["evaluation"] | {"pool": pool_table("evaluation", c["evaluation"]["pool"])})
    if evaluation.rule:
        check_rule("evaluation.rule", evaluation.rule, c["task"]["name"], task)
    for field, known in (
        ("dtype", ("bfloat16", "float32")),
        ("attention", ("cudnn", "plain")),
        ("remat", tuple(REMAT)),
    ):
        if c[field] not in known:
            raise ValueError(f"{field}: expected one of {', '.join(known)}, got {c[field]!r}.")
    if (c["attention"], c["dtype"]) == ("cudnn", "float32"):
        raise ValueError(
            "attention: expected plain with dtype=float32, as cuDNN's kernels know bfloat16 only, got "
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
    guard = GuardSpec(**c["guard"])
    stage_specs = tuple(_stage(key, fields, loss, guard) for key, fields in sorted(stages.items(), key=_order))
    lora = _lora(c["lora"], loss, algorithm["reference"]["decay"])
    _check_evaluated(evaluation, stage_specs, c["checkpoint"]["best"])
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


def _order(stage: tuple[str, Any]) -> list[tuple[int, str]]:
    """Sorts stage2 before stage10: numbers within names by their size, all else as text."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", stage[0])]


def _check_evaluated(evaluation: EvaluationSpec, stages: Sequence[StageSpec], best: int) -> None:
    """Raises ValueError where a stage's end or the best checkpoints hang on evaluations that will not be made."""
    if best and not evaluation.every:
        raise ValueError(f"checkpoint.best: expected evaluation.every above 0 where the {best} best are kept, got 0.")
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
                f"{field}: expected evaluation.every and evaluation.samples above 0 where a stage ends by "
                f"accuracy, got {evaluation.every} and {evaluation.samples}."
            )


def _algorithm(c: dict[str, Any], stages: dict[str, Any]) -> tuple[LossSpec, dict[str, Any]]:
    """The recipe's row with the fields that are given, and what of `algorithm` is no part of a row."""
    outside = ("epochs", "minibatches", "critic_learning_rate", "reference")
    changes = {field: value for field, value in c.items() if field not in ("recipe", *outside) and value is not None}
    # Dr.GRPO divides by the limit that the responses of this run really have.
    limit = max(fields["sampling"]["max_new_tokens"] for fields in stages.values())
    loss = recipe(c["recipe"], **{"max_length": limit} | changes)
    for field in changes.keys() & loss.unread.keys():
        raise ValueError(
            f"algorithm.{field}: expected none, as recipe {c['recipe']} does not read it, got "
            f"{changes[field]}; it takes {loss.unread[field]}."
        )
    if loss.needs == "solver" and loss.kl_placement == "reward":
        raise ValueError(
            f"algorithm.kl_placement: expected loss or none with recipe {c['recipe']}, which has no "
            "rewards, got reward."
        )
    if not 0 <= c["critic_learning_rate"] < math.inf:
        raise ValueError(f"algorithm.critic_learning_rate: expected 0 or more, got {c['critic_learning_rate']}.")
    if loss.kl_placement == "none" and c["reference"]["every"]:
        raise ValueError(
            f"algorithm.reference: one that follows does nothing without a KL (recipe {c['recipe']}); set "
            "algorithm.kl_placement, or reference.every=0."
        )
    return loss, {field: c[field] for field in outside}


def _lora(c: dict[str, Any], loss: LossSpec, decay: float) -> LoRASpec | None:
    """Adapters, where the run has them. Raises ValueError for parts of an algorithm that are not made for them."""
    if c["rank"] == 0:
        return None
    if loss.needs == "critic":
        raise ValueError(
            f"lora.rank: expected 0 with an algorithm that has a critic, got {c['rank']}: the critic's "
            "weights and moments would be those of a whole model; take another recipe."
        )
    if decay:
        raise ValueError(
            f"algorithm.reference.decay: expected 0 with lora.rank={c['rank']}, got {decay}: a mean of "
            "adapters is not the mean of the weights they make; a copy every n steps (decay=0) is one."
        )
    return LoRASpec(**c)


def _stage(name: str, c: dict[str, Any], loss: LossSpec, guard: GuardSpec) -> StageSpec:
    sampling, steps = c["sampling"], c["steps"]
    start, end = sampling["temperature"], sampling["temperature_end"]
    if not all(COLDEST <= value < math.inf for value in (start, end)):
        raise ValueError(
            f"{name}.sampling.temperature: expected above 0 while training, {COLDEST} at least, got {start} to {end}."
        )
    temperature = _linear(start, end, steps)
    if c["samples"] < 2 and (loss.needs == "group" or loss.drop_equal):
        raise ValueError(
            f"{name}.samples: expected 2 or more, as this algorithm compares the samples of a problem, "
            f"got {c['samples']}; raise it, or choose reinforce_pp, remax or ppo."
        )
    if loss.needs == "solver" and (c["samples"], start, end) != (1, 1, 1):
        raise ValueError(
            f"{name}: expected samples=1 and a sampling.temperature of 1 where the solver writes and "
            f"nothing is sampled, got {c['samples']} and {start} to {end}."
        )
    rate = dict(c["learning_rate"])
    rate["drops"] = tuple(tuple(drop) for drop in rate["drops"])
    coefficient = loss.kl_coefficient if c["kl_coefficient"] is None else c["kl_coefficient"]
    if not 0 <= coefficient < math.inf:
        raise ValueError(f"{name}.kl_coefficient: expected 0 or more, got {coefficient}.")
    if c["kl_coefficient"] and loss.kl_placement == "none":
        raise ValueError(
            f"{name}.kl_coefficient: expected none, as this algorithm has no KL, got {coefficient}; set "
            "algorithm.kl_placement to loss or reward."
        )
    own = {bound: value for bound, value in c["bounds"].items() if value is not None}
    spans = steps if rate["kind"] in ("linear", "cosine") else 0
    return StageSpec(
        name=name,
        steps=steps,
        until=UntilSpec(**c["until"]),
        pool=pool_table(name, c["pool"]),
        prompts=c["prompts"],
        samples=c["samples"],
        temperature=temperature,
        **_truncation(name, sampling, steps),
        max_new_tokens=sampling["max_new_tokens"],
        learning_rate=ScheduleSpec(steps=spans, **rate),
        kl_coefficient=coefficient,
        fresh_optimizer=c["fresh_optimizer"],
        guard=dataclasses.replace(guard, **own, own=tuple(own)),
    )


def _truncation(name: str, sampling: dict[str, Any], steps: int) -> dict[str, ScheduleSpec]:
    """The schedules of top_k, top_p and min_p over a stage. Raises ValueError for a value that means nothing."""
    found = {}
    for field, low, high, wanted in (
        ("top_k", 0, LARGEST, "0 (off) or more"),
        ("top_p", 1e-6, 1, "above 0, up to 1"),
        ("min_p", 0, 1, "0 (off) to 1"),
    ):
        start, end = sampling[field], sampling[f"{field}_end"]
        end = start if end is None else end
        if not low <= min(start, end) <= max(start, end) <= high:
            raise ValueError(f"{name}.sampling.{field}: expected {wanted}, got {start} to {end}.")
        if field == "top_k" and (start == 0) != (end == 0):
            raise ValueError(
                f"{name}.sampling.top_k: expected 0 (off) over the whole stage, or 1 or more at both its "
                f"ends, got {start} to {end}; nothing lies between all tokens and the likeliest few."
            )
        found[field] = _linear(start, end, steps)
    return found


def _linear(start: int | float, end: int | float, steps: int) -> ScheduleSpec:
    start, end = float(start), float(end)
    return ScheduleSpec(start) if start == end else ScheduleSpec(start, "linear", end=end, steps=steps)


def _ends(schedule: ScheduleSpec) -> tuple[float, ...]:
    return (schedule.value,) if schedule.kind == "constant" else (schedule.value, schedule.end)
