"""`edgetune add-class`: new rows beside the trained ones, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.subset import write_subset
from edge_runtime.adaptor import Adaptor
from edge_runtime.features import FeatureFolder
from tests.command_line import edgetune
from tests.feature_folders import alter_manifest, write_features
from trainer_lite.imprint import imprint

SHAPES: dict[str, tuple[object, ...]] = {
    "attention": ("--rank", 4, "--blocks", 2),
    "linear": ("--kind", "linear"),
}
OLD, NEW = ["class-0", "class-2", "class-4"], ["class-1", "class-3"]


class Folders:
    """Features of five classes; `old` has three of them and `new` the two others."""

    def __init__(self, root: Path):
        rows = {"train": 60, "val": 20, "test": 40}
        self.all = write_features(root / "all", classes=5, rows=rows, embed_dim=16).path
        whole = FeatureFolder.open(self.all)
        self.old = write_subset(whole, OLD, root / "old", {})
        self.new = write_subset(whole, NEW, root / "new", dict.fromkeys(NEW, 4))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setattr("os.fsync", int)
    return Folders(tmp_path)


@pytest.fixture(params=SHAPES)
def adaptor(request: pytest.FixtureRequest, folders: Folders, tmp_path: Path) -> Path:
    """An adaptor of the three old classes."""
    options = (*SHAPES[request.param], "--epochs", 10, "--batch-size", 8)
    outcome = edgetune("train", folders.old, "--out", tmp_path / "a", *options)
    assert outcome.exit_code == 0, outcome
    return tmp_path / "a"


def grown(adaptor: Path, features: Path, *options: object) -> tuple[Any, Adaptor, str]:
    """(JSON, the new adaptor, stderr) of a command that must go well."""
    out = adaptor.with_name("grown")
    outcome = edgetune("add-class", adaptor, features, "--out", out, "--json", *options)
    assert outcome.exit_code == 0, outcome
    return json.loads(outcome.stdout), Adaptor.load(out), outcome.stderr


@pytest.mark.parametrize("held_against", ["--old", "same folder"])
def test_several_classes_are_added_and_the_old_ones_stay_as_they_were(
    held_against: str, adaptor: Path, folders: Folders
) -> None:
    if held_against == "--old":
        content, after, stderr = grown(adaptor, folders.new, "--old", folders.old)
        assert content["imprinted"] == {"class-1": 4, "class-3": 4}
    else:
        content, after, stderr = grown(adaptor, folders.all)
        assert content["imprinted"] == {"class-1": 12, "class-3": 12}
    assert (stderr, content["old_images"]) == ("", 36)
    assert after.classes == content["classes"] == sorted(OLD + NEW)
    before, rows = Adaptor.load(adaptor), FeatureFolder.open(folders.all).split("test")
    columns = [after.classes.index(name) for name in OLD]
    expected = before.predict_logits(rows)
    np.testing.assert_allclose(after.predict_logits(rows)[:, columns], expected, atol=1e-5)
    test = content["accuracy"][1]
    assert test["split"] == "test"
    assert (
        test["old_before"]
        == before.evaluate(FeatureFolder.open(folders.old).split("test")).accuracy
    )
    assert test["old_after"] > 0.9 and test["new_after"] > 0.9
    for folder, measured in ((folders.old, "old_after"), (folders.new, "new_after")):
        found = json.loads(
            edgetune("evaluate", adaptor.with_name("grown"), folder, "--json").stdout
        )
        assert found["accuracy"] == test[measured]
    probed = edgetune("predict", "--adaptor", adaptor.with_name("grown"), "--features", folders.new)
    assert probed.exit_code == 0 and "class-3" in probed.stdout


def test_without_old_images_it_warns_and_measures_what_it_can(
    adaptor: Path, folders: Folders
) -> None:
    content, after, stderr = grown(adaptor, folders.new)
    assert "give features with some as --old" in stderr
    test = content["accuracy"][1]
    assert (test["old_before"], test["old_after"], content["old_images"]) == (None, None, 0)
    assert test["new_after"] > 0.5
    old = after.evaluate(after.labelled(FeatureFolder.open(folders.old), "test"))
    assert old.accuracy > 0.5


def test_a_class_is_made_anew_only_on_request(adaptor: Path, folders: Folders) -> None:
    out = adaptor.with_name("again")
    line = edgetune("add-class", adaptor, folders.old, "--out", out).error
    assert "knows all classes of" in line and "--replace NAME" in line
    before = Adaptor.load(adaptor)
    content, after, _ = grown(adaptor, folders.old, "--replace", "class-2")
    assert content["imprinted"] == {"class-2": 12}
    changed = (after.parameters["head.weight"] != before.parameters["head.weight"]).any(axis=1)
    assert changed.tolist() == [False, True, False]
    assert content["accuracy"][1]["new_after"] > 0.9


def test_people_read_of_the_classes_and_the_accuracy(adaptor: Path, folders: Folders) -> None:
    out = adaptor.with_name("grown")
    outcome = edgetune("add-class", adaptor, folders.all, "--out", out)
    lines = outcome.stdout.splitlines()
    assert lines[0] == f"{out}: 5 classes, made here: class-1 (12 images), class-3 (12 images)"
    assert lines[2].startswith("accuracy on test: old classes 1.0000 before, ")
    assert "the adaptor it started from" in edgetune("verify", out, adaptor).stdout


def test_what_cannot_be_added_is_refused(folders: Folders, tmp_path: Path) -> None:
    base, out = tmp_path / "a", tmp_path / "out"
    options = ("--out", base, "--rank", 2, "--epochs", 1, "--batch-size", 8)
    assert edgetune("train", folders.old, *options).exit_code == 0

    def refused(features: Path, *options: object) -> str:
        return edgetune("add-class", base, features, "--out", out, *options).error

    assert "--replace bee: the adaptor knows no such class" in refused(
        folders.new, "--replace", "bee"
    )
    assert "has no images of that class" in refused(folders.new, "--replace", "class-0")
    both = ("--replace", "class-0", "--replace", "class-2")
    assert "at least two of the adaptor's classes must stay" in refused(folders.all, *both)
    pooled = write_features(tmp_path / "pooled", classes=5, tokens=3, embed_dim=16).path
    assert "takes features of 5 tokens x 16, these are 3 x 16" in refused(pooled)
    assert "these are 3 x 16" in refused(folders.new, "--old", pooled)
    line = refused(folders.new, "--old", folders.new)
    assert "has none of the classes that stay as they are (class-0, class-2, class-4)" in line
    other = write_features(tmp_path / "other", classes=5, embed_dim=16).path
    alter_manifest(other, lambda manifest: manifest["backbone"].update(identity="ab" * 32))
    assert "was trained on backbone" in refused(other)
    alter_manifest(folders.new, lambda manifest: manifest["classes"].append("class-9"))
    assert "has no image of class-9 in its train split" in refused(folders.new)
    assert not out.exists()
    out.write_text("mine")
    assert "exists already" in refused(folders.all)
    assert out.read_text() == "mine"
    assert edgetune("add-class", base, folders.all, "--out", out, "--force").exit_code == 0


class Embedded:
    """Stands for a predictor and a source: embeddings and logits that are there already."""

    def __init__(self, embedded: Any, labels: Any, weight: Any, bias: Any):
        self.embedded, self.labels, self.logits = embedded, labels, embedded @ weight.T + bias

    def embed(self, source: Any) -> Any:
        for start in range(0, len(self.labels), 4):
            part = slice(start, start + 4)
            yield part, self.embedded[part], self.logits[part]


def a_head(classes: int, labels: Any) -> tuple[Any, Any, Any]:
    """Rows far off zero, and embeddings as far off in another direction."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((classes, 12)) + 3, rng.standard_normal(classes)
    embedded = rng.standard_normal((len(labels), 12)) + 5 * np.linspace(-1, 1, 12)
    return weight, bias, Embedded(embedded, labels, weight, bias)


