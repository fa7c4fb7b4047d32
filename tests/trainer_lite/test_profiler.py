"""Profiles: every operation named and costed, their sums what the plan and closed forms say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.features import FeatureFolder
from edge_runtime.flops import forward_macs
from edge_runtime.program import Program, Workspace
from tests.feature_folders import write_features
from tests.problems import config_of
from trainer_lite.clocks import Names, Timed, describe, measure
from trainer_lite.config import TrainConfig
from trainer_lite.data import prepare
from trainer_lite.parameters import ParameterSet
from trainer_lite.profile_page import page
from trainer_lite.profile_table import as_object, as_table
from trainer_lite.profiler import Profile, profile

RATES = {
    "square_flops": 1e10,
    "cache_bytes": 1e10,
    "memory_bytes": 5e9,
    "exp_entries": 1e8,
    "storage_bytes": 1e8,
}


def profiled(tmp_path: Path, **options: Any) -> Profile:
    folder = write_features(tmp_path / "features", tokens=9, embed_dim=16, classes=4).path
    config = TrainConfig(batch_size=7, rank=4, **options)
    data = prepare(config, FeatureFolder.open(folder))
    return profile(data.adaptor, config, data.source, 3)


@pytest.mark.parametrize(
    "options",
    [{}, {"heads": 2, "drop_path": 0.2}, {"pool": "cls", "blocks": 1}, {"kind": "linear"}],
    ids=str,
)
def test_operations_add_up_to_the_plan_and_to_the_closed_form(tmp_path: Path, options: Any) -> None:
    found = profiled(tmp_path, **options)
    assert sum(m.cost.macs for m in found.training.operations) == found.plan.macs
    macs = sum(m.cost.macs for m in found.inference.operations)
    refresh_is_not_in_it = forward_macs(found.config)
    assert macs == refresh_is_not_in_it
    phases = {m.operation.section.split(":")[0] for m in found.training.operations}
    assert {"input", "forward", "loss", "backward", "gradients", "optimiser"} <= phases


def test_tiles_of_all_sizes_count(tmp_path: Path) -> None:
    found = profiled(tmp_path)
    assert found.tile == 7
    folder = write_features(tmp_path / "wide", tokens=197, embed_dim=16, classes=2).path
    config = TrainConfig(batch_size=7, rank=4)
    data = prepare(config, FeatureFolder.open(folder))
    cut = profile(data.adaptor, config, data.source, 2)
    reads = [m for m in cut.training.operations if m.operation.name.startswith("read")]
    assert cut.tile == 2
    assert [m.runs for m in reads] == [4]  # 2 + 2 + 2 + 1
    assert sum(m.cost.macs for m in cut.training.operations) == pytest.approx(
        cut.plan.macs, rel=0.01
    )


def test_every_operation_has_a_section_a_name_and_bytes(tmp_path: Path) -> None:
    found = profiled(tmp_path, drop_path=0.1)
    for stage in (found.training, found.inference):
        for measured in stage.operations:
            assert ": " in measured.operation.section
            assert " -> " in measured.operation.name, measured.operation
            assert measured.cost.bytes > 0
            assert measured.runs > 0


def test_the_clock_counts_calls_and_leaves_results_alone() -> None:
    total = np.zeros(3)
    program = Program()
    program.section("forward: add")
    program.emit(np.add, total, 1.0, total)
    names = Names(ParameterSet(config_of()), Workspace())
    described = describe(program, names)
    found, seconds = measure([[(program, described)]], program.run, 4)
    assert total.tolist() == [6.0, 6.0, 6.0]  # two warm-ups, four measured
    assert found[0].runs == 1 and found[0].seconds >= 0
    assert seconds < 1
    clock = Timed(lambda x: None)
    clock(1)
    clock(2)
    assert clock.runs == 2


def test_kinds_leave_out_which_block_it_is(tmp_path: Path) -> None:
    found = profiled(tmp_path, blocks=3)
    kinds = {m.operation.kind for m in found.training.operations}
    assert "forward matmul -> block.scores" in kinds
    assert not any("block1" in kind for kind in kinds)


def test_object_table_and_page_tell_the_same(tmp_path: Path) -> None:
    found = profiled(tmp_path)
    content = as_object(found, RATES)
    assert content["training"]["macs"] == found.plan.macs
    assert content["macs"]["forward_image"] == forward_macs(found.config)
    assert len(content["arena"]["operations"]) >= len(content["training"]["operations"]) - 1
    table = as_table(content)
    assert "backward: blocks, attention" in table
    assert "between operations" in table
    html = page(content)
    start = html.index("const profile = ") + len("const profile = ")
    embedded = json.loads(html[start : html.index(";\n", start)])
    assert embedded == json.loads(json.dumps(content))
    assert "http" not in html.replace("http-equiv", "")


def test_a_page_cannot_be_ended_by_a_name_in_it(tmp_path: Path) -> None:
    content = as_object(profiled(tmp_path), RATES)
    content["config"]["kind"] = "</script><script>alert(1)"
    assert "<script>alert" not in page(content)
