"""benchmarks.transfer on a tiny backbone: what it counts is what travels."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge_runtime.errors import MismatchError
from tests.command_line import edgetune
from tests.edge_runtime.tiny_backbone import EMBED_DIM, SIZE, TOKENS, write_backbone, write_images
from tests.feature_folders import write_features

for module in ("onnx", "onnxruntime", "PIL"):
    pytest.importorskip(module)

NAMES = [
    f"{split}/{c}/{i}.png" for split in ("train", "val", "test") for c in ("a", "b") for i in (1, 2)
]


def transfer(*arguments: object) -> Any:
    """What the benchmark prints as JSON."""
    from benchmarks.transfer import main

    separate: dict[str, Any] = {}
    if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click before 8.2
        separate["mix_stderr"] = False
    result = CliRunner(**separate).invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result
    return result.stdout


def test_what_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = write_backbone(tmp_path / "backbone", divide=True)
    write_images(tmp_path / "photos", NAMES)
    features = tmp_path / "features"
    edgetune("extract", tmp_path / "photos", "--backbone", backbone, "--out", features)
    arguments = (features, tmp_path / "photos", "--backbone", backbone, "--epochs", 1)
    monkeypatch.setattr("benchmarks.transfer.TrainConfig", small_config)
    found = json.loads(transfer(*arguments, "--seeds", 2, "--basis", 6, "--json"))
    pixels, files, encoded = found["up"].values()
    sizes = [(tmp_path / "photos" / name).stat().st_size for name in NAMES]
    assert pixels == 3 * SIZE**2 and files == sum(sizes) / len(sizes) and encoded > 0
    rows = {row["name"]: row for row in found["down"]}
    assert rows["all 2 maps, float16"]["bytes_per_image"] == 2 * (TOKENS * EMBED_DIM * 2 + 4)
    assert rows["int8"]["bytes_per_image"] == TOKENS * (EMBED_DIM + 4)
    assert rows["int4 basis 6"]["bytes_per_image"] == TOKENS * (3 + 4)
    assert all(len(row["val"]) == len(row["test"]) == 2 for row in found["down"][2:])
    assert 100 < found["frame_bytes"]["up"] < 400 and 100 < found["frame_bytes"]["down"] < 600
    table = transfer(*arguments, "--seeds", 1, "--codec", "int8")
    names = [line.split("  ")[0] for line in table.splitlines()]
    assert {"int8", "int8 basis 8"} <= set(names) and not {"float16", "int4"} & set(names)


def small_config(**options: Any) -> Any:
    from trainer_lite.config import TrainConfig

    return TrainConfig(**options, rank=2, blocks=1, batch_size=2)


def test_features_of_another_backbone_are_refused(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path / "backbone")
    features = write_features(tmp_path / "features").path
    write_images(tmp_path / "photos", NAMES)
    with pytest.raises(MismatchError, match="not of the backbone"):
        transfer(features, tmp_path / "photos", "--backbone", backbone)
