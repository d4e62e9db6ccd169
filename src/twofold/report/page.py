"""What every page is made of: its texts, its style, the library that draws, and the places where it draws."""

import json
from importlib import resources
from typing import Any

from twofold.report.figures import Drawing
from twofold.report.words import markup


def common_parts(document: dict[str, Any]) -> dict[str, str]:
    """Return what stands in every page, around what its script reads."""
    return {
        "drawings": script_json(document),
        "plotly": library(),
        "style": template("page.css"),
        "script": template("page.js"),
    }


def template(name: str) -> str:
    """Return one of the texts that the page is made of."""
    return _text(f"report/{name}").rstrip("\n")


def library() -> str:
    """Return the library that draws: the part of plotly.js that has lines, bars and pictures."""
    return _text("plotly/plotly-cartesian.min.js")


def _text(name: str) -> str:
    return (resources.files("twofold") / "data" / name).read_text(encoding="utf-8")


def figures_markup(drawings: list[Drawing]) -> str:
    """Return the places that the page's script draws in, each with its words."""
    return "\n".join(
        f"<figure><figcaption>{markup(drawing.title)}<small>{markup(drawing.note)}</small></figcaption>"
        f'<div class="drawing" id="{drawing.name}" role="img" aria-label="{markup(drawing.alt)}"></div></figure>'
        for drawing in drawings
    )


def script_json(document: dict[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
