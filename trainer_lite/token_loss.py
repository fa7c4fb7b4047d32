"""Cross-entropy of every labelled patch token, in a layout of classes x tokens.

The loss of a batch is the mean over its labelled tokens, not over its images: so it does not depend
on how the batch is cut into tiles, and an image that is mostly unlabelled counts for little.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.config import IGNORED
from edge_runtime.forward import ForwardPass
from edge_runtime.program import Workspace

Array = np.ndarray[Any, Any]


class TokenLoss:
    """Loss of one tile, and its gradient into `dlogits` (K, T); prefix tokens have none."""

    def __init__(self, forward: ForwardPass, dlogits: Array, workspace: Workspace):
        config, images = forward.config, forward.images
        self.config, self.logits, self.dlogits = config, forward.logits, dlogits
        classes, t = dlogits.shape
        self.shape = (images, config.tokens)
        self.targets = workspace.array("loss.targets", (t,), np.intp)
        self.known = workspace.array("loss.known", (t,), np.bool_)
        self.total = workspace.array("loss.total", (t,))
        self.terms = workspace.array("loss.terms", (t,))
        self.rows = workspace.array("loss.rows", (t, classes))
        self.positions = workspace.array("loss.positions", (t,), np.intp)

    @property
    def uses(self) -> tuple[Array, ...]:
        """All that `run` touches of the workspace."""
        work = (self.targets, self.known, self.total, self.terms, self.rows, self.positions)
        return (self.logits, self.dlogits, *work)

    def run(
        self, labels: Array, smoothing: float, labelled: int, loss: Array, correct: Array
    ) -> None:
        """A tile's share.

        Args:
            labels: (B, patch tokens), IGNORED where there is none.
            labelled: tokens of the whole batch that have a label, by which gradients are divided.
            loss, correct: (B,), to be filled: summed loss, tokens whose best class is theirs.
        """
        self._set_targets(labels)
        gradient, total, terms, known = self.dlogits, self.total, self.terms, self.known
        picked = (self.targets, self.positions)
        np.copyto(self.rows, self.logits.T)
        right = np.logical_and(self.rows.argmax(axis=1) == self.targets, known)
        np.add.reduce(right.reshape(self.shape), 1, dtype=np.int32, out=correct)
        np.maximum.reduce(self.logits, 0, out=total)
        np.subtract(self.logits, total, gradient)
        np.multiply(gradient[picked], smoothing - 1, terms)
        if smoothing:
            np.add.reduce(gradient, 0, out=total)
            total *= smoothing / len(gradient)
            terms -= total
        np.exp(gradient, gradient)
        np.add.reduce(gradient, 0, out=total)
        terms += np.log(total)
        terms *= known
        np.add.reduce(terms.reshape(self.shape), 1, out=loss)
        share = 1.0 / max(1, labelled)
        np.divide(share, total, total)
        total *= known
        np.multiply(gradient, total, gradient)
        np.multiply(known, share, terms)
        if smoothing:
            np.multiply(terms, smoothing / len(gradient), total)
            gradient -= total
        terms *= 1 - smoothing
        gradient[picked] -= terms

    def _set_targets(self, labels: Array) -> None:
        """The class of each token, 0 where `known` is false, and where the token stands."""
        self.positions.fill(1)
        np.add.accumulate(self.positions, out=self.positions)
        self.positions -= 1
        targets = self.targets.reshape(self.shape)
        targets.fill(IGNORED)
        targets[:, self.config.prefix_tokens :] = labels
        np.not_equal(self.targets, IGNORED, out=self.known)
        np.multiply(self.targets, self.known, out=self.targets)
