"""How the embedded base model was trained."""
