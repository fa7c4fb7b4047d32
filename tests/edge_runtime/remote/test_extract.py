"""`edgetune extract --server`: the folder of a local extract, whatever happens to the link."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import shard_writer
from edge_runtime.codecs import PLAIN
from edge_runtime.preprocess import load_image
from tests.command_line import edgetune
from tests.edge_runtime.tiny_backbone import (
    SIZE,
    contents,
)
from tests.serving import (
    Running,
    answers,
    in_process,
    wait_until,
)

for module in ("onnx", "onnxruntime", "PIL", "starlette", "uvicorn", "prometheus_client"):
    pytest.importorskip(module)


@pytest.mark.parametrize("codec", sorted(PLAIN))
def test_the_folder_is_that_of_a_local_extract(
    codec: str, images: Path, backbone: Path, server: Running, tmp_path: Path
) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    options = ("--codec", codec, "--batch-size", 4)  # more than the server takes at a time
    here = edgetune("extract", images, "--backbone", backbone, "--out", local, *options)
    there = edgetune("extract", images, "--server", server.url, "--out", remote, *options)
    assert (here.exit_code, there.exit_code) == (0, 0), there
    assert contents(local) == contents(remote)
    assert "bytes up and" in there.stdout and "bytes up and" not in here.stdout


def test_bytes_are_counted(images: Path, server: Running, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = edgetune("extract", images, "--server", server.url, "--out", out, "--json")
    found = json.loads(outcome.stdout)
    assert found["images"] == 16
    assert 0 < found["bytes_up"] - 16 * SIZE * SIZE * 3 < 16 * 300
    assert 0 < found["bytes_down"] - 16 * found["bytes_per_image"] < 16 * 500


def test_a_server_without_the_binary_extension_gets_json(
    images: Path, backbone: Path, server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.serve import app

    edgetune("extract", images, "--backbone", backbone, "--out", tmp_path / "local")
    monkeypatch.setattr(app, "BINARY_EXTENSION", "none")
    outcome = edgetune("extract", images, "--server", server.url, "--out", tmp_path / "remote")
    assert outcome.exit_code == 0, outcome
    assert contents(tmp_path / "local") == contents(tmp_path / "remote")


def test_a_server_killed_and_restarted_leaves_no_trace(
    images: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    edgetune("extract", images, "--backbone", backbone, "--out", local, "--batch-size", 1)
    with in_process(tmp_path / "log", backbone) as (running, process):
        calls = iter(range(100))
        restarted: list[Any] = []

        def restart() -> None:
            process.wait()
            manager = in_process(tmp_path / "log2", backbone, port=running.port)
            manager.__enter__()
            restarted.append(manager)

        def load(*arguments: Any) -> Any:
            if next(calls) == 7:
                process.kill()
                threading.Timer(1.0, restart).start()
            return load_image(*arguments)

        monkeypatch.setattr(shard_writer, "load_image", load)
        options = ("--out", remote, "--batch-size", 1)
        outcome = edgetune("extract", images, "--server", running.url, *options)
        wait_until(lambda: restarted)
        restarted[0].__exit__(None, None, None)
    assert outcome.exit_code == 0, outcome
    assert contents(local) == contents(remote)


def test_a_link_lost_for_good_is_gone_on_with(
    images: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    edgetune("extract", images, "--backbone", backbone, "--out", local, "--batch-size", 2)
    options = ("--out", remote, "--batch-size", 2, "--timeout", 0.5)
    with in_process(tmp_path / "log", backbone) as (running, process):
        with monkeypatch.context() as patch:
            calls = iter(range(100))

            def load(*arguments: Any) -> Any:
                if next(calls) == 7:
                    process.kill()
                    process.wait()
                return load_image(*arguments)

            patch.setattr(shard_writer, "load_image", load)
            outcome = edgetune("extract", images, "--server", running.url, *options)
        assert (outcome.exit_code, outcome.stdout) == (1, "")
        *_, keeps, error = outcome.stderr.splitlines()
        assert "the same command goes on from there" in keeps
        assert error.startswith(f"Error: {running.url} cannot be reached: ")
        assert not answers(running)
        with in_process(tmp_path / "log2", backbone, port=running.port):
            outcome = edgetune("extract", images, "--server", running.url, *options, "--json")
    assert json.loads(outcome.stdout)["computed"] < 16
    assert contents(local) == contents(remote)


def test_another_backbone_after_a_restart_is_noticed(
    images: Path, server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    model = server.app.routes[3].endpoint.__self__._model

    def load(*arguments: Any) -> Any:
        if next(calls) == 7:
            model.backbone.reference["identity"] = "other"
        return load_image(*arguments)

    monkeypatch.setattr(shard_writer, "load_image", load)
    out = tmp_path / "out"
    outcome = edgetune("extract", images, "--server", server.url, "--out", out, "--batch-size", 1)
    assert outcome.exit_code == 1
    assert "now has another backbone (identity other" in outcome.stderr.splitlines()[-1]
    assert not out.exists()


def test_an_image_that_the_backbone_cannot_take_is_named(
    images: Path, server: Running, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (9, 9)).save(images / "train/dog/12.png")  # 0 / 0 in this backbone
    outcome = edgetune("extract", images, "--server", server.url, "--out", tmp_path / "out")
    assert outcome.exit_code == 1
    assert "train/dog/12.png: the backbone gives NaN" in outcome.stderr.splitlines()[-1]
