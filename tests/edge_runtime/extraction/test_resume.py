"""Feature folders half made: an interrupted run goes on, and another request is kept apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import extract, formats, partial_folder, tensorfile
from edge_runtime.backbone import Backbone
from edge_runtime.codecs import CODECS
from edge_runtime.errors import (
    MismatchError,
    OutputExistsError,
)
from edge_runtime.image_folder import scan
from tests.edge_runtime.extraction.images import BAD, NAMES, run, spoil
from tests.edge_runtime.tiny_backbone import contents, write_image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")


def one_more_image(root: Path) -> dict[str, Any]:
    write_image(root / "train/cat/9.png", 9)
    return {}


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Lets the backbone stop the run, as Ctrl-C does, after so many batches."""
    calls = iter(range(after))
    true_run = Backbone.run

    def counting_run(self: Backbone, images: Any, names: Any = None) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return true_run(self, images, names)

    monkeypatch.setattr(Backbone, "run", counting_run)


@pytest.mark.parametrize("bad", [[], BAD])
@pytest.mark.parametrize("after", [0, 1, 3, 4, 6, 9])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    after: int,
    bad: list[str],
    images: Path,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(images, bad)
    whole = run(images, backbone, tmp_path / "whole")
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            run(images, backbone, out)
    assert not out.exists()
    assert json.loads((partial / "run.json").read_text())["format"] == "edgetune.run"
    finished = len(list(partial.glob("*.safetensors")))
    said: list[str] = []
    seen: list[int] = []
    again = run(
        images, backbone, out, say=said.append, progress=lambda count, note: seen.append(count)
    )
    assert contents(out) == contents(tmp_path / "whole")
    assert not partial.exists()
    assert again.identity == whole.identity
    assert (again.computed < whole.computed) == bool(finished)
    assert sum(seen) == len(NAMES)
    assert len(said) == len(bad) == len(again.skipped)


def test_leftovers_of_a_kill_are_mended(images: Path, backbone: Backbone, tmp_path: Path) -> None:
    run(images, backbone, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    run(images, backbone, out)
    request = extract._request(scan(images), backbone, CODECS["float16"], 2)
    out.rename(partial)
    formats.write_json(partial / "run.json", request)
    (partial / ".train-00009.safetensors.123.tmp").write_bytes(b"half")
    (partial / "train-00000.safetensors").write_bytes(expected["train-00000.safetensors"][:-5])
    (partial / "train-00001.safetensors").unlink()
    (partial / "val-00000.safetensors").write_bytes(expected["test-00000.safetensors"])
    (partial / "val-00001.safetensors").write_bytes(b"")
    result = run(images, backbone, out)
    assert contents(out) == expected
    assert result.computed == 5 + 5 + 5 + 1


def test_a_shard_that_lists_other_images_is_made_again(
    images: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            run(images, backbone, tmp_path / "out")
    path = tmp_path / "out.partial" / "train-00000.safetensors"
    tensors, metadata = tensorfile.read(path)
    other = json.loads(metadata["paths"])[::-1]
    tensorfile.write(path, tensors, {**metadata, "paths": json.dumps(other)})
    assert run(images, backbone, tmp_path / "out").computed == 24


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda root: {"codec": "int8"}, "codec float16 there, int8 now"),
        (lambda root: {"batch_size": 3}, "batch_size 2 there, 3 now"),
        (one_more_image, r"\(differing: images\)"),
    ],
)
def test_a_partial_folder_of_another_request_is_refused_until_forced(
    change: Callable[[Path], dict[str, Any]],
    named: str,
    images: Path,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            run(images, backbone, tmp_path / "out")
    options = change(images)
    with pytest.raises(MismatchError, match=named) as caught:
        run(images, backbone, tmp_path / "out", **options)
    assert "pass --force to discard it" in str(caught.value)
    result = run(images, backbone, tmp_path / "out", force=True, **options)
    assert result.computed == result.images


def test_a_partial_folder_without_its_request_is_refused(
    images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "train-00000.safetensors").write_bytes(b"")
    with pytest.raises(MismatchError, match=r"no readable run\.json"):
        run(images, backbone, tmp_path / "out")
    run(images, backbone, tmp_path / "out", force=True)


def test_two_runs_do_not_share_a_partial_folder(
    images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl")
    with (
        partial_folder.lock(tmp_path / "out.partial"),
        pytest.raises(OutputExistsError, match="in use"),
    ):
        run(images, backbone, tmp_path / "out", force=True)
    run(images, backbone, tmp_path / "out")
