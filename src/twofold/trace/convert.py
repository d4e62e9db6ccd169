"""Turning a trace of any format into a trace file of our own; what comes before a broken place is kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from twofold.errors import FormatError
from twofold.files import as_path, check_apart, check_target
from twofold.trace.accesses import TraceBlock
from twofold.trace.readers import Progress, Reader, open_reader
from twofold.trace.stored import TraceWriter, write_trace
from twofold.trace.summary import TraceInfo, summarise


@dataclass(frozen=True)
class Converted:
    """What came of a conversion.

    Parameters
    ----------
    accesses : written
    source : the format that was read
    problem : why the trace ended early, None when it did not; what stands before that place was written
    """

    accesses: int
    source: str
    problem: FormatError | None


def convert_trace(
    path: str | Path, target: str | Path, source_format: str | None = None, progress: Progress | None = None
) -> Converted:
    """Read a trace of any format and write it as a trace file, as a stream.

    Parameters
    ----------
    path : the trace, packed perhaps; "-" is standard input
    target : the file to write, whole or not at all
    source_format : name of its format; None: by what it holds

    Raises
    ------
    UnknownNameError : no such format
    FormatError : no trace, or one that is broken before its first access; or the target cannot be written
    """
    path, target = as_path(path), as_path(target)
    check_apart({"target": target}, [("path", path)])
    check_target(target)
    return store(open_reader(path, source_format, progress), target)


def store(reader: Reader, target: Path) -> Converted:
    """Write what a reader yields as a trace file."""
    kept = _Kept(reader)

    def fill(writer: TraceWriter) -> Iterable[str]:
        for block in kept:
            writer.append(block)
        cut = () if kept.problem is None else (f"Cut short: {kept.problem.problem}.",)
        return (*reader.notes(), *cut)

    return Converted(write_trace(target, reader.name, fill), reader.name, kept.problem)


def inspect_trace(
    path: str | Path, source_format: str | None = None, progress: Progress | None = None
) -> tuple[TraceInfo, FormatError | None]:
    """Return what is in a trace of any format, and why it ended early, None when it did not.

    Raises
    ------
    UnknownNameError : no such format
    FormatError : no trace, or one that is broken before its first access
    """
    reader = open_reader(path, source_format, progress)
    kept = _Kept(reader)
    info = summarise(kept, reader.name)
    return replace(info, notes=reader.notes()), kept.problem


class _Kept:
    """The blocks of a reader up to where it breaks; then `problem` says why. It must have given an access before."""

    def __init__(self, reader: Reader) -> None:
        self.problem: FormatError | None = None
        self._reader = reader

    def __iter__(self) -> Iterator[TraceBlock]:
        accesses = 0
        try:
            for block in self._reader.blocks():
                accesses += len(block)
                yield block
        except FormatError as error:
            if not accesses:
                raise
            self.problem = error
