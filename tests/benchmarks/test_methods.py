"""Other methods beside ours: the networks, the choice of a rate, and one small study."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

NEEDED = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "PIL")
if any(importlib.util.find_spec(name) is None for name in NEEDED):
    pytest.skip("the methods need edgetune[export]", allow_module_level=True)

# ruff: noqa: E402 - torch is not there everywhere
import torch

from benchmarks.methods.__main__ import main
from benchmarks.methods.methods import BY_NAME, VIT_B16
from benchmarks.methods.networks import Last, Lst
from benchmarks.methods.study import Row, Run, compare, remembered
from benchmarks.methods.table import table
from benchmarks.methods.taps import TapShape, TapSplit
from benchmarks.methods.worker import run
from edge_runtime.features import FeatureFolder
from tests.photos import write_photos
from trainer_lite.config import TrainConfig

Array = np.ndarray[Any, Any]
SHAPE = TapShape(4, 6, 1, 32, 3, (0.5, 1.0, 2.0, 4.0), 5.0)


def random_taps(images: int = 2) -> torch.Tensor:
    """Taps at the root mean squares that SHAPE notes."""
    torch.manual_seed(0)
    scale = torch.tensor(SHAPE.rms).view(1, -1, 1, 1)
    return torch.randn(images, SHAPE.taps, SHAPE.tokens, SHAPE.dim) * scale


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter moved away from its start value, which is often zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_parameters_are_the_published_ones() -> None:
    assert BY_NAME["lst"].parameters(VIT_B16) == pytest.approx(2.38e6, rel=0.01)
    assert BY_NAME["last"].parameters(VIT_B16) == pytest.approx(0.61e6, rel=0.01)
    assert BY_NAME["adaptor"].parameters(VIT_B16) + 100 * 769 <= 0.3e6


def test_what_is_sent() -> None:
    every = BY_NAME["last"].image_bytes(SHAPE)
    assert every == 2 * 4 * 6 * 32 == 4 * BY_NAME["adaptor"].image_bytes(SHAPE)
    assert BY_NAME["linear-cls"].image_bytes(SHAPE) == 64
    assert BY_NAME["mlp"].image_bytes(SHAPE) == 128


@pytest.mark.parametrize("network", [Lst, Last])
@pytest.mark.parametrize("pool", ["cls", "mean", "both"])
def test_every_tap_counts(network: Any, pool: str) -> None:
    taps = random_taps().requires_grad_()
    model = randomised(network(SHAPE, pool))
    model(taps).square().sum().backward()
    assert taps.grad is not None
    assert (taps.grad.abs().amax((0, 2, 3)) > 0).all()


def test_last_as_the_paper_writes_it() -> None:
    """u_m with its frozen part taken out, and z_m beside it."""
    model = randomised(Last(SHAPE, "mean"))
    taps = random_taps()
    z = taps * model.scale
    u = z[:, 0]
    for index, block in enumerate(model.blocks):
        u = u + block(u)
        if index + 1 < len(model.blocks):
            u = u + z[:, index + 1]
    learnt = u - z[:, :-1].sum(1)
    expected = model.head(model.pool(z[:, -1] + learnt))
    torch.testing.assert_close(model(taps), expected, rtol=1e-5, atol=1e-5)


def test_the_gates_mix_ladder_and_stream() -> None:
    model = randomised(Lst(SHAPE, "mean"))
    taps = random_taps()
    with torch.no_grad():
        model.gates.fill_(100.0)  # the ladder alone: the last rung is all there is
    changed = taps.clone()
    changed[:, :-1] += 1
    torch.testing.assert_close(model(taps), model(changed))
    with torch.no_grad():
        model.gates.fill_(-100.0)  # the stream alone: nothing but z_0
    changed = taps.clone()
    changed[:, 1:] += 1
    torch.testing.assert_close(model(taps), model(changed))


def write_taps(folder: Path, separation: float = 1.5) -> Path:
    """Taps of three classes whose patches differ in every tap."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(SHAPE.classes, SHAPE.dim)) * separation
    for split, rows in (("train", 48), ("val", 24), ("test", 30)):
        labels = np.arange(rows) % SHAPE.classes
        taps = rng.normal(size=(rows, SHAPE.taps, SHAPE.tokens, SHAPE.dim))
        taps += centres[labels][:, None, None]
        taps *= np.array(SHAPE.rms)[:, None, None]
        (folder / f"{split}.taps").write_bytes(taps.astype(np.float16).tobytes())
        maps = np.stack([taps.sum(1), taps[:, -1]], 1)
        pooled = np.stack([maps[:, :, 0], maps[:, :, 1:].mean(2)], 2)
        np.save(folder / f"{split}-pooled.npy", pooled.astype(np.float32))
        np.save(folder / f"{split}-labels.npy", labels)
    (folder / "shape.json").write_text(json.dumps(asdict(SHAPE)))
    return folder


