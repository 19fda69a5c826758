"""Version 1 of format, thinking, roles and numbers: unchanged, so that results of its rules stay reproducible."""
