"""Every field of a training run, once, with its default and one comment. Experiments start from here."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.tiny_base import tiny_puzzles

TINY = "tiny"
SIZES = {
    "": "Qwen/Qwen2.5-7B-Instruct-1M",
    "7b": "Qwen/Qwen2.5-7B-Instruct-1M",
    "0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "3b": "Qwen/Qwen2.5-3B-Instruct",
    "14b": "Qwen/Qwen2.5-14B-Instruct-1M",
    "32b": "Qwen/Qwen2.5-32B-Instruct",
}


def get_run() -> ConfigDict:
    """What holds for a whole run, without its stages."""
    config = ConfigDict()
    config.name = "run"  # shown in the terminal; of a run with one stage also the stage's
    config.seed = 0  # every random number of the run follows from it
    config.model = SIZES[""]  # a Hugging Face folder or hub name
    config.init_from = ""  # run folder to start from, RUN or RUN@step; empty: from `model`
    config.workdir = "runs/run"  # where everything is written; its last part is the run's name in wandb
    config.devices = 0  # virtual CPU devices (CPU only); 0: as the machine has them
    config.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))  # devices along each axis; -1: all that are left

    config.dtype = "bfloat16"  # of products, decode weights and cache; masters and moments are float32
    config.attention = "cudnn"  # or "plain"
    config.remat = "full"  # compute each layer again in the backward pass; "dots": all but its projections; or "none"
    config.unroll = 1  # stacked layers in one turn of the scan

    config.prompt = ConfigDict(dict(form="chat", opens_think=True))  # form: "chat", "base" or "terse"
    config.stop = ()  # strings that end a response as an end token does: ("</answer>",) for a model without one
    config.task = ConfigDict(
        dict(
            name="knights_and_knaves",  # or "gsm8k", "gym": see configs/gsm8k.py, configs/gym.py for their fields
            depth=2,
            width=2,
            wording="varied",  # operators inside one another, operands of and/or, way of saying
            operators={"tells_truth": 0.5, "lies": 0.5, "not": 1.0, "and": 1.0, "or": 1.0, "implies": 1.0, "iff": 1.0},
            splits={"train": 0.8, "test": 0.2},  # shares of all puzzles, equal up to renaming: never in two splits
            split_seed=0,
        )
    )
    config.reward = ConfigDict(
        dict(
            rule="strict-1",
            format_right=1.0,
            format_wrong=-1.0,
            answer_right=2.0,
            answer_wrong=-1.5,
            answer_unparseable=-2.0,
        )
    )
    config.algorithm = ConfigDict(
        dict(
            recipe="grpo",  # a row of jaxrl.algorithms.recipes.RECIPES, see docs/algorithms.md; or "sft"
            # placeholder: as the row of the recipe has it
            advantage=placeholder(str),
            surrogate=placeholder(str),  # "group_zscore", ...; "clip", ...
            clip_low=placeholder(float),
            clip_high=placeholder(float),  # bounds of the ratio: 1 - low, 1 + high
            dual_clip=placeholder(float),  # bound of the loss where the advantage is negative, times it
            reduction=placeholder(str),  # weights of tokens: "token_mean", "sequence_mean", ...
            kl=placeholder(str),
            kl_placement=placeholder(str),  # "k1", "k2" or "k3"; in "loss" or "reward", or "none"
            entropy_coefficient=placeholder(float),  # of a bonus for entropy
            importance_cap=placeholder(
                float
            ),  # truncated importance sampling: weights of sampler and learner up to this
            gamma=placeholder(float),
            lam=placeholder(float),  # discounts of rewards, and of advantages with a critic
            value_clip=placeholder(float),  # how far values may move from the old ones in the critic's loss
            critic_learning_rate=1e-5,  # of the critic, where the recipe has one; constant
            drop_equal=placeholder(bool),  # leave groups with one and the same reward out of the update
            refills=placeholder(int),  # how often a step asks other problems in their place, at most
            overlong_buffer=placeholder(float),  # last share of max_new_tokens, over which a penalty grows to 1
            reference=ConfigDict(
                dict(every=0, decay=0.0)
            ),  # KL to the first model (0), or to weights moved every n steps
            epochs=1,
            minibatches=1,  # passes over a rollout, and optimizer steps in each
        )
    )
    config.optimizer = ConfigDict(
        dict(
            kind="adamw",  # or "muon" (adamw on what is not a matrix), "adafactor", "sgd"
            b1=0.9,  # first moment of adamw, momentum of sgd; muon's matrices keep 0.95, adafactor has none
            b2=0.999,
            eps=1e-8,  # of adamw alone
            weight_decay=0.0,  # of matrices, times the rate
            clip_norm=1.0,  # of the whole gradient; 0: off
            moment_dtype="float32",  # of the first moment; or "bfloat16", not with adafactor
        )
    )
    config.lora = ConfigDict(
        dict(
            rank=0,  # of adapters beside all linear layers, then the only weights that learn; 0: none
            alpha=32.0,  # what they add is multiplied by alpha / rank
        )
    )
    config.layout = ConfigDict(
        dict(
            # tokens of a micro-batch over all devices, padding included: less padding, more gathering
            micro_tokens=8_192,
            multiple=128,
            ratio=1.06,  # row lengths are padded to multiples, each at most `ratio` times the last
            head_tokens=8_192,  # tokens of one piece of the head: memory is this times the vocabulary times 4 bytes
        )
    )
    config.sampler = ConfigDict(
        dict(
            rows=128,
            chunk=64,  # slots of a batch on a device; tokens between host acts
            memory=0.0,  # GiB of a device for caches: so many batches at once as fit; 0: one
            devices=0,  # on a CPU: virtual devices that sample, -1: one a core; 0: those that learn
        )
    )
    config.evaluation = ConfigDict(
        dict(
            pool={"p3": 100, "p5": 100},
            samples=8,  # held-out problems by kind (p3: three people); samples of each
            temperature=1.0,
            max_new_tokens=2048,
            every=0,  # every: steps between evaluations, 0: first and last only
            rule="",  # rule that judges held-out responses; empty: that of `reward`
        )
    )
    config.checkpoint = ConfigDict(
        dict(  # written while the next steps are taken
            every=20,
            keep=2,  # steps between checkpoints; how many of the newest of these stay
            keep_every=0,  # those at multiples of this stay for good; 0: none
            best=0,  # so many with the highest lower bound of held-out accuracy stay; needs evaluation.every
            patience=5,  # writes that may fail in a row (disk full) before the run stops
        )
    )
    config.guard = ConfigDict(
        dict(  # steps beyond a bound are undone; 0: no such bound; not finite is always beyond
            remedy="skip",  # other draws from the last checkpoint on; or "rate", "temperature": lower it; or "stop"
            factor=0.5,  # what "rate" and "temperature" multiply by, for the rest of the run
            retries=3,  # how often a run may go back before it stops
            kl_max=1.0,
            entropy_min=0.0,
            entropy_max=4.0,  # nats a token; healthy: KL under 0.1, entropy under 1
            repetition_max=0.5,
            bad_format_max=0.0,  # shares of the responses; healthy: repetition under 0.2
            length_min=1.5,
            length_max=0.0,  # mean tokens of a response, the end token included
            suspects_warn=0.25,  # a warning, no bound: share of responses that look like a known trick; 0: none
        )
    )
    config.rollouts = ConfigDict(dict(every=1))  # steps between stored rollouts
    config.wandb = ConfigDict(
        dict(
            mode="auto",
            project="jaxrl",  # "auto" (online when logged in, else offline), "online", "offline" or "off"
            samples=8,
            samples_every=10,  # responses in a table, and steps between tables (those that are stored); 0: none
        )
    )
    config.compile_cache = "~/.cache/jaxrl"  # compiled programs are kept here; empty: not kept
    config.export = True  # write export/ (Hugging Face) at the end
    return config


def get_stage(size: str = "") -> ConfigDict:
    """What one stage sets; the defaults are those of the article's first stage, or its counterpart in miniature."""
    stage = ConfigDict()
    stage.steps = 50  # updates, at most
    stage.until = ConfigDict(
        dict(
            accuracy=0.0,  # end the stage once sampled held-out accuracy is this or more; 0: only with its last step
            kind="p3",
            evaluations=2,  # accuracy of which problems, and in how many evaluations in a row
        )
    )
    stage.pool = ConfigDict({"p3": 500})  # problems that the stage draws from, by kind; p3: puzzles of three people
    stage.prompts = 8  # problems a step
    stage.samples = 32  # responses to each
    stage.sampling = ConfigDict(
        dict(
            temperature=1.0,
            temperature_end=1.0,  # linear over the stage: `_end` is what the step behind it would have
            top_k=0,
            top_p=1.0,
            min_p=0.0,  # 0, 1 and 0: off
            # linear over the stage as well; placeholder: stays
            top_k_end=placeholder(int),
            top_p_end=placeholder(float),
            min_p_end=placeholder(float),
            max_new_tokens=2048,
        )
    )
    stage.learning_rate = ConfigDict(dict(kind="constant", value=4e-7, end=0.0, warmup=5, drops=()))
    stage.kl_coefficient = placeholder(float)  # weight of the KL; placeholder: as the recipe has it
    stage.fresh_optimizer = False  # forget the moments of the stage before, or of the run that this one starts from
    stage.bounds = ConfigDict(
        {  # of the guard in this stage; placeholder: as `guard` has it
            field: placeholder(float)
            for field in (
                "kl_max",
                "entropy_min",
                "entropy_max",
                "repetition_max",
                "bad_format_max",
                "length_min",
                "length_max",
            )
        }
    )
    if size == TINY:
        stage.prompts, stage.samples = 16, 16
        stage.pool = ConfigDict({"p3": 600})
        stage.sampling.max_new_tokens = 352
        stage.learning_rate.update(dict(value=6e-5, warmup=2))
    return stage


