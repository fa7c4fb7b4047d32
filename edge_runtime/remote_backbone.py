"""A backbone on a server, with the same face as one on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import codecs, formats, served_model
from edge_runtime.backbone_base import BackboneBase, parse_manifest
from edge_runtime.basis import Basis
from edge_runtime.codecs import CODECS, Codec
from edge_runtime.errors import ConfigError, DataError, FormatError, MismatchError, ServerError
from edge_runtime.http_link import Link, Traffic
from edge_runtime.inference_client import OF_IMAGE, InferenceClient
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
    as_computed: bool
    tensors: frozenset[str]
    """Names of the inputs and outputs that the server has."""
    server_versions: dict[str, str]

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
        try:
            parameters = _published(client, metadata)
            manifest = formats.field(parameters, "manifest", dict, where)
            formats.check_version(manifest, formats.BACKBONE, where)
            return cls(
                **parse_manifest(manifest, where),
                client=client,
                max_batch=formats.whole(parameters, "max_batch", 1, where),
                batch_invariant=formats.field(parameters, "batch_invariant", bool, where),
                as_computed=parameters.get("as_computed") is True,
                tensors=frozenset(_names(metadata, "inputs") + _names(metadata, "outputs")),
                server_versions=_versions(parameters),
            )
        except FormatError as error:
            raise ServerError(
                f"{link.url}: model {client.model} is not an edgetune backbone ({error})"
            ) from None
        finally:
            link.traffic = Traffic()  # what follows is for images

    @property
    def takes_files(self) -> bool:
        """Whether the server decodes images."""
        return FILES in self.tensors

    @property
    def traffic(self) -> Traffic:
        """Bytes of all bodies so far."""
        return self.client.link.traffic

    def verify(self) -> None:
        """Nothing: the server did so when it started, and every answer's backbone is checked."""

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
        return self.client.binary and self.tensors.issuperset(form.output_names)

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
        form = form if self.offers(form) else Form(CODECS["float32"])
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
        dtypes = [np.dtype(self.dtype) if self.as_computed else asked.dtype, np.dtype("<f4")]
        found = [self._tensor(answer, *wanted) for wanted in zip(outputs, shapes, dtypes)]
        if self.as_computed:
            shown = [_name(names, start + index) for index in range(count)]
            found[0] = self.in_true_units(found[0], shown)
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
        if dtype.kind == "f" and not self.as_computed and not codecs.all_finite(value):
            raise ServerError(f"{self.client.link.url}: {name!r} holds NaN or infinite entries")
        return value

    def _check_identity(self, answer: Message) -> None:
        """Refuses an answer of another backbone: servers are restarted while clients wait.

        Where answers name none, the configuration is asked again, after each.
        """
        parameters = answer.content.get("parameters")
        identity = str(parameters.get("identity", "")) if isinstance(parameters, dict) else ""
        if not identity:
            with suppress(FormatError):
                manifest = _published(self.client, {}).get("manifest")
                identity = str(manifest.get("identity")) if isinstance(manifest, dict) else ""
        if identity != self.reference["identity"]:
            raise MismatchError(
                f"{self.client.link.url} now has another backbone (identity "
                f"{identity[:12] or 'none'}, before {self.reference['identity'][:12]}); nothing of "
                f"it was used"
            )


def _published(client: InferenceClient, metadata: formats.Json) -> formats.Json:
    """`served_model.parameters` of a model, from its metadata or else its configuration.

    Raises:
        FormatError: it is in neither.
    """
    found = metadata.get("parameters")
    if isinstance(found, dict) and "manifest" in found:
        return found
    text = client.config_parameter(served_model.IN_CONFIG)
    if text is None:
        raise FormatError("neither its metadata nor its configuration names one")
    return formats.parse_json(text.encode(), Path("its configuration"))


def _names(metadata: formats.Json, tensors: str) -> list[str]:
    found = metadata.get(tensors)
    listed = found if isinstance(found, list) else []
    return [str(one.get("name")) for one in listed if isinstance(one, dict)]


def _versions(parameters: formats.Json) -> dict[str, str]:
    found = parameters.get("versions")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _renamed(message: str, names: Sequence[str] | None, start: int) -> str:
    """The server's `image INDEX: reason` with the name that the image has here."""
    found = OF_IMAGE.match(message)
    if found is None:
        return message
    return f"{_name(names, start + int(found[1]))}: {message[found.end() :]}"


def _name(names: Sequence[str] | None, index: int) -> str:
    return f"image {index}" if names is None or index >= len(names) else names[index]
