"""Writes trainer_lite/golden.json: what PyTorch float64 gives, for machines without it.

python -m tests.make_golden
"""

from __future__ import annotations

import json

import torch

from edge_runtime.config import IGNORED, is_matrix
from tests.torch_reference import adaptor_logits, to_torch
from trainer_lite.golden import (
    BATCH,
    CONFIGS,
    FILE,
    RATE,
    STEPS,
    WEIGHT_DECAY,
    features_of,
    labels_of,
    parameters_of,
)


def main() -> None:
    """Runs every configuration and writes the file."""
    golden = {}
    for name, config in CONFIGS.items():
        leaves = to_torch(parameters_of(config))
        decayed = [p for n, p in leaves.items() if is_matrix(n)]
        rest = [p for p in leaves.values() if all(p is not q for q in decayed)]
        optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": WEIGHT_DECAY},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=RATE,
        )
        features = torch.tensor(features_of(config))
        labels = torch.tensor(labels_of(config)).long()
        losses, first = [], {}
        for step in range(STEPS):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                adaptor_logits(config, leaves, features), labels, ignore_index=IGNORED
            )
            loss.backward()
            losses.append(loss.item())
            if step == 0:
                first = {n: [p.grad.sum().item(), p.grad.norm().item()] for n, p in leaves.items()}
            optimiser.step()
        golden[name] = {"losses": losses, "first_gradient_sum_and_norm": first}
    FILE.write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{FILE}: {len(golden)} configurations, batch {BATCH}")


if __name__ == "__main__":
    main()
