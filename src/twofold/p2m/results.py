"""What the P2M answers with: entries, steps of a walk, faults, counters, audit reports."""

from dataclasses import dataclass, field
from typing import NamedTuple

from twofold.formats.p2m_types import P2MType
from twofold.units import Gfn, Mfn, Order


class Entry(NamedTuple):
    """What a gfn maps to. A hole has `INVALID_MFN` and the order of the empty slot.

    type : the effective type, a pending recalculation done
    access : "rwx" and the like; what is left of the rights, or in EPT the access that was set
    """

    mfn: Mfn
    order: Order
    type: P2MType
    access: str


@dataclass(frozen=True)
class WalkStep:
    """One table read of a walk: the entry in `slot` of the table in frame `table`."""

    level: int
    table: Mfn
    slot: int
    entry: int


@dataclass(frozen=True)
class Fault:
    """Why hardware does not let an access through.

    kind : "npf" (nested page fault), "violation" or "misconfiguration" (both EPT)
    code : EXITINFO1, or the exit qualification
    gpa : what was accessed [byte address]
    """

    kind: str
    code: int
    gpa: int


@dataclass(frozen=True)
class Counters:
    """What happened to a P2M since it was created."""

    splits: int
    merges: int
    tables_allocated: int
    tables_freed: int
    flushes_owed: int
    flushes_done: int


@dataclass(frozen=True)
class Finding:
    """One thing that an audit found wrong. rule : the one that is broken, with the bits that break it."""

    code: int
    gfn: Gfn
    mfn: Mfn
    level: int
    entry: int
    rule: str

    def __str__(self) -> str:
        where = f"gfn {self.gfn:#x}, level {self.level}"
        return f"{where}: {self.rule} (mfn {self.mfn:#x}, entry {self.entry:#x})"


@dataclass(frozen=True)
class AuditReport:
    """Both directions of an audit.

    orphans : frames that the domain owns and no gfn maps (counted, not findings) [frames]
    m2p_bad : frames whose M2P entry names a gfn that maps something else [frames]
    p2m_bad : frames that a leaf maps and whose M2P entry disagrees [frames]
    findings : the first of them, each with its place; `found` counts all
    tables, leaves, places : what was seen: tables, present leaves, typed entries that are not present
    empty_tables, recalc : tables that hold nothing, entries that wait for a recalculation (counted, not findings)
    skipped : what could not be checked, in sentences
    """

    orphans: int
    m2p_bad: int
    p2m_bad: int
    findings: tuple[Finding, ...]
    found: int
    tables: int = 0
    leaves: int = 0
    places: int = 0
    empty_tables: int = 0
    recalc: int = 0
    skipped: tuple[str, ...] = field(default=())

    @property
    def clean(self) -> bool:
        """Whether nothing was found wrong."""
        return self.found == 0
