"""Trace files in bounded memory: their addresses as a stream, and what they cost on the tables of a guest."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twofold.errors import FormatError
from twofold.guest import TraceGuest, TracePolicy
from twofold.guest.addresses import Gvas, Kinds, blocks_of
from twofold.memory import MemoryWatch
from twofold.mmu import MmuStats
from twofold.study.held import Progress, open_trace, read_accesses
from twofold.study.hosts import free_map
from twofold.study.refusal import refusal
from twofold.study.scenario import Scenario
from twofold.study.simulation import simulate
from twofold.study.sites import first_site, guest_memory
from twofold.trace import Trace


@dataclass(frozen=True)
class TracePrice:
    """What a trace costs.

    Parameters
    ----------
    stats : what the MMU model counted
    resident_bytes : the most that was resident beside the machine's memory, looked at before each block
    """

    stats: MmuStats
    resident_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return counters and ratios as JSON has them."""
        ratios = dict(self.rows())
        return {"stats": asdict(self.stats), "ratios": ratios, "resident_bytes": self.resident_bytes}

    def rows(self) -> list[tuple[str, float]]:
        """Return (what, number) of what people compare."""
        stats = self.stats
        return [
            ("misses per 1000", round(stats.misses_per_1000, 3)),
            ("reads per walk", round(stats.reads_per_walk, 3)),
            ("walk cycles per access", round(stats.walk_cycles_per_access, 3)),
            ("translation cycles per access", round(stats.cycles_per_access, 3)),
        ]


def price_trace(
    path: str | Path,
    scenario: Scenario,
    policy: TracePolicy | None = None,
    *,
    source_format: str | None = None,
    max_memory: int | str | None = None,
    progress: Progress | None = None,
) -> TracePrice:
    """Return what the loads and stores of a trace cost in a guest that maps what they touch.

    Parameters
    ----------
    path : of any format, packed perhaps; "-" is standard input
    scenario : its host, guest, first mode, behaviour and design, first CPU, warmup
    policy : page sizes and placement inside the guest; None: 4K pages
    source_format : name of the trace's format; None: by what it holds
    max_memory : give up rather than hold more, the machine's memory aside; None: no bound [bytes]
    progress : called as the file is read, and before each block: text, bytes or accesses done, and in all

    Raises
    ------
    UnknownNameError : no such format
    FormatError : the file is no trace, not whole, or does not match its checksums
    GuestError : the guest's memory cannot hold what the trace touches
    SizeError : more memory than may be held
    """
    watch, warmup = MemoryWatch(max_memory), scenario.warmup or 0
    with open_trace(path, source_format, progress=progress) as trace:
        check_counted(path, max(len(trace) - warmup, 0), warmup)
        free, site = free_map(scenario.host, scenario.seed), first_site(scenario)
        with site.machine(free) as machine:
            domain, _ = site.build(machine, guest_memory(scenario, free))
            # Verified here, where a checksum costs less than beside the model.
            guest = TraceGuest(domain, trace.verified(), policy, site.mode.guest)
            blocks = watch.over(_reported(trace, progress))
            stats = simulate(blocks, guest, scenario.cpus[0], warmup=warmup)
    check_counted(path, stats.accesses, warmup)
    return TracePrice(stats, watch.most)


def check_counted(path: str | Path, accesses: int, warmup: int) -> None:
    """Raise unless something of a trace was counted.

    Raises
    ------
    ScenarioError : the warm-up took all of it
    FormatError : there is nothing
    """
    if not accesses and warmup:
        raise refusal(path, ("warmup",), f"{warmup} accesses leave none of the trace's loads and stores to count")
    if not accesses:
        raise FormatError(path, "holds no load and no store")


def _reported(trace: Trace, progress: Progress | None) -> Iterator[tuple[Gvas, Kinds]]:
    """Yield the loads and stores of a trace, and say before each block how many came before."""
    done = 0
    for gvas, kinds in trace.accesses():
        if progress is not None:
            progress("simulating", done, len(trace))
        done += len(gvas)
        yield gvas, kinds


def stream_trace(
    path: str | Path,
    source_format: str | None = None,
    *,
    accesses: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Gvas]:
    """Yield the addresses that `read_accesses` finds in a trace of any format, in order, in blocks."""
    yield from blocks_of(read_accesses(path, source_format, accesses=accesses, progress=progress))
