"""Supervised training of a small base model on written-out responses: phases, checkpoints, export.

Supervised training is the policy gradient with an advantage of one for every taught token, so it runs on the
same update as reinforcement does.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_gen.corpus import CorpusSpec, Example, write_corpus
from data_gen.prompts import PromptSpec, puzzle_prompt
from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.losses import SUPERVISED
from jaxrl.checkpointing.checkpoints import Checkpoints, CheckpointSpec
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.micro_batches import LayoutSpec, length_buckets
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.state import TrainState, abstract_state, init_params, init_state
from jaxrl.learning.update import Scalars, UpdateSpec, make_update
from jaxrl.runtime.signals import Signals, Stopped
from models.config import Qwen2Config
from models.convert import save_params
from models.qwen2 import Qwen2
from models.vocabulary import build_tokenizer

_VOCABULARY_EXAMPLES = 4000


@dataclasses.dataclass(frozen=True)
class PhaseSpec:
    """One phase: `tokens` of text at a rate that warms up over `warmup_steps` and falls by a cosine to a share."""

    name: str
    corpus: CorpusSpec
    tokens: int
    learning_rate: float
    final_share: float
    warmup_steps: int

    def rate(self, seen: int, step: int) -> float:
        """The learning rate after `seen` tokens and `step` steps of this phase."""
        done = min(seen / self.tokens, 1.0)
        fall = self.final_share + (1 - self.final_share) * 0.5 * (1 + np.cos(np.pi * done))
        return float(self.learning_rate * fall * min((step + 1) / max(self.warmup_steps, 1), 1.0))


@dataclasses.dataclass(frozen=True)
class SupervisedSpec:
    """A whole supervised run. `rows` examples a step, cut into micro-batches of `micro_tokens`."""

    seed: int
    model: Qwen2Config
    prompt: PromptSpec
    optimizer: OptimizerSpec
    phases: tuple[PhaseSpec, ...]
    rows: int
    micro_tokens: int
    save_minutes: float
    longest: int


def train_supervised(spec: SupervisedSpec, workdir: Path, output: Path, say: Callable[[str], None]) -> None:
    """Run every phase, saving to `workdir`, and export to `output`. Started again, it goes on where it was.

    Raises Stopped at a signal, with what was learned saved.
    """
    tokenizer = _tokenizer(spec)
    mesh = make_mesh(MeshSpec())
    model = Qwen2(spec.model, unroll=spec.model.num_hidden_layers)
    optimizer = make_optimizer(spec.optimizer)
    layout = LayoutSpec(length_buckets(spec.longest, shortest=48, ratio=1.12), spec.micro_tokens)
    update = make_update(model, optimizer, SUPERVISED, mesh, UpdateSpec(layout))
    with Signals() as signals, Checkpoints(workdir / "checkpoints", CheckpointSpec(keep=2)) as checkpoints:
        if checkpoints.steps():
            state, place = checkpoints.restore(abstract_state(model, optimizer, mesh))
            say(f"going on at {place}")
        else:
            params = init_params(model, mesh, jax.random.key(spec.seed))
            state, place = init_state(model, optimizer, mesh, params), {"phase": 0, "step": 0, "tokens": 0}
        for phase in range(place["phase"], len(spec.phases)):
            if phase > place["phase"] or place["step"] == 0:  # moments of another phase would mislead the first steps
                state = init_state(model, optimizer, mesh, state.params)
                place = {"phase": phase, "step": 0, "tokens": 0}
            state = _run_phase(spec, place, state, update, tokenizer, checkpoints, signals, say)
            place = {"phase": phase, "step": place["step"], "tokens": place["tokens"]}
        params = state.params
    save_base(output, params, spec.model, tokenizer)
    say(f"wrote {output}")


def save_base(output: Path, params: Any, config: Qwen2Config, tokenizer: Any) -> None:
    """Weights, tokenizer and generation settings as one Hugging Face folder, written whole or not at all."""
    import tempfile

    from transformers import GenerationConfig

    with tempfile.TemporaryDirectory() as folder:
        save_params(Path(folder) / "base", params, config)
        source = Path(folder) / "base"
        tokenizer.save_pretrained(source)
        GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
        ).save_pretrained(source)
        save_params(output, params, config, source_folder=source)


def _tokenizer(spec: SupervisedSpec) -> Any:
    texts = []
    for phase in spec.phases:
        examples = itertools.islice(write_corpus(phase.corpus, spec.seed), _VOCABULARY_EXAMPLES)
        texts.extend(puzzle_prompt(e.puzzle, spec.prompt, None) + e.response for e in examples)
    return build_tokenizer(texts, spec.model.vocab_size)


def _run_phase(spec, place, state: TrainState, update, tokenizer, checkpoints, signals, say) -> TrainState:
    """Train one phase from `place` (changed as it goes) to its end; saves now and then, at a signal and at the end."""
    phase = spec.phases[place["phase"]]
    saved = started = time.monotonic()
    losses, begun = [], (started, place["tokens"])

    def number():
        return int(state.step) + 1_000_000 * place["phase"]

    def save():
        checkpoints.save(number(), state, dict(place))

    with ThreadPoolExecutor(1) as ahead:  # the next batch is written while this one is learned
        coming = ahead.submit(_batch, spec, place["phase"], place["step"], tokenizer)
        try:
            while place["tokens"] < phase.tokens:
                batch = coming.result()
                coming = ahead.submit(_batch, spec, place["phase"], place["step"] + 1, tokenizer)
                rate = phase.rate(place["tokens"], place["step"])
                with signals.held():  # until state and place say the same
                    state, info = update(state, batch, Scalars(learning_rate=rate))
                    losses.append(float(info["loss"]))
                    place["step"] += 1
                    place["tokens"] += int(info["tokens"])
                now = time.monotonic()
                if place["step"] % 20 == 0 or place["tokens"] >= phase.tokens:
                    speed = (place["tokens"] - begun[1]) / (now - begun[0])
                    begun = (now, place["tokens"])
                    say(
                        f"{phase.name}: step {place['step']}, {place['tokens'] / 1e6:.2f} of {phase.tokens / 1e6:.2f} "
                        f"M tokens, loss {np.mean(losses[-20:]):.4f}, rate {rate:.2e}, {speed:,.0f} tokens/s, "
                        f"{(phase.tokens - place['tokens']) / speed / 60:.1f} minutes to go"
                    )
                if now - saved > 60 * spec.save_minutes or place["tokens"] >= phase.tokens:
                    with signals.held():
                        save()
                    saved = time.monotonic()
        except Stopped as stopped:
            if number() not in checkpoints.steps():
                save()
            checkpoints.wait()
            raise Stopped(f"in phase {phase.name}, after step {place['step']}: {stopped}") from None
    return state


def _batch(spec: SupervisedSpec, phase: int, step: int, tokenizer: Any) -> Batch:
    """Batch number `step` of a phase, from its coordinates alone, so that going on never has to skip data."""
    seed = int(np.random.SeedSequence([spec.seed, phase, step]).generate_state(1, np.uint64)[0] >> 1)
    examples = list(itertools.islice(write_corpus(spec.phases[phase].corpus, seed), spec.rows))
    return encode(examples, spec.prompt, tokenizer, spec.longest)


def encode(examples: list[Example], prompt: PromptSpec, tokenizer: Any, longest: int) -> Batch:
    """Examples as rows of prompt, response and end token; beyond `longest` tokens a row is cut off."""
    asked = tokenizer([puzzle_prompt(e.puzzle, prompt, tokenizer) for e in examples])["input_ids"]
    longest_prompt = max(map(len, asked))
    if longest_prompt >= longest:
        raise ValueError(
            f"a prompt of {longest_prompt} tokens leaves no room for a response in rows of {longest}; raise `longest`."
        )
    taught = tokenizer([e.response for e in examples])["input_ids"]
    rows = [(a, [*t, tokenizer.eos_token_id][: longest - len(a)]) for a, t in zip(asked, taught, strict=True)]
    length = max(len(a) + len(t) for a, t in rows)
    tokens, mask = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), np.float32)
    for row, (a, t) in enumerate(rows):
        tokens[row, : len(a) + len(t)] = a + t
        mask[row, len(a) : len(a) + len(t)] = 1
    lengths = np.array([len(a) + len(t) for a, t in rows], np.int32)
    return Batch(tokens, lengths, mask, mask)
