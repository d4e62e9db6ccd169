"""How a hypervisor behaves where Twofold and Xen differ: one mechanism, two policies, and here is the difference.

Every rule is named by what happens when it is on, and is asked for in one place. `docs/behaviours.md` has what each
costs. Source: Xen 4.17, the files named at each rule; recordings of it in tests/golden/xen.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Final

from twofold.errors import UnknownNameError
from twofold.units import MAX_HEAP_ORDER, ORDER_1G

# A rule that came after digests had been written into journals: the behaviour's name says it, and listing it would
# change every digest, of machines too that never ask for it.
BY_NAME: Final[dict[str, Any]] = {"said by the name": True}


@dataclass(frozen=True)
class Behaviour:
    """The rules of one hypervisor.

    Parameters
    ----------
    keeps_upper_half : a heap block that is broken gives its upper half to the caller, so neighbouring extents descend
        (page_alloc.c, alloc_heap_pages)
    zones_by_width : one zone of free memory for each bit width of frame numbers, the highest is used up first; no block
        reaches over a power of two (page_alloc.c, page_to_zone)
    largest_block : order of the largest block of the heap (MAX_ORDER)
    spreads_nodes : without a node asked for, the extents of a domain go round the nodes (page_alloc.c, get_free_buddy)
    prefers_size_to_node : a large extent of another node is better than small ones of the node asked for
        (page_alloc.c, get_free_buddy)
    pools_single_frames : a table pool is made of single frames (hap.c, hap_set_allocation)
    aligns_whole_requests : a leaf is large only if the request ends at a multiple of its size too; so a request of
        2**order frames that starts misaligned stays small to its end (p2m.c, p2m_set_entry)
    keeps_empty_tables : a table that its last entry has left stays until a large leaf replaces it (p2m-pt.c)
    splits_through_sizes_off : splitting goes down size by size, page sizes that are off included (p2m-pt.c,
        p2m_next_level)
    splits_whole_ept_leaves : splitting an EPT leaf gives all of it the smallest size needed, not the path alone
        (p2m-ept.c, ept_split_super_page)
    removes_frame_by_frame : decrease_reservation takes single frames out, whatever leaf they lie in, and what is gone
        when it stops stays gone (memory.c, decrease_reservation)
    populates_over_memory : populate_physmap puts new memory over old, which the domain still owns and no gfn maps
        (p2m.c, guest_physmap_add_entry)
    leaves_orphans : memory that could not be mapped stays the domain's own, unmapped; what could be, stays mapped
        (memory.c, populate_physmap)
    starts_ranges_low : add_to_physmap of a range starts with its first frame always, so one that moves up over
        itself overwrites what is still to be moved (memory.c, xenmem_add_to_physmap)
    fallback : where the toolstack design's refused extents become smaller: "memory" or "builder" (xg_dom_x86.c)
    """

    name: str
    keeps_upper_half: bool = False
    zones_by_width: bool = False
    largest_block: int = MAX_HEAP_ORDER
    spreads_nodes: bool = False
    prefers_size_to_node: bool = False
    pools_single_frames: bool = False
    aligns_whole_requests: bool = False
    keeps_empty_tables: bool = False
    splits_through_sizes_off: bool = False
    splits_whole_ept_leaves: bool = False
    removes_frame_by_frame: bool = False
    populates_over_memory: bool = False
    leaves_orphans: bool = False
    fallback: str = "memory"
    starts_ranges_low: bool = field(default=False, metadata=BY_NAME)

    @property
    def text(self) -> str:
        """The rules as the digest of a machine has them."""
        listed = (rule.name for rule in fields(self) if not rule.metadata)
        return ",".join(f"{name}:{getattr(self, name)}" for name in listed)


TWOFOLD: Final = Behaviour("twofold")
XEN_4_17: Final = Behaviour(
    "xen-4.17",
    keeps_upper_half=True,
    zones_by_width=True,
    largest_block=ORDER_1G,
    spreads_nodes=True,
    prefers_size_to_node=True,
    pools_single_frames=True,
    aligns_whole_requests=True,
    keeps_empty_tables=True,
    splits_through_sizes_off=True,
    splits_whole_ept_leaves=True,
    removes_frame_by_frame=True,
    populates_over_memory=True,
    leaves_orphans=True,
    fallback="builder",
    starts_ranges_low=True,
)
BEHAVIOURS: Final = {each.name: each for each in (TWOFOLD, XEN_4_17)}


def get_behaviour(name: str) -> Behaviour:
    """Return a behaviour by name.

    Raises
    ------
    UnknownNameError : no behaviour has that name
    """
    if name not in tuple(BEHAVIOURS):  # by comparison: a list has no hash
        raise UnknownNameError("behaviour", name, tuple(BEHAVIOURS))
    return BEHAVIOURS[name]
