"""One P2M of a file: opened, its tables read, its dialect known, audited."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from twofold import kernels
from twofold.dumps.collect import CollectedTables, Reached
from twofold.dumps.evidence import guess
from twofold.dumps.marked import Kept, put_marked
from twofold.dumps.raw_pages import FILE_NAME
from twofold.dumps.readers import DumpReader, open_dump
from twofold.dumps.source import Dump, DumpRoot, MachineState
from twofold.errors import FormatError, ReadingError, SizeError, UnknownNameError
from twofold.formats import findings, shape
from twofold.formats.dialects import DIALECTS, Dialect, Reading, in_dialect, narrowed
from twofold.formats.table_formats import P2M_FORMATS, TableFormat
from twofold.machine import Arena
from twofold.memory import MemoryLimit
from twofold.p2m import AuditReport, Finding
from twofold.p2m.audit import Audit, Progress, Within
from twofold.units import FRAME_SHIFT, Gfn, Mfn

_NO_ROOT = findings.SENTENCES[findings.TABLE_NOT_OWNED]
_MOST_NAMED: Final = 100  # domains, where one is asked for that is not there
_MOST_TIMES: Final = 4  # that a machine's owned frames are looked at: each is mapped once, or by a few grants
_LEAST_FRAMES: Final = 1 << 30  # devices' memory is nobody's, and may be mapped whole: a second or two
_OUR_OWN = "the file is a machine that Twofold saved, which stores what Xen does"


class AsRead(NamedTuple):
    """How tables are read. assumed : what of it nobody said, in sentences."""

    dialect: str
    address_bits: int
    encryption_mask: int
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """One P2M of a file, its tables read.

    dump : what the file holds besides
    root : where the tables begin, and whose they are
    table_format : how to read them
    arena : memory that holds them, each at its place, what a hypervisor marks put as ours
    reached : which they are, and which the file does not hold
    kept : the marked entries, as the file has them
    as_read : whose they are
    path, limit : the file, and what of it may be held in memory
    """

    dump: Dump
    root: DumpRoot
    table_format: TableFormat
    arena: Arena
    reached: Reached
    kept: Kept
    as_read: AsRead
    path: Path
    limit: MemoryLimit

    def audit(self, progress: Progress | None) -> AuditReport:
        """Check the tables as they are.

        Raises
        ------
        FormatError : that takes more memory than it may, or no end: leaves that map everything over and over
        """
        memory = self.arena.tables_of(self.table_format.entry_dtype)
        audit = Audit(kernels, self.table_format, memory, Mfn(self.root.mfn), progress)
        machine = self.dump.machine
        if machine is not None and self.as_read.dialect == "xen":  # what holds a frame goes by types
            try:
                report = audit.of_machine(
                    machine.frame_table, machine.m2p.complement, machine.orders, self.root.domid, self._within(machine)
                )
            except SizeError as error:
                raise FormatError(self.path, f"is not audited to the end: {error}") from None
        else:
            # A copy of one kind, whatever the reader's: kernels are compiled once more for an array that is read-only.
            tables = np.array(self.reached.mfns if self.dump.tables is None else self.dump.tables, np.uint64)
            report = audit.of_tables(tables)
            if machine is not None:
                report = replace(report, skipped=(f"frame table and M2P: {self.as_read.dialect} has no types",))
            if len(self.reached.missing):
                report = replace(report, skipped=(*report.skipped, self._unread()))
        return report if self._has_root else _without_root(report, self.root.mfn, self.table_format)

    def _within(self, machine: MachineState) -> Within:
        """Return what bounds the audit against a machine's state."""
        parts = machine.parts
        if parts is None:
            return Within()
        frames = sum(count for _, count in parts) + (len(self.reached.mfns) << 9)
        return Within(parts, _MOST_TIMES * frames + _LEAST_FRAMES)

    def _unread(self) -> str:
        missing = self.reached.missing
        first = f"the first at mfn {int(missing[0]):#x}"
        return f"{len(missing)} frames that are named as tables are not in the file, {first}: what they would map"

    @property
    def _has_root(self) -> bool:
        return self.root.mfn in self.reached.mfns


def _without_root(report: AuditReport, mfn: int, table_format: TableFormat) -> AuditReport:
    """Return a report that begins with the root: the audit reads it as one that maps nothing."""
    hole = Finding(findings.TABLE_NOT_OWNED, Gfn(0), Mfn(mfn), table_format.geometry.levels, 0, _NO_ROOT)
    return replace(report, findings=(hole, *report.findings), found=report.found + 1)


