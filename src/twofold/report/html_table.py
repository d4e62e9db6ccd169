"""The tables of the page: the short one that answers first, and the one with every figure.

Every text is escaped here; what comes back is markup.
"""

from collections.abc import Iterator
from functools import partial
from itertools import groupby

from twofold.report.paints import Paint, design_paints
from twofold.report.words import DASH, PAGE_FORMS, Format, cpu_name, markup, share, spread_range, times
from twofold.study import Column, Key, Outcome, Spread


def _columns(outcome: Outcome, group: str) -> dict[str, Column]:
    """Return the columns of one group."""
    return {name: column for name, column in outcome.columns.items() if column.group == group}


def full_table(outcome: Outcome) -> str:
    """Return the table with a row for each design, CPU, workload and guest page size."""
    built, priced = _columns(outcome, "built"), _columns(outcome, "priced")
    titles = (column.title.replace("\n", "<br>") for column in (*built.values(), *priced.values()))
    heads = "".join(f'<th scope="col">{title}</th>' for title in titles)
    groups = groupby(outcome.cells(), key=lambda cell: cell[:3])
    bodies = "\n".join(_body(outcome, list(cells)) for _key, cells in groups)
    return (
        f'<table>\n<thead>\n<tr class="groups"><th></th><th></th>'
        f'<th colspan="{len(built)}" scope="colgroup">what was built</th>'
        f'<th colspan="{len(priced)}" scope="colgroup">what it costs</th></tr>\n'
        f'<tr><th scope="col">program</th><th scope="col" class="design">design</th>{heads}</tr>\n</thead>\n'
        f"{bodies}\n</table>"
    )


def _body(outcome: Outcome, cells: list[Key]) -> str:
    """Return the rows of one program, a design each."""
    cpu, workload, pages, _design = cells[0]
    head = (
        f'<th class="cell" scope="rowgroup" rowspan="{len(cells)}">{markup(workload)}'
        f"<small>{markup(pages)} guest pages</small><small>{markup(cpu_name(cpu))}</small></th>"
    )
    rows = "\n".join(f"<tr>{'' if row else head}{_row(outcome, cell)}</tr>" for row, cell in enumerate(cells))
    return f"<tbody>\n{rows}\n</tbody>"


def _row(outcome: Outcome, cell: Key) -> str:
    columns = _columns(outcome, "built").items()
    built = "".join(_figure(outcome.spread(cell, name), PAGE_FORMS[column.kind]) for name, column in columns)
    return f"{design_head(outcome, cell[3])}{built}{_priced(outcome, cell)}"


def _priced(outcome: Outcome, cell: Key) -> str:
    """Return the cells of the MMU's figures, or one with the reason why there are none."""
    columns, reasons = _columns(outcome, "priced"), list(filter(None, outcome.texts(cell, "not_available")))
    if reasons:
        return f'<td class="reason" colspan="{len(columns)}">n/a: {markup(reasons[0])}</td>'
    return "".join(
        _figure(outcome.spread(cell, name), PAGE_FORMS[column.kind], "key" if column.kind == "times" else "")
        for name, column in columns.items()
    )


def _figure(spread: Spread | None, form: Format, kind: str = "") -> str:
    """Return the cell of a figure: its median, with the range over the host states below."""
    if spread is None:
        return '<td title="there is nothing to compare with">n/a</td>'
    kept = f' class="{kind}"' if kind else ""
    range_ = spread_range(spread, form)
    below = f"<small>{markup(range_)}</small>" if range_ else ""
    return f"<td{kept}>{markup(form(spread[0]))}{below}</td>"


def design_head(outcome: Outcome, design: str) -> str:
    """Return the head of a design's row, with its colour."""
    return f'<th class="design" scope="row">{design_swatch(outcome, design)}</th>'


def design_swatch(outcome: Outcome, design: str) -> str:
    """Return a design's name after a patch of its colour."""
    paint = design_paints(outcome)[design]
    return swatch(paint.colour, outcome.labels[design], f" hatch-{paint.hatch}" if paint.hatch else "")


def line_swatch(paint: Paint, text: str) -> str:
    """Return a text after a piece of its line."""
    return swatch(paint.colour, text, f" dash-{paint.hatch}")


def swatch(colour: str, text: str, look: str = "") -> str:
    """Return a text after a patch of colour, with a class of the style sheet for one that is not plain."""
    return f'<span class="swatch{look}" style="--colour:{colour}"></span>{markup(text)}'


def legend(entries: list[str]) -> str:
    """Return the key to colours from entries that `swatch` made."""
    return f'<ul class="legend">{"".join(f"<li>{entry}</li>" for entry in entries)}</ul>'


def glance_table(outcome: Outcome) -> str:
    """Return the short answer: for each design what it built, and its speed-ups by guest page size."""
    pages = outcome.scenario.guest_pages
    heads = "".join(f'<th scope="col">{markup(size)}</th>' for size in pages)
    rows = "\n".join(_glance_row(outcome, design) for design in outcome.variants)
    return (
        '<div class="scroll glance" role="region" aria-label="The designs at a glance" tabindex="0">\n<table>\n<thead>'
        f'<tr class="groups"><th></th><th></th><th colspan="{len(pages)}" scope="colgroup">speed-up with guest pages of'
        f'</th></tr>\n<tr><th scope="col">design</th><th scope="col">in large<br>leaves</th>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _glance_row(outcome: Outcome, design: str) -> str:
    cells = [cell for cell in outcome.cells() if cell[3] == design]
    speedups = "".join(_glance_speedups(outcome, cells, size) for size in outcome.scenario.guest_pages)
    shares = _figure(outcome.spread(cells[0], "large_share"), share)
    return f"<tr>{design_head(outcome, design)}{shares}{speedups}</tr>"


def _glance_speedups(outcome: Outcome, cells: list[Key], pages: str) -> str:
    """Return the least and the greatest median speed-up over workloads and CPUs."""
    spreads = map(partial(outcome.spread, column="speedup"), (cell for cell in cells if cell[2] == pages))
    medians = sorted(_medians(spreads))
    if not medians:
        return "<td>n/a</td>"
    least, greatest = times(medians[0]), times(medians[-1])
    text = least if least == greatest else f"{least[:-1]}{DASH}<wbr>{greatest}"
    return f'<td class="key">{text}</td>'


def _medians(spreads: Iterator[Spread | None]) -> Iterator[float]:
    return (spread[0] for spread in spreads if spread is not None)
