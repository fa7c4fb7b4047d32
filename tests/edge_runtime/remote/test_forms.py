"""Features that a server sends pooled or in a basis, or that the device has to make so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.backbone import Backbone
from edge_runtime.errors import MismatchError
from tests.command_line import edgetune
from tests.edge_runtime import tiny_backbone
from tests.edge_runtime.tiny_backbone import (
    EMBED_DIM,
    TOKENS,
    contents,
    write_backbone,
)
from tests.feature_folders import write_features
from tests.serving import (
    Running,
    in_thread,
)

for module in ("onnx", "onnxruntime", "PIL", "starlette", "uvicorn", "prometheus_client"):
    pytest.importorskip(module)


@pytest.mark.parametrize("codec", ["int8-pool2", "int4-pool2"])
def test_a_server_pools_as_a_local_extract_does(
    codec: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.serve.app import Settings, create_app
    from export.serve.batching import Limits

    tiny_backbone.with_a_grid(monkeypatch)
    grid = write_backbone(tmp_path / "grid")
    app = create_app(Backbone.open(grid, 1), Settings(Limits(max_batch=3)))
    local, remote = tmp_path / "local", tmp_path / "remote"
    edgetune("extract", images, "--backbone", grid, "--out", local, "--codec", codec)
    adaptor = tmp_path / "adaptor"
    options = ("--epochs", 1, "--batch-size", 4, "--rank", 2, "--out", adaptor)
    assert edgetune("train", local, *options).exit_code == 0
    with in_thread(app) as running:
        there = edgetune(
            "extract", images, "--server", running.url, "--out", remote, "--codec", codec
        )
        assert there.exit_code == 0, there
        assert contents(local) == contents(remote)
        image = images / "test/cat/9.png"
        for where in (("--backbone", grid), ("--server", running.url)):
            found = edgetune("predict", image, "--adaptor", adaptor, *where)
            assert found.exit_code == 0, found


def test_an_adaptor_in_a_basis_predicts_from_images_wherever_that_is_applied(
    images: Path, backbone: Path, server: Running, tmp_path: Path
) -> None:
    """Here, after features as the backbone gives them; or by a server that knows the basis."""
    from export.serve.app import Settings, create_app
    from export.serve.bases import basis_of

    features, small, adaptor = (tmp_path / name for name in ("features", "small", "adaptor"))
    assert edgetune("extract", images, "--backbone", backbone, "--out", features).exit_code == 0
    options = ("--codec", "int8", "--basis", 6, "--out", small)
    assert edgetune("transcode", features, *options).exit_code == 0
    options = ("--epochs", 2, "--batch-size", 4, "--rank", 2, "--out", adaptor)
    assert edgetune("train", small, *options).exit_code == 0
    assert basis_of(small).identity == basis_of(adaptor).identity
    app = create_app(Backbone.open(backbone, 1), Settings(), bases=[basis_of(adaptor)])
    found, down = {}, {}
    with in_thread(app) as knowing:
        places = {"here": ("--backbone", backbone), "server": ("--server", server.url)}
        places["knowing"] = ("--server", knowing.url)
        for place, where in places.items():
            command = ("predict", images / "test/cat/9.png", "--adaptor", adaptor, *where)
            outcome = edgetune(*command, "--json")
            assert outcome.exit_code == 0, outcome
            content = json.loads(outcome.stdout)
            (top,) = (one["top"] for one in content["predictions"])
            found[place] = {entry["class"]: entry["probability"] for entry in top}
            down[place] = content.get("bytes_down")
        listed = [entry["name"] for entry in knowing.json("/v2/models/tiny")["outputs"]]
    assert f"features_int8_{basis_of(adaptor).identity[:16]}" in listed
    assert down["server"] - down["knowing"] > TOKENS * (EMBED_DIM - 6) - 100  # longer names
    for place in ("server", "knowing"):
        assert found[place] == pytest.approx(found["here"], abs=0.02)


def test_adaptors_of_other_bases_share_no_feature(
    images: Path, backbone: Path, adaptor: Path, tmp_path: Path
) -> None:
    features, small, other = (tmp_path / name for name in ("features", "small", "other"))
    edgetune("extract", images, "--backbone", backbone, "--out", features)
    edgetune("transcode", features, "--codec", "int8", "--basis", 6, "--out", small)
    edgetune("train", small, "--epochs", 1, "--batch-size", 4, "--rank", 2, "--out", other)
    image = images / "test/cat/9.png"
    both = ("--adaptor", adaptor, "--adaptor", other, "--backbone", backbone)
    assert "in a basis of 6 (identity" in edgetune("predict", image, *both).error


def test_a_basis_that_a_server_cannot_offer_is_refused(
    images: Path, backbone: Path, adaptor: Path, tmp_path: Path
) -> None:
    from export.serve.app import Settings, create_app
    from export.serve.bases import basis_of

    with pytest.raises(MismatchError, match="is in no basis"):
        basis_of(adaptor)
    features = write_features(tmp_path / "features", embed_dim=8).path
    edgetune("transcode", features, "--basis", 4, "--out", tmp_path / "small")
    with pytest.raises(MismatchError, match=f"8 wide, these are {EMBED_DIM}"):
        create_app(Backbone.open(backbone, 1), Settings(), bases=[basis_of(tmp_path / "small")])
