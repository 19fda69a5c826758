"""Losers of a sweep are stopped early: what has been decided, kept in one file, and which runs have to wait for it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxrl.evaluation.intervals import Estimate
from jaxrl.evaluation.results import from_json
from jaxrl.reporting.files import write_text
from jaxrl.sweeps.halving_decisions import Stop, losers


class Halving:
    """Decisions after `steps`, each once the runs of all settings that are left have been evaluated there.

    folders: setting -> the run folders of its seeds. Everything follows from these folders and from `file`, so any
    number of processes may ask, one after another or side by side, and none has to remember. No steps: nothing waits.
    """

    def __init__(self, file: Path, folders: Mapping[str, Sequence[Path]], steps: Sequence[int] = ()):
        self.file, self.folders, self.steps = file, folders, sorted(steps)

    def stops(self) -> dict[str, Stop]:
        """By setting, what has been stopped so far after one of `steps`."""
        return {
            stop.setting: stop
            for step, stops in read_decisions(self.file).items()
            if step in self.steps
            for stop in stops
        }

    def pause(self) -> int | None:
        """The step after which runs wait for all the others; None: they may go to their end."""
        decided = read_decisions(self.file)
        return next((step for step in self.steps if step not in decided), None)

    def holds(self, setting: str, folder: Path) -> bool:
        """Whether this run must not go on now: it was stopped, or waits where the others have yet to come. One that
        will not be judged, as a run of its setting failed, waits for nobody."""
        if not self.steps:
            return False
        step = self.pause()
        waits = step is not None and _evaluation(folder, step) is not None and setting not in self._failed()
        return waits or setting in self.stops()

    def decide(self) -> list[Stop]:
        """What can be decided now and was not before. A setting of which a run failed is neither awaited nor judged."""
        new = []
        for step in self.steps:
            decided, out = read_decisions(self.file), {*self.stops(), *self._failed()}
            if step in decided:
                continue
            paths = {
                setting: [_evaluation(folder, step) for folder in folders]
                for setting, folders in self.folders.items()
                if setting not in out
            }
            if not paths or not all(path for found in paths.values() for path in found):
                break
            try:
                results = {
                    setting: [from_json(path.read_text(encoding="utf-8")) for path in found]
                    for setting, found in paths.items()
                }
            except FileNotFoundError:  # a run that starts again has gone back behind it
                break
            decided[step] = losers(step, results)
            _write_decisions(self.file, decided)
            new += decided[step]
        return new

    def _failed(self) -> set[str]:
        return {
            setting
            for setting, folders in self.folders.items()
            if any(failure_mark(folder).exists() for folder in folders)
        }


def failure_mark(folder: Path) -> Path:
    """The file that tells all who make runs of the sweep that this one failed; gone once that is started again."""
    return folder.parent / "logs" / f"{folder.name}.failed"


def read_decisions(file: Path) -> dict[int, list[Stop]]:
    """Step -> what was stopped after it, of a sweep's stopped.json; empty where there is none."""
    if not file.is_file():
        return {}
    stored = json.loads(file.read_text(encoding="utf-8"))
    return {
        int(step): [
            Stop(**fields | {name: Estimate(*fields[name]) for name in ("accuracy", "bar")}) for fields in stops
        ]
        for step, stops in stored.items()
    }


def _write_decisions(file: Path, decided: Mapping[int, Sequence[Stop]]) -> None:
    stored = {step: [stop._asdict() for stop in stops] for step, stops in sorted(decided.items())}
    write_text(file, json.dumps(stored, indent=1) + "\n")


def _evaluation(folder: Path, step: int) -> Path | None:
    """The evaluation after `step`, or the last one of a run whose stages ended before it."""
    names = (f"step_{step:06d}", "after")
    return next((path for name in names if (path := folder / "evaluations" / f"{name}.json").is_file()), None)
