"""A range of gfns that moves, over itself too: Twofold loses nothing, and as Xen 4.17 it loses what that loses."""

import errno

import pytest
from test_hypercall import ADD, Toolstack, add

from snapshots import snapshot
from twofold.domain import DomainOptions, Extents, Machine, Reason
from twofold.machine.behaviour import BEHAVIOURS

OPTIONS = DomainOptions(layout="flat", table_pool=40)
FIRST, END = 0x100, 0x120
MOVES = [
    (0x100, 0x102, 6),
    (0x100, 0x101, 31),
    (0x104, 0x106, 2),  # up to where the old range ends: no overlap
    (0x104, 0x105, 2),
    (0x110, 0x10C, 16),
    (0x102, 0x100, 6),
    (0x108, 0x108, 8),
    (0x100, 0x118, 16),
    (0x100, 0x2000, 32),
    (0x108, 0x100, 0),
]


def marked(behaviour: str, holes=()):
    """Return a domain with a page of memory from FIRST to END, its own number in each, but for holes."""
    machine = Machine("64MiB", behaviour=behaviour)
    domain = machine.create_domain("8MiB", options=OPTIONS)
    gfns = [gfn for gfn in range(FIRST, END) if gfn not in holes]
    assert domain.memory.populate_physmap(gfns, 0).complete
    for gfn in gfns:
        domain.write(gfn << 12, gfn.to_bytes(2, "little"))
    return machine, domain


def left(domain) -> dict[int, int]:
    """Return {gfn: the number in its page}."""
    rows = domain.p2m.leaf_array()
    assert (rows["order"] == 0).all()
    gfns = rows["gfn"][rows["present"]].tolist()
    return {gfn: int.from_bytes(domain.read(gfn << 12, 2), "little") for gfn in gfns}


def moved(pages: dict[int, int], index: int, gfn: int, frames: int, *, backwards: bool) -> tuple[dict[int, int], int]:
    """Return the pages after a move, one after the other, and how many were moved before there was none."""
    pages, done = dict(pages), 0
    for step in range(frames - 1, -1, -1) if backwards else range(frames):
        if index + step not in pages:
            break
        pages[gfn + step] = pages.pop(index + step)
        done += 1
    return pages, done


@pytest.mark.parametrize("hole", [None, 0x100, 0x104, 0x105, 0x10F])
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_range_moves_page_by_page_and_a_hole_stops_it(behaviour, hole):
    for index, gfn, frames in MOVES:
        machine, domain = marked(behaviour, (hole,))
        with machine:
            free, owned = machine.heap.free_frames, domain.memory.owned_frames
            backwards = behaviour == "twofold" and gfn > index
            pages, done = moved(left(domain), index, gfn, frames, backwards=backwards)
            answer = domain.memory.add_to_physmap_range(index, gfn, frames)
            assert answer == Extents(done, frames, Reason.NONE if done == frames else Reason.UNPOPULATED)
            assert left(domain) == pages, (hex(index), hex(gfn), frames)
            assert domain.memory.owned_frames == len(pages), "what was overwritten is the domain's no more"
            assert machine.heap.free_frames - free == owned - len(pages)
            assert domain.p2m.audit().clean


def test_a_range_that_moves_over_itself_loses_nothing_but_as_xen_4_17_does_it():
    kept = {}
    for behaviour in BEHAVIOURS:
        machine, domain = marked(behaviour)
        with machine:
            assert domain.memory.add_to_physmap_range(0x100, 0x102, 6).complete
            kept[behaviour] = {gfn: page for gfn, page in left(domain).items() if gfn < 0x108}
    assert kept["twofold"] == {gfn: gfn - 2 for gfn in range(0x102, 0x108)}
    assert kept["xen-4.17"] == {0x106: 0x100, 0x107: 0x101}


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_move_that_is_preempted_anywhere_comes_to_the_same(behaviour):
    for index, gfn, frames in MOVES:
        ends = []
        for stops in (0, 1, 3):
            machine, domain = marked(behaviour)
            with machine:
                start, reason = 0, Reason.PREEMPTED
                while reason is Reason.PREEMPTED:
                    asked = iter(range(1000))
                    preempt = (lambda asked=asked, stops=stops: next(asked) == stops - 1) if stops else None
                    answer = domain.memory.add_to_physmap_range(index, gfn, frames, start=start, preempt=preempt)
                    start, reason = answer.done, answer.reason
                assert answer == Extents(frames, frames, Reason.NONE)
                ends.append((left(domain), machine.digest()))
        assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize(("behaviour", "moved_before"), [("xen-4.17", {0x107: 0x105}), ("twofold", {})])
def test_as_a_hypercall_a_hole_is_einval_and_what_has_moved_stays(behaviour, moved_before):
    machine, domain = marked(behaviour, holes=(0x106, 0x107, 0x108))
    with machine:
        tools = Toolstack(machine)
        assert tools.call(ADD, add(domain.domid, 3, 0x105, 0x107, 3)) == -errno.EINVAL
        here = left(domain)
        assert {gfn: page for gfn, page in here.items() if 0x105 < gfn < 0x109} == moved_before
        assert (0x105 in here) is (not moved_before)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize(
    ("ins", "in_order", "outs", "out_order"),
    [
        (range(0x200, 0x400), 0, [0x300], 9),  # half of the new ones are old ones
        ([0x200], 9, range(0x300, 0x500), 0),
        ([0x200], 9, range(0x201, 0x401), 0),  # all but one
        (range(0x200, 0x208), 0, range(0x207, 0x1FF, -1), 0),  # each alone is a chunk: the first takes the last's
        ([0x200, 0x210], 3, [0x208, 0x218], 3),
    ],
)
def test_an_exchange_whose_new_gfns_are_partly_old_ones_is_refused_and_nothing_changes(
    behaviour, ins, in_order, outs, out_order
):
    with Machine("64MiB", behaviour=behaviour) as machine:
        domain = machine.create_domain("8MiB", options=OPTIONS)
        assert domain.memory.populate_physmap(range(0x200, 0x300 + 0x200), 0).complete
        before = snapshot(domain)
        answer = domain.memory.exchange(ins, in_order, outs, out_order)
        assert (answer.done, answer.reason) == (0, Reason.OCCUPIED)
        assert snapshot(domain) == before


def test_a_rule_that_came_later_is_said_by_the_name_and_changes_no_digest():
    told = (
        "name:{0},keeps_upper_half:{1},zones_by_width:{1},largest_block:{2},spreads_nodes:{1},prefers_size_to_node:{1},"
        "pools_single_frames:{1},aligns_whole_requests:{1},keeps_empty_tables:{1},splits_through_sizes_off:{1},"
        "splits_whole_ept_leaves:{1},removes_frame_by_frame:{1},populates_over_memory:{1},leaves_orphans:{1},"
        "fallback:{3}"
    )
    assert BEHAVIOURS["twofold"].text == told.format("twofold", "False", 20, "memory")
    assert BEHAVIOURS["xen-4.17"].text == told.format("xen-4.17", "True", 18, "builder")