@pytest.mark.parametrize("name", ["linear-cls", "last-mean", "mlp", "lst", "last"])
def test_methods_learn(tmp_path: Path, name: str) -> None:
    folder = write_taps(tmp_path / "taps")
    config = TrainConfig(lr=3e-3, epochs=15, batch_size=16)
    found = run(folder, BY_NAME[name], config)
    assert found["test_accuracy"] > 0.8 and found["val_accuracy"] > 0.8
    assert found == {
        **run(folder, BY_NAME[name], config),
        "peak_rss_bytes": found["peak_rss_bytes"],
    }


def test_val_chooses_the_rate_and_each_run_is_made_once(tmp_path: Path) -> None:
    val = {1e-4: 0.5, 1e-3: 0.7, 1e-2: 0.7}
    made: list[Run] = []

    def execute(run: Run) -> dict[str, Any]:
        made.append(run)
        return {
            "val_accuracy": val[run.lr] - (0.1 if run.weight_decay < 1 else 0),
            "test_accuracy": 0.9 - run.seed / 10 - (0.5 if run.lr == 1e-3 else 0),
            "parameters": 7,
            "cpu_seconds": 1.0,
            "peak_rss_bytes": 100 + run.seed,
        }

    def study(kept: Path) -> list[Row]:
        return list(
            compare(
                ["a"],
                ["mlp"],
                rates=[1e-2, 1e-4, 1e-3],
                decays=[1.0, 0.1],
                seeds=3,
                epochs=5,
                execute=remembered(kept, execute),
                image_bytes=lambda name, method: 9,
            )
        )

    (row,) = study(tmp_path / "runs")
    assert (row.lr, row.weight_decay) == (
        1e-3,
        1.0,
    )  # the lower of equals on val
    assert row.test_accuracies == pytest.approx((0.4, 0.3, 0.2))
    assert (row.mean, row.peak_rss_bytes) == (pytest.approx(0.3), 102)
    assert len(made) == 8
    assert study(tmp_path / "runs") == [row] and len(made) == 8
    assert "0.300 ± 0.082" in table([row])


def test_a_study_from_images_to_table_json_and_plot(tmp_path: Path) -> None:
    from export.models import load_model

    write_photos(tmp_path / "data/pets", {"train": 16, "val": 3, "test": 4})
    weights = tmp_path / "weights.pth"
    torch.save(load_model("test_vit", random_weights=True).model.state_dict(), weights)
    work = tmp_path / "work"
    arguments = [str(tmp_path / "data"), "--backbone", "test_vit", "--checkpoint", str(weights)]
    arguments += ["--work", str(work), "--epochs", "2", "--seeds", "1", "--lr", "1e-3"]
    arguments += ["--weight-decay", "0.05"]
    methods = ("--method", "linear-mean", "--method", "adaptor")
    result = CliRunner().invoke(main, [*arguments, *methods], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "edgetune, the sum" in result.output
    results = json.loads((work / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["linear-mean", "adaptor"]
    assert all(row["peak_rss_bytes"] > 1e7 for row in results["rows"])
    if importlib.util.find_spec("matplotlib") is not None:
        assert (work / "results.png").stat().st_size > 1000

    features = FeatureFolder.open(work / "pets-features")
    split, taps = features.split("val"), TapSplit(work / "pets-taps", "val")
    z = np.empty((split.rows, split.tokens, split.embed_dim), np.float32)
    norms, scratch = np.empty(z.shape[:2], np.float32), np.empty(split.scratch_bytes(6), np.uint8)
    split.read(np.arange(split.rows), z, norms, scratch)
    total = taps.read(np.arange(split.rows)).astype(np.float32).sum(1)
    np.testing.assert_allclose(total, z, rtol=0.01, atol=0.01 * np.abs(z).max())
    np.testing.assert_array_equal(taps.labels, split.labels)
    assert taps.shape.sum_rms == pytest.approx(features.split("train").rms, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--lr", "fast"], "numbers between commas"), (["--only", "nosuch"], "nosuch/train")],
)
def test_bad_input_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "a/train").mkdir(parents=True)
    common = [str(tmp_path), "--backbone", "test_vit", "--work", str(tmp_path / "work")]
    result = CliRunner().invoke(main, [*common, *arguments])
    assert result.exit_code == 1
    assert message in result.output and "Traceback" not in result.output
