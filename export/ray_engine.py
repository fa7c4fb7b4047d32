"""`extract --engine ray`: a Ray Data job makes the shards, many at a time, then `extract` goes on.

Shards are the unit of work, as they are the unit of resumption: the job leaves finished ones in
OUT.partial, where `extract` finds them, checks them and makes what is missing. So the folder is the
local engine's, to the byte. Where a shard begins depends on how many images before it can be read;
this is found out first, by decoding all of them: Ray's workers do that, too.

Images, backbone and OUT must lie at the same paths for all workers: one machine, or a shared disk.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime import errors
from edge_runtime.backbone import Backbone, processors
from edge_runtime.codecs import CODECS
from edge_runtime.errors import ConfigError, DataError, EdgeError, FormatError, MismatchError
from edge_runtime.image_folder import ImageFile
from edge_runtime.preprocess import load_image, reason
from edge_runtime.shard_writer import SplitWriter, shard_ranges

SURVEYED = 64  # images looked at in one task
OBJECT_STORE_BYTES = 256 << 20  # of a cluster of our own: what travels are names
EXTRA = "ray"

Row = dict[str, str]  # one entry, `json`: any name of a file passes through it unharmed


@dataclass(frozen=True)
class Job:
    """What every worker must know."""

    backbone: Path
    reference: dict[str, Any]
    threads: int
    codec: str
    batch_size: int
    folder: Path
    root: Path


def engine(
    workers: int | None, threads: int | None
) -> Callable[[SplitWriter, Mapping[str, Sequence[ImageFile]]], None]:
    """The argument `ahead` of `edge_runtime.extract.extract`.

    Args:
        workers: each opens the backbone and makes one shard at a time; by default as many as fill
            the processors but one.
        threads: of onnxruntime, in each worker; 1 by default.

    Raises:
        MissingExtraError: ray is not installed.
    """
    errors.require("ray", extra=EXTRA)
    errors.require("ray.data", extra=EXTRA)

    def ahead(writer: SplitWriter, splits: Mapping[str, Sequence[ImageFile]]) -> None:
        with cluster() as cpus:
            make_shards(writer, splits, workers or max(1, cpus - 1), threads or 1, cpus)

    return ahead


@contextmanager
def cluster() -> Iterator[int]:
    """Ray, for the length of the block, and how many CPUs it has, at least 2.

    It joins the cluster that RAY_ADDRESS names, or else starts one on this machine, which counts
    two CPUs where there is one, so that the workers never hold all.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # no warnings over the progress bar
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(
                address="local",
                num_cpus=max(2, processors()),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
    except Exception as error:
        raise ConfigError(f"Ray cannot be started: {first_line(error)}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < 2:
            raise ConfigError(f"the Ray cluster has {cpus} CPUs, at least 2 are needed")
        yield cpus
    except ray.exceptions.RayError as error:
        raise EdgeError(f"a Ray worker failed: {first_line(error)}") from None
    finally:
        ray.shutdown()


def make_shards(
    writer: SplitWriter,
    splits: Mapping[str, Sequence[ImageFile]],
    workers: int,
    threads: int,
    cpus: int,
) -> None:
    """Has workers make all shards of all splits that are not there yet.

    Raises:
        EdgeError: what a worker raised for an image, or for the backbone.
    """
    import ray.data

    backbone = writer.backbone
    if not isinstance(backbone, Backbone):
        raise ConfigError("Ray's workers open the backbone themselves; give its folder")
    if writer.masks is not None:
        raise ConfigError("images with masks are extracted by --engine local alone")
    folders = {"root": writer.root.absolute(), "folder": writer.folder.absolute()}
    unreadable = survey(writer, splits)
    job = Job(
        backbone.folder.absolute(),
        backbone.reference,
        threads,
        writer.codec.name,
        writer.batch_size,
        **folders,
    )
    tasks = list(plan(writer, splits, unreadable))
    pool = ray.data.ActorPoolStrategy(size=min(workers, len(tasks)))
    made = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
        Worker,
        fn_constructor_args=(job,),
        compute=pool,
        num_cpus=share(min(workers, len(tasks)), threads, cpus),
    )
    for row in made.iter_rows():
        found = json.loads(row["json"])
        if "error" in found:
            raise getattr(errors, found["kind"])(found["error"])
        writer.advance(found["images"], found["rows"])


def share(workers: int, threads: int, cpus: int) -> float:
    """CPUs that Ray sets aside for each worker: one a thread, as long as one CPU is left over.

    Where workers hold every CPU, a Ray Data job waits for ever.
    """
    most = (cpus - 1) / workers
    if most < 1:
        return int(most * 1000) / 1000
    return min(threads, int(most))


def survey(writer: SplitWriter, splits: Mapping[str, Sequence[ImageFile]]) -> frozenset[str]:
    """The images that cannot be read; `writer` hears of each, in their order."""
    import ray.data

    paths = [file.path for files in splits.values() for file in files]
    tasks = [
        packed({"root": str(writer.root.absolute()), "paths": paths[start : start + SURVEYED]})
        for start in range(0, len(paths), SURVEYED)
    ]
    preprocessing = writer.backbone.preprocessing
    looked = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
        look, fn_kwargs={"preprocessing": preprocessing}
    )
    found: dict[str, str] = {}
    for row in looked.iter_rows():
        found.update(json.loads(row["json"]))
    for path in paths:
        if path in found:
            writer.skipped(path, found[path])
    return frozenset(found)


