"""The hypervisor's own pages that a domain is shown: shared_info and the frames of its grant table.

They come from the heap on first use, count in nobody's reservation, and go back when the domain dies: never when a gfn
stops mapping them. The M2P has the one gfn that maps a page; the account of a domain in the ledger has its pages.
Source: Xen 4.17 xen/arch/x86/mm/p2m.c, xenmem_add_to_physmap_one; xen/common/grant_table.c (opt_max_grant_frames).
"""

from functools import partial
from typing import Final

import numpy as np

from twofold.domain.holding import Holding, one
from twofold.machine import ANYWHERE, Unmapped, Use
from twofold.machine.begun import Leaving
from twofold.units import ORDER_4K, Mfn

SPACES: Final = {"shared_info": 1, "grant_table": 64}  # pages of each space at most


def make(holding: Holding, space: str, index: int) -> Mfn | None:
    """Return a new page, None when there is no memory for it."""
    if not holding.unclaimed(1, ORDER_4K):
        return None
    origin = holding.origin_of(0, ORDER_4K, holding.at_home(ANYWHERE))
    mfns, extents = holding.hardware.heap.alloc_runs(ORDER_4K, 1, origin)
    if not len(mfns):
        return None
    mfn, special = Mfn(int(mfns[0])), holding.account.special
    is_kept = partial(_is_page, special, (space, index), mfn)
    holding.ledger.take_pages(mfns, extents, holding.domid, Use.XEN, is_kept)
    special[space, index] = mfn
    return mfn


def _is_page(special: dict[tuple[str, int], Mfn], page: tuple[str, int], mfn: Mfn) -> bool:
    return special.get(page) == mfn


def _is_no_page(special: dict[tuple[str, int], Mfn], page: tuple[str, int]) -> bool:
    return page not in special


def drop(holding: Holding, space: str, index: int) -> None:
    """Free a page that was made for nothing: no gfn ever mapped it."""
    special = holding.account.special
    mfn = special[space, index]
    is_gone = partial(_is_no_page, special, (space, index))
    holding.ledger.begin(Leaving(holding.domid, Use.XEN, one(mfn), one(1), is_gone=is_gone))
    del special[space, index]
    holding.ledger.release(Unmapped.never_mapped(one(mfn), one(1)), holding.domid, Use.XEN)


def drop_all(holding: Holding) -> None:
    """Free all pages, when the P2M maps nothing any more."""
    special = holding.account.special
    for page, mfn in list(special.items()):
        if holding.belongs(mfn, holding.domid, Use.XEN):  # not so where this was cut before it could be forgotten
            holding.ledger.release(holding.p2m.certify_empty(one(mfn), one(1)), holding.domid, Use.XEN)
        special.pop(page, None)


def unhook_all(holding: Holding) -> None:
    """Let the pages back no gfn any more, when the P2M maps nothing any more."""
    mfns = np.array([*holding.account.special.values()], np.uint64)
    holding.ledger.unhook(holding.p2m.certify_empty(mfns, np.ones(len(mfns), np.uint64)))
