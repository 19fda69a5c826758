"""How good is the model: accuracy with intervals, pass@k, paired comparisons, and the overlap check."""
