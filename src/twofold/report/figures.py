"""What the page draws: pictures along the Hilbert curve and bar charts, as Plotly takes them, in plain dicts.

Colours stand here as `var(--name)`; the page's style sheet has their values, once for light and once for dark, and
its script puts them in. Text from outside is escaped here, because Plotly reads markup in what it draws. Left out:
the key to the colours, which is part of the page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from twofold.report.words import cpu_name, markup
from twofold.study import LEAF_ORDERS, Curve, Outcome, leaf_column
from twofold.study.pictures import SIDE_BITS, Picture, hilbert
from twofold.units import FRAME_BYTES, ORDER_1G, ORDER_2M, format_bytes, order_name

Figure = dict[str, Any]
COLOURS: Final = 8  # of designs in the style sheet
BUILT_IN: Final = ("small", "toolstack", "opportunistic")  # keep their colours, whichever of them take part
SIZE_COLOURS: Final = tuple(f"var(--size-{code})" for code in range(4))
INK, SOFT, LINE, PAPER = "var(--ink)", "var(--soft)", "var(--line)", "var(--paper)"
GIB: Final = 1 << 30
FOURFOLD: Final = 0.60206  # from tick to tick of a logarithmic axis, as a power of ten
CHARTS: Final = (
    (
        "reads_per_walk",
        "Reads per walk",
        "table entries read by a walk, which is what a TLB miss starts; 0 where none did",
    ),
    ("cycles_per_access", "Cycles per access", "translation and the program's own cycles together"),
)
OF_A_TRACE: Final = {"cycles_per_access": "translation alone: what the program takes besides is in no trace"}


@dataclass(frozen=True)
class Drawing:
    """One figure of the page with the words around it."""

    name: str  # of its element
    title: str
    note: str
    alt: str  # for those who do not see it
    figure: Figure


def design_colours(outcome: Outcome) -> dict[str, str]:
    """Return the colour of each variant, the same in every figure and in the tables."""
    others = [design for design in outcome.variants if outcome.labels[design] not in BUILT_IN]
    free = COLOURS - len(BUILT_IN)
    own = {design: outcome.labels[design] for design in outcome.variants if outcome.labels[design] in BUILT_IN}
    return {design: f"var(--design-{BUILT_IN.index(label)})" for design, label in own.items()} | {
        design: f"var(--design-{len(BUILT_IN) + number % free})" for number, design in enumerate(others)
    }


def curve_positions() -> list[list[int]]:
    """Return for each cell of a picture how many cells of the curve come before it."""
    x, y = hilbert(SIDE_BITS)
    positions = np.zeros((1 << SIDE_BITS, 1 << SIDE_BITS), np.int64)
    positions[y, x] = np.arange(x.size)
    rows: list[list[int]] = positions.tolist()
    return rows


def picture_drawings(outcome: Outcome) -> list[Drawing]:
    """Return the host's free memory and the P2M of every design, to be seen side by side."""
    host = outcome.host
    free = f"{format_bytes(host.free_bytes)} of {format_bytes(host.machine_bytes)} free"
    pictures = [("Host, free memory", free, "host")]
    for cell in {cell[3]: cell for cell in reversed(outcome.cells())}.values():
        counts = {order: outcome.spread(cell, leaf_column(order)) for order in reversed(LEAF_ORDERS)}
        leaves = [f"{spread[0]:,.0f} of {order_name(order)}" for order, spread in counts.items() if spread]
        pictures.append((f"P2M of {outcome.labels[cell[3]]}", f"leaves: {', '.join(leaves)}", cell[3]))
    wanted = ["host", *outcome.variants]
    pictures.sort(key=lambda picture: wanted.index(picture[2]))
    return [
        Drawing(
            f"picture-{number}",
            title,
            note,
            f"{title}, drawn along a Hilbert curve; {note}.",
            _picture(outcome.pictures[key]),
        )
        for number, (title, note, key) in enumerate(pictures)
        if key in outcome.pictures
    ]


def _picture(picture: Picture) -> Figure:
    """Return a picture without axes, a colour a code; rows are strings of digits, to keep the page small."""
    edges = [(edge / 4, SIZE_COLOURS[code]) for code in range(4) for edge in (code, code + 1)]
    axis = {"visible": False, "fixedrange": True}
    trace = {
        "type": "heatmap",
        "z": ["".join(map(str, row)) for row in picture.tolist()],
        "zmin": -0.5,
        "zmax": 3.5,
        "colorscale": edges,
        "showscale": False,
        "hovertemplate": "%{text}<br>%{customdata}<extra></extra>",
    }
    layout = _layout(margin=0) | {"xaxis": axis, "yaxis": axis | {"autorange": "reversed"}}
    return {"data": [trace], "layout": layout}


def chart_drawings(outcome: Outcome) -> list[Drawing]:
    """Return both bar charts for every CPU."""
    cpus = list(dict.fromkeys(cell[0] for cell in outcome.cells()))
    other = {} if outcome.scenario.trace is None else OF_A_TRACE
    charts = [(column, title, other.get(column, note)) for column, title, note in CHARTS]
    return [
        Drawing(
            f"{column.replace('_', '-')}-{number}",
            f"{title}, {cpu_name(cpu)}",
            note,
            f"Bar chart, {title.lower()} on {cpu_name(cpu)}: {note}. The figures stand in the table below.",
            {"data": list(_bars(outcome, cpu, column)), "layout": _bar_layout()},
        )
        for number, cpu in enumerate(cpus)
        for column, title, note in charts
    ]


