"""The installer, run as on a board: by its shell script, with the interpreter of the tests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from export import bundle as bundling
from export.installer.install import InstallError, machine_of, unpack
from tests.feature_folders import write_features

HERE = machine_of(Path(os.path.realpath(sys.executable)))
PYTHON = "{}.{}".format(*sys.version_info[:2])
if HERE not in bundling.TARGETS:
    pytest.skip(f"no bundles for {HERE}", allow_module_level=True)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for this machine; numpy and click are the test interpreter's own."""
    folder = tmp_path_factory.mktemp("bundle")
    features = write_features(folder / "features").path

    def fake(target: Any, python: str, extras: Any, constraint: Any, to: Path) -> None:
        to.mkdir(parents=True)
        with zipfile.ZipFile(to / "toy-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("toy.py", "VALUE = 7\n")
            wheel.writestr("toy-1.data/purelib/toy_too.py", "VALUE = 8\n")
            wheel.writestr("toy-1.data/scripts/toy", "#!python\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "fetch", fake)
        files = bundling.collect(HERE, [PYTHON], [], folder / "downloads", features=features)
        bundling.write(files, folder / "bundle.tar.gz")
    return folder / "bundle.tar.gz"


@pytest.fixture
def bundle(packed: Path, tmp_path: Path) -> Path:
    """The bundle, unpacked."""
    with tarfile.open(packed) as archive:
        for entry in archive:
            archive.extract(entry, tmp_path)
    return tmp_path / "edgetune-bundle"


def install(bundle: Path, *arguments: object) -> Any:
    """Runs install.sh as a user would."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(bundle / "install.sh"), *map(str, arguments)],
        env={**environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )


def refused(bundle: Path, *arguments: object) -> str:
    """The one line of an installation that was refused and left nothing."""
    before = sorted(bundle.parent.iterdir())
    result = install(bundle, *arguments)
    assert result.returncode == 1, result.stdout
    (line,) = result.stderr.splitlines()
    assert sorted(bundle.parent.iterdir()) == before
    return str(line)


def alter(bundle: Path, **changes: Any) -> None:
    """Changes entries of the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_what_was_installed_works(bundle: Path) -> None:
    prefix = bundle.parent / "in stalled"
    result = install(bundle, prefix)
    assert (result.returncode, result.stderr) == (0, "")
    assert "checks passed" in result.stdout
    assert result.stdout.splitlines()[-1].endswith(f"as {prefix}/bin/edgetune")
    assert sorted(os.listdir(prefix)) == ["bin", "features", "lib", "manifest.json"]
    assert sorted(p.name for p in (prefix / "lib").glob("toy*")) == ["toy.py", "toy_too.py"]
    assert list((prefix / "lib" / "edge_runtime").rglob("*.pyc"))

    shutil.rmtree(bundle)
    prefix = prefix.rename(prefix.with_name("moved"))
    link = prefix.with_name("link")
    link.symlink_to(prefix / "bin" / "edgetune")
    here = bundle.parent / "here"
    here.mkdir()
    (here / "click.py").write_text("raise SystemExit('a file of the user shadows a package')")
    found = subprocess.run(
        [str(link), "inspect", str(prefix / "features"), "--verify", "--json"],
        capture_output=True,
        text=True,
        cwd=here,
    )
    assert json.loads(found.stdout)["intact"] is True, found.stderr


def test_an_installation_is_replaced_only_by_force_and_nothing_else_is(bundle: Path) -> None:
    prefix = bundle.parent / "installed"
    prefix.mkdir()
    assert install(bundle, prefix).returncode == 0  # an empty folder is fine
    (prefix / "left over").touch()
    assert "exists already (pass --force to replace it)" in refused(bundle, prefix)
    assert install(bundle, prefix, "--force").returncode == 0
    assert not (prefix / "left over").exists()
    line = refused(bundle, bundle, "--force")
    assert "exists already (it is none of ours); choose another PREFIX" in line


def test_damage_is_named_before_anything_is_built(bundle: Path) -> None:
    shard = bundle / "features" / "val-00000.safetensors"
    data = shard.read_bytes()
    for content in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), None):
        shard.unlink()
        if content is not None:
            shard.write_bytes(content)
        line = refused(bundle, bundle.parent / "p")
        assert "val-00000.safetensors is missing or damaged; copy the bundle again" in line
        shard.touch()
    for text in ("[]", "{", '{"format": "edgetune.bundle", "version": 2}'):
        (bundle / "manifest.json").write_text(text)
        assert "manifest.json is missing or damaged" in refused(bundle, bundle.parent / "p")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "armv5"}, "this bundle is for armv5, "),
        ({"pythons": {"3.8": [], "3.7": []}}, "this bundle is for Python 3.8, 3.7, "),
        ({"glibc": [99, 1]}, "need glibc 99.1, here is glibc 2."),
        (
            {"from_board": {"no_such_module": "python3-none"}},
            "(ModuleNotFoundError: No module named 'no_such_module'): sudo apt-get install pyth",
        ),
    ],
)
def test_a_board_that_does_not_fit_is_told_why(
    bundle: Path, changes: dict[str, Any], message: str
) -> None:
    alter(bundle, **changes)
    assert message in refused(bundle, bundle.parent / "prefix")


