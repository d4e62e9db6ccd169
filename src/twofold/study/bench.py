"""The bench: what a cell is measured on. It keeps the guest that was measured last: the next cell is often there.

For a cell a machine is made from the host's free map, the domain is built, and a guest with the cell's page size is set
up in it. The workload is executed there, and its answer has to be the right one. Meanwhile a long trace of the same
workload is priced on the very tables that the program ran on. A trace of one's own is priced only: a guest is made for
what it touches. What is kept only saves time: a bench that measures one
cell, and one that measures a thousand in any order, come to the same. Read first: `Bench.measure`.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

from twofold.domain import Built, Domain, Machine
from twofold.errors import FormatError, FreeMapError, GuestError
from twofold.freemaps import FreeMap
from twofold.guest import Guest, Program, TraceGuest, TracePolicy, check_answer, run
from twofold.mmu import MmuStats
from twofold.study.cells import Cell, trace_of
from twofold.study.held import HeldTrace, Progress
from twofold.study.hosts import HostStates, free_digest
from twofold.study.scenario import Scenario
from twofold.study.simulation import simulate, workload_trace
from twofold.study.sites import Site, tables_digest
from twofold.trace import get_workload
from twofold.units import parse_bytes

THREADS: Final = 2
_PATIENCE: Final = 3600.0  # seconds: a workload ends by itself, but late beside kernels that compile
_Guest = tuple[Site, str, str]  # site, free map, guest pages


@dataclass(frozen=True)
class Measured:
    """What was found of a cell; `stats` is None where the guest cannot hold the page size, and `reason` says why."""

    built: Built
    tables: str  # digest of the P2M's tables
    answer: int | None  # of the program; None where a trace is priced
    stats: MmuStats | None
    reason: str = ""


class Bench:
    """Measures cells of one scenario.

    Parameters
    ----------
    scenario : says where the host's free memory comes from
    free : that memory, where the caller has it already
    progress : told how far its trace is read

    Attributes
    ----------
    held : the scenario's trace, while the bench is entered; None where it has none
    """

    def __init__(self, scenario: Scenario, free: FreeMap | None = None, progress: Progress | None = None) -> None:
        self.states = HostStates(scenario.host, scenario.seed, free)
        self.held: HeldTrace | None = None
        self._trace = trace_of(scenario, progress)
        self._open = ExitStack()
        self._expected: dict[_Guest, list[Cell]] = {}
        self._built: _BuiltSite | None = None
        self._cycles: dict[str, float | None] = {}  # of cells that others are measured against, by digest

    def __enter__(self) -> Self:
        self.held = self._open.enter_context(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        with self._open:
            self._leave()

    def expect(self, cells: Iterable[Cell]) -> None:
        """Say which cells will come, so that those of one guest are priced side by side."""
        self._expected = {}
        for cell in cells:
            self._expected.setdefault(_guest_of(cell), []).append(cell)

    def domain_of(self, cell: Cell) -> Domain:
        """Return the domain of a cell, as it was built."""
        return self._site_of(cell).domain

    def measure(self, cell: Cell) -> Measured:
        """Return what is found of a cell.

        Raises
        ------
        FreeMapError : the host's free memory is not that of the cell
        FormatError : the scenario's trace is not that of the cell
        BuildError : the design cannot build the guest on this host
        GuestError : the program gave a wrong answer
        """
        if cell.trace is not None and (self.held is None or self.held.digest != cell.trace.digest):
            raise FormatError(cell.workload, "is not the trace that the cell is about")
        site = self._site_of(cell)
        together = self._expected.get(_guest_of(cell), [])
        return site.measure(cell, together if cell in together else [cell])

    def base_cycles(self, cell: Cell, find: Callable[[Cell], float | None]) -> float | None:
        """Return the cycles per access that a cell's speed-up is measured against, found once; None without any."""
        base = cell.base_cell
        if base is None:
            return None
        digest = base.digest
        if digest not in self._cycles:
            self._cycles[digest] = find(base)
        return self._cycles[digest]

    def _site_of(self, cell: Cell) -> "_BuiltSite":
        """Return the site of a cell, built where it is not there already."""
        if self._built is None or self._built.key != (cell.site, cell.free_map):
            self._leave()
            free = self.states.get(cell.seed)
            if free_digest(free) != cell.free_map:
                raise FreeMapError("this is not the free memory that the cell is about: load the host's snapshot")
            self._built = _BuiltSite(cell, free, self.held)
        return self._built

    def _leave(self) -> None:
        if self._built is not None:
            self._built.close()
            self._built = None


