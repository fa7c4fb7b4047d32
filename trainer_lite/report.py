"""All that the files of some runs say of them, as one object: the adaptors, their histories, and
what they make of the features they are asked to judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import __version__, formats
from edge_runtime.classifier import Classifier
from edge_runtime.codecs import CODECS
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import ConfigError, FormatError, MismatchError
from edge_runtime.feature_split import FeatureSplit
from edge_runtime.features import FeatureFolder
from edge_runtime.metrics import evaluation_of
from edge_runtime.runtimes import open_adaptor, runtime_of
from edge_runtime.sources import FeatureSource
from trainer_lite.history import MOST, check_number, history_of

Json = dict[str, Any]

MOST_RUNS = 12  # that curves can be told apart of
MISTAKES, MOST_MISTAKES = 12, 60  # of a run, of a page
SHAPE = ("kind", "tokens", "embed_dim", "classes", "rank", "blocks", "heads", "pool")
STAGES = ("training", "inference")
OPERATION = ("macs", "flops", "bytes", "runs", "seconds", "limit_seconds")


def report(
    paths: Sequence[Path],
    features: FeatureFolder | None = None,
    profile: Path | None = None,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> Json:
    """What a page shows of the adaptors at `paths`.

    Args:
        features: what to judge them on: its test split, or val where there is no test.
        profile: what `edgetune profile --json` wrote for one of them.
        advance: takes (runs done, note), for progress.

    Raises:
        ConfigError: more runs than fit a page.
        FormatError: not an adaptor, or a file that is damaged.
        MismatchError: features, or a profile, of something else.
    """
    if len(paths) > MOST_RUNS:
        raise ConfigError(f"a page shows at most {MOST_RUNS} runs, {len(paths)} were given")
    split = None if features is None else judged_split(features)
    runs, names = [], run_names(paths)
    for index, path in enumerate(paths):
        adaptor = open_adaptor(path)
        run = {"name": names[index], "letter": chr(ord("A") + index), **facts(path, adaptor)}
        run["evaluation"] = None
        if features is not None:
            try:
                if adaptor.config.dense:
                    raise ConfigError(
                        f"{path} is of kind segmentation, and reports judge classifiers; leave "
                        f"--features out, `edgetune evaluate` tells its IoU"
                    )
                if split is None:
                    adaptor.check_stored(features)
                else:
                    most = max(3, min(MISTAKES, MOST_MISTAKES // len(paths)))
                    rows = adaptor.labelled(features, split.name)
                    run["evaluation"] = judged(adaptor, rows, split.paths, most)
            except MismatchError as error:
                raise MismatchError(f"{path}: {error}") from None
            run["trained_on_these"] = adaptor.features.get("identity") == features.identity
        runs.append(run)
        advance(1, names[index])
    return {
        "edgetune": __version__,
        "runs": runs,
        "features": None if features is None else features_facts(features),
        "split": None if split is None else split.name,
        "profile": None if profile is None else read_profile(profile, runs),
    }


def run_names(paths: Sequence[Path]) -> list[str]:
    """File names without suffix; with as much of their folders as tells them apart."""
    names = [path.stem if path.suffix == ".safetensors" else path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def facts(path: Path, adaptor: Classifier) -> Json:
    """What an adaptor says of itself, and the history of its run, or why there is none."""
    history, missing, runtime = None, None, runtime_of(path)
    try:
        history = history_of(path)
    except FormatError as error:
        missing = str(error)
    if runtime != "numpy":
        history, missing = None, f"{path} is a graph: its adaptor file has the history beside it"
    return {
        "path": str(path),
        "runtime": runtime,
        "bytes": path.stat().st_size,
        "sha256": formats.file_sha256(path),
        "parameters": adaptor.config.parameter_count(),
        **adaptor.entries(),
        "history": history,
        "history_missing": missing,
        "codecs": codec_bytes(adaptor),
    }


def codec_bytes(adaptor: Classifier) -> list[Json]:
    """Bytes an image in every codec that a backbone of these tokens can be stored in."""
    config, used = adaptor.config, adaptor.trained_codec
    found = []
    for codec in CODECS.values():
        if used.pool != 1 and codec.pool != used.pool:
            continue  # how many tokens there were before pooling, an adaptor does not know
        try:
            tokens = config.tokens
            if used.pool == 1:
                tokens = codec.stored_tokens(config.tokens, config.prefix_tokens)
        except ConfigError:
            continue
        size = codec.bytes_per_image(tokens, config.embed_dim)
        found.append({"codec": codec.name, "tokens": tokens, "bytes": size})
    return found


def features_facts(features: FeatureFolder) -> Json:
    """What a feature folder is, and how large."""
    splits = [features.split(name) for name in features.split_names]
    return {
        "path": str(features.path),
        "identity": features.identity,
        "codec": features.codec.name,
        "skipped": len(formats.field(features.manifest, "skipped", list, features.path)),
        "versions": features.manifest.get("versions"),
        "splits": {
            split.name: {"rows": split.rows, "bytes": sum(s.nbytes for s in split.shards)}
            for split in splits
        },
    }


def judged_split(features: FeatureFolder) -> FeatureSplit | None:
    """The split that a report is of: images that no parameter was fitted to, or None."""
    names = [name for name in ("test", "val") if name in features.split_names]
    return features.split(names[0]) if names else None


def judged(adaptor: Classifier, source: FeatureSource, paths: Sequence[str], most: int) -> Json:
    """Accuracy and confusion on rows, and their wrong answers of the highest probability."""
    labels, probabilities = source.labels, adaptor.predict_proba(source)
    predicted = probabilities.argmax(axis=1)
    rows = np.arange(len(labels))
    sure = probabilities[rows, predicted]
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    found = evaluation_of(labels, predicted, adaptor.config.classes)
    return {
        "images": len(labels),
        "accuracy": found.accuracy,
        "per_class": found.per_class,
        "confusion": found.confusion.tolist(),
        "wrong": len(wrong),
        "mistakes": [
            {
                "path": paths[row],
                "label": int(labels[row]),
                "predicted": int(predicted[row]),
                "probability": float(sure[row]),
                "probability_of_label": float(probabilities[row, labels[row]]),
            }
            for row in worst
        ],
    }


def read_profile(path: Path, runs: Sequence[Mapping[str, Any]]) -> Json:
    """What `edgetune profile --json` wrote, checked, and which runs have that shape.

    Raises:
        FormatError: it is something else. MismatchError: no run has that shape.
    """
    content = formats.read_json(path)
    try:
        config = AdaptorConfig.from_json(formats.field(content, "config", dict, path))
        for key in STAGES:
            check_stage(formats.field(content, key, dict, path), path)
        formats.whole(content, "tile_images", 1, path)
    except (FormatError, ConfigError):
        raise FormatError(f"{path} is not what `edgetune profile --json` writes") from None
    shape = {key: getattr(config, key) for key in SHAPE}
    letters = [run["letter"] for run in runs if {key: run["config"][key] for key in SHAPE} == shape]
    if not letters:
        raise MismatchError(
            f"{path} is the profile of another shape than that of the runs; make one with "
            f"`edgetune profile {runs[0]['path']} --json`"
        )
    kept = {key: content[key] for key in (*STAGES, "tile_images")}
    return {"path": str(path), "letters": letters, **kept}


def check_stage(stage: Mapping[str, Any], path: Path) -> None:
    """FormatError where a stage of a profile is not as `profile_table.stage_object` makes it."""
    formats.whole(stage, "images", 1, path)
    for key in ("seconds", "other_seconds"):  # of very short stages even below 0: clocks' own time
        if formats.field(stage, key, (int, float), path) > MOST:
            raise FormatError(f"{path}: {key} is no time")
    for operation in formats.field(stage, "operations", list, path):
        if not isinstance(operation, dict):
            raise FormatError(f"{path}: an operation is not an object")
        formats.field(operation, "section", str, path)
        for key in OPERATION:
            check_number(operation, key, MOST, path)
