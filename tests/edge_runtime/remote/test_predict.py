"""`edgetune predict --server`: the answers of the backbone itself, or one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.adaptor import Adaptor
from tests.command_line import edgetune
from tests.edge_runtime.tiny_backbone import (
    EMBED_DIM,
    SIZE,
    TOKENS,
    contents,
    write_image,
)
from tests.serving import (
    Running,
    in_process,
    self_signed,
)
from tests.test_imports import COMMAND, DEVICE, printed, run

for module in ("onnx", "onnxruntime", "PIL", "starlette", "uvicorn", "prometheus_client"):
    pytest.importorskip(module)


def predictions(outcome: Any) -> list[Any]:
    assert outcome.exit_code == 0, outcome
    return [
        [(top["class"], pytest.approx(top["probability"], abs=0.02)) for top in one["top"]]
        for one in json.loads(outcome.stdout)["predictions"]
    ]


@pytest.mark.parametrize("pixels", [SIZE, 100])  # 100: a file larger than the pixels
def test_predictions_are_those_of_the_backbone(
    pixels: int, adaptor: Path, backbone: Path, server: Running, tmp_path: Path
) -> None:
    for seed in range(3):
        write_image(tmp_path / f"{seed}.png", seed, (pixels, pixels))
    images = [tmp_path / f"{seed}.png" for seed in range(3)]
    options = ("--adaptor", adaptor, "--json")
    here = edgetune("predict", *images, *options, "--backbone", backbone)
    there = edgetune("predict", *images, *options, "--server", server.url)
    assert predictions(here) == predictions(there)
    found = json.loads(there.stdout)
    assert found["bytes_down"] / 3 < TOKENS * EMBED_DIM + 4 * TOKENS + 500  # int8, as trained
    assert found["bytes_up"] / 3 < 3 * SIZE * SIZE + 400


def test_unusable_images_are_named_and_the_others_predicted(
    adaptor: Path, server: Running, tmp_path: Path
) -> None:
    write_image(tmp_path / "good.png", 1)
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    images = [tmp_path / f"{name}.png" for name in ("missing", "text", "cut", "good")]
    outcome = edgetune("predict", *images, "--adaptor", adaptor, "--server", server.url)
    assert outcome.exit_code == 1
    assert outcome.stdout.startswith(f"{images[3]}: ") and len(outcome.stdout.splitlines()) == 1
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 3 and all(str(path) in e for e, path in zip(errors, images))
    assert "bytes up and" in outcome.stderr


def test_a_server_of_another_backbone_is_refused_before_anything_is_sent(
    adaptor: Path, tmp_path: Path, server: Running
) -> None:
    trained = Adaptor.load(adaptor)
    trained.backbone["identity"], trained.backbone["k"] = "12" * 32, 5
    trained.save(tmp_path / "other")
    write_image(tmp_path / "one.png", 1)
    line = edgetune(
        "predict", tmp_path / "one.png", "--adaptor", tmp_path / "other", "--server", server.url
    ).error
    assert f"{server.url} serves tiny, k=1" in line and "they differ in k." in line
    assert b'endpoint="infer"' not in server.request("GET", "/metrics")[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--server", "ftp://x"), "is no server's URL"),
        (("--server", "http://u:p@x"), "is no server's URL"),
        (("--server", "http://x:99999"), "is no server's URL"),
        (("--server", "http://127.0.0.1:9"), "cannot be reached: Connection refused"),
        (("--server", "http://no.such.host.invalid"), "cannot be reached"),
        (("--server", "http://127.0.0.1:9", "--token-file", "none"), "none: no such file"),
        (("--server", "https://127.0.0.1:9", "--ca", "none"), "certificates in PEM"),
        (("--server", "http://127.0.0.1:9", "--ca", "none"), "--ca is for https"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    options: tuple[str, ...], message: str, images: Path, tmp_path: Path
) -> None:
    assert message in edgetune("extract", images, *options, "--out", tmp_path / "out").error


def test_one_of_server_and_backbone(images: Path, adaptor: Path, tmp_path: Path) -> None:
    both = ("--server", "http://x", "--backbone", "b")
    for options in ((), both):
        assert edgetune("extract", images, *options, "--out", tmp_path / "out").exit_code == 2
        assert edgetune("predict", "x.png", "--adaptor", adaptor, *options).exit_code == 2


def test_a_device_needs_numpy_alone(adaptor: Path, server: Running, tmp_path: Path) -> None:
    write_image(tmp_path / "one.png", 1, (100, 100))
    options = ("--adaptor", adaptor, "--server", server.url, "--json")
    bare = run(COMMAND, "predict", tmp_path / "one.png", *options, allowed=DEVICE)
    assert bare.returncode == 0, bare.stderr
    whole = edgetune("predict", tmp_path / "one.png", *options)
    assert json.loads(bare.stdout)["predictions"] == json.loads(whole.stdout)["predictions"]
    write_image(tmp_path / "one.bmp", 1)
    bare = run(COMMAND, "predict", tmp_path / "one.bmp", *options, allowed=DEVICE)
    assert "pip install 'edgetune[vision]'" in bare.stderr


def test_prediction_by_http_loads_no_openssl(
    adaptor: Path, server: Running, tmp_path: Path
) -> None:
    write_image(tmp_path / "one.bmp", 1)  # which Pillow decodes here
    code = """
import atexit, json
import numpy
before = set(sys.modules)  # numpy 1 loads OpenSSL by itself
atexit.register(lambda: print(json.dumps(sorted(set(sys.modules) - before))))
"""
    options = ("--adaptor", adaptor, "--server", server.url)
    loaded = printed(run(code + COMMAND, "predict", tmp_path / "one.bmp", *options))
    assert "PIL.Image" in loaded and "edge_runtime.http_link" in loaded
    assert not {"ssl", "_ssl", "_hashlib"} & set(loaded)


def test_tokens_and_tls(images: Path, backbone: Path, tmp_path: Path) -> None:
    made = self_signed(tmp_path)
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "wrong").write_text("guess\n")
    options: tuple[object, ...] = ("--tls-cert", made.file, "--tls-key", made.key)
    options = (*options, "--token-file", tmp_path / "token")
    with in_process(tmp_path / "log", backbone, *options) as (running, _):
        url = f"https://127.0.0.1:{running.port}"
        command = ("extract", images, "--server", url, "--out", tmp_path / "out")
        assert "give the server's certificate authority with --ca" in edgetune(*command).error
        command = (*command, "--ca", made.file)
        assert "give it with --token-file" in edgetune(*command).error
        line = edgetune(*command, "--token-file", tmp_path / "wrong").error
        assert "asks for a token that it knows" in line
        outcome = edgetune(*command, "--token-file", tmp_path / "token")
        assert outcome.exit_code == 0, outcome
    edgetune("extract", images, "--backbone", backbone, "--out", tmp_path / "local")
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
