"""Guests for traces from elsewhere: every address translates, by pages of the size and place that a policy says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.domain import DomainOptions, Machine, build
from twofold.errors import GuestError, NotPresentError, SizeError, UnknownNameError
from twofold.guest import TraceGuest, TracePolicy, canonical
from twofold.guest.foreign import touched_pages
from twofold.study import simulate
from twofold.trace import WORKLOADS

PAGE, SPAN = 4096, 2 << 20
BASE = 0x7F00_0000_0000  # a multiple of 1G
POLICIES = [
    TracePolicy(pages, placement=placement)
    for pages in ("4K", "thp")
    for placement in ("contiguous", "fragmented", "scattered")
]


@pytest.fixture(scope="module")
def machine():
    with Machine("8GiB") as made:
        yield made


@pytest.fixture(scope="module")
def large(machine):
    """A domain of 2M leaves, above a first GiB of one leaf."""
    domain = machine.create_domain("1280MiB", name="large", options=DomainOptions(layout="flat"))
    build(domain, "toolstack")
    return domain


@pytest.fixture(scope="module")
def small(machine):
    domain = machine.create_domain("256MiB", name="small")
    build(domain, "small")
    return domain


@pytest.fixture
def fresh(machine):
    """A domain of one 1G leaf and 2M leaves that a test may split."""
    domain = machine.create_domain("1280MiB", name="fresh", options=DomainOptions(layout="flat"))
    build(domain, "toolstack")
    yield domain
    domain.destroy()


def spread(pages, seed=1):
    """Return addresses on so many pages, far apart and close together, in no order."""
    random = np.random.default_rng(seed)
    near = random.choice(4096, pages // 2, replace=False)
    far = random.choice(1 << 23, pages - pages // 2, replace=False) + (1 << 20)
    numbers = random.permutation(np.concatenate([near, far]))
    return (BASE + numbers * PAGE + random.integers(0, PAGE, pages)).astype(np.uint64)


def place_of(guest, gva):
    """Return (order of the guest's leaf, gfn of the address)."""
    status, steps, maddr = guest.walk(int(gva))
    assert status == 0, hex(int(gva))
    leaf = [step for step in steps if step.guest][-1]
    return {0: 0, 1: 9, 2: 18}[leaf.level], int(guest.domain.machine.m2p[maddr >> 12])


# -- every address translates ------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.pages}-{policy.placement}")
def test_every_address_translates_and_no_two_pages_share_a_frame(large, policy):
    trace = spread(600)
    guest = TraceGuest(large, trace, policy)
    assert simulate(trace, guest).accesses == len(trace)
    places = {int(gva) >> 12: place_of(guest, gva) for gva in trace}
    assert len({gfn for _, gfn in places.values()}) == len(places)
    assert large.p2m.audit().clean


@settings(deadline=None)
@given(
    numbers=st.lists(
        st.integers(0, 3000) | st.integers(0, 2**47 // PAGE - 1) | st.integers(2**52 - 2**35, 2**52 - 1), max_size=30
    ),
    pages=st.sampled_from(["4K", "thp"]),
    threshold=st.integers(1, 4),
    placement=st.sampled_from(["contiguous", "fragmented", "scattered"]),
    seed=st.integers(0, 9),
)
def test_any_canonical_trace_gets_the_leaves_that_its_policy_says(large, numbers, pages, threshold, placement, seed):
    trace = np.array([number * PAGE + 8 for number in numbers], np.uint64)
    guest = TraceGuest(large, trace, TracePolicy(pages, threshold, placement=placement, seed=seed))
    assert simulate(trace, guest, "none").accesses == len(trace)
    touched = {number & (2**36 - 1) for number in numbers}
    spans = {}
    for number in touched:
        spans.setdefault(number >> 9, set()).add(number)
    wide = {span for span, inside in spans.items() if pages == "thp" and len(inside) >= threshold}
    for number in touched:
        gva = number * PAGE
        order, _ = place_of(guest, gva)
        assert order == (9 if number >> 9 in wide else 0)
    narrow = sum(len(inside) for span, inside in spans.items() if span not in wide)
    assert dict(guest.leaves) == ({9: len(wide), 0: narrow} if pages == "thp" else {0: narrow})
    if 0 not in touched and 0 not in wide:
        with pytest.raises(NotPresentError):
            simulate([0], guest)


def test_a_trace_of_a_workload_in_blocks_is_mapped_and_priced(large):
    def trace():
        return WORKLOADS["kv"].blocks(1, BASE, 64 << 20, 50_000)

    guest = TraceGuest(large, trace(), TracePolicy("thp", placement="fragmented"))
    stats = simulate(trace(), guest)
    assert stats.accesses == 50_000
    assert guest.leaves[9] + guest.leaves[0] > 0


def test_the_touched_pages_are_found_whatever_the_blocks(large):
    trace = spread(3000)
    wanted = np.unique(trace >> np.uint64(12))
    for blocks in (trace, np.split(trace, [1, 5, 600]), iter(np.split(trace, range(0, 3000, 7)))):
        np.testing.assert_array_equal(touched_pages(blocks, 3000), wanted)
    assert len(touched_pages([], 1)) == 0


def test_an_empty_trace_is_a_guest_without_pages(large):
    guest = TraceGuest(large, [])
    assert dict(guest.leaves) == {0: 0}
    assert guest.tables.count == 1


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("touched", "order"), [(1, 0), (255, 0), (256, 9), (512, 9)])
def test_thp_takes_a_large_page_from_its_threshold_on(large, touched, order):
    inside = np.random.default_rng(touched).choice(512, touched, replace=False)
    trace = (BASE + SPAN + inside * PAGE).astype(np.uint64)
    guest = TraceGuest(large, trace, TracePolicy("thp"))
    assert {place_of(guest, gva)[0] for gva in trace} == {order}
    assert guest.leaves == {9: order == 9, 0: 0 if order else touched}


def test_1g_pages_are_on_blocks_of_1g(large):
    guest = TraceGuest(large, [BASE, BASE + (1 << 30) - 1], TracePolicy("1G"))
    assert guest.leaves == {18: 1}
    assert place_of(guest, BASE + 0x1234_5678) == (18, 0x1234_5678 >> 12)
    with pytest.raises(GuestError, match="need 2 aligned blocks of 1G, and the domain's memory has 1"):
        TraceGuest(large, [BASE, BASE + (1 << 30)], TracePolicy("1G"))


# -- placement ---------------------------------------------------------------------------------------------------------


def gfns_of(guest, trace):
    return [place_of(guest, gva)[1] for gva in np.unique(trace >> np.uint64(12)) << np.uint64(12)]


def test_contiguous_pages_have_ascending_frames(large):
    trace = spread(2000)
    gfns = gfns_of(TraceGuest(large, trace), trace)
    assert gfns == list(range(gfns[0], gfns[0] + len(gfns)))


def test_fragmented_pages_are_contiguous_in_blocks_of_2m(large):
    trace = spread(2000)
    gfns = np.array(gfns_of(TraceGuest(large, trace, TracePolicy(placement="fragmented", seed=3)), trace))
    breaks = np.flatnonzero(np.diff(gfns) != 1) + 1
    assert breaks.tolist() == [512, 1024, 1536]
    assert not np.any(gfns[[0, *breaks]] % 512)
    assert gfns[512] != gfns[511] + 1


@pytest.mark.medium
def test_scattered_pages_are_anywhere_and_a_seed_gives_them_again(large):
    trace = spread(2000)
    first, again, other = (
        gfns_of(TraceGuest(large, trace, TracePolicy(placement="scattered", seed=seed)), trace) for seed in (3, 3, 4)
    )
    assert first == again != other
    assert np.sum(np.diff(first) == 1) < 20
    assert max(first) - min(first) > 0.9 * large.frames


# -- alignment ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["contiguous", "fragmented"])
@pytest.mark.parametrize(("share", "misaligned"), [(0, 0), (0.25, 10), (0.33, 13), (1, 40)])
def test_the_share_of_misaligned_pages_is_exact(fresh, share, misaligned, placement):
    trace = np.arange(40, dtype=np.uint64) * np.uint64(SPAN) + np.uint64(BASE)
    guest = TraceGuest(fresh, trace, TracePolicy("thp", 1, share, placement))
    assert guest.leaves == {9: 40, 0: 0}
    found = 0
    for gva in trace:
        order, gfn = place_of(guest, gva)
        assert (order, gfn % 512) == (9, 0)
        leaf = fresh.p2m.get_entry(gfn).order
        assert leaf == 0 or leaf >= 9
        found += leaf < 9
    assert found == guest.misaligned == misaligned
    assert fresh.p2m.audit().clean
    stats = simulate(np.tile(trace, 3), guest, "none")
    assert stats.accesses == 120


def test_misaligned_pages_take_small_leaves_that_are_there_before_any_is_split(fresh):
    for block in range(30, 50):
        fresh.p2m.split(block * 512, 0)
    splits = fresh.p2m.counters.splits
    trace = np.arange(40, dtype=np.uint64) * np.uint64(SPAN) + np.uint64(BASE)
    assert TraceGuest(fresh, trace, TracePolicy("thp", 1, 0.5)).misaligned == 20
    assert fresh.p2m.counters.splits == splits


def test_a_guest_that_does_not_fit_splits_nothing(fresh):
    splits, blocks = fresh.p2m.counters.splits, fresh.frames // 512
    spans = np.arange(blocks - 1, dtype=np.uint64) * np.uint64(SPAN) + np.uint64(BASE)  # the last is for tables
    trace = np.concatenate([spans, spans + np.uint64(PAGE), np.array([BASE - PAGE], np.uint64)])
    with pytest.raises(GuestError, match=r"need 1 frames in aligned blocks of 2M, and .* has 0"):
        TraceGuest(fresh, trace, TracePolicy("thp", 2, 0.5))
    assert fresh.p2m.counters.splits == splits


def test_without_a_share_pages_are_as_aligned_as_the_memory_is(small, large):
    trace = np.arange(10, dtype=np.uint64) * np.uint64(SPAN) + np.uint64(BASE)
    assert TraceGuest(small, trace, TracePolicy("thp", 1)).misaligned == 10
    assert TraceGuest(large, trace, TracePolicy("thp", 1)).misaligned == 0
    assert TraceGuest(large, trace).misaligned == 0, "4K pages are never"
    with pytest.raises(GuestError, match=r"need 5 blocks of 2M that one leaf of the P2M maps, and .* has 0"):
        TraceGuest(small, trace, TracePolicy("thp", 1, 0.5))


def test_a_misaligned_1g_page_lies_on_2m_leaves(fresh):
    guest = TraceGuest(fresh, [BASE], TracePolicy("1G", misaligned=1.0))
    assert guest.misaligned == 1
    assert fresh.p2m.get_entry(place_of(guest, BASE)[1]).order == 9


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_kernel_addresses_stand_in_the_upper_half(large):
    trace = np.array([0xFFFF_FFFF_FF60_0000, 0xFFFF_8000_0000_1000, 0x1000], np.uint64)
    guest = TraceGuest(large, trace)
    assert simulate(trace, guest).accesses == 3
    assert len({place_of(guest, gva)[1] for gva in trace}) == 3


def test_an_address_that_is_not_canonical_is_mapped_where_its_canonical_form_is(large):
    tagged = np.array([0x5A00_7F12_3456_7000, 0x0000_7F12_3456_8000], np.uint64)
    guest = TraceGuest(large, tagged)
    assert simulate(canonical(tagged), guest).accesses == 2
    assert guest.walk(0x7F12_3456_7000)[0] == 0
    with pytest.raises(NotPresentError):
        simulate(tagged, guest)


def test_two_addresses_that_become_one_are_refused(large):
    with pytest.raises(GuestError, match=r"gva 0x7f1234567000 and gva 0x5a007f1234567000 .* are one address"):
        TraceGuest(large, np.array([0x5A00_7F12_3456_7123, 0x7F12_3456_7000], np.uint64))


def test_a_trace_larger_than_the_memory_is_refused_before_anything_is_written(small):
    before = TraceGuest(small, [BASE])
    root = before.tables.root
    with pytest.raises(GuestError, match="touches more than the 65536 pages of 4K"):
        TraceGuest(small, np.arange(0, 300 << 20, PAGE, dtype=np.uint64))
    with pytest.raises(GuestError, match="need 65100 frames in aligned blocks"):
        TraceGuest(small, np.arange(0, 65_100 * PAGE, PAGE, dtype=np.uint64))
    with pytest.raises(GuestError, match="need 129 aligned blocks of 2M"):
        TraceGuest(small, np.arange(0, 129 * SPAN, SPAN, dtype=np.uint64), TracePolicy("thp", 1))
    assert before.tables.root == root
    assert before.walk(BASE)[0] == 0


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"pages": "2M"}, UnknownNameError),
        ({"placement": "random"}, UnknownNameError),
        ({"threshold": 0}, SizeError),
        ({"threshold": 513}, SizeError),
        ({"misaligned": 1.01}, SizeError),
        ({"misaligned": -0.1}, SizeError),
        ({"misaligned": float("nan")}, SizeError),
    ],
)
def test_a_policy_that_cannot_be_is_refused(fields, error):
    with pytest.raises(error):
        TracePolicy(**fields)


def test_an_unbuilt_domain_cannot_hold_a_guest(machine):
    domain = machine.create_domain("4MiB", name="unbuilt")
    with pytest.raises(GuestError, match="build it first"):
        TraceGuest(domain, [BASE])
    domain.destroy()


@pytest.mark.parametrize("paging", ["4-level", "5-level"])
@pytest.mark.parametrize("table_format", ["npt", "ept"])
def test_every_format_of_a_64_bit_hypervisor_holds_a_trace_guest(paging, table_format):
    with Machine("1GiB", paging=paging) as machine:
        domain = machine.create_domain("256MiB", options=DomainOptions(table_format=table_format))
        build(domain)
        trace = spread(100)
        guest = TraceGuest(domain, trace, TracePolicy("thp", 2, 0.5, "scattered"))
        assert guest.misaligned == round(guest.leaves[9] / 2)
        assert len({place_of(guest, gva)[1] for gva in trace}) == len(trace)


def test_a_32_bit_hypervisor_holds_none():
    with Machine("64MiB", paging="pae") as machine:
        domain = machine.create_domain("16MiB")
        build(domain)
        with pytest.raises(GuestError, match="a pae machine cannot hold a 4-level guest"):
            TraceGuest(domain, [BASE])
