"""The chain of hashes: what belongs together, what does not, and what was altered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import edgetune
from tests.edge_runtime import tiny_backbone
from tests.feature_folders import BACKBONE, alter_manifest, shard_name, write_features


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A feature folder and an adaptor trained on it."""
    write_features(tmp_path / "features")
    options = ("--out", tmp_path / "adaptor", "--epochs", 1, "--batch-size", 8, "--rank", 2)
    assert edgetune("train", tmp_path / "features", *options).exit_code == 0
    return tmp_path


def test_what_belongs_together(chain: Path) -> None:
    found = edgetune("verify", chain / "features", chain / "adaptor")
    assert found.exit_code == 0, found.stderr
    lines = found.stdout.splitlines()
    assert sum(line.startswith("ok ") for line in lines) == 3
    assert f"names features {''}" in found.stdout and "that is" in found.stdout
    unchecked = [line for line in lines if line.startswith("- ")]
    assert len(unchecked) == 2 and all(BACKBONE["identity"][:12] in line for line in unchecked)


def test_features_of_another_run_are_told_apart(chain: Path) -> None:
    write_features(chain / "others", seed=1)
    found = edgetune("verify", chain / "others", chain / "adaptor", "--json")
    assert found.exit_code == 1
    content = json.loads(found.stdout)
    assert not content["holds"]
    (wrong,) = [f["text"] for f in content["findings"] if f["holds"] is False]
    assert "names features" in wrong and "none of those given" in wrong


def test_one_altered_byte_is_found(chain: Path) -> None:
    path = chain / "features" / shard_name("train", 1)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    found = edgetune("verify", chain / "features")
    assert found.exit_code == 1
    assert f"altered: {path.name}" in found.stdout


def test_an_altered_manifest_is_found(chain: Path) -> None:
    manifest = chain / "features" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["backbone"]["k"] = 3
    manifest.write_text(json.dumps(content))
    assert "its identity is not its own" in edgetune("verify", chain / "features").stdout


def test_a_signed_folder_of_another_backbone_does_not_match_the_adaptor(chain: Path) -> None:
    def change(manifest: dict[str, dict[str, str]]) -> None:
        manifest["backbone"]["identity"] = "ab" * 32

    alter_manifest(chain / "features", change)
    found = edgetune("verify", chain / "features", chain / "adaptor")
    assert found.exit_code == 1 and "none of those given" in found.stdout


def test_a_backbone_is_checked_and_found(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    folder = tiny_backbone.write_backbone(tmp_path / "backbone")
    found = edgetune("verify", folder)
    assert found.exit_code == 0 and "as they were exported" in found.stdout
    (folder / "backbone.onnx").write_bytes(b"something else")
    assert edgetune("verify", folder).exit_code == 1


def test_what_is_none_of_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    found = edgetune("verify", tmp_path / "junk", tmp_path / "none")
    assert found.exit_code == 1
    assert found.stdout.count("WRONG") == 2
    assert found.stderr == "Error: 2 of 2 checks failed\n"
