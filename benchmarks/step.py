"""CPU-seconds of a whole GRPO step beside TRL's and Tunix's: one shape of model, float32, a process each, in turns.

    python benchmarks/step.py [--cores=2] [--rounds=3]

8 prompts of 64 tokens x 8 samples of exactly 256 tokens, one update of all 64 rows by AdamW, KL 0.04 to a frozen
reference; 256 wide, 6 layers, vocabulary of 2,048. Ours are the steps that `jaxrl.train` takes, judged by a rule that
counts; TRL's are those of its GRPOTrainer with Hugging Face's `generate`, without gradient checkpointing; Tunix's those
of its GRPOLearner with its own ("vanilla") sampler. CPU-seconds are user and system time of the process, so that other
programs on the machine disturb little; the steps in which programs are compiled and pools are started are left out.
Peers that are not installed are left out, and named. Needs the test extra (torch) and
`pip install trl==1.16 google-tunix==0.1.7`.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
HEAD_DIM, POSITIONS = 64, 1024
PROMPTS, SAMPLES, PROMPT, NEW, KL, RATE = 8, 8, 64, 256, 0.04, 1e-6
WARM = 2  # steps before the first that counts


def reward(tokens: list[int]) -> float:
    """Share of even tokens."""
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


def prompts(count: int) -> list[list[int]]:
    """Random prompts."""
    return np.random.default_rng(0).integers(1, SHAPE["vocab_size"], (count, PROMPT)).tolist()


class Counting:
    """A dialogue without a tokenizer: a problem's question is its prompt, its responses are judged by `reward`."""

    def encode(self, problem: Any) -> list[int]:
        return [int(token) for token in problem.question.split()]

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))

    def judge(self, problem: Any, response: str, truncated: bool) -> Any:
        from jaxrl.rewards import Verdict

        value = reward([int(token) for token in response.split()])
        return Verdict("wrong_answer", (), 0.0, value, value, "counting", ())

    def sampling_spec(self, max_new_tokens: int, temperature: Any, **truncation: Any) -> Any:
        from jaxrl.sampling import SamplingSpec

        return SamplingSpec(max_new_tokens, (), temperature, **truncation)


def ours(pipe: Connection) -> None:
    """Takes a step for every message, and answers with its CPU-seconds."""
    import jax
    from rich.console import Console

    from configs import stage1
    from jaxrl.flags import plain
    from jaxrl.learning.state import init_params
    from jaxrl.reporting.terminal import Terminal
    from jaxrl.runtime.devices import prepare_devices
    from jaxrl.tasks.problem import Problem
    from jaxrl.training.components import build_components
    from jaxrl.training.progress import Progress, plan_step
    from jaxrl.training.run_spec import run_spec
    from jaxrl.training.step import Steps
    from models.config import Qwen2Config

    config = stage1.get_config("tiny")
    config.prompts, config.samples, config.kl_coefficient = PROMPTS, SAMPLES, KL
    config.sampling.max_new_tokens, config.unroll = NEW, SHAPE["num_hidden_layers"]
    # One batch on one device; with a device for each core, as the tiny run has it, drawing takes a third less time and
    # about as many CPU-seconds.
    config.sampler.update(dict(rows=PROMPTS * SAMPLES, chunk=PROMPTS * SAMPLES, devices=0))
    config.layout.micro_tokens = 2 * (PROMPT + NEW)  # what a micro-batch needs stays in the cores' caches
    spec = run_spec(plain(config))
    prepare_devices(spec.devices, "", spec.sampler.devices)
    model = Qwen2Config(**SHAPE, head_dim=HEAD_DIM, max_position_embeddings=POSITIONS)
    components = build_components(spec, model, PROMPT + NEW)
    pool = [
        Problem(str(i), "p3", " ".join(map(str, tokens)), "", str(i), False, (), None)
        for i, tokens in enumerate(prompts(64))
    ]
    steps = Steps(spec, components, Counting(), {spec.stages[0].name: pool}, Terminal(1, console=Console(quiet=True)))
    reference = init_params(components.model, components.mesh, jax.random.key(0))
    state, place = components.begin(reference), 0
    while True:
        if place >= WARM:
            pipe.recv()
        began = time.process_time()
        plan = plan_step(spec.stages, Progress(place, place=place))
        state, record = steps.learn(state, plan, steps.draw(state, reference, plan))
        assert record["tokens/rollout"] == PROMPTS * SAMPLES * NEW and record["loss/kl"] >= 0
        if place >= WARM:
            pipe.send(time.process_time() - began)
        place += 1


def trl(pipe: Connection) -> None:
    """The same by TRL's trainer."""
    import datasets
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    words = Tokenizer(models.WordLevel({str(i): i for i in range(SHAPE["vocab_size"])}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="0")
    config = transformers.Qwen2Config(
        **SHAPE, max_position_embeddings=POSITIONS, bos_token_id=None, eos_token_id=None, pad_token_id=0
    )

    class Turns(transformers.TrainerCallback):
        """Waits for its turn before a step, and tells its CPU-seconds after it."""

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step >= WARM:
                pipe.recv()
            self.began = time.process_time()

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step > WARM:
                pipe.send(time.process_time() - self.began)

    def judge(completion_ids, **kwargs):
        assert {len(tokens) for tokens in completion_ids} == {NEW}
        return [reward(tokens) for tokens in completion_ids]

    with tempfile.TemporaryDirectory() as folder:  # the trainer loads its reference from where the model comes from
        transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
        rows = PROMPTS * SAMPLES
        settings = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            max_steps=10**6,
            per_device_train_batch_size=rows,
            num_generations=SAMPLES,
            max_completion_length=NEW,
            generation_kwargs={"min_new_tokens": NEW},
            beta=KL,
            learning_rate=RATE,
            model_init_kwargs={"dtype": "float32"},
        )
        data = datasets.Dataset.from_list([{"prompt": " ".join(map(str, tokens))} for tokens in prompts(64)])
        GRPOTrainer(folder, judge, settings, data, processing_class=tokenizer, callbacks=[Turns()]).train()


