"""Tables for the terminal. They show what they are given and compute nothing."""

import io
import os
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from twofold.domain import Built, Replayed
from twofold.dumps import Audited
from twofold.guest import NestedStep
from twofold.study import Curve, HostSummary, Outcome
from twofold.units import format_bytes, order_name

_MIN_WIDTH = 150  # of a file or pipe: a table is never cut there
_NOT_AVAILABLE = "n/a"


def console() -> Console:
    """Return a console on standard output: colours only on a terminal, and wide enough for tables elsewhere."""
    on_terminal = Console(color_system=None if os.environ.get("NO_COLOR") else "auto")
    return on_terminal if on_terminal.is_terminal else Console(width=_MIN_WIDTH, color_system=None)


def show(renderables: Iterable[RenderableType]) -> None:
    """Print one thing after the other on standard output."""
    out = console()
    for renderable in renderables:
        out.print(renderable, highlight=False, soft_wrap=isinstance(renderable, Text))


def render(renderables: Iterable[RenderableType]) -> str:
    """Return as text what `show` prints on a pipe."""
    out = Console(width=_MIN_WIDTH, color_system=None, file=io.StringIO())
    with out.capture() as captured:
        for renderable in renderables:
            out.print(renderable, highlight=False, soft_wrap=isinstance(renderable, Text))
    return captured.get()


def outcome_view(outcome: Outcome) -> list[RenderableType]:
    """Return a comparison as people read it: the host, one table, what it rests on."""
    return [
        *host_lines(outcome.host),
        Text(f"guest: {format_bytes(outcome.guest_bytes)}, workload area {format_bytes(outcome.footprint)}"),
        _outcome_table(outcome),
        *(Text(f"n/a: {reason}") for reason in _reasons(outcome)),
        Text("assumptions:"),
        *(Text(f"  - {sentence}") for sentence in outcome.assumptions),
    ]


def host_lines(host: HostSummary) -> list[Text]:
    """Return a host's state in a few lines."""
    blocks = ", ".join(f"{order_name(order)}: {count}" for order, count in host.free_blocks.items())
    extents = ", ".join(f"{order_name(order)}: {_between(*bounds)}" for order, bounds in host.bounds.items())
    return [
        Text(
            f"host: {format_bytes(host.free_bytes)} of {format_bytes(host.machine_bytes)} free, "
            f"from {host.source}, free map {host.digest[:12]}"
        ),
        Text(f"free blocks by size{'' if host.exact else ', as assumed'}: {blocks}"),
        Text(f"aligned free extents: {extents}"),
        *(Text(f"note: {note}") for note in host.notes),
        *((Text(f"assumed: {host.assumption}"),) if host.assumption else ()),
    ]


