"""A backbone behind the protocol: from a parsed request to the tensors of its answer."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edge_runtime import __version__, codecs, formats, served_model
from edge_runtime.backbone import Backbone
from edge_runtime.basis import Basis
from edge_runtime.errors import DataError, EdgeError, FormatError, MissingExtraError, ProtocolError
from edge_runtime.open_inference import Message, Value, parameters
from edge_runtime.preprocess import decode_image, reason
from edge_runtime.served_model import FEATURES, FILES, IMAGES, Form

Array = np.ndarray[Any, Any]

MAX_PIXELS = 1 << 26  # of an image file: 200 MB of RGB while it is decoded
MAX_ID = 256
TRIAL_SECONDS = 1.0  # after these no larger batch is begun
TRIAL_TOLERANCE = 1.03  # a smaller batch, and sooner answers, are worth so much


@dataclass(frozen=True)
class Wanted:
    """The outputs a request asks for, in its order, with their forms; those of `in_json` not as
    binary."""

    outputs: dict[str, Form]
    in_json: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """Whether images get the same bits in every batch, and the batch with most images a second."""

    invariant: bool
    best_batch: int


@dataclass(frozen=True)
class ServedModel:
    """A backbone under a name, with requests of at most `max_batch` images; features also come in
    each of `bases`."""

    backbone: Backbone
    name: str
    max_batch: int
    bases: tuple[Basis, ...] = ()

    @cached_property
    def trial(self) -> Trial:
        """What batches do here, tried out on noise: 1, 2, 4 ... images, for some seconds.

        Raises:
            FormatError: the graph is damaged, or not the one that the manifest describes.
        """
        size = self.backbone.preprocessing.size
        noise = np.random.default_rng(0).integers(0, 256, (self.max_batch, size, size, 3), np.uint8)
        invariant, seconds = True, {}
        try:
            alone = self.backbone.run(noise[:1])[0]
            begin, count = time.perf_counter(), 1
            while count <= self.max_batch and time.perf_counter() - begin < TRIAL_SECONDS:
                start = time.perf_counter()
                together = self.backbone.run(noise[:count])
                seconds[count] = (time.perf_counter() - start) / count
                last = self.backbone.run(noise[count - 1 : count])[0]
                invariant &= np.array_equal(together[0], alone) and np.array_equal(
                    together[-1], last
                )
                count *= 2
        except FormatError:
            raise
        except EdgeError:  # a backbone that noise upsets, or memory for fewer images only
            return Trial(False, 1)
        quickest = min(seconds.values(), default=0.0)
        enough = [n for n, each in seconds.items() if each <= quickest * TRIAL_TOLERANCE]
        return Trial(invariant, min(enough, default=1))

    def run(self, images: Array) -> Array:
        """Features of a batch, in parts of the best size where that changes nothing else."""
        part = self.trial.best_batch
        if not self.trial.invariant or len(images) <= part:
            return self.backbone.run(images)
        names = [f"image {index}" for index in range(len(images))]
        return np.concatenate(
            [
                self.backbone.run(images[start : start + part], names[start : start + part])
                for start in range(0, len(images), part)
            ]
        )

    @cached_property
    def outputs(self) -> dict[str, Form]:
        """All that can be asked for, and the form each is part of."""
        tokens, prefix = self.backbone.tokens, self.backbone.prefix_tokens
        return served_model.forms_of_outputs(tokens, prefix, self.bases)

    @cached_property
    def manifest(self) -> formats.Json:
        return formats.read_manifest(self.backbone.folder, formats.BACKBONE)

    def metadata(self) -> formats.Json:
        """The answer to GET /v2/models/NAME."""
        versions = {"edgetune": __version__, **self.backbone.versions()}
        published = served_model.parameters(
            self.manifest, versions, self.max_batch, self.trial.invariant
        )
        return served_model.metadata(self.name, self.manifest, published, self.bases)

    def read_inputs(self, message: Message) -> Array | list[bytes]:
        """The images of a request: uint8 [n, size, size, 3], or n encoded ones.

        Raises:
            ProtocolError: not one of the two inputs, or of another type, shape or number.
        """
        if len(message.tensors) != 1 or not set(message.tensors) <= {IMAGES, FILES}:
            raise ProtocolError(
                f"expected one input, {IMAGES!r} or {FILES!r}; got "
                f"{', '.join(repr(name[:40]) for name in message.tensors) or 'none'}"
            )
        ((name, value),) = message.tensors.items()
        if not 1 <= len(value) <= self.max_batch:
            raise ProtocolError(f"expected 1 to {self.max_batch} images, got {len(value)}")
        size = self.backbone.preprocessing.size
        if name == FILES and isinstance(value, list):
            return value
        if (
            name == IMAGES
            and isinstance(value, np.ndarray)
            and value.dtype == np.uint8
            and value.shape[1:] == (size, size, 3)
        ):
            return value
        raise ProtocolError(
            f"expected {IMAGES!r}, UINT8 [n, {size}, {size}, 3], or {FILES!r}, BYTES [n]"
        )

    def decode(self, files: list[bytes]) -> Array:
        """Encoded images as `extract` would read them: uint8 [n, size, size, 3].

        Raises:
            DataError: one of them cannot be read; the message starts with `image INDEX: `.
        """
        pixels = []
        for index, data in enumerate(files):
            try:
                pixels.append(
                    decode_image(
                        io.BytesIO(data),
                        self.backbone.preprocessing,
                        served_model.FILE_FORMATS,
                        MAX_PIXELS,
                    )
                )
            except (MemoryError, MissingExtraError):
                raise
            except Exception as error:  # decoders raise anything on damaged files
                raise DataError(f"image {index}: {reason(error)}") from None
        return np.stack(pixels)


def wanted(message: Message, offered: Mapping[str, Form]) -> Wanted:
    """Which of the outputs offered a request asks for; without a list, `features`.

    Raises:
        ProtocolError: an output that there is not, or one without JSON form asked for in JSON.
    """
    binary_default = parameters(message.content).get("binary_data_output", False)
    listed = message.content.get("outputs", [{"name": FEATURES}])
    if not isinstance(listed, list) or not 1 <= len(listed) <= len(offered):
        raise ProtocolError(f"'outputs' must list 1 to {len(offered)} outputs")
    names: dict[str, Form] = {}
    in_json = []
    for entry in listed:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in offered or name in names:
            raise ProtocolError(f"an output must be one of {', '.join(offered)}, once")
        names[name] = offered[name]
        binary = parameters(entry).get("binary_data", binary_default)
        if not isinstance(binary, bool):
            raise ProtocolError(f"output {name!r}: binary_data must be true or false")
        if not binary and offered[name].codec.name != "float32":
            raise ProtocolError(f"output {name!r} comes as binary only; set binary_data to true")
        if not binary:
            in_json.append(name)
    return Wanted(names, tuple(in_json))


def request_id(message: Message) -> formats.Json:
    """The entry `id` of a request, to be repeated in its answer; empty where it has none."""
    found = message.content.get("id")
    if found is None:
        return {}
    if not isinstance(found, str) or len(found) > MAX_ID:
        raise ProtocolError(f"'id' must be a string of at most {MAX_ID} characters")
    return {"id": found}


def encode_outputs(features: Array, prefix_tokens: int, asked: Wanted) -> dict[str, Value]:
    """The wanted outputs of float32 features [n, tokens, dim]."""
    encoded = {}
    for form in dict.fromkeys(asked.outputs.values()):
        tokens = codecs.pooled(form.codec, features, prefix_tokens)
        tokens = tokens if form.basis is None else form.basis.apply(tokens)
        encoded[form.name] = codecs.encode(form.codec, tokens)
    found: dict[str, Value] = {}
    for name, form in asked.outputs.items():
        stored, scale = encoded[form.name]
        tensor = stored if name == form.stored_name else scale
        assert tensor is not None  # a codec without scales has no such output
        found[name] = tensor
    return found
