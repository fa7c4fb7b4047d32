"""A tiny backbone behind a server, images, and an adaptor of that backbone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import shard_writer
from edge_runtime.adaptor import Adaptor
from edge_runtime.backbone import Backbone
from tests.edge_runtime.tiny_backbone import (
    EMBED_DIM,
    TOKENS,
    write_backbone,
    write_images,
)
from tests.problems import config_of, random_parameters
from tests.serving import (
    Running,
    in_thread,
)

NAMES = [f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(8)] + ["test/cat/9.png"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "rows_per_shard", lambda bytes_per_image: 5)


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "backbone", divide=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos", NAMES)
    (tmp_path / "photos/train/cat/3.png").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def server(backbone: Path) -> Iterator[Running]:
    from export.serve.app import Settings, create_app
    from export.serve.batching import Limits

    with in_thread(
        create_app(Backbone.open(backbone, 1), Settings(Limits(max_batch=3)))
    ) as running:
        yield running


@pytest.fixture
def adaptor(backbone: Path, tmp_path: Path) -> Path:
    config = config_of(tokens=TOKENS, embed_dim=EMBED_DIM, classes=3)
    parameters = random_parameters(config, np.float32)
    reference = dict(Backbone.open(backbone).reference)
    made = Adaptor(config, parameters, ["ant", "bee", "cat"], reference, {"codec": "int8"})
    made.save(tmp_path / "adaptor")
    return tmp_path / "adaptor"
