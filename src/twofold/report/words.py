"""How figures are worded, on the page and on a terminal: shares, ranges over host states, names out of files."""

from collections.abc import Callable
from html import escape
from pathlib import PurePath
from typing import Final

from twofold.errors import shown
from twofold.study import Spread

Format = Callable[[float], str]
DASH: Final = "\N{EN DASH}"


def share(part: float) -> str:
    """Return a share in per cent; only none is 0 %, and only all is 100 %."""
    if 0 < part < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= part < 1 else f"{part:.1%}"


def times(factor: float) -> str:
    """Return a speed-up."""
    return f"{factor:.2f}\N{MULTIPLICATION SIGN}"


def count(number: float) -> str:
    """Return a number of things; a median may be half-way between two."""
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def plain_count(number: float) -> str:
    """Return a number of things without commas, as a table on a terminal has it."""
    return count(number).replace(",", "")


def plain_times(factor: float) -> str:
    """Return a speed-up in plain letters."""
    return f"{factor:.2f}x"


PAGE_FORMS: Final[dict[str, Format]] = {  # by the kind of a column
    "count": count,
    "share": share,
    "tenths": "{:.1f}".format,
    "hundredths": "{:.2f}".format,
    "times": times,
}
TERMINAL_FORMS: Final = PAGE_FORMS | {"count": plain_count, "times": plain_times}


def spread_range(spread: Spread, form: Format) -> str:
    """Return the range of a figure over the host states, "" where it reads the same in all."""
    least, greatest = form(spread[1]), form(spread[2])
    return "" if least == greatest else f"[{least}{DASH}{greatest}]"


def plain_range(spread: Spread, form: Format) -> str:
    """Return the range of a figure as it stands behind its median on a terminal, "" where it reads the same."""
    least, greatest = form(spread[1]), form(spread[2])
    return "" if least == greatest else f" [{least}-{greatest}]"


def between(least: int, most: int) -> str:
    """Return a number that is known, or the bounds of one that is not."""
    return count(least) if least == most else f"{count(least)} to {count(most)}"


def markup(text: str) -> str:
    """Return text that came from anywhere as it may stand on a page: in one line (`errors.shown`), and escaped."""
    return escape(shown(text))


def cpu_name(cpu: str) -> str:
    """Return a CPU as it is called: by its profile's file where that is not a shipped one, never by a folder."""
    return PurePath(cpu).name


def listed(names: list[str]) -> str:
    """Return names as a sentence has them: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
