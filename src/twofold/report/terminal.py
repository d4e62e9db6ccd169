"""What commands print on a terminal, in a file or a pipe. It shows what it is given and computes nothing.

Lines are as wide as the terminal, or as COLUMNS says, a pipe too; a pipe without it has no width. Read first: `show`;
`grid` lays tables out.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator

from twofold.domain import Built, Replayed
from twofold.dumps import Audited
from twofold.guest import NestedStep
from twofold.report.grid import Grid, Head, Line, sentence_lines
from twofold.report.words import between
from twofold.study import Curve, HostSummary
from twofold.units import format_bytes, order_name

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
Part = str | Grid | Callable[[int | None], "list[Part]"]  # a sentence, a table, or what depends on the width


def said_width() -> int | None:
    """Return the width that COLUMNS asks for; None where it asks for none [columns]."""
    said = os.environ.get("COLUMNS", "")
    return int(said) or None if said.isdecimal() else None


def output_width() -> int | None:
    """Return the width of standard output [columns]: as COLUMNS says, or the terminal; None for a pipe without it."""
    if (said := said_width()) is not None:
        return said
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):  # no terminal; no file at all
        return None


def show(parts: Iterable[Part]) -> None:
    """Print one thing after the other on standard output; heads of tables are bold on a terminal."""
    is_plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    for line in lay_out(parts, output_width()):
        text = line.text if is_plain or not line.is_head else f"{_BOLD}{line.text}{_PLAIN}"
        sys.stdout.write(f"{text}\n")


def render(parts: Iterable[Part]) -> str:
    """Return as text what `show` prints where nothing limits the width, or as COLUMNS says."""
    return "".join(f"{line.text}\n" for line in lay_out(parts, said_width()))


def lay_out(parts: Iterable[Part], width: int | None) -> Iterator[Line]:
    """Yield the lines of sentences and tables in a width; None: without one."""
    for part in parts:
        if isinstance(part, str):
            yield from sentence_lines(part, width)
        elif isinstance(part, Grid):
            yield from part.lines(width)
        else:
            yield from lay_out(part(width), width)


def host_lines(host: HostSummary) -> list[Part]:
    """Return a host's state in a few sentences."""
    blocks = ", ".join(f"{order_name(order)}: {count}" for order, count in host.free_blocks.items())
    free = f"{format_bytes(host.free_bytes)} of {format_bytes(host.machine_bytes)}"
    extents = ", ".join(f"{order_name(order)}: {between(*bounds)}" for order, bounds in host.bounds.items())
    return [
        f"host: {free} free, from {host.source}, free map {host.digest[:12]}",
        f"free blocks by size{'' if host.exact else ', as assumed'}: {blocks}",
        f"aligned free extents: {extents}",
        *(f"note: {note}" for note in host.notes),
        *((f"assumed: {host.assumption}",) if host.assumption else ()),
    ]


def built_table(builds: Iterable[tuple[str, Built]]) -> Grid:
    """Return one row a design: what it built."""
    found = list(builds)
    orders = sorted({order for _, built in found for order in built.leaves}, reverse=True)
    names = (*map(order_name, orders), "large", "tables", "calls", "asked", "refused")
    rows = [
        (
            name,
            *(str(built.leaves.get(order, "-")) for order in orders),
            f"{built.large_share:.1%}",
            str(built.tables),
            str(built.calls),
            _by_order(built.extents_asked),
            _by_order(built.extents_failed),
        )
        for name, built in found
    ]
    return Grid((Head("design", is_figure=False), *map(Head, names)), tuple(rows))


def _by_order(counts: dict[int, int]) -> str:
    return " ".join(f"{order_name(order)}:{count}" for order, count in counts.items()) or "-"


def walk_table(steps: Iterable[NestedStep]) -> Grid:
    """Return a two-dimensional walk, one numbered row a table read."""
    names = ("step", "table of", "level", "serves", "maddr", "slot", "entry", "says")
    words = {"table of", "serves", "says"}
    rows = []
    for number, step in enumerate(steps, 1):
        serves = "the data" if step.serves is None else f"guest level {step.serves}"
        rows.append(
            (
                str(number),
                "guest" if step.guest else "P2M",
                str(step.level),
                "" if step.guest else serves,
                f"{step.maddr:#x}",
                str(step.slot),
                f"{step.entry:#018x}",
                step.meaning,
            )
        )
    return Grid(tuple(Head(name, name not in words) for name in names), tuple(rows))


def audit_view(audited: Iterable[Audited]) -> list[Part]:
    """Return what audits found: one row a P2M, what was assumed, what could not be checked, each finding."""
    names = ("root", "tables", "leaves", "places", "empty", "recalc", "orphans", "M2P bad", "P2M bad", "findings")
    rows = []
    lines: dict[str, None] = {}
    for each in audited:
        report = each.report
        counts = (report.tables, report.leaves, report.places, report.empty_tables, report.recalc, report.orphans)
        numbers = (*counts, report.m2p_bad, report.p2m_bad, report.found)
        rows.append((each.name or "-", each.table_format, each.as_read.dialect, f"{each.root:#x}", *map(str, numbers)))
        lines |= dict.fromkeys(f"assumed: {sentence}" for sentence in each.as_read.assumed)
        lines |= dict.fromkeys(f"not checked: {sentence}" for sentence in report.skipped)
        lines |= dict.fromkeys(f"{each.name or each.table_format}: {finding}" for finding in report.findings)
        if report.found > len(report.findings):
            lines[f"{each.name or each.table_format}: and {report.found - len(report.findings)} more"] = None
    words = ("domain", "format", "dialect")
    heads = (*(Head(word, is_figure=False) for word in words), *map(Head, names))
    return [Grid(heads, tuple(rows)), *lines]


NOT_COMPARED = "programs run: {runs}; what they stored is in no journal, so from the first on no digest was compared"


def replay_view(replayed: Replayed) -> list[Part]:
    """Return what a replay came to: how much was done, what is there now, and its digest."""
    document = replayed.as_dict()
    leaves = ", ".join(f"{order_name(order)}: {count}" for order, count in replayed.leaves.items())
    rows = [(str(each["domid"]), each["name"], str(each["owned_frames"])) for each in document["domains"]]
    heads = (Head("domain", is_figure=False), Head("name", is_figure=False), Head("frames"))
    return [
        f"machine: {format_bytes(document['machine_bytes'])}, {document['free_frames']} frames free",
        f"operations: {replayed.operations}{'' if replayed.is_closed else '; the journal has no end'}",
        Grid(heads, tuple(rows)) if rows else "no domains",
        f"leaves: {leaves or 'none'}",
        f"digest: {replayed.digest or 'none, a domain is half-way through its destruction'}",
        *([] if replayed.is_compared else [NOT_COMPARED.format(runs=replayed.runs)]),
    ]


def curves_table(curves: Iterable[Curve]) -> Grid:
    """Return one row a size of each structure: its misses."""
    rows = [
        (
            point.page_size,
            *map(str, (point.sets, point.ways, point.entries, point.misses)),
            f"{point.misses_per_1000:.3f}",
        )
        for curve in curves
        for point in curve.points()
    ]
    return Grid(tuple(map(Head, ("pages", "sets", "ways", "entries", "misses", "miss/1000"))), tuple(rows))


def plain_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Grid:
    """Return a table of words."""
    return Grid(tuple(Head(name, is_figure=False) for name in header), tuple(rows))
