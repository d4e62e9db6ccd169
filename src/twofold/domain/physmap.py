"""add_to_physmap and remove_from_physmap: frames that get a gfn, change it, or lose it.

What is added is one frame: memory of the domain's own that stands at another gfn, a special page of the hypervisor's,
or another domain's memory, which is referenced as long as it is mapped. RAM that stood at the gfn goes back to the
heap; a special page there is only unhooked; anything else there is in the way.
"""

from twofold.domain import special
from twofold.domain.extents import Pieces, Reason
from twofold.domain.holding import Holding, one
from twofold.errors import FormatError
from twofold.machine import Backing, Use
from twofold.machine.begun import FREE, STAY, UNHOOK, Backed, Foreign, Leaving
from twofold.p2m import P2M, P2MType
from twofold.units import INVALID_GFN, INVALID_MFN, ORDER_4K

_MOVABLE = {P2MType.RAM_RW, P2MType.RAM_LOGDIRTY}
_KEPT = {P2MType.MMIO_DIRECT, P2MType.GRANT_MAP_RW, P2MType.GRANT_MAP_RO}  # removed by interfaces of their own


def remove(holding: Holding, gfn: int) -> Reason:
    """Unmap one gfn; return what prevents it."""
    if not 0 <= gfn < holding.p2m.geometry.frame_limit:
        return Reason.BEYOND
    entry = holding.p2m.get_entry(gfn)
    if entry.mfn == INVALID_MFN:
        return Reason.UNPOPULATED
    if entry.type in _KEPT:
        return Reason.NOT_OWN
    reason = holding.unmap_reason(gfn, 1)
    if reason:
        return reason
    if entry.type == P2MType.MAP_FOREIGN:
        holding.ledger.begin(Foreign(holding.domid, holding.p2m, gfn, entry.mfn))
    else:
        holding.begin_leaving(one(gfn), one(entry.mfn), one(1), UNHOOK)
    unmapped = holding.p2m.unmap(gfn, 1)
    if entry.type == P2MType.MAP_FOREIGN:
        holding.ledger.unreference(holding.domid, unmapped)
    elif holding.is_plain(gfn, entry) or holding.is_special(gfn, entry):
        holding.ledger.unhook(unmapped)
    return Reason.NONE


def add_own(holding: Holding, index: int, gfn: int) -> Reason:
    """Move the domain's own frame that gfn `index` maps to `gfn`; return what prevents it."""
    if not _within(holding.p2m, index, gfn):
        return Reason.BEYOND
    source = holding.p2m.get_entry(index)
    if source.mfn == INVALID_MFN:
        return Reason.UNPOPULATED
    if source.type not in _MOVABLE or not holding.belongs(source.mfn, holding.domid):
        return Reason.NOT_OWN
    if not holding.is_plain(index, source):
        return Reason.ALIASED
    return _map(holding, source.mfn, index, gfn)


def add_special(holding: Holding, space: str, index: int, gfn: int) -> Reason:
    """Map a special page, which is made on first use, at one gfn and no other; return what prevents it."""
    if not _within(holding.p2m, gfn):
        return Reason.BEYOND
    if not 0 <= index < special.SPACES[space]:
        return Reason.BAD_INDEX
    known = holding.account.special.get((space, index))
    mfn = special.make(holding, space, index) if known is None else known
    if mfn is None:
        return Reason.NO_MEMORY
    reason = _map(holding, mfn, _gfn_of(holding, mfn), gfn)
    if reason and known is None:
        special.drop(holding, space, index)
    return reason


def _gfn_of(holding: Holding, mfn: int) -> int | None:
    """Return the gfn that maps a frame of the domain's, None for an orphan."""
    gfn = holding.hardware.m2p[mfn]
    return gfn if gfn != INVALID_GFN and holding.p2m.get_entry(gfn).mfn == mfn else None


def add_foreign(holding: Holding, other: P2M, index: int, gfn: int) -> Reason:
    """Map the memory that gfn `index` of another domain maps at `gfn`; return what prevents it."""
    if not _within(holding.p2m, gfn) or not _within(other, index):
        return Reason.BEYOND
    try:
        holding.p2m.format.flags(P2MType.MAP_FOREIGN, "rwx")
    except FormatError:
        return Reason.NO_TYPE
    source = other.get_entry(index)
    if source.mfn == INVALID_MFN or source.type not in _MOVABLE or not holding.belongs(source.mfn, other.domid):
        return Reason.NOT_FOREIGN
    return _map(holding, source.mfn, None, gfn, P2MType.MAP_FOREIGN)


def _within(p2m: P2M, *gfns: int) -> bool:
    return all(0 <= gfn < p2m.geometry.frame_limit for gfn in gfns)


def _map(holding: Holding, mfn: int, old: int | None, gfn: int, type_: P2MType = P2MType.RAM_RW) -> Reason:
    """Map one frame at a gfn, and at its old one no more; return what prevents it."""
    target = holding.p2m.get_entry(gfn)
    if old == gfn:
        return Reason.NONE
    is_special = holding.is_special(gfn, target)
    if target.mfn != INVALID_MFN and not is_special and not holding.is_plain(gfn, target):
        return Reason.NOT_OWN
    reason = holding.room_for(Pieces.of_one(gfn, mfn, 1, ORDER_4K), [] if old is None else [(old, 1)])
    if reason:
        return reason

    def store() -> None:
        holding.p2m.set_entry(gfn, mfn, ORDER_4K, type_)
        if old is not None:
            holding.p2m.set_entry(old, INVALID_MFN, ORDER_4K, P2MType.INVALID)

    use = Use(int(holding.hardware.frame_table.use[mfn]))
    note = Backed(holding.domid, use, one(mfn), one(1), holding.p2m, one(gfn), is_fresh=False)
    if old is not None:
        holding.ledger.begin(Leaving(holding.domid, use, one(mfn), one(1), holding.p2m, one(old), STAY, after=note))
    if target.mfn != INVALID_MFN:
        holding.begin_leaving(one(gfn), one(target.mfn), one(1), UNHOOK if is_special else FREE)
    if type_ == P2MType.MAP_FOREIGN:  # its M2P entry is the owner's
        holding.ledger.begin(Foreign(holding.domid, holding.p2m, gfn, mfn))
        store()
        holding.ledger.reference(holding.domid, gfn, mfn)
    else:
        holding.ledger.back(one(mfn), one(1), holding.domid, use, Backing(one(gfn), store, holding.p2m))
    if target.mfn != INVALID_MFN:
        replaced = holding.p2m.certify_gone(one(gfn), one(target.mfn))
        if is_special:
            holding.ledger.unhook(replaced)
        else:
            holding.ledger.release(replaced, holding.domid)
    holding.ledger.commit()
    return Reason.NONE
