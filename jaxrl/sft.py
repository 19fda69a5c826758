"""Train a small base model by supervised learning on responses that `data_gen` writes.

python -m jaxrl.sft --config=configs/tiny_base.py
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrl.command_line import ConfigParser, plain, run


def make_parser() -> ConfigParser:
    """The flags of the command."""
    return ConfigParser("jaxrl.sft", __doc__, "tiny_base.py")


def train(given: argparse.Namespace) -> None:
    """Run the command. Raises ValueError and OSError with one sentence each."""
    from jaxrl.base_model.spec import supervised_spec
    from jaxrl.base_model.trainer import train_supervised
    from jaxrl.runtime.devices import prepare_devices
    from jaxrl.training.workdir import check_workdir, claim_run_folder

    fields = plain(given.config.value) | ({"workdir": str(given.workdir)} if given.workdir else {})
    workdir, spec = Path(fields["workdir"]), supervised_spec(fields)
    check_workdir(workdir, fields)
    prepare_devices(fields["devices"], "")
    with claim_run_folder(workdir, fields) as changes:
        for line in changes:
            print(line)
        train_supervised(spec, workdir, Path(fields["output"]), lambda line: print(line, flush=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), train, argv, exit_at_signal=True, drop_output=True)


if __name__ == "__main__":
    sys.exit(main())
