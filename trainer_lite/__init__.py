"""edgetune's trainer: the adaptor's gradients by hand, in numpy alone.

>>> from trainer_lite import TrainConfig, Trainer
>>> result = Trainer(TrainConfig(epochs=60)).fit(FeatureFolder.open("features"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer_lite.config import TrainConfig as TrainConfig
    from trainer_lite.reports import TrainResult as TrainResult
    from trainer_lite.sweep import Sweep as Sweep
    from trainer_lite.sweep_report import SweepResult as SweepResult
    from trainer_lite.trainer import Trainer as Trainer

_HOMES = {
    "TrainConfig": "trainer_lite.config",
    "Trainer": "trainer_lite.trainer",
    "TrainResult": "trainer_lite.reports",
    "Sweep": "trainer_lite.sweep",
    "SweepResult": "trainer_lite.sweep_report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer_lite' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
