"""The comparison: every design on an equal copy of the same host, the same programs, the same long trace.

For each host state and design a machine is made from the host's free map, the domain is built, and for each guest page
size a guest is set up in it. Each workload is executed there, and its answer has to be the right one. Meanwhile a long
trace of the same workload is priced on the very tables that the program ran on.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from twofold.domain import Built, Domain, Machine, SmallDesign
from twofold.errors import GuestError
from twofold.freemaps import FreeMap
from twofold.guest import Guest, Program, check_answer, default_footprint, run
from twofold.kernels import is_cold
from twofold.mmu import ASSUMPTIONS, MmuStats, load_profile
from twofold.study.hosts import free_map
from twofold.study.outcome import Outcome, Picture, Row, host_summary, variant_name
from twofold.study.pictures import free_picture, p2m_picture
from twofold.study.scenario import Scenario
from twofold.study.simulation import simulate, workload_trace
from twofold.study.sites import build_guest, guest_memory
from twofold.trace import Workload, get_workload
from twofold.units import format_bytes, parse_bytes

Progress = Callable[[str, int, int], None]  # what is being done, cells done, cells in all
THREADS: Final = 2
COLD_LINE: Final = "compiling the kernels for this machine, once: about 20 seconds"


@dataclass(frozen=True)
class _Site:
    """One design built on one host state."""

    scenario: Scenario
    seed: int
    behaviour: str
    design: str
    domain: Domain
    built: Built
    footprint: int

    @property
    def variant(self) -> str:
        """What was built."""
        return variant_name(self.design, self.behaviour)


def compare(
    scenario: Scenario | None = None, *, free: FreeMap | None = None, progress: Progress | None = None
) -> Outcome:
    """Run a comparison and return what it found.

    Parameters
    ----------
    scenario : None for the defaults
    free : the host's free memory, where the caller has it already; None: as the scenario says
    progress : told about each step

    Raises
    ------
    BuildError : a design cannot build the guest on this host
    GuestError : a program gave a wrong answer
    """
    scenario = scenario or Scenario()
    tell = progress or (lambda _text, _done, _all: None)
    if is_cold():
        tell(COLD_LINE, 0, 0)
    first = free if free is not None else free_map(scenario.host, scenario.seed)
    memory = guest_memory(scenario, first)
    rows: list[Row] = []
    pictures: dict[str, Picture] = {"host": free_picture(first)}
    footprint = 0
    ticks = _Ticks(scenario, tell)
    for seed in scenario.seeds:
        state = first if seed == scenario.seed else free_map(scenario.host, seed)
        for behaviour, design in product(scenario.behaviours, scenario.designs):
            with Machine(free=state, seed=seed, behaviour=behaviour) as machine:
                site = _build_site(scenario, seed, design, machine, memory)
                footprint = site.footprint
                if seed == scenario.seed:
                    pictures[site.variant] = p2m_picture(site.domain)
                rows.extend(_price_site(site, ticks))
    return Outcome(
        scenario=scenario,
        host=host_summary(first),
        guest_bytes=memory,
        footprint=footprint,
        rows=tuple(_named(_in_order(scenario, _with_speedups(rows)))),
        assumptions=_assumptions(scenario, first, footprint),
        pictures=pictures,
    )


class _Ticks:
    """Counts finished cells for the progress display."""

    def __init__(self, scenario: Scenario, tell: Progress) -> None:
        sides = (
            scenario.seeds,
            scenario.behaviours,
            scenario.designs,
            scenario.guest_pages,
            scenario.workloads,
            scenario.cpus,
        )
        self._all = 1
        for side in sides:
            self._all *= len(side)
        self._done, self._tell = 0, tell

    def tick(self, text: str, cells: int = 1) -> None:
        """Report that cells are finished."""
        self._done += cells
        self._tell(text, self._done, self._all)


def _build_site(scenario: Scenario, seed: int, design: str, machine: Machine, memory: int) -> _Site:
    """Build the guest by one design on a fresh machine."""
    domain, built = build_guest(scenario, machine, memory, design)
    asked = scenario.guest.footprint
    footprint = default_footprint(domain.frames) if asked is None else parse_bytes(asked)
    return _Site(scenario, seed, machine.behaviour.name, design, domain, built, footprint)


def _price_site(site: _Site, ticks: _Ticks) -> Iterator[Row]:
    """Yield the rows of one built domain."""
    scenario = site.scenario
    for pages in scenario.guest_pages:
        try:
            guest = Guest(site.domain, page_sizes=pages, footprint=site.footprint)
        except GuestError as error:
            cells = [(name, cpu) for name in scenario.workloads for cpu in scenario.cpus]
            yield from (_row(site, pages, name, cpu, not_available=str(error)) for name, cpu in cells)
            ticks.tick(f"{site.variant}, {pages} guest pages", len(cells))
            continue
        yield from _price_guest(site, guest, pages, ticks)


def _price_guest(site: _Site, guest: Guest, pages: str, ticks: _Ticks) -> Iterator[Row]:
    """Yield the rows of one guest: long traces are priced on threads of their own while the programs run."""
    scenario = site.scenario
    with ThreadPoolExecutor(THREADS) as pool:
        prices: dict[tuple[str, str], Future[MmuStats]] = {
            (name, cpu): pool.submit(_price, site, guest, get_workload(name), cpu)
            for name in scenario.workloads
            for cpu in scenario.cpus
        }
        try:
            answers = {name: _execute(site, guest, get_workload(name)) for name in scenario.workloads}
            for (name, cpu), price in prices.items():
                yield _priced_row(site, pages, get_workload(name), cpu, answers[name], price.result())
                ticks.tick(f"{site.variant}, {pages} guest pages, {name} on {cpu}")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _execute(site: _Site, guest: Guest, workload: Workload) -> int:
    """Run a workload's program and return its answer, which has been checked."""
    program = Program.workload(workload.name, steps=site.scenario.executed, seed=site.scenario.seed)
    result = run(guest, program)
    expected = workload.answer(site.scenario.seed, guest.area_base, guest.footprint, program.steps)
    check_answer(result, expected, program)
    return result.output


