"""The README's own commands and code, run as they stand, from a folder of photos to an answer."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

import pytest

from tests.edge_runtime.tiny_backbone import contents
from tests.pages import ROOT, Reader, blocks
from tests.photos import write_photos

needed = ("torch", "timm", "onnx", "onnxruntime", "PIL", "starlette", "uvicorn")
if any(importlib.util.find_spec(name) is None for name in needed):
    pytest.skip("the README exports a backbone: needs edgetune[export]", allow_module_level=True)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("readme")
    write_photos(folder / "photos", {"train": 24, "val": 8, "test": 8})
    (folder / "cat.jpg").write_bytes((folder / "photos/test/cat/0.jpg").read_bytes())
    reader = Reader(folder)
    with reader.closing:
        yield reader


def test_commands_and_code_in_order(reader: Reader) -> None:
    page = blocks((ROOT / "README.md").read_text())
    commands = [
        line
        for block in page
        if block.language == "console"
        for line in block.script.splitlines()
        if line.startswith("edgetune ")
    ]
    names = [command.split()[1] for command in commands]
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
        "sweep",
    ]
    printed = {}
    for name, command in zip(names, commands):
        where = " from a server" if "http://" in command else ""
        printed[name + where] = reader.shell(command + "\n")
    workplace = reader.folder
    assert printed["predict from a server"].split()[:2] == printed["predict"].split()[:2]
    for folder in ("pulled", "remote"):
        assert contents(workplace / folder) == contents(workplace / "features")
    assert "predicted peak RSS" in printed["plan"]
    assert "predicted time of an epoch" in printed["plan"]
    assert "best epoch" in printed["train"]
    assert re.search(r"accuracy on test \(16 images\): (1.0|0.9)", printed["evaluate"])
    assert printed["predict"].startswith("cat.jpg: cat")

    (workplace / "adaptor.safetensors").unlink()
    (code,) = (block for block in page if block.language == "python")
    accuracy, peak = reader.read(code).split()
    assert float(accuracy) > 0.9
    assert 20e6 < int(peak) < 100e6
    assert (workplace / "adaptor.safetensors").is_file()
