"""A hard cap on what a 64-bit ARM process may map: qemu's own, for the program that it emulates.

Debian's numpy is imported here: its wheels map up to twice as much before anything runs.
"""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.arm.emulation import emulated, inside, make_root, not_tried
from tests.feature_folders import write_features

pytestmark = pytest.mark.slow

TARGET = "aarch64"
QEMU = "qemu-aarch64-static"
REPOSITORY = Path(__file__).parents[2]
RUN = "from edge_runtime.cli import main; main(prog_name='edgetune')"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with Debian's numpy, our packages, click, and features of ViT-Ti's shape."""
    qemu = shutil.which(QEMU)
    with emulated(TARGET):
        made = tmp_path_factory.mktemp("capped") / "root"
        make_root(made, TARGET, "python3", "python3-numpy")
        if qemu is None:
            not_tried("the cap on address space", f"there is no {QEMU}")
        shutil.copy(str(qemu), made / "qemu")
        (made / "opt" / "edgetune").mkdir(parents=True)
        click = Path(sysconfig.get_path("purelib")) / "click"
        for package in (REPOSITORY / "edge_runtime", REPOSITORY / "trainer_lite", click):
            shutil.copytree(package, made / "opt" / "edgetune" / package.name)
        write_features(
            made / "features",
            rows={"train": 32, "val": 2, "test": 2},
            shard_rows=32,
            tokens=197,
            embed_dim=192,
        )
        yield made


def capped(root: Path, cap: str, *arguments: str) -> Any:
    """Runs edgetune in so much address space."""
    command = ("/usr/bin/env", "PYTHONPATH=/opt/edgetune", "/qemu", "-R", cap)
    return inside(root, TARGET, *command, "/usr/bin/python3", "-B", "-c", RUN, *arguments)


def test_vit_ti_features_train_in_80_mebibytes_at_batch_32(root: Path) -> None:
    train = ("train", "/features", "--epochs", "1", "--batch-size", "32", "--json", "--out")
    done = capped(root, "80M", *train, "/adaptor")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["steps"], result["epochs"]) == (1, 1) and result["parameters"] > 20_000
    assert (root / "adaptor").is_file()

    refused = capped(root, "66M", *train, "/none")  # the cap is one: less than this does not do
    (line,) = refused.stderr.splitlines()
    assert refused.returncode == 1
    assert line.startswith(("Error: no room for ", "Error: out of memory"))
    assert not (root / "none").exists()
