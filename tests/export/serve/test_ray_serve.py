"""The app, unchanged, in Ray Serve: the example of docs/serving.md."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backbone import Backbone
from edge_runtime.codecs import CODECS
from edge_runtime.http_link import Link
from edge_runtime.remote_backbone import RemoteBackbone
from tests.test_imports import ROOT

DOCUMENT = ROOT / "docs" / "serving.md"


def example() -> str:
    """The Python of the section on Ray Serve."""
    section = DOCUMENT.read_text().split("### Ray Serve")[1].split("\n### ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]


@pytest.mark.slow
def test_the_documented_example_serves_the_backbone(
    backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "Ray Serve NOT tried: install the extra [ray]"
    ray = pytest.importorskip("ray", reason=reason)
    serve = pytest.importorskip("ray.serve", reason=reason)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    names: dict[str, object] = {"__name__": "example"}
    text = example()
    assert '"/srv/backbone"' in text and "num_replicas=2" in text
    exec(text.replace('"/srv/backbone"', repr(str(backbone_folder))), names)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(names["application"], route_prefix="/")
        remote = RemoteBackbone.connect(Link(f"http://127.0.0.1:{port}"))
        images = np.random.default_rng(5).integers(1, 256, (3, 8, 8, 3), np.uint8)
        local = Backbone.open(backbone_folder, 1)
        for _ in range(4):  # whichever replica answers
            for name in ("float32", "float16", "int8"):
                here = local.encoded(images, CODECS[name])
                there = remote.encoded(images, CODECS[name])
                assert np.array_equal(here[0], there[0])
                assert (here[1] is None) == (there[1] is None)
                assert here[1] is None or np.array_equal(here[1], there[1])
    finally:
        serve.shutdown()
        ray.shutdown()
