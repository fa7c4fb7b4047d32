"""`make demo` at few epochs: the whole job, with the commands as a user types them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

needed = ("torch", "timm", "onnx", "onnxruntime", "PIL", "sklearn")
if any(importlib.util.find_spec(name) is None for name in needed):
    pytest.skip("the demo needs edgetune[demo]", allow_module_level=True)

ROOT = Path(__file__).parents[1]


def test_the_demo_ends_with_its_table(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", "--epochs", "6", "--work", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    probe, adaptor = re.findall(r"test accuracy +([\d.]+) +([\d.]+)", finished.stdout)[0]
    assert min(float(probe), float(adaptor)) > 0.85
    for row in ("bytes an image", "peak RSS, MiB", "training, s", "whole demo, s"):
        assert row in finished.stdout


def test_the_backbone_is_small_enough_for_the_repository() -> None:
    folder = ROOT / "benchmarks" / "demo_backbone"
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 4e6
