"""Turning a trace of any format into a trace file of our own; what comes before a broken place is kept."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from twofold.errors import FormatError
from twofold.files import check_target
from twofold.trace.readers import Progress, Reader, open_reader
from twofold.trace.stored import TraceWriter, write_trace


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
    target = Path(target)
    check_target(target)
    return store(open_reader(Path(path), source_format, progress), target)


def store(reader: Reader, target: Path) -> Converted:
    """Write what a reader yields as a trace file."""
    problem: FormatError | None = None

    def fill(writer: TraceWriter) -> Iterable[str]:
        nonlocal problem
        try:
            for block in reader.blocks():
                writer.append(block)
        except FormatError as error:
            if not writer.accesses:
                raise
            problem = error
        cut = () if problem is None else (f"Cut short: {problem.problem}.",)
        return (*reader.notes(), *cut)

    return Converted(write_trace(target, reader.name, fill), reader.name, problem)
