"""`extract --engine ray`: the local engine's folder, to the byte, and also after a kill."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import shard_writer
from edge_runtime.shard_writer import shard_ranges
from tests.command_line import edgetune
from tests.edge_runtime.extraction.images import BAD, NAMES, spoil
from tests.edge_runtime.tiny_backbone import contents, write_backbone, write_images
from tests.serving import wait_until
from tests.test_imports import COMMAND, ROOT, refusal

ROWS = 5
MANY = [f"{split}/{c}/{i}.png" for split in ("train", "val") for c in "ab" for i in range(40)]
SMALL_SHARDS = f"""
from edge_runtime import shard_writer
shard_writer.rows_per_shard = lambda bytes_per_image: {ROWS}
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for module in ("onnx", "onnxruntime", "PIL"):
        pytest.importorskip(module)
    return tmp_path / "photos"


@pytest.fixture
def backbone(photos: Path, tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "backbone", divide=True)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.data", reason="Ray NOT tried: install the extra [ray]")
    monkeypatch.setattr(shard_writer, "rows_per_shard", lambda bytes_per_image: ROWS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize(
    ("readable", "ranges"),
    [
        ("", []),
        ("1", [(0, 1)]),
        ("111", [(0, 2), (2, 3)]),
        ("1101", [(0, 3), (3, 4)]),
        ("0110011000", [(0, 5), (5, 10)]),
        ("000", [(0, 3)]),
    ],
)
def test_a_shard_uses_up_what_follows_its_last_row(
    readable: str, ranges: list[tuple[int, int]]
) -> None:
    assert list(shard_ranges([one == "1" for one in readable], 2)) == ranges


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    extract = ("extract", "photos", "--out", tmp_path / "out")
    workers = edgetune(*extract, "--backbone", "b", "--workers", 2)
    assert workers.exit_code == 2 and "--workers is for --engine ray" in workers.stderr
    server = edgetune(*extract, "--server", "http://x", "--engine", "ray")
    assert server.exit_code == 2 and "opens the backbone in its workers" in server.stderr


def test_ray_is_asked_for_by_its_extra(tmp_path: Path) -> None:
    options = ("--backbone", tmp_path, "--out", tmp_path / "out", "--engine", "ray")
    refusal("ray", "ray", "extract", tmp_path, *options)


@pytest.mark.parametrize(
    ("workers", "threads", "cpus", "cpus_each"),
    [(1, 1, 2, 1), (2, 1, 2, 0.5), (3, 1, 2, 0.333), (3, 1, 4, 1), (3, 4, 16, 4), (4, 9, 16, 3)],
)
def test_workers_never_hold_every_cpu(
    workers: int, threads: int, cpus: int, cpus_each: float
) -> None:
    from export.ray_engine import share

    assert share(workers, threads, cpus) == cpus_each
    assert workers * cpus_each <= cpus - 1


@pytest.mark.slow
def test_the_folder_is_that_of_the_local_engine(
    photos: Path, backbone: Path, tmp_path: Path, ray: None
) -> None:
    spoil(write_images(photos, NAMES), BAD)
    options = ("--backbone", backbone, "--codec", "int8", "--batch-size", 2, "--json")
    here = edgetune("extract", photos, "--out", tmp_path / "a", *options)
    there = edgetune(
        "extract", photos, "--out", tmp_path / "b", *options, "--engine", "ray", "--workers", 2
    )
    assert (here.exit_code, there.exit_code) == (0, 0), there
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(here.stderr.splitlines()) == sorted(there.stderr.splitlines())  # of BAD
    assert '"computed": 17,' in there.stdout and '"computed": 17,' in here.stdout
    assert not (tmp_path / "b.partial").exists()


@pytest.mark.slow
def test_what_a_worker_cannot_use_is_named(
    photos: Path, backbone: Path, tmp_path: Path, ray: None
) -> None:
    from PIL import Image

    write_images(photos, NAMES)
    options = ("--backbone", backbone, "--out", tmp_path / "out", "--engine", "ray")
    Image.new("RGB", (9, 9)).save(photos / "val/dog/1.png")  # 0 / 0 in this backbone
    outcome = edgetune("extract", photos, *options)
    assert "val/dog/1.png: the backbone gives NaN" in outcome.error
    spoil(photos, BAD)
    strict = edgetune("extract", photos, *options, "--strict", "--force")
    assert BAD[0] in strict.stderr and "leave out --strict" in strict.stderr
    assert strict.exit_code == 1 and not (tmp_path / "out").exists()


def kill_after(shards: int, partial: Path, command: list[Any]) -> None:
    """Runs edgetune with small shards, and kills it when there are so many."""
    code = [sys.executable, "-c", SMALL_SHARDS + COMMAND]
    job = subprocess.Popen([*code, *map(str, command)], stderr=subprocess.DEVNULL)

    def enough() -> bool:
        return len(list(partial.glob("*.safetensors"))) >= shards or job.poll() is not None

    try:
        wait_until(enough, 300)
    finally:
        job.kill()
        job.wait()


@pytest.mark.slow
def test_a_killed_job_is_gone_on_with_by_either_engine(
    photos: Path, backbone: Path, tmp_path: Path, ray: None
) -> None:
    write_images(photos, MANY)
    options = ("--backbone", str(backbone), "--batch-size", "2")
    assert edgetune("extract", photos, "--out", tmp_path / "whole", *options).exit_code == 0
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    command = ["extract", photos, *options, "--out", out, "--engine", "ray", "--workers", "1"]
    for kept in (1, 9):
        kill_after(kept, partial, command)
        assert not out.exists(), "the job was through before it was killed"
    time.sleep(2)  # its workers notice, and end
    finished = len(list(partial.glob("*.safetensors")))
    outcome = edgetune("extract", photos, "--out", out, *options, "--json")
    assert outcome.exit_code == 0, outcome
    assert contents(out) == contents(tmp_path / "whole")
    assert f'"computed": {len(MANY) - ROWS * finished},' in outcome.stdout
