"""A backbone on a server, with the same face as one on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import codecs, formats
from edge_runtime.backbone_base import BackboneBase, parse_manifest
from edge_runtime.basis import Basis
from edge_runtime.codecs import CODECS, Codec
from edge_runtime.errors import ConfigError, DataError, FormatError, MismatchError, ServerError
from edge_runtime.http_link import Link, Traffic
from edge_runtime.inference_client import InferenceClient
from edge_runtime.open_inference import Message, Value
from edge_runtime.served_model import FILES, IMAGES, Form

Array = np.ndarray[Any, Any]

JSON_BYTES_PER_VALUE = 32
HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class RemoteBackbone(BackboneBase):
    """Sends images to `client`'s model and checks what comes back, exactly."""

    client: InferenceClient
    max_batch: int
    batch_invariant: bool
    server_versions: dict[str, str]
    offered: frozenset[str]
    """Names of the outputs that the server says it has."""

    @classmethod
    def connect(cls, link: Link, model: str | None = None) -> RemoteBackbone:
        """Asks a server what its backbone is.

        Args:
            model: its name there; where it is missing, the server must have one model only.

        Raises:
            ServerError: no such server, or it does not publish an edgetune backbone.
        """
        client = InferenceClient(link, model)
        where = Path("its metadata")
        metadata = client.metadata()
        parameters = metadata.get("parameters")
        link.traffic = Traffic()  # what follows is for images
        try:
            if not isinstance(parameters, dict):
                raise FormatError("it has no parameters")
            manifest = formats.field(parameters, "manifest", dict, where)
            formats.check_version(manifest, formats.BACKBONE, where)
            return cls(
                **parse_manifest(manifest, where),
                client=client,
                max_batch=formats.whole(parameters, "max_batch", 1, where),
                batch_invariant=formats.field(parameters, "batch_invariant", bool, where),
                server_versions=_versions(parameters),
                offered=_outputs(metadata),
            )
        except FormatError as error:
            raise ServerError(
                f"{link.url}: model {client.model} is not an edgetune backbone ({error})"
            ) from None

    @property
    def traffic(self) -> Traffic:
        """Bytes of all bodies so far."""
        return self.client.link.traffic

    def verify(self) -> None:
        """Nothing: the server did so when it started, and every answer names its backbone."""

    def versions(self) -> dict[str, str]:
        """Of the server's onnxruntime."""
        return {"onnxruntime": self.server_versions.get("onnxruntime", "?")}

    def check_batch(self, batch_size: int) -> None:
        """Refuses a batch size with which the features could have other bits than those made here.

        Raises:
            ConfigError: the server takes fewer images, and there the batch matters.
        """
        if batch_size > self.max_batch and not self.batch_invariant:
            raise ConfigError(
                f"the server takes {self.max_batch} images at a time, and on it features depend on "
                f"the batch in their last bits; use --batch-size {self.max_batch} or less"
            )

    def offers(self, form: Form) -> bool:
        """Whether the server itself can send features so."""
        return self.client.binary and self.offered.issuperset(form.output_names)

    def encoded(
        self,
        images: Array,
        codec: Codec,
        names: Sequence[str] | None = None,
        basis: Basis | None = None,
    ) -> tuple[Array, Array | None]:
        """(stored, scale or None) of uint8 images [n, size, size, 3], by the server.

        Args:
            basis: one that the server `offers`, to have them in.

        Raises:
            DataError: the server cannot use one of them.
            ServerError: it cannot be reached, refuses, or its answer is not what it should be.
            MismatchError: it now has another backbone.
        """
        form = Form(codec, basis)
        parts = [
            self._ask(IMAGES, images[start : start + self.max_batch], form, names, start)
            for start in range(0, len(images), self.max_batch)
        ]
        stored = np.concatenate([part[0] for part in parts])
        scales = [part[1] for part in parts if part[1] is not None]
        return stored, np.concatenate(scales) if scales else None

    def encoded_file(
        self, data: bytes, codec: Codec, name: str, basis: Basis | None = None
    ) -> tuple[Array, Array | None]:
        """(stored, scale or None) of one image, which the server decodes: JPEG, PNG or WebP."""
        return self._ask(FILES, [data], Form(codec, basis), [name], 0)

    def _ask(
        self, kind: str, images: Value, form: Form, names: Sequence[str] | None, start: int
    ) -> tuple[Array, Array | None]:
        codec = form.codec
        form = form if self.client.binary else Form(CODECS["float32"])
        asked, width = form.codec, form.width(self.embed_dim)
        count, outputs = len(images), form.output_names
        tokens = asked.stored_tokens(self.tokens, self.prefix_tokens)
        most = count * asked.bytes_per_image(tokens, width)
        if not self.client.binary:
            most = count * self.tokens * self.embed_dim * JSON_BYTES_PER_VALUE
        try:
            answer = self.client.infer({kind: images}, outputs, most + HEADER_BYTES)
        except DataError as error:
            raise DataError(_renamed(str(error), names, start)) from None
        self._check_identity(answer)
        stored_shape = (count, tokens, asked.stored_dim(width))
        shapes = [stored_shape, asked.scale_shape(count, tokens)]
        dtypes = [asked.dtype, np.dtype("<f4")]
        found = [self._tensor(answer, *wanted) for wanted in zip(outputs, shapes, dtypes)]
        if asked is codec:
            return found[0], found[1] if len(found) > 1 else None
        return codecs.encode(codec, codecs.pooled(codec, found[0], self.prefix_tokens))

    def _tensor(
        self, answer: Message, name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any]
    ) -> Array:
        value = answer.tensors.get(name)
        if not isinstance(value, np.ndarray) or (value.shape, value.dtype) != (shape, dtype):
            raise ServerError(
                f"{self.client.link.url}: its answer lacks {name!r}, {dtype} {list(shape or ())}"
            )
        if dtype.kind == "f" and not codecs.all_finite(value):
            raise ServerError(f"{self.client.link.url}: {name!r} holds NaN or infinite entries")
        return value

    def _check_identity(self, answer: Message) -> None:
        """Refuses an answer of another backbone: servers are restarted while clients wait."""
        identity = _identity(answer)
        if identity != self.reference["identity"]:
            raise MismatchError(
                f"{self.client.link.url} now has another backbone (identity {identity[:12]}, "
                f"before {self.reference['identity'][:12]}); nothing of it was used"
            )


def _identity(answer: Message) -> str:
    parameters = answer.content.get("parameters")
    return str(parameters.get("identity")) if isinstance(parameters, dict) else "none"


def _versions(parameters: formats.Json) -> dict[str, str]:
    found = parameters.get("versions")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _outputs(metadata: formats.Json) -> frozenset[str]:
    """Names of the outputs that a server's metadata lists."""
    listed = metadata.get("outputs")
    entries = listed if isinstance(listed, list) else []
    return frozenset(str(entry.get("name")) for entry in entries if isinstance(entry, dict))


def _renamed(message: str, names: Sequence[str] | None, start: int) -> str:
    """The server's `image INDEX: reason` with the name that the image has here."""
    found = re.match(r"image (\d{1,6}): ", message)
    if found is None:
        return message
    index = start + int(found[1])
    if names is None or index >= len(names):
        return f"image {index}: {message[found.end() :]}"
    return f"{names[index]}: {message[found.end() :]}"