def _guest_of(cell: Cell) -> _Guest:
    """Return what cells have in common that are measured in one guest."""
    return cell.site, cell.free_map, cell.guest_pages


class _BuiltSite:
    """One design built on one host state, and the guest that was set up in it last."""

    def __init__(self, cell: Cell, free: FreeMap, held: HeldTrace | None) -> None:
        self._held = held
        self.key = (cell.site, cell.free_map)
        self._machine: Machine = cell.site.machine(free)
        try:
            self.domain, self._built = cell.site.build(self._machine, parse_bytes(cell.guest.memory or 0))
        except BaseException:
            self._machine.close()
            raise
        self._tables = tables_digest(self.domain)
        self._tenant: _Tenant | None = None

    def measure(self, cell: Cell, together: list[Cell]) -> Measured:
        """Return what is found of a cell of this site. `together` : cells that will be asked for in the same guest."""
        if self._tenant is None or not self._tenant.has(cell):
            self._move_out()
            try:
                self._tenant = self._move_in(cell, together)
            except GuestError as error:
                return Measured(self._built, self._tables, None, None, str(error))
        answer, stats = self._tenant.result(cell)
        return Measured(self._built, self._tables, answer, stats)

    def _move_in(self, cell: Cell, together: list[Cell]) -> "_Tenant":
        """Set up the guest of a cell, and begin to measure."""
        if cell.trace is None or self._held is None:
            guest = Guest(self.domain, cell.mode.guest, cell.guest_pages, cell.footprint)
            return _Tenant(together, partial(_price, guest), partial(_execute, guest))
        policy = TracePolicy(cell.guest_pages, placement=cell.trace.placement, seed=cell.workload_seed)
        made = TraceGuest(self.domain, self._held.gvas, policy, cell.mode.guest)
        return _Tenant(together, partial(_price_trace, made, self._held), None)

    def _move_out(self) -> None:
        if self._tenant is not None:
            self._tenant.close()
            self._tenant = None

    def close(self) -> None:
        """Give the machine's memory back, when nobody works on it any more."""
        self._move_out()
        self._machine.close()


class _Tenant:
    """The cells that are measured in one guest: traces are priced on threads while the programs run.

    Parameters
    ----------
    price, execute : what is done in the guest for a cell; None: nothing is executed
    """

    def __init__(
        self, cells: list[Cell], price: Callable[[Cell], MmuStats], execute: Callable[[Cell], int] | None
    ) -> None:
        self._pool = ThreadPoolExecutor(THREADS)
        self._prices: dict[str, Future[MmuStats]] = {}
        self._answers: dict[str, int] = {}
        try:
            for cell in cells:
                self._prices[cell.digest] = self._pool.submit(price, cell)
            if execute is not None:
                for cell in cells:
                    if cell.workload not in self._answers:
                        self._answers[cell.workload] = execute(cell)
        except BaseException:
            self.close()
            raise

    def has(self, cell: Cell) -> bool:
        """Return whether a cell is among those that are measured here."""
        return cell.digest in self._prices

    def result(self, cell: Cell) -> tuple[int | None, MmuStats]:
        """Return the answer of a cell's program, None where none was executed, and the cell's price."""
        return self._answers.get(cell.workload), self._prices[cell.digest].result()

    def close(self) -> None:
        """Wait for what is being priced, and drop what is not."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _execute(guest: Guest, cell: Cell) -> int:
    """Run a workload's program and return its answer, which has been checked."""
    workload = get_workload(cell.workload)
    program = Program.workload(cell.workload, steps=cell.executed, seed=cell.workload_seed, bits=guest.bits)
    result = run(guest, program, seconds=_PATIENCE)
    expected = workload.answer(cell.workload_seed, guest.area_base, guest.footprint, program.steps)
    check_answer(result, expected, program)
    return result.output


def _price(guest: Guest, cell: Cell) -> MmuStats:
    """Price a long trace of a workload."""
    accesses = cell.warmup + cell.accesses
    trace = workload_trace(get_workload(cell.workload), cell.workload_seed, guest.footprint, accesses, guest.area_base)
    return simulate(trace, guest, cell.cpu, warmup=cell.warmup)


def _price_trace(guest: TraceGuest, held: HeldTrace, cell: Cell) -> MmuStats:
    """Price a trace of one's own."""
    return simulate(held.blocks(), guest, cell.cpu, warmup=cell.warmup)
