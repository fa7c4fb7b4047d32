"""A Triton model repository of one backbone: NAME/config.pbtxt and NAME/1/, for either backend.

onnxruntime   1/model.onnx                             Triton runs the graph itself
python        1/model.py, backbone/, edgetune-*.whl    our own server's code, inside Triton
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import __version__, atomic, formats, partial_folder, served_model
from edge_runtime.backbone import Backbone
from edge_runtime.errors import ConfigError, OutputExistsError
from edge_runtime.formats import Json
from export.triton.config import Scheduling, Tensor, config_text, quoted
from export.wheels import own_wheel

VERSION = "1"
CONFIG, MODEL = "config.pbtxt", "model.py"
BACKENDS = ("onnxruntime", "python")
DATATYPES = {"float32": "FP32", "float16": "FP16"}  # of the graph's own output
STARTER = '''"""The backbone beside this file, served by the edgetune beside it.

Written by `edgetune triton-repo`. Needs numpy, onnxruntime and Pillow in Triton's Python.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(next(Path(__file__).parent.glob("edgetune-*.whl"))))

from export.triton.python_model import TritonPythonModel  # noqa: E402, F401
'''


@dataclass(frozen=True)
class Options:
    """What may be chosen; `wait` in milliseconds; without `merge` requests are computed alone."""

    max_batch: int = 16
    instances: int = 1
    wait: float = 0.0
    merge: bool = True


def write_repository(
    backbone: Backbone, repository: Path, backend: str, name: str, options: Options, *, force: bool
) -> Path:
    """Writes the model's folder, `repository`/`name`, and returns it; other models are left alone.

    Raises:
        ConfigError: a name that Triton and URLs cannot carry.
        OutputExistsError: the folder exists, and may not or should not be replaced.
        FormatError: the graph is not the one of its manifest.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", name):
        raise ConfigError(
            f"{name!r} cannot be a model's name; use letters, digits, '_', '-' and '.', at most 100"
        )
    folder = repository / name
    refuse(folder, force=force)
    backbone.verify()
    manifest = formats.read_manifest(backbone.folder, formats.BACKBONE)
    whole = repository.absolute()
    partial = whole.with_name(f".{whole.name}.{name}.partial")  # not inside: Triton may be looking
    with partial_folder.lock(partial):
        try:
            built = partial / name
            atomic.remove(built)
            (built / VERSION).mkdir(parents=True)
            files = onnxruntime_model if backend == "onnxruntime" else python_model
            text = files(backbone, manifest, name, options, built / VERSION)
            with atomic.write_file(built / CONFIG) as file:
                file.write(text.encode("ascii"))
            repository.mkdir(parents=True, exist_ok=True)
            refuse(folder, force=force)
            atomic.publish_folder(built, folder)
        finally:
            atomic.remove(partial)
    return folder


def refuse(folder: Path, *, force: bool) -> None:
    """Raises OutputExistsError where `folder` may not be replaced: not asked to, or not ours."""
    atomic.refuse_existing(folder, force=force)
    config, ours = folder / CONFIG, f"key: {quoted(served_model.IN_CONFIG)}"
    if folder.exists() and not (
        config.is_file() and ours in config.read_text("utf-8", errors="replace")
    ):
        raise OutputExistsError(
            f"{folder} is there and `edgetune triton-repo` did not write it; --force replaces only "
            f"its own, choose another --name"
        )


def onnxruntime_model(
    backbone: Backbone, manifest: Json, name: str, options: Options, version: Path
) -> str:
    """The files for Triton's onnxruntime backend, which runs the graph as it is; its config."""
    copy(backbone.onnx, version / "model.onnx")
    size, batch = backbone.preprocessing.size, options.merge
    lead = [] if batch else [-1]  # Triton adds the batch where it merges
    images = Tensor(served_model.IMAGES, "UINT8", [*lead, size, size, 3])
    features = Tensor(
        served_model.FEATURES,
        DATATYPES[backbone.dtype],
        [*lead, backbone.tokens, backbone.embed_dim],
    )
    wait_us = round(options.wait * 1000)
    scheduling = Scheduling(
        options.max_batch if batch else 0, wait_us, options.instances, "KIND_AUTO"
    )
    parameters = served_model.parameters(
        manifest, {"edgetune": __version__}, options.max_batch, merges=False, as_computed=True
    )
    return config_text(name, "onnxruntime", [images], [features], scheduling, parameters)


def python_model(
    backbone: Backbone, manifest: Json, name: str, options: Options, version: Path
) -> str:
    """The files for Triton's Python backend, which answers as `edgetune serve` does; its config.

    Triton does not merge requests here: then its tensors would need a second axis, and would not be
    those of our server.
    """
    (version / "backbone").mkdir()
    copy(backbone.onnx, version / "backbone" / backbone.onnx.name)
    formats.write_json(version / "backbone" / formats.MANIFEST, manifest)
    wheel, content = own_wheel()
    (version / wheel).write_bytes(content)
    (version / MODEL).write_text(STARTER)
    parameters = served_model.parameters(
        manifest, {"edgetune": __version__}, options.max_batch, merges=False
    )
    described = served_model.metadata(name, manifest, parameters)
    inputs = [Tensor(**tensor, optional=True) for tensor in described["inputs"]]
    outputs = [Tensor(**tensor) for tensor in described["outputs"]]
    scheduling = Scheduling(0, 0, options.instances, "KIND_CPU")
    return config_text(name, "python", inputs, outputs, scheduling, parameters)


def copy(source: Path, target: Path) -> None:
    with open(source, "rb") as read, atomic.write_file(target) as write:
        shutil.copyfileobj(read, write, 1 << 20)
