"""Supervised training of the embedded base model, models/tiny."""
