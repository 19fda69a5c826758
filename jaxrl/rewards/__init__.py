"""Rules that turn a response into a verdict and a reward: plain text in, no JAX."""

from jaxrl.rewards.rules import RULES, SUSPECTS, VERDICTS, RewardValues, Verdict, score

__all__ = ["RULES", "SUSPECTS", "VERDICTS", "RewardValues", "Verdict", "score"]
