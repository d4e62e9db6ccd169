"""Guests for traces in 32-bit modes: what they map, what they refuse, and what a walk of theirs costs."""

import numpy as np
import pytest

from twofold.domain import Machine, build
from twofold.errors import GuestError, SizeError, UnknownNameError
from twofold.guest import TraceGuest, TracePolicy, default_footprint
from twofold.study import simulate

MIB = 1 << 20
TRACE = np.uint64(0x4000_0000) + np.arange(0, 16 * MIB, 4096, dtype=np.uint64)  # every page of 16 MiB
LARGE = {"pae": 9, "2-level": 10}
# Reads of a walk with 4K on both sides: (g + 1)(h + 1) - 1.
READS = {("pae", "pae"): 15, ("2-level", "2-level"): 8, ("4-level", "pae"): 19, ("4-level", "2-level"): 14}


@pytest.fixture(params=READS, ids=" ".join)
def domain_and_mode(request):
    host, mode = request.param
    with Machine("1GiB", paging=host) as machine:
        domain = machine.create_domain("128MiB")
        build(domain, "small")
        yield domain, mode


def test_a_32_bit_guest_maps_what_its_trace_touches(domain_and_mode):
    domain, mode = domain_and_mode
    guest = TraceGuest(domain, TRACE, TracePolicy(), mode)
    assert dict(guest.leaves) == {0: len(TRACE)}
    assert guest.bits == 32
    status, steps, _ = guest.walk(int(TRACE[5]))
    assert (status, len(steps)) == (0, READS[domain.machine.paging, mode])
    assert simulate(TRACE, guest, "none").reads_per_walk == READS[domain.machine.paging, mode]


def test_large_pages_are_those_of_the_mode(domain_and_mode):
    domain, mode = domain_and_mode
    guest = TraceGuest(domain, TRACE, TracePolicy("thp", placement="fragmented"), mode)
    assert dict(guest.leaves) == {LARGE[mode]: (16 * MIB >> 12) >> LARGE[mode], 0: 0}
    assert simulate(TRACE, guest, "none").walks == len(TRACE)


def test_pages_of_1g_and_addresses_beyond_4_gib_are_refused(domain_and_mode):
    domain, mode = domain_and_mode
    with pytest.raises(GuestError, match=f"a {mode} guest has no pages of 1G"):
        TraceGuest(domain, TRACE, TracePolicy("1G"), mode)
    beyond = np.array([0x1000, 1 << 32], np.uint64)
    with pytest.raises(GuestError, match=f"gva 0x100000000 of the trace is beyond the 4GiB that a {mode} guest has"):
        TraceGuest(domain, beyond, None, mode)


def test_a_share_of_misaligned_pages_is_exact_or_refused(domain_and_mode):
    domain, mode = domain_and_mode
    policy = TracePolicy("thp", misaligned=0.25)
    domain.memory.release_all()
    build(domain, "toolstack")
    if LARGE[mode] in domain.p2m.geometry.leaf_orders:
        guest = TraceGuest(domain, TRACE, policy, mode)
        assert guest.misaligned == guest.leaves[LARGE[mode]] / 4
    else:
        with pytest.raises(GuestError, match="a P2M without leaves of 4M cannot be split under one page of 4M"):
            TraceGuest(domain, TRACE, policy, mode)


def test_a_mode_wider_than_the_hypervisors_is_refused_before_anything_else():
    with Machine("256MiB", paging="pae") as machine:
        domain = machine.create_domain("64MiB")
        with pytest.raises(GuestError, match="a pae machine cannot hold a 4-level guest; it holds 2-level, pae"):
            TraceGuest(domain, TRACE)
        with pytest.raises(UnknownNameError, match="guest mode"):
            TraceGuest(domain, TRACE, mode="5-level")


@pytest.mark.parametrize(
    ("frames", "mode", "bytes_"),
    [
        (1 << 20, "4-level", 2 << 30),
        (1 << 20, "pae", 2 << 30),
        (4 << 20, "4-level", 8 << 30),
        (4 << 20, "pae", 2 << 30),
        (4 << 20, "2-level", 2 << 30),
        (2, "pae", 4 << 10),
    ],
)
def test_an_area_is_a_power_of_two_in_memory_and_addresses(frames, mode, bytes_):
    assert default_footprint(frames, mode) == bytes_


@pytest.mark.parametrize("frames", [0, 1])
def test_memory_that_has_no_room_for_an_area_is_told_by_what_it_is(frames):
    with pytest.raises(SizeError, match=f"size '{4 * frames}(KiB|B)' is too little memory"):
        default_footprint(frames)
