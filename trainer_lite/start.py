"""A run that starts from a trained adaptor, not from random weights; it may learn further classes.

Classes are matched by name: those known keep their rows of the head, new ones are imprinted. The
adaptor's scale of features (`input_rms`) stays, whatever that of the new features is: they are
stored in true units, so only with it the adaptor computes at first what it did before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.adaptor import Adaptor
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import ConfigError, DataError, MismatchError
from edge_runtime.features import FeatureFolder
from edge_runtime.predictor import Predictor, check_shape
from edge_runtime.sources import FeatureSource
from trainer_lite.config import TrainConfig
from trainer_lite.imprint import counted, imprint
from trainer_lite.parameters import ParameterSet

Array = np.ndarray[Any, Any]

SHAPE = ("kind", "rank", "blocks", "heads", "pool")
BY_CLASS = ("head.weight", "head.bias")  # tensors with a row a class


@dataclass(frozen=True)
class Start:
    """An adaptor to start from, and the sha256 of its file, by which others name it."""

    adaptor: Adaptor
    sha256: str
    path: Path

    @classmethod
    def load(cls, path: str | Path) -> Start:
        """Reads an adaptor file.

        Raises:
            FormatError: not an adaptor file, damaged, or of a version not known here.
        """
        adaptor = Adaptor.load(path)
        return cls(adaptor, formats.file_sha256(Path(path), small=True), Path(path))

    def config(self, **options: Any) -> TrainConfig:
        """Options of a run that starts here: the shape is the adaptor's.

        Raises:
            ConfigError: an option of the shape that is given says otherwise.
        """
        shape = {name: getattr(self.adaptor.config, name) for name in SHAPE}
        for name in SHAPE:
            if options.get(name, shape[name]) != shape[name]:
                raise ConfigError(
                    f"--{name} {options[name]} does not fit {self.path}, an adaptor of {name} "
                    f"{shape[name]}; leave the option away, or train without --init"
                )
        return TrainConfig(**{**options, **shape, "init": self.sha256})

    def shape_on(self, features: FeatureFolder) -> AdaptorConfig:
        """The shape of the adaptor that is trained on these features.

        Raises:
            MismatchError: they come from another backbone or are pooled otherwise, or a class that
                the adaptor knows is not among theirs.
        """
        check_fit(self.adaptor, features)
        missing = [name for name in self.adaptor.classes if name not in features.classes]
        if missing:
            raise MismatchError(
                f"{self.path} knows {', '.join(missing)}, and {features.path} has no such class; "
                f"give features of all classes that are to be known, or use `edgetune add-class`"
            )
        return replace(self.adaptor.config, classes=len(features.classes))

    def fill(self, parameters: ParameterSet, classes: list[str]) -> dict[str, Array]:
        """Start values of what is trained; the adaptor's other tensors, which stay as they are.

        Rows of new classes are 0 until `imprint`.
        """
        places = [classes.index(name) for name in self.adaptor.classes]
        for name, values in parameters.values.items():
            given = self.adaptor.parameters[name]
            values[places if name in BY_CLASS else ...] = given
        held = self.adaptor.parameters.items()
        return {name: array for name, array in held if name not in parameters.values}

    def imprint(
        self,
        parameters: ParameterSet,
        predictor: Predictor,
        source: FeatureSource,
        classes: list[str],
    ) -> None:
        """Gives new classes rows of the head, from the images of `source`.

        Raises:
            DataError: a new class has none.
        """
        new = [i for i, name in enumerate(classes) if name not in self.adaptor.classes]
        if not new:
            return
        counts = counted([source], len(classes))
        empty = [classes[index] for index in new if not counts[index]]
        if empty:
            raise DataError(f"new classes need images to start from; {', '.join(empty)} has none")
        weight, bias = (parameters.values[name] for name in BY_CLASS)
        imprint(weight, bias, new, predictor, [source])


def check_fit(adaptor: Adaptor, features: FeatureFolder) -> None:
    """MismatchError where features come from another backbone than the adaptor's, are in another
    basis, or pooled otherwise."""
    adaptor.check_stored(features)
    check_shape(adaptor.config, features.split("train"))