def _price(site: _Site, guest: Guest, workload: Workload, cpu: str) -> MmuStats:
    """Price a long trace of a workload."""
    scenario = site.scenario
    accesses = scenario.warmup_accesses + scenario.accesses
    trace = workload_trace(workload, scenario.seed, guest.footprint, accesses)
    return simulate(trace, guest, cpu, warmup=scenario.warmup_accesses)


def _row(site: _Site, pages: str, workload: str, cpu: str, not_available: str = "") -> Row:
    """Return a row with what is known from building alone."""
    built = site.built
    return Row(
        seed=site.seed,
        cpu=cpu,
        workload=workload,
        guest_pages=pages,
        design=site.design,
        behaviour=site.behaviour,
        leaves_1g=built.leaves[18],
        leaves_2m=built.leaves[9],
        leaves_4k=built.leaves[0],
        large_share=built.large_share,
        tables=built.tables,
        calls=built.calls,
        extents_refused=sum(built.extents_failed.values()),
        not_available=not_available,
    )


def _priced_row(site: _Site, pages: str, workload: Workload, cpu: str, answer: int, stats: MmuStats) -> Row:
    return replace(
        _row(site, pages, workload.name, cpu),
        answer=f"{answer:#x}",
        misses_per_1000=stats.misses_per_1000,
        reads_per_walk=stats.reads_per_walk,
        walk_cycles_per_access=stats.walk_cycles_per_access,
        cycles_per_access=stats.cycles_per_access + workload.cycles_per_access,
    )


def _with_speedups(rows: list[Row]) -> list[Row]:
    """Return the rows with the speed-up of each against `small`, in the same cell of the same host state.

    Under the first behaviour: one base for all, so that behaviours can be compared too.
    """
    base: dict[tuple[object, ...], float | None] = {}
    for row in rows:
        if row.design == SmallDesign.name:
            base.setdefault((row.seed, *row.cell[:3]), row.cycles_per_access)
    return [replace(row, speedup=_ratio(base.get((row.seed, *row.cell[:3])), row.cycles_per_access)) for row in rows]


def _ratio(base: float | None, ours: float | None) -> float | None:
    return None if base is None or ours is None else base / ours


def _in_order(scenario: Scenario, rows: list[Row]) -> list[Row]:
    """Return the rows by seed, then CPU, workload, guest pages, behaviour, design, each as the scenario lists them."""
    return sorted(
        rows,
        key=lambda row: (
            row.seed,
            scenario.cpus.index(row.cpu),
            scenario.workloads.index(row.workload),
            scenario.guest_pages.index(row.guest_pages),
            scenario.behaviours.index(row.behaviour),
            scenario.designs.index(row.design),
        ),
    )


def _named(rows: list[Row]) -> list[Row]:
    """Return the rows with each CPU's own name, where the scenario may have the path of a profile."""
    names = {cpu: load_profile(cpu).name for cpu in {row.cpu for row in rows}}
    return [replace(row, cpu=names[row.cpu]) for row in rows]


def _assumptions(scenario: Scenario, free: FreeMap, footprint: int) -> tuple[str, ...]:
    """Return everything that the figures rest on, a sentence each."""
    workloads = (get_workload(name) for name in scenario.workloads)
    base = variant_name(SmallDesign.name, scenario.behaviours[0])
    return (
        *((free.assumption,) if free.assumption else ()),
        f"Each cell counts {scenario.accesses} accesses after a warm-up of {scenario.warmup_accesses}.",
        f"The workload's area is {format_bytes(footprint)}, spread evenly over the guest's memory.",
        f"Each program is executed for {scenario.executed} steps, and its answer is checked.",
        f"Speed-up is cycles per access under `{base}` over those here: translation plus the workload's own.",
        *(
            f"{item.name} takes {item.cycles_per_access:g} cycles an access apart from translation: {item.assumption}"
            for item in workloads
        ),
        *ASSUMPTIONS,
    )
