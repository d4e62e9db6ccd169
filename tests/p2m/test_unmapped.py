"""What a P2M gives out when it maps memory no more, and that nothing else lets memory be freed."""

import numpy as np
import pytest

from kinds import FORMATS
from twofold.domain import DomainOptions, Machine
from twofold.errors import OwnershipError
from twofold.units import INVALID_GFN


def words(*numbers):
    return np.array(numbers, np.uint64)


@pytest.fixture(params=FORMATS)
def domain(request):
    paging, table_format = FORMATS[request.param]
    with Machine("64MiB", paging=paging) as machine:
        domain = machine.create_domain("16MiB", options=DomainOptions(layout="flat", table_format=table_format))
        assert domain.memory.populate_physmap([0, 1024], 10).complete
        yield domain


def frames_of(unmapped):
    """Return {gfn: mfn} of all frames."""
    rows = zip(unmapped.gfns.tolist(), unmapped.mfns.tolist(), unmapped.frames.tolist(), strict=True)
    return {gfn + k: mfn + k for gfn, mfn, frames in rows for k in range(frames)}


@pytest.mark.parametrize(("gfn", "frames"), [(0, 2048), (100, 1), (500, 600), (2000, 5000), (3000, 10)])
def test_unmapping_a_range_gives_out_what_it_mapped_after_the_flush(domain, gfn, frames):
    p2m, flushes = domain.p2m, []
    gfns = np.arange(gfn, min(gfn + frames, 2048), dtype=np.uint64)
    before = dict(zip(gfns.tolist(), p2m.translate(gfns).tolist(), strict=True))
    p2m.on_flush(lambda _: flushes.append(p2m.clear_frames(gfn, frames)))
    unmapped = p2m.unmap(gfn, frames)
    assert frames_of(unmapped) == before
    assert unmapped.total_frames == len(before)
    assert flushes == [frames] * bool(before), "nobody reads it from a TLB any more"


def test_removing_single_entries_gives_out_those_that_could_be_removed(domain):
    p2m = domain.p2m
    mfns = p2m.translate(words(3, 700))
    assert frames_of(p2m.remove_first_entries(words(3, 700))) == dict(zip((3, 700), mfns.tolist(), strict=True))
    domain.pool.seal()
    unmapped = p2m.remove_first_entries(words(4, 1500, 5))
    assert list(frames_of(unmapped)) == [4], "gfn 1500 would take a table"
    assert p2m.clear_frames(5, 1) == 0


def test_mapping_over_memory_gives_out_what_was_there(domain):
    p2m = domain.p2m
    old = p2m.translate(words(0x10, 0x11, 0x400)).tolist()
    mfns = p2m.translate(words(0x600, 0x601, 0x602))
    pieces = words(0x10, 0x400), words(int(mfns[0]), int(mfns[2])), words(2, 1)
    unmapped = p2m.map_over(*pieces, np.ones(2, np.int64))
    assert frames_of(unmapped) == dict(zip((0x10, 0x11, 0x400), old, strict=True))
    assert p2m.translate(words(0x10, 0x11, 0x400)).tolist() == mfns.tolist()
    assert p2m.map_over(*(words(),) * 3, np.ones(0, np.int64)).total_frames == 0


def test_what_is_still_mapped_is_not_given_out(domain):
    p2m = domain.p2m
    mfns = p2m.translate(words(7, 8))
    p2m.unmap(7, 1)
    with pytest.raises(OwnershipError, match=f"mfn {int(mfns[1]):#x} is still mapped, at gfn 0x8"):
        p2m.certify_gone(words(7, 8), mfns)
    assert frames_of(p2m.certify_gone(words(7), mfns[:1])) == {7: int(mfns[0])}
    with pytest.raises(OwnershipError, match="may still be mapped: "):
        p2m.certify_empty(mfns[:1], words(1))
    assert not p2m.is_empty
    p2m.unmap(0, p2m.max_gfn)
    assert p2m.is_empty
    assert p2m.certify_empty(mfns, words(1, 1)).gfns.tolist() == [INVALID_GFN] * 2


def test_a_frame_is_released_once_and_is_then_anybodys(domain):
    machine, ledger = domain.machine, domain.machine.ledger
    free, owned = machine.heap.free_frames, domain.memory.owned_frames
    unmapped = domain.p2m.unmap(7, 1)
    ledger.release(unmapped, domain.domid)
    assert (machine.heap.free_frames, domain.memory.owned_frames) == (free + 1, owned - 1)
    assert machine.m2p[int(unmapped.mfns[0])] == INVALID_GFN
    assert domain.memory.populate_physmap([7], 0).complete
    with pytest.raises(OwnershipError, match="was given back before"):
        ledger.release(unmapped, domain.domid)
    assert domain.p2m.audit().clean
