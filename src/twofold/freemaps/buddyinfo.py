"""The free memory of a Linux as far as everyone may read it: /proc/buddyinfo, of this host or a copy of one.

One line a zone, one column an order, from order 0 to the kernel's largest (10 on most, but it is a build
option):

    Node 0, zone   Normal    721    828    841    597    394    246    167    104     69     44    238
                             4K     8K     16K    32K   ...                                     4M

An order is of the kernel's own pages, and the file does not say how large those are: 4 KiB on x86, 16 or 64 KiB on some
arm64, 64 KiB on most ppc64. A running host is asked; who gives a copy says it. The number of columns tells nothing:
it is another build option.

The counts are exact, the places are not given. So each block is put at a place of ours, no two of them
buddies, and whether blocks of the largest order adjoin is an assumption that the caller sets and the map
carries as a sentence. No block of one zone adjoins one of another: the kernel never joins them, and nodes lie apart.
Left out: which zone or node a block belongs to. Read first: `fragmenter`, whose placing is used.
"""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from twofold.errors import FormatError, HostError, SizeError, UnknownNameError
from twofold.files import read_start
from twofold.freemaps.fragmenter import extents_to_blocks, fits, merge_blocks, pair_extents, place_blocks
from twofold.freemaps.kpageflags import ADVICE, FreeRuns
from twofold.units import FRAME_BYTES, MAX_HEAP_ORDER, format_bytes

BUDDYINFO: Final = Path("/proc/buddyinfo")
ZONEINFO: Final = Path("/proc/zoneinfo")
MEMINFO: Final = Path("/proc/meminfo")
PACKINGS: Final = ("contiguous", "scattered")

FRAME_KIB: Final = FRAME_BYTES >> 10

# What Linux can be built with: arch/Kconfig, HAVE_PAGE_SIZE_4KB to HAVE_PAGE_SIZE_256KB.
_PAGES_KIB: Final = (4, 8, 16, 32, 64, 128, 256)
_COPY_AGAIN: Final = "copy it again: cat /proc/buddyinfo > FILE"
_LOOKS_LIKE: Final = re.compile(rb"^Node\s+\d+,\s+zone\s", re.MULTILINE)
_LINE: Final = re.compile(r"Node\s+(\d+),\s+zone\s+(\S+)((?:\s+\d+)+)\s*", re.ASCII)
_ZONE: Final = re.compile(r"^Node\s+\d+,\s+zone\s+(\S+)", re.MULTILINE)
_SPANNED: Final = re.compile(r"^\s+spanned\s+(\d+)", re.MULTILINE)
_START: Final = re.compile(r"^\s+start_pfn:\s+(\d+)", re.MULTILINE)
_MAX_TEXT_BYTES: Final = 64 << 20  # zoneinfo has a few lines for each CPU in each zone
_MOST_FRAMES: Final = 1 << 40  # 52 bits of machine address: no count in these files can be larger


class BuddyCounts(NamedTuple):
    """Free blocks of a host by order of 4 KiB frames, summed over its zones; the last order is the kernel's largest.

    zone_blocks : those of the largest order, zone by zone; empty: all are of one zone
    """

    blocks: tuple[int, ...]
    zone_blocks: tuple[int, ...] = ()

    @property
    def top_order(self) -> int:
        """The largest order that the kernel keeps; larger free memory shows as many of these."""
        return len(self.blocks) - 1

    @property
    def free_frames(self) -> int:
        """All frames in the lists [4 KiB frames]."""
        return sum(count << order for order, count in enumerate(self.blocks))

    def most_extents(self, order: int) -> int:
        """Return how many extents of an order, the largest or above it, there can be: each lies in one zone."""
        return sum(blocks >> order - self.top_order for blocks in self.zone_blocks or self.blocks[-1:])


def check_page_kib(page_kib: int) -> None:
    """Raise SizeError unless a kernel may have pages of so many KiB."""
    if page_kib not in _PAGES_KIB:
        least, most = _PAGES_KIB[0], _PAGES_KIB[-1]
        raise SizeError(str(page_kib), f"is no kernel's page: a power of two from {least} to {most} [KiB]")


def host_page_kib() -> int:
    """Return the size of this host's pages [KiB]."""
    return os.sysconf("SC_PAGE_SIZE") >> 10


