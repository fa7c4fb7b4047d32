"""What a backbone is called and says of itself on a server: the part that both sides share.

Inputs: `images`, pixels, or `files`, encoded images (BYTES: JPEG, PNG or WebP); one of them.
Outputs: `features` in FP32, or the same encoded by a codec: `features_float16` and `scale_float16`,
`features_int8` and `scale_int8` and so on, as shards store them (docs/formats.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from edge_runtime.codecs import CODECS, Codec
from edge_runtime.errors import ConfigError
from edge_runtime.formats import Json

IMAGES, FILES, FEATURES = "images", "files", "features"
FILE_FORMATS = ("JPEG", "PNG", "WEBP")
PLATFORM = "edgetune_onnxruntime"
DATATYPES = {"<f4": "FP32", "<f2": "FP16", "|i1": "INT8", "|u1": "UINT8"}


def stored_name(codec: Codec) -> str:
    """The output that carries the stored features of a codec."""
    return FEATURES if codec.name == "float32" else f"{FEATURES}_{codec.name}"


def scale_name(codec: Codec) -> str | None:
    """The output that carries a codec's scales; None where it has none."""
    return f"scale_{codec.name}" if codec.scale_axes else None


def output_names(codec: Codec) -> list[str]:
    """The outputs that a codec's features come in."""
    scale = scale_name(codec)
    return [stored_name(codec)] if scale is None else [stored_name(codec), scale]


def codec_of_output(tokens: int, prefix_tokens: int) -> dict[str, Codec]:
    """By name, the outputs that a backbone of so many tokens has, and the codec each belongs to."""
    found = {}
    for codec in CODECS.values():
        with suppress(ConfigError):  # no grid to pool
            codec.stored_tokens(tokens, prefix_tokens)
            found.update(dict.fromkeys(output_names(codec), codec))
    return found


def metadata(
    name: str, manifest: Json, versions: dict[str, str], max_batch: int, merges: bool
) -> Json:
    """The answer to GET /v2/models/NAME.

    Args:
        manifest: of the backbone folder; published whole, so that a client can check what it uses.
        versions: of the packages that compute the features.
        merges: whether images get the same bits in whatever batch they are computed.
    """
    size, tokens, dim = manifest["preprocessing"]["size"], manifest["tokens"], manifest["embed_dim"]
    outputs: list[Json] = []
    prefix = manifest["prefix_tokens"]
    for codec in dict.fromkeys(codec_of_output(tokens, prefix).values()):
        count = codec.stored_tokens(tokens, prefix)
        shape: Sequence[int] | None = [-1, count, codec.stored_dim(dim)]
        datatype = DATATYPES[codec.dtype.str]
        outputs.append({"name": stored_name(codec), "shape": shape, "datatype": datatype})
        shape = codec.scale_shape(-1, count)
        if shape is not None:
            outputs.append({"name": scale_name(codec), "shape": list(shape), "datatype": "FP32"})
    return {
        "name": name,
        "versions": ["1"],
        "platform": PLATFORM,
        "inputs": [
            {"name": IMAGES, "datatype": "UINT8", "shape": [-1, size, size, 3]},
            {"name": FILES, "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": outputs,
        "parameters": {
            "manifest": manifest,
            "versions": versions,
            "max_batch": max_batch,
            "batch_invariant": merges,
        },
    }
