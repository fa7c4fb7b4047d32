"""VTAB-1k, few shots and domains on small sets in the real layouts."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.protocols import domains, few_shot, layouts, vtab
from benchmarks.protocols.__main__ import main
from benchmarks.protocols.layouts import read_task, write_set
from benchmarks.protocols.tasks import BY_NAME, TASKS, means
from benchmarks.protocols.trials import Trials, grid
from benchmarks.protocols.view import View
from edge_runtime.errors import ConfigError, DataError
from edge_runtime.features import FeatureFolder
from edge_runtime.image_folder import scan
from tests.edge_runtime.tiny_backbone import write_backbone
from tests.feature_folders import write_features

NEEDED = ("onnx", "onnxruntime", "PIL")
if any(importlib.util.find_spec(name) is None for name in NEEDED):
    pytest.skip("needs a backbone to run", allow_module_level=True)

BASE = (200, 40, 40), (40, 40, 200), (40, 200, 40)


def write_image(path: Path, label: int, seed: int, strength: float = 1.0) -> None:
    """Noise around a colour of the class's own."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 50, (10, 10, 3))
    pixels = noise + strength * np.array(BASE[label % 3])
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def write_lists(folder: Path, sizes: dict[str, int], classes: int = 2) -> None:
    """One task as the copies of VTAB-1k have it."""
    lines: dict[str, list[str]] = {}
    for split, size in sizes.items():
        lines[split] = []
        for number in range(size):
            name, label = f"images/{split}/{number:06}.png", number % classes
            write_image(folder / name, label, number + 1000 * len(lines))
            lines[split].append(f"{name} {label}")
    for split, name in (("train", "train800"), ("val", "val200"), ("test", "test")):
        (folder / f"{name}.txt").write_text("\n".join(lines[split]) + "\n")


def write_classes(folder: Path, per_class: dict[str, int], strength: float = 1.0) -> None:
    """{train,val,test}/CLASS/*, or CLASS/* for the split named ''."""
    for split, count in per_class.items():
        for label, name in enumerate(("ant", "bee")):
            for number in range(count):
                path = folder / split / name / f"{number}.png"
                write_image(path, label, 100 * label + number, strength)


def invoke(*arguments: Any) -> Any:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_vtab_from_the_lists_to_the_table(tmp_path: Path) -> None:
    write_lists(tmp_path / "data/eurosat", {"train": 24, "val": 8, "test": 10})
    backbone, work = write_backbone(tmp_path / "backbone"), tmp_path / "work"
    common = ["--backbone", backbone, "--work", work, "--epochs", "3", "--seeds", "2"]
    (work / "runs").mkdir(parents=True)  # one trial as if made before, to less avail
    trial = work / "runs/eurosat-search-epochs=3,kind=attention,lr=0.001.json"
    trial.write_text('{"val_accuracy": 0.25}')
    found = invoke("vtab", tmp_path / "data", *common, "--search", "lr=0.001,0.01", "--json")
    results = json.loads(found.stdout)
    rows = {row["task"]: row for row in results["tasks"]}
    assert len(rows) == 19
    assert rows["eurosat"]["accuracy"] > 0.9 and len(rows["eurosat"]["accuracies"]) == 2
    assert rows["eurosat"]["options"] == {"lr": 0.01}
    assert not rows["eurosat"]["drawn"]
    assert "expected train800.txt" in rows["kitti"]["reason"]
    assert results["means"]["of_groups"] is None
    finals = [json.loads(path.read_text()) for path in (work / "runs").glob("eurosat-e*.json")]
    assert len(finals) == 2
    assert all(run["val_accuracy"] is None for run in finals)  # trained on train and val
    assert not (work / "eurosat-features").exists()

    text = invoke("vtab", tmp_path / "data", *common, "--task", "eurosat").stdout
    assert "mean of the groups     not run: tasks are missing" in text
    assert "LAST                    76.44" in text
    assert "dmlab                  not run: not asked for" in text


def test_a_final_run_trains_on_all_thousand(tmp_path: Path) -> None:
    written = write_features(tmp_path / "f", rows={"train": 10, "test": 6})
    whole = FeatureFolder.open(written.path)
    names = [f"train/a/{'val' if row % 5 == 4 else 'train'}-{row}" for row in range(10)]
    train = whole.split("train")
    type(train).paths, kept = property(lambda self: names), type(train).paths  # type: ignore
    try:
        search, final = vtab.views(whole)
    finally:
        type(train).paths = kept  # type: ignore[method-assign]
    assert [search.split(name).rows for name in ("train", "val")] == [8, 2]
    assert search.split_names == ["train", "val"]
    assert [final.split(name).rows for name in ("train", "test")] == [10, 6]
    np.testing.assert_array_equal(search.split("val").labels, written.labels["train"][[4, 9]])


