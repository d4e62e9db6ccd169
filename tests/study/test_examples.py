"""The examples do what they say."""

import runpy
from pathlib import Path

import pytest

from twofold.study import compare, load_scenario, make_scenario

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.medium
def test_a_scenario_file_describes_a_comparison():
    path = EXAMPLES / "compare.toml"
    scenario = make_scenario(load_scenario(path), path)
    outcome = compare(scenario.model_copy(update={"accesses": 2000, "executed": 20}))
    assert len(outcome.rows) == 3 * 3 * 2 * 2
    assert all(row.leaves[0] >= 512 for row in outcome.rows), "the exact range is in 4K pages everywhere"
    cells = {cell[3]: outcome.spread(cell, "large_share") for cell in outcome.cells()}
    assert cells["small"] == (0, 0, 0)
    assert 0 < cells["toolstack"][1] < 1, "fragmented enough to matter"


@pytest.mark.medium
def test_the_threads_table_has_the_large_pages_of_each_of_its_modes():
    path = EXAMPLES / "thread-2007.toml"
    scenario = make_scenario(load_scenario(path), path)
    assert scenario.designs == ("small", "toolstack", "opportunistic")
    outcome = compare(scenario.model_copy(update={"accesses": 2000, "executed": 20}))
    large = {row.mode: {order for order in row.leaves if order and row.leaves[order]} for row in outcome.rows}
    assert large == {"2-level": {10}, "pae": {9}, "4-level 4K,2M": {9}, "4-level": {9, 18}}
    assert {row.guest_mode for row in outcome.rows} == {"2-level", "pae", "4-level"}
    assert outcome.host.machine_bytes <= 4 << 30, "what a 32-bit hypervisor of the time could have"


@pytest.mark.medium
def test_a_design_of_ones_own_builds_a_guest(capsys):
    runpy.run_path(str(EXAMPLES / "own_design.py"), run_name="__main__")
    small, middle, toolstack = capsys.readouterr().out.splitlines()
    assert small.startswith("small ")
    assert "0.0% large" in small
    assert middle.startswith("middle ")
    assert "18: 0}" in middle
    assert "18: 1}" in toolstack
