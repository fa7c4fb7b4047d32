"""Segmentation from the command line: extract, train, evaluate, predict, and what refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import extract, shard_writer
from edge_runtime.adaptor import Adaptor
from edge_runtime.backbone import Backbone
from edge_runtime.codecs import CODECS
from edge_runtime.config import IGNORED
from edge_runtime.errors import MismatchError
from edge_runtime.features import FeatureFolder
from edge_runtime.mask_folder import load_mask, scan_masks
from edge_runtime.masks import token_labels
from edge_runtime.preprocess import load_image
from tests.command_line import edgetune
from tests.edge_runtime import tiny_backbone
from tests.edge_runtime.extraction.test_resume import interrupt
from tests.edge_runtime.tiny_backbone import contents, write_backbone, write_image

for module in ("onnx", "onnxruntime", "PIL"):
    pytest.importorskip(module)

COUNTS = {"train": 9, "val": 3, "test": 4}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_backbone.with_a_grid(monkeypatch)
    monkeypatch.setattr(shard_writer, "rows_per_shard", lambda bytes_per_image: 4)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    from PIL import Image

    root, rng = tmp_path / "scenes", np.random.default_rng(0)
    for split, count in COUNTS.items():
        (root / split / "masks").mkdir(parents=True)
        for index in range(count):
            write_image(root / split / "images" / f"{index}.png", index)
            mask = rng.choice([0, 1, 2, IGNORED], (10, 12)).astype(np.uint8)
            Image.fromarray(mask).save(root / split / "masks" / f"{index}.png")
    (root / "classes.txt").write_text("sky\ntree\nroad\n")
    return root


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "backbone")


@pytest.fixture
def features(scenes: Path, backbone: Path, tmp_path: Path) -> Path:
    outcome = edgetune("extract", scenes, "--backbone", backbone, "--out", tmp_path / "features")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    return tmp_path / "features"


@pytest.fixture
def adaptor(features: Path, tmp_path: Path) -> Path:
    options = ("--kind", "segmentation", "--epochs", 2, "--batch-size", 4, "--rank", 4)
    outcome = edgetune("train", features, "--out", tmp_path / "a.safetensors", *options)
    assert outcome.exit_code == 0, outcome.stderr
    assert "test mean iou: " in outcome.stdout
    return tmp_path / "a.safetensors"


def test_masks_lie_beside_the_features(features: Path, scenes: Path, backbone: Path) -> None:
    folder = FeatureFolder.open(features)
    how = Backbone.open(backbone).preprocessing
    assert folder.classes == ["sky", "tree", "road"]
    assert folder.manifest["masks"] == {"size": 8, "ignored": 255}
    for name, count in COUNTS.items():
        split = folder.split(name)
        expected = np.stack(
            [
                load_mask(scenes / path.replace("/images/", "/masks/"), scenes / path, how, 3)
                for path in split.paths
            ]
        )
        found = np.empty((count, 8, 8), np.uint8)
        split.read_masks(np.arange(count), found)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(split.labels, token_labels(expected, 2))
    described = json.loads(edgetune("inspect", features, "--verify", "--json").stdout)
    assert described["intact"]
    assert described["bytes_per_image"] == 4 * 48 * 2 + 4 + 8 * 8 + 4


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    after: int,
    features: Path,
    scenes: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run() -> Any:
        opened = Backbone.open(backbone)
        return extract.extract(scan_masks(scenes), opened, tmp_path / "out", CODECS["float16"])

    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert run().computed < sum(COUNTS.values())
    assert contents(tmp_path / "out") == contents(features)


def test_wrong_masks_stop_it_and_unreadable_ones_are_skipped(
    scenes: Path, backbone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (scenes / "train/masks/3.png").write_bytes(b"no image")
    outcome = edgetune("extract", scenes, "--backbone", backbone, "--out", out)
    assert outcome.exit_code == 0
    expected = "skipped train/images/3.png: its mask cannot be read (not an image that Pillow can"
    assert expected in outcome.stderr
    assert FeatureFolder.open(out).split("train").rows == 8
    (scenes / "classes.txt").write_text("sky\ntree\n")
    outcome = edgetune("extract", scenes, "--backbone", backbone, "--out", tmp_path / "other")
    assert outcome.exit_code == 1
    assert "holds the index 2, and classes.txt names 2 classes, 0 to 1" in outcome.stderr
    assert not (tmp_path / "other").exists()


def test_a_server_gives_the_same_bytes(
    features: Path, scenes: Path, backbone: Path, tmp_path: Path
) -> None:
    pytest.importorskip("starlette")
    from export.serve.app import Settings, create_app
    from export.serve.batching import Limits
    from tests.serving import in_thread

    app = create_app(Backbone.open(backbone, 1), Settings(Limits(max_batch=3)))
    with in_thread(app) as running:
        outcome = edgetune("extract", scenes, "--server", running.url, "--out", tmp_path / "remote")
    assert outcome.exit_code == 0, outcome.stderr
    assert contents(tmp_path / "remote") == contents(features)


def test_a_grid_is_needed(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_backbone, "TOKENS", 12)
    monkeypatch.setattr(tiny_backbone, "EMBED_DIM", 16)
    flat = write_backbone(tmp_path / "flat")
    outcome = edgetune("extract", scenes, "--backbone", flat, "--out", tmp_path / "out")
    assert outcome.exit_code == 1
    assert "patch tokens are a square grid, and these 12 are none" in outcome.stderr


def test_pixels_are_evaluated(adaptor: Path, features: Path) -> None:
    outcome = edgetune("evaluate", adaptor, features, "--json")
    found = json.loads(outcome.stdout)
    expected = Adaptor.load(adaptor).evaluate(FeatureFolder.open(features).split("test"))
    assert found["confusion"] == expected.confusion.tolist()
    assert found["mean_iou"] == expected.score
    assert (found["images"], found["classes"]) == (4, ["sky", "tree", "road"])
    shown = edgetune("evaluate", adaptor, features, "--split", "val").stdout
    assert shown.startswith("mean IoU on val (3 images): ")
    assert "2 road" in shown


def test_masks_are_predicted(
    adaptor: Path, features: Path, scenes: Path, backbone: Path, tmp_path: Path
) -> None:
    from PIL import Image

    images = [scenes / f"test/images/{index}.png" for index in range(2)]
    asked = ("--adaptor", adaptor, "--backbone", backbone, "--out", tmp_path / "out", "--json")
    outcome = edgetune("predict", *images, *asked)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    opened, trained = Backbone.open(backbone), Adaptor.load(adaptor)
    for image, found in zip(images, json.loads(outcome.stdout)["predictions"]):
        expected = trained.predict_masks(opened.run(load_image(image, opened.preprocessing)[None]))
        with Image.open(tmp_path / "out" / image.name) as written:
            np.testing.assert_array_equal(np.asarray(written), expected[0])
        assert found["mask"] == str(tmp_path / "out" / image.name)
        shares = {part["class"]: part["share"] for part in found["shares"]}
        for index, name in enumerate(trained.classes):
            assert shares.get(name, 0) == (expected == index).mean()
    again = edgetune("predict", *images, *asked)
    assert again.exit_code == 1
    assert again.stderr.count("exists already") == 2
    assert edgetune("predict", *images, *asked, "--force").exit_code == 0
    twice = edgetune("predict", images[0], scenes / "val/images/0.png", *asked, "--force")
    assert twice.stderr.count("exists already") == 1
    stored = ("--features", features, "--out", tmp_path / "rows")
    rows = edgetune("predict", "--adaptor", adaptor, *stored)
    assert rows.exit_code == 0, rows.stderr
    assert len(list((tmp_path / "rows/test/images").iterdir())) == 4
    assert f"test/images/0.png: {found_first(rows.stdout)}" in rows.stdout


def found_first(shown: str) -> str:
    """What the first line says after the image."""
    return shown.splitlines()[0].partition(": ")[2]


def test_a_mask_never_leaves_its_folder(adaptor: Path, tmp_path: Path) -> None:
    from edge_runtime.mask_answers import Masks

    trained = Adaptor.load(adaptor)
    masks = Masks([trained], tmp_path / "deep" / "out", keep_folders=True, force=False)
    found = masks.result("/../../etc/x.png", trained, np.zeros((3, 2, 2), np.float32))
    assert found["mask"] == str(tmp_path / "deep/out/etc/x.png")
    assert found["shares"] == [{"class": "sky", "share": 1.0}]


def test_what_cannot_take_it_says_so(adaptor: Path, features: Path, tmp_path: Path) -> None:
    outcome = edgetune("export-adaptor", adaptor, "--format", "onnx", "--out", tmp_path / "a.onnx")
    assert outcome.exit_code == 1
    assert "kind segmentation are computed by numpy alone so far" in outcome.stderr
    outcome = edgetune("train", features, "--out", tmp_path / "b.safetensors")
    assert outcome.exit_code == 1
    assert "has masks; use --kind segmentation" in outcome.stderr
    with pytest.raises(MismatchError, match="predicts no masks"):
        plain_adaptor(features).predict_masks(np.zeros((1, 4, 48), np.float32))
    plain_adaptor(features).save(tmp_path / "plain")
    stored = ("--features", features, "--out", tmp_path / "rows")
    outcome = edgetune("predict", "--adaptor", tmp_path / "plain", *stored)
    assert outcome.exit_code == 1
    assert "--out is for the masks of one adaptor of kind segmentation" in outcome.stderr


def plain_adaptor(features: Path) -> Adaptor:
    """An adaptor of the same features with a class an image."""
    from tests.problems import config_of, random_parameters

    config = config_of(tokens=4, prefix_tokens=0, embed_dim=48, classes=3)
    parameters = random_parameters(config, np.float32)
    return Adaptor(config, parameters, ["a", "b", "c"], FeatureFolder.open(features).backbone)


def test_it_is_planned_and_profiled(adaptor: Path, features: Path) -> None:
    options = ("--kind", "segmentation", "--batch-size", 4, "--json")
    for arguments in (
        ("plan", features, *options),
        ("plan", "--shape", "197x192", *options),
        ("profile", features, "--steps", 1, *options),
        ("profile", adaptor, "--steps", 1, "--json"),
        ("inspect", adaptor, "--json"),
    ):
        outcome = edgetune(*arguments)
        assert outcome.exit_code == 0, outcome.output
        assert json.loads(outcome.stdout)
