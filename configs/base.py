"""Every field of a training run with its default value. Experiments start from here."""

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
    """The fields of a run, without those of its stages."""
    config = ConfigDict()
    config.name = "run"  # shown in the terminal; in a run with one stage also the name of the stage
    config.seed = 0  # all randomness of the run is derived from it
    config.model = SIZES[""]  # a Hugging Face folder or hub name
    config.init_from = ""  # start from the weights of another run, RUN or RUN@step; empty: from `model`
    config.workdir = "runs/run"  # the run folder; its last part is the name of the run in wandb
    config.devices = 0  # number of virtual CPU devices (CPU only); 0: the devices of the machine
    config.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))  # devices along each mesh axis; -1: all remaining ones

    config.dtype = "bfloat16"  # of activations, decode weights and KV cache; parameters and moments are float32
    config.attention = "cudnn"  # kernel: "cudnn" or "plain"
    config.remat = "full"  # recompute in the backward pass: "full", "dots" (all but projections) or "none"
    config.unroll = 1  # layers per iteration of the scan

    config.prompt = ConfigDict(
        dict(
            form="chat",  # "chat" (the tokenizer's chat template), "base" (plain text) or "terse" (only the question)
            opens_think=True,  # append <think> to the prompt, unless its chat template ends with it
        )
    )
    config.stop = ()  # strings that end a response, for example ("</answer>",) for a model that emits no end token
    config.task = task_fields()
    config.reward = reward_fields()
    config.algorithm = algorithm_fields()
    config.optimizer = optimizer_fields()
    config.lora = ConfigDict(
        dict(
            rank=0,  # of adapters on all linear layers, which are then the only trained weights; 0: no adapters
            alpha=32.0,  # the adapters' output is scaled by alpha / rank
        )
    )
    config.layout = layout_fields()
    config.sampler = sampler_fields()
    config.evaluation = evaluation_fields()
    config.checkpoint = checkpoint_fields()
    config.guard = guard_fields()
    config.rollouts = ConfigDict(dict(every=1))  # steps between stored rollouts
    config.wandb = ConfigDict(
        dict(
            mode="auto",  # "online", "offline", "off", or "auto": online if logged in, else offline
            project="jaxrl",
            samples=8,  # responses in a table
            samples_every=10,  # steps between tables, out of the steps with stored rollouts; 0: no tables
        )
    )
    config.compile_cache = "~/.cache/jaxrl"  # folder of compiled programs; empty: none
    config.export = True  # write export/ (Hugging Face format) at the end
    return config


def task_fields() -> ConfigDict:
    """The task: where problems come from."""
    return ConfigDict(
        dict(
            name="knights_and_knaves",  # or "gsm8k", "gym"; their fields are in configs/gsm8k.py and configs/gym.py
            # See docs/puzzles.md.
            depth=1,  # maximum nesting of operators in a statement; 1: at most one operator
            width=2,  # maximum number of operands of "and" and "or"
            # sampling weights of operators; both kinds of claims together have the weight of one operator
            operators={"tells_truth": 0.5, "lies": 0.5, "not": 1.0, "and": 1.0, "or": 1.0, "implies": 1.0, "iff": 1.0},
            hardness=placeholder(tuple),  # least and most branches of a case-splitting solver; placeholder: any
            wording="classic",  # or "varied": many phrasings and role words; "plain": one phrasing for everything
            names="english",  # or "world": also names in other scripts (not with "plain")
            first_person=False,  # speakers call themselves "I", not by their name
            splits={"train": 0.8, "test": 0.2},  # shares; puzzles that are equal up to renaming share a split
            split_seed=0,
        )
    )


def algorithm_fields() -> ConfigDict:
    """The algorithm: a recipe, and what differs from it."""
    return ConfigDict(
        dict(
            recipe="grpo",  # a row of jaxrl.algorithms.recipes.RECIPES, see docs/algorithms.md; or "sft"
            # Placeholders keep the value of the recipe.
            advantage=placeholder(str),  # "group_zscore", ...
            surrogate=placeholder(str),  # "clip", ...
            clip_low=placeholder(float),  # the probability ratio is clipped to [1 - clip_low, 1 + clip_high]
            clip_high=placeholder(float),
            dual_clip=placeholder(float),  # for negative advantages: the loss is at most this times -advantage
            reduction=placeholder(str),  # how token losses are averaged: "token_mean", "sequence_mean", ...
            kl=placeholder(str),  # estimator of the KL to the reference: "k1", "k2" or "k3"
            kl_placement=placeholder(str),  # the KL is in the "loss", in the "reward", or "none"
            entropy_coefficient=placeholder(float),  # weight of the entropy bonus
            importance_cap=placeholder(float),  # truncated importance sampling: cap of learner / sampler probability
            gamma=placeholder(float),  # discount of rewards
            lam=placeholder(float),  # lambda of generalized advantage estimation (critic only)
            value_clip=placeholder(float),  # clip range of values around the old ones in the critic's loss
            critic_learning_rate=1e-5,  # constant; for recipes with a critic
            drop_equal=placeholder(bool),  # dynamic sampling: drop groups whose rewards are all equal
            refills=placeholder(int),  # maximum number of times that a step replaces dropped groups
            overlong_buffer=placeholder(float),  # last share of max_new_tokens, over which a penalty grows to 1
            reference=ConfigDict(
                dict(
                    every=0,  # steps between updates of the reference policy; 0: fixed, the model before training
                    decay=0.0,  # share of the old reference that an update keeps; 0: copy the policy
                )
            ),
            epochs=1,  # passes over a rollout
            minibatches=1,  # optimizer steps per pass
        )
    )


