"""Lines of text in a width: sentences, and tables whose figures are never cut or wrapped.

A table that is too wide first loses its wider gaps, then folds its words. What is still too wide becomes several, one
below the other, each with the words of every row; and where not even one column of figures has room, a list. Left out:
letters that take two places. Read first: `Grid.lines`.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from twofold.errors import shown

GAPS: Final = (2, 1)  # between columns
WORDS_WIDTH: Final = 14  # words are not folded any narrower where there is a choice
UNBROKEN: Final = "\N{NO-BREAK SPACE}"  # in a sentence: a space that no line ends at
_NUMBER: Final = re.compile(r"\W*(?:0x[0-9a-fA-F]+|\d[\d.,:]*)\S{0,4}")


Row = tuple[str, ...] | str


@dataclass(frozen=True)
class Line:
    """One line; heads may be shown in bold."""

    text: str
    is_head: bool = False


@dataclass(frozen=True)
class Head:
    """A column's name, and whether it holds figures: those stand right and stay whole; words stand left."""

    name: str
    is_figure: bool = True


def sentence_lines(text: str, width: int | None, indent: str = "") -> list[Line]:
    """Return a sentence in lines of at most this width, the later ones indented; None: in one line."""
    line = shown(text)
    lines = [line] if width is None else _wrapped(line, width, indent)
    return [Line(line.replace(UNBROKEN, " ")) for line in lines]


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False, replace_whitespace=False) or [
        ""
    ]


@dataclass(frozen=True)
class Grid:
    """A table. Its words come first, then its figures, or words again.

    heads : of the columns
    rows : a text for each column; or one text, which stands over the rows that follow
    """

    heads: tuple[Head, ...]
    rows: tuple[Row, ...]

    @property
    def natural_widths(self) -> list[int]:
        """The width of each column when nothing is folded."""
        columns = [[head.name, *map(shown, self._column(place))] for place, head in enumerate(self.heads)]
        return [max(map(len, column)) for column in columns]

    def _column(self, place: int) -> list[str]:
        return [row[place] for row in self.rows if not isinstance(row, str)]

    def fits(self, width: int | None) -> bool:
        """Return whether it fits without folding anything."""
        return width is None or _total(self.natural_widths, GAPS[-1]) <= width

    def lines(self, width: int | None) -> Iterator[Line]:
        """Yield the table in lines of at most this width; None: as wide as it is."""
        if not self.heads:
            return
        widths = self.natural_widths
        if width is None:
            yield from self.table(widths, GAPS[0])
            return
        fitting = [gap for gap in GAPS if _total(widths, gap) <= width]
        gap = fitting[0] if fitting else GAPS[-1]
        widths = self._folded(widths, width, gap)
        if _total(widths, gap) <= width:
            yield from self.table(widths, gap)
        elif parts := self._parts(widths, width, gap):
            for number, part in enumerate(parts):
                yield from [Line("")] * bool(number)
                yield from self._of(part).table([widths[place] for place in part], gap)
        else:
            yield from self._list(width)

    def _folded(self, widths: list[int], width: int, gap: int) -> list[int]:
        """Return widths of which those of words are as narrow as has to be, the widest first."""
        least = [self._least(place, wide) for place, wide in enumerate(widths)]
        widths = list(widths)
        while _total(widths, gap) > width:
            place = max(range(len(widths)), key=lambda each: (widths[each] > least[each], widths[each]))
            if widths[place] <= least[place]:
                break
            widths[place] -= 1
        return widths

    def _least(self, place: int, wide: int) -> int:
        """Return how narrow a column may be: figures not at all, words as far as no number in them is broken."""
        if self.heads[place].is_figure:
            return wide
        words = (word for text in self._column(place) for word in shown(text).split())
        numbers = [len(word) for word in words if _NUMBER.fullmatch(word)]
        return min(wide, max(WORDS_WIDTH, len(self.heads[place].name), *numbers, 0))

    def _parts(self, widths: list[int], width: int, gap: int) -> list[list[int]]:
        """Return the columns of tables that fit, each with all leading words; nothing where not even one does."""
        keys = [place for place, head in enumerate(self.heads) if not head.is_figure]
        parts: list[list[int]] = []
        for place in (place for place, head in enumerate(self.heads) if head.is_figure):
            if _total([widths[each] for each in [*keys, place]], gap) > width:
                return []
            if parts and _total([widths[each] for each in [*parts[-1], place]], gap) <= width:
                parts[-1].append(place)
            else:
                parts.append([*keys, place])
        return parts

    def _of(self, places: list[int]) -> "Grid":
        """Return the table of some of the columns."""
        heads = tuple(self.heads[place] for place in places)
        rows = (row if isinstance(row, str) else tuple(row[place] for place in places) for row in self.rows)
        return Grid(heads, tuple(rows))

    def table(self, widths: list[int], gap: int) -> Iterator[Line]:
        """Yield a table whose words are folded to these widths."""
        yield from self._row(tuple(head.name for head in self.heads), widths, gap, is_head=True)
        for row in self.rows:
            if isinstance(row, str):
                yield from sentence_lines(row, _total(widths, gap))
            else:
                yield from self._row(row, widths, gap)

    def _row(self, row: tuple[str, ...], widths: list[int], gap: int, *, is_head: bool = False) -> Iterator[Line]:
        """Yield one row, in as many lines as its words are folded to."""
        columns = [
            [shown(text)] if head.is_figure else _wrapped(shown(text), wide)
            for text, wide, head in zip(row, widths, self.heads, strict=True)
        ]
        for texts in zip_longest(*columns, fillvalue=""):
            parts = (
                text.rjust(wide) if head.is_figure else text.ljust(wide)
                for text, wide, head in zip(texts, widths, self.heads, strict=True)
            )
            yield Line((" " * gap).join(parts).rstrip(), is_head)

    def _list(self, width: int) -> Iterator[Line]:
        """Yield a line for each text of each row, after the column's name."""
        for number, row in enumerate(self.rows):
            yield from [Line("")] * bool(number)
            names = (head.name for head in self.heads)
            for text in [row] if isinstance(row, str) else map(": ".join, zip(names, row, strict=True)):
                yield from sentence_lines(text, width, indent="  ")


def _total(widths: Iterable[int], gap: int) -> int:
    known = list(widths)
    return sum(known) + gap * (len(known) - 1)
