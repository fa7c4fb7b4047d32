"""A small backbone, a folder of images, and shards of few rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime import shard_writer
from edge_runtime.backbone import Backbone
from tests.edge_runtime.extraction.images import NAMES, ROWS
from tests.edge_runtime.tiny_backbone import write_backbone, write_images


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "rows_per_shard", lambda bytes_per_image: ROWS)


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    return Backbone.open(write_backbone(tmp_path / "backbone"), threads=1)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", NAMES)
