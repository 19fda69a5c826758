"""CPU-seconds of a GRPO step, compared with TRL and Tunix: the same model shape, float32, one process each.

    python benchmarks/step.py [--cores=2] [--rounds=3]

8 prompts of 64 tokens x 8 samples of exactly 256 tokens, one AdamW update of all 64 rows, KL 0.04 to a fixed reference;
width 256, 6 layers, vocabulary of 2,048. jaxrl runs `jaxrl.training.step` as `jaxrl.train` does, with a reward that
counts even tokens; TRL its GRPOTrainer with Hugging Face's `generate`, without gradient checkpointing; Tunix its
GRPOLearner with its own ("vanilla") sampler. CPU-seconds are user and system time of the process, which other programs
on the machine affect little. Steps that compile or start thread pools are not counted. Peers that are not installed are
skipped and listed. Needs the test extra (torch) and `pip install trl==1.16 google-tunix==0.1.7`.
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
PROMPTS, SAMPLES, PROMPT, NEW, KL, LEARNING_RATE = 8, 8, 64, 256, 0.04, 1e-6
WARM = 2  # steps that are not counted


def reward(tokens: list[int]) -> float:
    """Share of even tokens."""
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


def prompts(count: int) -> list[list[int]]:
    """Random prompts."""
    return np.random.default_rng(0).integers(1, SHAPE["vocab_size"], (count, PROMPT)).tolist()


class TokenFormat:
    """A prompt format without a tokenizer: a problem's question is its prompt, `reward` judges its responses."""

    def encode(self, problem: Any) -> list[int]:
        return [int(token) for token in problem.question.split()]

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))

    def judge(self, problem: Any, response: str, truncated: bool) -> Any:
        from jaxrl.rewards import Verdict

        value = reward([int(token) for token in response.split()])
        return Verdict("wrong_answer", (), 0.0, value, value, "even_tokens", ())

    def sampling_spec(self, max_new_tokens: int, temperature: Any, **truncation: Any) -> Any:
        from jaxrl.sampling import SamplingSpec

        return SamplingSpec(max_new_tokens, (), temperature, **truncation)


def ours(pipe: Connection) -> None:
    """Takes a step for every message and answers with its CPU-seconds."""
    import jax

    from configs import stage1
    from jaxrl.command_line import plain
    from jaxrl.learning import init_params
    from jaxrl.runtime.devices import prepare_devices
    from jaxrl.tasks.problem import Problem
    from jaxrl.training.components import build_components
    from jaxrl.training.problem_pools import ProblemSet
    from jaxrl.training.progress import Progress, plan_step
    from jaxrl.training.responses import SampledResponses
    from jaxrl.training.run_spec import run_spec
    from jaxrl.training.step import Step
    from jaxrl.training.timing import PhaseTimer
    from models.config import Qwen2Config

    config = stage1.get_config("tiny")
    config.prompts, config.samples, config.kl_coefficient = PROMPTS, SAMPLES, KL
    config.sampling.max_new_tokens, config.unroll = NEW, SHAPE["num_hidden_layers"]
    # One batch on one device. With one device per core, as in the tiny run, sampling takes a third less time and about
    # as many CPU-seconds.
    config.sampler.update(dict(rows=PROMPTS * SAMPLES, chunk=PROMPTS * SAMPLES, devices=0))
    config.layout.micro_tokens = 2 * (PROMPT + NEW)  # the working set of a micro-batch fits into the CPU's caches
    spec = run_spec(plain(config))
    prepare_devices(spec.devices, "", spec.sampler.devices)
    model = Qwen2Config(**SHAPE, head_dim=HEAD_DIM, max_position_embeddings=POSITIONS)
    components = build_components(spec, model, PROMPT + NEW)
    pool = [
        Problem(str(i), "p3", " ".join(map(str, tokens)), "", str(i), False, (), None)
        for i, tokens in enumerate(prompts(64))
    ]
    problem_set = ProblemSet(TokenFormat(), (), {spec.stages[0].name: pool})
    responses = SampledResponses(components, problem_set, lambda *_: None)
    step = Step(spec.algorithm, components, problem_set, responses)
    reference = init_params(components.model, components.mesh, jax.random.key(0))
    state = components.init_state(reference)
    for number in itertools.count():
        if number >= WARM:
            pipe.recv()
        started = time.process_time()
        plan = plan_step(spec.stages, Progress(number, stage_step=number), spec.seed)
        collected = step.collect(state, reference, plan, PhaseTimer(lambda _: None))
        state, info = step.learn(state, collected.batch, plan)
        assert info["loss_tokens"] == PROMPTS * SAMPLES * NEW and info["kl"] >= 0
        if number >= WARM:
            pipe.send(time.process_time() - started)


