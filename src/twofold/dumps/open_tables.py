"""Somebody else's P2M, read-only, out of any file that a reader knows: the same look-ups, and the audit.

Nothing in such a file is trusted. The audit reads the tables as they are. Look-ups follow only entries that lead to a
table of the file that no entry before leads to: whatever else there is, loops, wild pointers, tables reached twice,
translates nothing, so no look-up can run away. Only tables are read (`collect`), never the data of a guest.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from twofold import kernels
from twofold.dumps.collect import CollectedTables, copied
from twofold.dumps.followed import Followed
from twofold.dumps.found import AsRead, Found, find, opened, wanted_roots
from twofold.dumps.readers import DumpReader
from twofold.dumps.source import Dump
from twofold.errors import FormatError, some
from twofold.formats import shape
from twofold.formats.dialects import Reading
from twofold.formats.p2m_types import ACCESS_NAMES
from twofold.machine.gate import hold, look
from twofold.memory import MemoryLimit
from twofold.p2m import AuditReport, Entry, Fault, P2MView, WalkStep
from twofold.p2m.audit import Progress
from twofold.units import FRAME_BYTES, FRAME_SHIFT, INVALID_MFN, Mfn, format_bytes

Array = npt.NDArray[np.uint64]
_MOST_FRAMES: Final = 1 << 37  # that the audits of all domains of a file look at: 512 of a machine of 1 TiB


class OpenTables(P2MView):
    """A P2M out of a file."""

    def __init__(self, found: Found) -> None:
        self.name = found.root.name
        self._found = found
        self._as_found = found.arena
        followed = Followed(found.arena, found.reached.mfns, found.table_format, found.root.mfn)
        if not len(followed.wild):
            arena = self._as_found
        else:  # look-ups get tables in which wild entries are holes
            arena = copied(found.arena, found.reached.mfns)
            tables = arena.tables_of(found.table_format.entry_dtype)
            tables[tuple(followed.wild.T)] = int(found.table_format.shape[shape.EMPTY])
        super().__init__(arena, kernels, found.table_format, Mfn(found.root.mfn))
        self.gate.on_end(self._shut)
        self.gate.name = f"the tables of {self.name}" if self.name else "the tables"
        self._entries, self._only_ram = followed.entries, False
        self._limit = followed.end
        self.tables = followed.tables
        # Xen keeps an access in each leaf; what others leave, hardware takes from all entries of a path.
        mask = found.as_read.encryption_mask >> FRAME_SHIFT  # a guest's address carries it too, where it is no index
        self._no_gfn = mask if self._limit <= mask & -mask else 0
        self._narrow = [] if found.as_read.dialect == "xen" else followed.narrow

    @property
    def dialect(self) -> str:
        """Whose tables they are taken for: "xen", "kvm" or "bare"."""
        return self._found.as_read.dialect

    @property
    def address_bits(self) -> int:
        """Bits of a physical address; those above are reserved."""
        return self._found.as_read.address_bits

    @property
    def assumed(self) -> tuple[str, ...]:
        """What nobody said of the tables, and was assumed, in sentences."""
        return self._found.as_read.assumed

    @property
    def _is_trusted(self) -> bool:
        return False

    @look
    def get_entry(self, gfn: int) -> Entry:
        """Return what a gfn maps to; without types, its access is what all entries of the path let through."""
        entry = super().get_entry(gfn & ~self._no_gfn)
        if not self._narrow or entry.mfn == INVALID_MFN:
            return entry
        rights = ACCESS_NAMES.index(entry.access)
        for each in self._narrow:
            rights &= int(each.of(np.array([gfn], np.uint64))[0])
        return entry._replace(access=ACCESS_NAMES[rights])

    @look
    def leaf_rows(self, gfn: int, frames: int) -> npt.NDArray[np.void]:
        """Return the rows of a range, as `P2MView.leaf_rows`; their access as `get_entry` has it."""
        rows = super().leaf_rows(gfn, frames)
        for each in self._narrow:
            rows["access"] &= each.of(rows["gfn"])
        return rows

    @look
    def walk(self, gfn: int) -> tuple[WalkStep, ...]:
        """Return every step of a walk; the entries as the file has them."""
        return tuple(replace(step, entry=self._in_file(step)) for step in super().walk(gfn & ~self._no_gfn))

    def _in_file(self, step: WalkStep) -> int:
        """Return what the file has where a step reads."""
        entry = self._found.kept.entry(step.table, step.slot)
        memory = self._as_found.tables_of(self.format.entry_dtype)
        return int(memory[step.table, step.slot]) if entry is None else entry

    @look
    def fault(self, gpa: int, access: str = "read") -> Fault | None:
        """Return how hardware reports an access that it refuses, None for one that it lets through; sets no A or D."""
        asked, gpa = gpa, gpa & ~(self._no_gfn << FRAME_SHIFT)
        path = super().walk(gpa >> FRAME_SHIFT)
        if path:  # hardware refuses a malformed entry whatever it would lead to, and knows no marks
            last, entry = path[-1], self._in_file(path[-1])
            if shape.malformed(self._shape, entry, last.level):
                self._memory[last.table, last.slot] = entry
        answer = super().fault(gpa, access)
        for step in path:
            self._memory[step.table, step.slot] = step.entry
        return answer and replace(answer, gpa=asked)

    @look
    def translate(self, gfns: npt.ArrayLike, out: Array | None = None) -> Array:
        """Return the mfn of each gfn, as `P2MView.translate`."""
        return super().translate(np.asarray(gfns, np.uint64) & ~np.uint64(self._no_gfn) if self._no_gfn else gfns, out)

    @look
    def audit(self, progress: Progress | None = None) -> AuditReport:
        """Check the tables, against frame table and M2P where the file has them; report only.

        Parameters
        ----------
        progress : called with (frames done, frames of the machine)
        """
        return self._found.audit(progress)

    def close(self) -> None:
        """Give the memory back; nothing works afterwards."""
        hold(self.gate.lock, self._close)

    def _close(self) -> None:
        self._words = memoryview(b"").cast("Q")
        self._arena.close()
        if self._as_found is not self._arena:
            self._as_found.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_tables(
    path: str | Path,
    *,
    domain: str | int | None = None,
    table_format: str | None = None,
    root: int | None = None,
    reader: str | DumpReader | None = None,
    dialect: str | None = None,
    address_bits: int | None = None,
    encryption_mask: int | None = None,
    max_memory: int | str | None = None,
) -> OpenTables:
    """Return somebody else's P2M, read-only, with the look-ups and the audit of one of ours.

    Parameters
    ----------
    path : a machine saved by `Machine.save`, raw page-table pages (.npz with mfn, level, pages), an array of tables, a
        folder that holds `npt_pages.npz`, or what the reader of another package knows (docs/dumps.md)
    domain : name or domid, where a file has several
    table_format : such as "ept", where the file does not say; None: the NPT with as many levels
    root : mfn of the top table, where the file names none, or instead of those that it names
    reader : who is to open the file, by name or itself; None: the one that knows it
    dialect : whose bits stand where hardware looks at none: "xen", "kvm", or "bare", nobody's; None: by what the tables
        show, and `assumed` says what that was
    address_bits : of the CPU's physical addresses, 32 to 52; bits above are reserved. None: what an entry can hold
    encryption_mask : address bits of entries that say how memory is encrypted, such as 1 << 47; they are taken off.
        None: there are none
    max_memory : the most that the file may take, what it claims counted before it is there, such as "2GiB"; None: a
        quarter of what is free [bytes]

    Raises
    ------
    FormatError : the file is not what it should be, or takes more memory than it may
    SizeError : `max_memory` is no size
    UnknownNameError : no such domain, format, dialect or reader
    ReadingError : `address_bits` or `encryption_mask` cannot be
    """
    reading = Reading(dialect, address_bits, encryption_mask, table_format)
    limit = MemoryLimit(max_memory)
    with opened(Path(path), root, reader, reading, limit) as (where, dump):
        wanted = wanted_roots(where, dump, domain, reading)
        if len(wanted) != 1:
            names = some(each.name or f"root {each.mfn:#x}" for each, _ in wanted)
            problem = f"holds {len(wanted)} domains; say which: {names}" if wanted else "holds no domain"
            raise FormatError(where, problem)
        tables = CollectedTables(where, dump, limit)
        try:
            found = find(dump, tables, *wanted[0], reading)
            limit.claim(where, len(found.reached.mfns) * FRAME_BYTES)
            return OpenTables(found)
        except BaseException:
            tables.arena.close()
            raise


@dataclass(frozen=True)
class Audited:
    """What an audit of one P2M of a file found. name : of the domain, "" when nobody knows it."""

    name: str
    table_format: str
    root: Mfn
    report: AuditReport
    as_read: AsRead

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and texts; each finding with its sentence, and its entry in hex."""
        fields = asdict(self)
        fields |= fields.pop("as_read")._asdict()
        for finding, row in zip(self.report.findings, fields["report"]["findings"], strict=True):
            row |= {"entry": hex(finding.entry), "says": str(finding)}
        return fields


