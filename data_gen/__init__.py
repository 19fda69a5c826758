"""Knights-and-knaves puzzles: drawn, solved, worded, written and read. Plain Python, no JAX."""
