"""The free memory of a running Linux as far as everyone may read it: /proc/buddyinfo.

One line a zone, one column an order, from order 0 to the kernel's largest (10 on most, but it is a build
option):

    Node 0, zone   Normal    721    828    841    597    394    246    167    104     69     44    238
                             4K     8K     16K    32K   ...                                     4M

The counts are exact, the places are not given. So each block is put at a place of ours, no two of them
buddies, and whether blocks of the largest order adjoin is an assumption that the caller sets and the map
carries as a sentence.
Left out: which zone or node a block belongs to. Read first: `fragmenter`, whose placing is used.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from twofold.errors import HostError, UnknownNameError
from twofold.freemaps.fragmenter import extents_to_blocks, fits, merge_blocks, pair_extents, place_blocks
from twofold.freemaps.kpageflags import ADVICE, FreeRuns
from twofold.units import FRAME_BYTES, MAX_HEAP_ORDER, format_bytes

BUDDYINFO: Final = Path("/proc/buddyinfo")
ZONEINFO: Final = Path("/proc/zoneinfo")
MEMINFO: Final = Path("/proc/meminfo")
PACKINGS: Final = ("contiguous", "scattered")

_LINE: Final = re.compile(r"Node\s+\d+,\s+zone\s+\S+((?:\s+\d+)+)\s*")
_ZONE: Final = re.compile(r"^Node\s+\d+,\s+zone\s+(\S+)", re.MULTILINE)
_SPANNED: Final = re.compile(r"^\s+spanned\s+(\d+)", re.MULTILINE)
_START: Final = re.compile(r"^\s+start_pfn:\s+(\d+)", re.MULTILINE)
_MOST_FRAMES: Final = 1 << 40  # 52 bits of machine address: no count in these files can be larger


class BuddyCounts(NamedTuple):
    """Free blocks of a host by order, summed over its zones; the last order is the kernel's largest."""

    blocks: tuple[int, ...]

    @property
    def top_order(self) -> int:
        """The largest order that the kernel keeps; larger free memory shows as many of these."""
        return len(self.blocks) - 1

    @property
    def free_frames(self) -> int:
        """All frames in the lists [4 KiB frames]."""
        return sum(count << order for order, count in enumerate(self.blocks))


def read_text(path: Path) -> str:
    """Return a small text file of the kernel, or raise HostError that says what to do."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise HostError(str(path), f"cannot be read ({error.strerror}); {ADVICE}") from error


def read_buddyinfo(path: Path = BUDDYINFO) -> BuddyCounts:
    """Return the free block counts of a buddyinfo file.

    Raises
    ------
    HostError : the file cannot be read, is empty or short, has an unknown line, or counts nothing as free
    """
    rows = [_parse_line(line, path) for line in read_text(path).splitlines() if line.strip()]
    if len({len(row) for row in rows}) != 1:
        raise HostError(str(path), f"is empty or has lines of different lengths; {ADVICE}")
    counts = BuddyCounts(tuple(sum(column) for column in zip(*rows, strict=True)))
    if counts.top_order > MAX_HEAP_ORDER:
        raise HostError(str(path), f"has {counts.top_order + 1} orders; at most {MAX_HEAP_ORDER + 1} are known")
    if not 0 < counts.free_frames <= _MOST_FRAMES:
        raise HostError(str(path), f"counts {counts.free_frames} free frames, which no host has; {ADVICE}")
    return counts


def _parse_line(line: str, path: Path) -> tuple[int, ...]:
    """Return the block counts of one zone, order 0 first."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise HostError(str(path), f"has a line that is no zone: {line[:60]!r}")
    # Longer than any real count would only cost time: int() of a long text is quadratic.
    return tuple(int(number[:20]) for number in match.group(1).split())


def read_machine_frames(zoneinfo: Path = ZONEINFO, meminfo: Path = MEMINFO) -> int:
    """Return the first mfn beyond the host's memory; from MemTotal, without holes, if zones are hidden."""
    try:
        return read_span(zoneinfo)
    except HostError:
        return read_meminfo("MemTotal", meminfo) // FRAME_BYTES


def read_span(path: Path = ZONEINFO) -> int:
    """Return the end of the highest zone of a zoneinfo file [4 KiB frames].

    Device zones are left out: they describe memory that the buddy allocator never gets.
    """
    end = 0
    parts = _ZONE.split(read_text(path))[1:]
    for name, body in zip(parts[0::2], parts[1::2], strict=True):
        spanned, start = _SPANNED.search(body), _START.search(body)
        if name != "Device" and spanned and start and int(spanned.group(1)):
            end = max(end, int(start.group(1)) + int(spanned.group(1)))
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
    packing : "contiguous": top blocks adjoin and form larger ones, up to order 20, as far as their count
        allows; "scattered": no two top blocks are buddies, as far as the machine's used memory can keep them
        apart
    """
    check_packing(packing)
    blocks = _with_larger_blocks(counts, machine_frames, packing)
    if not fits(machine_frames, blocks):
        machine_frames = _roomy_frames(counts)
        blocks = _with_larger_blocks(counts, machine_frames, packing)
    # A fixed seed: the same counts give the same map.
    mfns, orders = place_blocks(machine_frames, blocks, np.random.Generator(np.random.PCG64(0)))
    starts, frames = merge_blocks(mfns, orders)
    return FreeRuns(starts, frames, machine_frames)


def _with_larger_blocks(counts: BuddyCounts, machine_frames: int, packing: str) -> list[int]:
    """Return blocks of the orders 0..20: the counted ones, those of the top order joined as assumed."""
    top = counts.top_order
    places = machine_frames >> top  # above the top order, a top block is what a frame is below it
    extents = [counts.blocks[top]]
    for _ in range(top, MAX_HEAP_ORDER):
        wanted = extents[-1] >> 1 if packing == "contiguous" else 0
        extents.append(pair_extents(places, extents, wanted))
    return [*counts.blocks[:top], *extents_to_blocks(extents)]


def _roomy_frames(counts: BuddyCounts) -> int:
    """Return a machine in which every block has a used buddy [4 KiB frames], a multiple of 4 GiB."""
    needed = 2 * counts.free_frames
    return -(-needed >> MAX_HEAP_ORDER) << MAX_HEAP_ORDER


def describe_packing(counts: BuddyCounts, packing: str) -> str:
    """Return the assumption about the places of blocks, in one sentence."""
    size = format_bytes(FRAME_BYTES << counts.top_order)
    top = counts.blocks[counts.top_order]
    if packing == "contiguous":
        return f"the {top} free blocks of {size} adjoin and form larger ones as far as their count allows"
    return f"the {top} free blocks of {size} stand apart wherever used memory can keep them so"
