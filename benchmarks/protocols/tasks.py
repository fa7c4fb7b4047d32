"""VTAB-1k (arXiv 1910.04867): its nineteen tasks, and what papers report of them.

A folder is named as in the widespread copies of VTAB-1k, which hold for each task train800.txt,
val200.txt, train800val200.txt, test.txt and the images these list.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

GROUPS = ("natural", "specialized", "structured")


@dataclass(frozen=True)
class Task:
    """One of the nineteen. `torchvision` names a dataset class, where there is one."""

    name: str
    group: str
    classes: int
    torchvision: str = ""


TASKS = [
    Task("cifar", "natural", 100, "CIFAR100"),
    Task("caltech101", "natural", 102),
    Task("dtd", "natural", 47, "DTD"),
    Task("oxford_flowers102", "natural", 102, "Flowers102"),
    Task("oxford_iiit_pet", "natural", 37, "OxfordIIITPet"),
    Task("svhn", "natural", 10, "SVHN"),
    Task("sun397", "natural", 397),
    Task("patch_camelyon", "specialized", 2, "PCAM"),
    Task("eurosat", "specialized", 10, "EuroSAT"),
    Task("resisc45", "specialized", 45),
    Task("diabetic_retinopathy", "specialized", 5),
    Task("clevr_count", "structured", 8, "CLEVRClassification"),
    Task("clevr_dist", "structured", 6),
    Task("dmlab", "structured", 6),
    Task("kitti", "structured", 4),
    Task("dsprites_loc", "structured", 16),
    Task("dsprites_ori", "structured", 16),
    Task("smallnorb_azi", "structured", 18),
    Task("smallnorb_ele", "structured", 9),
]
BY_NAME = {task.name: task for task in TASKS}

# Mean over the three groups' means, ViT-B/16 of ImageNet-21k, per cent, as MIST (arXiv 2406.17559)
# lists them; papers that give the mean over the nineteen tasks cannot be set beside these.
PUBLISHED = {"linear probe": 57.64, "LST": 74.25, "LAST": 76.44, "MIST": 76.7}
SOURCES = {
    "linear probe": "arXiv 2203.12119",
    "LST": "arXiv 2206.06522, run by 2406.17559",
    "LAST": "arXiv 2402.04009",
    "MIST": "arXiv 2406.17559",
}


@dataclass(frozen=True)
class Means:
    """Accuracies over tasks. The means over all are None until every task has been run."""

    groups: Mapping[str, float | None]
    of_groups: float | None
    of_tasks: float | None


def means(accuracies: Mapping[str, float]) -> Means:
    """Each group's mean, the mean of these three, and the plain mean over the nineteen tasks."""
    groups: dict[str, float | None] = {}
    for group in GROUPS:
        names = [task.name for task in TASKS if task.group == group]
        whole = all(name in accuracies for name in names)
        groups[group] = statistics.mean(accuracies[name] for name in names) if whole else None
    found = [mean for mean in groups.values() if mean is not None]
    if len(found) < len(GROUPS):
        return Means(groups, None, None)
    plain = statistics.mean(accuracies[task.name] for task in TASKS)
    return Means(groups, statistics.mean(found), plain)
