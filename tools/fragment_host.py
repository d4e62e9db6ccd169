"""Record the free memory of this Linux host, after settling it or after fragmenting it for real.

    sudo python tools/fragment_host.py fresh fresh.twohost
    sudo python tools/fragment_host.py fragmented fragmented.twohost

`fresh` touches most of the memory once and gives it back: kernels that put page initialisation off have not
listed it before. `fragmented` ages the machine within a minute:

1. the kernel reserves a 1G page, as a host does at boot for a guest that has not come yet;
2. several tenants take most of the rest in 4K pages, in turn, a random number of frames each time;
3. a random part of those turns is given back: free memory in small blocks, between frames in use;
4. what large blocks the kernel has left are taken as 2M pages;
5. the 1G page and random stretches of the 2M pages are given back;
6. the free memory is recorded while the rest is held, and all is released.

Needs root, for /proc/kpageflags and for the machine addresses in /proc/self/pagemap. A margin stays free all
the time, so that the machine does not run out of memory. What is recorded differs from run to run: the kernel
is not seeded. docs/snapshots.md says what the shipped files hold.
"""

import argparse
import mmap
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from twofold.freemaps import FreeMap
from twofold.freemaps.buddyinfo import read_buddyinfo, read_meminfo
from twofold.units import FRAME_BYTES, ORDER_2M, format_bytes, order_name, parse_bytes

MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; not in the mmap module of Python 3.11
LARGE_BYTES: Final = FRAME_BYTES << ORDER_2M
RESERVED_1G: Final = Path("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages")
PAGEMAP_PRESENT: Final = 1 << 63
PAGEMAP_FRAME: Final = (1 << 55) - 1
TENANTS: Final = 8
TURN_FRAMES: Final = 64  # a turn takes 1..64 frames: stretches from 4 KiB to 256 KiB

Place = tuple[mmap.mmap, int]  # a mapping, and where a 2M page begins in it [bytes]
Pages = dict[int, Place]  # by first mfn, ascending


def main() -> None:
    """Record a host as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["fresh", "fragmented"])
    parser.add_argument("file", type=Path, help="where the recorded map goes")
    parser.add_argument("--margin", default="4GiB", help="memory that stays free at all times")
    parser.add_argument("--extents", type=int, default=1, help="free 1G extents in the end")
    parser.add_argument("--give-back", type=float, default=0.6, help="part of the 4K turns given back")
    parser.add_argument("--stretches", default="1GiB", help="2M pages given back in random stretches")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that this program chooses")
    options = parser.parse_args()
    # if memory runs out after all, this program ends before any other
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if options.kind == "fresh":
        touch_once(parse_bytes(options.margin))
        record(options.file, "recorded after all memory had been touched once and given back")
    else:
        fragment(options)


def record(path: Path, how: str) -> None:
    """Save this host's free memory and say what it holds."""
    now = FreeMap.this_host()
    kernel = os.uname().release.split("-")[0]
    note = f"Linux {kernel}, {format_bytes(read_meminfo('MemTotal'))} of memory: {how}"
    replace(now, source="snapshot", notes=(note, *now.notes)).save(path)
    blocks = ", ".join(f"{order_name(order)} {count}" for order, count in now.free_blocks().items())
    size = path.stat().st_size
    sys.stdout.write(f"{path}: {size} bytes, {now.free_frames * FRAME_BYTES / 2**30:.2f} GiB free: {blocks}\n")


def available_bytes(margin: int) -> int:
    """Return what may be taken now, in whole 2M pages, so that `margin` stays free [bytes]."""
    return max(read_meminfo("MemAvailable") - margin, 0) // LARGE_BYTES * LARGE_BYTES


def touch_once(margin: int) -> None:
    """Touch all memory but the margin in a child, which gives it back by ending."""
    child = os.fork()
    if not child:
        take_large(available_bytes(margin))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit("the child that touches the memory was ended; is another program short of memory?")


