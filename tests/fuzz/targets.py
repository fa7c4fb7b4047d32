"""One function a reader: takes any bytes, and ends well or in an EdgeError. All else is a finding.

Each comes with seeds, valid inputs to start from. `python -m tests.fuzz` runs them under atheris;
test_fuzz.py runs seeds, kept findings and a few mutations in every test run.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from edge_runtime import formats, open_inference
from edge_runtime.adaptor import Adaptor
from edge_runtime.backbone_base import parse_manifest
from edge_runtime.basis import Basis
from edge_runtime.codecs import CODECS, encode
from edge_runtime.config import IGNORED
from edge_runtime.errors import EdgeError, MissingExtraError
from edge_runtime.feature_split import FeatureSplit, Shard
from edge_runtime.features import FeatureFolder
from edge_runtime.mask_folder import load_mask, read_classes
from edge_runtime.preprocess import load_image
from edge_runtime.runtimes import runtime_of
from edge_runtime.served_model import forms_of_outputs
from tests.edge_runtime import tiny_backbone
from tests.feature_folders import BACKBONE, write_features
from tests.fuzz import served
from tests.problems import config_of, random_parameters
from trainer_lite import generation
from trainer_lite.board import Board
from trainer_lite.directions import Directions
from trainer_lite.history import PARTS, read_history
from trainer_lite.progress import Progress
from trainer_lite.report import read_profile, report
from trainer_lite.report_page import page

TOKENS, DIM, MASK = 3, 4, 4


@functools.cache
def folder() -> Path:
    """A folder of this process, in memory where the system has such a place."""
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def put(name: str, data: bytes) -> Path:
    """Those bytes as a file."""
    path = folder() / name
    path.write_bytes(data)
    return path


# --- readers -------------------------------------------------------------------------------------


def adaptor(data: bytes) -> None:
    path = put("adaptor.safetensors", data)
    assert runtime_of(path) is not None
    loaded = Adaptor.load(path)
    loaded.predict_proba(np.ones((1, loaded.config.tokens, loaded.config.embed_dim), np.float32))


def shard(data: bytes) -> None:
    """A shard whose checksum is right: what a careful forger would make."""
    read_shard(shard_folder(), data)


def masked_shard(data: bytes) -> None:
    """Likewise, of a folder with masks."""
    read_shard(masked_folder(), data)


def read_shard(features: FeatureFolder, data: bytes) -> None:
    path = put("shard.safetensors", data)
    rows = data[-1] % 4 + 1 if data else 1
    entry = Shard(path, rows, len(data), zlib.crc32(data), "")
    split = FeatureSplit(features, "train", [entry], 1.0)
    try:
        labels = split.labels
        images = np.arange(len(labels))
        z = np.empty((len(labels), features.tokens, DIM), np.float32)
        norms = np.empty((len(labels), features.tokens), np.float32)
        scratch = np.empty(split.scratch_bytes(len(labels)), np.uint8)
        split.read(images, z, norms, scratch)
        assert np.isfinite(norms).all()
        if features.masks is not None:
            masks = np.empty((len(labels), MASK, MASK), np.uint8)
            split.read_masks(images, masks)
            assert ((masks < len(features.classes)) | (masks == IGNORED)).all()
        assert len(split.paths) == len(labels)
    finally:
        split.close()


@functools.cache
def manifest_seeds() -> list[bytes]:
    """Of the folder of the shards, as it was written."""
    return [(shard_folder().path / formats.MANIFEST).read_bytes()]


@functools.cache
def shard_folder() -> FeatureFolder:
    written = write_features(folder() / "shards", tokens=TOKENS, embed_dim=DIM, shard_rows=4)
    return FeatureFolder.open(written.path)


@functools.cache
def masked_folder() -> FeatureFolder:
    options = {"embed_dim": DIM, "shard_rows": 4, "mask_size": MASK}
    return FeatureFolder.open(write_features(folder() / "masked", tokens=5, **options).path)


def features_manifest(data: bytes) -> None:
    manifest_seeds()  # before it is overwritten
    where = shard_folder().path
    (where / formats.MANIFEST).write_bytes(data)
    opened = FeatureFolder.open(where)
    for name in opened.split_names:
        opened.split(name).check()
        opened.split(name).close()


def basis(data: bytes) -> None:
    """A basis's file, or its entry in a graph's metadata."""
    path = put("basis.safetensors", data)
    read = Basis.from_json(formats.parse_json(data, path), path) if data[:1] == b"{" else None
    found = read or Basis.load(path)
    found.apply(np.ones((1, 2, found.embed_dim), np.float32))


def backbone_manifest(data: bytes) -> None:
    path = put(formats.MANIFEST, data)
    parse_manifest(formats.read_manifest(folder(), formats.BACKBONE), path)


def board(data: bytes) -> None:
    Board.load(put("board.json", data)).speedup(3)


def checkpoint(data: bytes) -> None:
    """With the checksum made right, or what lies behind it would never be reached."""
    with (
        mock.patch("trainer_lite.generation.header_crc", return_value=0),
        mock.patch("zlib.crc32", return_value=0),
    ):
        generation.load(put("checkpoint.safetensors", data))


def request(data: bytes) -> None:
    """First byte: whether and how the length of the JSON is announced."""
    lengths = [None, "0", str(len(data) - 1), str(len(data) // 2), "-1", "1e3", "9" * 30]
    announced = lengths[data[0] % len(lengths)] if data else None
    message = open_inference.parse(data[1:], announced, "inputs")
    from export.serve.model import request_id, wanted

    wanted(message, forms_of_outputs(197, 1))
    request_id(message)


def answer(data: bytes) -> None:
    announced = str(data[0]) if data and data[0] else None
    message = open_inference.parse(data[1:], announced, "outputs")
    rest = {key: value for key, value in message.content.items() if key != "outputs"}
    body, length = open_inference.build(rest, "outputs", message.tensors, [])
    again = open_inference.parse(body, None if length is None else str(length), "outputs")
    assert again.tensors.keys() == message.tensors.keys()


def http(data: bytes) -> None:
    status = served.request(data, *served.server(folder() / "served", shard_folder()))
    assert 200 <= status < 500, f"answered {status}"


def image(data: bytes) -> None:
    load_image(put("image", data), tiny_backbone.preprocessing())


def mask(data: bytes) -> None:
    """Of a sound image; or, behind a c, the names of the classes."""
    if data[:1] == b"c":
        read_classes(put("classes.txt", data[1:]))
        return
    image = folder() / "masked.png"
    if not image.exists():
        image.write_bytes(image_seeds()[0])
    found = load_mask(put("mask.png", data), image, tiny_backbone.preprocessing(), classes=3)
    assert ((found < 3) | (found == IGNORED)).all()


def installer_manifest(data: bytes) -> None:
    from export.installer import install

    put(install.MANIFEST, data)
    with contextlib.suppress(install.InstallError):
        manifest = install.read_manifest(folder())
        install.check_files(folder(), manifest)


def history(data: bytes) -> None:
    """And the page that shows it."""
    content = reported()
    run = {**content["runs"][0], "history": read_history(put("history.json", data))}
    shown(page({**content, "runs": [run]}))
    shown(page({**content, "runs": [run, {**run, "letter": "B", "history": None}]}))


def profile(data: bytes) -> None:
    """And the page that shows it."""
    content = reported()
    found = read_profile(put("profile.json", data), content["runs"])
    shown(page({**content, "profile": found}))


@functools.cache
def reported() -> formats.Json:
    """What a report knows of an adaptor by itself."""
    return report([put("reported.safetensors", adaptor_seeds()[0])])


def shown(text: str) -> None:
    assert "<script" not in text and ">nan" not in text and '"nan' not in text


# --- seeds ---------------------------------------------------------------------------------------


def adaptor_seeds() -> list[bytes]:
    found = []
    for changes in ({"blocks": 1, "tokens": 4, "embed_dim": 8, "rank": 2}, {"kind": "linear"}):
        config = config_of(**changes)
        names = [f"class {index}" for index in range(config.classes)]
        trained = Adaptor(config, random_parameters(config, np.float32), names, BACKBONE)
        path = folder() / "seed"
        trained.save(path)
        found.append(path.read_bytes())
    config = config_of(embed_dim=4, kind="linear")
    in_basis = Adaptor(
        config, random_parameters(config, np.float32), names, BACKBONE, basis=basis_of(8)
    )
    in_basis.save(path)
    return [*found, path.read_bytes()]


def basis_of(embed_dim: int) -> Basis:
    tokens = np.random.default_rng(0).standard_normal((3, 5, embed_dim))
    return Directions([tokens.astype(np.float32)]).basis(4)


def basis_seeds() -> list[bytes]:
    path, made = folder() / "seed", basis_of(8)
    made.save(path)
    return [path.read_bytes(), json.dumps(made.to_json()).encode()]


def shard_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(shard_folder().path.glob("*.safetensors"))]


def masked_shard_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(masked_folder().path.glob("*.safetensors"))]


def backbone_seeds() -> list[bytes]:
    return [json.dumps(tiny_backbone.manifest(b"graph")).encode()]


def board_seeds() -> list[bytes]:
    names = ("square_flops", "cache_bytes", "memory_bytes", "exp_entries", "storage_bytes")
    made = Board(
        machine={"cores": 2},
        rates=dict.fromkeys(names, 1e9),
        kinds={"a": (1.0, 0.0, 2.0)},
        between=0.0,
        step=0.0,
        image=0.0,
        speedups={"1": 1.0},
    )
    made.save(folder() / "seed.json")
    return [(folder() / "seed.json").read_bytes()]


def checkpoint_seeds() -> list[bytes]:
    """A run's last generation, its checksum replaced by the one that `checkpoint` computes."""
    path, arrays = folder() / "checkpoint-seed", {"parameters": np.ones(3, np.float32)}
    facts, plan = {"numpy": "2"}, {"tile": 2, "lanes": 1, "layout": 7}
    with (
        mock.patch("trainer_lite.generation.header_crc", return_value=0),
        mock.patch("zlib.crc32", return_value=0),
    ):
        generation.write(path, arrays, Progress(), facts, plan)
    return [path.read_bytes()]


