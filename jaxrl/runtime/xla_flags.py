"""The environment variable XLA_FLAGS, written only here."""

import os


def add_xla_flags(*flags: str) -> None:
    """Append `--name=value` flags to XLA_FLAGS, except those whose name the user has set already.

    Must be called before JAX initializes the backend that reads them.
    """
    present = os.environ.get("XLA_FLAGS", "").split()
    names = {flag.partition("=")[0] for flag in present}
    new = [flag for flag in flags if flag.partition("=")[0] not in names]
    os.environ["XLA_FLAGS"] = " ".join([*present, *new])
