"""Memory and time estimates of a run before it starts."""