def small(config: ConfigDict) -> ConfigDict:
    """Turn a run into the same run with the embedded model, on a laptop's CPU."""
    config.model = "models/tiny"
    config.devices, config.mesh.data, config.mesh.fsdp = 1, -1, 1
    config.dtype, config.attention, config.remat, config.unroll = "float32", "plain", "none", 4
    config.prompt.form, config.prompt.opens_think = "terse", False
    config.task = ConfigDict(dict(name="knights_and_knaves", **tiny_puzzles()))
    config.algorithm.critic_learning_rate = 3e-4
    config.optimizer.b2 = 0.98  # a short run: the second moment has to follow faster
    config.layout.update(dict(micro_tokens=1536, multiple=8, ratio=1.12, head_tokens=4096))
    config.sampler.update(dict(rows=32, chunk=8, memory=1.0, devices=-1))
    config.evaluation.update(
        dict(pool=ConfigDict({"p2": 20, "p3": 500, "p4": 100, "p5": 100}), samples=4, max_new_tokens=352)
    )
    config.checkpoint.every = 10
    config.guard.repetition_max = 0.98  # cases written out in few words repeat them: up to 0.72 in the shipped run
    return config


def choose_size(config: ConfigDict, size: str) -> ConfigDict:
    """Apply what stands behind the colon in `--config=FILE.py:SIZE`. Raises ValueError for an unknown size."""
    if size == TINY:
        return small(config)
    if size not in SIZES:
        known = ", ".join([TINY, *filter(None, SIZES)])
        raise ValueError(f"expected a size of {known} behind the colon of --config, got {size!r}.")
    config.model = SIZES[size]
    return config