def take_large(bytes_: int) -> mmap.mmap:
    """Return a private mapping of this size, backed by 2M pages where the kernel has them."""
    region = mmap.mmap(-1, bytes_ + LARGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(mmap.MADV_HUGEPAGE)
    if bytes_:
        region.madvise(MADV_POPULATE_WRITE, 0, bytes_)
    return region


def fragment(options: argparse.Namespace) -> None:
    """Age the machine and record it (see the module's page for the steps)."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one CPU's lists of pages, not several
    dice = random.Random(options.seed)  # noqa: S311 - reproducible choices, no secrets
    with reserved_extents(options.extents):
        turns = take_small(available_bytes(parse_bytes(options.margin)), dice)
        for region, start, length in dice.sample(turns, int(len(turns) * options.give_back)):
            region.madvise(mmap.MADV_DONTNEED, start, length)
        # Not the last of them: there the kernel would move pages about to make room.
        rest = large_pages(take_large(max(large_free_bytes() - (64 << 20), 0)))
    wanted = parse_bytes(options.stretches) // LARGE_BYTES
    for region, start in choose_stretches(rest, wanted, dice):
        region.madvise(mmap.MADV_DONTNEED, start, LARGE_BYTES)
    record(options.file, f"fragmented by tools/fragment_host.py, seed {options.seed}, while it held the rest")


@contextmanager
def reserved_extents(extents: int) -> Iterator[None]:
    """Keep whole 1G extents out of everybody's reach: the kernel reserves them as 1G pages."""
    before = int(RESERVED_1G.read_text(encoding="ascii"))
    try:
        RESERVED_1G.write_text(str(before + extents), encoding="ascii")
        if int(RESERVED_1G.read_text(encoding="ascii")) != before + extents:
            sys.exit(f"the kernel finds no {extents} extents of 1G; is the host too fragmented already?")
        yield
    finally:
        RESERVED_1G.write_text(str(before), encoding="ascii")


def take_small(bytes_: int, dice: random.Random) -> list[tuple[mmap.mmap, int, int]]:
    """Take memory in 4K pages, tenants in turn; return (mapping, start, bytes) of the turns."""
    tenants = [mmap.mmap(-1, bytes_, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(TENANTS)]
    for region in tenants:
        region.madvise(mmap.MADV_NOHUGEPAGE)
    used, turns = [0] * TENANTS, []
    while left := bytes_ - sum(used):
        tenant = dice.randrange(TENANTS)
        length = min(dice.randint(1, TURN_FRAMES) * FRAME_BYTES, left)
        tenants[tenant].madvise(MADV_POPULATE_WRITE, used[tenant], length)
        turns.append((tenants[tenant], used[tenant], length))
        used[tenant] += length
    return turns


def large_free_bytes() -> int:
    """Return the free memory in blocks of 2M and more, whole 2M pages [bytes]."""
    blocks = read_buddyinfo().blocks
    return sum(count << order for order, count in enumerate(blocks) if order >= ORDER_2M) * FRAME_BYTES


def large_pages(region: mmap.mmap) -> Pages:
    """Return the true 2M pages of a mapping, by ascending mfn."""
    found: Pages = {}
    base = address_of(region)
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for gva in range(-base % LARGE_BYTES + base, base + len(region) - LARGE_BYTES + 1, LARGE_BYTES):
            entries = os.pread(pagemap.fileno(), 8 << ORDER_2M, gva // FRAME_BYTES * 8)
            words = memoryview(entries).cast("Q")
            mfn = words[0] & PAGEMAP_FRAME
            is_whole = all(word & PAGEMAP_FRAME == mfn + nth for nth, word in enumerate(words))
            if words[0] & PAGEMAP_PRESENT and mfn % (1 << ORDER_2M) == 0 and is_whole:
                found[mfn] = (region, gva - base)
    return dict(sorted(found.items()))


def address_of(region: mmap.mmap) -> int:
    """Return the virtual address at which a mapping begins."""
    import ctypes  # noqa: PLC0415 - only here, and only for this

    return ctypes.addressof(ctypes.c_char.from_buffer(region))


def choose_stretches(pages: Pages, wanted: int, dice: random.Random) -> list[Place]:
    """Return at most `wanted` of the pages, in random stretches of 1 to 64 neighbours."""
    mfns, chosen = list(pages), set[int]()
    while len(chosen) < min(wanted, len(mfns)):
        first, length = dice.randrange(len(mfns)), 1 << dice.randrange(7)
        chosen.update(mfns[first : first + min(length, wanted - len(chosen))])
    return [pages[mfn] for mfn in sorted(chosen)]


if __name__ == "__main__":
    main()
