"""The README's own commands and code, run as they stand, from a folder of photos to an answer."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge_runtime.tiny_backbone import contents
from tests.photos import write_photos
from tests.serving import in_process

needed = ("torch", "timm", "onnx", "onnxruntime", "PIL", "starlette", "uvicorn")
if any(importlib.util.find_spec(name) is None for name in needed):
    pytest.skip("the README exports a backbone: needs edgetune[export]", allow_module_level=True)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Contents of the README's fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    write_photos(folder / "photos", {"train": 24, "val": 8, "test": 8})
    (folder / "cat.jpg").write_bytes((folder / "photos/test/cat/0.jpg").read_bytes())
    return folder


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_commands_and_code_in_order(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        "serve",
        "pull",
        "extract",
        "predict",
        "export-adaptor",
        "predict",
    ]
    printed = {}
    with contextlib.ExitStack() as stack:
        for name, *arguments in commands:
            if name == "serve":
                monkeypatch.chdir(workplace)
                server, _ = stack.enter_context(in_process(workplace / "log", *arguments))
                continue
            if name == "export":
                arguments.append("--random-weights")  # tests have no network
            if any("http://server:8000" in argument for argument in arguments):
                arguments = [a.replace("http://server:8000", server.url) for a in arguments]
                name += " from a server"
            command = name.split()[0]
            printed[name] = run(["-m", "edge_runtime.cli", command, *arguments], workplace)
    assert printed["predict from a server"].split()[:2] == printed["predict"].split()[:2]
    for folder in ("pulled", "remote"):
        assert contents(workplace / folder) == contents(workplace / "features")
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
