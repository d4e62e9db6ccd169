"""Tables as CSV that a spreadsheet may open: no text of a file is ever a formula there.

A spreadsheet computes a cell that begins with one of a few signs. Texts come from files: names of workloads, CPUs and
hosts, reasons. Such a cell gets an apostrophe in front, which a spreadsheet takes as "this is a text" and everybody
else can see. Numbers are columns of numbers and stay.
"""

from typing import TYPE_CHECKING, Final

from twofold.errors import shown

if TYPE_CHECKING:
    import polars as pl

# Source: OWASP, "CSV Injection"; and their full-width forms, which some programs take for the same. Tabs and ends of
# lines, which it names too, are escaped before.
_SIGNS: Final = frozenset("=+-@|%\uff1d\uff0b\uff0d\uff20")


def cell_of(text: str) -> str:
    """Return a text as the cell of a table: one line (`errors.shown`), and no formula."""
    line = shown(text)
    return f"'{line}" if line.lstrip()[:1] in _SIGNS and line.strip() else line


def csv_text(frame: "pl.DataFrame") -> str:
    """Return a table as CSV with a header."""
    import polars as pl  # noqa: PLC0415  takes a while to load, and a table on the terminal needs none of it

    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    return frame.with_columns(pl.col(name).map_elements(cell_of, return_dtype=pl.String) for name in texts).write_csv()
