"""Logs a run to wandb: all metrics, a few curves under readable names, and tables of responses.

A failure of wandb never stops the run.
"""

import contextlib
import netrc
import os
import queue
import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from jaxrl.reporting.curves import PICTURE_PANELS, SOUND
from jaxrl.reporting.files import from_line, to_line, write_text
from jaxrl.reporting.rollouts import GroupRecord
from jaxrl.reporting.writers import Record
from jaxrl.tasks.problem import kind_label

_COLUMNS = (
    *("step", "stage", "problem", "kind", "prompt", "response", "verdict", "reward", "advantage", "length"),
    *("sound", "first wrong step"),
)


@dataclass(frozen=True)
class WandbSpec:
    """Settings of wandb. mode: `auto` is online if logged in, else offline; the variable WANDB_MODE has precedence."""

    mode: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "jaxrl"
    samples: int = 8  # responses per table, each to a different problem of the step
    samples_every: int = 10  # steps between tables; 0: no tables
    name: str = ""
    init_timeout: float = 20.0  # seconds to wait for the server before falling back to offline
    close_timeout: float = 30.0  # seconds to wait for the upload at the end of the run

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "online", "offline", "off"):
            raise ValueError(f"wandb.mode: expected auto, online, offline or off, got {self.mode!r}; set one of them.")
        if self.samples < 1 or self.samples_every < 0:
            raise ValueError(
                "wandb: expected samples of 1 or more and samples_every of 0 (no tables) or more, got "
                f"{self.samples} and {self.samples_every}; change them."
            )


class WandbWriter:
    """Sends records to wandb from a background thread, so that wandb can neither block nor break the run.

    An exception of wandb disables it, with one sentence to `log`. The wandb id is stored in `wandb_id` in the run
    folder, so that a resumed run keeps its id. A resumed run sends some steps again; they overlay the earlier points,
    because the x-axis is the metric `step` instead of wandb's own counter.

    Besides all metrics, it logs the curves of `readable_curves`.
    """

    def __init__(
        self,
        spec: WandbSpec,
        workdir: str | os.PathLike[str],
        config: Record,
        log: Callable[[str], None] = print,
    ):
        self.spec, self.workdir, self.config, self.log = spec, Path(workdir), dict(config), log
        self.modes = wandb_modes(spec.mode)
        self._records: queue.Queue[dict[str, object] | None] = queue.Queue(maxsize=4096)
        self._thread = threading.Thread(target=self._run, name="wandb", daemon=True)
        if self.modes:
            self._thread.start()

    def write(self, record: Record) -> None:
        """Queues a record. Never blocks and never raises."""
        if self._thread.is_alive():
            plain = from_line(to_line(record))
            self._enqueue({k: v for k, v in plain.items() if isinstance(v, int | float | str)} | readable_curves(plain))

    def write_samples(self, step: int, groups: Sequence[GroupRecord]) -> None:
        """Queues a table with the first response to each of the first problems, every `samples_every` steps."""
        every = self.spec.samples_every
        if every and step % every == 0 and self._thread.is_alive():
            self._enqueue({"step": step, "samples": [_row(group) for group in groups[: self.spec.samples]]})

    def _enqueue(self, entry: dict[str, Any]) -> None:
        with contextlib.suppress(queue.Full):  # wandb is stuck; the run folder has all data
            self._records.put_nowait(entry)

    def close(self) -> None:
        """Waits up to `close_timeout` seconds for wandb to finish. Safe to call twice."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(queue.Full):
            self._records.put_nowait(None)
        self._thread.join(self.spec.close_timeout)
        if self._thread.is_alive():
            self.log(f"wandb was still uploading after {self.spec.close_timeout:g} s; the upload was abandoned.")

    def _run(self) -> None:
        try:
            run = self._open()
            run.define_metric("step")
            run.define_metric("*", step_metric="step")
            while (entry := self._records.get()) is not None:
                if "samples" in entry:
                    entry["samples"] = self._table(entry["samples"])
                run.log(entry)
            run.finish()
        except Exception as error:  # training must continue whatever the logging service does
            self.log(f"wandb is disabled for this run ({_first_line(error)}); metrics.jsonl has all metrics.")

    def _table(self, data: list[list[Any]]):
        import wandb

        return wandb.Table(columns=list(_COLUMNS), data=data)

    def _open(self):
        import wandb  # slow and optional: imported only in this thread

        failure: Exception | None = None
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
                run = wandb.init(
                    project=self.spec.project,
                    name=self.spec.name or None,
                    dir=str(self.workdir),
                    config=self.config,
                    id=stored_run_id(self.workdir),
                    resume="allow" if mode == "online" else None,
                    mode=mode,
                    settings=settings,
                )
                if failure:
                    self.log(
                        f"wandb is unreachable ({_first_line(failure)}): the run is logged offline; upload it with "
                        f"`wandb sync --id {run.id} {self.workdir / 'wandb'}/offline-run-*`."
                    )
                return run
            except Exception as error:  # no network on the node: try the next mode
                failure = error
                wandb.teardown()  # otherwise its service keeps the id, and the next init is refused
        raise failure


def readable_curves(record: Record) -> dict[str, object]:
    """The main curves under readable names: those of the SVG picture, and held-out accuracy and sound accuracy by kind
    of problem."""
    named = {f"curves/{label}": record[name] for label, name, *_ in (*PICTURE_PANELS, SOUND) if name in record}
    for name, value in record.items():
        if found := re.fullmatch(r"evaluation/([^/]+)/sampled/(accuracy|sound)", name):
            kind, statistic = found.groups()
            label = "sound accuracy" if statistic == "sound" else statistic
            named[f"curves/held-out {label}, {'all' if kind == 'all' else kind_label(kind)}"] = value
    return named


def _row(group: GroupRecord) -> list[Any]:
    response = group.responses[0]
    return [
        group.step,
        group.stage,
        group.problem,
        kind_label(group.kind),
        group.prompt,
        response.response,
        response.verdict,
        response.reward,
        response.advantage,
        response.length,
        response.sound,
        response.error,
    ]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def wandb_modes(mode: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The modes to try, in order; empty means off. WANDB_MODE overrides every mode except "off"."""
    override = environment.get("WANDB_MODE", "").lower()
    if mode == "off" or override in ("disabled", "off") or environment.get("WANDB_DISABLED", "").lower() == "true":
        return ()
    if override in ("offline", "dryrun") or mode == "offline":
        return ("offline",)
    if override == "online" or mode == "online" or is_logged_in(environment):
        return ("online", "offline")
    return ("offline",)


def is_logged_in(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether wandb has an API key: in WANDB_API_KEY, or for its host in the netrc file."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(environment.get("NETRC", Path(environment.get("HOME", "~")).expanduser() / ".netrc"))
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def stored_run_id(workdir: str | os.PathLike[str]) -> str:
    """The wandb id of a run folder, created on first use."""
    path = Path(workdir) / "wandb_id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text(encoding="utf-8").strip()
