"""Calibrations: fitted times, the file, and what is predicted from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.codecs import CODECS
from edge_runtime.errors import FormatError
from edge_runtime.flops import Cost
from trainer_lite.board import Board, fit
from trainer_lite.build import StepShape
from trainer_lite.calibration import calibrate
from trainer_lite.clocks import Operation
from trainer_lite.config import TrainConfig
from trainer_lite.data import prepare_shape
from trainer_lite.forecast import forecast


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """This machine, calibrated at all shapes but with two steps each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer_lite.calibration.STEPS", 2)
        patch.setattr("trainer_lite.rates.STORAGE_BYTES", 1 << 20)
        return calibrate(tmp_path_factory.mktemp("storage"), lambda count, note: None)


def test_a_fit_recovers_what_made_the_samples() -> None:
    costs = [Cost(m, 2 * m, b) for m, b in ((10, 900), (5000, 1000), (80000, 30000), (100, 50))]
    samples = [(c, 2e-6 + 3e-10 * c.macs + 5e-11 * c.bytes) for c in costs]
    assert fit(samples) == pytest.approx((2e-6, 3e-10, 5e-11), rel=1e-4)


def test_images_count_where_they_are_read_one_by_one() -> None:
    costs = [Cost(0, 0, b, images=n) for n, b in ((1, 900), (16, 5000), (2, 30000), (64, 50))]
    samples = [(c, 2e-5 + 4e-6 * c.images + 8e-11 * c.bytes) for c in costs]
    assert fit(samples) == pytest.approx((2e-5, 4e-6, 8e-11), rel=1e-4)


def test_a_runs_own_time_counts(board: Board) -> None:
    config = TrainConfig(batch_size=8)
    data = prepare_shape(config, CODECS["float16"], 50, 96, 4, 100)
    shape = StepShape(batch=8, tile=8)
    bare, slow = replace(board, step=0.0, image=0.0), replace(board, step=0.5, image=0.25)
    times = [forecast(b, data.adaptor, data.source, None, shape).training for b in (bare, slow)]
    assert times[1] - times[0] == pytest.approx(13 * 0.5 + 100 * 0.25)


@pytest.mark.parametrize("seconds", [[1e-6], [3e-6, 2e-6, 1e-6], [0.0, 0.0]])
def test_a_fit_is_never_negative(seconds: list[float]) -> None:
    samples = [(Cost(100 * i, 200 * i, 10 * i), s) for i, s in enumerate(seconds)]
    assert min(fit(samples)) >= 0


def test_the_file_gives_back_what_was_measured(board: Board, tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    board.save(path)
    assert Board.load(path) == board
    assert board.machine["cores"] >= 1 and board.machine["page_bytes"] >= 4096
    assert all(rate > 0 for rate in board.rates.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("kinds"),
        lambda c: c.update(kinds={"x": [1, 2]}),
        lambda c: c.update(kinds={"x": [1, 2, -3]}),
        lambda c: c["rates"].update(cache_bytes=0),
        lambda c: c["rates"].pop("storage_bytes"),
        lambda c: c.update(between="fast"),
        lambda c: c.pop("step"),
        lambda c: c.update(image=-1),
        lambda c: c.update(speedups={}),
        lambda c: c.update(format="edgetune.adaptor"),
        lambda c: c.update(version=2),
    ],
)
def test_a_damaged_file_is_refused(board: Board, tmp_path: Path, change: Any) -> None:
    path = tmp_path / "board.json"
    board.save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="board.json"):
        Board.load(path)


def test_an_operation_that_was_not_calibrated_is_named(board: Board) -> None:
    with pytest.raises(FormatError, match=r"forward conjure -> x.*calibrate again"):
        board.seconds(Operation("forward: magic", "conjure -> x", Cost(1, 2, 3)))


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": 2, "drop_path": 0.2},
        {"heads": 4},
        {"pool": "cls", "blocks": 1},
        {"kind": "linear"},
        {"kind": "linear", "pool": "cls"},
    ],
    ids=str,
)
def test_every_run_is_foreseen(board: Board, codec: str, options: Any) -> None:
    """No configuration has an operation that the calibration's shapes do not have."""
    config = TrainConfig(**{"batch_size": 4, "rank": 4, **options})
    data = prepare_shape(config, CODECS[codec], 9, 16, 3, 10)
    shape = StepShape(4, 3, 0.0, config.drop_path)
    found = forecast(board, data.adaptor, data.source, data.val, shape)
    assert 0 < found.training < 1 and 0 < found.validation < found.training
    alone = forecast(board, data.adaptor, data.source, None, shape)
    assert alone.validation == 0 and alone.training == found.training


def test_more_images_take_longer_in_proportion(board: Board) -> None:
    config = TrainConfig(batch_size=4, rank=4)
    seconds = []
    for rows in (40, 80):
        data = prepare_shape(config, CODECS["int8"], 9, 16, 3, rows)
        seconds.append(forecast(board, data.adaptor, data.source, None, StepShape(4, 4)).training)
    assert seconds[1] == pytest.approx(2 * seconds[0])


def test_lanes_are_faster_as_measured(board: Board) -> None:
    found = replace(board, speedups={"1": 1.0, "2": 1.5, "4": 2.5})
    assert [found.speedup(n) for n in (1, 2, 3, 4, 8)] == [1.0, 1.5, 2.0, 2.5, 2.5]


def test_features_beyond_memory_are_read_from_storage(board: Board) -> None:
    config = TrainConfig(batch_size=4, rank=4)
    data = prepare_shape(config, CODECS["int8"], 9, 16, 3, 40)
    usual = forecast(board, data.adaptor, data.source, None, StepShape(4, 4)).training
    memory = {**board.machine, "memory_bytes": 4096}
    small = replace(board, machine=memory)
    slower = forecast(small, data.adaptor, data.source, None, StepShape(4, 4)).training
    nbytes = 40 * data.source.scratch_bytes(1)
    assert slower - usual == pytest.approx(nbytes / board.rates["storage_bytes"])
