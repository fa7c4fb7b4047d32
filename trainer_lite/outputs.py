"""The files of a run: adaptors of the last epoch, of the best and of a stopped run; its history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime import formats, tensorfile
from edge_runtime.atomic import refuse_special, refuse_unwritable, remove_leftovers
from edge_runtime.errors import EdgeError
from edge_runtime.features import FeatureFolder
from trainer_lite.config import TrainConfig
from trainer_lite.history import history_path, write_history
from trainer_lite.reports import TrainResult
from trainer_lite.stops import StoppedError


class Outputs:
    """Names beside `last`: `.best`, `.stopped` before its suffix; `.history.json` in its place."""

    def __init__(self, last: Path, *, threads: int = 1, memory_budget: int | None = None):
        self.last, self.threads, self.memory_budget = last, threads, memory_budget
        self.best = last.with_name(f"{last.stem}.best{last.suffix}")
        self.stopped = last.with_name(f"{last.stem}.stopped{last.suffix}")
        self.history = history_path(last)

    def refuse_others(
        self, config: TrainConfig, features: FeatureFolder, *, force: bool, resume: bool
    ) -> None:
        """Says before the work begins that one of them could not be written. A run that goes on
        may replace what it wrote before it was interrupted."""
        refuse_unwritable(self.history, force=force or resume)
        paths = [self.stopped]
        if "val" in features.split_names and config.fit_on == "train":
            paths.append(self.best)
        for path in paths:
            own = resume and is_of_run(path, config, features)
            refuse_unwritable(path, force=force or own)
        if resume:
            for path in (self.last, self.history, *paths):
                remove_leftovers(path)

    def write(self, result: TrainResult) -> str:
        """Writes the last epoch's adaptor and the history; what people are to hear of it."""
        result.adaptor.save(self.last)
        return self._write_history("last", self.last, result)

    def keep(self, error: StoppedError) -> str:
        """Writes what a stopped run had learnt; how its message goes on."""
        if error.result is None:
            return ""
        error.result.adaptor.save(self.stopped)
        warning = ""
        if error.result.history:
            warning = self._write_history("stopped", self.stopped, error.result)
        more = ", and --resume can go on" if error.saved else ""
        return f"; what was learnt so far is in {self.stopped}{more}{warning and '; ' + warning}"

    def _write_history(self, name: str, path: Path, result: TrainResult) -> str:
        """A warning where it cannot be written: no run fails for that."""
        adaptors = {name: path}
        if result.best_epoch is not None:
            adaptors["best"] = self.best
        try:
            write_history(
                self.history,
                adaptors,
                result,
                threads=self.threads,
                memory_budget=self.memory_budget,
            )
        except OSError as error:
            return f"warning: no history was written: {error}"
        return ""


def is_of_run(path: Path, config: TrainConfig, features: FeatureFolder) -> bool:
    """Whether a file is an adaptor that was trained with these options on these features."""
    refuse_special(path)
    try:
        with open(path, "rb") as file:
            metadata = tensorfile.read_header(file, path).metadata
        found: list[Any] = [formats.loads(metadata[key]) for key in ("training", "features")]
    except (EdgeError, OSError, KeyError, ValueError, RecursionError):
        return False
    return found == [config.to_json(), features.reference]
