"""The machine as a hypervisor has it: hardware memory plus the domains that live on it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from twofold import kernels
from twofold.domain.domain import Domain
from twofold.domain.host import Host
from twofold.domain.options import DomainOptions, leaf_orders
from twofold.dumps import SavedDomain, save_machine
from twofold.errors import BuildError, HeapExhaustedError, SizeError, UnknownNameError
from twofold.formats.engine import Engine
from twofold.formats.table_formats import NPT_OF_MODE
from twofold.freemaps import FreeMap
from twofold.machine import get_behaviour
from twofold.machine.digest import Field
from twofold.machine.gate import hold, look
from twofold.machine.journal import Journal, journaled
from twofold.units import FRAME_SHIFT, Order, format_bytes, parse_frames


class Machine(Host):
    """One machine and its domains.

    Parameters
    ----------
    size : a machine of this size with all memory free, such as "16GiB"; or give `free`
    free : start from this map of free memory
    paging : the hypervisor's own mode, "4-level", "5-level", "pae" or "2-level": the format of its NPT
    page_sizes : the sizes of P2M leaves that the machine allows, such as "4K,2M"; None: all of the format
    seed : what random choices on this machine start from
    engine : `kernels`, or its readable twin `spec`
    behaviour : "twofold", or "xen-4.17": do as that Xen does where the two differ
    nodes : NUMA nodes, which share the memory evenly
    journal : write every operation to this file, for `replay`; one that is there is replaced
    """

    def __init__(
        self,
        size: int | str | None = None,
        *,
        free: FreeMap | None = None,
        paging: str = "4-level",
        page_sizes: str | tuple[Order, ...] | None = None,
        seed: int = 0,
        engine: Engine = kernels,
        behaviour: str = "twofold",
        nodes: int = 1,
        journal: str | Path | None = None,
    ) -> None:
        if paging not in NPT_OF_MODE:
            raise UnknownNameError("paging mode", paging, tuple(NPT_OF_MODE))
        if free is None:
            if size is None:
                raise SizeError("", "is missing: give a size or a free map")
            free = FreeMap.empty_machine(size)
        elif size is not None:
            raise SizeError(str(size), "cannot stand beside a free map: the map says how large the machine is")
        npt = NPT_OF_MODE[paging]
        if free.machine_frames > npt.large_limit:
            most = format_bytes(npt.large_limit << FRAME_SHIFT)
            asked = format_bytes(free.machine_frames << FRAME_SHIFT)
            raise SizeError(asked, f"is beyond what a {paging} machine reaches: {most}")
        self.paging = paging
        self.page_sizes = leaf_orders(page_sizes, npt.geometry)
        self.seed = seed
        self.domains: dict[int, Domain] = {}
        self._last_domid = 0
        super().__init__(free, engine, get_behaviour(behaviour), nodes)
        if journal is not None:
            self._begin_journal(Path(journal), free, behaviour)

    def _begin_journal(self, path: Path, free: FreeMap, behaviour: str) -> None:
        """Record everything from now on, what the machine was made with first."""
        settings = {
            "paging": self.paging,
            "page_sizes": self.page_sizes,
            "seed": self.seed,
            "behaviour": behaviour,
            "nodes": self.nodes,
        }
        try:
            self.journal = Journal(path, settings, free.to_bytes())
        except BaseException:
            super().close()
            raise
        self.gate.on_fork(self.journal.let_go)
        self.watch(0, self, self.heap, self.arena)

    @journaled
    def create_domain(self, size: int | str, name: str = "", options: DomainOptions | None = None) -> Domain:
        """Return a new domain without memory; its table pool is reserved.

        Parameters
        ----------
        size : the memory that it is to have, such as "4GiB"

        Raises
        ------
        BuildError : the heap cannot give the table pool
        """
        frames = parse_frames(size)
        if not frames:
            raise SizeError(str(size), "is no memory at all")
        self._last_domid += 1
        domid = self._last_domid
        try:
            domain = Domain(self, domid, name or f"domain{domid}", frames, options or DomainOptions())
        except HeapExhaustedError as error:
            raise BuildError(
                f"its table pool needs {format_bytes(error.wanted_frames << FRAME_SHIFT)} and the machine has "
                f"{format_bytes(error.free_frames << FRAME_SHIFT)} free; make the guest smaller"
            ) from error
        self.domains[domid] = domain
        return domain

    @journaled
    def set_page_sizes(self, page_sizes: str | tuple[Order, ...] | None) -> None:
        """Change what P2M leaves the machine allows; applies to new mappings of every domain.

        `p2m.split_all` and `p2m.merge_all` apply it to those that are there.
        """
        self.page_sizes = leaf_orders(page_sizes, NPT_OF_MODE[self.paging].geometry)
        for domain in self.domains.values():
            if not domain.is_dying:
                domain.apply_page_sizes()

    @look
    def save(self, path: str | Path) -> None:
        """Write page tables, frame table, M2P and free memory to a file, for `open_tables` and `twofold audit`.

        What guests have in their memory is not written.

        Raises
        ------
        FormatError : the file cannot be written; nothing is left of it
        """
        domains = [
            SavedDomain(each.domid, each.name, each.p2m.format, each.p2m.root)
            for each in self.domains.values()
            if not each.gate.is_bare
        ]
        save_machine(Path(path), self, self.paging, domains)

    def forget(self, domid: int) -> None:
        """Take a destroyed domain off the list; `Domain.destroy` calls this."""
        self.domains.pop(domid, None)

    def digest_fields(self) -> Iterator[Field]:
        """Yield what of machine and domains decides what happens next."""
        yield "paging", self.paging
        yield "page sizes", self.page_sizes
        yield "seed", str(self.seed)  # whatever it is
        yield "last domid", self._last_domid
        yield from super().digest_fields()
        for _, domain in sorted(self.domains.items()):
            yield from domain.digest_fields()

    def close(self) -> None:
        """Give all memory back to the host, at once; nothing of the machine may be used afterwards.

        In a child that was forked, only the child's own view of it.

        Raises
        ------
        ListenerError : it comes from a function that an operation is just calling
        """
        hold(self.gate.lock, self._close)

    def _close(self) -> None:
        if self.gate.is_open:
            self.gate.check_called("Machine.close")
            self.gate.check_idle("Machine.close")
        self.gate.close("is closed")
        super().close()
        if self.journal is not None:
            self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
