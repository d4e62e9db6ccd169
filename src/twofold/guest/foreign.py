"""Guests for traces from elsewhere: page tables for the addresses that a trace touches, by a policy.

A trace says which addresses a program touched, not what its guest had mapped. A policy decides that: the page size of
each address, and where in guest-physical space its page lies. What results is a guest that cannot run anything and that
`simulate` prices like any other. Left out: memory that was mapped and never touched, except inside large pages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.domain import Domain
from twofold.errors import GuestError, SizeError, UnknownNameError
from twofold.formats.geometry import FOUR_LEVEL, GEOMETRIES, Geometry
from twofold.guest.addresses import GVA_BITS, TraceLike, blocks_of
from twofold.guest.placement import FrameSource, aligned_blocks
from twofold.guest.space import AddressSpace
from twofold.guest.tables import GuestTables
from twofold.trace.pages import distinct_pages
from twofold.units import FRAME_SHIFT, ORDER_1G, ORDER_2M, ORDER_4K, Order, format_bytes, order_name

Array = npt.NDArray[np.uint64]
Pages = dict[Order, Array]  # page numbers of each size, counted in that size, ascending

PAGES: Final = ("4K", "thp", "1G")
PLACEMENTS: Final = ("contiguous", "fragmented", "scattered")
BLOCK_FRAMES: Final = 1 << ORDER_2M
_NUMBER_MASK: Final = np.uint64((1 << FOUR_LEVEL.frame_bits) - 1)


def policies(geometry: Geometry) -> tuple[str, ...]:
    """Return how the pages of a guest with tables of this shape may be chosen: 1G where it has such pages."""
    return tuple(pages for pages in PAGES if pages != "1G" or ORDER_1G in geometry.leaf_orders)


@dataclass(frozen=True)
class TracePolicy:
    """How the addresses of a trace are mapped.

    Parameters
    ----------
    pages : "4K"; "thp": 2M where `threshold` or more 4K pages of an aligned 2M span are touched, 4K elsewhere, and 4M
        in place of 2M in a 2-level guest; "1G"
    threshold : of "thp" [touched 4K pages, 1 to 512]; with 1 every page is large
    misaligned : share of the large pages that lie on P2M leaves smaller than they, to the nearest whole page; P2M
        leaves under them are split where it takes that. None: as the domain's memory comes
    placement : "contiguous": ascending guest frames; "fragmented": blocks of 2M (or the page, if larger) anywhere;
        "scattered": each page anywhere
    seed : of what is anywhere, and of which pages are misaligned
    """

    pages: str = "4K"
    threshold: int = 256
    misaligned: float | None = None
    placement: str = "contiguous"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pages not in PAGES:
            raise UnknownNameError("policy of pages", self.pages, PAGES)
        if self.placement not in PLACEMENTS:
            raise UnknownNameError("placement", self.placement, PLACEMENTS)
        if not 1 <= self.threshold <= BLOCK_FRAMES:
            raise SizeError(str(self.threshold), f"is no threshold: 1 to {BLOCK_FRAMES} touched pages of 4K")
        if self.misaligned is not None and not 0 <= self.misaligned <= 1:
            raise SizeError(str(self.misaligned), "is no share: 0 to 1")

    def sizes(self, numbers: Array, geometry: Geometry = FOUR_LEVEL) -> Pages:
        """Return the pages that map these 4K pages, by size, in a guest with tables of this shape.

        Raises
        ------
        GuestError : it has no pages of 1G
        """
        if self.pages == "4K":
            return {ORDER_4K: numbers}
        if self.pages == "1G":
            if self.pages not in policies(geometry):
                raise GuestError(f"a {geometry.name} guest has no pages of 1G")
            return {ORDER_1G: np.unique(numbers >> np.uint64(ORDER_1G))}
        order = geometry.leaf_orders[1]
        spans = numbers >> np.uint64(order)
        large, touched = np.unique(spans, return_counts=True)
        large = large[touched >= self.threshold]
        return {order: large, ORDER_4K: numbers[~np.isin(spans, large)]}


class TraceGuest(AddressSpace):
    """A guest that maps what a trace touches, and nothing else.

    An address stands for its canonical form, the one with bits 63 to 47 alike. Memory in use: some 40 bytes for each
    touched page, 8 for each frame of the domain where pages are scattered, and a block of the trace.

    Parameters
    ----------
    domain : a domain that has been built; its memory is wiped
    trace : gvas, one array or an iterable of arrays that follow each other; what `run` recorded; a `Trace`; or
        the path of a trace of any format
    policy : page sizes and placement
    mode : the guest's own paging: "4-level", or "pae" and "2-level" for traces of 32-bit programs

    Attributes
    ----------
    leaves : pages mapped, {order: pages}
    misaligned : large pages among them on P2M leaves that are smaller

    Raises
    ------
    GuestError : two addresses of the trace are one in canonical form, one is beyond the mode's reach, or the domain's
        memory cannot hold the pages; nothing was changed
    PoolExhaustedError : too few tables for all splits; those that were made stay, and so does every translation
    """

    def __init__(
        self, domain: Domain, trace: TraceLike, policy: TracePolicy | None = None, mode: str = FOUR_LEVEL.name
    ) -> None:
        super().__init__(domain, mode)
        policy, geometry = TracePolicy() if policy is None else policy, GEOMETRIES[mode]
        pages = policy.sizes(_in_reach(touched_pages(trace, domain.frames), geometry), geometry)
        places = _Places(domain, policy)
        chosen = {order: places.choose(order, len(numbers)) for order, numbers in pages.items() if order}
        table_frames = places.take_tables(_tables_of(pages, geometry))
        if ORDER_4K in pages:
            chosen[ORDER_4K] = places.choose_small(len(pages[ORDER_4K]))
        places.split()  # only now: what cannot be placed has left everything as it was
        domain.wipe()
        self.tables = GuestTables(domain, FrameSource(table_frames.tolist()), self.mode)
        for order, numbers in pages.items():
            self.tables.map_pages(numbers, chosen[order], order)
        self.leaves: Mapping[int, int] = MappingProxyType({order: len(gfns) for order, gfns in chosen.items()})
        self.misaligned = sum(int(np.sum(~_backed(domain, gfns, order))) for order, gfns in chosen.items() if order)


def touched_pages(trace: TraceLike, most: int) -> Array:
    """Return the numbers of all 4K pages that a trace touches, ascending.

    Raises
    ------
    GuestError : more than `most`
    """
    pages = distinct_pages(blocks_of(trace), ORDER_4K, most)
    if pages is None:
        raise GuestError(f"the trace touches more than the {most} pages of 4K that the domain's memory has")
    return pages


def _in_reach(pages: Array, geometry: Geometry) -> Array:
    """Return the page numbers that a guest with such tables walks for; refuse what is beyond them."""
    if geometry is FOUR_LEVEL:
        return _in_48_bits(pages)
    if len(pages) and int(pages[-1]) >= geometry.frame_limit:
        raise GuestError(
            f"gva {int(pages[-1]) << FRAME_SHIFT:#x} of the trace is beyond the "
            f"{format_bytes(geometry.frame_limit << FRAME_SHIFT)} that a {geometry.name} guest has"
        )
    return pages


def _in_48_bits(pages: Array) -> Array:
    """Return the page numbers of canonical addresses, ascending; refuse two that become one."""
    numbers = pages & _NUMBER_MASK
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    if len(same := np.flatnonzero(numbers[1:] == numbers[:-1])):
        one, other = (int(pages[order[same[0] + place]]) << FRAME_SHIFT for place in (0, 1))
        raise GuestError(
            f"gva {one:#x} and gva {other:#x} of the trace are one address of {GVA_BITS} bits; move one of them"
        )
    return numbers


def _tables_of(pages: Pages, geometry: Geometry) -> int:
    """Return how many tables of this shape these pages take, the root included."""
    count = 0
    for level in range(geometry.levels):
        shift = geometry.index_bits * (level + 1)
        above = [numbers >> np.uint64(shift - order) for order, numbers in pages.items() if order < shift]
        count += len(np.unique(np.concatenate([np.empty(0, np.uint64), *above])))
    return max(count, 1)


def _backed(domain: Domain, gfns: Array, order: Order) -> npt.NDArray[np.bool_]:
    """Return for aligned guest frames whether the P2M maps a page of this order there by one leaf."""
    return np.array([domain.p2m.get_entry(gfn).order >= order for gfn in gfns.tolist()], np.bool_)


class _Places:
    """The guest frames that are free for pages, in aligned blocks of 2M; each choice takes some out."""

    def __init__(self, domain: Domain, policy: TracePolicy) -> None:
        self._domain = domain
        self._policy = policy
        self._random = np.random.default_rng(policy.seed)
        self._blocks = aligned_blocks(domain, ORDER_2M)
        self._to_split: list[tuple[int, int]] = []  # gfn, and the order that its leaf is to have

    def choose(self, order: Order, count: int) -> Array:
        """Return guest frames for so many large pages of one size, in the order of their addresses."""
        candidates = aligned_blocks(self._domain, order)
        _require(len(candidates), count, f"aligned blocks of {order_name(order)}")
        if self._policy.misaligned is None:
            gfns = self._pick(candidates, count)
        else:
            gfns = self._mix(candidates, order, count, round(self._policy.misaligned * count))
        frames = gfns[:, np.newaxis] + np.arange(0, 1 << order, BLOCK_FRAMES, dtype=np.uint64)
        self._blocks = np.setdiff1d(self._blocks, frames.reshape(-1))
        return gfns

    def _mix(self, candidates: Array, order: Order, count: int, misaligned: int) -> Array:
        """Return places of which so many are on smaller P2M leaves, or will be when they are split."""
        if order not in (orders := self._domain.p2m.geometry.leaf_orders):
            name = order_name(order)
            raise GuestError(f"a P2M without leaves of {name} cannot be split under one page of {name} and no other")
        backed = _backed(self._domain, candidates, order)
        large, small = candidates[backed], candidates[~backed]
        fitting = count - misaligned
        _require(len(large), fitting, f"blocks of {order_name(order)} that one leaf of the P2M maps")
        good = self._pick(large, fitting)
        bad = self._pick(small, min(misaligned, len(small)))
        split = self._pick(np.setdiff1d(large, good), misaligned - len(bad))
        smaller = max(each for each in orders if each < order)
        self._to_split += [(gfn, smaller) for gfn in split.tolist()]
        gfns = np.empty(count, np.uint64)
        chosen = np.zeros(count, np.bool_)
        chosen[self._random.choice(count, misaligned, replace=False)] = True
        gfns[chosen], gfns[~chosen] = np.concatenate([bad, split]), good
        return gfns

    def split(self) -> None:
        """Split the P2M's leaves under what was chosen to be misaligned."""
        for gfn, order in self._to_split:
            self._domain.p2m.split(gfn, order)

    def take_tables(self, count: int) -> Array:
        """Return guest frames for tables: the first that large pages left."""
        blocks = -(-count // BLOCK_FRAMES)
        _require(len(self._blocks), blocks, "aligned blocks of 2M for page tables")
        taken, self._blocks = self._blocks[:blocks], self._blocks[blocks:]
        return self._frames(taken)[:count]

    def choose_small(self, count: int) -> Array:
        """Return guest frames for so many 4K pages, in the order of their addresses."""
        _require(len(self._blocks) * BLOCK_FRAMES, count, "frames in aligned blocks of 2M")
        if self._policy.placement == "scattered":
            slots: npt.NDArray[np.int64] = self._random.choice(len(self._blocks) * BLOCK_FRAMES, count, replace=False)
            return self._blocks[slots // BLOCK_FRAMES] + (slots % BLOCK_FRAMES).astype(np.uint64)
        return self._frames(self._pick(self._blocks, -(-count // BLOCK_FRAMES)))[:count]

    def _pick(self, candidates: Array, count: int) -> Array:
        """Return some of them: the first, or any, in any order."""
        if self._policy.placement == "contiguous":
            return candidates[:count]
        picked: Array = self._random.permutation(candidates)[:count]
        return picked

    @staticmethod
    def _frames(blocks: Array) -> Array:
        """Return every frame of some blocks."""
        inside: Array = np.arange(BLOCK_FRAMES, dtype=np.uint64)
        return (blocks[:, np.newaxis] + inside).reshape(-1)


def _require(there: int, wanted: int, what: str) -> None:
    if there < wanted:
        raise GuestError(f"the pages of the trace need {wanted} {what}, and the domain's memory has {there}")
