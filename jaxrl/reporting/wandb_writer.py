"""A run in wandb: all numbers, the recipe's curves by name, tables of responses; never a reason for a run to stop."""

import contextlib
import netrc
import os
import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from jaxrl.reporting.curves import PANELS
from jaxrl.reporting.files import from_line, to_line, write_text
from jaxrl.reporting.rollouts import GroupRecord
from jaxrl.reporting.writers import Record
from jaxrl.tasks.problem import kind_label

_COLUMNS = ("step", "stage", "problem", "kind", "prompt", "response", "verdict", "reward", "advantage", "length")


@dataclass(frozen=True)
class WandbSpec:
    """`auto` is online when logged in and offline otherwise; WANDB_MODE in the environment goes before it."""

    mode: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "jaxrl"
    samples: int = 8  # responses in a table, each to another problem of the step
    samples_every: int = 10  # steps between tables; 0: none
    name: str = ""
    init_timeout: float = 20.0  # seconds before going on without a server
    close_timeout: float = 30.0  # seconds to wait for the upload at the end

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "online", "offline", "off"):
            raise ValueError(f"wandb.mode: expected auto, online, offline or off, got {self.mode!r}.")
        if self.samples < 1 or self.samples_every < 0:
            raise ValueError(
                f"wandb: expected samples of 1 or more, and samples_every of 0 (none) or more, got "
                f"{self.samples} and {self.samples_every}."
            )


class WandbWriter:
    """Sends records to wandb from a thread of its own, so that it never holds up or breaks the run.

    Any exception of wandb switches it off with one sentence to `say`. The run's id stands in `wandb_id` in
    the run folder, so that a resumed run goes on under the same id. Records with steps that were sent before
    are sent again and overlay themselves: the curves' x-axis is the metric `step`, not wandb's own counter.

    Beside the names of the metrics table stand those of `curves`, which somebody who knows the recipe looks for.
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
            plain = from_line(to_line(record))
            self._hand_over({k: v for k, v in plain.items() if isinstance(v, int | float | str)} | curves(plain))

    def write_samples(self, step: int, groups: Sequence[GroupRecord]) -> None:
        """Hands over a table of responses, the first to each of the first problems, where one is due; as `write`."""
        every = self.spec.samples_every
        if every and step % every == 0 and self._thread.is_alive():
            self._hand_over({"step": step, "samples": [_row(group) for group in groups[: self.spec.samples]]})

    def _hand_over(self, entry: dict[str, Any]) -> None:
        with contextlib.suppress(queue.Full):  # wandb is stuck: the run folder has it all the same
            self._records.put_nowait(entry)

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
            while (entry := self._records.get()) is not None:
                if "samples" in entry:
                    entry["samples"] = self._table(entry["samples"])
                run.log(entry)
            run.finish()
        except Exception as error:  # whatever a logging service does, the training goes on
            self.say(f"wandb is switched off for this run ({_first_line(error)}); metrics.jsonl has every number.")

    def _table(self, data: list[list[Any]]):
        import wandb

        return wandb.Table(columns=list(_COLUMNS), data=data)

    def _open(self):
        import wandb  # takes seconds and may be missing: only here, in the thread

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
                    self.say(
                        f"wandb is out of reach ({_first_line(failure)}): this run is kept offline, and "
                        f"`wandb sync --id {run.id} {self.workdir / 'wandb'}/offline-run-*` sends it later."
                    )
                return run
            except Exception as error:  # no network on the node: the next mode, if there is one
                failure = error
                wandb.teardown()  # else its service holds the id, and the next mode is refused it
        raise failure


def curves(record: Record) -> dict[str, object]:
    """The recipe's curves of a record by readable names: those of the run's picture, and held-out accuracy by kind."""
    named = {f"curves/{label}": record[name] for label, name, *_ in PANELS if name in record}
    for name, value in record.items():
        if name.startswith("evaluation/") and name.endswith("/sampled/accuracy"):
            kind = name.split("/")[1]
            named[f"curves/held-out accuracy, {'all' if kind == 'all' else kind_label(kind)}"] = value
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
    ]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def wandb_modes(mode: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The modes to try in order; none means off. WANDB_MODE overrides everything but "off"."""
    asked = environment.get("WANDB_MODE", "").lower()
    if mode == "off" or asked in ("disabled", "off") or environment.get("WANDB_DISABLED", "").lower() == "true":
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
