"""Where the time and the memory of a step and of an inference go, operation by operation."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edge_runtime.config import AdaptorConfig
from edge_runtime.memory import peak_rss_bytes
from edge_runtime.predictor import Predictor
from edge_runtime.program import Array, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.batches import drop_path_factors, epoch_batches
from trainer_lite.build import (
    StepPlan,
    StepShape,
    build_step,
    fastest_tile,
    plan_step,
    planned_step,
    step_in,
)
from trainer_lite.clocks import (
    Group,
    Measured,
    Names,
    Timed,
    describe,
    measure,
    median_seconds,
    optimiser_operation,
)
from trainer_lite.config import TrainConfig
from trainer_lite.evaluation import Part
from trainer_lite.optim import AdamW
from trainer_lite.parameters import ParameterSet
from trainer_lite.step import TrainingStep


@dataclass(frozen=True)
class StageProfile:
    """Operations of a training step, or of inference; `seconds` is of the whole without clocks."""

    operations: list[Measured]
    seconds: float
    images: int


@dataclass(frozen=True)
class Profile:
    """What `edgetune profile` measured.

    Args:
        sections: of each operation that the plan's lifetimes count: before, tile, after.
        peaks: peak RSS (VmHWM) in bytes after each phase.
    """

    config: AdaptorConfig
    plan: StepPlan
    tile: int
    training: StageProfile
    inference: StageProfile
    sections: list[str]
    peaks: dict[str, int]


def profile(
    config: AdaptorConfig, training: TrainConfig, source: FeatureSource, steps: int
) -> Profile:
    """Measures `steps` training steps and as many inferences of one image on `source`.

    Weights are at their start values; U and the head are random, so that nothing is zero.
    """
    peaks = {"before": peak_rss_bytes()}
    parameters = ParameterSet(config)
    parameters.initialise(training.seed)
    draw = random.Random(training.seed).uniform
    for name in ("blocks.out", "head.weight"):
        if name in parameters.values:
            values = parameters.values[name]
            values[...] = np.resize([draw(-0.1, 0.1) for _ in range(9973)], values.shape)
    workspace = Workspace()
    weights = FusedWeights(config, parameters.values, workspace)
    tile = fastest_tile(config.tokens, training.batch_size)
    drop_path = training.drop_path if config.blocks else 0.0
    shape = StepShape(training.batch_size, tile, training.label_smoothing, drop_path)
    plan = plan_step(weights, source, shape)
    step, _ = build_step(weights, source, shape, plan)
    run = Steps(step, training, config, parameters)
    peaks["planned and built"] = peak_rss_bytes()
    trial = Workspace()
    described = step_in(trial, weights, source, shape)
    described.lanes[0].tile_of(run.last_tile)
    groups = grouped(step, described, run.last_tile, Names(parameters, workspace, trial))
    operations, seconds = measure(groups, run, steps)
    update = optimiser_operation(parameters)
    update_seconds = run.update.seconds / run.update.runs
    operations.append(Measured(update, 1, update.cost, update_seconds))
    peaks["training"] = peak_rss_bytes()
    inference = profile_inference(weights, source, parameters, workspace, steps)
    peaks["inference"] = peak_rss_bytes()
    trained = StageProfile(operations, seconds, training.batch_size)
    sections = [section for program in described.programs() for section in program.sections]
    return Profile(config, plan, tile, trained, inference, sections, peaks)


def step_seconds(
    config: AdaptorConfig, training: TrainConfig, source: FeatureSource, lanes: int, steps: int
) -> float:
    """Median seconds of a training step in so many lanes, at the tile that training would take."""
    parameters = ParameterSet(config)
    parameters.initialise(training.seed)
    weights = FusedWeights(config, parameters.values, Workspace())
    tile = fastest_tile(config.tokens, training.batch_size, lanes)
    shape = StepShape(training.batch_size, tile, lanes=lanes)
    run = Steps(planned_step(weights, source, shape)[0], training, config, parameters)
    run()
    return median_seconds(run, steps)


def grouped(
    step: TrainingStep, described: TrainingStep, last_tile: int, names: Names
) -> list[Group]:
    """The programs of a step beside what they do, tiles of all sizes together."""
    sizes = [step.tile_images] + ([last_tile] if last_tile != step.tile_images else [])
    before, clear, _, after = zip(step.programs(), described.programs())
    ours, theirs = step.lanes[0], described.lanes[0]
    tiles = [(ours.tile_of(size).program, theirs.tile_of(size).program) for size in sizes]
    groups = ([before], [clear], tiles, [after])
    return [[(run, describe(named, names)) for run, named in group] for group in groups]


class Steps:
    """Training steps, one a call, on batches drawn as training draws them."""

    def __init__(
        self,
        step: TrainingStep,
        training: TrainConfig,
        config: AdaptorConfig,
        parameters: ParameterSet,
    ):
        self.step, self.config = step, config
        self.training = training.settled(config.embed_dim, config.prefix_tokens)
        self.rows = len(step.source.labels)
        self.last_tile = training.batch_size % step.tile_images or step.tile_images
        self.optimiser = AdamW(
            parameters.flat,
            step.gradient,
            decayed=parameters.decayed,
            weight_decay=training.weight_decay,
        )
        self.update = Timed(self.optimiser.step)
        self.count = 0
        self._batches = self._draw()

    def __call__(self) -> None:
        rows, drop = next(self._batches), None
        if self.step.drop_path:
            depth, rate = self.config.blocks, self.step.drop_path
            drop = drop_path_factors(rate, depth, len(rows), self.training.seed, self.count)
        self.step.run(rows, self.step.source.labels[rows], drop)
        self.update(self.training.rate)
        self.count += 1

    def _draw(self) -> Iterator[Array]:
        size = self.training.batch_size
        for epoch in itertools.count(1):
            for rows in epoch_batches(self.rows, size, self.training.seed, epoch):
                if len(rows) == size:
                    yield rows


def profile_inference(
    weights: FusedWeights,
    source: FeatureSource,
    parameters: ParameterSet,
    workspace: Workspace,
    times: int,
) -> StageProfile:
    """The forward pass of one image, as `predict` runs it; with masks, also the class of each of
    its pixels, as `evaluate` does."""
    weights.refresh()
    space, trial = Workspace(), Workspace()
    scratch = source.scratch_bytes(1)
    one = Part(source, 0, 1)
    predictor = Predictor(weights, space, 1, scratch, mask_size=one.mask_size)
    described = Predictor(weights, trial, 1, scratch, mask_size=one.mask_size).tile

    def run() -> None:
        if predictor.pixels is None:
            predictor.logits(one)
        else:
            predictor.evaluate(one)

    names = Names(parameters, workspace, trial)
    operations, seconds = measure([[(predictor.tile, describe(described, names))]], run, times)
    return StageProfile(operations, seconds, 1)