def look(row: Row, preprocessing: Any) -> Row:
    """Which images of a task cannot be read, and why; runs in a task of Ray's."""
    task, found = json.loads(row["json"]), {}
    for path in task["paths"]:
        try:
            load_image(Path(task["root"]) / path, preprocessing)
        except DataError as error:
            found[path] = reason(error)
    return packed(found)


def plan(
    writer: SplitWriter, splits: Mapping[str, Sequence[ImageFile]], unreadable: frozenset[str]
) -> Iterator[Row]:
    """One task a shard, in order."""
    for split, files in splits.items():
        capacity = writer.capacity(files)
        readable = [file.path not in unreadable for file in files]
        for index, (start, stop) in enumerate(shard_ranges(readable, capacity)):
            listed = [(file.path, file.label, file.bytes) for file in files[start:stop]]
            yield packed({"split": split, "index": index, "capacity": capacity, "files": listed})


class Worker:
    """Makes shards with a backbone of its own; lives in an actor of Ray's."""

    def __init__(self, job: Job):
        self._counted = (0, 0)
        self._writer: SplitWriter | None = None
        self._error: EdgeError | None = None
        try:
            self._writer = self._open(job)
        except EdgeError as error:  # each task answers with it: actors that fail are started anew
            self._error = error

    def _open(self, job: Job) -> SplitWriter:
        backbone = Backbone.open(job.backbone, job.threads, spin=False)
        if backbone.reference != job.reference:
            raise MismatchError(f"{job.backbone} is another backbone on another machine")
        backbone.verify()
        if not job.folder.is_dir():
            raise FormatError(f"{job.folder} is not there on every machine; use a shared disk")
        return SplitWriter(
            job.folder,
            job.root,
            backbone,
            CODECS[job.codec],
            job.batch_size,
            skipped=lambda path, reason: None,
            advance=self._count,
        )

    def _count(self, images: int, rows: int) -> None:
        self._counted = (self._counted[0] + images, self._counted[1] + rows)

    def __call__(self, row: Row) -> Row:
        """What a task came to: images and rows, or the error in place of both."""
        task = json.loads(row["json"])
        self._counted = (0, 0)
        try:
            if self._error or self._writer is None:
                raise self._error or FormatError("no backbone")
            files = [ImageFile(*entry) for entry in task["files"]]
            buffer = self._writer.buffer(files, task["capacity"])
            self._writer.shard(buffer, task["split"], task["index"], files)
        except EdgeError as error:
            return packed({"kind": type(error).__name__, "error": str(error)})
        return packed({"images": self._counted[0], "rows": self._counted[1]})


def packed(content: Any) -> Row:
    return {"json": json.dumps(content)}


def first_line(error: BaseException) -> str:
    """The last line of an error of Ray's that says something: they end with the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
