"""Evaluation of models: accuracy with confidence intervals, pass@k and paired comparisons."""
