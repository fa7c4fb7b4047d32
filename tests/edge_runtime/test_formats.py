"""Identities, versions and JSON: stable where they must be, strict where they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import formats
from edge_runtime.errors import FormatError

PATH = Path("folder/manifest.json")
PARTS = {"weights_sha256": "00" * 32, "k": 3, "preprocessing": {"size": 224, "mean": [0.5, 1e-07]}}


def write_manifest(folder: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / formats.MANIFEST).write_text(text)
    return folder


def test_an_identity_never_changes() -> None:
    canonical = (
        b'{"k":3,"preprocessing":{"mean":[0.5,1e-07],"size":224},"weights_sha256":"'
        + b"00" * 32
        + b'"}'
    )
    assert formats.canonical(PARTS) == canonical
    golden = "b00bbcecee51c5a1ef6a087ce90f33b63749bfa9bba635e1f1fb7c0f3825a6cc"
    assert formats.identity(PARTS) == golden


def test_an_identity_does_not_depend_on_the_order_of_keys() -> None:
    turned = {key: PARTS[key] for key in reversed(PARTS)}
    assert list(turned) != list(PARTS)
    assert formats.identity(turned) == formats.identity(PARTS)
    assert formats.identity({**PARTS, "k": 4}) != formats.identity(PARTS)


def test_an_identity_of_names_in_any_script_is_ascii() -> None:
    assert formats.canonical(["Käse", "猫"]) == b'["K\\u00e4se","\\u732b"]'


def test_what_is_not_plain_json_has_no_identity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        formats.identity({"x": float("nan")})


def test_json_files_are_written_in_one_form(tmp_path: Path) -> None:
    formats.write_json(tmp_path / "x.json", {"b": [1], "a": "ä"})
    assert (tmp_path / "x.json").read_bytes() == (
        b'{\n  "a": "\\u00e4",\n  "b": [\n    1\n  ]\n}\n'
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        formats.write_json(tmp_path / "y.json", {"a": float("inf")})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_another_format_is_refused_by_name() -> None:
    with pytest.raises(FormatError) as refusal:
        formats.check_version({"format": "edgetune.shard"}, formats.ADAPTOR, PATH)
    assert str(refusal.value) == (
        "folder/manifest.json: expected format 'edgetune.adaptor', found 'edgetune.shard'"
    )
    with pytest.raises(FormatError, match="found None"):
        formats.check_version({}, formats.ADAPTOR, PATH)


@pytest.mark.parametrize("version", [2, "2", 0, "", None, True, 1.5, [1], "1 "])
def test_another_version_is_refused_with_advice(version: Any) -> None:
    content = {"format": formats.FEATURES, "version": version}
    with pytest.raises(FormatError, match="use the edgetune that wrote it, or a newer one"):
        formats.check_version(content, formats.FEATURES, PATH)


@pytest.mark.parametrize("version", [1, "1"])
def test_this_version_is_read_from_json_and_from_metadata(version: Any) -> None:
    formats.check_version({"format": formats.SHARD, "version": version}, formats.SHARD, PATH)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (formats.BACKBONE, "is not a backbone folder.*`edgetune export`"),
        (formats.FEATURES, "is not a feature folder.*`edgetune extract`"),
    ],
)
def test_a_folder_without_a_manifest_is_refused(
    expected: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(FormatError, match=message):
            formats.read_manifest(folder, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"x": NaN}', "damaged"),
        ('{"x": -Infinity}', "damaged"),
        ('{"x": 1e999}', "damaged"),
        ('{"x": 9223372036854775808}', "damaged"),
        ('{"x": ' + "9" * 100_000 + "}", "damaged"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("{}", "expected format 'edgetune.features', found None"),
    ],
)
def test_a_damaged_manifest_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        formats.read_manifest(write_manifest(tmp_path, text), formats.FEATURES)


def test_an_endless_manifest_is_not_read_to_its_end(tmp_path: Path) -> None:
    with open(tmp_path / formats.MANIFEST, "wb") as file:
        file.truncate(1 << 40)  # sparse: takes no room on disk
    with pytest.raises(FormatError, match="larger than 16777216 bytes"):
        formats.read_manifest(tmp_path, formats.FEATURES)


def test_plain_numbers_are_read_as_they_are() -> None:
    content = formats.parse_json(b'{"a": 9223372036854775807, "b": -1.5e-7, "c": 0}', PATH)
    assert content == {"a": 2**63 - 1, "b": -1.5e-7, "c": 0}


def test_a_field_has_its_type() -> None:
    content = {"n": 3, "f": 0.5, "s": "x", "yes": True, "none": None}
    assert formats.field(content, "n", int, PATH) == 3
    assert formats.field(content, "n", (int, float), PATH) == 3
    assert formats.field(content, "yes", bool, PATH) is True
    for key, kind, named in (
        ("missing", int, "int"),
        ("none", str, "str"),
        ("s", (int, float), "int or float"),
        ("yes", int, "int"),
        ("f", int, "int"),
    ):
        with pytest.raises(FormatError) as refusal:
            formats.field(content, key, kind, PATH)
        assert str(refusal.value) == (
            f"folder/manifest.json: entry {key!r} is missing or not of type {named}"
        )


def test_bounded_fields_say_what_they_expect() -> None:
    assert formats.whole({"n": 1}, "n", 1, PATH) == 1
    assert formats.positive({"f": 2}, "f", PATH) == 2.0
    with pytest.raises(FormatError, match="'n' must be at least 1, found 0"):
        formats.whole({"n": 0}, "n", 1, PATH)
    with pytest.raises(FormatError, match="'f' must be above 0, found -0.5"):
        formats.positive({"f": -0.5}, "f", PATH)
