"""A comparison on a terminal: the answer first, then the table, then what more there is.

Designs that built the same tables share a row, cells that are not available a line. Read first: `outcome_view`.
"""

from functools import partial
from itertools import groupby, product

from twofold.report.grid import Grid, Head
from twofold.report.headline import headline, mode_label
from twofold.report.terminal import Part, host_lines
from twofold.report.words import TERMINAL_FORMS, cpu_name, plain_range
from twofold.study import Column, Key, Mode, Outcome, impossible, shared_rows

_NOT_AVAILABLE = "n/a"
_WORDS = ("guest", "program", "design")


def outcome_view(
    outcome: Outcome, *, every_row: bool = False, assumptions: bool = False, has_report: bool = False
) -> list[Part]:
    """Return a comparison as people read it.

    Parameters
    ----------
    every_row : a row for each design and a column for each figure, with ranges
    assumptions : every assumption, and the host
    has_report : whether a page with pictures is written
    """
    return [
        *headline(outcome),
        partial(_tables, outcome, every_row=every_row),
        *_reasons(outcome),
        *([*host_lines(outcome.host), *_assumptions(outcome)] if assumptions else []),
        *_what_more(outcome, every_row=every_row, assumptions=assumptions, has_report=has_report),
    ]


def _tables(outcome: Outcome, width: int | None, *, every_row: bool) -> list[Part]:
    """Return the table with the columns that a width has room for, and a note where that is too little for ranges."""
    rows: list[tuple[Key, ...]] = [(cell,) for cell in outcome.cells()] if every_row else _available(outcome)
    if not rows:
        return []
    shown = outcome.columns if every_row else _told(outcome, rows)
    more = [name for name, column in shown.items() if not column.brief]
    for with_range, extra in [(True, len(more))] if every_row else product((True, False), range(len(more), -1, -1)):
        columns = {name: column for name, column in shown.items() if name not in more[extra:]}
        grid = _grid(outcome, rows, columns, with_range=with_range)
        if grid.fits(width):
            break
    hides = not with_range and grid != _grid(outcome, rows, columns, with_range=True)
    return [grid, *(["Ranges over the host states: --all, or a wider terminal."] if hides else [])]


def _told(outcome: Outcome, rows: list[tuple[Key, ...]]) -> dict[str, Column]:
    """Return the columns that have a figure in some row: without `small` there is no gain."""
    return {
        name: column
        for name, column in outcome.columns.items()
        if any(outcome.spread(cells[0], name) is not None for cells in rows)
    }


def _available(outcome: Outcome) -> list[tuple[Key, ...]]:
    """Return the cells that share a row, without those that are not available: by guest pages, then program."""
    scenario = outcome.scenario
    rows = [cells for cells in shared_rows(outcome) if not any(outcome.texts(cells[0], "not_available"))]
    return sorted(
        rows,
        key=lambda cells: (
            _places(outcome, cells[0]),
            scenario.guest_pages.index(cells[0].guest_pages),
            scenario.programs.index(cells[0].workload),
        ),
    )


def _places(outcome: Outcome, cell: Key) -> tuple[int, int]:
    """Return which CPU and which mode of the comparison a cell is about."""
    cpus = [cpu.name for cpu in outcome.scenario.cpus]
    modes = [mode.name for mode in outcome.scenario.full_modes]
    return cpus.index(cell.cpu), modes.index(outcome.texts(cell, "mode")[0])


def _section(outcome: Outcome, cells: tuple[Key, ...]) -> str:
    """Return what stands over the rows of one CPU and mode, "" where there is one of each."""
    scenario, cell = outcome.scenario, cells[0]
    mode = mode_label(outcome.texts(cell, "mode")[0], outcome.texts(cell, "page_sizes")[0])
    parts = [cpu_name(cell.cpu)] * (len(scenario.cpus) > 1) + [mode] * (scenario.modes != (Mode(),))
    return f"{', '.join(parts)}:" if parts else ""


def _grid(outcome: Outcome, rows: list[tuple[Key, ...]], columns: dict[str, Column], *, with_range: bool) -> Grid:
    """Return the table of some columns, in sections of one CPU and mode."""
    heads = (*(Head(name, is_figure=False) for name in _WORDS), *(Head(column.head) for column in columns.values()))
    lines: list[tuple[str, ...] | str] = []
    for title, section in groupby(rows, key=partial(_section, outcome)):
        lines += [title] if title else []
        for cells in section:
            words = (cells[0].guest_pages, cells[0].workload, ", ".join(outcome.designs[cell[3]] for cell in cells))
            figures = (
                _figures(outcome, cells, name, column.kind, with_range=with_range) for name, column in columns.items()
            )
            lines.append((*words, *figures))
    return Grid(heads, tuple(lines))


def _figures(outcome: Outcome, cells: tuple[Key, ...], name: str, kind: str, *, with_range: bool) -> str:
    """Return one figure of cells that share a row; how often memory was asked for may differ, and then each is said."""
    said = [_figure(outcome, cell, name, kind, with_range=with_range) for cell in cells]
    return said[0] if len(set(said)) == 1 else ", ".join(said)


def _figure(outcome: Outcome, cell: Key, name: str, kind: str, *, with_range: bool) -> str:
    spread = outcome.spread(cell, name)
    if spread is None:
        return _NOT_AVAILABLE
    form = TERMINAL_FORMS[kind]
    return form(spread[0]) + (plain_range(spread, form) if with_range else "")


def _reasons(outcome: Outcome) -> list[str]:
    """Return a line for each thing that a guest cannot have."""
    return [
        f"{each.guest_pages} guest pages{_among(outcome, each.variants)}: not possible, {each.reason}"
        for each in impossible(outcome)
    ]


def _among(outcome: Outcome, variants: tuple[str, ...]) -> str:
    return f" ({', '.join(outcome.labels[variant] for variant in variants)})" if variants else ""


def _assumptions(outcome: Outcome) -> list[str]:
    return ["assumptions:", *(f"- {sentence}" for sentence in outcome.assumptions)]


def _what_more(outcome: Outcome, *, every_row: bool, assumptions: bool, has_report: bool) -> list[str]:
    """Return the line about what was not shown."""
    parts = [
        *([] if assumptions else [f"{len(outcome.assumptions)} assumptions: --assumptions"]),
        *([] if every_row else ["every row: --all"]),
        *([] if has_report else ["pictures: --report page.html"]),
    ]
    return ["; ".join(parts)] if parts else []
