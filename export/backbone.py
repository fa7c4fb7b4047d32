"""A backbone folder from a timm model: load, sum, export, verify, publish."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from edge_runtime import atomic, formats
from edge_runtime.errors import ExportError
from export import manifest, preprocessing, verify
from export.models import Loaded, load_model
from export.onnx_export import export_graph
from export.tap_sum import TapSum, choose_scale, weights_sha256
from export.taps import find_taps

DTYPES = ("float32", "float16")


def export_backbone(
    name: str,
    out: Path,
    *,
    checkpoint: Path | None = None,
    k: int | None = None,
    dtype: str = "float32",
    image_size: int | None = None,
    random_weights: bool = False,
    force: bool = False,
) -> formats.Json:
    """Writes the backbone folder `out`, whole or not at all, and returns its manifest.

    Args:
        name: a timm model.
        out: must not exist, unless `force`.
        checkpoint: weights file, or folder in timm's local-dir form; else from the hub.
        k: last block that is summed, from 1; all of them by default.
        dtype: of the output, `float32` or `float16`.
        image_size: side of the input in pixels; what the weights were trained on by default.

    Raises:
        OutputExistsError: `out` exists.
        ExportError: the model cannot be loaded, summed, exported or verified.
    """
    formats.refuse_output(out, formats.BACKBONE, force=force)
    loaded = load_model(name, checkpoint, random_weights, image_size)
    partial = atomic.partial_path(out)
    atomic.remove(partial)
    try:
        partial.mkdir(parents=True)
        content = build(loaded, partial, k, dtype)
        formats.write_json(partial / formats.MANIFEST, content)
        atomic.publish_folder(partial, out)
    except BaseException:
        atomic.remove(partial)
        raise
    return content


def build(loaded: Loaded, folder: Path, k: int | None, dtype: str) -> formats.Json:
    """Writes the verified graph into `folder` and returns the manifest; consumes the model."""
    if dtype not in DTYPES:
        raise ExportError(f"output dtype {dtype!r} is not known; choose {' or '.join(DTYPES)}")
    how = preprocessing.resolve(loaded.model, loaded.size)
    taps = find_taps(loaded.name, loaded.model, loaded.size)
    last = len(taps.names) if k is None else k
    if not 1 <= last <= len(taps.names):
        where = f"the last stage ({taps.stage})" if taps.hierarchical else "the model"
        raise ExportError(
            f"--k {last} is out of range: {where} of {loaded.name} has {len(taps.names)} blocks; "
            f"give 1 to {len(taps.names)}"
        )
    batches = verify.sample_images(loaded.size)
    by_hand = verify.sums_by_hand(loaded.model, taps, last, how, batches)
    module = TapSum(loaded.model, taps, last, how).eval()
    module.half = dtype == "float16"
    largest = float(np.max([np.abs(z).max() for z in by_hand]))  # NaN, too, shows in np.max
    module.scale = choose_scale(largest, half=module.half)
    verify.check_sum(module, batches, by_hand)
    graph = export_graph(module, loaded.size)
    verified = verify.verify(graph.data, module, batches, by_hand)
    with atomic.write_file(folder / manifest.ONNX_FILE) as file:
        file.write(graph.data)
    state = module.state_dict()
    return manifest.build(
        loaded,
        taps,
        last,
        how,
        weights_sha256((key, state[key]) for key in graph.used if key in state),
        output={"dtype": dtype, "scale": module.scale},
        onnx={
            "file": manifest.ONNX_FILE,
            "sha256": hashlib.sha256(graph.data).hexdigest(),
            "bytes": len(graph.data),
            "opset": graph.opset,
        },
        verified=verified,
    )
