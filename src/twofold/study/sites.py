"""One guest on one host, for a comparison and for commands that look at one thing: build it, run in it, walk it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import BinaryIO

import numpy as np

from twofold.domain import Built, Domain, DomainOptions, Machine, build
from twofold.files import write_whole
from twofold.formats import status as codes
from twofold.freemaps import FreeMap
from twofold.guest import Guest
from twofold.study.hosts import default_memory, free_map
from twofold.study.modes import Mode
from twofold.study.row import variant_name
from twofold.study.scenario import GuestScenario, Scenario
from twofold.units import parse_bytes

_ENDINGS = {
    codes.NOT_PRESENT: "is not mapped",
    codes.RESERVED: "meets an entry with reserved bits set",
    codes.OUTSIDE: "meets an entry that points outside the machine",
    codes.FORBIDDEN: "is forbidden",
}


@dataclass(frozen=True)
class Site:
    """How a guest comes to be, on whichever host state.

    Parameters
    ----------
    mode : with the sizes of its P2M leaves
    seed : of the machine
    fallback : for the design "toolstack" alone; see `domain.build`
    """

    guest: GuestScenario
    mode: Mode
    behaviour: str
    design: str
    seed: int
    fallback: str | None = None

    @property
    def variant(self) -> str:
        """What is built."""
        return variant_name(self.design, self.behaviour, self.mode.name)

    def machine(self, free: FreeMap, journal: Path | None = None) -> Machine:
        """Return the machine that the guest is to be built on.

        journal : write every operation to this file
        """
        mode = self.mode.host_paging
        return Machine(free=free, seed=self.seed, behaviour=self.behaviour, paging=mode, journal=journal)

    def build(self, machine: Machine, memory: int) -> tuple[Domain, Built]:
        """Create the guest, with so much memory [bytes], and build it."""
        options = DomainOptions(
            paging=self.mode.paging,
            page_sizes=self.mode.page_sizes,
            table_format=self.mode.table_format,
            layout=self.guest.layout,
            table_pool=self.guest.table_pool,
        )
        domain = machine.create_domain(memory, self.design, options)
        exact = [part.exact() for part in self.guest.exact]
        return domain, build(domain, self.design, fallback=self.fallback, exact=exact)


def first_site(scenario: Scenario) -> Site:
    """Return the site of a scenario's first mode, behaviour and design."""
    mode = scenario.full_modes[0]
    return Site(scenario.guest, mode, scenario.behaviours[0], scenario.designs[0], scenario.seed)


def guest_memory(scenario: Scenario, free: FreeMap) -> int:
    """Return the memory of the guest: as the scenario says, or a quarter of what is free [bytes]."""
    return default_memory(free) if scenario.guest.memory is None else parse_bytes(scenario.guest.memory)


def tables_digest(domain: Domain) -> str:
    """Return the SHA-256 of a P2M's tables: where each stands, and every entry of it.

    Equal digests mean the same tables, bit for bit and frame for frame.
    """
    pool = domain.pool
    frames = np.concatenate([np.arange(mfn, mfn + length) for mfn, length in zip(*pool.runs, strict=True)])
    in_use = np.setdiff1d(frames.astype(np.uint64), pool.stock[: pool.free])
    digest = hashlib.sha256(in_use.tobytes())
    for mfn in in_use.tolist():
        digest.update(domain.machine.arena.tables[mfn])
    return digest.hexdigest()


def build_all(
    scenario: Scenario,
    free: FreeMap,
    fallback: str | None = None,
    *,
    save: Path | None = None,
    journal: Path | None = None,
) -> list[tuple[str, Built]]:
    """Build the guest by each design, behaviour and mode, each on a machine of its own; return what came of it.

    Parameters
    ----------
    fallback : for the design "toolstack" alone; see `domain.build`
    save : save each machine there, the last one stays
    journal : save there what was done on each machine, for `replay`; the last one stays. Whole, or not at all

    Raises
    ------
    BuildError : a design cannot build the guest on this host
    FormatError : a file cannot be written
    """
    builds: list[tuple[str, Built]] = []

    def build_one(site: Site, draft: BinaryIO | None) -> None:
        with site.machine(free, None if draft is None else Path(draft.name)) as machine:
            builds.append((site.variant, site.build(machine, guest_memory(scenario, free))[1]))
            if save is not None:
                machine.save(save)

    for mode, behaviour, design in product(scenario.full_modes, scenario.behaviours, scenario.designs):
        chosen = fallback if design == "toolstack" else None
        site = Site(scenario.guest, mode, behaviour, design, scenario.seed, chosen)
        if journal is None:
            build_one(site, None)
        else:
            write_whole(journal, partial(build_one, site), is_private=True)
    return builds


@contextmanager
def guest_site(scenario: Scenario) -> Iterator[Guest]:
    """Build a scenario's guest by its first mode and design and yield it, with the first of its page sizes inside."""
    free, site = free_map(scenario.host, scenario.seed), first_site(scenario)
    with site.machine(free) as machine:
        domain, _ = site.build(machine, guest_memory(scenario, free))
        yield Guest(domain, site.mode.guest, scenario.pages_of(site.mode)[0], scenario.guest.footprint)


def read_address(text: str, base: int) -> int:
    """Return a guest virtual address: a number such as 0x400000, or "+OFFSET" into the workload's area at `base`.

    Raises
    ------
    SizeError : neither
    """
    number = parse_bytes(text.removeprefix("+"))
    return base + number if text.startswith("+") else number


def walk_answer(gva: int, status: int, reads: int, maddr: int) -> str:
    """Return the end of a walk as one sentence."""
    if status == codes.OK:
        return f"gva {gva:#x} is maddr {maddr:#x}: {reads} table reads"
    return f"gva {gva:#x} {_ENDINGS[status]}: {reads} table reads"
