"""Sweeps. Each file has a base run (`get_config`), and its settings and seeds (`get_sweep`)."""