class Words:
    """Tunix's idea of a tokenizer: a token is its number; the end token is none of the vocabulary, so no row ends."""

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, tokens: Any, **kwargs: Any) -> str:
        return " ".join(map(str, tokens))

    def bos_id(self) -> int:
        return 0  # none

    def eos_id(self) -> int:
        return SHAPE["vocab_size"]

    def pad_id(self) -> int:
        return 0

    def dedup_bos_ids(self, tokens: list[int]) -> list[int]:
        return tokens


def tunix(pipe: Connection) -> None:
    """The same by Tunix's learner."""
    import jax
    import optax
    from flax import nnx
    from tunix.models.qwen2.model import ModelConfig, Qwen2
    from tunix.rl import rl_cluster
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
    from tunix.rl.rollout.base_rollout import RolloutConfig

    config = ModelConfig(
        num_layers=SHAPE["num_hidden_layers"],
        vocab_size=SHAPE["vocab_size"],
        embed_dim=SHAPE["hidden_size"],
        hidden_dim=SHAPE["intermediate_size"],
        num_heads=SHAPE["num_attention_heads"],
        head_dim=HEAD_DIM,
        num_kv_heads=SHAPE["num_key_value_heads"],
        rope_theta=10_000,
        norm_eps=1e-6,
        use_tied_embedding=True,
    )
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with mesh:
        actor, reference = (Qwen2(config, rngs=nnx.Rngs(0)) for _ in range(2))

    def turns():
        """The prompts of a step, given when it is its turn; asked for the next, it tells that step's CPU-seconds."""
        began, texts = 0.0, [" ".join(map(str, tokens)) for tokens in prompts(64)]
        for place in itertools.count():
            if place > WARM:
                jax.block_until_ready(nnx.state(actor))
                pipe.send(time.process_time() - began)
            if place >= WARM:
                pipe.recv()
            began = time.process_time()
            first = place * PROMPTS % len(texts)
            yield {"prompts": np.array(texts[first : first + PROMPTS])}

    def judge(prompts, completions, **kwargs):
        tokens = [[int(word) for word in text.split()] for text in completions]
        assert {len(row) for row in tokens} == {NEW}
        return [reward(row) for row in tokens]

    roles = rl_cluster.Role
    cluster = rl_cluster.RLCluster(
        actor=actor,
        reference=reference,
        tokenizer=Words(),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys((roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.adamw(RATE), eval_every_n_steps=10**6, max_steps=10**6
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=NEW, max_prompt_length=PROMPT, kv_cache_size=PROMPT + NEW, temperature=1.0
            ),
        ),
    )
    GRPOLearner(cluster, GRPOConfig(num_generations=SAMPLES, beta=KL), judge).train(turns())


PEERS = {"trl": ("trl", trl), "google-tunix": ("tunix", tunix)}  # what is installed: (module, worker)


def compare(workers: list, rounds: int) -> list[list[float]]:
    """CPU-seconds of each worker's steps, taken in turns: a list for each worker."""
    spawn, processes, pipes = multiprocessing.get_context("spawn"), [], []
    for worker in workers:
        pipe, other = spawn.Pipe()
        processes.append(spawn.Process(target=worker, args=(other,), daemon=True))
        processes[-1].start()
        pipes.append(pipe)
        other.close()
    try:
        seconds = [[] for _ in workers]
        for _ in range(rounds):
            for pipe, found in zip(pipes, seconds, strict=True):
                pipe.send("step")
                found.append(pipe.recv())
        return seconds
    except (EOFError, BrokenPipeError):
        sys.exit("one of the programs ended before its steps were done; its error stands above")
    finally:
        for process in processes:
            process.kill()
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cores that both may use")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])  # before XLA and torch count cores
    present = {name: worker for name, (module, worker) in PEERS.items() if find_spec(module)}
    print(
        f"{given.cores} cores, {given.rounds} rounds, load {os.getloadavg()[0]:.1f}; a step of "
        f"{PROMPTS} x {SAMPLES} x {NEW} tokens, CPU-seconds",
        flush=True,
    )
    mine, *others = compare([ours, *present.values()], given.rounds)
    print(f"{'jaxrl':20} {statistics.median(mine):6.1f}   ({min(mine):.1f} to {max(mine):.1f})")
    for name, found in zip(present, others, strict=True):
        ratios = [own / other for own, other in zip(mine, found, strict=True)]
        print(
            f"{f'{name} {version(name)}':20} {statistics.median(found):6.1f}   ({min(found):.1f} to {max(found):.1f})"
            f"   ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    for name in PEERS.keys() - present.keys():
        print(f"{name} is not installed: nothing to compare with")


if __name__ == "__main__":
    main()
