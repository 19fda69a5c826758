"""Flags of the commands that take a config: `--config=FILE.py[:SIZE]`, `--config.field=value`, and polite refusals."""

import difflib
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxrl.runtime.multihost import is_lost_peer, is_multiprocess, leave
from jaxrl.runtime.signals import Ended, Interrupts, Stopped
from jaxrl.runtime.streams import unfailing

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "The run, e.g. configs/three_stage.py:tiny.")
WORKDIR = flags.DEFINE_string("workdir", None, "The folder to write in; default: the config's field workdir.")
REFUSALS = (ValueError, OSError, FloatingPointError)
_MISREAD = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)


def plain(config: ConfigDict) -> dict:
    """The config as dicts and lists of plain values, as config.json holds it."""
    return json.loads(json.dumps(config.to_dict()))


def overrides(fields: Mapping[str, Any]) -> list[str]:
    """{"sampling.temperature": 1.2} -> ["--config.sampling.temperature=1.2"]."""
    return [f"--config.{field}={value}" for field, value in fields.items()]


def with_overrides(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """The config changed as the command line would change it. Raises ValueError with the sentence a command says."""
    arguments = ["", *overrides(fields)]
    values = flags.FlagValues()
    try:
        flag = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        values(arguments)
        return flag.value
    except _MISREAD as error:
        raise ValueError(_shortened(error, arguments)) from error


def run(name: str, command: Callable[[ConfigDict | None], int | None], instead: str = "config") -> None:
    """Parse the flags and call `command(config)`, which may return an exit status; a refusal is one sentence on stderr
    and exit status 2. A run that ended before its last step says so in the same way, with the status of `Ended`, and so
    does a command that a signal ends. One of several processes that fails for itself ends at once, with its number and
    host before what it says.

    instead: a flag that may be given in place of --config; the config is None then.
    """

    def main(argv: list[str]) -> int | None:
        if len(argv) > 1:
            _refuse(name, f"unexpected argument {argv[1]!r}; fields are set by --config.field=value.")
        if not (FLAGS["config"].present or FLAGS[instead].present):
            _refuse(name, "expected --config=FILE.py, for example --config=configs/three_stage.py:tiny.")
        logging.set_verbosity(logging.WARNING)
        sys.stderr = unfailing(sys.stderr)  # the exit status tells a script what to do, also where no sentence can
        try:
            with Interrupts():
                return command(CONFIG.value)
        except Ended as ended:  # all processes have come to the same end
            return _refuse(name, str(ended), ended.status)
        except BaseException as error:
            sentence, status = _told(error)
            if is_multiprocess():
                said = f"{name}: {sentence}" if sentence else traceback.format_exc()
                leave(said, status, others=is_lost_peer(error))
            if not sentence or is_lost_peer(error):
                raise
            return _refuse(name, sentence, status)

    def parse(argv: list[str]) -> list[str]:
        try:
            _check_config_file(argv)
            return FLAGS(argv)
        except FileNotFoundError as error:
            _refuse(name, str(error))
        except _MISREAD as error:
            _refuse(name, _shortened(error, argv))

    app.run(main, flags_parser=parse)


def _told(error: BaseException) -> tuple[str, int]:
    """What an error says in a sentence, empty for one that is not foreseen, and its exit status."""
    if isinstance(error, KeyboardInterrupt):  # before or after the part that takes signals itself
        return f"stopped by {str(error) or 'SIGINT'}; start the same command again to go on.", Stopped.status
    if is_lost_peer(error):
        return str(error), 1
    return (str(error), 2) if isinstance(error, REFUSALS) else ("", 1)


def _check_config_file(argv: list[str]) -> None:
    """Raises FileNotFoundError for a --config that is no file, naming the file that may have been meant."""
    for argument in argv[1:]:
        if not argument.startswith(("--config=", "-config=")):
            continue
        path = Path(argument.partition("=")[2].partition(":")[0])
        if not path.is_file():
            there = [str(file) for file in path.parent.glob("*.py") if file.name != "__init__.py"]
            near = difflib.get_close_matches(str(path), there, 1)
            others = f"{path.parent} has {', '.join(sorted(there)) or 'no configs'}."
            meant = f"did you mean {near[0]}?" if near else others
            raise FileNotFoundError(f"expected a config file, found no {path}; {meant}")


def _shortened(error: Exception, arguments: Sequence[str]) -> str:
    """What the user has to know of an error while these flags were read: the sentence, without the trace in it."""
    missing = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, KeyError)), None)
    if missing:  # of a name that resembles no other, it holds the name alone
        name = str(missing.args[0]).strip("'")
        paths = [argument.lstrip("-").partition("=")[0] for argument in arguments]
        path = next((path for path in paths if name in path.split(".")[1:]), None)
        if path:
            return f"the config has no field {name!r}, asked for by --{path} (see the fields in configs/base.py)"
    typed = isinstance(error, (AttributeError, flags.IllegalFlagValueError)) and "Traceback" not in str(error)
    cause = error if typed else error.__cause__ or error.__context__ or error
    lines = str(cause).replace("\\'", "'").replace("\\n", "\n").splitlines()
    telling = [line.strip(" '\"") for line in lines if "Did you mean" in line or "xpected" in line or "No such" in line]
    return f"{(telling or [' '.join(lines)])[-1]} (see --help, and the fields in configs/base.py)"


def _refuse(name: str, sentence: str, status: int = 2) -> NoReturn:
    print(f"{name}: {sentence}", file=sys.stderr)
    sys.exit(status)
