"""Benchmarks are run by hand: what they import of the packages must not go away unnoticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = ("benchmarks", "edge_runtime", "export", "tests", "trainer_lite")
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if path.name != "__main__.py"
]
IMPORT_ALL = f"""
import importlib
for name in {MODULES}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # a peer's framework, which has an environment of its own
        if error.name.partition(".")[0] in {OWN}:
            raise
"""


def test_every_benchmark_imports() -> None:
    pytest.importorskip("torch")
    assert "benchmarks.soak" in MODULES
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
