"""One small server for the tests of a module, where the packages that it needs are installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Certificate, Running, in_thread, self_signed


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("onnx", "onnxruntime", "PIL", "starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(module)
    from tests.edge_runtime.tiny_backbone import write_backbone

    return write_backbone(tmp_path_factory.mktemp("served") / "backbone", divide=True)


@pytest.fixture(scope="module")
def server(backbone_folder: Path) -> Iterator[Running]:
    """The tiny backbone as `tiny`: at most 4 images a request, bodies of at most 64 KiB."""
    from edge_runtime.backbone import Backbone
    from export.serve.app import Settings, create_app
    from export.serve.batching import Limits

    settings = Settings(Limits(max_batch=4, max_queue=16), max_body=1 << 16, body_seconds=1.0)
    with in_thread(create_app(Backbone.open(backbone_folder, 1), settings)) as running:
        yield running


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return self_signed(tmp_path)
