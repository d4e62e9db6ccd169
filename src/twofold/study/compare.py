"""The comparison: every design on an equal copy of the same host, the same programs, the same long trace.

`run_cell` makes a row of a cell and of nothing else; `compare` maps it over all cells, on one bench, in the order in
which they stand in one guest.
"""

from twofold.domain import SmallDesign
from twofold.freemaps import FreeMap
from twofold.mmu import ASSUMPTIONS
from twofold.study.bench import Bench, Measured
from twofold.study.cells import Cell, cells_of_seed, whole_guest
from twofold.study.held import HeldTrace, Progress
from twofold.study.outcome import Outcome, Picture, host_summary
from twofold.study.pictures import free_picture, p2m_picture
from twofold.study.row import Row, variant_name
from twofold.study.scenario import Scenario, check_scenario
from twofold.trace import get_workload
from twofold.units import format_bytes, parse_bytes


def run_cell(scenario: Scenario, cell: Cell, *, free: FreeMap | None = None, bench: Bench | None = None) -> Row:
    """Return the row of a cell: pure, the same on any machine, alone or among others.

    Parameters
    ----------
    scenario : says where the host's free memory comes from
    cell : one of `cells_of` it
    free : the host's free memory, where the caller has it already
    bench : where several cells are measured; None: one for this cell alone

    Raises
    ------
    FreeMapError : the host's free memory is not that of the cell
    BuildError : the design cannot build the guest on this host
    GuestError : the program gave a wrong answer
    """
    check_scenario(scenario)
    if bench is None:
        with Bench(scenario, free) as own:
            return run_cell(scenario, cell, bench=own)
    base = bench.base_cycles(cell, lambda other: _cycles(other, bench.measure(other)))
    return _row(cell, bench.measure(cell), base)


def compare(
    scenario: Scenario | None = None, *, free: FreeMap | None = None, progress: Progress | None = None
) -> Outcome:
    """Run a comparison and return what it found.

    Parameters
    ----------
    scenario : None for the defaults
    free : the host's free memory, where the caller has it already; None: as the scenario says
    progress : told about each cell

    Raises
    ------
    BuildError : a design cannot build the guest on this host
    GuestError : a program gave a wrong answer
    """
    scenario = Scenario() if scenario is None else scenario
    check_scenario(scenario)
    tell = progress or (lambda _text, _done, _all: None)
    rows: list[Row] = []
    pictures: dict[str, Picture] = {}
    with Bench(scenario, free, progress) as bench:
        held, first = bench.held, bench.states.get(scenario.seed)
        pictures["host"] = free_picture(first)
        for seed in scenario.seeds:
            cells = tuple(cells_of_seed(scenario, seed, bench.states, held))
            bench.expect(cells)
            found: dict[Cell, Row] = {}
            for cell in _by_guest(cells):
                found[cell] = run_cell(scenario, cell, bench=bench)
                if seed == scenario.seed and cell.key.variant not in pictures:
                    pictures[cell.key.variant] = p2m_picture(bench.domain_of(cell))
                tell(cell.name, len(rows) + len(found), len(cells) * len(scenario.seeds))
            rows += [found[cell] for cell in cells]
    guest = whole_guest(scenario, first, held)
    footprint = parse_bytes(guest.footprint or 0)
    return Outcome(
        scenario=scenario,
        host=host_summary(first),
        guest_bytes=parse_bytes(guest.memory or 0),
        footprint=footprint,
        rows=tuple(rows),
        assumptions=(
            *((first.assumption,) if first.assumption else ()),
            *(_of_workloads(scenario, footprint) if held is None else _of_trace(scenario, held)),
            *ASSUMPTIONS,
        ),
        pictures=pictures,
    )


def _by_guest(cells: tuple[Cell, ...]) -> list[Cell]:
    """Return cells in the order that builds each site and each guest once, those that others need first."""
    sites = {cell.site: place for place, cell in reversed([*enumerate(cells)])}
    pages = {cell.guest_pages: place for place, cell in reversed([*enumerate(cells)])}
    return sorted(cells, key=lambda cell: (cell != cell.base_cell, sites[cell.site], pages[cell.guest_pages]))


