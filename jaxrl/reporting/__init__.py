"""Outputs of a run: metrics, terminal, stored rollouts, behaviour counts, wandb and the HTML report."""
