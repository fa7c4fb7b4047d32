"""One function a reader: takes any bytes, and ends well or in an EdgeError. All else is a finding.

Each comes with valid inputs to start from (seeds.py). `python -m tests.fuzz` runs them under
atheris; test_fuzz.py runs seeds, kept findings and a few mutations in every test run.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np

from edge_runtime import formats, open_inference
from edge_runtime.adaptor import Adaptor
from edge_runtime.backbone_base import parse_manifest
from edge_runtime.basis import Basis
from edge_runtime.config import IGNORED
from edge_runtime.errors import EdgeError, MissingExtraError
from edge_runtime.feature_split import FeatureSplit, Shard
from edge_runtime.features import FeatureFolder
from edge_runtime.mask_folder import load_mask, read_classes
from edge_runtime.preprocess import load_image
from edge_runtime.runtimes import runtime_of
from edge_runtime.served_model import forms_of_outputs
from tests.edge_runtime import tiny_backbone
from tests.fuzz import served
from tests.fuzz.seeds import (
    DIM,
    MASK,
    adaptor_seeds,
    backbone_seeds,
    basis_seeds,
    board_seeds,
    checkpoint_seeds,
    folder,
    history_seeds,
    image_seeds,
    installer_seeds,
    manifest_seeds,
    mask_seeds,
    masked_folder,
    masked_shard_seeds,
    message_seeds,
    profile_seeds,
    put,
    reported,
    shard_folder,
    shard_seeds,
)
from trainer_lite import generation
from trainer_lite.board import Board
from trainer_lite.history import read_history
from trainer_lite.report import read_profile
from trainer_lite.report_page import page


def adaptor(data: bytes) -> None:
    path = put("adaptor.safetensors", data)
    assert runtime_of(path) is not None
    loaded = Adaptor.load(path)
    loaded.predict_proba(np.ones((1, loaded.config.tokens, loaded.config.embed_dim), np.float32))


def shard(data: bytes) -> None:
    """A shard whose checksum is right: what a careful forger would make."""
    read_shard(shard_folder(), data)


def masked_shard(data: bytes) -> None:
    """Likewise, of a folder with masks."""
    read_shard(masked_folder(), data)


def read_shard(features: FeatureFolder, data: bytes) -> None:
    path = put("shard.safetensors", data)
    rows = data[-1] % 4 + 1 if data else 1
    entry = Shard(path, rows, len(data), zlib.crc32(data), "")
    split = FeatureSplit(features, "train", [entry], 1.0)
    try:
        labels = split.labels
        images = np.arange(len(labels))
        z = np.empty((len(labels), features.tokens, DIM), np.float32)
        norms = np.empty((len(labels), features.tokens), np.float32)
        scratch = np.empty(split.scratch_bytes(len(labels)), np.uint8)
        split.read(images, z, norms, scratch)
        assert np.isfinite(norms).all()
        if features.masks is not None:
            masks = np.empty((len(labels), MASK, MASK), np.uint8)
            split.read_masks(images, masks)
            assert ((masks < len(features.classes)) | (masks == IGNORED)).all()
        assert len(split.paths) == len(labels)
    finally:
        split.close()


def features_manifest(data: bytes) -> None:
    manifest_seeds()  # before it is overwritten
    where = shard_folder().path
    (where / formats.MANIFEST).write_bytes(data)
    opened = FeatureFolder.open(where)
    for name in opened.split_names:
        opened.split(name).check()
        opened.split(name).close()


def basis(data: bytes) -> None:
    """A basis's file, or its entry in a graph's metadata."""
    path = put("basis.safetensors", data)
    read = Basis.from_json(formats.parse_json(data, path), path) if data[:1] == b"{" else None
    found = read or Basis.load(path)
    found.apply(np.ones((1, 2, found.embed_dim), np.float32))


def backbone_manifest(data: bytes) -> None:
    path = put(formats.MANIFEST, data)
    parse_manifest(formats.read_manifest(folder(), formats.BACKBONE), path)


def board(data: bytes) -> None:
    Board.load(put("board.json", data)).speedup(3)


def checkpoint(data: bytes) -> None:
    """With the checksum made right, or what lies behind it would never be reached."""
    with (
        mock.patch("trainer_lite.generation.header_crc", return_value=0),
        mock.patch("zlib.crc32", return_value=0),
    ):
        generation.load(put("checkpoint.safetensors", data))


def request(data: bytes) -> None:
    """First byte: whether and how the length of the JSON is announced."""
    lengths = [None, "0", str(len(data) - 1), str(len(data) // 2), "-1", "1e3", "9" * 30]
    announced = lengths[data[0] % len(lengths)] if data else None
    message = open_inference.parse(data[1:], announced, "inputs")
    from export.serve.model import request_id, wanted

    wanted(message, forms_of_outputs(197, 1))
    request_id(message)


def answer(data: bytes) -> None:
    announced = str(data[0]) if data and data[0] else None
    message = open_inference.parse(data[1:], announced, "outputs")
    rest = {key: value for key, value in message.content.items() if key != "outputs"}
    body, length = open_inference.build(rest, "outputs", message.tensors, [])
    again = open_inference.parse(body, None if length is None else str(length), "outputs")
    assert again.tensors.keys() == message.tensors.keys()


def http(data: bytes) -> None:
    status = served.request(data, *served.server(folder() / "served", shard_folder()))
    assert 200 <= status < 500, f"answered {status}"


def image(data: bytes) -> None:
    load_image(put("image", data), tiny_backbone.preprocessing())


def mask(data: bytes) -> None:
    """Of a sound image; or, behind a c, the names of the classes."""
    if data[:1] == b"c":
        read_classes(put("classes.txt", data[1:]))
        return
    image = folder() / "masked.png"
    if not image.exists():
        image.write_bytes(image_seeds()[0])
    found = load_mask(put("mask.png", data), image, tiny_backbone.preprocessing(), classes=3)
    assert ((found < 3) | (found == IGNORED)).all()


def installer_manifest(data: bytes) -> None:
    from export.installer import install

    put(install.MANIFEST, data)
    with contextlib.suppress(install.InstallError):
        manifest = install.read_manifest(folder())
        install.check_files(folder(), manifest)


def history(data: bytes) -> None:
    """And the page that shows it."""
    content = reported()
    run = {**content["runs"][0], "history": read_history(put("history.json", data))}
    shown(page({**content, "runs": [run]}))
    shown(page({**content, "runs": [run, {**run, "letter": "B", "history": None}]}))


def profile(data: bytes) -> None:
    """And the page that shows it."""
    content = reported()
    found = read_profile(put("profile.json", data), content["runs"])
    shown(page({**content, "profile": found}))


def shown(text: str) -> None:
    assert "<script" not in text and ">nan" not in text and '"nan' not in text


@dataclass(frozen=True)
class Target:
    """A reader under test, and where to start from."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS = {
    "adaptor": Target(adaptor, adaptor_seeds),
    "shard": Target(shard, shard_seeds),
    "masked-shard": Target(masked_shard, masked_shard_seeds),
    "features-manifest": Target(features_manifest, manifest_seeds),
    "backbone-manifest": Target(backbone_manifest, backbone_seeds),
    "basis": Target(basis, basis_seeds),
    "board": Target(board, board_seeds),
    "checkpoint": Target(checkpoint, checkpoint_seeds),
    "history": Target(history, history_seeds),
    "profile": Target(profile, profile_seeds),
    "request": Target(request, lambda: message_seeds("inputs")),
    "answer": Target(answer, lambda: message_seeds("outputs")),
    "http": Target(http, served.seeds),
    "image": Target(image, image_seeds),
    "mask": Target(mask, mask_seeds),
    "installer-manifest": Target(installer_manifest, installer_seeds),
}


def survive(target: Target, data: bytes) -> None:
    """Runs a reader on some bytes; an exception that is no EdgeError goes through."""
    try:
        target.run(data)
    except MissingExtraError:
        raise
    except EdgeError:
        pass
