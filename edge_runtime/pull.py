"""Fetches what a server has ready: a feature folder, or a backbone's manifest.

A plain GET with Range for every piece, so that any web server that knows Range will do. Files are
built in `NAME.partial/` and go on after an interruption; each is checked against the sha256 of the
manifest, and the manifest against its own identity.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edge_runtime import atomic, formats, partial_folder
from edge_runtime.backbone_base import parse_manifest
from edge_runtime.errors import DataError, FormatError, ServerError
from edge_runtime.feature_split import Shard
from edge_runtime.features import FeatureFolder, listed_files
from edge_runtime.http_link import Answer, Link

PIECE_BYTES = 1 << 20
RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


@dataclass(frozen=True)
class Pulled:
    """What was fetched: `fetched_bytes` of `bytes` in this run."""

    format: str
    identity: str
    files: int
    bytes: int
    fetched_bytes: int


class Manifest:
    """The manifest that lies below a link, and the files that it lists.

    Raises:
        ServerError: none is there, or it is not one of ours, or altered.
    """

    def __init__(self, link: Link):
        answer = link.request("GET", f"/{formats.MANIFEST}", most=formats.MAX_JSON_BYTES)
        if answer.status == 401:
            raise ServerError(f"{link.url} asks for a token that it knows; see --token-file")
        if answer.status != 200:
            raise ServerError(
                f"{link.url} has no {formats.MANIFEST} (status {answer.status}); `edgetune serve` "
                f"publishes .../backbone and, with --features, .../features"
            )
        self.data = answer.body
        try:
            self._parse(Path(formats.MANIFEST))
        except FormatError as error:
            raise ServerError(f"{link.url}: {error}") from None

    def _parse(self, where: Path) -> None:
        content = formats.parse_json(self.data, where)
        self.format, self.files = str(content.get("format")), list[Shard]()
        if self.format == formats.BACKBONE:
            formats.check_version(content, formats.BACKBONE, where)
            self.identity = str(parse_manifest(content, where)["reference"]["identity"])
            return
        formats.check_version(content, formats.FEATURES, where)
        self.identity = formats.check_identity(content, where)
        self.files = listed_files(content, where)

    @property
    def bytes(self) -> int:
        """Of all files that it lists."""
        return sum(file.nbytes for file in self.files)


def pull(
    link: Link,
    manifest: Manifest,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[int, str], None] = lambda count, note: None,
) -> Pulled:
    """Writes the folder `out`, going on where the same was interrupted.

    Args:
        progress: called with a number of bytes that are there now, and a file's name.

    Raises:
        OutputExistsError: `out` exists and may not be replaced.
        MismatchError: `out.partial` belongs to other files.
        DataError: the disk has no room.
        ServerError: the server cannot be reached, or what it sends is not what the manifest says.
    """
    formats.refuse_output(out, manifest.format, force=force)
    partial = atomic.partial_path(out)
    request = {"format": formats.RUN, "version": formats.VERSION, "pull": manifest.identity}
    with partial_folder.lock(partial):
        partial_folder.begin(partial, request, force=force)
        _check_room(partial, manifest.bytes)
        before = link.traffic.down
        for file in manifest.files:
            _fetch(link, file, partial, progress)
        fetched = link.traffic.down - before
        with atomic.write_file(partial / formats.MANIFEST) as written:
            written.write(manifest.data)
        if manifest.format == formats.FEATURES:
            FeatureFolder.open(partial)
        atomic.refuse_existing(out, force=force)
        atomic.publish_folder(partial, out)
        atomic.remove(out / partial_folder.RUN_FILE)
    return Pulled(manifest.format, manifest.identity, len(manifest.files), manifest.bytes, fetched)


def _check_room(folder: Path, needed: int) -> None:
    """Raises DataError where a disk has no room for what is still to come."""
    import shutil

    present = sum(path.stat().st_size for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if needed - present > free:
        raise DataError(
            f"{folder}: {needed - present:,} bytes are still to come, its disk has {free:,} free"
        )


def _fetch(link: Link, file: Shard, folder: Path, progress: Callable[[int, str], None]) -> None:
    """One file, whole and right, unless it is there already."""
    path, part = folder / file.path.name, folder / f"{file.path.name}.part"
    if path.is_file() and formats.file_sha256(path) == file.sha256:
        progress(file.nbytes, file.path.name)
        return
    present = part.stat().st_size if part.is_file() else 0
    progress(min(present, file.nbytes), file.path.name)
    for fresh in (present == 0, True):  # once more from the start, where a resumed one is wrong
        with open(part, "wb" if fresh else "ab") as growing:
            while growing.tell() < file.nbytes:
                piece = _piece(link, file, growing.tell())
                growing.write(piece)
                progress(len(piece), file.path.name)
        if part.stat().st_size == file.nbytes and formats.file_sha256(part) == file.sha256:
            part.replace(path)
            return
        if fresh:
            break
    atomic.remove(part)
    raise ServerError(
        f"{link.url}/{file.path.name} is not what {formats.MANIFEST} says (sha256 differs); it was "
        f"altered on the server or on its way"
    )


def _piece(link: Link, file: Shard, start: int) -> bytes:
    """The next bytes of a file, from `start` on."""
    end = min(start + PIECE_BYTES, file.nbytes)
    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    answer = link.request("GET", f"/{quote(file.path.name)}", headers=headers, most=PIECE_BYTES)
    if answer.status == 200 and (start, len(answer.body)) == (0, file.nbytes):
        return answer.body
    if answer.status != 206 or _range(answer) != (start, end - 1, file.nbytes):
        got = f"status {answer.status}, {answer.headers.get('content-range', 'no Content-Range')}"
        raise ServerError(
            f"{link.url}/{file.path.name}: asked for bytes {start} to {end - 1} of {file.nbytes}, "
            f"got {got}; the server must know Range, and have the file of its manifest"
        )
    return answer.body


def _range(answer: Answer) -> tuple[int, ...]:
    """(first byte, last byte, size of the file) of a 206 answer whose body fits; else ()."""
    found = RANGE.fullmatch(answer.headers.get("content-range", ""))
    numbers = tuple(map(int, found.groups())) if found else ()
    fits = found and numbers[1] - numbers[0] + 1 == len(answer.body)
    return numbers if fits else ()
