"""`edgetune predict` on image files: backbone, adaptor and image in one go."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import formats
from edge_runtime.adaptor import Adaptor
from edge_runtime.backbone import Backbone
from edge_runtime.preprocess import load_image
from tests.command_line import edgetune
from tests.edge_runtime.tiny_backbone import EMBED_DIM, TOKENS, write_backbone, write_image
from tests.problems import config_of, random_parameters


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path, Path]:
    """(an image, an adaptor, the backbone that it was trained on)."""
    for module in ("onnx", "onnxruntime", "PIL"):
        pytest.importorskip(module)
    folder = write_backbone(tmp_path / "backbone", divide=True)
    write_image(tmp_path / "one.png", 1)
    config = config_of(tokens=TOKENS, embed_dim=EMBED_DIM, classes=3)
    reference = dict(Backbone.open(folder).reference)
    parameters = random_parameters(config, np.float32)
    Adaptor(config, parameters, ["ant", "bee", "cat"], reference).save(tmp_path / "adaptor")
    return tmp_path / "one.png", tmp_path / "adaptor", folder


def test_an_image_gets_the_classes_of_its_features(inputs: tuple[Path, Path, Path]) -> None:
    image, adaptor, folder = inputs
    outcome = edgetune("predict", image, "--adaptor", adaptor, "--backbone", folder, "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    ((prediction,),) = json.loads(outcome.stdout).values()
    backbone = Backbone.open(folder)
    features = backbone.run(load_image(image, backbone.preprocessing)[None])
    probabilities = Adaptor.load(adaptor).predict_proba(features)[0]
    best = np.argsort(-probabilities)
    assert prediction["image"] == str(image)
    assert [top["class"] for top in prediction["top"]] == [["ant", "bee", "cat"][i] for i in best]
    assert [top["probability"] for top in prediction["top"]] == pytest.approx(
        list(probabilities[best]), rel=1e-5
    )


def test_unusable_images_are_named_and_the_others_predicted(
    inputs: tuple[Path, Path, Path],
) -> None:
    from PIL import Image

    image, adaptor, folder = inputs
    text, black = image.with_name("text.png"), image.with_name("black.png")
    text.write_text("not an image")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(black)  # 0 / 0 in this backbone
    missing = image.with_name("missing.png")
    outcome = edgetune(
        "predict", missing, text, black, image, "--adaptor", adaptor, "--backbone", folder
    )
    assert outcome.exit_code == 1
    (line,) = outcome.stdout.splitlines()
    assert line.startswith(f"{image}: ")
    errors = outcome.stderr.splitlines()
    assert len(errors) == 3 and all(error.startswith("Error: ") for error in errors)
    for error, path in zip(errors, (missing, text, black)):
        assert str(path) in error


def test_another_backbone_is_refused(inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    image, adaptor, folder = inputs
    content = json.loads((folder / "manifest.json").read_text())
    content["k"] = 2
    parts = {key: content[key] for key in ("k", "preprocessing", "graph_version")}
    content["identity"] = formats.identity(
        {**parts, "weights_sha256": content["weights"]["sha256"]}
    )
    (folder / "manifest.json").write_text(json.dumps(content))
    line = edgetune("predict", image, "--adaptor", adaptor, "--backbone", folder).error
    assert f"{folder} is tiny, k=2" in line and "they differ in k." in line
