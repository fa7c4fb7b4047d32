"""Cross-entropy of every labelled patch token, in a layout of classes x tokens.

The loss of a batch is the mean over its labelled tokens, not over its images: so it does not depend
on how the batch is cut into tiles, and an image that is mostly unlabelled counts for little.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.config import IGNORED
from edge_runtime.forward import ForwardPass
from edge_runtime.masks import class_counts
from edge_runtime.program import Workspace

Array = np.ndarray[Any, Any]


class TokenLoss:
    """Loss of one tile, and its gradient into `dlogits` (K, T); prefix tokens have none.

    The target of a token is the class of its label, or, where the source has masks, the share of
    each class among the pixels of its patch that have one.
    """

    def __init__(self, forward: ForwardPass, dlogits: Array, source: Any, workspace: Workspace):
        config, images = forward.config, forward.images
        self.config, self.logits, self.dlogits = config, forward.logits, dlogits
        classes, t = dlogits.shape
        self.shape = (images, config.tokens)
        self.source, self.mask_size = source, getattr(source, "mask_size", 0)
        self.mask = workspace.array("loss.mask", (1, self.mask_size, self.mask_size), np.uint8)
        self.labels = workspace.array("loss.labels", self.shape, np.uint8)
        self.known = workspace.array("loss.known", (t,), np.bool_)
        self.targets = workspace.array("loss.targets", (classes, t))
        self.total = workspace.array("loss.total", (t,))
        self.terms = workspace.array("loss.terms", (t,))
        self.rows = workspace.array("loss.rows", (t, classes))

    @property
    def uses(self) -> tuple[Array, ...]:
        """All that `run` touches of the workspace."""
        work = (self.mask, self.labels, self.known, self.targets, self.total, self.terms, self.rows)
        return (self.logits, self.dlogits, *work)

    def run(
        self,
        rows: Array,
        labels: Array,
        smoothing: float,
        labelled: int,
        loss: Array,
        correct: Array,
    ) -> None:
        """A tile's share.

        Args:
            rows: (B,) of the source. labels: (B, patch tokens), IGNORED where there is none.
            labelled: tokens of the whole batch that have a label, by which gradients are divided.
            loss, correct: (B,), to be filled: summed loss, tokens whose best class is their label.
        """
        self.labels.fill(IGNORED)
        self.labels[:, self.config.prefix_tokens :] = labels
        flat, known = self.labels.reshape(-1), self.known
        np.not_equal(flat, IGNORED, out=known)
        np.copyto(self.rows, self.logits.T)
        right = self.rows.argmax(axis=1) == flat
        np.add.reduce(right.reshape(self.shape), 1, dtype=np.int32, out=correct)
        self._set_targets(rows)
        targets, gradient, total, terms = self.targets, self.dlogits, self.total, self.terms
        if smoothing:
            targets *= 1 - smoothing
            targets += smoothing / len(targets)
        work = self.rows.reshape(targets.shape)
        np.maximum.reduce(self.logits, 0, out=total)
        np.subtract(self.logits, total, gradient)
        np.multiply(targets, gradient, work)
        np.add.reduce(work, 0, out=terms)
        np.exp(gradient, gradient)
        np.add.reduce(gradient, 0, out=total)
        np.divide(gradient, total, gradient)
        np.log(total, out=total)
        np.subtract(total, terms, terms)
        np.multiply(terms, known, terms)
        np.add.reduce(terms.reshape(self.shape), 1, out=loss)
        np.subtract(gradient, targets, gradient)
        np.multiply(known, 1.0 / max(1, labelled), total)
        np.multiply(gradient, total, gradient)

    def _set_targets(self, rows: Array) -> None:
        """Shares of the classes; of tokens without a label anything finite."""
        if not self.mask_size:
            for label, target in enumerate(self.targets):
                np.equal(self.labels.reshape(-1), label, out=target, casting="unsafe")
            return
        config = self.config
        side, classes = config.grid_side, config.classes
        by_image = self.targets.reshape(classes, *self.shape)
        self.targets.fill(0.0)
        for position in range(len(rows)):
            self.source.read_masks(rows[position : position + 1], self.mask)
            patches = by_image[:, position, config.prefix_tokens :].reshape(classes, side, side)
            for part, counts in class_counts(self.mask[0], side, classes):
                known = counts[..., :classes]
                sums = np.maximum(known.sum(axis=2, keepdims=True), 1)
                patches[:, part] = (known / sums).transpose(2, 0, 1)
