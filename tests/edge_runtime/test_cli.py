"""evaluate, predict and inspect as they are typed: output, exit status, one line for an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.cli import COMMANDS, main
from edge_runtime.features import FeatureFolder
from tests.command_line import edgetune
from tests.feature_folders import Written, alter_manifest, alter_shard, write_features
from tests.problems import config_of, random_parameters


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return write_features(tmp_path / "features")


def save_adaptor(path: Path, folder: Path, **changes: Any) -> Adaptor:
    """An adaptor with random parameters that fits a feature folder."""
    features = FeatureFolder.open(folder)
    shape = {"tokens": 5, "embed_dim": 8, "classes": len(features.classes)}
    config = config_of(**{**shape, **changes})
    parameters = random_parameters(config, np.float32)
    adaptor = Adaptor(config, parameters, features.classes, features.backbone)
    adaptor.save(path)
    return adaptor


@pytest.fixture
def adaptor(tmp_path: Path, written: Written) -> Path:
    save_adaptor(tmp_path / "adaptor.safetensors", written.path)
    return tmp_path / "adaptor.safetensors"


def test_evaluate_prints_accuracy_by_class_and_confusion(adaptor: Path, written: Written) -> None:
    outcome = edgetune("evaluate", adaptor, written.path)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("accuracy on test (10 images): 0.")
    assert len(lines) == 5 and "(predicted)" in lines[1]
    for index, line in enumerate(lines[2:]):
        label, name, accuracy, *counts = line.split()
        assert (int(label), name) == (index, f"class-{index}")
        assert float(accuracy) == pytest.approx(
            int(counts[index]) / sum(map(int, counts)), abs=5e-4
        )


def test_evaluate_as_json_holds_counts_and_names(adaptor: Path, written: Written) -> None:
    outcome = edgetune("evaluate", adaptor, written.path, "--split", "train", "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    content = json.loads(outcome.stdout)
    assert set(content) == {"split", "images", "accuracy", "per_class", "classes", "confusion"}
    confusion = np.array(content["confusion"])
    assert (content["split"], content["images"]) == ("train", 24)
    assert confusion.sum(axis=1).tolist() == [8, 8, 8]
    assert content["accuracy"] == pytest.approx(np.trace(confusion) / 24)
    assert content["classes"] == ["class-0", "class-1", "class-2"]
    assert content["per_class"] == pytest.approx(
        {f"class-{i}": confusion[i, i] / 8 for i in range(3)}
    )


@pytest.mark.parametrize(
    ("rows", "expected"), [({"train": 6, "val": 3}, "val"), ({"train": 6}, "train")]
)
def test_evaluate_takes_the_first_split_there_is(
    rows: dict[str, int], expected: str, tmp_path: Path
) -> None:
    written = write_features(tmp_path / "features", rows=rows)
    save_adaptor(tmp_path / "a", written.path)
    outcome = edgetune("evaluate", tmp_path / "a", written.path, "--json")
    assert json.loads(outcome.stdout)["split"] == expected
    line = edgetune("evaluate", tmp_path / "a", written.path, "--split", "test").error
    assert f"has no test split; it has {', '.join(rows)}" in line


def test_a_class_without_images_has_no_accuracy(adaptor: Path, written: Written) -> None:
    alter_shard(written.path, "val", lambda tensors: tensors["labels"].fill(0))
    outcome = edgetune("evaluate", adaptor, written.path, "--split", "val", "--json")
    per_class = json.loads(outcome.stdout)["per_class"]
    assert per_class["class-2"] is None and per_class["class-0"] is not None
    assert edgetune("evaluate", adaptor, written.path, "--split", "val").exit_code == 0


def test_predict_names_the_best_classes_of_each_row(adaptor: Path, written: Written) -> None:
    arguments = ("predict", "--adaptor", adaptor, "--features", written.path, "--top-k", 2)
    outcome = edgetune(*arguments, "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    predictions = json.loads(outcome.stdout)["predictions"]
    assert [p["image"] for p in predictions] == written.paths["test"]
    probabilities = Adaptor.load(adaptor).predict_proba(
        FeatureFolder.open(written.path).split("test")
    )
    for prediction, row in zip(predictions, probabilities):
        best = np.argsort(-row)[:2]
        assert [top["class"] for top in prediction["top"]] == [f"class-{i}" for i in best]
        assert [top["probability"] for top in prediction["top"]] == pytest.approx(list(row[best]))
    lines = edgetune(*arguments, "--split", "val").stdout.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("val/class-0/0.png: class-") and lines[0].count("class-") == 3


def test_files_given_for_one_another_are_told_apart(adaptor: Path, written: Written) -> None:
    shard = written.path / "val-00000.safetensors"
    text = written.path / "manifest.json"
    for command, message in (
        (("evaluate", written.path, adaptor), "is a folder; a safetensors file was expected"),
        (("evaluate", adaptor, adaptor), "is not a feature folder"),
        (
            ("evaluate", shard, written.path),
            "expected format 'edgetune.adaptor', found 'edgetune.s",
        ),
        (("evaluate", text, written.path), "not a safetensors file"),
        (("evaluate", written.path / "no", written.path), "no such file"),
        (("predict", "--adaptor", adaptor, "--features", adaptor), "is not a feature folder"),
        (
            ("predict", "x.png", "--adaptor", adaptor, "--backbone", written.path),
            "edgetune.backbone",
        ),
    ):
        assert message in edgetune(*command).error


def test_features_of_another_backbone_are_refused(adaptor: Path, written: Written) -> None:
    alter_manifest(written.path, lambda m: m["backbone"].update(identity="0" * 64, k=7))
    for command in (
        ("evaluate", adaptor, written.path),
        ("predict", "--adaptor", adaptor, "--features", written.path),
    ):
        line = edgetune(*command).error
        assert f"the features in {written.path} come from tiny, k=7" in line
        assert "they differ in k. Use the backbone it was trained on" in line


def test_other_classes_are_refused(adaptor: Path, written: Written) -> None:
    alter_manifest(written.path, lambda m: m.update(classes=["a", "b", "c"]))
    line = edgetune("evaluate", adaptor, written.path).error
    assert "knows the classes class-0, class-1, class-2" in line and "has a, b, c" in line


def test_weights_beyond_float32_end_in_one_line_without_warnings(
    tmp_path: Path, written: Written
) -> None:
    trained = save_adaptor(tmp_path / "a", written.path)
    trained.parameters["blocks.qkv"] *= np.float32(1e30)
    trained.save(tmp_path / "a")
    for command in (
        ("evaluate", tmp_path / "a", written.path),
        ("predict", "--adaptor", tmp_path / "a", "--features", written.path, "--json"),
    ):
        assert "the adaptor's logits are not finite" in edgetune(*command).error


def test_inspect_describes_everything_of_ours(adaptor: Path, written: Written) -> None:
    for path, entries in (
        (adaptor, {"format": "edgetune.adaptor", "kind": "attention", "classes": 3}),
        (written.path, {"format": "edgetune.features", "skipped": 0, "bytes_per_image": 84}),
        (written.path / "val-00000.safetensors", {"format": "edgetune.shard", "split": "val"}),
    ):
        outcome = edgetune("inspect", path, "--json")
        assert (outcome.exit_code, outcome.stderr) == (0, "")
        content = json.loads(outcome.stdout)
        assert {key: content[key] for key in entries} == entries
        shown = edgetune("inspect", path).stdout
        assert all(f"{key:18} " in shown for key in content)


def test_inspect_verify_finds_what_sizes_do_not_show(written: Written) -> None:
    assert json.loads(edgetune("inspect", written.path, "--verify", "--json").stdout)["intact"]
    path = written.path / "train-00002.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert edgetune("inspect", written.path).exit_code == 0
    line = edgetune("inspect", written.path, "--verify").error
    assert "altered: train-00002.safetensors; run extract again" in line
    path.write_bytes(data)
    manifest = written.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"norm_eps": 1e-06', '"norm_eps": 1e-05'))
    assert "its identity is not its own" in edgetune("inspect", written.path, "--verify").error


def test_inspect_refuses_what_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello, this is some text\n" * 10)
    (tmp_path / "random").write_bytes(np.random.default_rng(0).bytes(4096))
    (tmp_path / "zero").touch()
    for name, content in (
        ("list", "[]"),
        ("other", '{"format": "x"}'),
        ("cut", "{"),
        ("inf", '{"format": "edgetune.features", "x": 1e999}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(content)
    for name, message in (
        ("nowhere", "no such file or folder"),
        ("empty", "is not a folder of ours: it has no manifest.json"),
        ("text", "not a safetensors file"),
        ("random", "not a safetensors file"),
        ("zero", "not a safetensors file"),
        ("list", "must be a JSON object"),
        ("other", "expected format 'edgetune.features', found 'x'"),
        ("cut", "damaged"),
        ("inf", "damaged"),
    ):
        assert message in edgetune("inspect", tmp_path / name).error


def test_names_that_are_not_unicode_can_still_be_shown(written: Written) -> None:
    alter_manifest(written.path, lambda m: m.update(classes=["a", "b", "\ud800"]))
    outcome = edgetune("inspect", written.path)
    assert outcome.exit_code == 0
    assert "a, b, \\ud800" in outcome.stdout


def test_a_file_that_may_not_be_read_is_named(
    adaptor: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Adaptor, "load", refuse)  # root may read anything
    line = edgetune("evaluate", adaptor, written.path).error
    assert line == f"Error: {adaptor}: Permission denied"


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [(KeyboardInterrupt, 130, "\nstopped\n"), (MemoryError, 1, "Error: out of memory\n")],
)
def test_an_interrupted_command_says_so(
    raised: type[BaseException],
    status: int,
    message: str,
    adaptor: Path,
    written: Written,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(path: Any) -> Any:
        raise raised

    monkeypatch.setattr(Adaptor, "load", stop)
    outcome = edgetune("evaluate", adaptor, written.path)
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (status, "", message)


@pytest.mark.parametrize(
    "arguments",
    [
        ("unknown",),
        ("evaluate",),
        ("evaluate", "a"),
        ("evaluate", "a", "f", "--split", "dev"),
        ("evaluate", "a", "f", "--unknown"),
        ("predict",),
        ("predict", "x.png", "--backbone", "b"),
        ("predict", "--adaptor", "a"),
        ("predict", "x.png", "--adaptor", "a"),
        ("predict", "x.png", "--adaptor", "a", "--backbone", "b", "--features", "f"),
        ("predict", "--adaptor", "a", "--features", "f", "--top-k", "0"),
        ("predict", "--adaptor", "a", "--features", "f", "--split", "dev"),
        ("inspect",),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    outcome = edgetune(*arguments)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("Usage: ") and "Traceback" not in outcome.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_explained(name: str) -> None:
    outcome = edgetune(name, "--help")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "Example" in outcome.stdout and f"edgetune {name} " in outcome.stdout
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.name} has no help"
    assert f"  {name}" in edgetune("--help").stdout


def test_the_version_is_told() -> None:
    from edge_runtime import __version__

    assert edgetune("--version").stdout == f"edgetune, version {__version__}\n"
