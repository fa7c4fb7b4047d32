"""Valid inputs that the fuzzing of each reader starts from, and where files of it are put."""

from __future__ import annotations

import atexit
import functools
import io
import json
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from edge_runtime import formats, open_inference
from edge_runtime.adaptor import Adaptor
from edge_runtime.basis import Basis
from edge_runtime.codecs import CODECS, encode
from edge_runtime.features import FeatureFolder
from tests.edge_runtime import tiny_backbone
from tests.feature_folders import BACKBONE, write_features
from tests.problems import config_of, random_parameters
from trainer_lite import generation
from trainer_lite.board import Board
from trainer_lite.directions import Directions
from trainer_lite.history import PARTS
from trainer_lite.progress import Progress
from trainer_lite.report import report

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


@functools.cache
def reported() -> formats.Json:
    """What a report knows of an adaptor by itself."""
    return report([put("reported.safetensors", adaptor_seeds()[0])])


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
