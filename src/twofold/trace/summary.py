"""What is in a trace, in numbers: one pass, and memory for the pages that it touches."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from twofold.formats.kinds import FETCH, LOAD, STORE
from twofold.trace.accesses import TraceBlock
from twofold.trace.layout import PART_ACCESSES
from twofold.trace.pages import MAX_PAGES, PageSet
from twofold.units import FRAME_SHIFT, ORDER_1G, ORDER_2M, ORDER_4K, format_bytes, order_name

MAX_VCPUS: Final = 1 << 16
_PAGE_ORDERS: Final = (ORDER_4K, ORDER_2M, ORDER_1G)


@dataclass(frozen=True)
class TraceInfo:
    """What is in a trace.

    Parameters
    ----------
    accesses : all of them;  loads, stores, fetches : by kind
    lowest, highest : of the addresses, None when there are none
    vcpus : {vCPU: its accesses}
    pages : {page size: distinct pages of that size that hold an accessed address}, None: too many to tell apart
    instructions : the last instruction count, 0 when not known
    source, notes : where the trace comes from, and what was assumed
    """

    accesses: int
    loads: int
    stores: int
    fetches: int
    lowest: int | None
    highest: int | None
    vcpus: dict[int, int]
    pages: dict[str, int | None]
    instructions: int
    source: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them: addresses in hex."""
        span = {"lowest": self.lowest, "highest": self.highest}
        return asdict(self) | {name: None if gva is None else hex(gva) for name, gva in span.items()}

    def rows(self) -> list[tuple[str, str]]:
        """Return (what, value) as people read them."""
        span = () if self.lowest is None else (("span", f"gva {self.lowest:#x} to {self.highest:#x}"),)
        footprint = [
            (f"{size} pages", _footprint(count, order))
            for order, (size, count) in zip(_PAGE_ORDERS, self.pages.items(), strict=True)
        ]
        counts = (("accesses", self.accesses), ("loads", self.loads), ("stores", self.stores))
        known = (("instructions", f"{self.instructions:,}"),) if self.instructions else ()
        return [
            ("source", self.source),
            *((name, f"{count:,}") for name, count in (*counts, ("fetches", self.fetches))),
            *known,
            *span,
            *footprint,
            ("vCPUs", f"{len(self.vcpus):,}"),
            *(("note", note) for note in self.notes),
        ]


def summarise(parts: Iterable[TraceBlock], source: str) -> TraceInfo:
    """Return what is in these blocks."""
    kinds, vcpus = np.zeros(256, np.int64), np.zeros(MAX_VCPUS, np.int64)
    lowest, highest, instructions, done = 2**64 - 1, 0, 0, 0
    pages = PageSet(ORDER_4K, MAX_PAGES)
    for part in parts:
        for start in range(0, len(part), PART_ACCESSES):
            block = part.part(start, min(start + PART_ACCESSES, len(part)))
            kinds += np.bincount(block.kinds, minlength=len(kinds))
            vcpus += np.bincount(block.vcpus, minlength=len(vcpus))
            lowest, highest = min(lowest, int(block.gvas.min())), max(highest, int(block.gvas.max()))
            instructions = max(instructions, int(block.icounts.max()))
            pages.add(block.gvas)
            done += len(block)
    return TraceInfo(
        accesses=done,
        loads=int(kinds[LOAD]),
        stores=int(kinds[STORE]),
        fetches=int(kinds[FETCH]),
        lowest=lowest if done else None,
        highest=highest if done else None,
        vcpus={int(vcpu): int(vcpus[vcpu]) for vcpu in np.flatnonzero(vcpus)},
        pages={order_name(order): _pages_of(pages, order) for order in _PAGE_ORDERS},
        instructions=instructions,
        source=source,
        notes=(),
    )


def _pages_of(pages: PageSet, order: int) -> int | None:
    """Return how many pages of an order there are, None when only larger ones were told apart."""
    numbers = pages.numbers()
    if order < pages.order:
        return None
    larger = numbers >> np.uint64(order - pages.order)
    return int(np.count_nonzero(np.diff(larger))) + bool(len(larger))


def _footprint(pages: int | None, order: int) -> str:
    """Return a number of pages as people read it."""
    if pages is None:
        return f"more than {MAX_PAGES:,}"
    return f"{pages:,} ({format_bytes(pages << FRAME_SHIFT + order)})"