def test_the_boards_own_numpy_is_looked_at(bundle: Path) -> None:
    alter(bundle, from_board={"numpy": "python3-numpy"})
    result = install(bundle, bundle.parent / "prefix")
    assert result.returncode == 0
    assert "numpy is the system's (python3-numpy)" in result.stdout


def test_a_failed_selftest_leaves_nothing(bundle: Path) -> None:
    own = next((bundle / "wheels").glob("edgetune-*"))
    with zipfile.ZipFile(own) as wheel:
        kept = {name: wheel.read(name) for name in wheel.namelist()}
    kept["trainer_lite/golden.json"] = b"{}"
    with zipfile.ZipFile(own, "w") as wheel:
        for name, data in kept.items():
            wheel.writestr(name, data)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    files[f"wheels/{own.name}"] = {"bytes": own.stat().st_size, "sha256": digest}
    alter(bundle, files=files)
    result = install(bundle, bundle.parent / "prefix")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "Error: selftest failed: nothing was installed"
    assert sorted(os.listdir(bundle.parent)) == ["edgetune-bundle"]


def test_an_old_python_or_none_is_told_what_to_do(bundle: Path, tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.6.9 && exit\nexit 1\n')
    old.chmod(0o755)
    for python, message in (
        (old, "needs Python 3.9 or newer, .*old-python is Python 3.6.9.*Jetson Nano"),
        (tmp_path / "none", "there is no .*none; install it"),
    ):
        result = subprocess.run(
            [str(bundle / "install.sh")],
            env={**os.environ, "PYTHON": str(python)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        assert re.search(message, result.stderr), result.stderr


@pytest.mark.parametrize(
    ("machine", "flags", "name"),
    [
        (183, 0, "aarch64"),
        (40, 0x5000400, "armv7l"),
        (40, 0x5000200, "soft-float arm"),
        (62, 0, "x86_64"),
        (243, 0, "machine 243"),
    ],
)
def test_a_program_tells_its_machine(machine: int, flags: int, name: str, tmp_path: Path) -> None:
    header = bytearray(b"\x7fELF" + bytes(60))
    struct.pack_into("<H", header, 18, machine)
    struct.pack_into("<I", header, 36, flags)
    (tmp_path / "program").write_bytes(header)
    assert machine_of(tmp_path / "program") == name
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert machine_of(tmp_path / "script") == "non-ELF"


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", "x-1.data/purelib/../../out"])
def test_a_wheel_cannot_leave_its_folder(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as wheel:
        wheel.writestr(name, "x")
    with pytest.raises(InstallError, match="bad.whl has an entry that leaves its folder"):
        unpack(tmp_path / "bad.whl", tmp_path / "lib")
    assert not (tmp_path / "out").exists()
