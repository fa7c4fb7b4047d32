"""Training that starts from an adaptor: what it computes first, what it trains, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.subset import write_subset
from edge_runtime.adaptor import Adaptor
from edge_runtime.errors import ConfigError, MismatchError
from edge_runtime.features import FeatureFolder
from edge_runtime.program import Workspace
from edge_runtime.weights import FusedWeights
from tests.command_line import Outcome, edgetune
from tests.feature_folders import alter_manifest, write_features
from tests.problems import config_of, problem_of, random_parameters, step_of
from trainer_lite.build import StepShape, plan_step
from trainer_lite.checkpoint import Checkpoints, Every
from trainer_lite.data import balanced
from trainer_lite.start import Start
from trainer_lite.stops import InterruptedRunError
from trainer_lite.trainer import Trainer

FAST = ("--epochs", 2, "--batch-size", 8)
NOTHING = ("--lr", 1e-30, "--weight-decay", 0)  # steps that change no weight
SHAPES: dict[str, tuple[object, ...]] = {
    "attention": ("--rank", 4, "--blocks", 2, "--heads", 2),
    "cls": ("--rank", 2, "--blocks", 1, "--pool", "cls"),
    "cls and mean": ("--rank", 2, "--blocks", 1, "--pool", "cls+mean"),
    "linear": ("--kind", "linear"),
}


def train(folder: Path, out: Path, *options: object) -> Outcome:
    return edgetune("train", folder, "--out", out, *FAST, *options)


@pytest.fixture(params=SHAPES)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An adaptor of three classes."""
    written = write_features(tmp_path / "old")
    path = tmp_path / "old.safetensors"
    assert train(written.path, path, *SHAPES[request.param]).exit_code == 0
    return path


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Features of five classes in another order, among them those three; of another scale."""
    written = write_features(
        tmp_path / "more", classes=5, rows={"train": 40, "val": 10, "test": 10}
    )
    names = ["class-3", "class-2", "class-0", "class-4", "class-1"]
    alter_manifest(written.path, lambda manifest: manifest.update(classes=names))
    return written.path


def test_the_first_function_is_the_adaptors_on_the_classes_it_knew(
    old: Path, more: Path, tmp_path: Path
) -> None:
    outcome = train(more, tmp_path / "new", "--init", old, *NOTHING)
    assert outcome.exit_code == 0, outcome
    before, after, folder = (
        Adaptor.load(old),
        Adaptor.load(tmp_path / "new"),
        FeatureFolder.open(more),
    )
    assert folder.split("train").rms != pytest.approx(before.config.input_rms, rel=0.01)
    assert after.classes == folder.classes
    assert after.config == replace(before.config, classes=5)
    columns = [after.classes.index(name) for name in before.classes]
    rows = folder.split("test")
    expected = before.predict_logits(rows)
    np.testing.assert_allclose(after.predict_logits(rows)[:, columns], expected, atol=1e-5)
    added = [after.classes.index(name) for name in ("class-3", "class-4")]
    assert (np.abs(after.parameters["head.weight"][added]).max(axis=1) > 0).all()


def test_new_classes_start_as_add_class_makes_them(old: Path, more: Path, tmp_path: Path) -> None:
    assert train(more, tmp_path / "trained", "--init", old, *NOTHING).exit_code == 0
    assert edgetune("add-class", old, more, "--out", tmp_path / "grown").exit_code == 0
    trained, grown = Adaptor.load(tmp_path / "trained"), Adaptor.load(tmp_path / "grown")
    order = [trained.classes.index(name) for name in grown.classes]
    for name in ("head.weight", "head.bias"):
        found = trained.parameters[name][order]
        np.testing.assert_allclose(found, grown.parameters[name], rtol=1e-4, atol=1e-6)


def test_it_learns_from_there_and_names_where_it_came_from(
    old: Path, more: Path, tmp_path: Path
) -> None:
    assert train(more, tmp_path / "new", "--init", old, "--json").exit_code == 0
    before, after = Start.load(old), Adaptor.load(tmp_path / "new")
    assert after.training["init"] == before.sha256
    given = before.adaptor.parameters["head.norm_weight"]
    assert (after.parameters["head.norm_weight"] != given).any()
    found = json.loads(edgetune("inspect", tmp_path / "new", "--json").stdout)
    assert found["training"]["init"] == before.sha256
    lines = edgetune("verify", tmp_path / "new", old, more).stdout.splitlines()
    named = [line for line in lines if "the adaptor it started from" in line]
    assert named == [
        f"ok     {tmp_path / 'new'} names the adaptor it started from, {before.sha256[:12]}: "
        f"that is {old}"
    ]
    lines = edgetune("verify", tmp_path / "new", tmp_path / "new.best").stdout.splitlines()
    assert sum("started from" in line and line.endswith("not checked") for line in lines) == 2


def test_the_head_alone_is_trained(more: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    assert train(more, base, *SHAPES["attention"]).exit_code == 0
    options = ("--init", base, "--head-only", "--epochs", 12, "--json")
    outcome = train(more, tmp_path / "new", *options)
    assert outcome.exit_code == 0, outcome
    content = json.loads(outcome.stdout)
    assert content["train_loss"] < content["history"][0]["train_loss"]
    before, after = Adaptor.load(base), Adaptor.load(tmp_path / "new")
    assert after.training["head_only"] is True
    assert list(after.parameters) == list(before.parameters)
    for name, array in before.parameters.items():
        same = (after.parameters[name] == array).all()
        assert same != name.startswith("head."), name
    best = Adaptor.load(tmp_path / "new.best").parameters
    np.testing.assert_array_equal(best["blocks.qkv"], before.parameters["blocks.qkv"])


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
@pytest.mark.parametrize(
    "case", [{"heads": 2, "blocks": 3}, {"pool": "cls+mean"}, {"kind": "linear"}]
)
def test_the_heads_gradient_is_that_of_the_whole_step(
    case: dict[str, Any], drop_path: float
) -> None:
    config = config_of(**case)
    problem = problem_of(config, 8, np.float64)
    options: dict[str, Any] = {"batch": 8, "tile": 3, "smoothing": 0.1}
    options["drop_path"] = drop_path if config.blocks else 0.0
    drop = problem.drop if options["drop_path"] else None
    found = []
    for head_only in (False, True):
        parameters = random_parameters(config, np.float64)
        step = step_of(parameters, problem, head_only=head_only, **options)
        outcome = step.run(np.arange(8), problem.labels, drop)
        found.append((outcome, {name: g.copy() for name, g in step.gradients.items()}))
    (expected, full), (outcome, head) = found
    assert outcome == pytest.approx(expected, rel=1e-12)
    assert set(head) == {name for name in full if name.startswith("head.")}
    for name, gradient in head.items():
        np.testing.assert_allclose(gradient, full[name], rtol=1e-10, atol=1e-12)
        assert np.abs(gradient).max() > 0


def test_the_head_alone_pays_for_no_backward_pass_through_the_blocks() -> None:
    config = config_of(tokens=50, embed_dim=64, rank=8, blocks=4)
    problem = problem_of(config, 8, np.float32)
    weights = FusedWeights(config, random_parameters(config, np.float32), Workspace())
    full, head = (
        plan_step(weights, problem, StepShape(batch=8, tile=4, head_only=only))
        for only in (False, True)
    )
    assert head.macs < 0.5 * full.macs
    assert head.arena_bytes < 0.6 * full.arena_bytes
    step = step_of(random_parameters(config, np.float32), problem, batch=8, tile=4, head_only=True)
    sections = [name for program in step.programs() for name in program.sections]
    assert "forward: head" in sections
    assert {name for name in sections if name.startswith("backward")} == {"backward: head"}


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    old: Path, more: Path, tmp_path: Path
) -> None:
    start, folder = Start.load(old), FeatureFolder.open(more)
    config = start.config(epochs=3, batch_size=8, head_only=True)
    whole = Trainer(config, start=start).fit(folder).adaptor
    steps: list[int] = []
    first = Trainer(
        config,
        start=start,
        checkpoints=Checkpoints(tmp_path / "run", Every(steps=1)),
        on_step=lambda report: steps.append(report.step),
        stop_requested=lambda: len(steps) >= 7,
    )
    with pytest.raises(InterruptedRunError):
        first.fit(folder)
    again = Checkpoints(tmp_path / "run", resume=True)
    resumed = Trainer(config, start=start, checkpoints=again).fit(folder).adaptor
    for name, array in whole.parameters.items():
        np.testing.assert_array_equal(resumed.parameters[name], array)

    other = replace(start, sha256="ab" * 32)
    third = Trainer(
        replace(config, init=other.sha256),
        start=other,
        checkpoints=Checkpoints(tmp_path / "run", resume=True),
    )
    with pytest.raises(MismatchError, match="init was .*, is abababababab"):
        third.fit(folder)


def test_options_that_contradict_the_adaptor_are_refused(more: Path, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    assert train(more, base, *SHAPES["attention"]).exit_code == 0
    for option, value, has in (
        ("rank", 8, 4),
        ("blocks", 4, 2),
        ("heads", 1, 2),
        ("kind", "linear", "attention"),
        ("pool", "cls", "cls+mean"),
    ):
        line = train(more, out, "--init", base, f"--{option}", value).error
        assert f"--{option} {value} does not fit {base}, an adaptor of {option} {has}" in line
    assert train(more, out, "--init", base, "--rank", 4).exit_code == 0
    with pytest.raises(ConfigError, match=r"start.config\(\)"):
        Trainer(Start.load(base).config())
    outcome = train(more, out, "--head-only")
    assert outcome.exit_code == 2
    assert "--head-only needs --init" in outcome.stderr


def test_what_does_not_belong_together_is_refused(more: Path, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    assert train(more, base, *SHAPES["attention"]).exit_code == 0
    fewer = write_features(tmp_path / "fewer").path
    line = train(fewer, out, "--init", base).error
    assert "knows class-3, class-4, and" in line and "`edgetune add-class`" in line
    pooled = write_features(tmp_path / "pooled", classes=5, tokens=3).path
    assert (
        "takes features of 5 tokens x 8, these are 3 x 8"
        in train(pooled, out, "--init", base).error
    )
    other = write_features(tmp_path / "other", classes=5).path
    alter_manifest(other, lambda manifest: manifest["backbone"].update(identity="ab" * 32))
    assert "was trained on backbone" in train(other, out, "--init", base).error
    empty = write_features(tmp_path / "empty", classes=5).path
    alter_manifest(empty, lambda manifest: manifest["classes"].append("class-5"))
    assert "class-5 has none" in train(empty, out, "--init", base).error
    missing = train(more, out, "--init", tmp_path / "nowhere")
    assert "nowhere" in missing.error
    assert not out.exists()


def test_balanced_rows_are_as_many_of_each_class(more: Path, tmp_path: Path) -> None:
    folder = FeatureFolder.open(more)
    few = write_subset(folder, folder.classes, tmp_path / "few", {"class-4": 3})
    split = FeatureFolder.open(few).split("train")
    assert np.bincount(split.labels).tolist() == [8, 8, 8, 3, 8]
    source = balanced(split)
    assert np.bincount(source.labels).tolist() == [8] * 5
    assert set(source.rows.tolist()) == set(range(split.rows))
    z, norms = np.empty((2, 5, 8), np.float32), np.empty((2, 5), np.float32)
    expected, rows = z.copy(), np.array([30, 1])
    scratch = np.empty(source.scratch_bytes(2), np.uint8)
    source.read(rows, z, norms, scratch)
    split.read(source.rows[rows], expected, norms, scratch)
    np.testing.assert_array_equal(z, expected)
    np.testing.assert_array_equal(split.labels[source.rows], source.labels)
    outcome = train(few, tmp_path / "new", "--rank", 2, "--balance", "--json")
    assert json.loads(outcome.stdout)["steps"] == 2 * 40 / 8
