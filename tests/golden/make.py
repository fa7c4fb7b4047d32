"""Writes tests/golden/training.json: what PyTorch float64 gives, for machines without it.

python -m tests.golden.make
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.golden.problem import BATCH, CONFIGS, LABELS, RATE, STEPS, features_of, parameters_of
from tests.torch_reference import adaptor_logits, to_torch

FILE = Path(__file__).with_name("training.json")


def main() -> None:
    """Runs every configuration and writes the file."""
    golden = {}
    for name, config in CONFIGS.items():
        leaves = to_torch(parameters_of(config))
        decayed = [p for n, p in leaves.items() if n in ("blocks.qkv", "blocks.out", "head.weight")]
        rest = [p for p in leaves.values() if all(p is not q for q in decayed)]
        optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
            lr=RATE,
        )
        features, labels = torch.tensor(features_of(config)), torch.tensor(LABELS)
        losses, first = [], {}
        for step in range(STEPS):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                adaptor_logits(config, leaves, features), labels
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