def test_an_imprinted_row_is_to_the_trained_ones_what_they_are_to_each_other() -> None:
    labels = np.array([0, 0, 0, 2, 1, 4, 4, 3, 5, 1, 4, 5, 5, 5])
    weight, bias, seen = a_head(6, labels)
    old, new = [0, 2, 3, 5], [1, 4]
    expected = weight[old].copy()
    counts = imprint(weight, bias, new, seen, [seen])
    assert counts.tolist() == [3, 2, 1, 1, 3, 4]
    np.testing.assert_array_equal(weight[old], expected)
    steps = weight[new] - expected.mean(axis=0)
    length = np.linalg.norm(expected - expected.mean(axis=0), axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), length)
    means = np.array([seen.embedded[labels == index].mean(axis=0) for index in range(6)])
    centre = means[old].mean(axis=0)
    at_centre = weight @ centre + bias
    np.testing.assert_allclose(at_centre[new], at_centre[old].mean())
    towards = means[new] - centre
    cosines = np.einsum("kd,kd->k", steps, towards) / np.linalg.norm(towards, axis=1) / length
    np.testing.assert_allclose(cosines, 1)


def test_without_a_centre_a_class_is_as_likely_as_all_old_ones_over_its_own_images() -> None:
    labels = np.full(9, 3)
    weight, bias, seen = a_head(4, labels)
    imprint(weight, bias, [3], seen, [seen])
    old, new = seen.logits[:, :3], seen.embedded @ weight[3] + bias[3]
    assert new.mean() == pytest.approx(np.logaddexp.reduce(old, axis=1).mean())
    assert np.ptp(new) > 0.1
