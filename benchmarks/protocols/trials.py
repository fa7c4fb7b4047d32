"""Training runs of a protocol: options chosen on val, then several seeds; each kept as a file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.adaptor import Adaptor
from edge_runtime.atomic import write_file
from edge_runtime.errors import ConfigError, DataError
from edge_runtime.features import FeatureFolder
from trainer_lite.config import TrainConfig
from trainer_lite.trainer import Trainer

Options = Mapping[str, Any]


def grid(searched: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of `NAME=VALUE,VALUE`, the names being those of TrainConfig.

    Raises:
        ConfigError: not of that form, or a name or value that TrainConfig does not take.
    """
    names, columns = [], []
    for text in searched:
        name, _, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in TrainConfig.__dataclass_fields__ or not values:
            raise ConfigError(f"--search {text}: expected an option of train, as lr=1e-3,3e-3")
        names.append(name)
        columns.append([parse(value) for value in values.split(",")])
    found = [dict(zip(names, values)) for values in itertools.product(*columns)]
    for options in found:
        try:
            TrainConfig(**options)
        except TypeError:
            raise ConfigError(f"--search: {options} does not fit; see edgetune train") from None
    return found


def parse(text: str) -> int | float | str:
    """A number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


class Trials:
    """Runs on views of feature folders, remembered in `folder` by what they were given."""

    def __init__(self, folder: Path, fixed: Options):
        self.folder, self.fixed = folder, fixed

    def choose(self, name: str, features: FeatureFolder, tried: Sequence[Options]) -> Options:
        """The options with the best accuracy on the folder's val; the first of equals.

        Options with which training diverges are passed over, unless all do.
        """
        if len(tried) < 2:
            return tried[0]
        found, failure = [], None
        for options in tried:
            try:
                found.append(self.run(f"{name}-search", features, options)["val_accuracy"])
            except DataError as error:
                found.append(-1.0)
                failure = error
        if failure is not None and max(found) < 0:
            raise failure
        return tried[found.index(max(found))]

    def run(self, name: str, features: FeatureFolder, options: Options) -> dict[str, Any]:
        """One training run, or what it came to before; a batch is no larger than the set."""
        rows = features.split("train").rows
        config = TrainConfig(**{"batch_size": min(32, rows), **self.fixed, **options})
        path = self.path(name, options)
        if not path.exists():
            result = Trainer(config).fit(features)
            result.adaptor.save(path.with_suffix(".safetensors"))
            found = {
                "val_accuracy": result.history[-1].val_accuracy,
                "test_accuracy": None if result.test is None else result.test.accuracy,
                "config": config.to_json(),
            }
            with write_file(path) as file:
                file.write(json.dumps(found, indent=1).encode())
        return dict(json.loads(path.read_text()))

    def adaptor(self, name: str, options: Options) -> Adaptor:
        """What a run that was made has trained."""
        return Adaptor.load(self.path(name, options).with_suffix(".safetensors"))

    def path(self, name: str, options: Options) -> Path:
        """Where a run's result is kept."""
        given = sorted({**self.fixed, **options}.items())
        return self.folder / f"{name}-{','.join(f'{k}={v}' for k, v in given)}.json"