def _cycles(cell: Cell, found: Measured) -> float | None:
    """Return all cycles of an access: translation and the workload's own, which nobody knows of a trace."""
    own = get_workload(cell.workload).cycles_per_access if cell.trace is None else 0.0
    return None if found.stats is None else found.stats.cycles_per_access + own


def _row(cell: Cell, found: Measured, base: float | None) -> Row:
    """Return the row of what was found of a cell; a column gets its value here."""
    built, stats = found.built, found.stats
    cycles = _cycles(cell, found)
    return Row(
        seed=cell.seed,
        cpu=cell.cpu.name,
        workload=cell.workload,
        guest_pages=cell.guest_pages,
        design=cell.design,
        behaviour=cell.behaviour,
        mode=cell.mode.name,
        host_paging=cell.mode.host_paging,
        table_format=cell.mode.table_format,
        guest_mode=cell.mode.guest,
        paging=cell.mode.paging,
        page_sizes=cell.mode.sizes(),
        footprint=cell.footprint,
        cell_digest=cell.digest,
        tables_digest=found.tables,
        trace_digest=cell.trace.digest if cell.trace else "",
        leaves=dict(built.leaves),
        large_share=built.large_share,
        tables=built.tables,
        calls=built.calls,
        extents_refused=sum(built.extents_failed.values()),
        answer=None if found.answer is None else f"{found.answer:#x}",
        misses_per_1000=stats.misses_per_1000 if stats else None,
        reads_per_walk=stats.reads_per_walk if stats else None,
        walk_cycles_per_access=stats.walk_cycles_per_access if stats else None,
        cycles_per_access=cycles,
        speedup=_speedup(base, cycles),
        not_available=found.reason,
    )


def _speedup(base: float | None, cycles: float | None) -> float | None:
    """Return how many times as fast; None where there is nothing to compare, or nothing that took any time."""
    if base is None or cycles is None:
        return None
    if not cycles:
        return None if base else 1.0
    return base / cycles


def _of_workloads(scenario: Scenario, footprint: int) -> tuple[str, ...]:
    """Return what the figures of workloads rest on, a sentence each."""
    workloads = (get_workload(name) for name in scenario.workloads)
    return (
        f"Each cell counts {scenario.accesses} accesses after a warm-up of {scenario.warmup_accesses}.",
        f"The workload's area is {format_bytes(footprint)}, spread evenly over the guest's memory.",
        f"Each program is executed for {scenario.executed} steps, and its answer is checked.",
        f"Speed-up is cycles per access under {_base(scenario)} over those here: translation plus the workload's own.",
        *(
            f"{item.name} takes {item.cycles_per_access:g} cycles an access apart from translation: {item.assumption}"
            for item in workloads
        ),
    )


def _of_trace(scenario: Scenario, held: HeldTrace) -> tuple[str, ...]:
    """Return what the figures of a trace rest on, a sentence each."""
    placement = scenario.trace.placement if scenario.trace else ""
    counted = f"{held.accesses} loads and stores after a warm-up of {held.warmup}"
    theirs = f"its page sizes and their places ({placement}) are a policy's, not those that the program had"
    measure = f"Speed-up is cycles of translation under {_base(scenario)} over those here"
    return (
        f"{held.name} is priced: {counted}, SHA-256 {held.digest} (addresses and kinds, warm-up included).",
        f"They touch {len(held.gvas)} pages of 4K, which a guest is made for: {theirs}.",
        "Nothing is executed: there is no answer to check.",
        f"{measure}: what the program takes besides is in no trace, and its own speed-up is nearer to 1.",
    )


def _base(scenario: Scenario) -> str:
    return f"`{variant_name(SmallDesign.name, scenario.behaviours[0])}`"
