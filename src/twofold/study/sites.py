"""One guest on one host, for the commands that look at a single thing: build it, run in it, walk it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from twofold.domain import Built, Domain, DomainOptions, Machine, build
from twofold.formats import status as codes
from twofold.freemaps import FreeMap
from twofold.guest import Guest
from twofold.study.hosts import default_memory, free_map
from twofold.study.outcome import variant_name
from twofold.study.scenario import GuestScenario, Scenario
from twofold.trace import AREA_BASE
from twofold.units import parse_bytes

_ENDINGS = {
    codes.NOT_PRESENT: "is not mapped",
    codes.RESERVED: "meets an entry with reserved bits set",
    codes.OUTSIDE: "meets an entry that points outside the machine",
    codes.FORBIDDEN: "is forbidden",
}


def domain_options(guest: GuestScenario) -> DomainOptions:
    """Return the options that a scenario's guest is created with."""
    return DomainOptions(page_sizes=guest.page_sizes, layout=guest.layout, table_pool=guest.table_pool)


def guest_memory(scenario: Scenario, free: FreeMap) -> int:
    """Return the memory of the guest: as the scenario says, or a quarter of what is free [bytes]."""
    return default_memory(free) if scenario.guest.memory is None else parse_bytes(scenario.guest.memory)


def build_guest(
    scenario: Scenario, machine: Machine, memory: int, design: str, fallback: str | None = None
) -> tuple[Domain, Built]:
    """Create a scenario's guest on a machine and build it by one design.

    Parameters
    ----------
    memory : of the guest [bytes]
    fallback : for the design "toolstack" alone; see `domain.build`
    """
    domain = machine.create_domain(memory, design, domain_options(scenario.guest))
    exact = [part.exact() for part in scenario.guest.exact]
    return domain, build(domain, design, fallback=fallback, exact=exact)


def build_all(
    scenario: Scenario, free: FreeMap, fallback: str | None = None, save: Path | None = None
) -> list[tuple[str, Built]]:
    """Build the guest by each design and behaviour, each on a machine of its own; return what came of it.

    Parameters
    ----------
    fallback : for the design "toolstack" alone; see `domain.build`
    save : save each machine there, the last one stays
    """
    builds = []
    for behaviour, design in product(scenario.behaviours, scenario.designs):
        with Machine(free=free, seed=scenario.seed, behaviour=behaviour) as machine:
            chosen = fallback if design == "toolstack" else None
            built = build_guest(scenario, machine, guest_memory(scenario, free), design, chosen)[1]
            builds.append((variant_name(design, behaviour), built))
            if save is not None:
                machine.save(save)
    return builds


@contextmanager
def guest_site(scenario: Scenario) -> Iterator[Guest]:
    """Build a scenario's guest by its first design and yield it, with the first of its page sizes inside."""
    free = free_map(scenario.host, scenario.seed)
    with Machine(free=free, seed=scenario.seed) as machine:
        domain, _ = build_guest(scenario, machine, guest_memory(scenario, free), scenario.designs[0])
        yield Guest(domain, page_sizes=scenario.guest_pages[0], footprint=scenario.guest.footprint)


def read_address(text: str) -> int:
    """Return a guest virtual address: a number such as 0x400000, or "+OFFSET" into the workload's area.

    Raises
    ------
    SizeError : neither
    """
    number = parse_bytes(text.removeprefix("+"))
    return AREA_BASE + number if text.startswith("+") else number


def walk_answer(gva: int, status: int, reads: int, maddr: int) -> str:
    """Return the end of a walk as one sentence."""
    if status == codes.OK:
        return f"gva {gva:#x} is maddr {maddr:#x}: {reads} table reads"
    return f"gva {gva:#x} {_ENDINGS[status]}: {reads} table reads"
