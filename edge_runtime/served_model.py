"""What a backbone is called and says of itself on a server: the part that both sides share.

Inputs: `images`, pixels, or `files`, encoded images (BYTES: JPEG, PNG or WebP); one of them.
Outputs: `features` in FP32, or the same encoded by a codec: `features_float16` and `scale_float16`,
`features_int8` and `scale_int8` and so on, as shards store them (docs/formats.md). In a basis,
16 digits of its identity follow: `features_int8_0123456789abcdef`.

A server that publishes no parameters with a model's metadata, such as Triton, carries them in the
model's configuration, under `edgetune`. One that runs nothing but the graph offers `features` as
the graph computes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from edge_runtime.basis import Basis
from edge_runtime.codecs import CODECS, Codec
from edge_runtime.errors import ConfigError
from edge_runtime.formats import Json

IMAGES, FILES, FEATURES = "images", "files", "features"
FILE_FORMATS = ("JPEG", "PNG", "WEBP")
PLATFORM = "edgetune_onnxruntime"
IN_CONFIG = "edgetune"  # the parameter of a Triton configuration that holds `parameters`
DATATYPES = {"<f4": "FP32", "<f2": "FP16", "|i1": "INT8", "|u1": "UINT8"}


@dataclass(frozen=True)
class Form:
    """What features come as: put into a basis first, if there is one, then encoded by a codec."""

    codec: Codec
    basis: Basis | None = None

    @property
    def name(self) -> str:
        """What the names of its outputs end in."""
        if self.basis is None:
            return self.codec.name
        return f"{self.codec.name}_{self.basis.identity[:16]}"

    @property
    def stored_name(self) -> str:
        """The output that carries the stored features."""
        return FEATURES if self.name == "float32" else f"{FEATURES}_{self.name}"

    @property
    def scale_name(self) -> str | None:
        """The output that carries the scales; None where the codec has none."""
        return f"scale_{self.name}" if self.codec.scale_axes else None

    @property
    def output_names(self) -> list[str]:
        """The outputs that the features come in."""
        return [self.stored_name, *([self.scale_name] if self.scale_name else [])]

    def width(self, embed_dim: int) -> int:
        """Numbers a token, of so many that the backbone gives."""
        return embed_dim if self.basis is None else self.basis.width


def default_name(reference: Json) -> str:
    """The timm name of a backbone, as far as a URL's path can carry it."""
    return re.sub(r"[^\w.-]", "_", str(reference["model"]), flags=re.ASCII)


def forms_of_outputs(
    tokens: int, prefix_tokens: int, bases: Sequence[Basis] = ()
) -> dict[str, Form]:
    """By name, the outputs that a backbone of so many tokens has, and what each is part of."""
    found = {}
    for basis in (None, *bases):
        for codec in CODECS.values():
            with suppress(ConfigError):  # no grid to pool
                codec.stored_tokens(tokens, prefix_tokens)
                form = Form(codec, basis)
                found.update(dict.fromkeys(form.output_names, form))
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


def metadata(name: str, manifest: Json, parameters: Json, bases: Sequence[Basis] = ()) -> Json:
    """The answer to GET /v2/models/NAME, of a server that offers every codec.

    Args:
        bases: that features can be had in.
    """
    size, tokens, dim = manifest["preprocessing"]["size"], manifest["tokens"], manifest["embed_dim"]
    outputs: list[Json] = []
    prefix = manifest["prefix_tokens"]
    for form in dict.fromkeys(forms_of_outputs(tokens, prefix, bases).values()):
        codec = form.codec
        count = codec.stored_tokens(tokens, prefix)
        shape: Sequence[int] | None = [-1, count, codec.stored_dim(form.width(dim))]
        datatype = DATATYPES[codec.dtype.str]
        outputs.append({"name": form.stored_name, "shape": shape, "datatype": datatype})
        shape = codec.scale_shape(-1, count)
        if shape is not None:
            outputs.append({"name": form.scale_name, "shape": list(shape), "datatype": "FP32"})
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
