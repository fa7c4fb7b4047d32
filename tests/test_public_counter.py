"""MACs in closed form against PyTorch's own counter of FLOPs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.flops import forward_macs, textbook_forward_macs
from tests.problems import config_of, random_parameters

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokens": 197, "embed_dim": 192, "rank": 8, "blocks": 4, "classes": 10},
        {"tokens": 197, "embed_dim": 768, "rank": 8, "blocks": 4, "classes": 100, "heads": 2},
        {"pool": "cls", "blocks": 1},
        {"kind": "linear"},
    ],
    ids=str,
)
def test_the_textbook_form_is_what_the_counter_counts(changes: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from tests.torch_reference import adaptor_logits, to_torch

    config = config_of(**changes)
    parameters = to_torch(random_parameters(config, np.float32))
    features = torch.randn(3, config.tokens, config.embed_dim)
    with FlopCounterMode(display=False) as counter:
        adaptor_logits(config, parameters, features)
    assert counter.get_total_flops() == 2 * 3 * textbook_forward_macs(config)


def test_without_the_stream_less_is_multiplied() -> None:
    """At ViT-B/16 shapes the wide products are all there is, and the last block's U is not one."""
    config = config_of(tokens=197, embed_dim=768, rank=8, blocks=4, classes=100)
    assert 0.9 < forward_macs(config) / textbook_forward_macs(config) < 1.0
