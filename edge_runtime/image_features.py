"""The decoded features of one image file, from a backbone here or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import codecs
from edge_runtime.backbone import Backbone
from edge_runtime.errors import DataError, MissingExtraError
from edge_runtime.preprocess import load_image, reason
from edge_runtime.remote_backbone import RemoteBackbone
from edge_runtime.served_model import Form

Array = np.ndarray[Any, Any]


def local_features(backbone: Backbone, form: Form, path: Path) -> Array:
    """float32 [1, tokens, width], pooled as the codec does, in the form's basis, and not rounded.

    Raises:
        DataError: the image cannot be used.
        ConfigError: the codec pools, and these tokens do not divide.
    """
    features = backbone.run(load_image(path, backbone.preprocessing)[None], [str(path)])
    features = codecs.pooled(form.codec, features, backbone.prefix_tokens)
    return features if form.basis is None else form.basis.apply(features)


def remote_features(backbone: RemoteBackbone, form: Form, path: Path) -> Array:
    """float32 [1, tokens, width], through a codec, in the form's basis: the server puts them into
    it where it offers that, else it is done here, and more bytes travel.

    The file is sent as it is where the server can decode it and it is no larger than the pixels, or
    where Pillow is not installed here.

    Raises:
        DataError: the image cannot be used.
        ServerError, MismatchError: as `RemoteBackbone.encoded`.
    """
    size = backbone.preprocessing.size
    try:
        with open(path, "rb") as file:
            sendable = backbone.takes_files and is_sendable(file.read(12))
            small = path.stat().st_size <= 3 * size * size
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}") from None
    codec, basis, pixels = form.codec, form.basis, None
    sent = form if backbone.offers(form) else Form(codec)
    if not (sendable and small):
        try:
            pixels = load_image(path, backbone.preprocessing)
        except MissingExtraError:
            if not sendable:
                raise
    if pixels is None:
        stored, scale = backbone.encoded_file(path.read_bytes(), codec, str(path), sent.basis)
    else:
        stored, scale = backbone.encoded(pixels[None], codec, [str(path)], sent.basis)
    features = np.empty((*stored.shape[:2], sent.width(backbone.embed_dim)), np.float32)
    codecs.decode(codec, stored, scale, features)
    return basis.apply(features) if basis is not sent.basis and basis is not None else features


def is_sendable(head: bytes) -> bool:
    """Whether a file that begins so is JPEG, PNG or WebP, which servers decode."""
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (
        head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    )
