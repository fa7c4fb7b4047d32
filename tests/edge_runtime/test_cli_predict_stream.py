"""`edgetune predict` that goes on: paths on stdin, a watched folder, several adaptors."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.backbone import Backbone
from edge_runtime.preprocess import load_image
from edge_runtime.together import Together
from tests.command_line import Outcome, edgetune
from tests.edge_runtime.tiny_backbone import EMBED_DIM, TOKENS, write_backbone, write_image
from tests.problems import config_of, random_parameters


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, list[Path], Path]:
    """(folder with two images, two adaptors, the backbone that they were trained on)."""
    for module in ("onnx", "onnxruntime", "PIL"):
        pytest.importorskip(module)
    backbone = write_backbone(tmp_path / "backbone")
    for seed in (1, 2):
        write_image(tmp_path / "photos" / f"{seed}.png", seed)
    reference = dict(Backbone.open(backbone).reference)
    adaptors = []
    for seed, names in enumerate((["ant", "bee", "cat"], ["day", "night"])):
        config = config_of(tokens=TOKENS, embed_dim=EMBED_DIM, classes=len(names))
        parameters = random_parameters(config, np.float32, seed)
        adaptors.append(tmp_path / f"adaptor-{seed}")
        Adaptor(config, parameters, names, reference).save(adaptors[-1])
    return tmp_path / "photos", adaptors, backbone


def lines(outcome: Outcome) -> list[Any]:
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def test_paths_on_stdin_give_json_lines(inputs: tuple[Path, list[Path], Path]) -> None:
    photos, (adaptor, _), backbone = inputs
    good, missing = photos / "1.png", photos / "none.png"
    listed = f"{good}\n\n{missing}\r\n{good}".encode()
    common = ("--adaptor", adaptor, "--backbone", backbone)
    outcome = edgetune("predict", "-", *common, stdin=listed)
    assert (outcome.exit_code, outcome.stderr) == (1, "")
    first, refused, last = lines(outcome)
    assert refused == {"image": str(missing), "error": f"{missing}: No such file or directory"}
    one = json.loads(edgetune("predict", good, *common, "--json").stdout)["predictions"][0]
    assert first == last == one
    assert set(one) == {"image", "adaptor", "top"} and one["adaptor"] == str(adaptor)
    assert edgetune("predict", "-", *common, stdin=f"{good}\n".encode()).exit_code == 0
    assert edgetune("predict", "-", *common, stdin=b"").stdout == ""


def test_several_adaptors_answer_for_each_image(inputs: tuple[Path, list[Path], Path]) -> None:
    photos, adaptors, backbone = inputs
    image = photos / "1.png"
    both = ("predict", image, "--backbone", backbone, "--adaptor", adaptors[0], "--adaptor")
    found = json.loads(edgetune(*both, adaptors[1], "--json").stdout)["predictions"]
    for adaptor, prediction in zip(adaptors, found):
        arguments = ("predict", image, "--backbone", backbone, "--adaptor", adaptor, "--json")
        (alone,) = json.loads(edgetune(*arguments).stdout)["predictions"]
        assert prediction["adaptor"] == alone["adaptor"] == str(adaptor)
        for one, other in zip(prediction["top"], alone["top"]):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
    first, second = edgetune(*both, adaptors[1]).stdout.splitlines()
    assert first.startswith(f"{image} [{adaptors[0]}]: ")
    assert second.startswith(f"{image} [{adaptors[1]}]: ") and "night" in second


def test_an_adaptor_of_another_backbone_is_refused(
    inputs: tuple[Path, list[Path], Path], tmp_path: Path
) -> None:
    photos, (adaptor, other), backbone = inputs
    changed = Adaptor.load(other)
    changed.backbone.update(identity="0" * 64, k=9)
    changed.save(tmp_path / "changed")
    arguments = ("predict", photos / "1.png", "--backbone", backbone, "--adaptor", adaptor)
    line = edgetune(*arguments, "--adaptor", tmp_path / "changed").error
    assert "trained on backbone tiny, k=9" in line and "they differ in k." in line


def test_adaptors_of_different_pooling_share_no_feature(
    inputs: tuple[Path, list[Path], Path], tmp_path: Path
) -> None:
    photos, (adaptor, other), backbone = inputs
    pooled = Adaptor.load(other)
    pooled.features["codec"] = "int8-pool2"
    pooled.save(tmp_path / "pooled")
    arguments = ("predict", photos / "1.png", "--backbone", backbone, "--adaptor", adaptor)
    line = edgetune(*arguments, "--adaptor", tmp_path / "pooled").error
    assert "they were trained on float32, int8-pool2; predict with the pooled ones by" in line


def test_a_watched_folder_gives_a_line_as_each_image_comes(
    inputs: tuple[Path, list[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, adaptors, backbone = inputs
    looks = []

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            (photos / "3.png").write_bytes(b"no image")
            write_image(photos / "4.png", 4)
        if len(looks) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("edge_runtime.watch.appearing.__defaults__", (wait,))
    both = [part for adaptor in adaptors for part in ("--adaptor", adaptor)]
    outcome = edgetune(
        "predict", "--watch", photos, "--interval", 0.2, *both, "--backbone", backbone
    )
    assert (outcome.exit_code, outcome.stderr) == (130, "\nstopped\n")
    assert looks == [0.2] * 4
    told = [(Path(line["image"]).name, line.get("adaptor")) for line in lines(outcome)]
    names = [str(adaptor) for adaptor in adaptors]
    whole = [(f"{name}.png", adaptor) for name in (1, 2, 4) for adaptor in names]
    assert sorted(told, key=str) == sorted([*whole, ("3.png", None)], key=str)
    (error,) = [line["error"] for line in lines(outcome) if "error" in line]
    assert error == f"{photos / '3.png'}: not an image that Pillow can read"


def test_image_after_image_keeps_no_memory(inputs: tuple[Path, list[Path], Path]) -> None:
    photos, adaptors, folder = inputs
    backbone = Backbone.open(folder)
    together = Together([Adaptor.load(adaptor) for adaptor in adaptors])

    def ask(times: int) -> int:
        for _ in range(times):
            pixels = load_image(photos / "1.png", backbone.preprocessing)
            together.predict(backbone.run(pixels[None]))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = ask(30)
        assert ask(300) - before < 40_000  # a hundred bytes an image would be 30 KB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-",),
        ("--watch", "w"),
        ("--watch", "w", "--features", "f"),
        ("x.png", "--watch", "w", "--backbone", "b"),
        ("--watch", "w", "--backbone", "b", "--interval", "0"),
        ("x.png", "--backbone", "b", "--runtime", "torch"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    outcome = edgetune("predict", "--adaptor", "a", *arguments)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
