"""The learner: where arrays live, what an update changes, micro-batches, checkpoints."""
