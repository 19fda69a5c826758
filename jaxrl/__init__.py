"""Reinforcement learning from rule rewards for language models, sampling and training in one JAX program."""

__version__ = "0.1.0"
