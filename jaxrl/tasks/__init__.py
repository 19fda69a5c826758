"""Tasks: problems, prompts and what rules need to judge responses."""
