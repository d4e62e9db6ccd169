"""Cells: a row is a function of its cell, in any order, alone or among others; and a cell's digest is of all of it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.errors import FreeMapError
from twofold.freemaps import FreeMap
from twofold.mmu import load_profile
from twofold.study import Cell, Row, Scenario, cells_of, compare, make_scenario, run_cell
from twofold.study.bench import Bench
from twofold.study.cells import CellTrace

FIELDS = {
    "host": {"size": "1GiB", "free": 0.9, "fragmentation": 0.4},
    "guest": {"memory": "64MiB", "exact": [{"start": "2MiB", "size": "2MiB", "page_size": "4K"}]},
    "modes": [{}, {"host_paging": "pae"}, {"table_format": "ept", "guest_mode": "2-level"}],
    "behaviours": ["twofold", "xen-4.17"],
    "designs": ["opportunistic", "small"],
    "workloads": ["gups", "stream"],
    "accesses": 400,
    "executed": 10,
    "repeat": 2,
}


@pytest.fixture(scope="module")
def scenario():
    return make_scenario(FIELDS)


@pytest.fixture(scope="module")
def cells(scenario):
    return cells_of(scenario)


@pytest.fixture(scope="module")
def outcome(scenario):
    return compare(scenario)


@pytest.mark.medium
def test_there_is_one_cell_a_row_in_the_same_order(cells, outcome):
    assert [cell.key for cell in cells] == [row.cell for row in outcome.rows]
    assert [cell.digest for cell in cells] == [row.cell_digest for row in outcome.rows]
    assert len({cell.digest for cell in cells}) == len(cells) == 2 * 2 * 2 * 2 * (3 + 2 + 2)
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.medium
@settings(max_examples=8)
@given(data=st.data())
def test_a_cell_alone_gives_the_row_that_it_gives_among_others(data, scenario, cells, outcome):
    place = data.draw(st.integers(0, len(cells) - 1))
    assert run_cell(scenario, cells[place]) == outcome.rows[place]


@pytest.mark.medium
@settings(max_examples=2)
@given(seed=st.integers(0, 99))
def test_permuting_cells_changes_no_row(seed, scenario, cells, outcome):
    places = np.random.default_rng(seed).permutation(len(cells))[:8].tolist()
    with Bench(scenario) as bench:
        bench.expect(cells[place] for place in places)
        for place in places:
            assert run_cell(scenario, cells[place], bench=bench) == outcome.rows[place]


@pytest.mark.medium
def test_a_cell_that_went_through_json_is_the_same(scenario, cells, outcome):
    for place in (0, 50, len(cells) - 1):
        cell = Cell.model_validate_json(cells[place].model_dump_json())
        assert cell == cells[place]
        assert cell.digest == cells[place].digest
    assert run_cell(scenario, cell) == outcome.rows[-1]


def test_a_scenario_that_went_through_json_means_the_same(scenario, cells):
    again = Scenario.model_validate_json(scenario.model_dump_json())
    assert again == scenario
    assert cells_of(again) == cells


@pytest.mark.medium
def test_a_row_that_went_through_a_dict_is_the_same(outcome):
    assert all(Row.from_dict(row.as_dict()) == row for row in outcome.rows)


def test_a_digest_is_the_same_on_every_machine():
    """One cell, pinned: what it depends on is written the same everywhere, and by later versions."""
    fixed = {"host": {"size": "1GiB"}, "guest": {"memory": "64MiB"}, "cpus": ["none"], "repeat": 1}
    assert cells_of(make_scenario(fixed))[0].digest == PINNED


PINNED = "55ee7a59ec09723af5a7bd451c347b07d911a700de12271d1ef2f0dc155b2ca6"

CHANGES = [
    {"seed": 9},
    {"cpu": load_profile("zen2")},
    {"workload": "chase"},
    {"guest_pages": "1G"},
    {"behaviour": "xen-4.17"},
    {"design": "toolstack"},
    {"accesses": 401},
    {"warmup": 7},
    {"executed": 11},
    {"workload_seed": 4},
    {"base": None},
    {"free_map": "0" * 64},
    {"machine_bytes": 1 << 31},
    {"trace": CellTrace("0" * 64, "contiguous")},
]


def test_a_digest_changes_with_every_field(cells):
    cell = cells[0]
    others = [cell.model_copy(update=change) for change in CHANGES]
    others += [
        cell.model_copy(update={"guest": cell.guest.model_copy(update=change)})
        for change in ({"memory": "1"}, {"layout": "flat"}, {"table_pool": 99}, {"footprint": "65536"}, {"exact": ()})
    ]
    others += [cell.model_copy(update={"mode": other.mode}) for other in cells if other.mode != cell.mode]
    others.append(
        cell.model_copy(update={"cpu": replace(cell.cpu, random_seed=replace(cell.cpu.random_seed, value=2))})
    )
    assert {name for change in CHANGES for name in change} | {"mode", "guest"} == set(Cell.model_fields)
    digests = {each.digest for each in others}
    assert cell.digest not in digests
    assert len(digests) == len(CHANGES) + 5 + 2 + 1


def test_a_cell_does_not_depend_on_what_else_is_compared(cells):
    few = make_scenario(FIELDS | {"workloads": ["stream"], "designs": ["small"], "repeat": 1, "modes": [{}]})
    assert {cell.digest for cell in cells_of(few)} < {cell.digest for cell in cells}


def test_a_cpu_is_the_same_by_name_by_path_and_whole(tmp_path):
    profile = load_profile("zen2")
    path = tmp_path / "mine.toml"
    path.write_text(_shipped("zen2"))
    whole = Scenario(cpus=(profile,)).model_dump(mode="json")["cpus"][0]
    scenarios = [make_scenario(FIELDS | {"cpus": [cpu]}) for cpu in ("zen2", str(path), whole, profile)]
    path.write_text("")
    assert all(scenario == scenarios[0] for scenario in scenarios), "what the path leads to later does not matter"
    assert str(tmp_path) not in scenarios[1].model_dump_json()


def _shipped(name):
    from importlib import resources

    return (resources.files("twofold") / "data" / "cpus" / f"{name}.toml").read_text()


def test_a_host_that_has_changed_is_refused(scenario, cells):
    other = FreeMap.synthetic("1GiB", seed=77)
    with pytest.raises(FreeMapError, match="not the free memory that the cell is about"):
        run_cell(scenario, cells[0], free=other)
