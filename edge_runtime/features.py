"""Feature folders on the device: the manifest, checked, and the splits it lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime import formats
from edge_runtime.basis import Basis, named
from edge_runtime.codecs import CODECS, Codec
from edge_runtime.errors import ConfigError, DataError, FormatError
from edge_runtime.feature_split import FeatureSplit, Shard

if TYPE_CHECKING:
    from edge_runtime.masks import MaskShape

SPLITS = ("train", "val", "test")


class FeatureFolder:
    """A folder that `edgetune extract` wrote; docs/formats.md says what is in it."""

    def __init__(self, path: Path, manifest: formats.Json):
        self.path, self.manifest = path, manifest
        where = path / formats.MANIFEST
        self.identity: str = formats.field(manifest, "identity", str, where)
        self.backbone: formats.Json = formats.field(manifest, "backbone", dict, where)
        formats.field(self.backbone, "identity", str, where)
        codec = formats.field(manifest, "codec", str, where)
        if codec not in CODECS:
            raise FormatError(f"{where}: codec {codec!r} is not known here")
        self.codec: Codec = CODECS[codec]
        self.tokens = formats.whole(manifest, "tokens", 1, where)
        self.prefix_tokens = formats.whole(manifest, "prefix_tokens", 0, where)
        self.embed_dim = formats.whole(manifest, "embed_dim", 1, where)
        self.norm_eps = formats.positive(manifest, "norm_eps", where)
        self.classes: list[str] = formats.field(manifest, "classes", list, where)
        if not all(isinstance(name, str) for name in self.classes) or (
            len(set(self.classes)) != len(self.classes)
        ):
            raise FormatError(f"{where}: entry 'classes' must be names that differ")
        self.basis: Basis | None = None
        self._basis_file: Shard | None = None
        if "basis" in manifest:
            self._open_basis(formats.field(manifest, "basis", dict, where), where)
        self.masks = parse_masks(manifest, self.tokens - self.prefix_tokens, where)
        splits = formats.field(manifest, "splits", dict, where)
        self._splits = {name: self._parse_split(name, splits[name]) for name in splits}
        if "train" not in self._splits:
            raise FormatError(f"{where}: there is no train split")

    @classmethod
    def open(cls, path: str | Path) -> FeatureFolder:
        """Reads the manifest and checks every shard's size.

        Raises:
            FormatError: not a feature folder, damaged, or of a version not known here.
        """
        folder = Path(path)
        return cls(folder, formats.read_manifest(folder, formats.FEATURES))

    @property
    def split_names(self) -> list[str]:
        return [name for name in SPLITS if name in self._splits]

    def split(self, name: str) -> FeatureSplit:
        """One split by name; DataError where the folder has none of that name."""
        if name not in self._splits:
            have = ", ".join(self.split_names)
            raise DataError(f"{self.path} has no {name} split; it has {have}")
        return self._splits[name]

    def check(self) -> None:
        """Reads every shard once; an error now saves the work that would have ended with it.

        Raises:
            FormatError, DataError: altered, truncated, a label of no class, or NaN.
        """
        for name in self.split_names:
            self.split(name).check()

    @property
    def files(self) -> list[Shard]:
        """Every file but the manifest: the basis, where there is one, and the shards."""
        shards = [shard for split in self._splits.values() for shard in split.shards]
        return shards if self._basis_file is None else [self._basis_file, *shards]

    @property
    def reference(self) -> formats.Json:
        """What an adaptor notes of the features it was trained on."""
        return {"identity": self.identity, "codec": self.codec.name}

    def verify(self) -> Iterator[tuple[str, bool]]:
        """(file name, whether its sha256 is the manifest's) for every file."""
        for file in self.files:
            yield file.path.name, formats.file_sha256(file.path) == file.sha256

    def _open_basis(self, entry: formats.Json, where: Path) -> None:
        """Reads the basis that the features are stored in."""
        file = parse_shard(entry, where)
        check_size(file)
        basis = named(Basis.load(file.path), entry.get("identity"), file.path)
        if (basis.width, file.rows) != (self.embed_dim, self.embed_dim):
            raise FormatError(
                f"{file.path}: a basis of {basis.width}, but {where} has features of "
                f"{self.embed_dim}; transcode again"
            )
        self.basis, self._basis_file = basis, file

    def _parse_split(self, name: str, content: Any) -> FeatureSplit:
        where = self.path / formats.MANIFEST
        if name not in SPLITS or not isinstance(content, dict):
            raise FormatError(f"{where}: split {name!r} is not one of {', '.join(SPLITS)}")
        rms = formats.positive(content, "rms", where)
        listed = formats.field(content, "shards", list, where)
        shards = [self._open_shard(parse_shard(entry, where)) for entry in listed]
        split = FeatureSplit(self, name, shards, rms)
        if split.rows != content.get("rows") or not shards:
            raise FormatError(
                f"{where}: split {name!r} should have {content.get('rows')} rows, its shards have "
                f"{split.rows}; run extract again"
            )
        return split

    def _open_shard(self, shard: Shard) -> Shard:
        """Checks that a shard's file is there, with the size that it should have."""
        check_size(shard)
        if shard.rows * self.codec.bytes_per_image(self.tokens, self.embed_dim) > shard.nbytes:
            raise FormatError(
                f"{shard.path} is too small for {shard.rows} rows of {self.tokens} tokens x "
                f"{self.embed_dim}; run extract again"
            )
        return shard


def parse_masks(manifest: formats.Json, patch_tokens: int, where: Path) -> MaskShape | None:
    """What a manifest says of masks; None for a folder that has a class an image."""
    if "masks" not in manifest:
        return None
    from edge_runtime.masks import mask_shape, mask_size  # not in memory where there are none

    entry = formats.field(manifest, "masks", dict, where)
    try:
        return mask_shape(mask_size(entry, where), patch_tokens)
    except ConfigError as error:
        raise FormatError(f"{where}: {error}") from None


def parse_shard(entry: Any, where: Path) -> Shard:
    """A shard as an entry of the manifest `where` describes it."""
    if not isinstance(entry, dict):
        raise FormatError(f"{where}: a shard entry is not an object")
    name = formats.field(entry, "file", str, where)
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise FormatError(f"{where}: shard name {name!r} is not a plain file name")
    return Shard(
        where.parent / name,
        formats.whole(entry, "rows", 1, where),
        formats.whole(entry, "bytes", 0, where),
        formats.whole(entry, "crc32", 0, where),
        formats.field(entry, "sha256", str, where),
    )


def check_size(file: Shard) -> None:
    """FormatError where a listed file is not there, or of another size."""
    try:
        found = file.path.stat().st_size
    except FileNotFoundError:
        raise FormatError(f"{file.path} is missing; run extract again") from None
    if found != file.nbytes:
        raise FormatError(
            f"{file.path} should have {file.nbytes} bytes and has {found}: it is truncated "
            f"or altered; run extract again"
        )


def listed_files(manifest: formats.Json, where: Path) -> list[Shard]:
    """Every file that a manifest lists, whether or not it is there.

    Raises:
        FormatError: the list is damaged, or two files have one name.
    """
    splits = formats.field(manifest, "splits", dict, where)
    if not all(isinstance(split, dict) for split in splits.values()):
        raise FormatError(f"{where}: a split is not an object")
    files = [
        parse_shard(entry, where)
        for split in splits.values()
        for entry in formats.field(split, "shards", list, where)
    ]
    if "basis" in manifest:
        files.insert(0, parse_shard(manifest["basis"], where))
    if len({file.path.name.casefold() for file in files}) != len(files):
        raise FormatError(f"{where}: two files have one name")
    return files
