"""Flags of the commands that take a config: `--config=FILE.py[:SIZE]`, `--config.field=value`, and polite refusals."""

import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "The run, e.g. configs/three_stage.py:tiny.")
REFUSALS = (ValueError, OSError, FloatingPointError)


def run(name: str, command: Callable[[ConfigDict], None]) -> None:
    """Parse the flags and call `command(config)`; a refusal is one sentence on stderr and exit status 2."""

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            _refuse(name, f"unexpected argument {argv[1]!r}; fields are set by --config.field=value.")
        if CONFIG.value is None:
            _refuse(name, "expected --config=FILE.py, for example --config=configs/three_stage.py:tiny.")
        logging.set_verbosity(logging.WARNING)
        try:
            command(CONFIG.value)
        except REFUSALS as error:
            _refuse(name, str(error))

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            _refuse(name, _shortened(error))

    app.run(main, flags_parser=parse)


def _shortened(error: Exception) -> str:
    """What the user has to know of an error while the flags were read: the sentence, without the trace in it."""
    cause = error.__cause__ or error.__context__ or error
    lines = str(error if isinstance(error, AttributeError) else cause).strip("'\"").replace("\\'", "'")
    lines = lines.replace("\\n", "\n").splitlines()
    telling = [line.strip(" '\"") for line in lines if "Did you mean" in line or "xpected" in line or "No such" in line]
    return f"{(telling or [' '.join(lines)])[-1]} (see --help, and the fields in configs/base.py)"


def _refuse(name: str, sentence: str) -> None:
    print(f"{name}: {sentence}", file=sys.stderr)
    sys.exit(2)