def page_order(page_kib: int) -> int:
    """Return the order of a kernel's page [log2 4 KiB frames]."""
    check_page_kib(page_kib)
    return (int(page_kib) // FRAME_KIB).bit_length() - 1


def page_notes(path: Path, page_kib: int | None) -> tuple[str, ...]:
    """Return a sentence on the size of pages in which a copy counts its blocks; nothing where the host was asked."""
    if path == BUDDYINFO:
        return ()
    if page_kib is None:
        return (f"blocks are counted in pages of {FRAME_KIB}KiB, as no other size was given",)
    return (f"blocks are counted in pages of {int(page_kib)}KiB, as was given",)


def is_copy(content: bytes) -> bool:
    """Return whether the bytes of a file are meant to be a /proc/buddyinfo."""
    return _LOOKS_LIKE.search(content) is not None


def read_text(path: Path) -> str:
    """Return a small text file of the kernel, or raise HostError that says what to do."""
    try:
        content = read_start(path, _MAX_TEXT_BYTES + 1)
    except FormatError as error:
        raise HostError(str(path), f"{error.problem}; {ADVICE}") from error
    if len(content) > _MAX_TEXT_BYTES:
        raise HostError(str(path), f"is larger than {format_bytes(_MAX_TEXT_BYTES)}: no such file of the kernel")
    return content.decode("ascii", "replace")


def read_buddyinfo(path: Path = BUDDYINFO, page_kib: int | None = None) -> BuddyCounts:
    """Return the free block counts of a buddyinfo file; the parameters and errors are those of `parse_buddyinfo`."""
    if page_kib is not None:
        check_page_kib(page_kib)
    return parse_buddyinfo(read_text(path), path, page_kib)


def parse_buddyinfo(text: str, path: Path, page_kib: int | None = None) -> BuddyCounts:
    """Return the free block counts of the text of a buddyinfo file.

    Parameters
    ----------
    path : where it comes from, for messages
    page_kib : size of the kernel's pages; None: of /proc/buddyinfo itself what this host says, of a copy 4 [KiB]

    Raises
    ------
    HostError : the text is empty or cut, has a line that is no zone or a zone twice, or counts what no host has
    SizeError : no kernel has such pages
    """
    if path == BUDDYINFO and page_kib not in {None, host_page_kib()}:
        raise HostError(str(path), f"counts in this host's pages of {host_page_kib()}KiB, not of {page_kib}KiB")
    if page_kib is None:
        page_kib = host_page_kib() if path == BUDDYINFO else FRAME_KIB
    small = page_order(page_kib)
    rows = _parse_lines(text, path)
    blocks = (0,) * small + tuple(sum(column) for column in zip(*rows, strict=True))
    counts = BuddyCounts(blocks, tuple(row[-1] for row in rows))
    if counts.top_order > MAX_HEAP_ORDER:
        most = format_bytes(FRAME_BYTES << MAX_HEAP_ORDER)
        problem = f"has {len(rows[0])} orders of pages of {page_kib}KiB; the largest block that is known is {most}"
        raise HostError(str(path), problem)
    if not 0 < counts.free_frames <= _MOST_FRAMES:
        raise HostError(str(path), f"counts {counts.free_frames} free frames, which no host has; {_COPY_AGAIN}")
    return counts


def _parse_lines(text: str, path: Path) -> list[tuple[int, ...]]:
    """Return the block counts of each zone, order 0 first, all of one length."""
    rows: list[tuple[int, ...]] = []
    seen: dict[tuple[int, str], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise HostError(str(path), f"line {number} is no zone and its free blocks: {line[:60]!a}")
        # Longer than any real count would only cost time: int() of a long text is quadratic.
        node, zone, row = match.group(1)[:20], match.group(2), tuple(int(each[:20]) for each in match.group(3).split())
        first = seen.setdefault((int(node), zone), number)
        if first != number:
            problem = f"line {number} counts node {node}, zone {zone[:20]!a} again, as line {first} did"
            raise HostError(str(path), f"{problem}; {_COPY_AGAIN}")
        if rows and len(row) != len(rows[0]):
            problem = f"line {number} has {len(row)} orders, those before it {len(rows[0])}"
            raise HostError(str(path), f"has lines of different lengths: {problem}; {_COPY_AGAIN}")
        rows.append(row)
    if not rows:
        raise HostError(str(path), f"is empty; {_COPY_AGAIN}")
    if not text.endswith(("\n", "\r")):
        raise HostError(str(path), f"ends inside its last line, whose last count may be cut off; {_COPY_AGAIN}")
    return rows


def read_machine_frames(zoneinfo: Path = ZONEINFO, meminfo: Path = MEMINFO, page_kib: int = FRAME_KIB) -> int:
    """Return the first mfn beyond the host's memory; from MemTotal, without holes, if zones are hidden."""
    try:
        return read_span(zoneinfo, page_kib)
    except HostError:
        return read_meminfo("MemTotal", meminfo) // FRAME_BYTES


def read_span(path: Path = ZONEINFO, page_kib: int = FRAME_KIB) -> int:
    """Return the end of the highest zone of a zoneinfo file, of a kernel with pages of so many KiB [4 KiB frames].

    Device zones are left out: they describe memory that the buddy allocator never gets.
    """
    end = 0
    parts = _ZONE.split(read_text(path))[1:]
    for name, body in zip(parts[0::2], parts[1::2], strict=True):
        spanned, start = _SPANNED.search(body), _START.search(body)
        if name != "Device" and spanned and start and int(spanned.group(1)):
            end = max(end, int(start.group(1)) + int(spanned.group(1)))
    end <<= page_order(page_kib)
    if not 0 < end <= _MOST_FRAMES:
        raise HostError(str(path), f"has no zone with a usable span; {ADVICE}")
    return end


def read_meminfo(field: str, path: Path = MEMINFO) -> int:
    """Return one field of a meminfo file, such as "MemFree" [bytes]."""
    match = re.search(rf"^{re.escape(field)}:\s+(\d+) kB$", read_text(path), re.MULTILINE)
    if match is None:
        raise HostError(str(path), f"has no line {field}; {ADVICE}")
    return int(match.group(1)) << 10


def check_packing(packing: str) -> None:
    """Raise UnknownNameError unless the packing is "contiguous" or "scattered"."""
    if packing not in PACKINGS:
        raise UnknownNameError("packing", packing, PACKINGS)


def place_counts(counts: BuddyCounts, machine_frames: int, packing: str = "contiguous") -> FreeRuns:
    """Return runs that have exactly the counted blocks below the top order, at places of ours.

    Parameters
    ----------
    counts : the host's free blocks
    machine_frames : the host's memory; more is used where the blocks do not fit [4 KiB frames]
    packing : "contiguous": top blocks of a zone adjoin and form larger ones, up to order 20, as far as their count
        allows; "scattered": no two top blocks are buddies, as far as the machine's used memory can keep them
        apart
    """
    check_packing(packing)
    blocks = _with_larger_blocks(counts, machine_frames, packing)
    if blocks is None or not fits(machine_frames, blocks):
        machine_frames = _roomy_frames(counts)
        blocks = _with_larger_blocks(counts, machine_frames, packing)
        assert blocks is not None, "every block has a used buddy here"
    # A fixed seed: the same counts give the same map.
    mfns, orders = place_blocks(machine_frames, blocks, np.random.Generator(np.random.PCG64(0)))
    starts, frames = merge_blocks(mfns, orders)
    return FreeRuns(starts, frames, machine_frames)


def _with_larger_blocks(counts: BuddyCounts, machine_frames: int, packing: str) -> list[int] | None:
    """Return blocks of the orders 0..20: the counted ones, those of the top order joined as assumed.

    None: the machine is too full to keep the blocks of two zones apart.
    """
    top = counts.top_order
    places = machine_frames >> top  # above the top order, a top block is what a frame is below it
    extents = [counts.blocks[top]]
    for order in range(top + 1, MAX_HEAP_ORDER + 1):
        most = counts.most_extents(order)
        extents.append(pair_extents(places, extents, most if packing == "contiguous" else 0))
        if extents[-1] > most:
            return None
    return [*counts.blocks[:top], *extents_to_blocks(extents)]


def _roomy_frames(counts: BuddyCounts) -> int:
    """Return a machine in which every block has a used buddy [4 KiB frames], a multiple of 4 GiB."""
    needed = 2 * counts.free_frames
    return -(-needed >> MAX_HEAP_ORDER) << MAX_HEAP_ORDER


def describe_packing(counts: BuddyCounts, packing: str) -> str:
    """Return the assumption about the places of blocks, in one sentence."""
    size = format_bytes(FRAME_BYTES << counts.top_order)
    top, zones = counts.blocks[counts.top_order], len(counts.zone_blocks)
    where = "" if zones < 2 else f", never over the border of one of the {zones} zones"
    if packing == "contiguous":
        return f"the {top} free blocks of {size} adjoin and form larger ones as far as their count allows{where}"
    return f"the {top} free blocks of {size} stand apart wherever used memory can keep them so"
