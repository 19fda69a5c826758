"""Where a step's numbers go: `metrics.jsonl` always, wandb beside it when asked for."""

import contextlib
import netrc
import os
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from jaxrl.reporting.files import from_line, sync_folder, to_line, write_text
from jaxrl.reporting.metrics import check

Record = Mapping[str, object]


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, object]]:
    """The records of a metrics file in order; none if there is no file. A torn last line (the run was killed
    while writing it) is left out; a line that can't be read anywhere else is a ValueError with its number."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is empty or torn
        try:
            records.append(from_line(line.decode()))
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: not a metrics record ({error}); remove the line"
            ) from None
    return records


class JsonlWriter:
    """Appends one line a step, each forced to disk before `write` returns.

    `restored_step` is the step of the checkpoint that the run goes on from: lines of later steps are removed
    (the run does them again), so that no step stands twice. None starts the file anew. ValueError when a step
    up to `restored_step` is missing from the file, or when `write` is given a step that is not a later one.
    """

    def __init__(self, path: str | os.PathLike[str], restored_step: int | None = None):
        self.path = Path(path)
        kept = (
            []
            if restored_step is None
            else [r for r in read_metrics(self.path) if r["step"] <= restored_step]
        )
        self.last_step = int(kept[-1]["step"]) if kept else -1
        present = {record["step"] for record in kept}
        missing = [step for step in range(1, (restored_step or 0) + 1) if step not in present]
        if missing:
            raise ValueError(
                f"{self.path} should hold all steps up to {restored_step}, but step {missing[0]} is missing; "
                "put the file back, or start again in an empty run folder"
            )
        write_text(self.path, "".join(to_line(record) + "\n" for record in kept))
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def write(self, record: Record) -> None:
        """Appends the record; numpy and JAX scalars are welcome, names must be in the table of metrics."""
        line = to_line(record)
        plain = from_line(line)
        check(plain)
        if plain["step"] <= self.last_step:
            raise ValueError(
                f"step {plain['step']} was written already; the last line is step {self.last_step}"
            )
        data = line.encode() + b"\n"
        while data:  # one call in practice; a full disk or a signal may split it
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)
        self.last_step = plain["step"]

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            sync_folder(self.path.parent)
            self._descriptor = -1


@dataclass(frozen=True)
class WandbSpec:
    """`auto` is online when logged in and offline otherwise; WANDB_MODE in the environment goes before it."""

    mode: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "jaxrl"
    name: str = ""
    group: str = ""
    init_timeout: float = 20.0  # seconds before going on without a server
    close_timeout: float = 30.0  # seconds to wait for the upload at the end

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "online", "offline", "off"):
            raise ValueError(f"wandb mode must be auto, online, offline or off, got {self.mode!r}")


class WandbWriter:
    """Sends records to wandb from a thread of its own, so that it never holds up or breaks the run.

    Any exception of wandb switches it off with one sentence to `say`. The run's id stands in `wandb_id` in
    the run folder, so that a resumed run goes on under the same id. Records with steps that were sent before
    are sent again and overlay themselves: the curves' x-axis is the metric `step`, not wandb's own counter.
    """

    def __init__(
        self,
        spec: WandbSpec,
        workdir: str | os.PathLike[str],
        config: Record,
        say: Callable[[str], None] = print,
    ):
        self.spec, self.workdir, self.config, self.say = spec, Path(workdir), dict(config), say
        self.modes = wandb_modes(spec.mode)
        self._records: queue.Queue[dict[str, object] | None] = queue.Queue(maxsize=4096)
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        if self.modes:
            self._thread.start()

    def write(self, record: Record) -> None:
        """Hands the record over; never waits and never raises."""
        if self._thread.is_alive():
            sendable = {
                k: v for k, v in from_line(to_line(record)).items() if isinstance(v, int | float | str)
            }
            with contextlib.suppress(queue.Full):  # wandb is stuck: metrics.jsonl has the record all the same
                self._records.put_nowait(sendable)

    def close(self) -> None:
        """Lets wandb finish, for at most `close_timeout` seconds; safe to call twice."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(queue.Full):
            self._records.put_nowait(None)
        self._thread.join(self.spec.close_timeout)
        if self._thread.is_alive():
            self.say(f"wandb was still uploading after {self.spec.close_timeout:g} s and was left behind.")

    def _work(self) -> None:
        try:
            run = self._open()
            run.define_metric("step")
            run.define_metric("*", step_metric="step")
            while (record := self._records.get()) is not None:
                run.log(record)
            run.finish()
        except Exception as error:  # whatever a logging service does, the training goes on
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self.say(f"wandb is switched off for this run ({reason[0]}); metrics.jsonl has every number.")

    def _open(self):
        import wandb  # takes seconds and may be missing: only here, in the thread

        failure: Exception = RuntimeError("no mode")
        for mode in self.modes:
            settings = wandb.Settings(
                init_timeout=self.spec.init_timeout,
                login_timeout=self.spec.init_timeout,
                finish_timeout=self.spec.close_timeout,
                finish_timeout_raises=False,
                console="off",
                silent=True,
            )
            try:
                return wandb.init(
                    project=self.spec.project,
                    name=self.spec.name or None,
                    group=self.spec.group or None,
                    dir=str(self.workdir),
                    config=self.config,
                    id=stored_run_id(self.workdir),
                    resume="allow" if mode == "online" else None,
                    mode=mode,
                    settings=settings,
                )
            except Exception as error:  # no network on the node: the next mode, if there is one
                failure = error
        raise failure


def wandb_modes(mode: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The modes to try in order; none means off. WANDB_MODE overrides everything but "off"."""
    asked = environment.get("WANDB_MODE", "").lower()
    if (
        mode == "off"
        or asked in ("disabled", "off")
        or environment.get("WANDB_DISABLED", "").lower() == "true"
    ):
        return ()
    if asked in ("offline", "dryrun") or mode == "offline":
        return ("offline",)
    if asked == "online" or mode == "online" or is_logged_in(environment):
        return ("online", "offline")
    return ("offline",)


def is_logged_in(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether wandb would find a key: WANDB_API_KEY, or an entry for its host in the netrc file."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(environment.get("NETRC", Path(environment.get("HOME", "~")).expanduser() / ".netrc"))
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def stored_run_id(workdir: str | os.PathLike[str]) -> str:
    """The wandb id of a run folder, made on first use."""
    path = Path(workdir) / "wandb_id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text(encoding="utf-8").strip()
