"""The hypervisor's own pages that a domain is shown: shared_info and the frames of its grant table.

They come from the heap on first use, count in nobody's reservation, and go back when the domain dies: never when a gfn
stops mapping them. The M2P has the one gfn that maps a page.
Source: Xen 4.17 xen/arch/x86/mm/p2m.c, xenmem_add_to_physmap_one; xen/common/grant_table.c (opt_max_grant_frames).
"""

from typing import Final

import numpy as np

from twofold.machine import Hardware, Origin, Use
from twofold.units import Mfn

SPACES: Final = {"shared_info": 1, "grant_table": 64}  # pages of each space at most
_ONE = np.ones(1, np.uint64)


class SpecialPages:
    """The special pages of one domain, by space and index."""

    def __init__(self, hardware: Hardware, domid: int) -> None:
        self._hardware = hardware
        self._domid = domid
        self._mfns: dict[tuple[str, int], Mfn] = {}

    def __len__(self) -> int:
        return len(self._mfns)

    @property
    def mfns(self) -> list[Mfn]:
        """The frames of all pages."""
        return list(self._mfns.values())

    def find(self, space: str, index: int) -> Mfn | None:
        """Return a page that exists."""
        return self._mfns.get((space, index))

    def make(self, space: str, index: int, origin: Origin) -> Mfn | None:
        """Return a new page, None when the heap has none."""
        mfns, _ = self._hardware.heap.alloc_runs(0, 1, origin)
        if not len(mfns):
            return None
        self._hardware.take(mfns, _ONE, self._domid, Use.XEN)
        mfn = self._mfns[space, index] = Mfn(int(mfns[0]))
        return mfn

    def drop(self, space: str, index: int) -> None:
        """Free a page that no gfn maps."""
        mfn = np.array([self._mfns.pop((space, index))], np.uint64)
        self._hardware.m2p.clear_runs(mfn, _ONE)
        self._hardware.give_back(mfn, _ONE)

    def drop_all(self) -> None:
        """Free all pages; no gfn maps any."""
        for space, index in list(self._mfns):
            self.drop(space, index)

    def unhook_all(self) -> None:
        """Let the pages back no gfn any more."""
        mfns = np.array(self.mfns, np.uint64)
        self._hardware.m2p.clear_runs(mfns, np.ones(len(mfns), np.uint64))
