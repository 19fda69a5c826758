"""Sweeps: runs of one experiment with several settings and seeds, and their comparison."""
