"""Preprocessing is timm's evaluation transform, to the last bit."""

from __future__ import annotations

import importlib
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import DataError, FormatError, MissingExtraError
from edge_runtime.preprocess import (
    INTERPOLATIONS,
    Preprocessing,
    formats_of,
    is_image_name,
    load_image,
    plan,
    prepare,
    reason,
)
from tests.edge_runtime.tiny_backbone import PREPROCESSING

Array = np.ndarray[Any, Any]

MANIFEST = Path("manifest.json")
SIZES = [(8, 8), (9, 9), (10, 9), (31, 47), (47, 31), (64, 64), (100, 37), (3, 50), (50, 3), (1, 1)]


def settings(**changes: Any) -> Preprocessing:
    return Preprocessing.from_json({**PREPROCESSING, **changes}, MANIFEST)


def noise(width: int, height: int) -> Any:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(width * 1000 + height)
    return image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def timm_pixels(
    image: Any, size: int, crop_pct: float, crop_mode: str, interpolation: str
) -> Array:
    """uint8 [size, size, 3] as timm's own transform gives it."""
    try:
        importlib.import_module("export.torchvision_repair").import_timm()
    except (ImportError, MissingExtraError):
        pytest.skip("timm is not installed")
    transform = importlib.import_module("timm.data").create_transform(
        (3, size, size),
        is_training=False,
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        normalize=False,
    )
    pixels: Array = transform(image).numpy().transpose(1, 2, 0)
    return pixels


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("size", "crop_pct"), [(32, 0.9), (32, 1.0), (33, 0.875), (32, 1.3)])
def test_pixels_are_those_of_timm(
    size: int, crop_pct: float, interpolation: str, crop_mode: str
) -> None:
    mine = settings(
        size=size, resize=int(size // crop_pct), crop_mode=crop_mode, interpolation=interpolation
    )
    for width, height in SIZES:
        image = noise(width, height)
        expected = timm_pixels(image, size, crop_pct, crop_mode, interpolation)
        got = prepare(image, mine)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, expected, f"{width} x {height}")


def test_a_large_photo_is_that_of_timm() -> None:
    image = noise(1023, 517)
    expected = timm_pixels(image, 224, 0.9, "center", "bicubic")
    np.testing.assert_array_equal(prepare(image, settings(size=224, resize=248)), expected)


def test_plan_truncates_the_long_side_and_rounds_the_crop_half_to_even() -> None:
    center = settings(size=8, resize=9)
    assert plan(10, 20, center) == ((9, 18), (0, 5, 8, 13))
    assert plan(20, 11, center) == ((16, 9), (4, 0, 12, 8))
    assert plan(3, 5, settings(size=8, resize=5)) == ((5, 8), (-1, 0, 7, 8))
    assert plan(100, 20, settings(crop_mode="squash")) == ((9, 9), (0, 0, 8, 8))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I;16", "I", "F", "HSV"]
)
def test_every_mode_becomes_rgb_as_convert_does(mode: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        original = image.fromarray(np.arange(144).reshape(12, 12).astype(dtype) * 3)
    elif mode == "PA":
        original = noise(12, 12).convert("P").convert("PA")
    else:
        original = noise(12, 12).convert(mode)
    assert original.mode == mode
    path = tmp_path / "image.tiff"
    if mode in ("PA", "HSV"):
        np.testing.assert_array_equal(
            prepare(original, settings()), prepare(original.convert("RGB"), settings())
        )
        return
    original.save(path)
    with image.open(path) as again:
        expected = prepare(again.convert("RGB"), settings())
    np.testing.assert_array_equal(load_image(path, settings()), expected)


def test_only_rare_formats_load_the_decoders_of_all(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for suffix in ("jpg", "png", "bmp", "gif", "ppm"):
        noise(12, 12).save(tmp_path / f"common.{suffix}")
        with open(tmp_path / f"common.{suffix}", "rb") as file:
            assert len(formats_of(file)) == 1 and file.tell() == 0
    noise(12, 12).save(tmp_path / "rare.jpg", format="TIFF")  # the content counts, not the name
    with open(tmp_path / "rare.jpg", "rb") as file:
        assert "TIFF" in formats_of(file)
    with image.open(tmp_path / "rare.jpg") as again:
        expected = prepare(again.convert("RGB"), settings())
    np.testing.assert_array_equal(load_image(tmp_path / "rare.jpg", settings()), expected)
    names = {"a.JPG": True, "b.jpeg": True, "c.tiff": True, "d.txt": False, "e.eps": False}
    assert {name: is_image_name(name) for name in names} == names


def test_unreadable_files_are_data_errors_with_a_reason_that_names_no_path(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    noise(64, 64).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1500])
    noise(64, 64).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "page.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    reasons = {}
    names = ["cut.jpg", "cut.png", "empty.jpg", "text.png", "page.jpg", "none.png", "loop.png"]
    for name in names:
        with pytest.raises(DataError) as caught:
            load_image(tmp_path / name, settings())
        message, why = str(caught.value), reason(caught.value)
        assert message == f"{tmp_path / name}: {why}"
        assert "\n" not in message and str(tmp_path) not in why
        reasons[name] = why
    assert "truncated" in reasons["cut.jpg"] and "truncated" in reasons["cut.png"]
    assert {reasons[n] for n in ("empty.jpg", "text.png", "page.jpg")} == {
        "not an image that Pillow can read"
    }
    assert reasons["none.png"] == "No such file or directory"
    assert image.MAX_IMAGE_PIXELS  # left as it was


def test_bombs_are_errors_and_warnings_stay_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "large.png"
    noise(20, 20).save(path)
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 300)  # a warning from 300, an error from 600
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(path, settings()).shape == (8, 8, 3)
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="more pixels than Pillow agrees to decode"):
        load_image(path, settings())
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("PIL").handlers)


def test_an_extremely_elongated_image_is_refused_before_it_is_resized() -> None:
    with pytest.raises(DataError, match=r"too elongated \(1 x 10000 pixels\)"):
        prepare(noise(1, 10000), settings(size=224, resize=248))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "'size' must be 1 to 8192 pixels, found 0"),
        ({"size": 8.0}, "'size' is missing or not of type int"),
        ({"size": True}, "'size' is missing or not of type int"),
        ({"resize": 10**9}, "'resize' must be 1 to 8192"),
        ({"crop_mode": "border"}, "'crop_mode' must be one of center, squash, found 'border'"),
        ({"interpolation": "random"}, "'interpolation' must be one of nearest"),
        ({"mean": [0.5, 0.5]}, "'mean' must be three numbers, one a channel"),
        ({"mean": [0.5, 0.5, "x"]}, "'mean' must be three numbers"),
        ({"mean": None}, "'mean' is missing"),
        ({"std": [0.5, 0.0, 0.5]}, "'std' must be three numbers above 0"),
        ({"std": [0.5, float("nan"), 0.5]}, "'std' must be three numbers above 0"),
    ],
)
def test_bad_settings_are_format_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        settings(**changes)
