"""What is asked: problems, prompts and their tasks."""
