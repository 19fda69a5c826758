"""Experiments as Python: each file has `get_config`, and says in its docstring what it is for and what it costs."""
