"""What a backbone is called and says of itself on a server: the part that both sides share.

Inputs: `images`, pixels, or `files`, encoded images (BYTES: JPEG, PNG or WebP); one of them.
Outputs: `features` in FP32, or the same encoded by a codec: `features_float16` and `scale_float16`,
`features_int8` and `scale_int8` and so on, as shards store them (docs/formats.md).

A server that publishes no parameters with a model's metadata, such as Triton, carries them in the
model's configuration, under `edgetune`. One that runs nothing but the graph offers `features` as
the graph computes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from edge_runtime.codecs import CODECS, Codec
from edge_runtime.errors import ConfigError
from edge_runtime.formats import Json

IMAGES, FILES, FEATURES = "images", "files", "features"
FILE_FORMATS = ("JPEG", "PNG", "WEBP")
PLATFORM = "edgetune_onnxruntime"
IN_CONFIG = "edgetune"  # the parameter of a Triton configuration that holds `parameters`
DATATYPES = {"<f4": "FP32", "<f2": "FP16", "|i1": "INT8", "|u1": "UINT8"}


def default_name(reference: Json) -> str:
    """The timm name of a backbone, as far as a URL's path can carry it."""
    return re.sub(r"[^\w.-]", "_", str(reference["model"]), flags=re.ASCII)


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


def parameters(
    manifest: Json,
    versions: dict[str, str],
    max_batch: int,
    merges: bool,
    *,
    as_computed: bool = False,
) -> Json:
    """What a server says of a backbone besides its tensors.

    Args:
        manifest: of the backbone folder; published whole, so that a client can check what it uses.
        versions: of the packages that compute the features.
        merges: whether images get the same bits in whatever batch they are computed.
        as_computed: whether `features` come as the graph gives them: in the dtype that the manifest
            says, still to be checked, and multiplied by its scale.
    """
    return {
        "manifest": manifest,
        "versions": versions,
        "max_batch": max_batch,
        "batch_invariant": merges,
        "as_computed": as_computed,
    }


def metadata(name: str, manifest: Json, parameters: Json) -> Json:
    """The answer to GET /v2/models/NAME, of a server that offers every codec."""
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
        "parameters": parameters,
    }
