"""A step and an evaluation on a problem too small to count, before memory is measured.

The first run of anything loads code from disk: modules, and the pages of numpy's and BLAS's
libraries, which count as resident memory. After a rehearsal they are there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_runtime.codecs import PLAIN, decode
from edge_runtime.config import AdaptorConfig
from edge_runtime.program import Array, Workspace
from edge_runtime.weights import FusedWeights
from trainer_lite.batches import drop_path_factors, epoch_batches
from trainer_lite.build import StepShape, planned_step
from trainer_lite.evaluation import evaluate
from trainer_lite.optim import AdamW
from trainer_lite.parameters import ParameterSet

TOKENS, DIM, IMAGES = 40, 24, 6
SIDE, MASK = 6, 40  # of the grid and its masks, where every patch token has logits


def rehearse(config: AdaptorConfig, lanes: int = 1) -> None:
    """Trains one step of an adaptor like `config`, of few tokens and little width."""
    prefix = min(config.prefix_tokens, TOKENS - 1)
    tokens = prefix + SIDE**2 if config.dense else TOKENS
    rank = min(config.rank, 8) // config.heads * config.heads or config.rank
    small = replace(
        config, tokens=tokens, prefix_tokens=prefix, embed_dim=max(DIM, rank), classes=2, rank=rank
    )
    source = Ones(small)
    for codec in PLAIN.values():
        z = np.empty((IMAGES, tokens, small.embed_dim), np.float32)
        scale = codec.scale_shape(IMAGES, tokens)
        stored = np.zeros((IMAGES, tokens, codec.stored_dim(small.embed_dim)), codec.dtype)
        decode(codec, stored, None if scale is None else np.ones(scale, np.float32), z)
    parameters = ParameterSet(small)
    parameters.initialise(0)
    weights = FusedWeights(small, parameters.values, Workspace())
    drop_path = 0.1 if small.blocks else 0.0
    shape = StepShape(IMAGES, 2, drop_path=drop_path, lanes=lanes, mask_size=source.mask_size)
    step, predictors = planned_step(weights, source, shape)
    optimiser = AdamW(
        parameters.flat,
        step.gradient,
        decayed=parameters.decayed,
        weight_decay=0.1,
    )
    for rows in epoch_batches(IMAGES, IMAGES, 0, 1):
        drop = drop_path_factors(0.1, small.blocks, len(rows), 0, 0)
        step.run(rows, source.labels[rows], drop)
        optimiser.step(1e-3)
    weights.refresh()
    evaluate(predictors, source)


class Ones:
    """Features that are all 1; masks, too."""

    def __init__(self, config: AdaptorConfig):
        self.tokens, self.embed_dim = config.tokens, config.embed_dim
        self.labels = np.arange(IMAGES) % 2
        self.mask_size = MASK if config.dense else 0
        if config.dense:
            self.labels = np.resize(np.arange(2, dtype=np.uint8), (IMAGES, config.patch_tokens))

    def scratch_bytes(self, images: int) -> int:
        return 0

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        z.fill(1.0)
        norms.fill(1.0)

    def read_masks(self, rows: Array, out: Array) -> None:
        out.fill(1)
