"""Several adaptors on the same features: those in numpy share one reading and one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.adaptor import Adaptor, softmax_rows
from edge_runtime.classifier import Classifier
from edge_runtime.predictor import Predictor, check_shape
from edge_runtime.program import Workspace
from edge_runtime.sources import ArrayFeatures, FeatureSource

Array = np.ndarray[Any, Any]


class Together:
    """Adaptors of one backbone, asked at once; graphs among them are each run by themselves."""

    def __init__(self, adaptors: Sequence[Classifier]):
        self.adaptors = list(adaptors)
        self._shared = [a for a in self.adaptors if isinstance(a, Adaptor)]
        self._predictor: Predictor | None = None

    def predict(self, features: Array | FeatureSource) -> list[Array]:
        """Of each adaptor, in the order in which they were given: probabilities (rows, classes), or
        where every patch token has a class of its own, logits (rows, classes, side, side).

        Args:
            features: (rows, tokens, dim) in true units, or a source.

        Raises:
            MismatchError: features of another shape than an adaptor's.
            DataError: a logit is not finite.
        """
        source = ArrayFeatures(features) if isinstance(features, np.ndarray) else features
        if len(self._shared) == 1:
            shared = iter([self._shared[0].predict_logits(source)])
        else:
            shared = iter(self._ready(source).all_logits(source) if self._shared else ())
        return [
            self._answer(adaptor, next(shared))
            if isinstance(adaptor, Adaptor)
            else adaptor.predict_proba(source)
            for adaptor in self.adaptors
        ]

    @staticmethod
    def _answer(adaptor: Adaptor, logits: Array) -> Array:
        return logits if adaptor.config.dense else softmax_rows(logits)

    def _ready(self, source: FeatureSource) -> Predictor:
        if self._predictor is None:
            for adaptor in self._shared:
                check_shape(adaptor.config, source)
            workspace = Workspace(np.float32)
            first, *others = self._shared
            self._predictor = Predictor(
                first.fused(workspace),
                workspace,
                others=[adaptor.fused(Workspace(np.float32)) for adaptor in others],
            )
        return self._predictor
