"""How long an epoch will take on a calibrated board, from what its operations are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.config import AdaptorConfig
from edge_runtime.predictor import Predictor
from edge_runtime.program import Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.board import Board
from trainer_lite.build import StepShape, step_in
from trainer_lite.clocks import Names, Operation, describe, optimiser_operation
from trainer_lite.parameters import ParameterSet
from trainer_lite.step import tiles


@dataclass(frozen=True)
class Forecast:
    """Seconds of an epoch: training, and the validation after it."""

    training: float
    validation: float

    @property
    def epoch(self) -> float:
        return self.training + self.validation


def forecast(
    board: Board,
    adaptor: AdaptorConfig,
    source: FeatureSource,
    val: FeatureSource | None,
    shape: StepShape,
) -> Forecast:
    """Seconds of an epoch at this shape; nothing is run.

    Features that fill more than half of the board's memory are taken to be read from storage each
    epoch, all others from the system's cache.

    Raises:
        FormatError: a calibration of another version.
    """
    parameters = ParameterSet(adaptor)
    workspace, trial, other = Workspace(), Workspace(), Workspace()
    weights = FusedWeights(adaptor, parameters.values, workspace)
    step = step_in(trial, weights, source, shape)
    names = Names(parameters, workspace, trial)
    rows, batch = len(source.labels), shape.batch
    steps = -(-rows // batch)
    sizes = Counter(
        tile.stop - tile.start
        for part in tiles(rows, batch)
        for tile in tiles(part.stop - part.start, step.tile_images)
    )
    before, clear, _, after = step.programs()
    once = [o for program in (before, clear, after) for o in describe(program, names)]
    once.append(optimiser_operation(parameters))
    seconds, speedup = steps * total(board, once), board.speedup(shape.lanes)
    for images, count in sizes.items():
        tile = step.lanes[0].tile_of(images).program
        seconds += count * total(board, describe(tile, names)) / speedup
    validation = 0.0
    if val is not None:
        scratch, size = val.scratch_bytes(shape.tile), getattr(val, "mask_size", 0)
        predictor = Predictor(weights, other, shape.tile, scratch, mask_size=size)
        operations = describe(predictor.tile, Names(parameters, workspace, other))
        validation = len(val.labels) / shape.tile * total(board, operations) / speedup
    seconds += steps * board.step + rows * board.image
    return Forecast(
        seconds + storage_seconds(board, source),
        validation + (storage_seconds(board, val) if val is not None else 0.0),
    )


def total(board: Board, operations: Sequence[Operation]) -> float:
    """Seconds of all of them, one after the other."""
    return sum(board.seconds(operation) for operation in operations)


def storage_seconds(board: Board, source: FeatureSource) -> float:
    """Seconds of reading all features from storage; 0 where they stay in memory."""
    nbytes = source.scratch_bytes(1) + getattr(source, "mask_size", 0) ** 2
    nbytes *= len(source.labels)
    memory = board.machine.get("memory_bytes", 0)
    if not isinstance(memory, int) or 2 * nbytes <= memory:
        return 0.0
    return nbytes / board.rates["storage_bytes"]
