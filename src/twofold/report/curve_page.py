"""One HTML page of miss curves: the answer, a figure and every point of it. It loads nothing, as that of a comparison.

Read first: `data/report/curves.html`.
"""

from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Final

from twofold.files import write_text
from twofold.report.curve_words import curve_headline, structure_name
from twofold.report.figures import LINE, SOFT, Drawing, layout_of
from twofold.report.html_table import legend, line_swatch
from twofold.report.page import common_parts, figures_markup, template
from twofold.report.paints import DASHES, paint
from twofold.report.words import count, markup
from twofold.study import Curve, CurvePoint

FOURFOLD: Final = 0.60206  # from tick to tick of a logarithmic axis, as a power of ten


def write_curves(curves: Sequence[Curve], title: str, path: str | Path) -> None:
    """Write the page of some curves to a file: whole, or not at all.

    title : what they are of, a few words

    Raises
    ------
    FormatError : the file cannot be written
    """
    write_text(path, curves_html(curves, title))


def curves_html(curves: Sequence[Curve], title: str) -> str:
    """Return the page of some curves; equal curves give equal text."""
    drawing = curves_drawing(curves)
    parts = common_parts({"drawings": {drawing.name: drawing.figure}, "positions": [], "sizes": [], "letters": ""}) | {
        "title": markup(title),
        "answer": "\n".join(f'<p class="headline">{markup(sentence)}</p>' for sentence in curve_headline(curves)),
        "legend": legend([line_swatch(paint(number), curve_name(curve)) for number, curve in enumerate(curves)]),
        "figure": figures_markup([drawing]),
        "table": "\n".join(_body(curve) for curve in curves),
    }
    return Template(template("curves.html")).substitute(parts)


def curve_name(curve: Curve) -> str:
    """Return what tells a curve from the others."""
    return f"{curve.page_size} pages, {structure_name(curve.sets)}"


def curves_drawing(curves: Sequence[Curve]) -> Drawing:
    """Return miss curves in one figure: entries on a logarithmic scale, misses upwards."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": curve_name(curve),
            "x": [point.entries for point in curve.points()],
            "y": [point.misses_per_1000 for point in curve.points()],
            "line": {"color": look.colour, "width": 2, "dash": DASHES[look.hatch]},
            "marker": {"size": 5, "color": look.colour},
            "hovertemplate": "%{x:,} entries: %{y:.3f} misses<extra>%{fullData.name}</extra>",
        }
        for look, curve in ((paint(number), curve) for number, curve in enumerate(curves))
    ]
    fixed = {"fixedrange": True, "automargin": True, "gridcolor": LINE, "zerolinecolor": SOFT}
    layout = layout_of(margin=8) | {
        "xaxis": fixed | {"title": {"text": "entries"}, "type": "log", "dtick": FOURFOLD, "tickformat": ",d"},
        "yaxis": fixed | {"title": {"text": "misses in 1000 accesses"}, "rangemode": "tozero"},
    }
    note = "misses in a thousand accesses by the number of entries, four times as many a step"
    alt = f"Line chart, {note}: {'; '.join(map(curve_name, curves))}. The figures stand in the table below."
    return Drawing("curves", "Misses by size", note, alt, {"data": data, "layout": layout})


def _body(curve: Curve) -> str:
    """Return the rows of one curve."""
    points = curve.points()
    head = f'<th class="cell" scope="rowgroup" rowspan="{len(points)}">{markup(curve_name(curve))}</th>'
    rows = "\n".join(f"<tr>{'' if row else head}{_row(point)}</tr>" for row, point in enumerate(points))
    return f"<tbody>\n{rows}\n</tbody>"


def _row(point: CurvePoint) -> str:
    """Return the figures of one size."""
    numbers = "".join(f"<td>{count(number)}</td>" for number in (point.ways, point.entries, point.misses))
    return f"{numbers}<td>{point.misses_per_1000:.3f}</td>"