def _bars(outcome: Outcome, cpu: str, column: str) -> Iterator[Figure]:
    """Yield the bars of each design: by workload, and in it by guest page size."""
    colours = design_colours(outcome)
    for design in outcome.variants:
        cells = [cell for cell in outcome.cells() if cell[0] == cpu and cell[3] == design]
        spreads = [outcome.spread(cell, column) for cell in cells]
        middles = [spread[0] if spread else 0 for spread in spreads]
        words = ["" if middle else "0" if spread else "n/a" for middle, spread in zip(middles, spreads, strict=True)]
        yield {
            "type": "bar",
            "name": markup(outcome.labels[design]),
            "x": [[markup(cell[1]) for cell in cells], [markup(cell[2]) for cell in cells]],
            "y": middles,
            "error_y": _range_bars(spreads),
            "marker": {"color": colours[design]},
            "text": words,
            "textangle": 0,
            "textposition": "outside",
            "textfont": {"size": 9, "color": SOFT},
            "cliponaxis": False,
            "customdata": [_hover(spread) for spread in spreads],
            "hovertemplate": "%{x}<br>%{fullData.name}: %{customdata}<extra></extra>",
        }


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
    return _layout(margin=8) | {
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


def blocks_drawing(outcome: Outcome) -> Drawing:
    """Return the host's free blocks: a bar a size as long as the memory in them, and their number."""
    blocks = outcome.host.free_blocks
    orders = list(range(max(blocks, default=0) + 1))
    counts = [blocks.get(order, 0) for order in orders]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [order_name(order) for order in orders],
        "x": [(count << order) * FRAME_BYTES / GIB for count, order in zip(counts, orders, strict=True)],
        "marker": {"color": [_size_colour(order) for order in orders], "line": {"width": 0}},
        "text": [f"{count:,}" for count in counts],
        "textposition": "outside",
        "textfont": {"color": INK},
        "cliponaxis": False,
        "hovertemplate": "%{text} free blocks of %{y}: %{x:.3g} GiB<extra></extra>",
    }
    words = ", ".join(f"{count:,} of {order_name(order)}" for order, count in blocks.items())
    note = "as long as the memory in blocks of a size; the number is that of the blocks"
    alt = f"Bar chart of the host's free blocks: {words}."
    return Drawing("blocks", "Free blocks by size", note, alt, {"data": [trace], "layout": _blocks_layout()})


def _size_colour(order: int) -> str:
    return SIZE_COLOURS[1 + (order >= ORDER_2M) + (order >= ORDER_1G)]


def _blocks_layout() -> Figure:
    fixed = {"fixedrange": True, "automargin": True}
    return _layout(margin=8) | {
        "bargap": 0.2,
        "xaxis": fixed | {"title": {"text": "GiB"}, "gridcolor": LINE, "zerolinecolor": SOFT, "rangemode": "tozero"},
        "yaxis": fixed | {"type": "category", "autorange": "reversed", "dtick": 1, "ticksuffix": " "},
    }


def curve_name(curve: Curve) -> str:
    """Return what tells a curve from the others."""
    return f"{curve.page_size} pages, {'fully associative' if curve.sets == 1 else f'{curve.sets} sets'}"


def curve_colour(number: int) -> str:
    """Return the colour of a curve by its place among all."""
    return f"var(--design-{number % COLOURS})"


def curves_drawing(curves: Sequence[Curve]) -> Drawing:
    """Return miss curves in one figure: entries on a logarithmic scale, misses upwards."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": curve_name(curve),
            "x": [point.entries for point in curve.points()],
            "y": [point.misses_per_1000 for point in curve.points()],
            "line": {"color": curve_colour(number), "width": 2},
            "marker": {"size": 5, "color": curve_colour(number)},
            "hovertemplate": "%{x:,} entries: %{y:.3f} misses<extra>%{fullData.name}</extra>",
        }
        for number, curve in enumerate(curves)
    ]
    fixed = {"fixedrange": True, "automargin": True, "gridcolor": LINE, "zerolinecolor": SOFT}
    layout = _layout(margin=8) | {
        "xaxis": fixed | {"title": {"text": "entries"}, "type": "log", "dtick": FOURFOLD, "tickformat": ",d"},
        "yaxis": fixed | {"title": {"text": "misses in 1000 accesses"}, "rangemode": "tozero"},
    }
    note = "misses in a thousand accesses by the number of entries, four times as many a step"
    alt = f"Line chart, {note}: {'; '.join(map(curve_name, curves))}. The figures stand in the table below."
    return Drawing("curves", "Misses by size", note, alt, {"data": data, "layout": layout})


def _layout(margin: int) -> Figure:
    """Return what all figures share: the page's colours, no legend, nothing to drag."""
    return {
        "margin": {"l": margin, "r": 3 * margin, "t": 2 * margin, "b": margin},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": SOFT, "font": {"color": INK}},
        "showlegend": False,
        "dragmode": False,
    }
