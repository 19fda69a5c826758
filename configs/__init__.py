"""Experiments as Python files with `get_config`. Each docstring has purpose, cost, expected numbers and command."""