def test_test_images_of_unseen_classes_count_as_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "data/eurosat"
    write_lists(folder, {"train": 12, "val": 4, "test": 10})
    lines = (folder / "test.txt").read_text().splitlines()
    (folder / "test.txt").write_text("\n".join([*lines[:8], *(f"{x[:-1]}2" for x in lines[8:])]))
    backbone = write_backbone(tmp_path / "backbone")
    found = invoke(
        *("vtab", tmp_path / "data", "--backbone", backbone, "--work", tmp_path / "work"),
        *("--task", "eurosat", "--search", "lr=0.01", "--epochs", "3", "--seeds", "1", "--json"),
    )
    (row,) = json.loads(found.stdout)["tasks"]
    assert row["accuracy"] == pytest.approx(0.8)


def test_the_means_differ_and_want_every_task() -> None:
    accuracies = {
        task.name: {"natural": 0.8, "specialized": 0.9}.get(task.group, 0.4) for task in TASKS
    }
    found = means(accuracies)
    assert found.of_groups == pytest.approx(0.7)
    assert found.of_tasks == pytest.approx((7 * 0.8 + 4 * 0.9 + 8 * 0.4) / 19)
    del accuracies["dmlab"]
    found = means(accuracies)
    assert (found.groups["structured"], found.of_groups, found.of_tasks) == (None, None, None)
    assert found.groups["natural"] == pytest.approx(0.8)


def test_bad_lists_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "kitti"
    write_lists(folder, {"train": 4, "val": 2, "test": 2})
    for line, message in (
        ("images/train/000000.png", "a path and a label"),
        ("images/none.png 1", "does not exist"),
    ):
        (folder / "val200.txt").write_text(line)
        with pytest.raises(DataError, match=message):
            read_task(tmp_path, BY_NAME["kitti"])
    with pytest.raises(DataError, match="holds no task"):
        read_task(tmp_path, BY_NAME["dmlab"])


def test_class_folders_without_val_are_split_and_said_to_be(tmp_path: Path) -> None:
    write_classes(tmp_path / "dtd", {"train": 10, "test": 3})
    data = read_task(tmp_path, BY_NAME["dtd"])
    assert {name: len(items) for name, items in data.splits.items()} == {
        "train": 16,
        "val": 4,
        "test": 6,
    }
    assert data.drawn and list(data.classes) == ["ant", "bee"]
    again = read_task(tmp_path, BY_NAME["dtd"])
    assert again.splits == data.splits
    write_set(data, tmp_path / "set")
    images = scan(tmp_path / "set")
    assert {name: len(files) for name, files in images.splits.items()} == {"train": 20, "test": 6}


