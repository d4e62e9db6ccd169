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
    assert all(row.leaves_4k >= 512 for row in outcome.rows), "the exact range is in 4K pages everywhere"
    cells = {cell[3]: outcome.spread(cell, "large_share") for cell in outcome.cells()}
    assert cells["small"] == (0, 0, 0)
    assert 0 < cells["toolstack"][1] < 1, "fragmented enough to matter"


def test_a_design_of_ones_own_builds_a_guest(capsys):
    runpy.run_path(str(EXAMPLES / "own_design.py"), run_name="__main__")
    small, middle, toolstack = capsys.readouterr().out.splitlines()
    assert small.startswith("small ")
    assert "0.0% large" in small
    assert middle.startswith("middle ")
    assert "18: 0}" in middle
    assert "18: 1}" in toolstack
