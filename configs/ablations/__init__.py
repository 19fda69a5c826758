"""Ablations: each file has a base run (`get_config`), and settings and seeds to run it with (`get_sweep`)."""
