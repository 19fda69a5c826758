"""What the commands share: flags, configs with overrides, error messages and exit statuses."""

import argparse
import contextlib
import difflib
import json
import os
import re
import runpy
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from data_gen.command_parser import CommandParser
from jaxrl.renamed_fields import RENAMED, check_renamed, renamed
from jaxrl.runtime.streams import drop_write_errors

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_ERRORS = (ValueError, OSError, EOFError, FloatingPointError)  # reported in one sentence, with status 2
_OVERRIDE_ERRORS = (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError)
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


class Config(NamedTuple):
    """What `--config=FILE.py[:ARG]` and its overrides give. overrides: {"sampling.temperature": "1.2"}."""

    path: str
    overrides: dict[str, str]
    value: ConfigDict


class ConfigParser(CommandParser):
    """A `CommandParser` with `--config`, `--config.FIELD=VALUE` and `--workdir`.

    `config` of the namespace is a `Config`, or None.
    example: the file in configs/ whose fields --help lists. instead: a flag that may be given in place of --config.
    workdir: help of --workdir; None: the command has no such flag.
    """

    def __init__(
        self,
        name: str,
        description: str | None,
        example: str,
        *,
        instead: str | None = None,
        workdir: str | None = "the run folder (the field workdir)",
    ):
        super().__init__(name, description)
        self._example, self._instead = example, instead
        self.add_argument(
            "--config",
            metavar="FILE.py[:ARG]",
            help="the experiment, for example configs/three_stage.py:tiny; ARG is given to its get_config",
        )
        self.add_argument(
            "--config.FIELD",
            metavar="VALUE",
            help="overrides a field of the config, for example --config.sampling.temperature=1.2; see the list below",
        )
        if workdir:
            self.add_argument("--workdir", type=Path, metavar="FOLDER", help=workdir)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        """See `CommandParser`. Raises ValueError also for a config or an override that can't be read."""
        overrides, others = _split_overrides(args)
        given = super().parse_args(others, namespace)
        if given.config:
            given.config = load_config(given.config, overrides)
        elif overrides or not (self._instead and getattr(given, self._instead)):
            self.error("expected --config=FILE.py, for example --config=configs/three_stage.py:tiny.")
        return given

    def format_help(self) -> str:
        """The flags, and every field of the example."""
        path = CONFIGS / self._example
        fields = _field_list(read_config_file(str(path)), self._example) if path.is_file() else ""
        return f"{super().format_help()}\n{fields}"


def run(
    parser: CommandParser,
    command: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
    *,
    exit_at_signal: bool = False,
    drop_output: bool = False,
) -> int:
    """Parse the flags and call `command(given)`; returns the exit status.

    A foreseen error is one sentence on stderr, with status 2. A run that ends before its last step has the status of
    `Ended`. In a run of several processes, a process that fails by itself exits at once, with its number and host.

    argv: without the program; None for those of this process. exit_at_signal: see `exit_on_signal` in
    jaxrl/runtime/signals.py. drop_output: stdout that can't be written is dropped, as the results are in files.
    """
    parser.renamed = RENAMED
    try:
        given = parser.parse_args(sys.argv[1:] if argv is None else argv)
    except SystemExit as ended:  # --help
        return ended.code or 0
    except (ValueError, OSError) as error:
        return _report(parser.name, str(error))
    logging.set_verbosity(logging.WARNING)
    with unfailing_streams(stdout=drop_output):  # a full disk must not change the exit status
        try:
            with _exit_on_signal(parser.name) if exit_at_signal else contextlib.nullcontext():
                return command(given) or 0
        except BaseException as error:
            return _report_error(parser.name, error)


def _exit_on_signal(name: str) -> contextlib.AbstractContextManager:
    from jaxrl.runtime.signals import exit_on_signal  # imports JAX, which not every command needs

    return exit_on_signal(name)


def _report_error(name: str, error: BaseException) -> int:
    """Report the error that is being handled and return the exit status. Raises it if it was not foreseen."""
    from jaxrl.runtime.multihost import exit_process, is_lost_peer, is_multiprocess
    from jaxrl.runtime.signals import Ended

    if isinstance(error, Ended):  # all processes have ended alike
        return _report(name, str(error), error.status)
    lost_peer = is_lost_peer(error)
    if isinstance(error, KeyboardInterrupt):
        sentence, status = "stopped by SIGINT; run the same command again.", os.EX_TEMPFAIL
    elif lost_peer or not isinstance(error, _ERRORS):
        sentence, status = str(error) if lost_peer else "", 1
    else:
        sentence, status = str(error), 2
    if is_multiprocess():
        exit_process(f"{name}: {sentence}" if sentence else traceback.format_exc(), status, lost_peer=lost_peer)
    if not sentence or lost_peer:
        raise error
    return _report(name, sentence, status)


@contextlib.contextmanager
def unfailing_streams(*, stdout: bool = True) -> Iterator[None]:
    """While the block runs, output that can't be written to stderr, and to stdout unless it is False, is dropped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = drop_write_errors(sys.stdout) if stdout else sys.stdout, drop_write_errors(sys.stderr)
    try:
        yield
    finally:
        for stream, original in zip((sys.stdout, sys.stderr), before, strict=True):
            if stream is not original:
                stream.flush()
        sys.stdout, sys.stderr = before


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as dicts and lists of plain values, as config.json has it."""
    return json.loads(json.dumps(config.to_dict()))