def message_seeds(tensors: str) -> list[bytes]:
    stored, scale = encode(CODECS["int8"], np.ones((2, 3, 4), np.float32))
    assert scale is not None
    values = {"features": np.ones((1, 2), np.float32), "stored": stored, "scale": scale}
    found = []
    for in_json in ([], ["features"], list(values)):
        body, length = open_inference.build({"id": "7"}, tensors, values, in_json)
        found += [bytes([first]) + body for first in (0, 3, min(255, length or 0))]
    return found


def image_seeds() -> list[bytes]:
    from PIL import Image

    pixels = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    found = []
    for name in ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, name)
        found.append(file.getvalue())
    return found


def mask_seeds() -> list[bytes]:
    from PIL import Image

    found = [b"cground\nwater\nsky\n"]
    indices = np.arange(10 * 12, dtype=np.uint8).reshape(10, 12) % 3
    for mode in ("L", "P"):
        drawn, file = Image.fromarray(indices), io.BytesIO()
        if mode == "P":
            drawn.putpalette(list(range(256)) * 3)
        drawn.save(file, "PNG")
        found.append(file.getvalue())
    return found


def history_seeds() -> list[bytes]:
    sizes = dict.fromkeys(("tile_images", "lanes", *(f"{part}_bytes" for part in PARTS)), 1)
    sizes.update(predicted_peak_rss_bytes=9, peak_rss_bytes=8)
    epoch = {"train_loss": 2.5, "train_accuracy": 0.5, "val_accuracy": None, "rate": 7.5}
    content = {
        "format": formats.HISTORY,
        "version": formats.VERSION,
        "adaptors": {"last": 7},
        "epochs": [{**epoch, "epoch": 1}, {**epoch, "epoch": 2, "val_accuracy": 0.25}],
        "best_epoch": 2,
        "test_accuracy": None,
        **dict.fromkeys(("steps", "skipped_steps", "seconds", "threads"), 3),
        "memory": {**sizes, "memory_budget_bytes": 10},
        "versions": {"numpy": "2", "<script>": "<b>"},
    }
    return [json.dumps(content).encode()]