def optimizer_fields() -> ConfigDict:
    """The optimizer."""
    return ConfigDict(
        dict(
            kind="adamw",  # or "muon" (matrices; adamw for the other parameters), "adafactor", "sgd"
            b1=0.9,  # first moment of adamw, momentum of sgd; unused by adafactor and by muon's matrices (0.95)
            b2=0.999,
            eps=1e-8,  # adamw only
            weight_decay=0.0,  # of matrices, multiplied by the learning rate
            clip_norm=1.0,  # of the global gradient norm; 0: off
            moment_dtype="float32",  # of the first moment; or "bfloat16" (not with adafactor)
        )
    )


def evaluation_fields() -> ConfigDict:
    """Evaluation on held-out problems."""
    return ConfigDict(
        dict(
            pool={"p3": 100, "p5": 100},  # number of held-out problems of each kind; p3: three people
            samples=8,  # sampled responses per problem, in addition to a greedy one
            temperature=1.0,
            max_new_tokens=2048,
            every=0,  # steps between evaluations; 0: only before the first step and after the last
            rule="",  # scores held-out responses; empty: the rule of `reward`
        )
    )


def checkpoint_fields() -> ConfigDict:
    """Checkpoints."""
    return ConfigDict(
        dict(  # written in the background
            every=20,  # steps between checkpoints
            keep=2,  # number of newest checkpoints that are kept
            keep_every=0,  # checkpoints at multiples of this are kept as well; 0: none
            best=0,  # number of checkpoints with the best lower bound of held-out accuracy; needs evaluation.every
            patience=5,  # failed writes in a row (disk full) before the run stops
        )
    )


def guard_fields() -> ConfigDict:
    """Bounds on a step's metrics, and what happens when a step leaves them."""
    return ConfigDict(
        dict(  # a step outside these bounds is undone; 0: no bound; values that are not finite are always refused
            remedy="reseed",  # from the last checkpoint: "reseed", or lower "learning_rate" or "temperature"; or "stop"
            factor=0.5,  # multiplies the learning rate or the temperature for the rest of the run
            retries=3,  # number of times that the run returns to a checkpoint before it stops
            kl_max=1.0,  # nats per token; healthy: under 0.1
            entropy_min=0.0,  # nats per token
            entropy_max=4.0,  # healthy: under 1
            repetition_max=0.5,  # share of responses; healthy: under 0.2
            bad_format_max=0.0,  # share of responses
            length_min=1.5,  # mean tokens of a response, end token included
            length_max=0.0,
            suspects_warn=0.25,  # warn (only) if this share of responses looks like reward hacking; 0: never
            # warn (only) if the sound share of correct responses falls by this while accuracy rises; 0: never
            sound_warn=0.15,
            sound_steps=8,  # steps that are averaged for this; it is checked at multiples of them in each stage
        )
    )


def reward_fields() -> ConfigDict:
    """The scoring rule and its rewards."""
    return ConfigDict(
        dict(
            rule="strict-2",  # a row of jaxrl.rewards.RULES
            format_right=1.0,
            format_wrong=-1.0,
            answer_right=2.0,
            answer_wrong=-1.5,
            answer_unparseable=-2.0,
        )
    )


def layout_fields() -> ConfigDict:
    """How work is split into micro-batches."""
    return ConfigDict(
        dict(
            # tokens of a micro-batch on all devices, padding included; small: less padding, more weight gathering
            micro_tokens=8_192,
            multiple=128,  # row lengths are padded to multiples of this
            ratio=1.06,  # growth of the length buckets, at most
            shortest=48,  # tokens of the shortest bucket, rounded up to a multiple
            few_shapes=False,  # one number of rows per bucket, half the buckets for log-probabilities: less to compile
            compile_ahead=False,  # compile for all shapes in a second thread, while the first responses are sampled
            head_tokens=8_192,  # tokens per block of the LM head, which takes 4 bytes x vocabulary for each
        )
    )


def sampler_fields() -> ConfigDict:
    """The sampler."""
    return ConfigDict(
        dict(
            rows=128,  # slots of a decode batch on each device
            chunk=64,  # tokens that are decoded between two interventions of the host
            memory=0.0,  # GiB per device for KV caches: as many decode batches at a time as fit; 0: one
            devices=0,  # virtual CPU devices that sample (CPU only): -1: one per core; 0: those of the learner
            few_shapes=False,  # half the cache lengths and batch sizes: less to compile, more positions are read
        )
    )