def find(dump: Dump, tables: CollectedTables, root: DumpRoot, table_format: TableFormat, reading: Reading) -> Found:
    """Read the tables of one root.

    Raises
    ------
    FormatError : the file is damaged, or takes more memory than there is
    ReadingError : what `reading` says cannot be
    """
    plain = narrowed(table_format, reading)
    _check_frames(dump, plain, reading)
    name, why = reading.dialect, None
    if name is None and dump.machine is not None:
        name, why = "xen", _OUR_OWN
    if name is None:
        hardware = in_dialect(table_format, "bare", reading).table_format
        reached = tables.reach(hardware, root.mfn)
        name, why = guess(tables.arena, reached.mfns, plain, root.mfn)
    dialect = in_dialect(table_format, name, reading)
    if dump.machine is not None and name == "xen":  # tables of ours hold nothing that Xen writes otherwise
        dialect = dialect._replace(markers=())
    reached = tables.reach(dialect.table_format, root.mfn)
    kept = put_marked(tables.arena, reached.mfns, dialect, root.mfn)
    as_read = _as_read(root, dialect, reading, why)
    tables.claim_marks(reached)
    return Found(
        dump, root, dialect.table_format, tables.arena, reached, kept, as_read, path=tables.path, limit=tables.limit
    )


def _check_frames(dump: Dump, table_format: TableFormat, reading: Reading) -> None:
    """Raise unless the frames of a file can be named by the addresses that are left."""
    end, mask = (dump.frames - 1) << FRAME_SHIFT, reading.encryption_mask or 0
    if mask and mask & -mask <= end:
        raise ReadingError("encryption_mask", f"{mask:#x}", f"covers addresses that the file has: it ends at {end:#x}")
    if reading.address_bits is not None and end >> reading.address_bits:
        problem = f"is too few for the file's own frames: {table_format.name} tables stand up to {end:#x}"
        raise ReadingError("address_bits", str(reading.address_bits), problem)


def _as_read(root: DumpRoot, dialect: Dialect, reading: Reading, why: str | None) -> AsRead:
    width = int(dialect.table_format.shape[shape.ADDRESS_BITS])
    assumed = [] if why is None else [f"dialect {dialect.name}: {why}"]
    if {root.table_format, reading.table_format} == {None} and not dialect.table_format.is_32_bit:
        assumed.append(f"format {dialect.table_format.name}: the file says its levels alone, which an EPT has too")
    if reading.address_bits is None:
        assumed.append(f"{width} address bits: the most that {dialect.table_format.name} entries hold")
        assumed += [dialect.without_width] if dialect.without_width else []
    return AsRead(dialect.name, width, reading.encryption_mask or 0, tuple(assumed))


@contextmanager
def opened(
    path: Path, root: int | None, reader: str | DumpReader | None, reading: Reading, limit: MemoryLimit
) -> Iterator[tuple[Path, Dump]]:
    """Open a file while its tables are read, and put a root of the caller's in the place of its own."""
    if reading.table_format is not None and reading.table_format not in P2M_FORMATS:
        raise UnknownNameError("table format", str(reading.table_format), tuple(P2M_FORMATS))
    if reading.dialect is not None and reading.dialect not in DIALECTS:
        raise UnknownNameError("dialect", str(reading.dialect), tuple(DIALECTS))
    if root is not None and not isinstance(root, int | np.integer):
        raise ReadingError("root", repr(root), "is no number of a frame")
    path = path / FILE_NAME if path.is_dir() else path
    dump = open_dump(path, reader, limit)
    try:
        if root is None and not dump.roots and dump.machine is None:
            raise FormatError(path, "does not say where its tables begin: name the root")
        if root is not None:
            if not 0 <= root < dump.frames:
                raise FormatError(path, f"has no mfn {root:#x} to begin at: it ends at {dump.frames:#x}")
            dump = replace(dump, roots=(DumpRoot(root),), machine=None)
        yield path, dump
    finally:
        dump.release()


def wanted_roots(
    path: Path, dump: Dump, domain: str | int | None, reading: Reading
) -> list[tuple[DumpRoot, TableFormat]]:
    """Return the roots of a domain, or all, and how to read each."""
    if domain is not None and not any(each.domid or each.name for each in dump.roots):
        raise FormatError(path, "holds tables of which nobody knows the domain: name none")
    wanted = [each for each in dump.roots if domain is None or domain in {each.name, each.domid, str(each.domid)}]
    if domain is not None and not wanted:
        raise UnknownNameError("domain", str(domain), tuple(each.name for each in dump.roots[:_MOST_NAMED]))
    return [(each, each.format_of(path, reading.table_format)) for each in wanted]