def profile_seeds() -> list[bytes]:
    counted = ("macs", "flops", "bytes", "runs")
    operation = {**dict.fromkeys(counted, 5), "seconds": 0.5, "limit_seconds": 1e-3}
    named = {**operation, "section": "forward: <script>", "operation": "matmul"}
    stage = {"images": 4, "seconds": 1.5, "other_seconds": 0.5, "operations": [named, named]}
    config = reported()["runs"][0]["config"]
    content = {"config": config, "training": stage, "inference": stage, "tile_images": 2}
    return [json.dumps(content).encode()]


def installer_seeds() -> list[bytes]:
    put("wheel.whl", b"wheel")
    content = {
        "format": "edgetune.bundle",
        "version": 1,
        "edgetune": "0",
        "target": "aarch64",
        "files": {"wheel.whl": {"bytes": 5, "sha256": "00"}},
    }
    return [json.dumps(content).encode()]


@dataclass(frozen=True)
class Target:
    """A reader under test, and where to start from."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS = {
    "adaptor": Target(adaptor, adaptor_seeds),
    "shard": Target(shard, shard_seeds),
    "masked-shard": Target(masked_shard, masked_shard_seeds),
    "features-manifest": Target(features_manifest, manifest_seeds),
    "backbone-manifest": Target(backbone_manifest, backbone_seeds),
    "basis": Target(basis, basis_seeds),
    "board": Target(board, board_seeds),
    "checkpoint": Target(checkpoint, checkpoint_seeds),
    "history": Target(history, history_seeds),
    "profile": Target(profile, profile_seeds),
    "request": Target(request, lambda: message_seeds("inputs")),
    "answer": Target(answer, lambda: message_seeds("outputs")),
    "http": Target(http, served.seeds),
    "image": Target(image, image_seeds),
    "mask": Target(mask, mask_seeds),
    "installer-manifest": Target(installer_manifest, installer_seeds),
}


def survive(target: Target, data: bytes) -> None:
    """Runs a reader on some bytes; an exception that is no EdgeError goes through."""
    try:
        target.run(data)
    except MissingExtraError:
        raise
    except EdgeError:
        pass
