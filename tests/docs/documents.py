"""The documents as data: their tables, and the code and links in their text. Fenced blocks are neither."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_OURS = {"__pycache__", "build", "dist", "node_modules"}
PAGES = tuple(
    sorted(
        path
        for pattern in ("*.md", "docs/**/*.md", "tests/**/*.md", "changelog.d/*.md")
        for path in ROOT.glob(pattern)
        if path.name != "CHANGELOG.md"  # what it says of a past release was true then
    )
)


@dataclass(frozen=True)
class Span:
    """A piece of a line: what stands between backticks, or a link's target."""

    line: int
    text: str


@dataclass(frozen=True)
class Table:
    """A table of a document; cells without the blanks around them."""

    line: int
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def prose(text: str) -> str:
    """Return a text with the lines of its fenced blocks blank, so that line numbers stay."""
    return re.sub(r"^ *```.*?^ *```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


def _spans(text: str, pattern: str) -> Iterator[Span]:
    for found in re.finditer(pattern, text):
        yield Span(text.count("\n", 0, found.start()) + 1, " ".join(found[1].split()))


def code_spans(text: str) -> Iterator[Span]:
    """Yield what stands between backticks; a span may go on in the next line, not in the next paragraph."""
    yield from _spans(prose(text), r"(?<!`)`((?:[^`\n]|\n(?!\s*\n))+)`(?!`)")


def links(text: str) -> Iterator[Span]:
    """Yield the targets of links that stay in the repository."""
    for span in _spans(re.sub(r"`[^`\n]*`", lambda code: " " * len(code[0]), prose(text)), r"\]\(([^()\s]+)\)"):
        if not re.match(r"[a-z]+:", span.text):
            yield span


def command_lines(text: str) -> Iterator[Span]:
    """Yield the commands of Twofold and make in fenced and indented blocks."""
    is_fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        is_fenced ^= line.lstrip().startswith("```")
        command = line.strip().removeprefix("$ ")
        if (is_fenced or line.startswith("    ")) and re.match(r"(twofold|make) [\w-]", command):
            yield Span(number, command.partition(" #")[0].strip())


def tables(text: str) -> Iterator[Table]:
    """Yield every table of a text."""
    lines, start = [*prose(text).splitlines(), ""], None
    for number, line in enumerate(lines):
        if line.lstrip().startswith("|"):
            start = number if start is None else start
        elif start is not None:
            cells = [cells_of(each) for each in lines[start:number]]
            yield Table(start + 1, cells[0], tuple(cells[2:]))
            start = None


def cells_of(line: str) -> tuple[str, ...]:
    """Return the cells of a row; a bar in a code span or behind a backslash is none of its borders."""
    inner = line.strip().strip("|")
    parts = re.split(r"(?<!\\)\|(?=(?:[^`]*`[^`]*`)*[^`]*$)", inner)
    return tuple(part.strip() for part in parts)


def doubled_rows(text: str) -> list[str]:
    """Return what stands twice: a first cell in one table, or a whole row anywhere in the text."""
    wrong: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for table in tables(text):
        keys: set[str] = set()
        for offset, row in enumerate(table.rows, table.line + 2):
            if (row[0] and row[0] in keys) or row in seen:
                wrong.append(f"line {offset}: {row[0] or row[1:]} stands twice")
            keys.add(row[0])
            seen.add(row)
    return wrong


def ragged_rows(text: str) -> list[str]:
    """Return the rows that have another number of cells than their table's header."""
    return [
        f"line {offset}: {len(row)} cells under {len(table.header)}"
        for table in tables(text)
        for offset, row in enumerate(table.rows, table.line + 2)
        if len(row) != len(table.header)
    ]


def anchors(text: str) -> set[str]:
    """Return the names by which a link can lead to a heading of a page."""
    headings = re.findall(r"^#+ +(.*?) *$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def files() -> frozenset[str]:
    """Return every file of the repository, as a path from its root, without what tools have made."""
    found = set()
    for top in ROOT.iterdir():
        if top.name in NOT_OURS or (top.name.startswith(".") and top.name != ".ci"):
            continue
        for path in [top] if top.is_file() else top.rglob("*"):
            inner = path.relative_to(ROOT)
            if path.is_file() and not NOT_OURS & set(inner.parts) and ".egg-info" not in str(inner):
                found.add(inner.as_posix())
    return frozenset(found)


@cache
def folders() -> frozenset[str]:
    """Return every folder that holds one of those files."""
    return frozenset(parent.as_posix() for path in files() for parent in Path(path).parents if parent.name)
