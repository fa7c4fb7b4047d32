"""The README's own commands and code, run as they stand, from a folder of photos to an answer."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

needed = ("torch", "timm", "onnx", "onnxruntime", "PIL")
if any(importlib.util.find_spec(name) is None for name in needed):
    pytest.skip("the README exports a backbone: needs edgetune[export]", allow_module_level=True)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Contents of the README's fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def write_photos(root: Path) -> None:
    """Two classes that differ in colour, 24 train, 8 val and 8 test images each."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8), ("test", 8)):
        for channel, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (40, 50, 3), np.uint8)
                pixels[:, :, channel] += 120
                Image.fromarray(pixels).save(folder / f"{index}.jpg")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    write_photos(folder / "photos")
    (folder / "cat.jpg").write_bytes((folder / "photos/test/cat/0.jpg").read_bytes())
    return folder


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_commands_and_code_in_order(workplace: Path) -> None:
    commands = [
        shlex.split(line[len("$ edgetune ") :])
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith("$ edgetune ")
    ]
    names = [command[0] for command in commands]
    assert names == [
        "export",
        "extract",
        "selftest",
        "calibrate",
        "plan",
        "train",
        "evaluate",
        "inspect",
        "predict",
    ]
    printed = {}
    for command in commands:
        extra = ["--random-weights"] if command[0] == "export" else []  # tests have no network
        printed[command[0]] = run(["-m", "edge_runtime.cli", *command, *extra], workplace)
    assert "predicted peak RSS" in printed["plan"]
    assert "predicted time of an epoch" in printed["plan"]
    assert "best epoch" in printed["train"]
    assert re.search(r"accuracy on test \(16 images\): (1.0|0.9)", printed["evaluate"])
    assert printed["predict"].startswith("cat.jpg: cat")

    (workplace / "adaptor.safetensors").unlink()
    (code,) = blocks("python")
    accuracy, peak = run(["-c", code], workplace).split()
    assert float(accuracy) > 0.9
    assert 20e6 < int(peak) < 100e6
    assert (workplace / "adaptor.safetensors").is_file()


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} -> {target}"