def _between(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _outcome_table(outcome: Outcome) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cpu", "workload", "guest", "design"):
        table.add_column(name, no_wrap=True)
    numbers = ("1G", "2M", "4K", "large", "tables", "calls", "refused", "miss/1000", "reads/walk", "cyc/access")
    for name in (*numbers, "speed-up"):
        table.add_column(name, justify="right", no_wrap=True)
    before: tuple[str, ...] = ()
    for cell in outcome.cells():
        if before and cell[1:3] != before:
            table.add_section()
        table.add_row(*map(Text, cell), *_figures(outcome, cell))
        before = cell[1:3]
    return table


def _figures(outcome: Outcome, cell: tuple[str, str, str, str]) -> list[str]:
    """Return the numbers of one row, each as its median and range over the host states."""
    forms = {
        "leaves_1g": "{:.0f}",
        "leaves_2m": "{:.0f}",
        "leaves_4k": "{:.0f}",
        "large_share": "{:.1%}",
        "tables": "{:.0f}",
        "calls": "{:.0f}",
        "extents_refused": "{:.0f}",
        "misses_per_1000": "{:.1f}",
        "reads_per_walk": "{:.2f}",
        "walk_cycles_per_access": "{:.1f}",
        "speedup": "{:.2f}x",
    }
    return [_spread(outcome.spread(cell, column), form) for column, form in forms.items()]


def _spread(values: tuple[float, float, float] | None, form: str) -> str:
    if values is None:
        return _NOT_AVAILABLE
    middle, least, greatest = (form.format(value) for value in values)
    return middle if least == greatest else f"{middle} [{least}-{greatest}]"


def _reasons(outcome: Outcome) -> list[str]:
    reasons = {f"{row.guest_pages} guest pages: {row.not_available}": None for row in outcome.rows if row.not_available}
    return list(reasons)


def built_table(builds: Iterable[tuple[str, Built]]) -> Table:
    """Return one row a design: what it built."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("design")
    for name in ("1G", "2M", "4K", "large", "tables", "calls", "asked", "refused"):
        table.add_column(name, justify="right")
    for name, built in builds:
        leaves = [str(built.leaves[order]) for order in (18, 9, 0)]
        asked, refused = (_by_order(counts) for counts in (built.extents_asked, built.extents_failed))
        table.add_row(name, *leaves, f"{built.large_share:.1%}", str(built.tables), str(built.calls), asked, refused)
    return table


def _by_order(counts: dict[int, int]) -> str:
    return " ".join(f"{order_name(order)}:{count}" for order, count in counts.items()) or "-"


def walk_table(steps: Iterable[NestedStep]) -> Table:
    """Return a two-dimensional walk, one numbered row a table read."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "table of", "level", "serves", "maddr", "slot", "entry", "says"):
        table.add_column(name, no_wrap=True)
    for number, step in enumerate(steps, 1):
        serves = "the data" if step.serves is None else f"guest level {step.serves}"
        table.add_row(
            str(number),
            "guest" if step.guest else "P2M",
            str(step.level),
            "" if step.guest else serves,
            f"{step.maddr:#x}",
            str(step.slot),
            f"{step.entry:#018x}",
            step.meaning,
        )
    return table


def audit_view(audited: Iterable[Audited]) -> list[RenderableType]:
    """Return what audits found: one row a P2M, what could not be checked, then each finding."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("domain")
    table.add_column("format")
    for name in ("root", "tables", "leaves", "places", "empty", "recalc", "orphans", "M2P bad", "P2M bad", "findings"):
        table.add_column(name, justify="right")
    lines: dict[str, None] = {}
    for each in audited:
        report = each.report
        counts = (report.tables, report.leaves, report.places, report.empty_tables, report.recalc, report.orphans)
        numbers = (*counts, report.m2p_bad, report.p2m_bad, report.found)
        table.add_row(Text(each.name or "-"), each.table_format, f"{each.root:#x}", *map(str, numbers))
        lines |= dict.fromkeys(f"not checked: {sentence}" for sentence in report.skipped)
        lines |= dict.fromkeys(f"{each.name or each.table_format}: {finding}" for finding in report.findings)
        if report.found > len(report.findings):
            lines[f"{each.name or each.table_format}: and {report.found - len(report.findings)} more"] = None
    return [table, *map(Text, lines)]


NOT_COMPARED = "programs run: {runs}; what they stored is in no journal, so from the first on no digest was compared"


def replay_view(replayed: Replayed) -> list[RenderableType]:
    """Return what a replay came to: how much was done, what is there now, and its digest."""
    document = replayed.as_dict()
    leaves = ", ".join(f"{order_name(order)}: {count}" for order, count in replayed.leaves.items())
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("domain")
    table.add_column("name")
    table.add_column("frames", justify="right")
    for each in document["domains"]:
        table.add_row(str(each["domid"]), Text(each["name"]), str(each["owned_frames"]))
    return [
        Text(f"machine: {format_bytes(document['machine_bytes'])}, {document['free_frames']} frames free"),
        Text(f"operations: {replayed.operations}{'' if replayed.is_closed else '; the journal has no end'}"),
        *([table] if document["domains"] else [Text("no domains")]),
        Text(f"leaves: {leaves or 'none'}"),
        Text(f"digest: {replayed.digest}"),
        *([] if replayed.is_compared else [Text(NOT_COMPARED.format(runs=replayed.runs))]),
    ]


def curves_table(curves: Iterable[Curve]) -> Table:
    """Return one row a size of each structure: its misses."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("pages", "sets", "ways", "entries", "misses", "miss/1000"):
        table.add_column(name, justify="right", no_wrap=True)
    for curve in curves:
        table.add_section()
        for point in curve.points():
            numbers = map(str, (point.sets, point.ways, point.entries, point.misses))
            table.add_row(point.page_size, *numbers, f"{point.misses_per_1000:.3f}")
    return table


def plain_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    """Return a table of words."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as it is: a bracket in it is no markup
    return table