def get_stage(size: str = "") -> ConfigDict:
    """The fields of a stage. Defaults are those of the recipe's first stage, or of its miniature."""
    stage = ConfigDict()
    stage.steps = 50  # maximum; the stage may end earlier, see `until`
    stage.until = ConfigDict(
        dict(  # ends the stage early
            accuracy=0.0,  # sampled held-out accuracy to reach; 0: off
            kind="p3",  # kind of problems
            evaluations=2,  # number of evaluations in a row
        )
    )
    stage.pool = ConfigDict({"p3": 500})  # number of training problems of each kind; p3: puzzles of three people
    stage.prompts = 8  # problems per step
    stage.samples = 32  # responses per problem
    stage.sampling = ConfigDict(
        dict(
            temperature=1.0,
            temperature_end=1.0,  # linear schedule over the stage; reached at the step after its last
            top_k=0,  # 0: off
            top_p=1.0,  # 1: off
            min_p=0.0,  # 0: off
            # linear schedules as well; placeholder: constant
            top_k_end=placeholder(int),
            top_p_end=placeholder(float),
            min_p_end=placeholder(float),
            max_new_tokens=2048,
        )
    )
    stage.learning_rate = ConfigDict(
        dict(
            kind="constant",  # or "linear", "cosine", "steps"
            value=4e-7,
            end=0.0,  # final value of "linear" and "cosine"
            warmup=5,  # steps of linear warm-up
            drops=(),  # for "steps": (step, value) pairs
        )
    )
    stage.kl_coefficient = placeholder(float)  # weight of the KL; placeholder: as in the recipe
    stage.fresh_optimizer = False  # reset the moments of the previous stage, or of the run in `init_from`
    stage.bounds = ConfigDict(
        {  # bounds of the guard in this stage; placeholder: as in `guard`
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
    """Change a run to the embedded model, for a laptop's CPU."""
    config.model = "models/tiny"
    config.devices, config.mesh.data, config.mesh.fsdp = 1, -1, 1
    config.dtype, config.attention, config.remat, config.unroll = "float32", "plain", "none", 4
    config.prompt.form, config.prompt.opens_think = "terse", False
    # Splits and operators are replaced as a whole; the other fields keep their types.
    for field, value in tiny_puzzles().items():
        config.task[field] = ConfigDict(value) if isinstance(value, dict) else value
    config.algorithm.critic_learning_rate = 3e-4
    config.optimizer.b2 = 0.98  # the run is short, so the second moment has to adapt faster
    config.layout.update(dict(micro_tokens=1536, multiple=32, ratio=1.3, shortest=96, head_tokens=4096))
    config.layout.update(dict(few_shapes=True, compile_ahead=True))  # compiling costs more than padding here
    config.sampler.update(dict(rows=32, chunk=8, memory=1.0, devices=-1, few_shapes=True))
    config.evaluation.update(
        dict(pool=ConfigDict({"p2": 20, "p3": 500, "p4": 100, "p5": 100}), samples=4, max_new_tokens=352)
    )
    config.checkpoint.every = 10
    config.guard.repetition_max = 0.98  # responses list similar cases in few words: up to 0.72 in the shipped run
    return config


def choose_size(config: ConfigDict, size: str) -> ConfigDict:
    """Apply the SIZE of `--config=FILE.py:SIZE`. Raises ValueError for an unknown size."""
    if size == TINY:
        return small(config)
    if size not in SIZES:
        known = ", ".join([TINY, *filter(None, SIZES)])
        raise ValueError(f"expected a size of {known} after the colon of --config, got {size!r}.")
    config.model = SIZES[size]
    return config


def single(stage: ConfigDict, name: str, size: str) -> ConfigDict:
    """A run of one stage: the fields of the run and of the stage at the top level."""
    config = choose_size(get_run(), size)
    config.name = name
    config.workdir = f"runs/{name}" + (f"_{size}" if size else "")
    for field, value in stage.items(preserve_field_references=True):  # keeps the types of placeholders
        config[field] = value
    return config


def staged(stages: dict[str, ConfigDict], name: str, size: str) -> ConfigDict:
    """A run of several stages. Each has its fields in `stages.NAME`; they are run in natural order of their names
    (stage2 before stage10)."""
    config = choose_size(get_run(), size)
    config.name = name
    config.workdir = f"runs/{name}" + (f"_{size}" if size else "")
    config.stages = ConfigDict(stages)
    return config


def swept(config: ConfigDict, name: str, size: str) -> ConfigDict:
    """Change a run to the base run of a sweep: its own folder, no export, one checkpoint, few bounds."""
    config.workdir = f"runs/{name}" + (f"_{size}" if size else "")
    config.export, config.checkpoint.keep = False, 1
    config.guard.update(dict(kl_max=0.0, entropy_max=0.0, repetition_max=0.0))  # a collapse is a result here
    if size == TINY:
        if "steps" in config:
            config.steps = 20  # twice the first stage, so that settings can differ
        config.evaluation.pool = ConfigDict({"p2": 20, "p3": 200})  # the kinds that the embedded model can learn
    return config