def trl(pipe: Connection) -> None:
    """The same with TRL's trainer."""
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

    class OnRequest(transformers.TrainerCallback):
        """Waits for a message before each step, and sends its CPU-seconds after it."""

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step >= WARM:
                pipe.recv()
            self.started = time.process_time()

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step > WARM:
                pipe.send(time.process_time() - self.started)

    def judge(completion_ids, **kwargs):
        assert {len(tokens) for tokens in completion_ids} == {NEW}
        return [reward(tokens) for tokens in completion_ids]

    with tempfile.TemporaryDirectory() as folder:  # the trainer loads its reference from the folder of the model
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
            learning_rate=LEARNING_RATE,
            model_init_kwargs={"dtype": "float32"},
        )
        data = datasets.Dataset.from_list([{"prompt": " ".join(map(str, tokens))} for tokens in prompts(64)])
        GRPOTrainer(folder, judge, settings, data, processing_class=tokenizer, callbacks=[OnRequest()]).train()


class Words:
    """A tokenizer for Tunix: a token is its number. The end token is outside the vocabulary, so no row ends early."""

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
    """The same with Tunix's learner."""
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

    def steps_on_request():
        """Yields the prompts of a step after each message, and sends the CPU-seconds when the next is requested."""
        started, texts = 0.0, [" ".join(map(str, tokens)) for tokens in prompts(64)]
        for number in itertools.count():
            if number > WARM:
                jax.block_until_ready(nnx.state(actor))
                pipe.send(time.process_time() - started)
            if number >= WARM:
                pipe.recv()
            started = time.process_time()
            first = number * PROMPTS % len(texts)
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
                actor_optimizer=optax.adamw(LEARNING_RATE), eval_every_n_steps=10**6, max_steps=10**6
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=NEW, max_prompt_length=PROMPT, kv_cache_size=PROMPT + NEW, temperature=1.0
            ),
        ),
    )
    GRPOLearner(cluster, GRPOConfig(num_generations=SAMPLES, beta=KL), judge).train(steps_on_request())


PEERS = {"trl": ("trl", trl), "google-tunix": ("tunix", tunix)}  # package: (module, worker)


def compare(workers: list, rounds: int) -> list[list[float]]:
    """CPU-seconds of the steps of each worker. The workers take their steps one after the other, in rounds."""
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
            for pipe, measured in zip(pipes, seconds, strict=True):
                pipe.send("step")
                measured.append(pipe.recv())
        return seconds
    except (EOFError, BrokenPipeError):
        sys.exit("one of the programs ended before its steps were done; see its error above")
    finally:
        for process in processes:
            process.kill()
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cores that each process may use")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])  # before XLA and torch count cores
    present = {name: worker for name, (module, worker) in PEERS.items() if find_spec(module)}
    print(
        f"{args.cores} cores, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}; a step of "
        f"{PROMPTS} x {SAMPLES} x {NEW} tokens, CPU-seconds",
        flush=True,
    )
    mine, *others = compare([ours, *present.values()], args.rounds)
    print(f"{'jaxrl':20} {statistics.median(mine):6.1f}   ({min(mine):.1f} to {max(mine):.1f})")
    for name, seconds in zip(present, others, strict=True):
        ratios = [ours / theirs for ours, theirs in zip(mine, seconds, strict=True)]
        print(
            f"{f'{name} {version(name)}':20} {statistics.median(seconds):6.1f}   "
            f"({min(seconds):.1f} to {max(seconds):.1f})   "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    for name in PEERS.keys() - present.keys():
        print(f"{name} is not installed: nothing to compare with")


if __name__ == "__main__":
    main()
