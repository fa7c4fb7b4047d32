"""`edgetune pull`: byte-identical, resumable, and nothing that was altered is kept."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import formats, pull
from edge_runtime.http_link import Link
from tests.command_line import edgetune
from tests.edge_runtime.tiny_backbone import contents, manifest
from tests.feature_folders import alter_manifest, write_features


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Files of a folder with Range; `altered` changes what is sent of a file."""

    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, log: list[tuple[str, str]], *arguments: Any):
        self.root, self.log = root, log
        super().__init__(*arguments)

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.log.append((self.path, asked))
        path = self.root / self.path[1:]
        data = path.read_bytes() if path.is_file() else b""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if not path.is_file():
            self.send_response(404)
        elif found:
            start, end = int(found[1]), int(found[2])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            data = data[start : end + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


class Published:
    """A folder behind a web server."""

    def __init__(self, root: Path):
        self.root, self.log = root, []  # type: Path, list[tuple[str, str]]
        handler = functools.partial(RangeHandler, root, self.log)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    monkeypatch.setattr(pull, "PIECE_BYTES", 1000)
    write_features(tmp_path / "published")
    server = Published(tmp_path / "published")
    yield server
    server.close()


def test_the_folder_is_the_same_to_the_byte(published: Published, tmp_path: Path) -> None:
    outcome = edgetune("pull", published.url, "--out", tmp_path / "out")
    assert outcome.exit_code == 0, outcome
    assert contents(tmp_path / "out") == contents(published.root)
    assert not (tmp_path / "out.partial").exists()
    assert edgetune("inspect", tmp_path / "out", "--verify").exit_code == 0
    assert "exists already" in edgetune("pull", published.url, "--out", tmp_path / "out").error
    outcome = edgetune("pull", published.url, "--out", tmp_path / "out", "--force", "--json")
    found = json.loads(outcome.stdout)
    assert found["identity"] == json.loads((tmp_path / "out/manifest.json").read_text())["identity"]
    assert found["bytes"] == found["fetched_bytes"] > 5000


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C after so many requests."""
    calls = iter(range(after))
    true_request = Link.request

    def request(self: Link, *arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return true_request(self, *arguments, **options)

    monkeypatch.setattr(Link, "request", request)


@pytest.mark.parametrize("after", [2, 3, 5, 8])
def test_an_interrupted_pull_goes_on(
    after: int, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("pull", published.url, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        outcome = edgetune(*command)
    assert outcome.exit_code == 130
    assert "out.partial keeps what was fetched" in outcome.stderr
    before = len(published.log)
    assert edgetune(*command).exit_code == 0
    assert contents(tmp_path / "out") == contents(published.root)
    asked = [entry for entry in published.log if entry[1]]
    assert len(set(asked)) == len(asked), "a piece was fetched twice"
    assert len(published.log) > before


def test_a_resumed_file_that_is_wrong_is_fetched_anew(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("pull", published.url, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        edgetune(*command)
    (part,) = (tmp_path / "out.partial").glob("*.part")
    part.write_bytes(b"x" * 1000)
    assert edgetune(*command).exit_code == 0
    assert contents(tmp_path / "out") == contents(published.root)


def test_what_was_altered_is_refused(published: Published, tmp_path: Path) -> None:
    shard = published.root / "train-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    outcome = edgetune("pull", published.url, "--out", tmp_path / "out")
    assert outcome.exit_code == 1
    assert "train-00000.safetensors is not what manifest.json says" in outcome.stderr
    shard.write_bytes(data[:-9])
    outcome = edgetune("pull", published.url, "--out", tmp_path / "out")
    assert "asked for bytes 0 to 999" in outcome.stderr
    shard.unlink()
    assert "got status 404" in edgetune("pull", published.url, "--out", tmp_path / "out").stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", ".hidden", "a\\b"])
def test_names_that_lead_elsewhere_are_refused(
    name: str, published: Published, tmp_path: Path
) -> None:
    def change(content: Any) -> None:
        content["splits"]["train"]["shards"][0]["file"] = name

    alter_manifest(published.root, change)
    line = edgetune("pull", published.url, "--out", tmp_path / "out").error
    assert "is not a plain file name" in line


def test_manifests_that_are_none(published: Published, tmp_path: Path) -> None:
    path = published.root / "manifest.json"
    command = ("pull", published.url, "--out", tmp_path / "out")
    content = json.loads(path.read_text())
    for text, message in (
        ("hello", "cannot be read"),
        ("{}", "expected format 'edgetune.features', found None"),
        (json.dumps({**content, "codec": "int8"}), "was altered"),
        (json.dumps({**content, "version": 9}), "version 9"),
    ):
        path.write_text(text)
        assert message in edgetune(*command).error
    path.unlink()
    assert "has no manifest.json (status 404)" in edgetune(*command).error


def test_a_backbones_manifest(published: Published, tmp_path: Path) -> None:
    formats.write_json(published.root / "manifest.json", manifest(b"graph"))
    outcome = edgetune("pull", published.url, "--out", tmp_path / "out")
    assert outcome.exit_code == 0, outcome
    names = os.listdir(tmp_path / "out")
    assert names == ["manifest.json"]
    assert contents(tmp_path / "out")["manifest.json"] == (
        (published.root / "manifest.json").read_bytes()
    )


def test_a_full_disk_is_noticed_first(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    line = edgetune("pull", published.url, "--out", tmp_path / "out").error
    assert "its disk has 1 free" in line


def test_our_server_publishes_both(tmp_path: Path) -> None:
    for module in ("onnx", "onnxruntime", "PIL", "starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(module)
    from tests.edge_runtime.tiny_backbone import write_backbone
    from tests.serving import in_process

    backbone = write_backbone(tmp_path / "backbone")
    features = write_features(tmp_path / "features").path
    small = tmp_path / "small"
    assert edgetune("transcode", features, "--basis", 4, "--out", small).exit_code == 0
    features = small
    with in_process(tmp_path / "log", backbone, "--features", features) as (running, _):
        url = running.url
        assert edgetune("pull", f"{url}/features", "--out", tmp_path / "one").exit_code == 0
        assert edgetune("pull", f"{url}/backbone/", "--out", tmp_path / "two").exit_code == 0
        assert "publishes .../backbone" in edgetune("pull", url, "--out", tmp_path / "x").error
    assert contents(tmp_path / "one") == contents(features)
    manifests = [(folder / "manifest.json").read_bytes() for folder in (backbone, tmp_path / "two")]
    assert manifests[0] == manifests[1]
