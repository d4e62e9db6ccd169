"""Things that happen in the middle of a trace: tables change, entries are flushed, another address space is loaded.

A change of a table reaches nobody by itself, as in hardware: what is cached stays in use until it is flushed.

    Event(1_000_000, lambda mmu: p2m.split(gfn, 0))      # the P2M changes; entries of the old leaf stay in use
    Event(1_000_500, Mmu.invalidate_p2m)                 # ... until here

Whoever wants the MMU to drop what each flush of the P2M covers, as a hypervisor sees to it, asks for that:

    Event(0, lambda mmu: p2m.on_flush(mmu.obey))
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from twofold.errors import SizeError
from twofold.formats.arrays import Marks, Words
from twofold.mmu.model import Mmu
from twofold.mmu.stats import MmuStats


@dataclass(frozen=True)
class Event:
    """A change that happens just before an access.

    Parameters
    ----------
    access : index in the whole trace, warm-up included; from 0
    change : called with the MMU; may change any table, flush, or load another address space
    """

    access: int
    change: Callable[[Mmu], object]


def run_with_events(
    mmu: Mmu,
    blocks: Iterable[tuple[Words, Marks | None]],
    warmup: int = 0,
    events: Iterable[Event] = (),
    threads: int = 1,
) -> Iterator[MmuStats]:
    """Run blocks of addresses that follow each other, with events in between; yield the counts of each piece.

    Parameters
    ----------
    blocks : (gvas, kinds of access or None) in order
    warmup : so many first accesses fill the caches without being counted [accesses]
    threads : as for `Mmu.run`
    events : in any order; those of one access happen in the order given, those beyond the trace not at all

    Raises
    ------
    SizeError : an event at an access below 0
    """
    waiting = sorted(events, key=lambda event: event.access)
    if waiting and waiting[0].access < 0:
        raise SizeError(str(waiting[0].access), "is no index of an access")
    start = 0
    for gvas, kinds in blocks:
        position = 0
        while position < len(gvas):
            while waiting and waiting[0].access == start + position:
                waiting.pop(0).change(mmu)
            end = min(len(gvas), waiting[0].access - start) if waiting else len(gvas)
            cold = min(max(warmup - start - position, 0), end - position)
            piece = None if kinds is None else kinds[position:end]
            yield mmu.run(gvas[position:end], cold, piece, threads)
            position = end
        start += len(gvas)
