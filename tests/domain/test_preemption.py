"""Interrupted operations come to the same as those that run through: any pattern of preemption, each call a step on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import assert_every_frame_is_accounted_for, snapshot
from twofold.domain import DomainOptions, Extents, Machine, Mem, Reason, build
from twofold.errors import AddressError, DomainError

PATTERNS = st.lists(st.booleans(), min_size=1, max_size=8)
OPTIONS = DomainOptions(layout="flat", table_pool=60)


def asker(pattern):
    """Return a `preempt` that answers by a pattern, over and over."""
    asked = 0

    def preempt() -> bool:
        nonlocal asked
        asked += 1
        return pattern[asked % len(pattern)]

    return preempt


def in_parts(operation, asked: int, pattern) -> Extents:
    """Call an operation until it is no longer preempted; each call does at least one extent."""
    preempt, start = asker(pattern), 0
    while True:
        answer = operation(start=start, preempt=preempt)
        assert answer.asked == asked
        if answer.reason is not Reason.PREEMPTED:
            return answer
        assert start < answer.done < asked
        start = answer.done


FIRSTS = st.sampled_from([0, 300, 512, 700])
GFNS = st.one_of(
    st.builds(lambda first, count: range(first, first + count), FIRSTS, st.integers(1, 1500)),
    st.lists(st.integers(0, 3000), min_size=1, max_size=60, unique=True),
)
POPULATES = {
    "4K": (GFNS, 0, Mem.NONE),
    "2M": (st.lists(st.sampled_from(range(0, 8 * 512, 512)), min_size=1, max_size=8, unique=True), 9, Mem.NONE),
    "2M falling back": (st.just(range(0, 6 * 512, 512)), 9, Mem.FALLBACK),
    "64K misaligned, falling back": (st.just(range(5, 5 + 16 * 40, 16)), 4, Mem.FALLBACK),
    "exact 2M": (st.just(range(512, 5 * 512, 512)), 9, Mem.EXACT),
    "runs found in 4K": (GFNS, 0, Mem.COALESCE),
    "runs found in 64K": (st.just(range(480, 2600, 16)), 4, Mem.COALESCE),
    "runs found in 64K, misaligned": (st.just(range(5, 1500, 16)), 4, Mem.COALESCE),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", POPULATES)
@given(data=st.data(), pattern=PATTERNS, drained=st.integers(0, 26), pool=st.sampled_from([5, 7, 60]))
def test_a_preempted_populate_ends_in_the_same_state(name, data, pattern, drained, pool):
    strategy, order, flags = POPULATES[name]
    gfns, ends = data.draw(strategy), []
    for parts in (None, pattern):
        with Machine("64MiB") as machine:
            machine.heap.alloc_runs(9, drained)
            domain = machine.create_domain("8MiB", options=DomainOptions(layout="flat", table_pool=pool))

            def populate(domain=domain, **how):
                return domain.memory.populate_physmap(gfns, order, flags, **how)

            answer = populate() if parts is None else in_parts(populate, len(gfns), parts)
            ends.append((answer, snapshot(domain), list(domain.p2m.exact)))
            assert domain.p2m.audit().clean
    assert ends[0] == ends[1]


@pytest.mark.parametrize("flags", [Mem.NONE, Mem.COALESCE, Mem.FALLBACK])
def test_a_preempted_populate_as_xen_does_it_has_the_same_leaves_and_counts(flags):
    ends = []
    for pattern in (None, [True], [False, True, True]):
        with Machine("64MiB", behaviour="xen-4.17") as machine:
            domain = machine.create_domain("8MiB", options=OPTIONS)

            def populate(domain=domain, **how):
                return domain.memory.populate_physmap(range(0, 4 * 512, 512), 9, flags, **how)

            answer = populate() if pattern is None else in_parts(populate, 4, pattern)
            leaves = domain.p2m.leaf_array()[["gfn", "order", "type"]].tolist()
            ends.append((answer, leaves, domain.p2m.tables, machine.heap.free_blocks()))
    assert ends[0] == ends[1] == ends[2]


def test_preemption_never_cuts_a_run_that_is_made_large():
    with Machine("64MiB") as machine:
        domain = machine.create_domain("8MiB", options=OPTIONS)
        start, steps = 0, []
        while True:
            gfns = range(510, 510 + 2 * 512 + 4)
            answer = domain.memory.populate_physmap(gfns, 0, Mem.COALESCE, start=start, preempt=lambda: True)
            steps.append(answer.done - start)
            start = answer.done
            if answer.reason is not Reason.PREEMPTED:
                break
        assert steps == [1, 1, 512, 512, 1, 1]
        assert domain.p2m.leaves()[9] == 2


@given(pattern=PATTERNS, order=st.sampled_from([0, 3, 9]), count=st.integers(1, 40), quota=st.sampled_from([None, 300]))
def test_a_preempted_increase_and_decrease_end_in_the_same_state(pattern, order, count, quota):
    ends = []
    gfns = range(0, min(count << order, 2048), 1 << order)
    for parts in (None, pattern):
        with Machine("16MiB") as machine:
            options = DomainOptions(layout="flat", table_pool=20, max_pages=quota and 2048 + quota)
            domain = machine.create_domain("8MiB", options=options)
            build(domain, "opportunistic")
            holes = domain.memory.remove_from_physmap(1000)
            answers = []
            for asked, operation in (
                (count, lambda d=domain, **how: d.memory.increase_reservation(count, order, **how)),
                (len(gfns), lambda d=domain, **how: d.memory.decrease_reservation(gfns, order, **how)),
            ):
                answers.append(operation() if parts is None else in_parts(operation, asked, parts))
            assert domain.p2m.audit().clean
            assert_every_frame_is_accounted_for(machine)
            ends.append((holes, answers, snapshot(domain)))
    assert ends[0] == ends[1]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("ins", "in_order", "outs", "out_order"),
    [
        (range(0, 2048, 512), 9, range(0, 2048, 512), 9),
        (range(0, 2048, 512), 9, range(0x4000, 0x4800), 0),
        (range(2048), 0, range(0x4000, 0x4800, 512), 9),
        (range(0, 64, 2), 1, range(64), 0),
    ],
)
@given(pattern=PATTERNS)
def test_a_preempted_exchange_ends_in_the_same_leaves(ins, in_order, outs, out_order, pattern):
    ends = []
    for parts in (None, pattern):
        with Machine("32MiB") as machine:
            domain = machine.create_domain("8MiB", options=OPTIONS)
            build(domain, "opportunistic")

            def exchange(domain=domain, **how):
                return domain.memory.exchange(ins, in_order, outs, out_order, **how)

            answer = exchange() if parts is None else in_parts(exchange, len(outs), parts)
            assert answer.complete
            ends.append(snapshot(domain))
    assert ends[0] == ends[1]


@pytest.mark.medium
@given(pattern=PATTERNS, gfn=st.sampled_from([0x80, 0x100, 0x120, 0x140, 0x3F0, 0x8000]))
def test_a_preempted_range_and_batch_end_in_the_same_state(pattern, gfn):
    ends = []
    for parts in (None, pattern):
        with Machine("16MiB") as machine:
            domain = machine.create_domain("8MiB", options=OPTIONS)
            build(domain, "opportunistic")

            def move(domain=domain, **how):
                return domain.memory.add_to_physmap_range(0x100, gfn, 0x30, **how)

            answer = move() if parts is None else in_parts(move, 0x30, parts)
            reasons: list[Reason] = []
            preempt = asker(parts) if parts else None
            while len(reasons) < 70:
                more = domain.memory.add_to_physmap_batch(
                    "grant_table", range(70), range(0x600, 0x646), start=len(reasons), preempt=preempt
                )
                assert more
                reasons += more
            assert reasons == [Reason.NONE] * 64 + [Reason.BAD_INDEX] * 6
            assert domain.p2m.audit().clean
            ends.append((answer, snapshot(domain)))
    assert ends[0] == ends[1]


def test_a_start_that_no_call_can_have_stopped_at_is_an_error():
    with Machine("16MiB") as machine:
        memory = machine.create_domain("8MiB", options=OPTIONS).memory
        for start in (-1, 3):
            for operation in (
                lambda start=start: memory.populate_physmap([0, 1], 0, start=start),
                lambda start=start: memory.decrease_reservation([0, 1], 0, start=start),
                lambda start=start: memory.increase_reservation(2, 0, start=start),
                lambda start=start: memory.exchange([0, 1], 0, [0, 1], 0, start=start),
                lambda start=start: memory.add_to_physmap_range(0, 5, 2, start=start),
                lambda start=start: memory.add_to_physmap_batch("gmfn", [0, 1], [5, 6], start=start),
            ):
                with pytest.raises(AddressError, match="start"):
                    operation()
        assert memory.exchange([0], 1, [0, 1], 0, start=1).reason is Reason.UNEQUAL, "in the middle of a chunk"


# -- destruction --------------------------------------------------------------------------------------------------


def crowded(machine):
    """Return a domain that holds some of everything."""
    domain, other = (machine.create_domain("16MiB", options=OPTIONS) for _ in range(2))
    build(domain, "opportunistic")
    build(other, "small")
    domain.memory.increase_reservation(3, 4)
    domain.memory.add_to_physmap("shared_info", 0, 0x10)
    domain.memory.add_to_physmap_batch("grant_table", range(5), range(0x9000, 0x9005))
    domain.memory.add_to_physmap_batch("gmfn_foreign", range(9), range(0xA000, 0xA009), foreign=other.domid)
    other.memory.add_to_physmap("gmfn_foreign", 0x345, 0x8000, foreign=domain.domid)
    domain.p2m.set_entry(0xB000, domain.p2m.get_entry(0x777).mfn, 0)  # one frame, two gfns
    assert domain.p2m.linear.exists
    assert domain.memory.claim(domain.memory.owned_frames + 10).complete
    return domain, other


@given(pattern=PATTERNS)
def test_a_preempted_destruction_ends_as_one_that_runs_through(pattern):
    ends = []
    for parts in (None, pattern):
        with Machine("128MiB") as machine:
            domain, other = crowded(machine)
            if parts is None:
                assert domain.destroy() is True
            else:
                preempt = asker(parts)
                while not domain.destroy(preempt):
                    assert_every_frame_is_accounted_for(machine)
                    assert other.p2m.audit().clean
            assert list(machine.domains.values()) == [other]
            assert not machine.ledger.claims
            assert_every_frame_is_accounted_for(machine)
            ends.append(snapshot(other))
            other.destroy()
            assert machine.heap.blocks() == [(0, 15)]
            assert not machine.frame_table.owner.any()
            assert not machine.m2p.complement.any()
    assert ends[0] == ends[1]


def test_each_step_of_a_destruction_is_bounded():
    with Machine("64MiB") as machine:
        domain = machine.create_domain("32MiB", options=DomainOptions(layout="flat"))
        build(domain, "small")
        free, steps = [machine.heap.free_frames], 0
        while not domain.destroy(lambda: True):
            free.append(machine.heap.free_frames)
            steps += 1
        assert steps > 15
        assert int(np.diff(free).max()) <= 1024


def test_a_dying_domain_gets_nothing_and_stays_dying():
    with Machine("64MiB") as machine:
        domain = machine.create_domain("16MiB", options=OPTIONS)
        build(domain, "opportunistic")
        assert domain.destroy(lambda: True) is False
        assert domain.is_dying
        memory, owned = domain.memory, domain.memory.owned_frames
        for answer in (
            memory.populate_physmap([0x8000], 0),
            memory.decrease_reservation([0], 0),
            memory.increase_reservation(1, 0),
            memory.exchange([0x800], 0, [0x800], 0),
            memory.add_to_physmap("shared_info", 0, 0x8000),
            memory.add_to_physmap_range(0x800, 0x900, 1),
            memory.remove_from_physmap(0x800),
            memory.claim(1 << 13),
        ):
            assert (answer.done, answer.reason) == (0, Reason.DYING)
        assert memory.owned_frames == owned
        assert domain.pool.free == 0, "nor any table"
        with pytest.raises(DomainError, match="being destroyed"):
            domain.check_runnable()
        assert domain.destroy() is True
        assert domain.destroy() is True, "once more does nothing"
        assert machine.heap.blocks() == [(0, 14)]


# -- pausing ------------------------------------------------------------------------------------------------------


def test_a_domain_runs_when_everybody_who_paused_it_is_done():
    with Machine("16MiB") as machine:
        domain = machine.create_domain("8MiB", options=OPTIONS)
        domain.check_runnable()
        domain.pause()
        domain.pause()
        with pytest.raises(DomainError, match="paused 2 times") as caught:
            domain.check_runnable()
        assert caught.value.domid == domain.domid
        domain.unpause()
        assert domain.is_paused
        domain.unpause()
        assert not domain.is_paused
        domain.check_runnable()
        with pytest.raises(DomainError, match="is not paused"):
            domain.unpause()
