"""Splitting and merging all goes by the tables that exist, whatever the range is."""

import pytest

from twofold.domain import DomainOptions, Machine
from twofold.p2m import P2MType


@pytest.fixture(params=["4-level", "5-level", "pae", "2-level"])
def p2m(request):
    with Machine("1GiB", paging=request.param) as machine:
        yield machine.create_domain("4MiB", options=DomainOptions(layout="flat", table_pool=64)).p2m


def test_one_page_at_the_top_is_one_step(p2m):
    limit, told = p2m.geometry.frame_limit, []
    p2m.set_entry(limit - 1, 5, 0)
    assert p2m.merge_all(range(limit), progress=lambda *far: told.append(far)) == 0
    p2m.split_all(range(limit), 0, progress=lambda *far: told.append(far))
    assert told[-1] == (limit, limit)
    assert len(told) <= 2 * 4, "a step for each GiB where something is; two levels and PAE have four at most"


def test_an_empty_range_of_any_length_is_told_as_done(p2m):
    told = []
    assert p2m.merge_all(range(p2m.geometry.frame_limit), progress=lambda *far: told.append(far)) == 0
    assert told[-1] == (p2m.geometry.frame_limit,) * 2


def test_what_stands_far_apart_is_all_split_and_merged_and_nothing_beside(p2m):
    order = p2m.geometry.leaf_orders[1]
    last = p2m.geometry.frame_limit - (1 << order)
    places = sorted({0, last // 2 >> order << order, last})
    for number, gfn in enumerate(places):
        p2m.set_entry(gfn, number << order, order)
    before = p2m.leaf_array().tolist()
    p2m.split_all(range(p2m.geometry.frame_limit), 0)
    assert p2m.leaves()[0] == len(places) << order
    assert p2m.merge_all(range(1, p2m.geometry.frame_limit)) == len(places) - 1, "the first is cut by the range"
    assert p2m.merge_all(range(p2m.geometry.frame_limit)) == 1
    assert p2m.leaf_array().tolist() == before


def test_an_entry_that_only_holds_a_place_is_no_table(p2m):
    order = p2m.geometry.leaf_orders[-1]
    p2m.set_entry(p2m.geometry.frame_limit - (1 << order), (1 << 64) - 1, order, P2MType.POPULATE_ON_DEMAND)
    assert p2m.merge_all(range(p2m.geometry.frame_limit)) == 0
    p2m.split_all(range(p2m.geometry.frame_limit), p2m.geometry.leaf_orders[-1])
    assert p2m.audit().clean
