"""`extract --server` and `predict --server`: the same bytes and answers as with a backbone here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import shard_writer
from edge_runtime.adaptor import Adaptor
from edge_runtime.backbone import Backbone
from edge_runtime.codecs import PLAIN
from edge_runtime.errors import MismatchError
from edge_runtime.preprocess import load_image
from tests.command_line import edgetune
from tests.edge_runtime import tiny_backbone
from tests.edge_runtime.tiny_backbone import (
    EMBED_DIM,
    SIZE,
    TOKENS,
    contents,
    write_backbone,
    write_image,
    write_images,
)
from tests.feature_folders import write_features
from tests.problems import config_of, random_parameters
from tests.serving import (
    Running,
    answers,
    in_process,
    in_thread,
    self_signed,
    wait_until,
)
from tests.test_imports import COMMAND, DEVICE, printed, run

for module in ("onnx", "onnxruntime", "PIL", "starlette", "uvicorn", "prometheus_client"):
    pytest.importorskip(module)

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
