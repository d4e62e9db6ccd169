"""Building a domain: populate its RAM by a design, its exact ranges as told, then the special pages.

Either the whole domain is built, or everything that was populated goes back to the machine. That is all that the domain
has, so a build starts from nothing: a domain that has memory already, built or populated by hand, is refused.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from twofold.domain.designs import Design, ToolstackDesign, get_design
from twofold.domain.domain import Domain
from twofold.domain.extents import Extents, Mem
from twofold.domain.holding import MemoryCounters
from twofold.domain.layout import GfnRange, Layout
from twofold.errors import BuildError, SizeError, UnknownNameError, wrong_type
from twofold.machine import Behaviour
from twofold.machine.gate import hold
from twofold.units import (
    FRAME_SHIFT,
    ORDER_4K,
    Gfn,
    Order,
    format_bytes,
    order_name,
    parse_frames,
    parse_order,
)


@dataclass(frozen=True)
class Exact:
    """A range whose page size the tool insists on: never enlarged, never falling back, in every design.

    Parameters
    ----------
    start : guest-physical address, such as "256MiB" or 0x10000000
    size : length of the range
    page_size : "4K", "2M" or "1G"
    """

    start: int | str
    size: int | str
    page_size: str = "4K"

    @property
    def order(self) -> Order:
        """The order that every extent of the range has."""
        return parse_order(self.page_size)

    @property
    def range(self) -> GfnRange:
        """The range in frames."""
        return GfnRange(Gfn(parse_frames(self.start)), parse_frames(self.size))


@dataclass(frozen=True)
class Built:
    """What building a domain came to, without what was asked of the domain before.

    leaves : {order: present leaves of the P2M}
    calls : memory operations
    extents_asked, extents_failed : {order: allocation attempts, and those that the machine refused}
    far_extents : {order: extents that came from another node than the domain's own}
    tables : table frames of the P2M
    """

    leaves: dict[int, int]
    calls: int
    extents_asked: dict[int, int]
    extents_failed: dict[int, int]
    far_extents: dict[int, int]
    tables: int

    @property
    def large_share(self) -> float:
        """Share of the memory that is mapped by leaves larger than 4K."""
        total = sum(count << order for order, count in self.leaves.items())
        return 1 - self.leaves.get(0, 0) / total if total else 0.0


def build(
    domain: Domain,
    design: str | Design = "toolstack",
    *,
    fallback: str | None = None,
    exact: Iterable[Exact] = (),
) -> Built:
    """Populate a domain's memory; all of it, or none.

    A domain is built once, while it is empty: it owns no memory, and its P2M maps nothing and holds no place. So one
    that is built is not built again, and one that was populated by hand, be it by a single memory operation, is not
    built at all. When a build has failed, or all memory was given back (`memory.release_all`), it is empty again.

    Parameters
    ----------
    design : "small", "toolstack", "opportunistic", any installed design, or an object of your own
    fallback : for "toolstack": "memory" or "builder"; None: as the machine's behaviour has it
    exact : ranges that are populated at their own page size

    Raises
    ------
    BuildError : the domain is not empty, or is being destroyed, and nothing has changed; or the machine cannot give the
        memory, and the domain is empty again
    SizeError : an exact range that page sizes, alignment or layout forbid; nothing was built
    """
    return hold(domain.gate.lock, _build, domain, design, fallback, exact)


def _build(domain: Domain, design: str | Design, fallback: str | None, exact: Iterable[Exact]) -> Built:
    domain.gate.check_called("build")
    domain.gate.check_closed("build")
    _check_empty(domain)
    chosen = _choose(design, fallback, domain.machine.behaviour)
    insisted = sorted(exact, key=lambda each: each.range.gfn)
    ram = domain.layout.ram(domain.frames)
    _check_exact(domain, insisted, ram)
    _check_room(domain, ram)
    before = deepcopy(domain.memory.counters)
    try:
        _populate(domain, chosen, ram, insisted)
    except BaseException:  # Ctrl-C too: a half-built domain is of no use to anybody
        domain.memory.release_all()
        raise
    return _result(domain, before)


def _check_empty(domain: Domain) -> None:
    """Refuse a domain that has anything: a build that fails takes all away, and must not take what is not its own."""
    if domain.is_dying:
        raise BuildError(f"domain {domain.domid} is being destroyed; create another one")
    owned = domain.memory.owned_frames
    if owned:
        raise BuildError(
            f"domain {domain.domid} is built already, or populated by hand: it owns "
            f"{format_bytes(owned << FRAME_SHIFT)}; create another one, or give its memory back (memory.release_all)"
        )
    if not domain.p2m.is_empty:
        raise BuildError(
            f"something is mapped in domain {domain.domid} already, or a place is held; build first and map "
            f"afterwards, or unmap everything (memory.release_all)"
        )


def _choose(design: str | Design, fallback: str | None, behaviour: Behaviour) -> Design:
    if fallback is None and design == ToolstackDesign.name:
        return ToolstackDesign(behaviour.fallback)
    if fallback is None:
        if isinstance(design, str):
            return get_design(design)
        if not hasattr(design, "populate"):
            raise wrong_type("a design is a name or has a method populate", design)
        return design
    if design != ToolstackDesign.name:
        raise UnknownNameError("fallback of this design", fallback, ("none",))
    return ToolstackDesign(fallback)


def _check_exact(domain: Domain, exact: list[Exact], ram: tuple[GfnRange, ...]) -> None:
    """Refuse, before anything is built, what could not be built as insisted."""
    end = 0
    for each in exact:
        where, order = each.range, each.order
        text = f"exact range at {where.gfn << FRAME_SHIFT:#x}"
        if order not in domain.page_sizes:
            sizes = ", ".join(map(order_name, domain.page_sizes))
            raise SizeError(each.page_size, f"of the {text} is switched off: leaves may be {sizes}")
        if (where.gfn | where.frames) & ((1 << order) - 1) or not where.frames:
            raise SizeError(str(each.size), f"of the {text} is no whole number of aligned {each.page_size} pages")
        if not any(part.gfn <= where.gfn and where.end <= part.end for part in ram):
            raise SizeError(str(each.size), f"of the {text} lies not wholly in the guest's RAM")
        if where.gfn < end:
            raise SizeError(str(each.size), f"of the {text} overlaps the one before it")
        end = where.end


def _check_room(domain: Domain, ram: tuple[GfnRange, ...]) -> None:
    """Refuse a guest larger than the machine at once, instead of filling the machine first."""
    wanted = sum(part.frames for part in (*ram, *domain.layout.special))
    free = domain.machine.heap.free_frames
    if wanted > free:
        raise BuildError(
            f"it needs {format_bytes(wanted << FRAME_SHIFT)} and the machine has "
            f"{format_bytes(free << FRAME_SHIFT)} free; make the guest smaller"
        )


class _Populate:
    """The populate operation as a design sees it, with the leaf orders that it may ask for."""

    def __init__(self, domain: Domain) -> None:
        self._memory = domain.memory
        self.orders = domain.p2m.geometry.leaf_orders

    def __call__(self, gfns: range, order: Order, flags: Mem = Mem.NONE) -> Extents:
        """Populate one extent of this order at each gfn."""
        return hold(self._memory.gate.lock, self._populate, gfns, order, flags)

    def _populate(self, *arguments: Any) -> Extents:
        gate, populate = self._memory.gate, self._memory.populate_physmap
        if not gate.building.locked() or gate.populating.locked():
            return populate(*arguments)
        told = gate.machine.told
        answer = hold(gate.populating, populate, *arguments)
        gate.hush(told)
        return answer

    def be_called_by(self, design: Design, gfns: range, layout: Layout) -> None:
        """Let a design populate a range: it may do so with this, and look, and nothing else."""
        gate = self._memory.gate
        gate.hush(f"the design {design.name}")
        hold(gate.building, design.populate, self, gfns, layout)
        gate.check_here()


def _populate(domain: Domain, design: Design, ram: tuple[GfnRange, ...], exact: list[Exact]) -> None:
    """Populate exact ranges first, so that they get their order while it is there; then the rest by the design."""
    populate = _Populate(domain)
    for each in exact:
        gfns = range(each.range.gfn, each.range.end, 1 << each.order)
        answer = populate(gfns, each.order, Mem.EXACT)
        if not answer.complete:
            raise BuildError(f"the exact range at gfn {each.range.gfn:#x}: {answer.reason}")
    for part in _without(ram, [each.range for each in exact]):
        populate.be_called_by(design, range(part.gfn, part.end), domain.layout)
        _check_populated(domain, part)
    for part in domain.layout.special:
        answer = populate(range(part.gfn, part.end), ORDER_4K, Mem.EXACT)
        if not answer.complete:
            raise BuildError(f"the special pages at gfn {part.gfn:#x}: {answer.reason}")


def _without(ram: tuple[GfnRange, ...], cut: list[GfnRange]) -> Iterator[GfnRange]:
    """Yield RAM without the ranges that are cut out of it."""
    for part in ram:
        start = part.gfn
        for hole in cut:
            if part.gfn <= hole.gfn < part.end:
                if start < hole.gfn:
                    yield GfnRange(start, hole.gfn - start)
                start = Gfn(hole.end)
        if start < part.end:
            yield GfnRange(start, part.end - start)


def _check_populated(domain: Domain, part: GfnRange) -> None:
    """Raise unless a design has populated all of a range."""
    _, _, lengths = domain.p2m.runs(part.gfn, part.frames)
    missing = part.frames - int(lengths.sum())
    if missing:
        raise BuildError(
            f"{missing} of {part.frames} frames at gfn {part.gfn:#x} could not be populated: "
            f"{domain.memory.last_reason or 'the design left them out'}"
        )


def _result(domain: Domain, before: MemoryCounters) -> Built:
    now = domain.memory.counters
    return Built(
        leaves=domain.p2m.leaves(),
        calls=sum((now.calls - before.calls).values()),
        extents_asked=dict(sorted((now.asked - before.asked).items())),
        extents_failed=dict(sorted((now.refused - before.refused).items())),
        far_extents=dict(sorted((now.far - before.far).items())),
        tables=domain.p2m.tables,
    )