def test_hugging_face_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    from PIL import Image

    def cell(label: int) -> dict[str, Any]:
        data = io.BytesIO()
        Image.new("RGB", (4, 4), BASE[label]).save(data, "PNG")
        return {"bytes": data.getvalue(), "path": None}

    for split, count in (("train", 10), ("test", 4)):
        labels = [number % 2 for number in range(count)]
        table = arrow.table({"image": [cell(label) for label in labels], "label": labels})
        noted = {"info": {"features": {"label": {"names": ["red", "blue"]}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
        (tmp_path / "svhn/data").mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, tmp_path / f"svhn/data/{split}-00000-of-00001.parquet")
    data = read_task(tmp_path, BY_NAME["svhn"])
    assert data.drawn and list(data.classes) == ["red", "blue"]
    write_set(data, tmp_path / "set")
    for path in (tmp_path / "set").glob("*/red/*"):
        assert Image.open(path).getpixel((0, 0)) == BASE[0]


def test_torchvision_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs torchvision, and what repairs it")
    monkeypatch.setattr(layouts, "TRAIN", 4)
    monkeypatch.setattr(layouts, "VAL", 2)
    write_classes(tmp_path / "eurosat/eurosat/2750", {"": 6})
    data = read_task(tmp_path, BY_NAME["eurosat"])
    sizes = {name: len(items) for name, items in data.splits.items()}
    assert (sizes, data.drawn) == ({"train": 4, "val": 2, "test": 6}, True)
    image, label = data.splits["test"][0]
    assert callable(image) and image().getpixel((0, 0))[label * 2] > 100
    (tmp_path / "cifar").mkdir()
    with pytest.raises(DataError, match="CIFAR100: Dataset not found"):
        read_task(tmp_path, BY_NAME["cifar"])


def test_few_shots_are_drawn_by_class_and_seed() -> None:
    labels = np.arange(30) % 3
    rows = few_shot.draw(labels, 4, seed=0)
    assert np.bincount(labels[rows]).tolist() == [4, 4, 4]
    np.testing.assert_array_equal(rows, few_shot.draw(labels, 4, seed=0))
    assert rows.tolist() != few_shot.draw(labels, 4, seed=1).tolist()
    assert len(few_shot.draw(labels, 16, seed=0)) == 30


def test_few_shots_and_domains_from_the_command_line(tmp_path: Path) -> None:
    sets, backbone = tmp_path / "sets", write_backbone(tmp_path / "backbone")
    write_classes(sets / "insects", {"train": 8, "val": 4, "test": 5})
    write_classes(tmp_path / "dim", {"": 6}, strength=0.7)
    (tmp_path / "dim/bee").rename(tmp_path / "elsewhere")
    (tmp_path / "dim/ant").rename(tmp_path / "dim/bee")  # what looks like ants, called bees
    write_image(tmp_path / "dim/ant/one.png", 0, 7)
    common = ["--backbone", backbone, "--work", tmp_path / "work", "--search", "lr=0.01"]
    common += ["--epochs", "8", "--seeds", "2", "--json"]

    rows = json.loads(invoke("few-shot", sets, "--shots", "1,4", *common).stdout)
    assert [(row["set"], row["shots"]) for row in rows] == [("insects", 1), ("insects", 4)]
    assert rows[1]["mean"] > 0.9
    runs = [json.loads(path.read_text()) for path in (tmp_path / "work/runs").glob("*1shot*.json")]
    assert {run["config"]["batch_size"] for run in runs} == {2}

    found = invoke("domains", sets / "insects", tmp_path / "dim", "--shots", "4", *common)
    source, target = json.loads(found.stdout)
    assert source["accuracies"] == rows[1]["accuracies"]
    assert max(target["accuracies"]) < 0.5  # six of seven carry the wrong name


def test_a_domain_with_fewer_classes_has_two_accuracies(tmp_path: Path) -> None:
    written = write_features(tmp_path / "f", rows={"train": 12, "test": 9}, separation=0.0)
    features = FeatureFolder.open(written.path)

    class Third:
        """Always sure of class 2, then of class 0."""

        classes = ("other", *features.classes[:2], "last", features.classes[2])

        def predict_proba(self, z: Any) -> Any:
            return np.tile([0.5, 0.3, 0.0, 0.1, 0.1], (len(z), 1))

    every, own = domains.test_on(Third(), features)  # type: ignore[arg-type]
    labels = np.concatenate(list(written.labels.values()))
    assert (every, own) == (0.0, pytest.approx((labels == 0).mean()))
    Third.classes = ("other", *features.classes[:2], "last", "gone")
    with pytest.raises(DataError, match="was not trained on"):
        domains.test_on(Third(), features)  # type: ignore[arg-type]


def test_views_are_read_as_their_rows(tmp_path: Path) -> None:
    written = write_features(tmp_path / "f")
    chosen = np.array([5, 0, 11])
    view = View(FeatureFolder.open(written.path), {"train": ("train", chosen)})
    split = view.split("train")
    z, norms = np.empty((2, 5, 8), np.float32), np.empty((2, 5), np.float32)
    split.read(np.array([2, 0]), z, norms, np.empty(split.scratch_bytes(2), np.uint8))
    np.testing.assert_allclose(z, written.features["train"][[11, 5]], rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(split.labels, written.labels["train"][chosen])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["few-shot", ".", "--shots", "1,none"], "whole numbers"),
        (["few-shot", "."], "holds no set"),
        (["vtab", ".", "--search", "colour=red"], "expected an option of train"),
        (["vtab", ".", "--task", "dmlab"], "none of the tasks"),
        (["vtab", ".", "--search", "lr=-1"], "learning rate"),
        (["vtab", ".", "--codec", "mp3"], "--codec must be one of"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    write_lists(tmp_path / "eurosat", {"train": 4, "val": 2, "test": 2})
    arguments[1] = str(tmp_path)
    backbone = write_backbone(tmp_path / "backbone")
    with pytest.raises((ConfigError, DataError), match=message):
        CliRunner().invoke(
            main,
            [*arguments, "--backbone", str(backbone), "--work", str(tmp_path / "work")],
            standalone_mode=False,
            catch_exceptions=False,
        )


def test_a_rate_that_diverges_is_passed_over(tmp_path: Path) -> None:
    features = FeatureFolder.open(write_features(tmp_path / "f").path)
    trials = Trials(tmp_path / "runs", {"epochs": 3})
    wild = {"lr": 1e30}
    assert trials.choose("set", features, [wild, {"lr": 1e-2}]) == {"lr": 1e-2}
    with pytest.raises(DataError, match="finite"):
        trials.choose("set", features, [wild, {"lr": 1e31}])


def test_a_grid_is_every_combination() -> None:
    assert grid(["lr=1e-3,1", "pool=cls,mean"])[2] == {"lr": 1, "pool": "cls"}
