"""A torchvision that does not fit torch is repaired, a healthy one is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.errors import MissingExtraError
from export.torchvision_repair import import_timm

ROOT = Path(__file__).parents[2]
# Fails as the CUDA build does beside a CPU torch: one operator, then the next.
TORCHVISION = """
import torch
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        raise RuntimeError(f"operator torchvision::{name} does not exist")
"""
PROBE = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from export import torchvision_repair
timm = torchvision_repair.import_timm()
import torchvision
print(timm.__version__, len(torchvision_repair._libraries))
"""


@pytest.mark.parametrize(("torchvision", "defined"), [(TORCHVISION, 2), ("", 0)])
def test_repair(tmp_path: Path, torchvision: str, defined: int) -> None:
    (tmp_path / "torchvision.py").write_text(torchvision)
    (tmp_path / "timm.py").write_text("import torchvision\n__version__ = 'fake'\n")
    command = [sys.executable, "-c", PROBE, str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["fake", str(defined)]


def test_imports_timm_once() -> None:
    assert import_timm() is import_timm()


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgetune\[export\]'"):
        import_timm()
