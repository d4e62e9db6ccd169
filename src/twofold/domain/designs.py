"""Designs: who decides the page sizes when a domain's memory is populated.

- `small`: 4K only, the state before the question was asked.
- `toolstack` (Wei Huang): the builder asks for the largest extents that fit; what the machine cannot give falls back.
- `opportunistic` (John Byrne): the builder passes plain 4K gfns; the memory operation finds the aligned runs.

Where memory has nodes, both take smaller extents of the domain's own node before larger ones of another (`Mem.NEAR`).
A design of your own is any object with a `name` and a `populate`; the entry point group `twofold.designs` makes it
known by name.
Source: xen-devel, November 2007, "[RFC][PATCH] Large Page Support for HAP" and its follow-up; for the builder's
batches, Xen 4.17 tools/libs/guest/xg_dom_x86.c, meminit_hvm.
"""

from typing import Final, Protocol

from twofold import registry
from twofold.domain.extents import Extents, Mem, aligned_run
from twofold.domain.layout import Layout
from twofold.errors import UnknownNameError
from twofold.units import ORDER_1G, ORDER_2M, ORDER_4K, Order

GROUP: Final = "twofold.designs"
BUILT_IN: Final = {
    "small": "twofold.domain.designs:SmallDesign",
    "toolstack": "twofold.domain.designs:ToolstackDesign",
    "opportunistic": "twofold.domain.designs:OpportunisticDesign",
}
FALLBACKS: Final = ("memory", "builder")
_BATCH_FRAMES: Final = 4 << ORDER_2M  # 8 MiB: Xen bounds a batch so that dom0 stays responsive


class Populate(Protocol):
    """What a design calls: `populate_physmap` of the domain being built.

    orders : what a leaf of the domain's table format can have, ascending; walk them, and a new format needs no change
    """

    orders: tuple[Order, ...]

    def __call__(self, gfns: range, order: Order, flags: Mem = ...) -> Extents:
        """Populate one extent of this order at each gfn; see `MemoryOperations.populate_physmap`."""


class Design(Protocol):
    """A way of deciding page sizes. It populates one range of RAM; the builder checks that all of it is there."""

    name: str

    def populate(self, populate: Populate, gfns: range, layout: Layout) -> None:
        """Populate every frame of `gfns`, as far as the machine can give them."""


class SmallDesign:
    """Order 0 only."""

    name = "small"

    def populate(self, populate: Populate, gfns: range, layout: Layout) -> None:  # noqa: ARG002
        """Ask for the whole range in single frames, in one call."""
        populate(gfns, ORDER_4K)


class ToolstackDesign:
    """The builder asks for the largest extents that fit layout and alignment.

    Parameters
    ----------
    fallback : where a refused extent becomes smaller ones: "memory", inside the memory operation (Huang's patch), or
        "builder", in bounded batches (what Xen came to do)
    """

    name = "toolstack"

    def __init__(self, fallback: str = "memory") -> None:
        if fallback not in FALLBACKS:
            raise UnknownNameError("fallback", fallback, FALLBACKS)
        self.fallback = fallback

    def populate(self, populate: Populate, gfns: range, layout: Layout) -> None:
        """Ask for extents of the format's own leaf orders, largest first."""
        if self.fallback == "builder":
            _populate_in_batches(populate, gfns, layout)
            return
        here = gfns.start
        while here < gfns.stop:
            order, extents = aligned_run(here, gfns.stop - here, populate.orders)
            populate(range(here, here + (extents << order), 1 << order), order, Mem.FALLBACK | Mem.NEAR)
            here += extents << order


class OpportunisticDesign:
    """The builder leaves page sizes alone; `populate_physmap` finds the aligned runs in the plain array it gets."""

    name = "opportunistic"

    def populate(self, populate: Populate, gfns: range, layout: Layout) -> None:  # noqa: ARG002
        """Pass the whole range as 4K gfns in one call."""
        populate(gfns, ORDER_4K, Mem.COALESCE | Mem.NEAR)


def _populate_in_batches(populate: Populate, gfns: range, layout: Layout) -> None:
    """Populate as Xen's builder does: one 1G extent, else a batch of at most 8 MiB in 2M, else that batch in 4K.

    A transient failure costs at most 8 MiB of 4K mappings: the next batch tries large extents again. In a format whose
    large leaves are 4M, the batch is of two of those.
    """
    here, large = gfns.start, populate.orders[1]
    while here < gfns.stop:
        count = min(gfns.stop - here, _to_boundary(here, ORDER_1G))
        if ORDER_1G in populate.orders and count == 1 << ORDER_1G and not _overlaps(here, count, layout.mmio):
            done = populate(range(here, here + 1, 1), ORDER_1G).done << ORDER_1G
            here, count = here + done, count - done
        if not count:
            continue
        count = min(count, _BATCH_FRAMES)
        if here % (1 << large):
            count = min(count, _to_boundary(here, large))
        elif count > 1 << large:
            count -= count % (1 << large)
        if not here % (1 << large) and not count % (1 << large):
            done = populate(range(here, here + count, 1 << large), large).done << large
            here, count = here + done, count - done
        if count:
            if not populate(range(here, here + count), ORDER_4K).complete:
                return
            here += count


def _to_boundary(gfn: int, order: int) -> int:
    """Return the frames from `gfn` to the next multiple of 2**order above it."""
    return (1 << order) - gfn % (1 << order)


def _overlaps(gfn: int, frames: int, hole: range) -> bool:
    return bool(hole) and gfn < hole.stop and hole.start < gfn + frames


def design_names() -> tuple[str, ...]:
    """Return the names of all designs that are installed, the built-in ones first."""
    return registry.names_of(GROUP, BUILT_IN)


def get_design(name: str) -> Design:
    """Return a design by name.

    Raises
    ------
    UnknownNameError : no installed design has that name
    """
    design: Design = registry.create("design", GROUP, BUILT_IN, name)
    return design