def single(stage: ConfigDict, name: str, size: str) -> ConfigDict:
    """A run of one stage: the fields of run and stage side by side."""
    config = choose_size(get_run(), size)
    config.name = name
    config.workdir = f"runs/{name}" + (f"_{size}" if size else "")
    for field, value in stage.items(preserve_field_references=True):  # a placeholder keeps its type
        config[field] = value
    return config


def staged(stages: dict[str, ConfigDict], name: str, size: str) -> ConfigDict:
    """A run of several stages, each with all of its fields under `stages`, in the order of their names: stage2 before
    stage10."""
    config = choose_size(get_run(), size)
    config.name = name
    config.workdir = f"runs/{name}" + (f"_{size}" if size else "")
    config.stages = ConfigDict(stages)
    return config


def swept(config: ConfigDict, name: str, size: str) -> ConfigDict:
    """Turn a run into the base run of a sweep: in a folder of its own, and little kept but the numbers."""
    config.workdir = f"runs/{name}" + (f"_{size}" if size else "")
    config.export, config.checkpoint.keep = False, 1
    config.guard.update(dict(kl_max=0.0, entropy_max=0.0, repetition_max=0.0))  # a collapse is a result here
    if size == TINY:
        if "steps" in config:
            config.steps = 20  # the ten of the first stage are over before settings part
        config.evaluation.pool = ConfigDict({"p2": 20, "p3": 200})  # what the embedded model can learn at all
    return config
