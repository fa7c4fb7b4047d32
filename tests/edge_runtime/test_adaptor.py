"""An adaptor file comes back as it went; a damaged or foreign one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import formats, tensorfile
from edge_runtime.adaptor import Adaptor, top_k
from edge_runtime.errors import DataError, FormatError, MismatchError
from edge_runtime.sources import ArrayFeatures
from tests.feature_folders import BACKBONE
from tests.problems import config_of, problem_of, random_parameters

CLASSES = ["ant", "bee", "cat", "dog", "eel"]


def adaptor_of(**changes: Any) -> Adaptor:
    config = config_of(**changes)
    return Adaptor(
        config,
        random_parameters(config, np.float32),
        CLASSES,
        dict(BACKBONE),
        {"identity": "12" * 32, "codec": "float16"},
        {"epochs": 3, "lr": 0.003},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    adaptor_of().save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def rewrite(path: Path, tensors: Any = None, **metadata: Any) -> None:
    """Saves an adaptor file again, with some tensors and metadata replaced (None: left out)."""
    found, texts = tensorfile.read(path)
    merged = {**texts, **metadata}
    kept = {name: text for name, text in merged.items() if text is not None}
    tensorfile.write(path, {**found, **(tensors or {})}, kept)


@pytest.mark.parametrize("changes", [{}, {"kind": "linear"}, {"heads": 2, "pool": "cls"}])
def test_loading_and_saving_gives_the_same_bytes(changes: dict[str, Any], tmp_path: Path) -> None:
    adaptor = adaptor_of(**changes)
    adaptor.save(tmp_path / "one")
    loaded = Adaptor.load(tmp_path / "one")
    loaded.save(str(tmp_path / "two"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    for name in ("config", "classes", "backbone", "features", "training"):
        assert getattr(loaded, name) == getattr(adaptor, name)
    for name, array in adaptor.parameters.items():
        np.testing.assert_array_equal(loaded.parameters[name], array)


def test_the_file_holds_what_the_formats_say(saved: Path) -> None:
    tensors, metadata = tensorfile.read(saved)
    shapes = {name: array.shape for name, array in tensors.items()}
    assert shapes == {
        "blocks.norm_weight": (2, 24),
        "blocks.norm_bias": (2, 24),
        "blocks.qkv": (2, 12, 24),
        "blocks.out": (2, 4, 24),
        "head.norm_weight": (24,),
        "head.norm_bias": (24,),
        "head.weight": (5, 24),
        "head.bias": (5,),
    }
    assert {array.dtype.str for array in tensors.values()} == {"<f4"}
    assert (metadata["format"], metadata["version"]) == ("edgetune.adaptor", "1")
    assert json.loads(metadata["config"]) == config_of().to_json()
    assert json.loads(metadata["backbone"]) == BACKBONE


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    adaptor = adaptor_of()
    features = problem_of(adaptor.config, 6, np.float32).features
    logits = adaptor.predict_logits(features).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = adaptor.predict_proba(features)
    assert found.shape == (6, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(adaptor.predict_proba(features[2:3]), found[2:3], rtol=1e-4)


def test_no_images_have_no_probabilities() -> None:
    assert adaptor_of().predict_proba(np.zeros((0, 10, 24), np.float32)).shape == (0, 5)


def test_evaluation_counts_every_image() -> None:
    adaptor = adaptor_of()
    problem = problem_of(adaptor.config, 9, np.float32)
    found = adaptor.evaluate(ArrayFeatures(problem.features, problem.labels))
    predicted = adaptor.predict_logits(problem.features).argmax(axis=1)
    expected = np.zeros((5, 5), int)
    for true, guess in zip(problem.labels, predicted):
        expected[true, guess] += 1
    np.testing.assert_array_equal(found.confusion, expected)
    assert found.accuracy == pytest.approx((problem.labels == predicted).mean())
    for index, accuracy in enumerate(found.per_class):
        mine = problem.labels == index
        assert accuracy == ((predicted[mine] == index).mean() if mine.any() else None)


def test_another_shape_is_refused_before_anything_is_allocated(saved: Path) -> None:
    config = {**config_of().to_json(), "tokens": 10**12}
    rewrite(saved, config=json.dumps(config))
    with pytest.raises(MismatchError, match="features of 1000000000000 tokens x 24"):
        Adaptor.load(saved).predict_proba(np.zeros((1, 10, 24), np.float32))


@pytest.mark.parametrize("part", ["weights_sha256", "k", "preprocessing", "graph_version"])
def test_a_mismatch_names_the_part_that_differs(part: str) -> None:
    other = {**BACKBONE, part: "other", "identity": "99" * 32}
    with pytest.raises(MismatchError) as refusal:
        adaptor_of().check_backbone(other, "these features come from")
    message = str(refusal.value)
    assert f"they differ in {part}. Use the backbone it was trained on" in message
    assert f"backbone tiny, k=2 (identity {str(BACKBONE['identity'])[:12]})" in message
    assert "these features come from tiny, k=" in message and "(identity 999999999999)" in message


def test_a_backbone_is_known_by_its_identity_alone() -> None:
    adaptor_of().check_backbone({"identity": BACKBONE["identity"]}, "these come from")
    with pytest.raises(MismatchError, match="they differ in weights_sha256, k, preprocessing"):
        adaptor_of().check_backbone({}, "these come from")


METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "foreign": ({"format": None}, "expected format 'edgetune.adaptor', found None"),
    "a shard": ({"format": formats.SHARD}, "expected format 'edgetune.adaptor'"),
    "newer": ({"version": "2"}, "use the edgetune that wrote it, or a newer one"),
    "no config": ({"config": None}, "'config' is missing or damaged"),
    "config cut": ({"config": "{"}, "'config' is missing or damaged"),
    "config deep": ({"config": "[" * 100_000}, "'config' is missing or damaged"),
    "config a list": ({"config": "[]"}, "'config' is missing or damaged"),
    "config empty": ({"config": "{}"}, "entries are not those of an adaptor"),
    "classes an object": ({"classes": "{}"}, "'classes' is missing or damaged"),
    "too few classes": ({"classes": '["a"]'}, "5 classes need as many names"),
    "backbone NaN": ({"backbone": '{"k": NaN}'}, "'backbone' is missing or damaged"),
    "training": ({"training": "1"}, "'training' is missing or damaged"),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_that_cannot_be_is_refused(case: str, saved: Path) -> None:
    changes, message = METADATA[case]
    rewrite(saved, **changes)
    with pytest.raises(FormatError, match=message):
        Adaptor.load(saved)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("rank", 3, "its tensors are not those of its configuration"),
        ("classes", 1, "at least two classes"),
        ("input_rms", 0, "input_rms must be from"),
        ("norm_eps", 1e-300, "norm_eps must be from"),
        ("norm_eps", 10**400, "'config' is missing or damaged"),
        ("heads", 3, "does not divide into 3 heads"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    entry: str, value: Any, message: str, saved: Path
) -> None:
    rewrite(saved, config=json.dumps({**config_of().to_json(), entry: value}))
    with pytest.raises(FormatError, match=message) as refusal:
        Adaptor.load(saved)
    assert str(refusal.value).startswith(str(saved))


@pytest.mark.parametrize(
    "changes",
    [
        {"head.bias": np.zeros(4, np.float32)},
        {"head.bias": np.zeros(5, np.float16)},
        {"extra": np.zeros(1, np.float32)},
    ],
)
def test_other_tensors_are_refused(changes: dict[str, Any], saved: Path) -> None:
    rewrite(saved, changes)
    with pytest.raises(FormatError, match="its tensors are not those of its configuration"):
        Adaptor.load(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_neither_loaded_nor_saved(value: float, saved: Path, tmp_path: Path) -> None:
    bias = np.full(5, value, np.float32)
    rewrite(saved, {"head.bias": bias})
    with pytest.raises(FormatError, match="tensor head.bias holds NaN or infinite entries"):
        Adaptor.load(saved)
    adaptor = adaptor_of()
    adaptor.parameters["head.bias"] = bias
    with pytest.raises(DataError, match="was not written: head.bias holds NaN"):
        adaptor.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_top_k_is_sorted_and_takes_no_more_than_there_are() -> None:
    probabilities = np.array([0.1, 0.4, 0.1, 0.4], np.float32)
    assert [name for name, _ in top_k(probabilities, "abcd", 3)] == ["b", "d", "a"]
    found = top_k(probabilities, "abcd", 9)
    assert [name for name, _ in found] == ["b", "d", "a", "c"]
    assert all(type(value) is float for _, value in found)