def audit_file(
    path: str | Path,
    *,
    domain: str | None = None,
    table_format: str | None = None,
    root: int | None = None,
    reader: str | None = None,
    dialect: str | None = None,
    address_bits: int | None = None,
    encryption_mask: int | None = None,
    max_memory: int | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Audited]:
    """Audit every P2M of a file; `open_tables` says what it may be, how it may be read, and what it may take.

    Parameters
    ----------
    progress : called with (which, frames done, frames of the machine)
    """
    reading = Reading(dialect, address_bits, encryption_mask, table_format)
    limit = MemoryLimit(max_memory)
    with opened(Path(path), root, reader, reading, limit) as (where, dump):
        wanted = wanted_roots(where, dump, domain, reading)
        _check_audits(where, dump, len(wanted))
        tables = CollectedTables(where, dump, limit)  # one file, one set of tables: those of all domains
        try:
            return [_audited(find(dump, tables, *each, reading), progress) for each in wanted]
        finally:
            tables.arena.close()


def _check_audits(path: Path, dump: Dump, domains: int) -> None:
    """Raise when domains are so many, of a machine so large, that auditing all would not end soon."""
    parts = None if dump.machine is None else dump.machine.parts
    frames = sum(count for _, count in parts or ())
    if frames * domains > _MOST_FRAMES:
        held = format_bytes(frames << FRAME_SHIFT)
        raise FormatError(path, f"holds {domains} domains in {held}: too much for one audit; name a domain")


def _audited(found: Found, progress: Callable[[str, int, int], None] | None) -> Audited:
    name, format_name = found.root.name, found.table_format.name
    which = f"auditing {name or format_name}"
    tell = None if progress is None else (lambda done, total: progress(which, done, total))
    return Audited(name, format_name, Mfn(found.root.mfn), found.audit(tell), found.as_read)