def default_fields() -> dict[str, Any]:
    """The fields of configs/base.py, without those of a stage."""
    return plain(runpy.run_path(str(CONFIGS / "base.py"))["get_run"]())


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """The config of FILE.py[:ARG], changed by arguments `--config.FIELD=VALUE`. Raises ValueError and OSError."""
    config = override(read_config_file(path), overrides)
    check_renamed(config.to_dict())
    return Config(path, dict(map(_field_and_value, overrides)), config)


def read_config_file(path: str) -> ConfigDict:
    """What `get_config` of FILE.py[:ARG] returns. Raises ValueError where it fails, FileNotFoundError for no file."""
    module = read_module(path)
    try:
        return module["get_config"](*path.split(":", 1)[1:])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {_reason(error)}") from error


def read_module(path: str) -> dict[str, Any]:
    """The names that FILE.py of FILE.py[:ARG] defines. Raises FileNotFoundError with the closest file name."""
    file = Path(path.split(":", 1)[0])
    if not file.is_file():
        present = sorted(str(near) for near in file.parent.glob("*.py") if near.name != "__init__.py")
        near = difflib.get_close_matches(str(file), present, 1)
        advice = f"did you mean {near[0]}?" if near else f"{file.parent} has {', '.join(present) or 'no configs'}."
        raise FileNotFoundError(f"expected a config file, found no {file}; {advice}")
    return runpy.run_path(str(file))


def override_arguments(fields: Mapping[str, Any]) -> list[str]:
    """{"sampling.temperature": 1.2} -> ["--config.sampling.temperature=1.2"]."""
    return [f"--config.{field}={value}" for field, value in fields.items()]


def override(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """The config changed by `--config.FIELD=VALUE` arguments, with the types of the fields. Raises ValueError."""
    arguments = ["", *arguments]
    values = flags.FlagValues()
    try:
        flag = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        values(arguments)
        return flag.value
    except _OVERRIDE_ERRORS as error:
        raise ValueError(_explain(error, config, arguments[1:])) from error


def _split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the config, as `--config.FIELD=VALUE`, and the other arguments."""
    overrides, others, remaining = [], [], list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not _OVERRIDE.match(argument):
            others.append(argument)
            continue
        has_value = "=" in argument or argument.startswith(("--no", "-no"))
        if not has_value and remaining and not remaining[0].startswith("--"):
            argument = f"{argument}={remaining.pop(0)}"
        overrides.append(argument)
    return overrides, others


def _field_and_value(argument: str) -> tuple[str, str]:
    """`--config.FIELD=VALUE` -> (FIELD, VALUE); `--config.FIELD` is true and `--noconfig.FIELD` is false."""
    _, has_value, value = argument.partition("=")
    boolean = "false" if argument.startswith(("--no", "-no")) else "true"
    return _OVERRIDE.match(argument)[1], value if has_value else boolean


def _explain(error: Exception, config: ConfigDict, arguments: Sequence[str]) -> str:
    """One sentence for an override that failed."""
    known = dict(_walk(config))
    for argument in arguments:
        path = _OVERRIDE.match(argument)[1]
        if path not in known and "[" not in path:
            return renamed(path) or _unknown_field(path, list(known))
    return f"{_reason(error)} (see --help, and the fields in configs/base.py)"


def _unknown_field(path: str, known: Sequence[str]) -> str:
    elsewhere = [name for name in known if name.endswith(f".{path}")]
    near = elsewhere or difflib.get_close_matches(path, known, 1)
    advice = f"did you mean --config.{near[0]}?" if near else "see --help, and the fields in configs/base.py."
    return f"--config.{path}: the config has no field {path!r}; {advice}"


def _walk(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every field and group."""
    for name, value in config.items():
        yield prefix + name, value
        if isinstance(value, ConfigDict):
            yield from _walk(value, f"{prefix}{name}.")


def _field_list(config: ConfigDict, example: str) -> str:
    """The fields of a config by group, for --help."""
    groups: dict[str, list[str]] = {}
    for path, value in _walk(config):
        if not isinstance(value, ConfigDict):
            group, _, name = path.rpartition(".")
            groups.setdefault(group, []).append(name)

    def wrapped(text: str) -> str:
        return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="      ")

    lines = [f"fields of configs/{example}, --config.FIELD=VALUE:", wrapped(", ".join(groups.pop("", [])))]
    lines += ["groups of fields, --config.GROUP.FIELD=VALUE:"]
    lines += [wrapped(f"{group}: {', '.join(names)}") for group, names in groups.items()]
    if "algorithm" in config:
        lines += [
            "With several stages a stage's fields are in --config.stages.NAME. configs/base.py explains each field."
        ]
    return "\n".join(lines) + "\n"


def _reason(error: Exception) -> str:
    """The sentence of an error that ml_collections or absl may have wrapped in a trace."""
    typed = isinstance(error, (AttributeError, flags.IllegalFlagValueError)) and "Traceback" not in str(error)
    cause = error if typed else error.__cause__ or error.__context__ or error
    lines = str(cause).replace("\\'", "'").replace("\\n", "\n").splitlines()
    telling = [line.strip(" '\"") for line in lines if "Did you mean" in line or "xpected" in line or "No such" in line]
    return (telling or [" ".join(lines)])[-1]


def _report(name: str, sentence: str, status: int = 2) -> int:
    print(f"{name}: {sentence}", file=sys.stderr)
    return status
