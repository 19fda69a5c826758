"""A trained model at work: loading, generation, evaluation, hidden states."""
