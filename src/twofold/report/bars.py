"""The bar charts of a comparison: what a walk and an access cost, by program, guest page size and design.

A chart has as many programs as leave room for their names and bars on a small screen; the others go into charts of
their own. Read first: `chart_drawings`.
"""

from collections.abc import Iterator
from typing import Final

from twofold.report.figures import INK, LINE, SOFT, Drawing, Figure, layout_of
from twofold.report.paints import HATCHES, design_paints
from twofold.report.words import cpu_name, listed, markup
from twofold.study import Key, Outcome

CHARTS: Final = (
    (
        "reads_per_walk",
        "Reads per walk",
        "table entries read by a walk, which is what a TLB miss starts; 0 where none did",
    ),
    ("cycles_per_access", "Cycles per access", "translation and the program's own cycles together"),
)
OF_A_TRACE: Final = {"cycles_per_access": "translation alone: what the program takes besides is in no trace"}
# What has room in the 280 pixels that a small screen leaves for bars, in letters of 12 pixels.
LETTERS: Final = 38  # of the names of programs, side by side
SLOTS: Final = 12  # guest page sizes, each two letters
BARS: Final = 40


def chart_drawings(outcome: Outcome) -> list[Drawing]:
    """Return both bar charts for every CPU, and for as many programs as have room in one."""
    cpus = dict.fromkeys(cell.cpu for cell in outcome.cells())
    groups = _together(outcome)
    notes = {} if outcome.scenario.trace is None else OF_A_TRACE
    drawings = []
    for number, (cpu, workloads) in enumerate((cpu, group) for cpu in cpus for group in groups):
        among = "" if len(groups) == 1 else f": {listed([_short(name) for name in workloads])}"
        cells = [cell for cell in outcome.cells() if cell.cpu == cpu and cell.workload in workloads]
        for column, what, usual in CHARTS:
            note = notes.get(column, usual)
            title = f"{what}, {cpu_name(cpu)}{among}"
            alt = f"Bar chart, {what.lower()} on {cpu_name(cpu)}{among}; {note}. The figures stand in the table below."
            figure = {"data": list(_bars(outcome, cells, column)), "layout": _bar_layout()}
            drawings.append(Drawing(f"{column.replace('_', '-')}-{number}", title, note, alt, figure))
    return drawings


def _together(outcome: Outcome) -> list[tuple[str, ...]]:
    """Return the programs of each chart."""
    workloads = tuple(dict.fromkeys(cell.workload for cell in outcome.cells()))
    pages = len({cell.guest_pages for cell in outcome.cells()})
    letters = max(len(_short(workload)) for workload in workloads) + 1
    most = max(1, min(LETTERS // letters, SLOTS // pages, BARS // (pages * len(outcome.variants))))
    charts = -(-len(workloads) // most)
    return [
        workloads[number * len(workloads) // charts : (number + 1) * len(workloads) // charts]
        for number in range(charts)
    ]


def _short(workload: str) -> str:
    """Return a program's name as far as there is room for it below the bars."""
    return workload if len(workload) < LETTERS else f"{workload[: LETTERS - 2]}\N{HORIZONTAL ELLIPSIS}"


def _bars(outcome: Outcome, shown: list[Key], column: str) -> Iterator[Figure]:
    """Yield the bars of each design: by workload, and in it by guest page size."""
    words = _words(outcome, shown, column)
    for design, paint in design_paints(outcome).items():
        cells = [cell for cell in shown if cell.variant == design]
        spreads = [outcome.spread(cell, column) for cell in cells]
        yield {
            "type": "bar",
            "name": markup(outcome.labels[design]),
            "x": [
                [markup(_short(cell.workload)) for cell in cells],
                [markup(cell.guest_pages) for cell in cells],
            ],
            "y": [spread[0] if spread else 0 for spread in spreads],
            "error_y": _range_bars(spreads),
            "marker": {"color": paint.colour, "pattern": {"shape": HATCHES[paint.hatch], "size": 5}},
            "text": [words.get(cell, "") for cell in cells],
            "textangle": 0,
            "textposition": "outside",
            "textfont": {"size": 9, "color": SOFT},
            "constraintext": "none",
            "cliponaxis": False,
            "customdata": [_hover(spread) for spread in spreads],
            "hovertemplate": "%{x}<br>%{fullData.name}: %{customdata}<extra></extra>",
        }


def _words(outcome: Outcome, shown: list[Key], column: str) -> dict[Key, str]:
    """Return what stands over the bars that have no height: one word for those side by side, over the middle one."""
    slots: dict[tuple[str, str], list[Key]] = {}
    for cell in shown:
        slots.setdefault((cell.workload, cell.guest_pages), []).append(cell)
    words = {}
    for cells in slots.values():
        spreads = {cell: outcome.spread(cell, column) for cell in cells}
        lacking = [cell for cell, spread in spreads.items() if spread is None]
        flat = lacking or [cell for cell, spread in spreads.items() if spread and not spread[0]]
        if flat:
            words[flat[len(flat) // 2]] = "n/a" if lacking else "0"
    return words


def _range_bars(spreads: list[tuple[float, float, float] | None]) -> Figure:
    """Return error bars from the least to the greatest over the host states; none where they are equal."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [spread[2] - spread[0] if spread else None for spread in spreads],
        "arrayminus": [spread[0] - spread[1] if spread else None for spread in spreads],
        "visible": any(spread and spread[1] != spread[2] for spread in spreads),
        "color": INK,
        "thickness": 1.5,
        "width": 0,
    }


def _hover(spread: tuple[float, float, float] | None) -> str:
    if spread is None:
        return "n/a"
    middle, least, greatest = (f"{value:.2f}" for value in spread)
    return middle if least == greatest else f"{middle} [{least}\N{EN DASH}{greatest}]"


def _bar_layout() -> Figure:
    return layout_of(margin=8) | {
        "barmode": "group",
        "bargap": 0.25,
        "xaxis": {
            "type": "multicategory",
            "fixedrange": True,
            "automargin": True,
            "tickangle": 0,
            "dividercolor": LINE,
        },
        "yaxis": {
            "fixedrange": True,
            "automargin": True,
            "gridcolor": LINE,
            "zerolinecolor": SOFT,
            "rangemode": "tozero",
        },
    }
