"""The embedded base model `models/tiny`: a small Qwen2, trained by supervised learning on text that `data_gen` writes.

Purpose: a miniature base model for reinforcement learning on a laptop. It first learns a skill (try a case, check every
    statement, backtrack if one does not fit), then habits that hide it: guessing, stopping after the first checks, and
    broken formats in about a third of responses.
Cost: see benchmarks/RESULTS.md.
Command: python -m jaxrl.sft --config=configs/tiny_base.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """All fields of the run."""
    config = ConfigDict()
    config.seed = 0
    config.devices = 1  # virtual CPU devices; two are faster, but XLA's may deadlock (docs/negative_results.md)
    config.workdir = "runs/tiny_base"
    config.output = "models/tiny"

    config.model = ConfigDict(
        dict(
            vocab_size=640,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            max_position_embeddings=1024,
        )
    )
    config.prompt = ConfigDict(dict(form="terse", opens_think=False))
    config.puzzles = ConfigDict(tiny_puzzles())

    config.optimizer = ConfigDict(dict(kind="muon", b1=0.9, b2=0.98, weight_decay=0.01, clip_norm=1.0))
    config.micro_tokens = 1536  # tokens of a micro-batch, padding included
    config.rows = 16  # examples per step
    config.longest = 448  # tokens of a row; longer examples are truncated
    config.checkpoint = ConfigDict(dict(every=200, keep=2, patience=5))  # see configs/base.py

    skill = dict(guess=0.0, first_fit=0.0, half_checked=0.0, careful=1.0)
    habit = dict(guess=0.40, first_fit=0.32, half_checked=0.15, careful=0.13)
    config.order = ("skill", "habit")
    config.phases = ConfigDict(
        dict(
            skill=dict(
                tokens=6_000_000,
                learning_rate=2.5e-3,
                final_share=0.02,
                warmup_steps=50,
                people={"p2": 0.25, "p3": 0.75},
                styles=skill,
                broken=0.0,
            ),
            habit=dict(
                tokens=800_000,
                learning_rate=5e-4,
                final_share=0.1,
                warmup_steps=10,
                people={"p2": 0.15, "p3": 0.85},
                styles=habit,
                broken=0.32,
            ),
        )
    )
    return config


def tiny_puzzles() -> dict:
    """The puzzles of the embedded model, for its supervised training, reinforcement learning and evaluation."""
    return dict(
        depth=1,
        width=2,
        wording="plain",
        operators={"tells_truth": 1.0, "lies": 1.0, "not": 0.25, "and": 1.0, "or": 1.0, "implies": 0.4, "iff": 0.4},
        # Shares of all canonical forms: for supervised training, for reinforcement learning, held out.
        splits={"base": 0.65, "train": 0.2, "test": 0.15},
        split_seed=0,
    )
