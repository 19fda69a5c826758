"""Rule-based rewards: from a response as text to a verdict and a reward. Does not use JAX."""

from jaxrl.rewards.rules import RULES, SUSPECTS, VERDICTS, RewardValues, Verdict, final_answer, score

__all__ = ["RULES", "SUSPECTS", "VERDICTS", "RewardValues", "Verdict", "final_answer", "score"]
