"""An adaptor with more classes than before: their rows of the head are imprinted, nothing is
trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edge_runtime.adaptor import Adaptor
from edge_runtime.errors import ConfigError, DataError
from edge_runtime.features import FeatureFolder
from edge_runtime.predictor import Predictor
from edge_runtime.program import Workspace
from edge_runtime.selected import Selected, by_name
from edge_runtime.sources import FeatureSource
from trainer_lite.imprint import counted, imprint
from trainer_lite.start import BY_CLASS, Start, check_fit

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Accuracy:
    """Of the classes that an adaptor knew and of those that are new to it, before and after, on
    `split`; None where there are no images to tell by."""

    split: str
    old_before: float | None
    old_after: float | None
    new_after: float | None


@dataclass(frozen=True)
class Growth:
    """A grown adaptor, the images that each new class was made from, and how many old ones."""

    adaptor: Adaptor
    images: dict[str, int]
    old_images: int
    accuracy: list[Accuracy] = field(default_factory=list)


def check_classes(adaptor: Adaptor, features: FeatureFolder, replaced: Sequence[str]) -> list[str]:
    """The classes to add: all of the folder that the adaptor does not know, and those to replace.

    Raises:
        ConfigError: there is none, one to replace is not known or not in the folder, or fewer than
            two of those that are known would stay.
    """
    if adaptor.config.dense or features.masks is not None:
        raise ConfigError("classes are added to classifiers, not to adaptors of kind segmentation")
    for name in replaced:
        if name not in adaptor.classes:
            raise ConfigError(f"--replace {name}: the adaptor knows no such class; leave it away")
        if name not in features.classes:
            raise ConfigError(f"--replace {name}: {features.path} has no images of that class")
    new = [n for n in features.classes if n not in adaptor.classes or n in replaced]
    if not new:
        raise ConfigError(
            f"the adaptor knows all classes of {features.path} ({', '.join(features.classes)}); "
            f"--replace NAME makes one of them anew"
        )
    if len(set(adaptor.classes) - set(replaced)) < 2:
        raise ConfigError("at least two of the adaptor's classes must stay as they are")
    return new


def grow(
    start: Start,
    features: FeatureFolder,
    old: FeatureFolder | None = None,
    *,
    split: str = "train",
    replaced: Sequence[str] = (),
    advance: Callable[[int], None] = lambda count: None,
) -> Growth:
    """Adds the classes of `features` that the adaptor does not know.

    Args:
        old: features of classes that it knows, to hold the new ones against.
        split: of both; what new classes are made from.
        replaced: classes that it knows and that are to be made anew.
        advance: hears how many images were read, time and again.

    Raises:
        MismatchError: features of another backbone, or pooled otherwise.
        ConfigError: no class to add, or one that cannot be replaced.
        DataError: a class to add has no image in the split.
    """
    adaptor, folders = start.adaptor, [features, *([old] if old is not None else [])]
    for folder in folders:
        check_fit(adaptor, folder)
    new = check_classes(adaptor, features, replaced)
    kept = [name for name in adaptor.classes if name not in new]
    if old is not None and not set(kept) & set(old.classes):
        raise ConfigError(
            f"--old {old.path} has none of the classes that stay as they are ({', '.join(kept)}); "
            f"give features of some of these, or leave it away"
        )
    classes = sorted({*kept, *new})
    images = Images(folders, classes, advance)
    sources = images.of(split, new, [features]) + images.of(split, kept)
    counts = dict(zip(classes, counted(sources, len(classes)).tolist()))
    empty = [name for name in new if not counts[name]]
    if empty:
        raise DataError(f"{features.path} has no image of {', '.join(empty)} in its {split} split")
    parameters = dict(adaptor.parameters)
    for name in BY_CLASS:
        given = adaptor.parameters[name]
        parameters[name] = np.zeros((len(classes), *given.shape[1:]), given.dtype)
        for known in kept:
            parameters[name][classes.index(known)] = given[adaptor.classes.index(known)]
    result = Adaptor(
        replace(adaptor.config, classes=len(classes)),
        parameters,
        classes,
        adaptor.backbone,
        features.reference,
        {
            "init": start.sha256,
            "imprinted": {name: counts[name] for name in new},
            "split": split,
            "old": None if old is None else old.identity,
        },
        adaptor.basis,
    )
    workspace = Workspace(np.float32)
    predictor = Predictor(result.fused(workspace), workspace)
    weight, bias = (parameters[name] for name in BY_CLASS)
    imprint(weight, bias, [classes.index(name) for name in new], predictor, sources)
    growth = Growth(
        result, {name: counts[name] for name in new}, sum(counts[name] for name in kept)
    )
    for name in ("val", "test"):
        if name != split and any(name in folder.split_names for folder in folders):
            growth.accuracy.append(compare(adaptor, result, images, name, kept, new))
    return growth


class Images:
    """Rows of feature folders by the names of their classes, labelled by their place in `known`."""

    def __init__(
        self,
        folders: Sequence[FeatureFolder],
        known: list[str],
        advance: Callable[[int], None],
    ):
        self.folders, self.known, self.advance = folders, known, advance

    def of(
        self,
        split: str,
        wanted: Sequence[str],
        folders: Sequence[FeatureFolder] | None = None,
        known: list[str] | None = None,
    ) -> list[Selected]:
        """The rows of some classes, a source a folder; folders without such rows are left out."""
        found = []
        for folder in self.folders if folders is None else folders:
            if split in folder.split_names:
                source: FeatureSource = folder.split(split)
                names = known or self.known
                chosen = by_name(source, folder.classes, wanted, names, self.advance)
                found += [chosen] if len(chosen.labels) else []
        return found


def compare(
    before: Adaptor,
    after: Adaptor,
    images: Images,
    split: str,
    kept: list[str],
    new: list[str],
) -> Accuracy:
    """Accuracy on one split, of classes that stayed as they were and of new ones."""

    def measured(adaptor: Adaptor, wanted: list[str]) -> float | None:
        right = total = 0
        for source in images.of(split, wanted, known=adaptor.classes):
            confusion = adaptor.evaluate(source).confusion
            right, total = right + int(np.trace(confusion)), total + int(confusion.sum())
        return right / total if total else None

    return Accuracy(split, measured(before, kept), measured(after, kept), measured(after, new))
