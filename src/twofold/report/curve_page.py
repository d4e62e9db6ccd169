"""One HTML page of miss curves: a figure and every point of it. Like the page of a comparison, it loads nothing."""

from collections.abc import Sequence
from pathlib import Path
from string import Template

from twofold.files import write_text
from twofold.report.figures import curve_colour, curve_name, curves_drawing
from twofold.report.html import figures_markup, script_json, template
from twofold.report.html_table import legend, swatch
from twofold.report.words import count, markup
from twofold.study import Curve, CurvePoint


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
    from plotly.offline import get_plotlyjs  # noqa: PLC0415  heavy, and only needed here

    drawing = curves_drawing(curves)
    parts = {
        "title": markup(title),
        "legend": legend([swatch(curve_colour(number), curve_name(curve)) for number, curve in enumerate(curves)]),
        "figure": figures_markup([drawing]),
        "table": "\n".join(_body(curve) for curve in curves),
        "drawings": script_json({"drawings": {drawing.name: drawing.figure}, "positions": [], "sizes": []}),
        "plotly": get_plotlyjs(),
        "style": template("page.css"),
        "script": template("page.js"),
    }
    return Template(template("curves.html")).substitute(parts)


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
