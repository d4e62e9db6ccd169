"""Who opens a file: readers, chosen by the first bytes of a file, never by its name.

Every reader is asked, the built-in ones first, then those of other packages by name. None that knows the file is an
error that lists them; so are two, and then a name decides. A reader of your own is a class with a `name`, `knows` and
`open` that is made without arguments; the entry point group `twofold.dumps` makes it known (docs/dumps.md).
"""

import warnings
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Final, Protocol

from twofold import registry
from twofold.dumps.raw_pages import check_ascending
from twofold.dumps.source import MAX_FRAMES, BoundedReader, Dump
from twofold.errors import MOST_IN_NAME, FormatError, PlugInError, PlugInWarning, quoted
from twofold.files import read_start
from twofold.formats.table_formats import P2M_FORMATS
from twofold.memory import MemoryLimit
from twofold.units import FRAME_BYTES, format_bytes

GROUP: Final = "twofold.dumps"
BUILT_IN: Final = {
    "machine": "twofold.dumps.saved_machine:MachineReader",
    "machine-npz": "twofold.dumps.old_machine:OldMachineReader",
    "raw-pages": "twofold.dumps.raw_pages:RawPagesReader",
    "table-array": "twofold.dumps.table_array:TableArrayReader",
}
START_BYTES: Final = 4096  # of a file, shown to each reader; fewer where it is shorter
_SHOWN_BYTES: Final = 8


class DumpReader(Protocol):
    """One format of a dump."""

    name: str

    def knows(self, start: bytes) -> bool:
        """Return whether a file that begins with these bytes, at most 4096, is of this format."""

    def open(self, path: Path) -> Dump:
        """Return what the file holds. Nothing in it is trusted, and it may be larger than memory.

        Raises
        ------
        FormatError : what is wrong with it
        """


def dump_reader_names() -> tuple[str, ...]:
    """Return the names of all readers that are installed, the built-in ones first: in this order they are asked."""
    return registry.names_of(GROUP, BUILT_IN)


def get_dump_reader(name: str) -> DumpReader:
    """Return a reader by name.

    Raises
    ------
    UnknownNameError : no installed reader has that name
    """
    reader: DumpReader = registry.create("dump reader", GROUP, BUILT_IN, name)
    return reader


def open_dump(path: Path, reader: str | DumpReader | None = None, limit: MemoryLimit | None = None) -> Dump:
    """Return an opened file; who opens it calls `release` in the end.

    Parameters
    ----------
    reader : its name, or a reader that is not installed; None: the one that knows the file
    limit : what of it may be held in memory; None: a quarter of what is free

    Raises
    ------
    FormatError : no reader knows it, several do, or what is wrong with it
    UnknownNameError : no such reader
    """
    start = read_start(path, START_BYTES)
    if reader is None:
        reader = _choose(path, start)
    elif isinstance(reader, str):
        reader = get_dump_reader(reader)
    dump = _opened(path, reader, limit or MemoryLimit())
    try:
        _check(path, dump)
    except BaseException:
        dump.release()
        raise
    return dump


def _opened(path: Path, reader: DumpReader, limit: MemoryLimit) -> Dump:
    return reader.open_within(path, limit) if isinstance(reader, BoundedReader) else reader.open(path)


def _choose(path: Path, start: bytes) -> DumpReader:
    """Return the one reader that knows a file by its first bytes."""
    knowing = [(name, "built in", reader) for name in BUILT_IN if (reader := get_dump_reader(name)).knows(start)]
    for each in registry.others(GROUP, BUILT_IN):
        try:
            knowing += registry.use("dump reader", each, partial(_ask, each, start))
        except PlugInError as error:
            warnings.warn(f"{error}; it is not asked", PlugInWarning, stacklevel=2)
    if len(knowing) == 1:
        return knowing[0][2]
    if knowing:
        names = " and ".join(f"{name} ({origin})" for name, origin, _ in knowing)
        raise FormatError(path, f"is claimed by {names}: name the reader, or uninstall one of them")
    shown = start[:_SHOWN_BYTES].hex(" ") or "nothing"
    names = ", ".join(dump_reader_names())
    raise FormatError(path, f"is no .npz file of tables, and no dump of a reader that is installed ({names}): {shown}")


def _ask(entry: EntryPoint, start: bytes) -> list[tuple[str, str, DumpReader]]:
    """Return the reader of another package where it knows a file by its first bytes, nothing where it does not."""
    reader: DumpReader = entry.load()()
    return [(entry.name, entry.value, reader)] if reader.knows(start) else []


def _check(path: Path, dump: Dump) -> None:
    """Raise unless what a reader says of a file can be: it may have copied it from there."""
    if not 0 < dump.frames <= MAX_FRAMES:
        most = format_bytes(MAX_FRAMES * FRAME_BYTES)
        raise FormatError(path, f"is of a machine of {dump.frames:#x} frames: one at least, {most} at most, are read")
    for each in dump.roots:
        if not 0 <= each.mfn < dump.frames:
            raise FormatError(path, f"has a root at mfn {each.mfn:#x}, outside the machine")
        if each.table_format is not None and each.table_format not in P2M_FORMATS:
            raise FormatError(path, f"has tables of a format {quoted(each.table_format)}, which none is")
        if not each.name.isprintable():  # control characters would reach a terminal, lone surrogates no file at all
            raise FormatError(path, f"names a domain {quoted(each.name)}, which cannot be printed")
        if len(each.name) > MOST_IN_NAME:
            raise FormatError(
                path, f"names a domain {quoted(each.name)}: no name is longer than {MOST_IN_NAME} letters"
            )
    if dump.tables is not None:
        check_ascending(path, dump.tables, dump.frames)
    if dump.machine is not None:
        table, m2p, orders, _ = dump.machine
        if {len(table.owner), len(table.use), len(m2p.complement), len(orders)} != {dump.frames}:
            raise FormatError(path, "has a frame table, an M2P or a heap of another machine than its tables")
