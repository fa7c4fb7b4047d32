"""Runs the forward pass over any number of images, a tile at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime import ops
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import DataError, MismatchError
from edge_runtime.forward import ForwardPass, default_tile, emit_inputs
from edge_runtime.metrics import Evaluation, PixelEvaluation, evaluation_of
from edge_runtime.program import Program, SharingWorkspace, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights

if TYPE_CHECKING:
    from edge_runtime.pixels import CountPixels, Pixels

Array = np.ndarray[Any, Any]


class Predictor:
    """Buffers and programs for inference; `weights` must have been refreshed.

    Args:
        tile: images a pass; by default about 400 tokens.
        scratch_bytes: work space for reading; a source that needs more gets its own.
        others: further adaptors of the same backbone; all share one reading and one product.
        mask_size: pixels along a side of the masks, where an adaptor with logits for every token is
            to be evaluated, or asked for masks.
    """

    def __init__(
        self,
        weights: FusedWeights,
        workspace: Workspace,
        tile: int | None = None,
        scratch_bytes: int = 0,
        others: Sequence[FusedWeights] = (),
        mask_size: int = 0,
    ):
        self.weights, self.workspace = weights, workspace
        self.pixels: Pixels | None = None
        if mask_size and weights.config.dense:
            from edge_runtime.pixels import Pixels  # not in memory where it is not used

            self.pixels = Pixels(weights.config, mask_size, workspace)
        shared = [SharingWorkspace(workspace, "z") for _ in others]
        self.parts = list(zip((weights, *others), (workspace, *shared)))
        self.tile_images = tile or default_tile(weights.config.tokens)
        self._scratch = workspace.array("scratch", (scratch_bytes,), np.uint8)
        self._tiles: dict[int, InferenceTile] = {}
        self.tile = self._tile_of(self.tile_images).program  # the largest first: it sets the sizes

    def logits(self, source: FeatureSource) -> Array:
        """Logits of every row, (rows, classes); of every patch token, (rows, classes, side, side).

        Raises:
            MismatchError: features of another shape than the adaptor's.
            DataError: a logit is not finite.
        """
        return self.all_logits(source)[0]

    def all_logits(self, source: FeatureSource) -> list[Array]:
        """As `logits`, of each adaptor that the tiles compute."""
        rows, dtype = len(source.labels), self.workspace.dtype
        out = [np.empty((rows, *w.config.logits_shape), dtype) for w, _ in self.parts]
        for part, tile in self._run(source):
            for logits, forward in zip(out, tile.forwards):
                logits[part] = forward.image_logits
        return out

    def evaluate(self, source: FeatureSource) -> Evaluation:
        """Confusion of the most probable class against the labels; of pixels against the masks."""
        if self.weights.config.dense:
            return self._evaluate_pixels(source)
        predicted = np.empty(len(source.labels), np.int32)
        for part, tile in self._run(source):
            predicted[part] = tile.forwards[0].logits.argmax(axis=1)
        return evaluation_of(source.labels, predicted, self.weights.config.classes)

    def embed(self, source: FeatureSource) -> Iterator[tuple[slice, Array, Array]]:
        """(rows, what the head's linear layer takes of them (n, d), their logits (n, classes)), a
        tile at a time; the next tile overwrites them."""
        for part, tile in self._run(source):
            yield part, tile.forwards[0].head_input, tile.forwards[0].logits

    def _evaluate_pixels(self, source: FeatureSource) -> Evaluation:
        pixels, size = self.pixels, getattr(source, "mask_size", 0)
        if pixels is None or size != pixels.size:
            raise MismatchError(
                "an adaptor of kind segmentation is evaluated on features that have masks, all of "
                "one size; extract a folder of images/ and masks/"
            )
        pixels.clear()
        for _ in self._run(source, counting=True):
            pass
        return PixelEvaluation(pixels.counts)

    def _run(
        self, source: FeatureSource, *, counting: bool = False
    ) -> Iterator[tuple[slice, InferenceTile]]:
        """(rows, their tile with its logits); the next tile overwrites the logits.

        With `counting`, pixels are counted, too.
        """
        for weights, _ in self.parts:
            check_shape(weights.config, source)
        rows, scratch = len(source.labels), self._scratch
        if source.scratch_bytes(self.tile_images) > scratch.size:
            scratch = np.empty(source.scratch_bytes(self.tile_images), np.uint8)
        for start in range(0, rows, self.tile_images):
            part = slice(start, min(start + self.tile_images, rows))
            tile = self._tile_of(part.stop - start)
            tile.source, tile.rows = source, np.arange(start, part.stop)
            tile.scratch = scratch
            if tile.count is not None:
                tile.count.source, tile.count.rows = source if counting else None, tile.rows
            with np.errstate(all="ignore"):  # what overflows is refused below
                tile.program.run()
            for forward in tile.forwards:
                check_finite(forward.logits)
            yield part, tile

    def _tile_of(self, images: int) -> InferenceTile:
        if images not in self._tiles:
            self._tiles[images] = InferenceTile(self, images, self._scratch)
        return self._tiles[images]


class InferenceTile:
    """The program for a tile of so many images: read, forward. Set source, rows and scratch."""

    source: FeatureSource
    rows: Array
    count: CountPixels | None = None

    def __init__(self, predictor: Predictor, images: int, scratch: Array):
        self.forwards = [ForwardPass(w, space, images) for w, space in predictor.parts]
        self.scratch = scratch
        first = self.forwards[0]
        shape = (images, first.config.tokens)
        self.z = first.z.reshape(*shape, first.config.embed_dim)
        self.norms = first.norms.reshape(shape)
        self.program = Program()
        self.program.section("input: read and decode")
        self.program.emit(self._read, uses=(self.z, self.norms, scratch))
        if len(self.forwards) == 1:
            first.emit(self.program)
        else:
            emit_together(self.forwards, predictor.workspace, self.program)
        pixels = predictor.pixels
        if pixels is not None:
            from edge_runtime.pixels import CountPixels

            self.count = CountPixels(pixels, first)
            self.program.section("evaluation: a class for every pixel")
            self.program.emit(self.count, uses=(first.logits, *pixels.uses))

    @ops.elementwise(passes=4)  # of float16, the usual codec
    def _read(self) -> None:
        self.source.read(self.rows, self.z, self.norms, self.scratch)


def emit_together(forwards: Sequence[ForwardPass], workspace: Workspace, program: Program) -> None:
    """Appends several forward passes on one z.

    The first is the last to take up the norms, which it scales in place.
    """
    pooled = [forward.emit_own_pool(program) for forward in forwards]
    program.section("forward: product with the features")
    emit_inputs(program, workspace, forwards)
    for forward in reversed(forwards):
        forward.emit_norms(program, forwards[0].norms)
    for forward, pooled_z in zip(forwards, pooled):
        forward.emit_after_product(program, pooled_z)


def check_finite(logits: Array) -> None:
    """DataError where a logit, or a probability, is not finite."""
    if not np.isfinite(logits).all():
        raise DataError(
            "the adaptor's logits are not finite: its weights or these features are beyond "
            "float32; train again with a lower --lr, or extract the features again"
        )


def check_shape(config: AdaptorConfig, source: FeatureSource) -> None:
    """MismatchError where features have another shape than the adaptor's."""
    if (source.tokens, source.embed_dim) != (config.tokens, config.embed_dim):
        raise MismatchError(
            f"the adaptor takes features of {config.tokens} tokens x {config.embed_dim}, these "
            f"are {source.tokens} x {source.embed_dim}; they come from another backbone, or one of "
            f"them was pooled (extract --codec)"
        )
