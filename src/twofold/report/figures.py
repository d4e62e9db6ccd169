"""What the page of a comparison draws beside bars: pictures along the Hilbert curve, and free blocks.

A figure is what Plotly takes, in plain dicts. Colours stand in it as `var(--name)`; the page's style sheet has their
values, once for light and once for dark, and its script puts them in. Text from outside is escaped where a figure takes
it, because Plotly reads markup in what it draws. Left out: the key to the colours, which is part of the page.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from twofold.study import LEAF_ORDERS, Outcome, leaf_column
from twofold.study.pictures import SIDE_BITS, Picture, hilbert
from twofold.units import FRAME_BYTES, ORDER_1G, ORDER_2M, format_bytes, order_name

Figure = dict[str, Any]
SIZE_COLOURS: Final = tuple(f"var(--size-{code})" for code in range(4))
INK, SOFT, LINE, PAPER = "var(--ink)", "var(--soft)", "var(--line)", "var(--paper)"
GIB: Final = 1 << 30
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"  # three codes of a picture


@dataclass(frozen=True)
class Drawing:
    """One figure of the page with the words around it."""

    name: str  # of its element
    title: str
    note: str
    alt: str  # for those who do not see it
    figure: Figure


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
    """Return a picture without axes, a colour a code."""
    edges = [(edge / 4, SIZE_COLOURS[code]) for code in range(4) for edge in (code, code + 1)]
    axis = {"visible": False, "fixedrange": True}
    trace = {
        "type": "heatmap",
        "z": packed_rows(picture),
        "zmin": -0.5,
        "zmax": 3.5,
        "colorscale": edges,
        "showscale": False,
        "hovertemplate": "%{text}<br>%{customdata}<extra></extra>",
    }
    layout = layout_of(margin=0) | {"xaxis": axis, "yaxis": axis | {"autorange": "reversed"}}
    return {"data": [trace], "layout": layout}


def packed_rows(picture: Picture) -> list[str]:
    """Return the rows of a picture as the page's script reads them: three codes a letter, so that many pictures fit."""
    height, width = picture.shape
    padded = np.zeros((height, -(-width // 3) * 3), np.uint8)
    padded[:, :width] = picture
    threes = padded[:, 0::3] << 4 | padded[:, 1::3] << 2 | padded[:, 2::3]
    return ["".join(LETTERS[three] for three in row) for row in threes.tolist()]


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
    return layout_of(margin=8) | {
        "bargap": 0.2,
        "xaxis": fixed | {"title": {"text": "GiB"}, "gridcolor": LINE, "zerolinecolor": SOFT, "rangemode": "tozero"},
        "yaxis": fixed | {"type": "category", "autorange": "reversed", "dtick": 1, "ticksuffix": " "},
    }


def layout_of(margin: int) -> Figure:
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
