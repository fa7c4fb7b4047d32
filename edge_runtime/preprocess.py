"""From an image file to the uint8 pixels that a backbone takes: timm's evaluation transform.

Resize and crop happen here, in Pillow; mean and std are applied inside the graph. The sizes are
planned by a pure function, to the pixel as torchvision's Resize and CenterCrop compute them.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from edge_runtime.errors import DataError, FormatError, MissingExtraError, require
from edge_runtime.formats import field

Array = np.ndarray[Any, Any]

CROP_MODES = ("center", "squash")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
MAX_SIZE = 8192
MAX_RESIZED_PIXELS = 1 << 27  # 400 MB of RGB; only extremely elongated images come here
COMMON = ("BMP", "GIF", "JPEG", "PNG", "PPM")  # Pillow always loads these
NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # stubs, videos, external programs


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants its images; `size` and `resize` in pixels."""

    size: int
    resize: int
    crop_mode: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        """As docs/formats.md has it."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path) -> Preprocessing:
        """Reads the `preprocessing` entry of a manifest; FormatError where it makes no sense."""
        return cls(
            size=_pixels(content, "size", path),
            resize=_pixels(content, "resize", path),
            crop_mode=_choice(content, "crop_mode", CROP_MODES, path),
            interpolation=_choice(content, "interpolation", INTERPOLATIONS, path),
            mean=_channels(content, "mean", -math.inf, path),
            std=_channels(content, "std", 0.0, path),
        )


def plan(
    width: int, height: int, preprocessing: Preprocessing
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Where the pixels go: ((width, height) after resizing, crop box left, top, right, bottom).

    The box leaves the resized image where that is smaller than the crop; outside it is black.
    """
    resize, size = preprocessing.resize, preprocessing.size
    if preprocessing.crop_mode == "squash":
        width, height = resize, resize
    elif width <= height:
        width, height = resize, int(resize * height / width)
    else:
        width, height = int(resize * width / height), resize
    left, top = _crop_offset(width, size), _crop_offset(height, size)
    return (width, height), (left, top, left + size, top + size)


def prepare(image: Any, preprocessing: Preprocessing) -> Array:
    """Resizes and crops a Pillow image: uint8 [size, size, 3], RGB.

    Raises:
        DataError: an image without pixels, or so elongated that it cannot be resized.
    """
    pillow = require("PIL.Image", extra="vision")
    width, height = image.size
    if not (width and height):
        raise DataError(f"the image has no pixels ({width} x {height})")
    resized, box = plan(width, height, preprocessing)
    if math.prod(resized) > MAX_RESIZED_PIXELS:
        raise DataError(f"too elongated ({width} x {height} pixels)")
    image = image.convert("RGB") if image.mode != "RGB" else image
    if image.size != resized:
        image = image.resize(resized, pillow.Resampling[preprocessing.interpolation.upper()])
    return np.asarray(image.crop(box), np.uint8)


def load_image(path: Path, preprocessing: Preprocessing) -> Array:
    """Reads an image file: uint8 [size, size, 3], RGB. EXIF orientation is not applied, as in timm.

    Raises:
        DataError: the file cannot be read as an image; the message is `path: reason`, in one line,
            and `reason(error)` is its second half, which names no path.
    """
    require("PIL.Image", extra="vision")
    try:
        with open(path, "rb") as file:
            return decode_image(file, preprocessing, formats_of(file))
    except (MemoryError, MissingExtraError):
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise DataError(f"{path}: {reason(error)}") from error


def decode_image(
    file: BinaryIO,
    preprocessing: Preprocessing,
    formats: Sequence[str],
    max_pixels: float = math.inf,
) -> Array:
    """Decodes an open image file: uint8 [size, size, 3], RGB.

    Raises:
        DataError: it has more than `max_pixels`; and whatever Pillow raises on damaged files.
    """
    pillow = require("PIL.Image", extra="vision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pillow.open(file, formats=formats) as image:
            if math.prod(image.size) > max_pixels:
                raise DataError(f"more than {max_pixels} pixels")
            return prepare(image.convert("RGB"), preprocessing)


def reason(error: BaseException) -> str:
    """Why an image could not be read, in one line that names no path of this machine."""
    if isinstance(error, DataError):
        return reason(error.__cause__) if error.__cause__ else str(error)
    kind = type(error).__name__
    if kind == "UnidentifiedImageError":
        return "not an image that Pillow can read"
    if kind == "DecompressionBombError":
        return "more pixels than Pillow agrees to decode"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return " ".join(str(error).split()) or kind


def formats_of(file: BinaryIO) -> list[str]:
    """Pillow's names of the formats to try on an open file: a common one, if it begins like one.

    Else all, whose decoders take 4 MB when they are loaded.
    """
    prefix = file.read(16)
    file.seek(0)
    if len(prefix) < 16:
        return readable_formats()
    accepted = [name for name in COMMON if _pillow().OPEN[name][1](prefix)]
    return accepted or readable_formats()


def is_image_name(name: str) -> bool:
    """Whether a file name ends as an image's does; all decoders load if it is no common ending."""
    suffix = os.path.splitext(name)[1].lower()
    return _pillow().EXTENSION.get(suffix) in COMMON or suffix in readable_suffixes()


@functools.cache
def readable_formats() -> list[str]:
    """Pillow's names of the formats that are tried on an image file."""
    pillow = _pillow_with_all_formats()
    return [name for name in pillow.ID if name not in NOT_IMAGES]


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """File name endings, lower case with their dot, that are taken for images."""
    registered = _pillow_with_all_formats().registered_extensions()
    return frozenset(s for s, name in registered.items() if name in readable_formats())


@functools.cache
def _pillow() -> ModuleType:
    """Pillow with the decoders of BMP, GIF, JPEG, PNG and PPM at least."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # no decoder talk on the terminal
    pillow = require("PIL.Image", extra="vision")
    pillow.preinit()
    return pillow


def _pillow_with_all_formats() -> ModuleType:
    pillow = _pillow()
    pillow.init()
    return pillow


def _crop_offset(length: int, size: int) -> int:
    """First pixel of the centre crop along one side; negative where the image is padded."""
    return -((size - length) // 2) if length < size else round((length - size) / 2)


def _pixels(content: Mapping[str, Any], key: str, path: Path) -> int:
    value: int = field(content, key, int, path)
    if not 1 <= value <= MAX_SIZE:
        raise FormatError(f"{path}: {key!r} must be 1 to {MAX_SIZE} pixels, found {value}")
    return value


def _choice(content: Mapping[str, Any], key: str, known: tuple[str, ...], path: Path) -> str:
    value: str = field(content, key, str, path)
    if value not in known:
        raise FormatError(f"{path}: {key!r} must be one of {', '.join(known)}, found {value!r}")
    return value


def _channels(
    content: Mapping[str, Any], key: str, above: float, path: Path
) -> tuple[float, float, float]:
    values = field(content, key, list, path)
    numbers = [v for v in values if type(v) in (int, float) and math.isfinite(v) and v > above]
    if len(values) != 3 or len(numbers) != 3:
        bound = "" if above == -math.inf else f" above {above:g}"
        raise FormatError(f"{path}: {key!r} must be three numbers{bound}, one a channel")
    return numbers[0], numbers[1], numbers[2]
