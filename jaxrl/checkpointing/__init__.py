"""Training state in and out of disk."""
