"""The device packages load numpy, click and the standard library, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.cli import COMMANDS
from tests.feature_folders import write_features

ROOT = Path(__file__).parent.parent

# Runs first in each subprocess: an import hook that refuses what is not on the list.
HOOK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in allowed or top in sys.stdlib_module_names if allowed else top not in refused:
            return None
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

if not hasattr(sys, "stdlib_module_names"):  # Python 3.9
    import os, pkgutil
    stdlib = os.path.dirname(os.__file__)
    modules = pkgutil.iter_modules([stdlib, stdlib + "/lib-dynload"])
    sys.stdlib_module_names = {*sys.builtin_module_names, *(module.name for module in modules)}
before = set(sys.modules)  # what the interpreter's own start loads
sys.meta_path.insert(0, Refuse())
"""
DEVICE = ["numpy", "click", "edge_runtime", "trainer_lite"]


def run(code: str, *arguments: object, allowed: Any = (), refused: Any = ()) -> Any:
    """Runs Python code behind the hook; where `allowed` is empty, only `refused` is refused."""
    lists = f"allowed, refused = {list(allowed)!r}, {list(refused)!r}\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", lists + HOOK + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


def printed(result: Any) -> Any:
    """The JSON that a subprocess printed last; it must have gone well."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


COMMAND = """
from edge_runtime.cli import main
main(prog_name="edgetune")
"""


def test_the_hook_refuses_what_is_not_allowed() -> None:
    code = "import edge_runtime.cli, pytest"
    assert "No module named 'pytest'" in run(code, allowed=DEVICE).stderr
    assert "No module named 'click'" in run(code, refused=["click"]).stderr
    assert run(code).returncode == 0


def test_every_device_module_loads_numpy_click_and_the_standard_library_only() -> None:
    code = """
import importlib, json, pkgutil
import edge_runtime, trainer_lite
names = [
    module.name
    for package in (edge_runtime, trainer_lite)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]
for name in names:
    importlib.import_module(name)
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([names, sorted(loaded - set(sys.stdlib_module_names))]))
"""
    names, loaded = printed(run(code, allowed=DEVICE))
    assert len(names) > 25
    assert {"edge_runtime.cli.predict", "edge_runtime.backbone", "trainer_lite.cli"} <= set(names)
    # numpy 1 registers its Cython runtime under a name of its own
    assert [name for name in loaded if "cython" not in name.lower()] == sorted(DEVICE)


def test_edge_runtime_names_no_sibling() -> None:
    code = """
import importlib, pkgutil
import edge_runtime
for module in pkgutil.walk_packages(edge_runtime.__path__, "edge_runtime."):
    importlib.import_module(module.name)
"""
    result = run(code, refused=["trainer_lite", "export"])
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_needs_click_alone(command: str | None) -> None:
    code = """
import json
from edge_runtime.cli import main
main(prog_name="edgetune", standalone_mode=False)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    arguments = ["--help"] if command is None else [command, "--help"]
    allowed = ["click", "edge_runtime", "trainer_lite", "export"]
    result = run(code, *arguments, allowed=allowed)
    assert result.stdout.startswith("Usage: edgetune"), result.stderr
    assert "numpy" not in printed(result)


def refusal(extra: str, blocked: str, *arguments: object) -> None:
    """A command without an optional package names the extra that brings it."""
    result = run(COMMAND, *arguments, refused=[blocked])
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ") and f"pip install 'edgetune[{extra}]'" in line


@pytest.mark.parametrize("blocked", ["torch", pytest.param("timm", marks=pytest.mark.slow)])
def test_export_without_its_extra_says_how_to_install_it(blocked: str, tmp_path: Path) -> None:
    if blocked == "timm":
        pytest.importorskip("torch")
    refusal("export", blocked, "export", "vit_tiny_patch16_224", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("extra", "blocked"), [("ort", "onnxruntime"), ("vision", "PIL")])
def test_images_without_their_extras_say_how_to_install_them(
    extra: str, blocked: str, tmp_path: Path
) -> None:
    for module in ("onnx", "onnxruntime", "PIL"):
        pytest.importorskip(module)
    import numpy as np

    from edge_runtime.adaptor import Adaptor
    from edge_runtime.backbone import Backbone
    from tests.edge_runtime.tiny_backbone import EMBED_DIM, TOKENS, write_backbone, write_images
    from tests.problems import config_of, random_parameters

    backbone = write_backbone(tmp_path / "backbone")
    images = write_images(tmp_path / "photos", ["ant/1.png", "bee/2.png"])
    config = config_of(tokens=TOKENS, embed_dim=EMBED_DIM, classes=2)
    parameters = random_parameters(config, np.float32)
    reference = Backbone.open(backbone).reference
    Adaptor(config, parameters, ["ant", "bee"], reference).save(tmp_path / "a")
    out = tmp_path / "out"
    refusal(extra, blocked, "extract", images, "--backbone", backbone, "--out", out)
    assert not out.exists()
    image = images / "ant" / "1.png"
    refusal(extra, blocked, "predict", image, "--adaptor", tmp_path / "a", "--backbone", backbone)


@pytest.mark.parametrize(("kind", "module"), [("onnx", "onnx"), ("tflite", "ai_edge_litert")])
def test_a_graph_is_written_without_torch(kind: str, module: str, tmp_path: Path) -> None:
    for needed in ("onnxruntime", module):
        pytest.importorskip(needed)
    import numpy as np

    from edge_runtime.adaptor import Adaptor
    from tests.problems import config_of, random_parameters

    config = config_of()
    names = [str(index) for index in range(config.classes)]
    Adaptor(config, random_parameters(config, np.float32), names, {}).save(tmp_path / "a")
    arguments = ("export-adaptor", tmp_path / "a", "--format", kind, "--out", tmp_path / "graph")
    result = run(COMMAND, *arguments, refused=["torch", "timm", "trainer_lite"])
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "graph").is_file()


@pytest.mark.parametrize("init", [False, True], ids=["afresh", "from an adaptor"])
def test_training_loads_neither_openssl_nor_numpys_generator(init: bool, tmp_path: Path) -> None:
    written = write_features(tmp_path / "features")
    code = """
import atexit, json
import numpy
before = sorted(sys.modules)
atexit.register(lambda: print(json.dumps([before, sorted(sys.modules)])))
from edge_runtime.cli import main
main(prog_name="edgetune")
"""
    arguments = ("train", written.path, "--out", tmp_path / "a", "--epochs", 2, "--batch-size", 8)
    if init:
        run(COMMAND, *arguments, allowed=DEVICE)
        arguments += ("--init", tmp_path / "a", "--force")
    before, after = printed(run(code, *arguments, "--json", allowed=DEVICE))
    assert "trainer_lite.step" in after and (tmp_path / "a").exists()
    assert ("trainer_lite.start" in after) == init
    loaded = set(after) - set(before)  # numpy 1 loads its generator, and that OpenSSL, by itself
    assert not loaded & {"_hashlib", "hashlib", "_ssl", "ssl"}
    assert not [name for name in loaded if name.startswith("numpy.random")]
