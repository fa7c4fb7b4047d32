"""The adaptor files of a run: the last epoch, the best, and what a stopped run had learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime import formats, tensorfile
from edge_runtime.atomic import refuse_special, refuse_unwritable, remove_leftovers
from edge_runtime.errors import EdgeError
from edge_runtime.features import FeatureFolder
from trainer_lite.config import TrainConfig
from trainer_lite.stops import StoppedError


class Outputs:
    """Names beside `last`: `.best` and `.stopped` before its suffix."""

    def __init__(self, last: Path):
        self.last = last
        self.best = last.with_name(f"{last.stem}.best{last.suffix}")
        self.stopped = last.with_name(f"{last.stem}.stopped{last.suffix}")

    def refuse_others(
        self, config: TrainConfig, features: FeatureFolder, *, force: bool, resume: bool
    ) -> None:
        """Says before the work begins that best or stopped could not be written. A run that goes
        on may replace what it wrote before it was interrupted."""
        paths = [self.stopped]
        if "val" in features.split_names and config.fit_on == "train":
            paths.append(self.best)
        for path in paths:
            own = resume and is_of_run(path, config, features)
            refuse_unwritable(path, force=force or own)
        if resume:
            for path in (self.last, *paths):
                remove_leftovers(path)

    def keep(self, error: StoppedError) -> str:
        """Writes what a stopped run had learnt; how its message goes on."""
        if error.adaptor is None:
            return ""
        error.adaptor.save(self.stopped)
        more = ", and --resume can go on" if error.saved else ""
        return f"; what was learnt so far is in {self.stopped}{more}"


def is_of_run(path: Path, config: TrainConfig, features: FeatureFolder) -> bool:
    """Whether a file is an adaptor that was trained with these options on these features."""
    refuse_special(path)
    try:
        with open(path, "rb") as file:
            metadata = tensorfile.read_header(file, path).metadata
        found: list[Any] = [formats.loads(metadata[key]) for key in ("training", "features")]
    except (EdgeError, OSError, KeyError, ValueError, RecursionError):
        return False
    expected = {"identity": features.identity, "codec": features.codec.name}
    return found == [config.to_json(), expected]
