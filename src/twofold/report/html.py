"""One HTML page of a comparison, for people: one file that needs no network and no server.

The page shows what the outcome has and nothing else, so equal outcomes give equal bytes. All text from outside
is escaped (a host's notes may come from anybody's snapshot file), and the page's own policy forbids the browser
to load anything. Read first: `data/report/page.html`.
"""

import re
from pathlib import Path
from string import Template
from typing import Any, Final

from twofold.errors import wrong_type
from twofold.files import write_text
from twofold.report.bars import chart_drawings
from twofold.report.figures import LETTERS, SIZE_COLOURS, Drawing, blocks_drawing, curve_positions, picture_drawings
from twofold.report.headline import headline
from twofold.report.html_table import design_swatch, full_table, glance_table, legend, swatch
from twofold.report.page import common_parts, figures_markup, template
from twofold.report.words import between, cpu_name, markup
from twofold.study import Outcome
from twofold.units import format_bytes, order_name

SIZES: Final = ("nothing", "less than 2M", "2M up to 1G", "1G and more")  # by the codes of a picture
DIGEST_DIGITS: Final = 12


def write_report(outcome: Outcome, path: str | Path) -> None:
    """Write the page of a comparison to a file: whole, or not at all.

    Raises
    ------
    FormatError : the file cannot be written
    """
    if not isinstance(outcome, Outcome):
        raise wrong_type("a report is of an Outcome, as compare gives", outcome)
    write_text(path, report_html(outcome))


def report_html(outcome: Outcome) -> str:
    """Return the page of a comparison; equal outcomes give equal text."""
    pictures, charts, blocks = picture_drawings(outcome), chart_drawings(outcome), blocks_drawing(outcome)
    parts = (
        _words(outcome)
        | common_parts(_drawn([*pictures, *charts, blocks]))
        | {
            "glance": glance_table(outcome),
            "picture_legend": legend([swatch(colour, size) for colour, size in zip(SIZE_COLOURS, SIZES, strict=True)]),
            "pictures": figures_markup(pictures),
            "design_legend": legend([design_swatch(outcome, design) for design in outcome.variants]),
            "charts": figures_markup(charts),
            "table": full_table(outcome),
            "blocks": figures_markup([blocks]),
        }
    )
    return Template(template("page.html")).substitute(parts)


def _words(outcome: Outcome) -> dict[str, str]:
    """Return the page's sentences and lists, as markup."""
    states = len(outcome.scenario.seeds)
    several = states > 1
    return {
        "title": markup(f"a {format_bytes(outcome.guest_bytes)} guest on a {_machine(outcome)} host"),
        "headline": markup(" ".join(headline(outcome))),
        "first_seed": " All are of the first host state." if several else "",
        "bars_note": f" A bar is the median of {states} host states, its line their range." if several else "",
        "table_note": _code(_table_note(states)),
        "host": _definitions(_host_facts(outcome)),
        "assumptions": "\n".join(f"<li>{_code(sentence)}</li>" for sentence in outcome.assumptions),
        "scenario": _definitions(_scenario_facts(outcome)),
    }


def _machine(outcome: Outcome) -> str:
    return format_bytes(outcome.host.machine_bytes)


def _table_note(states: int) -> str:
    """Return how to read the table."""
    seeds = f" Medians of {states} host states, with the range below where it is one." if states > 1 else ""
    return (
        "Large leaves are all but those of 4K. Calls are memory operations; an extent is refused when the machine "
        "has no such block free. Speed-up is against `small` in the same mode, with the same program and guest pages."
        f"{seeds}"
    )


def _host_facts(outcome: Outcome) -> list[tuple[str, str]]:
    """Return what is known of the host and the guest, by name."""
    host = outcome.host
    exact = "every free frame is known" if host.exact else "places and the largest blocks are assumed"
    extents = (f"{order_name(order)}: {between(*bounds)}" for order, bounds in host.bounds.items())
    facts = [
        ("host", f"{format_bytes(host.free_bytes)} of {_machine(outcome)} free"),
        ("source", f"{host.source}: {exact}"),
        ("assumption", host.assumption),
        *(("note", note) for note in host.notes),
        ("free extents", f"{', '.join(extents)} (aligned, larger blocks included)"),
        ("free map", f"SHA-256 {host.digest[:DIGEST_DIGITS]}"),
        ("guest", f"{format_bytes(outcome.guest_bytes)}, layout {outcome.scenario.guest.layout}"),
        _touched(outcome),
    ]
    return [(name, text) for name, text in facts if text]


def _touched(outcome: Outcome) -> tuple[str, str]:
    """Return what the programs work in, or what a trace touches."""
    if outcome.scenario.trace is None:
        return "workload area", format_bytes(outcome.footprint)
    return "trace", f"{outcome.scenario.programs[0]}, {format_bytes(outcome.footprint)} of 4K pages touched"


def _scenario_facts(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the fields that applied, as a saved scenario has them: without where the host was read from."""
    fields = outcome.applied_fields()
    fields["cpus"] = [cpu_name(cpu.name) for cpu in outcome.scenario.cpus]
    fields["modes"] = [mode.name for mode in outcome.scenario.full_modes]
    return list(_flattened(fields))


def _flattened(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested fields by dotted names; what was left to Twofold says so."""
    facts: list[tuple[str, str]] = []
    for name, value in fields.items():
        if isinstance(value, dict):
            facts += _flattened(value, f"{prefix}{name}.")
            continue
        parts = value if isinstance(value, list) else ["default" if value is None else value]
        facts.append((f"{prefix}{name}", ", ".join(map(_field, parts)) or "none"))
    return facts


def _field(value: object) -> str:
    """Return one value of a scenario as text."""
    return " ".join(f"{name}={part}" for name, part in value.items()) if isinstance(value, dict) else str(value)


def _code(sentence: str) -> str:
    """Return a sentence as markup, names between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", markup(sentence))


def _definitions(facts: list[tuple[str, str]]) -> str:
    """Return names with their texts as a list."""
    items = "\n".join(f"<dt>{markup(name)}</dt><dd>{markup(text)}</dd>" for name, text in facts)
    return f'<dl class="small">\n{items}\n</dl>'


def _drawn(drawings: list[Drawing]) -> dict[str, Any]:
    """Return what the page's script reads."""
    figures = {drawing.name: drawing.figure for drawing in drawings}
    return {"sizes": SIZES, "letters": LETTERS, "positions": curve_positions(), "drawings": figures}
