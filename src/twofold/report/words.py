"""How the page words a figure: shares, ranges over host states, names that came from files."""

from collections.abc import Callable
from pathlib import PurePath
from typing import Final

from twofold.units import ORDER_1G, ORDER_2M, ORDER_4K, order_name

Spread = tuple[float, float, float]  # median, least, greatest over the host states
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


def spread_range(spread: Spread, form: Format) -> str:
    """Return the range of a figure over the host states, "" where it reads the same in all."""
    least, greatest = form(spread[1]), form(spread[2])
    return "" if least == greatest else f"[{least}{DASH}{greatest}]"


def between(least: int, most: int) -> str:
    """Return a number that is known, or the bounds of one that is not."""
    return count(least) if least == most else f"{count(least)} to {count(most)}"


def cpu_name(cpu: str) -> str:
    """Return a CPU as it is called: by its profile's file where that is not a shipped one, never by a folder."""
    return PurePath(cpu).name


def size_names() -> tuple[str, str, str]:
    """Return the leaf sizes, the largest first."""
    large, middle, small = (order_name(order) for order in (ORDER_1G, ORDER_2M, ORDER_4K))
    return large, middle, small


def listed(names: list[str]) -> str:
    """Return names as a sentence has them: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
